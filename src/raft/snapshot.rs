//! Snapshots: made of a pinned state while writes go on, sent to a peer in bounded chunks, received, installed.
//!
//! The file is `storage::snapshot`'s, the same for all three; a peer gets its bytes as they are. A transfer that broke off
//! goes on where the receiver's sound bytes end, after a restart of either side too. One snapshot is received at a time:
//! the newest transfer ends the one before.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use openraft::storage::RaftSnapshotBuilder;
use parking_lot::Mutex;
use tokio::sync::{OwnedMutexGuard, oneshot};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use super::codec;
use super::machine::{Machine, MachineError, Pin};
use super::open::of_cluster;
use super::types::{self, SnapshotMeta, StoredMembership, TypeConfig, Vote};
use super::wire;
use crate::env::Tasks;
use crate::env::simulated::{self, Bug, Seen};
use crate::identity::{ClusterId, Lineage, NodeId};
use crate::limits;
use crate::metrics::Metrics;
use crate::mvcc::layout;
use crate::proto::peer::raft_client::RaftClient;
use crate::proto::peer::{
    Envelope, InstallSnapshotResponse, SnapshotChunk, SnapshotHead, SnapshotOffsetRequest,
};
use crate::storage::snapshot::{Incoming, RawSnapshot, SnapshotError, SnapshotHeader};
use crate::storage::{self, Snapshots};

/// A snapshot as openraft knows it.
pub type Snapshot = openraft::alias::SnapshotOf<TypeConfig, SnapshotFile>;

/// Longest pause between two chunks of a transfer.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(10);
/// How often an installation looks whether the snapshot that is being made is done.
const PIN_INTERVAL: Duration = Duration::from_millis(20);
/// Time for the receiver to verify and install a snapshot once it has all of it.
const INSTALL_TIMEOUT: Duration = Duration::from_mins(10);

/// A complete, verified snapshot on disk; `None` stands for one that could not be made.
#[derive(Clone, Debug)]
pub struct SnapshotFile(pub(super) Option<storage::snapshot::SnapshotFile>);

impl SnapshotFile {
    fn get(&self) -> io::Result<&storage::snapshot::SnapshotFile> {
        self.0.as_ref().ok_or_else(|| other("there is no such snapshot"))
    }
}

/// Who receives a snapshot now.
#[derive(Default)]
struct Receiving {
    turn: Arc<tokio::sync::Mutex<()>>,
    newest: Mutex<CancellationToken>,
}

/// The snapshots of a member.
pub struct Store {
    snapshots: Snapshots,
    /// The cluster, and those whose snapshots are its own.
    lineage: Mutex<Lineage>,
    tasks: Arc<dyn Tasks>,
    metrics: Metrics,
    /// Index and length of the newest one.
    newest: Mutex<Option<(u64, u64)>>,
    receiving: Receiving,
    /// The last snapshot that was to be made found no room.
    lacks_room: AtomicBool,
}

fn other(error: impl std::fmt::Display) -> io::Error {
    io::Error::other(error.to_string())
}

impl Store {
    /// The snapshots in an opened directory. Blocks.
    pub fn new(
        snapshots: Snapshots,
        lineage: Lineage,
        tasks: Arc<dyn Tasks>,
        metrics: Metrics,
    ) -> Result<Self, SnapshotError> {
        let newest = match snapshots.newest()? {
            Some(file) => Some((file.id.index, snapshots.raw(&file)?.length())),
            None => None,
        };
        Ok(Self {
            snapshots,
            lineage: Mutex::new(lineage),
            tasks,
            metrics,
            newest: Mutex::new(newest),
            receiving: Receiving::default(),
            lacks_room: AtomicBool::new(false),
        })
    }

    /// The directories.
    pub(super) fn files(&self) -> &Snapshots {
        &self.snapshots
    }

    /// Where work that blocks is done.
    pub(super) fn tasks(&self) -> &Arc<dyn Tasks> {
        &self.tasks
    }

    /// The cluster that snapshots are made for, and those from which they are taken.
    fn lineage(&self) -> Lineage {
        self.lineage.lock().clone()
    }

