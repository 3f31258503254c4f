//! Transactions.
//!
//! As etcd does it: first all compares, those of nested transactions too, are evaluated against the state before the
//! transaction, which fixes the path; then the operations on the path, and only those, are checked; then they run, each
//! seeing what earlier ones wrote.

use super::apply::Batch;
use super::command::{
    Compare, CompareResult, Operand, Outcome, Put, Range, RangeResult, Refusal, Txn, TxnOp, TxnResult,
};
use super::history::History;
use super::index::Span;
use super::read::Reader;
use super::record::Entry;
use super::versions::Found;
use super::{KeyValue, Revision, State};
use crate::env::simulated::{self, Bug};

/// The state, with entries that are not in the history yet.
pub(super) struct View<'a> {
    pub(super) state: &'a State,
    pending: &'a [Entry],
    newest: i64,
    reader: Reader<'a>,
}

impl<'a> View<'a> {
    pub(super) fn new(state: &'a State, history: &'a dyn History, pending: &'a [Entry], newest: i64) -> Self {
        Self { state, pending, newest, reader: Reader::new(history) }
    }

    /// The pair written at `revision`.
    pub(super) fn read(&mut self, revision: Revision) -> Result<KeyValue, Refusal> {
        if self.pending.first().is_some_and(|first| first.revision <= revision) {
            let found = self.pending.binary_search_by_key(&revision, |entry| entry.revision);
            let entry = found.ok().and_then(|position| self.pending.get(position));
            return entry.cloned().map(Entry::into_kv).ok_or(Refusal::Unreadable);
        }
        // Apply excludes physical compaction, so here nothing that the index knows can be missing.
        let read = self.reader.read(revision).map_err(|_| Refusal::Unreadable)?;
        Ok(read.into_kv())
    }

    /// The pair of `key`, if it is there.
    pub(super) fn get(&mut self, key: &[u8]) -> Result<Option<KeyValue>, Refusal> {
        self.state.index.at(key, self.newest).map(|found| self.read(found.modified)).transpose()
    }

    pub(super) fn check_put(&self, put: &Put) -> Result<(), Refusal> {
        if put.lease != 0 && self.state.leases.get(put.lease).is_none() {
            return Err(Refusal::LeaseNotFound);
        }
        let needs_key = put.ignore_value || put.ignore_lease;
        if needs_key && self.state.index.at(&put.key, self.newest).is_none() {
            return Err(Refusal::KeyNotFound);
        }
        Ok(())
    }

    /// Unlike outside of a transaction, etcd accepts no negative revision here.
    fn check_range(&self, range: &Range) -> Result<(), Refusal> {
        match range.revision {
            0 => Ok(()),
            revision if revision > self.newest => Err(Refusal::FutureRevision),
            revision if revision < self.state.compacted => Err(Refusal::Compacted),
            _ => Ok(()),
        }
    }

    fn range(&mut self, range: &Range) -> Result<RangeResult, Refusal> {
        let mut plan = self.state.plan_range_at(range, self.newest)?;
        while !plan.step_by(usize::MAX, &mut |revision| self.read(revision))? {}
        Ok(plan.finish())
    }

    /// Which branches run: this transaction's, then those of the nested ones of that branch, in order, each before its own.
    fn path(&mut self, txn: &Txn, path: &mut Vec<bool>) -> Result<(), Refusal> {
        let mut holds = true;
        for compare in &txn.compares {
            if !self.compare(compare)? && !simulated::planted(Bug::IgnoreCompare) {
                holds = false;
                break;
            }
        }
        path.push(holds);
        for op in branch(txn, holds) {
            if let TxnOp::Txn(nested) = op {
                self.path(nested, path)?;
            }
        }
        Ok(())
    }

    fn check(&self, txn: &Txn, path: &mut impl Iterator<Item = bool>) -> Result<(), Refusal> {
        for op in branch(txn, path.next().unwrap_or_default()) {
            match op {
                TxnOp::Range(range) => self.check_range(range)?,
                TxnOp::Put(put) => self.check_put(put)?,
                TxnOp::DeleteRange(_) => {}
                TxnOp::Txn(nested) => self.check(nested, path)?,
            }
        }
        Ok(())
    }

