//! sled behind the [`Engine`] trait: the one file that names it.
//!
//! sled's `flush` is pwrite and `sync_file_range`, which does not survive a power cut, and damage makes it panic; so it
//! is only ever a cache, and every call that reads what is on disk catches panics.
//!
//! sled gives little back of what was deleted, so a defragmentation writes everything anew, into a directory beside: what is there is
//! copied in the order of the keys, a step at a time, and whatever is committed meanwhile goes into both. Then the new files take the
//! place of the old ones, which go when nobody reads them any more. Should the process end on the way, the state has no marker of a clean
//! close, and all of it is thrown away at the next start.

use std::ops::{Bound, ControlFlow};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use sled::{Db, IVec};

use super::{Batch, Engine, EngineError, Result};
use crate::env::Files;
use crate::env::real_files::RealFiles;
use crate::limits;

/// Pairs that are copied while commits wait.
const COPY_STEP: usize = 256;
/// Steps between two looks at the free space: some megabytes.
const LOOK_STEPS: usize = 4;
/// What the directory of every second set of files has behind its name.
const BESIDE: &str = ".beside";

/// sled with one tree.
#[derive(Debug)]
pub struct SledEngine {
    /// Where the files are after a clean close.
    directory: PathBuf,
    cache_bytes: u64,
    current: RwLock<Option<Arc<Opened>>>,
    /// What a defragmentation writes. Locked before `current` is, by every commit.
    copy: Mutex<Option<Arc<Opened>>>,
    /// Taken by the one defragmentation.
    turn: Mutex<()>,
}

/// Open files.
#[derive(Debug)]
struct Opened {
    /// `None` only while it is dropped.
    database: Option<Db>,
    directory: PathBuf,
    /// They go when nobody has them any more.
    is_retired: Mutex<bool>,
}

impl Drop for Opened {
    fn drop(&mut self) {
        drop(self.database.take());
        if *self.is_retired.get_mut() {
            // What is left goes with the whole state, or before the next defragmentation.
            let _ = RealFiles.remove_dir_all(&self.directory);
        }
    }
}

impl Opened {
    fn open(directory: PathBuf, cache_bytes: u64) -> Result<Arc<Self>> {
        let config = sled::Config::new()
            .path(&directory)
            .cache_capacity(cache_bytes)
            .mode(sled::Mode::HighThroughput)
            .flush_every_ms(None);
        let database = Some(guarded(|| config.open())?);
        Ok(Arc::new(Self { database, directory, is_retired: Mutex::new(false) }))
    }

    fn database(&self) -> Result<&Db> {
        self.database.as_ref().ok_or(EngineError::Closed)
    }

    fn retire(&self) {
        *self.is_retired.lock() = true;
    }

    fn write(&self, batch: &Batch) -> Result<()> {
        let database = self.database()?;
        let (seal, puts) = batch.puts.split_last().map_or((None, &[][..]), |(seal, puts)| (Some(seal), puts));
        guarded(|| {
            for (key, value) in puts {
                database.insert(&key[..], &value[..])?;
            }
            for key in &batch.deletes {
                database.remove(&key[..])?;
            }
            if let Some((key, value)) = seal {
                database.insert(&key[..], &value[..])?;
            }
            Ok(())
        })
    }
}

/// Turns a panic inside sled into an error.
fn guarded<T>(call: impl FnOnce() -> sled::Result<T>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(done) => done.map_err(|error| match error {
            sled::Error::Io(error) => EngineError::Io(error),
            other => EngineError::Damaged(other.to_string()),
        }),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Err(EngineError::Panicked(text.unwrap_or_default()))
        }
    }
}

/// Without a copy.
fn bytes(from: IVec) -> Bytes {
    Bytes::from_owner(from)
}

impl SledEngine {
    /// Opens or creates the files in `directory`. `cache_bytes` bounds the memory of sled's page cache.
    ///
    /// Nothing is synced from time to time: the files only have to be right after a clean close.
    pub fn open(directory: &Path, cache_bytes: u64) -> Result<Self> {
        let opened = Opened::open(directory.to_owned(), cache_bytes)?;
        Ok(Self {
            directory: directory.to_owned(),
            cache_bytes,
            current: RwLock::new(Some(opened)),
            copy: Mutex::new(None),
            turn: Mutex::new(()),
        })
    }

    /// The files in use. A handle, so that a visitor may use the engine, and files that are replaced stay while they are read.
    fn current(&self) -> Result<Arc<Opened>> {
        self.current.read().clone().ok_or(EngineError::Closed)
    }

    fn with<T>(&self, call: impl FnOnce(&Db) -> sled::Result<T>) -> Result<T> {
        let current = self.current.read();
        let database = current.as_ref().ok_or(EngineError::Closed)?.database()?;
        guarded(|| call(database))
    }

