//! A connection that leads to another member than it should: whoever uses it learns so, whatever it wanted there.

use super::harness::*;
use super::snapshots::{outgrow, small_logs};
use crate::raft::Lane;
use crate::raft::store::Store;

/// The leader, and the two others.
async fn roles(cluster: &Cluster) -> (usize, usize, usize) {
    let leader = cluster.leader().await;
    (leader, (leader + 1) % 3, (leader + 2) % 3)
}

/// Waits until the connection between two members was refused by a third.
async fn refused(cluster: &Cluster, from: usize, to: usize, by: usize) {
    let [from, to, by] = [from, to, by].map(|member| cluster.members[member].id);
    wait_for("the refusal", || cluster.net.refusals.lock().contains(&(from, to, by)).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn forwarded_requests_and_read_indexes_tell_who_refused_them() {
    let cluster = Cluster::start(3).await;
    let (leader, follower, third) = roles(&cluster).await;
    let ids = [leader, follower].map(|member| cluster.members[member].id);
    cluster.net.misdirect(ids[1], ids[0], Lane::Data, &cluster.members[third]);
    cluster.isolate(follower, true);
    cluster.isolate(follower, false);
    let consensus = &cluster.members[follower].consensus;
    assert!(consensus.propose(put("k", "v")).await.is_err(), "another took the request");
    refused(&cluster, follower, leader, third).await;
    cluster.net.refusals.lock().clear();
    assert!(consensus.read_index().await.is_err(), "another gave its read index");
    refused(&cluster, follower, leader, third).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_tell_who_refused_them() {
    let cluster = Cluster::with(3, small_logs()).await;
    let (leader, away, third) = roles(&cluster).await;
    cluster.isolate(away, true);
    outgrow(&cluster, leader, 600_000).await;
    let ids = [leader, away].map(|member| cluster.members[member].id);
    cluster.net.misdirect(ids[0], ids[1], Lane::Snapshot, &cluster.members[third]);
    cluster.isolate(away, false);
    refused(&cluster, leader, away, third).await;
    cluster.stop().await;
}
