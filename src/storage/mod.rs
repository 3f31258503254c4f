//! Bytes on disk. The only place that names sled.
//!
//! Knows nothing of consensus or of the state machine: an entry is a log id and bytes, a record a key and a value. Every
//! file but sled's goes through [`crate::env::Files`], so that every crash can be simulated. The log and the newest
//! snapshot are the truth; the engine is a cache of them (DESIGN, rule 1). Calls block unless they say otherwise.
//!
//! * `log`: the segmented write-ahead log
//! * `engine`: ordered keys and values; with sled, or in memory
//! * `snapshot`: the one snapshot format, and the directories of them
//! * `directory`: the layout of a data directory, its lock, setting it aside
//! * `check`: says of a data directory, offline, whether it is sound

pub mod check;
mod damage;
pub mod directory;
pub mod engine;
pub mod log;
pub mod snapshot;

#[cfg(test)]
mod testing;

pub use damage::Damage;
pub use directory::DataDirectory;
pub use engine::{Batch, Engine, MemoryEngine, SledEngine};
pub use log::{Done, Entry, Log, LogId, Vote};
pub use snapshot::{SnapshotReader, SnapshotWriter, Snapshots};

use std::io;
use std::path::Path;

use crate::env::Files;
use crate::env::files::Open;

/// What the temporary file of [`replace_file`] has behind its name.
pub(crate) const TEMPORARY_SUFFIX: &str = ".tmp";

/// The directory that holds this file or directory.
pub(crate) fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => Path::new("/"),
    }
}

/// Writes a file so that after any crash it has the old bytes or the new ones: temporary file, fsync, rename, directory
/// fsync. A temporary file that a crash left is replaced.
pub fn replace_file(files: &dyn Files, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(TEMPORARY_SUFFIX);
    let temporary = Path::new(&temporary);
    if files.exists(temporary)? {
        files.remove_file(temporary)?;
    }
    let file = files.open(temporary, Open::Create)?;
    file.write_at(bytes, 0)?;
    file.sync_data()?;
    files.rename(temporary, path)?;
    files.sync_dir(parent_of(path))
}

/// Reads a small file.
///
/// # Errors
/// `FileTooLarge` beyond `limit` bytes; what the operating system says.
pub fn read_small_file(files: &dyn Files, path: &Path, limit: usize) -> io::Result<Vec<u8>> {
    let file = files.open(path, Open::Read)?;
    let length = file.length()?;
    if length > limit as u64 {
        let text = format!("{} is {length} bytes long, more than {limit}", path.display());
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
    }
    let mut bytes = vec![0; length as usize];
    let count = file.read_at(&mut bytes, 0)?;
    bytes.truncate(count);
    Ok(bytes)
}
