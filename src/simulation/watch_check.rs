//! Whether what watchers saw is what happened: the rules that etcd's own robustness tests check. Pure.
//!
//! The state at every revision is known, and so is what every revision changed. For each watch:
//!
//! 1. *ordered*, *unique*, *atomic*: revisions rise from one response to the next, and all events of one are in one response;
//! 2. *reliable*, *resumable*: from the first revision that it asked for on, up to the last that it saw, nothing is missing, and what
//!    it saw is what the store held;
//! 3. *bookmarkable*: what was announced as complete is, and nothing of it comes later;
//! 4. *filter*: nothing that it did not ask for;
//! 5. the pair before is right; it is missing only after a creation, or if somebody asked to forget it;
//! 6. it was ended for compaction only if somebody asked for that;
//! 7. one that was there at the end has seen everything.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::history::{Action, Operation, Outcome, State};
use crate::client::{EventKind, Watch, WatchEvent, Watched};
use crate::mvcc::{KeyValue, WatchedKeys};

/// One watch and what it saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watching {
    /// Who watched, for people.
    pub name: String,
    /// What was asked for.
    pub watch: Watch,
    /// What came, in order.
    pub items: Vec<Watched>,
    /// It was there at the end, when the store was at this revision.
    pub must_reach: Option<i64>,
}

impl Watching {
    /// The revision up to which it was told that it has everything.
    pub(super) fn reached(&self) -> i64 {
        let of = |item: &Watched| match item {
            Watched::Progress(at) => Some(*at),
            Watched::Events(events) => events.last().map(|event| event.kv.mod_revision),
            Watched::Began(_) | Watched::Compacted(_) => None,
        };
        self.items.iter().filter_map(of).max().unwrap_or(0)
    }

    /// Whether the first revision that it wants is above `newest`.
    pub(super) fn begins_after(&self, newest: i64) -> bool {
        self.start().is_some_and(|start| start > newest)
    }

    /// The first revision that it wants, if that is known.
    fn start(&self) -> Option<i64> {
        if self.watch.start_revision > 0 {
            return Some(self.watch.start_revision);
        }
        match self.items.first() {
            Some(Watched::Began(at)) => Some(at + 1),
            _ => None,
        }
    }
}

/// Everything that is wrong with what was watched.
pub fn check(watchings: &[Watching], operations: &[Operation], states: &BTreeMap<i64, State>) -> Vec<String> {
    let all = happened(states);
    let forgotten = operations
        .iter()
        .filter(|operation| operation.outcome != Outcome::Refused)
        .filter_map(|operation| match operation.action {
            Action::Compact(revision) => Some(revision),
            _ => None,
        })
        .max()
        .unwrap_or(0);
    let mut wrong = Vec::new();
    for watching in watchings {
        if let Err(what) = check_one(watching, &all, forgotten) {
            wrong.push(format!("WATCH: {} ({:?}) {what}", watching.name, watching.watch));
        }
    }
    wrong
}

/// An event as it must be told, with the pair before.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Happened {
    kind: EventKind,
    kv: KeyValue,
    previous: Option<KeyValue>,
}

/// What every revision changed, by key.
fn happened(states: &BTreeMap<i64, State>) -> BTreeMap<i64, Vec<Happened>> {
    let (mut all, mut before) = (BTreeMap::new(), &State::new());
    for (revision, state) in states {
        let mut events: Vec<Happened> = state
            .values()
            .filter(|kv| kv.mod_revision == *revision)
            .map(|kv| Happened {
                kind: EventKind::Put,
                kv: kv.clone(),
                previous: before.get(&kv.key).cloned(),
            })
            .collect();
        let gone = before.iter().filter(|(key, _)| !state.contains_key(*key));
        events.extend(gone.map(|(key, pair)| Happened {
            kind: EventKind::Delete,
            kv: KeyValue { key: key.clone(), mod_revision: *revision, ..KeyValue::default() },
            previous: Some(pair.clone()),
        }));
        all.insert(*revision, events);
        before = state;
    }
    all
}

