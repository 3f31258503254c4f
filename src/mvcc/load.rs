//! Rebuilding the state from the engine: one ordered scan that checks everything it reads.
//!
//! Checked are: the checksum and form of every item; that revisions ascend, and have no gap above the compacted revision, below
//! which gaps are what compaction does; that create revision and version of every change fit the changes before it; that large
//! entries are whole; that every key that is there hangs on a lease that is there. What compaction killed but a pass has not removed yet is left out of the index.

use std::ops::ControlFlow;

use bytes::{Bytes, BytesMut};

use super::history::{History, HistoryError};
use super::lease::Named;
use super::record::{self, Damage, Entry, Kind, Raw, Walk};
use super::small::{self, Item};
use super::state::NEVER;
use super::versions::Versions;
use super::{Revision, State, auth, layout};

/// The engine does not hold a sound state. It is a cache: throw it away and rebuild it from snapshot and log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// The engine could not be read.
    #[error(transparent)]
    Unreadable(#[from] HistoryError),
    /// An item is not what was written, or does not fit the others.
    #[error("the item {} of the state engine: {reason}", Hex(key))]
    Damaged {
        /// The item's key.
        key: Bytes,
        /// What is wrong.
        reason: Reason,
    },
}

/// What is wrong with an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// Its bytes.
    #[error(transparent)]
    Damage(#[from] Damage),
    /// A revision does not follow the one before.
    #[error("revision {found} follows {last}")]
    Order {
        /// The revision before.
        last: Revision,
        /// The one that does not follow.
        found: Revision,
    },
    /// Create revision or version do not fit the key's last change.
    #[error("revision {found} has create revision {create} and version {version}, which do not follow")]
    Version {
        /// The change.
        found: Revision,
        /// Its create revision.
        create: i64,
        /// Its version.
        version: i64,
    },
    /// Keys hang on the lease of this id, which is missing: a lease goes together with its keys.
    #[error("it is missing, but keys hang on it")]
    LeaseMissing,
    /// A key is deleted that is not there.
    #[error("revision {found} deletes a key that is not there")]
    Absent {
        /// The deletion.
        found: Revision,
    },
}

/// Bytes as people read them.
struct Hex<'a>(&'a [u8]);

impl std::fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl State {
    /// Rebuild the state from what the engine holds.
    pub fn load(history: &dyn History) -> Result<Self, LoadError> {
        let mut state = Self::new();
        let (from, to) = layout::small_span();
        let mut pieces = auth::Pieces::default();
        scan(history, &from, &to, &mut |key, value| {
            state.load_small(key, value, &mut pieces).map_err(Reason::from)
        })?;
        state.auth =
            pieces.finish().map_err(|(key, damage)| LoadError::Damaged { key, reason: damage.into() })?;
        let named = Named::default();
        let mut loader = Loader { state, last: Revision::default(), large: None, named };
        scan(history, &[layout::HISTORY], &[layout::HISTORY + 1], &mut |key, value| loader.load(key, value))?;
        let Loader { mut state, last, large, named } = loader;
        if let Some(large) = large {
            let key = Bytes::copy_from_slice(&layout::record_key(large.head));
            return Err(LoadError::Damaged { key, reason: Damage::Part.into() });
        }
        named.hang_on(&mut state.leases).map_err(|lease| LoadError::Damaged {
            key: layout::lease_key(lease).into(),
            reason: Reason::LeaseMissing,
        })?;
        state.revision = last.main.max(state.compacted).max(Revision::EMPTY_STORE);
        Ok(state)
    }

    fn load_small(&mut self, key: &Bytes, value: &Bytes, pieces: &mut auth::Pieces) -> Result<(), Damage> {
        match small::read(key, value)? {
            Item::Compacted(revision) if revision > NEVER => self.compacted = revision,
            Item::Compacted(_) => return Err(Damage::Number),
            Item::Progress(progress) => self.progress = progress,
            Item::Mark(node, mark) => {
                self.cluster.marks.insert(node, mark);
            }
            Item::Admission(ordinal, admission) => {
                self.cluster.admissions.insert(ordinal, admission);
            }
            Item::Lease(id, lease) => self.leases.load(id, lease),
            Item::Alarm(kept) => self.cluster.alarms.load(kept),
            Item::Auth(item) => pieces.add(item),
            Item::ByHand(ordinal, by_hand) => {
                self.cluster.by_hand.insert(ordinal, by_hand);
            }
            Item::Desired(range) => self.cluster.desired = Some(range),
            Item::Event(number, event) => self.cluster.events.load(number, event),
        }
        Ok(())
    }
}

/// Show `visit` the pairs of a span until it finds one damaged.
fn scan(
    history: &dyn History,
    from: &[u8],
    to: &[u8],
    visit: &mut dyn FnMut(&Bytes, &Bytes) -> Result<(), Reason>,
) -> Result<(), LoadError> {
    let mut damaged = None;
    history.scan(from, to, &mut |key, value| match visit(&key, &value) {
        Ok(()) => ControlFlow::Continue(()),
        Err(reason) => {
            damaged = Some(LoadError::Damaged { key, reason });
            ControlFlow::Break(())
        }
    })?;
    damaged.map_or(Ok(()), Err)
}

