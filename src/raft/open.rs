//! Opening a member's log and state, so that they fit together.
//!
//! The state is believed only if it was closed cleanly, every record checks out, and the log covers what it holds; else it
//! is thrown away and rebuilt from the newest snapshot. The log replays the rest.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::time::Instant;

use super::codec;
use super::machine::{Machine, MachineError};
use super::types::{self, EntryPayload, LogId, PeerNode};
use super::{marks, snapshot};
use crate::env::Env;
use crate::env::simulated::{self, Bug};
use crate::identity::{ClusterId, Lineage, Member, Membership, NodeId};
use crate::limits;
use crate::metrics::Metrics;
use crate::mvcc::LoadError;
use crate::mvcc::cluster::Mark;
use crate::storage::engine::state::{self, EngineKind};
use crate::storage::log::{OpenError as LogError, Options};
use crate::storage::snapshot::SnapshotError;
use crate::storage::{self, DataDirectory, Log, Snapshots};

/// Why a disk cannot be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// What it acknowledged is damaged or gone. It is never repaired.
    #[error("{0}")]
    Lost(String),
    /// It cannot be read now, or not by this version. Nothing was changed.
    #[error("{0}")]
    Refused(String),
}

/// What a disk says of members before consensus runs on it.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    /// The last membership in log or state; `None` if they hold none.
    pub membership: Option<Membership>,
    /// The marks in state and log, uncommitted ones included.
    pub marks: BTreeMap<NodeId, Mark>,
}

/// A member's opened log and state.
pub struct Opened {
    /// The log.
    pub log: Log,
    /// The committed entry that the log recorded.
    pub committed: Option<storage::LogId>,
    /// The state.
    pub machine: Arc<Machine>,
    /// The snapshots.
    pub snapshots: Arc<snapshot::Store>,
    /// What they say of members.
    pub recovered: Recovered,
    engine: EngineKind,
}

impl Opened {
    /// The vote, and the last entry in the log or in the snapshot that the state was made from, as the disk holds them: of what a crash
    /// would take away others must not be told.
    pub fn on_disk(&self) -> (Option<storage::log::Vote>, Option<storage::LogId>) {
        let applied = self.machine.applied().as_ref().map(types::stored_log_id);
        let (vote, last) = self.log.on_disk();
        (vote, last.max(applied))
    }

    /// Closes the state and marks it as closed cleanly. Blocks.
    pub fn close_state(
        &self,
        env: &Env,
        directory: &DataDirectory,
    ) -> Result<(), storage::engine::EngineError> {
        state::close_state(&*env.files, &directory.state(), self.engine, &**self.machine.engine())
    }
}

/// Opens log and state. Blocks.
pub fn open(
    env: &Env,
    directory: &DataDirectory,
    options: Options,
    engine: EngineKind,
    lineage: Lineage,
    metrics: &Metrics,
) -> Result<Opened, OpenError> {
    let refused = |error: &dyn std::fmt::Display| OpenError::Refused(error.to_string());
    let (log, found) = Log::open(env, &directory.log(), options).map_err(|error| match error {
        LogError::Damaged(_) | LogError::Missing(_) => OpenError::Lost(error.to_string()),
        _ => refused(&error),
    })?;
    if found.cut > 0 {
        tracing::info!(bytes = found.cut, "cut the torn end of the log: a write that was never acknowledged");
    }
    let snapshots = Snapshots::open(env.files.clone(), &directory.snapshots(), &directory.incoming())
        .map_err(|error| refused(&error))?;
    let machine = Arc::new(open_state(env, directory, (engine, &lineage), &snapshots, &log, metrics)?);
    let store = snapshot::Store::new(snapshots, lineage, env.tasks.clone(), metrics.clone())
        .map_err(|error| refused(&error))?;
    let observed = metrics.fsync_seconds.clone();
    log.observe(Box::new(move |stats| observed.observe(stats.last_flush.as_secs_f64())));
    let recovered = recover(&log, &machine).map_err(|error| refused(&error))?;
    Ok(Opened { log, committed: found.committed, machine, snapshots: Arc::new(store), recovered, engine })
}

