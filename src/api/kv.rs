//! etcd's KV service.

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use super::permission::{self, Caller};
use super::{Shared, convert, texts};
use crate::limits;
use crate::mvcc::State;
use crate::mvcc::auth::By;
#[cfg(test)]
use crate::mvcc::command::Put;
use crate::mvcc::command::{Command, Compact, DeleteRange, Outcome, Range, Request, Txn, TxnOp};
use crate::proto::etcdserverpb as pb;
use crate::transport::answers::Answers;
use crate::transport::{Failure, grpc};

/// Reads. A linearizable read waits until this member has applied everything that was acknowledged before.
pub(super) async fn range(
    api: &Shared,
    caller: &Caller,
    answers: &Answers,
    request: pb::RangeRequest,
) -> Result<Bytes, Failure> {
    let serializable = request.serializable;
    if !serializable && api.store.is_held_back() {
        return Err(texts::LEARNER_NOT_SUPPORTED.into());
    }
    let range = convert::range(request)?;
    if !serializable {
        api.store.barrier().await.map_err(|error| texts::failure(&error))?;
    }
    let may_read = |state: &State, by: By<'_>| state.auth().may_read(by, &range.key, &range.range_end);
    let by = permission::check(api, caller, may_read).await?;
    // Asked after the wait, because all that wait are let through at once.
    let _turn = turn(answers, range_share(&range)).await?;
    let (result, revision) = api.store.range(range).await.map_err(|error| texts::failure(&error))?;
    permission::unchanged(api, &by)?;
    let header = api.headers.at(&api.store.position(), revision, 0);
    Ok(answers.count(grpc::encode(&convert::range_response(header, result))))
}

/// Writes one key.
pub(super) async fn put(
    api: &Shared,
    caller: &Caller,
    answers: &Answers,
    request: pb::PutRequest,
    size: usize,
) -> Result<Bytes, Failure> {
    let put = convert::put(request)?;
    convert::check_size(size, api.requests.request_bytes)?;
    let _turn = if put.prev_kv { turn(answers, 1).await? } else { None };
    let (header, outcome) = propose(api, caller, Command::Put(put)).await?;
    let Outcome::Put(previous) = outcome else { return Err(convert::unexpected()) };
    let response = pb::PutResponse { header: Some(header), prev_kv: previous.map(convert::key_value) };
    Ok(answers.count(grpc::encode(&response)))
}

/// Deletes the keys of a range.
pub(super) async fn delete_range(
    api: &Shared,
    caller: &Caller,
    answers: &Answers,
    request: pb::DeleteRangeRequest,
    size: usize,
) -> Result<Bytes, Failure> {
    let delete = convert::delete_range(request)?;
    convert::check_size(size, api.requests.request_bytes)?;
    let _turn = turn(answers, delete_share(&delete)).await?;
    let (header, outcome) = propose(api, caller, Command::DeleteRange(delete)).await?;
    let Outcome::DeleteRange(deleted) = outcome else { return Err(convert::unexpected()) };
    Ok(answers.count(grpc::encode(&convert::delete_response(header, deleted))))
}

/// Runs a transaction. One that only reads stays out of the log, as in etcd.
pub(super) async fn txn(
    api: &Shared,
    caller: &Caller,
    answers: &Answers,
    request: pb::TxnRequest,
    size: usize,
) -> Result<Bytes, Failure> {
    let serializable = convert::is_serializable(&request);
    let txn = convert::txn_within(request, api.requests.txn_operations)?;
    if txn.is_read_only() {
        return read_txn(api, caller, answers, txn, serializable).await;
    }
    convert::check_size(size, api.requests.request_bytes)?;
    let share = txn_share(&txn).min(limits::LARGE_ANSWER_SHARE);
    let _turn = turn(answers, share).await?;
    let (header, outcome) = propose(api, caller, Command::Txn(txn)).await?;
    let Outcome::Txn(result) = outcome else { return Err(convert::unexpected()) };
    Ok(answers.count(grpc::encode(&convert::txn_response(header, result)?)))
}

