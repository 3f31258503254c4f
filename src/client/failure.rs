//! A gRPC status as an [`Error`]: what failed, and whether a write may have happened after all.
//!
//! The rule for writes is etcd's own client's, from the side of safety: a write counts as not executed only if it never
//! left this process, or the server refused it with a code or text that says so. Everything else is of unknown outcome.

use std::error::Error as _;

use tonic::{Code, ConnectError, Status};

use crate::error::Error;

/// What a request does to the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing; it can be repeated.
    Read,
    /// Something; repeating it may do it twice.
    Write,
}

/// Texts that etcd gives to codes that otherwise say nothing of the outcome, where nothing was proposed. (Its text
/// "server stopped" is not among them: etcd also gives it to what was already proposed.)
const NOTHING_PROPOSED: [&str; 4] = [
    "etcdserver: no leader",
    "etcdserver: too many requests",
    "there is no address available",
    "there is no connection available",
];

/// The phrase that ends our own texts for requests that were not proposed.
const NOTHING_PROPOSED_PHRASE: &str = "nothing was proposed";

/// The error that a failed call means.
pub(super) fn from_status(status: &Status, kind: Kind) -> Error {
    let sent = !never_left(status);
    let code = if sent { status.code() } else { Code::Unavailable };
    let text = match status.message() {
        "" => format!("the member answered {code:?}"),
        message if sent => message.to_owned(),
        message => with_causes(message, status),
    };
    let outcome_unknown = kind == Kind::Write && sent && !is_refusal(code) && !says_nothing_proposed(&text);
    Error::Remote { code: code as i32, text, outcome_unknown }
}

/// The error of a call whose deadline passed here.
pub(super) fn timed_out(kind: Kind) -> Error {
    match kind {
        Kind::Read => Error::TimedOut,
        Kind::Write => Error::OutcomeUnknown("no answer came before the deadline".into()),
    }
}

/// The error of an answer that is no answer. `what` is what it lacks.
pub(super) fn malformed(what: &str, kind: Kind) -> Error {
    Error::Remote {
        code: Code::Internal as i32,
        text: format!("the answer is malformed: {what}"),
        outcome_unknown: kind == Kind::Write,
    }
}

/// Whether the request never left this process: the connection could not be made.
fn never_left(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// A connection error's own text is "tcp connect error"; what a person needs is at the end of the chain.
fn with_causes(message: &str, status: &Status) -> String {
    let mut text = message.to_owned();
    let mut cause = status.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

/// Codes with which a server says that it did not execute the request.
fn is_refusal(code: Code) -> bool {
    matches!(
        code,
        Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::Unauthenticated
            | Code::ResourceExhausted
    )
}

pub(super) fn says_nothing_proposed(text: &str) -> bool {
    NOTHING_PROPOSED.contains(&text) || text.contains(NOTHING_PROPOSED_PHRASE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unknown(code: Code, text: &str, kind: Kind) -> bool {
        from_status(&Status::new(code, text), kind).is_outcome_unknown()
    }

    #[test]
    fn a_read_is_never_of_unknown_outcome() {
        for code in 0..=16 {
            assert!(!unknown(Code::from_i32(code), "x", Kind::Read), "{code}");
        }
    }

    #[test]
    fn a_write_is_of_unknown_outcome_unless_the_server_says_that_it_is_not() {
        for (code, text, expected) in [
            (Code::Unavailable, "etcdserver: request timed out", true),
            (Code::Unavailable, "etcdserver: leader changed", true),
            (Code::Unavailable, "etcdserver: server stopped", true),
            (Code::Unavailable, "", true),
            (Code::DeadlineExceeded, "context deadline exceeded", true),
            (Code::Cancelled, "x", true),
            (Code::Unknown, "x", true),
            (Code::Internal, "x", true),
            (Code::DataLoss, "x", true),
            (Code::Aborted, "x", true),
            (Code::Unavailable, "etcdserver: no leader", false),
            (Code::Unavailable, "there is no connection available", false),
            (Code::Unavailable, "the member is stopping; nothing was proposed", false),
            (Code::ResourceExhausted, "etcdserver: too many requests", false),
            (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded", false),
            (Code::InvalidArgument, "etcdserver: key is not provided", false),
            (Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted", false),
        ] {
            assert_eq!(unknown(code, text, Kind::Write), expected, "{code:?} {text}");
        }
    }

    #[test]
    fn a_request_that_never_left_was_not_executed_and_says_why() {
        let io = std::io::Error::new(std::io::ErrorKind::ConnectionRefused, "nobody listens");
        let status = Status::from_error(Box::new(ConnectError(Box::new(io))));
        let error = from_status(&status, Kind::Write);
        assert!(!error.is_outcome_unknown());
        assert!(error.to_string().contains("nobody listens"), "{error}");
    }
}
