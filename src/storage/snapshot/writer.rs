//! Writes a snapshot: pairs in, a complete and synced file out, or nothing.

use std::path::PathBuf;

use sha2::{Digest, Sha256};

use super::format::{self, Kind};
use super::{RawSnapshot, Result, SnapshotError, SnapshotFile, SnapshotHeader, Snapshots, Verified};
use crate::env::files::{File, Open};
use crate::env::simulated::{self, Bug};
use crate::limits;

/// A snapshot that is being written, to a temporary file. Dropped before [`finish`](Self::finish), it leaves nothing.
#[derive(Debug)]
pub struct SnapshotWriter {
    snapshots: Snapshots,
    path: PathBuf,
    file: Box<dyn File>,
    /// Bytes of the file so far.
    position: u64,
    unsynced: usize,
    digest: Sha256,
    ordinal: u32,
    /// The stream of pairs that is not in a block yet.
    stream: Vec<u8>,
    block: Vec<u8>,
    pairs: u64,
    last_key: Option<Vec<u8>>,
    finished: bool,
}

impl SnapshotWriter {
    pub(super) fn begin(snapshots: Snapshots, path: PathBuf, header: &SnapshotHeader) -> Result<Self> {
        if header.membership.len() > limits::SNAPSHOT_MEMBERSHIP_BYTES {
            return Err(SnapshotError::Invalid(format!("a membership of {} bytes", header.membership.len())));
        }
        let file = snapshots.files.open(&path, Open::Create).map_err(SnapshotError::io(&path))?;
        let mut writer = Self {
            snapshots,
            path,
            file,
            position: 0,
            unsynced: 0,
            digest: Sha256::new(),
            ordinal: 0,
            stream: Vec::new(),
            block: Vec::new(),
            pairs: 0,
            last_key: None,
            finished: false,
        };
        writer.write(&format::prefix())?;
        writer.write_block(Kind::Header, &format::encode_header(header))?;
        Ok(writer)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let io = SnapshotError::io(&self.path);
        self.digest.update(bytes);
        self.file.write_at(bytes, self.position).map_err(&io)?;
        self.position += bytes.len() as u64;
        self.unsynced += bytes.len();
        if self.unsynced >= limits::SNAPSHOT_SYNC_BYTES {
            self.file.sync_data().map_err(&io)?;
            self.unsynced = 0;
        }
        Ok(())
    }

    fn write_block(&mut self, kind: Kind, payload: &[u8]) -> Result<()> {
        let mut block = std::mem::take(&mut self.block);
        block.clear();
        format::push_block(&mut block, self.ordinal, kind, payload);
        self.ordinal += 1;
        let written = self.write(&block);
        self.block = block;
        written
    }

    /// Writes the blocks of the stream that are full; all of it if `all`.
    fn write_stream(&mut self, all: bool) -> Result<()> {
        let mut stream = std::mem::take(&mut self.stream);
        let mut rest = &*stream;
        while let Some((payload, after)) = rest.split_at_checked(limits::SNAPSHOT_BLOCK_BYTES) {
            self.write_block(Kind::Data, payload)?;
            rest = after;
        }
        if all && !rest.is_empty() {
            self.write_block(Kind::Data, rest)?;
            rest = &[];
        }
        let written = stream.len() - rest.len();
        stream.drain(..written);
        stream.shrink_to(2 * limits::SNAPSHOT_BLOCK_BYTES);
        self.stream = stream;
        Ok(())
    }

    /// Adds a pair. Keys rise. Blocks.
    ///
    /// # Errors
    /// [`SnapshotError::Invalid`] for a key that is not above the one before, or a pair beyond the limits.
    pub fn pair(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        if key.len() > limits::SNAPSHOT_KEY_BYTES || value.len() > limits::SNAPSHOT_VALUE_BYTES {
            let text = format!("a pair with a key of {} and a value of {} bytes", key.len(), value.len());
            return Err(SnapshotError::Invalid(text));
        }
        let last = self.last_key.get_or_insert_default();
        if self.pairs > 0 && key <= &last[..] {
            return Err(SnapshotError::Invalid("a key that is not above the one before".to_owned()));
        }
        last.clear();
        last.extend_from_slice(key);
        self.pairs += 1;
        format::push_pair_lengths(&mut self.stream, key.len(), value.len());
        self.stream.extend_from_slice(key);
        self.stream.extend_from_slice(value);
        if self.stream.len() >= limits::SNAPSHOT_BLOCK_BYTES { self.write_stream(false) } else { Ok(()) }
    }

    /// Bytes written so far.
    pub fn bytes(&self) -> u64 {
        self.position
    }

    /// Completes the file, to be read once by whoever has it: it has no name, and goes when it is closed. Blocks.
    pub fn finish_unnamed(mut self) -> Result<RawSnapshot> {
        self.write_stream(true)?;
        let digest = self.digest.clone().finalize().into();
        self.write_block(Kind::End, &format::encode_end(self.pairs, digest))?;
        let file = self.snapshots.files.open(&self.path, Open::Read);
        // Dropped unfinished, it loses its name.
        Ok(RawSnapshot { file: file.map_err(SnapshotError::io(&self.path))?.into(), length: self.position })
    }

    /// Completes the file, syncs it, reads it back, and gives it its final name, durably. Blocks.
    pub fn finish(mut self) -> Result<(SnapshotFile, Verified)> {
        self.write_stream(true)?;
        let digest = self.digest.clone().finalize().into();
        self.write_block(Kind::End, &format::encode_end(self.pairs, digest))?;
        if !simulated::planted(Bug::UnsyncedSnapshot) {
            self.file.sync_data().map_err(SnapshotError::io(&self.path))?;
        }
        let adopted = self.snapshots.adopt(&self.path)?;
        self.finished = true;
        Ok(adopted)
    }
}

impl Drop for SnapshotWriter {
    fn drop(&mut self) {
        if !self.finished {
            // Should this fail, the next open of the directory removes it.
            let _ = self.snapshots.files.remove_file(&self.path);
        }
    }
}
