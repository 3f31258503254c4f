//! The handle of a member's consensus: starts it, answers for it, stops it.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::FutureExt;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::{Config, Instant as _, SnapshotPolicy};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::boots::{Boots, WrongMessage};
use super::codec;
use super::commits::Wanted;
use super::forward::{self, Followers, Forwarded};
use super::heard::LeaderHeard;
use super::lease::Asked;
use super::log_store::LogStore;
use super::machine::Machine;
use super::network::{Dial, Factory, PeerChannels};
use super::proposer::{self, BytesWaiting, Pending, Proposals, ReplyTo};
use super::read::{self, Waiter};
use super::room::{Growth, Room};
use super::snapshot;
use super::state_machine::StateMachine;
use super::types::{PeerNode, Raft};
use super::wire::Sender;
use super::{duties, marks};
use crate::config::Tuning;
use crate::env::{Random, simulated};
use crate::error::Error;
use crate::identity::NodeId;
use crate::limits;
use crate::metrics::Metrics;
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
    /// For ids that nobody chose.
    pub random: Arc<dyn Random>,
    /// Knobs.
    pub tuning: Tuning,
    /// Counters.
    pub metrics: Metrics,
}

/// Waits until the leader, if any, is as asked for; false if openraft has ended before. The metrics of all else change with
/// every entry, these do not.
pub(super) async fn wait_for_leader(raft: &Raft, holds: impl Fn(Option<NodeId>) -> bool) -> bool {
    let mut metrics = raft.server_metrics();
    while !holds(metrics.borrow_watched().current_leader) {
        if metrics.changed().await.is_err() {
            return false;
        }
    }
    true
}

/// A running member. Cheap to clone.
#[derive(Clone)]
pub struct Consensus {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) mine: Sender,
    pub(super) raft: Raft,
    pub(super) log: Log,
    pub(super) machine: Arc<Machine>,
    pub(super) snapshots: Arc<snapshot::Store>,
    pub(super) boots: Boots,
    pub(super) leader_heard: LeaderHeard,
    pub(super) waiting: BytesWaiting,
    pub(super) wanted: Wanted,
    pub(super) proposals: Proposals,
    pub(super) forwards: mpsc::Sender<Forwarded>,
    pub(super) followers: Followers,
    pub(super) reads: mpsc::Sender<Waiter>,
    pub(super) questions: mpsc::Sender<Asked>,
    /// Until the keeper of the leases takes them.
    pub(super) questions_queue: Mutex<Option<mpsc::Receiver<Asked>>>,
    pub(super) random: Arc<dyn Random>,
    pub(super) read_rounds: Arc<AtomicU64>,
    pub(super) metrics: Metrics,
    pub(super) election_max: std::time::Duration,
    pub(super) room: Arc<Room>,
    /// Turns of clients that fetch a snapshot.
    pub(super) backups: Arc<Semaphore>,
    pub(super) peers: PeerChannels,
    pub(super) tasks: TaskTracker,
    pub(super) cancel: CancellationToken,
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
        // Both are decided by the log's growth (`duties`), not by its number of entries alone.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        // A peer that lags further than the log reaches gets a snapshot; until then it gets entries.
        replication_lag_threshold: u64::MAX,
        enable_pre_vote: Some(true),
        // A restarted leader that leads on without a vote has served stale reads.
        enable_leader_restore: Some(false),
        broadcast_submitted_on_append: Some(true),
        // Cures a deadlock behind a one-way partition; must be at least twice the longest election time-out.
        quorum_loss_probe_interval: Some(2 * millis(tuning.election_max)),
        // A peer that is back is told within 100 ms: no quorum, and so no write, waits longer for it. What it costs to ask
        // one that is away so often, `PEER_REDIAL_MAX` bounds.
        backoff: "50ms 100ms ...100ms".into(),
        ..Config::default()
    }
    .validate()
    .map_err(|error| Error::Start(format!("consensus cannot run with these timings: {error}")))
}

/// openraft on the log and the state of these parts.
async fn start_raft(parts: &Parts, wanted: &Wanted) -> Result<Raft, Error> {
    let config = Arc::new(raft_config(&parts.mine, &parts.tuning)?);
    parts.machine.access().replays_up_to(parts.log.last().map_or(0, |last| last.index));
    let store = LogStore::new(parts.log.clone(), parts.committed).of(parts.mine.node);
    let machine = StateMachine::new(
        parts.mine.node,
        parts.machine.clone(),
        parts.snapshots.clone(),
        &parts.log,
        parts.metrics.clone(),
    );
    let factory = Factory::new(
        parts.mine,
        parts.dial.clone(),
        parts.boots.clone(),
        parts.snapshots.clone(),
        wanted.clone(),
        parts.metrics.clone(),
    );
    openraft::Raft::new(parts.mine.node, config, factory, store, machine)
        .await
        .map_err(|error| Error::Start(format!("consensus did not start: {error}")))
}

