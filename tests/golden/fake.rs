//! A store without consensus: the real state machine over a map in memory, each request applied at once. With switches to
//! make it fail or wait.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use setstone::api::{Api, Authenticator, Clause, Probe, Report};
use setstone::env::Network;
use setstone::env::network::Tcp;
use setstone::env::random::SystemRandom;
use setstone::env::tasks::Threads;
use setstone::error::Error;
use setstone::identity::{ClusterId, NodeId};
use setstone::limits;
use setstone::membership::{Operate, Wish, WishRefusal};
use setstone::metrics::Metrics;
use setstone::mvcc::alarm::Alarm;
use setstone::mvcc::auth::Identity;
use setstone::mvcc::command::{
    Command, Lifetime, LogPosition, Range, RangeResult, Reply, Request, Txn, TxnResult,
};
use setstone::mvcc::lease::LeaseCommand;
use setstone::mvcc::{History, HistoryError, State};
use setstone::raft::access::AccessState;
use setstone::raft::backup::Backup;
use setstone::raft::lease::LeaseQuestion;
use setstone::raft::store::{DiskUse, EventInfo, MemberInfo, Position, Store, StoreHash};
use setstone::watch::{Encode, Hub, Settings};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

#[derive(Default)]
struct Map(BTreeMap<Bytes, Bytes>);

impl History for Map {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, HistoryError> {
        Ok(self.0.get(key).cloned())
    }

    fn floor(&self, key: &[u8]) -> Result<Option<(Bytes, Bytes)>, HistoryError> {
        Ok(self.0.range(..=Bytes::copy_from_slice(key)).next_back().map(|(k, v)| (k.clone(), v.clone())))
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(Bytes, Bytes) -> ControlFlow<()>,
    ) -> Result<(), HistoryError> {
        for (k, v) in self.0.range(Bytes::copy_from_slice(from)..Bytes::copy_from_slice(to)) {
            if visit(k.clone(), v.clone()).is_break() {
                break;
            }
        }
        Ok(())
    }
}

pub const MEMBER: NodeId = NodeId::new(0, 1);

pub struct FakeStore {
    access: AccessState,
    content: Mutex<(State, Map, u64)>,
    /// All calls fail with this.
    pub failure: Mutex<Option<Error>>,
    /// Proposals and barriers take one permit each; plenty unless a test took them.
    pub gate: Semaphore,
    pub position: Mutex<Position>,
    /// What a client gets as a snapshot.
    pub backup: Mutex<Bytes>,
}

impl FakeStore {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            access: AccessState::new(State::new().auth()),
            content: Mutex::new((State::new(), Map::default(), 1)),
            failure: Mutex::new(None),
            gate: Semaphore::new(Semaphore::MAX_PERMITS / 2),
            backup: Mutex::new(Bytes::from_static(b"snapshot")),
            position: Mutex::new(Position {
                cluster: ClusterId(77),
                member: MEMBER,
                leader: Some(MEMBER),
                term: 2,
                ..Position::default()
            }),
        })
    }

    async fn pass(&self) -> Result<(), Error> {
        self.gate.acquire().await.unwrap().forget();
        self.failure.lock().clone().map_or(Ok(()), Err)
    }
}

/// Its membership never changes.
struct Alone;

impl Operate for Alone {
    fn fulfil(&self, _: Wish) -> BoxFuture<'_, Result<(), WishRefusal>> {
        Box::pin(async { Err(WishRefusal::NotMember) })
    }

    fn move_leader(&self, _: NodeId) -> BoxFuture<'_, Option<Result<bool, WishRefusal>>> {
        Box::pin(async { Some(Err(WishRefusal::NotMember)) })
    }
}

