//! Three members, each a process of its own with a disk of its own.
//!
//! They are launched by etcd's command line: `SETSTONE_BIN` names the binary, or `SETSTONE_STORE` the command, words separated by blanks,
//! so that a session can be run against etcd itself: `SETSTONE_STORE=/path/to/etcd`. Each cluster has loopback addresses of its own: no
//! port of a member that is down can be taken by somebody else's connection.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use super::until;

const CLIENT_PORT: u16 = 2379;
const PEER_PORT: u16 = 2380;
const ADMIN_PORT: u16 = 2381;
/// Time for one answer about a member's state.
const ANSWER: Duration = Duration::from_secs(3);

/// A member.
pub struct Member {
    pub name: String,
    host: IpAddr,
    data: PathBuf,
    log: PathBuf,
    /// Standard error: a panic's message, for example.
    said: PathBuf,
    process: Option<Child>,
}

/// A cluster; its processes end with it.
pub struct Cluster {
    root: PathBuf,
    members: Vec<Member>,
}

/// The command that launches a member.
fn store() -> Vec<String> {
    if let Ok(command) = std::env::var("SETSTONE_STORE") {
        return command.split_whitespace().map(str::to_owned).collect();
    }
    let binary = std::env::var("SETSTONE_BIN")
        .expect("SETSTONE_BIN must name the binary, or SETSTONE_STORE a command that takes etcd's flags");
    vec![binary, "etcd".into()]
}

/// Whether the members are etcd's own.
pub fn is_etcd() -> bool {
    store().len() == 1
}

/// Loopback addresses that nobody uses: 127.A.B.1 and up.
fn free_network() -> [u8; 2] {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let process = std::process::id();
    let first = 64 + (process % 128) as u8;
    until("loopback addresses", || {
        let second = NEXT.fetch_add(1, Ordering::Relaxed);
        let is_free = |port| TcpListener::bind((Ipv4Addr::new(127, first, second, 1), port)).is_ok();
        (is_free(CLIENT_PORT) && is_free(PEER_PORT)).then_some([first, second])
    })
}

impl Member {
    fn new(root: &Path, network: [u8; 2], number: u8) -> Self {
        let name = format!("m{number}");
        Self {
            host: Ipv4Addr::new(127, network[0], network[1], number + 1).into(),
            data: root.join(&name),
            log: root.join(format!("{name}.log")),
            said: root.join(format!("{name}.stderr")),
            process: None,
            name,
        }
    }

    /// Where clients connect: `host:port`.
    pub fn endpoint(&self) -> String {
        format!("{}:{CLIENT_PORT}", self.host)
    }

    /// Where members connect.
    pub fn peer_url(&self) -> String {
        format!("http://{}:{PEER_PORT}", self.host)
    }

    /// Where the data is.
    pub fn data(&self) -> &Path {
        &self.data
    }

    fn spawn(&mut self, initial: &str, state: &str) {
        let (client, peer) = (format!("http://{}", self.endpoint()), self.peer_url());
        let command = store();
        let mut process = Command::new(&command[0]);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ETCD")) {
            process.env_remove(name);
        }
        process
            .args(&command[1..])
            .args(["--name", &self.name, "--data-dir"])
            .arg(&self.data)
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", initial, "--initial-cluster-state", state])
            .args(["--listen-metrics-urls", &format!("http://{}:{ADMIN_PORT}", self.host)])
            .args(["--log-level", "warn", "--log-outputs"])
            .arg(&self.log)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::options().append(true).create(true).open(&self.said).unwrap());
        self.process = Some(process.spawn().unwrap_or_else(|error| panic!("{}: {error}", command[0])));
    }

    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    fn runs(&self) -> bool {
        self.process.is_some()
    }

    /// What a call as JSON answers.
    pub fn post(&self, path: &str, body: &str) -> io::Result<String> {
        let address = SocketAddr::new(self.host, CLIENT_PORT);
        let mut stream = TcpStream::connect_timeout(&address, ANSWER)?;
        stream.set_read_timeout(Some(ANSWER))?;
        write!(
            stream,
            "POST {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        if !answer.starts_with("HTTP/1.1 200") {
            return Err(io::Error::other(answer));
        }
        Ok(answer)
    }

    /// Its own id and its leader's.
    fn ids(&self) -> Option<(u64, u64)> {
        let status = self.post("/v3/maintenance/status", "{}").ok()?;
        let number = |name: &str| {
            let (_, rest) = status.split_once(&format!("\"{name}\":\""))?;
            rest.split('"').next()?.parse().ok()
        };
        Some((number("member_id")?, number("leader")?))
    }

    fn serves(&self) -> bool {
        self.post("/v3/kv/range", r#"{"key":"AA=="}"#).is_ok()
    }
}

