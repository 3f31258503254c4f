//! Tests of the state machine: a naive model, random sequences against it, and each rule by itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod alarms;
mod codec;
mod events;
mod leases;
mod loading;
mod model;
mod random;
mod reads;
mod txns;
mod writes;

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};

use bytes::Bytes;

use super::command::{
    Command, Compact, DeleteRange, LogPosition, Outcome, Put, Range, RangeResult, Refusal, Reply, Request,
};
use super::{Applied, Changes, Event, History, HistoryError, State};

/// Where in the log all entries of these tests stand, unless it matters.
pub(super) const AT: LogPosition = LogPosition { term: 1, index: 1 };

/// An engine in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory(pub BTreeMap<Bytes, Bytes>);

impl Memory {
    pub fn write(&mut self, changes: &Changes) {
        for key in &changes.deletes {
            assert!(self.0.remove(key).is_some(), "deletes what is there");
        }
        for (key, value) in &changes.puts {
            assert!(!changes.deletes.contains(key), "no key twice in a batch");
            assert!(value.len() <= crate::limits::RECORD_BYTES);
            self.0.insert(key.clone(), value.clone());
        }
    }
}

impl History for Memory {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, HistoryError> {
        Ok(self.0.get(key).cloned())
    }

    fn floor(&self, key: &[u8]) -> Result<Option<(Bytes, Bytes)>, HistoryError> {
        let below = (Bound::Unbounded, Bound::Included(key));
        let found = self.0.range::<[u8], _>(below).next_back();
        Ok(found.map(|(key, value)| (key.clone(), value.clone())))
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(Bytes, Bytes) -> ControlFlow<()>,
    ) -> Result<(), HistoryError> {
        for (key, value) in self.0.range::<[u8], _>((Bound::Included(from), Bound::Excluded(to))) {
            if visit(key.clone(), value.clone()).is_break() {
                break;
            }
        }
        Ok(())
    }
}

/// An engine that cannot be read.
pub(super) struct Broken;

impl History for Broken {
    fn get(&self, _: &[u8]) -> Result<Option<Bytes>, HistoryError> {
        Err(HistoryError("broken".into()))
    }

    fn floor(&self, _: &[u8]) -> Result<Option<(Bytes, Bytes)>, HistoryError> {
        Err(HistoryError("broken".into()))
    }

    fn scan(
        &self,
        _: &[u8],
        _: &[u8],
        _: &mut dyn FnMut(Bytes, Bytes) -> ControlFlow<()>,
    ) -> Result<(), HistoryError> {
        Err(HistoryError("broken".into()))
    }
}

/// A state and its engine.
#[derive(Default)]
pub(super) struct Store {
    pub state: State,
    pub engine: Memory,
    /// Entries applied; the index of each.
    pub entries: u64,
}

impl Store {
    pub fn apply(&mut self, commands: impl IntoIterator<Item = Command>) -> Applied {
        let requests: Vec<_> = commands.into_iter().map(Request::anonymous).collect();
        self.entries += 1;
        let at = LogPosition { index: self.entries, ..AT };
        let applied = self.state.apply(&self.engine, at, &requests);
        self.engine.write(&applied.changes);
        applied
    }

    pub fn one(&mut self, command: Command) -> Result<Reply, Refusal> {
        let mut applied = self.apply([command]);
        assert_eq!(applied.replies.len(), 1);
        applied.replies.remove(0)
    }

    /// Put, and the revision after it.
    pub fn put(&mut self, key: &str, value: &str) -> i64 {
        self.one(put(key, value)).unwrap().revision
    }

    pub fn delete(&mut self, key: &str, range_end: &str) -> i64 {
        match self.one(delete(key, range_end)).unwrap().outcome {
            Outcome::DeleteRange(deleted) => deleted.deleted,
            other => panic!("{other:?}"),
        }
    }

    pub fn compact(&mut self, revision: i64) -> Result<Reply, Refusal> {
        self.one(Command::Compact(Compact { revision, physical: false }))
    }

    pub fn range(&self, range: &Range) -> Result<RangeResult, Refusal> {
        let mut plan = self.state.plan_range(range)?;
        while !plan.step(&self.engine, 2)? {}
        Ok(plan.finish())
    }

    /// Compact physically to the end; the number of steps.
    pub fn clean(&mut self) -> usize {
        let mut steps = 0;
        while self.step(3) {
            steps += 1;
        }
        steps
    }

    /// One step of physical compaction; whether there was one.
    pub fn step(&mut self, records: usize) -> bool {
        let changes = self.state.compaction_step(&self.engine, records).unwrap();
        changes.map(|changes| self.engine.write(&changes)).is_some()
    }

    pub fn reload(&mut self) {
        self.state = State::load(&self.engine).unwrap();
    }
}

pub(super) fn put(key: &str, value: &str) -> Command {
    Command::Put(Put { key: text(key), value: text(value), ..Put::default() })
}

pub(super) fn delete(key: &str, range_end: &str) -> Command {
    Command::DeleteRange(DeleteRange { key: text(key), range_end: text(range_end), prev_kv: false })
}

pub(super) fn range(key: &str, range_end: &str) -> Range {
    Range { key: text(key), range_end: text(range_end), ..Range::default() }
}

pub(super) fn text(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// Keys of an answer.
pub(super) fn keys(result: &RangeResult) -> Vec<&str> {
    result.kvs.iter().map(|kv| std::str::from_utf8(&kv.key).unwrap()).collect()
}

pub(super) fn values(events: &[Event]) -> Vec<&[u8]> {
    events.iter().map(|event| event.kv.value.as_ref()).collect()
}
