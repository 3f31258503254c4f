//! Membership follows the size of the set, under load: nothing acknowledged is lost, and no step takes long.

use std::collections::BTreeMap;
use std::time::Duration;

use setstone::client::{self, Client, Remote};
use setstone::identity::{NodeId, Ordinal};
use setstone::playground::ApiMode;
use tokio::time::Instant;

use super::load::Load;
use super::world::{DEADLINE, World, http_get, until};

/// From the change of the size to the end of what follows from it.
pub const STEP: Duration = Duration::from_secs(30);

/// The members, by ordinal, each with whether it votes.
pub async fn members(at: &impl Client) -> Option<BTreeMap<Ordinal, (NodeId, bool)>> {
    let members = at.members().await.ok()?.value;
    Some(members.into_iter().map(|member| (member.id.ordinal(), (member.id, !member.is_learner))).collect())
}

/// Scales, and waits until there are as many pods and members, so many of which vote.
pub async fn scale(world: &World, size: Ordinal, voters: usize) -> BTreeMap<Ordinal, (NodeId, bool)> {
    world.playground.scale(size).await.unwrap();
    settled(world, size, voters).await
}

pub async fn settled(world: &World, size: Ordinal, voters: usize) -> BTreeMap<Ordinal, (NodeId, bool)> {
    let (begin, first) = (Instant::now(), world.member(0));
    let done = until(&format!("{size} members, of which {voters} vote"), async || {
        let members = members(first).await?;
        let right = members.len() == usize::from(size)
            && members.values().filter(|(_, votes)| *votes).count() == voters;
        (right && world.playground.status().is_ready()).then_some(members)
    })
    .await;
    println!("{size} pods, {voters} voters after {:?}", begin.elapsed());
    assert!(begin.elapsed() < STEP, "{:?}", begin.elapsed());
    done
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn membership_follows_the_stateful_set_under_load() {
    let world = World::start(&[]).await;
    // At the pod that stays: others lose their disks meanwhile, and what they show may go back.
    let endpoint = world.playground.endpoints().pods[0].clone();
    let load = Load::start_at(Remote::new(&endpoint, &client::Options::default()).unwrap(), "load");
    load.more(200).await;

    scale(&world, 4, 3).await;
    scale(&world, 5, 5).await;
    load.more(200).await;
    let before = scale(&world, 3, 3).await;
    load.more(200).await;
    scale(&world, 1, 1).await;
    load.more(200).await;
    // The volumes of the others are stale now. They come back as other disks.
    let after = scale(&world, 3, 3).await;
    assert_eq!(after[&0], before[&0]);
    for ordinal in [1, 2] {
        assert_ne!(after[&ordinal].0, before[&ordinal].0, "a removed disk never comes back under its old id");
    }
    load.more(200).await;

    // A lost volume is replaced.
    let begin = Instant::now();
    world.playground.delete_volume(1).await.unwrap();
    world.playground.restart(1).await.unwrap();
    until("the disk of pod 1 is replaced", async || {
        let members = members(world.member(0)).await?;
        (members[&1].0 != after[&1].0 && members.len() == 3 && members[&1].1).then_some(())
    })
    .await;
    println!("a lost volume was replaced after {:?}", begin.elapsed());
    world.ready().await;
    load.more(200).await;

    // Without the API server pods come and go, and nobody is removed for it.
    world.playground.set_api_server(ApiMode::Down).await.unwrap();
    world.playground.scale(2).await.unwrap();
    world.playground.wait_until(DEADLINE, |status| status.pods.len() == 2).await.unwrap();
    load.more(400).await;
    assert_eq!(members(world.member(0)).await.unwrap().len(), 3);
    // It comes back: the member that is silent is removed.
    world.playground.set_api_server(ApiMode::Up).await.unwrap();
    settled(&world, 2, 2).await;
    scale(&world, 3, 3).await;

    let history = load.stop().await;
    let (pairs, _) = world.agreed().await;
    history.check(&world, &pairs).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn membership_follows_the_setting() {
    let world = World::start(&["--size-from", "setting"]).await;
    let first = world.member(0);
    let resize = async |size| until("the size is set", async || first.resize(size).await.ok()).await;
    // Nothing was set: whoever comes is welcome, and nobody leaves.
    scale(&world, 4, 3).await;
    resize(3).await;
    scale(&world, 3, 3).await;
    // The pod is not wanted, and says so.
    world.playground.scale(4).await.unwrap();
    until("pod 3 says that it is outside", async || {
        let status = http_get(world.pod(3).address?, "/status").await.ok()?;
        status.contains("outside the desired range").then_some(())
    })
    .await;
    assert_eq!(members(first).await.unwrap().len(), 3);
    resize(4).await;
    settled(&world, 4, 3).await;
    world.playground.scale(3).await.unwrap();
    world.playground.wait_until(DEADLINE, |status| status.pods.len() == 3).await.unwrap();
    assert_eq!(members(first).await.unwrap().len(), 4, "stopping is not leaving");
    world.stop().await;
}
