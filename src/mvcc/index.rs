//! The key index: every key and its revisions, in memory, rebuilt at start from the history.

use super::Revision;
use super::blocks::Blocks;
use super::versions::{Found, Versions};

/// Which keys a request means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Span<'a> {
    /// One key.
    One(&'a [u8]),
    /// Every key from this one on.
    From(&'a [u8]),
    /// Every key in `[from, to)`; `from < to`.
    Between(&'a [u8], &'a [u8]),
    /// No key: the range is inverted or empty, which etcd accepts.
    Empty,
}

impl<'a> Span<'a> {
    /// The span that etcd's `key` and `range_end` mean.
    pub(super) fn new(key: &'a [u8], range_end: &'a [u8]) -> Self {
        match range_end {
            [] => Self::One(key),
            [0] => Self::From(key),
            end if key < end => Self::Between(key, end),
            _ => Self::Empty,
        }
    }
}

/// Keys and their revisions.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Index {
    map: Blocks<Versions>,
    /// Keys whose newest revision is not a tombstone.
    live: usize,
}

impl Index {
    /// Keys that are there now.
    pub(super) fn live(&self) -> usize {
        self.live
    }

    /// `key` at `revision`.
    pub(super) fn at(&self, key: &[u8], revision: i64) -> Option<Found> {
        self.map.get(key)?.at(revision)
    }

    /// The last revision of `key` up to `revision`, and whether it is a tombstone.
    pub(super) fn last_at(&self, key: &[u8], revision: i64) -> Option<(Revision, bool)> {
        self.map.get(key)?.last_at(revision)
    }

    /// The keys of `span` that were there at `revision`, in order.
    pub(super) fn range<'a>(
        &'a self,
        span: Span<'a>,
        revision: i64,
    ) -> impl Iterator<Item = (&'a [u8], Found)> {
        self.entries(span).filter_map(move |(key, versions)| Some((key, versions.at(revision)?)))
    }

    /// All keys of `span` that are known, in order.
    pub(super) fn entries<'a>(&'a self, span: Span<'a>) -> impl Iterator<Item = (&'a [u8], &'a Versions)> {
        let one = match span {
            Span::One(key) => self.map.get(key).map(|versions| (key, versions)),
            _ => None,
        };
        let many = match span {
            Span::From(key) => Some((key, None)),
            Span::Between(from, to) => Some((from, Some(to))),
            Span::One(_) | Span::Empty => None,
        };
        one.into_iter().chain(many.into_iter().flat_map(|(from, to)| self.map.range(from, to)))
    }

    /// Add a write of `key`, above all its revisions. Its create revision and version.
    pub(super) fn put(&mut self, key: &[u8], revision: Revision) -> (i64, i64) {
        if let Some(versions) = self.map.get_mut(key) {
            let (create, version, was_there) = versions.put(revision);
            self.live += usize::from(!was_there);
            return (create, version);
        }
        self.map.insert(key, Versions::live(revision, revision.main, 1));
        self.live += 1;
        (revision.main, 1)
    }

    /// Add a deletion of `key`, above all its revisions. Whether the key was there; if not, nothing changes.
    pub(super) fn delete(&mut self, key: &[u8], revision: Revision) -> bool {
        let was_there = self.map.get_mut(key).is_some_and(|versions| versions.delete(revision));
        self.live -= usize::from(was_there);
        was_there
    }

    /// Let `versions` be all that is known of `key`; `None` forgets it. For loading.
    pub(super) fn set(&mut self, key: &[u8], versions: Option<Versions>) {
        let now = versions.as_ref().is_some_and(Versions::is_live);
        let before = match versions {
            Some(versions) => match self.map.get_mut(key) {
                Some(place) => Some(std::mem::replace(place, versions)),
                None => self.map.insert(key, versions),
            },
            None => self.map.remove(key),
        };
        self.live += usize::from(now);
        self.live -= usize::from(before.as_ref().is_some_and(Versions::is_live));
    }

    /// Forget the revisions of `key` that compaction at `compacted` kills.
    pub(super) fn trim(&mut self, key: &[u8], compacted: i64) {
        if let Some(versions) = self.map.get_mut(key)
            && !versions.trim(compacted)
        {
            self.map.remove(key);
        }
    }
}
