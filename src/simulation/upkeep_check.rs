//! What members did to their stores by themselves, and whether they may have. Pure.
//!
//! * automatic compaction forgets no revision that is younger than what is to be kept;
//! * while the alarm NOSPACE is raised, nothing makes the store grow.
//!
//! What an entry did is told by whichever member applies it first; the others do the same, as the other rules have it.

use std::collections::BTreeMap;

use super::history::{Action, Operation, Outcome};

/// Milliseconds by which the clocks of members and simulation may differ.
const TICKS_MILLIS: u64 = 5;

/// What was seen of the store.
#[derive(Debug, Default)]
pub struct Book {
    /// The newest entry that any member applied.
    index: u64,
    /// What the store was after it.
    revision: i64,
    /// The revision after which NOSPACE was raised, while it is.
    raised: Option<i64>,
    /// Where it was: after the first revision, up to the second.
    closed: Vec<(i64, i64)>,
    /// When the revisions from one on were made, in milliseconds, up to the next one that is here. A recovery makes a billion at once.
    made: BTreeMap<i64, u64>,
    /// What was compacted by itself: where among all events, and up to which revision.
    compacted: Vec<(u64, i64)>,
    wrong: Vec<String>,
}

impl Book {
    /// A member applied an entry.
    pub fn stored(&mut self, index: u64, revision: i64, no_space: bool, now: u64) {
        if index <= self.index {
            return;
        }
        // An empty store is at its first revision, from the begin.
        let first = self.revision.max(1) + 1;
        if revision >= first {
            self.made.insert(first, now);
        }
        match (self.raised, no_space) {
            (None, true) => self.raised = Some(revision),
            // In the entry that lowers it, what comes after is let through: it ends with the entry before.
            (Some(after), false) => {
                self.closed.push((after, self.revision));
                self.raised = None;
            }
            _ => {}
        }
        (self.index, self.revision) = (index, revision);
    }

    /// A leader compacts by itself up to `revision`, where what is younger than `kept` milliseconds is to be kept. `place`: among all
    /// events.
    pub fn compacts(&mut self, revision: i64, kept: u64, now: u64, place: u64) {
        let made = self.made.range(..=revision).next_back().map_or(0, |(_, made)| *made);
        if made + kept > now + TICKS_MILLIS {
            self.wrong.push(format!(
                "YOUNG: revision {revision} was made at {made} and compacted at {now}, and {kept} ms are to be kept"
            ));
        }
        self.compacted.push((place, revision));
    }

    /// The newest revision that was compacted by itself, if one was.
    pub fn newest_compacted(&self) -> Option<i64> {
        self.compacted.iter().map(|(_, revision)| *revision).max()
    }

    /// What was compacted by itself, as calls of which nobody heard the answer.
    pub fn compactions(&self) -> impl Iterator<Item = Operation> {
        self.compacted.iter().map(|(place, revision)| Operation {
            caller: "a leader, by itself".into(),
            action: Action::Compact(*revision),
            invoked: *place,
            returned: None,
            outcome: Outcome::Unknown,
        })
    }

    /// Whether NOSPACE is raised now.
    pub fn is_closed(&self) -> bool {
        self.raised.is_some()
    }

    /// How often it happened.
    pub fn counts(&self) -> [(&'static str, u64); 2] {
        let alarms = self.closed.len() + usize::from(self.raised.is_some());
        [("compactions by itself", self.compacted.len() as u64), ("NOSPACE raised", alarms as u64)]
    }

    /// What did not hold while it ran.
    pub fn wrong(&self) -> &[String] {
        &self.wrong
    }

    /// What did not hold, seen from the end.
    pub fn check(&self, operations: &[Operation]) -> Vec<String> {
        let closed = |revision: i64| {
            let over = self.closed.iter().find(|(after, last)| (after + 1..=*last).contains(&revision));
            over.copied()
                .or_else(|| self.raised.filter(|after| revision > *after).map(|after| (after, i64::MAX)))
        };
        let grows = |operation: &&Operation| {
            operation.made_revision() && !matches!(operation.action, Action::Delete(_))
        };
        let mut wrong = self.wrong.clone();
        for operation in operations.iter().filter(grows) {
            let Some((after, last)) = operation.revision().and_then(closed) else { continue };
            wrong.push(format!(
                "ALARM: {operation} made the store grow, and NOSPACE was raised after revision {after}, up to {last}"
            ));
        }
        wrong
    }
}

#[cfg(test)]
mod tests {
    use super::super::history::Answer;
    use super::*;

    fn put(revision: i64) -> Operation {
        Operation {
            caller: "c0@0".into(),
            action: Action::Put("k".into(), "v".into()),
            invoked: 1,
            returned: Some(2),
            outcome: Outcome::Done { revision, answer: Answer::Previous(None) },
        }
    }

    #[test]
    fn what_is_to_be_kept_is_kept() {
        for (now, wrong) in [(3_000, 1), (4_000, 0)] {
            let mut book = Book::default();
            book.stored(1, 3, false, 1_000);
            book.stored(2, 5, false, 2_000);
            // Another member, later.
            book.stored(1, 3, false, 2_500);
            book.compacts(5, 2_000, now, 7);
            assert_eq!(book.wrong().len(), wrong, "{now}");
            assert_eq!(book.newest_compacted(), Some(5));
            assert_eq!(book.compactions().next().map(|operation| operation.invoked), Some(7));
        }
        let mut book = Book::default();
        book.stored(1, 3, false, 1_000);
        book.stored(2, 5, false, 2_000);
        book.compacts(3, 2_000, 3_000, 7);
        assert_eq!(book.wrong(), [] as [String; 0], "its own age counts, not that of the newest");
        // A recovery.
        book.stored(3, 1_000_000_005, false, 4_000);
        book.compacts(999_999_999, 2_000, 5_000, 8);
        assert_eq!(book.wrong().len(), 1);
        assert_eq!(book.made.len(), 3, "a billion revisions are one");
    }

    #[test]
    fn nothing_makes_the_store_grow_while_the_alarm_is_raised() {
        let mut book = Book::default();
        book.stored(1, 3, false, 0);
        // With two puts before the alarm, in one entry.
        book.stored(2, 5, true, 0);
        // Deletes go on.
        book.stored(3, 7, true, 0);
        // With a put after it was lowered.
        book.stored(4, 8, false, 0);
        assert!(!book.is_closed());
        for (revision, wrong) in [(3, 0), (5, 0), (6, 1), (7, 1), (8, 0)] {
            assert_eq!(book.check(&[put(revision)]).len(), wrong, "{revision}");
        }
        let delete = Operation { action: Action::Delete("k".into()), ..put(6) };
        assert_eq!(book.check(&[delete]), [] as [String; 0]);
        book.stored(5, 9, true, 0);
        assert!(book.is_closed());
        assert_eq!(book.check(&[put(9)]).len() + book.check(&[put(10)]).len(), 1);
    }
}
