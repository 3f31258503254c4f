//! A snapshot that a peer sends. Its blocks carry checksums, so what is there of it after a crash is known without notes.

use std::fmt::Write;
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::{
    Result, SnapshotError, SnapshotFile, SnapshotHeader, SnapshotReader, Snapshots, Verified, reader,
};
use crate::env::files::{File, Open};
use crate::limits;

const SUFFIX: &str = ".part";

/// A snapshot that is being received. Dropped before [`finish`](Self::finish), what was received stays.
#[derive(Debug)]
pub struct Incoming {
    snapshots: Snapshots,
    path: PathBuf,
    file: Box<dyn File>,
    offset: u64,
    length: u64,
    unsynced: usize,
}

/// The name of the file: the peer's id may be anything, so it is hashed.
fn name_of(id: &str, length: u64) -> String {
    let digest = Sha256::digest(id.as_bytes());
    let mut name = String::new();
    for byte in digest.iter().take(16) {
        let _ = write!(name, "{byte:02x}");
    }
    let _ = write!(name, "-{length:016x}{SUFFIX}");
    name
}

pub(super) fn remove_all_but(snapshots: &Snapshots, kept: Option<&str>) -> Result<()> {
    let directory = &snapshots.incoming;
    for name in snapshots.files.list(directory).map_err(SnapshotError::io(directory))? {
        if Some(&*name) != kept && name.ends_with(SUFFIX) {
            let path = directory.join(name);
            snapshots.files.remove_file(&path).map_err(SnapshotError::io(&path))?;
        }
    }
    Ok(())
}

/// Has what was received reach the disk. A file for which that failed is removed: the system takes its pages for clean from then on, so what is
/// read back, and the next sync, say nothing of the disk.
fn sync(snapshots: &Snapshots, path: &Path, file: &dyn File) -> Result<()> {
    file.sync_data().map_err(|error| {
        // Where it cannot be removed it cannot get a snapshot's name either: both change a directory.
        let removed = snapshots.files.remove_file(path);
        SnapshotError::io(path)(removed.err().unwrap_or(error))
    })
}

impl Incoming {
    pub(super) fn begin(snapshots: Snapshots, id: &str, length: u64) -> Result<Self> {
        let name = name_of(id, length);
        remove_all_but(&snapshots, Some(&name))?;
        let path = snapshots.incoming.join(name);
        let io = SnapshotError::io(&path);
        let files = &snapshots.files;
        let (file, offset) = if files.exists(&path).map_err(&io)? {
            let offset = reader::sound_bytes(files.open(&path, Open::Read).map_err(&io)?).map_err(&io)?;
            let file = files.open(&path, Open::Write).map_err(&io)?;
            file.set_length(offset).map_err(&io)?;
            sync(&snapshots, &path, &*file)?;
            (file, offset.min(length))
        } else {
            let file = files.open(&path, Open::Create).map_err(&io)?;
            files.sync_dir(&snapshots.incoming).map_err(&io)?;
            (file, 0)
        };
        let free = files.space(&snapshots.incoming).map_err(&io)?.free;
        if length - offset > free {
            return Err(io(io::Error::from(io::ErrorKind::StorageFull)));
        }
        Ok(Self { snapshots, path, file, offset, length, unsynced: 0 })
    }

    /// Bytes that are there: where the sender goes on.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Bytes that there will be.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Adds bytes at [`offset`](Self::offset). Blocks.
    ///
    /// # Errors
    /// [`SnapshotError::Invalid`] for another offset, or beyond the length; nothing was written then.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        let end = offset.checked_add(bytes.len() as u64);
        if offset != self.offset || end.is_none_or(|end| end > self.length) {
            let text = format!("{} bytes at {offset}, after {} of {}", bytes.len(), self.offset, self.length);
            return Err(SnapshotError::Invalid(text));
        }
        let io = SnapshotError::io(&self.path);
        self.file.write_at(bytes, offset).map_err(&io)?;
        self.offset += bytes.len() as u64;
        self.unsynced += bytes.len();
        if self.unsynced >= limits::SNAPSHOT_SYNC_BYTES {
            sync(&self.snapshots, &self.path, &*self.file)?;
            self.unsynced = 0;
        }
        Ok(())
    }

    /// Reads back what was received, and makes it a snapshot like our own, durably. If it is damaged it is removed, so that
    /// it is sent again from the start. Blocks.
    ///
    /// # Errors
    /// [`SnapshotError::Invalid`] if it is not complete; it stays then.
    pub fn finish(self) -> Result<(SnapshotFile, Verified)> {
        self.finish_if(|_| Ok(()))
    }

    /// As [`finish`](Self::finish), if `check` agrees with the header. If it does not, what was received is removed and never
    /// gets a snapshot's name. Blocks.
    ///
    /// # Errors
    /// As [`finish`](Self::finish), or those of `check`.
    pub fn finish_if(
        self,
        check: impl FnOnce(&SnapshotHeader) -> Result<()>,
    ) -> Result<(SnapshotFile, Verified)> {
        if self.offset != self.length {
            let text = format!("{} of {} bytes", self.offset, self.length);
            return Err(SnapshotError::Invalid(text));
        }
        sync(&self.snapshots, &self.path, &*self.file)?;
        let checked = SnapshotReader::open(&*self.snapshots.files, &self.path)
            .and_then(|reader| check(reader.header()));
        let adopted = checked.and_then(|()| self.snapshots.adopt(&self.path));
        let hopeless = |error: &SnapshotError| !matches!(error, SnapshotError::Io { .. });
        if adopted.as_ref().is_err_and(hopeless) {
            let removed = self.snapshots.files.remove_file(&self.path);
            removed.map_err(SnapshotError::io(&self.path))?;
        }
        adopted
    }
}
