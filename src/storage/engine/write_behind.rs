//! Collects batches in memory, in front of an engine for which every change is expensive, and cheaper in the order of keys.
//! What is overwritten soon, as the applied id by each batch, is never written.
//!
//! Commits go into the *active* table. A table that has reached the limit is *frozen*, and a thread writes it as one batch.
//! Reads see active over frozen over engine. Nothing is written before the limit, [`Engine::flush`] or [`Engine::close`].
//!
//! Invariants:
//! * A table is whole batches, in their order, and is one batch of the engine, under the seal of its last one. So an engine of
//!   which each batch is sealed with the applied id stands at exactly one applied entry once a table is written.
//! * Readers see all of a batch or nothing, in spite of an engine that makes its changes one by one.
//! * A table stays in sight until the engine has it. What a reader finds in no table, it finds in the engine.
//! * There is one frozen table at most. Who fills the active one meanwhile waits: memory is bounded by two tables and a batch.
//! * A write that failed is final: its table stays readable, and every later commit, flush and close says why.

use std::collections::BTreeMap;
use std::io;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::{Condvar, Mutex, MutexGuard};
use tokio::sync::Notify;

use super::{Batch, Engine, EngineError, Result};
use crate::env::{Tasks, Work};

/// What a change costs in memory beside key and value: its place in the map, and two allocations.
const CHANGE_BYTES: usize = 128;
/// Changes that a scan takes from the tables at first and at most. It holds their lock meanwhile, and most scans are short.
const SCAN_STEPS: (usize, usize) = (16, 256);

/// An engine that writes later. See the module.
#[derive(Debug)]
pub struct WriteBehind {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    engine: Box<dyn Engine>,
    /// Bytes from which on a table is written.
    limit: usize,
    tables: Mutex<Tables>,
    /// The frozen table is written, or never will be.
    written: Condvar,
    /// There is a frozen table, or the end.
    wake: Notify,
}

#[derive(Debug, Default)]
struct Tables {
    active: Table,
    frozen: Option<Arc<Table>>,
    /// Tables that were frozen so far. While it stays, what the tables held and what the engine holds fit together.
    freezes: u64,
    failure: Option<EngineError>,
    closed: bool,
}

/// A new value; `None`: the key goes.
type Change = Option<Bytes>;

/// Keys and what becomes of them.
#[derive(Debug, Default)]
struct Table {
    changes: BTreeMap<Bytes, Change>,
    /// Key of the last batch's seal.
    seal: Bytes,
    bytes: usize,
}

impl Table {
    fn add(&mut self, batch: Batch) {
        if let Some((seal, _)) = batch.puts.last() {
            self.seal = seal.clone();
        }
        let deletes = batch.deletes.into_iter().map(|key| (key, None));
        for (key, value) in deletes.chain(batch.puts.into_iter().map(|(key, value)| (key, Some(value)))) {
            let length = |value: &Option<Bytes>| value.as_ref().map_or(0, Bytes::len);
            let of_key = CHANGE_BYTES + key.len();
            self.bytes += of_key + length(&value);
            if let Some(before) = self.changes.insert(key, value) {
                self.bytes -= of_key + length(&before);
            }
        }
    }

    fn batch(&self) -> Batch {
        let mut batch = Batch::default();
        let mut seal = None;
        for (key, value) in &self.changes {
            match value {
                Some(value) if *key == self.seal => seal = Some((key.clone(), value.clone())),
                Some(value) => batch.puts.push((key.clone(), value.clone())),
                None => batch.deletes.push(key.clone()),
            }
        }
        batch.puts.extend(seal);
        batch
    }
}

impl Tables {
    /// The newer first.
    fn layers(&self) -> impl DoubleEndedIterator<Item = &Table> {
        std::iter::once(&self.active).chain(self.frozen.as_deref())
    }

    fn get(&self, key: &[u8]) -> Option<Change> {
        self.layers().find_map(|table| table.changes.get(key)).cloned()
    }

