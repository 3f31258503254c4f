//! Reads a snapshot, and believes only what its checksums cover.

use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use sha2::{Digest, Sha256};

use super::format::{self, BLOCK_HEADER_BYTES, Kind, PREFIX_BYTES};
use super::{Damage, Result, SnapshotError, SnapshotHeader, Verified, backup};
use crate::env::Files;
use crate::env::files::{File, Open};

/// The blocks of a file, one after the other.
#[derive(Debug)]
struct Blocks {
    file: Box<dyn File>,
    position: u64,
    ordinal: u32,
    buffer: Vec<u8>,
}

/// Why there is no next block.
enum NoBlock {
    Bad(&'static str),
    Io(std::io::Error),
}

impl Blocks {
    /// Reads the next block into the buffer, header included. Moves on only if it is sound.
    fn next(&mut self) -> std::result::Result<Kind, NoBlock> {
        self.fill(0, BLOCK_HEADER_BYTES)?;
        let header = format::block_header(&self.buffer).ok_or(NoBlock::Bad("not a block"))?;
        self.fill(BLOCK_HEADER_BYTES, BLOCK_HEADER_BYTES + header.length)?;
        let sound = format::check_block(header, &self.buffer, self.ordinal);
        let kind = sound.ok_or(NoBlock::Bad("the checksum of a block is wrong"))?;
        self.position += self.buffer.len() as u64;
        self.ordinal += 1;
        Ok(kind)
    }

    fn fill(&mut self, from: usize, to: usize) -> std::result::Result<(), NoBlock> {
        self.buffer.resize(to, 0);
        let rest = self.buffer.get_mut(from..).unwrap_or_default();
        match self.file.read_at(rest, self.position + from as u64) {
            Ok(count) if count == to - from => Ok(()),
            Ok(_) => Err(NoBlock::Bad("the file ends within a block")),
            Err(error) => Err(NoBlock::Io(error)),
        }
    }

    fn payload(&self) -> &[u8] {
        self.buffer.get(BLOCK_HEADER_BYTES..).unwrap_or_default()
    }
}

/// How many bytes of a file, from its start, are whole blocks of a snapshot.
pub(super) fn sound_bytes(file: Box<dyn File>) -> std::io::Result<u64> {
    let mut prefix = [0; PREFIX_BYTES as usize];
    if file.read_at(&mut prefix, 0)? < prefix.len() || format::version(&prefix) != Some(format::VERSION) {
        return Ok(0);
    }
    let mut blocks = Blocks { file, position: PREFIX_BYTES, ordinal: 0, buffer: Vec::new() };
    loop {
        match blocks.next() {
            Ok(_) => {}
            Err(NoBlock::Bad(_)) => return Ok(blocks.position),
            Err(NoBlock::Io(error)) => return Err(error),
        }
    }
}

/// A snapshot that is being read. Until [`next_pair`](Self::next_pair) has returned `None`, what it returned is covered by the
/// checksums of blocks, but not by the digest.
#[derive(Debug)]
pub struct SnapshotReader {
    path: PathBuf,
    blocks: Blocks,
    header: SnapshotHeader,
    digest: Sha256,
    stream: BytesMut,
    last_key: Option<Bytes>,
    pairs: u64,
    end: Option<[u8; 32]>,
    /// Where the zeros end that may follow the end; `None`: nothing may.
    padded_to: Option<u64>,
}

impl SnapshotReader {
    /// Opens a file and reads its header.
    pub fn open(files: &dyn Files, path: &Path) -> Result<Self> {
        let io = SnapshotError::io(path);
        let file = files.open(path, Open::Read).map_err(&io)?;
        let mut prefix = [0; PREFIX_BYTES as usize];
        let count = file.read_at(&mut prefix, 0).map_err(&io)?;
        match format::version(prefix.get(..count).unwrap_or_default()) {
            Some(format::VERSION) => {}
            Some(found) => {
                return Err(SnapshotError::Version {
                    file: path.to_owned(),
                    found,
                    supported: format::VERSION,
                });
            }
            None => return Err(Damage::new(path, 0, "not a snapshot").into()),
        }
        let mut blocks = Blocks { file, position: PREFIX_BYTES, ordinal: 0, buffer: Vec::new() };
        let header = match next_block(&mut blocks, path)? {
            Kind::Header => format::decode_header(blocks.payload()),
            _ => None,
        };
        let header = header.ok_or_else(|| Damage::new(path, PREFIX_BYTES, "not a header"))?;
        let mut digest = Sha256::new();
        digest.update(prefix);
        digest.update(&blocks.buffer);
        Ok(Self {
            path: path.to_owned(),
            blocks,
            header,
            digest,
            stream: BytesMut::new(),
            last_key: None,
            pairs: 0,
            end: None,
            padded_to: None,
        })
    }

