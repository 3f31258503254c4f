//! What is known of the log while it runs, durable or not: where each entry is, the newest ones themselves, and what
//! waits for the writer. Calls change it at once; the writer follows.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::format::{self, HEADER_BYTES, RECORD_HEADER_BYTES, State};
use super::{Done, Entry, LogId, Observer, Stats, Vote};
use crate::env::File;
use crate::env::simulated::{self, Bug, Seen};
use crate::limits;

/// Term and place of one entry. A place that is not known yet names the append call instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    term: u64,
    segment_or_call: u64,
    offset: u32,
    /// Bytes of the record without padding; 0 while it is not written.
    length: u32,
}

impl Slot {
    pub(super) fn placed(term: u64, segment: u64, offset: u32, length: u32) -> Self {
        Self { term, segment_or_call: segment, offset, length }
    }

    fn waiting(term: u64, call: u64) -> Self {
        Self { term, segment_or_call: call, offset: 0, length: 0 }
    }

    fn is_placed(&self) -> bool {
        self.length > 0
    }
}

/// What waits for the writer.
#[derive(Debug)]
pub(super) enum Operation {
    Append { call: u64, entries: Vec<Entry> },
    Vote(Vote),
    Truncate(Option<LogId>),
    Purge(LogId),
}

/// A segment that is on disk.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) path: PathBuf,
    pub(super) file: Arc<dyn File>,
    /// Bytes in use.
    pub(super) used: u64,
    /// Highest index of an entry that was written to it.
    pub(super) max_index: Option<u64>,
}

/// Why nothing works any more.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    kind: io::ErrorKind,
    pub(super) text: String,
}

impl Failure {
    pub(super) fn new(error: &io::Error, doing: &str) -> Self {
        Self { kind: error.kind(), text: format!("{doing}: {error}") }
    }

    pub(super) fn error(&self) -> io::Error {
        io::Error::new(self.kind, self.text.clone())
    }
}

pub(super) struct Memory {
    pub(super) state: State,
    /// The state as the disk has it.
    pub(super) written: State,
    /// Index of `slots`' first; the next index if there is none, 0 before the first entry.
    pub(super) first: u64,
    pub(super) slots: VecDeque<Slot>,
    /// The newest entries, up to the last one.
    cache: VecDeque<Entry>,
    cache_bytes: usize,
    pub(super) cache_limit: usize,
    pub(super) queue: Vec<(Operation, Done)>,
    pub(super) queue_bytes: usize,
    calls: u64,
    /// All before this index is durable.
    pub(super) durable_end: u64,
    pub(super) segments: BTreeMap<u64, Segment>,
    pub(super) failed: Option<Failure>,
    pub(super) closing: bool,
    pub(super) stats: Stats,
}

/// The log's shared part.
pub(super) struct Core {
    pub(super) directory: PathBuf,
    pub(super) salt: u32,
    pub(super) memory: Mutex<Memory>,
    pub(super) wake: Notify,
    pub(super) durable: watch::Sender<u64>,
    pub(super) observer: OnceLock<Observer>,
}

/// Entries of a read that are on disk: where, and what they must be.
struct OnDisk {
    id: LogId,
    file: Arc<dyn File>,
    path: PathBuf,
    offset: u64,
    length: usize,
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

impl Memory {
    /// That of a log that holds `slots`, all durable, from index `first` on.
    pub(super) fn new(state: State, first: u64, slots: VecDeque<Slot>, cache_limit: usize) -> Self {
        let first = if slots.is_empty() { state.last.map_or(0, |last| last.index + 1) } else { first };
        Self {
            state,
            written: state,
            first,
            durable_end: first + slots.len() as u64,
            slots,
            cache: VecDeque::new(),
            cache_bytes: 0,
            cache_limit,
            queue: Vec::new(),
            queue_bytes: 0,
            calls: 0,
            segments: BTreeMap::new(),
            failed: None,
            closing: false,
            stats: Stats::default(),
        }
    }