    /// The greatest key up to `end` that is put, and its value; and the keys after it that are deleted, greatest first.
    fn floor(&self, end: Bound<&[u8]>) -> (Option<(Bytes, Bytes)>, Vec<Bytes>) {
        let mut deleted: Vec<Bytes> = Vec::new();
        loop {
            let end = deleted.last().map_or(end, |key| Bound::Excluded(&key[..]));
            let last = |table: &'_ Table| {
                let found = table.changes.range::<[u8], _>((Bound::Unbounded, end)).next_back();
                found.map(|(key, value)| (key.clone(), value.clone()))
            };
            // Of two changes of one key the first one stays, which is the newer.
            let greater =
                |newer: (Bytes, _), older: (Bytes, _)| if older.0 > newer.0 { older } else { newer };
            match self.layers().filter_map(last).reduce(greater) {
                None => return (None, deleted),
                Some((key, Some(value))) => return (Some((key, value)), deleted),
                Some((key, None)) => deleted.push(key),
            }
        }
    }

    /// The first `count` changes of a range.
    fn range(&self, range: (Bound<&[u8]>, Bound<&[u8]>), count: usize) -> BTreeMap<Bytes, Change> {
        let mut found = BTreeMap::new();
        for table in self.layers().rev() {
            let changes = table.changes.range::<[u8], _>(range).take(count);
            found.extend(changes.map(|(key, value)| (key.clone(), value.clone())));
        }
        while found.len() > count {
            found.pop_last();
        }
        found
    }

    fn usable(&self) -> Result<()> {
        match &self.failure {
            Some(failure) => Err(failure.again()),
            None if self.closed => Err(EngineError::Closed),
            None => Ok(()),
        }
    }

    /// Whether the frozen table is still to be written.
    fn is_writing(&self) -> bool {
        self.frozen.is_some() && self.failure.is_none()
    }
}

impl Shared {
    fn freeze(&self, tables: &mut Tables) {
        tables.frozen = Some(Arc::new(std::mem::take(&mut tables.active)));
        tables.freezes += 1;
        self.wake.notify_one();
    }

    fn write_frozen(&self) {
        let Some(frozen) = self.tables.lock().frozen.clone() else { return };
        let done = self.engine.commit(frozen.batch());
        let mut tables = self.tables.lock();
        match done {
            Ok(()) => tables.frozen = None,
            Err(error) => tables.failure = Some(error),
        }
        self.written.notify_all();
    }

    /// Has everything written.
    fn drain(&self, tables: &mut MutexGuard<'_, Tables>) -> Result<()> {
        loop {
            self.written.wait_while(tables, |tables| tables.is_writing());
            tables.usable()?;
            if tables.active.changes.is_empty() {
                return Ok(());
            }
            self.freeze(tables);
        }
    }
}

/// Writes frozen tables.
struct Writer(Arc<Shared>);

impl Work for Writer {
    fn wait(&mut self) -> BoxFuture<'_, bool> {
        Box::pin(async move {
            loop {
                let woken = self.0.wake.notified();
                {
                    let tables = self.0.tables.lock();
                    if tables.is_writing() {
                        return true;
                    }
                    if tables.closed || tables.failure.is_some() {
                        return false;
                    }
                }
                woken.await;
            }
        })
    }

    fn step(&mut self) {
        self.0.write_frozen();
    }
}

impl Drop for Writer {
    /// Whoever waits hears that nobody writes any more.
    fn drop(&mut self) {
        let mut tables = self.0.tables.lock();
        if !tables.closed && tables.failure.is_none() {
            tables.failure = Some(io::Error::other("the engine's writer has ended").into());
        }
        self.0.written.notify_all();
    }
}

impl WriteBehind {
    /// In front of `engine`. Tables of `limit` bytes are written by a thread of `tasks`, which ends at [`Engine::close`] or
    /// when this is dropped; what is dropped without being closed is not written.
    pub fn new(engine: Box<dyn Engine>, limit: usize, tasks: &dyn Tasks) -> Self {
        let shared = Arc::new(Shared {
            engine,
            limit,
            tables: Mutex::default(),
            written: Condvar::new(),
            wake: Notify::new(),
        });
        // The future only tells of the end, which close need not wait for: the last write is done by then.
        drop(tasks.drive("engine", Box::new(Writer(shared.clone()))));
        Self { shared }
    }

    fn open_tables(&self) -> Result<MutexGuard<'_, Tables>> {
        let tables = self.shared.tables.lock();
        if tables.closed { Err(EngineError::Closed) } else { Ok(tables) }
    }

    /// Ends the writer, and gives the engine's files back.
    fn end(&self) -> Result<()> {
        self.shared.tables.lock().closed = true;
        self.shared.wake.notify_one();
        self.shared.engine.close()
    }
}

