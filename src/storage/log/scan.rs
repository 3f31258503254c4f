//! Reads a directory of segments and says what the log is; writes nothing.
//!
//! Replays every record in order. In a segment that another one follows everything was durable, so anything bad is
//! damage. In the last one a bad record is damage if a valid record of a later write follows it, else it is the torn tail,
//! which is cut from the start of its write.
//! Called by `Log::open`, which then cuts the tail, and by `storage::check`, which does not.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use super::format::{self, BadHeader, HEADER_BYTES, Record, SECTOR, SegmentHeader, State};
use super::memory::Slot;
use super::{Damage, LogId, OpenError};
use crate::env::Files;
use crate::env::files::Open;

/// No segment is longer; a file that is was not written by this program.
const SEGMENT_MAX_BYTES: u64 = 1 << 30;

/// What a log holds.
#[derive(Debug, Default)]
pub struct Scan {
    /// The segments, oldest first.
    pub segments: Vec<ScannedSegment>,
    /// Vote, committed, purged, last.
    pub state: State,
    /// Index of the first entry that is held; meaningless if there is none.
    pub first: u64,
    /// Where the entries are, from `first` on.
    pub(super) slots: VecDeque<Slot>,
    /// Number of the next write.
    pub next_write: u64,
    /// Where the checksums of records start.
    pub(super) salt: u32,
    /// What was torn at the end.
    pub tail: Option<Tail>,
    /// A segment whose creation broke off before anything was written to it.
    pub unborn: Option<PathBuf>,
    /// The entry before the first held one.
    base: Option<LogId>,
}

impl Scan {
    /// How many entries are held.
    pub fn entries(&self) -> u64 {
        self.slots.len() as u64
    }
}

/// One segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScannedSegment {
    /// Its number.
    pub sequence: u64,
    /// Its file.
    pub path: PathBuf,
    /// Length of the file, in bytes.
    pub length: u64,
    /// Bytes in use; a multiple of the sector.
    pub used: u64,
    /// Where its last write starts, or 0 if there is none.
    pub last_write: u64,
    /// Highest index of an entry that was written to it.
    pub max_index: Option<u64>,
}

/// The torn end of the log: a write that was never acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tail {
    /// The segment's file.
    pub file: PathBuf,
    /// Where what is bad starts.
    pub offset: u64,
    /// Bytes from there to the last one that is not zero.
    pub bytes: u64,
}

/// The file of a segment.
pub(super) fn segment_path(directory: &Path, sequence: u64) -> PathBuf {
    directory.join(format!("{sequence:016x}.log"))
}

/// The segments of a directory, by number.
pub(super) fn segment_files(files: &dyn Files, directory: &Path) -> Result<Vec<(u64, PathBuf)>, OpenError> {
    let names = match files.list(directory) {
        Ok(names) => names,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(OpenError::io(directory)(error)),
    };
    let mut found: Vec<_> = names
        .iter()
        .filter_map(|name| {
            let number = name.strip_suffix(".log").filter(|number| number.len() == 16)?;
            Some((u64::from_str_radix(number, 16).ok()?, directory.join(name)))
        })
        .collect();
    found.sort_unstable();
    Ok(found)
}

/// Reads a whole file.
pub(super) fn read_file(files: &dyn Files, path: &Path) -> Result<Vec<u8>, OpenError> {
    let io = OpenError::io(path);
    let file = files.open(path, Open::Read).map_err(&io)?;
    let length = file.length().map_err(&io)?;
    if length > SEGMENT_MAX_BYTES {
        return Err(damage(path, SEGMENT_MAX_BYTES, format!("the file is {length} bytes long")));
    }
    let mut bytes = vec![0; length as usize];
    let count = file.read_at(&mut bytes, 0).map_err(&io)?;
    bytes.truncate(count);
    Ok(bytes)
}

/// Whether nothing was ever written to the log in `directory`: there is none, or one that is not even whole, or one whose
/// only segment holds nothing but its header. Such a log holds no promise, so it can be replaced.
pub fn is_unused(files: &dyn Files, directory: &Path) -> std::io::Result<bool> {
    let flat = |error: OpenError| match error {
        OpenError::Io { source, .. } => source,
        other => std::io::Error::other(other),
    };
    for (sequence, path) in segment_files(files, directory).map_err(flat)? {
        let bytes = match read_file(files, &path) {
            Ok(bytes) => bytes,
            Err(OpenError::Io { source, .. }) => return Err(source),
            Err(_) => return Ok(false),
        };
        if sequence != 1 || bytes.iter().skip(HEADER_BYTES as usize).any(|byte| *byte != 0) {
            return Ok(false);
        }
        match format::decode_header(&bytes) {
            Ok(header) if header.state == State::default() => {}
            Err(BadHeader::Damaged) => {}
            Ok(_) | Err(BadHeader::Version(_)) => return Ok(false),
        }
    }
    Ok(true)
}

