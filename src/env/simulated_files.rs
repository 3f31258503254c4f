//! A file system in memory that loses what was not synced.
//!
//! It models what a power cut may do, as weakly as POSIX allows, so that what survives here survives on every disk:
//!
//! * bytes are durable after `sync_data`. At [`crash`](SimulatedFiles::crash) every 512-byte sector that was written since
//!   keeps any one of the versions it had (so writes are torn and reordered), and the length any one of those it had;
//! * names (create, rename, remove) are durable after `sync_dir` on their directory. At a crash any subset of the changes
//!   since survives; a rename is one change;
//! * a `sync_data` that fails leaves each sector that it covered old or new on the disk, and *clean* in the cache, as
//!   Linux does: a later `sync_data` succeeds and makes nothing of it durable.
//!
//! [`kill`](SimulatedFiles::kill) ends the process alone: nothing is lost, nothing more becomes durable. Handles and locks
//! from before a crash or kill are dead. Everything is deterministic: the randomness comes from the seed given at
//! construction and the one given to `crash`. Used by tests and by the simulation; holds no real file.

mod disk;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use super::files::{File, Files, Lock, Open, Space};
use disk::{Change, Data, Directory, Disk, Node, ROOT, SECTOR, ZEROS, names, not_found};

/// A simulated file system; clones are handles to the same one.
#[derive(Clone, Debug)]
pub struct SimulatedFiles {
    disk: Arc<Mutex<Disk>>,
}

/// What a crash keeps of that which was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// Nothing.
    LoseAll,
    /// All of it: the power failed, but the disk had written everything.
    KeepAll,
    /// Any subset, chosen by this seed.
    Seeded(u64),
}

impl SimulatedFiles {
    /// An empty, durable root directory on a disk of 1 TiB.
    pub fn new(seed: u64) -> Self {
        let root = Node::Directory(Directory::default());
        let disk = Disk {
            nodes: BTreeMap::from([(ROOT, root)]),
            next_node: ROOT + 1,
            changes: Vec::new(),
            locks: BTreeSet::new(),
            handles: BTreeMap::new(),
            epoch: 0,
            random: seed,
            operations: 0,
            operations_left: None,
            syncs_before_failure: None,
            total: 1 << 40,
            free: 1 << 40,
            read_only: false,
        };
        Self { disk: Arc::new(Mutex::new(disk)) }
    }

    /// Cuts the power and brings it back: only what is durable, and what `keep` says of the rest, is there afterwards.
    pub fn crash(&self, keep: Crash) {
        self.disk.lock().crash(keep);
    }

    /// Ends the process that used the files, and gives the power back if it was gone. Nothing is lost.
    pub fn kill(&self) {
        let mut disk = self.disk.lock();
        disk.epoch += 1;
        disk.locks.clear();
        disk.handles.clear();
        disk.operations_left = None;
    }

    /// A volume of its own with what is durable on this one.
    #[must_use]
    pub fn copy(&self) -> Self {
        let mut disk = self.disk.lock().clone();
        disk.crash(Crash::LoseAll);
        Self { disk: Arc::new(Mutex::new(disk)) }
    }

    /// Puts another volume's content in the place of this one's. As after a crash, handles and locks from before are dead. The place stays
    /// as full as it is, whatever it was when the other was copied.
    pub fn replace(&self, with: &Self) {
        let mut content = with.copy().disk.lock().clone();
        let mut disk = self.disk.lock();
        content.epoch = disk.epoch + 1;
        content.free = disk.free;
        *disk = content;
    }

    /// Files that are open: what a process leaves behind when it stops.
    pub fn open_files(&self) -> usize {
        self.disk.lock().handles.len()
    }

    /// How many writes, syncs and other changes there were.
    pub fn operations(&self) -> u64 {
        self.disk.lock().operations
    }

    /// After `count` more writes, syncs and other changes the power is gone: every later operation fails, until
    /// [`crash`](Self::crash).
    pub fn stop_after(&self, count: u64) {
        self.disk.lock().operations_left = Some(count);
    }

    /// Whether the power is gone.
    pub fn stopped(&self) -> bool {
        self.disk.lock().operations_left == Some(0)
    }

