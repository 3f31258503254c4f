//! Which keys the engine holds: one flat space, told apart by the first byte.
//!
//! | Key | Value |
//! |---|---|
//! | `h` main (8 bytes) sub (4) | a history record that starts at this revision, or the head of a large entry |
//! | `h` main (8) sub (4) part (4) | part 1, 2, … of the large entry whose head has the same revision |
//! | `r` … | `raft`'s own: applied index, membership |
//! | `sa` ordinal (2) | the newest disk that an ordinal was admitted with |
//! | `sc` | the compacted revision |
//! | `sd` | the desired range |
//! | `se` number (8) | an event |
//! | `sk` kind (1) cause (1) node id (8) | an alarm |
//! | `sh` ordinal (2) | an ordinal that was added or dismissed by hand |
//! | `sl` lease id (8) | a lease, without its keys |
//! | `sm` node id (8) | the mark of one member |
//! | `sp` | how far physical compaction has got |
//! | `sr` part (2) name | a role, with its permissions, cut into parts |
//! | `st` | whether authentication is enabled, and the auth revision |
//! | `su` part (2) name | a user, with the names of its roles, cut into parts |
//!
//! Numbers are big-endian, so the order of keys is the order of revisions, and the parts of a large entry follow its head. A
//! large entry is alone in its record; so the record that holds a revision is always the greatest one that is not above it.
//!
//! A snapshot is [`history_span`] up to its revision and [`super::State::small_state`].

use super::Revision;
use super::alarm::{Alarm, AlarmKind, Cause, Kept};
use crate::identity::{NodeId, Ordinal};

/// First byte of history records.
pub const HISTORY: u8 = b'h';
/// First byte of what `raft` keeps beside the state; nothing here reads or writes it.
pub const RAFT: u8 = b'r';
/// First byte of small state.
pub const SMALL: u8 = b's';

/// Key of the compacted revision.
pub(super) const COMPACTED: &[u8] = b"sc";
/// Key of the progress of physical compaction.
pub(super) const PROGRESS: &[u8] = b"sp";
/// Key of the desired range.
pub(super) const DESIRED: &[u8] = b"sd";
/// Begin of the key of an admission.
pub(super) const ADMISSION: &[u8] = b"sa";
/// Begin of the key of an event.
pub(super) const EVENT: &[u8] = b"se";
/// Begin of the key of an alarm.
pub(super) const ALARM: &[u8] = b"sk";
/// Begin of the key of an ordinal that was added or dismissed by hand.
pub(super) const BY_HAND: &[u8] = b"sh";
/// Begin of the key of a lease.
pub(super) const LEASE: &[u8] = b"sl";
/// Begin of the key of a mark.
pub(super) const MARK: &[u8] = b"sm";

/// Key of the status of authentication.
pub(super) const AUTH: &[u8] = b"st";
/// Begin of the key of a role.
pub(super) const ROLE: &[u8] = b"sr";
/// Begin of the key of a user.
pub(super) const USER: &[u8] = b"su";

/// Bytes of the key of a record.
pub(super) const RECORD_KEY: usize = 13;
/// Bytes of the key of a part.
pub(super) const PART_KEY: usize = 17;

/// The span `[from, to)` of all history up to and with main revision `revision`.
pub fn history_span(revision: i64) -> (Vec<u8>, Vec<u8>) {
    (vec![HISTORY], record_key(Revision::new(revision.saturating_add(1), 0)).to_vec())
}

/// The span `[from, to)` of the small state.
pub fn small_span() -> (Vec<u8>, Vec<u8>) {
    (vec![SMALL], vec![SMALL + 1])
}

pub(super) fn record_key(revision: Revision) -> [u8; RECORD_KEY] {
    let main = u64::try_from(revision.main).unwrap_or(0);
    let sub = u32::try_from(revision.sub).unwrap_or(u32::MAX);
    let number = u128::from(HISTORY) << 96 | u128::from(main) << 32 | u128::from(sub);
    let [_, _, _, key @ ..] = number.to_be_bytes();
    key
}

