//! Pods under test, mostly three: who leads, what each member says of itself, what its process costs.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use rustix::process::{Pid, Signal, kill_process};
use setstone::client::{self, Client, Connection, Consistency, Endpoint, Remote, prefix_end};
use setstone::identity::Ordinal;
use setstone::mvcc::KeyValue;
use setstone::mvcc::command::{Put, Range};
use setstone::playground::{Options, Playground, PodStatus};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, MissedTickBehavior};

/// Long enough for a machine that is busy; nothing waits for it when all is well.
pub const DEADLINE: Duration = Duration::from_secs(40);
/// Between two looks at a condition.
pub const LOOK: Duration = Duration::from_millis(10);
/// Clusters that run at the same time.
static CLUSTERS: Semaphore = Semaphore::const_new(2);

/// A playground, its clients, and its logs should a test fail.
pub struct World {
    pub playground: Playground,
    /// All members.
    pub remote: Remote,
    data: tempfile::TempDir,
    _run: tempfile::TempDir,
    _turn: SemaphorePermit<'static>,
}

impl World {
    /// Three pods that are ready, with these settings on top of what the manifests say.
    pub async fn start(settings: &[&str]) -> Self {
        Self::with(settings, |_| {}).await
    }

    /// The same, with other options of the playground.
    pub async fn with(settings: &[&str], change: impl FnOnce(&mut Options)) -> Self {
        let world = Self::begin(settings, change).await;
        world.ready().await;
        world
    }

    /// The same, before any of them is ready.
    pub async fn begin(settings: &[&str], change: impl FnOnce(&mut Options)) -> Self {
        let turn = CLUSTERS.acquire().await.unwrap();
        let (data, run) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut options = Options::new(env!("CARGO_BIN_EXE_setstone"));
        options.arguments.extend(["--drain-delay", "200ms"].iter().chain(settings).map(Into::into));
        options.data = Some(data.path().to_owned());
        options.run = Some(run.path().join("run"));
        options.back_off.initial = Duration::from_millis(100);
        options.back_off.max = Duration::from_millis(100);
        change(&mut options);
        let playground = Playground::start(options).await.unwrap();
        let endpoints = playground.endpoints().pods.join(",");
        let remote = Remote::new(&endpoints, &client::Options::default()).unwrap();
        Self { playground, remote, data, _run: run, _turn: turn }
    }

    pub async fn ready(&self) {
        self.playground.wait_ready(DEADLINE).await.unwrap();
    }

    pub fn pod(&self, ordinal: Ordinal) -> PodStatus {
        self.playground.status().pod(ordinal).unwrap().clone()
    }

    /// The member of one pod.
    pub fn member(&self, ordinal: Ordinal) -> &Connection {
        &self.remote.connections()[usize::from(ordinal)]
    }

    /// A client of one pod whose calls take no longer than this.
    pub fn impatient(&self, ordinal: Ordinal, timeout: Duration) -> Connection {
        let endpoint = Endpoint::list(&self.playground.endpoints().pods[usize::from(ordinal)]).unwrap();
        let options = client::Options { timeout, ..client::Options::default() };
        Connection::new(endpoint[0].clone(), &options)
    }

    /// A client of all members but one.
    pub fn without(&self, ordinal: Ordinal) -> Remote {
        let mut endpoints = self.playground.endpoints().pods;
        endpoints.remove(usize::from(ordinal));
        Remote::new(&endpoints.join(","), &client::Options::default()).unwrap()
    }

    /// How many pods there were at first.
    pub fn size(&self) -> Ordinal {
        self.remote.connections().len() as Ordinal
    }

    /// Waits until a member other than `not` says that it leads.
    pub async fn leader_other_than(&self, not: Option<Ordinal>) -> Ordinal {
        until("there is a leader", async || {
            for ordinal in (0..self.size()).filter(|ordinal| Some(*ordinal) != not) {
                let status = self.impatient(ordinal, Duration::from_secs(1)).status().await;
                if status.is_ok_and(|status| status.value.leader == Some(status.header.member)) {
                    return Some(ordinal);
                }
            }
            None
        })
        .await
    }

    pub async fn leader(&self) -> Ordinal {
        self.leader_other_than(None).await
    }

    /// The process of a pod gets a signal.
    pub fn signal(&self, ordinal: Ordinal, signal: Signal) {
        signal_to(self.pod(ordinal).pid.unwrap(), signal);
    }

    /// Every pair, as one member has it once it has caught up with `revision`.
    pub async fn everything(&self, ordinal: Ordinal, revision: i64) -> Vec<KeyValue> {
        let all = range(b"", Some(Bytes::from_static(b"\0")));
        until(&format!("member {ordinal} has revision {revision}"), async || {
            let answer = self.member(ordinal).get(all.clone(), Consistency::Serializable).await.ok()?;
            (answer.header.revision >= revision).then_some(answer.value.kvs)
        })
        .await
    }

