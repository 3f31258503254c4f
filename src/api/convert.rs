//! etcd's protobuf messages to and from the values of the state machine. Byte fields are moved, never copied.
//!
//! Requests are checked on the way in, in etcd's order, because that decides which of two mistakes is reported.

use tonic::Code;

use super::texts;
#[cfg(any(test, fuzzing, feature = "simulation"))]
use crate::limits;
use crate::mvcc::check::{self, Invalid};
use crate::mvcc::{KeyValue, command};
use crate::proto::etcdserverpb as pb;
use crate::proto::mvccpb;
use crate::raft::store::MemberInfo;
use crate::transport::Failure;

use pb::range_request::{SortOrder, SortTarget};
use pb::request_op::Request as OpRequest;
use pb::response_op::Response as OpResponse;

/// A write whose message has this size, where so many bytes are the most.
pub(super) fn check_size(size: usize, most: usize) -> Result<(), Failure> {
    if size > most { Err(texts::REQUEST_TOO_LARGE.into()) } else { Ok(()) }
}

/// A range; its `serializable` is the caller's to look at.
pub(super) fn range(request: pb::RangeRequest) -> Result<command::Range, Failure> {
    check::key(&request.key).map_err(texts::invalid)?;
    let unknown = || texts::invalid(Invalid::SortOption);
    let sort_order = match SortOrder::try_from(request.sort_order).map_err(|_| unknown())? {
        SortOrder::None => command::SortOrder::None,
        SortOrder::Ascend => command::SortOrder::Ascend,
        SortOrder::Descend => command::SortOrder::Descend,
    };
    let sort_target = match SortTarget::try_from(request.sort_target).map_err(|_| unknown())? {
        SortTarget::Key => command::SortTarget::Key,
        SortTarget::Version => command::SortTarget::Version,
        SortTarget::Create => command::SortTarget::Create,
        SortTarget::Mod => command::SortTarget::Mod,
        SortTarget::Value => command::SortTarget::Value,
    };
    Ok(command::Range {
        key: request.key,
        range_end: request.range_end,
        limit: request.limit,
        revision: request.revision,
        sort_order,
        sort_target,
        keys_only: request.keys_only,
        count_only: request.count_only,
        min_mod_revision: request.min_mod_revision,
        max_mod_revision: request.max_mod_revision,
        min_create_revision: request.min_create_revision,
        max_create_revision: request.max_create_revision,
    })
}

/// A put.
pub(crate) fn put(request: pb::PutRequest) -> Result<command::Put, Failure> {
    let put = command::Put {
        key: request.key,
        value: request.value,
        lease: request.lease,
        prev_kv: request.prev_kv,
        ignore_value: request.ignore_value,
        ignore_lease: request.ignore_lease,
    };
    check::put(&put).map_err(texts::invalid)?;
    Ok(put)
}

/// A delete.
pub(crate) fn delete_range(request: pb::DeleteRangeRequest) -> Result<command::DeleteRange, Failure> {
    let delete =
        command::DeleteRange { key: request.key, range_end: request.range_end, prev_kv: request.prev_kv };
    check::delete_range(&delete).map_err(texts::invalid)?;
    Ok(delete)
}

/// A transaction, with everything that etcd checks before it proposes one.
#[cfg(any(test, fuzzing, feature = "simulation"))]
pub(crate) fn txn(request: pb::TxnRequest) -> Result<command::Txn, Failure> {
    txn_within(request, limits::TXN_OPERATIONS)
}

/// As [`txn`], with at most so many operations.
pub(crate) fn txn_within(request: pb::TxnRequest, most: usize) -> Result<command::Txn, Failure> {
    let txn = txn_form(request, most)?;
    check::overlaps(&txn).map_err(texts::invalid)?;
    Ok(txn)
}

/// Whether a transaction that only reads may be answered from what this member has. As in etcd, all its ranges must say so, in
/// both branches; unlike in etcd there must be one, because a transaction that only compares does read, and did not say so.
pub(super) fn is_serializable(request: &pb::TxnRequest) -> bool {
    let mut operations = request.success.iter().chain(&request.failure).peekable();
    operations.peek().is_some()
        && operations
            .all(|op| matches!(&op.request, Some(OpRequest::RequestRange(range)) if range.serializable))
}

/// Nesting is bounded by prost, which decodes no message that is nested more than a hundred deep.
fn txn_form(request: pb::TxnRequest, limit: usize) -> Result<command::Txn, Failure> {
    let rest = check::txn_budget(request.compare.len(), request.success.len(), request.failure.len(), limit)
        .map_err(texts::invalid)?;
    let compares = request.compare.into_iter().map(compare).collect::<Result<_, _>>()?;
    let ops =
        |ops: Vec<pb::RequestOp>| ops.into_iter().map(|op| operation(op, rest)).collect::<Result<_, _>>();
    Ok(command::Txn { compares, success: ops(request.success)?, failure: ops(request.failure)? })
}

