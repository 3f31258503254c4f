//! A gRPC status as an [`Error`]: what failed, and whether a write may have happened after all.
//!
//! The rule for writes is etcd's own client's, from the side of safety: a write counts as not executed only if it never
//! left this process, or the server refused it with a code or text that says so. Everything else is of unknown outcome.

use std::error::Error as _;

use tonic::{Code, ConnectError, Status, TimeoutExpired};

use crate::error::Error;
use crate::transport::tls;

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

/// etcd's text for what an alarm refuses when it is applied. Its code is that of a loss of data.
const CORRUPT: &str = "etcdserver: corrupt cluster";

/// The error that a failed call means.
pub(super) fn from_status(status: &Status, kind: Kind, endpoint: &str) -> Error {
    if has_cause::<TimeoutExpired>(status) {
        return timed_out(kind);
    }
    let sent = !has_cause::<ConnectError>(status) && !was_given_back(status) && !is_shut_out(status);
    let code = if sent { status.code() } else { Code::Unavailable };
    let text = match status.message() {
        "" => format!("the member answered {code:?}"),
        message if sent => message.to_owned(),
        _ => format!("{endpoint}: {}", last_cause(status)),
    };
    let refused = is_refusal(code) || text == CORRUPT;
    let outcome_unknown = kind == Kind::Write && sent && !refused && !says_nothing_proposed(&text);
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

fn causes(status: &Status) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    std::iter::successors(status.source(), |&error| error.source())
}

/// Whether an error of this type is among the causes. A [`ConnectError`] says that the request never left this process.
fn has_cause<E: std::error::Error + 'static>(status: &Status) -> bool {
    causes(status).any(<dyn std::error::Error>::is::<E>)
}

/// A request that no server has looked at, because its connection was being closed, as by a server that stops. It waited for the
/// connection: hyper calls only such requests canceled. Or it was sent after the last one that the server says it looks at (RFC 9113,
/// section 6.8): only such requests fail with the server's farewell itself.
fn was_given_back(status: &Status) -> bool {
    let unsent = |error: &hyper::Error| error.is_canceled();
    let farewell = |error: &h2::Error| {
        error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR)
    };
    causes(status)
        .any(|error| error.downcast_ref().is_some_and(unsent) || error.downcast_ref().is_some_and(farewell))
}

/// The server has closed the connection for the certificate that it was shown, before it looked at anything.
fn is_shut_out(status: &Status) -> bool {
    causes(status).any(|error| tls::says_certificate_is_refused(&error.to_string()))
}

/// A connection error's own text is "tcp connect error"; what a person needs is at the end of the chain.
fn last_cause(status: &Status) -> String {
    causes(status).last().map_or_else(|| status.message().to_owned(), ToString::to_string)
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
        from_status(&Status::new(code, text), kind, "a:1").is_outcome_unknown()
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
            (Code::DataLoss, "etcdserver: corrupt cluster", false),
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

    #[tokio::test]
    async fn a_write_that_waited_for_a_connection_which_was_closed_was_not_executed() {
        use http_body_util::Empty;
        use hyper_util::rt::{TokioExecutor, TokioIo};
        let (near, far) = tokio::io::duplex(1 << 10);
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(near));
        let (mut requests, connection) = handshake.await.unwrap();
        let waiting = requests.send_request(http::Request::new(Empty::<bytes::Bytes>::new()));
        drop((connection, far));
        let status = Status::from_error(Box::new(waiting.await.unwrap_err()));
        assert_eq!(status.code(), Code::Cancelled);
        let error = from_status(&status, Kind::Write, "a:1");
        assert!(!error.is_outcome_unknown(), "{error}");
        assert!(super::super::retry::is_safe(&error, Kind::Write), "{error}");
    }

    #[tokio::test]
    async fn a_write_that_came_after_the_servers_farewell_was_not_executed_and_one_before_it_may_have_been() {
        use http_body_util::Empty;
        use hyper_util::rt::{TokioExecutor, TokioIo};
        for looked_at in [false, true] {
            let (near, far) = tokio::io::duplex(1 << 10);
            let (handshake, server) = tokio::join!(
                hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(near)),
                h2::server::handshake(far)
            );
            let ((mut requests, connection), mut server) = (handshake.unwrap(), server.unwrap());
            tokio::spawn(connection);
            let request = http::Request::get("http://a/").body(Empty::<bytes::Bytes>::new()).unwrap();
            let waiting = tokio::spawn(requests.send_request(request));
            if looked_at {
                let _request = server.accept().await.unwrap().unwrap();
                drop(server);
            } else {
                server.abrupt_shutdown(h2::Reason::NO_ERROR);
                while server.accept().await.is_some() {}
            }
            let status = Status::from_error(Box::new(waiting.await.unwrap().unwrap_err()));
            let error = from_status(&status, Kind::Write, "a:1");
            assert_eq!(error.is_outcome_unknown(), looked_at, "{error}");
        }
    }

    #[test]
    fn a_deadline_that_passed_here_is_no_answer_of_the_server() {
        let expired = || Status::from_error(Box::new(TimeoutExpired(())));
        assert_eq!(from_status(&expired(), Kind::Read, "a:1"), Error::TimedOut);
        assert!(from_status(&expired(), Kind::Write, "a:1").is_outcome_unknown());
    }

    #[test]
    fn a_request_that_never_left_was_not_executed_and_says_why() {
        let io = std::io::Error::new(std::io::ErrorKind::ConnectionRefused, "nobody listens");
        let status = Status::from_error(Box::new(ConnectError(Box::new(io))));
        let error = from_status(&status, Kind::Write, "a:1");
        assert!(!error.is_outcome_unknown());
        assert_eq!(error.to_string(), "a:1: nobody listens (code 14)");
    }
}
