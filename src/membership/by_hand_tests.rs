//! Members that come and go by hand: tables, and a cluster that is driven at random.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::super::operator::{Granted, Update, Wish, grant};
use super::super::plan::plan;
use super::*;
use crate::identity::{FIRST_ADDED, Member};
use crate::mvcc::cluster::{Admission, Cluster, ClusterCommand};
use crate::mvcc::command::Outcome;

const RULES: Rules = Rules { strict: true, max_learners: 1 };

/// The cluster state and the membership of a small cluster; its leader is the first voter.
#[derive(Clone, Debug, Default)]
struct World {
    cluster: Cluster,
    index: u64,
    voters: BTreeSet<NodeId>,
    members: BTreeSet<NodeId>,
    answering: BTreeSet<NodeId>,
    caught_up: BTreeSet<NodeId>,
    rules: Option<Rules>,
    /// It handed leadership over.
    handed_over: Option<NodeId>,
}

fn founder(ordinal: u16) -> NodeId {
    NodeId::new(ordinal, 1)
}

fn url(number: u64) -> String {
    format!("http://m{number}:1")
}

impl World {
    fn of(founders: u16) -> Self {
        let voters: BTreeSet<NodeId> = (0..founders).map(founder).collect();
        let mut world = Self {
            voters: voters.clone(),
            members: voters.clone(),
            answering: voters.clone(),
            caught_up: voters,
            rules: Some(RULES),
            index: 1,
            ..Self::default()
        };
        world.note();
        world
    }

    fn leader(&self) -> Option<NodeId> {
        let fit = |id: &&NodeId| self.answering.contains(id) && self.caught_up.contains(id);
        let quorum = 2 * self.voters.iter().filter(fit).count() > self.voters.len();
        let others = self.voters.iter().filter(|id| Some(**id) != self.handed_over).find(fit);
        others.or_else(|| self.voters.iter().find(fit)).copied().filter(|_| quorum)
    }

    fn view(&self) -> Option<Leading> {
        let described = |id: &NodeId| {
            let added = match self.cluster.by_hand.get(&id.ordinal()) {
                Some(ByHand::Added(added)) => added.peer_urls.first().cloned(),
                _ => None,
            };
            let at = added.unwrap_or_else(|| format!("http://founder{}:1", id.ordinal()));
            (*id, Member { node_id: *id, peer_address: address(&at).into(), ..Member::default() })
        };
        Some(Leading {
            id: self.leader()?,
            configs: vec![self.voters.clone()],
            members: self.members.clone(),
            committed: true,
            answering: self.answering.intersection(&self.members).copied().collect(),
            caught_up: self.caught_up.intersection(&self.members).copied().collect(),
            admissions: self.cluster.admissions.clone(),
            max_voters: 5,
            rules: self.rules,
            by_hand: self.cluster.by_hand.clone(),
            described: self.members.iter().map(described).collect(),
            ..Leading::default()
        })
    }

    fn commit(&mut self, command: &ClusterCommand) -> Outcome {
        self.index += 1;
        self.cluster.apply(command, self.index, &mut crate::mvcc::cluster::Touched::default())
    }

    fn note(&mut self) {
        self.index += 1;
        let members = self.members.iter().map(|id| (*id, self.voters.contains(id))).collect();
        self.cluster.note_membership(&members, &mut crate::mvcc::cluster::Touched::default());
    }

    fn change(&mut self, change: Change) {
        match change {
            Change::Voters(voters) => {
                self.members.retain(|id| !self.voters.contains(id) || voters.contains(id));
                self.voters = voters;
            }
            Change::Demote(voters) => self.voters = voters,
            Change::Remove(ids) => {
                assert!(ids.is_disjoint(&self.voters), "a voter was removed as a learner");
                self.members.retain(|id| !ids.contains(id));
            }
            // Who leads is who is first; the others must be able to.
            Change::HandOver(to) => {
                let leader = self.leader().unwrap();
                assert!(!to.is_empty() && !to.contains(&leader) && to.is_subset(&self.voters));
                self.handed_over = Some(leader);
            }
            Change::Dismiss(ordinal) => drop(self.commit(&ClusterCommand::Dismiss(ordinal))),
            Change::Expect(ordinal, peer_urls) => {
                self.commit(&ClusterCommand::Expect { ordinal, peer_urls });
            }
            Change::Describe(_) => {}
        }
        self.note();
    }

