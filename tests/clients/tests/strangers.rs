//! A port scanner's and a fuzzer's view of a cluster: frames torn, slow, huge and endless on every port of three members, while others go
//! on working.
//!
//! What must hold: no member panics or ends, none has more memory or file descriptors than before once the strangers are gone, and others
//! are served all the time, with a p99 within three times of what it was.
//!
//! A short run is a part of `cargo test`. A long one, an hour for example:
//!
//! ```text
//! STRANGERS_SECONDS=3600 STRANGERS_SEED=7 SETSTONE_BIN=… cargo test --release --manifest-path tests/clients/Cargo.toml --test strangers \
//!     -- --ignored --nocapture
//! ```

#[path = "strangers/attacks.rs"]
mod attacks;
#[path = "strangers/dice.rs"]
mod dice;
mod world;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dice::Dice;
use etcd_client::Client;
use world::cluster::Cluster;

/// Strangers at a time.
const STRANGERS: u64 = 12;
/// Others, each of which reads and writes in turn.
const OTHERS: usize = 4;
/// Pause of one of the others after each call: they are there to be timed, not to be load.
const PAUSE: Duration = Duration::from_millis(5);
/// How long the others are timed before.
const BEFORE: Duration = Duration::from_secs(10);
/// Time in which everything of the strangers must be gone: a silent connection is asked after a minute, and has 20 s for an answer.
const AFTERWARDS: Duration = Duration::from_secs(100);
/// By how much a member may have grown: what its allocator keeps, and the log's cache.
const GROWTH_BYTES: u64 = 64 << 20;
/// Descriptors that a member may have more of: its files and peers.
const MORE_DESCRIPTORS: usize = 24;

