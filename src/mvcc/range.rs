//! Reads: a plan made from the index under the caller's lock, then records read in bounded steps without it.
//!
//! Everything but values and leases is in the index. So filters, and every order but the one by value, are done when the plan
//! is made, and only what is returned is read. `keys_only` and `count_only` read nothing; like etcd since 3.7, `keys_only`
//! returns no lease (unless sorted by value, which reads the pairs).
//!
//! A quirk of etcd that is kept: with `sort_order` NONE and a target other than the key, the limit cuts in the order of keys
//! and what is left is sorted.

use std::cmp::Ordering;

use bytes::Bytes;

use super::command::{Range, RangeResult, Refusal, SortOrder, SortTarget};
use super::history::History;
use super::index::Span;
use super::read::Reader;
use super::versions::{Found, Versions};
use super::{KeyValue, Revision, State};
use crate::limits;

/// A read that was planned at one revision. It stays valid while the state changes; only compaction can take records away
/// that it still has to read.
#[derive(Debug)]
pub struct RangePlan {
    result: RangeResult,
    unread: Unread,
    by_value: Option<ByValue>,
    /// Bytes of pairs that may still be read before the rest is left out.
    room: usize,
}

/// What is still to be read.
#[derive(Debug)]
enum Unread {
    Nothing,
    One(Revision),
    Many { revisions: Vec<Revision>, next: usize },
}

/// What is left to do when the values are known.
#[derive(Debug)]
struct ByValue {
    descending: bool,
    limit: usize,
    keys_only: bool,
}

impl State {
    /// Plan a read of `range`. [`Refusal::FutureRevision`] and [`Refusal::Compacted`] as in etcd.
    pub fn plan_range(&self, range: &Range) -> Result<RangePlan, Refusal> {
        self.check_readable()?;
        self.plan_range_at(range, self.revision)
    }

    /// As [`State::plan_range`], where the newest revision is `newest`: inside a transaction it is ahead of the store's.
    pub(super) fn plan_range_at(&self, range: &Range, newest: i64) -> Result<RangePlan, Refusal> {
        let revision = match range.revision {
            asked if asked > newest => return Err(Refusal::FutureRevision),
            ..=0 => newest,
            asked => asked,
        };
        if revision < self.compacted {
            return Err(Refusal::Compacted);
        }
        let span = Span::new(&range.key, &range.range_end);
        let mut plan = RangePlan {
            result: RangeResult { revision: newest, ..RangeResult::default() },
            unread: Unread::Nothing,
            by_value: None,
            room: usize::MAX,
        };
        if range.count_only {
            let keys = self.index.entries(span);
            plan.result.count =
                keys.filter(|(_, versions)| is_there(versions, revision, newest)).count() as i64;
            return Ok(plan);
        }
        if let Span::One(key) = span
            && !range.keys_only
        {
            if let Some(found) = self.index.at(key, revision) {
                plan.result.count = 1;
                if passes(range, &found) {
                    plan.unread = Unread::One(found.modified);
                }
            }
            return Ok(plan);
        }
        self.plan_many(range, span, (revision, newest), &mut plan);
        Ok(plan)
    }

    /// Plan a read of the first pairs of `range` in the order of keys: at most `range.limit`, and none after the one that fills `bytes`
    /// bytes. Those left out are not counted, and order, filters and `count_only` are not looked at: for a range that is read in
    /// parts. Refusals as of [`State::plan_range`].
    pub fn plan_part(&self, range: &Range, bytes: usize) -> Result<RangePlan, Refusal> {
        let revision = match range.revision {
            asked if asked > self.revision => return Err(Refusal::FutureRevision),
            ..=0 => self.revision,
            asked => asked,
        };
        if revision < self.compacted {
            return Err(Refusal::Compacted);
        }
        let limit = usize::try_from(range.limit).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
        let mut plan = RangePlan {
            result: RangeResult { revision: self.revision, ..RangeResult::default() },
            unread: Unread::Nothing,
            by_value: None,
            room: bytes,
        };
        let found = self.index.range(Span::new(&range.key, &range.range_end), revision);
        let mut picked: Vec<(&[u8], Found)> = found.take(limit.saturating_add(1)).collect();
        plan.result.more = picked.len() > limit;
        picked.truncate(limit);
        if range.keys_only {
            plan.result.kvs = picked.iter().map(|(key, found)| key_only(key, found)).collect();
        } else {
            plan.read(picked.iter());
        }
        Ok(plan)
    }