impl Consensus {
    /// Starts consensus on a log and a state that fit together. It campaigns and votes from now on, if the log or the
    /// state holds a membership; else it waits to be initialised or to hear of one.
    pub async fn start(parts: Parts) -> Result<Self, Error> {
        let wanted = Wanted::new();
        let raft = start_raft(&parts, &wanted).await?;
        let (proposals, proposals_queue) = proposer::queue();
        let (forwards, forwards_queue) = mpsc::channel(limits::PROPOSER_QUEUE_REQUESTS);
        let (reads, reads_queue) = mpsc::channel(limits::PROPOSER_QUEUE_REQUESTS);
        let (questions, questions_queue) = mpsc::channel(limits::PROPOSER_QUEUE_REQUESTS);
        let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
        let peers = PeerChannels::new(parts.mine, parts.dial, raft.clone());
        let known_peers = peers.clone();
        parts.machine.observe_commits(parts.metrics.engine_commit_seconds.clone());
        let room = Arc::new(Room::new(parts.tuning.maintenance.quota()));
        let (full, machine, of) = (room.clone(), parts.machine.clone(), raft.clone());
        let is_full = move || full.is_full(&machine, &of);
        let proposing =
            proposer::run(raft.clone(), proposals_queue, is_full, parts.metrics.clone(), cancel.clone());
        tasks.spawn(simulated::stoppable(proposing));
        let forwarding =
            forward::run(peers.clone(), forwards_queue, room.clone(), tasks.clone(), cancel.clone());
        tasks.spawn(simulated::stoppable(forwarding));
        let read_rounds = Arc::new(AtomicU64::new(0));
        let counted = (parts.metrics.clone(), parts.tuning.election_max);
        let rounds = read::run(
            raft.clone(),
            parts.mine.node,
            peers,
            reads_queue,
            read_rounds.clone(),
            counted,
            cancel.clone(),
        );
        tasks.spawn(simulated::stoppable(rounds));
        let inner = Inner {
            mine: parts.mine,
            raft,
            log: parts.log,
            machine: parts.machine,
            snapshots: parts.snapshots,
            boots: parts.boots,
            leader_heard: LeaderHeard::default(),
            waiting: BytesWaiting::default(),
            wanted,
            proposals,
            forwards,
            followers: Followers::default(),
            reads,
            questions,
            questions_queue: Mutex::new(Some(questions_queue)),
            random: parts.random,
            read_rounds,
            metrics: parts.metrics.clone(),
            election_max: parts.tuning.election_max,
            room,
            backups: Arc::new(Semaphore::new(limits::SNAPSHOT_CLIENTS)),
            peers: known_peers,
            tasks,
            cancel,
        };
        let consensus = Self { inner: Arc::new(inner) };
        consensus.spawn(duties::watch_log_size(consensus.clone(), parts.tuning.clone()));
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
        self.inner.tasks.spawn(simulated::stoppable(async move {
            tokio::select! {
                () = task => {}
                () = cancel.cancelled() => {}
            }
        }));
    }

