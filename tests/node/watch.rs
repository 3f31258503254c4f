//! Watching over the network: a whole cluster, a leader that dies, readers that do not read, many watchers.

use std::process::Stdio;
use std::time::Duration;

use setstone::client::{Client, Compact, EventKind, Kv, Watch, WatchEvent, Watched, Watcher};
use setstone::proto::etcdserverpb as pb;
use setstone::proto::etcdserverpb::watch_client::WatchClient;
use setstone::testing::TestCluster;
use setstone::{Config, Node};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Streaming};

use crate::process::{Looks, Process, free_ports};

const PATIENCE: Duration = Duration::from_secs(30);

type Requests = mpsc::Sender<pb::WatchRequest>;

fn create(key: &str, end: &str) -> pb::WatchCreateRequest {
    pb::WatchCreateRequest {
        key: key.to_owned().into(),
        range_end: end.to_owned().into(),
        ..Default::default()
    }
}

fn request(union: pb::watch_request::RequestUnion) -> pb::WatchRequest {
    pb::WatchRequest { request_union: Some(union) }
}

fn creation(create: pb::WatchCreateRequest) -> pb::WatchRequest {
    request(pb::watch_request::RequestUnion::CreateRequest(create))
}

/// A stream of watchers, as any etcd client opens one.
async fn stream(
    address: impl std::fmt::Display,
    wants_leader: bool,
) -> (Requests, Streaming<pb::WatchResponse>) {
    let endpoint = Channel::from_shared(format!("http://{address}")).unwrap();
    let mut client =
        WatchClient::new(endpoint.connect().await.unwrap()).max_decoding_message_size(usize::MAX);
    let (requests, sent) = mpsc::channel(2_000);
    let mut request = tonic::Request::new(ReceiverStream::new(sent));
    if wants_leader {
        request.metadata_mut().insert("hasleader", "true".parse().unwrap());
    }
    (requests, client.watch(request).await.unwrap().into_inner())
}

async fn next(responses: &mut Streaming<pb::WatchResponse>) -> pb::WatchResponse {
    timeout(PATIENCE, responses.message()).await.expect("in time").unwrap().expect("more")
}

async fn alone() -> Node {
    let node = Node::start(Config::in_memory("alone")).await.unwrap();
    node.ready(Instant::now() + PATIENCE).await.unwrap();
    node
}

/// What a watcher says next, in time.
async fn item(watcher: &mut Watcher) -> Watched {
    timeout(PATIENCE, watcher.next()).await.expect("in time").expect("more").unwrap()
}

/// The next `count` events.
async fn events(watcher: &mut Watcher, count: usize) -> Vec<WatchEvent> {
    let mut events = Vec::new();
    while events.len() < count {
        match item(watcher).await {
            Watched::Events(more) => events.extend(more),
            Watched::Began(_) | Watched::Progress(_) => {}
            Watched::Compacted(at) => panic!("compacted at {at}"),
        }
    }
    events
}

/// Watching works the same with every kind of client.
async fn any_client(store: &impl Client, key: &str) {
    let mut watcher = Kv::watch(store, key);
    let Watched::Began(began) = item(&mut watcher).await else { panic!("it did not begin") };
    let first = Kv::put(store, key, "1").await.unwrap();
    assert!(first > began);
    Kv::put(store, key, "2").await.unwrap();
    Kv::delete(store, key).await.unwrap();
    let seen = events(&mut watcher, 3).await;
    let short: Vec<_> = seen.iter().map(|event| (event.kind, &event.kv.value[..])).collect();
    assert_eq!(
        short,
        [(EventKind::Put, &b"1"[..]), (EventKind::Put, &b"2"[..]), (EventKind::Delete, &b""[..])]
    );
    assert!(seen[0].is_create() && !seen[1].is_create());
    watcher.ask_progress();
    let Watched::Progress(revision) = item(&mut watcher).await else { panic!("no progress") };
    assert!(revision >= first + 2);

    let past = Watch { key: key.to_owned().into(), start_revision: first, prev_kv: true, ..Watch::default() };
    let seen = events(&mut Client::watch(store, past.clone()), 3).await;
    let previous: Vec<_> =
        seen.iter().map(|event| event.previous.as_ref().map(|pair| pair.value.to_vec())).collect();
    assert_eq!(previous, [None, Some(b"1".to_vec()), Some(b"2".to_vec())]);

    store.compact(Compact { revision: first + 2, physical: true }).await.unwrap();
    let mut late = Client::watch(store, past);
    assert!(matches!(item(&mut late).await, Watched::Began(_)));
    assert_eq!(item(&mut late).await, Watched::Compacted(first + 2));
    assert!(late.next().await.is_none());

    let empty = Watch { key: "b".into(), range_end: "a".into(), ..Watch::default() };
    let mut wrong = Client::watch(store, empty);
    assert!(wrong.next().await.unwrap().is_err());
    assert!(wrong.next().await.is_none());
}

