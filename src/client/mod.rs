//! The Rust client: one trait, two ways to a store.
//!
//! * [`Remote`] speaks etcd's v3 gRPC to a list of endpoints, so also to a real etcd. It connects when it must, spreads
//!   requests, goes to another endpoint when one fails, and sends a request again only when that is safe.
//! * [`Connection`] is one endpoint of it: no retries, for whoever wants to know about that one member.
//! * [`Embedded`] calls a store in the same process.
//!
//! Requests and results are the state machine's own values ([`crate::mvcc::command`]); nobody but this folder sees the
//! wire. Invariant: a write is sent a second time only if it is certain that nothing was proposed the first time.
//! Callers: `cli`, `playground`, embedders.
//!
//! * `endpoint`: what an endpoint's text means
//! * `connection`: one endpoint
//! * `remote`: many endpoints
//! * `retry`: whether and where to try again (pure)
//! * `failure`: a gRPC status as an [`Error`]
//! * `wire`: values to messages and back
//! * `watch`: watching keys, resumed where it was lost
//! * `embedded`, `watch_here`: the store in this process
//! * `lease`: a lease that keeps itself alive
//! * `queue`: a place in a queue of keys; `lock`, `election`: what stands on it
//! * `pages`, `pages_here`: large ranges
//! * `txn`: transactions that read like what they do
//! * `credentials`, `auth`: who calls; users, roles and permissions
//! * `kv`: the everyday calls, short
//! * `snapshot`: all of a store, to be kept elsewhere

mod auth;
mod connection;
mod credentials;
mod election;
mod embedded;
mod endpoint;
mod failure;
mod kv;
mod lease;
mod lock;
mod pages;
mod pages_here;
mod queue;
mod remote;
mod retry;
mod snapshot;
pub mod txn;
mod watch;
mod watch_here;
mod wire;

use futures::future::BoxFuture;

pub use crate::mvcc::alarm::{Alarm, AlarmKind};
pub use crate::mvcc::{EventKind, KeyValue};
pub use crate::raft::store::{EventInfo, MemberInfo, StoreHash};
pub use crate::transport::tls::{ClientTls, Connector, KeyPair, TlsError};
pub use auth::{Access, AuthStatus, Permission};
pub use connection::{Connection, Dial, KeepAlives, Options};
pub use credentials::Credentials;
pub use election::{Leaders, Leadership};
pub use embedded::Embedded;
pub use endpoint::{Endpoint, EndpointError};
pub use kv::{Kv, Short};
pub use lease::KeptLease;
pub use lock::Lock;
pub use pages::{Page, Pages};
pub use remote::Remote;
pub use snapshot::Snapshot;
pub use watch::{Watch, WatchEvent, Watched, Watcher};

use crate::error::Error;
use crate::identity::{ClusterId, NodeId};
pub use crate::mvcc::command::{
    Compact, Compare, CompareResult, DeleteRange, Deleted, Operand, Outcome, Put, Range, RangeResult,
    SortOrder, SortTarget, Txn, TxnOp, TxnResult,
};

/// A call that will be answered.
pub type Call<'a, T> = BoxFuture<'a, Result<Answer<T>, Error>>;

/// Who answered, and where the store stood.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// The cluster.
    pub cluster: ClusterId,
    /// The member that answered.
    pub member: NodeId,
    /// Revision of the store when the request was executed; 0 in answers about members.
    pub revision: i64,
    /// The member's Raft term.
    pub term: u64,
}

/// A result with its header.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer<T> {
    /// Who answered, and where the store stood.
    pub header: Header,
    /// The result.
    pub value: T,
}

/// How new an answer to a read must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// It holds every write that was acknowledged before the read began.
    #[default]
    Linearizable,
    /// What the asked member has; it may lag, and it answers without a quorum.
    Serializable,
}

/// How one member is. Fields as etcd's `StatusResponse`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Version of etcd's API that the member claims to be.
    pub version: String,
    /// Version of the storage format.
    pub storage_version: String,
    /// Bytes on disk.
    pub db_size: i64,
    /// Bytes of them that hold data.
    pub db_size_in_use: i64,
    /// The leader, if one is known.
    pub leader: Option<NodeId>,
    /// The term.
    pub term: u64,
    /// Index of the last log entry that the member knows.
    pub index: u64,
    /// Index of the last entry that it has applied.
    pub applied_index: u64,
    /// It does not vote.
    pub is_learner: bool,
    /// What is wrong with it: alarms, no leader.
    pub errors: Vec<String>,
}

