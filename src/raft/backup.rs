//! A snapshot for a client: the file of `storage::snapshot` as it is now, padded, and cut into pieces as etcd's clients take it.
//!
//! It is written to a file without a name first, and read back as fast as the client takes it. So a client that is slow holds up neither
//! compaction nor the members, and costs room on the disk and nothing else; and how much is to come is known from the first piece on.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use sha2::{Digest, Sha256};
use tokio::sync::OwnedSemaphorePermit;

use super::handle::Consensus;
use super::machine::Whole;
use super::snapshot::{self, blocking};
use super::{codec, types};
use crate::env::Tasks;
use crate::error::Error;
use crate::identity::ClusterId;
use crate::limits;
use crate::mvcc::command::Refusal;
use crate::storage::Snapshots;
use crate::storage::snapshot::{RawSnapshot, SnapshotHeader};

/// What etcd's clients want the length without the digest to be a multiple of.
const SECTOR: u64 = 512;
/// Bytes that the small state and the blocks take at most, for the check whether there is room.
const BESIDE_BYTES: u64 = 4 << 20;

/// One piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The bytes.
    pub blob: Bytes,
    /// Bytes that are to come, without the digest.
    pub remaining: u64,
}

/// A snapshot on its way to a client.
pub struct Backup {
    source: Source,
    /// Bytes of the snapshot.
    length: u64,
    /// Revision of the store in it.
    revision: i64,
    /// Bytes handed out, padding included.
    sent: u64,
    /// Read, and not handed out.
    read: BytesMut,
    /// Bytes of the snapshot that were read.
    offset: u64,
    digest: Sha256,
    finished: bool,
    _turn: Option<OwnedSemaphorePermit>,
}

enum Source {
    File(RawSnapshot, Arc<dyn Tasks>),
    Bytes(Bytes),
}

impl std::fmt::Debug for Backup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Backup")
            .field("length", &self.length)
            .field("sent", &self.sent)
            .finish_non_exhaustive()
    }
}

impl Backup {
    fn new(source: Source, length: u64, revision: i64, turn: Option<OwnedSemaphorePermit>) -> Self {
        Self {
            source,
            length,
            revision,
            sent: 0,
            read: BytesMut::new(),
            offset: 0,
            digest: Sha256::new(),
            finished: false,
            _turn: turn,
        }
    }

    /// One of these bytes, for stores without a disk.
    pub fn of_bytes(bytes: Bytes, revision: i64) -> Self {
        let length = bytes.len() as u64;
        Self::new(Source::Bytes(bytes), length, revision, None)
    }

    /// Revision of the store in it.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// Bytes in all pieces but the digest.
    pub fn padded(&self) -> u64 {
        self.length.next_multiple_of(SECTOR)
    }

    /// The next piece; the last one is the SHA-256 of all before. `None` after that.
    ///
    /// # Errors
    /// [`Error::Storage`] if the file cannot be read.
    pub async fn next(&mut self) -> Result<Option<Piece>, Error> {
        if self.finished {
            return Ok(None);
        }
        let left = self.padded() - self.sent;
        if left == 0 {
            self.finished = true;
            let digest: [u8; 32] = self.digest.clone().finalize().into();
            return Ok(Some(Piece { blob: Bytes::copy_from_slice(&digest), remaining: 0 }));
        }
        let wanted = left.min(limits::SNAPSHOT_PIECE_BYTES as u64) as usize;
        while self.read.len() < wanted {
            if self.offset >= self.length {
                self.read.resize(wanted, 0);
                break;
            }
            let bytes = self.read_some().await?;
            if bytes.is_empty() {
                return Err(Error::Storage(format!(
                    "a snapshot of {} bytes ends after {}",
                    self.length, self.offset
                )));
            }
            self.offset += bytes.len() as u64;
            self.read.extend_from_slice(&bytes);
        }
        let blob = self.read.split_to(wanted).freeze();
        self.digest.update(&blob);
        self.sent += wanted as u64;
        Ok(Some(Piece { blob, remaining: self.padded() - self.sent }))
    }

    async fn read_some(&self) -> Result<Bytes, Error> {
        match &self.source {
            Source::Bytes(bytes) => Ok(bytes.get(self.offset as usize..).unwrap_or_default().to_vec().into()),
            Source::File(file, tasks) => {
                let (file, offset) = (file.clone(), self.offset);
                let read = move || file.read(offset, limits::SNAPSHOT_CHUNK_BYTES);
                let failed = |error: std::io::Error| Error::Storage(error.to_string());
                blocking(&**tasks, read).await.map_err(failed)?.map_err(failed)
            }
        }
    }
}

