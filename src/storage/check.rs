//! Says of a data directory, offline, whether log and snapshots are sound. Opens nothing for writing and takes no lock, so
//! a directory that is in use may look torn; stop the process first.

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use super::log::{self, OpenError, Tail};
use super::snapshot::{self, SnapshotError, Verified};
use super::{Damage, LogId, Vote};
use crate::env::Files;

/// What was found.
#[derive(Debug)]
pub struct Report {
    /// The log.
    pub log: Result<LogReport, OpenError>,
    /// The snapshots, newest first, each read from the first byte to the last.
    pub snapshots: Result<Vec<SnapshotReport>, SnapshotError>,
    /// What the caller's scan of the engine's directory said; `None` if there is no such directory.
    pub state: Option<Result<String, String>>,
    /// Whether log and newest snapshot leave a gap: entries that neither holds.
    pub gap: Option<Damage>,
}

/// What is in a sound log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogReport {
    /// Segment files.
    pub segments: u64,
    /// Bytes of these files that are in use.
    pub bytes: u64,
    /// Entries.
    pub entries: u64,
    /// Index of the first entry and id of the last one.
    pub first_last: Option<(u64, LogId)>,
    /// Everything up to this is purged.
    pub purged: Option<LogId>,
    /// How far it is known to be committed.
    pub committed: Option<LogId>,
    /// The newest vote.
    pub vote: Option<Vote>,
    /// A write at the end that was never acknowledged; the next open cuts it.
    pub torn: Option<Tail>,
}

/// One snapshot.
#[derive(Debug)]
pub struct SnapshotReport {
    /// The last entry in it, by its name.
    pub id: LogId,
    /// The file.
    pub path: PathBuf,
    /// What is in it, or what is wrong with it.
    pub content: Result<Verified, SnapshotError>,
}

impl Report {
    /// Whether nothing is wrong that would make the disk lost. The engine's state is only a cache.
    pub fn is_sound(&self) -> bool {
        let snapshots = self.snapshots.as_ref().is_ok_and(|all| all.iter().all(|one| one.content.is_ok()));
        self.log.is_ok() && snapshots && self.gap.is_none()
    }
}

/// Checks log and snapshots of the data directory `root`. `scan_state` gets the engine's directory, and says in one line what
/// is in it or what is wrong with it. Blocks.
pub fn check(
    files: &dyn Files,
    root: &Path,
    scan_state: &mut dyn FnMut(&Path) -> Result<String, String>,
) -> Report {
    let log = log::scan(files, &root.join("log")).map(|scan| LogReport {
        segments: scan.segments.len() as u64,
        bytes: scan.segments.iter().map(|segment| segment.used).sum(),
        entries: scan.entries(),
        first_last: scan.state.last.filter(|_| scan.entries() > 0).map(|last| (scan.first, last)),
        purged: scan.state.purged,
        committed: scan.state.committed,
        vote: scan.state.vote,
        torn: scan.tail,
    });
    let snapshots = snapshot::list(files, &root.join("snapshots")).map(|listed| {
        let report = |file: snapshot::SnapshotFile| SnapshotReport {
            id: file.id,
            content: verify(files, &file),
            path: file.path,
        };
        listed.into_iter().map(report).collect::<Vec<_>>()
    });
    let state = root.join("state");
    let state = files.exists(&state).unwrap_or(false).then(|| scan_state(&state));
    let gap = match (&log, &snapshots) {
        (Ok(log), Ok(snapshots)) => gap(root, log, snapshots),
        _ => None,
    };
    Report { log, snapshots, state, gap }
}

fn verify(files: &dyn Files, file: &snapshot::SnapshotFile) -> Result<Verified, SnapshotError> {
    let verified = snapshot::verify(files, &file.path)?;
    if verified.header.last == file.id {
        Ok(verified)
    } else {
        let reason = format!("it is the snapshot of {}, not of what its name says", verified.header.last);
        Err(Damage::new(&file.path, 0, reason).into())
    }
}

/// What the log no longer holds, a sound snapshot must.
fn gap(root: &Path, log: &LogReport, snapshots: &[SnapshotReport]) -> Option<Damage> {
    let purged = log.purged?;
    let covered = snapshots.iter().any(|one| one.content.is_ok() && one.id.index >= purged.index);
    (!covered).then(|| {
        let reason = format!("the log was cut up to {purged}, and no sound snapshot reaches that far");
        Damage::new(&root.join("snapshots"), 0, reason)
    })
}
