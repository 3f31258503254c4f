//! What an endpoint's text means: `host:port`, with or without `http://` or `https://`.

use std::fmt;
use std::str::FromStr;

use http::Uri;

/// Where a member serves clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    uri: Uri,
    scheme: Scheme,
}

/// What a text says of how to connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    /// Nothing.
    Unsaid,
    /// Plainly.
    Http,
    /// Over TLS.
    Https,
}

/// Why a text is no endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("endpoint {text:?}: {reason}")]
pub struct EndpointError {
    /// The text.
    pub text: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl Endpoint {
    /// As `http://host:port` or `https://host:port`.
    pub fn uri(&self) -> &Uri {
        &self.uri
    }

    /// As [`Endpoint::uri`], for a client that has TLS or not: it is used where the text does not say, as etcd's clients do.
    pub(crate) fn for_client(&self, has_tls: bool) -> (Uri, bool) {
        let is_secure = self.scheme == Scheme::Https || self.scheme == Scheme::Unsaid && has_tls;
        let scheme = if is_secure { http::uri::Scheme::HTTPS } else { http::uri::Scheme::HTTP };
        let mut parts = self.uri.clone().into_parts();
        parts.scheme = Some(scheme);
        (Uri::from_parts(parts).unwrap_or_else(|_| self.uri.clone()), is_secure)
    }

    /// Host and port, separated by a colon.
    pub fn authority(&self) -> &str {
        self.uri.authority().map_or("", http::uri::Authority::as_str)
    }

    /// Reads a list, separated by commas. Errors: the list is empty, or one of its items is no endpoint.
    pub fn list(text: &str) -> Result<Vec<Self>, EndpointError> {
        let list: Vec<Self> = text
            .split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty())
            .map(str::parse)
            .collect::<Result<_, _>>()?;
        if list.is_empty() {
            return Err(EndpointError { text: text.into(), reason: "names nothing" });
        }
        Ok(list)
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let fail = |reason| EndpointError { text: text.into(), reason };
        let (scheme, rest) = match text.split_once("://") {
            Some(("http", rest)) => (Scheme::Http, rest),
            Some(("https", rest)) => (Scheme::Https, rest),
            Some(_) => return Err(fail("the scheme is neither http nor https")),
            None => (Scheme::Unsaid, text),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let begin = if scheme == Scheme::Https { "https" } else { "http" };
        let uri: Uri = format!("{begin}://{rest}/").parse().map_err(|_| fail("is not host:port"))?;
        if uri.path() != "/" || uri.query().is_some() {
            return Err(fail("has a path; host:port is all there may be"));
        }
        match uri.authority() {
            None => Err(fail("has no host")),
            Some(authority) if authority.as_str().contains('@') => {
                Err(fail("has a user; host:port is all there may be"))
            }
            Some(authority) if authority.host().is_empty() => Err(fail("has no host")),
            Some(authority) if authority.port_u16().unwrap_or(0) == 0 => {
                Err(fail("has no port from 1 to 65535"))
            }
            Some(_) => Ok(Self { uri, scheme }),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.authority())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn host_and_port_with_or_without_scheme() {
        for text in ["a:1", "http://a:1", "http://a:1/", " a:1, ", "[::1]:1", "10.0.0.1:2379"] {
            let list = Endpoint::list(text).unwrap();
            assert_eq!(list.len(), 1, "{text}");
            assert!(list.first().unwrap().authority().ends_with(char::is_numeric), "{text}");
        }
        assert_eq!(Endpoint::list("a:1,b:2").unwrap().len(), 2);
        assert_eq!(Endpoint::list("http://a:1/").unwrap().first().unwrap().to_string(), "a:1");
    }

    #[test]
    fn tls_is_used_where_the_text_says_so_or_nothing() {
        for (text, has_tls, uri, is_secure) in [
            ("a:1", false, "http://a:1/", false),
            ("a:1", true, "https://a:1/", true),
            ("http://a:1", true, "http://a:1/", false),
            ("https://a:1", false, "https://a:1/", true),
        ] {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!(endpoint.for_client(has_tls), (uri.parse().unwrap(), is_secure), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, reason) in [
            ("", "names nothing"),
            (" , ", "names nothing"),
            ("a", "has no port from 1 to 65535"),
            ("a:0", "has no port from 1 to 65535"),
            ("a:99999", "has no port from 1 to 65535"),
            (":2379", "has no host"),
            ("https://a", "has no port from 1 to 65535"),
            ("ftp://a:1", "the scheme is neither http nor https"),
            ("a:1/v3", "has a path; host:port is all there may be"),
            ("a:1?x", "has a path; host:port is all there may be"),
            ("u@a:1", "has a user; host:port is all there may be"),
            ("a b:1", "is not host:port"),
        ] {
            assert_eq!(Endpoint::list(text).unwrap_err().reason, reason, "{text:?}");
        }
        assert_eq!(
            Endpoint::list("a:1,b").unwrap_err().to_string(),
            "endpoint \"b\": has no port from 1 to 65535"
        );
    }
}
