//! Volumes that are lost, set back, or given to the wrong pod, under load.

use std::collections::BTreeMap;
use std::time::Duration;

use setstone::identity::{NodeId, Ordinal};
use setstone::playground::ApiMode;
use tokio::time::Instant;

use super::load::Load;
use super::scaling::members;
use super::world::{DEADLINE, World, signal_to, status_of, until};

/// From the loss of a volume until another disk votes in its place.
const REPLACED: Duration = Duration::from_secs(20);
/// Marks are written once a second: what was written for that long cannot go unnoticed when it is gone.
pub const MARKED: Duration = Duration::from_millis(2_500);

type Members = BTreeMap<Ordinal, (NodeId, bool)>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_and_rolled_back_volumes_are_replaced_and_nothing_is_lost() {
    let world = World::start(&[]).await;
    let load = Load::of_cluster(world.remote.clone(), "load");
    load.more(200).await;
    for pod in ["a follower", "the leader", "ordinal 0"] {
        for running in [true, false] {
            let ordinal = chosen(&world, pod).await;
            lost(&world, &load, ordinal, running).await;
            println!("that was {pod}, {}", if running { "stopped in order" } else { "killed" });
        }
    }
    // One that goes while no pod has it.
    lost_while_away(&world, &load).await;
    for pod in ["a follower", "the leader"] {
        let ordinal = chosen(&world, pod).await;
        rolled_back(&world, &load, ordinal).await;
    }
    let history = load.stop().await;
    let (pairs, _) = world.agreed().await;
    history.check(&world, &pairs).await;
    swapped(&world).await;
    world.stop().await;
}

async fn chosen(world: &World, pod: &str) -> Ordinal {
    match pod {
        "ordinal 0" => 0,
        "the leader" => world.leader().await,
        _ => {
            let leader = world.leader().await;
            (1..3).find(|ordinal| *ordinal != leader).unwrap()
        }
    }
}

/// Waits until another disk votes in the place of this ordinal's, and nothing else has changed.
async fn healed(world: &World, ordinal: Ordinal, before: &Members, begin: Instant) {
    let after = until(&format!("another disk votes for pod {ordinal}"), async || {
        let members = members(&world.remote).await?;
        let other = members.get(&ordinal)?.0 != before[&ordinal].0;
        (other && members.len() == 3 && members.values().all(|(_, votes)| *votes)).then_some(members)
    })
    .await;
    let took = begin.elapsed();
    println!("pod {ordinal} has another disk that votes after {took:?}");
    assert!(took < REPLACED, "{took:?}");
    assert!(after[&ordinal].0.incarnation() > before[&ordinal].0.incarnation());
    for (other, member) in before.iter().filter(|(other, _)| **other != ordinal) {
        assert_eq!(&after[other], member, "the others are left alone");
    }
    world.ready().await;
}

/// A volume is gone when its pod comes back, whether that had stopped in order or was killed.
async fn lost(world: &World, load: &Load, ordinal: Ordinal, running: bool) {
    let (before, begin) = (members(&world.remote).await.unwrap(), Instant::now());
    if running {
        world.playground.delete_volume(ordinal).await.unwrap();
        world.playground.restart(ordinal).await.unwrap();
    } else {
        torn_out(world, ordinal).await;
    }
    healed(world, ordinal, &before, begin).await;
    load.more(200).await;
}

/// The process of a pod is killed, and its volume is gone when it comes back.
pub async fn torn_out(world: &World, ordinal: Ordinal) {
    let pid = world.pod(ordinal).pid.unwrap();
    // The object first, or its container would start again on what is there.
    signal_to(pid, rustix::process::Signal::STOP);
    world.playground.delete_volume(ordinal).await.unwrap();
    world.playground.restart(ordinal).await.unwrap();
    signal_to(pid, rustix::process::Signal::KILL);
}

/// A pod is gone for a while, for reasons that the members know nothing of, and its volume with it.
async fn lost_while_away(world: &World, load: &Load) {
    let before = members(&world.remote).await.unwrap();
    world.playground.set_api_server(ApiMode::Down).await.unwrap();
    world.playground.scale(2).await.unwrap();
    world.playground.wait_until(DEADLINE, |status| status.pods.len() == 2).await.unwrap();
    world.playground.delete_volume(2).await.unwrap();
    assert!(!world.file("setstone-2").exists());
    load.more(200).await;
    let begin = Instant::now();
    world.playground.scale(3).await.unwrap();
    world.playground.set_api_server(ApiMode::Up).await.unwrap();
    healed(world, 2, &before, begin).await;
}

/// A pod comes back with its volume as it was some time ago.
async fn rolled_back(world: &World, load: &Load, ordinal: Ordinal) {
    world.playground.save_volume(ordinal).await.unwrap();
    let saved = Instant::now();
    world.ready().await;
    until("more was written than can go unnoticed", async || {
        load.more(100).await;
        (saved.elapsed() > MARKED).then_some(())
    })
    .await;
    let (before, begin) = (members(&world.remote).await.unwrap(), Instant::now());
    world.playground.rollback_volume(ordinal).await.unwrap();
    healed(world, ordinal, &before, begin).await;
    let log = world.log_of(ordinal);
    let noticed = log.lines().rfind(|line| line.contains("the disk is lost"));
    println!("pod {ordinal}: {}", noticed.expect("it says that its disk was set back"));
    load.more(200).await;
}

/// Two good disks in the wrong places: nothing is touched until they are where they belong.
async fn swapped(world: &World) {
    let load = Load::start(world, "before");
    load.more(100).await;
    let history = load.stop().await;
    let (pairs, _) = world.agreed().await;
    let before = members(&world.remote).await.unwrap();
    let begin = Instant::now();
    world.playground.swap_volumes(1, 2).await.unwrap();
    for (ordinal, other) in [(1, 2), (2, 1)] {
        let why = until(&format!("pod {ordinal} refuses the disk"), async || {
            status_of(world, ordinal).await?["start"]["decided"]
                .as_str()
                .filter(|text| text.contains("refusing"))
                .map(str::to_owned)
        })
        .await;
        println!("pod {ordinal} after {:?}: {why}", begin.elapsed());
        assert!(why.contains(&other.to_string()), "{why}");
    }
    world.playground.swap_volumes(2, 1).await.unwrap();
    world.ready().await;
    until("all vote as before", async || (members(&world.remote).await? == before).then_some(())).await;
    println!("swapped and back: serving after {:?}", begin.elapsed());
    history.check(world, &pairs).await;
    world.agreed().await;
}
