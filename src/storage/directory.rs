//! The layout of a data directory, its lock, and setting it aside (DESIGN section 4).
//!
//! ```text
//! identity   lock   request   log/   snapshots/   state/   incoming/   retired-…/
//! ```
//!
//! What a disk *is* (blank, member, lost …) is decided elsewhere; this tells what is there. Nothing here deletes anything
//! but by name of the caller.

#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::{TEMPORARY_SUFFIX, log, parent_of, read_small_file, replace_file};
use crate::env::Files;
use crate::env::files::{Lock, Space};
use crate::identity::REQUEST_FILE;
use crate::limits;

/// What the file system itself puts at the root of a volume.
const LOST_AND_FOUND: &str = "lost+found";
const RETIRED_PREFIX: &str = "retired-";
/// What an identity is the identity of.
const PARTS: [&str; 4] = ["incoming", "state", "snapshots", "log"];

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// Another process uses it.
    #[error("the data directory {} is in use by another process", .0.display())]
    Locked(PathBuf),
    /// Its volume is read-only.
    #[error("the data directory {} is on a read-only volume", .0.display())]
    ReadOnly(PathBuf),
    /// Its volume is full.
    #[error("the volume of the data directory {} is full", .0.display())]
    Full(PathBuf),
    /// This process may not use it.
    #[error("the data directory {} cannot be used by this user: permission denied", .0.display())]
    Denied(PathBuf),
    /// A directory is to be set aside under a name that is taken or is no plain name.
    #[error("{0:?} is not a new plain name for a directory that is set aside")]
    Label(String),
    /// The operating system refused something else.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

/// What is in a data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Contents {
    /// No identity was ever here: nothing is inside but `lost+found`, the lock, and what the creation of a first identity
    /// left that broke off before the identity was there (a log without a single write, empty directories), and a human's request.
    Blank,
    /// There is an identity.
    Identity,
    /// No identity, but these names: what had one, or is not ours.
    Remains(Vec<String>),
}

/// A data directory that this process has for itself, until it is released or dropped.
#[derive(Debug)]
pub struct DataDirectory {
    files: Arc<dyn Files>,
    root: PathBuf,
    lock: Mutex<Option<Box<dyn Lock>>>,
}

impl DataDirectory {
    /// Makes the directory if it is not there, and takes its lock. Blocks.
    pub fn open(files: Arc<dyn Files>, root: &Path) -> Result<Self, DirectoryError> {
        if !files.exists(root).map_err(explain(root))? {
            files.create_dir_all(root).map_err(explain(root))?;
            files.sync_dir(parent_of(root)).map_err(explain(root))?;
        }
        let lock = files.lock(&root.join("lock")).map_err(explain(root))?;
        let writable = Self { files, root: root.to_owned(), lock: Mutex::new(Some(lock)) };
        // The lock file may be there already and open even where nothing can be written.
        writable.files.sync_dir(root).map_err(explain(root))?;
        writable.probe().map_err(explain(root))?;
        Ok(writable)
    }

    /// Writes and removes a file, so that a volume that cannot be written shows now and not at the first entry. One that is
    /// full can be used: that needs an alarm, not a refusal.
    fn probe(&self) -> io::Result<()> {
        let path = self.root.join(format!("probe{TEMPORARY_SUFFIX}"));
        if self.files.exists(&path)? {
            self.files.remove_file(&path)?;
        }
        let written = self
            .files
            .open(&path, crate::env::files::Open::Create)
            .and_then(|file| file.write_at(&[1; 512], 0).and_then(|()| file.sync_data()));
        if self.files.exists(&path)? {
            self.files.remove_file(&path)?;
        }
        match written {
            Err(error) if error.kind() == io::ErrorKind::StorageFull => Ok(()),
            other => other,
        }
    }

