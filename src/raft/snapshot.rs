//! Snapshots: made of a pinned state while writes go on, sent to a peer in bounded chunks, received, installed.
//!
//! The file is `storage::snapshot`'s, the same for all three; a peer gets its bytes as they are. A transfer that broke off
//! goes on where the receiver's sound bytes end.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use openraft::storage::RaftSnapshotBuilder;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use super::codec;
use super::machine::{Machine, MachineError, Pin};
use super::types::{self, SnapshotMeta, StoredMembership, TypeConfig, Vote};
use super::wire;
use crate::env::Tasks;
use crate::identity::ClusterId;
use crate::limits;
use crate::metrics::Metrics;
use crate::proto::peer::raft_client::RaftClient;
use crate::proto::peer::{Envelope, SnapshotChunk, SnapshotHead, SnapshotOffsetRequest};
use crate::storage::snapshot::{RawSnapshot, SnapshotError, SnapshotHeader};
use crate::storage::{self, Snapshots};

/// A snapshot as openraft knows it.
pub type Snapshot = openraft::alias::SnapshotOf<TypeConfig, SnapshotFile>;

/// Longest pause between two chunks of a transfer.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for the receiver to verify and install a snapshot once it has all of it.
const INSTALL_TIMEOUT: Duration = Duration::from_mins(10);

/// A complete, verified snapshot on disk.
#[derive(Clone, Debug)]
pub struct SnapshotFile(storage::snapshot::SnapshotFile);

/// The snapshots of a member.
pub struct Store {
    snapshots: Snapshots,
    cluster: ClusterId,
    tasks: Arc<dyn Tasks>,
    metrics: Metrics,
    /// Index and length of the newest one.
    newest: Mutex<Option<(u64, u64)>>,
}

fn other(error: impl std::fmt::Display) -> io::Error {
    io::Error::other(error.to_string())
}

impl Store {
    /// The snapshots in an opened directory. Blocks.
    pub fn new(
        snapshots: Snapshots,
        cluster: ClusterId,
        tasks: Arc<dyn Tasks>,
        metrics: Metrics,
    ) -> Result<Self, SnapshotError> {
        let newest = match snapshots.newest()? {
            Some(file) => Some((file.id.index, snapshots.raw(&file)?.length())),
            None => None,
        };
        Ok(Self { snapshots, cluster, tasks, metrics, newest: Mutex::new(newest) })
    }

    /// Index of the last entry that the newest snapshot holds.
    pub fn newest_index(&self) -> Option<u64> {
        self.newest.lock().map(|(index, _)| index)
    }

    /// Bytes of the newest snapshot.
    pub fn bytes(&self) -> u64 {
        self.newest.lock().map_or(0, |(_, length)| length)
    }

    /// The newest snapshot.
    pub(crate) fn newest(&self) -> io::Result<Option<Snapshot>> {
        match self.snapshots.newest().map_err(other)? {
            Some(file) => Ok(Some(self.describe(file)?)),
            None => Ok(None),
        }
    }

    fn describe(&self, file: storage::snapshot::SnapshotFile) -> io::Result<Snapshot> {
        let reader = self.snapshots.read(&file).map_err(other)?;
        Ok(Snapshot { meta: meta_of(reader.header())?, snapshot: SnapshotFile(file) })
    }

    /// Bytes that are there of the snapshot that a peer calls `id`.
    fn received(&self, id: &str, length: u64) -> io::Result<u64> {
        Ok(self.snapshots.receive(id, length).map_err(other)?.offset())
    }

    pub(crate) fn offset(&self, id: &str) -> io::Result<u64> {
        let length = id.rsplit('-').next().and_then(|length| length.parse().ok());
        self.received(id, length.ok_or_else(|| other(format!("{id:?} is not the name of a snapshot")))?)
    }

