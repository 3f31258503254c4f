//! Values to etcd's messages and back. Whatever a server answers becomes a value or a typed error.

use super::failure::{Kind, malformed};
use super::{Alarm, AlarmKind, Answer, Consistency, EventInfo, Header, MemberInfo, Status};
use crate::error::Error;
use crate::identity::{ClusterId, NodeId};
use crate::mvcc::KeyValue;
use crate::mvcc::command::{
    Compact, Compare, CompareResult, DeleteRange, Deleted, Operand, Outcome, Put, Range, RangeResult,
    SortOrder, SortTarget, Txn, TxnOp, TxnResult,
};
use crate::proto::client;
use crate::proto::etcdserverpb as pb;
use crate::proto::mvccpb;
use pb::compare::TargetUnion;

pub(super) fn put(put: Put) -> pb::PutRequest {
    let Put { key, value, lease, prev_kv, ignore_value, ignore_lease } = put;
    pb::PutRequest { key, value, lease, prev_kv, ignore_value, ignore_lease }
}

pub(super) fn delete(delete: DeleteRange) -> pb::DeleteRangeRequest {
    let DeleteRange { key, range_end, prev_kv } = delete;
    pb::DeleteRangeRequest { key, range_end, prev_kv }
}

pub(super) fn range(range: Range, consistency: Consistency) -> pb::RangeRequest {
    use pb::range_request as p;
    pb::RangeRequest {
        key: range.key,
        range_end: range.range_end,
        limit: range.limit,
        revision: range.revision,
        sort_order: match range.sort_order {
            SortOrder::None => p::SortOrder::None,
            SortOrder::Ascend => p::SortOrder::Ascend,
            SortOrder::Descend => p::SortOrder::Descend,
        } as i32,
        sort_target: match range.sort_target {
            SortTarget::Key => p::SortTarget::Key,
            SortTarget::Version => p::SortTarget::Version,
            SortTarget::Create => p::SortTarget::Create,
            SortTarget::Mod => p::SortTarget::Mod,
            SortTarget::Value => p::SortTarget::Value,
        } as i32,
        serializable: consistency == Consistency::Serializable,
        keys_only: range.keys_only,
        count_only: range.count_only,
        min_mod_revision: range.min_mod_revision,
        max_mod_revision: range.max_mod_revision,
        min_create_revision: range.min_create_revision,
        max_create_revision: range.max_create_revision,
    }
}

pub(super) fn txn(txn: Txn) -> pb::TxnRequest {
    pb::TxnRequest {
        compare: txn.compares.into_iter().map(compare).collect(),
        success: txn.success.into_iter().map(operation).collect(),
        failure: txn.failure.into_iter().map(operation).collect(),
    }
}

pub(super) fn compact(compact: Compact) -> pb::CompactionRequest {
    pb::CompactionRequest { revision: compact.revision, physical: compact.physical }
}

fn operation(op: TxnOp) -> pb::RequestOp {
    use pb::request_op::Request;
    let request = match op {
        TxnOp::Range(op) => Request::RequestRange(range(op, Consistency::Linearizable)),
        TxnOp::Put(op) => Request::RequestPut(put(op)),
        TxnOp::DeleteRange(op) => Request::RequestDeleteRange(delete(op)),
        TxnOp::Txn(op) => Request::RequestTxn(txn(op)),
    };
    pb::RequestOp { request: Some(request) }
}

fn compare(compare: Compare) -> pb::Compare {
    use pb::compare as p;
    let (target, union) = match compare.operand {
        Operand::Version(version) => (p::CompareTarget::Version, TargetUnion::Version(version)),
        Operand::Create(revision) => (p::CompareTarget::Create, TargetUnion::CreateRevision(revision)),
        Operand::Mod(revision) => (p::CompareTarget::Mod, TargetUnion::ModRevision(revision)),
        Operand::Value(value) => (p::CompareTarget::Value, TargetUnion::Value(value)),
        Operand::Lease(lease) => (p::CompareTarget::Lease, TargetUnion::Lease(lease)),
    };
    let result = match compare.result {
        CompareResult::Equal => p::CompareResult::Equal,
        CompareResult::Greater => p::CompareResult::Greater,
        CompareResult::Less => p::CompareResult::Less,
        CompareResult::NotEqual => p::CompareResult::NotEqual,
    };
    pb::Compare {
        result: result as i32,
        target: target as i32,
        key: compare.key,
        range_end: compare.range_end,
        target_union: Some(union),
    }
}

