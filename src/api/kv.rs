//! etcd's KV service.

use bytes::Bytes;

use super::{Shared, convert, texts};
use crate::mvcc::command::{Command, Compact, Outcome, Range, Request, Txn, TxnOp};
use crate::proto::etcdserverpb as pb;
use crate::transport::answers::Answers;
use crate::transport::{Failure, grpc};

/// Reads. A linearizable read waits until this member has applied everything that was acknowledged before.
pub(super) async fn range(
    api: &Shared,
    answers: &Answers,
    request: pb::RangeRequest,
) -> Result<Bytes, Failure> {
    let serializable = request.serializable;
    let range = convert::range(request)?;
    if !serializable {
        api.store.barrier().await.map_err(|error| texts::failure(&error))?;
    }
    let _turn = if is_large(&range) { Some(turn(api, answers).await?) } else { None };
    let (result, revision) = api.store.range(range).await.map_err(|error| texts::failure(&error))?;
    let header = api.headers.at(&api.store.position(), revision, 0);
    Ok(answers.count(grpc::encode(&convert::range_response(header, result))))
}

/// Writes one key.
pub(super) async fn put(
    api: &Shared,
    answers: &Answers,
    request: pb::PutRequest,
    size: usize,
) -> Result<Bytes, Failure> {
    let put = convert::put(request)?;
    convert::check_size(size)?;
    let (header, outcome) = propose(api, Command::Put(put)).await?;
    let Outcome::Put(previous) = outcome else { return Err(convert::unexpected()) };
    let response = pb::PutResponse { header: Some(header), prev_kv: previous.map(convert::key_value) };
    Ok(answers.count(grpc::encode(&response)))
}

/// Deletes the keys of a range.
pub(super) async fn delete_range(
    api: &Shared,
    answers: &Answers,
    request: pb::DeleteRangeRequest,
    size: usize,
) -> Result<Bytes, Failure> {
    let delete = convert::delete_range(request)?;
    convert::check_size(size)?;
    let large = delete.prev_kv && !delete.range_end.is_empty();
    let _turn = if large { Some(turn(api, answers).await?) } else { None };
    let (header, outcome) = propose(api, Command::DeleteRange(delete)).await?;
    let Outcome::DeleteRange(deleted) = outcome else { return Err(convert::unexpected()) };
    Ok(answers.count(grpc::encode(&convert::delete_response(header, deleted))))
}

/// Runs a transaction. One that only reads goes through the log as well, which is linearizable, if dearer than etcd's way.
pub(super) async fn txn(
    api: &Shared,
    answers: &Answers,
    request: pb::TxnRequest,
    size: usize,
) -> Result<Bytes, Failure> {
    let txn = convert::txn(request)?;
    convert::check_size(size)?;
    let _turn = if is_large_txn(&txn) { Some(turn(api, answers).await?) } else { None };
    let (header, outcome) = propose(api, Command::Txn(txn)).await?;
    let Outcome::Txn(result) = outcome else { return Err(convert::unexpected()) };
    Ok(answers.count(grpc::encode(&convert::txn_response(header, result)?)))
}

/// Forgets old versions.
pub(super) async fn compact(
    api: &Shared,
    answers: &Answers,
    request: pb::CompactionRequest,
) -> Result<Bytes, Failure> {
    let compact = Compact { revision: request.revision, physical: request.physical };
    let (header, _) = propose(api, Command::Compact(compact)).await?;
    Ok(answers.count(grpc::encode(&pb::CompactionResponse { header: Some(header) })))
}

/// Puts a command through the log.
async fn propose(api: &Shared, command: Command) -> Result<(pb::ResponseHeader, Outcome), Failure> {
    let proposed = api.store.propose(Request::anonymous(command)).await;
    let (reply, term) = proposed.map_err(|error| texts::failure(&error))?;
    Ok((api.headers.at(&api.store.position(), reply.revision, term), reply.outcome))
}

/// Waits for the turn to make an answer of any size.
async fn turn(api: &Shared, answers: &Answers) -> Result<tokio::sync::OwnedSemaphorePermit, Failure> {
    answers.turn().await.ok_or_else(|| {
        api.metrics.answers_refused.inc();
        texts::TOO_MANY_REQUESTS.into()
    })
}

/// Its answer can be of any size.
fn is_large(range: &Range) -> bool {
    !range.range_end.is_empty() && !range.count_only
}

/// As [`is_large`].
fn is_large_txn(txn: &Txn) -> bool {
    txn.success.iter().chain(&txn.failure).any(|op| match op {
        TxnOp::Range(range) => is_large(range),
        TxnOp::DeleteRange(delete) => delete.prev_kv && !delete.range_end.is_empty(),
        TxnOp::Put(_) => false,
        TxnOp::Txn(nested) => is_large_txn(nested),
    })
}
