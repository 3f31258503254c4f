//! The client against servers that misbehave as told, and both clients against one member.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt as _;
use tokio::time::Instant;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Code, Request, Response, Status as GrpcStatus};

use super::*;
use crate::env::Random;
use crate::mvcc::command::{Compare, CompareResult, Operand, Outcome, TxnOp};
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::kv_server::{Kv, KvServer};
use crate::proto::etcdserverpb::lease_server::{Lease, LeaseServer};
use crate::{Config, Node};

/// What a scripted server does with one request.
#[derive(Clone, Debug)]
enum Act {
    Answer,
    Fail(Code, &'static str),
    Silence,
}
use Act::{Answer as Yes, Fail, Silence};

/// A server that does what it is told, request by request; the last act is repeated.
#[derive(Clone)]
struct Scripted {
    acts: Arc<Mutex<Vec<Act>>>,
    calls: Arc<AtomicUsize>,
    endpoint: Endpoint,
}

impl Scripted {
    async fn start(acts: &[Act]) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            acts: Arc::new(Mutex::new(acts.iter().rev().cloned().collect())),
            calls: Arc::default(),
            endpoint: listener.local_addr().unwrap().to_string().parse().unwrap(),
        };
        let service = KvServer::new(server.clone());
        let serving = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(serving.serve_with_incoming(TcpListenerStream::new(listener)));
        server
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    async fn act(&self) -> Result<(), GrpcStatus> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let act = {
            let mut acts = self.acts.lock().unwrap();
            if acts.len() > 1 { acts.pop().unwrap() } else { acts[0].clone() }
        };
        match act {
            Yes => Ok(()),
            Fail(code, text) => Err(GrpcStatus::new(code, text)),
            Silence => std::future::pending().await,
        }
    }
}

#[tonic::async_trait]
impl Kv for Scripted {
    type RangeStreamStream = futures::stream::BoxStream<'static, Result<pb::RangeStreamResponse, GrpcStatus>>;

    async fn range_stream(
        &self,
        _: Request<pb::RangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, GrpcStatus> {
        Err(GrpcStatus::unimplemented(""))
    }
    async fn range(&self, _: Request<pb::RangeRequest>) -> Result<Response<pb::RangeResponse>, GrpcStatus> {
        self.act().await.map(|()| Response::new(pb::RangeResponse::default()))
    }
    async fn put(&self, _: Request<pb::PutRequest>) -> Result<Response<pb::PutResponse>, GrpcStatus> {
        self.act().await.map(|()| Response::new(pb::PutResponse::default()))
    }
    async fn delete_range(
        &self,
        _: Request<pb::DeleteRangeRequest>,
    ) -> Result<Response<pb::DeleteRangeResponse>, GrpcStatus> {
        self.act().await.map(|()| Response::new(pb::DeleteRangeResponse::default()))
    }
    async fn txn(&self, _: Request<pb::TxnRequest>) -> Result<Response<pb::TxnResponse>, GrpcStatus> {
        // A result without content, as no sound server sends it.
        let responses = vec![pb::ResponseOp { response: None }];
        self.act().await.map(|()| Response::new(pb::TxnResponse { responses, ..Default::default() }))
    }
    async fn compact(
        &self,
        _: Request<pb::CompactionRequest>,
    ) -> Result<Response<pb::CompactionResponse>, GrpcStatus> {
        self.act().await.map(|()| Response::new(pb::CompactionResponse::default()))
    }
}

/// Keeps leases as etcd does: it says that a stream is open when it answers the first question.
struct SaysNothingFirst;

#[tonic::async_trait]
impl Lease for SaysNothingFirst {
    type LeaseKeepAliveStream =
        futures::stream::BoxStream<'static, Result<pb::LeaseKeepAliveResponse, GrpcStatus>>;

