//! The public error: what happened, whether trying again is safe, whether it may have happened after all.

use crate::mvcc::command::Refusal;

/// Why a request was not answered. The text is for people; the variant is for programs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The state machine refused it. Nothing changed.
    #[error("refused: {0}")]
    Refused(#[from] Refusal),
    /// The request itself is wrong. Nothing changed; trying again changes nothing.
    #[error("invalid request: {0}")]
    Invalid(String),
    /// No leader is known. Nothing was proposed.
    #[error("no leader is known; nothing was proposed")]
    NoLeader,
    /// This member cannot serve yet, or not any more. Nothing was proposed.
    #[error("not serving: {0}")]
    NotServing(String),
    /// Too much is waiting already. Nothing was proposed.
    #[error("too many requests are waiting; nothing was proposed")]
    TooManyRequests,
    /// The deadline passed before it was proposed.
    #[error("timed out before it was proposed")]
    TimedOut,
    /// It was proposed, and then the deadline passed or the leader changed: it may have happened, or may yet happen.
    #[error("outcome unknown: {0}")]
    OutcomeUnknown(String),
    /// The member is stopping. Nothing was proposed.
    #[error("the member is stopping; nothing was proposed")]
    Stopped,
    /// The disk failed: this member stops serving until it is restarted.
    #[error("storage failed: {0}")]
    Storage(String),
    /// The member could not start.
    #[error("cannot start: {0}")]
    Start(String),
    /// The disk is not this member's, is damaged, or has an unknown format. Nothing was changed.
    #[error("{0}")]
    Disk(String),
    /// Another process uses the data directory.
    #[error("{0}")]
    Locked(String),
    /// A remote member answered with this gRPC code and text.
    #[error("{text} (code {code})")]
    Remote {
        /// The gRPC status code.
        code: i32,
        /// The status message.
        text: String,
        /// The request may have been executed.
        outcome_unknown: bool,
    },
}

impl Error {
    /// Whether the same request may be sent again without the risk that it happens twice, and with a chance of success.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::NoLeader | Self::NotServing(_) | Self::TooManyRequests | Self::TimedOut | Self::Stopped => {
                true
            }
            Self::Remote { code, outcome_unknown, .. } => !outcome_unknown && (*code == 14 || *code == 8),
            _ => false,
        }
    }

    /// Whether the request may have happened although it was not answered.
    pub fn is_outcome_unknown(&self) -> bool {
        matches!(self, Self::OutcomeUnknown(_) | Self::Remote { outcome_unknown: true, .. })
    }
}
