//! Pods that are deleted, one, all, and with force; sets that sleep and wake up; a name server that is gone.

use std::time::Duration;

use rustix::process::Signal;
use setstone::client::{Client, Consistency};
use setstone::identity::Ordinal;
use setstone::mvcc::command::Put;
use setstone::playground::{DnsMode, OrphanStatus, PodManagement, Status, WhenScaled};
use tokio::time::Instant;

use super::load::Load;
use super::scaling::{members, scale};
use super::world::{DEADLINE, World, http_get, prefix, signal_to, until};

/// The exit code for a data directory that another process has.
const IN_USE: &str = "exit code 11";

/// Waits until each of these pods was replaced by another, and all are ready.
async fn replaced(world: &World, before: &Status, ordinals: impl Fn(Ordinal) -> bool) -> Status {
    let again = |status: &Status| {
        let old = |ordinal| before.pod(ordinal).and_then(|pod| pod.uid);
        status.is_ready()
            && status.pods.iter().all(|pod| !ordinals(pod.ordinal) || pod.uid != old(pod.ordinal))
    };
    world.playground.wait_until(DEADLINE, again).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleted_pods_come_back_and_nothing_is_lost() {
    let world = World::start(&[]).await;
    rolling_restart(&world).await;
    without_names(&world).await;
    let load = Load::start(&world, "load");
    load.more(200).await;

    // All at once.
    let (before, begin) = (world.playground.status(), Instant::now());
    world.playground.delete_all().await.unwrap();
    replaced(&world, &before, |_| true).await;
    println!("all deleted: ready again after {:?}", begin.elapsed());
    load.more(200).await;
    println!("all deleted: no write for {:?}", load.longest_gap(begin));

    let follower = (world.leader().await + 1) % 3;
    deleted_with_force(&world, &load, follower, Duration::from_mins(1)).await;
    let leader = world.leader().await;
    deleted_with_force(&world, &load, leader, Duration::ZERO).await;
    let history = load.stop().await;
    let (pairs, _) = world.agreed().await;
    history.check(&world, &pairs).await;

    sleep(&world).await;
    world.stop().await;
}

/// From the highest, one after the other; clients that repeat what may be repeated do not notice.
async fn rolling_restart(world: &World) {
    let load = Load::start(world, "rolling");
    load.more(200).await;
    let (before, begin) = (world.playground.status(), Instant::now());
    let mut changes = world.playground.changes();
    world.playground.restart_rolling().await.unwrap();
    let watched = async {
        loop {
            let status = changes.borrow_and_update().clone();
            assert!(status.pods.iter().filter(|pod| !pod.ready).count() <= 1, "two at once: {status:?}");
            changes.changed().await.unwrap();
        }
    };
    tokio::select! {
        () = watched => {}
        _ = replaced(world, &before, |_| true) => {}
    }
    println!("rolling restart: {:?}, no write for {:?}", begin.elapsed(), load.longest_gap(begin));
    load.more(200).await;
    let history = load.stop().await;
    history.nothing_failed();
    let (pairs, _) = world.agreed().await;
    history.check(world, &pairs).await;
    for pod in &before.pods {
        world.ended_well(pod.ordinal, pod.pid.unwrap()).await;
    }
}

/// Members that know each other need no names.
async fn without_names(world: &World) {
    let load = Load::start(world, "names");
    for mode in [DnsMode::Down, DnsMode::Silent] {
        world.playground.set_dns(mode).await.unwrap();
        load.more(1_000).await;
    }
    world.playground.set_dns(DnsMode::Up).await.unwrap();
    load.stop().await.nothing_failed();

    // A name that leads to another pod makes nobody take the one for the other.
    let (before, load) = (world.playground.status(), Load::start(world, "lies"));
    world.playground.set_dns_stale(2, 1).await.unwrap();
    world.playground.restart(2).await.unwrap();
    until("another pod 2 runs", async || {
        (world.pod(2).uid != before.pods[2].uid && world.pod(2).pid.is_some()).then_some(())
    })
    .await;
    load.more(400).await;
    world.playground.set_dns(DnsMode::Up).await.unwrap();
    replaced(world, &before, |ordinal| ordinal == 2).await;
    load.more(100).await;
    let history = load.stop().await;
    let (pairs, _) = world.agreed().await;
    history.check(world, &pairs).await;
}

/// The old process and the new one have one volume, and never serve at once. The old one is ended here if it lingers.
async fn deleted_with_force(world: &World, load: &Load, ordinal: Ordinal, linger: Duration) {
    let (old, begin) = (world.pod(ordinal), Instant::now());
    let before = members(&world.remote).await.unwrap();
    world.playground.force_delete(ordinal, linger).await.unwrap();
    let status = world.playground.status();
    let orphan = OrphanStatus { ordinal, uid: old.uid.unwrap(), address: old.address, pid: old.pid };
    assert_eq!(status.orphans, [orphan]);
    if !linger.is_zero() {
        until("the new process finds the volume taken", async || {
            world.pod(ordinal).last_exit.filter(|exit| exit == IN_USE)
        })
        .await;
        // Not once: for as long as the old one runs.
        let attempts = world.pod(ordinal).restarts;
        until("it tries again", async || (world.pod(ordinal).restarts > attempts + 3).then_some(())).await;
        let pod = world.pod(ordinal);
        assert!(!pod.ready && pod.address != old.address, "{pod:?}");
        let serving = http_get(old.address.unwrap(), "/readyz").await.unwrap();
        assert!(serving.starts_with("HTTP/1.1 200"), "the old one serves: {serving}");
        load.more(200).await;
        signal_to(old.pid.unwrap(), Signal::TERM);
    }
    let moved = |status: &Status| status.is_ready() && status.orphans.is_empty();
    world.playground.wait_until(DEADLINE, moved).await.unwrap();
    println!("pod {ordinal} deleted with force: ready again after {:?}", begin.elapsed());
    world.ended_well(ordinal, old.pid.unwrap()).await;
    assert_ne!(world.pod(ordinal).uid, old.uid);
    load.more(200).await;
    assert_eq!(members(&world.remote).await.unwrap(), before, "the disk is the same, and so is the member");
}

/// To no pods and back: everything is there, and everybody is who they were.
async fn sleep(world: &World) {
    let size = world.size();
    let (pairs, revision) = world.agreed().await;
    let before = members(&world.remote).await.unwrap();
    let begin = Instant::now();
    world.playground.scale(0).await.unwrap();
    world.playground.wait_until(DEADLINE, |status| status.pods.is_empty()).await.unwrap();
    let slept = begin.elapsed();
    world.playground.scale(size).await.unwrap();
    world.ready().await;
    println!("{size} pods asleep after {slept:?}, and back after {:?}", begin.elapsed());
    let answer = until("the store answers", async || {
        world.remote.get(prefix(b""), Consistency::Linearizable).await.ok()
    })
    .await;
    assert_eq!((answer.header.revision, answer.value.kvs.len()), (revision, pairs.len()));
    assert_eq!(members(&world.remote).await.unwrap(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_that_come_and_go_all_at_once() {
    let world = World::with(&[], |options| {
        options.management = PodManagement::Parallel;
        options.replicas = 5;
    })
    .await;
    let load = Load::of_cluster(world.remote.clone(), "load");
    load.more(200).await;
    let before = scale(&world, 5, 5).await;
    scale(&world, 1, 1).await;
    load.more(200).await;
    let after = scale(&world, 5, 5).await;
    assert_eq!(after[&0], before[&0]);
    for ordinal in 1..5 {
        assert_ne!(after[&ordinal], before[&ordinal], "a removed disk never comes back under its old id");
    }
    load.more(200).await;
    let history = load.stop().await;
    let (pairs, _) = world.agreed().await;
    history.check(&world, &pairs).await;
    sleep(&world).await;
    world.agreed().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_set_that_keeps_no_volumes_shrinks_and_grows() {
    let world = World::with(&[], |options| options.when_scaled = WhenScaled::Delete).await;
    let load = Load::of_cluster(world.remote.clone(), "load");
    load.more(200).await;
    let before = scale(&world, 3, 3).await;
    scale(&world, 1, 1).await;
    for ordinal in [1, 2] {
        until(&format!("volume {ordinal} goes with its pod"), async || {
            (!world.file(&format!("setstone-{ordinal}")).exists()).then_some(())
        })
        .await;
    }
    assert!(world.file("setstone-0").exists());
    load.more(200).await;
    let after = scale(&world, 3, 3).await;
    assert_eq!(after[&0], before[&0]);
    assert!(after[&1] != before[&1] && after[&2] != before[&2]);
    let last = Put { key: "one".into(), value: "more".into(), ..Put::default() };
    world.remote.put(last).await.unwrap();
    let history = load.stop().await;
    let (pairs, _) = world.agreed().await;
    history.check(&world, &pairs).await;
    // A pod that is deleted comes back with the volume that it had.
    let status = world.playground.status();
    world.playground.restart(2).await.unwrap();
    replaced(&world, &status, |ordinal| ordinal == 2).await;
    assert_eq!(members(&world.remote).await.unwrap(), after);
    world.stop().await;
}