    fn plan_many(&self, range: &Range, span: Span<'_>, (revision, newest): (i64, i64), plan: &mut RangePlan) {
        let limit = usize::try_from(range.limit).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
        let order = order(range);
        let filtered = has_filter(range);
        // The limit cuts here if nothing later changes what comes first; etcd's rule for the quirk above.
        let cut_early = range.sort_order == SortOrder::None && !filtered;
        let stop = if order.is_none() || cut_early { limit.saturating_add(1) } else { usize::MAX };
        let mut count = 0;
        let mut picked: Vec<(&[u8], Found)> = Vec::new();
        for (key, versions) in self.index.entries(span) {
            if picked.len() >= stop {
                count += i64::from(is_there(versions, revision, newest));
            } else if let Some(found) = versions.at(revision) {
                count += 1;
                if !filtered || passes(range, &found) {
                    picked.push((key, found));
                }
            }
        }
        plan.result.count = count;
        match order {
            None => {}
            Some((SortTarget::Value, descending)) => {
                plan.by_value = Some(ByValue { descending, limit, keys_only: range.keys_only });
                plan.read(picked.iter());
                return;
            }
            Some((target, descending)) => picked.sort_by(|a, b| {
                let ordering = compare(target, a, b);
                if descending { ordering.reverse() } else { ordering }
            }),
        }
        plan.result.more = picked.len() > limit;
        picked.truncate(limit);
        if range.keys_only {
            plan.result.kvs = picked.iter().map(|(key, found)| key_only(key, found)).collect();
        } else {
            plan.read(picked.iter());
        }
    }
}

impl RangePlan {
    fn read<'a>(&mut self, picked: impl ExactSizeIterator<Item = &'a (&'a [u8], Found)>) {
        self.result.kvs.reserve_exact(picked.len());
        let revisions = picked.map(|(_, found)| found.modified).collect();
        self.unread = Unread::Many { revisions, next: 0 };
    }

    /// Nothing has to be read: [`RangePlan::finish`] can follow.
    pub fn is_done(&self) -> bool {
        match &self.unread {
            Unread::Nothing => true,
            Unread::One(_) => false,
            Unread::Many { revisions, next } => *next >= revisions.len(),
        }
    }

    /// Read up to `pairs` pairs. `true`: all is read. [`Refusal::Compacted`]: compaction took a record away since the plan was
    /// made; make a new one. If that happens though no compaction was applied in between, the engine has lost records.
    pub fn step(&mut self, history: &dyn History, pairs: usize) -> Result<bool, Refusal> {
        let mut reader = Reader::new(history);
        self.step_by(pairs, &mut |revision| Ok(reader.read(revision)?.into_kv()))
    }

    pub(super) fn step_by(
        &mut self,
        pairs: usize,
        read: &mut dyn FnMut(Revision) -> Result<KeyValue, Refusal>,
    ) -> Result<bool, Refusal> {
        match &mut self.unread {
            Unread::Nothing => Ok(true),
            Unread::One(revision) => {
                self.result.kvs = vec![read(*revision)?];
                self.unread = Unread::Nothing;
                Ok(true)
            }
            Unread::Many { revisions, next } => {
                for revision in revisions.iter().skip(*next).take(pairs.max(1)) {
                    let kv = read(*revision)?;
                    self.room = self.room.saturating_sub(kv.key.len() + kv.value.len());
                    self.result.kvs.push(kv);
                    *next += 1;
                    if self.room == 0 {
                        break;
                    }
                }
                if self.room == 0 && *next < revisions.len() {
                    revisions.truncate(*next);
                    self.result.more = true;
                }
                Ok(*next >= revisions.len())
            }
        }
    }

