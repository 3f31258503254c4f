//! A member whose store differs is found by the comparison, and named by the alarm.

use super::harness::{Cluster, put, wait_for};
use crate::duties::compare_now;
use crate::error::Error;
use crate::identity::NodeId;
use crate::mvcc::alarm::{Alarm, AlarmKind};
use crate::mvcc::command::Refusal;
use crate::raft::codec;
use crate::raft::store::Store as _;
use crate::raft::types::{Entry, EntryPayload};

/// What a member must not do: an entry means something else to it.
fn deviate(member: &super::harness::Member) {
    let machine = member.consensus.machine();
    let log_id = machine.applied().expect("something was applied");
    let request = codec::encode_request(put("k", "something else"));
    machine.apply(&Entry { log_id, payload: EntryPayload::Normal(codec::encode_batch(&[request])) }).unwrap();
}

async fn written(cluster: &Cluster) -> usize {
    let leader = cluster.leader().await;
    for number in 0..10 {
        let key = format!("k{number}");
        cluster.members[leader].consensus.propose(put(&key, "v")).await.unwrap();
    }
    cluster.converge().await;
    leader
}

/// The alarms, once all members have them.
async fn alarms(cluster: &Cluster) -> Vec<Alarm> {
    wait_for("the alarm", || {
        let alarms = cluster.members[0].consensus.alarms();
        let everywhere = cluster.members.iter().all(|member| member.consensus.alarms() == alarms);
        (everywhere && !alarms.is_empty()).then_some(alarms)
    })
    .await
}

/// Every member has applied what this one has.
async fn applied(cluster: &Cluster, by: usize) {
    let at = |member: usize| cluster.members[member].consensus.position().applied_index;
    let all = || (0..cluster.members.len()).all(|member| at(member) == at(by));
    wait_for("the write", || all().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_stores_raise_no_alarm() {
    let cluster = Cluster::start(3).await;
    written(&cluster).await;
    for member in &cluster.members {
        compare_now(&member.consensus).await;
        assert_eq!(member.consensus.alarms(), []);
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_differs_is_named_by_the_leader_and_everything_is_refused() {
    let cluster = Cluster::start(3).await;
    let leader = written(&cluster).await;
    let other = (leader + 1) % 3;
    deviate(&cluster.members[other]);
    // Its store is a revision ahead now: equal revisions differ in what they hold.
    cluster.members[leader].consensus.propose(put("k", "v")).await.unwrap();
    applied(&cluster, leader).await;
    compare_now(&cluster.members[leader].consensus).await;
    let named = Alarm { kind: AlarmKind::Corrupt, member: cluster.members[other].id };
    assert_eq!(alarms(&cluster).await, [named]);
    for member in &cluster.members {
        let refused = member.consensus.propose(put("k", "v")).await.unwrap_err();
        assert_eq!(refused, Error::Refused(Refusal::Corrupt));
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_differs_finds_itself() {
    let cluster = Cluster::start(3).await;
    let leader = written(&cluster).await;
    deviate(&cluster.members[leader]);
    let follower = (leader + 1) % 3;
    cluster.members[leader].consensus.propose(put("k", "v")).await.unwrap();
    applied(&cluster, leader).await;
    // The revision of the leader is not there yet at the others: nothing can be compared, and nobody is accused.
    compare_now(&cluster.members[leader].consensus).await;
    assert_eq!(cluster.members[leader].consensus.alarms(), []);
    // A follower's revision is there everywhere.
    compare_now(&cluster.members[follower].consensus).await;
    let named = Alarm { kind: AlarmKind::Corrupt, member: cluster.members[leader].id };
    assert_eq!(alarms(&cluster).await, [named]);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_that_differ_nobody_is_named() {
    let cluster = Cluster::start(2).await;
    let leader = written(&cluster).await;
    deviate(&cluster.members[1 - leader]);
    compare_now(&cluster.members[leader].consensus).await;
    assert_eq!(cluster.members[leader].consensus.alarms(), [], "what only one has is not compared");
    cluster.members[leader].consensus.propose(put("k", "v")).await.unwrap();
    applied(&cluster, leader).await;
    compare_now(&cluster.members[leader].consensus).await;
    let named = Alarm { kind: AlarmKind::Corrupt, member: NodeId(0) };
    assert_eq!(alarms(&cluster).await, [named]);
    cluster.stop().await;
}
