//! The naive model: a list of everything that ever happened, and straight-line code over it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::mvcc::command::{
    Command, Compare, CompareResult, DeleteRange, Deleted, Operand, Outcome, Put, Range, RangeResult,
    Refusal, Reply, SortOrder, SortTarget, Txn, TxnOp, TxnResult,
};
use crate::mvcc::lease::{Granted, LeaseCommand, MAX_TTL};
use crate::mvcc::{Event, EventKind, KeyValue};

/// One change. `kv.version` is 0 for a tombstone.
#[derive(Clone, Debug)]
pub struct Change {
    pub sub: usize,
    pub kv: KeyValue,
}

#[derive(Clone, Debug)]
pub struct Model {
    pub changes: Vec<Change>,
    pub revision: i64,
    pub compacted: i64,
    /// Each with its time to live, what is left of it, and where it was granted.
    pub leases: BTreeMap<i64, (i64, i64, Granted)>,
}

impl Model {
    pub fn new() -> Self {
        Self { changes: Vec::new(), revision: 1, compacted: -1, leases: BTreeMap::new() }
    }

    fn keys(&self, key: &[u8], range_end: &[u8]) -> BTreeSet<Bytes> {
        let within = |k: &[u8]| match range_end {
            b"" => k == key,
            b"\0" => k >= key,
            end => k >= key && k < end,
        };
        self.changes.iter().map(|change| change.kv.key.clone()).filter(|k| within(k)).collect()
    }

    fn get(&self, key: &[u8], at: i64) -> Option<KeyValue> {
        let mut last = None;
        for change in &self.changes {
            if change.kv.key == key && change.kv.mod_revision <= at {
                last = Some(change.kv.clone());
            }
        }
        last.filter(|kv| kv.version > 0)
    }

    pub fn live(&self) -> usize {
        self.keys(b"", b"\0").iter().filter(|key| self.get(key, i64::MAX).is_some()).count()
    }

    /// What compaction leaves.
    pub fn kept(&self) -> Vec<(i64, usize, Bytes)> {
        let mut kept = Vec::new();
        for (position, Change { sub, kv }) in self.changes.iter().enumerate() {
            let replaced = self.changes[position + 1..]
                .iter()
                .any(|later| later.kv.key == kv.key && later.kv.mod_revision <= self.compacted);
            let old = kv.mod_revision <= self.compacted;
            let dead_tombstone = kv.version == 0 && kv.mod_revision < self.compacted;
            if !(old && (replaced || dead_tombstone)) {
                kept.push((kv.mod_revision, *sub, kv.key.clone()));
            }
        }
        kept
    }

    pub fn range(&self, range: &Range, newest: i64) -> Result<RangeResult, Refusal> {
        if range.revision > newest {
            return Err(Refusal::FutureRevision);
        }
        let at = if range.revision <= 0 { newest } else { range.revision };
        if at < self.compacted {
            return Err(Refusal::Compacted);
        }
        let keys = self.keys(&range.key, &range.range_end);
        let mut kvs: Vec<KeyValue> = keys.iter().filter_map(|key| self.get(key, at)).collect();
        let count = kvs.len() as i64;
        if range.count_only {
            return Ok(RangeResult { count, revision: newest, ..RangeResult::default() });
        }
        let filters = [
            range.min_mod_revision,
            range.max_mod_revision,
            range.min_create_revision,
            range.max_create_revision,
        ];
        let default_order = range.sort_order == SortOrder::None
            || range.sort_order == SortOrder::Ascend && range.sort_target == SortTarget::Key;
        if default_order && filters == [0; 4] && range.limit > 0 {
            kvs.truncate(range.limit as usize + 1);
        }
        if range.max_mod_revision != 0 {
            kvs.retain(|kv| kv.mod_revision <= range.max_mod_revision);
        }
        if range.min_mod_revision != 0 {
            kvs.retain(|kv| kv.mod_revision >= range.min_mod_revision);
        }
        if range.max_create_revision != 0 {
            kvs.retain(|kv| kv.create_revision <= range.max_create_revision);
        }
        if range.min_create_revision != 0 {
            kvs.retain(|kv| kv.create_revision >= range.min_create_revision);
        }
        let descend = range.sort_order == SortOrder::Descend;
        match range.sort_target {
            SortTarget::Key if descend => kvs.reverse(),
            SortTarget::Key => {}
            SortTarget::Version if descend => kvs.sort_by_key(|kv| -kv.version),
            SortTarget::Version => kvs.sort_by_key(|kv| kv.version),
            SortTarget::Create if descend => kvs.sort_by_key(|kv| -kv.create_revision),
            SortTarget::Create => kvs.sort_by_key(|kv| kv.create_revision),
            SortTarget::Mod if descend => kvs.sort_by_key(|kv| -kv.mod_revision),
            SortTarget::Mod => kvs.sort_by_key(|kv| kv.mod_revision),
            SortTarget::Value if descend => kvs.sort_by(|a, b| b.value.cmp(&a.value)),
            SortTarget::Value => kvs.sort_by(|a, b| a.value.cmp(&b.value)),
        }
        let more = range.limit > 0 && kvs.len() as i64 > range.limit;
        if more {
            kvs.truncate(range.limit as usize);
        }
        if range.keys_only {
            for kv in &mut kvs {
                kv.value = Bytes::new();
                if range.sort_target != SortTarget::Value {
                    kv.lease = 0;
                }
            }
        }
        Ok(RangeResult { kvs, more, count, revision: newest })
    }

