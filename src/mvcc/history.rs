//! The read port: what the state machine asks of whoever keeps the records.
//!
//! Synchronous, because apply, reads and compaction run between two awaits of their caller. `raft` implements it over the
//! storage engine. It sees committed content only: what an [`super::Applied`] holds is there once its changes are written.

use std::ops::ControlFlow;

use bytes::Bytes;

/// Ordered key-value content that can be read.
pub trait History: Send + Sync {
    /// The value of `key`.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, HistoryError>;

    /// The greatest key that is not above `key`, and its value.
    fn floor(&self, key: &[u8]) -> Result<Option<(Bytes, Bytes)>, HistoryError>;

    /// Show `visit` every pair in `[from, to)`, in ascending order of keys, until it breaks.
    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(Bytes, Bytes) -> ControlFlow<()>,
    ) -> Result<(), HistoryError>;
}

/// The engine could not be read. The state of this member is of no use any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the state engine could not be read: {0}")]
pub struct HistoryError(
    /// What the engine said.
    pub String,
);
