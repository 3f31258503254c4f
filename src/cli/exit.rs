//! How a command ends: exit codes, which are part of the interface, and the failure that leads to each.

use std::fmt;
use std::io;
use std::process::ExitCode;

use crate::error::Error;

/// Exit codes. Scripts and probes rely on them: a code is never given another meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// It failed, and did not happen.
    Failed = 1,
    /// The arguments are wrong.
    Usage = 2,
    /// `get` found no key.
    NotFound = 3,
    /// A write was sent and not answered: it may have happened.
    OutcomeUnknown = 4,
    /// `serve`: the configuration is wrong.
    Config = 10,
    /// `serve`, `check`: another process uses the data directory.
    Locked = 11,
    /// `serve`, `check`: the disk is another cluster's or pod's, damaged, or of an unknown format. `snapshot status`: the file is damaged.
    Disk = 12,
}

/// The table of [`Exit`], for `--help`.
pub const HELP: &str = "\
Exit codes:
  0   done
  1   failed; it did not happen
  2   the arguments are wrong
  3   get: no such key
  4   a write was sent and not answered; it may have happened
  10  serve: the configuration is wrong
  11  serve, check: another process uses the data directory
  12  serve, check: the disk is another cluster's or pod's, damaged, or of an unknown format";

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command failed.
#[derive(Debug)]
pub struct Failure {
    /// The code to exit with.
    pub exit: Exit,
    /// For people, on standard error; nothing is said if it is empty.
    pub text: String,
}

impl Failure {
    /// A failure with this code and text.
    pub fn new(exit: Exit, text: impl Into<String>) -> Self {
        Self { exit, text: text.into() }
    }

    /// Wrong arguments that the parser could not see.
    pub fn usage(text: impl Into<String>) -> Self {
        Self::new(Exit::Usage, text)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let exit = match &error {
            _ if error.is_outcome_unknown() => Exit::OutcomeUnknown,
            Error::Invalid(_) => Exit::Usage,
            _ => Exit::Failed,
        };
        Self::new(exit, error.to_string())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        // Whoever read our output has enough of it, as `head` has.
        let text = if error.kind() == io::ErrorKind::BrokenPipe { String::new() } else { error.to_string() };
        Self::new(Exit::Failed, text)
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        if error.is_io() { io::Error::from(error).into() } else { Self::new(Exit::Failed, error.to_string()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_names_every_code() {
        for exit in [
            Exit::Ok,
            Exit::Failed,
            Exit::Usage,
            Exit::NotFound,
            Exit::OutcomeUnknown,
            Exit::Config,
            Exit::Locked,
            Exit::Disk,
        ] {
            let code = format!("  {:<4}", exit as u8);
            assert_eq!(HELP.lines().filter(|line| line.starts_with(&code)).count(), 1, "{exit:?}");
        }
    }

    #[test]
    fn an_unanswered_write_has_a_code_of_its_own() {
        assert_eq!(Failure::from(Error::OutcomeUnknown("x".into())).exit, Exit::OutcomeUnknown);
        assert_eq!(Failure::from(Error::NoLeader).exit, Exit::Failed);
        let remote = |outcome_unknown| Error::Remote { code: 14, text: "x".into(), outcome_unknown };
        assert_eq!(Failure::from(remote(true)).exit, Exit::OutcomeUnknown);
        assert_eq!(Failure::from(remote(false)).exit, Exit::Failed);
    }

    #[test]
    fn a_reader_that_left_is_not_complained_about() {
        assert_eq!(Failure::from(io::Error::from(io::ErrorKind::BrokenPipe)).text, "");
    }
}