impl Store for FakeStore {
    fn propose(&self, request: Request) -> BoxFuture<'_, Result<(Reply, u64), Error>> {
        Box::pin(async move {
            self.pass().await?;
            let mut content = self.content.lock();
            let (state, map, index) = &mut *content;
            *index += 1;
            let at = LogPosition { term: 1, index: *index };
            let applied = state.apply(map, at, &[request]);
            map.0.extend(applied.changes.puts);
            for key in &applied.changes.deletes {
                map.0.remove(key);
            }
            self.access.follow(state.auth(), &applied.auth, *index);
            let reply = applied.replies.into_iter().next().unwrap()?;
            Ok((reply, self.position.lock().term))
        })
    }

    fn grant(&self, by: Identity, id: i64, ttl: i64) -> BoxFuture<'_, Result<(Reply, u64), Error>> {
        let id = if id == 0 { self.content.lock().2 as i64 } else { id };
        let grant = LeaseCommand::Grant { id, ttl: ttl.max(2) };
        self.propose(Request::of(by, Command::Lease(grant)))
    }

    /// No time passes, but what is left is rounded down.
    fn lifetime(&self, question: LeaseQuestion) -> BoxFuture<'_, Result<Lifetime, Error>> {
        Box::pin(async move {
            self.pass().await?;
            let content = self.content.lock();
            let Some(lease) = content.0.leases().get(question.id) else { return Ok(Lifetime::UNKNOWN) };
            Ok(Lifetime { ttl: lease.ttl - i64::from(!question.renew), granted: lease.ttl })
        })
    }

    fn leases(&self) -> Vec<i64> {
        self.content.lock().0.leases().iter().map(|(id, _)| id).collect()
    }

    fn lease_keys(&self, id: i64) -> Vec<Bytes> {
        let content = self.content.lock();
        let lease = content.0.leases().get(id);
        lease.map(|lease| lease.keys().map(Bytes::copy_from_slice).collect()).unwrap_or_default()
    }

    fn barrier(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(self.pass())
    }

    fn range(&self, range: Range) -> BoxFuture<'_, Result<(RangeResult, i64), Error>> {
        Box::pin(async move {
            if let Some(failure) = self.failure.lock().clone() {
                return Err(failure);
            }
            let content = self.content.lock();
            let (state, map, _) = &*content;
            let mut plan = state.plan_range(&range)?;
            while !plan.step(map, 512)? {}
            Ok((plan.finish(), state.revision()))
        })
    }

    fn range_part(&self, range: Range, bytes: usize) -> BoxFuture<'_, Result<(RangeResult, i64), Error>> {
        Box::pin(async move {
            let content = self.content.lock();
            let (state, map, _) = &*content;
            let mut plan = state.plan_part(&range, bytes)?;
            while !plan.step(map, 512)? {}
            Ok((plan.finish(), state.revision()))
        })
    }

    fn read_txn(&self, txn: Txn) -> BoxFuture<'_, Result<Option<(TxnResult, i64)>, Error>> {
        Box::pin(async move {
            if let Some(failure) = self.failure.lock().clone() {
                return Err(failure);
            }
            let content = self.content.lock();
            let (state, map, _) = &*content;
            Ok(state.read_txn(map, &txn)?.map(|result| (result, state.revision())))
        })
    }

    fn hash(&self, revision: i64) -> BoxFuture<'_, Result<StoreHash, Error>> {
        Box::pin(async move {
            let content = self.content.lock();
            let hash = content.0.hash(&content.1, revision)?;
            Ok(StoreHash {
                hash: hash.hash,
                compact_revision: hash.compact_revision,
                hash_revision: hash.hash_revision,
            })
        })
    }

    fn hash_all(&self) -> BoxFuture<'_, Result<(u32, i64), Error>> {
        Box::pin(async move {
            let content = self.content.lock();
            Ok((content.0.hash(&content.1, 0)?.hash, content.0.revision()))
        })
    }

    fn alarms(&self) -> Vec<Alarm> {
        self.content.lock().0.cluster().alarms.list()
    }

    fn defragment(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(self.pass())
    }

    fn backup(&self) -> BoxFuture<'_, Result<Backup, Error>> {
        Box::pin(async move {
            self.pass().await?;
            Ok(Backup::of_bytes(self.backup.lock().clone(), self.content.lock().0.revision()))
        })
    }

    fn access(&self) -> Option<&AccessState> {
        Some(&self.access)
    }

    fn look(&self, look: &mut dyn FnMut(&State)) {
        look(&self.content.lock().0);
    }

    fn applied(&self, _: u64) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }

    fn position(&self) -> Position {
        let content = self.content.lock();
        let mut position = self.position.lock().clone();
        position.last_index = content.2;
        position.committed_index = content.2;
        position.applied_index = content.2;
        position.revision = content.0.revision();
        position.compacted = content.0.compacted();
        position
    }

    fn members(&self) -> Vec<MemberInfo> {
        vec![MemberInfo {
            id: MEMBER,
            name: "setstone-0".into(),
            peer_urls: vec!["http://127.0.0.1:2380".into()],
            client_urls: vec!["http://127.0.0.1:2379".into()],
            is_learner: false,
        }]
    }

    fn events(&self) -> Vec<EventInfo> {
        Vec::new()
    }

    fn disk_use(&self) -> DiskUse {
        DiskUse { state: 20_480, state_in_use: 16_384, keys: 1, log: 4_096, snapshots: 0 }
    }
}

