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

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Component, Path};
use std::sync::Arc;

use parking_lot::Mutex;

use super::files::{File, Files, Lock, Open, Space};

/// Bytes that a disk writes wholly or not at all.
const SECTOR: u64 = 512;
type Sector = [u8; SECTOR as usize];
const ZEROS: Sector = [0; SECTOR as usize];
const ROOT: u64 = 0;

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

#[derive(Debug, Default)]
struct Data {
    length: u64,
    durable_length: u64,
    /// Lengths since the last sync, oldest first; the last one is `length`.
    lengths: Vec<u64>,
    /// What a process reads. A sector that is not here is zeros.
    sectors: BTreeMap<u64, Box<Sector>>,
    durable: BTreeMap<u64, Box<Sector>>,
    /// Versions since the last sync of the sectors written since, oldest first.
    dirty: BTreeMap<u64, Vec<Sector>>,
    /// Bytes that the file takes from the free space.
    reserved: u64,
}

#[derive(Debug, Default)]
struct Directory {
    names: BTreeMap<String, u64>,
    durable: BTreeMap<String, u64>,
}

#[derive(Debug)]
enum Node {
    File(Data),
    Directory(Directory),
}

#[derive(Clone, Debug)]
enum Change {
    Link { directory: u64, name: String, node: u64 },
    Unlink { directory: u64, name: String },
    Rename { from: (u64, String), to: (u64, String), node: u64 },
}

impl Change {
    fn directories(&self) -> [u64; 2] {
        match self {
            Self::Link { directory, .. } | Self::Unlink { directory, .. } => [*directory; 2],
            Self::Rename { from, to, .. } => [from.0, to.0],
        }
    }
}

#[derive(Debug)]
struct Disk {
    nodes: BTreeMap<u64, Node>,
    next_node: u64,
    changes: Vec<Change>,
    locks: BTreeSet<u64>,
    /// Handles of an earlier epoch are dead.
    epoch: u64,
    random: u64,
    operations: u64,
    operations_left: Option<u64>,
    syncs_before_failure: Option<u64>,
    total: u64,
    free: u64,
    read_only: bool,
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
        disk.operations_left = None;
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

fn power_is_gone() -> io::Error {
    io::Error::other("the power is gone")
}

fn not_found() -> io::Error {
    io::Error::from(io::ErrorKind::NotFound)
}

impl Disk {
    /// SplitMix64.
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn reading(&self) -> io::Result<()> {
        if self.operations_left == Some(0) { Err(power_is_gone()) } else { Ok(()) }
    }

    /// Counts an operation that changes something; fails when it does not happen.
    fn changing(&mut self) -> io::Result<()> {
        if let Some(left) = &mut self.operations_left {
            *left = left.checked_sub(1).ok_or_else(power_is_gone)?;
            if *left == 0 {
                // The last operation that happens has happened when its caller learns nothing of it; see `finished`.
            }
        }
        if self.read_only {
            return Err(io::Error::from(io::ErrorKind::ReadOnlyFilesystem));
        }
        self.operations += 1;
        Ok(())
    }

    fn find(&self, path: &Path) -> io::Result<u64> {
        let mut node = ROOT;
        for name in names(path)? {
            node = *self.directory(node)?.names.get(name).ok_or_else(not_found)?;
        }
        Ok(node)
    }

    fn parent(&self, path: &Path) -> io::Result<(u64, String)> {
        let name = names(path)?.last().copied().ok_or_else(not_found)?.to_owned();
        let parent = self.find(path.parent().ok_or_else(not_found)?)?;
        self.directory(parent)?;
        Ok((parent, name))
    }

    fn directory(&self, node: u64) -> io::Result<&Directory> {
        match self.nodes.get(&node) {
            Some(Node::Directory(directory)) => Ok(directory),
            Some(Node::File(_)) => Err(io::Error::from(io::ErrorKind::NotADirectory)),
            None => Err(not_found()),
        }
    }

    fn directory_mut(&mut self, node: u64) -> io::Result<&mut Directory> {
        match self.nodes.get_mut(&node) {
            Some(Node::Directory(directory)) => Ok(directory),
            Some(Node::File(_)) => Err(io::Error::from(io::ErrorKind::NotADirectory)),
            None => Err(not_found()),
        }
    }

