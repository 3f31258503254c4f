//! Compaction: what dies, and its removal from disk in bounded steps.
//!
//! Compaction at revision C is logical at first: reads below C are refused at once. Dead is then every revision up to C that
//! another one of its key up to C follows, and every tombstone below C. A tombstone at C itself stays until the next
//! compaction, because a watch may start at C and must see that deletion (etcd since 3.5.16).
//!
//! Physical compaction is a pass over the records up to C. A record that something dead is in is written again under its key
//! without it, and removed when nothing is left. The index forgets a dead revision when a pass meets it. The pass keeps its
//! target even if C moves on, so that a busy compactor cannot starve the newer records; the next pass has the new target.

use bytes::Bytes;

use super::command::Refusal;
use super::history::History;
use super::record::{self, Kind};
use super::{Changes, Revision, State, layout, read, small};
use crate::env::simulated::{self, Bug};

/// How far physical compaction has got. In the engine, so that a pass goes on after a restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// Compacted revision of the last pass that ended.
    pub done: i64,
    /// Compacted revision of the pass that runs, if it is above `done`.
    pub target: i64,
    /// Where that pass goes on.
    pub cursor: Revision,
}

impl State {
    /// Compaction up to this revision has been carried out on disk; [`State::compacted`] may be ahead.
    pub fn physically_compacted(&self) -> i64 {
        self.progress.done
    }

    /// One step of physical compaction over up to `records` records. `None`: nothing is left to do. The changes are often
    /// empty. Nobody else may compact, and `history` must hold everything that was applied, until they are written.
    ///
    /// [`Refusal::Unreadable`] if the engine cannot be read.
    pub fn compaction_step(
        &mut self,
        history: &dyn History,
        records: usize,
    ) -> Result<Option<Changes>, Refusal> {
        if self.progress.target <= self.progress.done {
            if self.compacted <= self.progress.done {
                return Ok(None);
            }
            self.progress.target = self.compacted;
            self.progress.cursor = Revision::default();
        }
        let count = records.max(1);
        let Progress { target, cursor, .. } = self.progress;
        let found = read::next_records(history, cursor, target, count)?;
        let mut changes = Changes::default();
        for (base, value) in &found {
            self.compact_record(history, *base, value, &mut changes)?;
            self.progress.cursor = read::after(*base);
        }
        if found.len() < count {
            self.progress = Progress { done: target, target, cursor: Revision::default() };
            changes.puts.push(small::progress(&self.progress));
        } else if !changes.is_empty() {
            changes.puts.push(small::progress(&self.progress));
        }
        Ok(Some(changes))
    }

    fn compact_record(
        &mut self,
        history: &dyn History,
        base: Revision,
        value: &Bytes,
        changes: &mut Changes,
    ) -> Result<(), Refusal> {
        let mut entries = read::entries(history, base, value)?;
        let before = entries.len();
        entries.retain(|entry| {
            let kept = self.is_kept(entry.revision, &entry.key);
            if simulated::planted(Bug::CompactLive) && entry.revision.main % 4 == 0 {
                return false;
            }
            if !kept {
                self.index.trim(&entry.key, self.compacted);
            }
            kept
        });
        if entries.len() == before {
            return Ok(());
        }
        let key = layout::record_key(base);
        if !entries.is_empty() {
            let record = record::record(base, &entries, value.len());
            self.shrink(value.len().saturating_sub(record.len()));
            changes.puts.push((Bytes::copy_from_slice(&key), record));
            return Ok(());
        }
        changes.deletes.push(Bytes::copy_from_slice(&key));
        self.shrink(key.len() + value.len());
        if let (Kind::LargeHead, body) = record::open_unchecked(value)? {
            let (total, first) = record::large_head(body)?;
            let parts = record::parts(total);
            self.shrink(total - first.len() + parts as usize * (layout::PART_KEY + record::HEADER));
            let keys = (1..=parts).map(|part| Bytes::copy_from_slice(&layout::part_key(base, part)));
            changes.deletes.extend(keys);
        }
        Ok(())
    }

    fn shrink(&mut self, bytes: usize) {
        self.history_bytes = self.history_bytes.saturating_sub(bytes as u64);
    }

    /// Compaction leaves this revision of this key.
    pub(super) fn is_kept(&self, revision: Revision, key: &[u8]) -> bool {
        if revision.main > self.compacted {
            return true;
        }
        self.index.last_at(key, self.compacted).is_some_and(|(last, tombstone)| {
            last == revision && (!tombstone || revision.main == self.compacted)
        })
    }
}
