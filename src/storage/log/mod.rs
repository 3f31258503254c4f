//! The segmented write-ahead log (DESIGN section 4): what a member has promised.
//!
//! One stream of records holds entries, votes, truncations, purges and committed ids. One writer drains what waits into
//! one write and one fdatasync. What must hold, and what the rest relies on:
//!
//! 1. A `done` is called with `Ok` only when its record *and every earlier one* are durable, and in the order of the calls.
//! 2. A write begins only after the fdatasync of the one before returned. So whatever follows a bad record and is of a
//!    later write proves that the bad one was durable once: that is damage. Anything else is the torn tail and is cut.
//! 3. After an open, all that it reports is durable, even if the process before died between write and fdatasync, or
//!    after an fdatasync that failed: the last write is written and synced again.
//! 4. A failed write or sync is final. Every later call gets its error. Damage is never repaired.
//! 5. A segment is removed only when the purge that makes it unnecessary is durable, oldest first.
//!
//! `format` is the bytes, `scan` reads a directory of segments (without writing), `memory` is what is known of the log
//! while it runs, `writer` makes it durable. Called by the Raft log adapter; `scan` also by `storage::check`.

mod error;
pub mod format;
mod memory;
mod scan;
mod writer;

#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use tokio::sync::watch;

use crate::env::Env;
use crate::limits;

pub use error::OpenError;

pub use super::Damage;
pub use scan::{Scan, ScannedSegment, Tail, is_unused, scan};

use memory::{Core, Operation};

/// Position and term of an entry. Ordered by term, then index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId {
    /// Term of the leader that made the entry.
    pub term: u64,
    /// Place in the log.
    pub index: u64,
}

impl fmt::Display for LogId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", self.term, self.index)
    }
}

/// Whom a member has voted for or follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Vote {
    /// Term.
    pub term: u64,
    /// Candidate or leader of the term.
    pub node: Option<u64>,
    /// Whether a quorum granted it, so that it leads.
    pub committed: bool,
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it is.
    pub id: LogId,
    /// What it says; opaque here. At most [`limits::LOG_ENTRY_BYTES`].
    pub payload: Bytes,
}

/// Called once, in the order of the calls, when the call and all before it are durable, or failed. Must not block.
pub type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// Sizes.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Bytes of a segment file; a larger entry gets a segment of its own size. At least 4 KiB, at most 1 GiB.
    pub segment_bytes: u64,
    /// Bytes of payload of the newest entries that are kept in memory.
    pub cache_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { segment_bytes: limits::LOG_SEGMENT_BYTES, cache_bytes: limits::LOG_CACHE_BYTES }
    }
}

/// What was found at open. All of it is durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Newest vote.
    pub vote: Option<Vote>,
    /// Newest committed id that reached the disk, never beyond `last`; there may have been later ones.
    pub committed: Option<LogId>,
    /// Everything up to this was purged.
    pub purged: Option<LogId>,
    /// The last entry, or `purged` if there is none.
    pub last: Option<LogId>,
    /// Live bytes, as [`Log::bytes`].
    pub bytes: u64,
    /// Bytes of a torn tail that were cut.
    pub cut: u64,
}

impl Recovered {
    fn of(scanned: &Scan) -> Self {
        Self {
            vote: scanned.state.vote,
            committed: scanned.state.committed.map(|id| match scanned.state.last {
                Some(last) if last.index < id.index => last,
                _ => id,
            }),
            purged: scanned.state.purged,
            last: scanned.state.last,
            bytes: 0,
            cut: scanned.tail.as_ref().map_or(0, |tail| tail.bytes),
        }
    }
}

/// What the writer did since open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Writes that were synced.
    pub flushes: u64,
    /// Bytes written, with what fills sectors and is zeroed ahead.
    pub bytes: u64,
    /// Write and fdatasync of the last flush.
    pub last_flush: Duration,
}

/// Told after each flush; must not block.
pub type Observer = Box<dyn Fn(Stats) + Send + Sync>;

/// The log. Cheap to clone; the writer ends when [`close`](Self::close) was called or the last clone is dropped, after it
/// has written what waits.
#[derive(Clone, Debug)]
pub struct Log {
    handle: Arc<Handle>,
}

struct Handle {
    core: Arc<Core>,
    ended: Shared<BoxFuture<'static, ()>>,
}

impl fmt::Debug for Handle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Log").field("directory", &self.core.directory).finish_non_exhaustive()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.core.close();
    }
}

impl Log {
    /// Makes an empty log, durably, with the directory and its name. What a creation that broke off left is replaced.
    /// Blocks.
    ///
    /// # Errors
    /// [`OpenError::Exists`] if anything in the directory was ever a log.
    pub fn create(env: &Env, directory: &Path, options: Options) -> Result<(), OpenError> {
        writer::create(&*env.files, directory, options, env.random.next_u64() as u32)
    }

    /// Opens the log, cuts its torn tail and starts the writer. Blocks.
    ///
    /// # Errors
    /// [`OpenError::Missing`] if there is none: a lost log is never taken for a new one. [`OpenError::Damaged`] and
    /// [`OpenError::Version`] with file and offset; nothing was changed then.
    pub fn open(env: &Env, directory: &Path, options: Options) -> Result<(Self, Recovered), OpenError> {
        let scanned = scan(&*env.files, directory)?;
        let recovered = Recovered::of(&scanned);
        let (core, writer) = writer::start(&env.files, directory, options, scanned)?;
        let ended = env.tasks.drive("log", Box::new(writer)).shared();
        let log = Self { handle: Arc::new(Handle { core, ended }) };
        let recovered = Recovered { bytes: log.bytes(), ..recovered };
        Ok((log, recovered))
    }

