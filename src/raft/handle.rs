//! The handle of a member's consensus: starts it, answers for it, stops it.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::BoxFuture;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::{Config, Instant as _, SnapshotPolicy};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::boots::{Boots, WrongMessage};
use super::codec;
use super::forward::{self, Forwarded};
use super::log_store::LogStore;
use super::machine::Machine;
use super::network::{Dial, Factory, PeerChannels};
use super::proposer::{self, BytesWaiting, Pending, ReplyTo};
use super::read::{self, Waiter};
use super::snapshot;
use super::state_machine::{self, StateMachine};
use super::store::{DiskUse, MemberInfo, Position, Store, StoreHash};
use super::types::{PeerNode, Raft};
use super::wire::{Applied, Sender};
use super::{duties, marks};
use crate::config::Tuning;
use crate::error::Error;
use crate::identity::NodeId;
use crate::limits;
use crate::metrics::Metrics;
use crate::mvcc::State;
use crate::mvcc::command::{Range, RangeResult, Reply, Request, Txn, TxnResult};
use crate::proto::peer::Envelope;
use crate::storage::Log;

/// What consensus is built from.
pub struct Parts {
    /// This member, its cluster and its boot.
    pub mine: Sender,
    /// The opened log.
    pub log: Log,
    /// The committed entry that the log recorded.
    pub committed: Option<crate::storage::LogId>,
    /// The loaded state.
    pub machine: Arc<Machine>,
    /// The snapshots.
    pub snapshots: Arc<snapshot::Store>,
    /// Connections to peers.
    pub dial: Arc<dyn Dial>,
    /// Boots that were seen.
    pub boots: Boots,
    /// Knobs.
    pub tuning: Tuning,
    /// Counters.
    pub metrics: Metrics,
}

/// A running member. Cheap to clone.
#[derive(Clone)]
pub struct Consensus {
    inner: Arc<Inner>,
}

