//! Whether locks did what locks are for: nobody held one that somebody else held, and tokens only rose. Pure.
//!
//! A holding lasts from when its holder was told that it has the lock until it gave it back, or was told that it lost it. All times are
//! simulated milliseconds, which all see alike. Each holder writes its token into a register, on the condition that it holds the lock:
//! whoever comes later has a higher token, so what the register holds never sinks.

use std::collections::BTreeMap;

use super::history::State;

/// What the keys of locks and their registers begin with. The rest of the checks knows nothing of who writes them.
pub(super) const PREFIX: &str = "locks/";

/// One lock in one hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// The lock.
    pub lock: String,
    /// Who held it, for people.
    pub who: String,
    /// The fencing token.
    pub token: i64,
    /// Since when.
    pub from: u64,
    /// Until when.
    pub to: u64,
}

impl std::fmt::Display for Holding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { lock, who, token, from, to } = self;
        write!(f, "{who} held {lock} with token {token} from {from} to {to}")
    }
}

/// The register that the holders of a lock write their tokens into.
pub(super) fn register(lock: &str) -> String {
    format!("{lock}.token")
}

/// Everything that is wrong with what was held, and with the registers in the `states` by revision.
pub fn check(holdings: &[Holding], states: &BTreeMap<i64, State>) -> Vec<String> {
    let mut by_lock: BTreeMap<&str, Vec<&Holding>> = BTreeMap::new();
    for holding in holdings {
        by_lock.entry(&holding.lock).or_default().push(holding);
    }
    let mut wrong = Vec::new();
    for (lock, mut of_lock) in by_lock {
        of_lock.sort_by_key(|holding| (holding.from, holding.to));
        // Whoever held it longest so far.
        let mut last: Option<&Holding> = None;
        for holding in of_lock {
            if let Some(last) = last {
                if holding.from < last.to {
                    wrong.push(format!("TWICE: {last}, and {holding}"));
                }
                if holding.token <= last.token {
                    wrong.push(format!("FENCE: {last}, and then {holding}"));
                }
            }
            if last.is_none_or(|last| holding.to >= last.to) {
                last = Some(holding);
            }
        }
        check_register(lock, states, &mut wrong);
    }
    wrong
}

fn check_register(lock: &str, states: &BTreeMap<i64, State>, wrong: &mut Vec<String>) {
    let key = register(lock);
    let mut highest = 0;
    for (revision, state) in states {
        let Some(kv) = state.get(key.as_bytes()) else { continue };
        let token = std::str::from_utf8(&kv.value).ok().and_then(|text| text.parse::<i64>().ok());
        match token {
            Some(token) if token >= highest => highest = token,
            _ => wrong.push(format!(
                "FENCE: at revision {revision} the register of {lock} holds {:?}, after token {highest}",
                kv.value
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mvcc::KeyValue;

    fn held(token: i64, from: u64, to: u64) -> Holding {
        Holding { lock: "locks/a".into(), who: format!("h{token}"), token, from, to }
    }

    fn wrong(holdings: &[Holding]) -> Vec<String> {
        check(holdings, &BTreeMap::new())
    }

    #[test]
    fn one_after_the_other_is_right() {
        assert_eq!(wrong(&[held(2, 0, 10), held(5, 10, 11), held(9, 30, 30)]), [] as [String; 0]);
        // In whatever order they were written down.
        assert_eq!(wrong(&[held(9, 30, 30), held(2, 0, 10), held(5, 10, 11)]), [] as [String; 0]);
        // Another lock is another one.
        let other = Holding { lock: "locks/b".into(), ..held(3, 5, 6) };
        assert_eq!(wrong(&[held(2, 0, 10), other]), [] as [String; 0]);
    }

    #[test]
    fn two_at_once_are_wrong_also_when_one_of_them_is_long() {
        let found = wrong(&[held(2, 0, 10), held(5, 9, 11)]);
        assert!(found.len() == 1 && found[0].starts_with("TWICE"), "{found:?}");
        let found = wrong(&[held(2, 0, 100), held(5, 20, 30), held(7, 40, 50)]);
        assert_eq!(found.iter().filter(|text| text.starts_with("TWICE")).count(), 2, "{found:?}");
    }

    #[test]
    fn tokens_that_do_not_rise_are_wrong() {
        for token in [5, 4] {
            let found = wrong(&[held(5, 0, 10), held(token, 20, 30)]);
            assert!(found.len() == 1 && found[0].starts_with("FENCE"), "{found:?}");
        }
    }

    #[test]
    fn a_register_that_sinks_is_wrong() {
        let state = |token: &'static str| {
            State::from([("locks/a.token".into(), KeyValue { value: token.into(), ..KeyValue::default() })])
        };
        let rises = BTreeMap::from([(1, State::new()), (2, state("2")), (3, state("2")), (4, state("10"))]);
        assert_eq!(check(&[held(2, 0, 1)], &rises), [] as [String; 0]);
        for text in ["9", "nothing"] {
            let mut sinks = rises.clone();
            sinks.insert(5, state(text));
            let found = check(&[held(2, 0, 1)], &sinks);
            assert!(found.len() == 1 && found[0].starts_with("FENCE"), "{found:?}");
        }
    }
}
