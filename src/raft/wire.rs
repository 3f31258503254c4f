//! Messages between members: values to `setstone.peer.v1` and back.

use bytes::Bytes;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, StreamAppendError, VoteRequest, VoteResponse,
};
use tonic::{Code, Status};

use super::boots::WrongMessage;
use super::codec::{self, CodecError};
use super::types::{self, Entry, LogId, TypeConfig, Vote};
use crate::error::Error;
use crate::identity::NodeId;
use crate::mvcc::KeyValue;
use crate::mvcc::alarm::{Alarm, AlarmKind};
use crate::mvcc::command::{Deleted, Lifetime, Outcome, RangeResult, Refusal, Reply, TxnResult};
use crate::proto::peer;

/// What became of one entry sent to a peer.
pub(crate) type Appended = Result<Option<LogId>, StreamAppendError<TypeConfig>>;

pub(crate) fn log_id_to_wire(id: &LogId) -> peer::LogId {
    peer::LogId { term: id.leader_id.term, index: id.index }
}

pub(crate) fn log_id_from_wire(id: &peer::LogId) -> LogId {
    types::log_id(crate::storage::LogId { term: id.term, index: id.index })
}

pub(crate) fn vote_to_wire(vote: &Vote) -> peer::Vote {
    peer::Vote { term: vote.leader_id.term, node_id: vote.leader_id.voted_for.0, committed: vote.committed }
}

pub(crate) fn vote_from_wire(vote: &peer::Vote) -> Vote {
    types::vote(crate::storage::Vote { term: vote.term, node: Some(vote.node_id), committed: vote.committed })
}

pub(crate) fn append_to_wire(
    envelope: peer::Envelope,
    request: &AppendEntriesRequest<TypeConfig>,
) -> peer::AppendRequest {
    peer::AppendRequest {
        envelope: Some(envelope),
        vote: Some(vote_to_wire(&request.vote)),
        prev: request.prev_log_id.as_ref().map(log_id_to_wire),
        leader_commit: request.leader_commit.as_ref().map(log_id_to_wire),
        entries: request
            .entries
            .iter()
            .map(|entry| peer::Entry {
                id: Some(log_id_to_wire(&entry.log_id)),
                payload: codec::encode_payload(&entry.payload),
            })
            .collect(),
    }
}

/// The vote of a leader, as a message of its names it.
pub(crate) fn leader_vote(
    vote: Option<&peer::Vote>,
    envelope: Option<&peer::Envelope>,
) -> Result<Vote, CodecError> {
    let vote = vote.ok_or(CodecError::Missing("vote"))?;
    if !vote.committed || envelope.is_none_or(|envelope| envelope.from != vote.node_id) {
        return Err(CodecError::Sequence(format!("the vote of term {} is not of its leader", vote.term)));
    }
    Ok(vote_from_wire(vote))
}

/// Entries are taken only if they follow each other, and the one before them, as a leader of that term can have sent them:
/// openraft relies on it.
pub(crate) fn append_from_wire(
    request: peer::AppendRequest,
) -> Result<AppendEntriesRequest<TypeConfig>, CodecError> {
    let vote = leader_vote(request.vote.as_ref(), request.envelope.as_ref())?;
    let prev = request.prev.as_ref().map(log_id_from_wire);
    let mut last = prev;
    let mut entries = Vec::with_capacity(request.entries.len());
    for entry in request.entries {
        let id = log_id_from_wire(&entry.id.ok_or(CodecError::Missing("log id"))?);
        let next = last.map_or(0, |last| last.index.saturating_add(1));
        let term = last.map_or(0, |last| last.leader_id.term);
        if id.index != next || id.leader_id.term < term {
            return Err(CodecError::Sequence(format!(
                "entry {}.{} cannot be entry {next} after term {term}",
                id.leader_id.term, id.index
            )));
        }
        last = Some(id);
        entries.push(Entry { log_id: id, payload: codec::decode_payload(entry.payload)? });
    }
    if let Some(last) = last
        && last.leader_id.term > vote.leader_id.term
    {
        let (entry, leader) = (last.leader_id.term, vote.leader_id.term);
        return Err(CodecError::Sequence(format!("an entry of term {entry} from a leader of term {leader}")));
    }
    let leader_commit = request.leader_commit.as_ref().map(log_id_from_wire);
    Ok(AppendEntriesRequest { vote, prev_log_id: prev, leader_commit, entries })
}

