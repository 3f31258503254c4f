//! What the hub and its sessions ask of the applied state.

use crate::mvcc::{EventsRead, KeyValue};

/// Why the history could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadFailure {
    /// What was asked for is compacted.
    #[error("the revision has been compacted")]
    Compacted,
    /// A snapshot is being installed: later.
    #[error("a snapshot is being installed")]
    Busy,
    /// The member stops.
    #[error("the member is stopping")]
    Stopped,
    /// The state of this member is lost.
    #[error("{0}")]
    Lost(String),
}

/// The applied state. What was published is in it.
pub trait Source: Send + Sync + 'static {
    /// Revision of the store. May be ahead of what was published by what is being published.
    fn revision(&self) -> i64;

    /// The compacted revision: what is below it is gone.
    fn compacted(&self) -> i64;

    /// One bounded step of reading the events of revisions `from` to `to` on `wanted` keys. At least one revision is read.
    ///
    /// # Errors
    /// [`ReadFailure::Compacted`] if `from` is below the compacted revision.
    fn events(
        &self,
        from: i64,
        to: i64,
        wanted: &mut dyn FnMut(&[u8]) -> bool,
    ) -> Result<EventsRead, ReadFailure>;

    /// The pair of `key` before its change at `revision`; `None` if there was none, or it is compacted.
    ///
    /// # Errors
    /// [`ReadFailure::Busy`] and [`ReadFailure::Lost`].
    fn previous(&self, key: &[u8], revision: i64) -> Result<Option<KeyValue>, ReadFailure>;
}