fn operation(op: pb::RequestOp, limit: usize) -> Result<command::TxnOp, Failure> {
    Ok(match op.request {
        Some(OpRequest::RequestRange(request)) => command::TxnOp::Range(range(request)?),
        Some(OpRequest::RequestPut(request)) => command::TxnOp::Put(put(request)?),
        Some(OpRequest::RequestDeleteRange(request)) => command::TxnOp::DeleteRange(delete_range(request)?),
        Some(OpRequest::RequestTxn(request)) => command::TxnOp::Txn(txn_form(request, limit)?),
        None => return Err(texts::invalid(Invalid::EmptyOperation)),
    })
}

/// A compare. A value of another kind than the target's counts as not given, as in etcd.
fn compare(request: pb::Compare) -> Result<command::Compare, Failure> {
    use pb::compare::{CompareResult, CompareTarget, TargetUnion};

    check::key(&request.key).map_err(texts::invalid)?;
    let unknown = |_| Failure::from(texts::INVALID_COMPARE);
    let result = match CompareResult::try_from(request.result).map_err(unknown)? {
        CompareResult::Equal => command::CompareResult::Equal,
        CompareResult::Greater => command::CompareResult::Greater,
        CompareResult::Less => command::CompareResult::Less,
        CompareResult::NotEqual => command::CompareResult::NotEqual,
    };
    let union = request.target_union;
    let operand = match CompareTarget::try_from(request.target).map_err(unknown)? {
        CompareTarget::Version => command::Operand::Version(match union {
            Some(TargetUnion::Version(version)) => version,
            _ => 0,
        }),
        CompareTarget::Create => command::Operand::Create(match union {
            Some(TargetUnion::CreateRevision(revision)) => revision,
            _ => 0,
        }),
        CompareTarget::Mod => command::Operand::Mod(match union {
            Some(TargetUnion::ModRevision(revision)) => revision,
            _ => 0,
        }),
        CompareTarget::Value => command::Operand::Value(match union {
            Some(TargetUnion::Value(value)) => value,
            _ => bytes::Bytes::new(),
        }),
        CompareTarget::Lease => command::Operand::Lease(match union {
            Some(TargetUnion::Lease(lease)) => lease,
            _ => 0,
        }),
    };
    Ok(command::Compare { key: request.key, range_end: request.range_end, result, operand })
}

/// A pair.
pub(super) fn key_value(kv: KeyValue) -> mvccpb::KeyValue {
    mvccpb::KeyValue {
        key: kv.key,
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        value: kv.value,
        lease: kv.lease,
    }
}

/// The answer to a range.
pub(super) fn range_response(header: pb::ResponseHeader, result: command::RangeResult) -> pb::RangeResponse {
    pb::RangeResponse {
        header: Some(header),
        kvs: result.kvs.into_iter().map(key_value).collect(),
        more: result.more,
        count: result.count,
    }
}

/// The answer to a delete.
pub(super) fn delete_response(
    header: pb::ResponseHeader,
    deleted: command::Deleted,
) -> pb::DeleteRangeResponse {
    pb::DeleteRangeResponse {
        header: Some(header),
        deleted: deleted.deleted,
        prev_kvs: deleted.previous.into_iter().map(key_value).collect(),
    }
}

/// The answer to a transaction. In headers inside it there is only a revision, and in that of a nested transaction not even
/// that, as in etcd.
pub(super) fn txn_response(
    header: pb::ResponseHeader,
    result: command::TxnResult,
) -> Result<pb::TxnResponse, Failure> {
    let of = |revision| pb::ResponseHeader { revision, ..pb::ResponseHeader::default() };
    let mut responses = Vec::with_capacity(result.outcomes.len());
    for outcome in result.outcomes {
        let response = match outcome {
            command::Outcome::Range(found) => {
                OpResponse::ResponseRange(range_response(of(found.revision), found))
            }
            command::Outcome::Put(previous) => OpResponse::ResponsePut(pb::PutResponse {
                header: Some(of(result.revision)),
                prev_kv: previous.map(key_value),
            }),
            command::Outcome::DeleteRange(deleted) => {
                OpResponse::ResponseDeleteRange(delete_response(of(deleted.revision), deleted))
            }
            command::Outcome::Txn(nested) => {
                OpResponse::ResponseTxn(txn_response(pb::ResponseHeader::default(), nested)?)
            }
            // Not of operations that a transaction can have.
            command::Outcome::Compact
            | command::Outcome::Granted { .. }
            | command::Outcome::Lease
            | command::Outcome::Lifetime(_)
            | command::Outcome::Cluster
            | command::Outcome::Alarms(_)
            | command::Outcome::Admitted(_)
            | command::Outcome::Auth
            | command::Outcome::Authenticated { .. } => return Err(unexpected()),
        };
        responses.push(pb::ResponseOp { response: Some(response) });
    }
    Ok(pb::TxnResponse { header: Some(header), succeeded: result.succeeded, responses })
}

/// A member.
pub(super) fn member(member: MemberInfo) -> pb::Member {
    pb::Member {
        id: member.id.0,
        name: member.name,
        peer_ur_ls: member.peer_urls,
        client_ur_ls: member.client_urls,
        is_learner: member.is_learner,
    }
}

/// The state machine answered something else than was asked: a defect, whose outcome for the client is unknown.
pub(super) fn unexpected() -> Failure {
    Failure::new(Code::Internal, "the answer is of another kind than the request")
}

#[cfg(test)]
#[path = "convert_tests.rs"]
mod tests;
