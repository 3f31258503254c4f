//! Clients that get in: whose certificate says who they are, and who never notice that certificates are replaced.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use setstone::client::{Access, ClientTls, Connector, Credentials, Kv, Permission, Remote};
use setstone::config::AuthConfig;
use setstone::{Config, limits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::authority::{Authority, Wanted};
use super::world::{World, alone, connected, hasty, options, remote, start, until};

#[tokio::test]
async fn the_common_name_is_the_user() {
    let world = World::new();
    let auth =
        AuthConfig { bcrypt_cost: limits::BCRYPT_COST_MIN, common_names: true, ..AuthConfig::default() };
    let node = start(Config { client_tls: Some(world.mutual()), auth, ..Config::in_memory("alone") }).await;
    let at = node.addresses().client;
    let root = remote(at, Some(world.user("root")));
    root.user_add("root", Some("root")).await.unwrap();
    root.role_add("root").await.unwrap();
    root.user_grant_role("root", "root").await.unwrap();
    root.user_add("alice", Some("alice")).await.unwrap();
    root.role_add("r").await.unwrap();
    let permission = Permission {
        access: Access::ReadWrite,
        key: Bytes::from_static(b"a"),
        range_end: Bytes::from_static(b"b"),
    };
    root.role_grant_permission("r", permission).await.unwrap();
    root.user_grant_role("alice", "r").await.unwrap();
    root.auth_enable().await.unwrap();

    let alice = remote(at, Some(world.user("alice")));
    alice.put("a1", "v").await.unwrap();
    assert!(alice.put("b1", "v").await.unwrap_err().to_string().contains("permission denied"));
    // What etcd says to whom it does not know.
    let bob = remote(at, Some(world.user("bob")));
    assert!(bob.get("a1").await.unwrap_err().to_string().contains("permission denied"));
    root.put("b1", "v").await.unwrap();
    // A token comes before the certificate.
    let mut as_root = options(Some(world.user("alice")));
    as_root.credentials = Some(Credentials::new("root", "root"));
    Remote::new(&at.to_string(), &as_root).unwrap().put("b1", "w").await.unwrap();

    // Through the gateway nobody is known by a certificate.
    let connector = Connector::new(world.user("alice")).unwrap();
    let mut stream = connector.connect(Box::new(connected(at).await), "localhost").await.unwrap();
    let body = "{\"key\":\"YTE=\"}";
    let request = format!(
        "POST /v3/kv/range HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer).await;
    assert!(answer.contains("etcdserver: user name is empty"), "{answer}");
    node.shutdown().await;
}

#[tokio::test]
async fn without_etcds_flag_a_common_name_is_nobody() {
    let world = World::new();
    let auth = AuthConfig { bcrypt_cost: limits::BCRYPT_COST_MIN, ..AuthConfig::default() };
    let node = start(Config { client_tls: Some(world.mutual()), auth, ..Config::in_memory("alone") }).await;
    let root = remote(node.addresses().client, Some(world.user("root")));
    root.user_add("root", Some("root")).await.unwrap();
    root.role_add("root").await.unwrap();
    root.user_grant_role("root", "root").await.unwrap();
    root.auth_enable().await.unwrap();
    let error = root.put("k", "v").await.unwrap_err();
    assert!(error.to_string().contains("user name is empty"), "{error}");
    node.shutdown().await;
}

/// Calls over connections that are kept, and over ones that are new, none of which may fail.
struct Load {
    calls: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    fn start(at: std::net::SocketAddr, tls: &ClientTls) -> Self {
        let (calls, stop): (Arc<AtomicU64>, Arc<AtomicBool>) = Default::default();
        let kept = remote(at, Some(tls.clone()));
        let options = options(Some(tls.clone()));
        let tasks = (0..4).map(|number| {
            let (calls, stop, kept, options) = (calls.clone(), stop.clone(), kept.clone(), options.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let new = || Remote::new(&at.to_string(), &options).unwrap();
                    let client = if number % 2 == 0 { kept.clone() } else { new() };
                    client.put(format!("k{number}"), "v").await.unwrap();
                    calls.fetch_add(1, Ordering::Relaxed);
                }
            })
        });
        Self { tasks: tasks.collect(), calls, stop }
    }

    async fn more(&self, count: u64) {
        let from = self.calls.load(Ordering::Relaxed);
        until("calls go on", async || {
            let failed = self.tasks.iter().any(tokio::task::JoinHandle::is_finished);
            assert!(!failed, "a call failed");
            (self.calls.load(Ordering::Relaxed) >= from + count).then_some(())
        })
        .await;
    }

    /// So long that the member has looked at its files again and again.
    async fn long(&self) {
        let begin = tokio::time::Instant::now();
        while begin.elapsed() < limits::TLS_LOOK_INTERVAL * 3 {
            self.more(10).await;
        }
    }

    async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_replaced_under_load_and_no_call_fails() {
    let world = World::new();
    let node = alone(Some(world.mutual())).await;
    let at = node.addresses().client;
    // Trusts the authority of now and the one that is to come, as whoever changes authorities does first.
    let next = Authority::new("the next authority");
    let both = format!("{}{}", world.authority.pem, next.pem);
    let user = world.authority.sign(&Wanted { common_name: "alice", ..Wanted::default() });
    let tls = world.shelf.client("alice", &world.authority, Some(&user));
    world.shelf.put("alice-ca.crt", &both);
    world.shelf.put("trusted.crt", &both);
    let load = Load::start(at, &tls);
    load.more(50).await;

    // A file that is broken changes nothing.
    let good = world.server();
    world.shelf.put("server.crt", "nonsense");
    let only_next = world.shelf.client("only-next", &next, Some(&user));
    load.long().await;
    let is_new = async || hasty(at, Some(only_next.clone())).get("k0").await.ok();
    assert!(is_new().await.is_none(), "the old one is shown still");
    world.shelf.keep("server", &good);
    load.long().await;

    // The server's certificate, then the client's, then the old authority goes.
    let hosts: &[&str] = &["localhost", "127.0.0.1"];
    world.shelf.keep("server", &next.sign(&Wanted { hosts, serial: 8, ..Wanted::default() }));
    until("the new certificate is shown", async || is_new().await).await;
    load.more(50).await;
    world.shelf.keep("alice", &next.sign(&Wanted { common_name: "alice", serial: 9, ..Wanted::default() }));
    load.more(50).await;
    world.shelf.put("trusted.crt", &next.pem);
    until("the old authority's certificates are refused", async || {
        let old = world.shelf.client("old", &next, Some(&user));
        hasty(at, Some(old)).get("k0").await.err()
    })
    .await;
    load.more(50).await;
    load.stop().await;
    node.shutdown().await;
}

#[tokio::test]
async fn a_certificate_that_is_revoked_opens_no_further_connection() {
    let world = World::new();
    let crl = Some(world.shelf.put("crl.pem", &world.authority.revoke(&[])));
    let node = alone(Some(setstone::transport::tls::Tls { crl, ..world.mutual() })).await;
    let at = node.addresses().client;
    let alice = world.user("alice");
    remote(at, Some(alice.clone())).put("k", "v").await.unwrap();
    world.shelf.put("crl.pem", &world.authority.revoke(&[77]));
    until("it is refused", async || hasty(at, Some(alice.clone())).get("k").await.err()).await;
    super::world::is_refused(&node, "client", "revoked", 0).await;
    node.shutdown().await;
}

#[tokio::test]
async fn the_command_line_and_etcdctl_speak_tls() {
    let world = World::new();
    let node = alone(Some(world.mutual())).await;
    let at = node.addresses().client.to_string();
    world.user("alice");
    let (ca, cert, key) =
        (world.shelf.text("alice-ca.crt"), world.shelf.text("alice.crt"), world.shelf.text("alice.key"));
    let run = async |program: &str, arguments: &[&str]| {
        let mut command = tokio::process::Command::new(program);
        for (name, _) in
            std::env::vars().filter(|(name, _)| name.starts_with("ETCDCTL_") || name.starts_with("SETSTONE_"))
        {
            command.env_remove(name);
        }
        let output = command.args(arguments).kill_on_drop(true).output().await.unwrap();
        (
            output.status.success(),
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr),
        )
    };
    let etcdctl = std::env::var("ETCD_BIN").map(|bin| format!("{bin}/etcdctl"));
    let programs = [Some(env!("CARGO_BIN_EXE_setstone").to_owned()), etcdctl.ok()];
    for (number, program) in programs.iter().flatten().enumerate() {
        let endpoint = ["--endpoints", &at];
        let secure = ["--cacert", &ca, "--cert", &cert, "--key", &key];
        let put = [&endpoint[..], &secure, &["put", "k", program]].concat();
        let (worked, said) = run(program, &put).await;
        assert!(worked, "{program}: {said}");
        let any = ["--insecure-skip-tls-verify", "--cert", &cert, "--key", &key];
        let url = format!("https://{at}");
        let get = [&["--endpoints", url.as_str()][..], &any, &["get", "k"]].concat();
        let (worked, said) = run(program, &get).await;
        assert!(worked && said.contains(program.as_str()), "{program}: {said}");
        if number == 0 {
            let (worked, said) =
                run(program, &[&endpoint[..], &["--timeout", "2s", "get", "k"]].concat()).await;
            assert!(!worked, "{said}");
            let (worked, said) =
                run(program, &[&endpoint[..], &["--cacert", "/nowhere", "get", "k"]].concat()).await;
            assert!(!worked && said.contains("TLS: /nowhere: "), "{said}");
        }
    }
    node.shutdown().await;
}
