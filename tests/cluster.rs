//! Three real pods with real sockets and volumes, under load, while they are killed, stopped, paused and moved.
//!
//! `cluster/world.rs` is the pods, `cluster/load.rs` the load and what must hold of what it saw; `cluster/scaling.rs` changes how
//! many pods there are, `cluster/steps.rs` in many steps while something else is wrong, `cluster/pods.rs` deletes them,
//! `cluster/volumes.rs` does to their volumes what happens to volumes, `cluster/restored.rs` to all of them,
//! `cluster/founding.rs` disturbs first installs, `cluster/outside.rs` takes DNS and the API server away,
//! `cluster/operating.rs` is what a human does, `cluster/leases.rs` what becomes of leases.

#![allow(clippy::pedantic, clippy::type_complexity)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    missing_docs
)]

#[path = "cluster/founding.rs"]
mod founding;
#[path = "cluster/leases.rs"]
mod leases;
#[path = "cluster/load.rs"]
mod load;
#[path = "cluster/operating.rs"]
mod operating;
#[path = "cluster/outside.rs"]
mod outside;
#[path = "cluster/pods.rs"]
mod pods;
#[path = "cluster/restored.rs"]
mod restored;
#[path = "cluster/scaling.rs"]
mod scaling;
#[path = "cluster/steps.rs"]
mod steps;
#[path = "cluster/volumes.rs"]
mod volumes;
#[path = "cluster/world.rs"]
mod world;

use std::time::Duration;

use load::Load;
use rustix::process::Signal;
use setstone::client::{Client, Consistency};
use setstone::mvcc::command::Put;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::time::Instant;
use world::{World, cpu, prefix, range, resident, signal_to, until};

