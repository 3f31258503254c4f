//! The file system, as little of it as the storage needs. Blocking: call it from where blocking is allowed.
//!
//! Nothing is durable until it was synced: a file's bytes by [`File::sync_data`], a file's name by [`Files::sync_dir`]
//! on its directory.

use std::fmt::Debug;
use std::io;
use std::path::Path;

/// How to open a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    /// It must exist; for reading.
    Read,
    /// It must exist; for reading and writing.
    Write,
    /// It must not exist; for reading and writing.
    Create,
}

/// An open file. Positions are explicit, so that it can be shared.
pub trait File: Debug + Send + Sync {
    /// Reads up to `buffer.len()` bytes at `offset`; fewer only at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `bytes` at `offset`.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Makes every completed write durable (fdatasync).
    fn sync_data(&self) -> io::Result<()>;
    /// Reserves space up to `length` bytes and makes the file that long; what is new reads as zeros.
    fn allocate(&self, length: u64) -> io::Result<()>;
    /// Cuts the file to, or extends it with zeros to, `length` bytes.
    fn set_length(&self, length: u64) -> io::Result<()>;
    /// The length, in bytes.
    fn length(&self) -> io::Result<u64>;
}

/// Reads a whole file that others write, such as one with keys.
///
/// # Errors
/// It cannot be read, or has more than `limit` bytes.
pub fn read_small(files: &dyn Files, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let file = files.open(path, Open::Read)?;
    let length = file.length()?;
    if length > limit {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it has {length} bytes; {limit} are the most"),
        ));
    }
    let mut content = vec![0; length as usize];
    let read = file.read_at(&mut content, 0)?;
    // It became shorter while it was read.
    content.truncate(read);
    Ok(content)
}

/// An exclusive lock on a directory; released when dropped.
pub trait Lock: Debug + Send + Sync {}

/// Bytes of the volume that a path is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// All.
    pub total: u64,
    /// What an unprivileged process can still use.
    pub free: u64,
}

/// A file system.
pub trait Files: Debug + Send + Sync {
    /// Opens a file.
    fn open(&self, path: &Path, how: Open) -> io::Result<Box<dyn File>>;
    /// Names in a directory, sorted.
    fn list(&self, directory: &Path) -> io::Result<Vec<String>>;
    /// Whether there is a file or directory of this name.
    fn exists(&self, path: &Path) -> io::Result<bool>;
    /// Makes a directory and those above it.
    fn create_dir_all(&self, directory: &Path) -> io::Result<()>;
    /// Renames a file or directory; replaces a file that has the new name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes a directory with all that is in it.
    fn remove_dir_all(&self, directory: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, directory: &Path) -> io::Result<()>;
    /// How full the volume is.
    fn space(&self, path: &Path) -> io::Result<Space>;
    /// Takes the exclusive lock of this file, which it creates; `WouldBlock` if another process has it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>>;
}
