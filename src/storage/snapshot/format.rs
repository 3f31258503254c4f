//! What is in a snapshot file. Pure: bytes to values and back.
//!
//! ```text
//! snapshot =  magic "SETSNAP\0", version u32, crc u32 (of the 12 bytes before it), block*
//! block    =  crc u32 (of all that follows), length u32, ordinal u32, kind u8, zero u8 × 3, payload
//! kinds    =  1 header (protobuf), first · 2 data · 3 end, last: pairs u64, SHA-256 of all before this block
//! data     =  the payloads of all data blocks are one stream of pairs: key length varint, value length varint, key, value
//! ```
//!
//! Numbers are little-endian, a crc is CRC32C, ordinals count from 0. A payload has at most 64 KiB.

use bytes::{Buf, BytesMut};
use prost::Message;

use super::SnapshotHeader;
use crate::identity::ClusterId;
use crate::limits;
use crate::storage::LogId;

/// Version of the format that this program writes, and the only one that it reads.
pub const VERSION: u32 = 1;
pub(super) const PREFIX_BYTES: u64 = 16;
pub(super) const BLOCK_HEADER_BYTES: usize = 16;
const MAGIC: &[u8; 8] = b"SETSNAP\0";

/// What a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Header = 1,
    Data = 2,
    End = 3,
}

/// A block's header.
#[derive(Clone, Copy, Debug)]
pub(super) struct BlockHeader {
    crc: u32,
    pub(super) length: usize,
    ordinal: u32,
    kind: u8,
}

#[derive(Clone, PartialEq, prost::Message)]
struct LogIdMessage {
    #[prost(uint64, tag = "1")]
    term: u64,
    #[prost(uint64, tag = "2")]
    index: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HeaderMessage {
    #[prost(fixed64, tag = "1")]
    cluster: u64,
    #[prost(message, optional, tag = "2")]
    last: Option<LogIdMessage>,
    #[prost(int64, tag = "3")]
    revision: i64,
    #[prost(bytes = "bytes", tag = "4")]
    membership: bytes::Bytes,
    #[prost(message, optional, tag = "5")]
    membership_id: Option<LogIdMessage>,
}

fn to_message(id: LogId) -> LogIdMessage {
    LogIdMessage { term: id.term, index: id.index }
}

fn from_message(id: &LogIdMessage) -> LogId {
    LogId { term: id.term, index: id.index }
}

/// The first bytes of a file.
pub(super) fn prefix() -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    let crc = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

/// The version in the first bytes of a file, if they are whole.
pub(super) fn version(prefix: &[u8]) -> Option<u32> {
    let covered = prefix.get(..12)?;
    let crc = read_u32(prefix, 12)?;
    if !covered.starts_with(MAGIC) || crc32c::crc32c(covered) != crc {
        return None;
    }
    read_u32(prefix, 8)
}

pub(super) fn encode_header(header: &SnapshotHeader) -> Vec<u8> {
    HeaderMessage {
        cluster: header.cluster.0,
        last: Some(to_message(header.last)),
        revision: header.revision,
        membership: header.membership.clone(),
        membership_id: header.membership_id.map(to_message),
    }
    .encode_to_vec()
}

pub(super) fn decode_header(payload: &[u8]) -> Option<SnapshotHeader> {
    let message = HeaderMessage::decode(payload).ok()?;
    Some(SnapshotHeader {
        cluster: ClusterId(message.cluster),
        last: from_message(message.last.as_ref()?),
        revision: message.revision,
        membership: message.membership,
        membership_id: message.membership_id.as_ref().map(from_message),
    })
}

/// Adds a whole block to `out`.
pub(super) fn push_block(out: &mut Vec<u8>, ordinal: u32, kind: Kind, payload: &[u8]) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    out.extend_from_slice(&ordinal.to_le_bytes());
    out.extend_from_slice(&[kind as u8, 0, 0, 0]);
    out.extend_from_slice(payload);
    let crc = crc32c::crc32c(out.get(start + 4..).unwrap_or_default());
    if let Some(place) = out.get_mut(start..start + 4) {
        place.copy_from_slice(&crc.to_le_bytes());
    }
}

fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

/// Decodes what is before a payload. Not believed before [`check_block`], but for a length that is not too large.
pub(super) fn block_header(bytes: &[u8]) -> Option<BlockHeader> {
    let length = read_u32(bytes, 4)? as usize;
    (length <= limits::SNAPSHOT_BLOCK_BYTES).then_some(())?;
    Some(BlockHeader {
        crc: read_u32(bytes, 0)?,
        length,
        ordinal: read_u32(bytes, 8)?,
        kind: *bytes.get(12)?,
    })
}

/// What the block is, if header and payload are as they were written, in their place.
pub(super) fn check_block(header: BlockHeader, whole: &[u8], ordinal: u32) -> Option<Kind> {
    let checked = cfg!(fuzzing) || crc32c::crc32c(whole.get(4..)?) == header.crc;
    let sound = checked && header.ordinal == ordinal;
    match header.kind {
        1 if sound => Some(Kind::Header),
        2 if sound => Some(Kind::Data),
        3 if sound => Some(Kind::End),
        _ => None,
    }
}

fn push_varint(out: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn varint(bytes: &[u8], at: &mut usize) -> Option<usize> {
    let mut value = 0;
    for shift in [0, 7, 14, 21, 28] {
        let byte = *bytes.get(*at)?;
        *at += 1;
        value |= usize::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    // Five bytes hold more than any length that is allowed; the caller refuses it.
    Some(usize::MAX)
}

/// The bytes before key and value.
pub(super) fn push_pair_lengths(out: &mut Vec<u8>, key: usize, value: usize) {
    push_varint(out, key);
    push_varint(out, value);
}

/// Takes the next pair from a stream.
///
/// # Errors
/// If its lengths are beyond the limits.
pub(super) fn take_pair(stream: &mut BytesMut) -> Result<Option<(bytes::Bytes, bytes::Bytes)>, String> {
    let mut at = 0;
    let (Some(key), Some(value)) = (varint(stream, &mut at), varint(stream, &mut at)) else {
        return Ok(None);
    };
    if key > limits::SNAPSHOT_KEY_BYTES || value > limits::SNAPSHOT_VALUE_BYTES {
        return Err(format!("a pair with a key of {key} and a value of {value} bytes"));
    }
    if stream.len() < at + key + value {
        return Ok(None);
    }
    stream.advance(at);
    Ok(Some((stream.split_to(key).freeze(), stream.split_to(value).freeze())))
}

pub(super) fn encode_end(pairs: u64, digest: [u8; 32]) -> Vec<u8> {
    let mut payload = pairs.to_le_bytes().to_vec();
    payload.extend_from_slice(&digest);
    payload
}

pub(super) fn decode_end(payload: &[u8]) -> Option<(u64, [u8; 32])> {
    let (pairs, digest) = payload.split_at_checked(8)?;
    Some((u64::from_le_bytes(pairs.try_into().ok()?), digest.try_into().ok()?))
}
