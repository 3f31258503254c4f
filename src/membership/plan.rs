//! Which change of the membership comes next. Pure: what the leader sees → at most one change. Only the newest admitted disk of an
//! ordinal ever becomes a voter; nothing is removed because it is silent, but only because its successor has its place.

use std::collections::{BTreeMap, BTreeSet};

use crate::identity::{NodeId, Ordinal};
use crate::mvcc::cluster::Admission;

/// What a leader sees.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leading {
    /// The leader.
    pub id: NodeId,
    /// The voters: one set, or two while a joint change is under way.
    pub configs: Vec<BTreeSet<NodeId>>,
    /// All members, those that do not vote included.
    pub members: BTreeSet<NodeId>,
    /// Whether this membership is committed.
    pub committed: bool,
    /// Members that answered within an election time-out, the leader included.
    pub answering: BTreeSet<NodeId>,
    /// Members whose log holds nearly all that the leader's does, the leader included.
    pub caught_up: BTreeSet<NodeId>,
    /// Which disk each ordinal was last admitted with.
    pub admissions: BTreeMap<Ordinal, Admission>,
}

/// A change of the membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// These vote from now on, by a joint change; who votes no more is no member any more.
    Voters(BTreeSet<NodeId>),
    /// These, which do not vote, are no members any more.
    Remove(BTreeSet<NodeId>),
}

/// What to do next; nothing, if all is as it should be or cannot be changed now.
pub fn plan(view: &Leading) -> Option<Change> {
    if !view.committed {
        return None;
    }
    let (last, before) = view.configs.split_last()?;
    if !before.is_empty() {
        // A leader stopped between the two steps of a joint change: the second is left to do.
        return Some(Change::Voters(last.clone()));
    }
    replacement(view, last).or_else(|| leftovers(view, last))
}

/// A voter gives its place to the disk that was admitted after it, once that has caught up.
fn replacement(view: &Leading, voters: &BTreeSet<NodeId>) -> Option<Change> {
    voters.iter().find_map(|old| {
        let newest = view.newest(old.ordinal())?;
        let ready = newest != *old && view.members.contains(&newest) && view.is_fit(newest);
        let mut voters = voters.clone();
        voters.remove(old);
        voters.insert(newest);
        (ready && view.has_fit_majority(&voters)).then_some(Change::Voters(voters))
    })
}

/// Members without a vote whose ordinal was admitted with a newer disk.
fn leftovers(view: &Leading, voters: &BTreeSet<NodeId>) -> Option<Change> {
    let replaced: BTreeSet<_> = view
        .members
        .difference(voters)
        .copied()
        .filter(|id| view.newest(id.ordinal()).is_some_and(|newest| newest != *id))
        .collect();
    (!replaced.is_empty()).then_some(Change::Remove(replaced))
}

impl Leading {
    /// The newest admitted disk of an ordinal.
    pub fn newest(&self, ordinal: Ordinal) -> Option<NodeId> {
        self.admissions.get(&ordinal).map(|admission| admission.id)
    }

    fn is_fit(&self, id: NodeId) -> bool {
        self.answering.contains(&id) && self.caught_up.contains(&id)
    }

    /// A change that its new voters cannot commit is not begun.
    fn has_fit_majority(&self, voters: &BTreeSet<NodeId>) -> bool {
        2 * voters.iter().filter(|id| self.is_fit(**id)).count() > voters.len()
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