    /// The disk belongs to another cluster than was thought: an attempt at a first bootstrap was replaced by the next.
    pub fn belongs_to(&self, cluster: ClusterId) {
        *self.lineage.lock() = cluster.into();
    }

    /// Index of the last entry that the newest snapshot holds.
    pub fn newest_index(&self) -> Option<u64> {
        self.newest.lock().map(|(index, _)| index)
    }

    /// Bytes of the newest snapshot.
    pub fn bytes(&self) -> u64 {
        self.newest.lock().map_or(0, |(_, length)| length)
    }

    /// Whether the last snapshot that was to be made found the disk full.
    pub(crate) fn lacks_room(&self) -> bool {
        self.lacks_room.load(Ordering::Relaxed)
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
        Ok(Snapshot { meta: meta_of(reader.header())?, snapshot: SnapshotFile(Some(file)) })
    }

    /// The turn to receive: ends whoever has it.
    async fn take_turn(&self) -> (OwnedMutexGuard<()>, CancellationToken) {
        let mine = CancellationToken::new();
        std::mem::replace(&mut *self.receiving.newest.lock(), mine.clone()).cancel();
        (self.receiving.turn.clone().lock_owned().await, mine)
    }

    async fn begin(&self, id: &str, length: u64) -> io::Result<Incoming> {
        let (snapshots, id) = (self.snapshots.clone(), id.to_owned());
        blocking(&*self.tasks, move || snapshots.receive(&id, length)).await?.map_err(other)
    }

    /// Bytes that are there of the snapshot that a peer calls `id`.
    pub(crate) async fn offset(&self, id: &str) -> io::Result<u64> {
        let length = id.rsplit('-').next().and_then(|length| length.parse().ok());
        let length = length.ok_or_else(|| other(format!("{id:?} is not the name of a snapshot")))?;
        let _turn = self.take_turn().await;
        Ok(self.begin(id, length).await?.offset())
    }

    /// Replaces the state with a received snapshot.
    pub(crate) async fn install(
        &self,
        machine: &Arc<Machine>,
        meta: &SnapshotMeta,
        file: SnapshotFile,
    ) -> io::Result<()> {
        // A snapshot that is being made reads the state that goes now. No other can begin: that would take the worker that
        // runs this.
        while machine.is_pinned() {
            tokio::time::sleep(PIN_INTERVAL).await;
        }
        let (machine, snapshots) = (machine.clone(), self.snapshots.clone());
        let file = file.get()?.clone();
        let installed = file.clone();
        blocking(&*self.tasks, move || load(&machine, &snapshots, &installed)).await??;
        tracing::info!(last = ?meta.last_log_id, "the state was replaced by a snapshot of the leader");
        self.adopted(file).await?;
        self.metrics.snapshots_received.inc();
        Ok(())
    }

    /// Removes the snapshots before one that is complete.
    async fn adopted(&self, file: storage::snapshot::SnapshotFile) -> io::Result<()> {
        let (snapshots, index) = (self.snapshots.clone(), file.id.index);
        let length = blocking(&*self.tasks, move || {
            snapshots.remove_before(&file)?;
            Ok::<_, SnapshotError>(snapshots.raw(&file)?.length())
        })
        .await?
        .map_err(other)?;
        let mut newest = self.newest.lock();
        if newest.is_none_or(|(known, _)| known <= index) {
            *newest = Some((index, length));
            self.metrics.snapshot_bytes.set(length as i64);
        }
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
    let mut pairs = std::iter::from_fn(|| reader.next_pair().transpose());
    if simulated::planted(Bug::InstallHalf) {
        let mut records = 0;
        return machine.install(&mut pairs.filter(|pair| {
            let is_record = pair.as_ref().is_ok_and(|(key, _)| key.first() == Some(&layout::HISTORY));
            records += u32::from(is_record);
            !is_record || records <= 2
        }));
    }
    machine.install(&mut pairs)?;
    reader.into_verified()?;
    Ok(())
}

pub(super) async fn blocking<T: Send + 'static>(
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
    /// Whose it is, for a simulation that watches.
    node: NodeId,
    pin: Option<Pin>,
    store: Arc<Store>,
}

