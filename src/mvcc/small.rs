//! Small state in the engine: what is not a record. Each item is sealed (see [`super::record`]); numbers are
//! little-endian.

use bytes::{BufMut, Bytes};

use super::alarm::Kept;
use super::cluster::{Added, Admission, ByHand, Mark, Standing};
use super::compaction::Progress;
use super::event_log::ClusterEvent;
use super::lease::{Granted, Lease};
use super::record::{self, Damage, Kind};
use super::{Revision, auth, layout};
use crate::identity::{NodeId, Ordinal, OrdinalRange};

/// An item, as it is written.
pub(super) fn compacted(revision: i64) -> (Bytes, Bytes) {
    item(layout::COMPACTED, &[revision as u64])
}

pub(super) fn progress(progress: &Progress) -> (Bytes, Bytes) {
    let Progress { done, target, cursor } = *progress;
    item(layout::PROGRESS, &[done as u64, target as u64, cursor.main as u64, cursor.sub as u64])
}

pub(super) fn mark(node: NodeId, mark: &Mark) -> (Bytes, Bytes) {
    let Mark { boot, vote_term, vote_node, log_term, log_index } = *mark;
    item(&layout::mark_key(node), &[boot, vote_term, vote_node, log_term, log_index])
}

pub(super) fn admission(ordinal: Ordinal, admission: &Admission) -> (Bytes, Bytes) {
    let Admission { id, nonce, standing } = *admission;
    item(&layout::admission_key(ordinal), &[id.0, nonce, standing as u64])
}

/// All of an alarm is in its key.
pub(super) fn alarm(kept: &Kept) -> (Bytes, Bytes) {
    item(&layout::alarm_key(kept), &[])
}

pub(super) fn lease(id: i64, lease: &Lease) -> (Bytes, Bytes) {
    let Granted { index, position } = lease.granted;
    let numbers = [index, u64::from(position), lease.ttl as u64, lease.remaining as u64];
    item(&layout::lease_key(id), &numbers)
}

pub(super) fn desired(range: OrdinalRange) -> (Bytes, Bytes) {
    item(layout::DESIRED, &[u64::from(range.start), u64::from(range.size)])
}

pub(super) fn event(number: u64, event: &ClusterEvent) -> (Bytes, Bytes) {
    let ClusterEvent { id, at_millis, source, text } = event;
    let numbers = [*id, *at_millis, source.len() as u64];
    item_with(&layout::event_key(number), &numbers, format!("{source}{text}").as_bytes())
}

/// Peer URLs have no spaces.
pub(super) fn by_hand(ordinal: Ordinal, by_hand: &ByHand) -> (Bytes, Bytes) {
    let (numbers, urls) = match by_hand {
        ByHand::Dismissed => ([0, 0], String::new()),
        ByHand::Added(Added { peer_urls, learner }) => ([1, u64::from(*learner)], peer_urls.join(" ")),
    };
    item_with(&layout::by_hand_key(ordinal), &numbers, urls.as_bytes())
}

fn item(key: &[u8], numbers: &[u64]) -> (Bytes, Bytes) {
    item_with(key, numbers, &[])
}

pub(super) fn item_with(key: &[u8], numbers: &[u64], rest: &[u8]) -> (Bytes, Bytes) {
    let mut out = record::unsealed(Kind::Small, record::HEADER + 8 * numbers.len() + rest.len());
    for number in numbers {
        out.put_u64_le(*number);
    }
    out.extend_from_slice(rest);
    (Bytes::copy_from_slice(key), record::seal(key, out))
}

/// An item, as it is read.
#[derive(Debug)]
pub(super) enum Item {
    Compacted(i64),
    Progress(Progress),
    Mark(NodeId, Mark),
    Admission(Ordinal, Admission),
    Desired(OrdinalRange),
    Event(u64, ClusterEvent),
    Lease(i64, Lease),
    Alarm(Kept),
    Auth(auth::Item),
    ByHand(Ordinal, ByHand),
}