    fn add(&mut self, number: u64, learner: bool) -> Result<NodeId, WishRefusal> {
        let view = self.view().ok_or(WishRefusal::NotCommitted("no leader".into()))?;
        let adding = may_add(&view, &[url(number)], learner)?;
        match self.commit(&ClusterCommand::Add(adding)) {
            Outcome::Admitted(Some(id)) => Ok(id),
            other => panic!("{other:?}"),
        }
    }

    /// A disk asks to be admitted; it becomes a learner that answers.
    fn join(&mut self, ordinal: u16, nonce: u64, at: &str) -> Option<NodeId> {
        let view = self.view()?;
        if !is_listed(&view, ordinal, address(at)) || view.answering.iter().any(|id| id.ordinal() == ordinal)
        {
            return None;
        }
        let Outcome::Admitted(Some(id)) = self.commit(&ClusterCommand::Admit { ordinal, nonce }) else {
            return None;
        };
        self.members.insert(id);
        self.answering.insert(id);
        self.note();
        Some(id)
    }

    fn wish(&mut self, wish: &Wish) -> Result<(), WishRefusal> {
        for _ in 0..4 {
            let view = self.view().ok_or(WishRefusal::NotCommitted("no leader".into()))?;
            match grant(&view, wish) {
                Ok(Granted::Next(change)) => self.change(change),
                Ok(_) => return Ok(()),
                Err(WishRefusal::NotMember) if matches!(wish, Wish::Remove(_)) => return Ok(()),
                Err(refusal) => return Err(refusal),
            }
        }
        Ok(())
    }

    /// What the leader plans, until there is nothing left to do.
    fn settle(&mut self) {
        for _ in 0..50 {
            let Some(change) = self.view().as_ref().and_then(plan) else { return };
            self.change(change);
        }
        panic!("the plan does not come to an end: {self:?}");
    }
}

#[test]
fn one_becomes_three_and_two_by_hand() {
    let mut world = World::of(1);
    for number in [1, 2] {
        let id = world.add(number, false).unwrap();
        assert_eq!(
            world.join(id.ordinal(), number, "http://elsewhere:1"),
            None,
            "it is not the one that was added"
        );
        assert_eq!(world.join(id.ordinal(), number, &url(number)), Some(id));
        world.settle();
        assert!(!world.voters.contains(&id), "it has not caught up");
        world.caught_up.insert(id);
        world.settle();
        assert!(world.voters.contains(&id));
    }
    assert_eq!(world.voters.len(), 3);
    world.wish(&Wish::Remove(founder(0))).unwrap();
    world.settle();
    assert_eq!((world.voters.len(), world.members.contains(&founder(0))), (2, false));
    world.answering.insert(founder(0));
    assert_eq!(world.join(0, 9, "http://founder0:1"), None, "it was removed");
}

#[test]
fn a_learner_votes_only_once_it_is_promoted() {
    let mut world = World::of(3);
    let id = world.add(1, true).unwrap();
    assert_eq!(world.add(2, true), Err(WishRefusal::TooManyLearners));
    assert_eq!(world.wish(&Wish::Promote(id)), Err(WishRefusal::NotCaughtUp), "it has not even joined");
    world.join(id.ordinal(), 1, &url(1)).unwrap();
    assert_eq!(world.wish(&Wish::Promote(id)), Err(WishRefusal::NotCaughtUp));
    world.caught_up.insert(id);
    world.settle();
    assert!(!world.voters.contains(&id));
    let view = world.view().unwrap();
    assert_eq!(
        grant(&view, &Wish::Promote(id)),
        Ok(Granted::Next(Change::Demote(&world.voters | &[id].into())))
    );
    world.change(Change::Demote(&world.voters | &[id].into()));
    let view = world.view().unwrap();
    assert_eq!(grant(&view, &Wish::Promote(id)), Err(WishRefusal::NotLearner));
    assert!(world.add(2, true).is_ok(), "there is no learner any more");
}

