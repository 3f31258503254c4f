//! Members by hand, outside a `StatefulSet` (DESIGN section 5): who was added by `MemberAdd` and may join, and who was removed and may
//! not come back. A part of the cluster state.
//!
//! An added member gets an ordinal and an id at once, as etcd gives one; the first disk that claims the ordinal takes that id, every later
//! one gets another, as everywhere. The ordinal is the lowest from [`FIRST_ADDED`] on that nobody has: so nothing grows with time.

use std::collections::BTreeMap;

use super::cluster::{Admission, Cluster, Standing, Touched};
use crate::identity::{FIRST_ADDED, NodeId, Ordinal};
use crate::limits::PEERS;

/// What somebody said of an ordinal by hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ByHand {
    /// It was added, and not removed since.
    Added(Added),
    /// It was removed: no disk of it is admitted any more.
    Dismissed,
}

/// A member that was added.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Added {
    /// Where it is expected, as URLs.
    pub peer_urls: Vec<String>,
    /// It does not vote until it is promoted.
    pub learner: bool,
}

/// What `MemberAdd` asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Adding {
    /// Where it will be found, as URLs.
    pub peer_urls: Vec<String>,
    /// It is not to vote until it is promoted.
    pub learner: bool,
    /// At most so many learners may be waiting or members, this one included.
    pub most_learners: u32,
}

impl Cluster {
    /// Adds a member; its id. `None` if one of its URLs is another's, or there are too many.
    pub(super) fn add(&mut self, adding: &Adding, index: u64, touched: &mut Touched) -> Option<NodeId> {
        let added = || self.added().map(|(_, added)| added);
        let taken = added().any(|other| other.peer_urls.iter().any(|url| adding.peer_urls.contains(url)));
        let learners = added().filter(|other| other.learner).count();
        let crowded =
            adding.learner && learners >= usize::try_from(adding.most_learners).unwrap_or(usize::MAX);
        if taken || crowded || added().count() >= PEERS {
            return None;
        }
        let ordinal = (FIRST_ADDED..=Ordinal::MAX).find(|ordinal| self.is_free(*ordinal, index))?;
        let id = NodeId::new(ordinal, index);
        let Adding { peer_urls, learner, .. } = adding.clone();
        self.by_hand.insert(ordinal, ByHand::Added(Added { peer_urls, learner }));
        self.admissions.insert(ordinal, Admission { id, nonce: 0, standing: Standing::Admitted });
        touched.by_hand.insert(ordinal);
        touched.admissions.insert(ordinal);
        Some(id)
    }

    /// Those that were added, by ordinal.
    pub fn added(&self) -> impl Iterator<Item = (Ordinal, &Added)> {
        self.by_hand.iter().filter_map(|(ordinal, by_hand)| match by_hand {
            ByHand::Added(added) => Some((*ordinal, added)),
            ByHand::Dismissed => None,
        })
    }

    /// Whether this ordinal was added as a learner, and not promoted yet.
    pub fn is_held_back(&self, ordinal: Ordinal) -> bool {
        matches!(self.by_hand.get(&ordinal), Some(ByHand::Added(Added { learner: true, .. })))
    }

    /// Nobody has it, and no entry but a later one gave it an id.
    fn is_free(&self, ordinal: Ordinal, index: u64) -> bool {
        !matches!(self.by_hand.get(&ordinal), Some(ByHand::Added(_)))
            && self
                .admissions
                .get(&ordinal)
                .is_none_or(|newest| newest.standing == Standing::Removed && newest.id.incarnation() < index)
    }

    /// Whether an added member waits for its first disk.
    pub fn is_unclaimed(&self, ordinal: Ordinal) -> bool {
        matches!(self.by_hand.get(&ordinal), Some(ByHand::Added(_)))
            && self.admissions.get(&ordinal).is_some_and(is_unclaimed)
    }

    /// The first disk of an added member gets the id that the member was given.
    pub(super) fn claim(&mut self, ordinal: Ordinal, nonce: u64, touched: &mut Touched) -> Option<NodeId> {
        if !self.is_unclaimed(ordinal) {
            return None;
        }
        let newest = self.admissions.get_mut(&ordinal)?;
        newest.nonce = nonce;
        touched.admissions.insert(ordinal);
        Some(newest.id)
    }