    /// The end may be followed by zeros up to `padded_to`, and by whatever is behind them.
    pub(super) fn allow_padding(&mut self, padded_to: u64) {
        self.padded_to = Some(padded_to);
    }

    /// What it is of.
    pub fn header(&self) -> &SnapshotHeader {
        &self.header
    }

    /// The next pair, in the order of keys; `None` when all were returned and the digest is right. Blocks.
    ///
    /// # Errors
    /// [`SnapshotError::Damaged`] with the offset of the block that is wrong.
    pub fn next_pair(&mut self) -> Result<Option<(Bytes, Bytes)>> {
        loop {
            let start = self.blocks.position;
            let damage = |path: &Path, reason: String| SnapshotError::from(Damage::new(path, start, reason));
            let pair = format::take_pair(&mut self.stream).map_err(|reason| damage(&self.path, reason))?;
            if let Some((key, value)) = pair {
                if self.last_key.as_ref().is_some_and(|last| *last >= key) {
                    return Err(damage(&self.path, "its keys are not in order".to_owned()));
                }
                self.last_key = Some(key.clone());
                self.pairs += 1;
                return Ok(Some((key, value)));
            }
            if self.end.is_some() {
                return Ok(None);
            }
            match next_block(&mut self.blocks, &self.path)? {
                Kind::Data => {
                    self.digest.update(&self.blocks.buffer);
                    self.stream.extend_from_slice(self.blocks.payload());
                }
                Kind::End => self.check_end(start)?,
                Kind::Header => return Err(damage(&self.path, "a second header".to_owned())),
            }
        }
    }

    fn check_end(&mut self, start: u64) -> Result<()> {
        let damage = |reason: &str| SnapshotError::from(Damage::new(&self.path, start, reason));
        let end = format::decode_end(self.blocks.payload()).ok_or_else(|| damage("not an end"))?;
        let digest: [u8; 32] = self.digest.clone().finalize().into();
        if end != (self.pairs, digest) || !self.stream.is_empty() {
            return Err(damage("the digest is not that of the content"));
        }
        let io = SnapshotError::io(&self.path);
        let ends = match self.padded_to {
            Some(to) => backup::is_padding(&*self.blocks.file, self.blocks.position, to).map_err(io)?,
            None => self.blocks.file.length().map_err(io)? == self.blocks.position,
        };
        if !ends {
            let reason = "bytes follow the end";
            return Err(Damage::new(&self.path, self.blocks.position, reason).into());
        }
        self.end = Some(digest);
        Ok(())
    }

    /// What was read. Everything must have been.
    ///
    /// # Errors
    /// [`SnapshotError::Invalid`] if [`next_pair`](Self::next_pair) has not returned `None`.
    pub fn into_verified(self) -> Result<Verified> {
        let digest =
            self.end.ok_or_else(|| SnapshotError::Invalid("it was not read to its end".to_owned()))?;
        Ok(Verified { header: self.header, pairs: self.pairs, length: self.blocks.position, digest })
    }
}

fn next_block(blocks: &mut Blocks, path: &Path) -> Result<Kind> {
    blocks.next().map_err(|none| match none {
        NoBlock::Bad(reason) => Damage::new(path, blocks.position, reason).into(),
        NoBlock::Io(error) => SnapshotError::io(path)(error),
    })
}
