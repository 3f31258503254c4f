//! The applied state as openraft wants it. Waits for the local disk before it applies: openraft hands over entries that a
//! majority has, but that this member may not have synced yet.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use openraft::OptionalSend;
use openraft::storage::{EntryResponder, RaftStateMachine};
use tokio::sync::watch;

use super::codec;
use super::machine::Machine;
use super::snapshot::{self, Builder, SnapshotFile};
use super::types::{Entry, EntryPayload, LogId, Replies, SnapshotMeta, StoredMembership, TypeConfig};
use crate::env::simulated::{self, Bug, Seen};
use crate::identity::NodeId;
use crate::metrics::Metrics;
#[cfg(feature = "simulation")]
use crate::mvcc::command::Command;
use crate::storage::Log;

/// How often an entry that waits for the disk looks whether the disk has failed.
const FAILURE_INTERVAL: Duration = Duration::from_millis(500);

/// Entries from one look of a simulation at the whole state to the next.
#[cfg(feature = "simulation")]
const DIGEST_INTERVAL: u64 = 8;

/// openraft's view of the applied state.
#[derive(Clone)]
pub struct StateMachine {
    node: NodeId,
    machine: Arc<Machine>,
    snapshots: Arc<snapshot::Store>,
    log: Log,
    /// Highest index that the local log has on disk.
    durable: watch::Receiver<u64>,
    metrics: Metrics,
}

impl StateMachine {
    /// `log` is the one that openraft writes to.
    pub fn new(
        node: NodeId,
        machine: Arc<Machine>,
        snapshots: Arc<snapshot::Store>,
        log: &Log,
        metrics: Metrics,
    ) -> Self {
        Self { node, machine, snapshots, log: log.clone(), durable: log.durable(), metrics }
    }

    /// Follows another claim of durability than a log's.
    #[cfg(test)]
    pub(crate) fn with_durable(mut self, durable: watch::Receiver<u64>) -> Self {
        self.durable = durable;
        self
    }

    fn apply_entry(&self, entry: &Entry) -> io::Result<Replies> {
        #[cfg(feature = "simulation")]
        if simulated::is_spoiled(self.node.ordinal()) {
            return Ok(self.machine.apply(&spoiled(entry))?);
        }
        let replies = self.machine.apply(entry)?;
        simulated::tell(|| self.machine.stored(entry.log_id.index));
        Ok(replies)
    }

    async fn wait_durable(&mut self, index: u64) -> io::Result<()> {
        loop {
            let durable = self.durable.wait_for(|durable| *durable >= index);
            match tokio::time::timeout(FAILURE_INTERVAL, durable).await {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(_)) => {
                    return Err(io::Error::other("the log was closed before the entry was durable"));
                }
                // A log that failed makes nothing durable any more, and says so only if it is asked.
                Err(_) => {
                    if let Some(reason) = self.log.failed() {
                        return Err(io::Error::other(reason));
                    }
                }
            }
        }
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.machine.applied(), self.machine.membership()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(item) = entries.next().await {
            #[allow(unused_mut)] // Only a planted bug changes it.
            let (mut entry, responder) = item?;
            if !simulated::planted(Bug::ApplyBeforeSync) {
                self.wait_durable(entry.log_id.index).await?;
            }
            let started = tokio::time::Instant::now();
            if simulated::planted(Bug::ApplyTwice) && entry.log_id.index.is_multiple_of(16) {
                self.machine.apply(&entry)?;
            }
            let deviates = self.node.ordinal() == 0 && entry.log_id.index.is_multiple_of(16);
            if simulated::planted(Bug::UnequalApply) && deviates {
                entry.payload = EntryPayload::Blank;
            }
            if simulated::planted(Bug::SkipApply) && deviates {
                continue;
            }
            let replies = self.apply_entry(&entry)?;
            simulated::tell(|| applied(self.node, &entry));
            #[cfg(feature = "simulation")]
            if entry.log_id.index.is_multiple_of(DIGEST_INTERVAL) {
                let (node, index) = (self.node.0, entry.log_id.index);
                simulated::tell(|| Seen::State { node, index, digest: self.machine.digest() });
            }
            self.metrics.apply_seconds.observe(started.elapsed().as_secs_f64());
            if let Some(responder) = responder {
                responder.send(replies);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder::new(self.node, self.machine.pin(), self.snapshots.clone())
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotFile) -> io::Result<()> {
        self.snapshots.install(&self.machine, meta, snapshot).await?;
        simulated::tell(|| Seen::Installed {
            node: self.node.0,
            id: meta.last_log_id.as_ref().map_or((0, 0), |id| (id.leader_id.term, id.index)),
        });
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> io::Result<Option<openraft::alias::SnapshotOf<TypeConfig, SnapshotFile>>> {
        self.snapshots.newest()
    }
}

/// The entry with another value in each of its puts.
#[cfg(feature = "simulation")]
fn spoiled(entry: &Entry) -> Entry {
    let mut spoiled = entry.clone();
    if let EntryPayload::Normal(batch) = &entry.payload
        && let Ok(mut requests) = codec::decode_batch(batch)
    {
        for request in &mut requests {
            if let Command::Put(put) = &mut request.command {
                put.value = "spoiled".into();
            }
        }
        let requests: Vec<_> = requests.into_iter().map(codec::encode_request).collect();
        spoiled.payload = EntryPayload::Normal(codec::encode_batch(&requests));
    }
    spoiled
}

fn applied(node: NodeId, entry: &Entry) -> Seen {
    let digest = simulated::digest(&codec::encode_payload(&entry.payload));
    Seen::Applied { node: node.0, id: (entry.log_id.leader_id.term, entry.log_id.index), digest }
}

/// Follows the applied index until it reaches `index`.
pub(crate) async fn wait_applied(machine: &Machine, index: u64) -> io::Result<()> {
    machine
        .watch_applied()
        .wait_for(|applied| applied.as_ref().is_some_and(|id| id.index >= index))
        .await
        .map(|_| ())
        .map_err(|_| io::Error::other("the state machine is gone"))
}
