//! Where a running playground is found by a second terminal. An edge.
//!
//! Each has a directory of its own with a control socket in it, under `$XDG_RUNTIME_DIR/setstone-playground`, or under
//! `/tmp/setstone-playground-<uid>` where there is no such variable. Invariant: a directory that others could write to is not
//! trusted. Called by `mod` and `control`.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rand::RngExt;

/// Name of the control socket in its directory.
const SOCKET: &str = "control.sock";
/// Longest path of a unix socket on Linux, in bytes, without the zero at its end.
const SOCKET_PATH_BYTES: usize = 107;

/// Why there is no such directory.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Nothing runs, as far as can be seen.
    #[error("no playground runs (looked in {})", .0.display())]
    NoneRuns(PathBuf),
    /// A directory of that name belongs to somebody else, or others may write to it.
    #[error("{} is not a directory that only this user can write to", .0.display())]
    NotOurs(PathBuf),
    /// A socket's path is short.
    #[error("{} is too long for the path of a socket: {SOCKET_PATH_BYTES} bytes at most", .0.display())]
    TooLong(PathBuf),
    /// The file system said no.
    #[error("cannot {what} {}: {source}", .path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Age from which a socket that nobody listens on is taken for a dead playground's, and not for one that starts.
const DEAD_AFTER: Duration = Duration::from_secs(10);

/// The directory of this run. Dropping it removes it.
#[derive(Debug)]
pub struct RunDirectory {
    path: PathBuf,
    /// A directory that was there before stays.
    created: bool,
}

impl RunDirectory {
    /// Creates one: the one given, or a new one where [`sockets`] will find it.
    ///
    /// # Errors
    /// If the file system refuses, or another user could write to it.
    pub fn create(chosen: Option<&Path>) -> Result<Self, RunError> {
        match chosen {
            Some(path) => Self::at(path.to_owned()),
            None => Self::below(&base()),
        }
    }

    fn below(base: &Path) -> Result<Self, RunError> {
        DirBuilder::new().recursive(true).mode(0o700).create(base).map_err(failed("create", base))?;
        check(base)?;
        remove_dead(base);
        Self::at(base.join(format!("{}-{:08x}", std::process::id(), rand::rng().random::<u32>())))
    }

    fn at(path: PathBuf) -> Result<Self, RunError> {
        if path.join(SOCKET).as_os_str().len() > SOCKET_PATH_BYTES {
            return Err(RunError::TooLong(path.join(SOCKET)));
        }
        let created = !path.exists();
        DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(failed("create", &path))?;
        check(&path)?;
        Ok(Self { path, created })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The control socket in it.
    pub fn socket(&self) -> PathBuf {
        self.path.join(SOCKET)
    }
}

impl Drop for RunDirectory {
    fn drop(&mut self) {
        let mut removed = fs::remove_file(self.socket());
        if self.created {
            removed = removed.and(fs::remove_dir(&self.path));
        }
        if let Err(error) = removed {
            tracing::debug!(path = %self.path.display(), %error, "the run directory was not removed");
        }
    }
}

/// The control sockets of this user's playgrounds, the newest first; or that of the run directory given.
/// What a playground that was killed left behind is among them: the caller tries one after the other.
///
/// # Errors
/// If there is none, or the directory cannot be trusted.
pub fn sockets(chosen: Option<&Path>) -> Result<Vec<PathBuf>, RunError> {
    if let Some(path) = chosen {
        return Ok(vec![path.join(SOCKET)]);
    }
    sockets_below(&base())
}

fn sockets_below(base: &Path) -> Result<Vec<PathBuf>, RunError> {
    let entries = match fs::read_dir(base) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(RunError::NoneRuns(base.to_owned()));
        }
        Err(error) => return Err(failed("read", base)(error)),
    };
    check(base)?;
    let mut found: Vec<(SystemTime, PathBuf)> = entries
        .filter_map(Result::ok)
        .map(|entry| entry.path().join(SOCKET))
        .filter_map(|socket| Some((fs::symlink_metadata(&socket).ok()?.modified().ok()?, socket)))
        .collect();
    if found.is_empty() {
        return Err(RunError::NoneRuns(base.to_owned()));
    }
    found.sort();
    Ok(found.into_iter().rev().map(|(_, socket)| socket).collect())
}

