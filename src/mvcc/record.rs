//! The bytes of history records and small state. Format 1.
//!
//! Every value in the engine is *sealed*: format version (1 byte), kind (1), CRC32C (4, little-endian) over its key, version,
//! kind and body, then the body. The key is in the checksum, so a value under another's key is found.
//!
//! | Kind | Body |
//! |---|---|
//! | record | entries, each a varint length and as many bytes |
//! | large head | total length of one entry (4 bytes, little-endian), then its first bytes |
//! | large part | the next bytes of that entry |
//! | small | small state ([`super::small`]) |
//!
//! An entry is: varint main revision, less that of the record's key; varint sub; flags; for a put varint main less create
//! revision, varint version and, if flagged, lease (8 bytes, little-endian); varint key length; key; the rest is the value.
//! An entry is skipped by its length alone.

use bytes::{BufMut, Bytes, BytesMut};

use super::layout;
use super::{Event, EventKind, KeyValue, Revision};
use crate::limits;

/// Version of all formats here.
pub(super) const FORMAT: u8 = 1;
/// Bytes before the body.
pub(super) const HEADER: usize = 6;
const CHECKSUM_AT: std::ops::Range<usize> = 2..HEADER;
/// Bytes of the total length in the head of a large entry.
const TOTAL: usize = 4;

const TOMBSTONE: u8 = 1;
const LEASED: u8 = 2;

/// What a sealed value holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Record = 0,
    LargeHead = 1,
    LargePart = 2,
    Small = 3,
}

/// Why bytes are not what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// Shorter than it says.
    #[error("it is cut short")]
    Truncated,
    /// Made by a version that we do not know.
    #[error("format version {0} is not known")]
    Format(u8),
    /// Not the kind that its key says.
    #[error("kind {0} does not belong under this key")]
    Kind(u8),
    /// The checksum does not fit.
    #[error("checksum {found:08x}, but the content has {expected:08x}")]
    Checksum {
        /// Of the content.
        expected: u32,
        /// The stored one.
        found: u32,
    },
    /// A number is out of its range.
    #[error("a number is out of range")]
    Number,
    /// What should be text is not UTF-8.
    #[error("a text is not UTF-8")]
    Text,
    /// The key is none of ours.
    #[error("the key has no meaning")]
    Key,
    /// A large entry's parts are not all there, or there are too many.
    #[error("a part of a large entry is missing or surplus")]
    Part,
}

/// One change, as in a record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Entry {
    pub revision: Revision,
    pub tombstone: bool,
    /// 0 for a tombstone, as are `version` and `lease`.
    pub create: i64,
    pub version: i64,
    pub lease: i64,
    pub key: Bytes,
    pub value: Bytes,
}

impl Entry {
    pub(super) fn into_kv(self) -> KeyValue {
        KeyValue {
            key: self.key,
            create_revision: self.create,
            mod_revision: self.revision.main,
            version: self.version,
            value: self.value,
            lease: self.lease,
        }
    }

    /// Bytes of the encoding in a record of `base`.
    fn length(&self, base: i64) -> usize {
        let mut length = varint_length(unsigned(self.revision.main - base))
            + varint_length(unsigned(self.revision.sub))
            + 1
            + varint_length(self.key.len() as u64)
            + self.key.len()
            + self.value.len();
        if !self.tombstone {
            length += varint_length(unsigned(self.revision.main - self.create))
                + varint_length(unsigned(self.version))
                + if self.lease == 0 { 0 } else { 8 };
        }
        length
    }

    fn write(&self, base: i64, out: &mut BytesMut) {
        put_varint(out, unsigned(self.revision.main - base));
        put_varint(out, unsigned(self.revision.sub));
        let lease = if self.lease == 0 { 0 } else { LEASED };
        if self.tombstone {
            out.put_u8(TOMBSTONE);
        } else {
            out.put_u8(lease);
            put_varint(out, unsigned(self.revision.main - self.create));
            put_varint(out, unsigned(self.version));
            if lease != 0 {
                out.put_i64_le(self.lease);
            }
        }
        put_varint(out, self.key.len() as u64);
        out.put_slice(&self.key);
        out.put_slice(&self.value);
    }

    /// The event that watchers get, with key and value as slices of `written`, whose last byte so far is this entry's.
    fn event(&self, written: &Bytes, end: usize) -> Event {
        let value_at = end - self.value.len();
        let key = written.slice(value_at - self.key.len()..value_at);
        if self.tombstone {
            let kv = KeyValue { key, mod_revision: self.revision.main, ..KeyValue::default() };
            return Event { kind: EventKind::Delete, kv };
        }
        let kv = KeyValue {
            key,
            create_revision: self.create,
            mod_revision: self.revision.main,
            version: self.version,
            value: written.slice(value_at..end),
            lease: self.lease,
        };
        Event { kind: EventKind::Put, kv }
    }
}

