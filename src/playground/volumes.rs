//! Volumes: one directory per ordinal, kept for as long as the data directory is. An edge.
//!
//! Invariants: one playground at a time has a data directory (a lock file, held while it runs); a volume outlives its
//! pods; a temporary data directory is removed with this value, and one that the user named never is; a copy has its name only
//! once it is complete. Called by `driver`.
//!
//! | Below the data directory | What |
//! |---|---|
//! | `<pod>` | the volume of a pod |
//! | `saved/<pod>` | its copy, as a volume snapshot |
//! | `restored/<pod>` | a copy of that copy, which waits to become the volume |

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rand::RngExt;
use rustix::fs::{CWD, RenameFlags, renameat_with};

/// Attempts to remove a temporary directory.
const REMOVALS: u32 = 10;
/// Wait between two of them.
const REMOVAL_RETRY: Duration = Duration::from_millis(20);

/// Copies that pods may be set back to.
const SAVED: &str = "saved";
/// Copies of those, on their way.
const RESTORED: &str = "restored";

/// Why a data directory or a volume cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// Another playground has it.
    #[error("{} is in use by another playground", .0.display())]
    InUse(PathBuf),
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

/// The data directory of a playground.
#[derive(Debug)]
pub struct Volumes {
    root: PathBuf,
    temporary: bool,
    _lock: File,
}

impl Volumes {
    /// Opens `data`, creating it if needed; without one, a new temporary directory that only this user can read.
    ///
    /// # Errors
    /// If another playground has it, or the file system refuses.
    pub fn open(data: Option<&Path>) -> Result<Self, VolumeError> {
        let (root, temporary) = if let Some(data) = data {
            create(data)?;
            (fs::canonicalize(data).map_err(failed("find", data))?, false)
        } else {
            let name = format!("setstone-playground-{:016x}", rand::rng().random::<u64>());
            let root = std::env::temp_dir().join(name);
            // Not recursive: a directory of that name that is there already is not ours.
            DirBuilder::new().mode(0o700).create(&root).map_err(failed("create", &root))?;
            (root, true)
        };
        let path = root.join("playground.lock");
        let lock = File::create(&path).map_err(failed("create", &path))?;
        lock.try_lock().map_err(|error| match error {
            fs::TryLockError::WouldBlock => VolumeError::InUse(root.clone()),
            fs::TryLockError::Error(source) => failed("lock", &path)(source),
        })?;
        Ok(Self { root, temporary, _lock: lock })
    }

    /// The directory that holds them all.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// True if nothing will be left at the end.
    pub fn is_temporary(&self) -> bool {
        self.temporary
    }

    /// The volume of a pod, created empty if it does not exist.
    ///
    /// # Errors
    /// If the file system refuses.
    pub fn attach(&self, pod: &str) -> Result<PathBuf, VolumeError> {
        let path = self.root.join(pod);
        create(&path)?;
        Ok(path)
    }

    /// Whether a pod has a volume.
    pub fn exists(&self, pod: &str) -> bool {
        self.root.join(pod).is_dir()
    }

    /// Removes the volume of a pod, which must be gone.
    ///
    /// # Errors
    /// If the file system refuses.
    pub fn remove(&self, pod: &str) -> Result<(), VolumeError> {
        let path = self.root.join(pod);
        fs::remove_dir_all(&path).map_err(failed("remove", &path))
    }

    /// Whether a copy of the volume of a pod is there.
    pub fn is_saved(&self, pod: &str) -> bool {
        self.root.join(SAVED).join(pod).is_dir()
    }

    /// How the volume of a pod is copied aside.
    pub fn saving(&self, pod: &str) -> Copying {
        Copying { from: self.root.join(pod), to: self.root.join(SAVED).join(pod) }
    }

    /// How the copy that was saved is made ready for [`Volumes::restore`]. It stays, so it can be restored again.
    pub fn restoring(&self, pod: &str) -> Copying {
        Copying { from: self.root.join(SAVED).join(pod), to: self.root.join(RESTORED).join(pod) }
    }

    /// Puts the copy that was made ready in the place of the volume of a pod, which must be gone.
    ///
    /// # Errors
    /// If the file system refuses.
    pub fn restore(&self, pod: &str) -> Result<(), VolumeError> {
        let (from, to) = (self.root.join(RESTORED).join(pod), self.root.join(pod));
        remove_if_there(&to)?;
        fs::rename(&from, &to).map_err(failed("rename", &from))
    }

    /// Exchanges the volumes of two pods, which must be gone.
    ///
    /// # Errors
    /// If the file system refuses.
    pub fn swap(&self, one: &str, other: &str) -> Result<(), VolumeError> {
        let (one, other) = (self.root.join(one), self.root.join(other));
        let swapped = renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE);
        swapped.map_err(|error| failed("swap", &one)(error.into()))
    }

    /// Where a pod's output goes.
    pub fn log(&self, pod: &str) -> PathBuf {
        self.root.join(format!("{pod}.log"))
    }
}

