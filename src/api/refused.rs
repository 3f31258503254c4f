//! What counts as refused, and why: for the metrics, and for whoever asks too often.

use http::{Request, Response, StatusCode};
use tonic::Code;

use super::{Shared, http as plain_http, texts};
use crate::metrics::RefusedRequest;
use crate::transport::{AnswerBody, Failure, grpc};

/// Counts a failure that is a refusal. `is_unread`: the connection has as many unread answers as it may have.
pub(super) fn count(api: &Shared, failure: &Failure, is_unread: bool) {
    if let Some(reason) = reason(failure, is_unread) {
        api.metrics.refused(reason);
    }
}

/// Why a call was refused; `None` if it failed for another reason.
fn reason(failure: &Failure, is_unread: bool) -> Option<RefusedRequest> {
    let text = failure.text.as_ref();
    match failure.code {
        Code::PermissionDenied => Some(RefusedRequest::Permission),
        Code::Unauthenticated => Some(RefusedRequest::Unauthenticated),
        Code::InvalidArgument
            if [texts::AUTH_FAILED.text, texts::USER_EMPTY.text, texts::AUTH_OLD_REVISION.text]
                .contains(&text) =>
        {
            Some(RefusedRequest::Unauthenticated)
        }
        Code::InvalidArgument if text == texts::REQUEST_TOO_LARGE.text => Some(RefusedRequest::TooLarge),
        Code::ResourceExhausted if text.starts_with(grpc::TOO_LARGE) => Some(RefusedRequest::TooLarge),
        Code::ResourceExhausted if text == texts::TOO_MANY_REQUESTS.text => {
            Some(if is_unread { RefusedRequest::Unread } else { RefusedRequest::Busy })
        }
        _ => None,
    }
}

/// What a client is told whose address asks too often.
pub(super) fn too_often<B>(request: &Request<B>) -> Response<AnswerBody> {
    if grpc::is_grpc(request) {
        grpc::failure(&texts::TOO_MANY_REQUESTS.into())
    } else {
        plain_http::error(StatusCode::TOO_MANY_REQUESTS, texts::TOO_MANY_REQUESTS.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_told_from_other_failures() {
        let large = Failure::new(Code::ResourceExhausted, format!("{} (3 vs. 2)", grpc::TOO_LARGE));
        for (failure, expected) in [
            (texts::PERMISSION_DENIED.into(), Some(RefusedRequest::Permission)),
            (texts::INVALID_AUTH_TOKEN.into(), Some(RefusedRequest::Unauthenticated)),
            (texts::AUTH_FAILED.into(), Some(RefusedRequest::Unauthenticated)),
            (texts::USER_EMPTY.into(), Some(RefusedRequest::Unauthenticated)),
            (texts::AUTH_OLD_REVISION.into(), Some(RefusedRequest::Unauthenticated)),
            (texts::REQUEST_TOO_LARGE.into(), Some(RefusedRequest::TooLarge)),
            (large, Some(RefusedRequest::TooLarge)),
            (texts::TOO_MANY_REQUESTS.into(), Some(RefusedRequest::Busy)),
            // The store's own limits are no refusals of a client.
            (texts::NO_SPACE.into(), None),
            (texts::EMPTY_KEY.into(), None),
            (texts::NO_LEADER.into(), None),
        ] {
            assert_eq!(reason(&failure, false), expected, "{failure}");
        }
        assert_eq!(reason(&texts::TOO_MANY_REQUESTS.into(), true), Some(RefusedRequest::Unread));
    }
}