    /// Replaces the state with a received snapshot.
    pub(crate) async fn install(
        &self,
        machine: &Arc<Machine>,
        meta: &SnapshotMeta,
        file: SnapshotFile,
    ) -> io::Result<()> {
        let (machine, snapshots) = (machine.clone(), self.snapshots.clone());
        let installed = file.clone();
        blocking(&*self.tasks, move || load(&machine, &snapshots, &installed.0)).await??;
        tracing::info!(last = ?meta.last_log_id, "the state was replaced by a snapshot of the leader");
        self.adopted(&file.0)?;
        self.metrics.snapshots_received.inc();
        Ok(())
    }

    fn adopted(&self, file: &storage::snapshot::SnapshotFile) -> io::Result<()> {
        self.snapshots.remove_before(file).map_err(other)?;
        let length = self.snapshots.raw(file).map_err(other)?.length();
        *self.newest.lock() = Some((file.id.index, length));
        self.metrics.snapshot_bytes.set(length as i64);
        Ok(())
    }
}

/// Loads a snapshot into the state. Blocks.
pub(crate) fn load(
    machine: &Machine,
    snapshots: &Snapshots,
    file: &storage::snapshot::SnapshotFile,
) -> Result<(), MachineError> {
    let mut reader = snapshots.read(file)?;
    machine.install(&mut std::iter::from_fn(|| reader.next_pair().transpose()))?;
    reader.into_verified()?;
    Ok(())
}

async fn blocking<T: Send + 'static>(
    tasks: &dyn Tasks,
    job: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let (result, done) = oneshot::channel();
    tasks
        .blocking(Box::new(move || {
            // The caller waits for it.
            let _ = result.send(job());
        }))
        .await;
    done.await.map_err(|_| other("the work was not done"))
}

fn meta_of(header: &SnapshotHeader) -> io::Result<SnapshotMeta> {
    let membership = if header.membership.is_empty() {
        StoredMembership::default()
    } else {
        codec::decode_stored_membership(header.membership.clone()).map_err(other)?
    };
    Ok(SnapshotMeta { last_log_id: Some(types::log_id(header.last)), last_membership: membership })
}

/// Makes a snapshot of a pinned state.
pub struct Builder {
    pin: Option<Pin>,
    store: Arc<Store>,
}

impl Builder {
    pub(crate) fn new(pin: Pin, store: Arc<Store>) -> Self {
        Self { pin: Some(pin), store }
    }
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let pin = self.pin.take().ok_or_else(|| other("a builder makes one snapshot"))?;
        let started = tokio::time::Instant::now();
        let (snapshots, cluster) = (self.store.snapshots.clone(), self.store.cluster);
        let file = blocking(&*self.store.tasks, move || write(&snapshots, cluster, &pin)).await??;
        self.store.adopted(&file)?;
        self.store.metrics.snapshots_made.inc();
        self.store.metrics.snapshot_save_seconds.observe(started.elapsed().as_secs_f64());
        tracing::info!(index = file.id.index, bytes = self.store.bytes(), took = ?started.elapsed(), "a snapshot was made");
        self.store.describe(file)
    }
}

fn write(
    snapshots: &Snapshots,
    cluster: ClusterId,
    pin: &Pin,
) -> Result<storage::snapshot::SnapshotFile, MachineError> {
    let invalid = || SnapshotError::Invalid("nothing was applied yet".into());
    let header = SnapshotHeader {
        cluster,
        last: types::stored_log_id(pin.applied.as_ref().ok_or_else(invalid)?),
        revision: pin.revision,
        membership: codec::encode_stored_membership(&pin.membership),
        membership_id: pin.membership.log_id().as_ref().map(types::stored_log_id),
    };
    let mut writer = snapshots.write(&header)?;
    pin.visit(&mut |key, value| writer.pair(key, value))?;
    Ok(writer.finish()?.0)
}

