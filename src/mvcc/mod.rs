//! The state machine of etcd's data model. Pure: no async, no I/O, no clock, no openraft, no protobuf.
//!
//! `raft` feeds it commands from the log and persists what it returns; `raft` and `api` read through it.
//!
//! Rules for the caller:
//! 1. What [`State::apply`] returns is written to the engine in one atomic batch, together with the applied index, before
//!    anything else of the state is called with that engine: reads find their records there.
//! 2. What [`State::compaction_step`] returns is written before the next step.
//! 3. A reply of [`command::Refusal::Unreadable`] means that this member's state is lost: it writes nothing of that
//!    [`Applied`], and stops.
//! 4. The same commands give the same bytes, events and replies on every member.
//!
//! | File | What |
//! |---|---|
//! | `command` | what the log holds and what comes back |
//! | `check` | what is wrong with a request, before it is proposed |
//! | `cluster` | cluster state that is not a key |
//! | `alarm` | what is wrong, and what is refused meanwhile |
//! | `cost` | how much a command makes the store grow |
//! | `by_hand` | members that were added or removed by hand, outside a `StatefulSet` |
//! | `lease` | what is granted, and which keys hang on it |
//! | `auth` | users, roles, permissions, and who may do what |
//! | `event_log` | what the members decided, for people |
//! | `state` | [`State`]: what it is made of |
//! | `load` | rebuilding it from the engine, checking every record |
//! | `apply`, `txn` | commands |
//! | `range` | reads, in bounded steps |
//! | `queue` | the transactions of locks and elections |
//! | `watching`, `interests` | what watchers watch, and who watches a key |
//! | `events` | events read back from the history |
//! | `compaction` | what dies, and its removal in bounded steps |
//! | `hash` | the hash that members compare |
//! | `revision`, `versions`, `key`, `blocks`, `index` | the key index |
//! | `history` | the read port |
//! | `layout`, `record`, `small`, `read` | bytes in the engine |

pub mod alarm;
mod apply;
pub mod auth;
mod blocks;
mod by_hand;
pub mod check;
pub mod cluster;
pub mod command;
mod compaction;
mod cost;
mod event_log;
mod events;
mod hash;
pub mod history;
mod index;
mod interests;
mod key;
pub mod layout;
pub mod lease;
mod load;
pub mod queue;
mod range;
mod read;
mod record;
mod revision;
mod small;
mod state;
#[cfg(test)]
pub(crate) mod tests;
mod txn;
mod versions;
mod watching;

use bytes::Bytes;

pub use apply::Applied;
pub use events::{EventsRead, read_events};
pub use hash::{HashPlan, KvHash};
pub use history::{History, HistoryError};
pub use interests::Interests;
pub use load::{LoadError, Reason};
pub use range::{RangePlan, next_part_pairs};
pub use record::Damage;
pub use revision::Revision;
pub use state::{Changes, State};
pub use watching::{EmptyRange, WatchOptions, WatchedKeys};

/// One key at one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: Bytes,
    /// Revision of the write that created the key.
    pub create_revision: i64,
    /// Revision of the last write to the key.
    pub mod_revision: i64,
    /// Writes since the key was created; 0 for a tombstone.
    pub version: i64,
    /// The value.
    pub value: Bytes,
    /// Lease that the key hangs on, or 0.
    pub lease: i64,
}

/// One change, as watchers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// The pair after it; for a deletion only key and mod revision, as in etcd.
    pub kv: KeyValue,
}

/// What happened to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// It was written.
    Put,
    /// It was deleted.
    Delete,
}
