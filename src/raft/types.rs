//! What openraft is told about us: ids, nodes, entries, answers.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bytes::Bytes;
use openraft::alias::CommittedLeaderIdOf;
use openraft::raft::responder::Responder;

use crate::identity::NodeId;
use crate::mvcc::command::{Refusal, Reply};
use crate::storage;

/// The runtime under consensus.
#[cfg(not(feature = "simulation"))]
type Runtime = openraft_rt_tokio::TokioRuntime;
/// The runtime under consensus, with seeded randomness.
#[cfg(feature = "simulation")]
type Runtime = super::seeded::Seeded;

/// The types that this crate runs openraft with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct TypeConfig;

impl openraft::RaftTypeConfig for TypeConfig {
    type D = Batch;
    type R = Replies;
    type NodeId = NodeId;
    type Node = PeerNode;
    type Term = u64;
    // Raft as published: at most one leader per term.
    type LeaderId = openraft::impls::leader_id_std::LeaderId<u64, NodeId>;
    type Vote = openraft::impls::Vote<Self::LeaderId>;
    type Payload = openraft::EntryPayload<Batch, NodeId, PeerNode>;
    type Entry = openraft::Entry<CommittedLeaderIdOf<Self>, Self::Payload>;
    type AsyncRuntime = Runtime;
    type Responder<T>
        = Callback<T>
    where
        T: openraft::OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: openraft::OptionalSend + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

pub(crate) type LogId = openraft::alias::LogIdOf<TypeConfig>;
pub(crate) type Vote = openraft::alias::VoteOf<TypeConfig>;
pub(crate) type Entry = openraft::alias::EntryOf<TypeConfig>;
pub(crate) type LeaderId = openraft::alias::LeaderIdOf<TypeConfig>;
pub(crate) type CommittedLeaderId = openraft::alias::CommittedLeaderIdOf<TypeConfig>;
pub(crate) type EntryPayload = openraft::EntryPayload<Batch, NodeId, PeerNode>;
pub(crate) type Membership = openraft::Membership<NodeId, PeerNode>;
pub(crate) type StoredMembership = openraft::alias::StoredMembershipOf<TypeConfig>;
pub(crate) type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;
pub(crate) type ClientWriteResult = openraft::raft::ClientWriteResult<TypeConfig>;

/// What the membership says of a member beside its id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerNode {
    /// Name of its pod.
    pub name: String,
    /// Host and port of its peer service, by name.
    pub peer_address: String,
    /// Where clients reach it.
    pub client_urls: Vec<String>,
}

/// Requests that share one log entry, encoded once: a whole `setstone.log.v1.Payload`. The same bytes go to the disk, to
/// the peers and to apply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The encoded payload.
    pub encoded: Bytes,
}

impl fmt::Display for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "batch of {} bytes", self.encoded.len())
    }
}

/// What apply made of one entry: one answer per request, in order.
pub type Replies = Vec<Result<Reply, Refusal>>;

/// Calls a function with the outcome of a proposal. If openraft drops it, the function is dropped uncalled.
pub struct Callback<T>(Box<dyn FnOnce(T) + Send>);

impl<T> Callback<T> {
    pub(crate) fn new(call: impl FnOnce(T) + Send + 'static) -> Self {
        Self(Box::new(call))
    }
}

impl<T: openraft::OptionalSend + 'static> Responder<TypeConfig, T> for Callback<T> {
    fn on_complete(self, result: T) {
        (self.0)(result);
    }
}

pub(crate) fn log_id(id: storage::LogId) -> LogId {
    LogId { leader_id: CommittedLeaderId::new(id.term), index: id.index }
}

pub(crate) fn stored_log_id(id: &LogId) -> storage::LogId {
    storage::LogId { term: id.leader_id.term, index: id.index }
}

pub(crate) fn vote(vote: storage::Vote) -> Vote {
    Vote {
        leader_id: LeaderId { term: vote.term, voted_for: NodeId(vote.node.unwrap_or_default()) },
        committed: vote.committed,
    }
}

pub(crate) fn stored_vote(vote: &Vote) -> storage::Vote {
    storage::Vote {
        term: vote.leader_id.term,
        node: Some(vote.leader_id.voted_for.0),
        committed: vote.committed,
    }
}

/// The openraft handle with our types.
pub(crate) type Raft = openraft::Raft<TypeConfig, super::state_machine::StateMachine>;

/// The members, each with whether it votes.
pub(crate) fn voting(membership: &Membership) -> BTreeMap<NodeId, bool> {
    let voters: BTreeSet<NodeId> = membership.voter_ids().collect();
    membership.nodes().map(|(id, _)| (*id, voters.contains(id))).collect()
}
