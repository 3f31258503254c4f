//! The checker on histories that are right, and on ones that are wrong on purpose.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;

use bytes::Bytes;

use super::check;
use crate::mvcc::KeyValue;
use crate::simulation::history::{Action, Answer, Operation, Outcome, State};

fn key(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

fn kv(name: &'static str, value: &'static str, create: i64, modified: i64, version: i64) -> KeyValue {
    KeyValue {
        key: key(name),
        create_revision: create,
        mod_revision: modified,
        version,
        value: key(value),
        lease: 0,
    }
}

fn state(pairs: &[KeyValue]) -> State {
    pairs.iter().map(|kv| (kv.key.clone(), kv.clone())).collect()
}

/// Revisions: 2 puts a=1, 3 puts a=2, 4 deletes a, 5 puts b=3.
fn stored() -> BTreeMap<i64, State> {
    BTreeMap::from([
        (1, State::new()),
        (2, state(&[kv("a", "1", 2, 2, 1)])),
        (3, state(&[kv("a", "2", 2, 3, 2)])),
        (4, State::new()),
        (5, state(&[kv("b", "3", 5, 5, 1)])),
    ])
}

fn done(action: Action, invoked: u64, returned: u64, revision: i64, answer: Answer) -> Operation {
    Operation {
        caller: "test".into(),
        action,
        invoked,
        returned: Some(returned),
        outcome: Outcome::Done { revision, answer },
    }
}

fn open(action: Action, invoked: u64, outcome: Outcome) -> Operation {
    Operation { caller: "test".into(), action, invoked, returned: Some(invoked + 1), outcome }
}

fn put(name: &'static str, value: &'static str) -> Action {
    Action::Put(key(name), key(value))
}

/// A right history of all of it, one call after the other.
fn right() -> Vec<Operation> {
    vec![
        done(put("a", "1"), 1, 2, 2, Answer::Previous(None)),
        done(Action::Read, 3, 4, 2, Answer::State(stored()[&2].clone())),
        done(put("a", "2"), 5, 6, 3, Answer::Previous(Some(kv("a", "1", 2, 2, 1)))),
        done(Action::Delete(key("a")), 7, 8, 4, Answer::Previous(Some(kv("a", "2", 2, 3, 2)))),
        done(Action::Delete(key("a")), 9, 10, 4, Answer::Previous(None)),
        done(Action::Swap { key: key("b"), expected: 0, value: key("3") }, 11, 12, 5, Answer::Swapped(true)),
        done(Action::Swap { key: key("b"), expected: 0, value: key("4") }, 13, 14, 5, Answer::Swapped(false)),
        done(Action::ReadLocal, 15, 16, 3, Answer::State(stored()[&3].clone())),
        open(put("a", "never"), 17, Outcome::Unknown),
        open(put("a", "refused"), 19, Outcome::Refused),
    ]
}

#[track_caller]
fn found(operations: &[Operation], states: &BTreeMap<i64, State>, what: &str) {
    let wrong = check(operations, states, &BTreeMap::new());
    assert!(wrong.iter().any(|text| text.contains(what)), "{what:?} is not in {wrong:#?}");
}

#[test]
fn a_right_history_is_right() {
    assert_eq!(check(&right(), &stored(), &BTreeMap::new()), Vec::<String>::new());
}

#[test]
fn writes_of_unknown_outcome_may_have_happened_once() {
    let mut history = right();
    history[2] = open(put("a", "2"), 5, Outcome::Unknown);
    history[3] = open(Action::Delete(key("a")), 7, Outcome::Unknown);
    assert_eq!(check(&history, &stored(), &BTreeMap::new()), Vec::<String>::new());

    // The swap that happened needs its condition to have held.
    let mut history = right();
    history[5] = open(Action::Swap { key: key("b"), expected: 3, value: key("3") }, 11, Outcome::Unknown);
    found(&history, &stored(), "WRONG");
}

#[test]
fn a_write_that_was_not_asked_for_is_found() {
    let mut history = right();
    history.remove(2);
    found(&history, &stored(), "nobody can have done that");
    // Nor may it be one that was refused, or one that was asked for later.
    history.push(open(put("a", "2"), 5, Outcome::Refused));
    found(&history, &stored(), "nobody can have done that");
    history.pop();
    history.push(open(put("a", "2"), 13, Outcome::Unknown));
    found(&history, &stored(), "nobody can have done that");
}

#[test]
fn a_write_that_happened_twice_is_found() {
    let mut states = stored();
    states.insert(6, state(&[kv("b", "3", 5, 6, 2)]));
    found(&right(), &states, "nobody can have done that");
}

#[test]
fn a_lost_write_is_found() {
    let mut states = stored();
    states.remove(&5);
    found(&right(), &states, "LOST");
    // Another write took its place.
    let mut states = stored();
    states.insert(5, state(&[kv("b", "other", 5, 5, 1)]));
    found(&right(), &states, "LOST");
}

#[test]
fn a_stale_read_is_found() {
    let mut history = right();
    history.push(done(Action::Read, 21, 22, 3, Answer::State(stored()[&3].clone())));
    found(&history, &stored(), "STALE");
    // A local read may be old, but it must not be wrong.
    let mut history = right();
    history.push(done(Action::ReadLocal, 21, 22, 3, Answer::State(stored()[&2].clone())));
    found(&history, &stored(), "WRONG");
    // What a local read has seen, a linearizable one that comes later must see.
    let history = vec![
        open(put("a", "1"), 1, Outcome::Unknown),
        done(Action::ReadLocal, 3, 4, 2, Answer::State(stored()[&2].clone())),
        done(Action::Read, 5, 6, 1, Answer::State(State::new())),
    ];
    let states = stored().into_iter().filter(|(revision, _)| *revision <= 2).collect();
    found(&history, &states, "STALE");
}

#[test]
fn reads_at_a_revision_see_it_unless_somebody_had_it_forgotten() {
    let read = |at, answer| done(Action::ReadAt(at), 21, 22, 5, answer);
    let mut history = right();
    history.push(read(3, Answer::State(stored()[&3].clone())));
    assert_eq!(check(&history, &stored(), &BTreeMap::new()), Vec::<String>::new());
    history.push(read(3, Answer::Forgotten));
    found(&history, &stored(), "nobody asked for that");
    history.push(open(Action::Compact(3), 17, Outcome::Unknown));
    found(&history, &stored(), "nobody asked for that");
    history.push(open(Action::Compact(4), 17, Outcome::Unknown));
    assert_eq!(check(&history, &stored(), &BTreeMap::new()), Vec::<String>::new());
    history.pop();
    for useless in
        [open(Action::Compact(4), 17, Outcome::Refused), open(Action::Compact(4), 23, Outcome::Unknown)]
    {
        history.push(useless);
        found(&history, &stored(), "nobody asked for that");
        history.pop();
    }
    let mut history = right();
    history.push(read(3, Answer::State(stored()[&2].clone())));
    found(&history, &stored(), "WRONG");
}

#[test]
fn reads_that_overlap_a_write_may_see_it_or_not() {
    let states: BTreeMap<_, _> = stored().into_iter().filter(|(revision, _)| *revision <= 2).collect();
    for revision in [1, 2] {
        let history = vec![
            done(put("a", "1"), 1, 4, 2, Answer::Previous(None)),
            done(Action::Read, 2, 3, revision, Answer::State(states[&revision].clone())),
        ];
        assert_eq!(check(&history, &states, &BTreeMap::new()), Vec::<String>::new());
    }
}

#[test]
fn an_order_against_time_is_found() {
    let mut history = right();
    // The put at revision 3 was asked for after the answer to the delete at revision 4.
    history[2] = done(put("a", "2"), 9, 10, 3, Answer::Previous(Some(kv("a", "1", 2, 2, 1))));
    found(&history, &stored(), "executed before it");
}

#[test]
fn wrong_answers_are_found() {
    for (at, answer) in [
        (0, Answer::Previous(Some(kv("a", "0", 1, 1, 1)))),
        (3, Answer::Previous(Some(kv("a", "1", 2, 2, 1)))),
        (4, Answer::Written),
        (6, Answer::Swapped(true)),
    ] {
        let mut history = right();
        let revision = history[at].revision().unwrap();
        history[at].outcome = Outcome::Done { revision, answer };
        assert!(!check(&history, &stored(), &BTreeMap::new()).is_empty(), "{}", history[at]);
    }
}

#[test]
fn a_store_that_contradicts_itself_is_found() {
    for (revision, held) in
        [(3, state(&[kv("a", "2", 2, 3, 3)])), (3, state(&[kv("a", "2", 3, 3, 2)])), (5, State::new())]
    {
        let mut states = stored();
        states.insert(revision, held);
        assert!(!check(&right(), &states, &BTreeMap::new()).is_empty(), "revision {revision}");
    }
    let mut states = stored();
    states.remove(&3);
    found(&right(), &states, "missing");
}
