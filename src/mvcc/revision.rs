//! Revisions: the store's logical clock.

use std::fmt;

/// When a key was written: the `main` revision of the write, and which of that write's changes it was.
///
/// An empty store has main revision 1 and each request that changes anything adds one (etcd's rule); `sub` counts the
/// changes of one request from 0. Neither is ever negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision {
    /// Revision of the request.
    pub main: i64,
    /// Which change of the request.
    pub sub: i64,
}

impl Revision {
    /// Main revision of a store that nothing was written to.
    pub const EMPTY_STORE: i64 = 1;

    /// The revision of change `sub` of request `main`.
    pub const fn new(main: i64, sub: i64) -> Self {
        Self { main, sub }
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.main, self.sub)
    }
}