    /// The answer; whole once [`RangePlan::is_done`].
    pub fn finish(mut self) -> RangeResult {
        if let Some(ByValue { descending, limit, keys_only }) = self.by_value {
            let kvs = &mut self.result.kvs;
            kvs.sort_by(|a, b| {
                let ordering = a.value.cmp(&b.value);
                if descending { ordering.reverse() } else { ordering }
            });
            self.result.more = kvs.len() > limit;
            kvs.truncate(limit);
            if keys_only {
                for kv in kvs {
                    kv.value = Bytes::new();
                }
            }
        }
        self.result
    }
}

/// Whether a key was there at `revision`; cheaper at the newest.
fn is_there(versions: &Versions, revision: i64, newest: i64) -> bool {
    if revision == newest { versions.is_live() } else { versions.at(revision).is_some() }
}

fn key_only(key: &[u8], found: &Found) -> KeyValue {
    KeyValue {
        key: Bytes::copy_from_slice(key),
        create_revision: found.create,
        mod_revision: found.modified.main,
        version: found.version,
        ..KeyValue::default()
    }
}

/// What to sort by, and whether descending; `None` if the order of keys is the answer's.
fn order(range: &Range) -> Option<(SortTarget, bool)> {
    match (range.sort_target, range.sort_order) {
        (SortTarget::Key, SortOrder::None | SortOrder::Ascend) => None,
        (target, order) => Some((target, order == SortOrder::Descend)),
    }
}

fn compare(target: SortTarget, a: &(&[u8], Found), b: &(&[u8], Found)) -> Ordering {
    match target {
        SortTarget::Key | SortTarget::Value => a.0.cmp(b.0),
        SortTarget::Version => a.1.version.cmp(&b.1.version),
        SortTarget::Create => a.1.create.cmp(&b.1.create),
        SortTarget::Mod => a.1.modified.main.cmp(&b.1.modified.main),
    }
}

fn has_filter(range: &Range) -> bool {
    [range.min_mod_revision, range.max_mod_revision, range.min_create_revision, range.max_create_revision]
        .iter()
        .any(|filter| *filter != 0)
}

fn passes(range: &Range, found: &Found) -> bool {
    let within = |value: i64, min: i64, max: i64| (min == 0 || value >= min) && (max == 0 || value <= max);
    within(found.modified.main, range.min_mod_revision, range.max_mod_revision)
        && within(found.create, range.min_create_revision, range.max_create_revision)
}

/// How many pairs the next part of a range may have, after one of `pairs` pairs that had `bytes` bytes: twice as many, half of them, or as
/// many, as in etcd.
pub fn next_part_pairs(pairs: i64, bytes: usize) -> i64 {
    let next = if bytes < limits::REQUEST_BYTES / 2 {
        pairs.saturating_mul(2)
    } else if bytes > limits::REQUEST_BYTES * 2 {
        pairs / 2
    } else {
        pairs
    };
    next.clamp(1, limits::RANGE_PART_PAIRS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_grow_and_shrink_towards_the_size_of_a_request() {
        let mib = 1 << 20;
        for (limit, size, expected) in [
            (10, 100, 20),
            (10, mib, 10),
            (10, 4 * mib, 5),
            (1, 9 * mib, 1),
            (limits::RANGE_PART_PAIRS, 1, limits::RANGE_PART_PAIRS),
            (i64::MAX, 1, limits::RANGE_PART_PAIRS),
        ] {
            assert_eq!(next_part_pairs(limit, size), expected, "{limit} {size}");
        }
    }
}
