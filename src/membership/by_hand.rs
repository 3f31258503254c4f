//! Members by hand, outside a `StatefulSet` (DESIGN section 5): who may be added, who may join, who votes, who goes. Pure; a part of
//! `plan` and of `operator`.
//!
//! * An ordinal is admitted only if it is a member or was added, and was not removed since.
//! * Who was added votes once it has caught up, unless it was added as a learner: then once it is promoted. So a member that was added and
//!   does not come never counts in a quorum, other than in etcd; what is refused for its sake (`strict`) is refused as in etcd.
//! * Who was removed is dismissed first, by a committed command, and then leaves the membership; whoever leads completes that.

use std::collections::BTreeSet;

use super::operator::WishRefusal;
use super::plan::{Change, Leading};
use crate::identity::{NodeId, Ordinal};
use crate::mvcc::cluster::{Added, Adding, ByHand, Standing};

/// The rules of members that come and go by hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Refuse what would endanger the quorum of etcd's members (`--strict-reconfig-check`).
    pub strict: bool,
    /// At most so many learners (`--max-learners`).
    pub max_learners: u32,
}

/// Whether a disk of this ordinal, which is reached at `peer_address`, may be admitted.
pub(super) fn is_listed(view: &Leading, ordinal: Ordinal, peer_address: &str) -> bool {
    if view.rules.is_none() {
        return true;
    }
    match view.by_hand.get(&ordinal) {
        Some(ByHand::Dismissed) => false,
        Some(ByHand::Added(added)) => {
            !is_unclaimed(view, ordinal) || added.peer_urls.iter().any(|url| address(url) == peer_address)
        }
        None => view.members.iter().any(|id| id.ordinal() == ordinal),
    }
}

/// Host and port of a peer URL.
pub(super) fn address(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.trim_end_matches('/')
}

fn is_unclaimed(view: &Leading, ordinal: Ordinal) -> bool {
    let newest = view.admissions.get(&ordinal);
    newest.is_some_and(|newest| newest.nonce == 0 && newest.standing == Standing::Admitted)
}

/// It was added as a learner, and not promoted yet.
pub(super) fn is_held_back(view: &Leading, ordinal: Ordinal) -> bool {
    matches!(view.by_hand.get(&ordinal), Some(ByHand::Added(Added { learner: true, .. })))
}

fn is_dismissed(view: &Leading, ordinal: Ordinal) -> bool {
    matches!(view.by_hand.get(&ordinal), Some(ByHand::Dismissed))
}

/// Those that were added and are no members yet, with the id that each was given.
pub(super) fn unstarted(view: &Leading) -> impl Iterator<Item = (NodeId, &Added)> {
    view.by_hand.iter().filter_map(|(ordinal, by_hand)| match by_hand {
        ByHand::Added(added) if !view.members.iter().any(|id| id.ordinal() == *ordinal) => {
            Some((view.newest(*ordinal)?, added))
        }
        _ => None,
    })
}

/// Members that were dismissed go.
pub(super) fn dismissed(view: &Leading, voters: &BTreeSet<NodeId>) -> Option<Change> {
    let going: BTreeSet<NodeId> =
        view.members.iter().copied().filter(|id| is_dismissed(view, id.ordinal())).collect();
    let learners: BTreeSet<NodeId> = going.difference(voters).copied().collect();
    if !learners.is_empty() {
        return Some(Change::Remove(learners));
    }
    let id = going.intersection(voters).next()?;
    let mut left = voters.clone();
    left.remove(id);
    if left.is_empty() || !view.has_fit_majority(&left) {
        return None;
    }
    if *id != view.id {
        return Some(Change::Voters(left));
    }
    let fit: BTreeSet<NodeId> = left.into_iter().filter(|to| view.is_fit(*to)).collect();
    (!fit.is_empty()).then_some(Change::HandOver(fit))
}

