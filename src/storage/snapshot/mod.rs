//! The one snapshot format, for three uses: cutting the log, catching up a peer, and backup (DESIGN section 4).
//!
//! A snapshot holds all pairs of the engine in order, and where in the log they are from. What must hold:
//!
//! 1. A file has its final name only if it was complete, synced and read back with its digest right.
//! 2. An older one is removed only when a newer one has its final name, durably ([`Snapshots::remove_before`]).
//! 3. A reader believes nothing that a checksum does not cover, and holds at most a block and a pair in memory.
//!
//! `format` is the bytes, `writer` and `reader` are streams of pairs, `incoming` is a snapshot that a peer sends, `backup` one
//! that a client has fetched.

mod backup;
mod format;
mod incoming;
mod reader;
mod writer;

#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use super::{Damage, LogId, parent_of};
use crate::env::Files;
use crate::env::files::{File, Open};
use crate::identity::ClusterId;
use crate::limits;

pub use backup::open_backup;
pub use format::VERSION;
pub use incoming::Incoming;
pub use reader::SnapshotReader;
pub use writer::SnapshotWriter;

const SUFFIX: &str = ".snapshot";
const WRITING_SUFFIX: &str = ".writing";

/// What a snapshot is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotHeader {
    /// The cluster.
    pub cluster: ClusterId,
    /// The last entry that was applied to what it holds.
    pub last: LogId,
    /// The store's revision then.
    pub revision: i64,
    /// The membership then, and the entry that set it; opaque here. At most
    /// [`crate::limits::SNAPSHOT_MEMBERSHIP_BYTES`].
    pub membership: Bytes,
    /// The entry that set the membership.
    pub membership_id: Option<LogId>,
}

/// A snapshot that was read from the first byte to the last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// What it is of.
    pub header: SnapshotHeader,
    /// How many pairs it holds.
    pub pairs: u64,
    /// Length of the file, in bytes.
    pub length: u64,
    /// SHA-256 of all before the digest: names the snapshot.
    pub digest: [u8; 32],
}

/// A snapshot that has its final name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotFile {
    /// The last entry in it, by its name.
    pub id: LogId,
    /// The file.
    pub path: PathBuf,
}

