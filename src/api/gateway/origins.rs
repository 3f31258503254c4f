//! Which web pages may read answers: etcd's `--cors`.

use std::collections::BTreeSet;

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ORIGIN,
};
use http::{HeaderMap, HeaderValue};

/// Stands for every origin.
const ANY: &str = "*";

/// The origins whose pages may read answers. Empty: all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Origins(BTreeSet<String>);

impl Origins {
    /// These; `*` and an empty list stand for all.
    pub(super) fn new(origins: &[String]) -> Self {
        let listed: BTreeSet<String> = origins.iter().cloned().collect();
        Self(if listed.contains(ANY) { BTreeSet::new() } else { listed })
    }

    /// Who may read the answer to a request with these headers.
    pub(super) fn allowed(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        if self.0.is_empty() {
            return Some(HeaderValue::from_static(ANY));
        }
        let origin = headers.get(ORIGIN)?;
        origin.to_str().is_ok_and(|text| self.0.contains(text)).then(|| origin.clone())
    }
}

/// Tells a browser so, in etcd's words.
pub(super) fn allow(origin: HeaderValue, headers: &mut HeaderMap) {
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST, GET, OPTIONS, PUT, DELETE"));
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(
        ACCESS_CONTROL_ALLOW_HEADERS,
        HeaderValue::from_static("accept, content-type, authorization"),
    );
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

    use super::*;

    #[test]
    fn origins_are_allowed_as_etcd_does() {
        let from = |origin: &'static str| HeaderMap::from_iter([(ORIGIN, HeaderValue::from_static(origin))]);
        let one = Origins::new(&["https://a.example".into()]);
        let all =
            [Origins::default(), Origins::new(&[]), Origins::new(&["https://a.example".into(), "*".into()])];
        for all in all {
            assert_eq!(all.allowed(&HeaderMap::new()).unwrap(), "*");
            assert_eq!(all.allowed(&from("https://b.example")).unwrap(), "*");
        }
        assert_eq!(one.allowed(&from("https://a.example")).unwrap(), "https://a.example");
        for other in ["https://a.example.evil", "http://a.example", "null", ""] {
            assert_eq!(one.allowed(&from(other)), None, "{other}");
        }
        assert_eq!(one.allowed(&HeaderMap::new()), None);
    }
}
