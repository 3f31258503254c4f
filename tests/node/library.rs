//! Setstone inside a program: the example, the short calls, the test cluster, and what is left when it stops.

use std::time::Duration;

use setstone::client::{Client, Compact, Consistency, Embedded, Kv, Options, Range, Remote, Txn, TxnOp};
use setstone::config::Data;
use setstone::testing::TestCluster;
use setstone::{Config, Error, Node};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn the_example_runs_and_finds_its_directory_again() {
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(crate::embedded::run(None).await.unwrap(), 1);
    for visits in 1..=3 {
        let data = Some(directory.path().join("data"));
        assert_eq!(crate::embedded::run(data).await.unwrap(), visits);
    }
}

/// The short calls, on every kind of client.
async fn short_calls(store: &impl Client, prefix: &str) {
    let key = format!("{prefix}/a");
    assert_eq!(Kv::get(store, &key).await.unwrap(), None);
    let first = Kv::put(store, &key, "1").await.unwrap();
    let second = Kv::put(store, format!("{prefix}/b"), vec![0, 255]).await.unwrap();
    assert_eq!(second, first + 1);
    let pair = Kv::get(store, key.as_bytes()).await.unwrap().unwrap();
    assert_eq!((&pair.value[..], pair.mod_revision), (&b"1"[..], first));
    let pairs = store.get_prefix(format!("{prefix}/")).await.unwrap();
    assert_eq!(pairs.iter().map(|pair| &pair.value[..]).collect::<Vec<_>>(), [&b"1"[..], &[0, 255]]);
    assert!(store.get_prefix("").await.unwrap().len() >= 2, "every key");
    assert!(Kv::delete(store, &key).await.unwrap());
    assert!(!Kv::delete(store, &key).await.unwrap());
    assert!(matches!(Kv::get(store, "").await, Err(Error::Invalid(_) | Error::Remote { code: 3, .. })));

    let read =
        Txn { success: vec![TxnOp::Range(Range { key: key.into(), ..Range::default() })], ..Txn::default() };
    let answer = store.txn(read).await.unwrap();
    assert!(answer.value.succeeded);
    assert_eq!(answer.header.revision, second + 1, "read after the delete");
    store.compact(Compact { revision: second, physical: true }).await.unwrap();
    let old = Range { key: format!("{prefix}/b").into(), revision: first, ..Range::default() };
    assert!(store.get(old, Consistency::Serializable).await.is_err(), "compacted");
}

#[tokio::test]
async fn the_first_call_waits_for_the_start() {
    let node = Node::start(Config::in_memory("alone")).await.unwrap();
    short_calls(&node.client(), "embedded").await;
    let remote = Remote::new(&node.addresses().client.to_string(), &Options::default()).unwrap();
    short_calls(&remote, "remote").await;
    node.shutdown().await;
    assert!(Kv::put(&node.client(), "a", "late").await.is_err());
}

