//! What is in a segment file. Pure: bytes to values and back.
//!
//! ```text
//! segment  =  header (512 bytes), writes, zeros up to the end of the file
//! header   =  magic "SETSTLOG", version u32, crc u32, length u32, SegmentHeader (protobuf), zeros
//! write    =  starts on a 512-byte boundary; records; zeros up to the next boundary
//! record   =  crc u32, length u32, write u64, ordinal u32, kind u8, flags u8, zero u16, body, zeros up to 8 bytes
//! ```
//!
//! Numbers are little-endian; a crc is CRC32C of all that follows it (of the header: of the 512 bytes without it). That of a
//! record starts from the log's salt, a random number: so no payload can be made that looks like a record, and a torn write
//! that holds it is not taken for damage. `write`
//! counts the writes of the whole log, without a gap; `ordinal` counts the records of one write from 0; flag 1 marks its
//! last record, so that the end of a write is known even if the next one cannot be read. Magic, version and crc have the
//! same place in every later version, so that a wrong version is told from damage. New fields go into the protobuf
//! messages, new layouts get a new kind.

use bytes::Bytes;
use prost::Message;

use super::{LogId, Vote};

/// Version of the format that this program writes, and the only one that it reads.
pub const VERSION: u32 = 1;
/// Writes start at multiples of this: the least that a disk writes wholly or not at all.
pub const SECTOR: u64 = 512;
/// Bytes before the first write of a segment.
pub const HEADER_BYTES: u64 = SECTOR;
/// Bytes before the body of a record.
pub const RECORD_HEADER_BYTES: usize = 24;
/// Bytes of an entry's body before its payload.
pub const ENTRY_PREFIX_BYTES: usize = 16;
const MAGIC: &[u8; 8] = b"SETSTLOG";
const ALIGNMENT: usize = 8;
const LAST_OF_WRITE: u8 = 1;

/// Kinds of record, as on disk.
mod kind {
    pub const ENTRY: u8 = 1;
    pub const VOTE: u8 = 2;
    pub const COMMITTED: u8 = 3;
    pub const TRUNCATED: u8 = 4;
    pub const PURGED: u8 = 5;
}

#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
struct LogIdMessage {
    #[prost(uint64, tag = "1")]
    term: u64,
    #[prost(uint64, tag = "2")]
    index: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
struct OptionalLogIdMessage {
    #[prost(message, optional, tag = "1")]
    id: Option<LogIdMessage>,
}

#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
struct VoteMessage {
    #[prost(uint64, tag = "1")]
    term: u64,
    #[prost(uint64, optional, tag = "2")]
    node: Option<u64>,
    #[prost(bool, tag = "3")]
    committed: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
struct SegmentHeaderMessage {
    #[prost(uint64, tag = "1")]
    sequence: u64,
    #[prost(uint64, tag = "2")]
    first_write: u64,
    #[prost(message, optional, tag = "3")]
    vote: Option<VoteMessage>,
    #[prost(message, optional, tag = "4")]
    committed: Option<LogIdMessage>,
    #[prost(message, optional, tag = "5")]
    purged: Option<LogIdMessage>,
    #[prost(message, optional, tag = "6")]
    last: Option<LogIdMessage>,
    #[prost(fixed32, tag = "7")]
    salt: u32,
}

impl From<LogId> for LogIdMessage {
    fn from(id: LogId) -> Self {
        Self { term: id.term, index: id.index }
    }
}

impl From<LogIdMessage> for LogId {
    fn from(id: LogIdMessage) -> Self {
        Self { term: id.term, index: id.index }
    }
}

impl From<Vote> for VoteMessage {
    fn from(vote: Vote) -> Self {
        Self { term: vote.term, node: vote.node, committed: vote.committed }
    }
}

impl From<VoteMessage> for Vote {
    fn from(vote: VoteMessage) -> Self {
        Self { term: vote.term, node: vote.node, committed: vote.committed }
    }
}

/// All that the log holds beside its entries, at one place in the stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Newest vote.
    pub vote: Option<Vote>,
    /// Newest committed id that was written.
    pub committed: Option<LogId>,
    /// Everything up to this is purged.
    pub purged: Option<LogId>,
    /// Id of the last entry, or of the last purged one if none is left.
    pub last: Option<LogId>,
}

/// The first sector of a segment: what came before it, so that segments before it can be deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Number of the segment; each has the number after the one before.
    pub sequence: u64,
    /// Number of the first write in it.
    pub first_write: u64,
    /// Where the checksums of records start; the same in all segments of a log.
    pub salt: u32,
    /// The state before that write.
    pub state: State,
}

/// Why a segment's header was not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadHeader {
    /// It is not one, or not a whole one.
    Damaged,
    /// It is whole, and of another version of the format.
    Version(u32),
}