struct Inner {
    mine: Sender,
    raft: Raft,
    log: Log,
    machine: Arc<Machine>,
    snapshots: Arc<snapshot::Store>,
    boots: Boots,
    waiting: BytesWaiting,
    proposals: mpsc::Sender<Pending>,
    forwards: mpsc::Sender<Forwarded>,
    reads: mpsc::Sender<Waiter>,
    election_max: std::time::Duration,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

fn raft_config(mine: &Sender, tuning: &Tuning) -> Result<Config, Error> {
    let millis = |duration: std::time::Duration| duration.as_millis() as u64;
    Config {
        cluster_name: mine.cluster.to_string(),
        heartbeat_interval: millis(tuning.heartbeat),
        election_timeout_min: millis(tuning.election_min),
        election_timeout_max: millis(tuning.election_max),
        // A snapshot takes as long as it takes; the stream has deadlines of its own.
        install_snapshot_timeout: 60_000,
        // The log's growth decides, not its number of entries (`duties`).
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: tuning.log_entries_kept,
        // A peer that lags further than the log reaches gets a snapshot; until then it gets entries.
        replication_lag_threshold: u64::MAX,
        enable_pre_vote: Some(true),
        // A restarted leader that leads on without a vote has served stale reads.
        enable_leader_restore: Some(false),
        broadcast_submitted_on_append: Some(true),
        // Cures a deadlock behind a one-way partition; must be at least twice the longest election time-out.
        quorum_loss_probe_interval: Some(2 * millis(tuning.election_max)),
        backoff: "50ms 100ms 200ms ...1s".into(),
        ..Config::default()
    }
    .validate()
    .map_err(|error| Error::Start(format!("consensus cannot run with these timings: {error}")))
}

impl Consensus {
    /// Starts consensus on a log and a state that fit together. It campaigns and votes from now on, if the log or the
    /// state holds a membership; else it waits to be initialised or to hear of one.
    pub async fn start(parts: Parts) -> Result<Self, Error> {
        let config = Arc::new(raft_config(&parts.mine, &parts.tuning)?);
        let store = LogStore::new(parts.log.clone(), parts.committed);
        let machine = StateMachine::new(
            parts.machine.clone(),
            parts.snapshots.clone(),
            &parts.log,
            parts.metrics.clone(),
        );
        let factory =
            Factory::new(parts.mine, parts.dial.clone(), parts.boots.clone(), parts.snapshots.clone());
        let raft = openraft::Raft::new(parts.mine.node, config, factory, store, machine)
            .await
            .map_err(|error| Error::Start(format!("consensus did not start: {error}")))?;
        let (proposals, proposals_queue) = mpsc::channel(limits::PROPOSER_QUEUE_REQUESTS);
        let (forwards, forwards_queue) = mpsc::channel(limits::PROPOSER_QUEUE_REQUESTS);
        let (reads, reads_queue) = mpsc::channel(limits::PROPOSER_QUEUE_REQUESTS);
        let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
        let peers = PeerChannels::new(parts.mine, parts.dial, raft.clone());
        tasks.spawn(proposer::run(raft.clone(), proposals_queue, parts.metrics.clone(), cancel.clone()));
        tasks.spawn(forward::run(peers.clone(), forwards_queue, cancel.clone()));
        tasks.spawn(read::run(raft.clone(), parts.mine.node, peers, reads_queue, cancel.clone()));
        let inner = Inner {
            mine: parts.mine,
            raft,
            log: parts.log,
            machine: parts.machine,
            snapshots: parts.snapshots,
            boots: parts.boots,
            waiting: BytesWaiting::default(),
            proposals,
            forwards,
            reads,
            election_max: parts.tuning.election_max,
            tasks,
            cancel,
        };
        let consensus = Self { inner: Arc::new(inner) };
        consensus.spawn(duties::watch_log_size(consensus.clone(), parts.tuning.log_bytes_before_snapshot));
        consensus.spawn(duties::compact(consensus.clone()));
        consensus.spawn(duties::watch_leader(consensus.clone(), parts.metrics));
        consensus.spawn(marks::keep(consensus.clone()));
        Ok(consensus)
    }

    /// Makes the cluster: these members vote. Only once in the life of a cluster, on one member.
    pub async fn initialise(&self, members: BTreeMap<NodeId, PeerNode>) -> Result<(), Error> {
        self.inner
            .raft
            .initialize(members)
            .await
            .map_err(|error| Error::Start(format!("the cluster could not be initialised: {error}")))
    }

    /// Runs a task that ends with consensus.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let cancel = self.inner.cancel.clone();
        self.inner.tasks.spawn(async move {
            tokio::select! {
                () = task => {}
                () = cancel.cancelled() => {}
            }
        });
    }

    pub(crate) fn raft(&self) -> &Raft {
        &self.inner.raft
    }

    pub(crate) fn machine(&self) -> &Arc<Machine> {
        &self.inner.machine
    }

    pub(crate) fn log(&self) -> &Log {
        &self.inner.log
    }

    pub(crate) fn snapshots(&self) -> &Arc<snapshot::Store> {
        &self.inner.snapshots
    }

    /// Boots that were seen of other members.
    pub fn boots(&self) -> &Boots {
        &self.inner.boots
    }

    /// Who this member is.
    pub fn mine(&self) -> Sender {
        self.inner.mine
    }

    pub(crate) fn boot(&self) -> (u64, u64) {
        (self.inner.mine.boot, self.inner.mine.boot_random)
    }

    pub(crate) fn admit(&self, envelope: Option<&Envelope>) -> Result<NodeId, WrongMessage> {
        self.inner.boots.admit(&self.inner.mine, envelope)
    }