    /// `compare` holds for every key of its range. Where there is none, a value compares false, whatever the result asked
    /// for, and every other field is 0.
    fn compare(&mut self, compare: &Compare) -> Result<bool, Refusal> {
        let span = Span::new(&compare.key, &compare.range_end);
        let mut any = false;
        for (_, found) in self.state.index.range(span, self.newest) {
            any = true;
            if !self.compare_one(compare, found)? {
                return Ok(false);
            }
        }
        if any {
            return Ok(true);
        }
        let zero = match compare.operand {
            Operand::Value(_) => return Ok(false),
            Operand::Version(operand)
            | Operand::Create(operand)
            | Operand::Mod(operand)
            | Operand::Lease(operand) => 0.cmp(&operand),
        };
        Ok(holds(compare.result, zero))
    }

    fn compare_one(&mut self, compare: &Compare, found: Found) -> Result<bool, Refusal> {
        let ordering = match &compare.operand {
            Operand::Version(operand) => found.version.cmp(operand),
            Operand::Create(operand) => found.create.cmp(operand),
            Operand::Mod(operand) => found.modified.main.cmp(operand),
            Operand::Value(operand) => self.read(found.modified)?.value.cmp(operand),
            Operand::Lease(operand) => self.read(found.modified)?.lease.cmp(operand),
        };
        Ok(holds(compare.result, ordering))
    }
}

fn holds(result: CompareResult, ordering: std::cmp::Ordering) -> bool {
    match result {
        CompareResult::Equal => ordering.is_eq(),
        CompareResult::NotEqual => ordering.is_ne(),
        CompareResult::Greater => ordering.is_gt(),
        CompareResult::Less => ordering.is_lt(),
    }
}

fn branch(txn: &Txn, succeeded: bool) -> &[TxnOp] {
    if succeeded { &txn.success } else { &txn.failure }
}

impl Batch<'_> {
    pub(super) fn txn(&mut self, txn: &Txn) -> Result<TxnResult, Refusal> {
        let mut path = Vec::with_capacity(1);
        let mut view = self.view();
        view.path(txn, &mut path)?;
        view.check(txn, &mut path.iter().copied())?;
        let mut result = self.execute(txn, &mut path.iter().copied())?;
        settle(&mut result, self.newest());
        Ok(result)
    }

    fn execute(&mut self, txn: &Txn, path: &mut impl Iterator<Item = bool>) -> Result<TxnResult, Refusal> {
        let succeeded = path.next().unwrap_or_default();
        let ops = branch(txn, succeeded);
        let mut outcomes = Vec::with_capacity(ops.len());
        for op in ops {
            // A refusal after the checks means that the engine cannot be read.
            outcomes.push(match op {
                TxnOp::Range(range) => Outcome::Range(self.view().range(range)?),
                TxnOp::Put(put) => Outcome::Put(self.put(put)?),
                TxnOp::DeleteRange(delete) => Outcome::DeleteRange(self.delete_range(delete)?),
                TxnOp::Txn(nested) => Outcome::Txn(self.execute(nested, path)?),
            });
        }
        Ok(TxnResult { succeeded, revision: 0, outcomes })
    }
}

/// Let all of `result` say that the transaction ended at `revision`.
fn settle(result: &mut TxnResult, revision: i64) {
    result.revision = revision;
    for outcome in &mut result.outcomes {
        if let Outcome::Txn(nested) = outcome {
            settle(nested, revision);
        }
    }
}

impl State {
    /// Run a transaction that only reads, without the log. `None` if it holds anything but ranges, also in the branch that
    /// would not run: then it goes through the log, as in etcd.
    ///
    /// Reads everything at once: `history` must not lose records meanwhile, so physical compaction must wait.
    pub fn read_txn(&self, history: &dyn History, txn: &Txn) -> Result<Option<TxnResult>, Refusal> {
        if !txn.is_read_only() {
            return Ok(None);
        }
        self.check_readable()?;
        let mut view = View::new(self, history, &[], self.revision);
        let mut path = Vec::with_capacity(1);
        view.path(txn, &mut path)?;
        view.check(txn, &mut path.iter().copied())?;
        let succeeded = path.first().copied().unwrap_or_default();
        let mut outcomes = Vec::new();
        for op in branch(txn, succeeded) {
            if let TxnOp::Range(range) = op {
                outcomes.push(Outcome::Range(view.range(range)?));
            }
        }
        Ok(Some(TxnResult { succeeded, revision: self.revision, outcomes }))
    }
}