/// One record without its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// Number of the write that it is part of.
    pub write: u64,
    /// Place in that write, from 0.
    pub ordinal: u32,
    /// Whether it is the last of that write.
    pub last: bool,
    /// Bytes with header and padding.
    pub bytes: usize,
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// An entry was appended.
    Entry(LogId, &'a [u8]),
    /// A vote was cast or taken.
    Vote(Vote),
    /// Entries up to this one are committed.
    Committed(LogId),
    /// Entries after this one are gone; all of them if it is `None`.
    Truncated(Option<LogId>),
    /// Entries up to this one are no longer needed.
    Purged(LogId),
}

/// Encodes the first sector of a segment.
pub fn encode_header(header: &SegmentHeader) -> Vec<u8> {
    let message = SegmentHeaderMessage {
        sequence: header.sequence,
        first_write: header.first_write,
        salt: header.salt,
        vote: header.state.vote.map(Into::into),
        committed: header.state.committed.map(Into::into),
        purged: header.state.purged.map(Into::into),
        last: header.state.last.map(Into::into),
    }
    .encode_to_vec();
    let mut rest = Vec::with_capacity(HEADER_BYTES as usize);
    rest.extend_from_slice(&(message.len() as u32).to_le_bytes());
    rest.extend_from_slice(&message);
    rest.resize(HEADER_BYTES as usize - 16, 0);
    let mut bytes = Vec::with_capacity(HEADER_BYTES as usize);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes), &rest);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes.extend_from_slice(&rest);
    bytes
}

/// Decodes the first sector of a segment.
pub fn decode_header(bytes: &[u8]) -> Result<SegmentHeader, BadHeader> {
    let (sector, _) = bytes.split_at_checked(HEADER_BYTES as usize).ok_or(BadHeader::Damaged)?;
    let (start, rest) = sector.split_at_checked(16).ok_or(BadHeader::Damaged)?;
    let crc = read_u32(start, 12).ok_or(BadHeader::Damaged)?;
    let covered = start.get(..12).ok_or(BadHeader::Damaged)?;
    let sound = cfg!(fuzzing) || crc32c::crc32c_append(crc32c::crc32c(covered), rest) == crc;
    if !start.starts_with(MAGIC) || !sound {
        return Err(BadHeader::Damaged);
    }
    let version = read_u32(start, 8).ok_or(BadHeader::Damaged)?;
    if version != VERSION {
        return Err(BadHeader::Version(version));
    }
    let length = read_u32(rest, 0).ok_or(BadHeader::Damaged)? as usize;
    let message = rest.get(4..4 + length).ok_or(BadHeader::Damaged)?;
    let message = SegmentHeaderMessage::decode(message).map_err(|_| BadHeader::Damaged)?;
    Ok(SegmentHeader {
        sequence: message.sequence,
        first_write: message.first_write,
        salt: message.salt,
        state: State {
            vote: message.vote.map(Into::into),
            committed: message.committed.map(Into::into),
            purged: message.purged.map(Into::into),
            last: message.last.map(Into::into),
        },
    })
}

fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn read_u64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

/// Bytes of an entry's record, with header and padding.
pub fn entry_record_bytes(payload: usize) -> usize {
    (RECORD_HEADER_BYTES + ENTRY_PREFIX_BYTES + payload).next_multiple_of(ALIGNMENT)
}

/// Collects the records of one write in a buffer that is used again.
#[derive(Debug)]
pub struct WriteBuffer {
    salt: u32,
    bytes: Vec<u8>,
    last_record: usize,
    records: u32,
}