    pub(crate) fn raft(&self) -> &Raft {
        &self.inner.raft
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.inner.metrics
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

    /// The last entry that is known to be committed.
    pub(crate) fn committed(&self) -> Option<crate::storage::LogId> {
        let metrics = self.inner.raft.metrics();
        metrics.borrow_watched().local_committed.as_ref().map(super::types::stored_log_id)
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

    /// A message of the leader that this member follows was taken.
    pub(crate) fn note_leader(&self) {
        self.inner.leader_heard.note();
    }

    /// Somebody waits at a follower until an entry is applied there.
    pub(crate) fn note_wanted(&self, index: u64) {
        self.inner.wanted.raise(index);
    }

    pub(crate) fn id(&self) -> NodeId {
        self.inner.mine.node
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

    /// Hands a follower's request to the proposer. One that this version does not understand must not reach the log: no
    /// member could apply it.
    pub(crate) async fn enqueue(&self, request: bytes::Bytes, reply: ReplyTo) {
        let growth = match codec::decode_request(&request) {
            Ok(request) => Growth::of(&request.command),
            Err(error) => {
                tracing::warn!(%error, "a member sent a request that cannot be applied");
                return forward::refuse(reply, Error::Invalid(error.to_string()));
            }
        };
        match self.inner.waiting.enter(request.len()) {
            Ok(held) => {
                let pending = Pending { request, growth, reply, _held: held };
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

    /// What was once on the disks of the members, as far as this member knows; a leader knows more than its marks say.
    pub fn known_marks(&self) -> BTreeMap<NodeId, crate::mvcc::cluster::Mark> {
        super::marks::known(self)
    }

    /// Which disk each ordinal was last admitted with, in the applied state.
    pub fn admissions(&self) -> BTreeMap<crate::identity::Ordinal, crate::mvcc::cluster::Admission> {
        self.inner.machine.with_state(|state| state.cluster().admissions.clone())
    }

    /// Ordinals that somebody added or dismissed by hand, in the applied state.
    pub fn by_hand(&self) -> BTreeMap<crate::identity::Ordinal, crate::mvcc::cluster::ByHand> {
        self.inner.machine.with_state(|state| state.cluster().by_hand.clone())
    }

    /// Of each ordinal the newest id that the applied state knows as removed.
    pub fn removed(&self) -> BTreeSet<NodeId> {
        self.inner.machine.removed()
    }

    /// Read-index rounds since the start: each serves all readers that waited.
    pub fn read_rounds(&self) -> u64 {
        self.inner.read_rounds.load(Ordering::Relaxed)
    }

    /// Takes a read index: what must be applied here to have seen everything that was acknowledged before the call.
    pub async fn read_index(&self) -> Result<u64, Error> {
        let (waiter, index) = oneshot::channel();
        self.join_read_round(waiter)?;
        index.await.unwrap_or(Err(Error::Stopped))
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
            Some(_) => self.inner.leader_heard.within(self.inner.election_max),
        }
    }

    /// Waits until the log holds an entry on disk: what is only on its way there may be gone after a crash.
    pub async fn wait_for_first_entry(&self) {
        let mut metrics = self.inner.raft.metrics();
        let mut durable = self.inner.log.durable();
        // Entry 0 and no entry look the same; entry 1 follows as soon as there is a leader.
        while *durable.borrow_and_update() == 0 && self.inner.log.purged().is_none() {
            let ended = tokio::select! {
                changed = metrics.changed() => changed.is_err(),
                changed = durable.changed() => changed.is_err(),
            };
            if ended {
                return;
            }
        }
    }

    /// The leader, if one is known.
    pub fn leader(&self) -> Option<NodeId> {
        self.inner.raft.server_metrics().borrow_watched().current_leader
    }

    /// Whether this member leads.
    pub fn is_leader(&self) -> bool {
        self.leader() == Some(self.inner.mine.node)
    }

    /// Waits until another leads than `leader`, or nobody does any more; false if openraft has ended before.
    pub async fn another_leads_than(&self, leader: Option<NodeId>) -> bool {
        wait_for_leader(&self.inner.raft, |now| now != leader).await
    }

    /// Why openraft does not run any more, if so.
    pub fn failure(&self) -> Option<String> {
        self.inner.raft.metrics().borrow_watched().running_state.as_ref().err().map(ToString::to_string)
    }

    /// Ends when consensus cannot go on; says why.
    pub async fn failed(&self) -> String {
        // These change rarely, all metrics with every entry. When openraft ends, they end.
        let mut metrics = self.inner.raft.server_metrics();
        while metrics.changed().await.is_ok() {}
        self.failure().unwrap_or_else(|| "consensus has ended".into())
    }

    /// Hands leadership to the most caught-up voter among those that `may` lead, if this member leads. Returns when another leads,
    /// or at the deadline.
    pub async fn hand_over(&self, deadline: Instant, may: impl Fn(NodeId) -> bool) -> bool {
        while self.is_leader() {
            let Some(to) = self.best_successor(&may) else { return false };
            if self.inner.raft.trigger().transfer_leader(to).await.is_err() {
                return false;
            }
            let once = Instant::now() + limits::ELECTION_MAX;
            let mine = self.inner.mine.node;
            let moved =
                wait_for_leader(&self.inner.raft, |leader| leader.is_some_and(|leader| leader != mine));
            let _ = tokio::time::timeout_at(once.min(deadline), moved).await;
            if Instant::now() >= deadline {
                return !self.is_leader();
            }
        }
        true
    }

    fn best_successor(&self, may: impl Fn(NodeId) -> bool) -> Option<NodeId> {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let replication = metrics.replication.as_ref()?;
        metrics
            .membership_config
            .voter_ids()
            .filter(|id| *id != self.inner.mine.node && may(*id))
            .filter_map(|id| Some((replication.get(&id)?.as_ref()?.index, id)))
            .max()
            .map(|(_, id)| id)
    }

    /// Takes no more requests of other members' clients. Returns when the other members have the answers to those that were taken.
    pub async fn end_forwarding(&self) {
        self.followers().end().await;
    }

    pub(super) fn followers(&self) -> &Followers {
        &self.inner.followers
    }

    /// Stops consensus: no new requests, then the tasks, then openraft, then the log.
    pub async fn shutdown(&self) {
        self.inner.cancel.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
        // openraft panics when a call that waited for its end was dropped meanwhile; it has ended then, too.
        match AssertUnwindSafe(self.inner.raft.shutdown()).catch_unwind().await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "consensus did not end in order"),
            Err(_) => tracing::warn!("consensus ended while calls waited for it"),
        }
        self.inner.log.close().await;
    }
}
