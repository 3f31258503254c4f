//! Makes the log durable: one write and one fdatasync for all that waits. Also what `create` and `open` write.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::format::{self, HEADER_BYTES, Record, SECTOR, SegmentHeader, State, WriteBuffer};
use super::memory::{Core, Failure, Memory, Operation, Segment};
use super::scan::{self, Scan, segment_path};
use super::{Done, LogId, OpenError, Options, Stats};
use crate::env::files::{File, Files, Open};
use crate::env::simulated::{self, Bug};
use crate::env::tasks::Work;
use crate::limits;
use crate::storage::parent_of;

/// A write buffer that has grown beyond this is given back.
const BUFFER_KEPT_BYTES: usize = limits::LOG_WRITE_BYTES;

/// One entry in the buffer.
#[derive(Clone, Copy)]
struct Staged {
    index: u64,
    call: u64,
    offset: u32,
    length: u32,
}

pub(super) struct Writer {
    core: Arc<Core>,
    files: Arc<dyn Files>,
    segment_bytes: u64,
    /// The segment that is written to.
    sequence: u64,
    file: Arc<dyn File>,
    length: u64,
    position: u64,
    zeroed_to: u64,
    next_write: u64,
    /// The state after the write in the buffer; the one before it is [`Memory::written`].
    staged: State,
    buffer: WriteBuffer,
    entries: Vec<Staged>,
    dones: Vec<Done>,
    operations: Vec<(Operation, Done)>,
    /// Purged so far in the sense that the segments were looked at.
    removed_upto: Option<LogId>,
    finished: bool,
}

/// Makes a segment with nothing but its header, durable with its name.
fn create_segment(
    files: &dyn Files,
    directory: &Path,
    header: &SegmentHeader,
    length: u64,
) -> io::Result<(PathBuf, Arc<dyn File>)> {
    let path = segment_path(directory, header.sequence);
    let file: Arc<dyn File> = Arc::from(files.open(&path, Open::Create)?);
    file.allocate(length)?;
    file.write_at(&format::encode_header(header), 0)?;
    file.sync_data()?;
    files.sync_dir(directory)?;
    Ok((path, file))
}

fn segment_bytes(options: Options) -> u64 {
    options.segment_bytes.clamp(4 << 10, 1 << 30).next_multiple_of(SECTOR)
}

/// See [`super::Log::create`].
pub(super) fn create(
    files: &dyn Files,
    directory: &Path,
    options: Options,
    salt: u32,
) -> Result<(), OpenError> {
    let io = OpenError::io(directory);
    files.create_dir_all(directory).map_err(&io)?;
    for (_, path) in scan::segment_files(files, directory)? {
        let bytes = scan::read_file(files, &path)?;
        let unused = bytes.iter().skip(HEADER_BYTES as usize).all(|byte| *byte == 0);
        if format::decode_header(&bytes) != Err(format::BadHeader::Damaged) || !unused {
            return Err(OpenError::Exists(directory.to_owned()));
        }
        files.remove_file(&path).map_err(OpenError::io(&path))?;
    }
    let header = SegmentHeader { sequence: 1, first_write: 1, salt, state: State::default() };
    create_segment(files, directory, &header, segment_bytes(options)).map_err(&io)?;
    let parent = parent_of(directory);
    files.sync_dir(parent).map_err(OpenError::io(parent))
}

/// Cuts the torn tail, makes what is left durable, and sets up memory and writer.
pub(super) fn start(
    files: &Arc<dyn Files>,
    directory: &Path,
    options: Options,
    scanned: Scan,
) -> Result<(Arc<Core>, Writer), OpenError> {
    if let Some(unborn) = &scanned.unborn {
        files.remove_file(unborn).map_err(OpenError::io(unborn))?;
    }
    files.sync_dir(directory).map_err(OpenError::io(directory))?;
    let missing = || OpenError::Missing(directory.to_owned());
    let newest = scanned.segments.last().cloned().ok_or_else(missing)?;
    let mut memory = Memory::new(scanned.state, scanned.first, scanned.slots, options.cache_bytes);
    for segment in scanned.segments {
        let how = if segment.sequence == newest.sequence { Open::Write } else { Open::Read };
        let file = Arc::from(files.open(&segment.path, how).map_err(OpenError::io(&segment.path))?);
        let open = Segment { path: segment.path, file, used: segment.used, max_index: segment.max_index };
        memory.segments.insert(segment.sequence, open);
    }
    if simulated::planted(Bug::LeaveFileOpen) {
        std::mem::forget(files.open(&newest.path, Open::Read));
    }
    let file =
        memory.segments.get(&newest.sequence).map(|segment| segment.file.clone()).ok_or_else(missing)?;
    let tail = scanned.tail.map(|tail| (tail.offset, tail.bytes));
    rewrite_end(&*file, newest.last_write, newest.used, tail).map_err(OpenError::io(&newest.path))?;
    let (durable, _) = watch::channel(memory.durable_end.saturating_sub(1));
    let core = Arc::new(Core {
        directory: directory.to_owned(),
        salt: scanned.salt,
        memory: Mutex::new(memory),
        wake: Notify::new(),
        durable,
        observer: OnceLock::new(),
    });
    let writer = Writer {
        core: core.clone(),
        files: files.clone(),
        segment_bytes: segment_bytes(options),
        sequence: newest.sequence,
        file,
        length: newest.length,
        position: newest.used,
        zeroed_to: newest.used,
        next_write: scanned.next_write,
        staged: scanned.state,
        buffer: WriteBuffer::new(scanned.salt),
        entries: Vec::new(),
        dones: Vec::new(),
        operations: Vec::new(),
        removed_upto: None,
        finished: false,
    };
    Ok((core, writer))
}

