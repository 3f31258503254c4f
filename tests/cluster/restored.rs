//! All volumes at once: put back to older copies, or one of them lost while no pod runs; and volumes of another cluster.

use std::path::Path;

use setstone::client::Client;
use setstone::identity::Ordinal;
use setstone::mvcc::KeyValue;
use setstone::mvcc::command::Put;
use setstone::playground::PodManagement;
use tokio::time::Instant;

use super::founding::one_cluster;
use super::scaling::{members, scale, settled};
use super::volumes::{MARKED, torn_out};
use super::world::{DEADLINE, World, status_of, until};

async fn write(world: &World, key: &str) {
    let put = Put { key: key.to_owned().into(), value: "v".into(), ..Put::default() };
    until("a write succeeds", async || world.member(0).put(put.clone()).await.ok()).await;
}

async fn write_some(world: &World, name: &str) {
    for number in 0..20 {
        write(world, &format!("{name}/{number}")).await;
    }
}

/// Writes for as long as marks take to tell what was written.
async fn write_past_the_marks(world: &World, name: &str) {
    let begin = Instant::now();
    let mut number = 0;
    until("more was written than can go unnoticed", async || {
        number += 1;
        write(world, &format!("{name}/{number}")).await;
        (begin.elapsed() > MARKED).then_some(())
    })
    .await;
}

/// All pods go, the volumes are put back to what was saved of them, and all come again.
async fn put_back(world: &World) {
    world.playground.scale(0).await.unwrap();
    world.playground.wait_until(DEADLINE, |status| status.pods.is_empty()).await.unwrap();
    for ordinal in 0..3 {
        world.playground.rollback_volume(ordinal).await.unwrap();
    }
    world.playground.scale(3).await.unwrap();
}

/// The keys that there were before a load's last write, which `agreed` makes.
fn keys(pairs: &[KeyValue]) -> Vec<(&[u8], &[u8])> {
    let kept = pairs.iter().filter(|pair| pair.key != "last");
    kept.map(|pair| (&pair.key[..], &pair.value[..])).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_volumes_are_put_back_to_older_copies() {
    let world = World::with(&[], |options| options.management = PodManagement::Parallel).await;
    let cluster = world.member(0).status().await.unwrap().header.cluster;
    let before = members(&world.remote).await.unwrap();
    write_some(&world, "kept").await;
    let (pairs, _) = world.agreed().await;
    for ordinal in 0..3 {
        world.playground.save_volume(ordinal).await.unwrap();
    }
    world.ready().await;
    write_past_the_marks(&world, "gone").await;

    // Copies of one moment are a store of that moment.
    let begin = Instant::now();
    put_back(&world).await;
    assert_eq!(settled(&world, 3, 3).await, before, "the disks are what they were");
    let (now, _) = world.agreed().await;
    println!("all volumes put back: serving after {:?}", begin.elapsed());
    assert_eq!(keys(&now), keys(&pairs));
    assert_eq!(world.member(0).status().await.unwrap().header.cluster, cluster);

    // One that is older than the others is noticed, and replaced.
    write_past_the_marks(&world, "again").await;
    let (pairs, _) = world.agreed().await;
    for ordinal in 1..3 {
        world.playground.save_volume(ordinal).await.unwrap();
    }
    write_some(&world, "gone too").await;
    put_back(&world).await;
    until("the oldest disk is replaced", async || {
        let members = members(world.member(1)).await?;
        (members[&0] != before[&0] && members[&1] == before[&1] && members[&2] == before[&2]).then_some(())
    })
    .await;
    settled(&world, 3, 3).await;
    let (now, _) = world.agreed().await;
    assert_eq!(keys(&now), keys(&pairs));
    one_cluster(&world).await;
    world.stop().await;
}

/// A set that began with one pod has three; all stop, and the volume of the first is lost. The others are the cluster, and it comes back to
/// them. Then two of five.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_set_that_began_with_one_pod_loses_the_volume_of_the_first() {
    let world = World::with(&[], |options| {
        options.replicas = 1;
        options.management = PodManagement::Parallel;
    })
    .await;
    write_some(&world, "kept").await;
    let cluster = world.member(0).status().await.unwrap().header.cluster;
    let before = scale(&world, 3, 3).await;
    world.playground.scale(0).await.unwrap();
    world.playground.wait_until(DEADLINE, |status| status.pods.is_empty()).await.unwrap();
    world.playground.delete_volume(0).await.unwrap();
    let begin = Instant::now();
    world.playground.scale(3).await.unwrap();
    until("the others have another disk for pod 0", async || {
        let members = members(world.member(0)).await?;
        (members[&0] != before[&0] && members[&1] == before[&1]).then_some(())
    })
    .await;
    let after = settled(&world, 3, 3).await;
    println!("volume 0 of a set that slept: replaced after {:?}", begin.elapsed());
    assert_eq!(world.member(0).status().await.unwrap().header.cluster, cluster);

    let before = scale(&world, 5, 5).await;
    assert_eq!(before[&1], after[&1]);
    let begin = Instant::now();
    let leader = until("somebody leads", async || leader(&world).await).await;
    let two: Vec<Ordinal> = (0..5).filter(|ordinal| *ordinal != leader).take(1).chain([leader]).collect();
    for ordinal in &two {
        torn_out(&world, *ordinal).await;
    }
    let other = (0..5).find(|ordinal| !two.contains(ordinal)).unwrap();
    until("both have other disks that vote", async || {
        let members = members(&world.impatient(other, DEADLINE)).await?;
        let voting = members.len() == 5 && members.values().all(|(_, votes)| *votes);
        (voting && two.iter().all(|ordinal| members[ordinal] != before[ordinal])).then_some(())
    })
    .await;
    println!("volumes {two:?} of five lost, the leader's too: replaced after {:?}", begin.elapsed());
    world.ready().await;
    let pairs = world.everything(0, 1).await;
    assert_eq!(pairs.iter().filter(|pair| pair.key.starts_with(b"kept/")).count(), 20);
    one_cluster(&world).await;
    world.playground.hurry().await;
    world.nobody_panicked();
}

