//! Three members of one system on the loopback. Whatever was started is ended, also when something fails.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::Failure;
use crate::cost::Cost;

const MEMBERS: usize = 3;
/// Time for a cluster to have a leader that all members know.
const START: Duration = Duration::from_mins(1);
/// Time for a member to end after SIGTERM.
const STOP: Duration = Duration::from_secs(20);

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum System {
    Etcd,
    Setstone,
}

impl System {
    /// As it is called in output and paths.
    pub fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::Setstone => "setstone",
        }
    }
}

/// A cluster that runs.
pub struct Cluster {
    system: System,
    members: Vec<Member>,
    client: PathBuf,
}

struct Member {
    process: Child,
    endpoint: SocketAddr,
}

/// A member that was not stopped is killed.
impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Cluster {
    /// Starts three members of `system` with data under `root`, and waits until all know the leader. `client` is our
    /// binary, which asks for it.
    pub fn start(system: System, binary: &Path, client: &Path, root: &Path) -> Result<Self, Failure> {
        let addresses = free_addresses(2 * MEMBERS)?;
        let (clients, peers) = addresses.split_at(MEMBERS);
        std::fs::create_dir_all(root)?;
        let mut members = Vec::new();
        for (ordinal, endpoint) in clients.iter().enumerate() {
            let mut command = match system {
                System::Etcd => etcd(binary, ordinal, clients, peers, root),
                System::Setstone => setstone(binary, ordinal, clients, peers, root),
            };
            let log = std::fs::File::create(root.join(format!("{ordinal}.log")))?;
            let process = command
                .stdin(Stdio::piped())
                .stdout(log.try_clone()?)
                .stderr(log)
                .spawn()
                .map_err(|error| format!("{}: {error}", binary.display()))?;
            members.push(Member { process, endpoint: *endpoint });
        }
        let mut cluster = Self { system, members, client: client.to_owned() };
        cluster.wait_ready(root)?;
        Ok(cluster)
    }

    /// What it is.
    pub fn system(&self) -> System {
        self.system
    }

    /// All endpoints, separated by commas.
    pub fn endpoints(&self) -> String {
        self.members.iter().map(|member| member.endpoint.to_string()).collect::<Vec<_>>().join(",")
    }

    /// The endpoint of the leader.
    pub fn leader(&self) -> Result<String, Failure> {
        let status = self.status()?;
        status
            .iter()
            .find(|row| row.pointer("/role").and_then(Value::as_str) == Some("leader"))
            .and_then(|row| row.pointer("/endpoint").and_then(Value::as_str))
            .map(str::to_owned)
            .ok_or_else(|| format!("{} has no leader: {status:?}", self.system.name()).into())
    }

    /// What all members have used so far.
    pub fn cost(&self) -> Result<Cost, Failure> {
        self.members.iter().map(|member| Cost::of(member.process.id())).sum()
    }

    /// Resident memory of each member, in bytes.
    pub fn resident_bytes(&self) -> Result<Vec<u64>, Failure> {
        self.members.iter().map(|member| crate::cost::resident_bytes(member.process.id())).collect()
    }

    /// Stops all members in order.
    pub fn stop(mut self) -> Result<(), Failure> {
        for member in &mut self.members {
            rustix::process::kill_process(rustix::process::Pid::from_child(&member.process), Signal::TERM)?;
        }
        let deadline = Instant::now() + STOP;
        for member in &mut self.members {
            while member.process.try_wait()?.is_none() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        Ok(())
    }

    fn wait_ready(&mut self, root: &Path) -> Result<(), Failure> {
        let deadline = Instant::now() + START;
        loop {
            for (ordinal, member) in self.members.iter_mut().enumerate() {
                if let Some(status) = member.process.try_wait()? {
                    let log =
                        std::fs::read_to_string(root.join(format!("{ordinal}.log"))).unwrap_or_default();
                    let name = self.system.name();
                    return Err(format!("{name}, member {ordinal} ended with {status}:\n{log}").into());
                }
            }
            let ready = self.status().is_ok_and(|rows| {
                rows.len() == MEMBERS
                    && rows.iter().all(|row| row.pointer("/leader").is_some_and(Value::is_string))
            });
            if ready {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!(
                    "{} has no leader after {START:?}; see {}",
                    self.system.name(),
                    root.display()
                )
                .into());
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn status(&self) -> Result<Vec<Value>, Failure> {
        let output = Command::new(&self.client)
            .args(["status", "--json", "--timeout", "2s", "--endpoints", &self.endpoints()])
            .stderr(Stdio::inherit())
            .output()?;
        Ok(serde_json::from_slice(&output.stdout)?)
    }
}

fn etcd(binary: &Path, ordinal: usize, clients: &[SocketAddr], peers: &[SocketAddr], root: &Path) -> Command {
    let all: Vec<String> =
        peers.iter().enumerate().map(|(ordinal, peer)| format!("m{ordinal}=http://{peer}")).collect();
    let client = format!("http://{}", clients[ordinal]);
    let peer = format!("http://{}", peers[ordinal]);
    let mut command = tied_to_us(binary);
    command
        .arg("--data-dir")
        .arg(root.join(format!("m{ordinal}")))
        .args(["--name", &format!("m{ordinal}"), "--log-level", "error"])
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &all.join(","), "--initial-cluster-state", "new"]);
    command
}

fn setstone(
    binary: &Path,
    ordinal: usize,
    clients: &[SocketAddr],
    peers: &[SocketAddr],
    root: &Path,
) -> Command {
    let all: Vec<String> = peers.iter().map(ToString::to_string).collect();
    let mut command = Command::new(binary);
    command
        .arg("serve")
        .arg("--data-dir")
        .arg(root.join(format!("m{ordinal}")))
        .args(["--ordinal", &ordinal.to_string(), "--peers", &all.join(",")])
        .args(["--listen-client", &clients[ordinal].to_string(), "--listen-admin", "none"])
        .args(["--exit-with-stdin", "--log", "warn"]);
    command
}

/// A command that ends when we do, where the system has `setpriv`. Its process is the command's own: the wrapper becomes
/// it.
fn tied_to_us(binary: &Path) -> Command {
    let setpriv = Path::new("/usr/bin/setpriv");
    if setpriv.exists() {
        let mut command = Command::new(setpriv);
        command.args(["--pdeathsig", "KILL", "--"]).arg(binary);
        command
    } else {
        Command::new(binary)
    }
}

/// Loopback addresses whose ports nobody listens on; all different.
fn free_addresses(count: usize) -> Result<Vec<SocketAddr>, Failure> {
    let listeners: Vec<TcpListener> =
        (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    Ok(listeners.iter().map(TcpListener::local_addr).collect::<Result<_, _>>()?)
}
