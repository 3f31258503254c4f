//! Group commit and its bounds.

use bytes::Bytes;

use tokio::time::Instant;

use super::harness::*;
use crate::error::Error;
use crate::identity::NodeId;
use crate::limits;
use crate::mvcc::alarm::{Alarm, AlarmCommand, AlarmKind, Cause};
use crate::mvcc::command::{Command, DeleteRange, Refusal, Request};
use crate::raft::Consensus;
use crate::raft::proposer::{self, BytesWaiting, Pending, ReplyTo};
use crate::raft::room::Growth;
use crate::raft::store::Store;

fn delete(key: &str) -> Request {
    let key = Bytes::copy_from_slice(key.as_bytes());
    Request::anonymous(Command::DeleteRange(DeleteRange { key, ..DeleteRange::default() }))
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_wait_share_entries() {
    let cluster = Cluster::start(1).await;
    let consensus = &cluster.members[0].consensus;
    let before = consensus.position().last_index;
    let writes = (0..1_000).map(|number| consensus.propose(put(&format!("k{number}"), "v")));
    for answer in futures::future::join_all(writes).await {
        answer.unwrap();
    }
    let entries = consensus.position().last_index - before;
    assert!(entries < 100, "1000 requests took {entries} entries");
    assert_eq!(consensus.position().revision, 1_001);
    cluster.stop().await;
}

#[test]
fn bytes_that_wait_are_bounded_and_given_back() {
    let waiting = BytesWaiting::default();
    let first = waiting.enter(limits::PROPOSER_BYTES).unwrap();
    assert_eq!(waiting.enter(1).unwrap_err(), Error::TooManyRequests);
    drop(first);
    // The refused one left nothing behind.
    drop(waiting.enter(limits::PROPOSER_BYTES).unwrap());
}

#[tokio::test]
async fn a_reply_that_is_dropped_says_that_the_outcome_is_unknown() {
    let (caller, answer) = tokio::sync::oneshot::channel();
    drop(ReplyTo::caller(caller));
    assert!(answer.await.unwrap().unwrap_err().is_outcome_unknown());
    let (stream, mut answers) = tokio::sync::mpsc::unbounded_channel();
    drop(ReplyTo::follower(3, stream));
    let (number, answer) = answers.recv().await.unwrap();
    assert_eq!(number, 3);
    assert!(answer.unwrap_err().is_outcome_unknown());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_largest_batches_pass_between_members() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let large = "x".repeat(limits::REQUEST_BYTES - 200);
    let nearly = "y".repeat(limits::BATCH_BYTES - 200);
    // A batch that is nearly full takes one more, of any size; from a follower too.
    for member in [leader, (leader + 1) % 3] {
        let consensus = &cluster.members[member].consensus;
        let writes =
            [&nearly, &large, &nearly, &large, &large].map(|value| consensus.propose(put("k", value)));
        for answer in futures::future::join_all(writes).await {
            answer.unwrap();
        }
    }
    cluster.converge().await;
    let too_large = Bytes::from(vec![0; limits::RECEIVED_MESSAGE_BYTES]);
    let request = put("k", std::str::from_utf8(&too_large).unwrap());
    assert!(matches!(cluster.members[leader].consensus.propose(request).await, Err(Error::Invalid(_))));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_larger_than_a_message_between_members_reaches_a_followers_client() {
    use crate::mvcc::command::{Command, Outcome, Range, Request, Txn, TxnOp};
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let value = "x".repeat(1 << 20);
    for number in 0..12 {
        cluster.members[leader].consensus.propose(put(&format!("k{number:02}"), &value)).await.unwrap();
    }
    let all =
        Range { key: Bytes::from_static(b"k"), range_end: Bytes::from_static(b"l"), ..Range::default() };
    let txn = Txn { success: vec![TxnOp::Range(all)], ..Txn::default() };
    let request = Request::anonymous(Command::Txn(txn));
    let (reply, _) = cluster.members[(leader + 1) % 3].consensus.propose(request).await.unwrap();
    let Outcome::Txn(done) = reply.outcome else { panic!("not a transaction") };
    let Outcome::Range(range) = &done.outcomes[0] else { panic!("not a range") };
    assert_eq!(range.kvs.len(), 12);
    cluster.stop().await;
}

fn alarm(raised: bool) -> AlarmCommand {
    let alarm = Alarm { kind: AlarmKind::NoSpace, member: NodeId(1) };
    AlarmCommand { alarm, cause: Cause::Held, raised }
}

fn deadline() -> Instant {
    Instant::now() + PATIENCE
}

#[tokio::test]
async fn alarms_do_not_wait_behind_other_requests() {
    let (proposals, mut queue) = proposer::queue();
    let bytes = BytesWaiting::default();
    let of = |growth| {
        let (caller, _) = tokio::sync::oneshot::channel();
        let held = bytes.enter(1).unwrap();
        Pending { request: Bytes::new(), growth, reply: ReplyTo::caller(caller), _held: held }
    };
    for growth in [Growth::Grows, Growth::Stays, Growth::Alarm, Growth::Grows, Growth::Alarm] {
        proposals.try_send(of(growth)).unwrap();
    }
    let mut order = Vec::new();
    for _ in 0..5 {
        order.push(queue.next().await.unwrap().growth);
    }
    let (alarms, others) = ([Growth::Alarm; 2], [Growth::Grows, Growth::Stays, Growth::Grows]);
    assert_eq!(order, [&alarms[..], &others].concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_to_grow_is_not_proposed_where_there_is_no_room() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let leads = &cluster.members[leader].consensus;
    let follows = &cluster.members[(leader + 1) % 3].consensus;
    // Of the log itself: what consensus tells of it comes later than answers.
    let last = || leads.log().last();
    // Behind the door: these have passed the check that every write begins with.
    let write = |at: &Consensus| {
        let at = at.clone();
        async move { at.propose_until(put("k", "v"), deadline()).await.and_then(|applied| Ok(applied.reply?)) }
    };
    write(follows).await.unwrap();
    let full = Error::Refused(Refusal::NoSpace);
    for low in [leads, follows] {
        low.room().set_low(true);
        let before = last();
        for _ in 0..3 {
            assert_eq!(write(follows).await.unwrap_err(), full);
        }
        assert_eq!(last(), before, "nothing reached the log");
        follows.propose_until(delete("k"), deadline()).await.unwrap().reply.unwrap();
        low.room().set_low(false);
        write(follows).await.unwrap();
    }
    follows.set_alarm(alarm(true)).await.unwrap();
    let before = last();
    for member in [leads, follows] {
        assert_eq!(write(member).await.unwrap_err(), full);
    }
    assert_eq!(last(), before, "all would refuse it when it is applied");
    follows.set_alarm(alarm(false)).await.unwrap();
    write(follows).await.unwrap();
    cluster.converge().await;
    cluster.stop().await;
}
