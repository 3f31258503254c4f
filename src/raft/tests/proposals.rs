//! Group commit and its bounds.

use bytes::Bytes;

use super::harness::*;
use crate::error::Error;
use crate::limits;
use crate::raft::proposer::{BytesWaiting, ReplyTo};
use crate::raft::store::Store;

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
