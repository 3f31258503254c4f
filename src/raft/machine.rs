//! The applied state: the pure state machine, and the engine that holds it. Shared by apply, reads and snapshots.
//!
//! Invariants:
//! * The engine always holds the state at exactly one applied entry, because the changed records and the id of the entry are
//!   one batch, which the id seals. Apply holds the write lock until the engine has the batch, so a reader that holds the read
//!   lock finds in the engine all that the index names.
//! * While a snapshot is installed the engine holds parts of two states, and neither an applied id. No lock is held
//!   meanwhile, so that a member that is asked where it stands answers; what reads or compacts the engine looks at
//!   `installs` instead: odd while one runs, another number afterwards.

mod maintenance;
mod reads;

use std::ops::{Bound, ControlFlow};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use parking_lot::RwLock;
use prost::Message;
use tokio::sync::{Notify, watch};

use super::access::AccessState;
use super::codec;
use super::types::{self, Batch, Entry, EntryPayload, LogId, Replies, StoredMembership};
use crate::env::simulated::{self, Bug};
use crate::limits;
use crate::mvcc::command::{LogPosition, Refusal};
use crate::mvcc::{self, History, HistoryError, State, layout};
use crate::proto::log;
use crate::storage::{self, Engine};

/// Engine key of the id of the last applied entry.
const APPLIED_KEY: &[u8] = b"ra";
/// Engine key of the newest applied membership.
const MEMBERSHIP_KEY: &[u8] = b"rm";
/// Items that are copied or removed in one engine batch while a snapshot is installed.
const INSTALL_BATCH_ITEMS: usize = 256;