fn open_state(
    env: &Env,
    directory: &DataDirectory,
    (kind, lineage): (EngineKind, &Lineage),
    snapshots: &Snapshots,
    log: &Log,
    metrics: &Metrics,
) -> Result<Machine, OpenError> {
    let path = directory.state();
    let trusting = simulated::planted(Bug::ApplyBeforeSync);
    let why = match state::open_state(&*env.files, &*env.tasks, &path, kind) {
        Ok(opened) if opened.clean || trusting => match Machine::load(opened.engine.clone()) {
            Ok(machine) if trusting || fits(log, machine.applied()) => return Ok(machine),
            Ok(_) => {
                // Closed, so that its files can be removed.
                let _ = opened.engine.close();
                "it does not fit the log".into()
            }
            Err(error) => {
                let _ = opened.engine.close();
                error.to_string()
            }
        },
        Ok(opened) => {
            let _ = opened.engine.close();
            "it was not closed cleanly".to_owned()
        }
        Err(error) => error.to_string(),
    };
    let started = Instant::now();
    let refused = |error: &dyn std::fmt::Display| OpenError::Refused(error.to_string());
    state::reset_state(&*env.files, &path).map_err(|error| refused(&error))?;
    let engine =
        state::open_state(&*env.files, &*env.tasks, &path, kind).map_err(|error| refused(&error))?.engine;
    let machine = Machine::load(engine).map_err(|error| refused(&error))?;
    rebuild(&machine, snapshots, lineage, log)?;
    metrics.state_rebuild_seconds.set(started.elapsed().as_secs_f64());
    if log.last().is_some() || machine.applied().is_some() {
        tracing::info!(%why, took = ?started.elapsed(), "the state was rebuilt from snapshot and log");
    }
    Ok(machine)
}

/// Whether the log holds everything after what was applied, and that too unless it was purged.
fn fits(log: &Log, applied: Option<LogId>) -> bool {
    let purged = log.purged();
    match applied.as_ref().map(types::stored_log_id) {
        None => purged.is_none(),
        Some(applied) => {
            let covered = purged.is_none_or(|purged| purged.index <= applied.index);
            let last = log.last().or(purged);
            let same = log.term_at(applied.index).is_none_or(|term| term == applied.term);
            covered && same && last.is_some_and(|last| applied.index <= last.index)
        }
    }
}

/// Loads the newest snapshot that is whole into an empty state. A damaged one is needless if the log holds all that it held, and is removed
/// then: consensus would bring the state up to it. Else it is a loss, because this member may have told others that it has that.
pub(super) fn rebuild(
    machine: &Machine,
    snapshots: &Snapshots,
    lineage: &Lineage,
    log: &Log,
) -> Result<(), OpenError> {
    let listed = snapshots.list().map_err(|error| OpenError::Refused(error.to_string()))?;
    let mut damaged = Vec::new();
    let mut why = None;
    for file in listed {
        // Read once to know that it is whole, once to load it: a state is not begun that cannot be finished.
        let loaded = snapshots
            .verify(&file)
            .and_then(|verified| of_cluster(lineage, verified.header.cluster))
            .map_err(MachineError::from)
            .and_then(|()| snapshot::load(machine, snapshots, &file));
        match loaded {
            Ok(()) => break,
            Err(error) if shows_damage(&error) => {
                tracing::error!(%error, "a snapshot cannot be used; looking for what it holds elsewhere");
                why.get_or_insert(error.to_string());
                // Another cluster's never held anything of this one.
                if !matches!(error, MachineError::Snapshot(SnapshotError::Invalid(_))) {
                    damaged.push(file);
                }
            }
            // A full volume, a disk that cannot be read now, a newer version's file: nothing is lost by that.
            Err(error) => return Err(OpenError::Refused(error.to_string())),
        }
    }
    let in_log = |id: storage::LogId| log.term_at(id.index) == Some(id.term);
    if fits_after_rebuild(log, machine) && damaged.iter().all(|file| in_log(file.id)) {
        cut_conflict(log, machine);
        return snapshots.remove(&damaged).map_err(|error| OpenError::Refused(error.to_string()));
    }
    let purged = log.purged().map_or(0, |id| id.index);
    Err(OpenError::Lost(
        why.unwrap_or_else(|| {
            format!("the log begins after entry {purged}, and no snapshot reaches that far")
        }),
    ))
}