    fn usable(&self) -> io::Result<()> {
        match &self.failed {
            Some(failure) => Err(failure.error()),
            None if self.closing => Err(io::Error::other("the log is closed")),
            None if self.queue.len() >= limits::LOG_QUEUE_OPERATIONS => {
                let text = format!("{} operations already wait for the log", self.queue.len());
                Err(io::Error::new(io::ErrorKind::QuotaExceeded, text))
            }
            None => Ok(()),
        }
    }

    fn end(&self) -> u64 {
        self.first + self.slots.len() as u64
    }

    pub(super) fn first_last(&self) -> Option<(u64, u64)> {
        if self.slots.is_empty() { None } else { Some((self.first, self.end() - 1)) }
    }

    fn slot(&self, index: u64) -> Option<&Slot> {
        self.slots.get(usize::try_from(index.checked_sub(self.first)?).ok()?)
    }

    pub(super) fn term_at(&self, index: u64) -> Option<u64> {
        match self.state.purged {
            Some(purged) if purged.index == index => Some(purged.term),
            _ => self.slot(index).map(|slot| slot.term),
        }
    }

    /// Bytes on disk from the entry at `index` on, or from the first one, if that comes later.
    pub(super) fn bytes_from(&self, index: u64) -> u64 {
        let Some(slot) = self.slot(index.max(self.first)) else { return 0 };
        if !slot.is_placed() {
            return 0;
        }
        let used: u64 =
            self.segments.range(slot.segment_or_call..).map(|(_, segment)| segment.used - HEADER_BYTES).sum();
        used.saturating_sub(u64::from(slot.offset) - HEADER_BYTES)
    }

    /// The last entry that goes, if of those up to `upto` the newest stay that take at most `bytes` on disk.
    pub(super) fn excess(&self, upto: u64, bytes: u64) -> Option<u64> {
        let most = self.bytes_from(upto.saturating_add(1)).saturating_add(bytes);
        let (mut stay, mut goes) = (upto.saturating_add(1), self.first);
        // Bytes fall with the index: a search for the first entry from which they are few enough.
        while goes < stay {
            let middle = goes + (stay - goes) / 2;
            if self.bytes_from(middle) > most {
                goes = middle + 1;
            } else {
                stay = middle;
            }
        }
        (stay > self.first).then(|| stay - 1)
    }

