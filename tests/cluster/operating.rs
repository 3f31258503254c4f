//! What a human does to a cluster: recover it when a majority of its disks is gone, and change its members by hand.

use std::process::Command;

use setstone::client::Client;
use setstone::error::Error;
use setstone::identity::{NodeId, Ordinal};
use setstone::mvcc::command::Put;

use super::world::{World, status_of, until};

/// Runs a command of the program; its exit code and what it said.
fn setstone(arguments: &[&str]) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_setstone")).args(arguments).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(said).unwrap())
}

/// The id of a pod's member, once it votes.
async fn voter(world: &World, at: Ordinal, ordinal: Ordinal) -> NodeId {
    until(&format!("ordinal {ordinal} votes"), async || {
        let members = world.member(at).members().await.ok()?.value;
        let found =
            members.into_iter().find(|member| member.id.ordinal() == ordinal && !member.is_learner)?;
        Some(found.id)
    })
    .await
}

/// What the cluster's event log says.
async fn events(world: &World) -> Vec<String> {
    let events = world.member(0).events().await.unwrap().value;
    events.into_iter().map(|event| format!("{}: {}", event.source, event.text)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_lost_its_majority_goes_on_when_somebody_says_so() {
    let world = World::start(&[]).await;
    for number in 0..50 {
        let put = Put { key: format!("key-{number}").into(), value: "kept".into(), ..Put::default() };
        world.remote.put(put).await.unwrap();
    }
    let (before, revision) = world.agreed().await;
    let old = world.member(0).status().await.unwrap().header;

    for ordinal in [1, 2] {
        world.playground.delete_volume(ordinal).await.unwrap();
    }
    let (one, two) = tokio::join!(world.playground.restart(1), world.playground.restart(2));
    one.and(two).unwrap();

    // Everyone says what is lost, and which command helps where; nobody serves.
    let command = format!("kubectl exec setstone-0 -- setstone recover --cluster {} --yes", old.cluster);
    for ordinal in 0..3 {
        until(&format!("pod {ordinal} names the survivor"), async || {
            let hint = status_of(&world, ordinal).await?["start"]["hint"].as_str()?.to_owned();
            (hint.contains(&command) && hint.contains("1#1 is gone, 2#1 is gone")).then_some(())
        })
        .await;
    }
    let impatient = world.impatient(0, std::time::Duration::from_secs(1));
    impatient.put(Put { key: "k".into(), ..Put::default() }).await.unwrap_err();

    let volume = world.file("setstone-0");
    let volume = volume.to_str().unwrap();
    let cluster = old.cluster.to_string();
    let (code, said) = setstone(&["recover", "--data-dir", volume, "--cluster", &cluster]);
    assert_eq!(code, 1, "{said}");
    let (code, said) = setstone(&["recover", "--data-dir", volume, "--cluster", &cluster, "--yes"]);
    assert_eq!(code, 0, "{said}");

    let new = until("the survivor serves", async || world.member(0).put(after()).await.ok()).await.header;
    assert_ne!(new.cluster, old.cluster);
    assert!(new.revision > revision + 1_000_000_000, "{} after {revision}", new.revision);
    world.ready().await;
    for ordinal in 0..3 {
        let id = voter(&world, 0, ordinal).await;
        assert_ne!(id, NodeId::new(ordinal, 1), "all are other disks");
    }
    let (pairs, _) = world.agreed().await;
    for pair in &before {
        // "last" was written again.
        assert!(pair.key == "last" || pairs.contains(pair), "{pair:?} is lost");
    }
    assert!(!std::path::Path::new(volume).join("request").exists(), "what was asked for was done once");
    world.stop().await;
}

fn after() -> Put {
    Put { key: "after".into(), value: "recovery".into(), ..Put::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_are_changed_by_hand() {
    let world = World::start(&[]).await;
    let leader = world.leader().await;
    let (next, other) = ((leader + 1) % 3, (leader + 2) % 3);

    // Leadership goes where it is wanted; only the leader takes the wish.
    let to = voter(&world, leader, next).await;
    let refused = world.member(other).move_leader(to).await.unwrap_err();
    assert!(refused.to_string().contains("etcdserver: not leader"), "{refused}");
    let nobody = world.remote.move_leader(NodeId::new(9, 9)).await.unwrap_err();
    assert!(nobody.to_string().contains("etcdserver: bad leader transferee"), "{nobody}");
    world.remote.move_leader(to).await.unwrap();
    assert_eq!(world.leader_other_than(Some(leader)).await, next);

    // A follower takes the wish to remove another: inside the range that replaces it. Then the leader itself goes.
    for gone in [leader, next] {
        let old = voter(&world, other, gone).await;
        let left =
            until("the member is removed", async || world.member(other).remove_member(old).await.ok()).await;
        assert!(left.value.iter().all(|member| member.id != old), "{left:?}");
        until("its pod is a member again", async || (voter(&world, other, gone).await != old).then_some(()))
            .await;
        world.ready().await;
        let again = world.member(other).remove_member(old).await.unwrap_err();
        assert!(matches!(&again, Error::Remote { code: 5, .. }), "{again}");
    }

    // A fourth is a spare until somebody lets it vote.
    world.playground.scale(4).await.unwrap();
    let spare = until("there is a spare", async || {
        let members = world.member(0).members().await.ok()?.value;
        members.into_iter().find(|member| member.id.ordinal() == 3).map(|member| member.id)
    })
    .await;
    until("it votes", async || world.member(0).promote_member(spare).await.ok()).await;
    assert_eq!(voter(&world, 0, 3).await, spare);
    let voting = world.member(0).promote_member(spare).await.unwrap_err();
    assert!(voting.to_string().contains("can only promote a learner member"), "{voting}");

    world.playground.scale(3).await.unwrap();
    until("the fourth is gone", async || {
        let members = world.member(0).members().await.ok()?.value;
        (members.len() == 3).then_some(())
    })
    .await;
    world.ready().await;

    // The cluster remembers, and a pod explains itself.
    let told = events(&world).await;
    for expected in [
        "founded cluster",
        &format!("{} is no member any more", NodeId::new(leader, 1)),
        &format!("{spare} votes"),
        "the volume was lost",
        "stopping: the pod does not come back",
    ] {
        assert!(told.iter().any(|event| event.contains(expected)), "{expected}: {told:#?}");
    }
    let admin = format!("{}:2381", world.pod(0).address.unwrap());
    let (code, said) = setstone(&["status", "--admin", &admin]);
    assert_eq!(code, 0, "{said}");
    for line in ["start ", "disk ", "consensus "] {
        assert!(said.lines().any(|said| said.starts_with(line)), "{line}: {said}");
    }
    world.stop().await;
}