/// Encode `entries`, which ascend, into records of at most [`limits::RECORD_BYTES`], and of at most
/// [`limits::RECORD_GATHER_BYTES`] if they hold more than one.
pub(super) fn encode(entries: &[Entry], puts: &mut Vec<(Bytes, Bytes)>, events: &mut Vec<Event>) {
    events.reserve(entries.len());
    let mut rest = entries;
    while let Some(first) = rest.first() {
        let base = first.revision;
        let mut bytes = HEADER;
        let mut count = 0;
        for entry in rest {
            let length = entry.length(base.main);
            let next = bytes + varint_length(length as u64) + length;
            let room = if count == 0 { limits::RECORD_BYTES } else { limits::RECORD_GATHER_BYTES };
            if next > room {
                break;
            }
            bytes = next;
            count += 1;
        }
        let (now, later) = rest.split_at(count.max(1));
        rest = later;
        if count == 0 {
            encode_large(first, puts, events);
        } else {
            encode_record(base, now, bytes, puts, events);
        }
    }
}

fn encode_record(
    base: Revision,
    entries: &[Entry],
    bytes: usize,
    puts: &mut Vec<(Bytes, Bytes)>,
    events: &mut Vec<Event>,
) {
    let key = layout::record_key(base);
    let record = record(base, entries, bytes);
    let mut position = HEADER;
    for entry in entries {
        let length = entry.length(base.main);
        position += varint_length(length as u64) + length;
        events.push(entry.event(&record, position));
    }
    puts.push((Bytes::copy_from_slice(&key), record));
}

/// A record under the key of `base` that holds `entries`; `bytes` is how long it will be, if known.
pub(super) fn record(base: Revision, entries: &[Entry], bytes: usize) -> Bytes {
    let mut out = unsealed(Kind::Record, bytes);
    for entry in entries {
        put_varint(&mut out, entry.length(base.main) as u64);
        entry.write(base.main, &mut out);
    }
    seal(&layout::record_key(base), out)
}

fn encode_large(entry: &Entry, puts: &mut Vec<(Bytes, Bytes)>, events: &mut Vec<Event>) {
    let mut whole = BytesMut::with_capacity(entry.length(entry.revision.main));
    entry.write(entry.revision.main, &mut whole);
    let whole = whole.freeze();
    events.push(entry.event(&whole, whole.len()));

    let (first, rest) = whole.split_at(whole.len().min(limits::RECORD_BYTES - HEADER - TOTAL));
    let key = layout::record_key(entry.revision);
    let mut head = unsealed(Kind::LargeHead, limits::RECORD_BYTES);
    head.put_u32_le(u32::try_from(whole.len()).unwrap_or(u32::MAX));
    head.put_slice(first);
    puts.push((Bytes::copy_from_slice(&key), seal(&key, head)));
    for (part, body) in (1..).zip(rest.chunks(limits::RECORD_BYTES - HEADER)) {
        let key = layout::part_key(entry.revision, part);
        let mut out = unsealed(Kind::LargePart, HEADER + body.len());
        out.put_slice(body);
        puts.push((Bytes::copy_from_slice(&key), seal(&key, out)));
    }
}

/// Parts, without the head, of a large entry of `total` bytes.
pub(super) fn parts(total: usize) -> u32 {
    let rest = total.saturating_sub(limits::RECORD_BYTES - HEADER - TOTAL);
    u32::try_from(rest.div_ceil(limits::RECORD_BYTES - HEADER)).unwrap_or(u32::MAX)
}

/// The start of a sealed value: header without checksum.
pub(super) fn unsealed(kind: Kind, capacity: usize) -> BytesMut {
    let mut out = BytesMut::with_capacity(capacity);
    out.put_slice(&[FORMAT, kind as u8, 0, 0, 0, 0]);
    out
}

/// Put the checksum in.
pub(super) fn seal(key: &[u8], mut out: BytesMut) -> Bytes {
    let checksum = checksum(key, &out).to_le_bytes();
    if let Some(place) = out.get_mut(CHECKSUM_AT) {
        place.copy_from_slice(&checksum);
    }
    out.freeze()
}

fn checksum(key: &[u8], value: &[u8]) -> u32 {
    let crc = crc32c::crc32c_append(crc32c::crc32c(key), value.get(..2).unwrap_or_default());
    crc32c::crc32c_append(crc, value.get(HEADER..).unwrap_or_default())
}

/// Kind and body of a sealed value, its checksum unread: for reads of what was checked when it was loaded.
pub(super) fn open_unchecked(value: &[u8]) -> Result<(Kind, &[u8]), Damage> {
    let (header, body) = value.split_at_checked(HEADER).ok_or(Damage::Truncated)?;
    match header {
        [FORMAT, 0, ..] => Ok((Kind::Record, body)),
        [FORMAT, 1, ..] => Ok((Kind::LargeHead, body)),
        [FORMAT, 2, ..] => Ok((Kind::LargePart, body)),
        [FORMAT, 3, ..] => Ok((Kind::Small, body)),
        [FORMAT, kind, ..] => Err(Damage::Kind(*kind)),
        [format, ..] => Err(Damage::Format(*format)),
        [] => Err(Damage::Truncated),
    }
}