impl Consensus {
    /// Makes a snapshot of the local state for a client.
    pub(super) async fn make_backup(&self) -> Result<Backup, Error> {
        let turns = self.inner.backups.clone();
        let turn = turns.try_acquire_owned().map_err(|_| Error::TooManyRequests)?;
        let whole = self.inner.machine.whole()?;
        let revision = whole.revision;
        let (snapshots, cluster) = (self.inner.snapshots.clone(), self.inner.mine.cluster);
        let files = snapshots.files().clone();
        let file = self.blocking(move || write(&files, cluster, &whole)).await??;
        let source = Source::File(file.clone(), snapshots.tasks().clone());
        Ok(Backup::new(source, file.length(), revision, Some(turn)))
    }

    /// Checksum of all that the local state holds, and the revision that it is of.
    pub(super) async fn hash_whole(&self) -> Result<(u32, i64), Error> {
        let whole = self.inner.machine.whole()?;
        let hash = move || {
            let mut crc = 0;
            let visited = whole.visit(&mut |key, value| {
                crc = crc32c::crc32c_append(crc32c::crc32c_append(crc, key), value);
                Ok(())
            });
            visited.map(|()| (crc, whole.revision)).map_err(|error| failed(&error))
        };
        self.blocking(hash).await?
    }

    /// The hash of another member's store.
    pub(crate) async fn hash_of(
        &self,
        member: crate::identity::NodeId,
        revision: i64,
    ) -> Result<super::store::StoreHash, Error> {
        self.inner.peers.hash(member, revision).await
    }

    /// Runs work that blocks, on a thread for it.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        let tasks = self.inner.snapshots.tasks().clone();
        blocking(&*tasks, job).await.map_err(|error| Error::Storage(error.to_string()))
    }
}

fn failed(error: &super::machine::MachineError) -> Error {
    match error {
        super::machine::MachineError::Torn => Error::NotServing("a snapshot was installed meanwhile".into()),
        error if snapshot::is_full(error) => Refusal::NoSpace.into(),
        error => Error::Storage(error.to_string()),
    }
}

/// Writes the snapshot where nobody finds it. Blocks.
fn write(snapshots: &Snapshots, cluster: ClusterId, whole: &Whole) -> Result<RawSnapshot, Error> {
    let told = |error: crate::storage::snapshot::SnapshotError| failed(&error.into());
    snapshots.check_room(whole.bytes + BESIDE_BYTES).map_err(told)?;
    let header = SnapshotHeader {
        cluster,
        last: types::stored_log_id(&whole.applied),
        revision: whole.revision,
        membership: codec::encode_stored_membership(&whole.membership),
        membership_id: whole.membership.log_id().as_ref().map(types::stored_log_id),
    };
    let mut writer = snapshots.write(&header).map_err(told)?;
    whole.visit(&mut |key, value| writer.pair(key, value)).map_err(|error| failed(&error))?;
    writer.finish_unnamed().map_err(told)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn pieces(bytes: Bytes) -> Vec<Piece> {
        let mut backup = Backup::of_bytes(bytes, 1);
        let mut pieces = Vec::new();
        while let Some(piece) = backup.next().await.unwrap() {
            pieces.push(piece);
        }
        pieces
    }

    #[tokio::test]
    async fn pieces_are_what_etcds_clients_accept() {
        for length in
            [0, 1, 511, 512, 513, limits::SNAPSHOT_PIECE_BYTES, 3 * limits::SNAPSHOT_PIECE_BYTES + 77]
        {
            let bytes: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            let pieces = pieces(bytes.clone().into()).await;
            let (digest, content) = pieces.split_last().unwrap();
            let whole: Vec<u8> = content.iter().flat_map(|piece| piece.blob.to_vec()).collect();
            assert_eq!(whole.len() % 512, 0, "{length}");
            assert!(whole.len() - length < 512);
            assert_eq!(whole[..length], bytes[..]);
            assert!(whole[length..].iter().all(|byte| *byte == 0));
            let expected: [u8; 32] = Sha256::digest(&whole).into();
            assert_eq!((&digest.blob[..], digest.remaining), (&expected[..], 0));
            let mut left = whole.len() as u64;
            for piece in content {
                left -= piece.blob.len() as u64;
                assert_eq!(piece.remaining, left);
                assert!(piece.blob.len() <= limits::SNAPSHOT_PIECE_BYTES);
            }
        }
    }
}
