//! First installs that are disturbed: scaled before they are complete, or robbed of a volume half-way. One cluster comes of it, never two.

use std::collections::BTreeSet;
use std::time::Duration;

use setstone::client::Client;
use setstone::identity::Ordinal;
use setstone::mvcc::command::Put;
use setstone::playground::PodManagement;
use tokio::time::Instant;

use super::load::Load;
use super::scaling::settled;
use super::volumes::torn_out;
use super::world::{DEADLINE, LOOK, World, status_of, until};

/// Every pod that answers is of one cluster.
pub async fn one_cluster(world: &World) {
    let mut clusters = BTreeSet::new();
    for ordinal in 0..world.playground.status().replicas {
        let status = until(&format!("pod {ordinal} answers"), async || status_of(world, ordinal).await).await;
        clusters.insert(status["disk"]["cluster"].as_str().unwrap().to_owned());
    }
    assert_eq!(clusters.len(), 1, "{clusters:?}");
}

/// The first pod of three is alone, because there is to be one only by now: it founds nothing by itself, and says why. With the others,
/// and two more, it does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_install_that_is_scaled_before_it_is_complete() {
    let world = World::begin(&[], |_| {}).await;
    world.playground.scale(1).await.unwrap();
    let why = until("the pod that is alone says what it waits for", async || {
        let status = status_of(&world, 0).await?;
        let alone = world.playground.status().pods.len() == 1;
        status["start"]["decided"]
            .as_str()
            .filter(|said| alone && said.contains("setstone-1"))
            .map(str::to_owned)
    })
    .await;
    println!("{why}");
    let alone = world.impatient(0, Duration::from_secs(3));
    alone.put(Put { key: "k".into(), ..Put::default() }).await.unwrap_err();

    world.playground.scale(5).await.unwrap();
    let first = world.member(0);
    until("a write succeeds", async || {
        first.put(Put { key: "k".into(), value: "v".into(), ..Put::default() }).await.ok()
    })
    .await;
    settled(&world, 5, 5).await;
    one_cluster(&world).await;
    world.agreed().await;
    world.playground.hurry().await;
    world.nobody_panicked();
}

/// The identity of the second pod is on its disk: the first, which gave it, may or may not have founded the cluster by now.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_bootstrap_that_loses_a_volume_half_way() {
    for lost in [0, 1, 2] {
        let world = World::begin(&[], |options| options.management = PodManagement::Parallel).await;
        let load = Load::of_cluster(world.remote.clone(), "load");
        prepared(&world, lost).await;
        let begin = Instant::now();
        torn_out(&world, lost).await;
        world.ready().await;
        let voting = settled(&world, 3, 3).await;
        println!("volume {lost} lost half-way: {:?} after {:?}", voting[&lost].0, begin.elapsed());
        load.more(100).await;
        one_cluster(&world).await;
        let history = load.stop().await;
        let (pairs, _) = world.agreed().await;
        history.check(&world, &pairs).await;
        world.playground.hurry().await;
        world.nobody_panicked();
    }
}

/// Waits until the bootstrap has reached a disk: that of pod 1 if pod 0, which gives the identities, is to be lost; else that of the lost one.
async fn prepared(world: &World, lost: Ordinal) {
    let identity = world.file(&format!("setstone-{}", lost.max(1))).join("identity");
    let begin = Instant::now();
    // Not `until`: what comes after this moment comes within milliseconds.
    while !identity.exists() {
        assert!(begin.elapsed() < DEADLINE, "no pod was prepared");
        tokio::time::sleep(LOOK / 20).await;
    }
}