fn variable(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

#[test]
fn a_short_visit() {
    visit(Duration::from_secs(variable("STRANGERS_SECONDS", 20)), None);
}

/// See the header.
#[test]
#[ignore = "long; on demand"]
fn a_long_visit() {
    visit(Duration::from_secs(variable("STRANGERS_SECONDS", 600)), Some(3.0));
}

/// Lets strangers in for `time`. `slower` bounds by how much p99 of the others may grow, if it is to be looked at.
fn visit(time: Duration, slower: Option<f64>) {
    let seed = variable("STRANGERS_SEED", 1);
    println!("seed {seed}, {time:?}");
    let mut cluster = Cluster::start("strangers");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let endpoints: Vec<String> = cluster.endpoints().split(',').map(str::to_owned).collect();
    let others = || runtime.spawn(others(endpoints.clone(), BEFORE));
    runtime.block_on(others()).unwrap(); // The first calls pay for what all share.
    let before = runtime.block_on(others()).unwrap();
    let sizes_before = sizes(&cluster);
    println!("before: {before}; memory and descriptors {sizes_before:?}");

    let ports = cluster.ports();
    let stop = Arc::new(AtomicBool::new(false));
    let counts: Arc<Vec<AtomicU64>> = Arc::new(attacks::NAMES.iter().map(|_| AtomicU64::new(0)).collect());
    let strangers: Vec<_> = (0..STRANGERS)
        .map(|number| {
            let (ports, stop, counts) = (ports.clone(), Arc::clone(&stop), Arc::clone(&counts));
            std::thread::spawn(move || stranger(seed << 8 | number, &ports, &stop, &counts))
        })
        .collect();
    let end = Instant::now() + time;
    let mut during = Vec::new();
    while Instant::now() < end {
        let now = runtime.block_on(others()).unwrap();
        runtime.block_on(forget(&endpoints[0]));
        println!("during: {now}; memory and descriptors {:?}", sizes(&cluster));
        during.push(now);
        assert!(cluster.all_run(), "a member ended:\n{}", cluster.logs());
    }
    stop.store(true, Ordering::SeqCst);
    let sent: u64 = strangers.into_iter().map(|thread| thread.join().unwrap()).sum();
    for (name, count) in attacks::NAMES.iter().zip(counts.iter()) {
        println!("{} times: {name}", count.load(Ordering::SeqCst));
    }
    println!("{} MiB sent", sent >> 20);
    afterwards(&cluster, &sizes_before);
    assert!(!cluster.has_panicked(), "{}", cluster.logs());
    let p99 = during.iter().map(|during| during.p99).max().unwrap_or_default();
    println!("p99 of others: {:?} before, {p99:?} at worst during", before.p99);
    let failed: u64 = during.iter().map(|during| during.failed).sum();
    assert_eq!(failed, 0, "calls of others failed");
    if let Some(slower) = slower {
        // The worst of many parts of a run is not what happens in it: the middle one is.
        let mut all: Vec<Duration> = during.iter().map(|during| during.p99).collect();
        all.sort();
        let middle = all[all.len() / 2];
        println!("p99 of others in the middle of {} parts: {middle:?}", all.len());
        assert!(middle <= before.p99.mul_f64(slower), "p99 was {:?} before and is {middle:?}", before.p99);
    }
}

/// Waits until each member is about as large as it was.
fn afterwards(cluster: &Cluster, before: &[(u64, usize)]) {
    let begin = Instant::now();
    loop {
        let now = sizes(cluster);
        let is_gone =
            now.iter().zip(before).all(|((memory, descriptors), (memory_before, descriptors_before))| {
                memory.saturating_sub(*memory_before) < GROWTH_BYTES
                    && *descriptors <= descriptors_before + MORE_DESCRIPTORS
            });
        if is_gone {
            println!("after {:?}: memory and descriptors {now:?}", begin.elapsed());
            return;
        }
        assert!(begin.elapsed() < AFTERWARDS, "something stays: {before:?} before, {now:?} now");
        // Members close what is silent in their own time.
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// Bytes in memory and open descriptors of each member.
fn sizes(cluster: &Cluster) -> Vec<(u64, usize)> {
    let size = |id: u32| {
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let memory: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
        (memory << 10, std::fs::read_dir(format!("/proc/{id}/fd")).unwrap().count())
    };
    cluster.process_ids().into_iter().map(size).collect()
}

/// One stranger: attack after attack, each on some port. How many bytes it has sent.
fn stranger(seed: u64, ports: &[SocketAddr], stop: &AtomicBool, counts: &[AtomicU64]) -> u64 {
    let mut dice = Dice(seed);
    let mut sent = 0;
    while !stop.load(Ordering::SeqCst) {
        let (number, port) = (dice.below(counts.len()), ports[dice.below(ports.len())]);
        sent += attacks::run(number, port, &mut dice);
        counts[number].fetch_add(1, Ordering::SeqCst);
    }
    sent
}

/// Compacts what the others have written: in an hour they make hundreds of thousands of revisions, and whoever keeps those grows by them.
async fn forget(endpoint: &str) {
    let mut client = Client::connect([endpoint], None).await.unwrap();
    let revision = client.get("others/0", None).await.unwrap().header().unwrap().revision();
    client.compact(revision, None).await.unwrap();
}

/// How the others fared.
struct Timed {
    calls: usize,
    failed: u64,
    p50: Duration,
    p99: Duration,
}

impl std::fmt::Display for Timed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { calls, failed, p50, p99 } = self;
        write!(f, "{calls} calls of others, {failed} failed, p50 {p50:?}, p99 {p99:?}")
    }
}

/// Reads and writes for `time`.
async fn others(endpoints: Vec<String>, time: Duration) -> Timed {
    let tasks: Vec<_> = (0..OTHERS)
        .map(|number| {
            let endpoint = endpoints[number % endpoints.len()].clone();
            tokio::spawn(async move {
                let mut client = Client::connect([endpoint], None).await.unwrap();
                let (mut times, mut failed) = (Vec::new(), 0);
                let end = Instant::now() + time;
                while Instant::now() < end {
                    let begin = Instant::now();
                    let done = if times.len() % 2 == 0 {
                        client.put(format!("others/{number}"), "value", None).await.map(drop)
                    } else {
                        client.get(format!("others/{number}"), None).await.map(drop)
                    };
                    times.push(begin.elapsed());
                    if let Err(error) = done {
                        println!("a call of others failed: {error}");
                        failed += 1;
                    }
                    // See PAUSE.
                    tokio::time::sleep(PAUSE).await;
                }
                (times, failed)
            })
        })
        .collect();
    let (mut all, mut failed) = (Vec::new(), 0);
    for task in tasks {
        let (times, failures) = task.await.unwrap();
        all.extend(times);
        failed += failures;
    }
    all.sort();
    let at = |share: usize| all[all.len() * share / 100];
    Timed { calls: all.len(), failed, p50: at(50), p99: at(99) }
}

/// The strangers are the same whenever the seed is.
#[test]
fn a_seed_is_a_visit() {
    let rolls = |seed| {
        let mut dice = Dice(seed);
        (0..100).map(|_| (dice.below(attacks::NAMES.len()), dice.bytes(20))).collect::<Vec<_>>()
    };
    assert_eq!(rolls(3), rolls(3));
    assert_ne!(rolls(3), rolls(4));
}
