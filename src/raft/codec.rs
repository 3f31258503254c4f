//! Log payloads: values to bytes and back. The bytes are `setstone.log.v1` (`proto/setstone/log.proto`); they are on every
//! disk, so fields are added and never changed.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

use super::auth_codec::{auth_from_log, auth_to_log};
use super::types::{self, Batch, EntryPayload, Membership, PeerNode, StoredMembership};
use crate::identity::{NodeId, OrdinalRange};
use crate::mvcc::alarm::{Alarm, AlarmCommand, AlarmKind, Cause};
use crate::mvcc::cluster::{Adding, ClusterCommand, ClusterEvent, Mark};
use crate::mvcc::command::{
    Command, Compact, Compare, CompareResult, DeleteRange, Operand, Put, Range, Request, SortOrder,
    SortTarget, Txn, TxnOp,
};
use crate::mvcc::lease::{Granted, LeaseCommand};
use crate::proto::log;

/// Bytes that are not a payload that this version understands.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// Not protobuf.
    #[error("not a valid message: {0}")]
    Malformed(#[from] prost::DecodeError),
    /// A part that must be there is not, or comes from a newer version.
    #[error("{0} is missing, or was written by a newer version")]
    Missing(&'static str),
    /// A number that stands for nothing.
    #[error("{what} has the unknown value {value}")]
    Unknown {
        /// Which field.
        what: &'static str,
        /// What it said.
        value: u32,
    },
    /// Entries or votes that no member that keeps to the protocol can have sent.
    #[error("not a message of consensus: {0}")]
    Sequence(String),
    /// Voters that the members do not list.
    #[error("invalid membership: {0}")]
    Membership(String),
}

/// Key of field `batch` in `Payload`, length-delimited.
const BATCH_KEY: u8 = (2 << 3) | 2;
/// Key of field `requests` in `Batch`, length-delimited.
const REQUESTS_KEY: u8 = (1 << 3) | 2;

/// Puts encoded requests into one payload, in order. One copy of each.
pub fn encode_batch(requests: &[Bytes]) -> Batch {
    let body: usize =
        requests.iter().map(|request| 1 + prost::length_delimiter_len(request.len()) + request.len()).sum();
    let mut encoded = BytesMut::with_capacity(1 + prost::length_delimiter_len(body) + body);
    encoded.put_u8(BATCH_KEY);
    put_length(body, &mut encoded);
    for request in requests {
        encoded.put_u8(REQUESTS_KEY);
        put_length(request.len(), &mut encoded);
        encoded.extend_from_slice(request);
    }
    Batch { encoded: encoded.freeze() }
}

fn put_length(length: usize, to: &mut BytesMut) {
    prost::encoding::encode_varint(length as u64, to);
}

/// The requests of a batch; keys and values are slices of its bytes.
pub fn decode_batch(batch: &Batch) -> Result<Vec<Request>, CodecError> {
    match log::Payload::decode(batch.encoded.clone())?.payload {
        Some(log::payload::Payload::Batch(batch)) => {
            batch.requests.into_iter().map(request_from_log).collect()
        }
        _ => Err(CodecError::Missing("batch")),
    }
}

/// The bytes of an entry's payload.
pub(crate) fn encode_payload(payload: &EntryPayload) -> Bytes {
    let payload = match payload {
        EntryPayload::Normal(batch) => return batch.encoded.clone(),
        EntryPayload::Blank => log::payload::Payload::Blank(log::Blank {}),
        EntryPayload::Membership(membership) => {
            log::payload::Payload::Membership(membership_to_log(membership))
        }
    };
    log::Payload { payload: Some(payload) }.encode_to_vec().into()
}

/// The payload of an entry. A batch is taken as it is and decoded when it is applied.
pub(crate) fn decode_payload(encoded: Bytes) -> Result<EntryPayload, CodecError> {
    if encoded.first() == Some(&BATCH_KEY) {
        return Ok(EntryPayload::Normal(Batch { encoded }));
    }
    match log::Payload::decode(encoded)?.payload {
        Some(log::payload::Payload::Blank(_)) => Ok(EntryPayload::Blank),
        Some(log::payload::Payload::Membership(membership)) => {
            Ok(EntryPayload::Membership(membership_from_log(membership)?))
        }
        Some(log::payload::Payload::Batch(_)) | None => Err(CodecError::Missing("payload")),
    }
}

pub(crate) fn membership_to_log(membership: &Membership) -> log::Membership {
    log::Membership {
        configs: membership
            .get_joint_config()
            .iter()
            .map(|voters| log::Voters { node_ids: voters.iter().map(|id| id.0).collect() })
            .collect(),
        members: membership
            .nodes()
            .map(|(id, node)| log::Member {
                node_id: id.0,
                name: node.name.clone(),
                peer_address: node.peer_address.clone(),
                client_urls: node.client_urls.clone(),
            })
            .collect(),
    }
}

pub(crate) fn membership_from_log(membership: log::Membership) -> Result<Membership, CodecError> {
    let configs: Vec<BTreeSet<NodeId>> = membership
        .configs
        .into_iter()
        .map(|voters| voters.node_ids.into_iter().map(NodeId).collect())
        .collect();
    let nodes: BTreeMap<NodeId, PeerNode> = membership
        .members
        .into_iter()
        .map(|member| {
            let node = PeerNode {
                name: member.name,
                peer_address: member.peer_address,
                client_urls: member.client_urls,
            };
            (NodeId(member.node_id), node)
        })
        .collect();
    if configs.is_empty() && nodes.is_empty() {
        return Ok(Membership::default());
    }
    Membership::new(configs, nodes).map_err(|error| CodecError::Membership(error.to_string()))
}

/// Encodes one request as the log keeps it.
pub fn encode_request(request: Request) -> Bytes {
    request_to_log(request).encode_to_vec().into()
}

/// The request that these bytes are, if this version understands it.
pub(crate) fn decode_request(encoded: &Bytes) -> Result<Request, CodecError> {
    request_from_log(log::Request::decode(encoded.clone())?)
}

fn request_to_log(request: Request) -> log::Request {
    use log::request::Command as Log;
    let command = match request.command {
        Command::Put(put) => Log::Put(put_to_log(put)),
        Command::DeleteRange(delete) => Log::DeleteRange(delete_to_log(delete)),
        Command::Txn(txn) => Log::Txn(txn_to_log(txn)),
        Command::Compact(compact) => {
            Log::Compact(log::Compact { revision: compact.revision, physical: compact.physical })
        }
        Command::Cluster(command) => Log::Cluster(cluster_to_log(&command)),
        Command::Lease(command) => Log::Lease(lease_to_log(command)),
        Command::Auth(command) => Log::Auth(auth_to_log(command)),
    };
    log::Request { user: request.user, auth_revision: request.auth_revision, command: Some(command) }
}

fn request_from_log(request: log::Request) -> Result<Request, CodecError> {
    use log::request::Command as Log;
    let command = match request.command.ok_or(CodecError::Missing("command"))? {
        Log::Put(put) => Command::Put(put_from_log(put)),
        Log::DeleteRange(delete) => Command::DeleteRange(delete_from_log(delete)),
        Log::Txn(txn) => Command::Txn(txn_from_log(txn)?),
        Log::Compact(compact) => {
            Command::Compact(Compact { revision: compact.revision, physical: compact.physical })
        }
        Log::Cluster(cluster) => Command::Cluster(cluster_from_log(cluster)?),
        Log::Lease(lease) => Command::Lease(lease_from_log(lease)?),
        Log::Auth(auth) => Command::Auth(auth_from_log(auth)?),
    };
    Ok(Request { user: request.user, auth_revision: request.auth_revision, command })
}

fn lease_to_log(command: LeaseCommand) -> log::LeaseCommand {
    use log::lease_command::Command as Log;
    let reference = |id, granted: Granted, remaining| log::LeaseRef {
        id,
        granted_index: granted.index,
        granted_position: granted.position,
        remaining,
    };
    let command = match command {
        LeaseCommand::Grant { id, ttl } => Log::Grant(log::LeaseGrant { id, ttl }),
        LeaseCommand::Revoke { id } => Log::Revoke(id),
        LeaseCommand::Expire { term, leases } => {
            let leases = leases.into_iter().map(|(id, granted)| reference(id, granted, 0)).collect();
            Log::Expire(log::LeaseExpire { term, leases })
        }
        LeaseCommand::Checkpoint { term, remaining } => {
            let leases =
                remaining.into_iter().map(|(id, granted, left)| reference(id, granted, left)).collect();
            Log::Checkpoint(log::LeaseCheckpoint { term, leases })
        }
    };
    log::LeaseCommand { command: Some(command) }
}

fn lease_from_log(command: log::LeaseCommand) -> Result<LeaseCommand, CodecError> {
    use log::lease_command::Command as Log;
    let granted =
        |lease: &log::LeaseRef| Granted { index: lease.granted_index, position: lease.granted_position };
    Ok(match command.command.ok_or(CodecError::Missing("lease command"))? {
        Log::Grant(log::LeaseGrant { id, ttl }) => LeaseCommand::Grant { id, ttl },
        Log::Revoke(id) => LeaseCommand::Revoke { id },
        Log::Expire(log::LeaseExpire { term, leases }) => LeaseCommand::Expire {
            term,
            leases: leases.iter().map(|lease| (lease.id, granted(lease))).collect(),
        },
        Log::Checkpoint(log::LeaseCheckpoint { term, leases }) => LeaseCommand::Checkpoint {
            term,
            remaining: leases.iter().map(|lease| (lease.id, granted(lease), lease.remaining)).collect(),
        },
    })
}

fn cluster_to_log(command: &ClusterCommand) -> log::ClusterCommand {
    use log::cluster_command::Command as Log;
    let command = match command {
        ClusterCommand::Marks(marks) => {
            Log::Marks(log::Marks { marks: marks.iter().map(|(id, mark)| mark_to_log(*id, mark)).collect() })
        }
        ClusterCommand::Admit { ordinal, nonce } => {
            Log::Admit(log::Admit { ordinal: u32::from(*ordinal), nonce: *nonce })
        }
        ClusterCommand::Resize(range) => {
            Log::Resize(log::OrdinalRange { start: u32::from(range.start), size: u32::from(range.size) })
        }
        ClusterCommand::Note(ClusterEvent { id, at_millis, source, text }) => Log::Note(log::Event {
            id: *id,
            at_millis: *at_millis,
            source: source.clone(),
            text: text.clone(),
        }),
        ClusterCommand::RaiseRevision(by) => Log::RaiseRevision(*by),
        ClusterCommand::Alarm(alarm) => Log::Alarm(alarm_to_log(*alarm)),
        ClusterCommand::Add(Adding { peer_urls, learner, most_learners }) => Log::Add(log::AddMember {
            peer_urls: peer_urls.clone(),
            learner: *learner,
            most_learners: *most_learners,
        }),
        ClusterCommand::Dismiss(ordinal) => Log::Dismiss(u32::from(*ordinal)),
        ClusterCommand::Expect { ordinal, peer_urls } => {
            Log::Expect(log::ExpectMember { ordinal: u32::from(*ordinal), peer_urls: peer_urls.clone() })
        }
    };
    log::ClusterCommand { command: Some(command) }
}

fn cluster_from_log(command: log::ClusterCommand) -> Result<ClusterCommand, CodecError> {
    use log::cluster_command::Command as Log;
    Ok(match command.command.ok_or(CodecError::Missing("cluster command"))? {
        Log::Marks(marks) => ClusterCommand::Marks(marks.marks.iter().map(mark_from_log).collect()),
        Log::Admit(log::Admit { ordinal, nonce }) => {
            ClusterCommand::Admit { ordinal: small_number("an ordinal", ordinal)?, nonce }
        }
        Log::Resize(log::OrdinalRange { start, size }) => ClusterCommand::Resize(OrdinalRange {
            start: small_number("an ordinal", start)?,
            size: small_number("a number of pods", size)?,
        }),
        Log::Note(log::Event { id, at_millis, source, text }) => {
            ClusterCommand::Note(ClusterEvent::new(id, at_millis, &source, &text))
        }
        Log::RaiseRevision(by) => ClusterCommand::RaiseRevision(by),
        Log::Alarm(alarm) => ClusterCommand::Alarm(alarm_from_log(alarm)?),
        Log::Add(log::AddMember { peer_urls, learner, most_learners }) => {
            ClusterCommand::Add(Adding { peer_urls, learner, most_learners })
        }
        Log::Dismiss(ordinal) => ClusterCommand::Dismiss(small_number("an ordinal", ordinal)?),
        Log::Expect(log::ExpectMember { ordinal, peer_urls }) => {
            ClusterCommand::Expect { ordinal: small_number("an ordinal", ordinal)?, peer_urls }
        }
    })
}

fn alarm_to_log(AlarmCommand { alarm, cause, raised }: AlarmCommand) -> log::AlarmCommand {
    log::AlarmCommand { kind: alarm.kind as u32, member: alarm.member.0, cause: cause as u32, raised }
}

fn alarm_from_log(command: log::AlarmCommand) -> Result<AlarmCommand, CodecError> {
    let log::AlarmCommand { kind, member, cause, raised } = command;
    let kind = AlarmKind::from_number(kind).ok_or(CodecError::Unknown { what: "alarm", value: kind })?;
    let cause = Cause::from_number(cause).ok_or(CodecError::Unknown { what: "cause", value: cause })?;
    Ok(AlarmCommand { alarm: Alarm { kind, member: NodeId(member) }, cause, raised })
}

fn small_number(what: &'static str, value: u32) -> Result<u16, CodecError> {
    value.try_into().map_err(|_| CodecError::Unknown { what, value })
}

pub(crate) fn mark_to_log(id: NodeId, mark: &Mark) -> log::Mark {
    log::Mark {
        node_id: id.0,
        boot: mark.boot,
        vote_term: mark.vote_term,
        vote_node: mark.vote_node,
        log_term: mark.log_term,
        log_index: mark.log_index,
    }
}

pub(crate) fn mark_from_log(mark: &log::Mark) -> (NodeId, Mark) {
    let value = Mark {
        boot: mark.boot,
        vote_term: mark.vote_term,
        vote_node: mark.vote_node,
        log_term: mark.log_term,
        log_index: mark.log_index,
    };
    (NodeId(mark.node_id), value)
}

fn put_to_log(put: Put) -> log::Put {
    log::Put {
        key: put.key,
        value: put.value,
        lease: put.lease,
        prev_kv: put.prev_kv,
        ignore_value: put.ignore_value,
        ignore_lease: put.ignore_lease,
    }
}

fn put_from_log(put: log::Put) -> Put {
    Put {
        key: put.key,
        value: put.value,
        lease: put.lease,
        prev_kv: put.prev_kv,
        ignore_value: put.ignore_value,
        ignore_lease: put.ignore_lease,
    }
}

fn delete_to_log(delete: DeleteRange) -> log::DeleteRange {
    log::DeleteRange { key: delete.key, range_end: delete.range_end, prev_kv: delete.prev_kv }
}

fn delete_from_log(delete: log::DeleteRange) -> DeleteRange {
    DeleteRange { key: delete.key, range_end: delete.range_end, prev_kv: delete.prev_kv }
}

fn range_to_log(range: Range) -> log::Range {
    log::Range {
        key: range.key,
        range_end: range.range_end,
        limit: range.limit,
        revision: range.revision,
        sort_order: match range.sort_order {
            SortOrder::None => 0,
            SortOrder::Ascend => 1,
            SortOrder::Descend => 2,
        },
        sort_target: match range.sort_target {
            SortTarget::Key => 0,
            SortTarget::Version => 1,
            SortTarget::Create => 2,
            SortTarget::Mod => 3,
            SortTarget::Value => 4,
        },
        keys_only: range.keys_only,
        count_only: range.count_only,
        min_mod_revision: range.min_mod_revision,
        max_mod_revision: range.max_mod_revision,
        min_create_revision: range.min_create_revision,
        max_create_revision: range.max_create_revision,
    }
}

fn range_from_log(range: log::Range) -> Result<Range, CodecError> {
    Ok(Range {
        key: range.key,
        range_end: range.range_end,
        limit: range.limit,
        revision: range.revision,
        sort_order: match range.sort_order {
            0 => SortOrder::None,
            1 => SortOrder::Ascend,
            2 => SortOrder::Descend,
            value => return Err(CodecError::Unknown { what: "sort order", value }),
        },
        sort_target: match range.sort_target {
            0 => SortTarget::Key,
            1 => SortTarget::Version,
            2 => SortTarget::Create,
            3 => SortTarget::Mod,
            4 => SortTarget::Value,
            value => return Err(CodecError::Unknown { what: "sort target", value }),
        },
        keys_only: range.keys_only,
        count_only: range.count_only,
        min_mod_revision: range.min_mod_revision,
        max_mod_revision: range.max_mod_revision,
        min_create_revision: range.min_create_revision,
        max_create_revision: range.max_create_revision,
    })
}

fn txn_to_log(txn: Txn) -> log::Txn {
    log::Txn {
        compares: txn.compares.into_iter().map(compare_to_log).collect(),
        success: txn.success.into_iter().map(op_to_log).collect(),
        failure: txn.failure.into_iter().map(op_to_log).collect(),
    }
}

fn txn_from_log(txn: log::Txn) -> Result<Txn, CodecError> {
    Ok(Txn {
        compares: txn.compares.into_iter().map(compare_from_log).collect::<Result<_, _>>()?,
        success: txn.success.into_iter().map(op_from_log).collect::<Result<_, _>>()?,
        failure: txn.failure.into_iter().map(op_from_log).collect::<Result<_, _>>()?,
    })
}

fn op_to_log(op: TxnOp) -> log::Op {
    let op = match op {
        TxnOp::Range(range) => log::op::Op::Range(range_to_log(range)),
        TxnOp::Put(put) => log::op::Op::Put(put_to_log(put)),
        TxnOp::DeleteRange(delete) => log::op::Op::DeleteRange(delete_to_log(delete)),
        TxnOp::Txn(txn) => log::op::Op::Txn(txn_to_log(txn)),
    };
    log::Op { op: Some(op) }
}

fn op_from_log(op: log::Op) -> Result<TxnOp, CodecError> {
    Ok(match op.op.ok_or(CodecError::Missing("operation"))? {
        log::op::Op::Range(range) => TxnOp::Range(range_from_log(range)?),
        log::op::Op::Put(put) => TxnOp::Put(put_from_log(put)),
        log::op::Op::DeleteRange(delete) => TxnOp::DeleteRange(delete_from_log(delete)),
        log::op::Op::Txn(txn) => TxnOp::Txn(txn_from_log(txn)?),
    })
}

fn compare_to_log(compare: Compare) -> log::Compare {
    use log::compare::Operand as Log;
    log::Compare {
        key: compare.key,
        range_end: compare.range_end,
        result: match compare.result {
            CompareResult::Equal => 0,
            CompareResult::Greater => 1,
            CompareResult::Less => 2,
            CompareResult::NotEqual => 3,
        },
        operand: Some(match compare.operand {
            Operand::Version(version) => Log::Version(version),
            Operand::Create(revision) => Log::CreateRevision(revision),
            Operand::Mod(revision) => Log::ModRevision(revision),
            Operand::Value(value) => Log::Value(value),
            Operand::Lease(lease) => Log::Lease(lease),
        }),
    }
}

fn compare_from_log(compare: log::Compare) -> Result<Compare, CodecError> {
    use log::compare::Operand as Log;
    Ok(Compare {
        key: compare.key,
        range_end: compare.range_end,
        result: match compare.result {
            0 => CompareResult::Equal,
            1 => CompareResult::Greater,
            2 => CompareResult::Less,
            3 => CompareResult::NotEqual,
            value => return Err(CodecError::Unknown { what: "comparison", value }),
        },
        operand: match compare.operand.ok_or(CodecError::Missing("operand"))? {
            Log::Version(version) => Operand::Version(version),
            Log::CreateRevision(revision) => Operand::Create(revision),
            Log::ModRevision(revision) => Operand::Mod(revision),
            Log::Value(value) => Operand::Value(value),
            Log::Lease(lease) => Operand::Lease(lease),
        },
    })
}

/// A membership and the entry that it came with, as the engine and snapshots keep it.
pub(crate) fn encode_stored_membership(membership: &StoredMembership) -> Bytes {
    log::StoredMembership {
        term: membership.log_id().as_ref().map_or(0, |id| id.leader_id.term),
        index: membership.log_id().as_ref().map(|id| id.index),
        membership: Some(membership_to_log(membership.membership())),
    }
    .encode_to_vec()
    .into()
}

pub(crate) fn decode_stored_membership(encoded: Bytes) -> Result<StoredMembership, CodecError> {
    let stored = log::StoredMembership::decode(encoded)?;
    let membership = membership_from_log(stored.membership.ok_or(CodecError::Missing("membership"))?)?;
    let id = stored.index.map(|index| types::log_id(crate::storage::LogId { term: stored.term, index }));
    Ok(StoredMembership::new(id, membership))
}
