#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use proptest::prelude::*;

use super::*;
use crate::mvcc::cluster::Standing;

fn id(ordinal: u16, incarnation: u64) -> NodeId {
    NodeId::new(ordinal, incarnation)
}

/// Three voters of which all is well.
fn healthy() -> Leading {
    let voters: BTreeSet<_> = (0..3).map(|ordinal| id(ordinal, 1)).collect();
    Leading {
        id: id(0, 1),
        configs: vec![voters.clone()],
        members: voters.clone(),
        committed: true,
        answering: voters.clone(),
        caught_up: voters.clone(),
        admissions: voters.iter().map(|id| (id.ordinal(), admission(*id))).collect(),
        max_voters: 5,
        ..Leading::default()
    }
}

fn admission(id: NodeId) -> Admission {
    Admission { id, nonce: 0, standing: Standing::Voter }
}

/// The disk of ordinal 2 is gone; another was admitted and is a learner.
fn replaced() -> Leading {
    let mut view = healthy();
    view.answering.remove(&id(2, 1));
    view.admissions.insert(2, admission(id(2, 50)));
    view.members.insert(id(2, 50));
    view
}

#[test]
fn a_healthy_cluster_is_left_alone_and_silence_removes_nobody() {
    assert_eq!(plan(&healthy()), None);
    let mut silent = healthy();
    silent.answering = BTreeSet::from([id(0, 1)]);
    assert_eq!(plan(&silent), None);
}

#[test]
fn a_disk_gives_its_place_to_its_successor_once_that_has_caught_up() {
    let mut view = replaced();
    assert_eq!(plan(&view), None, "it was not heard of");
    view.answering.insert(id(2, 50));
    assert_eq!(plan(&view), None, "it lags");
    view.caught_up.insert(id(2, 50));
    let voters = BTreeSet::from([id(0, 1), id(1, 1), id(2, 50)]);
    assert_eq!(plan(&view), Some(Change::Voters(voters)));
    view.committed = false;
    assert_eq!(plan(&view), None, "a change is under way");
}

#[test]
fn a_change_that_the_new_voters_cannot_commit_is_not_begun() {
    let mut view = replaced();
    view.answering = BTreeSet::from([id(0, 1)]);
    view.caught_up.insert(id(2, 50));
    assert_eq!(plan(&view), None);
}

#[test]
fn the_next_leader_finishes_what_was_begun() {
    let mut view = replaced();
    let new = BTreeSet::from([id(0, 1), id(1, 1), id(2, 50)]);
    view.configs.push(new.clone());
    assert_eq!(plan(&view), Some(Change::Demote(new)));
}

#[test]
fn learners_that_were_replaced_are_removed() {
    let mut view = replaced();
    // It asked again as another disk before it voted.
    view.admissions.insert(2, admission(id(2, 60)));
    view.members.insert(id(2, 60));
    assert_eq!(plan(&view), Some(Change::Remove(BTreeSet::from([id(2, 50)]))));
}

fn a_view() -> impl Strategy<Value = Leading> {
    let ids: Vec<NodeId> = (0..3).flat_map(|ordinal| (1..4).map(move |number| id(ordinal, number))).collect();
    let some = move || proptest::sample::subsequence(ids.clone(), 0..=ids.len());
    let newest = proptest::array::uniform3(1..4_u64);
    (some(), some(), some(), some(), newest, any::<bool>()).prop_map(
        |(voters, others, answering, caught_up, newest, committed)| {
            // A change swaps, so an ordinal has one voter.
            let voters: BTreeMap<_, _> = voters.into_iter().map(|id| (id.ordinal(), id)).collect();
            let voters: BTreeSet<_> = voters.into_values().collect();
            let admissions =
                (0_u16..).zip(newest).map(|(ordinal, number)| (ordinal, admission(id(ordinal, number))));
            Leading {
                id: voters.first().copied().unwrap_or_default(),
                members: voters.iter().copied().chain(others).collect(),
                configs: vec![voters],
                committed,
                answering: answering.into_iter().collect(),
                caught_up: caught_up.into_iter().collect(),
                admissions: admissions.collect(),
                // Nobody is promoted or demoted.
                desired: Desired::Unknown("no answer".into()),
                max_voters: 5,
                leaving: BTreeSet::new(),
                ..Leading::default()
            }
        },
    )
}

proptest! {
    /// Whatever is seen: a change has a fit majority, replaces one disk of one ordinal by its newest, and is none of silence.
    #[test]
    fn no_change_costs_a_quorum(view in a_view()) {
        let voters = &view.configs[0];
        match plan(&view) {
            Some(Change::Voters(new)) => {
                prop_assert_eq!(new.len(), voters.len());
                let joined: Vec<_> = new.difference(voters).collect();
                let left: Vec<_> = voters.difference(&new).collect();
                prop_assert_eq!((joined.len(), left.len()), (1, 1));
                let successor = view.newest(left[0].ordinal());
                let is_spare = successor.is_some_and(|id| !view.is_fit(id));
                prop_assert!(is_spare || joined[0].ordinal() == left[0].ordinal());
                prop_assert_eq!(view.newest(joined[0].ordinal()), Some(*joined[0]));
                prop_assert!(view.members.contains(joined[0]));
                let fit = new.iter().filter(|id| view.answering.contains(id) && view.caught_up.contains(id));
                prop_assert!(2 * fit.count() > new.len());
            }
            Some(Change::Remove(gone)) => {
                for id in gone {
                    prop_assert!(!voters.contains(&id) && view.newest(id.ordinal()) != Some(id));
                }
            }
            Some(other) => prop_assert!(false, "{other:?}"),
            None => {}
        }
        prop_assert!(view.committed || plan(&view).is_none());
    }
}
