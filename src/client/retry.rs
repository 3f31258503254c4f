//! Whether, where and when a request is sent again. Pure.
//!
//! Reads are repeated when a member is unavailable. Writes are repeated only when nothing was proposed (etcd:
//! `client/v3/retry.go`). A refusal is an answer: it is never repeated.

use std::time::Duration;

use tonic::Code;

use super::failure::{Kind, says_nothing_proposed};
use crate::error::Error;
use crate::limits::{CALLER_RETRY_MAX, CALLER_RETRY_MIN};

/// Whether the same request may be sent again, and could succeed.
pub(super) fn is_safe(error: &Error, kind: Kind) -> bool {
    match error {
        Error::Remote { outcome_unknown: true, .. } => false,
        Error::Remote { code, text, .. } => match Code::from_i32(*code) {
            Code::Unavailable => true,
            Code::ResourceExhausted => says_nothing_proposed(text),
            // A connection that broke while a read was under way comes as one of these.
            Code::Unknown | Code::Cancelled | Code::Internal => {
                kind == Kind::Read && is_broken_connection(text)
            }
            _ => false,
        },
        // One member was too slow for a read; another may not be.
        Error::TimedOut => kind == Kind::Read,
        _ => error.is_retryable(),
    }
}

/// Texts of tonic and h2 for a connection that ended under a request.
fn is_broken_connection(text: &str) -> bool {
    ["h2 protocol error", "transport error", "connection error", "stream closed", "broken pipe"]
        .iter()
        .any(|known| text.contains(known))
}

/// Whether the error says something about the endpoint, so that others are tried first for a while.
pub(super) fn blames_endpoint(error: &Error) -> bool {
    match error {
        Error::Remote { code, .. } => {
            matches!(
                Code::from_i32(*code),
                Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal | Code::DeadlineExceeded
            )
        }
        Error::TimedOut | Error::OutcomeUnknown(_) => true,
        _ => false,
    }
}

/// Time to wait before attempt number `attempt` (the first repetition is 1): none before every endpoint was tried once,
/// then doubling, with `random` spreading it over the upper half.
pub(super) fn pause(attempt: u32, endpoints: usize, random: u64) -> Duration {
    let Some(round) = (attempt as usize).checked_sub(endpoints) else { return Duration::ZERO };
    let full = CALLER_RETRY_MIN.saturating_mul(1 << round.min(16)).min(CALLER_RETRY_MAX);
    let half = full / 2;
    half + half.mul_f64((random % 1_000) as f64 / 1_000.0)
}

/// The endpoint to ask: the first from `start` on, in a circle, that is not blamed; `start`'s if all are. `blamed` has
/// one item per endpoint and is not empty.
pub(super) fn choose(start: usize, blamed: &[bool]) -> usize {
    let count = blamed.len().max(1);
    (0..count)
        .map(|step| (start + step) % count)
        .find(|index| blamed.get(*index) == Some(&false))
        .unwrap_or(start % count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote(code: Code, text: &str, outcome_unknown: bool) -> Error {
        Error::Remote { code: code as i32, text: text.into(), outcome_unknown }
    }

    #[test]
    fn only_what_is_safe_is_repeated() {
        use Kind::{Read, Write};
        for (error, kind, expected) in [
            (remote(Code::Unavailable, "etcdserver: leader changed", false), Read, true),
            (remote(Code::Unavailable, "etcdserver: leader changed", true), Write, false),
            (remote(Code::Unavailable, "etcdserver: no leader", false), Write, true),
            (remote(Code::ResourceExhausted, "etcdserver: too many requests", false), Write, true),
            (
                remote(Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded", false),
                Write,
                false,
            ),
            (remote(Code::Unknown, "transport error", false), Read, true),
            (remote(Code::Unknown, "panic", false), Read, false),
            (remote(Code::Unknown, "transport error", false), Write, false),
            (remote(Code::InvalidArgument, "x", false), Read, false),
            (remote(Code::DeadlineExceeded, "x", false), Read, false),
            (Error::TimedOut, Read, true),
            (Error::OutcomeUnknown("x".into()), Write, false),
            (Error::Invalid("x".into()), Read, false),
            (Error::NoLeader, Write, true),
            (Error::Storage("x".into()), Write, false),
        ] {
            assert_eq!(is_safe(&error, kind), expected, "{error:?} {kind:?}");
        }
    }

    #[test]
    fn every_endpoint_is_tried_before_anyone_waits() {
        assert_eq!(pause(1, 3, 7), Duration::ZERO);
        assert_eq!(pause(2, 3, 7), Duration::ZERO);
        assert!(pause(3, 3, 0) >= CALLER_RETRY_MIN / 2);
        assert!(pause(1, 1, 0) > Duration::ZERO);
        for attempt in 1..200 {
            for random in [0, 999, u64::MAX] {
                assert!(pause(attempt, 1, random) <= CALLER_RETRY_MAX);
            }
        }
    }

    #[test]
    fn blamed_endpoints_come_last() {
        assert_eq!(choose(1, &[false, false, false]), 1);
        assert_eq!(choose(1, &[false, true, false]), 2);
        assert_eq!(choose(2, &[false, true, true]), 0);
        assert_eq!(choose(2, &[true, true, true]), 2);
        assert_eq!(choose(7, &[true, false]), 1);
        assert_eq!(choose(0, &[]), 0);
    }
}
