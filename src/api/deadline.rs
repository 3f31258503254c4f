//! How long a client waits for its answer, as it says in the header `grpc-timeout`. Only calls that may wait for ever look at it: all
//! others end within [`crate::limits::REQUEST_TIMEOUT`].

use std::future::Future;
use std::time::Duration;

use http::HeaderMap;
use tonic::Code;

use crate::transport::Failure;

/// The time that a client gives, if it says so in a way that gRPC knows: at most eight digits, and a unit.
pub(super) fn given(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3_600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

/// `call`, for no longer than `limit`; the text is Go's.
pub(super) async fn within<T>(
    limit: Option<Duration>,
    call: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let Some(limit) = limit else { return call.await };
    let late = Failure::new(Code::DeadlineExceeded, "context deadline exceeded");
    tokio::time::timeout(limit, call).await.unwrap_or(Err(late))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn of(text: &str) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-timeout", text.parse().unwrap());
        given(&headers)
    }

    #[test]
    fn only_what_grpc_knows_is_a_time() {
        for (text, expected) in [
            ("5S", Some(Duration::from_secs(5))),
            ("100m", Some(Duration::from_millis(100))),
            ("7u", Some(Duration::from_micros(7))),
            ("7n", Some(Duration::from_nanos(7))),
            ("2M", Some(Duration::from_mins(2))),
            ("99999999H", Some(Duration::from_hours(99_999_999))),
            ("123456789S", None),
            ("S", None),
            ("", None),
            ("5", None),
            ("-5S", None),
            ("+5S", None),
            ("5s", None),
            ("5 S", None),
        ] {
            assert_eq!(of(text), expected, "{text}");
        }
        assert_eq!(given(&HeaderMap::new()), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_ends_with_its_time() {
        let for_ever = std::future::pending::<Result<(), Failure>>();
        let failure = within(Some(Duration::from_secs(3)), for_ever).await.unwrap_err();
        assert_eq!(failure, Failure::new(Code::DeadlineExceeded, "context deadline exceeded"));
        assert_eq!(within(None, async { Ok(1) }).await, Ok(1));
    }
}
