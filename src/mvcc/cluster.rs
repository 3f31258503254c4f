//! Cluster state that is not a key: marks, which disk each ordinal was last admitted with, the desired size, and the event log
//! (DESIGN section 5). Alarms join it here.

use std::collections::{BTreeMap, BTreeSet};

pub use super::by_hand::{Added, Adding, ByHand};
use super::command::Outcome;
pub use super::event_log::{ClusterEvent, EventLog};
use crate::env::simulated::{self, Bug};
use crate::identity::{NodeId, Ordinal, OrdinalRange};
use crate::limits::PEERS;

/// A change to the cluster state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClusterCommand {
    /// Record what members have acknowledged as durable.
    Marks(Vec<(NodeId, Mark)>),
    /// Give a disk the id under which it may join.
    Admit {
        /// The ordinal of its pod.
        ordinal: Ordinal,
        /// What the disk calls itself until then; never 0.
        nonce: u64,
    },
    /// These pods there should be.
    Resize(OrdinalRange),
    /// Keep this in the event log.
    Note(ClusterEvent),
    /// The first entry after a recovery: what was acknowledged may be lost, so no revision that anybody saw is given to another
    /// write, and whoever followed the store from there is told that it was compacted.
    RaiseRevision(u32),
    /// Somebody may join as a new member (etcd's `MemberAdd`, outside a `StatefulSet`).
    Add(Adding),
    /// No disk of this ordinal is admitted any more (etcd's `MemberRemove`, outside a `StatefulSet`).
    Dismiss(Ordinal),
    /// A member that was added and has not joined is expected at these URLs (etcd's `MemberUpdate`).
    Expect {
        /// Its ordinal.
        ordinal: Ordinal,
        /// Its peer URLs.
        peer_urls: Vec<String>,
    },
}

/// More pods than a cluster can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} pods are too many; {PEERS} is the most")]
pub struct TooManyPods(u32);

impl ClusterCommand {
    /// There should be so many pods, from ordinal 0 on.
    ///
    /// # Errors
    /// If they are more than [`PEERS`].
    pub fn resize(size: u32) -> Result<Self, TooManyPods> {
        let fits = u16::try_from(size).ok().filter(|size| usize::from(*size) <= PEERS);
        let size = fits.ok_or(TooManyPods(size))?;
        Ok(Self::Resize(OrdinalRange { start: 0, size }))
    }
}

/// What one member has acknowledged as durable. A disk that holds less was rolled back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// Boot that acknowledged it.
    pub boot: u64,
    /// Term of its vote.
    pub vote_term: u64,
    /// Whom the vote is for; 0 for nobody.
    pub vote_node: u64,
    /// Term of its last log entry.
    pub log_term: u64,
    /// Index of its last log entry.
    pub log_index: u64,
}

impl Mark {
    /// This is below `other`: the vote is lower, or it is equal and the last log entry is lower.
    pub fn is_below(&self, other: &Self) -> bool {
        self.order() < other.order()
    }

    fn order(&self) -> (u64, u64, u64, u64) {
        (self.vote_term, self.vote_node, self.log_term, self.log_index)
    }
}

/// How far the newest disk of an ordinal has got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Standing {
    /// It was admitted, and no membership has it yet.
    #[default]
    Admitted = 0,
    /// A membership had it, and never as a voter.
    Learner = 1,
    /// A membership let it vote.
    Voter = 2,
    /// A membership had it, and a later one has not: it never comes back.
    Removed = 3,
}

impl Standing {
    pub(super) fn from_number(number: u64) -> Option<Self> {
        [Self::Admitted, Self::Learner, Self::Voter, Self::Removed]
            .into_iter()
            .find(|standing| *standing as u64 == number)
    }
}

/// The newest disk that an ordinal was admitted with. Every lower id of the ordinal that is no member counts as removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Admission {
    /// Its id.
    pub id: NodeId,
    /// What it called itself when it asked; 0 for the disks of the first bootstrap.
    pub nonce: u64,
    /// How far it has got.
    pub standing: Standing,
}

/// The cluster state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    /// By member; a mark is never replaced by a lower one.
    pub marks: BTreeMap<NodeId, Mark>,
    /// By ordinal.
    pub admissions: BTreeMap<Ordinal, Admission>,
    /// The pods that there should be, as somebody set them or as a leader last saw them in Kubernetes.
    pub desired: Option<OrdinalRange>,
    /// What members decided, for people.
    pub events: EventLog,
    /// Ordinals that somebody added or dismissed by hand; none in a `StatefulSet`.
    pub by_hand: BTreeMap<Ordinal, ByHand>,
}

