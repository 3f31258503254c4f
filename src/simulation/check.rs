//! Whether what clients saw can have happened in one order that respects time: linearizability, with revisions as guide. Pure.
//!
//! Every write that has an effect makes one revision, and every answer names the revision at which it was executed. So the
//! order is given: by revision, a write before the reads at its revision. What is left to check:
//!
//! 1. the stored history makes sense by itself: each revision changes something, versions count, creations stand;
//! 2. every acknowledged write is in it, alone at its revision, with exactly its effect, and said truly what was before;
//! 3. every other revision is the end of leases, with all that hung on them, or the work of one write of unknown outcome, each of which happened at most once, and not
//!    before it was asked for; none is that of a write which was refused;
//! 4. every read saw exactly the state at its revision, and so did every write without an effect;
//! 5. what is said to be forgotten, somebody asked to forget;
//! 6. the order respects time: what was answered before a call comes before it. (A local read may see the past.)
//!
//! No search is needed for unknown outcomes: no two writes have the same value; deletes of one key are alike, and of those
//! the one that was asked for last before the revision is as good as any other that was asked for before it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::history::{Action, Answer, Operation, Outcome, State};
use super::{lock_check, permission_check};

/// Revision of an empty store.
const FIRST: i64 = 1;

type Changes = Vec<(Bytes, Option<Bytes>)>;

/// Everything that is wrong with a history. `states`: the state at every revision from 1 to the newest. `ended`: the leases that took keys
/// along, by revision.
pub fn check(
    operations: &[Operation],
    states: &BTreeMap<i64, State>,
    ended: &BTreeMap<i64, BTreeSet<i64>>,
) -> Vec<String> {
    let mut wrong = Vec::new();
    let changes = stored_changes(states, &mut wrong);
    let by_leases = ends_of_leases(&changes, states, ended, &mut wrong);
    let floors = floors(operations);
    let mut work: BTreeMap<i64, usize> = BTreeMap::new();
    for (place, operation) in operations.iter().enumerate() {
        let Some(revision) = operation.revision() else { continue };
        let floor = floors.get(place).copied().unwrap_or(FIRST);
        let Some(state) = states.get(&revision) else {
            wrong.push(format!(
                "LOST: {operation} was acknowledged, but the store ends at revision {:?}",
                states.keys().next_back()
            ));
            continue;
        };
        if operation.made_revision() {
            if let Some(other) = work.insert(revision, place) {
                wrong.push(format!("revision {revision} is that of two writes, {other} and {operation}"));
            }
            if changes.get(&revision) != Some(&sorted(operation.changes())) {
                wrong.push(format!(
                    "LOST: {operation} was acknowledged, but revision {revision} changed {:?}",
                    changes.get(&revision)
                ));
            }
            if revision <= floor {
                wrong.push(format!(
                    "{operation} came after an answer at revision {floor}, and was executed before it"
                ));
            }
        } else if revision < floor && !operation.action.may_be_old() {
            wrong.push(format!("STALE: {operation} came after an answer at revision {floor}"));
        }
        match operation.action {
            Action::ReadAt(at) => check_read_at(operation, at, operations, states, &mut wrong),
            _ => check_answer(operation, state, states.get(&(revision - 1)), &mut wrong),
        }
    }
    let others = [lock_check::PREFIX, permission_check::PREFIX];
    let is_of_others = |key: &Bytes| others.iter().any(|prefix| key.starts_with(prefix.as_bytes()));
    let of_others = |changes: &Changes| changes.iter().all(|(key, _)| is_of_others(key));
    let rest = changes.iter().filter(|(revision, changes)| {
        !work.contains_key(revision) && !by_leases.contains(revision) && !of_others(changes)
    });
    explain_rest(operations, &floors, rest, states, &mut wrong);
    wrong
}

impl std::fmt::Display for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {:?}", self.caller, self.action)?;
        match &self.outcome {
            Outcome::Done { revision, .. } => write!(f, " at revision {revision}"),
            Outcome::Refused => f.write_str(" refused"),
            Outcome::Unknown => f.write_str(" of unknown outcome"),
        }
    }
}

fn sorted(mut changes: Changes) -> Changes {
    changes.sort();
    changes
}

/// What each revision changed, by key.
fn stored_changes(states: &BTreeMap<i64, State>, wrong: &mut Vec<String>) -> BTreeMap<i64, Changes> {
    let mut all = BTreeMap::new();
    let mut before = &State::new();
    for (expected, (revision, state)) in (FIRST..).zip(states) {
        if *revision != expected {
            wrong.push(format!("revision {expected} is missing from the store"));
            return all;
        }
        let mut changes = Changes::new();
        for (key, kv) in state {
            let old = before.get(key);
            if old == Some(kv) {
                continue;
            }
            let version = old.map_or(1, |old| old.version + 1);
            let created = old.map_or(*revision, |old| old.create_revision);
            if (kv.version, kv.create_revision, kv.mod_revision) != (version, created, *revision) {
                wrong.push(format!("at revision {revision} the store holds {kv:?} after {old:?}"));
            }
            changes.push((key.clone(), Some(kv.value.clone())));
        }
        changes.extend(before.keys().filter(|key| !state.contains_key(*key)).map(|key| (key.clone(), None)));
        if changes.is_empty() && *revision > FIRST {
            wrong.push(format!("revision {revision} changed nothing"));
        }
        all.insert(*revision, sorted(changes));
        before = state;
    }
    all
}