/// A result under its header. A server that sends no header is not worth refusing an answer for.
pub(super) fn answer<T>(header: Option<&pb::ResponseHeader>, value: T) -> Answer<T> {
    let header = header.map_or_else(Header::default, |header| Header {
        cluster: ClusterId(header.cluster_id),
        member: NodeId(header.member_id),
        revision: header.revision,
        term: header.raft_term,
    });
    Answer { header, value }
}

pub(super) fn key_value(kv: mvccpb::KeyValue) -> KeyValue {
    let mvccpb::KeyValue { key, create_revision, mod_revision, version, value, lease } = kv;
    KeyValue { key, create_revision, mod_revision, version, value, lease }
}

pub(super) fn range_result(response: pb::RangeResponse) -> RangeResult {
    RangeResult {
        revision: response.header.map_or(0, |header| header.revision),
        kvs: response.kvs.into_iter().map(key_value).collect(),
        more: response.more,
        count: response.count,
    }
}

pub(super) fn deleted(response: pb::DeleteRangeResponse) -> Deleted {
    Deleted {
        revision: response.header.map_or(0, |header| header.revision),
        deleted: response.deleted,
        previous: response.prev_kvs.into_iter().map(key_value).collect(),
    }
}

/// `revision` is that of the outermost transaction's header; the headers inside are not all filled.
pub(super) fn txn_result(response: pb::TxnResponse, revision: i64) -> Result<TxnResult, Error> {
    use pb::response_op::Response;
    let outcome = |op: pb::ResponseOp| match op.response {
        Some(Response::ResponseRange(response)) => Ok(Outcome::Range(range_result(response))),
        Some(Response::ResponsePut(response)) => Ok(Outcome::Put(response.prev_kv.map(key_value))),
        Some(Response::ResponseDeleteRange(response)) => Ok(Outcome::DeleteRange(deleted(response))),
        Some(Response::ResponseTxn(response)) => Ok(Outcome::Txn(txn_result(response, revision)?)),
        None => Err(malformed("an operation of the transaction has no result", Kind::Write)),
    };
    Ok(TxnResult {
        succeeded: response.succeeded,
        revision,
        outcomes: response.responses.into_iter().map(outcome).collect::<Result<_, _>>()?,
    })
}

pub(super) fn status(response: pb::StatusResponse) -> Status {
    Status {
        version: response.version,
        storage_version: response.storage_version,
        db_size: response.db_size,
        db_size_in_use: response.db_size_in_use,
        leader: Some(NodeId(response.leader)).filter(|leader| leader.0 != 0),
        term: response.raft_term,
        index: response.raft_index,
        applied_index: response.raft_applied_index,
        is_learner: response.is_learner,
        errors: response.errors,
    }
}

pub(super) fn event(event: client::Event) -> EventInfo {
    let client::Event { number, at_millis, source, text } = event;
    EventInfo { number, at_millis, source, text }
}

pub(super) fn members(members: Vec<pb::Member>) -> Vec<MemberInfo> {
    members.into_iter().map(member).collect()
}

fn member(member: pb::Member) -> MemberInfo {
    MemberInfo {
        id: NodeId(member.id),
        name: member.name,
        peer_urls: member.peer_ur_ls,
        client_urls: member.client_ur_ls,
        is_learner: member.is_learner,
    }
}

pub(super) fn alarm(alarm: &pb::AlarmMember) -> Result<Alarm, Error> {
    let kind = u32::try_from(alarm.alarm).ok().and_then(AlarmKind::from_number);
    let kind = kind.ok_or_else(|| malformed(&format!("there is no alarm {}", alarm.alarm), Kind::Read))?;
    Ok(Alarm { kind, member: NodeId(alarm.member_id) })
}