/// Which items of the cluster state are others now: for whoever writes them.
#[derive(Debug, Default)]
pub struct Touched {
    pub(super) marks: BTreeSet<NodeId>,
    pub(super) admissions: BTreeSet<Ordinal>,
    pub(super) desired: bool,
    pub(super) events: BTreeSet<u64>,
    pub(super) by_hand: BTreeSet<Ordinal>,
}

impl Cluster {
    /// Apply `command`, which stands in the log entry at `index`; what changes goes to `touched`.
    pub fn apply(&mut self, command: &ClusterCommand, index: u64, touched: &mut Touched) -> Outcome {
        match command {
            ClusterCommand::Marks(marks) => {
                for (node, mark) in marks {
                    self.mark(*node, *mark, touched);
                }
                Outcome::Cluster
            }
            ClusterCommand::Admit { ordinal, nonce } => {
                Outcome::Admitted(self.admit(*ordinal, *nonce, index, touched))
            }
            ClusterCommand::Resize(range) => {
                touched.desired |= self.desired != Some(*range);
                self.desired = Some(*range);
                Outcome::Cluster
            }
            ClusterCommand::Note(event) => {
                if let Some(added) = self.events.add(event.clone()) {
                    touched.events.insert(added.number);
                    touched.events.extend(added.forgotten);
                }
                Outcome::Cluster
            }
            // The revision is not here; `apply` raises it.
            ClusterCommand::RaiseRevision(_) => {
                self.forget_expected(touched);
                Outcome::Cluster
            }
            ClusterCommand::Add(adding) => Outcome::Admitted(self.add(adding, index, touched)),
            ClusterCommand::Dismiss(ordinal) => {
                self.dismiss(*ordinal, touched);
                Outcome::Cluster
            }
            ClusterCommand::Expect { ordinal, peer_urls } => {
                self.expect(*ordinal, peer_urls, touched);
                Outcome::Cluster
            }
        }
    }

    fn mark(&mut self, node: NodeId, mark: Mark, touched: &mut Touched) {
        let replaced = match self.marks.get(&node) {
            Some(old) => !mark.is_below(old) && mark != *old,
            None => true,
        };
        if replaced {
            self.marks.insert(node, mark);
            touched.marks.insert(node);
        }
    }

    /// The same nonce gets the same id, until the disk may have acknowledged something under it: a disk that asks once more after
    /// that was rolled back.
    fn admit(&mut self, ordinal: Ordinal, nonce: u64, index: u64, touched: &mut Touched) -> Option<NodeId> {
        if matches!(self.by_hand.get(&ordinal), Some(ByHand::Dismissed)) {
            return None;
        }
        if let Some(id) = self.claim(ordinal, nonce, touched) {
            return Some(id);
        }
        if let Some(newest) = self.admissions.get(&ordinal) {
            let unused = newest.standing <= Standing::Learner && !self.marks.contains_key(&newest.id);
            if newest.nonce == nonce && unused {
                return Some(newest.id);
            }
            // An entry holds at most one admission of an ordinal: the second would get the first one's id.
            if newest.id.incarnation() >= index {
                return None;
            }
        }
        let mut id = NodeId::new(ordinal, index);
        if simulated::planted(Bug::ReuseId) {
            id = self.admissions.get(&ordinal).map_or(id, |before| before.id);
        }
        self.admissions.insert(ordinal, Admission { id, nonce, standing: Standing::Admitted });
        touched.admissions.insert(ordinal);
        Some(id)
    }

    /// A membership was applied: these are its members, each with whether it votes. What changes goes to `touched`.
    pub fn note_membership(&mut self, members: &BTreeMap<NodeId, bool>, touched: &mut Touched) {
        for id in members.keys() {
            let newest = self.admissions.entry(id.ordinal()).or_default();
            if newest.id < *id {
                *newest = Admission { id: *id, ..Admission::default() };
            }
        }
        for (ordinal, newest) in &mut self.admissions {
            let standing = match members.get(&newest.id) {
                Some(true) => Standing::Voter,
                Some(false) => newest.standing.max(Standing::Learner),
                None if newest.standing == Standing::Admitted => Standing::Admitted,
                None => Standing::Removed,
            };
            if standing != newest.standing {
                newest.standing = standing;
                touched.admissions.insert(*ordinal);
            }
        }
        self.note_promoted(members, touched);
        let removed = self.removed(&members.keys().copied().collect());
        let is_removed = |id: &NodeId| {
            !members.contains_key(id)
                && removed.iter().any(|gone| gone.ordinal() == id.ordinal() && id <= gone)
        };
        let useless: Vec<_> = self.marks.keys().copied().filter(is_removed).collect();
        for id in useless {
            self.marks.remove(&id);
            touched.marks.insert(id);
        }
    }