/// The revisions at which leases ended: each deleted all that hung on them, and nothing else.
fn ends_of_leases(
    changes: &BTreeMap<i64, Changes>,
    states: &BTreeMap<i64, State>,
    ended: &BTreeMap<i64, BTreeSet<i64>>,
    wrong: &mut Vec<String>,
) -> BTreeSet<i64> {
    let mut revisions = BTreeSet::new();
    for (revision, leases) in ended {
        // What was compacted before anybody read it is not known.
        let (Some(changes), Some(before)) = (changes.get(revision), states.get(&(revision - 1))) else {
            continue;
        };
        revisions.insert(*revision);
        let hung = before.iter().filter(|(_, kv)| leases.contains(&kv.lease));
        let expected = sorted(hung.map(|(key, _)| (key.clone(), None)).collect());
        if *changes != expected {
            wrong.push(format!(
                "leases {leases:?} ended at revision {revision}, on which {expected:?} hung, and it changed {changes:?}"
            ));
        }
    }
    revisions
}

/// The newest revision that was answered before each call.
fn floors(operations: &[Operation]) -> Vec<i64> {
    let mut answers: Vec<(u64, i64)> = operations
        .iter()
        .filter_map(|operation| Some((operation.returned?, operation.revision()?)))
        .collect();
    answers.sort_unstable();
    let mut newest = FIRST;
    for (_, revision) in &mut answers {
        newest = newest.max(*revision);
        *revision = newest;
    }
    operations
        .iter()
        .map(|operation| {
            let before = answers.partition_point(|(returned, _)| *returned < operation.invoked);
            before.checked_sub(1).and_then(|last| answers.get(last)).map_or(FIRST, |(_, newest)| *newest)
        })
        .collect()
}

/// Whether a read at a revision saw the state then, or was told rightly that it is forgotten.
fn check_read_at(
    operation: &Operation,
    at: i64,
    operations: &[Operation],
    states: &BTreeMap<i64, State>,
    wrong: &mut Vec<String>,
) {
    let forgotten = |other: &Operation| {
        matches!(other.action, Action::Compact(revision) if revision > at)
            && other.outcome != Outcome::Refused
            && operation.returned.is_some_and(|returned| other.invoked < returned)
    };
    match &operation.outcome {
        Outcome::Done { answer: Answer::Forgotten, .. } if !operations.iter().any(forgotten) => {
            wrong.push(format!(
                "WRONG: {operation} was told that revision {at} is compacted; nobody asked for that"
            ));
        }
        Outcome::Done { answer: Answer::State(seen), .. } if states.get(&at) != Some(seen) => {
            wrong.push(format!("WRONG: {operation} saw {seen:?}; the store held {:?} then", states.get(&at)));
        }
        _ => {}
    }
}

/// Whether an answer says what was so at its revision.
fn check_answer(operation: &Operation, state: &State, before: Option<&State>, wrong: &mut Vec<String>) {
    let Outcome::Done { answer, .. } = &operation.outcome else { return };
    let empty = State::new();
    let before = before.unwrap_or(&empty);
    let fine = match (&operation.action, answer) {
        (Action::Delete(key), Answer::Previous(None)) => !state.contains_key(key),
        (Action::Put(key, _) | Action::PutOn(key, ..) | Action::Delete(key), Answer::Previous(previous)) => {
            previous.as_ref() == before.get(key)
        }
        (Action::Swap { key, expected, .. }, Answer::Swapped(true)) => {
            before.get(key).map_or(0, |kv| kv.mod_revision) == *expected
        }
        (Action::Swap { key, expected, .. }, Answer::Swapped(false)) => {
            state.get(key).map_or(0, |kv| kv.mod_revision) != *expected
        }
        (Action::Read | Action::ReadLocal, Answer::State(seen)) => seen == state,
        (Action::PutAll(_), Answer::Written) | (Action::Compact(_), Answer::Compacted) => true,
        _ => false,
    };
    if !fine {
        wrong.push(format!(
            "WRONG: {operation} was answered {answer:?}; the store held {before:?} before that revision and {state:?} then"
        ));
    }
}

/// Finds who made the revisions that no acknowledged write made.
fn explain_rest<'a>(
    operations: &[Operation],
    floors: &[i64],
    rest: impl Iterator<Item = (&'a i64, &'a Changes)>,
    states: &BTreeMap<i64, State>,
    wrong: &mut Vec<String>,
) {
    let mut suspects: BTreeMap<Changes, Vec<usize>> = BTreeMap::new();
    for (place, operation) in operations.iter().enumerate() {
        if operation.action.writes() && !matches!(operation.outcome, Outcome::Done { .. }) {
            suspects.entry(sorted(operation.changes())).or_default().push(place);
        }
    }
    for (revision, changes) in rest.filter(|(_, changes)| !changes.is_empty()) {
        let of_these = suspects.get_mut(changes);
        // The unknown ones that were asked for early enough; of those the last, because the others can explain what follows.
        let culprit = of_these.and_then(|places| {
            let can = |place: &usize| {
                operations.get(*place).is_some_and(|operation| operation.outcome == Outcome::Unknown)
                    && floors.get(*place).is_some_and(|floor| floor < revision)
            };
            let at = places.iter().rposition(can)?;
            Some(places.remove(at))
        });
        let Some(operation) = culprit.and_then(|place| operations.get(place)) else {
            wrong
                .push(format!("revision {revision} changed {changes:?}, and nobody can have done that then"));
            continue;
        };
        if let Action::Swap { key, expected, .. } = &operation.action {
            let held = states.get(&(revision - 1)).and_then(|state| state.get(key));
            if held.map_or(0, |kv| kv.mod_revision) != *expected {
                wrong.push(format!("WRONG: {operation} happened at revision {revision} after {held:?}"));
            }
        }
    }
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