impl Builder {
    pub(crate) fn new(node: NodeId, pin: Pin, store: Arc<Store>) -> Self {
        Self { node, pin: Some(pin), store }
    }
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let pin = self.pin.take().ok_or_else(|| other("a builder makes one snapshot"))?;
        if pin.applied.is_none() {
            // There is nothing to keep, and openraft stops at an error.
            return Ok(none());
        }
        let started = tokio::time::Instant::now();
        let (snapshots, cluster) = (self.store.snapshots.clone(), self.store.lineage().cluster);
        // The pin goes with the job: compaction waits until it is done.
        let written = blocking(&*self.store.tasks, move || write(&snapshots, cluster, &pin)).await?;
        let file = match written {
            Ok(file) => file,
            Err(error) if is_full(&error) => {
                // openraft stops at an error, but a full disk only means that the log cannot be cut now.
                self.store.lacks_room.store(true, Ordering::Relaxed);
                tracing::error!(%error, "no room for a snapshot; the log grows until there is");
                return Ok(none());
            }
            Err(error) => return Err(error.into()),
        };
        simulated::tell(|| Seen::Kept { node: self.node.0, index: file.id.index });
        self.store.lacks_room.store(false, Ordering::Relaxed);
        self.store.adopted(file.clone()).await?;
        self.store.metrics.snapshots_made.inc();
        self.store.metrics.snapshot_save_seconds.observe(started.elapsed().as_secs_f64());
        tracing::info!(index = file.id.index, bytes = self.store.bytes(), took = ?started.elapsed(), "a snapshot was made");
        self.store.describe(file)
    }
}

/// The snapshot that could not be made.
fn none() -> Snapshot {
    Snapshot { meta: SnapshotMeta::default(), snapshot: SnapshotFile(None) }
}

pub(super) fn is_full(error: &MachineError) -> bool {
    let MachineError::Snapshot(SnapshotError::Io { source, .. }) = error else { return false };
    matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
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
    snapshots.check_room(pin.bytes)?;
    let mut writer = snapshots.write(&header)?;
    pin.visit(&mut |key, value| writer.pair(key, value))?;
    Ok(writer.finish()?.0)
}

/// Sends a snapshot: asks what is there, sends the rest. Answers the receiver's vote and its boot.
pub(crate) async fn send(
    store: &Store,
    mut client: RaftClient<Channel>,
    envelope: Envelope,
    vote: Vote,
    snapshot: Snapshot,
) -> Result<(Vote, (u64, u64)), Status> {
    let unreadable = |error: &dyn std::fmt::Display| Status::unavailable(error.to_string());
    let file = snapshot.snapshot.get().map_err(|error| unreadable(&error))?;
    let raw = store.snapshots.raw(file).map_err(|error| unreadable(&error))?;
    let id = &file.id;
    let snapshot_id = format!("{}-{}-{}-{}", envelope.from, id.term, id.index, raw.length());
    let question = SnapshotOffsetRequest { envelope: Some(envelope), snapshot_id: snapshot_id.clone() };
    let offset = tokio::time::timeout(CHUNK_TIMEOUT, client.snapshot_offset(question))
        .await
        .map_err(|_| Status::deadline_exceeded("the receiver did not say what it has"))??
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
    let call = client.install_snapshot(chunks(store.tasks.clone(), raw, head, offset));
    let answer = tokio::time::timeout(INSTALL_TIMEOUT, call)
        .await
        .map_err(|_| Status::deadline_exceeded("the receiver did not install the snapshot in time"))??;
    store.metrics.snapshots_sent.inc();
    let InstallSnapshotResponse { vote, boot, boot_random } = answer.into_inner();
    let vote = vote.ok_or_else(|| Status::internal("the receiver did not say whom it follows"))?;
    Ok((wire::vote_from_wire(&vote), (boot, boot_random)))
}

