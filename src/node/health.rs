//! Ready, live, and why: gathers what `membership::ready` decides from.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::disk::LocalDisk;
use crate::api::{Clause, Probe, Report};
use crate::discovery::AddressBook;
use crate::identity::NodeId;
use crate::limits;
use crate::membership::ready::Look;
use crate::membership::{Local as _, Readiness, StartState, readiness};
use crate::raft::Gate;
use crate::raft::store::Store;
use crate::storage::Log;

/// How often readiness is looked at, beside the moments when the leader or the decision at start has changed. Each look wakes
/// an idle member.
const INTERVAL: Duration = Duration::from_millis(250);

/// The health of a member.
pub(super) struct Health {
    gate: Gate,
    disk: Arc<LocalDisk>,
    start: watch::Receiver<StartState>,
    /// What the scale loop sees and waits for; nothing, if this member does not lead.
    scale: watch::Receiver<Vec<String>>,
    /// Where the others are; nothing, if this member is alone.
    book: Option<Arc<AddressBook>>,
    name: String,
    serving: watch::Sender<bool>,
    ready: watch::Sender<bool>,
    inner: Mutex<Inner>,
}

struct Inner {
    draining: bool,
    /// Read index taken when this member joined or rejoined.
    read_index: Option<u64>,
    leaderless_since: Option<Instant>,
    flushes: Flushes,
}

/// Notices a disk that does not come back from a write.
#[derive(Default)]
struct Flushes {
    seen: u64,
    since: Option<Instant>,
}

impl Flushes {
    /// Whether something waits for the disk, and nothing has reached it for [`limits::STORAGE_STUCK`].
    fn is_stuck(&mut self, log: &Log) -> bool {
        let waits = log.last().is_some_and(|last| last.index > *log.durable().borrow());
        let flushes = log.stats().flushes;
        if !waits || flushes != self.seen {
            self.seen = flushes;
            self.since = None;
            return false;
        }
        self.since.get_or_insert_with(Instant::now).elapsed() > limits::STORAGE_STUCK
    }
}

impl Health {
    pub(super) fn new(
        gate: Gate,
        disk: Arc<LocalDisk>,
        start: watch::Receiver<StartState>,
        scale: watch::Receiver<Vec<String>>,
        book: Option<Arc<AddressBook>>,
        name: String,
        ready: watch::Sender<bool>,
    ) -> Self {
        let inner = Inner {
            draining: false,
            read_index: None,
            leaderless_since: Some(Instant::now()),
            flushes: Flushes::default(),
        };
        let serving = watch::Sender::new(false);
        Self { gate, disk, start, scale, book, name, serving, ready, inner: Mutex::new(inner) }
    }

    /// Not ready from now on.
    pub(super) fn drain(&self) {
        self.inner.lock().draining = true;
        self.look();
    }

    pub(super) fn watch_serving(&self) -> watch::Receiver<bool> {
        self.serving.subscribe()
    }

    /// The clauses that do not hold, for people.
    pub(super) fn why_not(&self) -> String {
        let start = self.start.borrow().text.clone();
        let failing: Vec<String> = self
            .look()
            .clauses
            .iter()
            .filter(|clause| !clause.holds)
            .map(|clause| format!("{}: {}", clause.name, clause.detail))
            .collect();
        format!("{start}; {}", failing.join("; "))
    }

