//! Leases on real members: etcd's rules over the network, through leader and followers, while leaders change.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    missing_docs
)]

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use setstone::client::{
    Client, Connection, Consistency, Endpoint, KeptLease, Options, Put, Range, Remote, Txn, TxnOp,
};
use setstone::config::Data;
use setstone::proto::etcdserverpb as pb;
use setstone::proto::etcdserverpb::lease_client::LeaseClient;
use setstone::testing::TestCluster;
use setstone::{Config, Node};
use tokio::time::Instant;
use tonic::transport::Channel;

/// Long enough for a machine that is busy.
const DEADLINE: Duration = Duration::from_secs(30);

fn put(key: &str, lease: i64) -> Put {
    Put { key: key.to_owned().into(), value: "v".into(), lease, ..Put::default() }
}

fn prefix(prefix: &str) -> Range {
    let range_end = setstone::client::prefix_end(prefix.as_bytes());
    Range { key: prefix.to_owned().into(), range_end, ..Range::default() }
}

async fn count(client: &impl Client, of: &str) -> i64 {
    let range = Range { count_only: true, ..prefix(of) };
    client.get(range, Consistency::Linearizable).await.unwrap().value.count
}

/// Waits until nothing has this prefix; when that was seen.
async fn gone(client: &impl Client, of: &str) -> Instant {
    let deadline = Instant::now() + DEADLINE;
    while count(client, of).await > 0 {
        assert!(Instant::now() < deadline, "{of} is still there");
        // Between two looks; nothing tells when it is gone.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Instant::now()
}

/// One connection per member, and which of them leads.
async fn members(cluster: &TestCluster) -> (Vec<Connection>, usize) {
    let connections: Vec<Connection> = (0..cluster.size())
        .map(|index| {
            let address = cluster.node(index).unwrap().addresses().client.to_string();
            Connection::new(Endpoint::list(&address).unwrap()[0].clone(), &Options::default())
        })
        .collect();
    let deadline = Instant::now() + DEADLINE;
    loop {
        let status = connections[0].status().await.unwrap().value;
        if let Some(leader) = status.leader {
            return (connections, usize::from(leader.ordinal()));
        }
        assert!(Instant::now() < deadline, "nobody leads");
    }
}

async fn channel(cluster: &TestCluster, index: usize) -> Channel {
    let address = cluster.node(index).unwrap().addresses().client;
    Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_member_grants_renews_and_tells() {
    let cluster = TestCluster::start(3).await.unwrap();
    let (members, leader) = members(&cluster).await;
    for (index, member) in members.iter().enumerate() {
        let granted = member.grant(0, 60).await.unwrap().value;
        assert!(granted.id > 0 && granted.ttl == 60, "{granted:?}");
        let key = format!("k{index}");
        member.put(put(&key, granted.id)).await.unwrap();
        // Whoever is asked next, the leader answers, or is asked.
        for other in &members {
            assert_eq!(other.keep_alive(granted.id).await.unwrap().value, 60);
            let life = other.time_to_live(granted.id, true).await.unwrap().value;
            assert!([59, 60].contains(&life.ttl) && life.granted == 60, "{life:?}");
            assert_eq!(life.keys, [key.as_str()], "a member that was asked has applied what the leader had");
            assert_eq!(other.time_to_live(4_711, true).await.unwrap().value.ttl, -1);
            assert_eq!(other.keep_alive(4_711).await.unwrap().value, 0, "an unknown lease is no error");
            assert!(other.leases().await.unwrap().value.contains(&granted.id));
        }
        members[(leader + index) % 3].revoke(granted.id).await.unwrap();
        for other in &members {
            assert_eq!(other.keep_alive(granted.id).await.unwrap().value, 0);
            assert_eq!(count(other, &key).await, 0);
        }
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_ends_after_its_time_and_not_before_with_thousands_of_keys_at_one_revision() {
    const KEYS: usize = 5_000;
    let cluster = TestCluster::start(3).await.unwrap();
    let client = cluster.client();
    let lease = client.grant(0, 60).await.unwrap().value.id;
    for chunk in (0..KEYS).collect::<Vec<_>>().chunks(100) {
        let success =
            chunk.iter().map(|number| TxnOp::Put(put(&format!("many/{number:04}"), lease))).collect();
        client.txn(Txn { success, ..Txn::default() }).await.unwrap();
    }
    assert_eq!(client.time_to_live(lease, true).await.unwrap().value.keys.len(), KEYS);

    let short = client.grant(0, 2).await.unwrap().value.id;
    let before = client.put(put("one/key", short)).await.unwrap().header.revision;
    let renewed = Instant::now();
    assert_eq!(client.keep_alive(short).await.unwrap().value, 2);
    let ended = gone(&client, "one/").await;
    assert!(ended - renewed >= Duration::from_secs(2), "{:?}: too early", ended - renewed);
    assert!(ended - renewed < Duration::from_secs(6), "{:?}: very late", ended - renewed);

    // The many keys move to a lease that ends.
    let ending = client.grant(0, 5).await.unwrap().value.id;
    for chunk in (0..KEYS).collect::<Vec<_>>().chunks(100) {
        let success =
            chunk.iter().map(|number| TxnOp::Put(put(&format!("many/{number:04}"), ending))).collect();
        client.txn(Txn { success, ..Txn::default() }).await.unwrap();
    }
    let last = client.get(prefix("many/"), Consistency::Linearizable).await.unwrap().value.revision;
    assert_eq!(client.time_to_live(lease, true).await.unwrap().value.keys.len(), 0, "they hang on one lease");
    gone(&client, "many/").await;
    let range = Range { count_only: true, ..prefix("many/") };
    let now = client.get(range, Consistency::Linearizable).await.unwrap().header.revision;
    assert_eq!(now, last + 1, "all at one revision");
    assert!(before < last);
    for (index, member) in members(&cluster).await.0.iter().enumerate() {
        let was = Range { revision: last, count_only: true, ..prefix("many/") };
        let was = member.get(was, Consistency::Linearizable).await.unwrap().value.count;
        assert_eq!((was, count(member, "many/").await), (KEYS as i64, 0), "member {index}");
    }
    cluster.shutdown().await;
}

/// kube-apiserver's events: a lease is granted with its time and five per cent, a thousand objects are put on it, and it is never kept
/// alive nor revoked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_a_thousand_objects_share_ends_by_itself() {
    let cluster = TestCluster::start(3).await.unwrap();
    let client = cluster.client();
    let lease = client.grant(0, 10).await.unwrap().value.id;
    let begin = Instant::now();
    futures::stream::iter(0..1_000)
        .for_each_concurrent(64, |number| {
            let client = client.clone();
            async move {
                let compare = setstone::client::Compare {
                    key: format!("/registry/events/{number}").into(),
                    range_end: "".into(),
                    result: setstone::client::CompareResult::Equal,
                    operand: setstone::client::Operand::Mod(0),
                };
                let success = vec![TxnOp::Put(put(&format!("/registry/events/{number}"), lease))];
                let txn = Txn { compares: vec![compare], success, ..Txn::default() };
                assert!(client.txn(txn).await.unwrap().value.succeeded);
            }
        })
        .await;
    assert_eq!(count(&client, "/registry/events/").await, 1_000);
    let ended = gone(&client, "/registry/events/").await;
    assert!(ended - begin >= Duration::from_secs(10), "{:?}", ended - begin);
    assert_eq!(client.leases().await.unwrap().value, [] as [i64; 0]);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_leader_begins_leases_anew_and_ends_them_soon_after() {
    let mut cluster = TestCluster::start(3).await.unwrap();
    let (_, leader) = members(&cluster).await;
    let client = cluster.client();
    let lease = client.grant(0, 3).await.unwrap().value.id;
    client.put(put("k", lease)).await.unwrap();
    // Time passes that the next leader must give back: no condition can be waited for.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let stopped = Instant::now();
    cluster.stop(leader).await;
    assert_eq!(count(&client, "k").await, 1);
    let ended = gone(&client, "k").await;
    assert!(ended - stopped >= Duration::from_secs(3) - Duration::from_millis(100), "{:?}", ended - stopped);
    assert!(ended - stopped < Duration::from_secs(10), "{:?}", ended - stopped);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kept_lease_outlives_its_leader_and_is_lost_when_it_is_revoked() {
    let mut cluster = TestCluster::start(3).await.unwrap();
    let client = cluster.client();
    let lease = KeptLease::grant(client.clone(), Duration::from_secs(2)).await.unwrap();
    client.put(put("kept", lease.id())).await.unwrap();
    for _ in 0..2 {
        let (_, leader) = members(&cluster).await;
        cluster.stop(leader).await;
        // Longer than its time to live: that it is still there then is what is tested.
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert!(!lease.is_lost());
        assert_eq!(count(&client, "kept").await, 1);
        cluster.start_again(leader).await.unwrap();
    }
    let adopted = KeptLease::adopt(client.clone(), lease.id()).await.unwrap();
    client.revoke(lease.id()).await.unwrap();
    for lease in [&lease, &adopted] {
        tokio::time::timeout(DEADLINE, lease.lost()).await.unwrap();
        assert!(lease.is_lost());
    }
    assert!(KeptLease::adopt(client.clone(), lease.id()).await.is_err());

    // Dropped, it is not revoked, and ends by itself.
    let dropped = KeptLease::grant(client.clone(), Duration::from_secs(2)).await.unwrap();
    client.put(put("dropped", dropped.id())).await.unwrap();
    drop(dropped);
    assert_eq!(count(&client, "dropped").await, 1);
    gone(&client, "dropped").await;
    // Revoked, its keys go at once.
    let lease = KeptLease::grant(client.clone(), Duration::from_mins(1)).await.unwrap();
    client.put(put("revoked", lease.id())).await.unwrap();
    lease.revoke().await.unwrap();
    assert_eq!(count(&client, "revoked").await, 0);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_is_lost_when_nobody_answers_for_as_long_as_it_lives() {
    let cluster = TestCluster::start(1).await.unwrap();
    let client = cluster.client();
    let begin = Instant::now();
    let lease = KeptLease::grant(client, Duration::from_secs(2)).await.unwrap();
    cluster.shutdown().await;
    tokio::time::timeout(DEADLINE, lease.lost()).await.unwrap();
    assert!(begin.elapsed() >= Duration::from_secs(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_stream_keeps_many_leases_and_ends_so_that_its_client_goes_on_elsewhere() {
    const LEASES: i64 = 2_000;
    let mut cluster = TestCluster::start(3).await.unwrap();
    let (_, leader) = members(&cluster).await;
    let client = Arc::new(cluster.client());
    futures::stream::iter(1..=LEASES)
        .for_each_concurrent(64, |id| {
            let client = client.clone();
            async move {
                client.grant(id, 60).await.unwrap();
            }
        })
        .await;
    let before = client.status().await.unwrap().value.index;
    for member in [leader, (leader + 1) % 3] {
        let mut leases = LeaseClient::new(channel(&cluster, member).await);
        let requests = futures::stream::iter((0..=LEASES).map(|id| pb::LeaseKeepAliveRequest { id }));
        let answers = leases.lease_keep_alive(requests).await.unwrap().into_inner();
        let answers: Vec<_> = answers.map(Result::unwrap).collect().await;
        let got: Vec<(i64, i64)> = answers.iter().map(|answer| (answer.id, answer.ttl)).collect();
        let expected: Vec<(i64, i64)> = (0..=LEASES).map(|id| (id, if id == 0 { 0 } else { 60 })).collect();
        assert_eq!(got, expected, "answers keep the order of the requests");
    }
    // The members' own notes of what they hold may be in it.
    let written = client.status().await.unwrap().value.index - before;
    assert!(written < 100, "{written} entries of the log for {LEASES} keep-alives, twice");
    // A member that stops says so.
    let mut leases = LeaseClient::new(channel(&cluster, leader).await);
    let (requests, queue) = tokio::sync::mpsc::channel(8);
    requests.send(pb::LeaseKeepAliveRequest { id: 1 }).await.unwrap();
    let queue = tokio_stream::wrappers::ReceiverStream::new(queue);
    let mut answers = leases.lease_keep_alive(queue).await.unwrap().into_inner();
    assert_eq!(answers.message().await.unwrap().unwrap().ttl, 60);
    cluster.stop(leader).await;
    let status = answers.message().await.unwrap_err();
    assert_eq!((status.code(), status.message()), (tonic::Code::Unavailable, "etcdserver: server stopped"));
    assert_eq!(client.keep_alive(1).await.unwrap().value, 60, "another member goes on");
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_promises_without_a_quorum() {
    let mut cluster = TestCluster::start(3).await.unwrap();
    let (members, leader) = members(&cluster).await;
    let lease = members[leader].grant(0, 60).await.unwrap().value.id;
    for other in (0..3).filter(|other| *other != leader) {
        cluster.stop(other).await;
    }
    let alone = Remote::new(&members[leader].endpoint().to_string(), &Options::default()).unwrap();
    assert!(alone.keep_alive(lease).await.is_err());
    assert!(alone.time_to_live(lease, false).await.is_err());
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_down_outlasts_a_restart_and_a_renewal_takes_it_back() {
    let directory = tempfile::tempdir().unwrap();
    let start = async || {
        let mut config = Config::in_memory("leases");
        config.data = Data::Directory(directory.path().to_owned());
        config.tuning.lease_checkpoint = Some(Duration::from_secs(1));
        let node = Node::start(config).await.unwrap();
        node.ready(Instant::now() + DEADLINE).await.unwrap();
        node
    };
    let node = start().await;
    let (left, renewed) = (100, 101);
    for lease in [left, renewed] {
        node.client().grant(lease, 100).await.unwrap();
    }
    let deadline = Instant::now() + DEADLINE;
    while node.client().time_to_live(left, false).await.unwrap().value.ttl > 95 {
        assert!(Instant::now() < deadline, "no time passes");
        // Between two looks; nothing tells that time has passed.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(node.client().keep_alive(renewed).await.unwrap().value, 100);
    node.shutdown().await;
    let node = start().await;
    let life = async |lease| node.client().time_to_live(lease, false).await.unwrap().value.ttl;
    let (of_left, of_renewed) = (life(left).await, life(renewed).await);
    assert!((80..98).contains(&of_left), "{of_left}: written down");
    assert!(of_renewed >= 98, "{of_renewed}: renewed since");
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_requests_are_refused_and_change_nothing() {
    let cluster = TestCluster::start(1).await.unwrap();
    let mut leases = LeaseClient::new(channel(&cluster, 0).await);
    for (id, ttl, code) in [
        (0, i64::MAX, tonic::Code::OutOfRange),
        (0, 9_000_000_001, tonic::Code::OutOfRange),
        (5, i64::MAX, tonic::Code::OutOfRange),
    ] {
        let status = leases.lease_grant(pb::LeaseGrantRequest { id, ttl }).await.unwrap_err();
        assert_eq!(status.code(), code, "{id} {ttl}");
    }
    for id in [0, -1, i64::MIN, i64::MAX] {
        let status = leases.lease_revoke(pb::LeaseRevokeRequest { id }).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::NotFound, "{id}");
        let life = leases.lease_time_to_live(pb::LeaseTimeToLiveRequest { id, keys: true }).await.unwrap();
        assert_eq!((life.get_ref().ttl, life.get_ref().granted_ttl), (-1, 0));
    }
    for (ttl, least) in [(i64::MIN, 2), (0, 2), (1, 2), (9_000_000_000, 9_000_000_000)] {
        let granted = leases.lease_grant(pb::LeaseGrantRequest { id: 0, ttl }).await.unwrap();
        assert_eq!(granted.get_ref().ttl, least);
    }
    cluster.shutdown().await;
}