/// What cannot be read, or does not fit together. The engine is thrown away and rebuilt.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// The engine failed.
    #[error("the state engine failed: {0}")]
    Engine(#[from] storage::engine::EngineError),
    /// The state machine's records are damaged.
    #[error("{0}")]
    Load(#[from] mvcc::LoadError),
    /// Our own records are damaged.
    #[error("record {0}: {1}")]
    Record(&'static str, codec::CodecError),
    /// The history is not the one that the applied entry left.
    #[error("the state engine holds a part of a state")]
    Torn,
    /// A record that must be there cannot be read.
    #[error("the state engine has lost a record")]
    Unreadable,
    /// The snapshot could not be read.
    #[error("{0}")]
    Snapshot(#[from] storage::snapshot::SnapshotError),
}

impl From<MachineError> for std::io::Error {
    fn from(error: MachineError) -> Self {
        Self::other(error.to_string())
    }
}

/// What watchers must hear of the applied state.
#[derive(Clone, Copy, Debug)]
pub enum Published<'a> {
    /// An entry was applied: its events, and the revision of the store after it.
    Events(&'a [mvcc::Event], i64),
    /// A snapshot was installed: the store jumped to this revision.
    Jumped(i64),
}

/// Who is told, between two applies.
pub type EventSink = Arc<dyn Fn(Published<'_>) + Send + Sync>;

/// The read port of the state machine over an engine.
#[derive(Clone)]
pub struct EngineHistory(pub Arc<dyn Engine>);

fn unreadable(error: &storage::engine::EngineError) -> HistoryError {
    HistoryError(error.to_string())
}

impl EngineHistory {
    /// Hands out the history up to a revision, in the order of the keys, then the small state as it was there.
    fn visit(
        &self,
        revision: i64,
        small: &[(Bytes, Bytes)],
        visit: &mut Visit<'_>,
    ) -> Result<(), MachineError> {
        let (start, end) = layout::history_span(revision);
        let mut result = Ok(());
        self.0.scan(&start, &end, &mut |key, value| {
            result = visit(&key, &value);
            if result.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        result?;
        for (key, value) in small {
            visit(key, value)?;
        }
        Ok(())
    }
}

impl History for EngineHistory {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, HistoryError> {
        self.0.get(key).map_err(|error| unreadable(&error))
    }

    fn floor(&self, key: &[u8]) -> Result<Option<(Bytes, Bytes)>, HistoryError> {
        self.0.floor(Bound::Included(key)).map_err(|error| unreadable(&error))
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(Bytes, Bytes) -> ControlFlow<()>,
    ) -> Result<(), HistoryError> {
        self.0.scan(from, to, visit).map_err(|error| unreadable(&error))
    }
}

/// The applied state.
pub struct Machine {
    state: RwLock<State>,
    history: EngineHistory,
    membership: RwLock<StoredMembership>,
    applied: watch::Sender<Option<LogId>>,
    events: OnceLock<EventSink>,
    /// Snapshots that are being made; physical compaction waits for them.
    pins: AtomicUsize,
    /// Raised under the state's lock when the installation of a snapshot begins and when it ends: odd while one runs.
    installs: AtomicU64,
    /// Revision up to which the disk has forgotten.
    compacted_on_disk: watch::Sender<i64>,
    /// Told when there is something to compact.
    to_compact: Notify,
    /// Told when a lease was granted.
    leases_granted: Notify,
    /// What is kept beside for maintenance.
    kept: maintenance::Kept,
    pub(super) access: AccessState,
}

pub(crate) use maintenance::Whole;

impl Machine {
    /// Loads and checks the state that an engine holds.
    pub fn load(engine: Arc<dyn Engine>) -> Result<Self, MachineError> {
        let history = EngineHistory(engine);
        let state = State::load(&history)?;
        let applied = read_applied(&history.0, &state)?;
        let membership = read_membership(&history.0)?;
        let compacted_on_disk = watch::Sender::new(state.physically_compacted());
        let kept = maintenance::Kept::of(&state);
        let access = AccessState::loaded(state.auth());
        Ok(Self {
            state: RwLock::new(state),
            history,
            membership: RwLock::new(membership),
            applied: watch::Sender::new(applied),
            events: OnceLock::new(),
            pins: AtomicUsize::new(0),
            installs: AtomicU64::new(0),
            compacted_on_disk,
            to_compact: Notify::new(),
            leases_granted: Notify::new(),
            access,
            kept,
        })
    }

    /// Binds who is told of events, once, before consensus runs.
    pub fn bind_events(&self, sink: EventSink) {
        // A process applies one state, for one hub.
        let _ = self.events.set(sink);
    }

    fn tell(&self, published: Published<'_>) {
        if let Some(sink) = self.events.get() {
            sink(published);
        }
    }

    fn is_installing(&self) -> bool {
        self.installs.load(Ordering::Acquire) % 2 == 1
    }

    /// Whether a snapshot of the state is being made.
    pub(crate) fn is_pinned(&self) -> bool {
        self.pins.load(Ordering::Acquire) > 0
    }

    /// Returns when a lease was granted since the last call.
    pub(crate) async fn wait_leases_granted(&self) {
        self.leases_granted.notified().await;
    }

    /// Returns when this member's disk has forgotten what compaction at `revision` made dead.
    pub(crate) async fn wait_compacted_on_disk(&self, revision: i64) {
        // The sender is this machine's own: it does not go away.
        let _ = self.compacted_on_disk.subscribe().wait_for(|done| *done >= revision).await;
    }

    /// The id of the last applied entry.
    pub fn applied(&self) -> Option<LogId> {
        *self.applied.borrow()
    }

    /// Follows the id of the last applied entry.
    pub fn watch_applied(&self) -> watch::Receiver<Option<LogId>> {
        self.applied.subscribe()
    }

    /// The newest applied membership.
    pub fn membership(&self) -> StoredMembership {
        self.membership.read().clone()
    }

    /// Of each ordinal the newest id that was removed.
    pub fn removed(&self) -> std::collections::BTreeSet<crate::identity::NodeId> {
        // Both under the state's lock, which apply holds for as long as they differ.
        let state = self.state.read();
        let members = self.membership.read().membership().nodes().map(|(id, _)| *id).collect();
        state.cluster().removed(&members)
    }

    /// Looks at the state, without changes in between.
    pub fn with_state<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.read())
    }

    /// The engine.
    pub fn engine(&self) -> &Arc<dyn Engine> {
        &self.history.0
    }

    /// Applies one entry. An error means that this member cannot go on.
    pub fn apply(&self, entry: &Entry) -> Result<Replies, MachineError> {
        let mut batch = storage::Batch::default();
        let replies = match &entry.payload {
            EntryPayload::Normal(requests) => self.apply_requests(&entry.log_id, requests)?,
            EntryPayload::Blank => {
                let state = self.state.write();
                self.seal(&mut batch, &entry.log_id, state.revision());
                self.commit(batch)?;
                Vec::new()
            }
            EntryPayload::Membership(membership) => {
                let stored = StoredMembership::new(Some(entry.log_id), membership.clone());
                let mut state = self.state.write();
                let changes = state.apply_membership(&types::voting(membership));
                batch = storage::Batch { puts: changes.puts, deletes: changes.deletes };
                batch
                    .puts
                    .push((Bytes::from_static(MEMBERSHIP_KEY), codec::encode_stored_membership(&stored)));
                self.seal(&mut batch, &entry.log_id, state.revision());
                self.commit(batch)?;
                self.kept.look(&state);
                *self.membership.write() = stored;
                Vec::new()
            }
        };
        self.applied.send_replace(Some(entry.log_id));
        Ok(replies)
    }

    /// The id of the entry goes last: it seals the batch.
    fn seal(&self, batch: &mut storage::Batch, id: &LogId, revision: i64) {
        let stale = self.applied().filter(|_| simulated::planted(Bug::LoseApplied));
        batch.puts.push(applied_item(&stale.unwrap_or(*id), revision));
    }

    fn apply_requests(&self, id: &LogId, requests: &Batch) -> Result<Replies, MachineError> {
        let requests =
            codec::decode_batch(requests).map_err(|error| MachineError::Record("log entry", error))?;
        let mut state = self.state.write();
        let compacted = state.compacted();
        let at = LogPosition { term: id.leader_id.term, index: id.index };
        let granted = state.leases().newest();
        #[cfg(feature = "simulation")]
        let before = super::lease::Before::of(&state);
        let applied = state.apply(&self.history, at, &requests);
        #[cfg(feature = "simulation")]
        before.tell_ended(&state, at, &requests, &applied.replies);
        if applied.replies.contains(&Err(Refusal::Unreadable)) {
            return Err(MachineError::Unreadable);
        }
        let mut batch = storage::Batch { puts: applied.changes.puts, deletes: applied.changes.deletes };
        self.seal(&mut batch, id, state.revision());
        self.commit(batch)?;
        self.kept.look(&state);
        if state.compacted() > compacted {
            self.to_compact.notify_one();
        }
        let revision = state.revision();
        self.access.follow(state.auth(), &applied.auth, id.index);
        if state.leases().newest() != granted {
            self.leases_granted.notify_one();
        }
        drop(state);
        self.tell(Published::Events(&applied.events, revision));
        Ok(applied.replies)
    }

    /// Applies requests as one entry of term 1, for fuzzers.
    #[cfg(feature = "simulation")]
    pub(crate) fn apply_batch(&self, index: u64, batch: Batch) -> Result<Replies, MachineError> {
        let log_id = types::log_id(storage::LogId { term: 1, index });
        self.apply(&Entry { log_id, payload: EntryPayload::Normal(batch) })
    }

    /// Digest of the whole state, for a simulation: equal on all members that have applied the same.
    #[cfg(feature = "simulation")]
    pub(crate) fn digest(&self) -> u64 {
        let state = self.state.read();
        let hash = state.hash(&self.history, 0);
        let rest = (state.cluster(), state.leases(), state.auth(), &*self.membership.read());
        simulated::digest(format!("{hash:?} {rest:?}").as_bytes())
    }

    /// One bounded step of physical compaction. False if there is nothing to do now.
    pub fn compaction_step(&self) -> Result<bool, MachineError> {
        let mut state = self.state.write();
        if self.is_pinned() || self.kept.is_read() || self.is_installing() {
            return Ok(false);
        }
        let step = state.compaction_step(&self.history, limits::COMPACTION_STEP_RECORDS);
        match step.map_err(|_| MachineError::Unreadable)? {
            Some(changes) => {
                let mut batch = storage::Batch { puts: changes.puts, deletes: changes.deletes };
                // Sealed as every batch is, with what the engine holds: `applied` follows only when the lock is free.
                let applied = self.history.0.get(APPLIED_KEY)?;
                batch.puts.extend(applied.map(|applied| (Bytes::from_static(APPLIED_KEY), applied)));
                self.history.0.commit(batch)?;
                self.tell_compacted(&state);
                Ok(true)
            }
            None => Ok(false),
        }
    }

    /// Copies what a snapshot must show as it is now, and keeps history from being compacted until the pin is dropped.
    /// Called between two applies.
    pub fn pin(self: &Arc<Self>) -> Pin {
        self.pins.fetch_add(1, Ordering::AcqRel);
        let (revision, bytes, mut small) =
            self.with_state(|state| (state.revision(), state.history_bytes(), state.small_state()));
        let (applied, membership) = (self.applied(), self.membership());
        small.push((Bytes::from_static(MEMBERSHIP_KEY), codec::encode_stored_membership(&membership)));
        if let Some(applied) = &applied {
            small.push(applied_item(applied, revision));
        }
        // A snapshot's keys rise.
        small.sort();
        let bytes = small.iter().fold(bytes, |bytes, (key, value)| bytes + (key.len() + value.len()) as u64);
        Pin { machine: self.clone(), applied, membership, revision, bytes, small }
    }

    fn tell_compacted(&self, state: &State) {
        let done = state.physically_compacted();
        self.compacted_on_disk.send_if_modified(|known| std::mem::replace(known, done) != done);
    }

    /// Replaces the state with what a verified snapshot holds. Called between two applies, with no pin held. Blocks. After
    /// an error nothing can be read any more; the engine then looks empty, and is rebuilt at the next start.
    pub fn install(
        &self,
        contents: &mut dyn Iterator<Item = Result<(Bytes, Bytes), storage::snapshot::SnapshotError>>,
    ) -> Result<(), MachineError> {
        {
            // Under the lock, so that no step of compaction is under way.
            let _state = self.state.write();
            if self.is_installing() {
                return Err(MachineError::Unreadable);
            }
            self.installs.fetch_add(1, Ordering::AcqRel);
        }
        self.clear()?;
        let mut batch = storage::Batch::default();
        let mut applied = None;
        for item in contents {
            let (key, value) = item?;
            if key == APPLIED_KEY {
                // Written last: an engine that was stopped half-way must not look whole.
                applied = Some((key, value));
                continue;
            }
            batch.puts.push((key, value));
            if batch.puts.len() >= INSTALL_BATCH_ITEMS {
                self.history.0.commit(std::mem::take(&mut batch))?;
            }
        }
        batch.puts.extend(applied);
        self.history.0.commit(batch)?;
        let loaded = State::load(&self.history)?;
        let membership = read_membership(&self.history.0)?;
        let applied = read_applied(&self.history.0, &loaded)?;
        let mut state = self.state.write();
        *state = loaded;
        self.kept.look(&state);
        self.access.jump(state.auth());
        self.tell_compacted(&state);
        *self.membership.write() = membership;
        self.installs.fetch_add(1, Ordering::AcqRel);
        let revision = state.revision();
        drop(state);
        self.applied.send_replace(applied);
        self.tell(Published::Jumped(revision));
        Ok(())
    }

    /// Empties the engine. The applied id goes first: an engine that was stopped half-way must not look whole.
    fn clear(&self) -> Result<(), MachineError> {
        let mut batch = storage::Batch::default();
        batch.deletes.push(Bytes::from_static(APPLIED_KEY));
        self.history.0.commit(batch)?;
        self.history.0.flush()?;
        let mut from = Bytes::from_static(&[0]);
        loop {
            let mut batch = storage::Batch::default();
            self.history.0.scan(&from, &[0xff], &mut |key, _| {
                batch.deletes.push(key);
                if batch.deletes.len() < INSTALL_BATCH_ITEMS {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            })?;
            let Some(last) = batch.deletes.last() else { return Ok(()) };
            from = last.clone();
            self.history.0.commit(batch)?;
        }
    }
}

/// Takes one item of the state.
type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> Result<(), storage::snapshot::SnapshotError> + 'a;

/// The state at one applied entry, while it lasts.
pub struct Pin {
    machine: Arc<Machine>,
    /// The entry.
    pub applied: Option<LogId>,
    /// The membership then.
    pub membership: StoredMembership,
    /// The revision then.
    pub revision: i64,
    /// Bytes of all items.
    pub bytes: u64,
    small: Vec<(Bytes, Bytes)>,
}

impl Pin {
    /// Hands out every item of the state, in the order of the keys: history, then the small state.
    pub fn visit(&self, visit: &mut Visit<'_>) -> Result<(), MachineError> {
        self.machine.history.visit(self.revision, &self.small, visit)
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.machine.pins.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The applied entry that an engine holds; `None` if it holds nothing. Every item of an engine can be sound while its newest
/// ones are missing, or newer than the applied id: damage to sled's files can take a part of a batch. So the id comes with
/// the revision that the state had then.
fn read_applied(engine: &Arc<dyn Engine>, state: &State) -> Result<Option<LogId>, MachineError> {
    let Some(bytes) = engine.get(APPLIED_KEY)? else {
        let is_new = state.revision() == State::new().revision();
        return if is_new { Ok(None) } else { Err(MachineError::Torn) };
    };
    let log::Applied { term, index, revision } = log::Applied::decode(bytes)
        .map_err(|error| MachineError::Record("applied entry", codec::CodecError::Malformed(error)))?;
    // Snapshots of the first versions have no revision.
    if revision != 0 && revision != state.revision() {
        return Err(MachineError::Torn);
    }
    Ok(Some(types::log_id(storage::LogId { term, index })))
}

fn applied_item(id: &LogId, revision: i64) -> (Bytes, Bytes) {
    let applied = log::Applied { term: id.leader_id.term, index: id.index, revision };
    (Bytes::from_static(APPLIED_KEY), applied.encode_to_vec().into())
}

fn read_membership(engine: &Arc<dyn Engine>) -> Result<StoredMembership, MachineError> {
    match engine.get(MEMBERSHIP_KEY)? {
        Some(bytes) => {
            codec::decode_stored_membership(bytes).map_err(|error| MachineError::Record("membership", error))
        }
        None => Ok(StoredMembership::default()),
    }
}
