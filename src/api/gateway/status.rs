//! Failures, as HTTP has them: the status code of grpc-gateway, and the code and the text as JSON.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderValue, Response, StatusCode};
use serde_json::{Map, Value};
use tonic::Code;

use crate::transport::{AnswerBody, Failure};

/// Of all answers of the gateway.
pub(super) const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// What a failure is wrapped in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// In nothing: a call that has one answer.
    Bare,
    /// `{"error":…}` and a line's end: a call that streams.
    Line,
}

/// The status code of HTTP.
pub(super) fn http_status(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        // A number that only proxies have a name for.
        Code::Cancelled => StatusCode::from_u16(499).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The failure as JSON.
pub(super) fn text(failure: &Failure, form: Form) -> Bytes {
    let mut status = Map::new();
    status.insert("code".into(), Value::from(failure.code as i32));
    // What is empty is left out, as in every message.
    if !failure.text.is_empty() {
        status.insert("message".into(), Value::from(failure.text.as_ref()));
    }
    let status = Value::Object(status);
    match form {
        Form::Bare => status.to_string().into(),
        Form::Line => format!("{{\"error\":{status}}}\n").into(),
    }
}

/// The whole answer of a call that failed before it had answered anything.
pub(super) fn response(failure: &Failure, form: Form) -> Response<AnswerBody> {
    let mut response = Response::new(AnswerBody::Plain(text(failure, form)));
    *response.status_mut() = http_status(failure.code);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, JSON);
    if failure.code == Code::Unauthenticated
        && form == Form::Bare
        && let Ok(text) = HeaderValue::from_str(&failure.text)
    {
        headers.insert(WWW_AUTHENTICATE, text);
    }
    response
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

    use super::*;

    #[test]
    fn every_code_has_the_status_of_grpc_gateway() {
        let statuses: Vec<u16> = (0..=16).map(|code| http_status(Code::from(code)).as_u16()).collect();
        assert_eq!(
            statuses,
            [200, 499, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401]
        );
    }

    #[test]
    fn failures_are_json() {
        let failure = Failure::new(Code::Unknown, "\"leader\" field\nmust be provided");
        let bare: Value = serde_json::from_slice(&text(&failure, Form::Bare)).unwrap();
        assert_eq!(bare, serde_json::json!({"code": 2, "message": "\"leader\" field\nmust be provided"}));
        let line = text(&failure, Form::Line);
        assert_eq!(std::str::from_utf8(&line).unwrap().matches('\n').count(), 1);
        let line: Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(line, serde_json::json!({ "error": bare }));
        assert_eq!(text(&Failure::new(Code::NotFound, ""), Form::Bare), r#"{"code":5}"#);
    }

    #[test]
    fn who_is_not_known_is_told_to_authenticate() {
        let failure = Failure::new(Code::Unauthenticated, "etcdserver: invalid auth token");
        let response = response(&failure, Form::Bare);
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(response.headers()[WWW_AUTHENTICATE], "etcdserver: invalid auth token");
    }
}
