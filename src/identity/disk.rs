//! What the identity file says. What the disk *is* also depends on its log; `membership::start` puts the two together.

use super::{ClusterId, Lineage, Membership, NodeId, Ordinal};

/// One start of one process on one disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Boot {
    /// Counts the starts; raised and fsynced before anything else is done.
    pub number: u64,
    /// Random; two processes with the same number on copies of one disk differ in it. Lives in memory only.
    pub random: u64,
}

/// What an identity is for (DESIGN section 5, "A disk says what it is").
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskState {
    /// A first bootstrap gave it; these are the voters, its last membership until the log holds one.
    Prepared {
        /// The members that the cluster will start with.
        voters: Membership,
    },
    /// It asks a cluster to be admitted; the log never held anything.
    Joining {
        /// Random; the same nonce gets the same node id.
        nonce: u64,
    },
    /// It is, or was, a member: the log or a snapshot holds a membership.
    Member,
    /// It was a member and cannot be one again. Taken back by nothing but `recover`.
    Lost {
        /// Why, for people.
        reason: String,
        /// What the disk that takes this one's place calls itself, once it asked to be admitted.
        successor: Option<u64>,
    },
}

/// What the identity file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster.
    pub cluster: ClusterId,
    /// Clusters that `cluster` replaces after a recovery.
    pub supersedes: Vec<ClusterId>,
    /// Which incarnation of the ordinal's disk; 0 while joining.
    pub node_id: NodeId,
    /// The ordinal that the disk belongs to.
    pub ordinal: Ordinal,
    /// What it is for.
    pub state: DiskState,
    /// Number of the last start.
    pub boot: u64,
    /// The last stop that was in order.
    pub last_stop: Option<LastStop>,
}

/// What was decided when a process stopped, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LastStop {
    /// Number of the start that it ended.
    pub boot: u64,
    /// What was decided.
    pub decided: String,
}

impl Identity {
    /// The identity to store once the log or a snapshot holds a membership: a prepared disk has become a member, and an
    /// empty log would from now on be a loss. `None` if nothing changes.
    pub fn settled(&self, log_holds_membership: bool) -> Option<Self> {
        match self.state {
            DiskState::Prepared { .. } | DiskState::Joining { .. } if log_holds_membership => {
                Some(Self { state: DiskState::Member, ..self.clone() })
            }
            _ => None,
        }
    }

    /// Its cluster and those that this one replaced.
    pub fn lineage(&self) -> Lineage {
        Lineage { cluster: self.cluster, supersedes: self.supersedes.clone() }
    }

    /// The identity to store when the disk is lost. The first reason stays.
    #[must_use]
    pub fn lost(&self, reason: impl Into<String>) -> Self {
        match self.state {
            DiskState::Lost { .. } => self.clone(),
            _ => Self { state: DiskState::Lost { reason: reason.into(), successor: None }, ..self.clone() },
        }
    }
}