    /// Lets `count` file syncs succeed and the one after fail.
    pub fn fail_sync_after(&self, count: u64) {
        self.disk.lock().syncs_before_failure = Some(count);
    }

    /// Sets how many bytes can still be written to new places.
    pub fn set_free(&self, bytes: u64) {
        self.disk.lock().free = bytes;
    }

    /// Makes the volume read-only, or writable again.
    pub fn set_read_only(&self, read_only: bool) {
        self.disk.lock().read_only = read_only;
    }

    /// Flips one bit of the byte at `offset` of a file, on the disk and in the cache.
    pub fn corrupt(&self, path: &Path, offset: u64) -> io::Result<()> {
        let mut disk = self.disk.lock();
        let node = disk.find(path)?;
        let bit = 1 << (disk.next_random() % 8);
        let data = disk.data(node)?;
        if offset >= data.length {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "beyond the end of the file"));
        }
        let (sector, at) = (offset / SECTOR, (offset % SECTOR) as usize);
        let dirty = data.dirty.get_mut(&sector).and_then(|versions| versions.last_mut());
        let places = [data.sectors.entry(sector).or_insert_with(|| Box::new(ZEROS)).as_mut_slice()];
        let durable = data.durable.entry(sector).or_insert_with(|| Box::new(ZEROS)).as_mut_slice();
        for place in places.into_iter().chain([durable]).chain(dirty.map(<[u8; 512]>::as_mut_slice)) {
            if let Some(byte) = place.get_mut(at) {
                *byte ^= bit;
            }
        }
        Ok(())
    }
}

#[derive(Debug)]
struct SimulatedFile {
    disk: Arc<Mutex<Disk>>,
    node: u64,
    epoch: u64,
    writable: bool,
}

impl SimulatedFile {
    fn reading<T>(&self, read: impl FnOnce(&mut Data) -> T) -> io::Result<T> {
        let mut disk = self.disk.lock();
        if disk.epoch != self.epoch {
            return Err(io::Error::other("the process that opened this file is gone"));
        }
        disk.reading()?;
        disk.data(self.node).map(read)
    }

    fn changing<T>(&self, change: impl FnOnce(&mut Disk) -> io::Result<T>) -> io::Result<T> {
        let mut disk = self.disk.lock();
        if disk.epoch != self.epoch {
            return Err(io::Error::other("the process that opened this file is gone"));
        }
        if !self.writable {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "opened for reading"));
        }
        disk.changing()?;
        change(&mut disk)
    }
}

impl Drop for SimulatedFile {
    fn drop(&mut self) {
        let mut disk = self.disk.lock();
        if disk.epoch == self.epoch
            && let Some(count) = disk.handles.get_mut(&self.node)
        {
            *count -= 1;
            if *count == 0 {
                disk.handles.remove(&self.node);
            }
        }
    }
}

impl File for SimulatedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.reading(|data| data.read(buffer, offset))
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.changing(|disk| {
            disk.reserve(self.node, offset + bytes.len() as u64)?;
            disk.data(self.node)?.write(bytes, offset);
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.changing(|disk| {
            if let Some(left) = disk.syncs_before_failure {
                disk.syncs_before_failure = left.checked_sub(1);
                if left == 0 {
                    let dirty = std::mem::take(&mut disk.data(self.node)?.dirty);
                    for (sector, versions) in dirty {
                        if let (Some(version), 1) = (versions.last(), disk.next_random() % 2) {
                            disk.data(self.node)?.durable.insert(sector, Box::new(*version));
                        }
                    }
                    return Err(io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error()));
                }
            }
            disk.data(self.node)?.sync();
            Ok(())
        })
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        self.changing(|disk| {
            disk.reserve(self.node, length)?;
            let data = disk.data(self.node)?;
            data.change_length(data.length.max(length));
            Ok(())
        })
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.changing(|disk| {
            let data = disk.data(self.node)?;
            data.change_length(length);
            let back = data.reserved.saturating_sub(length);
            data.reserved -= back;
            disk.free += back;
            Ok(())
        })
    }

    fn length(&self) -> io::Result<u64> {
        self.reading(|data| data.length)
    }
}

#[derive(Debug)]
struct SimulatedLock {
    disk: Arc<Mutex<Disk>>,
    node: u64,
    epoch: u64,
}

