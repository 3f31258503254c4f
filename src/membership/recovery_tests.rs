//! When a disk may go on alone, and what is said before it does.
#![allow(clippy::unwrap_used)]

use super::super::disk::{Answer, Asked, ConsensusView, Described, Held, Vote};
use super::*;
use crate::identity::Membership;

const X: ClusterId = ClusterId(7);

fn id(ordinal: u16) -> NodeId {
    NodeId::new(ordinal, 1)
}

fn voters() -> Membership {
    Membership { configs: vec![vec![id(0), id(1), id(2)]], members: Vec::new() }
}

fn member(ordinal: u16, last: u64) -> Disk {
    Disk {
        what: What::Member,
        ordinal,
        cluster: X,
        node_id: id(ordinal),
        held: Held { vote: Vote { term: 3, node: 1 }, last: LogId { term: 3, index: last } },
        membership: voters(),
        ..Disk::default()
    }
}

fn lost(disk: Disk) -> Disk {
    Disk { what: What::Lost { reason: "rolled back".into() }, ..disk }
}

/// What the pods of these ordinals answer; `None` for one that is silent.
fn answers<const N: usize>(of: [(u16, Option<Disk>); N]) -> Answers {
    let mut answers = Answers::default();
    for (ordinal, disk) in of {
        let answer = disk.map_or(Answer::Silent, |disk| {
            Answer::Described(Box::new(Described { disk, ..Described::default() }))
        });
        let asked = Asked { ordinal, answer, ..Asked::default() };
        answers.pods.insert(format!("s-{ordinal}.s.default.svc"), asked);
    }
    answers
}

fn recovery() -> Recovery {
    Recovery { cluster: X, node: id(0), ..Recovery::default() }
}

fn facts() -> Facts {
    Facts { ordinal: 0, name: "s-0.s.default.svc".into(), expected: 3, ..Facts::default() }
}

#[test]
fn a_survivor_goes_on_when_all_others_are_known_to_be_gone() {
    let blank = || Some(Disk::blank(1));
    let all_gone = answers([(1, blank()), (2, blank())]);
    assert_eq!(may_recover(&recovery(), &member(0, 10), &all_gone), Ok(()));
    assert_eq!(may_recover(&recovery(), &lost(member(0, 10)), &all_gone), Ok(()));
    let older = answers([(1, Some(lost(member(1, 10)))), (2, Some(lost(member(2, 9))))]);
    assert_eq!(may_recover(&recovery(), &lost(member(0, 10)), &older), Ok(()));
    let replaced = Disk { node_id: NodeId::new(1, 40), ..member(1, 99) };
    assert_eq!(
        may_recover(&recovery(), &member(0, 10), &answers([(1, Some(replaced)), (2, blank())])),
        Ok(())
    );
}

#[test]
fn silence_is_no_evidence() {
    let silent = answers([(1, Some(Disk::blank(1))), (2, None)]);
    let refused = may_recover(&recovery(), &member(0, 10), &silent).unwrap_err();
    assert_eq!(refused, "s-2 does not answer, and was not said to be gone");
    let told = Recovery { gone: ["s-2".to_owned()].into(), ..recovery() };
    assert_eq!(may_recover(&told, &member(0, 10), &silent), Ok(()));
    let everyone = Recovery { everyone: true, ..recovery() };
    let early = may_recover(&everyone, &member(0, 10), &silent).unwrap_err();
    assert!(early.starts_with("s-2 does not answer"), "it was not given the time to: {early}");
    let mut asked = silent.clone();
    asked.pods.values_mut().for_each(|asked| asked.asked_for = limits::RESUME_PATIENCE);
    assert_eq!(may_recover(&everyone, &member(0, 10), &asked), Ok(()));
    // What is said to be gone and answers is not gone.
    let there = answers([(1, Some(Disk::blank(1))), (2, Some(member(2, 5)))]);
    let refused = may_recover(&told, &member(0, 10), &there).unwrap_err();
    assert!(refused.contains("a majority of the disks is there"), "{refused}");
    let unasked = may_recover(&recovery(), &member(0, 10), &Answers::default()).unwrap_err();
    assert_eq!(unasked, "ordinal 1 does not answer, and was not said to be gone");
}