    /// The keys that hang on a lease.
    pub fn hanging(&self, id: i64) -> Vec<Bytes> {
        let everything = self.keys(b"", b"\0").into_iter();
        everything.filter(|key| self.get(key, i64::MAX).is_some_and(|kv| kv.lease == id)).collect()
    }

    /// `at`: where the command stands. All entries are of term 1.
    pub fn apply(&mut self, command: &Command, at: Granted) -> (Result<Reply, Refusal>, Vec<Event>) {
        let before = self.changes.len();
        let begin = self.revision;
        let outcome = match command {
            Command::Put(put) => self.check_put(put).map(|()| Outcome::Put(self.put(put, begin))),
            Command::DeleteRange(delete) => Ok(Outcome::DeleteRange(self.delete(delete, begin))),
            Command::Txn(txn) => self.txn(txn),
            Command::Compact(compact) if compact.revision <= self.compacted => Err(Refusal::Compacted),
            Command::Compact(compact) if compact.revision > begin => Err(Refusal::FutureRevision),
            Command::Compact(compact) => {
                self.compacted = compact.revision;
                Ok(Outcome::Compact)
            }
            Command::Cluster(_) => Ok(Outcome::Cluster),
            Command::Auth(_) => Ok(Outcome::Auth),
            Command::Lease(command) => self.lease(command, at),
        };
        let new = &self.changes[before..];
        self.revision += i64::from(!new.is_empty());
        let event = |change: &Change| {
            let kind = if change.kv.version == 0 { EventKind::Delete } else { EventKind::Put };
            Event { kind, kv: change.kv.clone() }
        };
        (outcome.map(|outcome| Reply { revision: self.revision, outcome }), new.iter().map(event).collect())
    }

    fn lease(&mut self, command: &LeaseCommand, at: Granted) -> Result<Outcome, Refusal> {
        let mut gone = BTreeSet::new();
        match command {
            LeaseCommand::Grant { id: 0, .. } => return Err(Refusal::LeaseNotFound),
            LeaseCommand::Grant { ttl, .. } if *ttl > MAX_TTL => return Err(Refusal::LeaseTtlTooLarge),
            LeaseCommand::Grant { id, .. } if self.leases.contains_key(id) => {
                return Err(Refusal::LeaseExists);
            }
            LeaseCommand::Grant { id, ttl } => {
                self.leases.insert(*id, (*ttl, 0, at));
                return Ok(Outcome::Granted { id: *id, ttl: *ttl });
            }
            LeaseCommand::Revoke { id } if !self.leases.contains_key(id) => {
                return Err(Refusal::LeaseNotFound);
            }
            LeaseCommand::Revoke { id } => {
                gone.insert(*id);
            }
            LeaseCommand::Expire { term, leases } if *term == 1 => {
                let same =
                    |(id, granted): &&(i64, Granted)| self.leases.get(id).is_some_and(|l| l.2 == *granted);
                gone.extend(leases.iter().filter(same).map(|(id, _)| *id));
            }
            LeaseCommand::Checkpoint { term, remaining } if *term == 1 => {
                for (id, granted, left) in remaining {
                    if let Some(lease) = self.leases.get_mut(id).filter(|lease| lease.2 == *granted) {
                        lease.1 = *left;
                    }
                }
            }
            LeaseCommand::Expire { .. } | LeaseCommand::Checkpoint { .. } => {}
        }
        let keys: BTreeSet<Bytes> = gone.iter().flat_map(|id| self.hanging(*id)).collect();
        self.leases.retain(|id, _| !gone.contains(id));
        for (sub, key) in keys.into_iter().enumerate() {
            let kv = KeyValue { key, mod_revision: self.revision + 1, ..KeyValue::default() };
            self.changes.push(Change { sub, kv });
        }
        Ok(Outcome::Lease)
    }

    /// Revision that a read in the command that runs sees, which began at `begin`.
    fn newest(&self, begin: i64) -> i64 {
        self.changes.last().map_or(begin, |last| last.kv.mod_revision.max(begin))
    }

    fn sub(&self, begin: i64) -> usize {
        self.changes.iter().filter(|change| change.kv.mod_revision == begin + 1).count()
    }