    /// Gives the lock back. Log and engine must be closed: nothing may be written from now on.
    pub fn release(&self) {
        self.lock.lock().take();
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The identity file.
    pub fn identity(&self) -> PathBuf {
        self.root.join("identity")
    }

    /// The log's directory.
    pub fn log(&self) -> PathBuf {
        self.root.join("log")
    }

    /// The directory of snapshots.
    pub fn snapshots(&self) -> PathBuf {
        self.root.join("snapshots")
    }

    /// The engine's directory.
    pub fn state(&self) -> PathBuf {
        self.root.join("state")
    }

    /// The directory of a snapshot that is being received.
    pub fn incoming(&self) -> PathBuf {
        self.root.join("incoming")
    }

    /// The file system that it is on.
    pub fn files(&self) -> &Arc<dyn Files> {
        &self.files
    }

    /// A human's request, if there is one. Blocks.
    pub fn request(&self) -> Result<Option<Vec<u8>>, DirectoryError> {
        let path = self.root.join(REQUEST_FILE);
        if !self.files.exists(&path).map_err(explain(&path))? {
            return Ok(None);
        }
        read_small_file(&*self.files, &path, limits::REQUEST_FILE_BYTES).map(Some).map_err(explain(&path))
    }

    /// Removes a human's request. Blocks.
    pub fn remove_request(&self) -> Result<(), DirectoryError> {
        let path = self.root.join(REQUEST_FILE);
        if self.files.exists(&path).map_err(explain(&path))? {
            self.files.remove_file(&path).map_err(explain(&path))?;
        }
        self.files.sync_dir(&self.root).map_err(explain(&self.root))
    }

    /// How full the volume is.
    pub fn space(&self) -> Result<Space, DirectoryError> {
        self.files.space(&self.root).map_err(explain(&self.root))
    }

    /// Tells what is inside. Blocks.
    pub fn contents(&self) -> Result<Contents, DirectoryError> {
        contents(&*self.files, &self.root)
    }

    /// The directories that were set aside, by name.
    pub fn retired(&self) -> Result<Vec<PathBuf>, DirectoryError> {
        let names = self.files.list(&self.root).map_err(explain(&self.root))?;
        Ok(names
            .iter()
            .filter(|name| name.starts_with(RETIRED_PREFIX))
            .map(|name| self.root.join(name))
            .collect())
    }

    /// Sets everything aside, durably, in `retired-{label}`. The engine and the log must be closed. The identity is copied there last
    /// and stays in its place until the caller replaces it: a disk that was in use is never without. If it breaks off, the same
    /// call completes it; once it is complete, it does nothing, so each identity needs
    /// a label of its own. Blocks.
    ///
    /// # Errors
    /// [`DirectoryError::Label`] if the label is not a plain name.
    pub fn retire(&self, label: &str) -> Result<PathBuf, DirectoryError> {
        let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
        if label.is_empty() || label.len() > 128 || !label.chars().all(plain) {
            return Err(DirectoryError::Label(label.to_owned()));
        }
        let aside = self.root.join(format!("{RETIRED_PREFIX}{label}"));
        let (identity, copy) = (self.identity(), aside.join("identity"));
        if self.files.exists(&copy).map_err(explain(&aside))? {
            return Ok(aside);
        }
        self.files.create_dir_all(&aside).map_err(explain(&aside))?;
        self.files.sync_dir(&self.root).map_err(explain(&self.root))?;
        for part in PARTS {
            let from = self.root.join(part);
            if self.files.exists(&from).map_err(explain(&from))? {
                self.files.rename(&from, &aside.join(part)).map_err(explain(&from))?;
                self.files.sync_dir(&aside).map_err(explain(&aside))?;
                self.files.sync_dir(&self.root).map_err(explain(&self.root))?;
            }
        }
        let bytes =
            read_small_file(&*self.files, &identity, limits::IDENTITY_BYTES).map_err(explain(&identity))?;
        replace_file(&*self.files, &copy, &bytes).map_err(explain(&copy))?;
        Ok(aside)
    }

    /// Removes a directory that was set aside. The caller knows that its successor is complete. Blocks.
    pub fn remove_retired(&self, aside: &Path) -> Result<(), DirectoryError> {
        let name = aside.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if parent_of(aside) != self.root || !name.starts_with(RETIRED_PREFIX) {
            return Err(DirectoryError::Label(aside.display().to_string()));
        }
        self.files.remove_dir_all(aside).map_err(explain(aside))?;
        self.files.sync_dir(&self.root).map_err(explain(&self.root))
    }
}

/// Says what an error means for a data directory.
fn explain(path: &Path) -> impl Fn(io::Error) -> DirectoryError + use<> {
    let path = path.to_owned();
    move |source| match source.kind() {
        io::ErrorKind::WouldBlock => DirectoryError::Locked(path.clone()),
        io::ErrorKind::ReadOnlyFilesystem => DirectoryError::ReadOnly(path.clone()),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => DirectoryError::Full(path.clone()),
        io::ErrorKind::PermissionDenied => DirectoryError::Denied(path.clone()),
        _ => DirectoryError::Io { path: path.clone(), source },
    }
}

/// Tells what is inside a data directory. Needs no lock and writes nothing.
pub fn contents(files: &dyn Files, root: &Path) -> Result<Contents, DirectoryError> {
    let mut remains = Vec::new();
    for name in files.list(root).map_err(explain(root))? {
        let path = root.join(&name);
        let nothing = match &*name {
            "identity" => return Ok(Contents::Identity),
            // The second: a first identity that broke off before it had its name.
            "lock" | "identity.new" | REQUEST_FILE => true,
            name if name == LOST_AND_FOUND || name.ends_with(TEMPORARY_SUFFIX) => true,
            "log" => log::is_unused(files, &path).map_err(explain(&path))?,
            "snapshots" | "incoming" | "state" => files.list(&path).map_err(explain(&path))?.is_empty(),
            _ => false,
        };
        if !nothing {
            remains.push(name);
        }
    }
    Ok(if remains.is_empty() { Contents::Blank } else { Contents::Remains(remains) })
}
