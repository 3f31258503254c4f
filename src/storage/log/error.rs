//! Why a log cannot be opened.

use std::io;
use std::path::{Path, PathBuf};

use crate::storage::Damage;

/// Why a log cannot be opened or created. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no log.
    #[error("there is no log in {}", .0.display())]
    Missing(PathBuf),
    /// A log is to be created where there is one already.
    #[error("there is already a log in {}", .0.display())]
    Exists(PathBuf),
    /// Something that was durable once is lost.
    #[error(transparent)]
    Damaged(#[from] Damage),
    /// Written by a version of the program that has another format.
    #[error("{} has format version {found}, this program reads version {supported}", file.display())]
    Version {
        /// The file.
        file: PathBuf,
        /// Its version.
        found: u32,
        /// The version that is supported.
        supported: u32,
    },
    /// A sound record of a kind that this version does not know.
    #[error("{} has a record at offset {offset} that only a newer version of this program understands", file.display())]
    UnknownRecord {
        /// The file.
        file: PathBuf,
        /// Where in it, in bytes.
        offset: u64,
    },
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

impl OpenError {
    /// Names the file of an error of the operating system.
    pub(super) fn io(path: &Path) -> impl Fn(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { path: path.clone(), source }
    }
}
