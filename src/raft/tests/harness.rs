//! What the tests run: members that can be stopped, crashed and started again, and a network between them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::{Channel, Endpoint};

use crate::config::Tuning;
use crate::env::simulated_files::{Crash, SimulatedFiles};
use crate::env::{Env, Tasks, Work, clock, names, network, random, tasks};
use crate::identity::{ClusterId, NodeId};
use crate::metrics::Metrics;
use crate::mvcc::command::{Command, Put, Range, Request};
use crate::raft::boots::Boots;
use crate::raft::store::Store;
use crate::raft::{Consensus, Dial, Lane, Opened, Parts, PeerNode, Sender, Service};
use crate::storage::engine::state::EngineKind;
use crate::storage::{DataDirectory, Log, log::Options};

pub const CLUSTER: ClusterId = ClusterId(7);
pub const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug)]
struct NoNames;

impl names::Names for NoNames {
    fn lookup<'a>(&'a self, _: &'a str) -> BoxFuture<'a, names::Lookup> {
        Box::pin(std::future::ready(names::Lookup::Unknown("no names in this test".into())))
    }
}

pub fn env(files: SimulatedFiles, tasks: Arc<dyn Tasks>) -> Env {
    Env {
        clock: Arc::new(clock::SystemClock),
        random: Arc::new(random::SystemRandom),
        files: Arc::new(files),
        network: Arc::new(network::Tcp::default()),
        names: Arc::new(NoNames),
        tasks,
        owner: None,
    }
}

/// A connection that ends when its token does, or when what may be written through it is used up.
pub struct Tapped {
    stream: TcpStream,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
    budget: Option<Arc<AtomicI64>>,
}

impl Tapped {
    fn new(stream: TcpStream, token: CancellationToken, budget: Option<Arc<AtomicI64>>) -> Self {
        Self { stream, ended: Box::pin(token.cancelled_owned()), budget }
    }

    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if self.ended.as_mut().poll(context).is_ready() {
            return Err(io::Error::from(io::ErrorKind::ConnectionReset));
        }
        Ok(())
    }
}