    fn check_put(&self, put: &Put) -> Result<(), Refusal> {
        if put.lease != 0 && !self.leases.contains_key(&put.lease) {
            return Err(Refusal::LeaseNotFound);
        }
        if (put.ignore_value || put.ignore_lease) && self.get(&put.key, i64::MAX).is_none() {
            return Err(Refusal::KeyNotFound);
        }
        Ok(())
    }

    fn put(&mut self, put: &Put, begin: i64) -> Option<KeyValue> {
        let previous = self.get(&put.key, i64::MAX);
        let old = previous.clone().unwrap_or_default();
        let kv = KeyValue {
            key: put.key.clone(),
            create_revision: if previous.is_some() { old.create_revision } else { begin + 1 },
            mod_revision: begin + 1,
            version: old.version + 1,
            value: if put.ignore_value { old.value } else { put.value.clone() },
            lease: if put.ignore_lease { old.lease } else { put.lease },
        };
        self.changes.push(Change { sub: self.sub(begin), kv });
        previous.filter(|_| put.prev_kv)
    }

    fn delete(&mut self, delete: &DeleteRange, begin: i64) -> Deleted {
        let mut deleted = Deleted::default();
        for key in self.keys(&delete.key, &delete.range_end) {
            let Some(kv) = self.get(&key, i64::MAX) else { continue };
            deleted.deleted += 1;
            if delete.prev_kv {
                deleted.previous.push(kv);
            }
            let kv = KeyValue { key, mod_revision: begin + 1, ..KeyValue::default() };
            self.changes.push(Change { sub: self.sub(begin), kv });
        }
        deleted.revision = self.newest(begin);
        deleted
    }

    fn txn(&mut self, txn: &Txn) -> Result<Outcome, Refusal> {
        let before = self.clone();
        let begin = self.revision;
        before.check(txn)?;
        let mut result = self.run(txn, &before, begin);
        set_revision(&mut result, self.newest(begin));
        Ok(Outcome::Txn(result))
    }

    fn check(&self, txn: &Txn) -> Result<(), Refusal> {
        for op in self.branch(txn).1 {
            match op {
                TxnOp::Range(range) if range.revision == 0 => {}
                TxnOp::Range(range) if range.revision > self.revision => return Err(Refusal::FutureRevision),
                TxnOp::Range(range) if range.revision < self.compacted => return Err(Refusal::Compacted),
                TxnOp::Range(_) | TxnOp::DeleteRange(_) => {}
                TxnOp::Put(put) => self.check_put(put)?,
                TxnOp::Txn(nested) => self.check(nested)?,
            }
        }
        Ok(())
    }

    fn branch<'a>(&self, txn: &'a Txn) -> (bool, &'a [TxnOp]) {
        if txn.compares.iter().all(|compare| self.compare(compare)) {
            (true, &txn.success)
        } else {
            (false, &txn.failure)
        }
    }

    fn run(&mut self, txn: &Txn, before: &Self, begin: i64) -> TxnResult {
        let (succeeded, ops) = before.branch(txn);
        let mut outcomes = Vec::new();
        for op in ops {
            outcomes.push(match op {
                TxnOp::Range(range) => Outcome::Range(self.range(range, self.newest(begin)).unwrap()),
                TxnOp::Put(put) => Outcome::Put(self.put(put, begin)),
                TxnOp::DeleteRange(delete) => Outcome::DeleteRange(self.delete(delete, begin)),
                TxnOp::Txn(nested) => Outcome::Txn(self.run(nested, before, begin)),
            });
        }
        TxnResult { succeeded, revision: 0, outcomes }
    }

    fn compare(&self, compare: &Compare) -> bool {
        let keys = self.keys(&compare.key, &compare.range_end);
        let kvs: Vec<KeyValue> = keys.iter().filter_map(|key| self.get(key, i64::MAX)).collect();
        let one = |kv: &KeyValue| {
            let ordering = match &compare.operand {
                Operand::Version(operand) => kv.version.cmp(operand),
                Operand::Create(operand) => kv.create_revision.cmp(operand),
                Operand::Mod(operand) => kv.mod_revision.cmp(operand),
                Operand::Lease(operand) => kv.lease.cmp(operand),
                Operand::Value(operand) => kv.value.cmp(operand),
            };
            match compare.result {
                CompareResult::Equal => ordering.is_eq(),
                CompareResult::NotEqual => ordering.is_ne(),
                CompareResult::Greater => ordering.is_gt(),
                CompareResult::Less => ordering.is_lt(),
            }
        };
        match (kvs.is_empty(), &compare.operand) {
            (true, Operand::Value(_)) => false,
            (true, _) => one(&KeyValue::default()),
            (false, _) => kvs.iter().all(one),
        }
    }
}

fn set_revision(result: &mut TxnResult, revision: i64) {
    result.revision = revision;
    for outcome in &mut result.outcomes {
        if let Outcome::Txn(nested) = outcome {
            set_revision(nested, revision);
        }
    }
}