#[test]
fn only_the_newest_of_a_cluster_without_a_leader_and_a_majority_goes_on() {
    let blank = || Some(Disk::blank(1));
    let refused = |asked: &Recovery, disk: &Disk, answers: &Answers| {
        may_recover(asked, disk, answers).expect_err("it must not go on")
    };
    let newer = answers([(1, Some(lost(member(1, 11)))), (2, blank())]);
    let said = refused(&recovery(), &member(0, 10), &newer);
    assert!(said.starts_with("s-1.s.default.svc holds more"), "{said}");
    let mut led = answers([(1, Some(member(1, 10))), (2, blank())]);
    for asked in led.pods.values_mut() {
        if let Answer::Described(described) = &mut asked.answer {
            described.consensus = Some(ConsensusView { leader: Some(id(1)), ..ConsensusView::default() });
        }
    }
    assert!(refused(&recovery(), &member(0, 10), &led).contains("knows a leader"));
    let next = Disk { cluster: ClusterId(8), supersedes: vec![X], ..member(1, 5) };
    let replaced = answers([(1, Some(next)), (2, blank())]);
    assert!(refused(&recovery(), &member(0, 10), &replaced).contains("which this one did not replace"));
    let gone = answers([(1, blank()), (2, blank())]);
    for other in [Recovery { cluster: ClusterId(8), ..recovery() }, Recovery { node: id(1), ..recovery() }] {
        assert!(refused(&other, &member(0, 10), &gone).starts_with("it is for"), "{other:?}");
    }
    let prepared = Disk { what: What::Prepared, ..member(0, 0) };
    assert_eq!(refused(&recovery(), &prepared, &gone), "the disk is prepared");
}

#[test]
fn everyone_names_the_newest_survivor_and_the_command() {
    let blank = || Some(Disk::blank(1));
    let command = format!("`kubectl exec s-1 -- setstone recover --cluster {X} --yes`");
    let expected = |said: Option<String>| {
        let said = said.expect("a majority is gone");
        assert!(said.contains(&command) && said.contains("entry 12 of term 3"), "{said}");
    };
    // Of a five, three are gone: both survivors name the newer one, and so does a pod whose disk is new.
    let five = Membership { configs: vec![(0..5).map(id).collect()], members: Vec::new() };
    let of_five = |ordinal, last| Disk { membership: five.clone(), ..member(ordinal, last) };
    let others = [(2, blank()), (3, blank()), (4, blank())];
    let [two, three, four] = others.clone();
    expected(advice(&of_five(0, 10), &answers([(1, Some(of_five(1, 12))), two, three, four]), &facts()));
    let [_, three, four] = others;
    let (zero, one) = ((0, Some(of_five(0, 10))), (1, Some(of_five(1, 12))));
    let third = Facts { ordinal: 2, name: "s-2.s.default.svc".into(), ..facts() };
    expected(advice(&Disk::blank(3), &answers([zero, one, three, four]), &third));
    // The only survivor names itself.
    let own = advice(&member(0, 12), &answers([(1, blank()), (2, blank())]), &facts()).unwrap();
    assert!(own.contains("kubectl exec s-0 --"), "{own}");
}

#[test]
fn those_who_are_silent_for_long_are_named() {
    let mut silent = answers([(1, Some(Disk::blank(1))), (2, None)]);
    assert_eq!(advice(&member(0, 12), &silent, &facts()), None, "it may be on its way");
    silent.pods.values_mut().for_each(|asked| asked.asked_for = limits::LEADERLESS_PATIENCE);
    let said = advice(&member(0, 12), &silent, &facts()).unwrap();
    assert!(said.contains("1#1 is gone, 2#1 is silent") && said.contains(" --gone s-2 --yes`"), "{said}");
}

#[test]
fn nothing_is_said_while_a_majority_may_be_there() {
    let blank = || Some(Disk::blank(1));
    let none = |disk: &Disk, answers: &Answers| assert_eq!(advice(disk, answers, &facts()), None);
    none(&member(0, 10), &answers([(1, None), (2, blank())]));
    none(&member(0, 10), &answers([(1, Some(member(1, 9))), (2, blank())]));
    none(&Disk::blank(1), &answers([(1, blank()), (2, blank())]));
    none(&Disk::blank(1), &answers([(1, Some(member(1, 9))), (2, None)]));
    // Pods of another first bootstrap: that may still come about.
    let prepared = Disk { what: What::Prepared, cluster: ClusterId(8), ..member(1, 0) };
    none(&member(0, 10), &answers([(1, Some(prepared)), (2, blank())]));
    // Two clusters: which of them is meant, nobody can say.
    let other = Disk { cluster: ClusterId(8), ..member(1, 9) };
    none(&member(0, 10), &answers([(1, Some(other)), (2, blank())]));
}
