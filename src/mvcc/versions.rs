//! The revisions of one key, as generations: a generation begins when the key is created and ends with a tombstone.
//!
//! Most keys were written once since the last compaction, so that case needs no allocation. The version and the create
//! revision follow from the position in the generation; nothing is stored twice.

use super::Revision;

/// What the index knows of a key at some revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub modified: Revision,
    pub create: i64,
    pub version: i64,
}

/// A revision in 16 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slot {
    main: i64,
    sub: u32,
}

impl Slot {
    fn new(revision: Revision) -> Self {
        Self { main: revision.main, sub: u32::try_from(revision.sub).unwrap_or(u32::MAX) }
    }

    fn revision(self) -> Revision {
        Revision::new(self.main, i64::from(self.sub))
    }
}

/// One life of a key. Never without revisions.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Generation {
    create: i64,
    /// Version of the first revision that compaction left.
    first_version: i64,
    revisions: Vec<Slot>,
    /// The last revision is a tombstone.
    ended: bool,
}

impl Generation {
    fn first_main(&self) -> i64 {
        self.revisions.first().map_or(i64::MAX, |slot| slot.main)
    }

    /// Position of the last revision that is not above `revision`.
    fn position(&self, revision: i64) -> Option<usize> {
        // Reads at the newest revision are nearly all reads.
        if self.revisions.last().is_some_and(|last| last.main <= revision) {
            return self.revisions.len().checked_sub(1);
        }
        self.revisions.partition_point(|slot| slot.main <= revision).checked_sub(1)
    }

    fn is_tombstone(&self, position: usize) -> bool {
        self.ended && position + 1 == self.revisions.len()
    }
}

/// Generations of a key that has more than one revision, or a tombstone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Generations {
    older: Vec<Generation>,
    current: Generation,
}

impl Generations {
    /// The generation that `revision` falls into, or the one that ended before it.
    fn around(&self, revision: i64) -> Option<&Generation> {
        if self.current.first_main() <= revision {
            return Some(&self.current);
        }
        let following = self.older.partition_point(|generation| generation.first_main() <= revision);
        self.older.get(following.checked_sub(1)?)
    }
}

/// All revisions of one key that compaction left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Versions {
    One { main: i64, create: i64, version: i64, sub: u32 },
    Many(Box<Generations>),
}

impl Versions {
    /// A key that is there since `create`, last written at `modified`; older revisions are not known.
    pub(super) fn live(modified: Revision, create: i64, version: i64) -> Self {
        let Slot { main, sub } = Slot::new(modified);
        Self::One { main, create, version, sub }
    }

    /// A key of which only its deletion is known.
    pub(super) fn deleted(at: Revision) -> Self {
        let current = Generation { create: 0, first_version: 0, revisions: vec![Slot::new(at)], ended: true };
        Self::Many(Box::new(Generations { older: Vec::new(), current }))
    }

    /// What the key was at `revision`; nothing if it was not there.
    pub(super) fn at(&self, revision: i64) -> Option<Found> {
        match self {
            Self::One { main, create, version, sub } => (*main <= revision).then_some(Found {
                modified: Revision::new(*main, i64::from(*sub)),
                create: *create,
                version: *version,
            }),
            Self::Many(generations) => {
                let generation = generations.around(revision)?;
                let position = generation.position(revision)?;
                if generation.is_tombstone(position) {
                    return None;
                }
                Some(Found {
                    modified: generation.revisions.get(position)?.revision(),
                    create: generation.create,
                    version: generation.first_version + position as i64,
                })
            }
        }
    }

    /// The last revision of the key up to `revision`, and whether it is a tombstone.
    pub(super) fn last_at(&self, revision: i64) -> Option<(Revision, bool)> {
        match self {
            Self::One { .. } => self.at(revision).map(|found| (found.modified, false)),
            Self::Many(generations) => {
                let generation = generations.around(revision)?;
                let position = generation.position(revision)?;
                Some((generation.revisions.get(position)?.revision(), generation.is_tombstone(position)))
            }
        }
    }

    /// Add a write; `revision` is above all others. Create revision, version, and whether the key was there before.
    pub(super) fn put(&mut self, revision: Revision) -> (i64, i64, bool) {
        let slot = Slot::new(revision);
        match self {
            Self::One { main, create, version, sub } => {
                let (create, first_version) = (*create, *version);
                let revisions = vec![Slot { main: *main, sub: *sub }, slot];
                let current = Generation { create, first_version, revisions, ended: false };
                *self = Self::Many(Box::new(Generations { older: Vec::new(), current }));
                (create, first_version + 1, true)
            }
            Self::Many(generations) if generations.current.ended => {
                let create = revision.main;
                let new = Generation { create, first_version: 1, revisions: vec![slot], ended: false };
                let old = std::mem::replace(&mut generations.current, new);
                generations.older.push(old);
                (create, 1, false)
            }
            Self::Many(generations) => {
                let current = &mut generations.current;
                current.revisions.push(slot);
                (current.create, current.first_version + current.revisions.len() as i64 - 1, true)
            }
        }
    }

    /// Add a deletion; `revision` is above all others. Whether the key was there.
    pub(super) fn delete(&mut self, revision: Revision) -> bool {
        if matches!(self, Self::Many(generations) if generations.current.ended) {
            return false;
        }
        self.put(revision);
        if let Self::Many(generations) = self {
            generations.current.ended = true;
        }
        true
    }

    /// Forget what compaction at `compacted` kills (see [`super::compaction`]). `false` if nothing is left.
    pub(super) fn trim(&mut self, compacted: i64) -> bool {
        let Self::Many(generations) = self else { return true };
        let Generations { older, current } = &mut **generations;
        let mut all: Vec<Generation> = std::mem::take(older);
        all.push(std::mem::replace(
            current,
            Generation { create: 0, first_version: 0, revisions: Vec::new(), ended: false },
        ));
        let dead = all.partition_point(|generation| generation.first_main() <= compacted).saturating_sub(1);
        all.drain(..dead);
        if let Some(first) = all.first_mut()
            && let Some(position) = first.position(compacted)
        {
            let gone = first.is_tombstone(position)
                && first.revisions.get(position).is_none_or(|slot| slot.main != compacted);
            if gone {
                all.remove(0);
            } else {
                first.revisions.drain(..position);
                first.first_version += position as i64;
                if first.is_tombstone(0) {
                    // As loading finds it, which sees no more.
                    (first.create, first.first_version) = (0, 0);
                }
                if first.revisions.capacity() > 4 * first.revisions.len() {
                    first.revisions.shrink_to_fit();
                }
            }
        }
        let Some(newest) = all.pop() else { return false };
        if let (true, false, [slot]) = (all.is_empty(), newest.ended, newest.revisions.as_slice()) {
            *self = Self::live(slot.revision(), newest.create, newest.first_version);
        } else {
            *older = all;
            *current = newest;
        }
        true
    }
}