/// Whether the snapshot itself is not what this member wrote; else it may be sound, and only could not be used now.
fn shows_damage(error: &MachineError) -> bool {
    match error {
        MachineError::Snapshot(SnapshotError::Damaged(_) | SnapshotError::Invalid(_))
        | MachineError::Load(LoadError::Damaged { .. })
        | MachineError::Record(..)
        | MachineError::Torn => true,
        MachineError::Snapshot(SnapshotError::Io { .. } | SnapshotError::Version { .. })
        | MachineError::Load(LoadError::Unreadable(_))
        | MachineError::Engine(_)
        | MachineError::Unreadable => false,
    }
}

pub(super) fn of_cluster(lineage: &Lineage, found: ClusterId) -> Result<(), SnapshotError> {
    if lineage.includes(found) {
        return Ok(());
    }
    Err(SnapshotError::Invalid(format!("it is of cluster {found}, not {}", lineage.cluster)))
}

/// The log continues where the state ends. A snapshot may be ahead of the log: it is the newer truth.
fn fits_after_rebuild(log: &Log, machine: &Machine) -> bool {
    let applied = machine.applied().map(|id| id.index);
    log.purged().is_none_or(|purged| applied.is_some_and(|applied| purged.index <= applied))
}

/// Removes entries that the snapshot contradicts: it was received, and the member stopped before the log was cut. What is in
/// a snapshot is committed, so entries of an older term in its place never were, nor is anything after them.
fn cut_conflict(log: &Log, machine: &Machine) {
    let Some(applied) = machine.applied().as_ref().map(types::stored_log_id) else { return };
    if log.term_at(applied.index).is_none_or(|term| term == applied.term) {
        return;
    }
    tracing::warn!(entry = %applied, "the log contradicts the snapshot; its uncommitted end is cut");
    // If this does not become durable, the next start finds the same. Later writes do only after it.
    log.purge(applied, Box::new(drop));
    log.truncate_after(Some(applied), Box::new(drop));
}

/// Reads what log and state say of members.
fn recover(log: &Log, machine: &Machine) -> Result<Recovered, String> {
    let stored = machine.membership();
    let mut membership =
        (!stored.voter_ids().collect::<Vec<_>>().is_empty()).then(|| members(stored.membership()));
    let mut marks = machine.with_state(|state| state.cluster().marks.clone());
    let mut next = machine.applied().map_or(0, |id| id.index + 1);
    if let Some((first, _)) = log.first_last() {
        next = next.max(first);
    }
    let end = log.last().map_or(0, |last| last.index + 1);
    while next < end {
        let entries = log.read(next..end, limits::APPEND_BYTES).map_err(|error| error.to_string())?;
        let Some(last) = entries.last() else { break };
        next = last.id.index + 1;
        for entry in entries {
            let payload = codec::decode_payload(entry.payload).map_err(|error| error.to_string())?;
            match payload {
                EntryPayload::Membership(found) => membership = Some(members(&found)),
                EntryPayload::Normal(batch) => marks::read(&batch, &mut marks)?,
                EntryPayload::Blank => {}
            }
        }
    }
    Ok(Recovered { membership, marks })
}

/// A member as consensus knows it.
pub fn peer_node(member: Member) -> PeerNode {
    PeerNode { name: member.name, peer_address: member.peer_address, client_urls: member.client_urls }
}

/// A membership as the other parts know it.
pub(crate) fn members(membership: &types::Membership) -> Membership {
    Membership {
        configs: membership
            .get_joint_config()
            .iter()
            .map(|voters| voters.iter().copied().collect())
            .collect(),
        members: membership
            .nodes()
            .map(|(id, node)| Member {
                node_id: *id,
                name: node.name.clone(),
                peer_address: node.peer_address.clone(),
                client_urls: node.client_urls.clone(),
            })
            .collect(),
    }
}