pub(crate) fn appended_to_wire(appended: &Appended) -> peer::AppendResponse {
    use peer::append_response::Outcome;
    let outcome = match appended {
        Ok(None) => Outcome::Success(peer::Blank {}),
        Ok(Some(id)) => Outcome::Partial(log_id_to_wire(id)),
        Err(StreamAppendError::Conflict(_)) => Outcome::Conflict(peer::Blank {}),
        Err(StreamAppendError::HigherVote(vote)) => Outcome::HigherVote(vote_to_wire(vote)),
    };
    peer::AppendResponse { outcome: Some(outcome), boot: 0, boot_random: 0 }
}

/// `prev` is what the request named as the entry before its first.
pub(crate) fn appended_from_wire(
    response: peer::AppendResponse,
    prev: Option<LogId>,
) -> Result<Appended, CodecError> {
    use peer::append_response::Outcome;
    Ok(match response.outcome.ok_or(CodecError::Missing("outcome"))? {
        Outcome::Success(_) => Ok(None),
        Outcome::Partial(id) => Ok(Some(log_id_from_wire(&id))),
        Outcome::Conflict(_) => {
            Err(StreamAppendError::Conflict(prev.ok_or(CodecError::Missing("entry that conflicts"))?))
        }
        Outcome::HigherVote(vote) => Err(StreamAppendError::HigherVote(vote_from_wire(&vote))),
    })
}

/// The answer to a single append, as openraft gives it, in the form of the stream.
pub(crate) fn appended_of(
    response: &AppendEntriesResponse<TypeConfig>,
    prev: Option<LogId>,
    last: Option<LogId>,
) -> Appended {
    match response {
        AppendEntriesResponse::Success => Ok(last),
        AppendEntriesResponse::PartialSuccess(id) => Ok(*id),
        // Nothing conflicts with the beginning of the log.
        AppendEntriesResponse::Conflict => {
            prev.map_or(Ok(None), |prev| Err(StreamAppendError::Conflict(prev)))
        }
        AppendEntriesResponse::HigherVote(vote) => Err(StreamAppendError::HigherVote(*vote)),
    }
}

pub(crate) fn vote_request_to_wire(
    envelope: peer::Envelope,
    request: &VoteRequest<TypeConfig>,
) -> peer::VoteRequest {
    peer::VoteRequest {
        envelope: Some(envelope),
        vote: Some(vote_to_wire(&request.vote)),
        last: request.last_log_id.as_ref().map(log_id_to_wire),
        leader_transfer: request.leadership_transfer,
    }
}

pub(crate) fn vote_request_from_wire(
    request: &peer::VoteRequest,
) -> Result<VoteRequest<TypeConfig>, CodecError> {
    let vote = request.vote.as_ref().ok_or(CodecError::Missing("vote"))?;
    if vote.committed || request.envelope.is_none_or(|envelope| envelope.from != vote.node_id) {
        return Err(CodecError::Sequence(format!("the vote of term {} is not of its candidate", vote.term)));
    }
    let mut value = VoteRequest::new(vote_from_wire(vote), request.last.as_ref().map(log_id_from_wire));
    value.leadership_transfer = request.leader_transfer;
    Ok(value)
}

pub(crate) fn vote_response_to_wire(response: &VoteResponse<TypeConfig>) -> peer::VoteResponse {
    peer::VoteResponse {
        vote: Some(vote_to_wire(&response.vote)),
        last: response.last_log_id.as_ref().map(log_id_to_wire),
        granted: response.vote_granted,
    }
}

pub(crate) fn vote_response_from_wire(
    response: &peer::VoteResponse,
) -> Result<VoteResponse<TypeConfig>, CodecError> {
    let vote = response.vote.as_ref().ok_or(CodecError::Missing("vote"))?;
    Ok(VoteResponse::new(
        vote_from_wire(vote),
        response.last.as_ref().map(log_id_from_wire),
        response.granted,
    ))
}

/// What a proposal came to: the reply or the refusal of the state machine and where it was applied, or why there is none.
pub(crate) type Proposed = Result<Applied, Error>;

/// Where a request was applied, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Applied {
    pub(crate) term: u64,
    pub(crate) index: u64,
    pub(crate) reply: Result<Reply, Refusal>,
}