pub(super) fn part_key(head: Revision, part: u32) -> [u8; PART_KEY] {
    let mut key = [0; PART_KEY];
    if let Some(begin) = key.first_chunk_mut() {
        *begin = record_key(head);
    }
    if let Some(end) = key.last_chunk_mut() {
        *end = part.to_be_bytes();
    }
    key
}

pub(super) fn mark_key(node: NodeId) -> Vec<u8> {
    [MARK, &node.0.to_be_bytes()].concat()
}

pub(super) fn mark_node(key: &[u8]) -> Option<NodeId> {
    let id = key.strip_prefix(MARK)?;
    Some(NodeId(u64::from_be_bytes(id.try_into().ok()?)))
}

pub(super) fn alarm_key((alarm, cause): &Kept) -> Vec<u8> {
    [ALARM, &[alarm.kind as u8, *cause as u8], &alarm.member.0.to_be_bytes()].concat()
}

pub(super) fn alarm(key: &[u8]) -> Option<Kept> {
    let ([kind, cause], member) = key.strip_prefix(ALARM)?.split_first_chunk()?;
    let kind = AlarmKind::from_number(u32::from(*kind))?;
    let cause = Cause::from_number(u32::from(*cause))?;
    Some((Alarm { kind, member: NodeId(u64::from_be_bytes(member.try_into().ok()?)) }, cause))
}

pub(super) fn lease_key(id: i64) -> Vec<u8> {
    [LEASE, &id.to_be_bytes()].concat()
}

pub(super) fn lease_id(key: &[u8]) -> Option<i64> {
    Some(i64::from_be_bytes(key.strip_prefix(LEASE)?.try_into().ok()?))
}

/// Key of one part of a user or role, by [`USER`] or [`ROLE`].
pub(super) fn part_of(begin: &[u8], part: u16, name: &str) -> Vec<u8> {
    [begin, &part.to_be_bytes(), name.as_bytes()].concat()
}

/// Part and name in such a key.
pub(super) fn parse_part_of<'a>(begin: &[u8], key: &'a [u8]) -> Option<(u16, &'a [u8])> {
    let (part, name) = key.strip_prefix(begin)?.split_first_chunk::<2>()?;
    Some((u16::from_be_bytes(*part), name))
}

pub(super) fn admission_key(ordinal: Ordinal) -> Vec<u8> {
    [ADMISSION, &ordinal.to_be_bytes()].concat()
}

pub(super) fn admission_ordinal(key: &[u8]) -> Option<Ordinal> {
    Some(Ordinal::from_be_bytes(key.strip_prefix(ADMISSION)?.try_into().ok()?))
}

pub(super) fn by_hand_key(ordinal: Ordinal) -> Vec<u8> {
    [BY_HAND, &ordinal.to_be_bytes()].concat()
}

pub(super) fn by_hand_ordinal(key: &[u8]) -> Option<Ordinal> {
    Some(Ordinal::from_be_bytes(key.strip_prefix(BY_HAND)?.try_into().ok()?))
}

pub(super) fn event_key(number: u64) -> Vec<u8> {
    [EVENT, &number.to_be_bytes()].concat()
}

pub(super) fn event_number(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(key.strip_prefix(EVENT)?.try_into().ok()?))
}

/// The revision in a history key, and the part number if it is a part.
pub(super) fn parse_history_key(key: &[u8]) -> Option<(Revision, Option<u32>)> {
    let rest = key.strip_prefix(&[HISTORY])?;
    let (main, rest) = rest.split_first_chunk::<8>()?;
    let (sub, rest) = rest.split_first_chunk::<4>()?;
    let main = i64::try_from(u64::from_be_bytes(*main)).ok()?;
    let revision = Revision::new(main, i64::from(u32::from_be_bytes(*sub)));
    if rest.is_empty() {
        return Some((revision, None));
    }
    let part = u32::from_be_bytes(rest.try_into().ok()?);
    Some((revision, Some(part)))
}