/// Writes the last write again, and zeros over what was torn behind it.
///
/// The process before may have died between write and fdatasync: then the bytes were read from the cache of the kernel
/// and are on no disk. And if its fdatasync failed, the kernel holds them as clean, and a mere fdatasync does nothing.
/// Only the last write can be concerned: each begins after the fdatasync of the one before.
fn rewrite_end(file: &dyn File, start: u64, used: u64, tail: Option<(u64, u64)>) -> io::Result<()> {
    let torn_end = tail.map_or(used, |(offset, bytes)| offset + bytes);
    let mut bytes = vec![0; used.max(torn_end).saturating_sub(start) as usize];
    let valid_end = tail.map_or(used, |(offset, _)| offset).saturating_sub(start) as usize;
    if let Some(valid) = bytes.get_mut(..valid_end) {
        file.read_at(valid, start)?;
    }
    file.write_at(&bytes, start)?;
    file.sync_data()
}

impl Work for Writer {
    fn wait(&mut self) -> BoxFuture<'_, bool> {
        Box::pin(async move {
            let core = self.core.clone();
            loop {
                let woken = core.wake.notified();
                {
                    let memory = core.memory.lock();
                    if !memory.queue.is_empty() {
                        return true;
                    }
                    if memory.closing {
                        return !self.finished;
                    }
                }
                woken.await;
            }
        })
    }

    fn step(&mut self) {
        let (committed, closing, failed) = {
            let mut memory = self.core.memory.lock();
            std::mem::swap(&mut memory.queue, &mut self.operations);
            (memory.state.committed, memory.closing, memory.failed.is_some())
        };
        if !failed && let Err(failure) = self.write_all(committed, closing) {
            tracing::error!(directory = %self.core.directory.display(), error = failure.text, "the log failed");
            self.core.memory.lock().failed = Some(failure);
        }
        self.finished |= closing;
        self.fail_rest();
    }
}

impl Drop for Writer {
    /// Whoever still waits hears that nobody writes any more.
    fn drop(&mut self) {
        {
            let mut memory = self.core.memory.lock();
            std::mem::swap(&mut memory.queue, &mut self.operations);
            if !self.finished && memory.failed.is_none() {
                memory.failed = Some(Failure::new(&io::Error::other("stopped"), "the log's writer"));
            }
        }
        self.fail_rest();
    }
}

impl Writer {
    /// Tells everyone whose operation was not done why.
    fn fail_rest(&mut self) {
        if self.dones.is_empty() && self.operations.is_empty() {
            return;
        }
        let failure = self.core.memory.lock().failed.clone();
        let error = || failure.as_ref().map_or_else(|| io::Error::other("the log is closed"), Failure::error);
        for done in self.dones.drain(..) {
            done(Err(error()));
        }
        for (_, done) in self.operations.drain(..) {
            done(Err(error()));
        }
    }

    fn write_all(&mut self, committed: Option<LogId>, closing: bool) -> Result<(), Failure> {
        let mut operations = std::mem::take(&mut self.operations);
        let mut written = Ok(());
        for (operation, done) in operations.drain(..) {
            if written.is_ok() {
                written = self.stage(operation);
            }
            self.dones.push(done);
        }
        self.operations = operations;
        written?;
        if committed != self.staged.committed
            && (closing || !self.buffer.is_empty())
            && let Some(id) = committed
        {
            self.buffer.push(self.next_write, &Record::Committed(id));
            self.staged.committed = committed;
        }
        self.flush()?;
        self.remove_segments();
        Ok(())
    }

    fn stage(&mut self, operation: Operation) -> Result<(), Failure> {
        match operation {
            Operation::Vote(_) if simulated::planted(Bug::ForgetVote) => {}
            Operation::Vote(vote) => {
                self.buffer.push(self.next_write, &Record::Vote(vote));
                self.staged.vote = Some(vote);
            }
            Operation::Truncate(after) => {
                self.buffer.push(self.next_write, &Record::Truncated(after));
                self.staged.last = after;
            }
            Operation::Purge(upto) => {
                self.buffer.push(self.next_write, &Record::Purged(upto));
                self.staged.purged = Some(upto);
                if self.staged.last.is_none_or(|last| last.index <= upto.index) {
                    self.staged.last = Some(upto);
                }
            }
            Operation::Append { call, entries } => {
                for entry in entries {
                    if self.buffer.len() + entry.payload.len() > limits::LOG_WRITE_BYTES
                        && !self.buffer.is_empty()
                    {
                        self.flush()?;
                    }
                    let offset =
                        self.buffer.push(self.next_write, &Record::Entry(entry.id, &entry.payload)) as u32;
                    let length = self.buffer.len() as u32 - offset;
                    self.entries.push(Staged { index: entry.id.index, call, offset, length });
                    self.staged.last = Some(entry.id);
                }
            }
        }
        Ok(())
    }

