#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::ops::Range;

use proptest::prelude::*;

use super::super::plan::plan;
use super::*;
use crate::identity::OrdinalRange;
use crate::mvcc::cluster::{Admission, Standing};

fn id(ordinal: u16) -> NodeId {
    NodeId::new(ordinal, 1)
}

fn ids(ordinals: impl IntoIterator<Item = u16>) -> BTreeSet<NodeId> {
    ordinals.into_iter().map(id).collect()
}

/// Members of these ordinals, all fit; the first `voters` of them vote, and the lowest leads.
fn view(members: Range<u16>, voters: u16, desired: Desired) -> Leading {
    let all = ids(members.clone());
    Leading {
        id: id(members.start),
        configs: vec![ids(members.start..members.start + voters)],
        members: all.clone(),
        committed: true,
        answering: all.clone(),
        caught_up: all.clone(),
        admissions: all
            .iter()
            .map(|id| (id.ordinal(), Admission { id: *id, nonce: 0, standing: Standing::Learner }))
            .collect(),
        desired,
        max_voters: 5,
        leaving: BTreeSet::new(),
        ..Leading::default()
    }
}

fn range(start: u16, size: u16) -> Desired {
    Desired::Known(OrdinalRange { start, size })
}

/// Carries out what is planned until nothing is; the voters and the members then.
fn settle(view: &mut Leading) -> (BTreeSet<NodeId>, BTreeSet<NodeId>) {
    for _ in 0..20 {
        match plan(view) {
            None => return (view.configs[0].clone(), view.members.clone()),
            Some(Change::Voters(voters)) => {
                view.members = &view.members - &(&view.configs[0] - &voters);
                view.configs = vec![voters];
            }
            Some(Change::Demote(voters)) => view.configs = vec![voters],
            Some(Change::Remove(going)) => view.members = &view.members - &going,
            Some(Change::HandOver(to)) => view.id = *to.first().unwrap(),
            Some(other) => panic!("not in a StatefulSet: {other:?}"),
        }
    }
    panic!("it goes on for ever: {view:?}");
}

#[test]
fn how_many_vote() {
    for (members, voters, desired, then) in [
        // One after another joins.
        (0..1, 1, range(0, 3), 1),
        (0..2, 1, range(0, 3), 1),
        (0..3, 1, range(0, 3), 3),
        (0..2, 1, range(0, 2), 2),
        (0..3, 2, range(0, 3), 3),
        (0..4, 3, range(0, 4), 3),
        (0..4, 3, range(0, 5), 3),
        (0..5, 3, range(0, 5), 5),
        (0..5, 4, range(0, 5), 5),
        (0..7, 5, range(0, 7), 5),
        (0..7, 1, range(0, 7), 5),
        // As many as there are, where nobody sets a size.
        (0..2, 1, Desired::NotUsed, 2),
        (0..3, 1, Desired::NotUsed, 3),
        (0..4, 3, Desired::NotUsed, 3),
        // Nobody is demoted for being one of an even number.
        (0..4, 4, range(0, 4), 4),
        (0..7, 7, range(0, 7), 7),
        (0..3, 1, Desired::Unknown("no API server".into()), 1),
        (0..3, 3, range(0, 0), 3),
        // Down: demoted, and members until they leave.
        (0..5, 5, range(0, 3), 3),
        (0..5, 5, range(0, 4), 4),
        (0..5, 5, range(0, 1), 1),
        (0..3, 3, range(0, 1), 1),
    ] {
        let mut view = view(members.clone(), voters, desired.clone());
        let (voters, still) = settle(&mut view);
        assert_eq!(voters, ids(0..then), "{members:?} {desired:?}");
        assert_eq!(still, ids(members), "nobody is removed who was not seen to leave");
    }
}

#[test]
fn three_become_voters_in_one_change() {
    assert_eq!(plan(&view(0..3, 1, range(0, 3))), Some(Change::Demote(ids(0..3))));
}

#[test]
fn a_leader_outside_the_range_hands_over_first() {
    let mut view = view(0..5, 5, range(2, 3));
    assert_eq!(plan(&view), Some(Change::HandOver(ids(2..5))));
    view.caught_up.remove(&id(3));
    assert_eq!(plan(&view), Some(Change::HandOver(ids([2, 4]))));
    view.id = id(4);
    assert_eq!(plan(&view), Some(Change::Demote(ids(2..5))));
    // All places go to others: they vote beside the old ones before one of them leads.
    let mut moved = super::tests::view(0..6, 3, range(3, 3));
    assert_eq!(plan(&moved), Some(Change::Demote(ids(0..6))));
    let (voters, _) = settle(&mut moved);
    assert_eq!(voters, ids(3..6));
}

