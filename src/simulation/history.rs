//! What clients did and saw, in the order in which it happened. Values only.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::mvcc::KeyValue;

/// All pairs at one revision, by key.
pub type State = BTreeMap<Bytes, KeyValue>;

/// What a client asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Write one key. No two writes of a history have the same value.
    Put(Bytes, Bytes),
    /// Write one key, and hang it on a lease.
    PutOn(Bytes, Bytes, i64),
    /// Write several keys at once.
    PutAll(Vec<(Bytes, Bytes)>),
    /// Delete one key.
    Delete(Bytes),
    /// Write a key if its mod revision is this one.
    Swap {
        /// The key.
        key: Bytes,
        /// The mod revision that it must have; 0: it is not there.
        expected: i64,
        /// The new value.
        value: Bytes,
    },
    /// Read all keys, with everything that was acknowledged before.
    Read,
    /// Read all keys as the asked member has them.
    ReadLocal,
    /// Read all keys as they were at a revision.
    ReadAt(i64),
    /// Forget what was replaced at or before a revision.
    Compact(i64),
}

impl Action {
    /// Whether it may have been executed before something that was answered before.
    pub(super) fn may_be_old(&self) -> bool {
        matches!(self, Self::ReadLocal | Self::ReadAt(_))
    }

    /// Whether it changes keys.
    pub(super) fn writes(&self) -> bool {
        matches!(
            self,
            Self::Put(..) | Self::PutOn(..) | Self::PutAll(_) | Self::Delete(_) | Self::Swap { .. }
        )
    }
}

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was done; the store was at `revision` then.
    Done {
        /// Revision of the answer.
        revision: i64,
        /// What the answer says beside it.
        answer: Answer,
    },
    /// It was not done, says the answer.
    Refused,
    /// Nobody knows, yet.
    Unknown,
}

/// What an answer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To a put or a delete: the pair before, if there was one.
    Previous(Option<KeyValue>),
    /// To [`Action::PutAll`].
    Written,
    /// To [`Action::Swap`].
    Swapped(bool),
    /// To a read.
    State(State),
    /// To a read at a revision: it was forgotten.
    Forgotten,
    /// To [`Action::Compact`].
    Compacted,
}

/// One call of one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Who called, and which member, for people.
    pub caller: String,
    /// What it asked for.
    pub action: Action,
    /// Place of the call among all calls and answers.
    pub invoked: u64,
    /// Place of the answer; `None`: there was none.
    pub returned: Option<u64>,
    /// What came back.
    pub outcome: Outcome,
}

impl Operation {
    /// The keys that it changes if it is done and has an effect, and to what; `None`: deleted.
    pub(super) fn changes(&self) -> Vec<(Bytes, Option<Bytes>)> {
        match &self.action {
            Action::Put(key, value) | Action::PutOn(key, value, _) | Action::Swap { key, value, .. } => {
                vec![(key.clone(), Some(value.clone()))]
            }
            Action::PutAll(pairs) => {
                pairs.iter().map(|(key, value)| (key.clone(), Some(value.clone()))).collect()
            }
            Action::Delete(key) => vec![(key.clone(), None)],
            Action::Read | Action::ReadLocal | Action::ReadAt(_) | Action::Compact(_) => Vec::new(),
        }
    }

    /// The revision of the answer, if it was done.
    pub(super) fn revision(&self) -> Option<i64> {
        match self.outcome {
            Outcome::Done { revision, .. } => Some(revision),
            Outcome::Refused | Outcome::Unknown => None,
        }
    }

    /// Whether it was done and made a revision of its own.
    pub(super) fn made_revision(&self) -> bool {
        match (&self.outcome, &self.action) {
            (Outcome::Done { answer: Answer::Previous(previous), .. }, Action::Delete(_)) => {
                previous.is_some()
            }
            (Outcome::Done { answer: Answer::Swapped(swapped), .. }, _) => *swapped,
            (Outcome::Done { .. }, Action::Put(..) | Action::PutOn(..) | Action::PutAll(_)) => true,
            _ => false,
        }
    }
}
