//! A cluster in one process, for the tests of programs that embed Setstone.
//!
//! Members are whole nodes with real sockets on loopback, that find each other by a fixed list. Their data is in memory, and
//! yet outlives [`TestCluster::stop`]; or it is in a directory that the caller gives. The ports are bound before any member
//! starts and handed to it, so that no other process can take one in between. Not for production.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::client::{Options, Remote};
use crate::config::{AuthConfig, Cluster, Config, Data};
use crate::env::network::Tcp;
use crate::env::{Env, Listener, Network, Stream};
use crate::error::Error;
use crate::limits;
use crate::node::{self, Node};

/// Time for the members to serve.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// Time for which the ports of a member that was stopped are asked for again.
const REBIND_TIMEOUT: Duration = Duration::from_secs(5);
/// The most members: a cluster of tests has three or five.
const MEMBERS: u16 = 9;

/// A cluster in this process. [`TestCluster::shutdown`] stops it in order; dropping it, at once.
///
/// ```
/// # async fn test() -> Result<(), setstone::Error> {
/// use setstone::client::Kv;
///
/// let mut cluster = setstone::testing::TestCluster::start(3).await?;
/// let client = cluster.client();
/// client.put("k", "v").await?;
/// cluster.stop(0).await;
/// assert!(client.get("k").await?.is_some());
/// cluster.start_again(0).await?;
/// cluster.shutdown().await;
/// # Ok(())
/// # }
/// ```
pub struct TestCluster {
    members: Vec<Member>,
    client: Remote,
}

struct Member {
    config: Config,
    env: Env,
    node: Option<Node>,
}

impl TestCluster {
    /// Starts `count` members with their data in memory, and waits until all serve.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `count` is 0 or above 9; those of [`Node::start`] and [`Node::ready`].
    pub async fn start(count: u16) -> Result<Self, Error> {
        Self::with(count, |_| Data::Memory).await
    }

    /// As [`TestCluster::start`], with the data in directories below `root` that have the members' names.
    ///
    /// # Errors
    /// As [`TestCluster::start`].
    pub async fn start_in(root: &Path, count: u16) -> Result<Self, Error> {
        Self::with(count, |name| Data::Directory(root.join(name))).await
    }

    async fn with(count: u16, data: impl Fn(&str) -> Data) -> Result<Self, Error> {
        if count == 0 || count > MEMBERS {
            return Err(Error::Invalid(format!("{count} members; 1 to {MEMBERS} are possible")));
        }
        let network = Arc::new(Bound::default());
        let mut ports = Vec::new();
        for _ in 0..count {
            ports.push((network.any_port().await?, network.any_port().await?));
        }
        let peers: Vec<_> = ports.iter().map(|(_, peer)| peer.to_string()).collect();
        let endpoints: Vec<_> = ports.iter().map(|(client, _)| client.to_string()).collect();
        let client = Remote::new(&endpoints.join(","), &Options::default())?;
        let mut members = Vec::new();
        for (ordinal, (client, peer)) in (0..).zip(ports) {
            let name = format!("member-{ordinal}");
            let config = Config {
                data: data(&name),
                cluster: Cluster::Fixed { ordinal, peers: peers.clone() },
                listen_client: client,
                listen_peer: peer,
                // Passwords of tests are worth no work.
                auth: AuthConfig { bcrypt_cost: limits::BCRYPT_COST_MIN, ..AuthConfig::default() },
                ..Config::in_memory(&name)
            };
            let env = Env { network: network.clone(), ..node::real_world(&config)? };
            members.push(Member { config, env, node: None });
        }
        let mut cluster = Self { members, client };
        for member in &mut cluster.members {
            member.start().await?;
        }
        for member in &cluster.members {
            member.ready().await?;
        }
        Ok(cluster)
    }

    /// A client of the whole cluster, over the network: it goes to another member when one is stopped.
    pub fn client(&self) -> Remote {
        self.client.clone()
    }

    /// A member; `None` while it is stopped, and if there is none of this number.
    pub fn node(&self, index: usize) -> Option<&Node> {
        self.members.get(index)?.node.as_ref()
    }

    /// The number of members, stopped ones included.
    pub fn size(&self) -> usize {
        self.members.len()
    }

    /// Stops a member in order; its data stays. Nothing happens if it is stopped already.
    pub async fn stop(&mut self, index: usize) {
        if let Some(node) = self.members.get_mut(index).and_then(|member| member.node.take()) {
            node.shutdown().await;
        }
    }

    /// Starts a stopped member on its old addresses and its old data, and waits until it serves, for which a quorum must run.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there is no such member or it runs; those of [`Node::start`] and [`Node::ready`].
    pub async fn start_again(&mut self, index: usize) -> Result<(), Error> {
        let Some(member) = self.members.get_mut(index).filter(|member| member.node.is_none()) else {
            return Err(Error::Invalid(format!("there is no stopped member {index}")));
        };
        member.start().await?;
        member.ready().await
    }

    /// Stops all members in order, the last one first.
    pub async fn shutdown(mut self) {
        for index in (0..self.members.len()).rev() {
            self.stop(index).await;
        }
    }
}

impl Member {
    async fn start(&mut self) -> Result<(), Error> {
        self.node = Some(Node::start_in(self.config.clone(), self.env.clone()).await?);
        Ok(())
    }

    async fn ready(&self) -> Result<(), Error> {
        match &self.node {
            Some(node) => node.ready(Instant::now() + START_TIMEOUT).await,
            None => Err(Error::Stopped),
        }
    }
}

/// The operating system's network, with ports that were bound beforehand.
#[derive(Debug, Default)]
struct Bound {
    system: Tcp,
    ports: Mutex<BTreeMap<SocketAddr, Box<dyn Listener>>>,
}

impl Bound {
    /// Binds a free port and keeps it for whoever binds it by its number.
    async fn any_port(&self) -> Result<SocketAddr, Error> {
        let unbound = |error: io::Error| Error::Start(format!("no port can be bound on 127.0.0.1: {error}"));
        let listener = self.system.bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.map_err(unbound)?;
        let address = listener.local_address().map_err(unbound)?;
        self.ports.lock().insert(address, listener);
        Ok(address)
    }
}

impl Network for Bound {
    fn connect(&self, to: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Stream>>> {
        self.system.connect(to)
    }

    fn bind(&self, at: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            if let Some(listener) = self.ports.lock().remove(&at) {
                return Ok(listener);
            }
            // A member that comes back. A connection of somebody else may have the port as its own for a moment.
            let deadline = Instant::now() + REBIND_TIMEOUT;
            loop {
                match self.system.bind(at).await {
                    Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    result => return result,
                }
            }
        })
    }
}