    /// Nobody of this ordinal is admitted any more. One that waits for its first disk is removed with that.
    pub(super) fn dismiss(&mut self, ordinal: Ordinal, touched: &mut Touched) {
        if self.by_hand.insert(ordinal, ByHand::Dismissed) != Some(ByHand::Dismissed) {
            touched.by_hand.insert(ordinal);
        }
        if let Some(newest) = self.admissions.get_mut(&ordinal)
            && newest.standing == Standing::Admitted
        {
            newest.standing = Standing::Removed;
            touched.admissions.insert(ordinal);
        }
    }

    /// Sets where an added member is expected.
    pub(super) fn expect(&mut self, ordinal: Ordinal, peer_urls: &[String], touched: &mut Touched) {
        if let Some(ByHand::Added(added)) = self.by_hand.get_mut(&ordinal)
            && added.peer_urls != peer_urls
        {
            added.peer_urls = peer_urls.to_vec();
            touched.by_hand.insert(ordinal);
        }
    }

    /// Whoever votes is no learner any more.
    pub(super) fn note_promoted(&mut self, members: &BTreeMap<NodeId, bool>, touched: &mut Touched) {
        for (ordinal, by_hand) in &mut self.by_hand {
            let ByHand::Added(added) = by_hand else { continue };
            let votes = |(id, votes): (&NodeId, &bool)| id.ordinal() == *ordinal && *votes;
            if added.learner && members.iter().any(votes) {
                added.learner = false;
                touched.by_hand.insert(*ordinal);
            }
        }
    }

    /// After a recovery: the cluster has the members that it has, and expects nobody.
    pub(super) fn forget_expected(&mut self, touched: &mut Touched) {
        let is_member = |ordinal: &Ordinal| {
            let standing = self.admissions.get(ordinal).map(|newest| newest.standing);
            matches!(standing, Some(Standing::Learner | Standing::Voter))
        };
        let gone: Vec<Ordinal> =
            self.added().map(|(ordinal, _)| ordinal).filter(|ordinal| !is_member(ordinal)).collect();
        for ordinal in gone {
            self.dismiss(ordinal, touched);
        }
    }
}