impl Drop for WriteBehind {
    fn drop(&mut self) {
        // Nobody believes the files of an engine that was not closed.
        let _ = self.end();
    }
}

impl Engine for WriteBehind {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        let changed = self.open_tables()?.get(key);
        changed.map_or_else(|| self.shared.engine.get(key), Ok)
    }

    fn floor(&self, end: Bound<&[u8]>) -> Result<Option<(Bytes, Bytes)>> {
        loop {
            let (freezes, (above, deleted)) = {
                let tables = self.open_tables()?;
                (tables.freezes, tables.floor(end))
            };
            let mut beneath = self.shared.engine.floor(end)?;
            while let Some((key, _)) = &beneath
                && deleted.binary_search_by(|deleted| key.cmp(deleted)).is_ok()
            {
                beneath = self.shared.engine.floor(Bound::Excluded(key))?;
            }
            // Else the engine may be newer than what was seen of the tables.
            if self.open_tables()?.freezes == freezes {
                return Ok(match (above, beneath) {
                    (Some(above), Some(beneath)) if beneath.0 <= above.0 => Some(above),
                    (above, None) => above,
                    (_, beneath) => beneath,
                });
            }
        }
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(Bytes, Bytes) -> ControlFlow<()>,
    ) -> Result<()> {
        let mut from = from.to_vec();
        let (mut count, most) = SCAN_STEPS;
        while to.is_empty() || &from[..] < to {
            let end = if to.is_empty() { Bound::Unbounded } else { Bound::Excluded(to) };
            let above = self.open_tables()?.range((Bound::Included(&from), end), count);
            // A full step may not be all: it ends with its last key, which is not empty, being the last of several.
            let last = above.last_key_value().filter(|_| above.len() == count).map(|(key, _)| key.clone());
            let shown = self.scan_step((&from, last.as_deref().unwrap_or(to)), above, visit)?;
            let (Some(last), ControlFlow::Continue(())) = (last, shown) else { break };
            // The next key there can be.
            from = [&last[..], &[0]].concat();
            count = most.min(2 * count);
        }
        Ok(())
    }

    fn commit(&self, batch: Batch) -> Result<()> {
        let shared = &*self.shared;
        let mut tables = shared.tables.lock();
        tables.usable()?;
        tables.active.add(batch);
        let is_full = |tables: &Tables| tables.active.bytes >= shared.limit;
        shared.written.wait_while(&mut tables, |tables| is_full(tables) && tables.is_writing());
        tables.usable()?;
        if is_full(&tables) {
            shared.freeze(&mut tables);
        }
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        self.shared.drain(&mut self.shared.tables.lock())?;
        self.shared.engine.flush()
    }

    fn size_on_disk(&self) -> Result<u64> {
        let waiting: usize = self.open_tables()?.layers().map(|table| table.bytes).sum();
        Ok(self.shared.engine.size_on_disk()? + waiting as u64)
    }

    fn defragment(&self) -> Result<()> {
        self.shared.drain(&mut self.shared.tables.lock())?;
        self.shared.engine.defragment()
    }

    fn close(&self) -> Result<()> {
        let drained = match self.shared.drain(&mut self.shared.tables.lock()) {
            Err(EngineError::Closed) => Ok(()),
            drained => drained,
        };
        drained.and(self.end())
    }
}

impl WriteBehind {
    /// Shows the changes `above` and what the engine has in `[from, to)`, where no change hides it.
    fn scan_step(
        &self,
        (from, to): (&[u8], &[u8]),
        above: BTreeMap<Bytes, Change>,
        visit: &mut dyn FnMut(Bytes, Bytes) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>> {
        let mut show = |key, change: Change| match change {
            Some(value) => visit(key, value),
            None => ControlFlow::Continue(()),
        };
        let mut above = above.into_iter().peekable();
        let mut shown = ControlFlow::Continue(());
        self.shared.engine.scan(from, to, &mut |key, value| {
            while let Some((changed, change)) = above.next_if(|(changed, _)| *changed < key) {
                shown = show(changed, change);
                if shown.is_break() {
                    return shown;
                }
            }
            let change = above.next_if(|(changed, _)| *changed == key);
            shown = show(key, change.map_or(Some(value), |(_, change)| change));
            shown
        })?;
        if shown.is_continue() {
            shown = above.try_for_each(|(key, value)| show(key, value));
        }
        Ok(shown)
    }
}

#[cfg(test)]
mod tests;
