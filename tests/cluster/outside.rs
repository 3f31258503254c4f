//! What is outside of the members is gone: the right to ask for their StatefulSet, the API server, the name server for a minute, with answers
//! that are kept for half a minute. What serves goes on serving, and nothing is changed for it.

use std::time::Duration;

use setstone::client::Client;
use setstone::mvcc::command::Put;
use setstone::playground::{ApiMode, DnsMode, Status};
use tokio::time::Instant;

use super::load::Load;
use super::scaling::{members, settled};
use super::world::{DEADLINE, World, status_of, until};

/// CoreDNS of kubeadm keeps answers for so long, also that a name is absent (DESIGN, section 5).
const KEPT: Duration = Duration::from_secs(30);
/// So long there are no names.
const NAMELESS: Duration = Duration::from_secs(60);
/// From the end of what was wrong with the names.
const AFTERWARDS: Duration = Duration::from_secs(5);

/// Waits until another pod of this ordinal is ready.
async fn another(world: &World, before: &Status, ordinal: u16) {
    let old = before.pod(ordinal).and_then(|pod| pod.uid);
    let moved = |status: &Status| status.is_ready() && status.pod(ordinal).is_some_and(|pod| pod.uid != old);
    world.playground.wait_until(DEADLINE, moved).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_answer_about_the_size_nothing_changes() {
    let world = World::start(&[]).await;
    let load = Load::of_cluster(world.remote.clone(), "load");
    load.more(100).await;
    let before = members(&world.remote).await.unwrap();
    for (mode, ordinal) in [(ApiMode::Forbidden, 2), (ApiMode::Silent, 0), (ApiMode::Down, 1)] {
        world.playground.set_api_server(mode).await.unwrap();
        // A stop and a start, each of which asks.
        let (status, begin) = (world.playground.status(), Instant::now());
        world.playground.restart(ordinal).await.unwrap();
        another(&world, &status, ordinal).await;
        println!("{mode:?}: pod {ordinal} stopped and started in {:?}", begin.elapsed());
        world.ended_well(ordinal, status.pod(ordinal).unwrap().pid.unwrap()).await;
        load.more(50).await;
        assert_eq!(members(&world.remote).await.unwrap(), before, "{mode:?}");
    }
    // A pod more than anybody knows to be wanted: it may join, because nobody knows that it may not. One less: nobody is removed.
    world.playground.set_api_server(ApiMode::Forbidden).await.unwrap();
    world.playground.scale(4).await.unwrap();
    until("pod 3 says what it does", async || {
        status_of(&world, 3).await?["start"]["decided"].as_str().map(str::to_owned)
    })
    .await;
    load.more(100).await;
    world.playground.scale(2).await.unwrap();
    world.playground.wait_until(DEADLINE, |status| status.pods.len() == 2).await.unwrap();
    load.more(100).await;
    let now = members(world.member(0)).await.unwrap();
    assert!(
        before.iter().all(|(ordinal, member)| now.get(ordinal) == Some(member)),
        "{before:?}, now {now:?}"
    );
    // The right is given back.
    world.playground.set_api_server(ApiMode::Up).await.unwrap();
    settled(&world, 2, 2).await;
    world.playground.scale(3).await.unwrap();
    settled(&world, 3, 3).await;
    let history = load.stop().await;
    let (pairs, _) = world.agreed().await;
    history.check(&world, &pairs).await;
    world.stop().await;
}

/// Installed in order behind a name server that keeps what it said: each pod was asked for before it existed. Then a minute without names,
/// in which a pod is deleted: the others do not notice that, and it is back soon after.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_minute_without_names_and_answers_that_are_kept() {
    let world = World::begin(&[], |options| options.dns_cache = KEPT).await;
    let begin = Instant::now();
    world.ready().await;
    println!("installed behind a cache of {KEPT:?} in {:?}", begin.elapsed());
    assert!(begin.elapsed() < KEPT, "{:?}", begin.elapsed());
    // A pod that is deleted is at another address, and its name says the old one for a while.
    let (status, begin) = (world.playground.status(), Instant::now());
    world.playground.restart(1).await.unwrap();
    another(&world, &status, 1).await;
    println!("deleted: back after {:?}", begin.elapsed());
    assert!(begin.elapsed() < KEPT / 2, "{:?}", begin.elapsed());

    let begin = Instant::now();
    world.playground.set_dns(DnsMode::Silent).await.unwrap();
    let leader = world.leader().await;
    let deleted = (leader + 1) % 3;
    let status = world.playground.status();
    world.playground.restart(deleted).await.unwrap();
    let others = world.without(deleted);
    let mut number = 0;
    while begin.elapsed() < NAMELESS {
        number += 1;
        let put = Put { key: format!("nameless/{number}").into(), value: "v".into(), ..Put::default() };
        others.put(put).await.unwrap();
        if number == 100 {
            // Half-way the answers change from none to wrong ones.
            world.playground.set_dns(DnsMode::Down).await.unwrap();
        }
        // A steady trickle, so that the minute costs other tests little.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let back = world.pod(deleted).ready;
    world.playground.set_dns(DnsMode::Up).await.unwrap();
    let again = Instant::now();
    another(&world, &status, deleted).await;
    println!(
        "{number} writes without names; the deleted pod was back before: {back}, else after {:?}",
        again.elapsed()
    );
    assert!(again.elapsed() < AFTERWARDS, "{:?}", again.elapsed());
    let (pairs, _) = world.agreed().await;
    assert_eq!(pairs.iter().filter(|pair| pair.key.starts_with(b"nameless/")).count(), number);
    world.stop().await;
}
