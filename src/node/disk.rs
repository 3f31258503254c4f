//! This node's own disk: what it is, opened in an order that no crash can confuse.
//!
//! Order at a start: lock, identity, boot raised, log, state. The log and the newest snapshot are the truth; the state is
//! rebuilt from them unless it was closed cleanly, checks out, and fits the log.

mod joining;
mod recovery;

use std::sync::Arc;

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::config::Config;
use crate::env::Env;
use crate::env::simulated::{self, Bug, Seen};
use crate::error::Error;
use crate::identity::{
    Boot, ClusterId, DiskState, Identity, IdentityFile, LastStop, Lineage, NodeId, Ordinal, OrdinalRange,
    Request,
};
use crate::membership::{
    Admitted, ConsensusView, Disk, Held, Local, LogId, PrepareRefusal, Prepared, Vote, What,
};
use crate::metrics::Metrics;
use crate::raft::store::Store as _;
use crate::raft::{self, Gate, Opened, Sender};
use crate::storage::engine::state::EngineKind;
use crate::storage::log::{self, Options};
use crate::storage::{DataDirectory, Log, Snapshots};

/// The disk. Shared by the starter, the membership service and the node.
pub(super) struct LocalDisk {
    env: Env,
    identity_file: IdentityFile,
    ordinal: Ordinal,
    options: Options,
    engine: EngineKind,
    metrics: Metrics,
    consensus: Gate,
    inner: Mutex<Inner>,
    /// Last, so that its lock outlives what is open in it.
    directory: Arc<DataDirectory>,
}

struct Inner {
    /// [`LocalDisk::load`] has not ended, or has failed: nothing is known yet but the identity.
    loading: bool,
    identity: Option<Identity>,
    boot: Boot,
    /// Log and state, if the identity has them.
    opened: Option<Arc<Opened>>,
    at_boot: Held,
    /// [`LocalDisk::close`] was called: the directory may be another process's.
    closed: bool,
    /// What the log and the state said of members when they were opened.
    recovered: raft::Recovered,
}

/// Why the disk cannot be used as it is. Nothing was changed.
pub(super) fn start_error(error: impl std::fmt::Display) -> Error {
    Error::Disk(error.to_string())
}

impl LocalDisk {
    /// Reads who the disk is. Blocks. [`LocalDisk::load`] must follow.
    pub(super) fn open(
        env: &Env,
        config: &Config,
        directory: DataDirectory,
        ordinal: Ordinal,
        metrics: Metrics,
        consensus: Gate,
    ) -> Result<Self, Error> {
        let identity_file = IdentityFile::new(env.files.clone(), directory.root());
        let identity = identity_file.load().map_err(start_error)?;
        if identity.is_none()
            && let crate::storage::directory::Contents::Remains(names) =
                directory.contents().map_err(start_error)?
        {
            return Err(Error::Disk(format!(
                "{} has no identity, but it is not empty: {}. Nothing was touched; give this member an empty directory, or \
                 put the identity back",
                directory.root().display(),
                names.join(", ")
            )));
        }
        let options = Options {
            segment_bytes: config.tuning.log_segment_bytes,
            cache_bytes: config.tuning.log_cache_bytes,
        };
        let engine = match config.data {
            crate::config::Data::Memory => EngineKind::Memory,
            crate::config::Data::Directory(_) => {
                EngineKind::Disk { cache_bytes: config.tuning.engine_cache_bytes }
            }
        };
        let boot = Boot { number: 0, random: env.random.next_u64() };
        let inner = Inner {
            loading: true,
            identity,
            boot,
            opened: None,
            at_boot: Held::default(),
            closed: false,
            recovered: raft::Recovered::default(),
        };
        Ok(Self {
            env: env.clone(),
            directory: Arc::new(directory),
            identity_file,
            ordinal,
            options,
            engine,
            metrics,
            consensus,
            inner: Mutex::new(inner),
        })
    }

    /// The volume that it is on.
    pub(super) fn volume(&self) -> crate::duties::Volume {
        crate::duties::Volume {
            files: self.env.files.clone(),
            tasks: self.env.tasks.clone(),
            directory: self.directory.root().to_owned(),
        }
    }

    /// Opens log and state, and rebuilds the state if it must be: with a large one that takes long. Blocks. A member's damaged
    /// or missing log makes the disk lost, which is stored.
    pub(super) fn load(&self) -> Result<(), Error> {
        let identity = self.inner.lock().identity.clone();
        if let Some(identity) = identity {
            self.resume(&identity)?;
        }
        self.inner.lock().loading = false;
        Ok(())
    }

