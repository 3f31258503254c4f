//! The directory `state/`: the engine's files, and whether they can be believed.
//!
//! A marker file says that the engine was closed cleanly. It is written only when every file of the engine is synced
//! (sled's own flush does not survive a power cut), and removed, durably, before the engine is opened. So a marker that is
//! found proves that the files are those of a clean close. Everything else means: rebuild from snapshot and log, by
//! [`reset_state`] and a new open. A rebuild is never a loss.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Engine, MemoryEngine, Result, SledEngine, WriteBehind};
use crate::env::files::Open;
use crate::env::{Files, Tasks};
use crate::limits;
use crate::storage::{parent_of, replace_file};

/// Version of what is in `state/`. A marker of another version is no marker.
const MARKER: &[u8] = b"setstone state 1\n";

/// Which engine, by configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineKind {
    /// sled, written behind, on the real file system whatever [`Files`] is.
    Disk {
        /// Memory for its page cache, in bytes.
        cache_bytes: u64,
    },
    /// In memory: every start rebuilds it.
    Memory,
}

/// An open engine.
#[derive(Clone, Debug)]
pub struct OpenedState {
    /// The engine.
    pub engine: Arc<dyn Engine>,
    /// Whether it was closed cleanly, so that it holds what it held then.
    pub clean: bool,
}

fn marker(directory: &Path) -> PathBuf {
    directory.join("closed-cleanly")
}

fn engine_files(directory: &Path) -> PathBuf {
    directory.join("sled")
}

/// Opens the engine in `directory` (`state/`), which is made if it is not there. A thread of `tasks` writes it.
///
/// # Errors
/// Whatever sled has against the files, panics included. The caller then resets the state.
pub fn open_state(
    files: &dyn Files,
    tasks: &dyn Tasks,
    directory: &Path,
    kind: EngineKind,
) -> Result<OpenedState> {
    let EngineKind::Disk { cache_bytes } = kind else {
        return Ok(OpenedState { engine: Arc::new(MemoryEngine::new()), clean: false });
    };
    files.create_dir_all(&engine_files(directory))?;
    let clean = take_marker(files, directory)?;
    let engine = open_engine(files, tasks, &engine_files(directory), cache_bytes)?;
    Ok(OpenedState { engine, clean })
}

#[cfg_attr(not(feature = "simulation"), expect(unused_variables))]
fn open_engine(
    files: &dyn Files,
    tasks: &dyn Tasks,
    directory: &Path,
    cache_bytes: u64,
) -> Result<Arc<dyn Engine>> {
    #[cfg(feature = "simulation")]
    if crate::env::simulated::is_running() {
        return Ok(Arc::new(super::journal::JournalEngine::open(files, directory)?));
    }
    let sled = SledEngine::open(directory, cache_bytes)?;
    Ok(Arc::new(WriteBehind::new(Box::new(sled), limits::ENGINE_WRITE_BYTES, tasks)))
}

/// Removes the marker, durably. Tells whether there was a valid one.
fn take_marker(files: &dyn Files, directory: &Path) -> io::Result<bool> {
    let path = marker(directory);
    if !files.exists(&path)? {
        return Ok(false);
    }
    let mut content = vec![0; MARKER.len() + 1];
    let count = files.open(&path, Open::Read)?.read_at(&mut content, 0)?;
    let valid = content.get(..count) == Some(MARKER);
    files.remove_file(&path)?;
    files.sync_dir(directory)?;
    Ok(valid)
}

/// Closes the engine and marks its files as cleanly closed.
pub fn close_state(files: &dyn Files, directory: &Path, kind: EngineKind, engine: &dyn Engine) -> Result<()> {
    engine.close()?;
    if matches!(kind, EngineKind::Disk { .. }) {
        sync_tree(files, &engine_files(directory))?;
        files.sync_dir(parent_of(directory))?;
        replace_file(files, &marker(directory), MARKER)?;
    }
    Ok(())
}

fn sync_tree(files: &dyn Files, directory: &Path) -> io::Result<()> {
    for name in files.list(directory)? {
        let path = directory.join(name);
        match files.open(&path, Open::Write) {
            Ok(file) => file.sync_data()?,
            Err(error) if error.kind() == io::ErrorKind::IsADirectory => sync_tree(files, &path)?,
            Err(error) => return Err(error),
        }
    }
    files.sync_dir(directory)
}

/// Deletes the engine's files. The engine must be closed.
pub fn reset_state(files: &dyn Files, directory: &Path) -> io::Result<()> {
    if !files.exists(directory)? {
        return Ok(());
    }
    take_marker(files, directory)?;
    files.remove_dir_all(directory)?;
    files.sync_dir(parent_of(directory))
}
