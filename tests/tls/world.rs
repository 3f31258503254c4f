//! A member alone with TLS, and what clients of it share.

use std::net::SocketAddr;
use std::time::Duration;

use setstone::client::{ClientTls, Connector, Options, Remote};
use setstone::transport::tls::{Identity, Tls};
use setstone::{Config, Node};
use tokio::net::TcpStream;
use tokio::time::{Instant, MissedTickBehavior};

use super::authority::{Authority, Shelf, Wanted};

/// Long enough for a machine that is busy; nothing waits for it when all is well.
pub const PATIENCE: Duration = Duration::from_secs(40);
/// Between two looks at a condition.
const LOOK: Duration = Duration::from_millis(20);

/// Looks at a condition until a deadline.
pub async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "not in time: {what}");
    }
}

/// An authority, and the certificates of a member's client port: for `localhost` and its address.
pub struct World {
    pub authority: Authority,
    pub shelf: Shelf,
}

impl World {
    pub fn new() -> Self {
        Self { authority: Authority::new("the authority"), shelf: Shelf::new() }
    }

    pub fn server(&self) -> (String, String) {
        self.authority.sign(&Wanted {
            common_name: "server",
            hosts: &["localhost", "127.0.0.1"],
            ..Wanted::default()
        })
    }

    /// TLS of a client port that demands nothing.
    pub fn one_sided(&self) -> Tls {
        Tls::with(Identity::Files(self.shelf.keep("server", &self.server())))
    }

    /// TLS of a client port that demands certificates of this authority.
    pub fn mutual(&self) -> Tls {
        let trusted_ca = Some(self.shelf.put("trusted.crt", &self.authority.pem));
        Tls { trusted_ca, demands_certificates: true, ..self.one_sided() }
    }

    /// The certificate of a client with this common name.
    pub fn user(&self, common_name: &str) -> ClientTls {
        let signed = self.authority.sign(&Wanted { common_name, serial: 77, ..Wanted::default() });
        self.shelf.client(common_name, &self.authority, Some(&signed))
    }

    /// A client without a certificate.
    pub fn nobody(&self) -> ClientTls {
        self.shelf.client("nobody", &self.authority, None)
    }
}

/// A member in memory whose client port has this TLS.
pub async fn alone(tls: Option<Tls>) -> Node {
    start(Config { client_tls: tls, ..Config::in_memory("alone") }).await
}

pub async fn start(config: Config) -> Node {
    let node = Node::start(config).await.unwrap();
    node.ready(Instant::now() + PATIENCE).await.unwrap();
    node
}

pub fn options(tls: Option<ClientTls>) -> Options {
    let tls = tls.map(|tls| Connector::new(tls).unwrap());
    Options { timeout: Duration::from_secs(10), tls, ..Options::default() }
}

/// A client of one member that soon gives up: for those who get nowhere, because a client goes on trying to connect.
pub fn hasty(at: SocketAddr, tls: Option<ClientTls>) -> Remote {
    let options = Options { timeout: Duration::from_secs(1), ..options(tls) };
    Remote::new(&at.to_string(), &options).unwrap()
}

/// A client of one member.
pub fn remote(at: SocketAddr, tls: Option<ClientTls>) -> Remote {
    Remote::new(&at.to_string(), &options(tls)).unwrap()
}

pub async fn connected(at: SocketAddr) -> TcpStream {
    TcpStream::connect(at).await.unwrap()
}

/// How many connections a port has refused for a reason.
pub fn refused(node: &Node, port: &str, reason: &str) -> u64 {
    let begin = format!("setstone_refused_connections_total{{port=\"{port}\",reason=\"{reason}\"}} ");
    let text = node.metrics().encode();
    text.lines().find_map(|line| line.strip_prefix(&begin)).map_or(0, |count| count.parse().unwrap())
}

/// Waits until a port has refused one more for a reason than `before`.
pub async fn is_refused(node: &Node, port: &str, reason: &str, before: u64) {
    until(&format!("{port} refuses for {reason}"), async || {
        (refused(node, port, reason) > before).then_some(())
    })
    .await;
}