impl Lock for SimulatedLock {}

impl Drop for SimulatedLock {
    fn drop(&mut self) {
        let mut disk = self.disk.lock();
        if disk.epoch == self.epoch {
            disk.locks.remove(&self.node);
        }
    }
}

impl Files for SimulatedFiles {
    fn open(&self, path: &Path, how: Open) -> io::Result<Box<dyn File>> {
        let mut disk = self.disk.lock();
        disk.reading()?;
        let node = if how == Open::Create {
            let (directory, name) = disk.parent(path)?;
            if disk.directory(directory)?.names.contains_key(&name) {
                return Err(io::Error::from(io::ErrorKind::AlreadyExists));
            }
            disk.changing()?;
            disk.link(directory, name, Node::File(Data::default()))?
        } else {
            disk.find(path)?
        };
        let writable = how != Open::Read;
        if writable && disk.read_only {
            return Err(io::Error::from(io::ErrorKind::ReadOnlyFilesystem));
        }
        disk.data(node)?;
        *disk.handles.entry(node).or_default() += 1;
        Ok(Box::new(SimulatedFile { disk: self.disk.clone(), node, epoch: disk.epoch, writable }))
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        let disk = self.disk.lock();
        disk.reading()?;
        Ok(disk.directory(disk.find(directory)?)?.names.keys().cloned().collect())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        let disk = self.disk.lock();
        disk.reading()?;
        match disk.find(path) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn create_dir_all(&self, directory: &Path) -> io::Result<()> {
        let mut disk = self.disk.lock();
        let mut node = ROOT;
        for name in names(directory)? {
            let child = disk.directory(node)?.names.get(name).copied();
            node = if let Some(child) = child {
                child
            } else {
                disk.changing()?;
                disk.link(node, name.to_owned(), Node::Directory(Directory::default()))?
            };
        }
        disk.directory(node).map(|_| ())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.disk.lock();
        let (from, to) = (disk.parent(from)?, disk.parent(to)?);
        let node = *disk.directory(from.0)?.names.get(&from.1).ok_or_else(not_found)?;
        disk.changing()?;
        if from == to {
            return Ok(());
        }
        if let Some(replaced) = disk.directory_mut(to.0)?.names.insert(to.1.clone(), node)
            && let Some(Node::File(data)) = disk.nodes.get_mut(&replaced)
        {
            let back = std::mem::take(&mut data.reserved);
            disk.free += back;
        }
        disk.directory_mut(from.0)?.names.remove(&from.1);
        disk.changes.push(Change::Rename { from, to, node });
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk.lock();
        let node = disk.find(path)?;
        disk.data(node)?;
        let (directory, name) = disk.parent(path)?;
        disk.changing()?;
        disk.unlink(directory, name)
    }

    fn remove_dir_all(&self, directory: &Path) -> io::Result<()> {
        let children = self.list(directory)?;
        for name in children {
            let path = directory.join(name);
            let node = self.disk.lock().find(&path)?;
            let is_file = self.disk.lock().data(node).is_ok();
            if is_file { self.remove_file(&path)? } else { self.remove_dir_all(&path)? }
        }
        let mut disk = self.disk.lock();
        let (parent, name) = disk.parent(directory)?;
        disk.changing()?;
        disk.unlink(parent, name)
    }

    fn sync_dir(&self, directory: &Path) -> io::Result<()> {
        let mut disk = self.disk.lock();
        let node = disk.find(directory)?;
        disk.directory(node)?;
        disk.changing()?;
        disk.sync_names(node);
        Ok(())
    }

    fn space(&self, _path: &Path) -> io::Result<Space> {
        let disk = self.disk.lock();
        disk.reading()?;
        Ok(Space { total: disk.total, free: disk.free })
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        if !self.exists(path)? {
            self.open(path, Open::Create)?;
        }
        let mut disk = self.disk.lock();
        if disk.read_only {
            return Err(io::Error::from(io::ErrorKind::ReadOnlyFilesystem));
        }
        let node = disk.find(path)?;
        if !disk.locks.insert(node) {
            return Err(io::Error::from(io::ErrorKind::WouldBlock));
        }
        Ok(Box::new(SimulatedLock { disk: self.disk.clone(), node, epoch: disk.epoch }))
    }
}