#[test]
fn who_left_is_removed_with_all_others_that_left() {
    let mut view = view(0..5, 5, range(0, 1));
    view.leaving = ids(1..4);
    assert_eq!(plan(&view), Some(Change::Demote(ids(0..1))), "it votes no more, first");
    let (voters, members) = settle(&mut view);
    assert_eq!((voters, members), (ids(0..1), ids([0, 4])), "4 still answers");
    view.leaving = ids(0..5);
    assert_eq!(settle(&mut view).1, ids(0..1), "0 is in the range, whatever it asked for");
}

#[test]
fn a_spare_takes_the_place_of_a_disk_that_is_gone() {
    let mut view = view(0..4, 3, range(0, 4));
    let new = NodeId::new(1, 50);
    view.answering.remove(&id(1));
    assert_eq!(plan(&view), None, "silence is no reason");
    view.admissions.insert(1, Admission { id: new, nonce: 9, standing: Standing::Learner });
    view.members.insert(new);
    assert_eq!(plan(&view), Some(Change::Voters(ids([0, 2, 3]))));
    view.answering.insert(new);
    view.caught_up.insert(new);
    let expected = [id(0), new, id(2)].into();
    assert_eq!(plan(&view), Some(Change::Voters(expected)), "it is in time");
}

prop_compose! {
    fn any_view()(
        members in 1..8_u16, voters in 1..8_u16, leader in any::<prop::sample::Index>(),
        (start, size) in (0..4_u16, 0..8_u16), known in 0..4_u8, answering in any::<u8>(), caught_up in any::<u8>(),
        leaving in any::<u8>(),
    ) -> Leading {
        let voters = voters.min(members);
        let some = |bits: u8| ids((0..members).filter(move |ordinal| bits >> ordinal & 1 == 1));
        let mut view = view(0..members, voters, match known {
            0 => Desired::NotUsed,
            1 => Desired::Unknown("not now".into()),
            _ => range(start, size),
        });
        view.id = id(leader.index(usize::from(voters)) as u16);
        view.answering = some(answering);
        view.caught_up = some(caught_up);
        view.answering.insert(view.id);
        view.caught_up.insert(view.id);
        view.leaving = some(leaving);
        view
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_change_is_ever_one_of_these(view in any_view()) {
        let Some(change) = plan(&view) else { return Ok(()) };
        let before = &view.configs[0];
        match &change {
            Change::Voters(after) | Change::Demote(after) => {
                let fit = after.iter().filter(|id| view.is_fit(**id)).count();
                prop_assert!(2 * fit > after.len(), "below a live majority: {change:?}");
                prop_assert!(after.contains(&view.id), "the leader ends its own vote: {change:?}");
                prop_assert!(after.is_subset(&view.members));
                for gone in before.difference(after) {
                    prop_assert!(view.desired.excludes(gone.ordinal()), "{gone} is wanted: {change:?}");
                }
                for new in after.difference(before) {
                    prop_assert!(view.is_fit(*new) && !view.desired.excludes(new.ordinal()), "{new}: {change:?}");
                    let joint = view.desired.excludes(view.id.ordinal());
                    prop_assert!(joint || after.len() <= view.max_voters.max(before.len()), "too many: {change:?}");
                }
            }
            Change::Remove(gone) => {
                prop_assert!(gone.is_disjoint(before), "a voter: {change:?}");
                for id in gone {
                    let may = view.desired.excludes(id.ordinal()) && view.leaving.contains(id);
                    prop_assert!(may, "{id}: {change:?}");
                }
            }
            Change::HandOver(to) => {
                prop_assert!(view.desired.excludes(view.id.ordinal()), "{change:?}");
                prop_assert!(to.iter().all(|id| before.contains(id) && view.is_fit(*id)), "{change:?}");
            }
            other => prop_assert!(false, "not in a StatefulSet: {other:?}"),
        }
        if matches!(view.desired, Desired::Unknown(_)) || view.desired.range().is_some_and(|range| range.size == 0) {
            prop_assert!(false, "nothing is known that asks for {change:?}");
        }
    }

    #[test]
    fn it_comes_to_an_end(mut view in any_view()) {
        settle(&mut view);
    }
}
