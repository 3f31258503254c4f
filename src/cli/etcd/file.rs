//! etcd's configuration file: YAML (or JSON) with the flags' names as keys, some of them in sections. Pure.

use serde_json::Value;

use super::flags::{self, Kind};
use super::parse::{By, ParseError, Values};

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileError {
    /// It is no YAML.
    #[error("{0}")]
    Form(String),
    /// A value is wrong.
    #[error(transparent)]
    Value(#[from] ParseError),
}

/// Sections, with the flag of each of their keys.
const SECTIONS: &[(&str, &[(&str, &str)])] = &[
    (
        "client-transport-security",
        &[
            ("cert-file", "cert-file"),
            ("key-file", "key-file"),
            ("client-cert-file", "client-cert-file"),
            ("client-key-file", "client-key-file"),
            ("client-cert-auth", "client-cert-auth"),
            ("trusted-ca-file", "trusted-ca-file"),
            ("auto-tls", "auto-tls"),
            ("allowed-hostname", "client-cert-allowed-hostname"),
        ],
    ),
    (
        "peer-transport-security",
        &[
            ("cert-file", "peer-cert-file"),
            ("key-file", "peer-key-file"),
            ("client-cert-file", "peer-client-cert-file"),
            ("client-key-file", "peer-client-key-file"),
            ("client-cert-auth", "peer-client-cert-auth"),
            ("trusted-ca-file", "peer-trusted-ca-file"),
            ("auto-tls", "peer-auto-tls"),
            ("allowed-cn", "peer-cert-allowed-cn"),
            ("allowed-hostname", "peer-cert-allowed-hostname"),
            ("skip-client-san-verification", "peer-skip-client-san-verification"),
        ],
    ),
    ("socket-options", &[("reuse-port", "socket-reuse-port"), ("reuse-address", "socket-reuse-address")]),
    (
        "discovery-config",
        &[("discovery-endpoints", "discovery-endpoints"), ("discovery-token", "discovery-token")],
    ),
];

/// The values in a file, and the keys that mean nothing: etcd passes over those, and so it is enough to name them.
pub(super) fn read(text: &str) -> Result<(Values, Vec<String>), FileError> {
    let document: Value = serde_saphyr::from_str(text).map_err(|error| FileError::Form(error.to_string()))?;
    let table = match document {
        Value::Object(table) => table,
        Value::Null => serde_json::Map::new(),
        _ => return Err(FileError::Form("it is no list of keys and values".into())),
    };
    let (mut values, mut unknown) = (Values::default(), Vec::new());
    for (key, value) in &table {
        let section = SECTIONS.iter().find(|(name, _)| name == key);
        match (section, value) {
            (Some((_, keys)), Value::Object(section)) => {
                for (inner, value) in section {
                    let path = format!("{key}.{inner}");
                    match keys.iter().find(|(name, _)| name == inner) {
                        Some((_, flag)) => set(&mut values, flag, value, &path)?,
                        None => unknown.push(path),
                    }
                }
            }
            (Some(_), Value::Null) => {}
            (Some(_), _) => return Err(FileError::Form(format!("invalid {key}"))),
            (None, _)
                if flags::find(key).is_some_and(|flag| !["version", "config-file"].contains(&flag.name)) =>
            {
                set(&mut values, key, value, key)?;
            }
            (None, _) => unknown.push(key.clone()),
        }
    }
    Ok((values, unknown))
}

fn set(values: &mut Values, name: &str, value: &Value, path: &str) -> Result<(), FileError> {
    let Some(flag) = flags::find(name) else { return Ok(()) };
    let text = match value {
        // As if it were not there.
        Value::Null => return Ok(()),
        Value::Bool(truth) => truth.to_string(),
        // Times are nanoseconds.
        Value::Number(number) if flag.kind == Kind::Duration => format!("{number}ns"),
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            let texts: Option<Vec<&str>> = items.iter().map(Value::as_str).collect();
            let texts = texts.ok_or_else(|| FileError::Form(format!("{path}: not a list of texts")))?;
            texts.join(",")
        }
        Value::Object(_) => return Err(FileError::Form(format!("{path}: a section is not expected here"))),
    };
    // What is empty is not set, as in etcd.
    if text.is_empty() {
        return Ok(());
    }
    Ok(values.set(flag, &text, By::File(path.to_owned()))?)
}
