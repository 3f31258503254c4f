//! What an endpoint's text means: `host:port`, with or without `http://`.

use std::fmt;
use std::str::FromStr;

use http::Uri;

/// Where a member serves clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    uri: Uri,
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
    /// As `http://host:port`.
    pub fn uri(&self) -> &Uri {
        &self.uri
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
        let rest = match text.split_once("://") {
            Some(("http", rest)) => rest,
            Some(("https", _)) => return Err(fail("TLS is not supported yet; use http")),
            Some(_) => return Err(fail("the scheme is not http")),
            None => text,
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let uri: Uri = format!("http://{rest}/").parse().map_err(|_| fail("is not host:port"))?;
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
            Some(_) => Ok(Self { uri }),
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
    fn what_is_wrong_is_named() {
        for (text, reason) in [
            ("", "names nothing"),
            (" , ", "names nothing"),
            ("a", "has no port from 1 to 65535"),
            ("a:0", "has no port from 1 to 65535"),
            ("a:99999", "has no port from 1 to 65535"),
            (":2379", "has no host"),
            ("https://a:1", "TLS is not supported yet; use http"),
            ("ftp://a:1", "the scheme is not http"),
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
