//! Values as Go's flag package reads them. Pure.

use super::flags::Kind;
use crate::config::go_time;

/// What is wrong with a value of this kind, if anything.
pub(super) fn check(kind: Kind, text: &str) -> Result<(), String> {
    match kind {
        Kind::Text => Ok(()),
        Kind::Bool => truth(text).map(drop),
        Kind::Number(most) => number(text, most).map(drop),
        Kind::Integer => integer(text).map(drop),
        Kind::Duration => go_time::parse(text).map(drop),
        Kind::Urls => urls(text).map(drop),
        Kind::Choice(choices) if choices.contains(&text) => Ok(()),
        Kind::Choice(choices) => Err(format!("must be one of {}", choices.join(", "))),
    }
}

/// True or false.
pub(super) fn truth(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("parse error".into()),
    }
}

/// A number from 0 to `most`.
pub(super) fn number(text: &str, most: u64) -> Result<u64, String> {
    let number: u64 = text.parse().map_err(|_| "parse error".to_owned())?;
    if number > most { Err(format!("value out of range: {most} is the most")) } else { Ok(number) }
}

/// A number that may be negative.
pub(super) fn integer(text: &str) -> Result<i64, String> {
    text.parse().map_err(|_| "parse error".into())
}

/// A URL of a member.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Url {
    /// `http` or `https`.
    pub scheme: String,
    /// Name or address, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl Url {
    /// Whether it is one of TLS.
    pub fn is_secure(&self) -> bool {
        self.scheme == "https"
    }

    /// Host and port, as in a membership.
    pub fn place(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl std::fmt::Display for Url {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://{}", self.scheme, self.place())
    }
}

/// URLs, separated by commas, in their order and each once; none of an empty text.
pub(super) fn urls(text: &str) -> Result<Vec<Url>, String> {
    let mut urls = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let url = url(part)?;
        if !urls.contains(&url) {
            urls.push(url);
        }
    }
    Ok(urls)
}

fn url(text: &str) -> Result<Url, String> {
    let (scheme, place) = text.split_once("://").ok_or_else(|| scheme_error(text))?;
    match scheme {
        "http" | "https" => {}
        "unix" | "unixs" => return Err(format!("sockets of the file system are not served: {text}")),
        _ => return Err(scheme_error(text)),
    }
    if place.contains('/') {
        return Err(format!("URL must not contain a path: {text}"));
    }
    let form = || format!("URL address does not have the form \"host:port\": {text}");
    let (host, port) = place.rsplit_once(':').ok_or_else(form)?;
    let port = port.parse().map_err(|_| form())?;
    let host = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').ok_or_else(form)?,
        None if host.contains(':') || host.contains(' ') => return Err(form()),
        None => host,
    };
    Ok(Url { scheme: scheme.to_owned(), host: host.to_ascii_lowercase(), port })
}

fn scheme_error(text: &str) -> String {
    format!("URL scheme must be http, https, unix, or unixs: {text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_as_etcd_reads_them() {
        let read = |text| urls(text).map(|urls| urls.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(read(""), Ok(vec![]));
        assert_eq!(
            read("http://B:1,http://a:2,http://b:1"),
            Ok(vec!["http://b:1".into(), "http://a:2".into()])
        );
        assert_eq!(read("https://[::1]:2379"), Ok(vec!["https://[::1]:2379".into()]));
        for (text, words) in [
            ("127.0.0.1:2379", "scheme must be"),
            ("ftp://a:1", "scheme must be"),
            ("http://a", "host:port"),
            ("http://a:x", "host:port"),
            ("http://a:1/", "path"),
            ("unix:///run/etcd.sock", "not served"),
        ] {
            assert!(urls(text).is_err_and(|said| said.contains(words)), "{text}");
        }
    }
}
