//! Where a running playground is found by a second terminal. An edge.
//!
//! Each has a directory of its own with a control socket in it, under `$XDG_RUNTIME_DIR/setstone-playground`, or under
//! `/tmp/setstone-playground-<uid>` where there is no such variable. Invariant: a directory that others could write to is not
//! trusted. Called by `mod` and `control`.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

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

/// The directory of this run. Dropping it removes it.
#[derive(Debug)]
pub struct RunDirectory {
    path: PathBuf,
}

impl RunDirectory {
    /// Creates one: the one given, or a new one where [`newest`] will find it.
    ///
    /// # Errors
    /// If the file system refuses, or another user could write to it.
    pub fn create(chosen: Option<&Path>) -> Result<Self, RunError> {
        let path = match chosen {
            Some(path) => path.to_owned(),
            None => base().join(format!("{}-{:08x}", std::process::id(), rand::rng().random::<u32>())),
        };
        if path.join(SOCKET).as_os_str().len() > SOCKET_PATH_BYTES {
            return Err(RunError::TooLong(path.join(SOCKET)));
        }
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700).create(&path).map_err(failed("create", &path))?;
        if chosen.is_none() {
            check(&base())?;
        }
        check(&path)?;
        Ok(Self { path })
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
        // A directory that the user chose may hold other things: then it stays.
        let removed = fs::remove_file(self.socket()).and_then(|()| fs::remove_dir(&self.path));
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
    let base = base();
    let entries = match fs::read_dir(&base) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(RunError::NoneRuns(base)),
        Err(error) => return Err(failed("read", &base)(error)),
    };
    check(&base)?;
    let mut found: Vec<(SystemTime, PathBuf)> = entries
        .filter_map(Result::ok)
        .map(|entry| entry.path().join(SOCKET))
        .filter_map(|socket| Some((fs::symlink_metadata(&socket).ok()?.modified().ok()?, socket)))
        .collect();
    if found.is_empty() {
        return Err(RunError::NoneRuns(base));
    }
    found.sort();
    Ok(found.into_iter().rev().map(|(_, socket)| socket).collect())
}

/// Where the run directories are.
pub fn base() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute()) {
        Some(runtime) => runtime.join("setstone-playground"),
        None => PathBuf::from(format!("/tmp/setstone-playground-{}", rustix::process::getuid().as_raw())),
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
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt;

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
    }
}
