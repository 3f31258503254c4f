//! A snapshot that a client has fetched: the file, zeros up to a multiple of 512 bytes, and the SHA-256 of all of that, as etcd's clients
//! save it.

use std::path::Path;

use sha2::{Digest, Sha256};

use super::{Damage, Result, SnapshotError, SnapshotReader};
use crate::env::Files;
use crate::env::files::Open;
use crate::limits;

/// Bytes of the digest at the end.
const DIGEST: u64 = 32;
/// What the rest of the length is a multiple of.
const SECTOR: u64 = 512;

/// Opens a backup whose digest is right, and returns the digest. Reads all of it once.
///
/// # Errors
/// [`SnapshotError::Damaged`] if it ends early or was changed.
pub fn open_backup(files: &dyn Files, path: &Path) -> Result<(SnapshotReader, [u8; 32])> {
    let io = SnapshotError::io(path);
    let file = files.open(path, Open::Read).map_err(&io)?;
    let length = file.length().map_err(&io)?;
    let content = length.checked_sub(DIGEST).filter(|content| content.is_multiple_of(SECTOR) && *content > 0);
    let content =
        content.ok_or_else(|| Damage::new(path, length, "not a whole backup: its digest is missing"))?;
    let mut digest = Sha256::new();
    let mut buffer = vec![0; limits::SNAPSHOT_CHUNK_BYTES];
    let mut offset = 0;
    while offset < content {
        let wanted = (content - offset).min(buffer.len() as u64) as usize;
        let part = buffer.get_mut(..wanted).unwrap_or_default();
        let count = file.read_at(part, offset).map_err(&io)?;
        if count == 0 {
            return Err(Damage::new(path, offset, "the file ends early").into());
        }
        digest.update(part.get(..count).unwrap_or_default());
        offset += count as u64;
    }
    let mut stored = [0; DIGEST as usize];
    let count = file.read_at(&mut stored, content).map_err(&io)?;
    let found: [u8; 32] = digest.finalize().into();
    if count < stored.len() || found != stored {
        return Err(Damage::new(path, content, "the digest is not that of the content").into());
    }
    let mut reader = SnapshotReader::open(files, path)?;
    reader.allow_padding(content);
    Ok((reader, found))
}

/// Whether nothing but zeros, and fewer than a sector, is between `from` and `to`.
pub(super) fn is_padding(file: &dyn crate::env::files::File, from: u64, to: u64) -> std::io::Result<bool> {
    let Some(count) = to.checked_sub(from).filter(|count| *count < SECTOR) else { return Ok(false) };
    let mut padding = vec![0; count as usize];
    let read = file.read_at(&mut padding, from)?;
    Ok(read as u64 == count && padding.iter().all(|byte| *byte == 0))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::env::simulated_files::SimulatedFiles;
    use crate::identity::ClusterId;
    use crate::storage::LogId;
    use crate::storage::snapshot::{SnapshotHeader, Snapshots};

    const PATH: &str = "/saved";

    /// A backup in a file, and how long its content is.
    fn saved(files: &SimulatedFiles) -> u64 {
        let world: Arc<dyn Files> = Arc::new(files.clone());
        let snapshots = Snapshots::open(world, Path::new("/snapshots"), Path::new("/incoming")).unwrap();
        let header = SnapshotHeader {
            cluster: ClusterId(7),
            last: LogId { term: 1, index: 3 },
            revision: 9,
            membership: Bytes::new(),
            membership_id: None,
        };
        let mut writer = snapshots.write(&header).unwrap();
        writer.pair(b"a", b"1").unwrap();
        let raw = writer.finish_unnamed().unwrap();
        assert_eq!(files.list(Path::new("/snapshots")).unwrap(), [] as [String; 0], "it has no name");
        let mut bytes = raw.read(0, raw.length() as usize).unwrap().to_vec();
        assert_eq!(bytes.len() as u64, raw.length());
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        let digest = Sha256::digest(&bytes);
        bytes.extend_from_slice(&digest);
        let file = files.open(Path::new(PATH), Open::Create).unwrap();
        file.write_at(&bytes, 0).unwrap();
        file.sync_data().unwrap();
        files.sync_dir(Path::new("/")).unwrap();
        raw.length()
    }

    fn read(files: &SimulatedFiles) -> Result<usize> {
        let (mut reader, _) = open_backup(files, Path::new(PATH))?;
        let mut pairs = 0;
        while reader.next_pair()?.is_some() {
            pairs += 1;
        }
        assert_eq!(reader.into_verified()?.header.revision, 9);
        Ok(pairs)
    }

    #[test]
    fn what_was_saved_is_read() {
        let files = SimulatedFiles::new(1);
        saved(&files);
        assert_eq!(read(&files).unwrap(), 1);
    }

    #[test]
    fn every_changed_byte_and_every_missing_one_is_noticed() {
        let files = SimulatedFiles::new(1);
        saved(&files);
        let length = files.open(Path::new(PATH), Open::Read).unwrap().length().unwrap();
        for offset in 0..length {
            let damaged = files.copy();
            damaged.corrupt(Path::new(PATH), offset).unwrap();
            assert!(matches!(read(&damaged), Err(SnapshotError::Damaged(_))), "byte {offset}");
        }
        for cut in [0, 1, 31, 32, 33, 511, 512, length - 1] {
            let file = files.open(Path::new(PATH), Open::Write).unwrap();
            file.set_length(cut).unwrap();
            assert!(matches!(read(&files), Err(SnapshotError::Damaged(_))), "{cut} bytes");
        }
    }

    #[test]
    fn what_follows_the_end_is_zeros_and_nothing_else() {
        let files = SimulatedFiles::new(1);
        let content = saved(&files);
        let file = files.open(Path::new(PATH), Open::Write).unwrap();
        let length = file.length().unwrap() - DIGEST;
        // With a digest that is right.
        file.write_at(b"x", content).unwrap();
        let mut bytes = vec![0; length as usize];
        file.read_at(&mut bytes, 0).unwrap();
        file.write_at(&Sha256::digest(&bytes), length).unwrap();
        assert!(matches!(read(&files), Err(SnapshotError::Damaged(_))));
    }
}
