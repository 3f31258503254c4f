//! What maintenance needs of the applied state: alarms at a glance, all of it as it is at one moment, how long commits take.

use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use prometheus_client::metrics::histogram::Histogram;

use super::{
    LogId, MEMBERSHIP_KEY, Machine, MachineError, StoredMembership, Visit, applied_item, read_applied,
    read_membership,
};
use crate::env::simulated::{self, Bug, Seen};
use crate::error::Error;
use crate::identity::NodeId;
use crate::mvcc::State;
use crate::mvcc::alarm::{Alarm, AlarmKind};
use crate::mvcc::command::{Command, Refusal};
use crate::raft::codec;
use crate::storage;

const NO_SPACE: u8 = 1;
const CORRUPT: u8 = 2;

/// What is kept beside the state.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// The kinds of alarms that are raised: looked at by every write, which must not wait for apply.
    alarms: AtomicU8,
    /// Readers of all of the state ([`Whole`]); physical compaction waits for them.
    readers: AtomicUsize,
    commit_seconds: OnceLock<Histogram>,
}

impl Kept {
    pub(super) fn of(state: &State) -> Self {
        let kept = Self::default();
        kept.look(state);
        kept
    }

    /// Looks at the alarms again. The caller holds the state's lock.
    pub(super) fn look(&self, state: &State) {
        let alarms = &state.cluster().alarms;
        let bit = |kind, bit| if alarms.is_raised(kind) { bit } else { 0 };
        let bits = bit(AlarmKind::NoSpace, NO_SPACE) | bit(AlarmKind::Corrupt, CORRUPT);
        self.alarms.store(bits, Ordering::Release);
    }

    /// Whether somebody reads all of the state.
    pub(super) fn is_read(&self) -> bool {
        self.readers.load(Ordering::Acquire) > 0
    }
}

impl Machine {
    /// Why a command is refused, if the alarms refuse it.
    pub(crate) fn refuses(&self, command: &Command) -> Option<Refusal> {
        if self.kept.alarms.load(Ordering::Acquire) == 0 {
            return None;
        }
        self.with_state(|state| state.cluster().alarms.refuses(command))
    }

    /// Whether an alarm says that the store must not grow.
    pub(crate) fn is_full(&self) -> bool {
        self.kept.alarms.load(Ordering::Acquire) & NO_SPACE != 0 && !simulated::planted(Bug::GrowWithoutSpace)
    }

    /// Whether an alarm says that the members' states differ.
    pub(crate) fn is_corrupt(&self) -> bool {
        self.kept.alarms.load(Ordering::Acquire) & CORRUPT != 0
    }

    /// What a simulation is told of the store after an entry.
    pub(crate) fn stored(&self, index: u64) -> Seen {
        self.with_state(|state| Seen::Stored {
            index,
            revision: state.revision(),
            no_space: state.cluster().alarms.is_raised(AlarmKind::NoSpace),
        })
    }

    /// The alarms that are raised.
    pub(crate) fn alarms(&self) -> Vec<Alarm> {
        self.with_state(|state| state.cluster().alarms.list())
    }

    /// The members whose volumes are nearly full, as all know it.
    pub(crate) fn full_volumes(&self) -> Vec<NodeId> {
        self.with_state(|state| state.cluster().alarms.full_volumes())
    }

    /// Binds what commits are measured with, once.
    pub(crate) fn observe_commits(&self, histogram: Histogram) {
        // A process has one member's metrics.
        let _ = self.kept.commit_seconds.set(histogram);
    }

    /// Writes what an entry changed.
    pub(super) fn commit(&self, batch: storage::Batch) -> Result<(), MachineError> {
        let started = tokio::time::Instant::now();
        self.history.0.commit(batch)?;
        if let Some(histogram) = self.kept.commit_seconds.get() {
            histogram.observe(started.elapsed().as_secs_f64());
        }
        Ok(())
    }

    /// Returns when there may be something to compact.
    pub(crate) async fn wait_to_compact(&self) {
        self.to_compact.notified().await;
    }

    /// All of the state, as it is now. Writes go on; physical compaction waits until it is dropped, the installation of a snapshot does
    /// not, and then what was read is of no use.
    ///
    /// # Errors
    /// [`Error::NotServing`] while a snapshot is installed, or if nothing was applied yet.
    pub(crate) fn whole(self: &Arc<Self>) -> Result<Whole, Error> {
        let unreadable = |error: MachineError| Error::Storage(error.to_string());
        // The engine and the state say the same under the lock.
        let state = self.state.read();
        let installs = self.readable()?;
        let applied = read_applied(&self.history.0, &state).map_err(unreadable)?;
        let applied = applied.ok_or_else(|| Error::NotServing("nothing was applied yet".into()))?;
        let membership = read_membership(&self.history.0).map_err(unreadable)?;
        let revision = state.revision();
        let mut small = state.small_state();
        small.push((Bytes::from_static(MEMBERSHIP_KEY), codec::encode_stored_membership(&membership)));
        small.push(applied_item(&applied, revision));
        small.sort();
        self.kept.readers.fetch_add(1, Ordering::AcqRel);
        let bytes = state.history_bytes();
        Ok(Whole { machine: self.clone(), installs, applied, membership, revision, bytes, small })
    }
}

/// All of the state at one applied entry, while it lasts.
pub(crate) struct Whole {
    machine: Arc<Machine>,
    installs: u64,
    /// The entry.
    pub(crate) applied: LogId,
    /// The membership then.
    pub(crate) membership: StoredMembership,
    /// The revision then.
    pub(crate) revision: i64,
    /// Bytes of the history.
    pub(crate) bytes: u64,
    small: Vec<(Bytes, Bytes)>,
}

impl Whole {
    /// Hands out every item, in the order of the keys. Blocks.
    ///
    /// # Errors
    /// What `visit` returns; [`MachineError::Torn`] if a snapshot was installed meanwhile.
    pub(crate) fn visit(&self, visit: &mut Visit<'_>) -> Result<(), MachineError> {
        self.machine.history.visit(self.revision, &self.small, visit)?;
        if self.machine.installs.load(Ordering::Acquire) == self.installs {
            Ok(())
        } else {
            Err(MachineError::Torn)
        }
    }
}

impl Drop for Whole {
    fn drop(&mut self) {
        self.machine.kept.readers.fetch_sub(1, Ordering::AcqRel);
    }
}