fn check_one(watching: &Watching, all: &BTreeMap<i64, Vec<Happened>>, forgotten: i64) -> Result<(), String> {
    let Some(start) = watching.start() else { return Ok(()) };
    let keys = WatchedKeys::new(&watching.watch.key, &watching.watch.range_end)
        .map_err(|error| error.to_string())?;
    let wanted = |from: i64, to: i64| -> Vec<&Happened> {
        let inside = |event: &&Happened| {
            let filtered = match event.kind {
                EventKind::Put => watching.watch.no_put,
                EventKind::Delete => watching.watch.no_delete,
            };
            !filtered && keys.contains(&event.kv.key)
        };
        if from > to {
            return Vec::new();
        }
        all.range(from..=to).flat_map(|(_, events)| events).filter(inside).collect()
    };
    // Everything up to here was seen, or is known to be nothing.
    let mut complete = start - 1;
    for item in &watching.items {
        match item {
            Watched::Began(_) => {}
            Watched::Progress(at) => {
                // It need not have begun: a member may tell it how far it is.
                let missing = wanted(complete + 1, *at);
                if let Some(first) = missing.first() {
                    return Err(format!("was told that it has all up to {at}, and did not see {first:?}"));
                }
                complete = complete.max(*at);
            }
            Watched::Events(events) => {
                let last = events.last().map_or(0, |event| event.kv.mod_revision);
                check_events(events, &wanted(complete + 1, last), complete, &watching.watch, forgotten)?;
                complete = last;
            }
            Watched::Compacted(at) => {
                if *at > forgotten || complete + 1 >= *at {
                    return Err(format!(
                        "wanted what comes after {complete}, and was told that {at} is compacted; {forgotten} was asked for"
                    ));
                }
            }
        }
    }
    match watching.must_reach.map(|newest| wanted(complete + 1, newest)) {
        Some(missing) if !missing.is_empty() => Err(format!("never saw {missing:?}")),
        _ => Ok(()),
    }
}

/// Whether events are the next ones that were wanted.
fn check_events(
    events: &[WatchEvent],
    expected: &[&Happened],
    complete: i64,
    watch: &Watch,
    forgotten: i64,
) -> Result<(), String> {
    let first = events.first().map_or(0, |event| event.kv.mod_revision);
    if first <= complete {
        return Err(format!("saw revision {first} after everything up to {complete}"));
    }
    if !events.is_sorted_by_key(|event| event.kv.mod_revision) {
        return Err(format!("saw revisions in disorder: {events:?}"));
    }
    // Within a revision the order is that of the request, which is not known here.
    let by_key = |events: &[WatchEvent]| -> Vec<(i64, Bytes, usize)> {
        let place =
            |(place, event): (usize, &WatchEvent)| (event.kv.mod_revision, event.kv.key.clone(), place);
        let mut places: Vec<_> = events.iter().enumerate().map(place).collect();
        places.sort();
        places
    };
    let mut expected: Vec<&Happened> = expected.to_vec();
    expected.sort_by(|a, b| (a.kv.mod_revision, &a.kv.key).cmp(&(b.kv.mod_revision, &b.kv.key)));
    let seen: Vec<&WatchEvent> =
        by_key(events).into_iter().filter_map(|(_, _, place)| events.get(place)).collect();
    if seen.len() != expected.len() {
        return Err(format!("saw {seen:?}, where {expected:?} happened"));
    }
    for (seen, expected) in seen.iter().zip(&expected) {
        if (seen.kind, &seen.kv) != (expected.kind, &expected.kv) {
            return Err(format!("saw {seen:?}, where {expected:?} happened"));
        }
        let is_right = match (&seen.previous, watch.prev_kv) {
            (None, false) => true,
            (None, true) => expected.previous.is_none() || seen.kv.mod_revision - 1 < forgotten,
            (previous, true) => *previous == expected.previous,
            (Some(_), false) => false,
        };
        if !is_right {
            return Err(format!("saw {seen:?} with a wrong pair before it, where {expected:?} happened"));
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "watch_check_tests.rs"]
mod tests;