pub(crate) fn proposed_to_wire(proposed: Proposed) -> peer::Reply {
    use peer::reply::Outcome as Wire;
    match proposed {
        Ok(Applied { term, index, reply }) => {
            let (revision, outcome) = match reply {
                Ok(reply) => (reply.revision, Wire::Done(outcome_to_wire(reply.outcome))),
                Err(refusal) => (0, Wire::Refused(refusal as u32)),
            };
            peer::Reply { revision, term, applied_index: index, outcome: Some(outcome) }
        }
        Err(error) => {
            let outcome = match error {
                // Before it was proposed: applied nowhere.
                Error::Refused(refusal) => Wire::Refused(refusal as u32),
                error if error.is_outcome_unknown() => Wire::Unknown(error.to_string()),
                error => Wire::NotProposed(error.to_string()),
            };
            peer::Reply { revision: 0, term: 0, applied_index: 0, outcome: Some(outcome) }
        }
    }
}

/// `None`: the leader did not propose it; trying again is safe, and of use.
pub(crate) fn proposed_from_wire(reply: peer::Reply) -> Result<Option<Applied>, Error> {
    use peer::reply::Outcome as Wire;
    let lost = |text: &str| Error::OutcomeUnknown(format!("the leader's answer was not understood: {text}"));
    let applied = |result| Applied { term: reply.term, index: reply.applied_index, reply: result };
    match reply.outcome.ok_or_else(|| lost("it is empty"))? {
        Wire::Done(outcome) => {
            let outcome = outcome_from_wire(outcome).map_err(|error| lost(&error.to_string()))?;
            Ok(Some(applied(Ok(Reply { revision: reply.revision, outcome }))))
        }
        Wire::Refused(number) => {
            let refusal = Refusal::from_number(number).ok_or_else(|| lost("it is an unknown refusal"))?;
            Ok(Some(applied(Err(refusal))))
        }
        Wire::NotProposed(text) if text == Error::TooManyRequests.to_string() => Err(Error::TooManyRequests),
        Wire::NotProposed(_) => Ok(None),
        Wire::Unknown(text) => Err(Error::OutcomeUnknown(text)),
    }
}

fn outcome_to_wire(outcome: Outcome) -> peer::Outcome {
    use peer::outcome::Outcome as Wire;
    let outcome = match outcome {
        Outcome::Put(previous) => Wire::Put(peer::PutOutcome { previous: previous.map(kv_to_wire) }),
        Outcome::DeleteRange(deleted) => Wire::Delete(peer::DeleteOutcome {
            deleted: deleted.deleted,
            revision: deleted.revision,
            previous: deleted.previous.into_iter().map(kv_to_wire).collect(),
        }),
        Outcome::Range(range) => Wire::Range(peer::RangeOutcome {
            kvs: range.kvs.into_iter().map(kv_to_wire).collect(),
            more: range.more,
            revision: range.revision,
            count: range.count,
        }),
        Outcome::Txn(txn) => Wire::Txn(peer::TxnOutcome {
            succeeded: txn.succeeded,
            revision: txn.revision,
            outcomes: txn.outcomes.into_iter().map(outcome_to_wire).collect(),
        }),
        Outcome::Compact => Wire::Compact(peer::Blank {}),
        Outcome::Cluster => Wire::Cluster(peer::Blank {}),
        Outcome::Alarms(alarms) => Wire::Alarms(alarms_to_wire(&alarms)),
        Outcome::Granted { id, ttl } => Wire::Granted(peer::LeaseGranted { id, ttl }),
        Outcome::Lease => Wire::Lease(peer::Blank {}),
        Outcome::Auth => Wire::Auth(peer::Blank {}),
        Outcome::Authenticated { token, revision } => {
            Wire::Authenticated(peer::Authenticated { token, revision })
        }
        Outcome::Lifetime(Lifetime { ttl, granted }) => Wire::Lifetime(peer::LeaseLifetime { ttl, granted }),
        Outcome::Admitted(id) => Wire::Admitted(id.map_or(0, |id| id.0)),
    };
    peer::Outcome { outcome: Some(outcome) }
}