#[tokio::test]
async fn every_client_watches() {
    let node = alone().await;
    any_client(&node.client(), "embedded").await;
    let remote = setstone::client::Remote::new(
        &node.addresses().client.to_string(),
        &setstone::client::Options::default(),
    )
    .unwrap();
    any_client(&remote, "remote").await;
    any_client(&remote.connections()[0], "connection").await;
    let mut watcher = Kv::watch(&node.client(), "a");
    item(&mut watcher).await;
    node.shutdown().await;
    assert!(timeout(PATIENCE, watcher.next()).await.unwrap().unwrap().is_err(), "the member has stopped");
}

#[tokio::test]
async fn the_example_keeps_its_copy() {
    let copy = crate::watch_example::run().await.unwrap();
    assert_eq!(copy.into_iter().collect::<Vec<_>>(), [("services/db".into(), "10.0.0.3".into())]);
}

#[tokio::test]
async fn a_stream_ends_when_its_member_stops() {
    let node = alone().await;
    let (requests, mut responses) = stream(node.addresses().client, false).await;
    requests.send(creation(create("a", "b"))).await.unwrap();
    assert!(next(&mut responses).await.created);
    let begun = Instant::now();
    node.shutdown().await;
    let status = timeout(PATIENCE, responses.message()).await.unwrap().unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "etcdserver: server stopped"));
    assert!(begun.elapsed() < Duration::from_secs(5), "it waited for the stream");
}

#[tokio::test]
async fn a_client_that_wants_a_leader_is_told_when_there_is_none() {
    let mut cluster = TestCluster::start(3).await.unwrap();
    let address = cluster.node(0).unwrap().addresses().client;
    let (requests, mut responses) = stream(address, true).await;
    let (patient, mut other) = stream(address, false).await;
    for requests in [&requests, &patient] {
        requests.send(creation(create("a", ""))).await.unwrap();
    }
    assert!(next(&mut responses).await.created && next(&mut other).await.created);
    cluster.stop(1).await;
    cluster.stop(2).await;
    let status = timeout(PATIENCE, responses.message()).await.unwrap().unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "etcdserver: no leader"));
    // At once, the next time; and so are other calls of such a client.
    let endpoint = Channel::from_shared(format!("http://{address}")).unwrap();
    let mut client =
        setstone::proto::etcdserverpb::kv_client::KvClient::new(endpoint.connect().await.unwrap());
    let mut range =
        tonic::Request::new(pb::RangeRequest { key: "a".into(), serializable: true, ..Default::default() });
    range.metadata_mut().insert("hasleader", "true".parse().unwrap());
    let status = client.range(range).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "etcdserver: no leader"));
    // The other stream goes on when there is a leader again.
    cluster.start_again(1).await.unwrap();
    Kv::put(&cluster.client(), "a", "1").await.unwrap();
    assert_eq!(next(&mut other).await.events.len(), 1);
    cluster.shutdown().await;
}