    /// All members have the same pairs and the same hash. Returns the pairs and the revision. Nobody may write meanwhile.
    pub async fn agreed(&self) -> (Vec<KeyValue>, i64) {
        let last = Put { key: "last".into(), value: "write".into(), ..Put::default() };
        let revision = until("a write succeeds", async || self.remote.put(last.clone()).await.ok()).await;
        let revision = revision.header.revision;
        let first = self.everything(0, revision).await;
        let hash = self.member(0).hash(revision).await.unwrap().value;
        for ordinal in 1..self.size() {
            assert!(first == self.everything(ordinal, revision).await, "members 0 and {ordinal} differ");
            assert_eq!(hash, self.member(ordinal).hash(revision).await.unwrap().value, "member {ordinal}");
        }
        (first, revision)
    }

    /// The number behind one name in a member's metrics.
    pub async fn metric(&self, ordinal: Ordinal, name: &str) -> Option<f64> {
        let text = http_get(self.pod(ordinal).address?, "/metrics").await.ok()?;
        let line = text.lines().find(|line| line.split(' ').next() == Some(name))?;
        line.split(' ').nth(1)?.trim().parse().ok()
    }

    pub fn log_of(&self, ordinal: Ordinal) -> String {
        std::fs::read_to_string(self.file(&format!("setstone-{ordinal}.log"))).unwrap_or_default()
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.data.path().join(name)
    }

    /// Stops it in order. Every process must end within its grace period, and none may have panicked.
    pub async fn stop(&self) {
        let pids: Vec<_> =
            (0..self.size()).map(|ordinal| (ordinal, self.pod(ordinal).pid.unwrap())).collect();
        let begin = Instant::now();
        self.playground.stop().await;
        println!("{} pods stopped in {:?}", pids.len(), begin.elapsed());
        for (ordinal, pid) in pids {
            self.ended_well(ordinal, pid).await;
        }
        self.nobody_panicked();
    }

    /// A process of this pod that was told to stop ended in order, not by SIGKILL.
    pub async fn ended_well(&self, ordinal: Ordinal, pid: u32) {
        let end = format!("--- playground: ended process {pid}: ");
        // The thread that copies a pod's output may be behind its end.
        let how = until(&format!("the log says how pod {ordinal} ended"), async || {
            self.log_of(ordinal).lines().find_map(|line| line.strip_prefix(&*end)).map(str::to_owned)
        })
        .await;
        assert_eq!(how, "exit code 0", "pod {ordinal}");
    }

    pub fn nobody_panicked(&self) {
        for ordinal in 0..self.size() {
            let log = self.log_of(ordinal);
            let panic = log.lines().find(|line| line.contains("panicked"));
            assert_eq!(panic, None, "pod {ordinal}");
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let exists = |ordinal: &Ordinal| self.file(&format!("setstone-{ordinal}.log")).exists();
        for ordinal in (0..).take_while(exists) {
            let log = self.log_of(ordinal);
            let lines: Vec<&str> = log.lines().collect();
            println!("--- the end of the log of pod {ordinal}");
            for line in &lines[lines.len().saturating_sub(60)..] {
                println!("{line}");
            }
        }
    }
}

pub fn signal_to(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal).unwrap();
}

/// A key, or all keys up to an end; with an empty key, all keys.
pub fn range(key: &[u8], end: Option<Bytes>) -> Range {
    let key = if key.is_empty() { Bytes::from_static(b"\0") } else { Bytes::copy_from_slice(key) };
    Range { key, range_end: end.unwrap_or_default(), ..Range::default() }
}

/// All keys that begin with a prefix.
pub fn prefix(key: &[u8]) -> Range {
    range(key, Some(prefix_end(key)))
}

/// Looks until there is an answer.
pub async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        if let Some(found) = look().await {
            return found;
        }
        assert!(begin.elapsed() < DEADLINE, "not within {DEADLINE:?}: {what}");
    }
}

/// What a pod says of itself.
pub async fn status_of(world: &World, ordinal: Ordinal) -> Option<serde_json::Value> {
    let answer = http_get(world.pod(ordinal).address?, "/status").await.ok()?;
    let (_, body) = answer.split_once("\r\n\r\n")?;
    serde_json::from_str(body).ok()
}

/// One request to an admin port.
pub async fn http_get(address: Ipv4Addr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(SocketAddr::from((address, 2381))).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// Connections to the client port of a pod that hold bytes which it has not read.
pub fn unread(address: Ipv4Addr) -> usize {
    // The kernel prints an address as the number that its bytes are in memory.
    let local = format!("{:08X}:{:04X}", u32::from_ne_bytes(address.octets()), 2379);
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let queued = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (_, received) = fields[4].split_once(':').unwrap();
        fields[1] == local && u32::from_str_radix(received, 16).unwrap() > 0
    };
    // In the state ESTABLISHED; a listener counts connections, not bytes.
    table.lines().skip(1).filter(|line| line.contains(" 01 ") && queued(line)).count()
}

/// CPU time of a process so far, user and system.
pub fn cpu(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The name may hold anything, so fields are counted from its end: utime and stime are the 12th and 13th from there.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    // USER_HZ is 100 wherever Linux runs us.
    Duration::from_millis(ticks * 10)
}

/// Resident memory of a process, in bytes.
pub fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}
