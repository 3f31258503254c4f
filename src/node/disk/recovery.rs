//! What a human asks for through the data directory, and the recovery of a disk whose cluster has lost its majority.

use bytes::Bytes;
use tokio::sync::oneshot;

use super::{DiskState, Identity, LocalDisk, start_error};
use crate::error::Error;
use crate::identity::{ClusterId, Member, NodeId, Request};
use crate::limits;
use crate::raft::{self, Opened};
use crate::storage::log::{Entry, Vote};

impl LocalDisk {
    /// What is asked for, if anything. One that makes no sense is told and removed.
    pub(super) fn request_now(&self) -> Option<Request> {
        let bytes = match self.directory.request() {
            Ok(bytes) => bytes?,
            Err(error) => {
                tracing::warn!(%error, "whether something was asked for cannot be read");
                return None;
            }
        };
        match Request::decode(&bytes) {
            Ok(request) => Some(request),
            Err(reason) => {
                self.drop_request_now(&format!("it makes no sense: {reason}"));
                None
            }
        }
    }

    /// Forgets what was asked for.
    pub(super) fn drop_request_now(&self, why: &str) {
        match self.directory.remove_request() {
            Ok(()) => tracing::warn!(why, "what was asked for is not done"),
            Err(error) => {
                tracing::warn!(%error, why, "what was asked for is not done, and cannot be removed");
            }
        }
    }

    /// The disk becomes the only member of a new cluster, with all that it holds: entries that were not committed count, because they
    /// may have been acknowledged. Index and term go on. First it is stored that the disk is lost; so one that breaks off leaves a
    /// disk that takes part in nothing, and the same request completes it.
    pub(in crate::node) async fn recover(&self, own: Member) -> Result<(), Error> {
        self.lose("a recovery was begun and did not end")?;
        let identity = self.inner.lock().identity.clone();
        let Some(identity) = identity else { return Err(Error::Disk("the disk has no identity".into())) };
        let opened = match self.opened() {
            Some(opened) => opened,
            None => std::sync::Arc::new(self.open_parts(identity.lineage()).map_err(start_error)?),
        };
        let cluster = ClusterId::draw(&*self.env.random);
        let node_id = append(&opened, self.ordinal, own).await?;
        opened.log.close().await;
        let mut supersedes = identity.supersedes.clone();
        supersedes.push(identity.cluster);
        let recovered = Identity { cluster, supersedes, node_id, state: DiskState::Member, ..identity };
        self.identity_file.store(&recovered).map_err(start_error)?;
        tracing::warn!(%cluster, %node_id, replaces = %identity.cluster, "recovered");
        self.inner.lock().identity = Some(recovered);
        self.directory.remove_request().map_err(start_error)
    }
}

/// Appends a membership of this disk alone, and the command that raises the revision, in a term of their own.
async fn append(opened: &Opened, ordinal: u16, own: Member) -> Result<NodeId, Error> {
    let last = opened.on_disk().1.ok_or_else(|| Error::Disk("the log holds nothing to go on with".into()))?;
    let term = opened.log.vote().map_or(0, |vote| vote.term).max(last.term) + 1;
    let node_id = NodeId::new(ordinal, last.index + 1);
    let payloads = raft::recovery_entries(node_id, own, limits::RECOVERY_REVISIONS).map_err(start_error)?;
    if opened.log.last().or(opened.log.purged()).is_none_or(|logged| logged.index < last.index) {
        // The snapshot is ahead of the log: the log begins after it.
        durable(|done| opened.log.purge(last, done)).await?;
    }
    let entry = |(index, payload): (u64, Bytes)| Entry { id: crate::storage::LogId { term, index }, payload };
    let entries: Vec<Entry> = (last.index + 1..).zip(payloads).map(entry).collect();
    durable(|done| opened.log.save_vote(Vote { term, node: Some(node_id.0), committed: false }, done))
        .await?;
    durable(|done| opened.log.append(entries, done)).await?;
    Ok(node_id)
}

/// Waits until a write to the log is durable.
async fn durable(write: impl FnOnce(crate::storage::log::Done)) -> Result<(), Error> {
    let (told, done) = oneshot::channel();
    // Whoever waits is still there.
    write(Box::new(move |result| drop(told.send(result))));
    done.await.map_err(|_| Error::Stopped)?.map_err(|error| Error::Storage(error.to_string()))
}