impl Cluster {
    /// Starts three members and waits until all serve. `name` is for their directory.
    pub fn start(name: &str) -> Self {
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        fs::create_dir_all(&root).unwrap();
        let network = free_network();
        let members = (0..3).map(|number| Member::new(&root, network, number)).collect();
        let mut cluster = Self { root, members };
        cluster.restart();
        cluster
    }

    fn initial(&self) -> String {
        let all: Vec<String> =
            self.members.iter().map(|member| format!("{}={}", member.name, member.peer_url())).collect();
        all.join(",")
    }

    /// Starts those that are down, and waits until all serve.
    pub fn restart(&mut self) {
        let initial = self.initial();
        for member in self.members.iter_mut().filter(|member| !member.runs()) {
            member.spawn(&initial, "new");
        }
        self.serve();
    }

    fn serve(&self) {
        for member in &self.members {
            until(&format!("{} serves", member.name), || member.serves().then_some(()));
        }
    }

    /// Prepares one more member, whose process [`Self::start_added`] starts once it was added.
    pub fn another(&mut self) -> &Member {
        let number = self.members.len() as u8;
        let IpAddr::V4(host) = self.members[0].host else { unreachable!("they are made so") };
        let [_, a, b, _] = host.octets();
        let member = Member::new(&self.root, [a, b], number);
        self.members.push(member);
        &self.members[usize::from(number)]
    }

    /// Starts the last member as one that was added. It serves reads of its own only, as long as it learns.
    pub fn start_added(&mut self) {
        let initial = self.initial();
        self.members.last_mut().unwrap().spawn(&initial, "existing");
    }

    /// Ends the last member for good.
    pub fn forget_last(&mut self) {
        self.members.pop().unwrap().kill();
    }

    /// The members.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Where clients connect, separated by commas.
    pub fn endpoints(&self) -> String {
        let all: Vec<String> = self.members.iter().map(Member::endpoint).collect();
        all.join(",")
    }

    /// Which member leads, by its own word.
    pub fn leader(&self) -> usize {
        until("a leader", || {
            self.members
                .iter()
                .position(|member| member.runs() && member.ids().is_some_and(|(own, leader)| own == leader))
        })
    }

    /// Kills the leader's process; which it was.
    pub fn kill_leader(&mut self) -> usize {
        let leader = self.leader();
        self.members[leader].kill();
        leader
    }

    /// All ports of all members.
    pub fn ports(&self) -> Vec<SocketAddr> {
        let of = |member: &Member| {
            [CLIENT_PORT, PEER_PORT, ADMIN_PORT].map(|port| SocketAddr::new(member.host, port))
        };
        self.members.iter().flat_map(of).collect()
    }

    /// The ids of the members' processes.
    pub fn process_ids(&self) -> Vec<u32> {
        self.members.iter().filter_map(|member| member.process.as_ref()).map(Child::id).collect()
    }

    /// Whether no process has ended by itself.
    pub fn all_run(&mut self) -> bool {
        let has_ended = |process: &mut Child| process.try_wait().unwrap().is_some();
        !self.members.iter_mut().filter_map(|member| member.process.as_mut()).any(has_ended)
    }

    /// Whether any member has panicked, even if it went on.
    pub fn has_panicked(&self) -> bool {
        let says = |path: &Path| fs::read_to_string(path).unwrap_or_default().contains("panicked at");
        self.members.iter().any(|member| says(&member.log) || says(&member.said))
    }

    /// The end of what the members have logged.
    pub fn logs(&self) -> String {
        let mut text = String::new();
        for member in &self.members {
            text.push_str(&format!("--- {} ({})\n", member.name, member.endpoint()));
            text.push_str(&super::session::tail(&member.log, 20));
            text.push_str(&super::session::tail(&member.said, 20));
        }
        text
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.members.iter_mut().for_each(Member::kill);
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.root);
        }
    }
}
