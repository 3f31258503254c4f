//! What is wrong with a disk that is lost.

use std::path::{Path, PathBuf};

/// Something that was durable once is not there, or not as it was. The disk is lost; nothing repairs it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} is damaged at offset {offset}: {reason}", file.display())]
pub struct Damage {
    /// The file.
    pub file: PathBuf,
    /// Where in it, in bytes.
    pub offset: u64,
    /// What is wrong.
    pub reason: String,
}

impl Damage {
    /// Damage of `file` at `offset`.
    pub fn new(file: &Path, offset: u64, reason: impl Into<String>) -> Self {
        Self { file: file.to_owned(), offset, reason: reason.into() }
    }
}
