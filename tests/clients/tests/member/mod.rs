//! The member that a test talks to: one of its own, or what `SETSTONE_ENDPOINTS` names.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use etcd_client::{Client, DeleteOptions};
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::Instant;

/// Time for a member to serve.
const START: Duration = Duration::from_secs(60);
/// Tests that share endpoints take turns: one of them compacts, and none may read what another has compacted.
static TURN: Mutex<()> = Mutex::const_new(());

/// A member, for one test.
pub struct Member {
    endpoints: Vec<String>,
    /// What all keys of the test begin with.
    prefix: String,
    /// Of its own, killed at the end.
    process: Option<Process>,
    _turn: Option<MutexGuard<'static, ()>>,
}

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Member {
    /// Starts or finds one. `test` makes keys that no other test uses.
    pub async fn start(test: &str) -> Self {
        let mut member = match std::env::var("SETSTONE_ENDPOINTS") {
            Ok(list) if !list.is_empty() => {
                let endpoints = list.split(',').map(str::to_owned).collect();
                let turn = Some(TURN.lock().await);
                Self { endpoints, prefix: String::new(), process: None, _turn: turn }
            }
            _ => Self::spawn(),
        };
        let run = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
        member.prefix = format!("clients/{test}/{run}/");
        member.wait().await;
        member
    }

    fn spawn() -> Self {
        let binary = std::env::var("SETSTONE_BIN")
            .expect("SETSTONE_BIN must name the binary, or SETSTONE_ENDPOINTS members that run");
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let process = Command::new(&binary)
            .args(["serve", "--memory", "--listen-client", &address, "--listen-admin", "none"])
            .args(["--exit-with-stdin", "--log", "warn"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{binary}: {error}"));
        Self { endpoints: vec![address], prefix: String::new(), process: Some(Process(process)), _turn: None }
    }

    /// Waits until it takes a write.
    async fn wait(&mut self) {
        let deadline = Instant::now() + START;
        loop {
            if let Some(Process(process)) = &mut self.process
                && let Some(status) = process.try_wait().unwrap()
            {
                panic!("the member ended with {status}");
            }
            let probe = async {
                let mut client = Client::connect(&self.endpoints, None).await?;
                client.delete(self.prefix.as_str(), Some(DeleteOptions::new().with_prefix())).await
            };
            match tokio::time::timeout(Duration::from_secs(2), probe).await {
                Ok(Ok(_)) => return,
                Ok(Err(error)) if Instant::now() > deadline => panic!("the member does not serve: {error}"),
                Err(_) if Instant::now() > deadline => panic!("the member does not answer"),
                // A process tells nobody that it serves: it is asked again, up to the deadline.
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// A client of it.
    pub async fn client(&self) -> Client {
        Client::connect(&self.endpoints, None).await.unwrap()
    }

    /// A key of this test alone.
    pub fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }
}
