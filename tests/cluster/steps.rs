//! A set that is scaled in many steps, in both pod management policies, while a member is down or the API server is gone half-way. Under a
//! load that is checked: nothing that was acknowledged is lost, and there is a majority at any time.

use rustix::process::Signal;
use setstone::client::Client;
use setstone::identity::Ordinal;
use setstone::playground::{ApiMode, PodManagement};
use tokio::time::Instant;

use super::load::Load;
use super::scaling::{STEP, members, scale, settled};
use super::world::{DEADLINE, World, until};

/// One of so many members that neither leads nor is the first.
async fn follower(world: &World, of: Ordinal) -> Ordinal {
    let leader = until("somebody leads", async || {
        world.member(0).status().await.ok()?.value.leader.map(|leader| leader.ordinal())
    })
    .await;
    (1..of).find(|ordinal| *ordinal != leader).unwrap()
}

/// 1→3→5→3→4→3→1→5→1, with one member down on the way to five, and without the API server on the way back to three.
async fn steps(management: PodManagement) {
    let world = World::with(&[], |options| {
        options.replicas = 1;
        options.management = management;
    })
    .await;
    let load = Load::of_cluster(world.remote.clone(), "load");
    load.more(100).await;
    scale(&world, 3, 3).await;

    with_one_down(&world, &load, management).await;
    without_api_server(&world, &load).await;
    scale(&world, 4, 3).await;
    scale(&world, 3, 3).await;
    load.more(100).await;
    for (size, voters) in [(1, 1), (5, 5), (1, 1)] {
        scale(&world, size, voters).await;
        load.more(50).await;
    }
    let history = load.stop().await;
    let (pairs, _) = world.agreed().await;
    history.check(&world, &pairs).await;
    world.stop().await;
}

/// 3→5. Parallel gets there with four of five. In order no pod is created while one before it is not ready: then when it is back.
async fn with_one_down(world: &World, load: &Load, management: PodManagement) {
    let begin = Instant::now();
    let down = follower(world, 3).await;
    world.signal(down, Signal::STOP);
    world.playground.scale(5).await.unwrap();
    load.more(50).await;
    if management == PodManagement::Parallel {
        until("five vote, one of them down", async || {
            let members = members(world.member(0)).await?;
            (members.len() == 5 && members.values().all(|(_, votes)| *votes)).then_some(())
        })
        .await;
        println!("five with pod {down} down after {:?}", begin.elapsed());
        load.more(50).await;
    }
    world.signal(down, Signal::CONT);
    settled(world, 5, 5).await;
    assert!(begin.elapsed() < STEP, "{:?}", begin.elapsed());
}

/// 5→3: the pods go, and nobody knows whether they come back; the three that are left are a majority. Then it is known.
async fn without_api_server(world: &World, load: &Load) {
    world.playground.set_api_server(ApiMode::Silent).await.unwrap();
    world.playground.scale(3).await.unwrap();
    world.playground.wait_until(DEADLINE, |status| status.pods.len() == 3).await.unwrap();
    load.more(100).await;
    assert_eq!(members(world.member(0)).await.unwrap().len(), 5, "nobody is removed because it is silent");
    world.playground.set_api_server(ApiMode::Up).await.unwrap();
    settled(world, 3, 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_steps_in_order() {
    steps(PodManagement::OrderedReady).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_steps_all_at_once() {
    steps(PodManagement::Parallel).await;
}