/// Whoever was not added as a learner votes once it has caught up.
pub(super) fn promotion(view: &Leading, voters: &BTreeSet<NodeId>) -> Option<Change> {
    let may_vote = |id: &&NodeId| {
        let ordinal = id.ordinal();
        !voters.iter().any(|voter| voter.ordinal() == ordinal)
            && view.newest(ordinal) == Some(**id)
            && !is_held_back(view, ordinal)
            && !is_dismissed(view, ordinal)
            && view.is_fit(**id)
    };
    let mut more = voters.clone();
    more.insert(*view.members.iter().find(may_vote)?);
    view.has_fit_majority(&more).then_some(Change::Demote(more))
}

/// What etcd counts: members that vote or are to, and how many of them are started.
struct Counted {
    members: usize,
    started: usize,
    active: usize,
}

fn count(view: &Leading, without: Option<Ordinal>) -> Counted {
    let counts = |ordinal: Ordinal| !is_held_back(view, ordinal) && Some(ordinal) != without;
    let started: BTreeSet<Ordinal> =
        view.members.iter().map(|id| id.ordinal()).filter(|ordinal| counts(*ordinal)).collect();
    let active: BTreeSet<Ordinal> =
        view.answering.iter().map(|id| id.ordinal()).filter(|ordinal| started.contains(ordinal)).collect();
    let waiting = unstarted(view).filter(|(id, _)| counts(id.ordinal())).count();
    Counted { members: started.len() + waiting, started: started.len(), active: active.len() }
}

/// Whether a member may be added at these URLs.
///
/// # Errors
/// Why not, as etcd tells it apart.
pub(super) fn may_add(view: &Leading, peer_urls: &[String], learner: bool) -> Result<Adding, WishRefusal> {
    let Some(rules) = view.rules else {
        return Err(WishRefusal::Against("scale the StatefulSet, and the new pod joins by itself".into()));
    };
    let Counted { members, started, active } = count(view, None);
    if rules.strict {
        // One of two is started: the second is being added to a cluster of one.
        if !learner && started <= members / 2 && !(started == 1 && members == 2) {
            return Err(WishRefusal::TooFew);
        }
        // The new member counts as one that does not answer.
        if members > 1 && active <= members.div_ceil(2) {
            return Err(WishRefusal::Unhealthy);
        }
    }
    if peer_urls.iter().any(|url| is_taken(view, url, None)) {
        return Err(WishRefusal::UrlTaken);
    }
    let learners = view.by_hand.keys().filter(|ordinal| is_held_back(view, **ordinal)).count();
    if learner && learners >= usize::try_from(rules.max_learners).unwrap_or(usize::MAX) {
        return Err(WishRefusal::TooManyLearners);
    }
    Ok(Adding { peer_urls: peer_urls.to_vec(), learner, most_learners: rules.max_learners })
}

/// Whether a member other than `but` is or is expected at this URL.
pub(super) fn is_taken(view: &Leading, url: &str, but: Option<Ordinal>) -> bool {
    let by_member = |ordinal: Ordinal| Some(ordinal) != but;
    let others = view.described.values().filter(|member| by_member(member.node_id.ordinal()));
    others.into_iter().any(|member| member.peer_address == address(url))
        || view.by_hand.iter().any(|(ordinal, by_hand)| match by_hand {
            ByHand::Added(added) => {
                by_member(*ordinal) && added.peer_urls.iter().any(|other| address(other) == address(url))
            }
            ByHand::Dismissed => false,
        })
}

/// Whether etcd would let this member, which votes or is to, go.
///
/// # Errors
/// Why not.
pub(super) fn may_remove(view: &Leading, ordinal: Ordinal) -> Result<(), WishRefusal> {
    if !view.rules.is_some_and(|rules| rules.strict) || is_held_back(view, ordinal) {
        return Ok(());
    }
    let left = count(view, Some(ordinal));
    if left.started <= left.members / 2 {
        return Err(WishRefusal::TooFew);
    }
    // One that is away is not part of the quorum that there is.
    let answers = view.answering.iter().any(|id| id.ordinal() == ordinal);
    let all = count(view, None);
    if answers && all.active.saturating_sub(1) < 1 + (all.members - 1) / 2 {
        return Err(WishRefusal::Unhealthy);
    }
    Ok(())
}

#[cfg(test)]
#[path = "by_hand_tests.rs"]
mod tests;