    /// Writes the buffer and syncs; then calls who waits for it.
    fn flush(&mut self) -> Result<(), Failure> {
        let started = Instant::now();
        let mut bytes = 0;
        if !self.buffer.is_empty() {
            let used = self.buffer.finish();
            if self.position + used > self.length {
                self.roll(used).map_err(|error| Failure::new(&error, "a new segment of the log"))?;
            }
            self.zero_ahead(used);
            self.file
                .write_at(self.buffer.bytes(), self.position)
                .map_err(|error| Failure::new(&error, "a write to the log"))?;
            self.file.sync_data().map_err(|error| Failure::new(&error, "an fdatasync of the log"))?;
            bytes = self.buffer.len() as u64;
            self.next_write += 1;
            self.publish(used, bytes, started);
            self.position += used;
            self.buffer.clear(BUFFER_KEPT_BYTES);
            self.entries.clear();
        }
        for done in self.dones.drain(..) {
            done(Ok(()));
        }
        if bytes > 0
            && let Some(observer) = self.core.observer.get()
        {
            let stats = self.core.memory.lock().stats;
            observer(stats);
        }
        Ok(())
    }

    /// Small writes go to space that is zeroed already, so that the fdatasync has no new block to journal.
    fn zero_ahead(&mut self, used: u64) {
        let end = self.position + used;
        if end > self.zeroed_to {
            self.zeroed_to = end;
            let ahead = limits::LOG_ZERO_AHEAD_BYTES as u64;
            if used <= limits::LOG_ZERO_AHEAD_WRITE_BYTES {
                self.zeroed_to = (end + ahead).min(self.length);
                self.buffer.extend_with_zeros((self.zeroed_to - end) as usize);
            }
        }
    }

    fn publish(&mut self, used: u64, bytes: u64, started: Instant) {
        let mut memory = self.core.memory.lock();
        let mut freed = 0;
        for staged in &self.entries {
            let offset = self.position as u32 + staged.offset;
            memory.place(staged.index, staged.call, self.sequence, offset, staged.length);
            freed += (staged.length as usize).next_multiple_of(8);
        }
        memory.queue_bytes = memory.queue_bytes.saturating_sub(freed);
        if let Some(segment) = memory.segments.get_mut(&self.sequence) {
            segment.used = self.position + used;
            segment.max_index = segment.max_index.max(self.entries.iter().map(|staged| staged.index).max());
        }
        memory.advance();
        memory.written = self.staged;
        memory.stats = Stats {
            flushes: memory.stats.flushes + 1,
            bytes: memory.stats.bytes + bytes,
            last_flush: started.elapsed(),
        };
        self.core.publish(&memory);
    }

    /// Goes on in a new segment that has room for a write of `used` bytes.
    fn roll(&mut self, used: u64) -> io::Result<()> {
        let header = SegmentHeader {
            sequence: self.sequence + 1,
            first_write: self.next_write,
            salt: self.core.salt,
            state: self.core.memory.lock().written,
        };
        let length = self.segment_bytes.max(HEADER_BYTES + used);
        let (path, file) = create_segment(&*self.files, &self.core.directory, &header, length)?;
        let segment = Segment { path, file: file.clone(), used: HEADER_BYTES, max_index: None };
        self.core.memory.lock().segments.insert(header.sequence, segment);
        self.sequence = header.sequence;
        self.file = file;
        self.length = length;
        self.position = HEADER_BYTES;
        self.zeroed_to = HEADER_BYTES;
        Ok(())
    }

    /// Removes the oldest segments that hold nothing but purged entries, each durably before the next, so that no crash
    /// leaves a gap.
    fn remove_segments(&mut self) {
        let Some(purged) = self.core.memory.lock().written.purged else { return };
        if self.removed_upto == Some(purged) {
            return;
        }
        loop {
            let oldest = {
                let memory = self.core.memory.lock();
                let first = memory.segments.first_key_value();
                first
                    .filter(|(sequence, segment)| {
                        **sequence != self.sequence
                            && segment.max_index.is_none_or(|index| index <= purged.index)
                    })
                    .map(|(sequence, segment)| (*sequence, segment.path.clone()))
            };
            let Some((sequence, path)) = oldest else { break };
            let removed =
                self.files.remove_file(&path).and_then(|()| self.files.sync_dir(&self.core.directory));
            if let Err(error) = removed {
                // It costs space, not safety; the next purge tries again.
                tracing::warn!(file = %path.display(), %error, "a segment of the log could not be removed");
                return;
            }
            self.core.memory.lock().segments.remove(&sequence);
        }
        self.removed_upto = Some(purged);
    }
}
