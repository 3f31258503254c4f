//! An engine without a disk: for tests, for the simulation, and for a store that needs to remember nothing.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};

use bytes::Bytes;
use parking_lot::RwLock;

use super::{Batch, Engine, EngineError, Result};

/// Pairs that a scan takes at a time, so that it does not hold the lock while others work.
const SCAN_STEP: usize = 256;

/// A sorted map.
#[derive(Debug, Default)]
pub struct MemoryEngine {
    map: RwLock<Option<Content>>,
}

#[derive(Clone, Debug, Default)]
struct Content {
    map: BTreeMap<Bytes, Bytes>,
    bytes: u64,
}

impl MemoryEngine {
    /// An empty one.
    pub fn new() -> Self {
        Self { map: RwLock::new(Some(Content::default())) }
    }

    /// A copy as of now, which lives on its own. The simulation lets a node come back with one.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self { map: RwLock::new(self.map.read().clone()) }
    }

    fn read<T>(&self, read: impl FnOnce(&Content) -> T) -> Result<T> {
        self.map.read().as_ref().map(read).ok_or(EngineError::Closed)
    }
}

fn size(key: &Bytes, value: &Bytes) -> u64 {
    (key.len() + value.len()) as u64
}

impl Engine for MemoryEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        self.read(|content| content.map.get(key).cloned())
    }

    fn floor(&self, end: Bound<&[u8]>) -> Result<Option<(Bytes, Bytes)>> {
        self.read(|content| {
            content
                .map
                .range::<[u8], _>((Bound::Unbounded, end))
                .next_back()
                .map(|(key, value)| (key.clone(), value.clone()))
        })
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(Bytes, Bytes) -> ControlFlow<()>,
    ) -> Result<()> {
        let end = if to.is_empty() { Bound::Unbounded } else { Bound::Excluded(to) };
        let mut start = Bound::Included(Bytes::copy_from_slice(from));
        loop {
            let begin = start.as_ref().map(|key| &key[..]);
            if let (Bound::Included(from) | Bound::Excluded(from), Bound::Excluded(to)) = (begin, end)
                && from >= to
            {
                return Ok(());
            }
            let step: Vec<_> = self.read(|content| {
                let range = content.map.range::<[u8], _>((begin, end)).take(SCAN_STEP);
                range.map(|(key, value)| (key.clone(), value.clone())).collect()
            })?;
            let Some((last, _)) = step.last() else { return Ok(()) };
            start = Bound::Excluded(last.clone());
            for (key, value) in step {
                if visit(key, value).is_break() {
                    return Ok(());
                }
            }
        }
    }

    fn commit(&self, batch: Batch) -> Result<()> {
        let mut content = self.map.write();
        let Content { map, bytes } = content.as_mut().ok_or(EngineError::Closed)?;
        for key in batch.deletes {
            if let Some(value) = map.remove(&key) {
                *bytes -= size(&key, &value);
            }
        }
        for (key, value) in batch.puts {
            *bytes += size(&key, &value);
            if let Some(before) = map.insert(key.clone(), value) {
                *bytes -= size(&key, &before);
            }
        }
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        self.read(|_| ())
    }

    fn size_on_disk(&self) -> Result<u64> {
        self.read(|content| content.bytes)
    }

    fn close(&self) -> Result<()> {
        *self.map.write() = None;
        Ok(())
    }
}
