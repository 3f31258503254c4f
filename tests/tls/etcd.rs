//! `setstone etcd` with etcd's flags for TLS: three processes that speak it among themselves and to clients, and one that makes its own
//! certificates.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use setstone::client::{self, ClientTls, Connector, Kv, Options, Remote};

use super::authority::{Authority, Shelf, Wanted, text};
use super::world::{options, until};

const READY: &str = "ready to serve client requests";

/// A member: where it is, and its process while it runs.
struct Member {
    name: &'static str,
    client: SocketAddr,
    peer: SocketAddr,
    directory: PathBuf,
    process: Option<Child>,
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

impl Member {
    fn new(shelf: &Shelf, name: &'static str) -> Self {
        let directory = shelf.path(name);
        Self { name, client: free_address(), peer: free_address(), directory, process: None }
    }

    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            // It may have ended already.
            let _ = process.kill();
            process.wait().unwrap();
        }
    }

    fn log(&self) -> PathBuf {
        self.directory.with_extension("log")
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }

    fn start(&mut self, cluster: &str, more: &[&str]) {
        let (client, peer) = (format!("https://{}", self.client), format!("https://{}", self.peer));
        let mut command = Command::new(env!("CARGO_BIN_EXE_setstone"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("ETCD_")) {
            command.env_remove(name);
        }
        command.args(["etcd", "--name", self.name, "--data-dir", text(&self.directory)]);
        command.args(["--log-outputs", text(&self.log())]);
        for (flag, url) in [
            ("--listen-client-urls", &client),
            ("--advertise-client-urls", &client),
            ("--listen-peer-urls", &peer),
            ("--initial-advertise-peer-urls", &peer),
        ] {
            command.args([flag, url]);
        }
        command.args(["--initial-cluster", cluster]).args(more);
        let streams = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.process = Some(streams.spawn().unwrap());
    }

    async fn serves(&mut self) {
        until("it serves", async || {
            let ended = self.process.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "{} ended: {}", self.name, self.said());
            self.said().contains(READY).then_some(())
        })
        .await;
    }
}

fn cluster_of(members: &[Member]) -> String {
    let founders: Vec<String> =
        members.iter().map(|member| format!("{}=https://{}", member.name, member.peer)).collect();
    founders.join(",")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_behind_etcds_flags_speak_tls() {
    let (shelf, authority) = (Shelf::new(), Authority::new("etcd's authority"));
    shelf.put("ca.crt", &authority.pem);
    let hosts: &[&str] = &["localhost", "127.0.0.1"];
    shelf.keep("server", &authority.sign(&Wanted { common_name: "server", hosts, ..Wanted::default() }));
    let (ca, cert, key) = (shelf.text("ca.crt"), shelf.text("server.crt"), shelf.text("server.key"));
    let mut flags = Vec::new();
    for prefix in ["", "peer-"] {
        flags.extend([
            format!("--{prefix}cert-file={cert}"),
            format!("--{prefix}key-file={key}"),
            format!("--{prefix}trusted-ca-file={ca}"),
        ]);
    }
    flags.extend(
        ["--client-cert-auth", "--peer-client-cert-auth", "--tls-min-version=TLS1.3"].map(Into::into),
    );
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let mut members = ["a", "b", "c"].map(|name| Member::new(&shelf, name));
    let cluster = cluster_of(&members);
    for member in &mut members {
        member.start(&cluster, &flags);
    }
    for member in &mut members {
        member.serves().await;
    }
    let user = authority.sign(&Wanted { common_name: "alice", ..Wanted::default() });
    let tls = shelf.client("alice", &authority, Some(&user));
    let endpoints: Vec<String> = members.iter().map(|member| format!("https://{}", member.client)).collect();
    let client = Remote::new(&endpoints.join(","), &options(Some(tls.clone()))).unwrap();
    client.put("k", "v").await.unwrap();
    let listed = client::Client::members(&client).await.unwrap().value;
    assert!(listed.iter().all(|member| member.peer_urls[0].starts_with("https://127.0.0.1:")), "{listed:?}");

    // A client's certificate opens no peer port: it is not for where a member is.
    let peer = tokio::net::TcpStream::connect(members[0].peer).await.unwrap();
    let mut stream = Connector::new(tls).unwrap().connect(Box::new(peer), "localhost").await.unwrap();
    let closed = tokio::io::AsyncReadExt::read(&mut stream, &mut [0]).await;
    assert!(!matches!(closed, Ok(1)), "{closed:?}");

    let leader = until("there is a leader", async || {
        for (number, connection) in client.connections().iter().enumerate() {
            let status = client::Client::status(connection).await;
            if status.is_ok_and(|status| status.value.leader == Some(status.header.member)) {
                return Some(number);
            }
        }
        None
    })
    .await;
    members[leader].kill();
    until("writes go on", async || client.put("k", "w").await.ok()).await;
    members[leader].start(&cluster, &flags);
    members[leader].serves().await;
    client.put("k", "x").await.unwrap();
    etcdctl(&endpoints.join(","), &shelf).await;
}

/// What a real etcdctl says of the cluster, where there is one.
async fn etcdctl(endpoints: &str, shelf: &Shelf) {
    let Ok(bin) = std::env::var("ETCD_BIN") else { return };
    let (ca, cert, key) = (shelf.text("alice-ca.crt"), shelf.text("alice.crt"), shelf.text("alice.key"));
    let secure = ["--endpoints", endpoints, "--cacert", &ca, "--cert", &cert, "--key", &key];
    for (words, expected) in [
        (&["endpoint", "health"][..], "is healthy"),
        (&["endpoint", "status"], "3.7."),
        (&["get", "k"], "x"),
        (&["member", "list"], "https://127.0.0.1:"),
    ] {
        let mut command = tokio::process::Command::new(format!("{bin}/etcdctl"));
        let output = command.args(secure).args(words).kill_on_drop(true).output().await.unwrap();
        let said =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.contains(expected), "{words:?}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_that_make_their_own_certificates_form_a_cluster() {
    let shelf = Shelf::new();
    let mut members = ["a", "b", "c"].map(|name| Member::new(&shelf, name));
    let cluster = cluster_of(&members);
    for member in &mut members {
        member.start(&cluster, &["--auto-tls", "--peer-auto-tls"]);
    }
    for member in &mut members {
        member.serves().await;
    }
    let anyone = ClientTls { takes_any_server: true, ..ClientTls::default() };
    let endpoints: Vec<String> = members.iter().map(|member| member.client.to_string()).collect();
    let with =
        |tls| Remote::new(&endpoints.join(","), &Options { timeout: Duration::from_secs(5), ..options(tls) });
    with(Some(anyone)).unwrap().put("k", "v").await.unwrap();
    with(None).unwrap().put("k", "v").await.unwrap_err();
}