    /// The directory for the next set of files, without what another attempt may have left there.
    fn free_directory(&self, current: &Opened) -> Result<PathBuf> {
        let mut beside = self.directory.clone().into_os_string();
        beside.push(BESIDE);
        let beside = PathBuf::from(beside);
        let next = if current.directory == beside { self.directory.clone() } else { beside };
        if RealFiles.exists(&next)? {
            RealFiles.remove_dir_all(&next)?;
        }
        Ok(next)
    }

    /// Copies everything. Returns when the copy is in use.
    fn fill(&self, old: &Arc<Opened>, next: &Path) -> Result<()> {
        let mut from: Vec<u8> = Vec::new();
        for step in 0_usize.. {
            if step.is_multiple_of(LOOK_STEPS) && RealFiles.space(next)?.free < limits::SPARE_BYTES {
                return Err(EngineError::Io(std::io::ErrorKind::StorageFull.into()));
            }
            let mut copy = self.copy.lock();
            let new = copy.clone().filter(|_| self.current.read().is_some()).ok_or(EngineError::Closed)?;
            let mut last = None;
            let mut pairs = old.database()?.range::<&[u8], _>(&from[..]..);
            for _ in 0..COPY_STEP {
                let Some((key, value)) = guarded(|| pairs.next().transpose())? else { break };
                guarded(|| new.database.as_ref().map(|database| database.insert(&key, value)).transpose())?;
                last = Some(key);
            }
            let Some(last) = last else {
                let mut current = self.current.write();
                // Closed meanwhile: then it stays closed.
                if current.is_none() {
                    return Err(EngineError::Closed);
                }
                *current = copy.take();
                return Ok(());
            };
            // The next key there can be.
            from = [&last[..], &[0]].concat();
        }
        Ok(())
    }
}

impl Engine for SledEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        self.with(|database| Ok(database.get(key)?.map(bytes)))
    }

    fn floor(&self, end: Bound<&[u8]>) -> Result<Option<(Bytes, Bytes)>> {
        self.with(|database| {
            let found = database.range::<&[u8], _>((Bound::Unbounded, end)).next_back().transpose()?;
            Ok(found.map(|(key, value)| (bytes(key), bytes(value))))
        })
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(Bytes, Bytes) -> ControlFlow<()>,
    ) -> Result<()> {
        if !to.is_empty() && from >= to {
            return Ok(());
        }
        let end = if to.is_empty() { Bound::Unbounded } else { Bound::Excluded(to) };
        let current = self.current()?;
        let mut pairs = current.database()?.range::<&[u8], _>((Bound::Included(from), end));
        while let Some((key, value)) = guarded(|| pairs.next().transpose())? {
            if visit(bytes(key), bytes(value)).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// One by one. sled's own batch is a hash map, whose order is random: for 60 MB of small records in batches of 1 MiB that
    /// was measured to cost 245 MB of memory and 23 µs each, this 49 MB and 17 µs.
    fn commit(&self, batch: Batch) -> Result<()> {
        let mut copy = self.copy.lock();
        self.current()?.write(&batch)?;
        if let Some(new) = copy.as_ref()
            && new.write(&batch).is_err()
        {
            // The defragmentation finds that it is gone, and ends; what is in use has the batch.
            new.retire();
            *copy = None;
        }
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        self.with(|database| database.flush().map(|_| ()))
    }

    fn size_on_disk(&self) -> Result<u64> {
        self.with(Db::size_on_disk)
    }

    fn defragment(&self) -> Result<()> {
        let _turn = self.turn.lock();
        let old = self.current()?;
        let next = self.free_directory(&old)?;
        let new = Opened::open(next.clone(), self.cache_bytes)?;
        *self.copy.lock() = Some(new);
        match self.fill(&old, &next) {
            Ok(()) => {
                old.retire();
                Ok(())
            }
            Err(error) => {
                if let Some(new) = self.copy.lock().take() {
                    new.retire();
                }
                Err(error)
            }
        }
    }

    fn close(&self) -> Result<()> {
        if let Some(new) = self.copy.lock().take() {
            new.retire();
        }
        let Some(current) = self.current.write().take() else { return Ok(()) };
        // A defragmentation that is under way ends at its next step.
        let _turn = self.turn.lock();
        let (database, files) = (current.database()?.clone(), current.directory.clone());
        guarded(|| {
            database.flush()?;
            drop(database);
            Ok(())
        })?;
        drop(current);
        if files != self.directory {
            if RealFiles.exists(&self.directory)? {
                RealFiles.remove_dir_all(&self.directory)?;
            }
            RealFiles.rename(&files, &self.directory)?;
        }
        Ok(())
    }
}