    /// Looks again and again until `cancel`; takes the read index that readiness waits for.
    pub(super) async fn keep(self: Arc<Self>, cancel: CancellationToken) {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut start = self.start.clone();
        let mut leader = None;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                Ok(()) = start.changed() => {}
                () = self.another_leads_than(leader) => {}
                () = cancel.cancelled() => return,
            }
            leader = self.gate.consensus().and_then(crate::raft::Consensus::leader);
            self.look();
            let wanted = self.inner.lock().read_index.is_none();
            if let (true, Some(consensus)) = (wanted, self.gate.consensus())
                && let Ok(index) = consensus.read_index().await
            {
                self.inner.lock().read_index = Some(index);
                self.look();
            }
        }
    }

    async fn another_leads_than(&self, leader: Option<NodeId>) {
        let changed = match self.gate.consensus() {
            Some(consensus) => consensus.another_leads_than(leader).await,
            None => false,
        };
        if !changed {
            // Nobody leads any more, or not yet: the ticks go on.
            std::future::pending::<()>().await;
        }
    }

    /// Decides anew, and tells whoever follows it.
    fn look(&self) -> Readiness {
        let start = self.start.borrow().clone();
        let readiness = readiness(&self.gather(&start));
        let changed = |value: bool| move |current: &mut bool| std::mem::replace(current, value) != value;
        self.serving.send_if_modified(changed(readiness.serving));
        self.ready.send_if_modified(changed(readiness.ready));
        readiness
    }

    fn gather(&self, start: &StartState) -> Look {
        let mut inner = self.inner.lock();
        let consensus = self.gate.consensus();
        let position = consensus.map(Store::position).unwrap_or_default();
        let leader_known = match consensus {
            Some(consensus) => consensus.leader_is_alive(),
            None => start.leader_known,
        };
        if leader_known {
            inner.leaderless_since = None;
        }
        let leaderless_for = if leader_known {
            Duration::ZERO
        } else {
            inner.leaderless_since.get_or_insert_with(Instant::now).elapsed()
        };
        let membership = consensus.and_then(crate::raft::Consensus::membership).unwrap_or_default();
        let older = |id: &NodeId| {
            id.ordinal() == position.member.ordinal() && id.incarnation() < position.member.incarnation()
        };
        Look {
            storage_moves: self.disk.opened().is_none_or(|opened| !inner.flushes.is_stuck(&opened.log)),
            storage_failure: position.failure.clone().filter(|_| consensus.is_some()),
            loading: self.disk.is_loading(),
            draining: inner.draining,
            leader_known,
            leaderless_for,
            is_member: consensus.is_some() && membership.contains(position.member),
            older_member: membership.ids().into_iter().find(older),
            applied_index: position.applied_index,
            read_index: inner.read_index,
            retired: start.outside,
            needed: start.needed.clone(),
        }
    }

    /// Why those could not be reached who do not answer, as far as it was tried.
    fn unreached(&self, start: &StartState) -> Vec<String> {
        let Some(book) = &self.book else { return Vec::new() };
        let silent = start.answers.pods.iter().filter(|(_, asked)| asked.described().is_none());
        silent.filter_map(|(name, _)| book.trouble(&book.directory().find(name)?)).collect()
    }

    fn status(&self, readiness: &Readiness) -> serde_json::Value {
        let position = self.gate.position();
        let disk = self.disk.disk();
        let start = self.start.borrow();
        let members: Vec<_> = self
            .gate
            .members()
            .into_iter()
            .map(|member| {
                serde_json::json!({
                    "id": member.id.to_string(),
                    "name": member.name,
                    "peerURLs": member.peer_urls,
                    "clientURLs": member.client_urls,
                    "learner": member.is_learner,
                    "leader": position.leader == Some(member.id),
                })
            })
            .collect();
        let used = self.gate.disk_use();
        serde_json::json!({
            "name": self.name,
            "version": env!("CARGO_PKG_VERSION"),
            "ready": readiness.ready,
            "serving": readiness.serving,
            "clauses": readiness.clauses.iter().map(|clause| serde_json::json!({
                "name": clause.name, "holds": clause.holds, "detail": clause.detail,
            })).collect::<Vec<_>>(),
            "start": { "decided": start.text, "hint": start.hint },
            "unreached": self.unreached(&start),
            "lastStop": self.disk.last_stop().map(|stop| serde_json::json!({
                "start": stop.boot, "decided": stop.decided,
            })),
            "scale": *self.scale.borrow(),
            "disk": {
                "is": if self.disk.is_loading() { "being opened".into() } else { disk.what.to_string() },
                "cluster": disk.cluster.to_string(),
                "node": disk.node_id.to_string(),
                "boot": disk.boot.number,
                "stateBytes": used.state, "logBytes": used.log, "snapshotBytes": used.snapshots,
            },
            "consensus": {
                "leader": position.leader.map(|id| id.to_string()),
                "term": position.term,
                "lastIndex": position.last_index,
                "committedIndex": position.committed_index,
                "appliedIndex": position.applied_index,
                "revision": position.revision,
                "compactedRevision": position.compacted,
                "failure": position.failure,
            },
            "alarms": self.gate.alarms().iter().map(ToString::to_string).collect::<Vec<_>>(),
            "members": members,
        })
    }
}

impl Probe for Health {
    fn serving(&self) -> watch::Receiver<bool> {
        self.watch_serving()
    }

    fn report(&self) -> Report {
        let readiness = self.look();
        Report {
            live: readiness.live,
            ready: readiness.ready,
            serving: readiness.serving,
            status: self.status(&readiness),
            clauses: readiness
                .clauses
                .into_iter()
                .map(|clause| Clause { name: clause.name, holds: clause.holds, detail: clause.detail })
                .collect(),
        }
    }
}
