//! What a request's headers tell the method: as grpc-gateway, `authorization` and what begins with `Grpc-Metadata-`; `token`,
//! etcd's own name for it, too. And how long the caller waits.

use std::time::Duration;

use http::{HeaderMap, HeaderName};
use tonic::Code;

use crate::transport::Failure;

/// What a header's name begins with if it is meant for the method.
const PREFIX: &str = "grpc-metadata-";
/// How long the caller waits, as gRPC writes it.
const TIMEOUT: &str = "grpc-timeout";

/// The metadata of the call.
pub(super) fn of(headers: &HeaderMap) -> HeaderMap {
    let mut metadata = HeaderMap::new();
    for (name, value) in headers {
        let passed = match name.as_str() {
            "authorization" | "token" => Some(name.clone()),
            name => name
                .strip_prefix(PREFIX)
                .filter(|rest| !is_grpcs_own(rest))
                .and_then(|rest| HeaderName::try_from(rest).ok()),
        };
        if let Some(passed) = passed.filter(|_| value.to_str().is_ok()) {
            metadata.append(passed, value.clone());
        }
    }
    metadata
}

/// Whether a header means something to gRPC itself: nobody sets it for us.
fn is_grpcs_own(name: &str) -> bool {
    name.starts_with("grpc-") || matches!(name, "content-type" | "te")
}

/// How long the caller waits; `None`: it does not say.
pub(super) fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, Failure> {
    let Some(value) = headers.get(TIMEOUT) else { return Ok(None) };
    let wrong = || {
        let shown = String::from_utf8_lossy(value.as_bytes()).chars().take(32).collect::<String>();
        Failure::new(Code::InvalidArgument, format!("invalid grpc-timeout: {shown}"))
    };
    let text = value.to_str().map_err(|_| wrong())?;
    let (at, unit) = text.char_indices().next_back().ok_or_else(wrong)?;
    // No more digits than gRPC takes.
    let number =
        text.get(..at).filter(|digits| digits.len() <= 8 && digits.bytes().all(|c| c.is_ascii_digit()));
    let number: u64 = number.and_then(|digits| digits.parse().ok()).ok_or_else(wrong)?;
    match unit {
        'H' => Ok(Some(Duration::from_secs(number * 3_600))),
        'M' => Ok(Some(Duration::from_secs(number * 60))),
        'S' => Ok(Some(Duration::from_secs(number))),
        'm' => Ok(Some(Duration::from_millis(number))),
        'u' => Ok(Some(Duration::from_micros(number))),
        'n' => Ok(Some(Duration::from_nanos(number))),
        _ => Err(wrong()),
    }
}

/// What a call is told that took longer. The text is Go's.
pub(super) fn too_late() -> Failure {
    Failure::new(Code::DeadlineExceeded, "context deadline exceeded")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

    use http::HeaderValue;

    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn what_is_meant_for_the_method_is_passed_on_and_nothing_else() {
        let given = headers(&[
            ("authorization", "Bearer x"),
            ("token", "y"),
            ("grpc-metadata-hasleader", "true"),
            ("grpc-metadata-content-type", "text/html"),
            ("grpc-metadata-grpc-encoding", "gzip"),
            ("grpc-metadata-", "empty"),
            ("cookie", "z"),
            ("host", "h"),
        ]);
        let expected = headers(&[("authorization", "Bearer x"), ("token", "y"), ("hasleader", "true")]);
        assert_eq!(of(&given), expected);
    }

    #[test]
    fn timeouts_are_read() {
        let read = |text: &'static str| timeout(&headers(&[("grpc-timeout", text)]));
        assert_eq!(timeout(&HeaderMap::new()).unwrap(), None);
        for (text, expected) in [
            ("1H", Duration::from_hours(1)),
            ("2M", Duration::from_mins(2)),
            ("3S", Duration::from_secs(3)),
            ("4m", Duration::from_millis(4)),
            ("5u", Duration::from_micros(5)),
            ("99999999n", Duration::from_nanos(99_999_999)),
        ] {
            assert_eq!(read(text).unwrap(), Some(expected), "{text}");
        }
        for text in ["", "S", "1", "-1S", "1s", "1.5S", "+1S", "999999999S"] {
            assert_eq!(read(text).unwrap_err().code, Code::InvalidArgument, "{text}");
        }
    }
}