    fn data(&mut self, node: u64) -> io::Result<&mut Data> {
        match self.nodes.get_mut(&node) {
            Some(Node::File(data)) => Ok(data),
            Some(Node::Directory(_)) => Err(io::Error::from(io::ErrorKind::IsADirectory)),
            None => Err(not_found()),
        }
    }

    fn link(&mut self, directory: u64, name: String, new: Node) -> io::Result<u64> {
        let node = self.next_node;
        self.next_node += 1;
        self.nodes.insert(node, new);
        self.directory_mut(directory)?.names.insert(name.clone(), node);
        self.changes.push(Change::Link { directory, name, node });
        Ok(node)
    }

    fn unlink(&mut self, directory: u64, name: String) -> io::Result<()> {
        let node = self.directory_mut(directory)?.names.remove(&name).ok_or_else(not_found)?;
        if let Some(Node::File(data)) = self.nodes.get_mut(&node) {
            self.free += std::mem::take(&mut data.reserved);
        }
        self.changes.push(Change::Unlink { directory, name });
        Ok(())
    }

    /// Takes what a file of this length needs more than it has.
    fn reserve(&mut self, node: u64, length: u64) -> io::Result<()> {
        let free = self.free;
        let data = self.data(node)?;
        let more = length.saturating_sub(data.reserved);
        if more > free {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        data.reserved += more;
        self.free -= more;
        Ok(())
    }

    /// Makes the changes of names in this directory durable, and those before them that they rest on.
    fn sync_names(&mut self, directory: u64) {
        let mut needed = BTreeSet::from([directory]);
        let mut chosen = Vec::new();
        for (at, change) in self.changes.iter().enumerate().rev() {
            if change.directories().iter().any(|touched| needed.contains(touched)) {
                needed.extend(change.directories());
                chosen.push(at);
            }
        }
        let chosen: BTreeSet<usize> = chosen.into_iter().collect();
        let changes = std::mem::take(&mut self.changes);
        for (at, change) in changes.into_iter().enumerate() {
            if chosen.contains(&at) { self.make_durable(change) } else { self.changes.push(change) }
        }
    }

    fn make_durable(&mut self, change: Change) {
        let mut set = |directory: u64, name: String, node: Option<u64>| {
            if let Some(Node::Directory(directory)) = self.nodes.get_mut(&directory) {
                match node {
                    Some(node) => directory.durable.insert(name, node),
                    None => directory.durable.remove(&name),
                };
            }
        };
        match change {
            Change::Link { directory, name, node } => set(directory, name, Some(node)),
            Change::Unlink { directory, name } => set(directory, name, None),
            Change::Rename { from, to, node } => {
                set(from.0, from.1, None);
                set(to.0, to.1, Some(node));
            }
        }
    }

    fn crash(&mut self, keep: Crash) {
        self.epoch += 1;
        self.locks.clear();
        self.operations_left = None;
        self.syncs_before_failure = None;
        if let Crash::Seeded(seed) = keep {
            self.random ^= seed.wrapping_mul(0xD6E8_FEB8_6659_FD93);
        }
        for change in std::mem::take(&mut self.changes) {
            if self.pick(keep, 1) == 1 {
                self.make_durable(change);
            }
        }
        let mut nodes = std::mem::take(&mut self.nodes);
        for node in nodes.values_mut() {
            match node {
                Node::Directory(directory) => directory.names = directory.durable.clone(),
                Node::File(data) => self.crash_file(data, keep),
            }
        }
        self.nodes = nodes;
        self.forget_unreachable();
    }

    /// 0 for what is durable, up to `versions` for the newest.
    fn pick(&mut self, keep: Crash, versions: usize) -> usize {
        match keep {
            Crash::LoseAll => 0,
            Crash::KeepAll => versions,
            Crash::Seeded(_) => (self.next_random() % (versions as u64 + 1)) as usize,
        }
    }

    fn crash_file(&mut self, data: &mut Data, keep: Crash) {
        for (sector, versions) in std::mem::take(&mut data.dirty) {
            let picked = self.pick(keep, versions.len());
            if let Some(version) = picked.checked_sub(1).and_then(|at| versions.get(at)) {
                data.durable.insert(sector, Box::new(*version));
            }
        }
        let lengths = std::mem::take(&mut data.lengths);
        let picked = self.pick(keep, lengths.len());
        if let Some(length) = picked.checked_sub(1).and_then(|at| lengths.get(at)) {
            data.durable_length = *length;
        }
        data.length = data.durable_length;
        // What lies beyond the end reads as zeros when the file grows again.
        let _ = data.durable.split_off(&data.length.div_ceil(SECTOR));
        if let Some(last) = data.durable.get_mut(&(data.length / SECTOR)) {
            last.iter_mut().skip((data.length % SECTOR) as usize).for_each(|byte| *byte = 0);
        }
        data.sectors = data.durable.clone();
    }

    fn forget_unreachable(&mut self) {
        let mut seen = BTreeSet::new();
        let mut waiting = vec![ROOT];
        while let Some(node) = waiting.pop() {
            if seen.insert(node)
                && let Some(Node::Directory(directory)) = self.nodes.get(&node)
            {
                waiting.extend(directory.names.values());
            }
        }
        let gone: Vec<u64> = self.nodes.keys().filter(|node| !seen.contains(node)).copied().collect();
        for node in gone {
            if let Some(Node::File(data)) = self.nodes.remove(&node) {
                self.free += data.reserved;
            }
        }
    }
}

fn names(path: &Path) -> io::Result<Vec<&str>> {
    path.components()
        .filter(|component| !matches!(component, Component::RootDir | Component::CurDir))
        .map(|component| match component {
            Component::Normal(name) => name.to_str().ok_or_else(not_found),
            _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "only plain names")),
        })
        .collect()
}

