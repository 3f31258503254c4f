//! Which change of the membership comes next. Pure: what the leader sees → at most one change. Only the newest admitted disk of an
//! ordinal ever becomes a voter; nothing is removed because it is silent, but only because its successor has its place, or because
//! its ordinal is outside the desired range (`scale`).

use std::collections::{BTreeMap, BTreeSet};

use super::by_hand::{self, Rules};
use super::scale;
use super::start::Desired;
use crate::identity::{Member, NodeId, Ordinal};
use crate::mvcc::cluster::{Admission, ByHand};

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
    /// What the source of the desired size says now.
    pub desired: Desired,
    /// At most so many vote.
    pub max_voters: usize,
    /// Members that may be removed if their ordinal is outside the range: they asked to be retired, or did not answer on several
    /// consecutive looks.
    pub leaving: BTreeSet<NodeId>,
    /// Outside a `StatefulSet`: members come and go by hand, by these rules.
    pub rules: Option<Rules>,
    /// Ordinals that somebody added or dismissed by hand.
    pub by_hand: BTreeMap<Ordinal, ByHand>,
    /// What the membership says of each member.
    pub described: BTreeMap<NodeId, Member>,
}

/// A change of the membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// These vote from now on, by a joint change; who votes no more is no member any more.
    Voters(BTreeSet<NodeId>),
    /// These vote from now on, by a joint change; who votes no more stays, as a learner.
    Demote(BTreeSet<NodeId>),
    /// These, which do not vote, are no members any more.
    Remove(BTreeSet<NodeId>),
    /// One of these is to lead: this leader's ordinal is outside the range.
    HandOver(BTreeSet<NodeId>),
    /// No disk of this ordinal is admitted any more.
    Dismiss(Ordinal),
    /// The membership says this of a member from now on.
    Describe(Member),
    /// An added member that has not joined is expected at these URLs.
    Expect(Ordinal, Vec<String>),
}

/// What to do next; nothing, if all is as it should be or cannot be changed now.
pub fn plan(view: &Leading) -> Option<Change> {
    if !view.committed {
        return None;
    }
    let (last, before) = view.configs.split_last()?;
    if !before.is_empty() {
        // A leader stopped between the two steps of a joint change: the second is left to do. Who is to go, goes later.
        return Some(Change::Demote(last.clone()));
    }
    let change = replacement(view, last).or_else(|| leftovers(view, last));
    if view.rules.is_some() {
        return by_hand::dismissed(view, last).or(change).or_else(|| by_hand::promotion(view, last));
    }
    change.or_else(|| scale::voters(view, last)).or_else(|| scale::removal(view, last))
}

/// A voter gives its place to the disk that was admitted after it, once that has caught up; until then to a spare.
fn replacement(view: &Leading, voters: &BTreeSet<NodeId>) -> Option<Change> {
    voters.iter().find_map(|old| {
        let newest =
            view.newest(old.ordinal()).filter(|newest| newest != old && view.members.contains(newest))?;
        let successor = if view.is_fit(newest) {
            newest
        } else {
            // The old disk is gone: its pod asked as another.
            scale::spares(view, voters).into_iter().next()?
        };
        let mut voters = voters.clone();
        voters.remove(old);
        voters.insert(successor);
        view.has_fit_majority(&voters).then_some(Change::Voters(voters))
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

    /// It answers, and lacks next to nothing.
    pub(super) fn is_fit(&self, id: NodeId) -> bool {
        self.answering.contains(&id) && self.caught_up.contains(&id)
    }

    /// A change that its new voters cannot commit is not begun.
    pub(super) fn has_fit_majority(&self, voters: &BTreeSet<NodeId>) -> bool {
        2 * voters.iter().filter(|id| self.is_fit(**id)).count() > voters.len()
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
