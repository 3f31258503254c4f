//! The revisions of one key, as generations: a generation begins when the key is created and ends with a tombstone.
//!
//! A store of many keys is mostly keys that were written once, so that case is two words and needs no allocation. The version
//! and the create revision follow from the position in the generation; nothing is stored twice.

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

    fn is_last(&self, position: usize) -> bool {
        position + 1 == self.revisions.len()
    }

    /// Forget what is before `position`, where `tombstone` says what is.
    fn cut(&mut self, position: usize, tombstone: bool) {
        self.revisions.drain(..position);
        self.first_version += position as i64;
        if tombstone {
            // As loading finds it, which sees no more.
            (self.create, self.first_version) = (0, 0);
        }
        if self.revisions.capacity() > 4 * self.revisions.len() {
            self.revisions.shrink_to_fit();
        }
    }
}

/// Generations of a key that was written more than once, or deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Generations {
    /// Each ended with a tombstone.
    older: Vec<Generation>,
    current: Generation,
}

impl Generations {
    /// The last revision up to `revision`: its generation, its position there, and whether that generation ended, if the
    /// current one did or not is `ended`.
    fn last_at(&self, revision: i64, ended: bool) -> Option<(&Generation, usize, bool)> {
        let (generation, ended) = if self.current.first_main() <= revision {
            (&self.current, ended)
        } else {
            let following = self.older.partition_point(|generation| generation.first_main() <= revision);
            (self.older.get(following.checked_sub(1)?)?, true)
        };
        let position = generation.position(revision)?;
        Some((generation, position, ended && generation.is_last(position)))
    }
}

/// All revisions of one key that compaction left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Versions {
    /// Created, and never written since.
    Once { main: i64, sub: u32 },
    /// `ended`: the current generation ended. It is here so that counting keys follows no pointer.
    Many { ended: bool, generations: Box<Generations> },
}

impl Versions {
    /// A key that is there since `create`, last written at `modified`; older revisions are not known.
    pub(super) fn live(modified: Revision, create: i64, version: i64) -> Self {
        let slot = Slot::new(modified);
        if (create, version) == (slot.main, 1) {
            return Self::Once { main: slot.main, sub: slot.sub };
        }
        Self::many(false, Generation { create, first_version: version, revisions: vec![slot] })
    }

    /// A key of which only its deletion is known.
    pub(super) fn deleted(at: Revision) -> Self {
        Self::many(true, Generation { create: 0, first_version: 0, revisions: vec![Slot::new(at)] })
    }

    fn many(ended: bool, current: Generation) -> Self {
        Self::Many { ended, generations: Box::new(Generations { older: Vec::new(), current }) }
    }

    /// The key is there now.
    pub(super) fn is_live(&self) -> bool {
        !matches!(self, Self::Many { ended: true, .. })
    }

    /// What the key was at `revision`; nothing if it was not there.
    pub(super) fn at(&self, revision: i64) -> Option<Found> {
        match self {
            Self::Once { main, sub } => (*main <= revision).then_some(Found {
                modified: Revision::new(*main, i64::from(*sub)),
                create: *main,
                version: 1,
            }),
            Self::Many { ended, generations } => {
                let (generation, position, tombstone) = generations.last_at(revision, *ended)?;
                if tombstone {
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
            Self::Once { .. } => self.at(revision).map(|found| (found.modified, false)),
            Self::Many { ended, generations } => {
                let (generation, position, tombstone) = generations.last_at(revision, *ended)?;
                Some((generation.revisions.get(position)?.revision(), tombstone))
            }
        }
    }

    /// Add a write; `revision` is above all others. Create revision, version, and whether the key was there before.
    pub(super) fn put(&mut self, revision: Revision) -> (i64, i64, bool) {
        let slot = Slot::new(revision);
        match self {
            Self::Once { main, sub } => {
                let create = *main;
                let revisions = vec![Slot { main: create, sub: *sub }, slot];
                *self = Self::many(false, Generation { create, first_version: 1, revisions });
                (create, 2, true)
            }
            Self::Many { ended, generations } if *ended => {
                let create = revision.main;
                let new = Generation { create, first_version: 1, revisions: vec![slot] };
                let old = std::mem::replace(&mut generations.current, new);
                generations.older.push(old);
                *ended = false;
                (create, 1, false)
            }
            Self::Many { generations, .. } => {
                let current = &mut generations.current;
                current.revisions.push(slot);
                (current.create, current.first_version + current.revisions.len() as i64 - 1, true)
            }
        }
    }

    /// Add a deletion; `revision` is above all others. Whether the key was there.
    pub(super) fn delete(&mut self, revision: Revision) -> bool {
        if !self.is_live() {
            return false;
        }
        self.put(revision);
        if let Self::Many { ended, .. } = self {
            *ended = true;
        }
        true
    }

    /// Forget what compaction at `compacted` kills (see [`super::compaction`]). `false` if nothing is left.
    pub(super) fn trim(&mut self, compacted: i64) -> bool {
        let Self::Many { ended, generations } = self else { return true };
        let ended = *ended;
        let Generations { older, current } = &mut **generations;
        let dead = older.partition_point(|generation| generation.first_main() <= compacted);
        let in_current = current.first_main() <= compacted;
        // The last generation that begins at or before `compacted` is cut, and those before it are dead.
        older.drain(..if in_current { dead } else { dead.saturating_sub(1) });
        let cut = if in_current { Some(&mut *current) } else { older.first_mut() };
        let mut gone = false;
        if let Some(generation) = cut
            && let Some(position) = generation.position(compacted)
        {
            let tombstone = (ended || !in_current) && generation.is_last(position);
            let main = generation.revisions.get(position).map_or(0, |slot| slot.main);
            gone = tombstone && main != compacted;
            generation.cut(position, tombstone);
        }
        match (gone, in_current) {
            (true, true) => return false,
            (true, false) => drop(older.remove(0)),
            (false, _) => {}
        }
        older.shrink_to_fit();
        if let (true, false, [slot]) = (older.is_empty(), ended, current.revisions.as_slice())
            && (current.create, current.first_version) == (slot.main, 1)
        {
            *self = Self::Once { main: slot.main, sub: slot.sub };
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_was_written_once_takes_two_words() {
        assert_eq!(size_of::<Versions>(), 16);
    }
}