fn is_unclaimed(newest: &Admission) -> bool {
    newest.nonce == 0 && newest.standing == Standing::Admitted
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::cluster::ClusterCommand;
    use super::super::command::Outcome;
    use super::*;

    fn run(cluster: &mut Cluster, command: &ClusterCommand, index: u64) -> Outcome {
        let before = cluster.clone();
        let mut touched = Touched::default();
        let outcome = cluster.apply(command, index, &mut touched);
        for ordinal in [0, 1, FIRST_ADDED, FIRST_ADDED + 1] {
            let changed = before.by_hand.get(&ordinal) != cluster.by_hand.get(&ordinal);
            assert_eq!(touched.by_hand.contains(&ordinal), changed, "what changed is written: {ordinal}");
            let changed = before.admissions.get(&ordinal) != cluster.admissions.get(&ordinal);
            assert!(touched.admissions.contains(&ordinal) || !changed, "{ordinal}");
        }
        outcome
    }

    fn add(cluster: &mut Cluster, url: &str, learner: bool, index: u64) -> Option<NodeId> {
        let adding = Adding { peer_urls: vec![url.into()], learner, most_learners: 1 };
        match run(cluster, &ClusterCommand::Add(adding), index) {
            Outcome::Admitted(id) => id,
            other => panic!("{other:?}"),
        }
    }

    fn admit(cluster: &mut Cluster, ordinal: Ordinal, nonce: u64, index: u64) -> Option<NodeId> {
        match run(cluster, &ClusterCommand::Admit { ordinal, nonce }, index) {
            Outcome::Admitted(id) => id,
            other => panic!("{other:?}"),
        }
    }

    fn members(cluster: &mut Cluster, members: &[(NodeId, bool)]) {
        cluster.note_membership(&members.iter().copied().collect(), &mut Touched::default());
    }

    const FIRST: NodeId = NodeId::new(0, 1);

    #[test]
    fn the_first_disk_takes_the_id_that_was_given_and_no_other_does() {
        let mut cluster = Cluster::default();
        members(&mut cluster, &[(FIRST, true)]);
        let id = add(&mut cluster, "http://b:1", false, 7).unwrap();
        assert_eq!(id, NodeId::new(FIRST_ADDED, 7));
        assert!(cluster.is_unclaimed(FIRST_ADDED));
        assert_eq!(admit(&mut cluster, FIRST_ADDED, 5, 8), Some(id));
        assert_eq!(admit(&mut cluster, FIRST_ADDED, 5, 9), Some(id), "the same disk asks again");
        let other = admit(&mut cluster, FIRST_ADDED, 6, 10);
        assert_eq!(other, Some(NodeId::new(FIRST_ADDED, 10)), "another disk");
        assert!(!cluster.is_unclaimed(FIRST_ADDED));
    }

    #[test]
    fn a_url_belongs_to_one_and_learners_are_few() {
        let mut cluster = Cluster::default();
        add(&mut cluster, "http://b:1", true, 7).unwrap();
        assert_eq!(add(&mut cluster, "http://b:1", false, 8), None, "the URL is taken");
        assert_eq!(add(&mut cluster, "http://c:1", true, 9), None, "one learner is there");
        let voter = add(&mut cluster, "http://c:1", false, 10).unwrap();
        assert_eq!(voter.ordinal(), FIRST_ADDED + 1);
        let learner = NodeId::new(FIRST_ADDED, 7);
        members(&mut cluster, &[(FIRST, true), (learner, false)]);
        assert_eq!(add(&mut cluster, "http://d:1", true, 11), None, "it is a learner still");
        members(&mut cluster, &[(FIRST, true), (learner, true)]);
        assert!(add(&mut cluster, "http://d:1", true, 12).is_some(), "it was promoted");
    }

    #[test]
    fn who_was_dismissed_is_not_admitted_and_its_number_is_used_again_when_it_is_gone() {
        let mut cluster = Cluster::default();
        let added = add(&mut cluster, "http://b:1", false, 7).unwrap();
        admit(&mut cluster, FIRST_ADDED, 5, 8);
        members(&mut cluster, &[(FIRST, true), (added, true)]);
        run(&mut cluster, &ClusterCommand::Dismiss(FIRST_ADDED), 9);
        run(&mut cluster, &ClusterCommand::Dismiss(0), 10);
        assert_eq!(admit(&mut cluster, FIRST_ADDED, 6, 11), None);
        assert_eq!(admit(&mut cluster, 0, 6, 12), None);
        let next = add(&mut cluster, "http://c:1", false, 13).unwrap();
        assert_eq!(next.ordinal(), FIRST_ADDED + 1, "it is a member still");
        members(&mut cluster, &[(FIRST, true)]);
        let again = add(&mut cluster, "http://b:1", false, 14).unwrap();
        assert_eq!(again, NodeId::new(FIRST_ADDED, 14));
        let removed = cluster.removed(&[FIRST].into());
        assert!(removed.iter().any(|gone| gone.ordinal() == FIRST_ADDED && *gone >= added && *gone < again));
    }

    #[test]
    fn one_that_never_joined_is_removed_at_once_and_two_of_one_entry_differ() {
        let mut cluster = Cluster::default();
        let first = add(&mut cluster, "http://b:1", false, 7).unwrap();
        run(&mut cluster, &ClusterCommand::Dismiss(first.ordinal()), 7);
        let second = add(&mut cluster, "http://b:1", false, 7).unwrap();
        assert_ne!(first, second, "an id is given once");
        assert_eq!(admit(&mut cluster, first.ordinal(), 1, 8), None);
    }

    #[test]
    fn an_expected_member_may_move_and_a_recovery_expects_nobody() {
        let mut cluster = Cluster::default();
        let id = add(&mut cluster, "http://b:1", false, 7).unwrap();
        let moved = ClusterCommand::Expect { ordinal: id.ordinal(), peer_urls: vec!["http://x:1".into()] };
        run(&mut cluster, &moved, 8);
        assert!(add(&mut cluster, "http://b:1", false, 9).is_some());
        assert_eq!(add(&mut cluster, "http://x:1", false, 10), None);
        members(&mut cluster, &[(id, true)]);
        run(&mut cluster, &ClusterCommand::RaiseRevision(1), 11);
        let left: Vec<_> = cluster.added().map(|(ordinal, _)| ordinal).collect();
        assert_eq!(left, [id.ordinal()]);
    }
}