#[test]
fn what_etcd_refuses_for_the_sake_of_the_quorum_is_refused_with_its_reason() {
    let mut world = World::of(3);
    world.answering.remove(&founder(2));
    assert_eq!(world.add(1, false), Err(WishRefusal::Unhealthy), "the fourth would not answer either");
    assert_eq!(world.wish(&Wish::Remove(founder(1))), Err(WishRefusal::Unhealthy));
    world.rules = Some(Rules { strict: false, ..RULES });
    assert_eq!(
        world.wish(&Wish::Remove(founder(1))),
        Err(WishRefusal::TooFew),
        "and never below a live majority"
    );
    assert!(world.add(1, false).is_ok());
    let mut alone = World::of(1);
    assert_eq!(alone.wish(&Wish::Remove(founder(0))), Err(WishRefusal::TooFew));
    alone.add(1, false).unwrap();
    assert_eq!(alone.add(2, false), Err(WishRefusal::Unhealthy), "one waits already");
    let mut three = World::of(3);
    three.add(1, false).unwrap();
    three.add(2, false).unwrap();
    assert_eq!(three.add(3, false), Err(WishRefusal::Unhealthy), "three of six would be no majority");
    assert_eq!(
        three.view().map(|view| may_add(&view, &["http://founder1:1".into()], true)),
        Some(Err(WishRefusal::Unhealthy))
    );
    let three = World::of(3);
    let taken = three.view().map(|view| may_add(&view, &["http://founder1:1".into()], false));
    assert_eq!(taken, Some(Err(WishRefusal::UrlTaken)));
}

#[test]
fn in_a_stateful_set_nobody_is_added_by_hand_and_everybody_is_listed() {
    let mut world = World::of(3);
    world.rules = None;
    assert!(matches!(world.add(1, false), Err(WishRefusal::Against(_))));
    assert!(is_listed(&world.view().unwrap(), 9, "x:1"));
}

#[test]
fn one_that_never_joined_can_be_moved_and_removed() {
    let mut world = World::of(1);
    let id = world.add(1, false).unwrap();
    let update =
        |peer_urls: &[String]| Wish::Update(Update { id, peer_urls: peer_urls.to_vec(), published: None });
    world.wish(&update(&[url(7)])).unwrap();
    assert_eq!(world.wish(&update(&["http://founder0:1".into()])), Err(WishRefusal::UrlTaken));
    assert_eq!(world.join(id.ordinal(), 1, &url(1)), None);
    world.wish(&Wish::Remove(id)).unwrap();
    assert_eq!(world.join(id.ordinal(), 1, &url(7)), None);
    let again = world.add(7, false).unwrap();
    assert_eq!(again.ordinal(), FIRST_ADDED, "the number is free again");
    assert_ne!(again, id);
}

#[test]
fn a_wiped_disk_of_a_member_takes_its_place_anew() {
    let mut world = World::of(3);
    world.answering.remove(&founder(1));
    let new = world.join(1, 5, "http://founder1:1").unwrap();
    world.settle();
    assert!(world.voters.contains(&founder(1)));
    world.caught_up.insert(new);
    world.settle();
    assert_eq!(world.voters, [founder(0), new, founder(2)].into());
}

#[derive(Clone, Debug)]
enum Act {
    Add(u64, bool),
    Join(u16, u64, u64),
    CatchUp(usize),
    Silence(usize),
    Wake(usize),
    Remove(usize),
    Promote(usize),
    Plan,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        (0..6u64, any::<bool>()).prop_map(|(number, learner)| Act::Add(number, learner)),
        (0..8u16, 1..5u64, 0..6u64).prop_map(|(at, nonce, number)| Act::Join(at, nonce, number)),
        (0..8usize).prop_map(Act::CatchUp),
        (0..8usize).prop_map(Act::Silence),
        (0..8usize).prop_map(Act::Wake),
        (0..8usize).prop_map(Act::Remove),
        (0..8usize).prop_map(Act::Promote),
        Just(Act::Plan),
    ]
}