    /// Takes up an identity that was on the disk before this start.
    fn resume(&self, identity: &Identity) -> Result<(), Error> {
        if identity.ordinal != self.ordinal && !simulated::planted(Bug::IgnoreOrdinal) {
            // Another pod's disk: it is described, refused, and not touched, its boot neither.
            let mut inner = self.inner.lock();
            inner.boot.number = identity.boot;
            inner.identity = Some(identity.clone());
            return Ok(());
        }
        let (identity, boot) =
            self.identity_file.raise_boot(identity, &*self.env.random).map_err(start_error)?;
        {
            let mut inner = self.inner.lock();
            inner.boot = boot;
            inner.identity = Some(identity.clone());
        }
        match identity.state {
            DiskState::Lost { .. } => {
                self.inner.lock().at_boot = self.held_though_lost();
                return Ok(());
            }
            // Not admitted yet: there is no log.
            DiskState::Joining { .. } if identity.node_id == NodeId::default() => return Ok(()),
            DiskState::Prepared { .. } | DiskState::Joining { .. } | DiskState::Member => {}
        }
        let began = Instant::now();
        // Not under the lock: whoever asks meanwhile is told that the disk is being opened.
        match self.open_parts(identity.lineage()) {
            Ok(opened) => {
                self.tell(&opened, began);
                Self::take(&mut self.inner.lock(), identity.node_id, opened);
            }
            Err(raft::OpenError::Lost(reason)) => {
                tracing::error!(
                    %reason,
                    "the disk has lost what it acknowledged; it takes part no more, and nothing was removed"
                );
                simulated::tell(|| Seen::Lost { node: identity.node_id.0 });
                let lost = identity.lost(reason);
                self.identity_file.store(&lost).map_err(start_error)?;
                self.inner.lock().identity = Some(lost);
            }
            Err(raft::OpenError::Refused(reason)) => return Err(Error::Disk(reason)),
        }
        Ok(())
    }

    /// What a lost disk holds, for whoever must find the newest of what is left; nothing, if its log cannot be read.
    fn held_though_lost(&self) -> Held {
        let Ok(log) = Log::look(&self.env, &self.directory.log()) else { return Held::default() };
        let snapshots =
            Snapshots::open(self.env.files.clone(), &self.directory.snapshots(), &self.directory.incoming());
        let newest = snapshots.ok().and_then(|snapshots| snapshots.newest().ok()).flatten();
        held_of(log.vote, log.last.or(log.purged).max(newest.map(|file| file.id)))
    }

    /// What was opened, what of it had to be rebuilt, and how long that took.
    fn tell(&self, opened: &Opened, began: Instant) {
        let (revision, keys) = opened.machine.with_state(|state| (state.revision(), state.keys()));
        tracing::info!(
            log_entries = opened.log.first_last().map_or(0, |(first, last)| last - first + 1),
            last_entry = opened.log.last().map_or(0, |id| id.index),
            state_entry = opened.machine.applied().map_or(0, |id| id.index),
            revision,
            keys,
            rebuilt_in_seconds = self.metrics.state_rebuild_seconds.get(),
            took = ?began.elapsed(),
            "the disk is open"
        );
    }

    fn open_parts(&self, lineage: Lineage) -> Result<Opened, raft::OpenError> {
        raft::open(&self.env, &self.directory, self.options, self.engine, lineage, &self.metrics)
    }

    fn take(inner: &mut Inner, node: NodeId, opened: Opened) {
        inner.at_boot = held(&opened);
        let (node, vote) = (node.0, opened.log.vote());
        let vote =
            vote.map_or((0, 0, false), |vote| (vote.term, vote.node.unwrap_or_default(), vote.committed));
        let last = (inner.at_boot.last.term, inner.at_boot.last.index);
        simulated::tell(|| Seen::Opened { node, vote, last });
        simulated::tell(|| Seen::Kept { node, index: opened.snapshots.newest_index().unwrap_or(0) });
        #[cfg(feature = "simulation")]
        tell_entries(node, &opened.log);
        inner.recovered = opened.recovered.clone();
        inner.opened = Some(Arc::new(opened));
    }