    fn check_append(&self, entries: &[Entry]) -> io::Result<usize> {
        let mut last = self.state.last;
        let mut bytes = 0;
        for Entry { id, payload } in entries {
            if payload.len() > limits::LOG_ENTRY_BYTES {
                return Err(invalid(format!("entry {id} has {} bytes", payload.len())));
            }
            if let Some(last) = last
                && (last.index + 1 != id.index || id.term < last.term)
            {
                return Err(invalid(format!("entry {id} cannot follow {last}")));
            }
            last = Some(*id);
            bytes += format::entry_record_bytes(payload.len());
        }
        if self.queue_bytes + bytes > limits::LOG_QUEUE_BYTES {
            let text = format!("{} bytes already wait for the log", self.queue_bytes);
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, text));
        }
        Ok(bytes)
    }

    fn append(&mut self, entries: &[Entry], bytes: usize) -> u64 {
        self.calls += 1;
        self.queue_bytes += bytes;
        let (held, limit) = (self.queue_bytes as u64, limits::LOG_QUEUE_BYTES as u64);
        simulated::tell(|| Seen::Holds { what: "bytes that wait for the log", held, limit });
        if self.slots.is_empty()
            && let Some(entry) = entries.first()
        {
            self.first = entry.id.index;
            self.durable_end = entry.id.index;
        }
        for entry in entries {
            self.slots.push_back(Slot::waiting(entry.id.term, self.calls));
            self.cache_bytes += entry.payload.len();
            self.cache.push_back(entry.clone());
            self.state.last = Some(entry.id);
        }
        self.calls
    }

    pub(super) fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<Operation> {
        if let Some(id) = last
            && self.term_at(id.index) != Some(id.term)
        {
            return Err(invalid(format!("cannot truncate after {id}: there is no such entry")));
        }
        if last.is_none()
            && let Some(purged) = self.state.purged
        {
            return Err(invalid(format!("cannot remove all entries: those up to {purged} are purged")));
        }
        let keep = last.map_or(0, |id| id.index + 1);
        while self.end() > keep && self.slots.pop_back().is_some() {
            if let Some(entry) = self.cache.pop_back() {
                self.cache_bytes -= entry.payload.len();
            }
        }
        self.state.last = last;
        self.durable_end = self.durable_end.min(keep);
        Ok(Operation::Truncate(last))
    }

    pub(super) fn purge(&mut self, upto: LogId) -> Operation {
        if self.state.purged.is_none_or(|purged| purged.index < upto.index) {
            self.state.purged = Some(upto);
            while self.first <= upto.index && self.slots.pop_front().is_some() {
                self.first += 1;
            }
            while self.cache.front().is_some_and(|entry| entry.id.index <= upto.index) {
                if let Some(entry) = self.cache.pop_front() {
                    self.cache_bytes -= entry.payload.len();
                }
            }
            if self.slots.is_empty() {
                self.first = upto.index + 1;
                self.state.last = Some(upto);
            }
            self.durable_end = self.durable_end.max(upto.index + 1);
        }
        Operation::Purge(self.state.purged.unwrap_or(upto))
    }

    /// Notes where an entry was written, unless it was truncated or purged since.
    pub(super) fn place(&mut self, index: u64, call: u64, segment: u64, offset: u32, length: u32) {
        let Some(at) = index.checked_sub(self.first).and_then(|at| usize::try_from(at).ok()) else { return };
        if let Some(slot) = self.slots.get_mut(at)
            && !slot.is_placed()
            && slot.segment_or_call == call
        {
            *slot = Slot::placed(slot.term, segment, offset, length);
        }
    }

    /// Moves the end of what is durable over all entries that are written; drops the oldest of the cache.
    pub(super) fn advance(&mut self) {
        while self.slot(self.durable_end).is_some_and(Slot::is_placed) {
            self.durable_end += 1;
        }
        while self.cache_bytes > self.cache_limit
            && !simulated::planted(Bug::KeepAllInMemory)
            && let Some(index) = self.cache.front().map(|entry| entry.id.index)
            && index < self.durable_end
            && let Some(entry) = self.cache.pop_front()
        {
            self.cache_bytes -= entry.payload.len();
        }
        simulated::tell(|| {
            let durable = self.cache.iter().take_while(|entry| entry.id.index < self.durable_end);
            let held = durable.map(|entry| entry.payload.len() as u64).sum();
            Seen::Holds { what: "bytes of entries that are on disk", held, limit: self.cache_limit as u64 }
        });
    }

    /// Splits a read into what is on disk and what is in the cache.
    fn locate(&self, range: Range<u64>, max_bytes: usize) -> io::Result<(Vec<OnDisk>, Vec<Entry>)> {
        let cached_from = self.end() - self.cache.len() as u64;
        let (mut on_disk, mut cached) = (Vec::new(), Vec::new());
        let mut bytes = 0;
        for index in range.start..range.end.min(self.end()) {
            let Some(slot) = self.slot(index) else { break };
            let entry = index.checked_sub(cached_from).and_then(|at| self.cache.get(at as usize));
            let size = entry.map_or(
                (slot.length as usize).saturating_sub(RECORD_HEADER_BYTES + format::ENTRY_PREFIX_BYTES),
                |entry| entry.payload.len(),
            );
            bytes += size;
            if bytes > max_bytes && index > range.start {
                break;
            }
            if let Some(entry) = entry {
                cached.push(entry.clone());
                continue;
            }
            let segment = self
                .segments
                .get(&slot.segment_or_call)
                .ok_or_else(|| io::Error::other(format!("the segment of entry {index} is not open")))?;
            on_disk.push(OnDisk {
                id: LogId { term: slot.term, index },
                file: segment.file.clone(),
                path: segment.path.clone(),
                offset: u64::from(slot.offset),
                length: slot.length as usize,
            });
        }
        Ok((on_disk, cached))
    }
}

