//! What a watcher watches: keys, and which of their changes.

use std::sync::Arc;

use super::EventKind;

/// The keys of a watcher.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WatchedKeys {
    /// One key.
    One(Arc<[u8]>),
    /// Every key from the first on, up to and without the second if there is one.
    Range(Arc<[u8]>, Option<Arc<[u8]>>),
}

/// A range that holds no key. etcd accepts it of a read, and refuses it of a watcher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("watcher range is empty")]
pub struct EmptyRange;

impl WatchedKeys {
    /// The keys that etcd's `key` and `range_end` mean. The key is copied, because a watcher lives long and a slice of a message
    /// keeps all of it.
    ///
    /// # Errors
    /// [`EmptyRange`] if `range_end` is not above `key`.
    pub fn new(key: &[u8], range_end: &[u8]) -> Result<Self, EmptyRange> {
        // The smallest key stands for none, as in etcd.
        let key = if key.is_empty() { b"\0" } else { key };
        match range_end {
            [] => Ok(Self::One(key.into())),
            [0] => Ok(Self::Range(key.into(), None)),
            end if key < end => Ok(Self::Range(key.into(), Some(end.into()))),
            _ => Err(EmptyRange),
        }
    }

    /// Whether `key` is one of them.
    pub fn contains(&self, key: &[u8]) -> bool {
        match self {
            Self::One(one) => **one == *key,
            Self::Range(from, to) => **from <= *key && to.as_ref().is_none_or(|to| *key < **to),
        }
    }

    /// First key and range end, as etcd names them.
    pub fn as_range(&self) -> (&[u8], &[u8]) {
        match self {
            Self::One(one) => (one, &[]),
            Self::Range(from, to) => (from, to.as_deref().unwrap_or(b"\0")),
        }
    }

    /// Bytes of the keys that name it.
    pub fn bytes(&self) -> usize {
        match self {
            Self::One(one) => one.len(),
            Self::Range(from, to) => from.len() + to.as_ref().map_or(0, |to| to.len()),
        }
    }
}

/// What a watcher wants of its keys' changes, in one byte, because there may be a hundred thousand watchers.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct WatchOptions(u8);

impl WatchOptions {
    /// No event of a write.
    pub const NO_PUT: Self = Self(1);
    /// No event of a deletion.
    pub const NO_DELETE: Self = Self(2);
    /// Each event with the pair before it.
    pub const PREVIOUS: Self = Self(4);
    /// Responses that are too large may be cut within a revision.
    pub const FRAGMENT: Self = Self(8);
    /// A word from time to time while nothing happens.
    pub const PROGRESS: Self = Self(16);

    /// These and `other`, if `wanted`.
    #[must_use]
    pub fn with(self, other: Self, wanted: bool) -> Self {
        if wanted { Self(self.0 | other.0) } else { self }
    }

    /// Whether all of `other` are among them.
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether an event of this kind is wanted.
    pub fn wants(self, kind: EventKind) -> bool {
        !self.has(match kind {
            EventKind::Put => Self::NO_PUT,
            EventKind::Delete => Self::NO_DELETE,
        })
    }
}

impl std::fmt::Debug for WatchOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = [
            (Self::NO_PUT, "no put"),
            (Self::NO_DELETE, "no delete"),
            (Self::PREVIOUS, "previous"),
            (Self::FRAGMENT, "fragment"),
            (Self::PROGRESS, "progress"),
        ];
        f.debug_list()
            .entries(names.iter().filter(|(option, _)| self.has(*option)).map(|(_, name)| name))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_and_range_end_mean_what_etcd_says() {
        let keys = |key: &str, end: &[u8]| WatchedKeys::new(key.as_bytes(), end);
        let all = keys("", b"\0").unwrap();
        assert!(all.contains(b"\0") && all.contains(b"zzz"));
        let from = keys("b", b"\0").unwrap();
        assert!(!from.contains(b"a") && from.contains(b"b") && from.contains(&[0xff]));
        let range = keys("b", b"d").unwrap();
        assert!(range.contains(b"b") && range.contains(b"czz") && !range.contains(b"d"));
        let one = keys("b", b"").unwrap();
        assert!(one.contains(b"b") && !one.contains(b"bb"));
        assert_eq!(keys("b", b"b"), Err(EmptyRange));
        assert_eq!(keys("b", b"a"), Err(EmptyRange));
        assert!(keys("", b"").unwrap().contains(b"\0"));
    }

    #[test]
    fn filters_leave_out_what_they_name() {
        let none = WatchOptions::default();
        assert!(none.wants(EventKind::Put) && none.wants(EventKind::Delete));
        let no_put = none.with(WatchOptions::NO_PUT, true).with(WatchOptions::NO_DELETE, false);
        assert!(!no_put.wants(EventKind::Put) && no_put.wants(EventKind::Delete));
        assert_eq!(format!("{no_put:?}"), "[\"no put\"]");
    }
}
