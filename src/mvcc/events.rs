//! Reading events back from the history, for watchers that lag or begin in the past.

use std::ops::ControlFlow;

use bytes::Bytes;

use super::command::Refusal;
use super::history::History;
use super::read::{self, Reader};
use super::record::{self, Damage, Entry, Kind, Walk};
use super::{Event, EventKind, KeyValue, Revision, State, layout};

/// What one step of reading found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventsRead {
    /// The events of the wanted keys, in order.
    pub events: Vec<Event>,
    /// All events up to this main revision were looked at.
    pub up_to: i64,
}

/// An entry, or where one is that must be put together.
enum Found {
    Entry(Entry),
    Large(Revision, Bytes),
}

/// Reads the events of the main revisions from `from` to `to` whose keys are `wanted`. Ends with a whole revision once `bytes` of
/// records were looked at. What is found is right only if no compaction above `from` was applied before the call ended: the caller
/// looks at [`State::compacted`] afterwards.
///
/// # Errors
/// [`Refusal::Unreadable`] if the engine could not be read.
pub fn read_events(
    history: &dyn History,
    from: i64,
    to: i64,
    bytes: usize,
    wanted: &mut dyn FnMut(&[u8]) -> bool,
) -> Result<EventsRead, Refusal> {
    let first = layout::record_key(Revision::new(from, 0));
    // A record that begins before may reach into what is asked for.
    let floor = history.floor(&first)?.map(|(key, _)| key);
    let start = floor
        .filter(|key| matches!(layout::parse_history_key(key), Some((_, None))))
        .unwrap_or_else(|| Bytes::copy_from_slice(&first));
    let end = layout::record_key(Revision::new(to.saturating_add(1), 0));
    let (mut found, mut looked_at, mut last, mut cut) = (Vec::new(), 0, from - 1, false);
    let mut damage = None;
    history.scan(&start, &end, &mut |key, value| {
        let Some((base, None)) = layout::parse_history_key(&key) else {
            // A part: whoever needs it reads it with its head.
            return ControlFlow::Continue(());
        };
        if looked_at >= bytes && base.main > last {
            cut = true;
            return ControlFlow::Break(());
        }
        looked_at += value.len();
        match entries(base, &value, (from, to), wanted, &mut found) {
            Ok(main) => last = last.max(main),
            Err(error) => {
                damage = Some(error);
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    })?;
    if let Some(damage) = damage {
        return Err(damage.into());
    }
    let mut events = Vec::with_capacity(found.len());
    for found in found {
        let entry = match found {
            Found::Entry(entry) => entry,
            Found::Large(base, head) => {
                let (_, body) = record::open_unchecked(&head)?;
                let entry = read::large(history, base, body)?;
                if !wanted(&entry.key) {
                    continue;
                }
                entry
            }
        };
        events.push(event(entry));
    }
    Ok(EventsRead { events, up_to: if cut { last.min(to) } else { to } })
}

/// Adds the wanted entries of one record to `found`; its last main revision.
fn entries(
    base: Revision,
    value: &Bytes,
    (from, to): (i64, i64),
    wanted: &mut dyn FnMut(&[u8]) -> bool,
    found: &mut Vec<Found>,
) -> Result<i64, Damage> {
    let body = match record::open_unchecked(value)? {
        (Kind::Record, body) => body,
        (Kind::LargeHead, _) => {
            if (from..=to).contains(&base.main) {
                found.push(Found::Large(base, value.clone()));
            }
            return Ok(base.main);
        }
        (kind @ (Kind::LargePart | Kind::Small), _) => return Err(Damage::Kind(kind as u8)),
    };
    let (mut walk, mut last) = (Walk::new(base, body), base.main);
    while let Some(raw) = walk.next()? {
        last = raw.revision.main;
        if last > to {
            break;
        }
        if last >= from {
            let entry = raw.entry(value)?;
            if wanted(&entry.key) {
                found.push(Found::Entry(entry));
            }
        }
    }
    Ok(last)
}

fn event(entry: Entry) -> Event {
    if entry.tombstone {
        let kv = KeyValue { key: entry.key, mod_revision: entry.revision.main, ..KeyValue::default() };
        return Event { kind: EventKind::Delete, kv };
    }
    Event { kind: EventKind::Put, kv: entry.into_kv() }
}

impl State {
    /// The pair of `key` before the change at main revision `revision`; `None` if there was none, or it was compacted.
    ///
    /// # Errors
    /// [`Refusal::Unreadable`] if the engine could not be read or lacks the record.
    pub fn previous(
        &self,
        history: &dyn History,
        key: &[u8],
        revision: i64,
    ) -> Result<Option<KeyValue>, Refusal> {
        let before = revision.saturating_sub(1);
        if before < self.compacted {
            return Ok(None);
        }
        let Some(found) = self.index.at(key, before) else { return Ok(None) };
        match Reader::new(history).read(found.modified) {
            Ok(entry) => Ok(Some(entry.into_kv())),
            Err(Refusal::Compacted) => Err(Refusal::Unreadable),
            Err(refusal) => Err(refusal),
        }
    }
}
