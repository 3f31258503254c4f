//! The replicated store as `api`, `client` and `membership` see it.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;

use super::access::AccessState;
use super::backup::Backup;
use super::lease::LeaseQuestion;
use crate::error::Error;
use crate::identity::{ClusterId, NodeId};
use crate::mvcc::State;
use crate::mvcc::alarm::Alarm;
use crate::mvcc::auth::Identity;
use crate::mvcc::command::{Lifetime, Range, RangeResult, Reply, Request, Txn, TxnResult};

/// Where a member stands. Every answer's header is made from it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The cluster; 0 before the first bootstrap.
    pub cluster: ClusterId,
    /// This member; 0 before the first bootstrap.
    pub member: NodeId,
    /// The leader, if one was heard from, or acknowledged by a quorum, within an election time-out.
    pub leader: Option<NodeId>,
    /// The term.
    pub term: u64,
    /// Index of the last entry in the log.
    pub last_index: u64,
    /// Index of the last entry known to be committed.
    pub committed_index: u64,
    /// Index of the last entry applied.
    pub applied_index: u64,
    /// Revision of the store.
    pub revision: i64,
    /// Revision up to which history was compacted.
    pub compacted: i64,
    /// Leases that are granted.
    pub leases: usize,
    /// Keys that hang on leases.
    pub lease_keys: usize,
    /// This member does not vote.
    pub is_learner: bool,
    /// It does not, because it was added as a learner, and is to serve only what etcd's learners do.
    pub is_held_back: bool,
    /// Why this member does not serve, if it does not.
    pub failure: Option<String>,
}

/// One member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberInfo {
    /// Its id.
    pub id: NodeId,
    /// Its pod.
    pub name: String,
    /// Its peer service, as a URL.
    pub peer_urls: Vec<String>,
    /// Where clients reach it.
    pub client_urls: Vec<String>,
    /// It does not vote.
    pub is_learner: bool,
}

/// Something that a member decided or found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventInfo {
    /// Rises by one.
    pub number: u64,
    /// When, by the clock of whoever tells it: milliseconds since 1970-01-01 UTC.
    pub at_millis: u64,
    /// The pod that tells it.
    pub source: String,
    /// What happened.
    pub text: String,
}

/// Hash of the store at a revision; equal on all members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreHash {
    /// The hash.
    pub hash: u32,
    /// Revision up to which history was compacted.
    pub compact_revision: i64,
    /// Revision that was hashed.
    pub hash_revision: i64,
}

/// Bytes on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskUse {
    /// Of the state engine.
    pub state: u64,
    /// Of the state engine, what the history takes.
    pub state_in_use: u64,
    /// Keys that are there; no bytes.
    pub keys: u64,
    /// Of the log.
    pub log: u64,
    /// Of the snapshots.
    pub snapshots: u64,
}

/// The replicated store. Every call ends within [`crate::limits::REQUEST_TIMEOUT`], unless it says otherwise.
pub trait Store: Send + Sync + 'static {
    /// Puts a request through the log, wherever the leader is, and returns what the state machine made of it, together
    /// with the term in which it was applied. Errors: any of [`Error`] but `Invalid`, `Start` and `Remote`.
    fn propose(&self, request: Request) -> BoxFuture<'_, Result<(Reply, u64), Error>>;
    /// Grants a lease to somebody. An id of 0 is replaced by one that is drawn here, a time to live in seconds that is too short by the least that
    /// a leader can keep. Errors: as [`Store::propose`].
    fn grant(&self, by: Identity, id: i64, ttl: i64) -> BoxFuture<'_, Result<(Reply, u64), Error>>;
    /// What the leader knows of a lease, after it has made sure that it still leads. When it is asked without renewing, this member has
    /// applied by then what the leader had.
    fn lifetime(&self, question: LeaseQuestion) -> BoxFuture<'_, Result<Lifetime, Error>>;
    /// The leases in the local state, by id.
    fn leases(&self) -> Vec<i64>;
    /// The keys that hang on a lease in the local state, in order.
    fn lease_keys(&self, id: i64) -> Vec<Bytes>;
    /// Returns when this member has applied everything that was acknowledged before the call (read index).
    fn barrier(&self) -> BoxFuture<'_, Result<(), Error>>;
    /// Reads the local state; also returns the revision of the store at which it was read.
    fn range(&self, range: Range) -> BoxFuture<'_, Result<(RangeResult, i64), Error>>;
    /// Reads the first pairs of a range from the local state, in the order of keys: at most its limit, and none after the one that fills
    /// `bytes` bytes. What it leaves out is not counted. Also returns the revision of the store.
    fn range_part(&self, range: Range, bytes: usize) -> BoxFuture<'_, Result<(RangeResult, i64), Error>>;
    /// Runs a transaction on the local state, without the log, if it only reads; also returns the revision at which it was
    /// read. `None` if it must be proposed: it holds anything but ranges, also in the branch that would not run.
    fn read_txn(&self, txn: Txn) -> BoxFuture<'_, Result<Option<(TxnResult, i64)>, Error>>;
    /// Hashes the local state at a revision; 0: the newest.
    fn hash(&self, revision: i64) -> BoxFuture<'_, Result<StoreHash, Error>>;
    /// Checksum of all that the local state holds, however it is recorded, and the revision that it is of. Members need not have the same.
    fn hash_all(&self) -> BoxFuture<'_, Result<(u32, i64), Error>>;
    /// The alarms in the local state.
    fn alarms(&self) -> Vec<Alarm>;
    /// Rewrites what this member's state engine has on disk without what is dead. Takes as long as it takes; reads and writes go on.
    fn defragment(&self) -> BoxFuture<'_, Result<(), Error>>;
    /// A snapshot of the local state as it is now, for a client. [`Error::TooManyRequests`] if [`crate::limits::SNAPSHOT_CLIENTS`] are
    /// being fetched; [`crate::mvcc::command::Refusal::NoSpace`] if there is no room for it on this member's volume.
    fn backup(&self) -> BoxFuture<'_, Result<Backup, Error>>;
    /// Returns once requests are no longer refused because the member is starting.
    fn opened(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
    /// Whether calls must say who they are, and whose the tokens are; `None` before consensus runs.
    fn access(&self) -> Option<&AccessState> {
        None
    }
    /// Looks at the local applied state, once, without changes in between. It is not called before consensus runs.
    fn look(&self, look: &mut dyn FnMut(&State)) {
        let _ = look;
    }
    /// Returns when the entry of this index is applied here.
    fn applied(&self, index: u64) -> BoxFuture<'_, ()> {
        let _ = index;
        Box::pin(std::future::pending())
    }
    /// Where this member stands now.
    fn position(&self) -> Position;
    /// Whether this member was added as a learner and not promoted yet: then it serves little. Asked for every request.
    fn is_held_back(&self) -> bool {
        false
    }
    /// The members, as the local applied state knows them.
    fn members(&self) -> Vec<MemberInfo>;
    /// What the members decided lately, as the local applied state knows it; the oldest first.
    fn events(&self) -> Vec<EventInfo>;
    /// Bytes on disk.
    fn disk_use(&self) -> DiskUse;
}

/// A shared store.
pub type SharedStore = Arc<dyn Store>;