/// Writes go on within this time after a leader was killed.
const KILLED_LEADER: Duration = Duration::from_secs(3);
/// Shortest election time-out: a hand-over that took longer was an election.
const ELECTION_MIN: Duration = Duration::from_millis(400);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_and_restarted_pods_lose_nothing() {
    let world = World::start(&[]).await;
    let load = Load::start(&world, "load");
    load.more(200).await;

    let leader = world.leader().await;
    let killed = Instant::now();
    world.playground.kill(leader).await.unwrap();
    load.more(200).await;
    let gap = load.longest_gap(killed);
    println!("leader killed: no write for {gap:?}");
    assert!(gap < KILLED_LEADER, "{gap:?}");
    world.ready().await;

    // A follower that is deleted comes back on another address.
    let leader = world.leader().await;
    for (what, ordinal) in [("follower", (leader + 1) % 3), ("leader", leader)] {
        let before = world.pod(ordinal);
        let begin = Instant::now();
        world.playground.restart(ordinal).await.unwrap();
        let moved = |pod: &setstone::playground::PodStatus| pod.ready && pod.uid != before.uid;
        world.playground.wait_until(world::DEADLINE, |s| s.pod(ordinal).is_some_and(moved)).await.unwrap();
        load.more(100).await;
        let gap = load.longest_gap(begin);
        println!("{what} restarted, back after {:?}: no write for {gap:?}", begin.elapsed());
        assert_ne!(world.pod(ordinal).address, before.address);
        world.ended_well(ordinal, before.pid.unwrap()).await;
        assert!(gap < ELECTION_MIN, "{what}: {gap:?}");
    }
    let history = load.stop().await;
    let (pairs, _) = world.agreed().await;
    history.check(&world, &pairs).await;
    for ordinal in 0..3 {
        let received = world.metric(ordinal, "setstone_snapshots_received_total").await;
        assert_eq!(received, Some(0.0), "pod {ordinal} can catch up from the log");
    }
    world.stop().await;
    for ordinal in 0..3 {
        // Members went away and came back; nobody told it for every heartbeat.
        let warnings = world.log_of(ordinal).lines().filter(|line| line.contains(" WARN ")).count();
        assert!(warnings < 30, "pod {ordinal} warned {warnings} times");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_was_away_for_long_catches_up_from_a_snapshot() {
    let settings = ["--log-before-snapshot", "256KiB", "--log-entries-kept", "10"];
    let world = World::start(&settings).await;
    let away = (world.leader().await + 1) % 3;
    world.signal(away, Signal::STOP);
    // It is killed while it is stopped, so that it cannot have what is written now.
    let load = Load::start_at(world.without(away), "load");
    load.more(2_000).await;
    for ordinal in (0..3).filter(|ordinal| *ordinal != away) {
        until(&format!("member {ordinal} cuts its log"), async || {
            world.metric(ordinal, "setstone_snapshots_made_total").await.filter(|made| *made >= 2.0)
        })
        .await;
    }
    world.playground.kill(away).await.unwrap();
    until("it received a snapshot", async || {
        world.metric(away, "setstone_snapshots_received_total").await.filter(|received| *received >= 1.0)
    })
    .await;
    world.ready().await;
    load.more(200).await;
    let history = load.stop().await;
    let (pairs, _) = world.agreed().await;
    history.check(&world, &pairs).await;
    // And it can stand on what it received.
    world.playground.kill(away).await.unwrap();
    world.ready().await;
    world.agreed().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_cluster_is_cheap_and_all_killed_at_once_lose_nothing() {
    let world = World::start(&[]).await;
    idle(&world).await;

    let load = Load::start(&world, "load");
    load.more(500).await;
    let pids: Vec<u32> = (0..3).map(|ordinal| world.pod(ordinal).pid.unwrap()).collect();
    let killed = Instant::now();
    for pid in &pids {
        signal_to(*pid, Signal::KILL);
    }
    let again = |status: &setstone::playground::Status| {
        status.is_ready() && status.pods.iter().all(|pod| pod.pid.is_some_and(|pid| !pids.contains(&pid)))
    };
    world.playground.wait_until(world::DEADLINE, again).await.unwrap();
    println!("all killed: ready again after {:?}", killed.elapsed());
    load.more(200).await;
    println!("all killed: no write for {:?}", load.longest_gap(killed));
    let history = load.stop().await;
    let (pairs, revision) = world.agreed().await;
    history.check(&world, &pairs).await;

    // Once more, with nobody who writes: the revision is the same.
    for ordinal in 0..3 {
        world.signal(ordinal, Signal::KILL);
    }
    let answer = until("the store answers", async || {
        world.remote.get(prefix(b"load"), Consistency::Linearizable).await.ok()
    })
    .await;
    assert_eq!(answer.header.revision, revision);
    world.ready().await;
    world.agreed().await;
    world.stop().await;
}

/// Less than 3 % of a core and 60 MiB, and nothing is written.
async fn idle(world: &World) {
    const SPAN: Duration = Duration::from_secs(10);
    world.leader().await;
    let pods: Vec<u32> = (0..3).map(|ordinal| world.pod(ordinal).pid.unwrap()).collect();
    // What starting left to do is done: nobody writes for two seconds.
    let mut written = flushed(world).await;
    let mut since = Instant::now();
    until("the cluster is idle", async || {
        let now = flushed(world).await;
        if now != written {
            (written, since) = (now, Instant::now());
        }
        (since.elapsed() > Duration::from_secs(2)).then_some(())
    })
    .await;
    let before: Vec<Duration> = pods.iter().map(|pid| cpu(*pid)).collect();
    let mut span = tokio::time::interval_at(Instant::now() + SPAN, SPAN);
    span.tick().await;
    for (ordinal, pid) in pods.iter().enumerate() {
        let used = cpu(*pid).checked_sub(before[ordinal]).unwrap();
        let share = used.as_secs_f64() / SPAN.as_secs_f64();
        let memory = resident(*pid);
        println!("idle pod {ordinal}: {:.1} % of a core, {} MiB", share * 100.0, memory >> 20);
        assert!(share < 0.03, "pod {ordinal} used {used:?} of CPU in {SPAN:?}");
        assert!(memory < 60 << 20, "pod {ordinal} has {memory} bytes");
    }
    assert_eq!(flushed(world).await, written, "the pods wrote to their logs");
}

/// Of each pod, how often it synced its log and how many bytes that has.
async fn flushed(world: &World) -> Vec<(f64, f64)> {
    let mut all = Vec::new();
    for ordinal in 0..3 {
        let syncs = world.metric(ordinal, "etcd_disk_wal_fsync_duration_seconds_count").await.unwrap();
        all.push((syncs, world.metric(ordinal, "setstone_log_bytes").await.unwrap()));
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_leader_is_replaced_and_serves_nothing_stale() {
    let world = World::start(&[]).await;
    let load = Load::start(&world, "load");
    load.more(200).await;
    let old = world.leader().await;
    let put = |value: &str| Put { key: "x".into(), value: value.to_owned().into(), ..Put::default() };
    world.member(old).put(put("old")).await.unwrap();

    let paused = Instant::now();
    world.signal(old, Signal::STOP);
    let new = world.leader_other_than(Some(old)).await;
    println!("leader paused: another after {:?}", paused.elapsed());
    assert!(paused.elapsed() < KILLED_LEADER, "{:?}", paused.elapsed());
    let newer = world.member(new).put(put("new")).await.unwrap();
    // Reads that were asking the old leader do not wait for it, nor do those that came after them.
    for ordinal in (0..3).filter(|ordinal| *ordinal != old) {
        let member = world.impatient(ordinal, Duration::from_secs(8));
        let read = member.get(range(b"x", None), Consistency::Linearizable).await.unwrap();
        assert_eq!(read.value.kvs[0].value, "new");
        println!("leader paused: member {ordinal} reads again after {:?}", paused.elapsed());
        assert!(paused.elapsed() < KILLED_LEADER, "{:?}", paused.elapsed());
    }

    // They are in the paused leader's sockets when it wakes up.
    let reads: Vec<_> = (0..16)
        .map(|_| {
            let member = world.impatient(old, Duration::from_secs(8));
            tokio::spawn(async move { member.get(range(b"x", None), Consistency::Linearizable).await })
        })
        .collect();
    let write = {
        let member = world.member(old).clone();
        tokio::spawn(async move { member.put(put("of the old leader")).await })
    };
    let address = world.pod(old).address.unwrap();
    until("the requests are there", async || (world::unread(address) > 16).then_some(())).await;
    world.signal(old, Signal::CONT);
    let mut answered = 0;
    for read in reads {
        if let Ok(answer) = read.await.unwrap() {
            answered += 1;
            assert!(answer.header.revision >= newer.header.revision, "stale: {answer:?}");
            assert_ne!(answer.value.kvs[0].value, "old", "stale");
        }
    }
    println!("{answered} of 16 reads of the leader that had been paused were answered");
    let write = write.await.unwrap();
    world.ready().await;
    load.more(200).await;
    let history = load.stop().await;
    let (pairs, _) = world.agreed().await;
    history.check(&world, &pairs).await;
    let x = pairs.iter().find(|pair| pair.key == "x").unwrap();
    match &write {
        Ok(answer) => {
            assert_eq!((x.mod_revision, &x.value[..]), (answer.header.revision, &b"of the old leader"[..]));
        }
        Err(error) if !error.is_outcome_unknown() => assert_eq!(x.value, "new", "{error}"),
        Err(_) => {}
    }
    println!(
        "the write to the leader that had been paused: {:?}",
        write.map(|answer| answer.header.revision)
    );
    world.stop().await;
}

/// The first signal drains, which takes a minute here; the second ends it at once.
#[tokio::test]
async fn a_second_sigterm_hurries() {
    let data = tempfile::tempdir().unwrap();
    let mut member = tokio::process::Command::new(env!("CARGO_BIN_EXE_setstone"))
        .args(["serve", "--listen-client", "127.0.0.1:0", "--listen-admin", "none", "--drain-delay", "60s"])
        .args(["--grace-period", "90s", "--exit-with-stdin", "--data-dir"])
        .arg(data.path().join("data"))
        .stdin(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let pid = member.id().unwrap();
    let mut log = BufReader::new(member.stderr.take().unwrap()).lines();
    let mut said = async |what: &str| {
        let heard = async {
            while let Some(line) = log.next_line().await.unwrap() {
                println!("{line}");
                if line.contains(what) {
                    return;
                }
            }
            panic!("it ended without {what:?}");
        };
        tokio::time::timeout(world::DEADLINE, heard).await.unwrap();
    };
    said("listening").await;
    signal_to(pid, Signal::TERM);
    said("a second signal hurries").await;
    let begin = Instant::now();
    signal_to(pid, Signal::TERM);
    said("stopped").await;
    let status = tokio::time::timeout(world::DEADLINE, member.wait()).await.unwrap().unwrap();
    println!("hurried: ended in {:?}", begin.elapsed());
    assert_eq!(status.code(), Some(0));
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
}