fn damage(file: &Path, offset: u64, reason: impl Into<String>) -> OpenError {
    Damage::new(file, offset, reason).into()
}

/// Reads the log in `directory`. See the module.
pub fn scan(files: &dyn Files, directory: &Path) -> Result<Scan, OpenError> {
    let found = segment_files(files, directory)?;
    let Some(newest) = found.last().map(|(sequence, _)| *sequence) else {
        return Err(OpenError::Missing(directory.to_owned()));
    };
    let mut scan = Scan::default();
    for (sequence, path) in found {
        if let Some(before) = scan.segments.last()
            && before.sequence + 1 != sequence
        {
            let missing = segment_path(directory, before.sequence + 1);
            return Err(damage(&missing, 0, "the segment is missing"));
        }
        let bytes = read_file(files, &path)?;
        scan.segment(sequence, path, &bytes, sequence == newest)?;
    }
    scan.check_base(directory)?;
    Ok(scan)
}

/// Whether there is a valid record of a write after `write` in `bytes` from `start` on.
fn later_write(salt: u32, bytes: &[u8], start: usize, write: u64) -> bool {
    let mut at = start.next_multiple_of(8);
    while let Some(rest) = bytes.get(at..).filter(|rest| rest.len() >= format::RECORD_HEADER_BYTES) {
        // The number is looked at first, so that a checksum is computed only where one is plausible.
        let number = rest.get(8..16).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes);
        if number > write && format::record_at(salt, rest).is_some() {
            return true;
        }
        at += 8;
    }
    false
}

/// Where the valid writes of a segment end.
struct End {
    /// What is before this is valid.
    cut: usize,
    /// The first record that is not, or what should be zero and is not.
    bad: usize,
    /// The write that is bad.
    write: u64,
}

impl Scan {
    fn segment(&mut self, sequence: u64, path: PathBuf, bytes: &[u8], newest: bool) -> Result<(), OpenError> {
        let header = match format::decode_header(bytes) {
            Ok(header) => header,
            Err(BadHeader::Version(found)) => {
                return Err(OpenError::Version { file: path, found, supported: format::VERSION });
            }
            Err(BadHeader::Damaged) => {
                let before = self.segments.last().is_some();
                if newest && before && !later_write(self.salt, bytes, 0, self.next_write - 1) {
                    self.unborn = Some(path);
                    return Ok(());
                }
                return Err(damage(&path, 0, "the header of the segment is not whole"));
            }
        };
        self.check_header(&header, sequence, &path)?;
        let mut segment = ScannedSegment {
            sequence,
            path,
            length: bytes.len() as u64,
            used: HEADER_BYTES,
            last_write: 0,
            max_index: None,
        };
        let end = self.writes(&mut segment, bytes)?;
        segment.used = (end.cut as u64).next_multiple_of(SECTOR);
        let last = bytes.get(end.cut..).and_then(|rest| rest.iter().rposition(|byte| *byte != 0));
        if let Some(last) = last {
            if !newest {
                return Err(damage(
                    &segment.path,
                    end.bad as u64,
                    "not a record, but a later segment follows",
                ));
            }
            if later_write(self.salt, bytes, end.bad, end.write) {
                return Err(damage(&segment.path, end.bad as u64, "not a record, but a later write follows"));
            }
            let (file, offset) = (segment.path.clone(), end.cut as u64);
            self.tail = Some(Tail { file, offset, bytes: last as u64 + 1 });
        }
        self.segments.push(segment);
        Ok(())
    }

    fn check_header(&mut self, header: &SegmentHeader, sequence: u64, path: &Path) -> Result<(), OpenError> {
        if header.sequence != sequence {
            return Err(damage(path, 0, format!("it is segment {:016x} by its header", header.sequence)));
        }
        let Some(before) = self.segments.last() else {
            self.next_write = header.first_write;
            self.salt = header.salt;
            self.state = header.state;
            self.base = header.state.last;
            return Ok(());
        };
        if header.first_write != self.next_write {
            let reason = format!(
                "the next segment starts with write {}, this one ends before write {}",
                header.first_write, self.next_write
            );
            return Err(damage(&before.path, before.used, reason));
        }
        if header.state != self.state || header.salt != self.salt {
            return Err(damage(path, 0, "its header does not continue the segment before"));
        }
        Ok(())
    }

