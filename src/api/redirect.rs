//! Paths that lead to others on the client port, as etcd's do because Go's mux is before them: one with `//`, `/./` or `/../` to the same
//! without, and `/v3` to `/v3/`.

use std::fmt::Write as _;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, LOCATION};
use http::{HeaderValue, Method, Request, Response, StatusCode};

use crate::transport::AnswerBody;

/// What the answer to a browser is.
const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");

/// The answer to a request whose path leads elsewhere; `None`: it does not.
pub(super) fn answer<B>(request: &Request<B>) -> Option<Response<AnswerBody>> {
    if request.method() == Method::CONNECT {
        return None;
    }
    let mut location = leads_to(request.uri().path())?;
    if let Some(query) = request.uri().query() {
        // Writing into a String cannot fail.
        let _ = write!(location, "?{query}");
    }
    let mut response = Response::new(AnswerBody::Plain(Bytes::new()));
    *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        response.headers_mut().insert(CONTENT_TYPE, HTML);
    }
    if request.method() == Method::GET {
        let text = format!("<a href=\"{}\">Temporary Redirect</a>.\n\n", escaped(&location));
        *response.body_mut() = AnswerBody::Plain(text.into());
    }
    response.headers_mut().insert(LOCATION, HeaderValue::try_from(location).ok()?);
    Some(response)
}

/// The path that one leads to.
fn leads_to(path: &str) -> Option<String> {
    // What etcd takes for the same comes first there, too.
    let path = match path.strip_prefix("/v3beta/") {
        Some(rest) => format!("/v3/{rest}"),
        None => path.to_owned(),
    };
    if path == "/v3" {
        return Some("/v3/".into());
    }
    let clean = clean(&path);
    (clean != path).then_some(clean)
}

/// The shortest path that names the same, with a `/` at its end if it had one.
fn clean(path: &str) -> String {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    let end = if path.ends_with('/') && !parts.is_empty() { "/" } else { "" };
    format!("/{}{end}", parts.join("/"))
}

/// As HTML wants it between quotes, in Go's words.
fn escaped(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut escaped, c| {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&#34;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
        escaped
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

    use super::*;

    #[test]
    fn paths_lead_where_they_lead_in_etcd() {
        for (path, to) in [
            ("/v3", "/v3/"),
            ("//v3//kv/range", "/v3/kv/range"),
            ("/v3beta//kv/range", "/v3/kv/range"),
            ("/v3/kv/./range", "/v3/kv/range"),
            ("/x/../v3/kv/range/", "/v3/kv/range/"),
            ("/../..", "/"),
            ("//", "/"),
            ("//evil.example/v3", "/evil.example/v3"),
            ("", "/"),
        ] {
            assert_eq!(leads_to(path).as_deref(), Some(to), "{path}");
        }
        for path in [
            "/",
            "/v3/",
            "/v3/kv/range",
            "/v3/kv/range/",
            "/v3beta/kv/range",
            "/v3beta",
            "/health",
            "/a.b/..c",
        ] {
            assert_eq!(leads_to(path), None, "{path}");
        }
    }

    #[test]
    fn browsers_are_told_in_html_that_does_nothing_else() {
        let asked = |method, uri: &str| {
            let request = Request::builder().method(method).uri(uri).body(()).unwrap();
            answer(&request).unwrap()
        };
        let got = asked(Method::GET, "/v3?a=b&c='");
        assert_eq!(
            (got.status().as_u16(), &got.headers()[LOCATION]),
            (307, &HeaderValue::from_static("/v3/?a=b&c='"))
        );
        let AnswerBody::Plain(text) = got.body() else { panic!("{got:?}") };
        assert_eq!(text, "<a href=\"/v3/?a=b&amp;c=&#39;\">Temporary Redirect</a>.\n\n");
        let posted = asked(Method::POST, "/v3//watch");
        assert!(posted.headers().get(CONTENT_TYPE).is_none());
        assert!(matches!(posted.body(), AnswerBody::Plain(text) if text.is_empty()));
        let request = Request::builder().method(Method::CONNECT).uri("a.example:1").body(()).unwrap();
        assert!(answer(&request).is_none());
    }
}
