//! Ordered keys and values. A cache of log and snapshot: it can be thrown away at any moment (DESIGN, rule 1).
//!
//! Used by the state machine adapter, which owns what keys and values mean. Durability is not promised by anything but [`state`]'s
//! marker. Calls block, briefly.
//!
//! `sled` and `memory` are engines; `write_behind` stands in front of sled, for which a batch is expensive; `state` is the
//! directory.

#[cfg(feature = "simulation")]
mod journal;
mod memory;
mod sled;
pub mod state;
mod write_behind;

#[cfg(test)]
mod tests;

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, ControlFlow};

use bytes::Bytes;

pub use self::memory::MemoryEngine;
pub use self::sled::SledEngine;
pub use self::write_behind::WriteBehind;

/// Changes that are made together. A key is in it at most once.
///
/// Its last put is the *seal*. If damage to the files of an engine on disk cuts off what was written last, of a batch some
/// puts may be there, or all puts and some deletes; the seal only if all else is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Keys and their new values. The last one is written last.
    pub puts: Vec<(Bytes, Bytes)>,
    /// Keys that go. One that is not there is no error.
    pub deletes: Vec<Bytes>,
}

/// Why an engine refused. Everything but `Closed` means that the state is to be rebuilt from snapshot and log.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// It was closed.
    #[error("the engine is closed")]
    Closed,
    /// The engine found its files damaged.
    #[error("the engine's files are damaged: {0}")]
    Damaged(String),
    /// The engine panicked, as sled does over some damage.
    #[error("the engine panicked: {0}")]
    Panicked(String),
    /// The operating system refused.
    #[error("the engine's files: {0}")]
    Io(#[from] io::Error),
}

impl EngineError {
    /// The same, for the next who asks.
    fn again(&self) -> Self {
        match self {
            Self::Closed => Self::Closed,
            Self::Damaged(text) => Self::Damaged(text.clone()),
            Self::Panicked(text) => Self::Panicked(text.clone()),
            Self::Io(error) => Self::Io(io::Error::new(error.kind(), error.to_string())),
        }
    }
}

/// What a call of an engine returns.
pub type Result<T> = std::result::Result<T, EngineError>;

/// Keys and values, in the order of the keys' bytes.
pub trait Engine: Send + Sync + Debug {
    /// The value of a key.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>>;
    /// The greatest key up to `end`, and its value.
    fn floor(&self, end: Bound<&[u8]>) -> Result<Option<(Bytes, Bytes)>>;
    /// Calls `visit` with each key of `from..to` in order, until it breaks. An empty `to` is beyond every key. Not a
    /// snapshot: of a batch that is committed meanwhile, it may see any part.
    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(Bytes, Bytes) -> ControlFlow<()>,
    ) -> Result<()>;
    /// Makes the changes.
    fn commit(&self, batch: Batch) -> Result<()>;
    /// Hands what is buffered to the operating system. Does not promise that it survives a power cut.
    fn flush(&self) -> Result<()>;
    /// Bytes on disk, or in memory for an engine without one.
    fn size_on_disk(&self) -> Result<u64>;
    /// Rewrites what is on disk without what is dead, if there is a disk. Reads and commits go on meanwhile. One at a time.
    fn defragment(&self) -> Result<()> {
        Ok(())
    }
    /// Flushes and ends. Later calls fail.
    fn close(&self) -> Result<()>;
}
