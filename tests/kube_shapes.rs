//! The requests that kube-apiserver sends, in their shapes and numbers: 10,000 objects, 1,000 watchers, lists in pages at a pinned
//! revision, consistent lists from a cache that asks for progress, compaction all the while, events that expire.
//!
//! The shapes are those of its package `storage/etcd3`, and of etcd's `client/v3/kubernetes`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    missing_docs
)]

#[path = "kube_shapes/server.rs"]
mod server;
#[path = "kube_shapes/watchers.rs"]
mod watchers;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, StreamExt as _};
use setstone::testing::TestCluster;
use tokio::time::{Instant, timeout};
use tonic::Code;

use server::{Done, Kube};
use watchers::{Kind, Log, Stream};

/// Long enough for a machine that is busy.
const PATIENCE: Duration = Duration::from_mins(1);
const OBJECTS: usize = 10_000;
const NAMESPACES: usize = 100;
const WATCHERS: usize = 1_000;
/// Watchers of one client share a stream.
const STREAMS: usize = 10;
const AT_ONCE: usize = 128;
const UPDATES: usize = 2_000;
const DELETES: usize = 500;
/// Objects that share a lease.
const EVENTS: usize = 1_000;
/// How long: enough to create them all on a machine that is busy.
const EVENTS_LIVE: Duration = Duration::from_secs(12);
const PAGE: i64 = 500;

fn namespace(number: usize) -> String {
    format!("/registry/pods/ns-{number:02}/")
}

fn object(number: usize) -> String {
    format!("{}pod-{number:05}", namespace(number % NAMESPACES))
}

fn event_key(number: usize) -> String {
    format!("/registry/events/ns-00/event-{number:04}")
}