pub struct FakeProbe {
    pub report: Mutex<Report>,
    pub serving: watch::Sender<bool>,
}

impl Probe for FakeProbe {
    fn report(&self) -> Report {
        self.report.lock().clone()
    }

    fn serving(&self) -> watch::Receiver<bool> {
        self.serving.subscribe()
    }
}

/// A server on loopback ports.
pub struct Served {
    pub client: SocketAddr,
    pub admin: SocketAddr,
    pub store: Arc<FakeStore>,
    pub probe: Arc<FakeProbe>,
    pub metrics: Metrics,
    /// Stops the client port.
    pub stop: CancellationToken,
    pub client_task: tokio::task::JoinHandle<()>,
    pub admin_task: tokio::task::JoinHandle<()>,
}

pub async fn serve() -> Served {
    serve_with(Duration::from_secs(5)).await
}

/// `drain`: time that requests in flight have once it stops.
pub async fn serve_with(drain: Duration) -> Served {
    let store = FakeStore::new();
    let probe = Arc::new(FakeProbe {
        report: Mutex::new(Report {
            live: true,
            ready: true,
            serving: true,
            clauses: vec![Clause { name: "leader_known", holds: true, detail: String::new() }],
            status: serde_json::json!({"ready": true}),
        }),
        serving: watch::Sender::new(true),
    });
    let (metrics, stop) = (Metrics::new(), CancellationToken::new());
    let api = Api::new(
        store.clone(),
        // Nobody tells it what is applied, so it serves no watcher.
        Hub::new(
            Encode {
                event: |event| (event.kv.key.clone(), 0..event.kv.key.len()),
                previous: |pair| pair.value,
            },
            Settings::default(),
            Arc::new(SystemRandom),
            metrics.clone(),
        ),
        Arc::new(Alone),
        probe.clone(),
        metrics.clone(),
        limits::QUOTA_BYTES,
        stop.clone(),
    );
    let random = Arc::new(SystemRandom);
    api.bind_authenticator(Authenticator::new(Arc::new(Threads), random, limits::BCRYPT_COST_MIN, None));
    let network = Tcp::default();
    let client = network.bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let admin = network.bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let (client_address, admin_address) = (client.local_address().unwrap(), admin.local_address().unwrap());
    let serving = api.clone();
    let client_task = tokio::spawn(async move { serving.serve_client(client, None, drain).await });
    let admin_task =
        tokio::spawn(async move { api.serve_admin(admin, CancellationToken::new(), drain).await });
    Served {
        client: client_address,
        admin: admin_address,
        store,
        probe,
        metrics,
        stop,
        client_task,
        admin_task,
    }
}

/// One HTTP/1 exchange: status, content type, body.
pub async fn http1(address: SocketAddr, request: &str) -> (u16, String, String) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let kind = head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-type: ").map(str::to_owned))
        .unwrap_or_default();
    (status, kind, body.to_owned())
}

/// [`http1`] of a request without a body.
pub async fn get(address: SocketAddr, path: &str) -> (u16, String, String) {
    http1(address, &format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).await
}
