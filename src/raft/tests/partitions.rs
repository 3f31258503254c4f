//! Members that cannot hear each other.

use std::time::Duration;

use super::harness::*;
use crate::raft::store::Store;

#[tokio::test(flavor = "multi_thread")]
async fn a_deposed_leader_answers_no_barrier() {
    let cluster = Cluster::start(3).await;
    for round in 0..3 {
        let old = cluster.leader().await;
        cluster.members[old].consensus.propose(put("k", &format!("before {round}"))).await.unwrap();
        cluster.isolate(old, true);
        let consensus = cluster.members[old].consensus.clone();
        let reader = tokio::spawn(async move {
            // Whatever it answers while the others go on.
            let mut answered = 0;
            for _ in 0..4 {
                let barrier = tokio::time::timeout(Duration::from_millis(500), consensus.barrier());
                answered += usize::from(matches!(barrier.await, Ok(Ok(()))));
            }
            answered
        });
        let others: Vec<_> = (0..3).filter(|member| *member != old).collect();
        let new = cluster.leader_among(&others).await;
        cluster.members[new].consensus.propose(put("k", &format!("after {round}"))).await.unwrap();
        let consensus = cluster.members[old].consensus.clone();
        let late = tokio::time::timeout(Duration::from_millis(700), consensus.barrier()).await;
        assert!(!matches!(late, Ok(Ok(()))), "a deposed leader answered a read");
        assert_eq!(reader.await.unwrap(), 0);
        assert_eq!(value(&cluster.members[old], "k").await, Some(format!("before {round}")));
        cluster.isolate(old, false);
        // A barrier that waits for the leader to come back sees what was written meanwhile.
        cluster.members[old].consensus.barrier().await.unwrap();
        assert_eq!(value(&cluster.members[old], "k").await, Some(format!("after {round}")));
    }
    cluster.converge().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_was_cut_off_does_not_disturb_the_leader() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let term = cluster.members[leader].consensus.position().term;
    let away = (leader + 1) % 3;
    cluster.isolate(away, true);
    wait_for("the member to miss its leader", || {
        cluster.members[away].consensus.position().leader.is_none().then_some(())
    })
    .await;
    // Time for several elections, had it any.
    tokio::time::sleep(Duration::from_secs(3)).await;
    cluster.members[leader].consensus.propose(put("k", "v")).await.unwrap();
    cluster.isolate(away, false);
    cluster.members[away].consensus.barrier().await.unwrap();
    cluster.converge().await;
    for member in &cluster.members {
        assert_eq!(member.consensus.position().term, term, "{}", member.id);
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_to_a_leader_that_vanished_is_unknown_and_the_rest_goes_to_the_next() {
    let (stuck, setup) = stuck_setup();
    let cluster = Cluster::with(3, setup).await;
    cluster.members[0].consensus.propose(put("warm", "up")).await.unwrap();
    // Nobody can vote or apply now: the leader stays the leader, and answers nothing.
    stuck.send_replace(true);
    let old = cluster.leader().await;
    let follower = cluster.members[(old + 1) % 3].consensus.clone();
    let sent = {
        let follower = follower.clone();
        tokio::spawn(async move { follower.propose(put("sent", &"x".repeat(100_000))).await })
    };
    let waiting = &cluster.members[old].consensus.inner.waiting;
    wait_for("the request to reach the leader", || (waiting.bytes() >= 100_000).then_some(())).await;
    cluster.isolate(old, true);
    let error = sent.await.unwrap().unwrap_err();
    assert!(error.is_outcome_unknown(), "{error}");
    stuck.send_replace(false);
    // The stream is known to be broken: the next leader gets this one, within the time of a request.
    let (reply, _) = follower.propose(put("next", "v")).await.unwrap();
    cluster.isolate(old, false);
    let revision = cluster.converge().await;
    // The first one happened everywhere, and before the second, or nowhere.
    let happened = value(&cluster.members[0], "sent").await.is_some();
    assert_eq!((reply.revision, revision), if happened { (4, 4) } else { (3, 3) });
    assert_eq!(value(&cluster.members[0], "next").await, Some("v".into()));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_shows_nothing_before_it_has_seen_what_was_acknowledged_before_it() {
    let cluster = Cluster::start(3).await;
    cluster.members[0].consensus.propose(put("k", "v")).await.unwrap();
    let away = (cluster.leader().await + 1) % 3;
    // As a process that has just started.
    let gate = crate::raft::Gate::new("starting");
    gate.open(cluster.members[away].consensus.clone());
    cluster.isolate(away, true);
    wait_for("the member to miss its leader", || gate.position().leader.is_none().then_some(())).await;
    let alone = gate.range(get("k")).await;
    assert!(alone.is_err(), "an earlier process may have shown more than {alone:?}");
    cluster.isolate(away, false);
    wait_for("the leader to be heard", || gate.position().leader).await;
    assert_eq!(gate.range(get("k")).await.unwrap().0.count, 1);
    // From then on it is not older than what it showed.
    cluster.isolate(away, true);
    wait_for("the member to miss its leader", || gate.position().leader.is_none().then_some(())).await;
    assert_eq!(gate.range(get("k")).await.unwrap().0.count, 1);
    cluster.isolate(away, false);
    cluster.stop().await;
}
