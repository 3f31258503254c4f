//! Which wishes are granted, and as which change.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use super::super::start::Desired;
use super::*;
use crate::identity::OrdinalRange;
use crate::mvcc::cluster::Admission;

fn id(ordinal: u16) -> NodeId {
    NodeId::new(ordinal, 1)
}

fn ids<const N: usize>(ordinals: [u16; N]) -> BTreeSet<NodeId> {
    ordinals.into_iter().map(id).collect()
}

/// A leader, ordinal 0, of these voters and learners, all fit.
fn leading<const V: usize, const L: usize>(voters: [u16; V], learners: [u16; L]) -> Leading {
    let members: BTreeSet<NodeId> = ids(voters).union(&ids(learners)).copied().collect();
    let admissions: BTreeMap<_, _> =
        members.iter().map(|id| (id.ordinal(), Admission { id: *id, ..Admission::default() })).collect();
    Leading {
        id: id(0),
        configs: vec![ids(voters)],
        answering: members.clone(),
        caught_up: members.clone(),
        members,
        committed: true,
        admissions,
        desired: Desired::Known(OrdinalRange { start: 0, size: 4 }),
        max_voters: 5,
        ..Leading::default()
    }
}

fn granted(view: &Leading, wish: &Wish) -> Change {
    match grant(view, wish) {
        Ok(Granted::Next(change)) => change,
        other => panic!("{wish:?}: {other:?}"),
    }
}

fn refused(view: &Leading, wish: &Wish) -> WishRefusal {
    grant(view, wish).unwrap_err()
}

#[test]
fn a_voter_that_goes_gives_its_place_to_a_spare() {
    let view = leading([0, 1, 2], [3]);
    assert_eq!(granted(&view, &Wish::Remove(id(2))), Change::Voters(ids([0, 1, 3])));
    let view = leading([0, 1, 2], []);
    assert_eq!(granted(&view, &Wish::Remove(id(2))), Change::Voters(ids([0, 1])));
    let view = leading([0, 1, 2], [3]);
    assert_eq!(granted(&view, &Wish::Remove(id(3))), Change::Remove(ids([3])));
}

#[test]
fn a_leader_hands_over_before_it_goes_and_the_last_voter_stays() {
    let mut view = leading([0, 1, 2, 3], []);
    view.caught_up.remove(&id(2));
    assert_eq!(granted(&view, &Wish::Remove(id(0))), Change::HandOver(ids([1, 3])));
    assert_eq!(refused(&leading([0], []), &Wish::Remove(id(0))), WishRefusal::TooFew);
}

#[test]
fn nothing_is_granted_that_those_who_are_left_could_not_commit() {
    let mut view = leading([0, 1, 2], []);
    view.answering.remove(&id(1));
    assert_eq!(refused(&view, &Wish::Remove(id(2))), WishRefusal::TooFew);
    assert_eq!(
        granted(&view, &Wish::Remove(id(1))),
        Change::Voters(ids([0, 2])),
        "the one that is away may go"
    );
    view.committed = false;
    assert!(matches!(refused(&view, &Wish::Remove(id(1))), WishRefusal::NotCommitted(_)));
    let mut joint = leading([0, 1], []);
    joint.configs.push(ids([0]));
    assert!(matches!(refused(&joint, &Wish::Remove(id(1))), WishRefusal::NotCommitted(_)));
}

#[test]
fn whoever_has_caught_up_may_vote_within_the_rules_of_the_size() {
    let view = leading([0, 1, 2], [3]);
    assert_eq!(granted(&view, &Wish::Promote(id(3))), Change::Demote(ids([0, 1, 2, 3])));
    assert_eq!(refused(&view, &Wish::Promote(id(2))), WishRefusal::NotLearner);
    assert_eq!(refused(&view, &Wish::Promote(id(9))), WishRefusal::NotMember);
    let mut lags = view.clone();
    lags.caught_up.remove(&id(3));
    assert_eq!(refused(&lags, &Wish::Promote(id(3))), WishRefusal::NotCaughtUp);
    let against = |view: &Leading, id| match refused(view, &Wish::Promote(id)) {
        WishRefusal::Against(text) => text,
        other => panic!("{other:?}"),
    };
    let outside = Leading { desired: Desired::Known(OrdinalRange { start: 0, size: 3 }), ..view.clone() };
    assert!(against(&outside, id(3)).contains("outside"));
    let full = Leading { max_voters: 3, ..view.clone() };
    assert!(against(&full, id(3)).contains("no more may"));
    let mut successor = leading([0, 1, 2], []);
    let newer = NodeId::new(2, 40);
    successor.members.insert(newer);
    assert!(against(&successor, newer).contains("older disk"));
}

#[test]
fn a_refusal_is_the_same_on_both_sides_of_the_wire() {
    for refusal in [
        WishRefusal::NotMember,
        WishRefusal::NotLearner,
        WishRefusal::NotCaughtUp,
        WishRefusal::TooFew,
        WishRefusal::Against("a rule".into()),
        WishRefusal::UrlTaken,
        WishRefusal::TooManyLearners,
        WishRefusal::Unhealthy,
        WishRefusal::Unknown("late".into()),
    ] {
        match to_wire(Err(refusal.clone())) {
            change_response::Outcome::Refused(wire) => assert_eq!(refused_by(wire), refusal),
            other => panic!("{other:?}"),
        }
    }
}
