//! Three pods of a StatefulSet in this process: whole members with real sockets, each on a loopback address of its own, which find each
//! other by names that the test publishes.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use setstone::client::{Client, Connection, Endpoint, Options, Remote};
use setstone::config::{Cluster, PeerTls, SizeFrom};
use setstone::env::clock::SystemClock;
use setstone::env::network::Tcp;
use setstone::env::random::SystemRandom;
use setstone::env::simulated_files::SimulatedFiles;
use setstone::env::tasks::Threads;
use setstone::env::{Env, Lookup, Names};
use setstone::identity::PodFacts;
use setstone::transport::tls::{Identity, Tls};
use setstone::{Config, Node};
use tokio::time::Instant;

use super::authority::{Authority, Shelf, Wanted};
use super::world::{PATIENCE, until};

/// The names of the pods.
#[derive(Debug)]
struct Zone {
    service: String,
    pods: Vec<(String, IpAddr)>,
}

impl Names for Zone {
    fn lookup<'a>(&'a self, fqdn: &'a str) -> BoxFuture<'a, Lookup> {
        let fqdn = fqdn.trim_end_matches('.');
        let answer = if fqdn == self.service {
            Lookup::At(self.pods.iter().map(|(_, address)| *address).collect())
        } else {
            let found = self.pods.iter().find(|(name, _)| name == fqdn);
            found.map_or(Lookup::Absent, |(_, address)| Lookup::At(vec![*address]))
        };
        Box::pin(std::future::ready(answer))
    }
}

/// A pod: what outlives its process, and the process while it runs.
pub struct Pod {
    pub facts: PodFacts,
    files: Arc<SimulatedFiles>,
    pub node: Option<Node>,
}

pub struct Pods {
    pub authority: Authority,
    pub shelf: Shelf,
    pub pods: Vec<Pod>,
    zone: Arc<Zone>,
}

/// Address blocks that tests of this process have taken.
static BLOCKS: AtomicU8 = AtomicU8::new(0);