#[tokio::test]
async fn transactions_that_only_read_stay_out_of_the_log() {
    let node = Node::start(Config::in_memory("alone")).await.unwrap();
    let remote = Remote::new(&node.addresses().client.to_string(), &Options::default()).unwrap();
    let store = node.client();
    Kv::put(&store, "k", "v").await.unwrap();
    node.ready(Instant::now() + Duration::from_secs(20)).await.unwrap();
    let index = async || store.status().await.unwrap().value.index;
    let before = index().await;
    let range = || TxnOp::Range(Range { key: "k".into(), ..Range::default() });
    let reads = Txn { success: vec![range(), range()], ..Txn::default() };
    for result in [store.txn(reads.clone()).await.unwrap(), remote.txn(reads.clone()).await.unwrap()] {
        assert_eq!((result.value.outcomes.len(), result.header.revision), (2, 2));
    }
    assert_eq!(index().await, before);
    // One in another goes through the log, as in etcd.
    let nested = Txn { success: vec![TxnOp::Txn(reads)], ..Txn::default() };
    remote.txn(nested).await.unwrap();
    assert!(index().await > before);
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_members_in_one_process_serve_and_leave_nothing_behind() {
    let root = tempfile::tempdir().unwrap();
    let mut ports = Vec::new();
    for round in 0..2 {
        let mut cluster = TestCluster::start_in(root.path(), 3).await.unwrap();
        for index in 0..3 {
            let addresses = cluster.node(index).unwrap().addresses();
            ports.extend([addresses.client, addresses.peer.unwrap()]);
            short_calls(&cluster.node(index).unwrap().client(), &format!("{round}/embedded/{index}")).await;
            let remote = Remote::new(&addresses.client.to_string(), &Options::default()).unwrap();
            short_calls(&remote, &format!("{round}/remote/{index}")).await;
        }
        let everywhere = cluster.client();
        cluster.stop(0).await;
        assert!(cluster.node(0).is_none());
        Kv::put(&everywhere, "while one is away", round.to_string()).await.unwrap();
        cluster.start_again(0).await.unwrap();
        let pair = Kv::get(&cluster.node(0).unwrap().client(), "while one is away").await.unwrap().unwrap();
        assert_eq!(pair.version, round + 1, "the directories of the first round are opened again at once");
        assert!(matches!(cluster.start_again(0).await, Err(Error::Invalid(_))));
        let began = Instant::now();
        cluster.shutdown().await;
        assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
        for port in ports.drain(..) {
            assert!(tokio::net::TcpStream::connect(port).await.is_err(), "{port} is still open");
        }
    }
}

/// Writes through one member until `stop`; how many were acknowledged.
async fn write_on(member: Embedded, key: String, stop: CancellationToken) -> usize {
    let mut acknowledged = 0;
    while !stop.is_cancelled() {
        match Kv::put(&member, key.clone(), acknowledged.to_string()).await {
            Ok(_) => acknowledged += 1,
            Err(error) => assert!(error.is_retryable(), "{key} after {acknowledged}: {error}"),
        }
    }
    acknowledged
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_stops_leaves_no_write_of_the_others_unanswered() {
    let mut cluster = TestCluster::start(3).await.unwrap();
    for round in 0..12 {
        let status = Client::status(&cluster.node(0).unwrap().client()).await.unwrap();
        let leader = usize::from(status.value.leader.unwrap().ordinal());
        let stop = CancellationToken::new();
        let mut writers = tokio::task::JoinSet::new();
        for member in (0..3).filter(|member| *member != leader) {
            for writer in 0..16 {
                let client = cluster.node(member).unwrap().client();
                writers.spawn(write_on(client, format!("{round}/{member}/{writer}"), stop.clone()));
            }
        }
        // They write while it stops.
        cluster.stop(leader).await;
        stop.cancel();
        let acknowledged: usize = writers.join_all().await.into_iter().sum();
        assert!(acknowledged > 0);
        cluster.start_again(leader).await.unwrap();
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_in_memory_keeps_the_data_of_a_stopped_member() {
    let mut cluster = TestCluster::start(3).await.unwrap();
    Kv::put(&cluster.client(), "k", "v").await.unwrap();
    for index in 0..3 {
        cluster.stop(index).await;
        cluster.start_again(index).await.unwrap();
    }
    for index in 0..3 {
        let pair = Kv::get(&cluster.node(index).unwrap().client(), "k").await.unwrap().unwrap();
        assert_eq!((&pair.value[..], pair.version), (&b"v"[..], 1));
    }
    cluster.shutdown().await;
    assert!(matches!(TestCluster::start(0).await, Err(Error::Invalid(_))));
}

#[tokio::test]
async fn the_directory_is_free_when_shutdown_returns_and_soon_after_a_drop() {
    let directory = tempfile::tempdir().unwrap();
    let config = || Config { data: Data::Directory(directory.path().into()), ..Config::in_memory("alone") };
    let first = Node::start(config()).await.unwrap();
    let held = first.client();
    Kv::put(&held, "k", "1").await.unwrap();
    assert!(matches!(Node::start(config()).await, Err(Error::Locked(_))));
    first.shutdown().await;
    // The old node and a client of it are still there.
    let second = Node::start(config()).await.unwrap();
    assert_eq!(Kv::get(&second.client(), "k").await.unwrap().unwrap().version, 1);
    assert!(Kv::get(&held, "k").await.is_err());
    drop(second);
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut tries = tokio::time::interval(Duration::from_millis(20));
    let third = loop {
        match Node::start(config()).await {
            Err(Error::Locked(_)) if Instant::now() < deadline => {
                tries.tick().await;
            }
            result => break result.unwrap(),
        }
    };
    assert_eq!(Kv::get(&third.client(), "k").await.unwrap().unwrap().version, 1);
    third.shutdown().await;
}

#[tokio::test]
async fn a_wrong_configuration_is_refused_before_anything_is_touched() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let config = || Config { data: Data::Directory(data.clone()), ..Config::in_memory("alone") };
    for (config, words) in [
        (Config { name: String::new(), ..config() }, "the name is empty"),
        (Config { grace_period: Duration::ZERO, ..config() }, "is too short for a stop"),
    ] {
        let refused = Node::start(config).await.err();
        assert!(
            matches!(&refused, Some(Error::Start(text)) if text.contains(words)),
            "{refused:?}, not {words:?}"
        );
    }
    assert!(!data.exists());
}

#[tokio::test]
async fn a_member_that_listens_everywhere_is_listed_where_it_can_be_reached() {
    let everywhere = |port| ([0, 0, 0, 0], port).into();
    let config =
        Config { listen_client: everywhere(0), listen_peer: everywhere(2380), ..Config::in_memory("alone") };
    let node = Node::start(config).await.unwrap();
    node.ready(Instant::now() + Duration::from_secs(20)).await.unwrap();
    let port = node.addresses().client.port();
    let remote = Remote::new(&format!("localhost:{port}"), &Options::default()).unwrap();
    let members = remote.members().await.unwrap().value;
    assert_eq!(members.len(), 1);
    assert_eq!(members[0].peer_urls, ["http://localhost:2380"]);
    assert_eq!(members[0].client_urls, [format!("http://localhost:{port}")]);
    node.shutdown().await;
}