    /// Who this member is in messages, once it has an identity.
    pub(super) fn sender(&self) -> Option<Sender> {
        let inner = self.inner.lock();
        let identity = inner.identity.as_ref()?;
        Some(Sender {
            cluster: identity.cluster,
            node: identity.node_id,
            boot: inner.boot.number,
            boot_random: inner.boot.random,
        })
    }

    /// Log and state.
    pub(super) fn opened(&self) -> Option<Arc<Opened>> {
        self.inner.lock().opened.clone()
    }

    /// Stores that the log holds something from now on: were it empty at the next start, that would be a loss.
    pub(super) fn settle(&self) -> Result<(), Error> {
        let mut inner = self.inner.lock();
        let Some(settled) = inner.identity.as_ref().and_then(|identity| identity.settled(true)) else {
            return Ok(());
        };
        self.identity_file.store(&settled).map_err(start_error)?;
        inner.identity = Some(settled);
        Ok(())
    }

    /// Stores that the disk is lost.
    pub(super) fn lose(&self, reason: &str) -> Result<(), Error> {
        let mut inner = self.inner.lock();
        let Some(lost) = inner.identity.as_ref().map(|identity| identity.lost(reason)) else { return Ok(()) };
        simulated::tell(|| Seen::Lost { node: lost.node_id.0 });
        self.identity_file.store(&lost).map_err(start_error)?;
        inner.identity = Some(lost);
        Ok(())
    }

    /// Stores what was decided at this stop, for whoever asks after the next start.
    pub(super) fn note_stop(&self, decided: &str) -> Result<(), Error> {
        let mut inner = self.inner.lock();
        let Some(identity) = inner.identity.clone() else { return Ok(()) };
        let last_stop = Some(LastStop { boot: inner.boot.number, decided: decided.to_owned() });
        let stopped = Identity { last_stop, ..identity };
        self.identity_file.store(&stopped).map_err(start_error)?;
        inner.identity = Some(stopped);
        Ok(())
    }

    /// What was decided at the last stop that was in order, if that is known.
    pub(super) fn last_stop(&self) -> Option<LastStop> {
        self.inner.lock().identity.as_ref()?.last_stop.clone()
    }

    /// Closes log and state, marks the state as closed cleanly, and gives the directory back, once. Consensus must have ended.
    pub(super) async fn close(&self) {
        if self.is_loading() {
            // The directory is given back when that ends.
            return;
        }
        if std::mem::replace(&mut self.inner.lock().closed, true) {
            return;
        }
        if let Some(opened) = self.opened() {
            opened.log.close().await;
            let (env, directory) = (self.env.clone(), self.directory.clone());
            let close = move || {
                if let Err(error) = opened.close_state(&env, &directory) {
                    tracing::warn!(%error, "the state was not closed cleanly; it is rebuilt at the next start");
                }
            };
            self.env.tasks.blocking(Box::new(close)).await;
        }
        self.directory.release();
    }

    /// Gives the directory back after a load that failed.
    pub(super) fn give_back(&self) {
        self.directory.release();
    }

    fn prepare_now(&self, prepared: &Prepared) -> Result<(), PrepareRefusal> {
        let failed = |error: &dyn std::fmt::Display| PrepareRefusal::Disk(error.to_string());
        let mut inner = self.inner.lock();
        let in_use = || PrepareRefusal::InUse("not blank: its log holds something".into());
        if inner.opened.is_none() {
            let path = self.directory.log();
            match Log::create(&self.env, &path, self.options) {
                Ok(()) => {}
                Err(crate::storage::log::OpenError::Exists(_)) => {
                    if !log::is_unused(&*self.env.files, &path).map_err(|error| failed(&error))? {
                        return Err(in_use());
                    }
                }
                Err(error) => return Err(failed(&error)),
            }
        }
        let first = Identity {
            cluster: prepared.cluster,
            supersedes: Vec::new(),
            node_id: prepared.node_id,
            ordinal: self.ordinal,
            state: DiskState::Prepared { voters: prepared.voters.clone() },
            boot: inner.boot.number.max(1),
            last_stop: inner.identity.as_ref().and_then(|before| before.last_stop.clone()),
        };
        // Before there is a state: a state without an identity is what a lost identity leaves behind, and would be refused.
        self.identity_file.store(&first).map_err(|error| failed(&error))?;
        if let Some(opened) = &inner.opened {
            // What was opened for an attempt that broke off serves the next; but its snapshots would carry the old id, and no other
            // member would take them.
            opened.snapshots.belongs_to(prepared.cluster);
        } else {
            let opened = self.open_parts(prepared.cluster.into()).map_err(|error| failed(&error))?;
            if !held(&opened).is_nothing() {
                return Err(in_use());
            }
            Self::take(&mut inner, prepared.node_id, opened);
        }
        inner.boot.number = first.boot;
        inner.identity = Some(first);
        Ok(())
    }
}