/// Runs a transaction that only reads.
async fn read_txn(
    api: &Shared,
    caller: &Caller,
    answers: &Answers,
    txn: Txn,
    serializable: bool,
) -> Result<Bytes, Failure> {
    if !serializable {
        api.store.barrier().await.map_err(|error| texts::failure(&error))?;
    }
    let by = permission::check(api, caller, |state, by| state.may_run_txn(by, &txn)).await?;
    // Asked after the wait, as for a range.
    let _turn = turn(answers, txn_share(&txn).min(limits::LARGE_ANSWER_SHARE)).await?;
    let read = api.store.read_txn(txn).await.map_err(|error| texts::failure(&error))?;
    let (result, revision) = read.ok_or_else(convert::unexpected)?;
    permission::unchanged(api, &by)?;
    let header = api.headers.at(&api.store.position(), revision, 0);
    Ok(answers.count(grpc::encode(&convert::txn_response(header, result)?)))
}

/// Forgets old versions.
pub(super) async fn compact(
    api: &Shared,
    caller: &Caller,
    answers: &Answers,
    request: pb::CompactionRequest,
) -> Result<Bytes, Failure> {
    let compact = Compact { revision: request.revision, physical: request.physical };
    let (header, _) = propose(api, caller, Command::Compact(compact)).await?;
    Ok(answers.count(grpc::encode(&pb::CompactionResponse { header: Some(header) })))
}

/// Puts a command through the log, if `caller` may run it; that is looked at again when it is applied.
async fn propose(
    api: &Shared,
    caller: &Caller,
    command: Command,
) -> Result<(pb::ResponseHeader, Outcome), Failure> {
    let by = permission::check(api, caller, |state, by| state.may_run(by, &command)).await?;
    let proposed = api.store.propose(Request::of(by, command)).await;
    let (reply, term) = proposed.map_err(|error| texts::failure(&error))?;
    Ok((api.headers.at(&api.store.position(), reply.revision, term), reply.outcome))
}

/// Waits for the turn to make an answer, if it needs one.
pub(super) async fn turn(answers: &Answers, share: u32) -> Result<Option<OwnedSemaphorePermit>, Failure> {
    if share == 0 {
        return Ok(None);
    }
    let turn = answers.turn(share).await;
    if turn.is_none() {
        return Err(texts::TOO_MANY_REQUESTS.into());
    }
    Ok(turn)
}

/// How much room the answer to a range may take.
fn range_share(range: &Range) -> u32 {
    if range.count_only {
        0
    } else if range.range_end.is_empty() {
        1
    } else {
        limits::LARGE_ANSWER_SHARE
    }
}

/// As [`range_share`].
fn delete_share(delete: &DeleteRange) -> u32 {
    match (delete.prev_kv, delete.range_end.is_empty()) {
        (false, _) => 0,
        (true, true) => 1,
        (true, false) => limits::LARGE_ANSWER_SHARE,
    }
}

/// As [`range_share`]; of both branches together, because nobody knows yet which one runs.
fn txn_share(txn: &Txn) -> u32 {
    let shares = txn.success.iter().chain(&txn.failure).map(|op| match op {
        TxnOp::Range(range) => range_share(range),
        TxnOp::Put(put) => u32::from(put.prev_kv),
        TxnOp::DeleteRange(delete) => delete_share(delete),
        TxnOp::Txn(nested) => txn_share(nested),
    });
    shares.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_that_may_be_large_take_turns() {
        let one = || TxnOp::Range(Range::default());
        let many = || TxnOp::Range(Range { range_end: "\0".into(), ..Range::default() });
        let counted = TxnOp::Range(Range { range_end: "\0".into(), count_only: true, ..Range::default() });
        let txn = |success| Txn { success, ..Txn::default() };
        assert_eq!(txn_share(&txn(vec![TxnOp::Put(Put::default()), counted])), 0);
        assert_eq!(txn_share(&txn(vec![one()])), 1);
        assert_eq!(
            txn_share(&txn(vec![one(), TxnOp::Txn(txn(vec![many()]))])),
            1 + limits::LARGE_ANSWER_SHARE
        );
        let deleted = DeleteRange { prev_kv: true, ..DeleteRange::default() };
        assert_eq!(txn_share(&txn(vec![TxnOp::DeleteRange(deleted)])), 1);
    }
}
