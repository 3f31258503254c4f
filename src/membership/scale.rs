//! The voters that a cluster of the desired size has (DESIGN section 5, Scale). Pure; a part of `plan`.
//!
//! * A voter outside the range becomes a learner first, and stays one until its pod is told to stop.
//! * A learner is promoted when it has caught up. Three pods are three voters, four are three and a spare, two are two: "odd" limits
//!   promotion only, and at most `max_voters` vote.
//! * While the size is not known, or is 0, nobody is promoted, demoted or removed.

use std::collections::BTreeSet;

use super::by_hand;
use super::plan::{Change, Leading};
use super::start::Desired;
use crate::env::simulated::{self, Bug};
use crate::identity::{NodeId, Ordinal};

/// Members that could vote and do not: the newest disks of ordinals in the range that no voter has, fit, by ordinal.
pub(super) fn spares(view: &Leading, voters: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
    let taken: BTreeSet<Ordinal> = voters.iter().map(|id| id.ordinal()).collect();
    let may_vote = |id: &&NodeId| {
        !taken.contains(&id.ordinal())
            && !view.desired.excludes(id.ordinal())
            && !view.leaving.contains(id)
            && view.newest(id.ordinal()) == Some(**id)
            && !by_hand::is_held_back(view, id.ordinal())
            && view.is_fit(**id)
    };
    view.members.iter().filter(may_vote).copied().collect()
}

/// Which voters there should be, if those that there are should change.
pub(super) fn voters(view: &Leading, voters: &BTreeSet<NodeId>) -> Option<Change> {
    let size = size(view)?;
    let staying: BTreeSet<NodeId> = voters.iter().copied().filter(|id| stays(view, *id)).collect();
    let places = size.min(view.max_voters).saturating_sub(staying.len());
    let mut promoted: Vec<NodeId> = spares(view, voters).into_iter().take(places).collect();
    let count = staying.len() + promoted.len();
    if count.is_multiple_of(2) && (count > 2 || size > 2) {
        promoted.pop();
    }
    let target: BTreeSet<NodeId> = staying.into_iter().chain(promoted).collect();
    if target == *voters || !view.has_fit_majority(&target) {
        return None;
    }
    if target.contains(&view.id) {
        return Some(Change::Demote(target));
    }
    let successors: BTreeSet<NodeId> =
        voters.intersection(&target).copied().filter(|id| view.is_fit(*id)).collect();
    if successors.is_empty() {
        // Nobody inside the range votes yet: they do first.
        let both = target.union(voters).copied().collect();
        return view.has_fit_majority(&both).then_some(Change::Demote(both));
    }
    Some(Change::HandOver(successors))
}

fn stays(view: &Leading, id: NodeId) -> bool {
    let gone = simulated::planted(Bug::RemoveSilent) && view.leaving.contains(&id);
    !view.desired.excludes(id.ordinal()) && !gone
}

/// Members outside the range that do not vote any more and may go, all at once.
pub(super) fn removal(view: &Leading, voters: &BTreeSet<NodeId>) -> Option<Change> {
    let outside = |id: &NodeId| view.desired.excludes(id.ordinal()) || simulated::planted(Bug::RemoveSilent);
    let going: BTreeSet<NodeId> = view
        .members
        .difference(voters)
        .copied()
        .filter(|id| outside(id) && view.leaving.contains(id))
        .collect();
    (!going.is_empty()).then_some(Change::Remove(going))
}

/// Number of pods; `None` while nothing may be changed for its sake.
fn size(view: &Leading) -> Option<usize> {
    match &view.desired {
        // Whoever was admitted is wanted.
        Desired::NotUsed => Some(view.members.iter().map(|id| id.ordinal()).collect::<BTreeSet<_>>().len()),
        Desired::Unknown(_) => None,
        Desired::Known(range) => Some(usize::from(range.size)).filter(|size| *size > 0),
    }
}

#[cfg(test)]
#[path = "scale_tests.rs"]
mod tests;