impl Core {
    pub(super) fn append(&self, entries: Vec<Entry>, done: Done) {
        let refused = {
            let mut memory = self.memory.lock();
            match memory.usable().and_then(|()| memory.check_append(&entries)) {
                Ok(bytes) => {
                    let call = memory.append(&entries, bytes);
                    memory.queue.push((Operation::Append { call, entries }, done));
                    None
                }
                Err(error) => Some((error, done)),
            }
        };
        match refused {
            None => self.wake.notify_one(),
            Some((error, done)) => done(Err(error)),
        }
    }

    /// Changes the memory and hands the writer what to write.
    pub(super) fn submit(&self, done: Done, change: impl FnOnce(&mut Memory) -> io::Result<Operation>) {
        let refused = {
            let mut memory = self.memory.lock();
            match memory.usable().and_then(|()| change(&mut memory)) {
                Ok(operation) => {
                    memory.queue.push((operation, done));
                    self.publish(&memory);
                    None
                }
                Err(error) => Some((error, done)),
            }
        };
        match refused {
            None => self.wake.notify_one(),
            Some((error, done)) => done(Err(error)),
        }
    }

    /// Tells how far the log is durable, if that changed.
    pub(super) fn publish(&self, memory: &Memory) {
        let durable = memory.durable_end.saturating_sub(1);
        self.durable.send_if_modified(|known| std::mem::replace(known, durable) != durable);
    }

    pub(super) fn close(&self) {
        self.memory.lock().closing = true;
        self.wake.notify_one();
    }

    pub(super) fn read_cached(&self, range: Range<u64>, max_bytes: usize) -> io::Result<Option<Vec<Entry>>> {
        let memory = self.memory.lock();
        if let Some(failure) = &memory.failed {
            return Err(failure.error());
        }
        let (on_disk, cached) = memory.locate(range, max_bytes)?;
        Ok(on_disk.is_empty().then_some(cached))
    }

    pub(super) fn read(&self, range: Range<u64>, max_bytes: usize) -> io::Result<Vec<Entry>> {
        let (on_disk, cached) = {
            let memory = self.memory.lock();
            if let Some(failure) = &memory.failed {
                return Err(failure.error());
            }
            memory.locate(range, max_bytes)?
        };
        let mut entries = Vec::with_capacity(on_disk.len() + cached.len());
        for run in on_disk.chunk_by(|left, right| Arc::ptr_eq(&left.file, &right.file)) {
            read_run(self.salt, run, &mut entries)?;
        }
        entries.extend(cached);
        Ok(entries)
    }
}

/// Reads entries that are in one segment, with one call.
fn read_run(salt: u32, run: &[OnDisk], entries: &mut Vec<Entry>) -> io::Result<()> {
    let (Some(first), Some(last)) = (run.first(), run.last()) else { return Ok(()) };
    let end = last.offset + last.length as u64;
    let mut bytes = vec![0; end.saturating_sub(first.offset) as usize];
    let count = first.file.read_at(&mut bytes, first.offset)?;
    bytes.truncate(count);
    let bytes = Bytes::from(bytes);
    for place in run {
        let start = (place.offset - first.offset) as usize;
        let payload = bytes
            .get(start..start + place.length)
            .and_then(|record| format::decode_entry(salt, &bytes.slice_ref(record), place.id))
            .ok_or_else(|| {
                let text = format!(
                    "{} is damaged at offset {}: entry {} is not there",
                    place.path.display(),
                    place.offset,
                    place.id
                );
                io::Error::new(io::ErrorKind::InvalidData, text)
            })?;
        entries.push(Entry { id: place.id, payload });
    }
    Ok(())
}
