//! What the log holds and what comes back: commands, replies, refusals. Values only.
//!
//! `api` makes commands, `raft` carries them through the log, [`super::State`] applies them. Nothing here checks
//! limits; `api` does that before it proposes, and `State` refuses what only the state can know.

use bytes::Bytes;

use super::KeyValue;
use super::auth::{AuthCommand, By, Identity};
use super::lease::LeaseCommand;
use crate::identity::NodeId;

/// One client's command, with who sent it. Permission is checked again when it is applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Name of the user that sent it; empty while authentication is off, and of what members do by themselves.
    pub user: String,
    /// Revision of the auth store that the sender's token was made at; 0 while authentication is off.
    pub auth_revision: u64,
    /// What to do.
    pub command: Command,
}

impl Request {
    /// A request of nobody in particular, as all are while authentication is off. While it is on, only what members do by themselves is
    /// taken from nobody.
    pub fn anonymous(command: Command) -> Self {
        Self { user: String::new(), auth_revision: 0, command }
    }

    /// A request of somebody.
    pub fn of(identity: Identity, command: Command) -> Self {
        Self { user: identity.user, auth_revision: identity.revision, command }
    }

    /// Who sent it.
    pub fn by(&self) -> By<'_> {
        By { user: &self.user, revision: self.auth_revision }
    }
}

/// Where in the log an entry stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogPosition {
    /// Term of the leader that made it.
    pub term: u64,
    /// Its index.
    pub index: u64,
}

/// What one request asks the state machine to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Write one key.
    Put(Put),
    /// Delete the keys of a range.
    DeleteRange(DeleteRange),
    /// Compare, then run one of two lists of operations, atomically.
    Txn(Txn),
    /// Forget versions that a newer one at or below a revision replaced.
    Compact(Compact),
    /// Grant or end leases.
    Lease(LeaseCommand),
    /// Change cluster state that is not a key.
    Cluster(super::cluster::ClusterCommand),
    /// Change users, roles or permissions.
    Auth(AuthCommand),
}

/// Write one key. Fields as etcd's `PutRequest`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Put {
    /// The key; never empty.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// Lease to hang the key on, or 0.
    pub lease: i64,
    /// Return the pair as it was before.
    pub prev_kv: bool,
    /// Keep the value that the key has.
    pub ignore_value: bool,
    /// Keep the lease that the key has.
    pub ignore_lease: bool,
}

/// Delete every key in `[key, range_end)`. Fields as etcd's `DeleteRangeRequest`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteRange {
    /// First key; never empty.
    pub key: Bytes,
    /// Empty: `key` alone. `"\0"`: every key from `key` on. Else the first key that is not in the range.
    pub range_end: Bytes,
    /// Return the pairs as they were before.
    pub prev_kv: bool,
}

/// Read every key in `[key, range_end)`. Fields as etcd's `RangeRequest`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// First key; never empty.
    pub key: Bytes,
    /// As in [`DeleteRange::range_end`].
    pub range_end: Bytes,
    /// Most pairs to return, after filters and sorting; 0 or less: all.
    pub limit: i64,
    /// Revision to read at; 0 or less: the newest.
    pub revision: i64,
    /// Order of the answer.
    pub sort_order: SortOrder,
    /// What the order is of.
    pub sort_target: SortTarget,
    /// Leave the values out.
    pub keys_only: bool,
    /// Return the count only.
    pub count_only: bool,
    /// Leave out pairs modified before; 0: no filter.
    pub min_mod_revision: i64,
    /// Leave out pairs modified after; 0: no filter.
    pub max_mod_revision: i64,
    /// Leave out pairs created before; 0: no filter.
    pub min_create_revision: i64,
    /// Leave out pairs created after; 0: no filter.
    pub max_create_revision: i64,
}

/// Order of a range's answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SortOrder {
    /// By key; or ascending, if the target is not the key.
    #[default]
    None,
    /// Lowest first.
    Ascend,
    /// Highest first.
    Descend,
}

/// What a range's answer is sorted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SortTarget {
    /// The key.
    #[default]
    Key,
    /// The version.
    Version,
    /// The create revision.
    Create,
    /// The mod revision.
    Mod,
    /// The value.
    Value,
}

