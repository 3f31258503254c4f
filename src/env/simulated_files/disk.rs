//! What a simulated disk holds, in the cache and durably, and what a crash makes of it. See the module above.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Component, Path};

use super::Crash;

/// Bytes that a disk writes wholly or not at all.
pub(super) const SECTOR: u64 = 512;
type Sector = [u8; SECTOR as usize];
pub(super) const ZEROS: Sector = [0; SECTOR as usize];
pub(super) const ROOT: u64 = 0;

#[derive(Clone, Debug, Default)]
pub(super) struct Data {
    pub(super) length: u64,
    pub(super) durable_length: u64,
    /// Lengths since the last sync, oldest first; the last one is `length`.
    pub(super) lengths: Vec<u64>,
    /// What a process reads. A sector that is not here is zeros.
    pub(super) sectors: BTreeMap<u64, Box<Sector>>,
    pub(super) durable: BTreeMap<u64, Box<Sector>>,
    /// Versions since the last sync of the sectors written since, oldest first.
    pub(super) dirty: BTreeMap<u64, Vec<Sector>>,
    /// Bytes that the file takes from the free space.
    pub(super) reserved: u64,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Directory {
    pub(super) names: BTreeMap<String, u64>,
    pub(super) durable: BTreeMap<String, u64>,
}

#[derive(Clone, Debug)]
pub(super) enum Node {
    File(Data),
    Directory(Directory),
}

#[derive(Clone, Debug)]
pub(super) enum Change {
    Link { directory: u64, name: String, node: u64 },
    Unlink { directory: u64, name: String },
    Rename { from: (u64, String), to: (u64, String), node: u64 },
}

impl Change {
    pub(super) fn directories(&self) -> [u64; 2] {
        match self {
            Self::Link { directory, .. } | Self::Unlink { directory, .. } => [*directory; 2],
            Self::Rename { from, to, .. } => [from.0, to.0],
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Disk {
    pub(super) nodes: BTreeMap<u64, Node>,
    pub(super) next_node: u64,
    pub(super) changes: Vec<Change>,
    pub(super) locks: BTreeSet<u64>,
    /// How many open handles a file has: what has no name any more lives for them.
    pub(super) handles: BTreeMap<u64, u64>,
    /// Handles of an earlier epoch are dead.
    pub(super) epoch: u64,
    pub(super) random: u64,
    pub(super) operations: u64,
    pub(super) operations_left: Option<u64>,
    pub(super) syncs_before_failure: Option<u64>,
    pub(super) total: u64,
    pub(super) free: u64,
    pub(super) read_only: bool,
}

pub(super) fn power_is_gone() -> io::Error {
    io::Error::other("the power is gone")
}

pub(super) fn not_found() -> io::Error {
    io::Error::from(io::ErrorKind::NotFound)
}

impl Disk {
    /// The generator `SplitMix64`.
    pub(super) fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn reading(&self) -> io::Result<()> {
        if self.operations_left == Some(0) { Err(power_is_gone()) } else { Ok(()) }
    }

    /// Counts an operation that changes something; fails when it does not happen.
    pub(super) fn changing(&mut self) -> io::Result<()> {
        if let Some(left) = &mut self.operations_left {
            *left = left.checked_sub(1).ok_or_else(power_is_gone)?;
        }
        if self.read_only {
            return Err(io::Error::from(io::ErrorKind::ReadOnlyFilesystem));
        }
        self.operations += 1;
        Ok(())
    }

    pub(super) fn find(&self, path: &Path) -> io::Result<u64> {
        let mut node = ROOT;
        for name in names(path)? {
            node = *self.directory(node)?.names.get(name).ok_or_else(not_found)?;
        }
        Ok(node)
    }

    pub(super) fn parent(&self, path: &Path) -> io::Result<(u64, String)> {
        let name = names(path)?.last().copied().ok_or_else(not_found)?.to_owned();
        let parent = self.find(path.parent().ok_or_else(not_found)?)?;
        self.directory(parent)?;
        Ok((parent, name))
    }

    pub(super) fn directory(&self, node: u64) -> io::Result<&Directory> {
        match self.nodes.get(&node) {
            Some(Node::Directory(directory)) => Ok(directory),
            Some(Node::File(_)) => Err(io::Error::from(io::ErrorKind::NotADirectory)),
            None => Err(not_found()),
        }
    }

    pub(super) fn directory_mut(&mut self, node: u64) -> io::Result<&mut Directory> {
        match self.nodes.get_mut(&node) {
            Some(Node::Directory(directory)) => Ok(directory),
            Some(Node::File(_)) => Err(io::Error::from(io::ErrorKind::NotADirectory)),
            None => Err(not_found()),
        }
    }

    pub(super) fn data(&mut self, node: u64) -> io::Result<&mut Data> {
        match self.nodes.get_mut(&node) {
            Some(Node::File(data)) => Ok(data),
            Some(Node::Directory(_)) => Err(io::Error::from(io::ErrorKind::IsADirectory)),
            None => Err(not_found()),
        }
    }

    pub(super) fn link(&mut self, directory: u64, name: String, new: Node) -> io::Result<u64> {
        let node = self.next_node;
        self.next_node += 1;
        self.nodes.insert(node, new);
        self.directory_mut(directory)?.names.insert(name.clone(), node);
        self.changes.push(Change::Link { directory, name, node });
        Ok(node)
    }

    pub(super) fn unlink(&mut self, directory: u64, name: String) -> io::Result<()> {
        let node = self.directory_mut(directory)?.names.remove(&name).ok_or_else(not_found)?;
        if let Some(Node::File(data)) = self.nodes.get_mut(&node) {
            self.free += std::mem::take(&mut data.reserved);
        }
        self.changes.push(Change::Unlink { directory, name });
        Ok(())
    }

    /// Takes what a file of this length needs more than it has.
    pub(super) fn reserve(&mut self, node: u64, length: u64) -> io::Result<()> {
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
    pub(super) fn sync_names(&mut self, directory: u64) {
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
        self.forget_unreachable();
    }

    pub(super) fn make_durable(&mut self, change: Change) {
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

    pub(super) fn crash(&mut self, keep: Crash) {
        self.epoch += 1;
        self.locks.clear();
        self.handles.clear();
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
                Node::File(data) => {
                    self.crash_file(data, keep);
                    let more = data.length.saturating_sub(data.reserved);
                    data.reserved += more;
                    self.free = self.free.saturating_sub(more);
                }
            }
        }
        self.nodes = nodes;
        self.forget_unreachable();
    }

    /// 0 for what is durable, up to `versions` for the newest.
    pub(super) fn pick(&mut self, keep: Crash, versions: usize) -> usize {
        match keep {
            Crash::LoseAll => 0,
            Crash::KeepAll => versions,
            Crash::Seeded(_) => (self.next_random() % (versions as u64 + 1)) as usize,
        }
    }

    pub(super) fn crash_file(&mut self, data: &mut Data, keep: Crash) {
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

    pub(super) fn forget_unreachable(&mut self) {
        let mut seen = BTreeSet::new();
        let mut waiting = vec![ROOT];
        waiting.extend(self.handles.keys());
        for change in &self.changes {
            if let Change::Link { node, .. } | Change::Rename { node, .. } = change {
                waiting.push(*node);
            }
        }
        while let Some(node) = waiting.pop() {
            if seen.insert(node)
                && let Some(Node::Directory(directory)) = self.nodes.get(&node)
            {
                waiting.extend(directory.names.values().chain(directory.durable.values()));
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

pub(super) fn names(path: &Path) -> io::Result<Vec<&str>> {
    path.components()
        .filter(|component| !matches!(component, Component::RootDir | Component::CurDir))
        .map(|component| match component {
            Component::Normal(name) => name.to_str().ok_or_else(not_found),
            _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "only plain names")),
        })
        .collect()
}

impl Data {
    pub(super) fn set_sector(&mut self, sector: u64, bytes: &Sector) {
        self.dirty.entry(sector).or_default().push(*bytes);
        if *bytes == ZEROS {
            self.sectors.remove(&sector);
        } else {
            self.sectors.insert(sector, Box::new(*bytes));
        }
    }

    pub(super) fn write(&mut self, mut bytes: &[u8], mut offset: u64) {
        while !bytes.is_empty() {
            let (sector, at) = (offset / SECTOR, (offset % SECTOR) as usize);
            let count = bytes.len().min(SECTOR as usize - at);
            let mut content = self.sectors.get(&sector).map_or(ZEROS, |content| **content);
            let (now, rest) = bytes.split_at(count);
            if let Some(place) = content.get_mut(at..at + count) {
                place.copy_from_slice(now);
            }
            self.set_sector(sector, &content);
            offset += count as u64;
            bytes = rest;
        }
        self.change_length(self.length.max(offset));
    }

    pub(super) fn change_length(&mut self, length: u64) {
        if length == self.length {
            return;
        }
        if length < self.length {
            let beyond: Vec<u64> = self.sectors.range(length.div_ceil(SECTOR)..).map(|(at, _)| *at).collect();
            for sector in beyond {
                self.set_sector(sector, &ZEROS);
            }
            if let Some(last) = self.sectors.get(&(length / SECTOR)) {
                let mut content = **last;
                content.iter_mut().skip((length % SECTOR) as usize).for_each(|byte| *byte = 0);
                self.set_sector(length / SECTOR, &content);
            }
        }
        self.length = length;
        self.lengths.push(length);
    }

    pub(super) fn read(&self, buffer: &mut [u8], offset: u64) -> usize {
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

    pub(super) fn sync(&mut self) {
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
