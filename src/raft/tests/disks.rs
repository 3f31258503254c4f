//! Disks that fail or get stuck.

use std::time::Duration;

use tokio::time::Instant;

use super::harness::*;
use crate::limits;
use crate::raft::store::Store;

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_sync_is_final_and_the_member_can_still_be_stopped() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    cluster.members[leader].files.fail_sync_after(0);
    let started = Instant::now();
    let answer = cluster.members[leader].consensus.propose(put("k", "v")).await;
    assert!(started.elapsed() < limits::REQUEST_TIMEOUT + Duration::from_secs(1));
    // The others may have committed it, but this member must not say so.
    assert!(answer.is_err(), "{answer:?}");
    tokio::time::timeout(PATIENCE, cluster.members[leader].consensus.failed()).await.unwrap();
    cluster.members[leader].stop().await;
    cluster.members.remove(leader);
    cluster.leader().await;
    cluster.members[0].consensus.propose(put("k", "w")).await.unwrap();
    cluster.converge().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stuck_disk_does_not_hold_requests_for_ever() {
    let (stuck, setup) = stuck_setup();
    let cluster = Cluster::with(1, setup).await;
    let consensus = cluster.members[0].consensus.clone();
    consensus.propose(put("k", "before")).await.unwrap();
    stuck.send_replace(true);
    let started = Instant::now();
    let value = "x".repeat(1 << 20);
    let waiting: Vec<_> = (0..200)
        .map(|number| {
            let (consensus, value) = (consensus.clone(), value.clone());
            tokio::spawn(async move { consensus.propose(put(&number.to_string(), &value)).await })
        })
        .collect();
    let mut refused = 0;
    for answer in waiting {
        match answer.await.unwrap() {
            Err(crate::error::Error::TooManyRequests) => refused += 1,
            Err(error) => assert!(error.is_outcome_unknown(), "{error}"),
            Ok(_) => panic!("acknowledged without a disk"),
        }
    }
    assert!(started.elapsed() < limits::REQUEST_TIMEOUT + Duration::from_secs(3), "{:?}", started.elapsed());
    assert!(refused >= 200 - (limits::PROPOSER_BYTES >> 20), "only {refused} were refused");
    stuck.send_replace(false);
    wait_for("the disk's backlog", || {
        (consensus.position().applied_index == consensus.position().last_index).then_some(())
    })
    .await;
    consensus.propose(put("k", "after")).await.unwrap();
    cluster.stop().await;
}