/// What a pod weighs here: an object of some hundred bytes.
fn body(key: &str, generation: u32) -> Bytes {
    format!(
        "{{\"kind\":\"Pod\",\"key\":\"{key}\",\"generation\":{generation:04},\"padding\":\"{}\"}}",
        "x".repeat(160)
    )
    .into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_servers_day() {
    let cluster = TestCluster::start(3).await.unwrap();
    let kube = Kube::connect(&cluster, 1).await;
    let begin = kube.revision("/registry/pods/").await;

    // Every namespace is watched by ten clients, from what they listed on.
    let mut streams = Vec::new();
    for number in 0..STREAMS {
        let member = number % cluster.size();
        let mut stream = Stream::open(&cluster, member).await;
        for watcher in 0..WATCHERS / STREAMS {
            stream.watch(&namespace(watcher % NAMESPACES), begin + 1).await;
        }
        streams.push(stream.run());
    }
    let mut of_events = Stream::open(&cluster, 2).await;
    of_events.watch("/registry/events/", begin + 1).await;
    let of_events = of_events.run();

    let log = Arc::new(Log::default());
    let asked = Instant::now();
    create_events(&kube, &log).await;
    let events = tokio::spawn(events_expire(kube.clone(), asked));
    create_objects(&kube, &log).await;

    let stop = Arc::new(AtomicBool::new(false));
    let compacting = tokio::spawn(compact(kube.clone(), stop.clone()));
    let listing = tokio::spawn(list_in_pages(kube.clone()));
    let (reads, cache) = (Kube::connect(&cluster, 0).await, Stream::open(&cluster, 0).await);
    let caching = tokio::spawn(consistent_lists(reads, kube.clone(), cache));
    change_objects(&kube, &log).await;
    for (revision, found) in listing.await.unwrap() {
        log.check_state(revision, &found);
    }
    caching.await.unwrap();
    statistics(&kube).await;
    events.await.unwrap();
    stop.store(true, Ordering::Relaxed);
    let compacted = compacting.await.unwrap();
    errors(&kube, &cluster, compacted).await;

    // Everybody has seen everything.
    let newest = kube.revision("/registry/").await;
    let log = log.all();
    for stream in streams {
        stream.finish(newest, &log).await;
    }
    let seen = of_events.all_until(newest).await;
    check_expiry(&seen);
    cluster.shutdown().await;
}

async fn create_objects(kube: &Kube, log: &Log) {
    stream::iter(0..OBJECTS)
        .for_each_concurrent(AT_ONCE, |number| async move {
            let key = object(number);
            let done = kube.create(&key, body(&key, 1), 0).await;
            let Done::At(revision) = done else { panic!("{key} is there: {done:?}") };
            log.add(revision, Kind::Create, &key, 0);
        })
        .await;
    // What is there cannot be created, and the answer says what is there.
    let key = object(7);
    let Done::Instead(Some(kv)) = kube.create(&key, body(&key, 9), 0).await else { panic!("created twice") };
    assert_eq!((kv.value, kv.version), (body(&key, 1), 1));
}

async fn change_objects(kube: &Kube, log: &Log) {
    let created = log.last_of_keys();
    let created = &created;
    stream::iter(0..UPDATES + DELETES)
        .for_each_concurrent(AT_ONCE, |number| async move {
            let key = object(number * 3 % OBJECTS);
            let before = created[&key];
            if number < DELETES {
                let Done::At(revision) = kube.delete(&key, before).await else { panic!("{key} has changed") };
                log.add(revision, Kind::Delete, &key, before);
                let Done::Instead(None) = kube.delete(&key, before).await else { panic!("deleted twice") };
            } else {
                let Done::At(revision) = kube.update(&key, body(&key, 2), before).await else {
                    panic!("{key} has changed")
                };
                log.add(revision, Kind::Update, &key, before);
                // Somebody who has not seen that.
                if number % 10 == 0 {
                    let Done::Instead(Some(kv)) = kube.update(&key, body(&key, 3), before).await else {
                        panic!("written over")
                    };
                    assert_eq!((kv.mod_revision, kv.version), (revision, 2));
                }
            }
        })
        .await;
}

/// One lease for a thousand events, never kept alive and never revoked.
async fn create_events(kube: &Kube, log: &Log) {
    let lease = kube.grant(EVENTS_LIVE).await;
    stream::iter(0..EVENTS)
        .for_each_concurrent(AT_ONCE, |number| async move {
            let key = event_key(number);
            let done = kube.create(&key, body(&key, 1), lease).await;
            let Done::At(revision) = done else { panic!("{done:?}") };
            log.add(revision, Kind::Create, &key, 0);
        })
        .await;
    assert_eq!(kube.count("/registry/events/").await, EVENTS as i64);
}

/// They do, and not before their time.
async fn events_expire(kube: Kube, asked: Instant) {
    let deadline = Instant::now() + PATIENCE;
    while kube.count("/registry/events/").await > 0 {
        assert!(Instant::now() < deadline, "events do not expire");
        // Between two looks.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(asked.elapsed() >= EVENTS_LIVE, "early");
}

fn check_expiry(seen: &[watchers::Seen]) {
    let (created, expired): (Vec<_>, Vec<_>) = seen.iter().partition(|seen| seen.kind == Kind::Create);
    assert_eq!((created.len(), expired.len()), (EVENTS, EVENTS));
    let keys: BTreeMap<&str, i64> = created.iter().map(|seen| (&*seen.key, seen.revision)).collect();
    for gone in &expired {
        assert_eq!(gone.kind, Kind::Delete);
        assert_eq!(gone.revision, expired[0].revision, "all in one revision");
        assert_eq!(gone.previous, keys[&*gone.key], "a delete tells what was there");
    }
    let gone: std::collections::BTreeSet<&str> = expired.iter().map(|seen| &*seen.key).collect();
    assert_eq!(gone.len(), EVENTS);
}

/// Every two seconds or so, whoever wins the comparison compacts what it saw the last time.
async fn compact(kube: Kube, stop: Arc<AtomicBool>) -> i64 {
    let (mut version, mut last, mut compacted) = (0, 0, 0);
    while !stop.load(Ordering::Relaxed) {
        let now = kube.swap_compact_revision(version, last).await;
        // Another API server with the same idea loses.
        assert!(kube.swap_compact_revision(version, last).await.is_err(), "two have won");
        if last > 0 {
            kube.compact(last).await.unwrap();
            compacted = last;
        }
        (version, last) = (version + 1, now.unwrap());
        // How often it compacts is its load.
        tokio::time::sleep(Duration::from_millis(1_500)).await;
    }
    // What it saw last, so that something is compacted in any case.
    kube.compact(last).await.unwrap();
    compacted.max(last)
}

/// Lists everything twice in pages while it changes: each list with the revision that its first page fixed.
async fn list_in_pages(kube: Kube) -> Vec<(i64, BTreeMap<Bytes, i64>)> {
    let mut lists = Vec::new();
    for _ in 0..2 {
        let (mut key, mut pinned, mut pages) = (Bytes::from("/registry/pods/"), 0, 0);
        let mut found: BTreeMap<Bytes, i64> = BTreeMap::new();
        let mut count = None;
        loop {
            let page = match kube.page(key.clone(), "/registry/pods/", PAGE, pinned).await {
                Ok(page) => page,
                // The pinned revision was compacted away; the list begins anew, as a client of the API is told to.
                Err(status) => {
                    assert!(
                        status.message().contains("mvcc: required revision has been compacted"),
                        "{status}"
                    );
                    (key, pinned, pages) = (Bytes::from("/registry/pods/"), 0, 0);
                    (found, count) = (BTreeMap::new(), None);
                    continue;
                }
            };
            let header = page.header.unwrap();
            pinned = if pinned == 0 { header.revision } else { pinned };
            assert!(header.revision >= pinned, "the header tells of the store");
            // How many there are is not limited, and gets less by what was listed.
            let before = found.len() as i64;
            let all = *count.get_or_insert(page.count);
            assert_eq!(page.count, all - before, "after {before} of {all}");
            assert!(page.kvs.iter().all(|kv| kv.mod_revision <= pinned));
            let last = page.kvs.last().unwrap().key.clone();
            pages += 1;
            let has_more = (page.kvs.len() as i64) < page.count;
            assert_eq!(has_more, page.more);
            found.extend(page.kvs.into_iter().map(|kv| (kv.key, kv.mod_revision)));
            if !has_more {
                break;
            }
            key = [&last[..], b"\0"].concat().into();
        }
        assert_eq!(found.len() as i64, count.unwrap());
        assert_eq!(pages, (found.len() as i64 + PAGE - 1) / PAGE);
        lists.push((pinned, found));
    }
    lists
}

/// A list from a cache that is as new as a read: what is the newest revision, and has the cache seen it?
async fn consistent_lists(kube: Kube, writes: Kube, mut cache: Stream) {
    let mut semver =
        kube.version().await.split('.').map(|part| part.parse::<u64>().unwrap()).collect::<Vec<_>>();
    semver.truncate(3);
    assert!(semver >= vec![3, 5, 13], "progress cannot be asked for: {semver:?}");
    let newest = kube.revision("/registry/").await;
    cache.watch_quietly("/registry/configmaps/", newest + 1).await;
    let mut times = Vec::new();
    for number in 0..20 {
        let key = format!("/registry/configmaps/ns-00/c-{number}");
        let Done::At(written) = writes.create(&key, body(&key, 1), 0).await else { panic!("{key} is there") };
        let asked = Instant::now();
        let newest = kube.revision("/registry/configmaps/").await;
        assert!(newest >= written);
        // Asked every 100 ms until the cache has reached it.
        while cache.reached < newest {
            cache.request_progress().await;
            let _ = timeout(Duration::from_millis(100), cache.take_one()).await;
            assert!(asked.elapsed() < PATIENCE, "the cache does not get there");
        }
        times.push(asked.elapsed());
        let has = cache.seen.iter().any(|seen| *seen.key == *key);
        assert!(has, "the cache was told that it has everything up to {newest}, and lacks {key}@{written}");
    }
    times.sort_unstable();
    assert!(times[10] < Duration::from_secs(1), "consistent lists are slow: {times:?}");
}

/// Counts and keys, as the API server takes them for its statistics.
async fn statistics(kube: &Kube) {
    let count = kube.count("/registry/pods/").await;
    assert_eq!(count, (OBJECTS - DELETES) as i64);
    let keys = kube.keys_only("/registry/pods/").await;
    assert_eq!((keys.count, keys.kvs.len() as i64, keys.more), (count, count, false));
    assert!(
        keys.kvs
            .iter()
            .all(|kv| kv.value.is_empty() && kv.lease == 0 && kv.mod_revision > 0 && kv.version > 0)
    );
}

/// The texts that its packages look for.
async fn errors(kube: &Kube, cluster: &TestCluster, compacted: i64) {
    let newest = kube.revision("/registry/").await;
    let status = kube.page("/registry/pods/".into(), "/registry/pods/", 1, newest + 1_000).await.unwrap_err();
    let text = "etcdserver: mvcc: required revision is a future revision";
    assert_eq!((status.code(), status.message()), (Code::OutOfRange, text));
    let text = "etcdserver: mvcc: required revision has been compacted";
    let status = kube.page("/registry/pods/".into(), "/registry/pods/", 1, compacted - 1).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::OutOfRange, text));
    let status = kube.compact(compacted - 1).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::OutOfRange, text));
    kube.page("/registry/pods/".into(), "/registry/pods/", 1, compacted)
        .await
        .expect("that one is still there");
    // A watch from what is gone.
    let mut stream = Stream::open(cluster, 1).await;
    let response = stream.refused("/registry/pods/", compacted - 1).await;
    assert!(response.canceled && response.compact_revision >= compacted, "{response:?}");
    // What it asks to learn whether a server is there.
    assert_eq!(kube.get("/registry/health").await, None);
}