/// Three members as processes; the second one with a data directory of its own.
async fn three(root: &std::path::Path) -> Vec<Process> {
    let peers = free_ports::<3>().map(|address| address.to_string()).join(",");
    let mut members = Vec::new();
    for ordinal in ["0", "1", "2"] {
        let arguments = ["--peers", &peers, "--ordinal", ordinal];
        members.push(Process::spawn(&[], &root.join(ordinal), &arguments, Stdio::inherit()));
    }
    for member in &mut members {
        member.serves().await;
    }
    members
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_outlives_the_leader_and_its_own_member_and_misses_nothing() {
    let root = tempfile::tempdir().unwrap();
    let mut members = three(root.path()).await;
    let endpoints: Vec<_> = members.iter().map(|member| member.client.to_string()).collect();
    let remote =
        setstone::client::Remote::new(&endpoints.join(","), &setstone::client::Options::default()).unwrap();
    let mut watchers: Vec<_> = (0..6).map(|_| remote.watch_prefix("k")).collect();
    for watcher in &mut watchers {
        item(watcher).await;
    }
    let mut revisions = Vec::new();
    let mut leaders = 0;
    for number in 0..400 {
        if number == 150 {
            let leader = members[0].remote().status().await.unwrap().value.leader.unwrap();
            members.remove(usize::from(leader.ordinal())).kill();
            leaders += 1;
        }
        // A write of unknown outcome may have happened: the history says so in the end.
        if let Ok(revision) = Kv::put(&remote, format!("k{}", number % 10), number.to_string()).await {
            revisions.push(revision);
        }
    }
    assert_eq!(leaders, 1);
    let last = *revisions.last().unwrap();
    let mut all: Option<Vec<(i64, Vec<u8>)>> = None;
    for watcher in &mut watchers {
        let mut seen = Vec::new();
        while seen.last().is_none_or(|(revision, _)| *revision < last) {
            if let Watched::Events(events) = item(watcher).await {
                seen.extend(events.iter().map(|event| (event.kv.mod_revision, event.kv.value.to_vec())));
            }
        }
        assert!(seen.is_sorted_by(|a, b| a.0 < b.0), "in order, none twice");
        let missed: Vec<_> =
            revisions.iter().filter(|revision| seen.iter().all(|(known, _)| known != *revision)).collect();
        assert!(missed.is_empty(), "{missed:?} were acknowledged and not seen");
        assert_eq!(*all.get_or_insert_with(|| seen.clone()), seen, "two watchers saw the same");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_costs_little_hurts_nobody_and_misses_nothing() {
    let root = tempfile::tempdir().unwrap();
    let member = Process::start(root.path(), &[]).await;
    let remote = member.remote();
    let lazy: Vec<_> = {
        let mut lazy = Vec::new();
        for _ in 0..20 {
            let (requests, mut responses) = stream(member.client, false).await;
            requests.send(creation(create("k", "l"))).await.unwrap();
            assert!(next(&mut responses).await.created);
            lazy.push((requests, responses));
        }
        lazy
    };
    let mut eager = remote.watch_prefix("k");
    item(&mut eager).await;
    let before = member.resident();
    let value = vec![b'v'; 64 << 10];
    let writes = 600;
    for number in 0..writes {
        Kv::put(&remote, format!("k{}", number % 4), &value).await.unwrap();
        assert_eq!(events(&mut eager, 1).await.len(), 1);
    }
    assert!(member.metric("setstone_watch_streams_fallen_behind_total") >= 20.0);
    let grown = member.resident().saturating_sub(before);
    // Twenty streams that had 37 MiB each to read: what HTTP/2 buffers, two megabytes that they share, and the store itself.
    assert!(grown < 160 << 20, "{} MiB", grown >> 20);
    for (_requests, mut responses) in lazy.into_iter().take(3) {
        let mut seen = Vec::new();
        while seen.len() < writes {
            let response = next(&mut responses).await;
            let header = response.header.unwrap().revision;
            seen.extend(response.events.iter().map(|event| event.kv.as_ref().unwrap().mod_revision));
            assert!(*seen.last().unwrap() <= header);
        }
        assert_eq!(seen, (2..2 + writes as i64).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_watchers_on_one_stream() {
    let node = alone().await;
    let store = node.client();
    let (requests, mut responses) = stream(node.addresses().client, false).await;
    for number in 0..1_000 {
        let create =
            if number % 2 == 0 { create("many/", "many0") } else { create(&format!("one/{number}"), "") };
        requests.send(creation(create)).await.unwrap();
    }
    for number in 0..1_000 {
        let response = next(&mut responses).await;
        assert_eq!((response.created, response.watch_id), (true, number));
    }
    Kv::put(&store, "many/a", "1").await.unwrap();
    let mut told: Vec<_> = Vec::new();
    for _ in 0..500 {
        let response = next(&mut responses).await;
        assert_eq!(response.events.len(), 1);
        told.push(response.watch_id);
    }
    told.sort_unstable();
    assert_eq!(told, (0..1_000).step_by(2).collect::<Vec<_>>());
    Kv::put(&store, "one/77", "1").await.unwrap();
    assert_eq!(next(&mut responses).await.watch_id, 77);

    // Cancels, and the notice that nobody is told of what they missed.
    for id in 0..1_000 {
        let cancel = pb::WatchCancelRequest { watch_id: id };
        requests.send(request(pb::watch_request::RequestUnion::CancelRequest(cancel))).await.unwrap();
    }
    for id in 0..1_000 {
        let response = next(&mut responses).await;
        assert_eq!((response.canceled, response.watch_id), (true, id));
    }
    let mut looks = Looks::within(PATIENCE);
    while node.metrics().watchers.get() > 0 {
        looks.next("the watchers are gone").await;
    }
    // The client says no more, and listens on, as the JSON gateway does.
    requests.send(creation(create("last", ""))).await.unwrap();
    assert!(next(&mut responses).await.created);
    drop(requests);
    Kv::put(&store, "last", "1").await.unwrap();
    assert_eq!(next(&mut responses).await.events.len(), 1);
    drop(responses);
    while node.metrics().watch_streams.get() > 0 {
        looks.next("the stream is gone").await;
    }
    node.shutdown().await;
}

/// Time that a process was on a processor so far, in all its threads.
fn cpu(process: &Process) -> Duration {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", process.id())).unwrap();
    let of = |task: std::io::Result<std::fs::DirEntry>| {
        let stat = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        stat.split_whitespace().next()?.parse::<u64>().ok()
    };
    Duration::from_nanos(tasks.filter_map(of).sum())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_watchers_on_a_hundred_streams() {
    const STREAMS: usize = 100;
    const PER_STREAM: usize = 1_000;
    let root = tempfile::tempdir().unwrap();
    let member = Process::start(root.path(), &[]).await;
    let remote = member.remote();
    let endpoint = Channel::from_shared(format!("http://{}", member.client)).unwrap();
    let channel = endpoint.connect().await.unwrap();
    let watchers = async |name: &dyn Fn(usize, usize) -> pb::WatchCreateRequest| {
        let mut streams = Vec::new();
        for stream in 0..STREAMS {
            let (requests, sent) = mpsc::channel(PER_STREAM);
            for watcher in 0..PER_STREAM {
                requests.try_send(creation(name(stream, watcher))).unwrap();
            }
            let mut client = WatchClient::new(channel.clone());
            let mut responses = client.watch(ReceiverStream::new(sent)).await.unwrap().into_inner();
            for _ in 0..PER_STREAM {
                assert!(next(&mut responses).await.created);
            }
            streams.push((requests, responses));
        }
        streams
    };
    Kv::put(&remote, "warm", "1").await.unwrap();
    let before = member.resident();
    let mut idle =
        watchers(&|stream, watcher| create(&format!("/registry/pods/{stream:03}/{watcher:04}"), "")).await;
    assert_eq!(member.metric("etcd_debugging_mvcc_watcher_total") as usize, STREAMS * PER_STREAM);
    let each = (member.resident() - before) / (STREAMS * PER_STREAM);
    println!("{each} bytes for each idle watcher of a key of 22 bytes, streams included");
    assert!(each < 500, "{each} bytes");

    // One event each, of many keys.
    let (began, puts) = (cpu(&member), 500);
    for number in 0..puts {
        let (stream, watcher) = (number % STREAMS, (number * 37) % PER_STREAM);
        Kv::put(&remote, format!("/registry/pods/{stream:03}/{watcher:04}"), "v").await.unwrap();
        assert_eq!(next(&mut idle[stream].1).await.watch_id, watcher as i64);
    }
    println!("{:?} of the server for a put that one of them sees", (cpu(&member) - began) / puts as u32);
    drop(idle);

    // A hundred thousand on one prefix: every one gets every event.
    let all = watchers(&|_, _| create("/registry/", "/registry0")).await;
    let (began, puts) = (cpu(&member), 5);
    let readers: Vec<_> = all
        .into_iter()
        .map(|(requests, mut responses)| {
            tokio::spawn(async move {
                let mut seen = 0;
                while seen < PER_STREAM * puts {
                    seen += next(&mut responses).await.events.len();
                }
                drop(requests);
                seen
            })
        })
        .collect();
    for _ in 0..puts {
        Kv::put(&remote, "/registry/pods/a", vec![b'v'; 256]).await.unwrap();
    }
    let mut delivered = 0;
    for reader in readers {
        delivered += reader.await.unwrap();
    }
    assert_eq!(delivered, STREAMS * PER_STREAM * puts);
    println!("{:?} of the server for each delivered event", (cpu(&member) - began) / delivered as u32);
}

#[tokio::test]
async fn nonsense_on_a_stream_ends_that_stream_only() {
    let node = alone().await;
    let address = node.addresses().client;
    let (requests, mut responses) = stream(address, false).await;
    requests.send(pb::WatchRequest { request_union: None }).await.unwrap();
    requests.send(creation(create("", ""))).await.unwrap();
    assert!(next(&mut responses).await.created, "no key is the smallest key, as in etcd");
    requests.send(creation(create(&"k".repeat(2_200_000), ""))).await.unwrap();
    let status = timeout(PATIENCE, responses.message()).await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().contains("larger than max"), "{}", status.message());
    let (requests, mut responses) = stream(address, false).await;
    requests.send(creation(create("a", ""))).await.unwrap();
    assert!(next(&mut responses).await.created);
    node.shutdown().await;
}