impl World {
    fn nth(&self, at: usize) -> Option<NodeId> {
        let waiting = self.view().map(|view| unstarted(&view).map(|(id, _)| id).collect::<Vec<_>>());
        let all: Vec<NodeId> = self.members.iter().copied().chain(waiting.into_iter().flatten()).collect();
        all.get(at % all.len().max(1)).copied()
    }

    fn act(&mut self, act: &Act) {
        match act {
            Act::Add(number, learner) => drop(self.add(*number, *learner)),
            Act::Join(at, nonce, number) => {
                let ordinal = if *at < 4 { *at } else { FIRST_ADDED + at - 4 };
                self.join(ordinal, *nonce, &url(*number));
            }
            Act::CatchUp(at) => self.caught_up.extend(self.nth(*at)),
            Act::Silence(at) => {
                if let Some(id) = self.nth(*at) {
                    self.answering.remove(&id);
                }
            }
            Act::Wake(at) => self.answering.extend(self.nth(*at).filter(|id| self.members.contains(id))),
            Act::Remove(at) => {
                if let Some(id) = self.nth(*at) {
                    let _ = self.wish(&Wish::Remove(id));
                }
            }
            Act::Promote(at) => {
                if let Some(id) = self.nth(*at) {
                    let _ = self.wish(&Wish::Promote(id));
                }
            }
            Act::Plan => {
                if let Some(change) = self.view().as_ref().and_then(plan) {
                    self.change(change);
                }
            }
        }
    }

    fn check(&self, before: &Self) {
        assert!(!self.voters.is_empty() && self.voters.is_subset(&self.members));
        let fit = |id: &&NodeId| before.answering.contains(id) && before.caught_up.contains(id);
        if self.voters != before.voters {
            let able = self.voters.iter().filter(fit).count();
            assert!(
                2 * able > self.voters.len(),
                "new voters that cannot commit: {before:?} became {self:?}"
            );
        }
        // One disk at most of each ordinal votes.
        let ordinals: BTreeSet<Ordinal> = self.voters.iter().map(|id| id.ordinal()).collect();
        assert_eq!(ordinals.len(), self.voters.len());
        for id in self.members.difference(&before.members) {
            let listed = match before.cluster.by_hand.get(&id.ordinal()) {
                Some(ByHand::Dismissed) => false,
                Some(ByHand::Added(_)) => true,
                None => before.members.iter().any(|member| member.ordinal() == id.ordinal()),
            };
            assert!(listed, "{id} joined, and nobody asked for it");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_voters_can_commit_and_only_who_was_added_joins(
        founders in 1..4u16,
        acts in prop::collection::vec(act(), 1..60),
    ) {
        let mut world = World::of(founders);
        let mut given: BTreeSet<NodeId> = world.members.clone();
        for act in &acts {
            let before = world.clone();
            world.act(act);
            world.check(&before);
            // An id names one disk: it comes into a membership once.
            for id in world.members.difference(&before.members) {
                prop_assert!(given.insert(*id) || before.cluster.admissions.get(&id.ordinal()).is_some_and(
                    |newest: &Admission| newest.id == *id && newest.standing < Standing::Voter
                ), "{id} came twice");
            }
        }
    }

    #[test]
    fn when_all_answer_everything_that_was_asked_for_comes_about(
        founders in 1..4u16,
        acts in prop::collection::vec(act(), 1..40),
    ) {
        let mut world = World::of(founders);
        for act in &acts {
            world.act(act);
        }
        for _ in 0..6 {
            world.answering.extend(world.members.clone());
            world.caught_up.extend(world.members.clone());
            world.settle();
        }
        world.answering.extend(world.members.clone());
        for id in &world.members {
            let dismissed = world.cluster.by_hand.get(&id.ordinal()) == Some(&ByHand::Dismissed);
            prop_assert!(!dismissed || world.voters.len() == 1, "{id} was removed and is there: {world:?}");
            let learner = world.cluster.is_held_back(id.ordinal());
            prop_assert!(dismissed || learner || world.voters.contains(id), "{id} does not vote: {world:?}");
            prop_assert!(!learner || !world.voters.contains(id), "{id} is a learner and votes");
        }
    }
}