    /// Of each ordinal the newest id that was removed, where `members` are those of the newest applied membership: it and all
    /// lower ones never come back.
    pub fn removed(&self, members: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
        let of_ordinal = |(ordinal, newest): (&Ordinal, &Admission)| {
            if newest.standing == Standing::Removed {
                return Some(newest.id);
            }
            // The one before is replaced once no membership has it.
            let replacing = members.iter().any(|id| id.ordinal() == *ordinal && *id < newest.id);
            let below = newest.id.incarnation().saturating_sub(1);
            (!replacing && below > 0).then(|| NodeId::new(*ordinal, below))
        };
        self.admissions.iter().filter_map(of_ordinal).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: NodeId = NodeId::new(2, 1);

    fn admit(cluster: &mut Cluster, nonce: u64, index: u64) -> Option<NodeId> {
        let mut touched = Touched::default();
        let before = cluster.clone();
        let outcome = cluster.apply(&ClusterCommand::Admit { ordinal: 2, nonce }, index, &mut touched);
        assert_eq!(touched.admissions.contains(&2), *cluster != before, "what changed is written");
        match outcome {
            Outcome::Admitted(id) => id,
            other => panic!("{other:?}"),
        }
    }

    fn members(cluster: &mut Cluster, members: &[(NodeId, bool)]) {
        let before = cluster.clone();
        let mut touched = Touched::default();
        cluster.note_membership(&members.iter().copied().collect(), &mut touched);
        let changed = before.admissions != cluster.admissions;
        assert_eq!(!touched.admissions.is_empty(), changed, "what changed is written");
    }

    fn removed(cluster: &Cluster, members: &[NodeId]) -> Vec<NodeId> {
        cluster.removed(&members.iter().copied().collect()).into_iter().collect()
    }

    fn founded() -> Cluster {
        let mut cluster = Cluster::default();
        members(&mut cluster, &[(OLD, true)]);
        assert_eq!(cluster.admissions[&2], Admission { id: OLD, nonce: 0, standing: Standing::Voter });
        cluster
    }

    #[test]
    fn a_nonce_keeps_its_id_until_the_disk_may_have_acknowledged_something() {
        let mut cluster = founded();
        let new = admit(&mut cluster, 7, 50).unwrap();
        assert_eq!(new, NodeId::new(2, 50), "the incarnation is the index of the entry");
        assert_eq!(admit(&mut cluster, 7, 60), Some(new));
        members(&mut cluster, &[(OLD, true), (new, false)]);
        assert_eq!(admit(&mut cluster, 7, 61), Some(new), "a learner that was never heard of");
        let mut marked = cluster.clone();
        let mark = ClusterCommand::Marks(vec![(new, Mark::default())]);
        marked.apply(&mark, 62, &mut Touched::default());
        assert_eq!(admit(&mut marked, 7, 63), Some(NodeId::new(2, 63)), "a mark names it");
        members(&mut cluster, &[(new, true)]);
        assert_eq!(admit(&mut cluster, 7, 64), Some(NodeId::new(2, 64)), "it voted");
    }

    #[test]
    fn another_nonce_gets_another_id_and_never_twice_the_same() {
        let mut cluster = founded();
        let first = admit(&mut cluster, 7, 50).unwrap();
        assert_eq!(admit(&mut cluster, 8, 50), None, "the second of one entry asks again");
        let second = admit(&mut cluster, 8, 51).unwrap();
        assert!(first < second);
        assert_eq!(admit(&mut cluster, 7, 52), Some(NodeId::new(2, 52)), "7 is not the newest any more");
    }

    #[test]
    fn what_is_removed_is_known_for_ever_and_nothing_before() {
        let mut cluster = founded();
        assert_eq!(removed(&cluster, &[OLD]), []);
        let new = admit(&mut cluster, 7, 50).unwrap();
        assert_eq!(removed(&cluster, &[OLD]), [], "admitted is not replaced");
        let mark = ClusterCommand::Marks(vec![(OLD, Mark::default()), (new, Mark::default())]);
        cluster.apply(&mark, 51, &mut Touched::default());
        members(&mut cluster, &[(OLD, true), (new, true)]);
        assert_eq!(removed(&cluster, &[OLD, new]), [], "the joint membership has both");
        members(&mut cluster, &[(new, true)]);
        assert_eq!(removed(&cluster, &[new]), [NodeId::new(2, 49)]);
        assert_eq!(cluster.marks.keys().collect::<Vec<_>>(), [&new], "marks of removed disks are of no use");
        members(&mut cluster, &[]);
        assert_eq!(removed(&cluster, &[]), [new]);
        assert_eq!(
            admit(&mut cluster, 7, 60),
            Some(NodeId::new(2, 60)),
            "a removed disk comes back as another"
        );
        assert!(cluster.marks.is_empty());
    }
}
