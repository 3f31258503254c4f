//! A snapshot of a store, on its way here: pieces, and the proof at the end that they are whole.

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tonic::Streaming;

use super::failure::{self, Kind};
use crate::error::Error;
use crate::limits;
use crate::proto::etcdserverpb::SnapshotResponse;
use crate::raft::backup::Backup;

/// What the length without the digest is a multiple of, as etcd's clients want it.
const SECTOR: u64 = 512;
/// Bytes of the digest.
const DIGEST: usize = 32;

/// A snapshot that is being fetched. What it hands out is to be believed once [`Snapshot::next`] has returned `Ok(None)`: the last 32 bytes
/// are the SHA-256 of all before. One that breaks off cannot be resumed, because the store has moved on: it is fetched anew.
pub struct Snapshot {
    source: Source,
    /// The piece that came last, to know when there is none after it.
    first: Option<SnapshotResponse>,
    version: String,
    received: u64,
    remaining: u64,
    digest: Sha256,
    /// What was handed out last, and is not in the digest yet: it may be the digest.
    last: Bytes,
    ended: bool,
}

enum Source {
    Remote(Box<Streaming<SnapshotResponse>>, String),
    Here(Backup),
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot")
            .field("version", &self.version)
            .field("received", &self.received)
            .field("remaining", &self.remaining)
            .finish_non_exhaustive()
    }
}

impl Snapshot {
    /// `first`: the first message of the stream; `from`: whom to blame.
    pub(super) fn remote(stream: Streaming<SnapshotResponse>, first: SnapshotResponse, from: &str) -> Self {
        let source = Source::Remote(Box::new(stream), from.to_owned());
        let (version, remaining) = (first.version.clone(), first.remaining_bytes + first.blob.len() as u64);
        Self { first: Some(first), ..Self::of(source, version, remaining) }
    }

    pub(super) fn here(backup: Backup) -> Self {
        let remaining = backup.padded();
        Self::of(Source::Here(backup), String::new(), remaining)
    }

    fn of(source: Source, version: String, remaining: u64) -> Self {
        Self {
            source,
            first: None,
            version,
            received: 0,
            remaining,
            digest: Sha256::new(),
            last: Bytes::new(),
            ended: false,
        }
    }

    /// Version of the storage format, as the member says; empty if it does not, or is in this process.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Bytes handed out so far.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Bytes that are to come, without the digest.
    pub fn remaining(&self) -> u64 {
        self.remaining
    }

    /// The next bytes; `None` when all have come and the digest is right.
    ///
    /// # Errors
    /// Why it broke off; [`Error::Storage`] if the digest is not that of what came.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        if self.ended {
            return Ok(None);
        }
        let Some((blob, remaining)) = self.piece().await? else {
            self.ended = true;
            return self.check().map(|()| None);
        };
        self.digest.update(std::mem::replace(&mut self.last, blob.clone()));
        self.received += blob.len() as u64;
        self.remaining = remaining;
        Ok(Some(blob))
    }

    async fn piece(&mut self) -> Result<Option<(Bytes, u64)>, Error> {
        if let Some(first) = self.first.take() {
            return Ok(Some((first.blob, first.remaining_bytes)));
        }
        match &mut self.source {
            Source::Here(backup) => Ok(backup.next().await?.map(|piece| (piece.blob, piece.remaining))),
            Source::Remote(stream, from) => {
                let message = tokio::time::timeout(limits::SNAPSHOT_CLIENT_TIMEOUT, stream.message()).await;
                match message {
                    Ok(Ok(message)) => Ok(message.map(|message| (message.blob, message.remaining_bytes))),
                    Ok(Err(status)) => Err(failure::from_status(&status, Kind::Read, from)),
                    Err(_) => Err(failure::timed_out(Kind::Read)),
                }
            }
        }
    }

    fn check(&self) -> Result<(), Error> {
        let digest: [u8; DIGEST] = self.digest.clone().finalize().into();
        let content = self.received.saturating_sub(DIGEST as u64);
        if self.last[..] != digest || !content.is_multiple_of(SECTOR) {
            let text = format!("the digest is not that of the {content} bytes that came");
            return Err(Error::Storage(text));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_bytes_come_and_the_digest_is_looked_at() {
        let content = Bytes::from(vec![7; 100_000]);
        let mut snapshot = Snapshot::here(Backup::of_bytes(content.clone(), 3));
        let total = snapshot.remaining();
        let mut bytes = Vec::new();
        while let Some(piece) = snapshot.next().await.unwrap() {
            bytes.extend_from_slice(&piece);
            assert_eq!(snapshot.received(), bytes.len() as u64);
        }
        assert_eq!(bytes.len() as u64, total + 32);
        assert_eq!(bytes[..content.len()], content[..]);
        assert_eq!(snapshot.next().await.unwrap(), None);
    }

    #[test]
    fn another_digest_is_refused() {
        let mut snapshot = Snapshot::here(Backup::of_bytes(Bytes::new(), 3));
        assert!(snapshot.check().is_err(), "nothing came");
        snapshot.last = Bytes::copy_from_slice(&Sha256::digest(b""));
        snapshot.received = 32;
        assert!(snapshot.check().is_ok());
        snapshot.received = 33;
        assert!(snapshot.check().is_err(), "not a multiple of a sector");
        snapshot.received = 32;
        snapshot.last = Bytes::from_static(&[0; 32]);
        assert!(snapshot.check().is_err());
    }
}