/// Why a snapshot cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// It is not what was written.
    #[error(transparent)]
    Damaged(#[from] Damage),
    /// Written by a version of the program that has another format.
    #[error("{} has format version {found}, this program reads version {supported}", file.display())]
    Version {
        /// The file.
        file: PathBuf,
        /// Its version.
        found: u32,
        /// The version that is supported.
        supported: u32,
    },
    /// The caller gave something that a snapshot cannot hold.
    #[error("a snapshot cannot hold this: {0}")]
    Invalid(String),
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

impl SnapshotError {
    fn io(path: &Path) -> impl Fn(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { path: path.clone(), source }
    }
}

/// What a call returns.
pub type Result<T> = std::result::Result<T, SnapshotError>;

/// The directories `snapshots/` and `incoming/`. Cheap to clone. Calls block.
#[derive(Clone, Debug)]
pub struct Snapshots {
    files: Arc<dyn Files>,
    directory: PathBuf,
    incoming: PathBuf,
    /// Tells temporary files of one process apart.
    writers: Arc<AtomicU64>,
}

impl Snapshots {
    /// Makes the directories if they are not there, and removes what a writer that broke off left. What `incoming/` holds
    /// stays, for [`receive`](Self::receive) to go on with; [`forget_incoming`](Self::forget_incoming) removes it.
    pub fn open(files: Arc<dyn Files>, directory: &Path, incoming: &Path) -> Result<Self> {
        for made in [directory, incoming] {
            files.create_dir_all(made).map_err(SnapshotError::io(made))?;
            files.sync_dir(parent_of(made)).map_err(SnapshotError::io(made))?;
        }
        for name in files.list(directory).map_err(SnapshotError::io(directory))? {
            if name.ends_with(WRITING_SUFFIX) {
                let path = directory.join(name);
                files.remove_file(&path).map_err(SnapshotError::io(&path))?;
            }
        }
        let writers = Arc::default();
        Ok(Self { files, directory: directory.to_owned(), incoming: incoming.to_owned(), writers })
    }

    /// The snapshots that have their final name, newest first.
    pub fn list(&self) -> Result<Vec<SnapshotFile>> {
        list(&*self.files, &self.directory)
    }

    /// The newest one.
    pub fn newest(&self) -> Result<Option<SnapshotFile>> {
        Ok(self.list()?.into_iter().next())
    }

    /// Begins a new snapshot.
    ///
    /// # Errors
    /// [`SnapshotError::Invalid`] for a membership that is too large; what the operating system says.
    pub fn write(&self, header: &SnapshotHeader) -> Result<SnapshotWriter> {
        let number = self.writers.fetch_add(1, Ordering::Relaxed);
        let temporary = self.directory.join(format!("{number}{WRITING_SUFFIX}"));
        SnapshotWriter::begin(self.clone(), temporary, header)
    }

    /// Checks that a file of about `bytes` leaves free what the log may need while it is written: a log that finds no room ends its
    /// member, a snapshot that is not made does not.
    ///
    /// # Errors
    /// `StorageFull` if it does not.
    pub fn check_room(&self, bytes: u64) -> Result<()> {
        let io = SnapshotError::io(&self.directory);
        let space = self.files.space(&self.directory).map_err(&io)?;
        let spare = limits::SPARE_BYTES.min(space.total / 16);
        if space.free < bytes.saturating_add(bytes / 16).saturating_add(spare) {
            return Err(io(io::Error::from(io::ErrorKind::StorageFull)));
        }
        Ok(())
    }

    /// Begins to read a snapshot; its header is checked.
    pub fn read(&self, snapshot: &SnapshotFile) -> Result<SnapshotReader> {
        SnapshotReader::open(&*self.files, &snapshot.path)
    }

    /// The bytes of a snapshot, to be sent as they are. They stay readable after the file is removed.
    pub fn raw(&self, snapshot: &SnapshotFile) -> Result<RawSnapshot> {
        let io = SnapshotError::io(&snapshot.path);
        let file = self.files.open(&snapshot.path, Open::Read).map_err(&io)?;
        let length = file.length().map_err(&io)?;
        Ok(RawSnapshot { file: Arc::from(file), length })
    }

    /// Reads all of a snapshot.
    pub fn verify(&self, snapshot: &SnapshotFile) -> Result<Verified> {
        verify(&*self.files, &snapshot.path)
    }

    /// Removes every snapshot before this one, durably. It has its final name, so it was read back.
    pub fn remove_before(&self, kept: &SnapshotFile) -> Result<()> {
        let listed = self.list()?;
        if !listed.contains(kept) {
            let source = io::Error::from(io::ErrorKind::NotFound);
            return Err(SnapshotError::Io { path: kept.path.clone(), source });
        }
        let older: Vec<_> = listed.into_iter().filter(|listed| listed.id < kept.id).collect();
        self.remove(&older)
    }

    /// Removes snapshots, durably: those that are damaged, once nothing needs them.
    pub fn remove(&self, snapshots: &[SnapshotFile]) -> Result<()> {
        if snapshots.is_empty() {
            return Ok(());
        }
        for snapshot in snapshots {
            self.files.remove_file(&snapshot.path).map_err(SnapshotError::io(&snapshot.path))?;
        }
        self.files.sync_dir(&self.directory).map_err(SnapshotError::io(&self.directory))
    }

    /// Receives the snapshot that a peer calls `id`, of `length` bytes. What is already there of it is kept, all else in
    /// `incoming/` is removed.
    ///
    /// # Errors
    /// `StorageFull` if the volume has no room for it; what the operating system says.
    pub fn receive(&self, id: &str, length: u64) -> Result<Incoming> {
        Incoming::begin(self.clone(), id, length)
    }

    /// Removes what was received of a snapshot.
    pub fn forget_incoming(&self) -> Result<()> {
        incoming::remove_all_but(self, None)
    }

    /// Gives a file that is complete and synced its final name, after reading it back.
    fn adopt(&self, temporary: &Path) -> Result<(SnapshotFile, Verified)> {
        let verified = verify(&*self.files, temporary)?;
        let snapshot =
            SnapshotFile { id: verified.header.last, path: path_of(&self.directory, verified.header.last) };
        self.files.rename(temporary, &snapshot.path).map_err(SnapshotError::io(&snapshot.path))?;
        for changed in [&*self.directory, parent_of(temporary)] {
            self.files.sync_dir(changed).map_err(SnapshotError::io(changed))?;
        }
        Ok((snapshot, verified))
    }
}

/// The bytes of a snapshot.
#[derive(Clone, Debug)]
pub struct RawSnapshot {
    file: Arc<dyn File>,
    length: u64,
}

impl RawSnapshot {
    /// How many bytes there are.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Up to `max_bytes` bytes from `offset` on; none at the end. Blocks.
    pub fn read(&self, offset: u64, max_bytes: usize) -> io::Result<Bytes> {
        let count = self.length.saturating_sub(offset).min(max_bytes as u64) as usize;
        let mut bytes = vec![0; count];
        let read = self.file.read_at(&mut bytes, offset)?;
        bytes.truncate(read);
        Ok(Bytes::from(bytes))
    }
}

fn path_of(directory: &Path, id: LogId) -> PathBuf {
    directory.join(format!("{:016x}-{:016x}{SUFFIX}", id.term, id.index))
}

/// The snapshots in a directory, newest first. Writes nothing.
pub fn list(files: &dyn Files, directory: &Path) -> Result<Vec<SnapshotFile>> {
    let names = match files.list(directory) {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(SnapshotError::io(directory)(error)),
    };
    let mut found: Vec<_> = names
        .iter()
        .filter_map(|name| {
            let (term, index) = name.strip_suffix(SUFFIX)?.split_once('-')?;
            let number = |digits: &str| u64::from_str_radix(digits, 16).ok();
            let id = LogId { term: number(term)?, index: number(index)? };
            Some(SnapshotFile { id, path: directory.join(name) })
        })
        .collect();
    found.sort_unstable_by_key(|snapshot| std::cmp::Reverse(snapshot.id));
    Ok(found)
}

/// Reads all of a snapshot and checks everything that can be checked. Writes nothing.
pub fn verify(files: &dyn Files, path: &Path) -> Result<Verified> {
    let mut reader = SnapshotReader::open(files, path)?;
    while reader.next_pair()?.is_some() {}
    reader.into_verified()
}