    pub(crate) fn join_read_round(&self, waiter: Waiter) -> Result<(), Error> {
        self.inner.reads.try_send(waiter).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Error::TooManyRequests,
            mpsc::error::TrySendError::Closed(_) => Error::Stopped,
        })
    }

    /// Hands a follower's request to the proposer.
    pub(crate) async fn enqueue(&self, request: bytes::Bytes, reply: ReplyTo) {
        match self.inner.waiting.enter(request.len()) {
            Ok(held) => {
                let pending = Pending { request, reply, _held: held };
                if let Err(mpsc::error::SendError(pending)) = self.inner.proposals.send(pending).await {
                    pending.reply.answer(Err(Error::Stopped));
                }
            }
            Err(error) => forward::refuse(reply, error),
        }
    }

    /// The membership that is in force, committed or not; `None` before there is one.
    pub fn membership(&self) -> Option<crate::identity::Membership> {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        (!membership.get_joint_config().is_empty()).then(|| super::open::members(membership))
    }

    /// The marks in the applied state.
    pub fn marks(&self) -> BTreeMap<NodeId, crate::mvcc::cluster::Mark> {
        self.inner.machine.with_state(|state| state.cluster().marks.clone())
    }

    /// Takes a read index: what must be applied here to have seen everything that was acknowledged before the call.
    pub async fn read_index(&self) -> Result<u64, Error> {
        let (waiter, index) = oneshot::channel();
        self.join_read_round(waiter)?;
        index.await.unwrap_or(Err(Error::Stopped))
    }

    /// Takes a read index; without a leader, of the next one, if there is one before the deadline.
    async fn read_index_until(&self, deadline: Instant) -> Result<u64, Error> {
        loop {
            let asked = self.leader();
            match tokio::time::timeout_at(deadline, self.read_index()).await {
                Err(_) => return Err(Error::TimedOut),
                Ok(Err(Error::NoLeader)) => self.other_leader(asked, deadline).await?,
                Ok(result) => return result,
            }
        }
    }

    /// Waits until another leader is known than this one, or a moment has passed in which it may know better.
    async fn other_leader(&self, than: Option<NodeId>, deadline: Instant) -> Result<(), Error> {
        let mut metrics = self.inner.raft.metrics();
        let changed = async {
            while self.leader() == than {
                if metrics.changed().await.is_err() {
                    return;
                }
            }
        };
        let once = Instant::now() + limits::HEARTBEAT;
        let until = if than.is_some() { once.min(deadline) } else { deadline };
        let _ = tokio::time::timeout_at(until, changed).await;
        if Instant::now() >= deadline {
            return Err(Error::NoLeader);
        }
        match self.failure() {
            Some(reason) => Err(Error::Storage(reason)),
            None => Ok(()),
        }
    }

    /// Whether the leader was heard from, or acknowledged by a quorum, within one election time-out.
    pub fn leader_is_alive(&self) -> bool {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        match metrics.current_leader {
            None => false,
            // A leader that votes alone is its own quorum.
            Some(leader) if leader == self.inner.mine.node => {
                metrics.membership_config.voter_ids().all(|id| id == leader)
                    || metrics
                        .last_quorum_acked
                        .as_ref()
                        .is_some_and(|acked| acked.elapsed() < self.inner.election_max)
            }
            // A follower forgets its leader when the election time-out passes.
            Some(_) => true,
        }
    }

    /// Waits until the log holds an entry.
    pub async fn wait_for_first_entry(&self) {
        let mut metrics = self.inner.raft.metrics();
        while self.inner.log.last().is_none() && self.inner.log.purged().is_none() {
            if metrics.changed().await.is_err() {
                return;
            }
        }
    }

    /// The leader, if one is known.
    pub fn leader(&self) -> Option<NodeId> {
        self.inner.raft.metrics().borrow_watched().current_leader
    }

    /// Whether this member leads.
    pub fn is_leader(&self) -> bool {
        self.leader() == Some(self.inner.mine.node)
    }

    /// Why openraft does not run any more, if so.
    pub fn failure(&self) -> Option<String> {
        self.inner.raft.metrics().borrow_watched().running_state.as_ref().err().map(ToString::to_string)
    }

    /// Ends when consensus cannot go on; says why.
    pub async fn failed(&self) -> String {
        let mut metrics = self.inner.raft.metrics();
        loop {
            if let Some(reason) = self.failure() {
                return reason;
            }
            if metrics.changed().await.is_err() {
                return "consensus has ended".into();
            }
        }
    }

    /// Hands leadership to the most caught-up voter, if this member leads. Returns when another leads, or at the deadline.
    pub async fn hand_over(&self, deadline: Instant) -> bool {
        let mut metrics = self.inner.raft.metrics();
        while self.is_leader() {
            let Some(to) = self.best_successor() else { return false };
            if self.inner.raft.trigger().transfer_leader(to).await.is_err() {
                return false;
            }
            let once = Instant::now() + limits::ELECTION_MAX;
            let moved = async {
                while self.leader().is_none_or(|leader| leader == self.inner.mine.node) {
                    if metrics.changed().await.is_err() {
                        return;
                    }
                }
            };
            let _ = tokio::time::timeout_at(once.min(deadline), moved).await;
            if Instant::now() >= deadline {
                return !self.is_leader();
            }
        }
        true
    }

    fn best_successor(&self) -> Option<NodeId> {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let replication = metrics.replication.as_ref()?;
        metrics
            .membership_config
            .voter_ids()
            .filter(|id| *id != self.inner.mine.node)
            .filter_map(|id| Some((replication.get(&id)?.as_ref()?.index, id)))
            .max()
            .map(|(_, id)| id)
    }

    /// Stops consensus: no new requests, then the tasks, then openraft, then the log.
    pub async fn shutdown(&self) {
        self.inner.cancel.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
        if let Err(error) = self.inner.raft.shutdown().await {
            tracing::warn!(%error, "consensus did not end in order");
        }
        self.inner.log.close().await;
    }

    /// Proposes, until it is applied or the deadline passes; tells where it was applied.
    pub(crate) async fn propose_until(&self, request: Request, deadline: Instant) -> Result<Applied, Error> {
        let request = codec::encode_request(request);
        loop {
            let leader = self.leader();
            let attempt = match leader {
                Some(leader) => self.propose_at(leader, request.clone(), deadline).await,
                None => Err(Error::NoLeader),
            };
            match attempt {
                Err(Error::NoLeader) => {}
                result => return result,
            }
            // Nothing was proposed. Whoever leads next is asked next.
            self.other_leader(leader, deadline).await?;
        }
    }

    async fn propose_at(
        &self,
        leader: NodeId,
        request: bytes::Bytes,
        deadline: Instant,
    ) -> Result<Applied, Error> {
        let held = self.inner.waiting.enter(request.len())?;
        let (reply, answer) = oneshot::channel();
        let pending = Pending { request, reply: ReplyTo::caller(reply), _held: held };
        let is_mine = leader == self.inner.mine.node;
        if is_mine {
            self.inner.proposals.try_send(pending).map_err(|error| full_or_closed(&error))?;
        } else {
            let forwarded = Forwarded { leader, pending };
            self.inner.forwards.try_send(forwarded).map_err(|error| full_or_closed(&error))?;
        }
        let applied = match tokio::time::timeout_at(deadline, answer).await {
            Ok(Ok(proposed)) => proposed?,
            Ok(Err(_)) => return Err(Error::OutcomeUnknown("the member stopped".into())),
            Err(_) => return Err(Error::OutcomeUnknown("the deadline passed before the answer came".into())),
        };
        if !is_mine {
            // The client may read here next, without a quorum, and must find what it wrote.
            let seen = state_machine::wait_applied(&self.inner.machine, applied.index);
            // The write is done in any case; a follower that lags does not make its outcome unknown.
            let _ = tokio::time::timeout_at(deadline, seen).await;
        }
        Ok(applied)
    }

    /// Refuses new work while apply is far behind commit, as etcd does.
    fn check_backlog(&self) -> Result<(), Error> {
        let applied = self.inner.machine.applied().map_or(0, |id| id.index);
        let metrics = self.inner.raft.metrics();
        let last = metrics.borrow_watched().last_log_index.unwrap_or(0);
        if last.saturating_sub(applied) > limits::APPLY_GAP_ENTRIES {
            return Err(Error::TooManyRequests);
        }
        Ok(())
    }
}