impl AsyncRead for Tapped {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Tapped {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        if let (Poll::Ready(Ok(count)), Some(budget)) = (&written, &self.budget)
            && budget.fetch_sub(*count as i64, Ordering::Relaxed) < *count as i64
        {
            return Poll::Ready(Err(io::Error::from(io::ErrorKind::ConnectionReset)));
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl tonic::transport::server::Connected for Tapped {
    type ConnectInfo = ();
    fn connect_info(&self) {}
}

/// The network between the members.
#[derive(Default)]
pub struct Net {
    cut: Mutex<BTreeSet<(NodeId, NodeId)>>,
    tokens: Mutex<BTreeMap<(NodeId, NodeId), CancellationToken>>,
    channels: Mutex<BTreeMap<(NodeId, NodeId, Lane), Channel>>,
    /// Where new connections lead instead of where they should.
    misdirected: Mutex<BTreeMap<(NodeId, NodeId, Lane), String>>,
    /// Who was told, of a connection to whom, that it led to whom.
    pub refusals: Mutex<Vec<(NodeId, NodeId, NodeId)>>,
    /// Bytes that each new connection for snapshots carries; 0: no bound.
    pub snapshot_bytes: AtomicI64,
    /// Connections for snapshots that were made.
    pub snapshot_connections: AtomicU64,
}

impl Net {
    fn token(&self, pair: (NodeId, NodeId)) -> CancellationToken {
        self.tokens.lock().entry(pair).or_default().clone()
    }

    /// Cuts a member off from all others, in both directions; or connects it again.
    pub fn isolate(&self, member: NodeId, others: impl IntoIterator<Item = NodeId>, cut: bool) {
        // Held over both: a connection that is being made is either refused or ended.
        let mut cuts = self.cut.lock();
        for other in others {
            for pair in [(member, other), (other, member)] {
                if cut {
                    cuts.insert(pair);
                    if let Some(token) = self.tokens.lock().remove(&pair) {
                        token.cancel();
                    }
                } else {
                    cuts.remove(&pair);
                }
            }
        }
    }

    /// New connections from one member to another lead to a third.
    pub fn misdirect(&self, from: NodeId, to: NodeId, lane: Lane, third: &Member) {
        self.misdirected.lock().insert((from, to, lane), third.address.to_string());
    }

    async fn connect(&self, from: NodeId, to: NodeId, address: &str, lane: Lane) -> io::Result<Tapped> {
        let token = {
            let cuts = self.cut.lock();
            if cuts.contains(&(from, to)) {
                return Err(io::Error::from(io::ErrorKind::ConnectionRefused));
            }
            self.token((from, to))
        };
        let misdirected = self.misdirected.lock().get(&(from, to, lane)).cloned();
        let stream = TcpStream::connect(misdirected.as_deref().unwrap_or(address)).await?;
        stream.set_nodelay(true)?;
        let bound = self.snapshot_bytes.load(Ordering::Relaxed);
        let budget = (lane == Lane::Snapshot && bound > 0).then(|| Arc::new(AtomicI64::new(bound)));
        if lane == Lane::Snapshot {
            self.snapshot_connections.fetch_add(1, Ordering::Relaxed);
        }
        Ok(Tapped::new(stream, token, budget))
    }
}

pub struct DialFrom(pub NodeId, pub Arc<Net>);

impl Dial for DialFrom {
    fn channel(&self, to: NodeId, address: &str, lane: Lane) -> Channel {
        let (from, net, address) = (self.0, self.1.clone(), address.to_owned());
        let mut channels = self.1.channels.lock();
        let channel = channels.entry((from, to, lane)).or_insert_with(|| {
            let uri = format!("http://{address}");
            Endpoint::from_shared(uri).unwrap().connect_with_connector_lazy(tower::service_fn(
                move |_: http::Uri| {
                    let (net, address) = (net.clone(), address.clone());
                    async move {
                        let connected = net.connect(from, to, &address, lane).await;
                        connected.map(hyper_util::rt::TokioIo::new)
                    }
                },
            ))
        });
        channel.clone()
    }

    fn refused(&self, member: NodeId, _: &str, by: NodeId) {
        self.1.refusals.lock().push((self.0, member, by));
    }
}

/// How members of a test run.
#[derive(Clone)]
pub struct Setup {
    pub tuning: Tuning,
    pub tasks: Arc<dyn Tasks>,
}

impl Default for Setup {
    fn default() -> Self {
        let tuning =
            Tuning { log_bytes_before_snapshot: 1 << 40, log_segment_bytes: 64 << 10, ..Tuning::default() };
        Self { tuning, tasks: Arc::new(tasks::Threads) }
    }
}

/// Members whose log writers are held up while the sender says so.
pub fn stuck_setup() -> (watch::Sender<bool>, Setup) {
    let (stuck, state) = watch::channel(false);
    (stuck, Setup { tasks: Arc::new(Stuck(state)), ..Setup::default() })
}

/// Threads whose log writer can be held up.
#[derive(Debug)]
struct Stuck(watch::Receiver<bool>);

struct Held(Box<dyn Work>, watch::Receiver<bool>);

impl Work for Held {
    fn wait(&mut self) -> BoxFuture<'_, bool> {
        Box::pin(async {
            let ready = self.0.wait().await;
            let _ = self.1.wait_for(|stuck| !stuck).await;
            ready
        })
    }

    fn step(&mut self) {
        self.0.step();
    }
}

impl Tasks for Stuck {
    fn drive(&self, name: &'static str, work: Box<dyn Work>) -> BoxFuture<'static, ()> {
        tasks::Threads.drive(name, Box::new(Held(work, self.0.clone())))
    }

    fn blocking(&self, job: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        tasks::Threads.blocking(job)
    }
}

pub struct Member {
    pub id: NodeId,
    pub files: SimulatedFiles,
    pub consensus: Consensus,
    pub address: SocketAddr,
    pub metrics: Metrics,
    boot: u64,
    net: Arc<Net>,
    setup: Setup,
    kill: CancellationToken,
    server: tokio::task::JoinHandle<()>,
}

pub fn root() -> &'static Path {
    Path::new("/data")
}

/// Opens a member's disk as a node does.
pub fn open_disk(env: &Env) -> Result<Opened, crate::raft::OpenError> {
    open_counted(env, &Metrics::default())
}

fn open_counted(env: &Env, metrics: &Metrics) -> Result<Opened, crate::raft::OpenError> {
    let directory = DataDirectory::open(env.files.clone(), root()).unwrap();
    if !env.files.exists(&directory.log()).unwrap() {
        Log::create(env, &directory.log(), Options::default()).unwrap();
    }
    let options = Options { segment_bytes: 64 << 10, ..Options::default() };
    let opened = crate::raft::open(env, &directory, options, EngineKind::Memory, CLUSTER.into(), metrics);
    drop(directory);
    opened
}

impl Member {
    async fn start(
        id: NodeId,
        files: SimulatedFiles,
        listener: TcpListener,
        boot: u64,
        net: Arc<Net>,
        setup: Setup,
    ) -> Self {
        let metrics = Metrics::default();
        let opened = open_counted(&env(files.clone(), setup.tasks.clone()), &metrics).unwrap();
        let parts = Parts {
            mine: Sender { cluster: CLUSTER, node: id, boot, boot_random: boot },
            log: opened.log.clone(),
            committed: opened.committed,
            machine: opened.machine.clone(),
            snapshots: opened.snapshots.clone(),
            dial: Arc::new(DialFrom(id, net.clone())),
            boots: Boots::default(),
            random: Arc::new(crate::env::random::SystemRandom),
            tuning: setup.tuning.clone(),
            metrics: metrics.clone(),
        };
        let consensus = Consensus::start(parts).await.unwrap();
        let service = Service::new();
        service.set(consensus.clone());
        let address = listener.local_addr().unwrap();
        let kill = CancellationToken::new();
        let (token, tapped) = (kill.clone(), kill.clone());
        let incoming = futures::stream::unfold((listener, tapped), |(listener, tapped)| async move {
            let (stream, _) = listener.accept().await.ok()?;
            stream.set_nodelay(true).unwrap();
            let tapped_stream = Tapped::new(stream, tapped.clone(), None);
            Some((Ok::<_, io::Error>(tapped_stream), (listener, tapped)))
        });
        let server = tokio::spawn(async move {
            let server = tonic::transport::Server::builder()
                .add_service(service.into_server())
                .serve_with_incoming(incoming);
            tokio::select! {
                served = server => served.unwrap(),
                () = token.cancelled() => {}
            }
        });
        Self { id, files, consensus, address, metrics, boot, net, setup, kill, server }
    }