    async fn lease_keep_alive(
        &self,
        requests: Request<tonic::Streaming<pb::LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, GrpcStatus> {
        let mut requests = requests.into_inner();
        let first = requests.message().await?;
        let all = tokio_stream::iter(first.map(Ok)).chain(requests);
        let answer = |request: Result<pb::LeaseKeepAliveRequest, GrpcStatus>| {
            request.map(|request| pb::LeaseKeepAliveResponse {
                header: None,
                id: request.id,
                ttl: request.id,
            })
        };
        Ok(Response::new(all.map(answer).boxed()))
    }
    async fn lease_grant(
        &self,
        _: Request<pb::LeaseGrantRequest>,
    ) -> Result<Response<pb::LeaseGrantResponse>, GrpcStatus> {
        Err(GrpcStatus::unimplemented(""))
    }
    async fn lease_revoke(
        &self,
        _: Request<pb::LeaseRevokeRequest>,
    ) -> Result<Response<pb::LeaseRevokeResponse>, GrpcStatus> {
        Err(GrpcStatus::unimplemented(""))
    }
    async fn lease_time_to_live(
        &self,
        _: Request<pb::LeaseTimeToLiveRequest>,
    ) -> Result<Response<pb::LeaseTimeToLiveResponse>, GrpcStatus> {
        Err(GrpcStatus::unimplemented(""))
    }
    async fn lease_leases(
        &self,
        _: Request<pb::LeaseLeasesRequest>,
    ) -> Result<Response<pb::LeaseLeasesResponse>, GrpcStatus> {
        Err(GrpcStatus::unimplemented(""))
    }
}

#[tokio::test]
async fn a_stream_of_keep_alives_asks_before_it_waits() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint: Endpoint = listener.local_addr().unwrap().to_string().parse().unwrap();
    let serving = tonic::transport::Server::builder().add_service(LeaseServer::new(SaysNothingFirst));
    let serving = tokio::spawn(serving.serve_with_incoming(TcpListenerStream::new(listener)));
    let connection = Connection::new(endpoint, &Options::default());
    let mut stream = connection.keep_alives();
    for lease in [7, 8, 9] {
        assert_eq!(stream.keep_alive(lease).await.unwrap(), lease);
    }
    assert_eq!(connection.keep_alive(5).await.unwrap().value, 5);
    serving.abort();
}

/// Begins with the first endpoint, and pauses as briefly as can be.
#[derive(Debug)]
struct Zero;
impl Random for Zero {
    fn next_u64(&self) -> u64 {
        0
    }
}

fn client(endpoints: &[&Endpoint], timeout: Duration) -> Remote {
    let options = Options { timeout, ..Options::default() };
    Remote::with_random(endpoints.iter().copied().cloned().collect(), &options, Arc::new(Zero)).unwrap()
}

fn of(servers: &[&Scripted]) -> Remote {
    let endpoints: Vec<_> = servers.iter().map(|server| &server.endpoint).collect();
    client(&endpoints, Duration::from_secs(20))
}

fn a_put() -> Put {
    Put { key: "k".into(), value: "v".into(), ..Put::default() }
}

fn a_range() -> Range {
    Range { key: "k".into(), ..Range::default() }
}

/// An address where nobody listens.
async fn nobody() -> Endpoint {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().to_string().parse().unwrap()
}

#[tokio::test]
async fn a_write_goes_elsewhere_when_nobody_listens() {
    let (dead, live) = (nobody().await, Scripted::start(&[Yes]).await);
    let remote = client(&[&dead, &live.endpoint], Duration::from_secs(20));
    for _ in 0..4 {
        remote.put(a_put()).await.unwrap();
    }
    assert_eq!(live.calls(), 4);
}

#[tokio::test]
async fn a_write_that_may_have_happened_is_sent_once() {
    for (code, text) in [
        (Code::Unavailable, "etcdserver: request timed out"),
        (Code::Unavailable, "etcdserver: leader changed"),
        (Code::Unknown, "x"),
        (Code::DeadlineExceeded, "x"),
    ] {
        let (first, second) = (Scripted::start(&[Fail(code, text)]).await, Scripted::start(&[Yes]).await);
        let error = of(&[&first, &second]).put(a_put()).await.unwrap_err();
        assert!(error.is_outcome_unknown(), "{error:?}");
        assert_eq!((first.calls(), second.calls()), (1, 0), "{text}");
    }
}

#[tokio::test]
async fn a_write_that_was_not_proposed_is_sent_again() {
    for (code, text) in [
        (Code::Unavailable, "etcdserver: no leader"),
        (Code::ResourceExhausted, "etcdserver: too many requests"),
    ] {
        let alone = Scripted::start(&[Fail(code, text), Fail(code, text), Yes]).await;
        of(&[&alone]).put(a_put()).await.unwrap();
        assert_eq!(alone.calls(), 3, "{text}");
    }
}

#[tokio::test]
async fn a_refusal_is_an_answer() {
    let text = "etcdserver: mvcc: database space exceeded";
    let (first, second) =
        (Scripted::start(&[Fail(Code::ResourceExhausted, text)]).await, Scripted::start(&[Yes]).await);
    let error = of(&[&first, &second]).put(a_put()).await.unwrap_err();
    assert_eq!(error, Error::Remote { code: 8, text: text.into(), outcome_unknown: false });
    assert_eq!((first.calls(), second.calls()), (1, 0));
}

#[tokio::test]
async fn a_read_goes_elsewhere_and_the_member_that_failed_is_asked_last() {
    let first = Scripted::start(&[Fail(Code::Unavailable, "etcdserver: request timed out")]).await;
    let second = Scripted::start(&[Yes]).await;
    let remote = of(&[&first, &second]);
    let begin = Instant::now();
    for _ in 0..4 {
        remote.get(a_range(), Consistency::Linearizable).await.unwrap();
    }
    assert_eq!(second.calls(), 4);
    if begin.elapsed() < crate::limits::CALLER_BLAME {
        assert_eq!(first.calls(), 1);
    }
}

#[tokio::test]
async fn requests_are_spread() {
    let servers =
        [Scripted::start(&[Yes]).await, Scripted::start(&[Yes]).await, Scripted::start(&[Yes]).await];
    let remote = of(&[&servers[0], &servers[1], &servers[2]]);
    for _ in 0..9 {
        remote.get(a_range(), Consistency::Serializable).await.unwrap();
    }
    assert!(servers.iter().all(|server| server.calls() == 3));
}

#[tokio::test]
async fn a_silent_member_costs_a_read_some_time_and_a_write_all_of_it() {
    let (silent, live) = (Scripted::start(&[Silence]).await, Scripted::start(&[Yes]).await);
    let remote = client(&[&silent.endpoint, &live.endpoint], Duration::from_secs(3));
    remote.get(a_range(), Consistency::Linearizable).await.unwrap();
    assert_eq!((silent.calls(), live.calls()), (1, 1));

    let begin = Instant::now();
    let alone = client(&[&silent.endpoint], Duration::from_millis(300));
    assert!(alone.put(a_put()).await.unwrap_err().is_outcome_unknown());
    assert_eq!(alone.get(a_range(), Consistency::Linearizable).await.unwrap_err(), Error::TimedOut);
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn an_answer_that_is_none_is_of_unknown_outcome() {
    let server = Scripted::start(&[Yes]).await;
    let error = of(&[&server]).txn(Txn::default()).await.unwrap_err();
    assert!(error.is_outcome_unknown() && error.to_string().contains("malformed"), "{error}");
}

#[tokio::test]
async fn a_list_of_endpoints_has_a_bound() {
    let endpoint = nobody().await;
    let many: Vec<_> = std::iter::repeat_n(endpoint, crate::limits::CALLER_ENDPOINTS + 1).collect();
    for list in [vec![], many] {
        let error = Remote::with_random(list, &Options::default(), Arc::new(Zero)).unwrap_err();
        assert!(matches!(error, Error::Invalid(_)), "{error}");
    }
}

/// Runs every method, and returns what is the same for every client of a fresh store.
async fn tour(client: &dyn Client) -> Vec<String> {
    let mut seen = Vec::new();
    let mut note = |what: &str, value: &dyn std::fmt::Debug| seen.push(format!("{what}: {value:?}"));
    let put = |key: &'static str, value: &'static str| Put {
        prev_kv: true,
        key: key.into(),
        value: value.into(),
        ..Put::default()
    };
    let all = || Range { key: "a".into(), range_end: "\0".into(), ..Range::default() };
    for (key, value) in [("a", "1"), ("b", "2"), ("a", "3")] {
        let answer = client.put(put(key, value)).await.unwrap();
        note("put", &(answer.header.revision, answer.value));
    }
    for consistency in [Consistency::Linearizable, Consistency::Serializable] {
        let answer = client.get(all(), consistency).await.unwrap();
        note("get", &(answer.header.revision, answer.value));
    }
    let compare = Compare {
        key: "a".into(),
        range_end: bytes::Bytes::new(),
        result: CompareResult::Equal,
        operand: Operand::Value("3".into()),
    };
    let txn = Txn {
        compares: vec![compare],
        success: vec![
            TxnOp::Put(put("c", "4")),
            TxnOp::Range(all()),
            TxnOp::DeleteRange(DeleteRange { key: "b".into(), prev_kv: true, ..DeleteRange::default() }),
            TxnOp::Txn(Txn { failure: vec![TxnOp::Put(put("d", "5"))], ..Txn::default() }),
        ],
        failure: vec![],
    };
    let answer = client.txn(txn).await.unwrap();
    assert!(matches!(
        &answer.value.outcomes[..],
        [Outcome::Put(_), Outcome::Range(_), Outcome::DeleteRange(_), Outcome::Txn(_)]
    ));
    note("txn", &(answer.header.revision, answer.value.succeeded, answer.value.outcomes.len()));
    let deleted =
        client.delete(DeleteRange { key: "a".into(), range_end: "c".into(), prev_kv: true }).await.unwrap();
    note("delete", &(deleted.header.revision, deleted.value));
    let compacted = client.compact(Compact { revision: 4, physical: false }).await.unwrap();
    note("compact", &compacted.header.revision);
    let refused = client.get(Range { revision: 2, ..all() }, Consistency::Linearizable).await.unwrap_err();
    assert!(refused.to_string().contains("required revision has been compacted"), "{refused}");
    let invalid = client.put(Put::default()).await.unwrap_err();
    assert!(invalid.to_string().contains("key is not provided"), "{invalid}");
    assert!(!invalid.is_outcome_unknown() && !invalid.is_retryable());
    let granted = client.grant(77, 1).await.unwrap();
    note("grant", &(granted.header.revision, granted.value));
    let drawn = client.grant(0, 60).await.unwrap().value;
    assert!(drawn.id > 0 && drawn.ttl == 60, "{drawn:?}");
    let exists = client.grant(77, 60).await.unwrap_err();
    assert!(exists.to_string().contains("lease already exists"), "{exists}");
    for key in ["m", "l"] {
        client.put(Put { lease: 77, ..put(key, "leased") }).await.unwrap();
    }
    note(
        "keep alive",
        &(client.keep_alive(77).await.unwrap().value, client.keep_alive(5).await.unwrap().value),
    );
    let mut life = client.time_to_live(77, true).await.unwrap().value;
    assert!((0..=2).contains(&life.ttl), "{life:?}");
    life.ttl = 0;
    note("time to live", &(life, client.time_to_live(5, true).await.unwrap().value));
    let leases = client.leases().await.unwrap().value;
    assert!(leases.len() == 2 && leases.contains(&drawn.id) && leases.contains(&77), "{leases:?}");
    let revoked = client.revoke(77).await.unwrap();
    note(
        "revoke",
        &(revoked.header.revision, client.get(all(), Consistency::Linearizable).await.unwrap().value.count),
    );
    let unknown = client.revoke(77).await.unwrap_err();
    assert!(unknown.to_string().contains("requested lease not found"), "{unknown}");
    let status = client.status().await.unwrap();
    note(
        "status",
        &(status.header.revision, status.value.leader, status.value.errors, status.value.is_learner),
    );
    let members = client.members().await.unwrap();
    note("members", &members.value.iter().map(|member| (member.id, member.name.clone())).collect::<Vec<_>>());
    note("hash", &client.hash(0).await.unwrap().value);
    seen
}

async fn member() -> Node {
    let node = Node::start(Config::in_memory("m")).await.unwrap();
    node.ready(Instant::now() + Duration::from_secs(30)).await.unwrap();
    node
}

#[tokio::test]
async fn the_embedded_and_the_remote_client_say_the_same() {
    let (one, other) = (member().await, member().await);
    let address: SocketAddr = other.addresses().client;
    let remote = Remote::new(&address.to_string(), &Options::default()).unwrap();
    let embedded = tour(&one.client()).await;
    assert_eq!(embedded, tour(&remote).await);
    assert_eq!(embedded.len(), 15, "{embedded:#?}");
    one.shutdown().await;
    other.shutdown().await;
}

#[tokio::test]
async fn the_embedded_client_refuses_what_a_member_would() {
    let node = member().await;
    let client = node.client();
    let large = Put { value: vec![0; crate::limits::REQUEST_BYTES + 1].into(), ..a_put() };
    let many =
        Txn { success: vec![TxnOp::Range(a_range()); crate::limits::TXN_OPERATIONS + 1], ..Txn::default() };
    let twice = Txn { success: vec![TxnOp::Put(a_put()), TxnOp::Put(a_put())], ..Txn::default() };
    let before = client.status().await.unwrap().header.revision;
    for error in [
        client.put(large.clone()).await.unwrap_err(),
        client.txn(many).await.unwrap_err(),
        client.txn(twice).await.unwrap_err(),
        client.txn(Txn { failure: vec![TxnOp::Put(large)], ..Txn::default() }).await.unwrap_err(),
        client.get(Range::default(), Consistency::Serializable).await.unwrap_err(),
        client.delete(DeleteRange::default()).await.unwrap_err(),
    ] {
        assert!(matches!(error, Error::Invalid(_)), "{error}");
    }
    assert_eq!(client.status().await.unwrap().header.revision, before);
    node.shutdown().await;
}

#[test]
fn prefix_end_is_the_first_key_that_does_not_begin_with_the_prefix() {
    for (prefix, end) in [
        (&b"a"[..], &b"b"[..]),
        (b"foo/", b"foo0"),
        (b"a\xff", b"b"),
        (b"a\xff\xff", b"b"),
        (b"\xff\xff", b"\0"),
        (b"", b"\0"),
        (b"\x00", b"\x01"),
    ] {
        assert_eq!(prefix_end(prefix), end, "{prefix:?}");
    }
}