fn full_or_closed<T>(error: &mpsc::error::TrySendError<T>) -> Error {
    match error {
        mpsc::error::TrySendError::Full(_) => Error::TooManyRequests,
        mpsc::error::TrySendError::Closed(_) => Error::Stopped,
    }
}

impl Store for Consensus {
    fn propose(&self, request: Request) -> BoxFuture<'_, Result<(Reply, u64), Error>> {
        Box::pin(async move {
            self.check_backlog()?;
            let applied = self.propose_until(request, Instant::now() + limits::REQUEST_TIMEOUT).await?;
            Ok((applied.reply?, applied.term))
        })
    }

    fn barrier(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            let deadline = Instant::now() + limits::REQUEST_TIMEOUT;
            let index = self.read_index_until(deadline).await?;
            if self.inner.machine.applied().is_some_and(|applied| applied.index >= index) {
                return Ok(());
            }
            tokio::time::timeout_at(deadline, state_machine::wait_applied(&self.inner.machine, index))
                .await
                .map_err(|_| Error::TimedOut)?
                .map_err(|error| Error::Storage(error.to_string()))
        })
    }

    fn range(&self, range: Range) -> BoxFuture<'_, Result<(RangeResult, i64), Error>> {
        Box::pin(async move { self.inner.machine.range(&range).await })
    }

    fn read_txn(&self, txn: Txn) -> BoxFuture<'_, Result<Option<(TxnResult, i64)>, Error>> {
        Box::pin(async move { self.inner.machine.read_txn(&txn) })
    }

    fn hash(&self, revision: i64) -> BoxFuture<'_, Result<StoreHash, Error>> {
        Box::pin(async move {
            let hash = self.inner.machine.hash(revision).await?;
            Ok(StoreHash {
                hash: hash.hash,
                compact_revision: hash.compact_revision,
                hash_revision: hash.hash_revision,
            })
        })
    }

    fn position(&self) -> Position {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let (revision, compacted) =
            self.inner.machine.with_state(|state: &State| (state.revision(), state.compacted()));
        Position {
            cluster: self.inner.mine.cluster,
            member: self.inner.mine.node,
            leader: metrics.current_leader,
            term: metrics.current_term,
            last_index: metrics.last_log_index.unwrap_or(0),
            committed_index: metrics.local_committed.map_or(0, |id| id.index),
            applied_index: self.inner.machine.applied().map_or(0, |id| id.index),
            revision,
            compacted,
            is_learner: !metrics.membership_config.voter_ids().any(|id| id == self.inner.mine.node),
            failure: metrics.running_state.as_ref().err().map(ToString::to_string),
        }
    }

    fn members(&self) -> Vec<MemberInfo> {
        let membership = self.inner.machine.membership();
        let membership = membership.membership();
        membership
            .nodes()
            .map(|(id, node)| MemberInfo {
                id: *id,
                name: node.name.clone(),
                peer_urls: vec![format!("http://{}", node.peer_address)],
                client_urls: node.client_urls.clone(),
                is_learner: !membership.voter_ids().any(|voter| voter == *id),
            })
            .collect()
    }

    fn disk_use(&self) -> DiskUse {
        DiskUse {
            state: self.inner.machine.engine().size_on_disk().unwrap_or(0),
            log: self.inner.log.bytes(),
            snapshots: self.inner.snapshots.bytes(),
        }
    }
}
