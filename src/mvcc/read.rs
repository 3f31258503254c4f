//! Reading one revision from the history.

use std::ops::ControlFlow;

use bytes::{Bytes, BytesMut};

use super::command::Refusal;
use super::history::{History, HistoryError};
use super::record::{self, Damage, Entry, Kind, Raw, Walk};
use super::{Revision, layout};
use crate::limits;

/// A record that starts further below a revision than this is not searched for it before the engine is asked.
const NEAR: i64 = 1_024;

/// Reads revisions; ascending ones that lie in one record cost one question to the engine.
pub(super) struct Reader<'a> {
    history: &'a dyn History,
    near: Option<Near>,
}

/// The record that was read last, from behind the entry that was read last.
struct Near {
    base: Revision,
    after: Revision,
    record: Bytes,
    rest: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(history: &'a dyn History) -> Self {
        Self { history, near: None }
    }

    /// The entry of `revision`. [`Refusal::Compacted`] if it is not there: whoever asks knows it from the index, so only
    /// compaction can have taken it.
    pub(super) fn read(&mut self, revision: Revision) -> Result<Entry, Refusal> {
        if let Some(near) = &mut self.near
            && near.after < revision
            && revision.main - near.base.main < NEAR
            && let Some(entry) = near.find(revision)?
        {
            return Ok(entry);
        }
        self.near = None;
        let floor = self.history.floor(&layout::record_key(revision))?;
        let (key, value) = floor.ok_or(Refusal::Compacted)?;
        let Some((base, None)) = layout::parse_history_key(&key) else { return Err(Refusal::Compacted) };
        match record::open_unchecked(&value)? {
            (Kind::Record, body) => {
                let rest = body.len();
                let mut near = Near { base, after: Revision::default(), record: value.clone(), rest };
                let entry = near.find(revision)?.ok_or(Refusal::Compacted)?;
                if near.rest > 0 {
                    self.near = Some(near);
                }
                Ok(entry)
            }
            (Kind::LargeHead, body) if base == revision => large(self.history, base, body),
            (Kind::LargeHead, _) => Err(Refusal::Compacted),
            (Kind::LargePart | Kind::Small, _) => Err(Refusal::Unreadable),
        }
    }
}

impl Near {
    fn find(&mut self, revision: Revision) -> Result<Option<Entry>, Damage> {
        let rest = self.record.len() - self.rest;
        let mut walk = Walk::new(self.base, self.record.get(rest..).unwrap_or_default());
        while let Some(raw) = walk.next()? {
            if raw.revision >= revision {
                if raw.revision > revision {
                    return Ok(None);
                }
                let entry = raw.entry(&self.record)?;
                (self.after, self.rest) = (revision, walk.rest().len());
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }
}

/// Put a large entry together; `body` is its head's.
pub(super) fn large(history: &dyn History, head: Revision, body: &[u8]) -> Result<Entry, Refusal> {
    let (total, first) = record::large_head(body)?;
    if total > limits::LARGE_ENTRY_BYTES {
        return Err(Refusal::Unreadable);
    }
    let mut whole = BytesMut::with_capacity(total);
    whole.extend_from_slice(first);
    let mut damage = None;
    let (from, to) = (layout::part_key(head, 1), layout::part_key(head, u32::MAX));
    let mut expected = 1;
    history.scan(&from, &to, &mut |key, value| {
        if key.as_ref() != layout::part_key(head, expected) {
            return ControlFlow::Break(());
        }
        expected += 1;
        match record::open_unchecked(&value) {
            Ok((Kind::LargePart, body)) if whole.len() + body.len() <= total => {
                whole.extend_from_slice(body);
            }
            Ok(_) => damage = Some(Damage::Part),
            Err(other) => damage = Some(other),
        }
        if whole.len() == total || damage.is_some() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    })?;
    if let Some(damage) = damage {
        return Err(damage.into());
    }
    if whole.len() < total {
        // The head was read before compaction took the parts.
        return Err(Refusal::Compacted);
    }
    let whole = whole.freeze();
    let entry = Raw::new(head.main, &whole)?.entry(&whole)?;
    if entry.revision == head { Ok(entry) } else { Err(Refusal::Unreadable) }
}

impl From<HistoryError> for Refusal {
    fn from(_: HistoryError) -> Self {
        Self::Unreadable
    }
}

impl From<Damage> for Refusal {
    fn from(_: Damage) -> Self {
        Self::Unreadable
    }
}

/// Up to `count` records and heads of large entries from `from` on, through main revision `through`. Fewer: there are no
/// more. The parts of large entries are stepped over.
pub(super) fn next_records(
    history: &dyn History,
    from: Revision,
    through: i64,
    count: usize,
) -> Result<Vec<(Revision, Bytes)>, Refusal> {
    let mut records: Vec<(Revision, Bytes)> = Vec::new();
    let mut from = from;
    let to = layout::record_key(Revision::new(through.saturating_add(1), 0));
    loop {
        let mut problem = None;
        let mut again = false;
        history.scan(&layout::record_key(from), &to, &mut |key, value| {
            let Some((base, None)) = layout::parse_history_key(&key) else {
                problem = Some(Refusal::Unreadable);
                return ControlFlow::Break(());
            };
            again = matches!(record::open_unchecked(&value), Ok((Kind::LargeHead, _)));
            from = after(base);
            records.push((base, value));
            if again || records.len() >= count { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        if let Some(problem) = problem {
            return Err(problem);
        }
        if !again || records.len() >= count {
            return Ok(records);
        }
    }
}

/// Where the next record can begin, if one begins at `base`.
pub(super) fn after(base: Revision) -> Revision {
    if base.sub < i64::from(u32::MAX) {
        Revision::new(base.main, base.sub + 1)
    } else {
        Revision::new(base.main.saturating_add(1), 0)
    }
}

/// All entries of the record, or the large entry, that begins at `base`.
pub(super) fn entries(history: &dyn History, base: Revision, value: &Bytes) -> Result<Vec<Entry>, Refusal> {
    match record::open_unchecked(value)? {
        (Kind::Record, body) => {
            let mut entries = Vec::new();
            let mut walk = Walk::new(base, body);
            while let Some(raw) = walk.next()? {
                entries.push(raw.entry(value)?);
            }
            Ok(entries)
        }
        (Kind::LargeHead, body) => {
            // Whoever walks the history does so with nobody compacting: what is missing is lost.
            Ok(vec![large(history, base, body).map_err(|_| Refusal::Unreadable)?])
        }
        (Kind::LargePart | Kind::Small, _) => Err(Refusal::Unreadable),
    }
}