    /// Replays the writes of a segment, each wholly or not at all; tells where and why it ended.
    fn writes(&mut self, segment: &mut ScannedSegment, bytes: &[u8]) -> Result<End, OpenError> {
        let mut start = HEADER_BYTES as usize;
        loop {
            let end = match self.write_end(bytes, start) {
                Ok(end) => end,
                Err(bad) => return Ok(End { cut: start, bad, write: self.next_write }),
            };
            self.replay_write(segment, bytes, start, end)?;
            segment.last_write = start as u64;
            self.next_write += 1;
            start = end.next_multiple_of(SECTOR as usize);
            // A file that ends within the sector was cut there; the bytes of the write are whole.
            if !bytes.get(end..start).unwrap_or_default().iter().all(|byte| *byte == 0) {
                return Ok(End { cut: end, bad: end, write: self.next_write - 1 });
            }
        }
    }

    /// Where the write that starts here ends; if it is not whole, where its first bad record is.
    fn write_end(&self, bytes: &[u8], start: usize) -> Result<usize, usize> {
        let mut at = start;
        let mut ordinal = 0;
        loop {
            let (header, _, body) =
                bytes.get(at..).and_then(|rest| format::record_at(self.salt, rest)).ok_or(at)?;
            let padding = bytes.get(at + format::RECORD_HEADER_BYTES + body.len()..at + header.bytes);
            let whole = padding.is_some_and(|padding| padding.iter().all(|byte| *byte == 0));
            if header.write != self.next_write || header.ordinal != ordinal || !whole {
                return Err(at);
            }
            at += header.bytes;
            ordinal += 1;
            if header.last {
                return Ok(at);
            }
        }
    }

    fn replay_write(
        &mut self,
        segment: &mut ScannedSegment,
        bytes: &[u8],
        start: usize,
        end: usize,
    ) -> Result<(), OpenError> {
        let mut at = start;
        while at < end
            && let Some((header, kind, body)) =
                bytes.get(at..end).and_then(|rest| format::record_at(self.salt, rest))
        {
            let record = format::decode_record(kind, body)
                .ok_or_else(|| OpenError::UnknownRecord { file: segment.path.clone(), offset: at as u64 })?;
            if let Record::Entry(id, _) = record {
                segment.max_index = segment.max_index.max(Some(id.index));
            }
            self.replay(&record, segment.sequence, at as u64, body.len() + format::RECORD_HEADER_BYTES)
                .map_err(|reason| damage(&segment.path, at as u64, reason))?;
            at += header.bytes;
        }
        Ok(())
    }

    fn replay(
        &mut self,
        record: &Record<'_>,
        segment: u64,
        offset: u64,
        length: usize,
    ) -> Result<(), String> {
        match *record {
            Record::Vote(vote) => self.state.vote = Some(vote),
            Record::Committed(id) => self.state.committed = Some(id),
            Record::Entry(id, _) => {
                if let Some(last) = self.state.last
                    && (last.index + 1 != id.index || id.term < last.term)
                {
                    return Err(format!("entry {id} follows {last}"));
                }
                if self.slots.is_empty() {
                    self.first = id.index;
                }
                self.slots.push_back(Slot::placed(id.term, segment, offset as u32, length as u32));
                self.state.last = Some(id);
            }
            Record::Truncated(after) => self.replay_truncation(after)?,
            Record::Purged(upto) => {
                self.state.purged = Some(upto);
                if self.state.last.is_none_or(|last| last.index <= upto.index) {
                    self.slots.clear();
                    self.state.last = Some(upto);
                }
                while self.first <= upto.index && self.slots.pop_front().is_some() {
                    self.first += 1;
                }
                if self.base.is_none_or(|base| base.index < upto.index) {
                    self.base = Some(upto);
                }
            }
        }
        Ok(())
    }

    fn replay_truncation(&mut self, after: Option<LogId>) -> Result<(), String> {
        let keep = after.map_or(0, |id| id.index + 1);
        if self.state.purged.is_some_and(|purged| keep <= purged.index) {
            return Err("a truncation below what is purged".to_owned());
        }
        let kept = keep.saturating_sub(self.first).min(self.slots.len() as u64);
        self.slots.truncate(kept as usize);
        self.state.last = after;
        if self.slots.is_empty() && self.base.is_some_and(|base| base.index >= keep) {
            self.base = after;
        }
        Ok(())
    }

    /// The entries that are held must begin right behind what is purged.
    fn check_base(&self, directory: &Path) -> Result<(), OpenError> {
        let purged = self.state.purged;
        match (self.base, self.segments.first()) {
            (Some(base), Some(first)) if purged.is_none_or(|purged| purged.index < base.index) => {
                let missing = segment_path(directory, first.sequence.saturating_sub(1));
                Err(damage(&missing, 0, format!("the segment is missing, with entries up to {base}")))
            }
            _ => Ok(()),
        }
    }
}