/// Where the run directories are.
pub fn base() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute() && path.is_dir())
    {
        Some(runtime) => runtime.join("setstone-playground"),
        None => PathBuf::from(format!("/tmp/setstone-playground-{}", rustix::process::getuid().as_raw())),
    }
}

/// Removes what playgrounds that were killed left behind. Best effort: it only saves the next look a few attempts.
fn remove_dead(base: &Path) {
    let sockets = sockets_below(base).unwrap_or_default();
    for socket in sockets {
        let age = fs::symlink_metadata(&socket).and_then(|metadata| metadata.modified()).ok();
        let old = age.and_then(|since| since.elapsed().ok()).is_some_and(|age| age > DEAD_AFTER);
        if old
            && UnixStream::connect(&socket)
                .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
        {
            tracing::debug!(socket = %socket.display(), "a dead playground's");
            let removed =
                fs::remove_file(&socket).and_then(|()| socket.parent().map_or(Ok(()), fs::remove_dir));
            if let Err(error) = removed {
                tracing::debug!(socket = %socket.display(), %error, "it was not removed");
            }
        }
    }
}

fn check(path: &Path) -> Result<(), RunError> {
    let metadata = fs::symlink_metadata(path).map_err(failed("look at", path))?;
    let ours = metadata.is_dir()
        && metadata.uid() == rustix::process::getuid().as_raw()
        && metadata.mode() & 0o022 == 0;
    if ours { Ok(()) } else { Err(RunError::NotOurs(path.to_owned())) }
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RunError {
    let path = path.to_owned();
    move |source| RunError::Io { what, path, source }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_directory_that_others_can_write_to_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let open = directory.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(RunDirectory::create(Some(&open)), Err(RunError::NotOurs(path)) if path == open));
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(directory.path(), &link).unwrap();
        assert!(matches!(RunDirectory::create(Some(&link)), Err(RunError::NotOurs(_))));
        let long = directory.path().join("x".repeat(120));
        assert!(matches!(RunDirectory::create(Some(&long)), Err(RunError::TooLong(_))));
        assert!(!long.exists());
    }

    #[test]
    fn a_run_directory_is_private_and_goes_with_the_run() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("run");
        let run = RunDirectory::create(Some(&path)).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        fs::write(run.socket(), b"").unwrap();
        assert_eq!(sockets(Some(&path)).unwrap(), [run.socket()]);
        drop(run);
        assert!(!path.exists());
        // One that was there before stays.
        let run = RunDirectory::create(Some(parent.path())).unwrap();
        fs::write(run.socket(), b"").unwrap();
        drop(run);
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }

    #[test]
    fn the_newest_comes_first_and_the_dead_are_cleared_away() {
        let parent = tempfile::tempdir().unwrap();
        let base = parent.path().join("base");
        assert!(matches!(sockets_below(&base), Err(RunError::NoneRuns(path)) if path == base));
        let runs: Vec<RunDirectory> = (0..3).map(|_| RunDirectory::below(&base).unwrap()).collect();
        assert!(matches!(sockets_below(&base), Err(RunError::NoneRuns(_))));
        let mut listeners: Vec<UnixListener> =
            runs.iter().map(|run| UnixListener::bind(run.socket()).unwrap()).collect();
        for (run, minutes) in runs.iter().zip([2, 1, 3]) {
            let then = SystemTime::now() - Duration::from_mins(minutes);
            let times =
                rustix::fs::Timestamps { last_access: timespec(then), last_modification: timespec(then) };
            rustix::fs::utimensat(rustix::fs::CWD, run.socket(), &times, rustix::fs::AtFlags::empty())
                .unwrap();
        }
        let newest_first = [&runs[1], &runs[0], &runs[2]].map(RunDirectory::socket);
        assert_eq!(sockets_below(&base).unwrap(), newest_first);
        // They live, so they stay; then the last of them dies.
        let next = RunDirectory::below(&base).unwrap();
        assert_eq!(sockets_below(&base).unwrap(), newest_first);
        drop((next, listeners.pop()));
        let _next = RunDirectory::below(&base).unwrap();
        assert_eq!(sockets_below(&base).unwrap(), newest_first[..2]);
    }

    fn timespec(at: SystemTime) -> rustix::fs::Timespec {
        let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        rustix::fs::Timespec { tv_sec: since.as_secs() as i64, tv_nsec: i64::from(since.subsec_nanos()) }
    }
}