/// Compare, then run `success` or `failure`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// All must hold for `success` to run.
    pub compares: Vec<Compare>,
    /// Run if all compares hold.
    pub success: Vec<TxnOp>,
    /// Run otherwise.
    pub failure: Vec<TxnOp>,
}

/// One operation of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TxnOp {
    /// Read.
    Range(Range),
    /// Write.
    Put(Put),
    /// Delete.
    DeleteRange(DeleteRange),
    /// A transaction inside.
    Txn(Txn),
}

/// One condition on every key in `[key, range_end)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    /// First key; never empty.
    pub key: Bytes,
    /// As in [`DeleteRange::range_end`].
    pub range_end: Bytes,
    /// How the key's field must stand to the operand.
    pub result: CompareResult,
    /// Which field, and what it is compared with.
    pub operand: Operand,
}

/// How a field must stand to its operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompareResult {
    /// Equal.
    Equal,
    /// Greater.
    Greater,
    /// Less.
    Less,
    /// Not equal.
    NotEqual,
}

/// A field of a pair, and the value to compare it with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operand {
    /// The version.
    Version(i64),
    /// The create revision.
    Create(i64),
    /// The mod revision.
    Mod(i64),
    /// The value.
    Value(Bytes),
    /// The lease.
    Lease(i64),
}

/// Forget versions that a newer one at or below `revision` replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compact {
    /// The newest revision that may lose its past; it can still be read.
    pub revision: i64,
    /// The caller wants to hear of it only when the disk has forgotten too.
    pub physical: bool,
}

/// The answer to one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Revision of the store after it.
    pub revision: i64,
    /// What happened.
    pub outcome: Outcome,
}

/// What a command did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Of [`Put`]: the pair as it was before, if asked for.
    Put(Option<KeyValue>),
    /// Of [`DeleteRange`].
    DeleteRange(Deleted),
    /// Of [`Range`], inside a transaction.
    Range(RangeResult),
    /// Of [`Txn`].
    Txn(TxnResult),
    /// Of [`Compact`].
    Compact,
    /// Of a grant.
    Granted {
        /// The lease.
        id: i64,
        /// Its time to live, in seconds.
        ttl: i64,
    },
    /// Of a lease command that answers nothing.
    Lease,
    /// Of a question about a lease, which the leader answers from its memory and not through the log.
    Lifetime(Lifetime),
    /// Of a cluster command that answers nothing.
    Cluster,
    /// Of an alarm that was raised or lowered: that one; of one that could not be lowered, because it was not there: none.
    Alarms(Vec<super::alarm::Alarm>),
    /// Of an admission: the disk's id; none if another disk of its ordinal was admitted by the same entry.
    Admitted(Option<NodeId>),
    /// Of a command about users that answers nothing.
    Auth,
    /// Of an authentication.
    Authenticated {
        /// The token; empty where tokens are made otherwise.
        token: String,
        /// The auth revision at which it was made.
        revision: u64,
    },
}

/// How much time a lease has, as its leader knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// Whole seconds that are left; -1: there is no such lease.
    pub ttl: i64,
    /// Its time to live, in seconds; 0: there is no such lease.
    pub granted: i64,
}

impl Lifetime {
    /// Of a lease that is not there.
    pub const UNKNOWN: Self = Self { ttl: -1, granted: 0 };
}

/// What a delete did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deleted {
    /// Keys deleted.
    pub deleted: i64,
    /// The pairs as they were, if asked for.
    pub previous: Vec<KeyValue>,
    /// Revision that the answer's header has: in a transaction, after the delete, not after all of it.
    pub revision: i64,
}

/// What a range found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeResult {
    /// The pairs, sorted, filtered and limited.
    pub kvs: Vec<KeyValue>,
    /// The limit left some out.
    pub more: bool,
    /// Keys in the range, whatever limit and filters left out.
    pub count: i64,
    /// Revision that the answer's header has: that of the store when it was read, not the one that was asked for.
    pub revision: i64,
}

/// What a transaction did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxnResult {
    /// All compares held.
    pub succeeded: bool,
    /// Revision after the transaction; puts in it report it in their headers.
    pub revision: i64,
    /// One per operation that ran.
    pub outcomes: Vec<Outcome>,
}