impl WriteBuffer {
    /// An empty one, for a log with this salt.
    pub fn new(salt: u32) -> Self {
        Self { salt, bytes: Vec::new(), last_record: 0, records: 0 }
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there is no record yet.
    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Empties the buffer; gives memory beyond `keep` bytes back.
    pub fn clear(&mut self, keep: usize) {
        self.bytes.clear();
        self.bytes.shrink_to(keep);
        self.last_record = 0;
        self.records = 0;
    }

    /// Adds a record; tells where in the buffer it starts.
    pub fn push(&mut self, write: u64, record: &Record<'_>) -> usize {
        self.finish_record(0);
        let start = self.bytes.len();
        self.last_record = start;
        self.bytes.extend_from_slice(&[0; 8]); // crc and length, known when the body is there
        self.bytes.extend_from_slice(&write.to_le_bytes());
        self.bytes.extend_from_slice(&self.records.to_le_bytes());
        let kind = match record {
            Record::Entry(..) => kind::ENTRY,
            Record::Vote(_) => kind::VOTE,
            Record::Committed(_) => kind::COMMITTED,
            Record::Truncated(_) => kind::TRUNCATED,
            Record::Purged(_) => kind::PURGED,
        };
        self.bytes.extend_from_slice(&[kind, 0, 0, 0]);
        match record {
            Record::Entry(id, payload) => {
                self.bytes.extend_from_slice(&id.term.to_le_bytes());
                self.bytes.extend_from_slice(&id.index.to_le_bytes());
                self.bytes.extend_from_slice(payload);
            }
            Record::Vote(vote) => self.push_message(&VoteMessage::from(*vote)),
            Record::Committed(id) | Record::Purged(id) => self.push_message(&LogIdMessage::from(*id)),
            Record::Truncated(id) => {
                self.push_message(&OptionalLogIdMessage { id: id.map(LogIdMessage::from) });
            }
        }
        let body = self.bytes.len() - start - RECORD_HEADER_BYTES;
        if let Some(place) = self.bytes.get_mut(start + 4..start + 8) {
            place.copy_from_slice(&(body as u32).to_le_bytes());
        }
        self.records += 1;
        start
    }

    fn push_message(&mut self, message: &impl Message) {
        // A Vec grows: encoding into it cannot fail.
        let _ = message.encode(&mut self.bytes);
    }

    /// Seals the record that was added last.
    fn finish_record(&mut self, flags: u8) {
        if self.records == 0 {
            return;
        }
        if let Some(place) = self.bytes.get_mut(self.last_record + 21) {
            *place = flags;
        }
        let covered = self.bytes.get(self.last_record + 4..).unwrap_or_default();
        let crc = crc32c::crc32c_append(self.salt, covered);
        if let Some(place) = self.bytes.get_mut(self.last_record..self.last_record + 4) {
            place.copy_from_slice(&crc.to_le_bytes());
        }
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
    }

    /// Seals the write: its last record is marked, and zeros fill the sector. Tells the length, without zeros that
    /// [`extend_with_zeros`](Self::extend_with_zeros) adds.
    pub fn finish(&mut self) -> u64 {
        self.finish_record(LAST_OF_WRITE);
        self.bytes.resize(self.bytes.len().next_multiple_of(SECTOR as usize), 0);
        self.bytes.len() as u64
    }

    /// Adds zeros behind the write.
    pub fn extend_with_zeros(&mut self, count: usize) {
        self.bytes.resize(self.bytes.len() + count, 0);
    }

    /// The bytes to write.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// The header of the record that starts here, if the whole record is here and its checksum is right.
pub fn record_at(salt: u32, bytes: &[u8]) -> Option<(RecordHeader, u8, &[u8])> {
    let length = read_u32(bytes, 4)? as usize;
    let end = RECORD_HEADER_BYTES.checked_add(length)?;
    let covered = bytes.get(4..end)?;
    let write = read_u64(bytes, 8)?;
    let sound = crc32c::crc32c_append(salt, covered) == read_u32(bytes, 0)?;
    if write == 0 || !(sound || cfg!(fuzzing)) {
        return None;
    }
    let header = RecordHeader {
        write,
        ordinal: read_u32(bytes, 16)?,
        last: bytes.get(21)? & LAST_OF_WRITE != 0,
        bytes: end.next_multiple_of(ALIGNMENT),
    };
    Some((header, *bytes.get(20)?, bytes.get(RECORD_HEADER_BYTES..end)?))
}

/// What a record says whose checksum was right; `None` if this version does not know it.
pub fn decode_record(kind: u8, body: &[u8]) -> Option<Record<'_>> {
    match kind {
        kind::ENTRY => {
            let id = LogId { term: read_u64(body, 0)?, index: read_u64(body, 8)? };
            Some(Record::Entry(id, body.get(ENTRY_PREFIX_BYTES..)?))
        }
        kind::VOTE => Some(Record::Vote(VoteMessage::decode(body).ok()?.into())),
        kind::COMMITTED => Some(Record::Committed(LogIdMessage::decode(body).ok()?.into())),
        kind::TRUNCATED => {
            Some(Record::Truncated(OptionalLogIdMessage::decode(body).ok()?.id.map(Into::into)))
        }
        kind::PURGED => Some(Record::Purged(LogIdMessage::decode(body).ok()?.into())),
        _ => None,
    }
}

/// The payload of the entry record that is exactly `bytes`, if it is whole and has this id.
pub fn decode_entry(salt: u32, bytes: &Bytes, id: LogId) -> Option<Bytes> {
    let (_, kind, body) = record_at(salt, bytes)?;
    match decode_record(kind, body)? {
        Record::Entry(found, payload) if found == id => Some(bytes.slice_ref(payload)),
        _ => None,
    }
}