/// A lease that was granted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeaseGranted {
    /// Its id.
    pub id: i64,
    /// Its time to live, in seconds.
    pub ttl: i64,
}

/// What is left of a lease. Fields as etcd's `LeaseTimeToLiveResponse`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaseLife {
    /// Whole seconds that are left; -1: there is no such lease.
    pub ttl: i64,
    /// Its time to live, in seconds; 0: there is no such lease.
    pub granted: i64,
    /// The keys that hang on it, in order, if they were asked for.
    pub keys: Vec<bytes::Bytes>,
}

/// A replicated store, wherever it is.
///
/// Errors of every method: [`Error::Refused`] only from a store in this process (a remote one says [`Error::Remote`] with
/// etcd's code and text); [`Error::is_outcome_unknown`] tells whether a write may have happened after all.
pub trait Client: Send + Sync {
    /// Reads the keys of a range.
    fn get(&self, range: Range, consistency: Consistency) -> Call<'_, RangeResult>;
    /// Writes one key; returns the pair as it was before, if asked for.
    fn put(&self, put: Put) -> Call<'_, Option<KeyValue>>;
    /// Deletes the keys of a range.
    fn delete(&self, delete: DeleteRange) -> Call<'_, Deleted>;
    /// Compares, then runs one of two lists of operations, atomically.
    fn txn(&self, txn: Txn) -> Call<'_, TxnResult>;
    /// Reads a range in pages, all of them at its revision, or at the newest if it has none. For ranges of any size: no more than a page or
    /// two is in memory at a time. Only in the order of keys, and without filters.
    fn pages(&self, range: Range) -> Pages;
    /// Watches keys, from now or from a revision on. Errors come as the last item.
    fn watch(&self, watch: Watch) -> Watcher;
    /// Forgets versions that newer ones at or below a revision replaced.
    fn compact(&self, compact: Compact) -> Call<'_, ()>;
    /// Grants a lease of `ttl` seconds, which the cluster may raise. An `id` of 0 lets the cluster choose one.
    fn grant(&self, id: i64, ttl: i64) -> Call<'_, LeaseGranted>;
    /// Ends a lease, and deletes the keys that hang on it.
    fn revoke(&self, id: i64) -> Call<'_, ()>;
    /// Begins a lease's time anew; returns the seconds that it has now, 0 if there is no such lease. See [`KeptLease`].
    fn keep_alive(&self, id: i64) -> Call<'_, i64>;
    /// How much time a lease has left, and, if asked for, the keys that hang on it.
    fn time_to_live(&self, id: i64, keys: bool) -> Call<'_, LeaseLife>;
    /// The ids of all leases.
    fn leases(&self) -> Call<'_, Vec<i64>>;
    /// How the member that answers is.
    fn status(&self) -> Call<'_, Status>;
    /// The members of the cluster.
    fn members(&self) -> Call<'_, Vec<MemberInfo>>;
    /// Sets the number of pods that there should be, where the members take it from this setting
    /// ([`crate::config::SizeFrom::Setting`]). At most [`crate::limits::PEERS`].
    fn resize(&self, size: u16) -> Call<'_, ()>;
    /// What the members decided lately, as the member that answers knows it; the oldest first.
    fn events(&self) -> Call<'_, Vec<EventInfo>>;
    /// Hashes the answering member's store at a revision; 0: the newest.
    fn hash(&self, revision: i64) -> Call<'_, StoreHash>;
    /// The alarms that are raised.
    fn alarms(&self) -> Call<'_, Vec<Alarm>>;
    /// Raises an alarm, or lowers (disarms) it; returns it, or nothing if it was to be lowered and was not there. One that a member raised
    /// because its volume is nearly full is raised again until there is room.
    fn set_alarm(&self, alarm: Alarm, raised: bool) -> Call<'_, Vec<Alarm>>;
    /// Rewrites what the member that answers has on disk without what is dead. May take long, and disturbs nobody.
    fn defragment(&self) -> Call<'_, ()>;
    /// A snapshot of the store of the member that answers, as it is now.
    fn snapshot(&self) -> Call<'_, Snapshot>;
}

/// First key after all keys that begin with `prefix`, for the `range_end` of a range that starts at `prefix`: the last
/// byte that can be raised is raised, what follows it is cut. A prefix of nothing but `0xff`, and the empty one, have no
/// such key: `"\0"` then, which means "to the end".
pub fn prefix_end(prefix: &[u8]) -> bytes::Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end.into();
        }
    }
    bytes::Bytes::from_static(b"\0")
}

#[cfg(test)]
mod tests;