impl Drop for Volumes {
    fn drop(&mut self) {
        if !self.temporary {
            return;
        }
        // When a whole runtime is dropped, pods that were killed a moment ago may still write.
        for _ in 1..REMOVALS {
            if fs::remove_dir_all(&self.root).is_ok() {
                return;
            }
            std::thread::sleep(REMOVAL_RETRY);
        }
        if let Err(error) = fs::remove_dir_all(&self.root) {
            tracing::warn!(path = %self.root.display(), %error, "the temporary directory was not removed");
        }
    }
}

/// A copy that is to be made; it takes time, so it is made on a thread of its own.
#[derive(Clone, Debug)]
pub struct Copying {
    from: PathBuf,
    to: PathBuf,
}

impl Copying {
    /// Makes it, in place of an older one.
    ///
    /// # Errors
    /// If the file system refuses.
    pub fn run(&self) -> Result<(), VolumeError> {
        let mut partial = self.to.clone().into_os_string();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        remove_if_there(&partial)?;
        copy(&self.from, &partial)?;
        remove_if_there(&self.to)?;
        fs::rename(&partial, &self.to).map_err(failed("rename", &partial))
    }
}

/// Directories and files; there is nothing else on a volume.
fn copy(from: &Path, to: &Path) -> Result<(), VolumeError> {
    create(to)?;
    for entry in fs::read_dir(from).map_err(failed("read", from))? {
        let entry = entry.map_err(failed("read", from))?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type().map_err(failed("look at", &from))?.is_dir() {
            copy(&from, &to)?;
        } else {
            fs::copy(&from, &to).map_err(failed("copy", &from))?;
        }
    }
    Ok(())
}

fn remove_if_there(path: &Path) -> Result<(), VolumeError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

fn create(path: &Path) -> Result<(), VolumeError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed("create", path))
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> VolumeError {
    let path = path.to_owned();
    move |source| VolumeError::Io { what, path, source }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_temporary_directory_goes_and_a_named_one_stays() {
        let volumes = Volumes::open(None).unwrap();
        let root = volumes.root().to_owned();
        fs::write(volumes.attach("setstone-0").unwrap().join("file"), b"x").unwrap();
        drop(volumes);
        assert!(!root.exists());

        let named = tempfile::tempdir().unwrap();
        let data = named.path().join("a/b");
        let volumes = Volumes::open(Some(&data)).unwrap();
        fs::write(volumes.attach("setstone-0").unwrap().join("file"), b"x").unwrap();
        drop(volumes);
        let volumes = Volumes::open(Some(&data)).unwrap();
        let volume = volumes.attach("setstone-0").unwrap();
        assert_eq!(fs::read(volume.join("file")).unwrap(), b"x");
    }

    #[test]
    fn a_volume_can_be_set_back_more_than_once_and_swapped() {
        let named = tempfile::tempdir().unwrap();
        let volumes = Volumes::open(Some(named.path())).unwrap();
        let file = |pod: &str| volumes.attach(pod).unwrap().join("file");
        fs::create_dir(volumes.attach("a").unwrap().join("deep")).unwrap();
        fs::write(volumes.attach("a").unwrap().join("deep/er"), b"x").unwrap();
        fs::write(file("a"), b"old").unwrap();
        assert!(!volumes.is_saved("a"));
        volumes.saving("a").run().unwrap();
        assert!(volumes.is_saved("a"));
        for _ in 0..2 {
            fs::write(file("a"), b"new").unwrap();
            volumes.restoring("a").run().unwrap();
            assert_eq!(fs::read(file("a")).unwrap(), b"new", "not before its time");
            volumes.restore("a").unwrap();
            assert_eq!(fs::read(file("a")).unwrap(), b"old");
            assert_eq!(fs::read(volumes.attach("a").unwrap().join("deep/er")).unwrap(), b"x");
        }
        fs::write(file("b"), b"b").unwrap();
        volumes.swap("a", "b").unwrap();
        assert_eq!(
            (fs::read(file("a")).unwrap(), fs::read(file("b")).unwrap()),
            (b"b".into(), b"old".into())
        );
        let error = volumes.saving("c").run().unwrap_err().to_string();
        assert!(error.contains("/c: "), "{error}");
        assert!(volumes.swap("a", "c").is_err() && volumes.exists("a"));
    }

    #[test]
    fn a_directory_in_use_is_refused_and_a_file_in_its_place_is_an_error() {
        let named = tempfile::tempdir().unwrap();
        let first = Volumes::open(Some(named.path())).unwrap();
        let error = Volumes::open(Some(named.path())).unwrap_err();
        assert!(matches!(&error, VolumeError::InUse(path) if path == first.root()), "{error}");

        let file = named.path().join("file");
        fs::write(&file, b"x").unwrap();
        let error = Volumes::open(Some(&file)).unwrap_err().to_string();
        assert!(error.contains("file"), "{error}");
        fs::write(first.root().join("setstone-0"), b"x").unwrap();
        assert!(first.attach("setstone-0").is_err());
    }
}
