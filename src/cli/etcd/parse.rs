//! From words and variables to the values that are set. Pure: Go's rules for words, etcd's for variables.

use std::collections::BTreeMap;

use super::flags::{self, FLAGS, Flag, Kind};
use super::values;

/// Which flags are set, where, and to what; all valid of their kind.
#[derive(Clone, Debug, Default)]
pub(super) struct Values(BTreeMap<&'static str, Set>);

#[derive(Clone, Debug)]
struct Set {
    text: String,
    by: By,
}

/// What set a flag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum By {
    /// A word of the command, with the spelling that was used.
    Flag(String),
    /// A variable.
    Variable(String),
    /// A key of the configuration file.
    File(String),
}

impl std::fmt::Display for By {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Flag(name) => write!(f, "flag -{name}"),
            Self::Variable(name) => f.write_str(name),
            Self::File(key) => write!(f, "the key {key} of the configuration file"),
        }
    }
}

/// Words or variables that are wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ParseError {
    /// A flag that does not exist.
    #[error("flag provided but not defined: -{0}")]
    Unknown(String),
    /// A word that is no flag.
    #[error("{0:?} is not a valid flag")]
    NoFlag(String),
    /// A flag that looks like none.
    #[error("bad flag syntax: {0}")]
    Syntax(String),
    /// A flag without its value.
    #[error("flag needs an argument: -{0}")]
    Lacks(String),
    /// A value that cannot be read.
    #[error("invalid value {value:?} for {by}: {reason}")]
    Value {
        /// The value.
        value: String,
        /// What set it.
        by: By,
        /// What is wrong with it.
        reason: String,
    },
    /// A variable that a flag overrides: etcd does not start then, and so no script relies on either.
    #[error(
        "conflicting environment variable {0:?} is shadowed by corresponding command-line flag (either unset environment variable or \
         disable flag)"
    )]
    Shadowed(String),
}

/// What the words of a command ask for.
#[derive(Clone, Debug)]
pub(super) enum Asked {
    /// A member with these values.
    Serve(Values),
    /// The version.
    Version,
    /// The list of flags.
    Help,
}

impl Values {
    /// Sets a flag; a later value replaces an earlier one.
    pub fn set(&mut self, flag: &'static Flag, value: &str, by: By) -> Result<(), ParseError> {
        let value = if flag.kind == Kind::Duration && value.is_empty() { flag.default } else { value };
        values::check(flag.kind, value).map_err(|reason| ParseError::Value {
            value: value.to_owned(),
            by: by.clone(),
            reason,
        })?;
        self.0.insert(flag.name, Set { text: value.to_owned(), by });
        Ok(())
    }

    /// Whether a flag is set.
    pub fn is_set(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// The value of a flag, set or not. The name must be in the table.
    pub fn text(&self, name: &str) -> &str {
        match self.0.get(name) {
            Some(set) => &set.text,
            None => flags::find(name).map_or("", |flag| flag.default),
        }
    }

    /// What is set, with what set it, in the order of names.
    pub fn all(&self) -> impl Iterator<Item = (&'static Flag, &str, &By)> {
        self.0.iter().filter_map(|(name, set)| Some((flags::find(name)?, set.text.as_str(), &set.by)))
    }
}

/// Reads the words of a command.
pub(super) fn words(words: &[String]) -> Result<Asked, ParseError> {
    let mut values = Values::default();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let Some(name) = word.strip_prefix('-').filter(|name| !name.is_empty()) else {
            return Err(ParseError::NoFlag(word.clone()));
        };
        let name = name.strip_prefix('-').unwrap_or(name);
        if name.is_empty() {
            // Two hyphens end the flags, and nothing may follow them.
            return match words.next() {
                Some(word) => Err(ParseError::NoFlag(word.clone())),
                None => Ok(Asked::Serve(values)),
            };
        }
        if name.starts_with(['-', '=']) {
            return Err(ParseError::Syntax(word.clone()));
        }
        let (name, value) = match name.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (name, None),
        };
        if name == "help" || name == "h" {
            return Ok(Asked::Help);
        }
        let flag = flags::find(name).ok_or_else(|| ParseError::Unknown(name.to_owned()))?;
        let value = match (value, flag.kind) {
            (Some(value), _) => value,
            (None, Kind::Bool) => "true".into(),
            (None, _) => words.next().cloned().ok_or_else(|| ParseError::Lacks(name.to_owned()))?,
        };
        values.set(flag, &value, By::Flag(name.to_owned()))?;
    }
    if values.text("version") == "true" {
        return Ok(Asked::Version);
    }
    Ok(Asked::Serve(values))
}

/// Adds what variables say. An empty variable is one that is not set, and one whose flag is set is refused, as by etcd.
pub(super) fn variables(
    mut values: Values,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<Values, ParseError> {
    for flag in FLAGS.iter().filter(|flag| flag.name != "version" && flag.name != "config-file") {
        for name in flags::names(flag) {
            let name = flags::variable(&name);
            let Some(value) = lookup(&name) else { continue };
            if matches!(values.0.get(flag.name), Some(Set { by: By::Flag(_), .. })) {
                return Err(ParseError::Shadowed(name));
            }
            if !value.is_empty() {
                values.set(flag, &value, By::Variable(name))?;
            }
        }
    }
    Ok(values)
}

/// Variables that look like settings and are none, for a warning.
pub(super) fn unrecognized(names: impl Iterator<Item = String>) -> Vec<String> {
    let known = |name: &str| {
        FLAGS.iter().any(|flag| flags::names(flag).iter().any(|spelling| flags::variable(spelling) == name))
    };
    names.filter(|name| name.starts_with("ETCD_") && !known(name)).collect()
}
