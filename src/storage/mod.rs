//! Bytes on disk. The only place that names sled.
//!
//! Knows nothing of consensus or of the state machine: an entry is a log id and bytes, a record a key and a value. Every
//! file but sled's goes through [`crate::env::Files`], so that every crash can be simulated. The log and the newest
//! snapshot are the truth; the engine is a cache of them (DESIGN, rule 1). Calls block unless they say otherwise.
//!
//! * `log`: the segmented write-ahead log
//! * `engine`: ordered keys and values; with sled, or in memory

pub mod engine;
pub mod log;

#[cfg(test)]
mod testing;

pub use engine::{Batch, Engine, MemoryEngine, SledEngine};
pub use log::{Done, Entry, Log, LogId, Vote};

use std::path::Path;

/// The directory that holds this file or directory.
pub(crate) fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => Path::new("/"),
    }
}