/// Why the state machine did not do what it was asked. Nothing changed. The numbers travel between members.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[repr(u32)]
pub enum Refusal {
    /// `ignore_value` or `ignore_lease` on a key that is not there.
    #[error("key not found")]
    KeyNotFound = 1,
    /// The lease to hang a key on is not there.
    #[error("requested lease not found")]
    LeaseNotFound = 2,
    /// The revision was compacted.
    #[error("required revision has been compacted")]
    Compacted = 3,
    /// The revision is not there yet.
    #[error("required revision is a future revision")]
    FutureRevision = 4,
    /// The engine could not be read; the member that says so stops serving.
    #[error("the state could not be read")]
    Unreadable = 5,
    /// There is a lease of this id.
    #[error("lease already exists")]
    LeaseExists = 6,
    /// A time to live above [`super::lease::MAX_TTL`].
    #[error("too large lease TTL")]
    LeaseTtlTooLarge = 7,
    /// [`crate::limits::LEASES`] are granted already.
    #[error("too many leases")]
    TooManyLeases = 8,
    /// An alarm says that no space is left.
    #[error("database space exceeded")]
    NoSpace = 20,
    /// An alarm says that the members' states differ.
    #[error("corrupt cluster")]
    Corrupt = 21,
    /// [`crate::limits::ALARMS`] are raised already.
    #[error("too many alarms")]
    TooManyAlarms = 22,
    /// No user, or one without a name.
    #[error("user name is empty")]
    UserEmpty = 101,
    /// Users, roles or permissions have changed since the user was known.
    #[error("revision of auth store is old")]
    AuthRevisionOld = 102,
    /// The user may not.
    #[error("permission denied")]
    PermissionDenied = 103,
    /// There is no such user.
    #[error("user name not found")]
    UserNotFound = 104,
    /// There is such a user.
    #[error("user name already exists")]
    UserExists = 105,
    /// A role without a name.
    #[error("role name is empty")]
    RoleEmpty = 106,
    /// There is no such role.
    #[error("role name not found")]
    RoleNotFound = 107,
    /// There is such a role.
    #[error("role name already exists")]
    RoleExists = 108,
    /// The user does not have the role.
    #[error("role is not granted to the user")]
    RoleNotGranted = 109,
    /// The role does not have exactly this permission.
    #[error("permission is not granted to the role")]
    PermissionNotGranted = 110,
    /// There is no user `root`, so nobody could administer.
    #[error("root user does not exist")]
    RootUserMissing = 111,
    /// The user `root` does not have the role `root`.
    #[error("root user does not have root role")]
    RootRoleMissing = 112,
    /// It would take away what authentication needs, or the range holds no key.
    #[error("invalid auth management")]
    InvalidAuthManagement = 113,
    /// Authentication is not enabled.
    #[error("authentication is not enabled")]
    AuthDisabled = 114,
    /// There is no such user with such a password.
    #[error("authentication failed, invalid user ID or password")]
    AuthFailed = 115,
    /// There are as many users, roles or permissions as there may be, or a name is too long.
    #[error("too many users, roles or permissions, or a name is too long")]
    TooManyUsers = 117,
}

impl Refusal {
    /// The refusal with this number, if a version that we know made it.
    pub fn from_number(number: u32) -> Option<Self> {
        [
            Self::KeyNotFound,
            Self::LeaseNotFound,
            Self::Compacted,
            Self::FutureRevision,
            Self::Unreadable,
            Self::LeaseExists,
            Self::LeaseTtlTooLarge,
            Self::TooManyLeases,
            Self::AuthDisabled,
            Self::AuthFailed,
            Self::AuthRevisionOld,
            Self::Corrupt,
            Self::InvalidAuthManagement,
            Self::NoSpace,
            Self::PermissionDenied,
            Self::PermissionNotGranted,
            Self::RoleEmpty,
            Self::RoleExists,
            Self::RoleNotFound,
            Self::RoleNotGranted,
            Self::RootRoleMissing,
            Self::RootUserMissing,
            Self::TooManyAlarms,
            Self::TooManyUsers,
            Self::UserEmpty,
            Self::UserExists,
            Self::UserNotFound,
        ]
        .into_iter()
        .find(|refusal| *refusal as u32 == number)
    }
}