    /// Ends it in order. Everything of it is gone afterwards.
    pub async fn stop(&mut self) {
        tokio::time::timeout(PATIENCE, self.consensus.shutdown()).await.expect("consensus does not end");
        self.kill.cancel();
        (&mut self.server).await.unwrap();
    }

    /// The power fails; `keep` says what the disk has of what was not synced. Then it starts again.
    pub async fn crash_and_restart(&mut self, keep: Crash) {
        self.kill.cancel();
        self.files.crash(keep);
        self.stop().await;
        self.restart().await;
    }

    /// Starts it again, at its address.
    pub async fn restart(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        let files = self.files.clone();
        *self =
            Self::start(self.id, files, listener, self.boot + 1, self.net.clone(), self.setup.clone()).await;
    }

    /// Speaks to it as any peer can.
    pub fn client(&self) -> crate::proto::peer::raft_client::RaftClient<Channel> {
        let uri = format!("http://{}", self.address);
        crate::proto::peer::raft_client::RaftClient::new(Endpoint::from_shared(uri).unwrap().connect_lazy())
    }

    pub fn lacks_tasks(&self) -> bool {
        self.consensus.inner.tasks.is_empty()
    }
}

pub struct Cluster {
    pub members: Vec<Member>,
    pub net: Arc<Net>,
}

impl Cluster {
    pub async fn start(size: u16) -> Self {
        Self::with(size, Setup::default()).await
    }

    pub async fn with(size: u16, setup: Setup) -> Self {
        let mut ports = Vec::new();
        for _ in 0..size {
            ports.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
        }
        let nodes: BTreeMap<NodeId, PeerNode> = ports
            .iter()
            .enumerate()
            .map(|(ordinal, port)| {
                let node = PeerNode {
                    name: format!("test-{ordinal}"),
                    peer_address: port.local_addr().unwrap().to_string(),
                    client_urls: Vec::new(),
                };
                (NodeId::new(ordinal as u16, 1), node)
            })
            .collect();
        let net = Arc::new(Net::default());
        let mut members = Vec::new();
        for (id, port) in nodes.keys().zip(ports) {
            let files = SimulatedFiles::new(id.0);
            members.push(Member::start(*id, files, port, 1, net.clone(), setup.clone()).await);
        }
        members[0].consensus.initialise(nodes).await.unwrap();
        let cluster = Self { members, net };
        cluster.leader().await;
        cluster
    }

    /// Number of a member that leads, as a majority says.
    pub async fn leader(&self) -> usize {
        self.leader_among(&(0..self.members.len()).collect::<Vec<_>>()).await
    }

    pub async fn leader_among(&self, these: &[usize]) -> usize {
        wait_for("a leader", || {
            these.iter().copied().find(|candidate| {
                let id = Some(self.members[*candidate].id);
                these.iter().filter(|member| self.members[**member].consensus.leader() == id).count() * 2
                    > these.len()
                    && self.members[*candidate].consensus.is_leader()
            })
        })
        .await
    }

    pub fn ids(&self) -> Vec<NodeId> {
        self.members.iter().map(|member| member.id).collect()
    }

    pub fn isolate(&self, member: usize, cut: bool) {
        let others = self.ids().into_iter().filter(|id| *id != self.members[member].id);
        self.net.isolate(self.members[member].id, others, cut);
    }

    /// Waits until every member holds the same, and returns its revision.
    pub async fn converge(&self) -> i64 {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut hashes = Vec::new();
            for member in &self.members {
                hashes.push(member.consensus.hash(0).await.ok());
            }
            if let Some(first) = hashes[0]
                && hashes.iter().all(|hash| *hash == Some(first))
            {
                return first.hash_revision;
            }
            assert!(Instant::now() < deadline, "members differ: {hashes:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn stop(mut self) {
        for member in &mut self.members {
            member.stop().await;
        }
    }
}

/// Polls a condition until it holds.
pub async fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} did not come");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub fn put(key: &str, value: &str) -> Request {
    let put = Put {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::copy_from_slice(value.as_bytes()),
        ..Put::default()
    };
    Request::anonymous(Command::Put(put))
}

pub fn get(key: &str) -> Range {
    Range { key: Bytes::copy_from_slice(key.as_bytes()), ..Range::default() }
}

/// The value of a key on a member, as it is there.
pub async fn value(member: &Member, key: &str) -> Option<String> {
    let (found, _) = member.consensus.range(get(key)).await.unwrap();
    found.kvs.first().map(|kv| String::from_utf8(kv.value.to_vec()).unwrap())
}