async fn leader(world: &World) -> Option<Ordinal> {
    let status = world.member(0).status().await.ok()?.value;
    status.leader.map(|leader| leader.ordinal())
}

/// A pod gets the volume that its namesake has in another cluster: it is refused, with the reason, and nothing is done to it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_of_another_cluster_is_refused() {
    let kept = tempfile::tempdir().unwrap();
    {
        let other = World::with(&[], |options| options.replicas = 2).await;
        write_some(&other, "other").await;
        other.playground.stop().await;
        copy(&other.file("setstone-1"), &kept.path().join("setstone-1"));
    }
    let world = World::with(&[], |options| options.management = PodManagement::Parallel).await;
    write_some(&world, "kept").await;
    let before = members(&world.remote).await.unwrap();
    std::fs::create_dir_all(world.file("saved")).unwrap();
    copy(&kept.path().join("setstone-1"), &world.file("saved/setstone-1"));
    world.playground.rollback_volume(1).await.unwrap();
    let why = until("the volume of another cluster is refused", async || {
        let said = status_of(&world, 1).await?["start"]["decided"].as_str()?.to_owned();
        said.contains("refusing").then_some(said)
    })
    .await;
    println!("{why}");
    let cluster = world.member(0).status().await.unwrap().header.cluster;
    assert!(why.contains(&cluster.to_string()), "{why}");
    write_some(&world, "more").await;
    assert_eq!(members(world.member(0)).await.unwrap(), before, "nobody is removed for it");

    // Whoever put it there takes it away again.
    torn_out(&world, 1).await;
    until("pod 1 has a disk of its own", async || {
        let members = members(world.member(0)).await?;
        (members[&1].0 != before[&1].0 && members[&1].1).then_some(())
    })
    .await;
    world.ready().await;
    world.agreed().await;
    one_cluster(&world).await;
    world.stop().await;
}

fn copy(from: &Path, to: &Path) {
    let copied = std::process::Command::new("cp").arg("-r").args([from, to]).status().unwrap();
    assert!(copied.success());
}