/// Kind and body of a sealed value whose checksum fits.
pub(super) fn open<'a>(key: &[u8], value: &'a [u8]) -> Result<(Kind, &'a [u8]), Damage> {
    let opened = open_unchecked(value)?;
    let stored = value.get(CHECKSUM_AT).and_then(|bytes| bytes.try_into().ok()).ok_or(Damage::Truncated)?;
    let found = u32::from_le_bytes(stored);
    let expected = checksum(key, value);
    if found == expected || cfg!(fuzzing) { Ok(opened) } else { Err(Damage::Checksum { expected, found }) }
}

/// Total length and first bytes in the body of the head of a large entry.
pub(super) fn large_head(body: &[u8]) -> Result<(usize, &[u8]), Damage> {
    let (total, first) = body.split_first_chunk::<TOTAL>().ok_or(Damage::Truncated)?;
    let total = u32::from_le_bytes(*total) as usize;
    if total < first.len() { Err(Damage::Number) } else { Ok((total, first)) }
}

/// Walks over the entries in the body of a record.
#[derive(Clone, Copy, Debug)]
pub(super) struct Walk<'a> {
    base: i64,
    rest: &'a [u8],
}

/// An entry of which only the revision was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Raw<'a> {
    pub revision: Revision,
    rest: &'a [u8],
}

impl<'a> Walk<'a> {
    /// Over `body`, which is under the key of `base`.
    pub(super) fn new(base: Revision, body: &'a [u8]) -> Self {
        Self { base: base.main, rest: body }
    }

    /// What is left of the body.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The next entry, if there is one.
    pub(super) fn next(&mut self) -> Result<Option<Raw<'a>>, Damage> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let length = take_varint(&mut self.rest)?;
        let entry = take(&mut self.rest, length)?;
        Raw::new(self.base, entry).map(Some)
    }
}

impl<'a> Raw<'a> {
    /// The entry whose bytes are `entry`, in a record of `base`.
    pub(super) fn new(base: i64, entry: &'a [u8]) -> Result<Self, Damage> {
        let mut rest = entry;
        let main = base.checked_add(signed(take_varint(&mut rest)?)?).ok_or(Damage::Number)?;
        let sub = u32::try_from(take_varint(&mut rest)?).map_err(|_| Damage::Number)?;
        Ok(Self { revision: Revision::new(main, i64::from(sub)), rest })
    }

    /// All of it; key and value are slices of `owner`, which this was read from.
    pub(super) fn entry(self, owner: &Bytes) -> Result<Entry, Damage> {
        let mut rest = self.rest;
        let Revision { main, .. } = self.revision;
        let flags = take_byte(&mut rest)?;
        let mut entry =
            Entry { revision: self.revision, tombstone: flags & TOMBSTONE != 0, ..Entry::default() };
        if flags & !(TOMBSTONE | LEASED) != 0 || flags == TOMBSTONE | LEASED {
            return Err(Damage::Number);
        }
        if !entry.tombstone {
            let age = signed(take_varint(&mut rest)?)?;
            entry.create = main.checked_sub(age).filter(|create| *create > 0).ok_or(Damage::Number)?;
            entry.version = signed(take_varint(&mut rest)?)?;
            if flags & LEASED != 0 {
                let (lease, after) = rest.split_first_chunk::<8>().ok_or(Damage::Truncated)?;
                (entry.lease, rest) = (i64::from_le_bytes(*lease), after);
            }
        }
        let length = take_varint(&mut rest)?;
        entry.key = owner.slice_ref(take(&mut rest, length)?);
        entry.value = owner.slice_ref(rest);
        Ok(entry)
    }
}

fn unsigned(number: i64) -> u64 {
    number.max(0) as u64
}

fn signed(number: u64) -> Result<i64, Damage> {
    i64::try_from(number).map_err(|_| Damage::Number)
}

fn varint_length(number: u64) -> usize {
    // One byte per seven bits, and one byte for zero.
    (64 - (number | 1).leading_zeros() as usize).div_ceil(7)
}

fn put_varint(out: &mut BytesMut, mut number: u64) {
    while number >= 0x80 {
        out.put_u8(number as u8 | 0x80);
        number >>= 7;
    }
    out.put_u8(number as u8);
}

fn take_byte(rest: &mut &[u8]) -> Result<u8, Damage> {
    let (byte, after) = rest.split_first().ok_or(Damage::Truncated)?;
    *rest = after;
    Ok(*byte)
}

fn take_varint(rest: &mut &[u8]) -> Result<u64, Damage> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = take_byte(rest)?;
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && byte > 1 {
            return Err(Damage::Number);
        }
        number |= bits << shift;
        if byte < 0x80 {
            return Ok(number);
        }
    }
    Err(Damage::Number)
}

fn take<'a>(rest: &mut &'a [u8], length: u64) -> Result<&'a [u8], Damage> {
    let length = usize::try_from(length).map_err(|_| Damage::Truncated)?;
    let (taken, after) = rest.split_at_checked(length).ok_or(Damage::Truncated)?;
    *rest = after;
    Ok(taken)
}