struct Loader {
    state: State,
    /// The last change that was read.
    last: Revision,
    large: Option<Large>,
    named: Named,
}

/// A large entry that is being put together.
struct Large {
    head: Revision,
    total: usize,
    next_part: u32,
    bytes: BytesMut,
}

impl Loader {
    fn load(&mut self, key: &Bytes, value: &Bytes) -> Result<(), Reason> {
        let (base, part) = layout::parse_history_key(key).ok_or(Damage::Key)?;
        let (kind, body) = record::open(key, value)?;
        self.state.history_bytes += (key.len() + value.len()) as u64;
        match (kind, part) {
            (Kind::Record, None) => {
                self.no_large()?;
                self.load_record(base, body, value)
            }
            (Kind::LargeHead, None) => {
                self.no_large()?;
                let (total, first) = record::large_head(body)?;
                self.large = Some(Large { head: base, total, next_part: 1, bytes: first.into() });
                self.finish_large()
            }
            (Kind::LargePart, Some(part)) => {
                let large = self.large.as_mut().ok_or(Damage::Part)?;
                if large.head != base
                    || large.next_part != part
                    || large.bytes.len() + body.len() > large.total
                {
                    return Err(Damage::Part.into());
                }
                large.next_part = part.saturating_add(1);
                large.bytes.extend_from_slice(body);
                self.finish_large()
            }
            (kind, _) => Err(Damage::Kind(kind as u8).into()),
        }
    }

    fn no_large(&self) -> Result<(), Damage> {
        if self.large.is_some() { Err(Damage::Part) } else { Ok(()) }
    }

    fn load_record(&mut self, base: Revision, body: &[u8], value: &Bytes) -> Result<(), Reason> {
        let mut walk = Walk::new(base, body);
        let mut found = None;
        while let Some(raw) = walk.next()? {
            if raw.revision < base {
                return Err(Reason::Order { last: base, found: raw.revision });
            }
            found = Some(raw.revision);
            self.add(&raw.entry(value)?)?;
        }
        found.map(drop).ok_or(Damage::Truncated.into())
    }

    fn finish_large(&mut self) -> Result<(), Reason> {
        let Some(large) = self.large.take_if(|large| large.bytes.len() == large.total) else {
            return Ok(());
        };
        let whole = large.bytes.freeze();
        let entry = Raw::new(large.head.main, &whole)?.entry(&whole)?;
        if entry.revision != large.head {
            return Err(Reason::Order { last: large.head, found: entry.revision });
        }
        self.add(&entry)
    }

    fn add(&mut self, entry: &Entry) -> Result<(), Reason> {
        let last = std::mem::replace(&mut self.last, entry.revision);
        let found = entry.revision;
        self.named.set(&entry.key, entry.lease);
        if found.main > self.state.compacted {
            let continued = Revision::new(last.main, last.sub + 1);
            let newest = last.main.max(self.state.compacted).max(Revision::EMPTY_STORE);
            if found != continued && found != Revision::new(newest.saturating_add(1), 0) {
                return Err(Reason::Order { last, found });
            }
            return self.add_newer(entry);
        }
        if found <= last || found.main <= Revision::EMPTY_STORE {
            return Err(Reason::Order { last, found });
        }
        self.add_compacted(entry)
    }

    /// A change above the compacted revision: it must follow from what is known of its key.
    fn add_newer(&mut self, entry: &Entry) -> Result<(), Reason> {
        let Entry { revision: found, create, version, .. } = *entry;
        let index = &mut self.state.index;
        if entry.tombstone {
            return if index.delete(&entry.key, found) { Ok(()) } else { Err(Reason::Absent { found }) };
        }
        if index.put(&entry.key, found) == (create, version) {
            Ok(())
        } else {
            Err(Reason::Version { found, create, version })
        }
    }

    /// A change at or below the compacted revision: the key's last one is all that counts, and of those before it any may be
    /// gone.
    fn add_compacted(&mut self, entry: &Entry) -> Result<(), Reason> {
        let Entry { revision: found, create, version, .. } = *entry;
        let index = &mut self.state.index;
        if entry.tombstone {
            let seen = (found.main == self.state.compacted).then(|| Versions::deleted(found));
            index.set(&entry.key, seen);
            return Ok(());
        }
        let follows = match index.at(&entry.key, i64::MAX) {
            Some(before) if before.create == create => version > before.version,
            Some(before) => create > before.modified.main,
            None => true,
        };
        // A first version is the one that created the key.
        let plausible = version > 1 || version == 1 && create == found.main;
        if !follows || !plausible {
            return Err(Reason::Version { found, create, version });
        }
        index.set(&entry.key, Some(Versions::live(found, create, version)));
        Ok(())
    }
}