/// Tells a simulation what the last entries are that the disk holds: the end of a log is what a torn write may have left.
#[cfg(feature = "simulation")]
fn tell_entries(node: u64, log: &Log) {
    const LAST: u64 = 16;
    let Some((first, last)) = log.first_last() else { return };
    let first = first.max(last.saturating_sub(LAST));
    for entry in log.read(first..last + 1, usize::MAX).unwrap_or_default() {
        let id = (entry.id.term, entry.id.index);
        simulated::tell(|| Seen::Logged { node, id, digest: simulated::digest(&entry.payload) });
    }
}

/// What a disk holds of consensus. Its last entry is the higher of log and snapshot: one that was received counts, although the log
/// is cut up to it only later.
fn held(opened: &Opened) -> Held {
    let (vote, last) = opened.on_disk();
    held_of(vote, last)
}

fn held_of(vote: Option<log::Vote>, last: Option<crate::storage::LogId>) -> Held {
    let vote = vote.map_or_else(Vote::default, |vote| Vote { term: vote.term, node: vote.node.unwrap_or(0) });
    Held { vote, last: last.map_or_else(LogId::default, |id| LogId { term: id.term, index: id.index }) }
}

impl Local for LocalDisk {
    fn is_loading(&self) -> bool {
        self.inner.lock().loading
    }

    fn disk(&self) -> Disk {
        let inner = self.inner.lock();
        let Some(identity) = &inner.identity else { return Disk::blank(inner.boot.random) };
        // What a lost disk held when it was looked at, it holds still.
        let now = inner.opened.as_ref().map_or(inner.at_boot, |opened| held(opened));
        let consensus = self.consensus.consensus();
        let membership = match consensus {
            Some(consensus) => consensus.membership(),
            None => inner.recovered.membership.clone(),
        };
        let mut disk = Disk::from_identity(identity, inner.boot, now, membership);
        disk.at_boot = inner.at_boot;
        disk.marks = match consensus {
            Some(consensus) => consensus.known_marks(),
            None => inner.recovered.marks.clone(),
        };
        if let Some(consensus) = consensus {
            let boots = consensus.boots().seen().into_iter();
            disk.seen = boots.map(|(id, (number, random))| (id, Boot { number, random })).collect();
        }
        // A disk of which nothing could be opened is what its identity says, whatever it held.
        if disk.what == What::Prepared && inner.opened.is_none() && disk.ordinal == self.ordinal {
            disk.what = What::Lost { reason: "its log is missing".into() };
        }
        disk
    }

    fn consensus(&self) -> Option<ConsensusView> {
        let position = self.consensus.consensus()?.position();
        Some(ConsensusView {
            leader: position.leader,
            term: position.term,
            applied_index: position.applied_index,
            removed: self.consensus.consensus()?.removed(),
            desired: None,
        })
    }

    fn recorded(&self) -> Option<OrdinalRange> {
        self.opened().and_then(|opened| opened.machine.with_state(|state| state.cluster().desired))
    }

    fn request(&self) -> Option<Request> {
        self.request_now()
    }

    fn drop_request(&self, why: &str) {
        self.drop_request_now(why);
    }

    fn prepare(&self, identity: Prepared) -> BoxFuture<'_, Result<(), PrepareRefusal>> {
        Box::pin(async move { self.prepare_now(&identity) })
    }

    fn begin_joining(&self, cluster: ClusterId) -> BoxFuture<'_, Result<u64, String>> {
        Box::pin(async move { self.begin_joining_now(cluster).map_err(|error| error.to_string()) })
    }

    fn join(&self, admitted: Admitted) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            self.close_opened().await;
            self.join_now(&admitted).map_err(|error| error.to_string())
        })
    }
}

/// Members of a first bootstrap, as consensus wants them.
pub(super) fn peer_nodes(
    voters: &crate::identity::Membership,
) -> std::collections::BTreeMap<NodeId, raft::PeerNode> {
    voters.members.iter().map(|member| (member.node_id, raft::peer_node(member.clone()))).collect()
}