/// The head, then the bytes from `offset` on. A file that cannot be read ends the stream early, which the receiver sees.
fn chunks(
    tasks: Arc<dyn Tasks>,
    raw: RawSnapshot,
    head: SnapshotHead,
    offset: u64,
) -> impl Stream<Item = SnapshotChunk> {
    let first = SnapshotChunk { head: Some(head), offset, data: Bytes::new(), last: false };
    let rest = futures::stream::unfold((tasks, raw, offset), |(tasks, raw, offset)| async move {
        let (file, length) = (raw.clone(), limits::SNAPSHOT_CHUNK_BYTES);
        let data = match blocking(&*tasks, move || file.read(offset, length)).await.and_then(|read| read) {
            Ok(data) if data.is_empty() => return None,
            Ok(data) => data,
            Err(error) => {
                tracing::warn!(%error, offset, "the snapshot could not be read while it was sent");
                return None;
            }
        };
        let next = offset + data.len() as u64;
        let last = next >= raw.length();
        Some((SnapshotChunk { head: None, offset, data, last }, (tasks, raw, next)))
    });
    futures::stream::iter([first]).chain(rest)
}

/// Receives what [`send`] sends, and verifies it. `committed` is the last entry that this member knows to be committed.
pub(crate) async fn receive(
    store: &Arc<Store>,
    head: SnapshotHead,
    chunks: &mut Streaming<SnapshotChunk>,
    committed: Option<storage::LogId>,
) -> Result<(Vote, Snapshot), Status> {
    let vote = wire::leader_vote(head.vote.as_ref(), head.envelope.as_ref())
        .map_err(|error| Status::invalid_argument(error.to_string()))?;
    let failed = |error: SnapshotError| Status::unavailable(error.to_string());
    let internal = |error: io::Error| Status::unavailable(error.to_string());
    let (_turn, replaced) = store.take_turn().await;
    let mut incoming = store.begin(&head.snapshot_id, head.length).await.map_err(internal)?;
    while incoming.offset() < incoming.length() {
        let chunk = tokio::select! {
            chunk = tokio::time::timeout(CHUNK_TIMEOUT, chunks.message()) => chunk,
            () = replaced.cancelled() => return Err(Status::aborted("another transfer has begun")),
        };
        let chunk = chunk
            .map_err(|_| Status::deadline_exceeded("the next chunk did not come"))??
            .ok_or_else(|| Status::aborted("the snapshot ended early"))?;
        let (back, written) = blocking(&*store.tasks, move || {
            let written = incoming.write(chunk.offset, &chunk.data);
            (incoming, written)
        })
        .await
        .map_err(internal)?;
        written.map_err(failed)?;
        incoming = back;
    }
    let (lineage, term) = (store.lineage(), vote.leader_id.term);
    let finish = move || incoming.finish_if(|header| acceptable(header, &lineage, term, committed));
    let (file, verified) =
        blocking(&*store.tasks, finish).await.map_err(internal)?.map_err(|error| match error {
            SnapshotError::Invalid(text) => Status::failed_precondition(text),
            error => failed(error),
        })?;
    let meta = meta_of(&verified.header).map_err(|error| Status::data_loss(error.to_string()))?;
    Ok((vote, Snapshot { meta, snapshot: SnapshotFile(Some(file)) }))
}

/// Refuses what no leader of this cluster can have sent; openraft would stop at it.
fn acceptable(
    header: &SnapshotHeader,
    lineage: &Lineage,
    term: u64,
    committed: Option<storage::LogId>,
) -> Result<(), SnapshotError> {
    of_cluster(lineage, header.cluster)?;
    if header.last.term > term {
        let text = format!("it ends with entry {}, its sender leads term {term}", header.last);
        return Err(SnapshotError::Invalid(text));
    }
    if let Some(committed) = committed
        && (header.last > committed) != (header.last.index > committed.index)
    {
        let text = format!("it ends with entry {}, but entry {committed} is committed here", header.last);
        return Err(SnapshotError::Invalid(text));
    }
    meta_of(header).map(|_| ()).map_err(|error| SnapshotError::Invalid(error.to_string()))
}
