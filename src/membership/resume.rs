//! Row 6 of the start table: when a member's disk may take part again. Pure.
//!
//! A member's disk may be rolled back, removed or replaced without knowing. So it first asks: a quorum of its last membership can
//! only be reached through pods that hold the evidence, if there is any.

use std::collections::BTreeSet;

use super::disk::{Answers, Disk, What};
use super::start::Facts;
use super::wait::list;
use crate::identity::{Membership, NodeId, Ordinal};
use crate::limits;

/// The last membership of the disk, or that in an answer of its cluster with a higher last log id.
pub(super) fn last_membership(disk: &Disk, answers: &Answers) -> Membership {
    let mut newest = (disk.held.last, &disk.membership);
    if !disk.has_identity() {
        return disk.membership.clone();
    }
    for (_, _, described) in answers.described() {
        let peer = &described.disk;
        if peer.what == What::Member
            && same_cluster(disk, peer)
            && !peer.membership.is_empty()
            && (peer.held.last > newest.0 || newest.1.is_empty())
        {
            newest = (peer.held.last, &peer.membership);
        }
    }
    newest.1.clone()
}

/// Whether a pod answered as this member of the disk's cluster. One that was prepared for the cluster is a voter of it that holds
/// nothing yet.
pub(super) fn answered_as(disk: &Disk, answers: &Answers, id: NodeId) -> bool {
    answers.described().any(|(_, _, described)| {
        let peer = &described.disk;
        matches!(peer.what, What::Member | What::Prepared) && same_cluster(disk, peer) && peer.node_id == id
    })
}

fn same_cluster(disk: &Disk, peer: &Disk) -> bool {
    peer.cluster == disk.cluster
}

/// For what a member's disk is held, for people; `None`: for nothing, it is released.
pub(super) fn held_for(disk: &Disk, answers: &Answers, facts: &Facts) -> Option<String> {
    let membership = last_membership(disk, answers);
    if membership.is_empty() {
        return Some("a membership: the disk knows none, and nobody told one".into());
    }
    let own = disk.node_id;
    let present = |id: NodeId| id == own || answered_as(disk, answers, id);
    if !membership.has_quorum(present) {
        let missing: Vec<_> = membership.voters().filter(|id| !present(*id)).collect();
        return Some(format!("a quorum of its last membership; no answer from {}", list(&missing)));
    }
    // An older disk of this pod is nowhere else: nobody is there to be asked for it.
    let unheard: Vec<_> = membership
        .ids()
        .into_iter()
        .filter(|id| id.ordinal() != own.ordinal() && !was_given_time(answers, id.ordinal()))
        .collect();
    if !unheard.is_empty() {
        return Some(format!("an answer from {}, or 2 s without one", list(&unheard)));
    }
    let silent = silent_others(disk, answers, facts);
    if silent.is_empty() {
        return None;
    }
    Some(format!(
        "an answer from the other pods of the first install, because this disk is the only voter it knows: ordinals {} (at most 60 s \
         from when this pod was ready)",
        list(&silent)
    ))
}

fn was_given_time(answers: &Answers, ordinal: Ordinal) -> bool {
    answers
        .of(ordinal)
        .is_some_and(|asked| asked.described().is_some() || asked.asked_for >= limits::RESUME_PATIENCE)
}

/// The others that a disk without another voter still waits for.
pub(super) fn silent_others(disk: &Disk, answers: &Answers, facts: &Facts) -> BTreeSet<Ordinal> {
    let alone = last_membership(disk, answers).voters().all(|id| id == disk.node_id);
    if !alone || facts.ready_for.is_some_and(|ready| ready >= limits::LONE_VOTER_PATIENCE) {
        return BTreeSet::new();
    }
    let mut silent = facts.others();
    silent.retain(|ordinal| answers.of(*ordinal).is_none_or(|asked| asked.described().is_none()));
    silent
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::disk::{Answer, Asked, Described};
    use super::*;
    use crate::identity::ClusterId;

    #[test]
    fn a_disk_that_has_not_replaced_its_predecessor_yet_does_not_wait_for_it() {
        let [zero, one, old, new] =
            [(0, 1), (1, 1), (2, 1), (2, 40)].map(|(at, number)| NodeId::new(at, number));
        let mut membership = Membership { configs: vec![vec![zero, one, old]], members: Vec::new() };
        membership
            .members
            .push(crate::identity::Member { node_id: new, ..crate::identity::Member::default() });
        let disk = |node_id: NodeId| Disk {
            what: What::Member,
            ordinal: node_id.ordinal(),
            cluster: ClusterId(7),
            node_id,
            membership: membership.clone(),
            ..Disk::default()
        };
        let mut answers = Answers::default();
        for id in [zero, one] {
            let described = Described { disk: disk(id), ..Described::default() };
            let answer = Answer::Described(Box::new(described));
            let asked = Asked { ordinal: id.ordinal(), answer, asked_for: Duration::ZERO };
            answers.pods.insert(format!("s-{}", id.ordinal()), asked);
        }
        let facts = Facts { ordinal: 2, ..Facts::default() };
        assert_eq!(held_for(&disk(new), &answers, &facts), None);
        answers.pods.remove("s-1");
        assert!(held_for(&disk(new), &answers, &facts).is_some(), "no quorum answered");
    }
}