/// Sends a snapshot: asks what is there, sends the rest. Answers the receiver's vote.
pub(crate) async fn send(
    store: &Store,
    mut client: RaftClient<Channel>,
    envelope: Envelope,
    vote: Vote,
    snapshot: Snapshot,
) -> Result<Vote, String> {
    let raw = store.snapshots.raw(&snapshot.snapshot.0).map_err(|error| error.to_string())?;
    let id = &snapshot.snapshot.0.id;
    let snapshot_id = format!("{}-{}-{}-{}", envelope.from, id.term, id.index, raw.length());
    let question = SnapshotOffsetRequest { envelope: Some(envelope), snapshot_id: snapshot_id.clone() };
    let offset = tokio::time::timeout(CHUNK_TIMEOUT, client.snapshot_offset(question))
        .await
        .map_err(|_| "the receiver did not say what it has".to_owned())?
        .map_err(|status| status.message().to_owned())?
        .into_inner()
        .offset;
    let head = SnapshotHead {
        envelope: Some(envelope),
        vote: Some(wire::vote_to_wire(&vote)),
        snapshot_id,
        last: Some(crate::proto::peer::LogId { term: id.term, index: id.index }),
        membership_id: None,
        membership: None,
        length: raw.length(),
    };
    let call = client.install_snapshot(chunks(raw, head, offset));
    let answer = tokio::time::timeout(INSTALL_TIMEOUT, call)
        .await
        .map_err(|_| "the receiver did not install the snapshot in time".to_owned())?
        .map_err(|status| status.message().to_owned())?;
    store.metrics.snapshots_sent.inc();
    let vote = answer.into_inner().vote.ok_or("the receiver did not say whom it follows")?;
    Ok(wire::vote_from_wire(&vote))
}

/// The head, then the bytes from `offset` on. A file that cannot be read ends the stream early, which the receiver sees.
fn chunks(raw: RawSnapshot, head: SnapshotHead, offset: u64) -> impl Stream<Item = SnapshotChunk> {
    let first = SnapshotChunk { head: Some(head), offset, data: Bytes::new(), last: false };
    let rest = futures::stream::unfold((raw, offset), |(raw, offset)| async move {
        let data = match raw.read(offset, limits::SNAPSHOT_CHUNK_BYTES) {
            Ok(data) if data.is_empty() => return None,
            Ok(data) => data,
            Err(error) => {
                tracing::warn!(%error, offset, "the snapshot could not be read while it was sent");
                return None;
            }
        };
        let next = offset + data.len() as u64;
        let last = next >= raw.length();
        Some((SnapshotChunk { head: None, offset, data, last }, (raw, next)))
    });
    futures::stream::iter([first]).chain(rest)
}

/// Receives what [`send`] sends, and verifies it.
pub(crate) async fn receive(
    store: &Arc<Store>,
    head: SnapshotHead,
    chunks: &mut Streaming<SnapshotChunk>,
) -> Result<(Vote, Snapshot), Status> {
    let vote = head.vote.as_ref().ok_or_else(|| Status::invalid_argument("the snapshot names no vote"))?;
    let failed = |error: SnapshotError| Status::unavailable(error.to_string());
    let mut incoming = store.snapshots.receive(&head.snapshot_id, head.length).map_err(failed)?;
    while incoming.offset() < incoming.length() {
        let chunk = tokio::time::timeout(CHUNK_TIMEOUT, chunks.message())
            .await
            .map_err(|_| Status::deadline_exceeded("the next chunk did not come"))??
            .ok_or_else(|| Status::aborted("the snapshot ended early"))?;
        incoming.write(chunk.offset, &chunk.data).map_err(failed)?;
    }
    let finish = move || incoming.finish();
    let (file, verified) = blocking(&*store.tasks, finish)
        .await
        .map_err(|error| Status::internal(error.to_string()))?
        .map_err(failed)?;
    let header = verified.header;
    if header.cluster != store.cluster {
        return Err(Status::failed_precondition(format!("the snapshot is of cluster {}", header.cluster)));
    }
    let meta = meta_of(&header).map_err(|error| Status::data_loss(error.to_string()))?;
    Ok((wire::vote_from_wire(vote), Snapshot { meta, snapshot: SnapshotFile(file) }))
}