    /// What a log holds. Blocks, starts nothing and writes nothing.
    ///
    /// # Errors
    /// As [`Log::open`].
    pub fn look(env: &Env, directory: &Path) -> Result<Recovered, OpenError> {
        scan(&*env.files, directory).map(|scanned| Recovered::of(&scanned))
    }

    fn core(&self) -> &Core {
        &self.handle.core
    }

    /// Appends entries, which follow the last one without a gap. They can be read at once; `done` is called when they
    /// are durable.
    ///
    /// # Errors
    /// To `done`: `InvalidInput` for a gap, a falling term or an entry that is too large (nothing was appended, the log
    /// goes on); `QuotaExceeded` if too much waits (likewise); or the failure of the log.
    pub fn append(&self, entries: Vec<Entry>, done: Done) {
        self.core().append(entries, done);
    }

    /// Saves a vote. `done` is called only when the vote and every earlier write are durable.
    pub fn save_vote(&self, vote: Vote, done: Done) {
        self.core().submit(done, |memory| {
            memory.state.vote = Some(vote);
            Ok(Operation::Vote(vote))
        });
    }

    /// Notes how far the log is committed. Written with the next write, and at close; never causes one itself.
    pub fn save_committed(&self, id: LogId) {
        self.core().memory.lock().state.committed = Some(id);
    }

    /// Removes the entries after `last`; all of them if it is `None`.
    ///
    /// # Errors
    /// To `done`: `InvalidInput` if there is no such entry, or it is purged; or the failure of the log.
    pub fn truncate_after(&self, last: Option<LogId>, done: Done) {
        self.core().submit(done, |memory| memory.truncate_after(last));
    }

    /// Declares that the entries up to this one are no longer needed. It may be beyond the last entry (a snapshot was
    /// installed): then the log continues after it. Whole segments are removed once this is durable.
    pub fn purge(&self, upto: LogId, done: Done) {
        self.core().submit(done, |memory| Ok(memory.purge(upto)));
    }

    /// The entries of `range` that there are, from its start, as many as fit `max_bytes` of payload, and at least one if
    /// there is one at the start. Blocks when they are not in the cache ([`read_cached`](Self::read_cached)).
    ///
    /// # Errors
    /// `InvalidData` with file and offset if the disk returns something else than was written; or the failure of the log.
    pub fn read(&self, range: Range<u64>, max_bytes: usize) -> io::Result<Vec<Entry>> {
        self.core().read(range, max_bytes)
    }

    /// As [`read`](Self::read), but never blocks: `None` if the disk is needed.
    pub fn read_cached(&self, range: Range<u64>, max_bytes: usize) -> io::Result<Option<Vec<Entry>>> {
        self.core().read_cached(range, max_bytes)
    }

    /// Index of the first entry and of the last one; `None` if there is no entry.
    pub fn first_last(&self) -> Option<(u64, u64)> {
        self.core().memory.lock().first_last()
    }

    /// The last entry, or the last purged one if there is none.
    pub fn last(&self) -> Option<LogId> {
        self.core().memory.lock().state.last
    }

    /// Everything up to this is purged.
    pub fn purged(&self) -> Option<LogId> {
        self.core().memory.lock().state.purged
    }

    /// The newest vote, durable or not.
    pub fn vote(&self) -> Option<Vote> {
        self.core().memory.lock().state.vote
    }

    /// The newest vote, and the last entry or purged one, as the disk has them: what a crash leaves.
    pub fn on_disk(&self) -> (Option<Vote>, Option<LogId>) {
        let written = self.core().memory.lock().written;
        (written.vote, written.last.or(written.purged))
    }

    /// The newest committed id, durable or not.
    pub fn committed(&self) -> Option<LogId> {
        self.core().memory.lock().state.committed
    }

    /// Term of the entry at `index`, also of the last purged one; `None` if it is not there.
    pub fn term_at(&self, index: u64) -> Option<u64> {
        self.core().memory.lock().term_at(index)
    }

    /// The highest index up to which all is durable here, or covered by a purge; falls with a truncation. 0 if nothing is.
    pub fn durable(&self) -> watch::Receiver<u64> {
        self.core().durable.subscribe()
    }

    /// Bytes on disk from the first entry on: what a snapshot would free.
    pub fn bytes(&self) -> u64 {
        self.bytes_from(0)
    }

    /// Bytes on disk from the entry at `index` on: those of what a snapshot before it does not hold.
    pub fn bytes_from(&self, index: u64) -> u64 {
        self.core().memory.lock().bytes_from(index)
    }

    /// The last entry that is to be purged so that those up to `upto` take at most `bytes` on disk; `None` if none is.
    pub fn excess(&self, upto: u64, bytes: u64) -> Option<u64> {
        self.core().memory.lock().excess(upto, bytes)
    }

    /// Why the log failed, if it did.
    pub fn failed(&self) -> Option<String> {
        self.core().memory.lock().failed.as_ref().map(|failure| failure.text.clone())
    }

    /// Writes what waits and ends the writer. Later calls fail. Can be called again.
    pub async fn close(&self) {
        self.core().close();
        self.handle.ended.clone().await;
    }

    /// What the writer did.
    pub fn stats(&self) -> Stats {
        self.core().memory.lock().stats
    }

    /// Has `observer` told of every flush, for metrics. The first one stays.
    pub fn observe(&self, observer: Observer) {
        let _ = self.core().observer.set(observer);
    }
}