impl Data {
    fn set_sector(&mut self, sector: u64, bytes: Sector) {
        self.dirty.entry(sector).or_default().push(bytes);
        if bytes == ZEROS {
            self.sectors.remove(&sector);
        } else {
            self.sectors.insert(sector, Box::new(bytes));
        }
    }

    fn write(&mut self, mut bytes: &[u8], mut offset: u64) {
        while !bytes.is_empty() {
            let (sector, at) = (offset / SECTOR, (offset % SECTOR) as usize);
            let count = bytes.len().min(SECTOR as usize - at);
            let mut content = self.sectors.get(&sector).map_or(ZEROS, |content| **content);
            let (now, rest) = bytes.split_at(count);
            if let Some(place) = content.get_mut(at..at + count) {
                place.copy_from_slice(now);
            }
            self.set_sector(sector, content);
            offset += count as u64;
            bytes = rest;
        }
        self.change_length(self.length.max(offset));
    }

    fn change_length(&mut self, length: u64) {
        if length == self.length {
            return;
        }
        if length < self.length {
            let beyond: Vec<u64> = self.sectors.range(length.div_ceil(SECTOR)..).map(|(at, _)| *at).collect();
            for sector in beyond {
                self.set_sector(sector, ZEROS);
            }
            if let Some(last) = self.sectors.get(&(length / SECTOR)) {
                let mut content = **last;
                content.iter_mut().skip((length % SECTOR) as usize).for_each(|byte| *byte = 0);
                self.set_sector(length / SECTOR, content);
            }
        }
        self.length = length;
        self.lengths.push(length);
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> usize {
        let count = self.length.saturating_sub(offset).min(buffer.len() as u64) as usize;
        let mut done = 0;
        while let Some(rest) = buffer.get_mut(done..count).filter(|rest| !rest.is_empty()) {
            let position = offset + done as u64;
            let at = (position % SECTOR) as usize;
            let step = rest.len().min(SECTOR as usize - at);
            let content = self.sectors.get(&(position / SECTOR)).map_or(&ZEROS, |content| content);
            for (to, from) in rest.iter_mut().zip(content.iter().skip(at)).take(step) {
                *to = *from;
            }
            done += step;
        }
        count
    }

    fn sync(&mut self) {
        for (sector, versions) in std::mem::take(&mut self.dirty) {
            match versions.last() {
                Some(version) if *version != ZEROS => self.durable.insert(sector, Box::new(*version)),
                _ => self.durable.remove(&sector),
            };
        }
        self.lengths.clear();
        self.durable_length = self.length;
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
            node = match disk.directory(node)?.names.get(name) {
                Some(child) => *child,
                None => {
                    disk.changing()?;
                    disk.link(node, name.to_owned(), Node::Directory(Directory::default()))?
                }
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
