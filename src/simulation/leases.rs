//! What was promised of leases, and what became of them: never ended early, everywhere at one revision, with all their keys. Pure.
//!
//! A promise is an answer of the cluster that a lease lives for some seconds. It counts from when it was asked for: the cluster cannot have
//! begun earlier. All times are simulated milliseconds.

use std::collections::{BTreeMap, BTreeSet};

use super::history::State;

/// The end of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// The entry that ended it.
    pub index: u64,
    /// Revision of the store after it.
    pub revision: i64,
    /// Keys were deleted with it.
    pub moved: bool,
    /// Its time was over; else a client wanted it.
    pub expired: bool,
}

/// What is known of all leases. No id is granted twice.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Until when each is to live at least.
    promised: BTreeMap<i64, u64>,
    /// Each with when the first member applied it.
    ended: BTreeMap<i64, (End, u64)>,
    /// What happens now is another history.
    closed: bool,
    wrong: Vec<String>,
}

impl Ledger {
    /// All disks were put back to what they once were: the leases of that time end once more.
    pub fn begins_anew(&mut self) {
        self.closed = true;
    }

    /// A client was told that a lease lives for `ttl` seconds, and had asked at `asked`.
    pub fn promised(&mut self, lease: i64, asked: u64, ttl: i64) {
        let until = asked + 1_000 * u64::try_from(ttl).unwrap_or_default();
        let known = self.promised.entry(lease).or_default();
        *known = until.max(*known);
        self.compare(lease);
    }

    /// A client was told that there is no such lease.
    pub fn said_to_be_gone(&mut self, lease: i64) {
        if !self.ended.contains_key(&lease) {
            self.wrong.push(format!("lease {lease} is said to be gone, and nobody ended it"));
        }
    }

    /// A member applied the end of a lease, at `now`.
    pub fn ended(&mut self, lease: i64, end: End, now: u64) {
        if self.closed {
            return;
        }
        let (known, _) = *self.ended.entry(lease).or_insert((end, now));
        if known != end {
            self.wrong.push(format!(
                "lease {lease} ended with {known:?} on one member, and with {end:?} on another"
            ));
        }
        self.compare(lease);
    }

    fn compare(&mut self, lease: i64) {
        let (Some(until), Some((end, at))) = (self.promised.get(&lease), self.ended.get(&lease)) else {
            return;
        };
        if end.expired && at < until {
            self.wrong.push(format!(
                "EARLY: lease {lease} was to live until {until}, and its time was over at {at}"
            ));
        }
    }

    /// The leases that took keys along, by revision.
    pub fn revisions(&self) -> BTreeMap<i64, BTreeSet<i64>> {
        let mut all: BTreeMap<i64, BTreeSet<i64>> = BTreeMap::new();
        for (lease, (end, _)) in self.ended.iter().filter(|(_, (end, _))| end.moved) {
            all.entry(end.revision).or_default().insert(*lease);
        }
        all
    }

    /// How many ended, and how many of them because their time was over.
    pub fn counts(&self) -> [(&'static str, u64); 2] {
        let expired = self.ended.values().filter(|(end, _)| end.expired).count();
        [("leases ended", self.ended.len() as u64), ("leases expired", expired as u64)]
    }

    /// What did not hold while it ran, and what hangs on leases that were gone.
    pub fn check(&self, states: &BTreeMap<i64, State>) -> Vec<String> {
        let mut wrong = self.wrong.clone();
        for (revision, state) in states {
            for (key, kv) in state.iter().filter(|(_, kv)| kv.lease != 0) {
                if self.ended.get(&kv.lease).is_some_and(|(end, _)| end.revision <= *revision) {
                    wrong.push(format!(
                        "at revision {revision} {key:?} hangs on lease {}, which is gone",
                        kv.lease
                    ));
                }
            }
        }
        wrong
    }

    /// What did not hold while it ran.
    pub fn wrong(&self) -> &[String] {
        &self.wrong
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mvcc::KeyValue;

    const END: End = End { index: 9, revision: 5, moved: true, expired: true };

    fn wrong(ledger: &Ledger) -> Vec<String> {
        ledger.check(&BTreeMap::new())
    }

    #[test]
    fn a_promise_counts_from_the_question_whatever_comes_first() {
        for order in [false, true] {
            for (at, broken) in [(2_999, true), (3_000, false)] {
                let mut ledger = Ledger::default();
                ledger.promised(7, 0, 2);
                if order {
                    ledger.promised(7, 1_000, 2);
                    ledger.ended(7, END, at);
                } else {
                    ledger.ended(7, END, at);
                    ledger.promised(7, 1_000, 2);
                }
                assert_eq!(wrong(&ledger).iter().any(|text| text.starts_with("EARLY")), broken, "{at}");
            }
        }
        let mut ledger = Ledger::default();
        ledger.promised(7, 0, 2);
        ledger.ended(7, End { expired: false, ..END }, 1);
        assert_eq!(wrong(&ledger), [] as [String; 0], "a client may end it when it likes");
    }

    #[test]
    fn it_ends_once_and_everywhere_alike() {
        let mut ledger = Ledger::default();
        ledger.said_to_be_gone(7);
        assert_eq!(wrong(&ledger).len(), 1);
        let mut ledger = Ledger::default();
        ledger.ended(7, END, 1);
        ledger.ended(7, END, 9);
        ledger.said_to_be_gone(7);
        assert_eq!(wrong(&ledger), [] as [String; 0]);
        assert_eq!(ledger.revisions(), BTreeMap::from([(5, BTreeSet::from([7]))]));
        ledger.ended(7, End { revision: 6, ..END }, 10);
        assert_eq!(wrong(&ledger).len(), 1);
    }

    #[test]
    fn no_key_hangs_on_a_lease_that_is_gone() {
        let mut ledger = Ledger::default();
        ledger.ended(7, END, 1);
        let state = |lease| State::from([("k".into(), KeyValue { lease, ..KeyValue::default() })]);
        assert_eq!(ledger.check(&BTreeMap::from([(4, state(7)), (5, state(8))])), [] as [String; 0]);
        assert_eq!(ledger.check(&BTreeMap::from([(5, state(7))])).len(), 1);
    }
}
