//! Changes of the membership, on the leader: what it sees of the members, and the two steps of a change. Which change it is, is
//! decided elsewhere.

use std::collections::BTreeSet;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::raft::Precondition;
use openraft::{ChangeMembers, Instant as _};

use super::handle::Consensus;
use super::types::{LogId, PeerNode, TypeConfig};
use crate::env::simulated::{self, Seen};
use crate::error::Error;
use crate::identity::NodeId;
use crate::limits;

/// What a leader sees of the members.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MembersSeen {
    /// The voters: one set, or two while a joint change is under way.
    pub configs: Vec<BTreeSet<NodeId>>,
    /// All members.
    pub members: BTreeSet<NodeId>,
    /// Whether this membership is committed.
    pub committed: bool,
    /// The entry that it came with.
    pub at: Option<LogId>,
    /// Members that answered within an election time-out, this one included.
    pub answering: BTreeSet<NodeId>,
    /// Members that lack at most [`limits::CAUGHT_UP_ENTRIES`], this one included.
    pub caught_up: BTreeSet<NodeId>,
}

impl Consensus {
    /// What this member sees of the others, if it leads and a quorum still says so.
    pub fn members_seen(&self) -> Option<MembersSeen> {
        if !self.is_leader() || !self.leader_is_alive() {
            return None;
        }
        let mine = self.id();
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        let heard = metrics.heartbeat.iter().flatten();
        let answering = heard
            .filter(|(_, at)| at.as_ref().is_some_and(|at| at.elapsed() < self.inner.election_max))
            .map(|(id, _)| *id);
        let least = metrics.last_log_index.unwrap_or(0).saturating_sub(limits::CAUGHT_UP_ENTRIES);
        let matched = metrics.replication.iter().flatten();
        let caught_up = matched
            .filter(|(_, matched)| matched.as_ref().is_some_and(|matched| matched.index >= least))
            .map(|(id, _)| *id);
        Some(MembersSeen {
            configs: membership.get_joint_config().clone(),
            members: membership.nodes().map(|(id, _)| *id).collect(),
            committed: metrics.membership_config.log_id() == metrics.committed_membership_config.log_id(),
            at: *metrics.membership_config.log_id(),
            answering: answering.chain([mine]).collect(),
            caught_up: caught_up.chain([mine]).collect(),
        })
    }

    /// Makes a disk a learner, if it is no member yet.
    ///
    /// # Errors
    /// If another change is under way, or the membership is not the one at `seen` any more.
    pub async fn add_learner(&self, id: NodeId, node: PeerNode, seen: &MembersSeen) -> Result<(), Error> {
        if seen.members.contains(&id) {
            return Ok(());
        }
        self.change(ChangeMembers::AddNodes([(id, node)].into()), false, seen).await
    }

    /// Lets these vote, and no others, by a joint change. Whoever votes no more is no member any more.
    ///
    /// # Errors
    /// As [`Consensus::add_learner`].
    pub async fn set_voters(&self, voters: BTreeSet<NodeId>, seen: &MembersSeen) -> Result<(), Error> {
        self.tell(&voters);
        self.change(ChangeMembers::ReplaceAllVoters(voters), false, seen).await
    }

    /// Lets these vote, and no others, by a joint change. Whoever votes no more stays as a learner.
    ///
    /// # Errors
    /// As [`Consensus::add_learner`].
    pub async fn demote_others(&self, voters: BTreeSet<NodeId>, seen: &MembersSeen) -> Result<(), Error> {
        self.tell(&voters);
        self.change(ChangeMembers::ReplaceAllVoters(voters), true, seen).await
    }

    fn tell(&self, voters: &BTreeSet<NodeId>) {
        simulated::tell(|| Seen::Votes { node: self.id().0, voters: voters.iter().map(|id| id.0).collect() });
    }

    /// Ends the membership of some that do not vote.
    ///
    /// # Errors
    /// As [`Consensus::add_learner`].
    pub async fn remove_learners(&self, ids: BTreeSet<NodeId>, seen: &MembersSeen) -> Result<(), Error> {
        self.change(ChangeMembers::RemoveNodes(ids), false, seen).await
    }

    /// Says something else of a member than before.
    ///
    /// # Errors
    /// As [`Consensus::add_learner`], and if there is no such member.
    pub async fn describe(&self, id: NodeId, node: PeerNode, seen: &MembersSeen) -> Result<(), Error> {
        if !seen.members.contains(&id) {
            return Err(Error::Invalid(format!("{id} is no member")));
        }
        self.change(ChangeMembers::SetNodes([(id, node)].into()), false, seen).await
    }

    async fn change(
        &self,
        change: ChangeMembers<NodeId, PeerNode>,
        retain: bool,
        seen: &MembersSeen,
    ) -> Result<(), Error> {
        let unchanged = Precondition::LastMembershipLogId { last_membership_log_id: seen.at };
        match self.inner.raft.change_membership_if(change, retain, [unchanged]).await {
            Ok(_) => Ok(()),
            Err(RaftError::APIError(error)) => Err(not_changed(&error)),
            Err(RaftError::Fatal(_)) => Err(Error::Stopped),
        }
    }
}

fn not_changed(error: &ClientWriteError<TypeConfig>) -> Error {
    match error {
        ClientWriteError::ForwardToLeader(_) => Error::NoLeader,
        other => Error::Invalid(other.to_string()),
    }
}
