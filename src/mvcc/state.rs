//! What the state machine is made of.

use bytes::Bytes;

use super::alarm::AlarmKind;
use super::auth::Auth;
use super::cluster::Cluster;
use super::command::Refusal;
use super::compaction::Progress;
use super::index::Index;
use super::lease::Leases;
use super::{Revision, small};
use crate::env::simulated::{self, Bug};

/// Compacted revision of a store that was never compacted: etcd's value, which `HashKV` shows.
pub(super) const NEVER: i64 = -1;

/// The state machine: the key index and the small state in memory; the records are in the engine.
pub struct State {
    /// Main revision of the last change.
    pub(super) revision: i64,
    pub(super) compacted: i64,
    pub(super) index: Index,
    pub(super) cluster: Cluster,
    pub(super) leases: Leases,
    pub(super) auth: Auth,
    pub(super) progress: Progress,
    /// Bytes of the records, keys included.
    pub(super) history_bytes: u64,
}

/// What must be written to the engine in one atomic batch. No key is in it twice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Keys and values to write.
    pub puts: Vec<(Bytes, Bytes)>,
    /// Keys to remove.
    pub deletes: Vec<Bytes>,
}

impl Changes {
    /// There is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.puts.is_empty() && self.deletes.is_empty()
    }
}

impl Default for State {
    fn default() -> Self {
        Self::new()
    }
}

impl State {
    /// The state of an empty store, at revision 1.
    pub fn new() -> Self {
        Self {
            revision: Revision::EMPTY_STORE,
            compacted: NEVER,
            index: Index::default(),
            cluster: Cluster::default(),
            leases: Leases::default(),
            auth: Auth::default(),
            progress: Progress::default(),
            history_bytes: 0,
        }
    }

    /// The store's revision: the main revision of the last change, or 1.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// The compacted revision: reads below it are refused. -1 if the store was never compacted, as in etcd.
    pub fn compacted(&self) -> i64 {
        self.compacted
    }

    /// Keys that are there now.
    pub fn keys(&self) -> usize {
        self.index.live()
    }

    /// Bytes of the history as it is recorded, without what an engine adds: the part of the store that grows. Members whose physical
    /// compaction has got equally far have the same.
    pub fn history_bytes(&self) -> u64 {
        self.history_bytes
    }

    /// Nobody reads keys while an alarm says that the members' states differ.
    pub(super) fn check_readable(&self) -> Result<(), Refusal> {
        if self.cluster.alarms.is_raised(AlarmKind::Corrupt) && !simulated::planted(Bug::ServeCorrupt) {
            return Err(Refusal::Corrupt);
        }
        Ok(())
    }

    /// Cluster state.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The leases.
    pub fn leases(&self) -> &Leases {
        &self.leases
    }

    /// Users, roles and permissions.
    pub fn auth(&self) -> &Auth {
        &self.auth
    }

    /// All small state as it is in the engine. With the records up to [`State::revision`] it is all that a snapshot needs.
    pub fn small_state(&self) -> Vec<(Bytes, Bytes)> {
        let mut items = Vec::with_capacity(3 + self.cluster.marks.len() + self.leases.len());
        if self.compacted != NEVER {
            items.push(small::compacted(self.compacted));
        }
        items.extend(self.cluster.desired.map(small::desired));
        items.extend(self.cluster.alarms.iter().map(small::alarm));
        items.extend(
            self.cluster.admissions.iter().map(|(ordinal, newest)| small::admission(*ordinal, newest)),
        );
        items.extend(self.leases.iter().map(|(id, lease)| small::lease(id, lease)));
        items.extend(self.auth.items());
        items.extend(self.cluster.by_hand.iter().map(|(ordinal, by_hand)| small::by_hand(*ordinal, by_hand)));
        items.extend(self.cluster.events.iter().map(|(number, event)| small::event(number, event)));
        items.extend(self.cluster.marks.iter().map(|(node, mark)| small::mark(*node, mark)));
        if self.progress != Progress::default() {
            items.push(small::progress(&self.progress));
        }
        items
    }
}