/// A port that was free a moment ago.
fn free_port() -> u16 {
    std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

impl Pods {
    /// Three pods that do not run yet, and the certificate of each.
    pub fn new() -> Self {
        let block = BLOCKS.fetch_add(1, Ordering::Relaxed);
        // Another process of these tests has another block.
        let [process, ..] = std::process::id().to_le_bytes();
        let (client_port, peer_port) = (free_port(), free_port());
        let facts = |ordinal: u16| PodFacts {
            pod_name: format!("s-{ordinal}"),
            namespace: "shop".into(),
            ordinal,
            service: "peers".into(),
            cluster_domain: "cluster.local".into(),
            zone: None,
            pod_ip: Some(Ipv4Addr::new(127, 90 + block, process, 10 + ordinal as u8).into()),
            peer_port,
            client_port,
        };
        let all: Vec<PodFacts> = (0..3).map(facts).collect();
        let zone = Zone {
            service: all[0].service_fqdn(),
            pods: all.iter().map(|facts| (facts.fqdn(), facts.pod_ip.unwrap())).collect(),
        };
        let pod = |facts| Pod { facts, files: Arc::new(SimulatedFiles::new(1)), node: None };
        let pods = Self {
            authority: Authority::new("the members' authority"),
            shelf: Shelf::new(),
            pods: all.into_iter().map(pod).collect(),
            zone: Arc::new(zone),
        };
        pods.shelf.put("ca.crt", &pods.authority.pem);
        for ordinal in 0..3 {
            pods.certify(ordinal, ordinal);
        }
        pods
    }

    /// The name of a pod in DNS.
    pub fn name(&self, ordinal: usize) -> String {
        self.pods[ordinal].facts.fqdn()
    }

    /// Puts a certificate for the pod `named` where the pod `ordinal` has its own.
    pub fn certify(&self, ordinal: usize, named: usize) {
        let name = self.name(named);
        let signed = self.authority.sign(&Wanted {
            common_name: &self.pods[named].facts.pod_name,
            hosts: &[&name],
            serial: 100 + named as u64,
            ..Wanted::default()
        });
        self.shelf.keep(&format!("pod-{ordinal}"), &signed);
    }

    /// TLS of a pod, with what is in its files.
    pub fn tls(&self, ordinal: usize) -> Tls {
        let pair = setstone::transport::tls::KeyPair {
            certificate: self.shelf.path(&format!("pod-{ordinal}.crt")),
            key: self.shelf.path(&format!("pod-{ordinal}.key")),
        };
        let trusted_ca = Some(self.shelf.path("ca.crt"));
        Tls { trusted_ca, demands_certificates: true, ..Tls::with(Identity::Files(pair)) }
    }

    /// Starts a pod with this TLS.
    pub async fn start_with(&mut self, ordinal: usize, tls: Tls) {
        let zone = self.zone.clone();
        let pod = &mut self.pods[ordinal];
        let address = pod.facts.pod_ip.unwrap();
        let config = Config {
            cluster: Cluster::StatefulSet { pod: pod.facts.clone(), expected: 3 },
            listen_client: SocketAddr::new(address, pod.facts.client_port),
            listen_peer: SocketAddr::new(address, pod.facts.peer_port),
            peer_tls: Some(PeerTls { tls, any_name: false }),
            size_from: SizeFrom::Setting,
            grace_period: Duration::from_secs(20),
            ..Config::in_memory(&pod.facts.pod_name)
        };
        config.validate().unwrap();
        let env = Env {
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandom),
            files: pod.files.clone(),
            network: Arc::new(Tcp { source: Some(address) }),
            names: zone,
            tasks: Arc::new(Threads),
            owner: None,
        };
        // One that was killed has its disk and its ports for a moment longer.
        let node =
            until("the pod starts", async || match Node::start_in(config.clone(), env.clone()).await {
                Ok(node) => Some(node),
                Err(error) => {
                    println!("pod {ordinal}: {error}");
                    None
                }
            });
        pod.node = Some(node.await);
    }

    pub async fn start(&mut self, ordinal: usize) {
        self.start_with(ordinal, self.tls(ordinal)).await;
    }

    /// Starts all, and waits until they serve.
    pub async fn running() -> Self {
        let mut pods = Self::new();
        for ordinal in 0..3 {
            pods.start(ordinal).await;
        }
        for ordinal in 0..3 {
            pods.ready(ordinal).await;
        }
        pods
    }

    pub fn node(&self, ordinal: usize) -> &Node {
        self.pods[ordinal].node.as_ref().unwrap()
    }

    pub async fn ready(&self, ordinal: usize) {
        self.node(ordinal).ready(Instant::now() + PATIENCE).await.unwrap();
    }

    /// The process of a pod ends without a word to the others.
    pub fn kill(&mut self, ordinal: usize) {
        self.pods[ordinal].node = None;
    }

    pub async fn stop(&mut self, ordinal: usize) {
        if let Some(node) = self.pods[ordinal].node.take() {
            node.shutdown().await;
        }
    }

    pub async fn stop_all(mut self) {
        for ordinal in 0..3 {
            self.stop(ordinal).await;
        }
    }

    /// A client of some of the pods.
    pub fn client(&self, of: &[usize]) -> Remote {
        let addresses: Vec<String> =
            of.iter().map(|ordinal| self.node(*ordinal).addresses().client.to_string()).collect();
        Remote::new(&addresses.join(","), &Options::default()).unwrap()
    }

    pub fn peer_port(&self, ordinal: usize) -> SocketAddr {
        self.node(ordinal).addresses().peer.unwrap()
    }

    /// The pod that leads.
    pub async fn leader(&self) -> usize {
        until("there is a leader", async || {
            for (ordinal, pod) in self.pods.iter().enumerate() {
                let Some(node) = &pod.node else { continue };
                let endpoint: Endpoint = node.addresses().client.to_string().parse().unwrap();
                let options = Options { timeout: Duration::from_secs(1), ..Options::default() };
                let status = Connection::new(endpoint, &options).status().await;
                if status.is_ok_and(|status| status.value.leader == Some(status.header.member)) {
                    return Some(ordinal);
                }
            }
            None
        })
        .await
    }
}
