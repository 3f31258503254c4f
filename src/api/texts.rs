//! etcd's error texts and status codes: the one table.
//!
//! Clients match texts literally (the Go client's `rpctypes`, Patroni, kube-apiserver), so none is made elsewhere. The
//! source is etcd's `api/v3rpc/rpctypes/error.go`.
//!
//! A write of unknown outcome gets "request timed out": it is what etcd says then, clients do not try it again by
//! themselves, and it claims nothing about whether the write happened.

use tonic::Code;

use crate::error::Error;
use crate::mvcc::check::Invalid;
use crate::mvcc::command::Refusal;
use crate::transport::Failure;

/// One status that etcd answers with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Text {
    /// The status code.
    pub code: Code,
    /// The status message.
    pub text: &'static str,
}

impl From<Text> for Failure {
    fn from(text: Text) -> Self {
        Self::new(text.code, text.text)
    }
}

macro_rules! texts {
    ($($(#[$doc:meta])* $name:ident = $code:ident $text:literal;)*) => {
        $($(#[$doc])* pub const $name: Text = Text { code: Code::$code, text: concat!("etcdserver: ", $text) };)*
        /// The whole table.
        pub const ALL: &[Text] = &[$($name),*];
    };
}

texts! {
    /// No key in a request, an operation or a compare.
    EMPTY_KEY = InvalidArgument "key is not provided";
    /// `ignore_value` or `ignore_lease` on a key that is not there; also an operation without content.
    KEY_NOT_FOUND = InvalidArgument "key not found";
    /// `ignore_value` together with a value.
    VALUE_PROVIDED = InvalidArgument "value is provided";
    /// `ignore_lease` together with a lease.
    LEASE_PROVIDED = InvalidArgument "lease is provided";
    /// More than [`crate::limits::TXN_OPERATIONS`].
    TOO_MANY_OPERATIONS = InvalidArgument "too many operations in txn request";
    /// A key is put twice, or put and deleted.
    DUPLICATE_KEY = InvalidArgument "duplicate key given in txn request";
    /// A sort order or target that does not exist.
    INVALID_SORT_OPTION = InvalidArgument "invalid sort option";
    /// More than [`crate::limits::REQUEST_BYTES`].
    REQUEST_TOO_LARGE = InvalidArgument "request is too large";
    /// A compare whose target or result does not exist. etcd executes it as something else; we do not guess.
    INVALID_COMPARE = InvalidArgument "invalid compare in txn request";
    /// The revision was compacted.
    COMPACTED = OutOfRange "mvcc: required revision has been compacted";
    /// The revision is not there yet.
    FUTURE_REVISION = OutOfRange "mvcc: required revision is a future revision";
    /// No space is left, or the quota is used up.
    NO_SPACE = ResourceExhausted "mvcc: database space exceeded";
    /// Too much waits already.
    TOO_MANY_REQUESTS = ResourceExhausted "too many requests";
    /// The lease is not there.
    LEASE_NOT_FOUND = NotFound "requested lease not found";
    /// The lease is there already.
    LEASE_EXISTS = FailedPrecondition "lease already exists";
    /// More than [`crate::mvcc::lease::MAX_TTL`].
    LEASE_TTL_TOO_LARGE = OutOfRange "too large lease TTL";
    /// The member is not there.
    MEMBER_NOT_FOUND = NotFound "member not found";
    /// It votes already.
    MEMBER_NOT_LEARNER = FailedPrecondition "can only promote a learner member";
    /// It does not answer, or lacks too much.
    LEARNER_NOT_READY = FailedPrecondition "can only promote a learner member which is in sync with leader";
    /// What would be left could not commit anything.
    NOT_ENOUGH_STARTED = FailedPrecondition "re-configuration failed due to not enough started members";
    /// No peer URL, or one that is none.
    MEMBER_BAD_URLS = InvalidArgument "given member URLs are invalid";
    /// A peer URL is another member's.
    PEER_URL_EXISTS = FailedPrecondition "Peer URLs already exists";
    /// There are as many learners as there may be.
    TOO_MANY_LEARNERS = FailedPrecondition "too many learner members in cluster";
    /// Too few members answer for a change of the membership.
    UNHEALTHY = Unavailable "unhealthy cluster";
    /// A learner serves little.
    LEARNER_NOT_SUPPORTED = FailedPrecondition "rpc not supported for learner";
    /// Only the leader does this.
    NOT_LEADER = FailedPrecondition "not leader";
    /// It cannot lead: it is no voter.
    BAD_TRANSFEREE = FailedPrecondition "bad leader transferee";
    /// Nobody took over in time.
    TRANSFER_TIMED_OUT = Unavailable "request timed out, leader transfer took too long";
    /// No leader is known.
    NO_LEADER = Unavailable "no leader";
    /// The leader changed meanwhile.
    LEADER_CHANGED = Unavailable "leader changed";
    /// This member is leaving, or cannot serve any more.
    STOPPED = Unavailable "server stopped";
    /// The deadline passed. Of a write: it may have happened.
    TIMED_OUT = Unavailable "request timed out";
    /// A version to downgrade to that is none.
    WRONG_DOWNGRADE_FORMAT = InvalidArgument "wrong downgrade target version format";
    /// A version that this one cannot be downgraded to.
    INVALID_DOWNGRADE_TARGET = InvalidArgument "invalid downgrade target version";
    /// An action that does not exist.
    UNKNOWN_METHOD = Unknown "unknown method";
    /// There is no user `root`.
    ROOT_USER_MISSING = FailedPrecondition "root user does not exist";
    /// The user `root` does not have the role `root`.
    ROOT_ROLE_MISSING = FailedPrecondition "root user does not have root role";
    /// The user is there already.
    USER_EXISTS = FailedPrecondition "user name already exists";
    /// No user, or one without a name.
    USER_EMPTY = InvalidArgument "user name is empty";
    /// There is no such user.
    USER_NOT_FOUND = FailedPrecondition "user name not found";
    /// The role is there already.
    ROLE_EXISTS = FailedPrecondition "role name already exists";
    /// There is no such role.
    ROLE_NOT_FOUND = FailedPrecondition "role name not found";
    /// A role without a name.
    ROLE_EMPTY = InvalidArgument "role name is empty";
    /// No such user with such a password.
    AUTH_FAILED = InvalidArgument "authentication failed, invalid user ID or password";
    /// A grant of nothing.
    PERMISSION_NOT_GIVEN = InvalidArgument "permission not given";
    /// The user may not.
    PERMISSION_DENIED = PermissionDenied "permission denied";
    /// The user does not have the role.
    ROLE_NOT_GRANTED = FailedPrecondition "role is not granted to the user";
    /// The role does not have exactly this permission.
    PERMISSION_NOT_GRANTED = FailedPrecondition "permission is not granted to the role";
    /// Authentication is not enabled.
    AUTH_NOT_ENABLED = FailedPrecondition "authentication is not enabled";
    /// The token is none, or not any more.
    INVALID_AUTH_TOKEN = Unauthenticated "invalid auth token";
    /// It would take away what authentication needs.
    INVALID_AUTH_MANAGEMENT = InvalidArgument "invalid auth management";
    /// Users have changed since the token was made.
    AUTH_OLD_REVISION = InvalidArgument "revision of auth store is old";
    /// The members' states differ.
    CORRUPT = DataLoss "corrupt cluster";
}

/// Why a watcher was not made: its range holds no key. A reason in a response, not a status, so it has no prefix.
pub const WATCH_EMPTY_RANGE: &str = "mvcc: watcher range is empty";
/// Why a watcher was not made: its stream has one with this id.
pub const WATCH_DUPLICATE_ID: &str = "mvcc: duplicate watch ID provided on the WatchStream";

/// Where there is no leader of an election.
pub const ELECTION_NO_LEADER: Text = Text { code: Code::Unknown, text: "election: no leader" };
/// The key is not, or no longer, that of a candidate.
pub const ELECTION_NOT_LEADER: Text = Text { code: Code::Unknown, text: "election: not leader" };
/// A request that needs to say who leads does not.
pub const ELECTION_LEADER_MISSING: Text =
    Text { code: Code::Unknown, text: "\"leader\" field must be provided" };
/// The key of one that waited is gone: its lease has ended, or somebody deleted it. etcd notices it for locks only, and when it is its turn.
pub const LOCK_SESSION_EXPIRED: Text = Text { code: Code::Unknown, text: "mutex: session is expired" };
/// What is not read in parts.
pub const RANGE_STREAM_SORTED: &str = "RangeStream does not support custom sort orders";
/// What is not read in parts.
pub const RANGE_STREAM_FILTERED: &str = "RangeStream does not support revision filters";
/// Why a watcher was not made, or has ended: as a status prints itself in Go.
pub const WATCH_PERMISSION_DENIED: &str =
    "rpc error: code = PermissionDenied desc = etcdserver: permission denied";
/// As [`WATCH_PERMISSION_DENIED`]: the token is none.
pub const WATCH_INVALID_AUTH_TOKEN: &str =
    "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token";
/// As [`WATCH_PERMISSION_DENIED`]: users have changed since the token was made.
pub const WATCH_AUTH_OLD_REVISION: &str =
    "rpc error: code = InvalidArgument desc = etcdserver: revision of auth store is old";
/// As [`WATCH_PERMISSION_DENIED`]: nobody watches.
pub const WATCH_USER_EMPTY: &str = "rpc error: code = InvalidArgument desc = etcdserver: user name is empty";

/// Why a watcher may not watch, from what a request would be told.
pub fn watch_denied(failure: &Failure) -> &'static str {
    match failure.text.as_ref() {
        text if text == INVALID_AUTH_TOKEN.text => WATCH_INVALID_AUTH_TOKEN,
        text if text == AUTH_OLD_REVISION.text => WATCH_AUTH_OLD_REVISION,
        text if text == USER_EMPTY.text => WATCH_USER_EMPTY,
        _ => WATCH_PERMISSION_DENIED,
    }
}

/// What a request that is refused for its form is told.
pub fn invalid(invalid: Invalid) -> Failure {
    match invalid {
        Invalid::EmptyKey => EMPTY_KEY,
        Invalid::ValueProvided => VALUE_PROVIDED,
        Invalid::LeaseProvided => LEASE_PROVIDED,
        Invalid::TooManyOperations => TOO_MANY_OPERATIONS,
        Invalid::DuplicateKey => DUPLICATE_KEY,
        Invalid::EmptyOperation => KEY_NOT_FOUND,
        Invalid::SortOption => INVALID_SORT_OPTION,
    }
    .into()
}

/// What a request is told that the state machine refused. Nothing happened.
pub fn refusal(refusal: Refusal) -> Failure {
    match refusal {
        Refusal::KeyNotFound => KEY_NOT_FOUND,
        Refusal::LeaseNotFound => LEASE_NOT_FOUND,
        Refusal::Compacted => COMPACTED,
        Refusal::FutureRevision => FUTURE_REVISION,
        Refusal::LeaseExists => LEASE_EXISTS,
        Refusal::LeaseTtlTooLarge => LEASE_TTL_TOO_LARGE,
        // What etcd says when there is no room for a lease; of users it has no bound.
        Refusal::TooManyLeases | Refusal::TooManyUsers | Refusal::NoSpace => NO_SPACE,
        Refusal::Corrupt => CORRUPT,
        Refusal::TooManyAlarms => TOO_MANY_REQUESTS,
        Refusal::UserEmpty => USER_EMPTY,
        Refusal::AuthRevisionOld => AUTH_OLD_REVISION,
        Refusal::PermissionDenied => PERMISSION_DENIED,
        Refusal::UserNotFound => USER_NOT_FOUND,
        Refusal::UserExists => USER_EXISTS,
        Refusal::RoleEmpty => ROLE_EMPTY,
        Refusal::RoleNotFound => ROLE_NOT_FOUND,
        Refusal::RoleExists => ROLE_EXISTS,
        Refusal::RoleNotGranted => ROLE_NOT_GRANTED,
        Refusal::PermissionNotGranted => PERMISSION_NOT_GRANTED,
        Refusal::RootUserMissing => ROOT_USER_MISSING,
        Refusal::RootRoleMissing => ROOT_ROLE_MISSING,
        Refusal::InvalidAuthManagement => INVALID_AUTH_MANAGEMENT,
        Refusal::AuthDisabled => AUTH_NOT_ENABLED,
        Refusal::AuthFailed => AUTH_FAILED,
        // This member stops serving; another one will answer.
        Refusal::Unreadable => STOPPED,
    }
    .into()
}

/// What a request that failed is told.
pub fn failure(error: &Error) -> Failure {
    match error {
        Error::Refused(refused) => refusal(*refused),
        Error::Invalid(what) => Failure::new(Code::InvalidArgument, format!("etcdserver: {what}")),
        Error::NoLeader | Error::NotServing(_) => NO_LEADER.into(),
        Error::TooManyRequests => TOO_MANY_REQUESTS.into(),
        Error::TimedOut | Error::OutcomeUnknown(_) => TIMED_OUT.into(),
        Error::Stopped | Error::Storage(_) | Error::Start(_) | Error::Disk(_) | Error::Locked(_) => {
            STOPPED.into()
        }
        Error::Remote { code, text, .. } => Failure::new(Code::from(*code), text.clone()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

    use super::*;

    #[test]
    fn every_text_is_there_once() {
        let mut texts: Vec<_> = ALL.iter().map(|text| text.text).collect();
        texts.sort_unstable();
        texts.dedup();
        assert_eq!(texts.len(), ALL.len());
        assert!(ALL.iter().all(|text| text.text.starts_with("etcdserver: ")));
    }

    #[test]
    fn a_write_that_may_have_happened_is_never_called_undone() {
        let unknown = failure(&Error::OutcomeUnknown("the leader changed".into()));
        assert_eq!(unknown, Failure::new(Code::Unavailable, "etcdserver: request timed out"));
        // These say that nothing was proposed; an unknown outcome must share no text with them.
        for error in
            [Error::NoLeader, Error::NotServing("joining".into()), Error::TooManyRequests, Error::Stopped]
        {
            assert_ne!(failure(&error).text, unknown.text, "{error}");
        }
    }

    #[test]
    fn what_the_state_machine_says_becomes_what_etcd_says() {
        let text = |r: Refusal| failure(&Error::Refused(r));
        assert_eq!(
            text(Refusal::Compacted),
            Failure::new(Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted")
        );
        assert_eq!(text(Refusal::KeyNotFound).code, Code::InvalidArgument);
        assert_eq!(text(Refusal::LeaseNotFound).code, Code::NotFound);
        assert_eq!(
            failure(&Error::TooManyRequests),
            Failure::new(Code::ResourceExhausted, "etcdserver: too many requests")
        );
        let remote = Error::Remote { code: 9, text: "etcdserver: not leader".into(), outcome_unknown: false };
        assert_eq!(failure(&remote), Failure::new(Code::FailedPrecondition, "etcdserver: not leader"));
    }
}
