//! A real etcd: one member, on free ports, with its data in a directory that is removed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::time::Instant;

const LOG: &str = "log";
const START: Duration = Duration::from_mins(1);

/// A process that is killed when this is dropped.
pub struct Etcd {
    pub address: SocketAddr,
    process: Child,
    data: tempfile::TempDir,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.data.path().join(LOG)).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            println!("etcd said at last:\n{}", lines[lines.len().saturating_sub(20)..].join("\n"));
        }
    }
}

impl Etcd {
    /// Starts the etcd of this directory, and waits until it takes connections.
    pub async fn start(directory: &Path) -> Self {
        Self::start_with(directory, &[]).await
    }

    /// With more arguments.
    pub async fn start_with(directory: &Path, arguments: &[&str]) -> Self {
        let listeners: Vec<_> = (0..2).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let [address, peer] = [0, 1].map(|at| listeners[at].local_addr().unwrap());
        drop(listeners);
        let data = tempfile::tempdir().unwrap();
        let (client, peer) = (format!("http://{address}"), format!("http://{peer}"));
        let log = std::fs::File::create(data.path().join(LOG)).unwrap();
        let process = tied_to_us(&directory.join("etcd"))
            .arg("--data-dir")
            .arg(data.path().join("data"))
            // Nothing of this need survive the machine.
            .args(["--unsafe-no-fsync", "--log-level", "error"])
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}")])
            .args(arguments)
            // It takes what begins like this for a setting.
            .env_remove("ETCD_BIN")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
        let mut etcd = Self { address, process, data };
        etcd.wait().await;
        etcd
    }

    async fn wait(&mut self) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let deadline = Instant::now() + START;
        // A process tells nobody that it serves: it is asked again, up to the deadline.
        let mut looks = tokio::time::interval(Duration::from_millis(50));
        loop {
            looks.tick().await;
            if let Some(status) = self.process.try_wait().unwrap() {
                panic!("etcd ended with {status}");
            }
            let mut stream = match tokio::net::TcpStream::connect(self.address).await {
                Ok(stream) => stream,
                Err(error) if Instant::now() > deadline => panic!("etcd takes no connection: {error}"),
                Err(_) => continue,
            };
            let mut answer = Vec::new();
            let asked = stream.write_all(b"GET /health HTTP/1.0\r\nHost: x\r\n\r\n").await;
            if asked.is_ok()
                && stream.read_to_end(&mut answer).await.is_ok()
                && String::from_utf8_lossy(&answer).contains("\"health\":\"true\"")
            {
                return;
            }
            assert!(Instant::now() < deadline, "etcd is not healthy");
        }
    }
}

/// A command that ends when we do, where the system has `setpriv`.
fn tied_to_us(binary: &Path) -> Command {
    if Path::new("/usr/bin/setpriv").exists() {
        let mut command = Command::new("/usr/bin/setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(binary);
        command
    } else {
        Command::new(binary)
    }
}