pub(super) fn read(key: &[u8], value: &[u8]) -> Result<Item, Damage> {
    let (kind, body) = record::open(key, value)?;
    if kind != Kind::Small {
        return Err(Damage::Kind(kind as u8));
    }
    if key == layout::COMPACTED {
        let [revision] = numbers(body)?;
        return Ok(Item::Compacted(revision as i64));
    }
    if key == layout::PROGRESS {
        let [done, target, main, sub] = numbers(body)?;
        let cursor = Revision::new(main as i64, sub as i64);
        return Ok(Item::Progress(Progress { done: done as i64, target: target as i64, cursor }));
    }
    if key == layout::DESIRED {
        let [start, size] = numbers(body)?.map(u16::try_from);
        let number = |number: Result<u16, _>| number.map_err(|_| Damage::Number);
        return Ok(Item::Desired(OrdinalRange { start: number(start)?, size: number(size)? }));
    }
    if let Some(ordinal) = layout::admission_ordinal(key) {
        let [id, nonce, standing] = numbers(body)?;
        let standing = Standing::from_number(standing).ok_or(Damage::Number)?;
        return Ok(Item::Admission(ordinal, Admission { id: NodeId(id), nonce, standing }));
    }
    if let Some(number) = layout::event_number(key) {
        return Ok(Item::Event(number, read_event(body)?));
    }
    if let Some(id) = layout::lease_id(key) {
        return Ok(Item::Lease(id, read_lease(body)?));
    }
    if let Some(kept) = layout::alarm(key) {
        let [] = numbers::<0>(body)?;
        return Ok(Item::Alarm(kept));
    }
    if let Some(item) = auth::read_item(key, body) {
        return Ok(Item::Auth(item?));
    }
    if let Some(ordinal) = layout::by_hand_ordinal(key) {
        return Ok(Item::ByHand(ordinal, read_by_hand(body)?));
    }
    let node = layout::mark_node(key).ok_or(Damage::Key)?;
    let [boot, vote_term, vote_node, log_term, log_index] = numbers(body)?;
    Ok(Item::Mark(node, Mark { boot, vote_term, vote_node, log_term, log_index }))
}

fn read_lease(body: &[u8]) -> Result<Lease, Damage> {
    let [index, position, ttl, remaining] = numbers(body)?;
    let granted = Granted { index, position: u32::try_from(position).map_err(|_| Damage::Number)? };
    let seconds = |number: u64| i64::try_from(number).map_err(|_| Damage::Number);
    Ok(Lease::new(granted, seconds(ttl)?, seconds(remaining)?))
}

fn read_by_hand(body: &[u8]) -> Result<ByHand, Damage> {
    let (head, urls) = body.split_first_chunk::<16>().ok_or(Damage::Truncated)?;
    match numbers(head)? {
        [0, 0] => Ok(ByHand::Dismissed),
        [1, learner @ (0 | 1)] => {
            let urls = std::str::from_utf8(urls).map_err(|_| Damage::Text)?;
            let peer_urls = urls.split_whitespace().map(str::to_owned).collect();
            Ok(ByHand::Added(Added { peer_urls, learner: learner == 1 }))
        }
        _ => Err(Damage::Number),
    }
}

fn read_event(body: &[u8]) -> Result<ClusterEvent, Damage> {
    let (head, texts) = body.split_first_chunk::<24>().ok_or(Damage::Truncated)?;
    let [id, at_millis, source_length] = numbers(head)?;
    let texts = std::str::from_utf8(texts).map_err(|_| Damage::Text)?;
    let source_length = usize::try_from(source_length).map_err(|_| Damage::Number)?;
    let (source, text) = texts.split_at_checked(source_length).ok_or(Damage::Number)?;
    Ok(ClusterEvent { id, at_millis, source: source.to_owned(), text: text.to_owned() })
}

fn numbers<const N: usize>(body: &[u8]) -> Result<[u64; N], Damage> {
    let (words, rest) = body.as_chunks::<8>();
    if words.len() != N || !rest.is_empty() {
        return Err(Damage::Truncated);
    }
    let mut numbers = [0; N];
    for (number, word) in numbers.iter_mut().zip(words) {
        *number = u64::from_le_bytes(*word);
    }
    Ok(numbers)
}
