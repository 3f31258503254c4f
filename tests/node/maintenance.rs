//! Alarms, the quota, the volume, defragmentation, snapshots, automatic compaction: on whole nodes.

use std::path::Path;
use std::time::Duration;

use setstone::client::{Alarm, AlarmKind, Client, Compact, Consistency, Kv, Options, Put, Range, Remote};
use setstone::config::{AutoCompaction, Data, Maintenance, Tuning};
use setstone::env::Files as _;
use setstone::env::simulated_files::SimulatedFiles;
use setstone::identity::NodeId;
use setstone::mvcc::command::Refusal;
use setstone::testing::TestCluster;
use setstone::{Config, Error, Node};
use tokio::time::Instant;

use super::disks::world;

const MIB: usize = 1 << 20;

async fn until<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(found) = condition().await {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} in time");
        // Between two looks; nothing tells.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn tuned(maintenance: Maintenance) -> Tuning {
    Tuning { maintenance, ..Tuning::default() }
}

fn put(key: &str, bytes: usize) -> Put {
    Put { key: key.to_owned().into(), value: vec![b'v'; bytes].into(), ..Put::default() }
}

fn no_space(refused: &Error) -> bool {
    match refused {
        Error::Refused(refusal) => *refusal == Refusal::NoSpace,
        Error::Remote { code, text, outcome_unknown } => {
            *code == 8 && text == "etcdserver: mvcc: database space exceeded" && !outcome_unknown
        }
        _ => false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn alarms_hold_on_every_member_and_outlive_restarts() {
    let mut cluster = TestCluster::start(3).await.unwrap();
    let client = cluster.client();
    Kv::put(&client, "k", "v").await.unwrap();
    let alarm = Alarm { kind: AlarmKind::NoSpace, member: NodeId(77) };
    assert_eq!(client.set_alarm(alarm, true).await.unwrap().value, [alarm]);
    for index in 0..3 {
        let member = cluster.node(index).unwrap().client();
        assert_eq!(member.alarms().await.unwrap().value, [alarm]);
        assert!(no_space(&Kv::put(&member, "k", "w").await.unwrap_err()));
        let errors = member.status().await.unwrap().value.errors;
        assert!(errors.iter().any(|error| error.contains("NOSPACE")), "{errors:?}");
    }
    assert!(no_space(&Kv::put(&client, "k", "w").await.unwrap_err()));
    let status = client.status().await.unwrap().value;
    assert_eq!(status.errors, ["memberID:77 alarm:NOSPACE"]);
    assert!(client.grant(0, 60).await.is_err_and(|error| no_space(&error)));
    assert!(Kv::delete(&client, "k").await.unwrap());
    cluster.stop(0).await;
    cluster.start_again(0).await.unwrap();
    let member = cluster.node(0).unwrap().client();
    assert!(no_space(&Kv::put(&member, "k", "w").await.unwrap_err()), "after a restart");
    assert_eq!(client.set_alarm(alarm, false).await.unwrap().value, [alarm]);
    for index in 0..3 {
        Kv::put(&cluster.node(index).unwrap().client(), "k", "w").await.unwrap();
    }

    let corrupt = Alarm { kind: AlarmKind::Corrupt, member: NodeId(0) };
    client.set_alarm(corrupt, true).await.unwrap();
    let refused = [
        Kv::put(&client, "k", "w").await.unwrap_err(),
        Kv::get(&client, "k").await.unwrap_err(),
        Kv::delete(&client, "k").await.unwrap_err(),
        client.compact(Compact { revision: 1, physical: false }).await.unwrap_err(),
        client.grant(0, 60).await.unwrap_err(),
    ];
    for error in refused {
        let text = "etcdserver: corrupt cluster".to_owned();
        assert_eq!(error, Error::Remote { code: 15, text, outcome_unknown: false });
    }
    client.set_alarm(corrupt, false).await.unwrap();
    assert!(Kv::get(&client, "k").await.unwrap().is_some());
    cluster.shutdown().await;
}

/// Writes until it is refused. `pause`: what each write waits for.
async fn fill(store: &impl Client, prefix: &str, bytes: usize, pause: impl AsyncFn()) -> Error {
    for number in 0.. {
        pause().await;
        match Client::put(store, put(&format!("{prefix}{number}"), bytes)).await {
            Ok(_) => assert!(number < 1_000, "it is never refused"),
            Err(error) => return error,
        }
    }
    unreachable!()
}

#[tokio::test(flavor = "multi_thread")]
async fn over_the_quota_the_alarm_stays_until_space_was_made_and_somebody_disarms_it() {
    let directory = tempfile::tempdir().unwrap();
    for data in [Data::Memory, Data::Directory(directory.path().join("data"))] {
        let quota = 12 * MIB as i64;
        let tuning = tuned(Maintenance { quota_bytes: quota, ..Maintenance::default() });
        let node = Node::start(Config { data, tuning, ..Config::in_memory("alone") }).await.unwrap();
        let store = node.client();
        let refused = fill(&store, "k", MIB / 2, async || ()).await;
        assert!(no_space(&refused), "{refused:?}");
        let id = store.status().await.unwrap().header.member;
        let alarm = Alarm { kind: AlarmKind::NoSpace, member: id };
        until("the alarm", async || (store.alarms().await.unwrap().value == [alarm]).then_some(())).await;
        assert!(no_space(&Client::put(&store, put("small", 1)).await.unwrap_err()), "whatever its size");
        let written = store.get_prefix("k").await.unwrap().len();
        assert!(written * MIB / 2 < quota as usize && written > 4, "{written}");
        // Deletes and compaction go on, and change nothing about the alarm.
        let all = setstone::client::DeleteRange { key: "k".into(), range_end: "l".into(), prev_kv: false };
        assert_eq!(Client::delete(&store, all).await.unwrap().value.deleted, written as i64);
        let revision = store.status().await.unwrap().header.revision;
        store.compact(Compact { revision, physical: true }).await.unwrap();
        store.defragment().await.unwrap();
        assert!(no_space(&Client::put(&store, put("k", 1)).await.unwrap_err()));
        assert_eq!(store.set_alarm(alarm, false).await.unwrap().value, [alarm]);
        Client::put(&store, put("k", MIB / 2)).await.unwrap();
        let size = store.status().await.unwrap().value.db_size;
        assert!(size < quota / 2, "{size}");
        node.shutdown().await;
    }
}

/// Small segments, so that little must stay free.
fn on_a_small_volume(reserve: u64) -> Tuning {
    let maintenance = Maintenance { disk_reserve_bytes: reserve, ..Maintenance::default() };
    Tuning { log_segment_bytes: 8 << 20, log_bytes_before_snapshot: 8 << 20, ..tuned(maintenance) }
}

#[tokio::test(flavor = "multi_thread")]
async fn before_the_volume_is_full_writes_are_refused_and_they_go_on_by_themselves() {
    let files = SimulatedFiles::new(7);
    let config = Config { tuning: on_a_small_volume(16 << 20), ..Config::in_memory("alone") };
    let node = Node::start_in(config.clone(), world(&files)).await.unwrap();
    let store = node.client();
    Client::put(&store, put("first", 10)).await.unwrap();
    let by_hand = Alarm { kind: AlarmKind::NoSpace, member: NodeId(5) };
    for round in 0..2 {
        // Some of it can still be written.
        files.set_free(64 << 20);
        // The watch is taken to be faster than the disk: here nothing would slow the writes down.
        let seen = async || {
            let free = || files.space(Path::new("/")).unwrap().free as i64;
            until("a look", async || (node.metrics().disk_free_bytes.get() <= free()).then_some(())).await;
        };
        let refused = fill(&store, &format!("k{round}-"), MIB, seen).await;
        assert!(no_space(&refused), "{refused:?}");
        let id = store.status().await.unwrap().header.member;
        let full = Alarm { kind: AlarmKind::NoSpace, member: id };
        until("the alarm", async || (store.alarms().await.unwrap().value == [full]).then_some(())).await;
        assert!(Kv::delete(&store, "first").await.unwrap() || round > 0);
        assert!(store.get_prefix("k").await.unwrap().len() > 1);
        // By hand it goes, and comes back, because nothing has changed.
        assert_eq!(store.set_alarm(full, false).await.unwrap().value, [full]);
        until("the alarm again", async || (store.alarms().await.unwrap().value == [full]).then_some(()))
            .await;
        // One that somebody raised is not taken back with it.
        store.set_alarm(by_hand, true).await.unwrap();
        files.set_free(1 << 40);
        until("room", async || (store.alarms().await.unwrap().value == [by_hand]).then_some(())).await;
        assert!(no_space(&Client::put(&store, put("k", 1)).await.unwrap_err()));
        store.set_alarm(by_hand, false).await.unwrap();
        Client::put(&store, put("again", 10)).await.unwrap();
    }
    let written = store.get_prefix("").await.unwrap().len();
    assert!(tokio::time::timeout(Duration::from_millis(1), node.failed()).await.is_err());
    node.shutdown().await;
    let node = Node::start_in(config, world(&files)).await.unwrap();
    assert_eq!(node.client().get_prefix("").await.unwrap().len(), written);
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_full_volume_stops_the_growth_of_all_members() {
    let cluster = TestCluster::start(3).await.unwrap();
    let id = cluster.node(2).unwrap().client().status().await.unwrap().header.member;
    // As the watch of that member does; its own volume cannot be filled here.
    let alarm = Alarm { kind: AlarmKind::NoSpace, member: id };
    cluster.client().set_alarm(alarm, true).await.unwrap();
    for index in 0..3 {
        assert!(no_space(&Kv::put(&cluster.node(index).unwrap().client(), "k", "v").await.unwrap_err()));
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_defragmentation_gives_back_what_compaction_freed_while_writes_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let config =
        || Config { data: Data::Directory(directory.path().join("data")), ..Config::in_memory("alone") };
    let node = Node::start(config()).await.unwrap();
    let store = node.client();
    for round in 0..4 {
        for number in 0..40 {
            let pair = Put { key: format!("k{number}").into(), ..put("", MIB / 4 + round) };
            Client::put(&store, pair).await.unwrap();
        }
    }
    let revision = store.status().await.unwrap().header.revision;
    store.compact(Compact { revision, physical: true }).await.unwrap();
    let before = store.status().await.unwrap().value;
    let writing = store.clone();
    let writes = tokio::spawn(async move {
        for number in 0..200 {
            Kv::put(&writing, format!("n{number}"), "v").await.unwrap();
        }
    });
    let remote = Remote::new(&node.addresses().client.to_string(), &Options::default()).unwrap();
    remote.defragment().await.unwrap();
    writes.await.unwrap();
    store.defragment().await.unwrap();
    let after = store.status().await.unwrap().value;
    assert!(after.db_size < before.db_size * 2 / 3, "{} after {}", after.db_size, before.db_size);
    assert!(after.db_size_in_use > 9 * MIB as i64 && after.db_size_in_use <= after.db_size);
    let check = async |store: &setstone::client::Embedded| {
        assert_eq!(store.get_prefix("n").await.unwrap().len(), 200);
        let pairs = store.get_prefix("k").await.unwrap();
        assert!(pairs.len() == 40 && pairs.iter().all(|pair| pair.value.len() == MIB / 4 + 3));
    };
    check(&store).await;
    node.shutdown().await;
    let node = Node::start(config()).await.unwrap();
    check(&node.client()).await;
    assert_eq!(node.metrics().state_rebuild_seconds.get(), 0.0, "the files are those of a clean close");
    node.shutdown().await;
}

async fn bytes_of(mut snapshot: setstone::client::Snapshot) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some(piece) = snapshot.next().await.unwrap() {
        bytes.extend_from_slice(&piece);
    }
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_the_store_as_it_was_when_it_was_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let config =
        Config { data: Data::Directory(directory.path().join("data")), ..Config::in_memory("alone") };
    let node = Node::start(config).await.unwrap();
    let store = node.client();
    for number in 0..300 {
        Kv::put(&store, format!("k{number}"), vec![7; 10_000]).await.unwrap();
    }
    let remote = Remote::new(&node.addresses().client.to_string(), &Options::default()).unwrap();
    let (here, there) = (store.snapshot().await.unwrap(), remote.snapshot().await.unwrap());
    assert_eq!((here.header.revision, there.header.revision), (301, 301));
    // What is written and compacted now is not in it, although it was not fetched yet.
    Kv::put(&store, "later", "v").await.unwrap();
    Kv::delete(&store, "k0").await.unwrap();
    let revision = store.status().await.unwrap().header.revision;
    store.compact(Compact { revision, physical: true }).await.unwrap();
    let (here, there) = (bytes_of(here.value).await, bytes_of(there.value).await);
    assert_eq!(here, there);
    let path = directory.path().join("saved");
    std::fs::write(&path, &here).unwrap();
    let (mut reader, _) =
        setstone::storage::snapshot::open_backup(&setstone::env::real_files::RealFiles, &path).unwrap();
    let mut keys = 0;
    while let Some((key, _)) = reader.next_pair().unwrap() {
        keys += usize::from(key.starts_with(b"h"));
    }
    assert!(keys >= 300, "{keys}");
    assert_eq!(reader.into_verified().unwrap().header.revision, 301);
    let left = std::fs::read_dir(directory.path().join("data/snapshots")).unwrap().count();
    assert_eq!(left, 0, "nothing of it stays on the member's disk");
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn few_snapshots_are_fetched_at_a_time_and_one_that_is_given_up_makes_room() {
    let node = Node::start(Config::in_memory("alone")).await.unwrap();
    let store = node.client();
    Kv::put(&store, "k", "v").await.unwrap();
    let mut fetched = Vec::new();
    for _ in 0..setstone::limits::SNAPSHOT_CLIENTS {
        fetched.push(store.snapshot().await.unwrap());
    }
    assert_eq!(store.snapshot().await.unwrap_err(), Error::TooManyRequests);
    fetched.pop();
    store.snapshot().await.unwrap();
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_old_is_compacted_by_itself() {
    let maintenance = Maintenance {
        auto_compaction: Some(AutoCompaction::Periodic(Duration::from_secs(1))),
        ..Maintenance::default()
    };
    let config = Config { tuning: tuned(maintenance), ..Config::in_memory("alone") };
    let node = Node::start(config).await.unwrap();
    let store = node.client();
    let old = Kv::put(&store, "k", "old").await.unwrap();
    Kv::put(&store, "k", "new").await.unwrap();
    let at = Range { key: "k".into(), revision: old, ..Range::default() };
    until("the compaction", async || {
        let read = Client::get(&store, at.clone(), Consistency::Serializable).await;
        matches!(read, Err(Error::Refused(Refusal::Compacted))).then_some(())
    })
    .await;
    assert_eq!(&Kv::get(&store, "k").await.unwrap().unwrap().value[..], b"new");
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stores_are_compared_at_the_start_and_from_time_to_time() {
    let directory = tempfile::tempdir().unwrap();
    let cluster = TestCluster::start_in(directory.path(), 3).await.unwrap();
    let client = cluster.client();
    for number in 0..20 {
        Kv::put(&client, format!("k{number}"), "v").await.unwrap();
    }
    let hashes: Vec<_> = {
        let mut hashes = Vec::new();
        for index in 0..3 {
            let member = cluster.node(index).unwrap().client();
            Kv::get(&member, "k1").await.unwrap();
            hashes.push(member.hash(21).await.unwrap().value);
        }
        hashes
    };
    assert!(hashes.iter().all(|hash| *hash == hashes[0]), "{hashes:?}");
    assert!(client.alarms().await.unwrap().value.is_empty());
    cluster.shutdown().await;
}

/// The metrics that etcd's dashboards read, after some work.
#[tokio::test(flavor = "multi_thread")]
async fn the_numbers_that_dashboards_read_are_fed() {
    let cluster = TestCluster::start(3).await.unwrap();
    let client = cluster.client();
    for number in 0..20 {
        Kv::put(&client, format!("k{number}"), "v").await.unwrap();
    }
    Kv::get(&client, "k1").await.unwrap();
    let lead = until("the leader", async || {
        for index in 0..3 {
            let node = cluster.node(index)?;
            let status = node.client().status().await.ok()?;
            if status.value.leader == Some(status.header.member) {
                return Some(index);
            }
        }
        None
    })
    .await;
    let node = cluster.node(lead).unwrap();
    let number = |text: &str, name: &str| {
        let lines: Vec<f64> = text
            .lines()
            .filter(|line| line.starts_with(name) && !line.starts_with('#'))
            .map(|line| line.rsplit_once(' ').unwrap().1.parse().unwrap())
            .collect();
        assert!(!lines.is_empty(), "{name} in {text}");
        lines.iter().sum::<f64>()
    };
    let address = node.addresses().client;
    let text = until("heartbeats", async || {
        let text = get(address, "/metrics").await;
        (number(&text, "etcd_network_peer_round_trip_time_seconds_count") >= 2.0).then_some(text)
    })
    .await;
    for (name, least) in [
        ("etcd_server_has_leader", 1.0),
        ("etcd_server_is_leader", 1.0),
        ("etcd_server_leader_changes_seen_total", 1.0),
        ("etcd_mvcc_db_total_size_in_bytes", 100.0),
        ("etcd_mvcc_db_total_size_in_use_in_bytes", 100.0),
        ("etcd_server_quota_backend_bytes", 2_147_483_648.0),
        ("etcd_disk_wal_fsync_duration_seconds_count", 1.0),
        ("etcd_disk_backend_commit_duration_seconds_count", 20.0),
        ("etcd_server_proposals_committed_total", 20.0),
        ("etcd_server_proposals_applied_total", 20.0),
        ("etcd_server_proposals_pending", 0.0),
        ("etcd_server_proposals_failed_total", 0.0),
        ("etcd_server_slow_read_indexes_total", 0.0),
        ("etcd_server_read_indexes_failed_total", 0.0),
        ("etcd_debugging_mvcc_keys_total", 20.0),
        ("etcd_debugging_mvcc_slow_watcher_total", 0.0),
        ("grpc_server_handled_total", 1.0),
        ("grpc_server_started_total", 1.0),
    ] {
        let found = number(&text, name);
        assert!(found >= least, "{name} is {found}");
    }
    cluster.shutdown().await;
}

/// An HTTP answer's body.
async fn get(address: std::net::SocketAddr, path: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn health_tells_of_alarms_and_readiness_of_corruption_only() {
    let node = Node::start(Config::in_memory("alone")).await.unwrap();
    let store = node.client();
    Kv::put(&store, "k", "v").await.unwrap();
    let address = node.addresses().client;
    let corrupt = Alarm { kind: AlarmKind::Corrupt, member: NodeId(0) };
    assert_eq!(get(address, "/readyz").await, "ok\n");
    store.set_alarm(corrupt, true).await.unwrap();
    assert_eq!(get(address, "/health").await.trim(), r#"{"health":"false","reason":"ALARM CORRUPT"}"#);
    let health = get(address, "/health?exclude=CORRUPT").await;
    assert_eq!(health, r#"{"health":"true","reason":""}"#);
    let ready = get(address, "/readyz?verbose").await;
    assert!(ready.contains("[-]data_corruption failed: alarm activated: CORRUPT\n"), "{ready}");
    assert!(ready.contains("[+]serializable_read ok\n[+]linearizable_read ok\n"), "{ready}");
    store.set_alarm(corrupt, false).await.unwrap();
    assert_eq!(get(address, "/readyz/data_corruption").await, "ok\n");
    node.shutdown().await;
}

/// The clients of etcd that are at hand save what we send.
#[tokio::test(flavor = "multi_thread")]
async fn stock_etcdctl_saves_a_snapshot() {
    let node = Node::start(Config::in_memory("alone")).await.unwrap();
    let store = node.client();
    for number in 0..100 {
        Kv::put(&store, format!("k{number}"), vec![7; 3_000]).await.unwrap();
    }
    let directory = tempfile::tempdir().unwrap();
    let endpoint = node.addresses().client.to_string();
    for etcdctl in etcdctls() {
        let path = directory.path().join("saved");
        let run = |arguments: &[&str]| {
            let mut command = std::process::Command::new(&etcdctl);
            command.env("ETCDCTL_API", "3").args(["--endpoints", &endpoint]).args(arguments);
            let output = command.output().unwrap();
            assert!(output.status.success(), "{etcdctl} {arguments:?}: {output:?}");
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        run(&["snapshot", "save", path.to_str().unwrap()]);
        check_saved(&path);
        std::fs::remove_file(&path).unwrap();
        assert!(run(&["defrag"]).contains("Finished defragmenting etcd member"));
        let alarm = Alarm { kind: AlarmKind::NoSpace, member: NodeId(77) };
        store.set_alarm(alarm, true).await.unwrap();
        let listed = run(&["alarm", "list"]);
        assert!(listed.contains("memberID:77") && listed.contains("alarm:NOSPACE"), "{listed}");
        assert_eq!(run(&["alarm", "disarm"]), listed);
        assert_eq!(run(&["alarm", "list"]), "");
    }
    node.shutdown().await;
}

/// `ETCDCTL` may name one more.
fn etcdctls() -> Vec<String> {
    let named = std::env::var("ETCDCTL").ok();
    let found = ["etcdctl".to_owned()].into_iter().chain(named).filter(|name| {
        let version = std::process::Command::new(name).env("ETCDCTL_API", "3").arg("version").output();
        version.is_ok_and(|output| output.status.success())
    });
    found.collect()
}

fn check_saved(path: &Path) {
    let (mut reader, _) =
        setstone::storage::snapshot::open_backup(&setstone::env::real_files::RealFiles, path).unwrap();
    while reader.next_pair().unwrap().is_some() {}
    assert_eq!(reader.into_verified().unwrap().header.revision, 101);
}
