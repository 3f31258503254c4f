//! Whether users could do what they were permitted, and nothing else. Pure.
//!
//! Each round is of one user, one role and one key, none of which is there in another round: the user is given the role, tries what it may
//! and what it may not, and has its rights taken away while it goes on trying. Whatever was answered as given was given once, and what was
//! answered as taken away stays so. Places are those of the trace, in which everything has an order.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::history::State;

/// What the keys begin with that users are given. The rest of the checks knows nothing of who writes them.
pub(super) const PREFIX: &str = "auth/";

/// What a user does with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Read it, with everything that was acknowledged.
    Read,
    /// Write it.
    Write,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Came {
    /// It was done, at this revision.
    Done(i64),
    /// It was said not to be permitted; or the user not to be known.
    Denied,
    /// Anything else, which says nothing about permission.
    Else,
}

/// One call of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The key.
    pub key: Bytes,
    /// What is done with it.
    pub needs: Needs,
    /// What is written; no two attempts write the same.
    pub value: Bytes,
    /// Place of the call.
    pub asked: u64,
    /// Place of the answer.
    pub answered: u64,
    /// What came of it.
    pub came: Came,
}

/// What one user was given, did, and had taken away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Round {
    /// The user.
    pub user: String,
    /// The key that it may use.
    pub key: Bytes,
    /// It may read it.
    pub reads: bool,
    /// It may write it.
    pub writes: bool,
    /// Places at which its right was asked for and acknowledged.
    pub given: (u64, u64),
    /// Places at which it was first asked to be taken away, and that it is taken was acknowledged.
    pub taken: Option<(u64, Option<u64>)>,
    /// What the user tried.
    pub attempts: Vec<Attempt>,
}

impl Round {
    /// Whether the attempt is what the user may do between both places.
    fn covers(&self, attempt: &Attempt) -> bool {
        let may = match attempt.needs {
            Needs::Read => self.reads,
            Needs::Write => self.writes,
        };
        may && attempt.key == self.key
    }
}

/// Everything that is wrong with what users could do, and with what the store held at each revision.
pub fn check(rounds: &[Round], states: &BTreeMap<i64, State>) -> Vec<String> {
    let stored: BTreeSet<&Bytes> =
        states.values().flat_map(|state| state.values().map(|kv| &kv.value)).collect();
    let mut wrong = Vec::new();
    for round in rounds {
        let Round { user, given, taken, .. } = round;
        for attempt in &round.attempts {
            let covered = round.covers(attempt);
            let was_taken = taken.is_some_and(|(_, done)| done.is_some_and(|done| done < attempt.asked));
            let was_given =
                given.1 < attempt.asked && taken.is_none_or(|(asked, _)| attempt.answered < asked);
            match attempt.came {
                Came::Done(_) if !covered || attempt.answered < given.0 => {
                    wrong.push(format!("FORBIDDEN: {user} did {attempt:?}, and never might"));
                }
                Came::Done(_) if was_taken => {
                    wrong.push(format!("REVOKED: {user} did {attempt:?}, and might no more since {taken:?}"));
                }
                Came::Done(revision) if attempt.needs == Needs::Write => {
                    let held = states.get(&revision).map(|state| state.get(&attempt.key));
                    if held.is_some_and(|held| held.is_none_or(|kv| kv.value != attempt.value)) {
                        wrong.push(format!("LOST: {user} did {attempt:?}, and the store held {held:?} then"));
                    }
                }
                Came::Denied if covered && was_given => {
                    wrong.push(format!("DENIED: {user} tried {attempt:?}, and might since {given:?}"));
                }
                Came::Denied if attempt.needs == Needs::Write && stored.contains(&attempt.value) => {
                    wrong.push(format!("DENIED: {user} was denied {attempt:?}, and it happened"));
                }
                _ => {}
            }
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mvcc::KeyValue;

    fn attempt(needs: Needs, asked: u64, came: Came) -> Attempt {
        let (key, value) = ("auth/1".into(), "u1.1".into());
        Attempt { key, needs, value, asked, answered: asked + 2, came }
    }

    fn round(attempts: Vec<Attempt>) -> Round {
        Round {
            user: "u1".into(),
            key: "auth/1".into(),
            reads: false,
            writes: true,
            given: (10, 20),
            taken: Some((50, Some(60))),
            attempts,
        }
    }

    fn wrong(needs: Needs, asked: u64, came: Came, held: &[(i64, &'static str)]) -> String {
        let state = |value: &'static str| {
            State::from([("auth/1".into(), KeyValue { value: value.into(), ..KeyValue::default() })])
        };
        let states = held.iter().map(|(revision, value)| (*revision, state(value))).collect();
        check(&[round(vec![attempt(needs, asked, came)])], &states).concat()
    }

    #[test]
    fn what_may_be_is_not_reported() {
        for (asked, came) in [
            // While it is given, and while it is taken away, both may be.
            (15, Came::Done(7)),
            (15, Came::Denied),
            (30, Came::Done(7)),
            (49, Came::Denied),
            (55, Came::Done(7)),
            (59, Came::Done(7)),
            (70, Came::Denied),
            (5, Came::Denied),
            (30, Came::Else),
            (70, Came::Else),
        ] {
            let held: &[_] = if came == Came::Denied { &[] } else { &[(7, "u1.1")] };
            assert_eq!(wrong(Needs::Write, asked, came, held), "", "{asked} {came:?}");
        }
        assert_eq!(wrong(Needs::Read, 30, Came::Denied, &[]), "");
        // Nobody read what was there then.
        assert_eq!(wrong(Needs::Write, 30, Came::Done(7), &[]), "");
    }

    #[test]
    fn what_must_not_be_is_reported() {
        for (needs, asked, came, held, what) in [
            (Needs::Write, 61, Came::Done(7), vec![(7, "u1.1")], "REVOKED"),
            (Needs::Write, 5, Came::Done(7), vec![(7, "u1.1")], "FORBIDDEN"),
            (Needs::Read, 30, Came::Done(7), vec![], "FORBIDDEN"),
            (Needs::Write, 21, Came::Denied, vec![], "DENIED"),
            (Needs::Write, 70, Came::Denied, vec![(9, "u1.1")], "it happened"),
            (Needs::Write, 30, Came::Done(7), vec![(7, "u1.0")], "LOST"),
        ] {
            let found = wrong(needs, asked, came, &held);
            assert!(found.contains(what), "{needs:?} {asked} {came:?}: {found:?}");
        }
        let elsewhere = Attempt { key: "k0".into(), ..attempt(Needs::Write, 30, Came::Done(7)) };
        assert!(check(&[round(vec![elsewhere])], &BTreeMap::new()).concat().contains("FORBIDDEN"));
    }
}
