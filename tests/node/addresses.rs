//! An address at which somebody else answers now, as happens when a pod is replaced and its address given away.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use setstone::client::{Client, Kv};
use setstone::config::Cluster;
use setstone::env::network::Tcp;
use setstone::env::simulated_files::SimulatedFiles;
use setstone::env::{Env, Listener, Network, Stream};
use setstone::{Config, Node};
use tokio::time::Instant;

use crate::disks::world;
use crate::process::{Looks, free_ports};

/// A network in which an address may lead to another.
#[derive(Debug, Default)]
struct Detours {
    tcp: Tcp,
    routes: Mutex<BTreeMap<SocketAddr, SocketAddr>>,
    taken: Mutex<usize>,
}

impl Network for Detours {
    fn connect(&self, to: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Stream>>> {
        let route = self.routes.lock().unwrap().get(&to).copied();
        *self.taken.lock().unwrap() += usize::from(route.is_some());
        self.tcp.connect(route.unwrap_or(to))
    }

    fn bind(&self, at: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        self.tcp.bind(at)
    }
}

struct Member {
    config: Config,
    env: Env,
    network: Arc<Detours>,
    node: Option<Node>,
}

impl Member {
    async fn start(&mut self) {
        self.node = Some(Node::start_in(self.config.clone(), self.env.clone()).await.unwrap());
    }

    async fn ready(&self, within: Duration) {
        self.node.as_ref().unwrap().ready(Instant::now() + within).await.unwrap();
    }
}

async fn three() -> Vec<Member> {
    let ports = free_ports::<3>();
    let peers = ports.map(|port| port.to_string());
    let mut members = Vec::new();
    for (ordinal, port) in (0..).zip(ports) {
        let network = Arc::new(Detours::default());
        let config = Config {
            cluster: Cluster::Fixed { ordinal, peers: peers.to_vec() },
            listen_peer: port,
            ..Config::in_memory(&format!("member-{ordinal}"))
        };
        let files = SimulatedFiles::new(ordinal.into());
        let env = Env { network: network.clone(), ..world(&files) };
        members.push(Member { config, env, network, node: None });
    }
    for member in &mut members {
        member.start().await;
    }
    for member in &members {
        member.ready(Duration::from_secs(30)).await;
    }
    members
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_refuses_is_not_taken_for_another() {
    let mut members = three().await;
    let leader = members[0].node.as_ref().unwrap().client().status().await.unwrap().value.leader.unwrap();
    let leader = usize::try_from(leader.0 >> 48).unwrap();
    let (moved, other) = ((leader + 1) % 3, (leader + 2) % 3);
    members[moved].node.take().unwrap().shutdown().await;

    // Where it was, another member answers now, whose connections are sound.
    let at = members[moved].config.listen_peer;
    let network = members[leader].network.clone();
    network.routes.lock().unwrap().insert(at, members[other].config.listen_peer);
    let mut looks = Looks::within(Duration::from_secs(20));
    while *network.taken.lock().unwrap() < 8 {
        looks.next("the leader leaves the address again and again").await;
    }
    Kv::put(&members[leader].node.as_ref().unwrap().client(), "meanwhile", "1").await.unwrap();

    network.routes.lock().unwrap().clear();
    members[moved].start().await;
    members[moved].ready(Duration::from_secs(20)).await;
    let store = members[moved].node.as_ref().unwrap().client();
    assert!(Kv::get(&store, "meanwhile").await.unwrap().is_some());
    for member in members.iter_mut().rev() {
        member.node.take().unwrap().shutdown().await;
    }
}