fn outcome_from_wire(outcome: peer::Outcome) -> Result<Outcome, CodecError> {
    use peer::outcome::Outcome as Wire;
    Ok(match outcome.outcome.ok_or(CodecError::Missing("outcome"))? {
        Wire::Put(put) => Outcome::Put(put.previous.map(kv_from_wire)),
        Wire::Delete(delete) => Outcome::DeleteRange(Deleted {
            deleted: delete.deleted,
            revision: delete.revision,
            previous: delete.previous.into_iter().map(kv_from_wire).collect(),
        }),
        Wire::Range(range) => Outcome::Range(RangeResult {
            kvs: range.kvs.into_iter().map(kv_from_wire).collect(),
            more: range.more,
            revision: range.revision,
            count: range.count,
        }),
        Wire::Txn(txn) => Outcome::Txn(TxnResult {
            succeeded: txn.succeeded,
            revision: txn.revision,
            outcomes: txn.outcomes.into_iter().map(outcome_from_wire).collect::<Result<_, _>>()?,
        }),
        Wire::Compact(_) => Outcome::Compact,
        Wire::Cluster(_) => Outcome::Cluster,
        Wire::Alarms(alarms) => Outcome::Alarms(alarms_from_wire(&alarms)?),
        Wire::Granted(peer::LeaseGranted { id, ttl }) => Outcome::Granted { id, ttl },
        Wire::Lease(_) => Outcome::Lease,
        Wire::Auth(_) => Outcome::Auth,
        Wire::Authenticated(peer::Authenticated { token, revision }) => {
            Outcome::Authenticated { token, revision }
        }
        Wire::Lifetime(peer::LeaseLifetime { ttl, granted }) => Outcome::Lifetime(Lifetime { ttl, granted }),
        Wire::Admitted(id) => Outcome::Admitted((id != 0).then_some(NodeId(id))),
    })
}

fn alarms_to_wire(alarms: &[Alarm]) -> peer::Alarms {
    let alarm = |alarm: &Alarm| peer::Alarm { kind: alarm.kind as u32, member: alarm.member.0 };
    peer::Alarms { alarms: alarms.iter().map(alarm).collect() }
}

fn alarms_from_wire(alarms: &peer::Alarms) -> Result<Vec<Alarm>, CodecError> {
    let alarm = |alarm: &peer::Alarm| {
        let unknown = CodecError::Unknown { what: "alarm", value: alarm.kind };
        Ok(Alarm { kind: AlarmKind::from_number(alarm.kind).ok_or(unknown)?, member: NodeId(alarm.member) })
    };
    alarms.alarms.iter().map(alarm).collect()
}

fn kv_to_wire(kv: KeyValue) -> peer::KeyValue {
    peer::KeyValue {
        key: kv.key,
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        value: kv.value,
        lease: kv.lease,
    }
}

fn kv_from_wire(kv: peer::KeyValue) -> KeyValue {
    KeyValue {
        key: kv.key,
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        value: kv.value,
        lease: kv.lease,
    }
}

/// The members of an append request, for its answer.
pub(crate) fn last_of(request: &AppendEntriesRequest<TypeConfig>) -> Option<LogId> {
    request.entries.last().map(|entry| entry.log_id).or(request.prev_log_id)
}

/// The refusal of a message. If it was for somebody else, it names who refuses.
pub(crate) fn refusal(why: &WrongMessage, mine: NodeId) -> Status {
    let text = why.to_string();
    match why {
        WrongMessage::Cluster(..) | WrongMessage::Addressee(..) => {
            let details = Bytes::copy_from_slice(&mine.0.to_be_bytes());
            Status::with_details(Code::FailedPrecondition, text, details)
        }
        _ => Status::failed_precondition(text),
    }
}

/// Who refused a message, if it failed because it was for somebody else.
pub(crate) fn refused_by(status: &Status) -> Option<NodeId> {
    let id: [u8; 8] = status.details().try_into().ok()?;
    (status.code() == Code::FailedPrecondition).then(|| NodeId(u64::from_be_bytes(id)))
}

/// Who sends a message to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sender {
    /// The cluster.
    pub cluster: crate::identity::ClusterId,
    /// The member that sends.
    pub node: NodeId,
    /// Its boot.
    pub boot: u64,
    /// The random number of its boot.
    pub boot_random: u64,
}

impl Sender {
    pub(crate) fn envelope(&self, to: NodeId) -> peer::Envelope {
        peer::Envelope {
            cluster_id: self.cluster.0,
            to: to.0,
            from: self.node.0,
            boot: self.boot,
            boot_random: self.boot_random,
        }
    }
}
