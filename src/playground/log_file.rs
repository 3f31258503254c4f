//! A pod's log: appended to, and never more than two files of [`PLAYGROUND_LOG_BYTES`], the older one as `<name>.1`. An edge.
//!
//! What the container runtime does with a container's output. Called by `process`.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use crate::limits::PLAYGROUND_LOG_BYTES;

const BUFFER_BYTES: usize = 16 << 10;

/// A log that is rotated.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    file: File,
    written: u64,
    limit: u64,
}

impl LogFile {
    /// Opens a log to append to it.
    ///
    /// # Errors
    /// If the file system refuses.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::with_limit(path, PLAYGROUND_LOG_BYTES)
    }

    fn with_limit(path: &Path, limit: u64) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let written = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, written, limit })
    }

    /// Appends, rotating first if the file would grow past the limit.
    ///
    /// # Errors
    /// If the file system refuses.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.written > 0 && self.written.saturating_add(bytes.len() as u64) > self.limit {
            let mut aside = self.path.clone().into_os_string();
            aside.push(".1");
            std::fs::rename(&self.path, &aside)?;
            self.file = OpenOptions::new().create(true).append(true).open(&self.path)?;
            self.written = 0;
        }
        self.file.write_all(bytes)?;
        self.written = self.written.saturating_add(bytes.len() as u64);
        Ok(())
    }

    /// Copies until the writers have closed their ends. A log that cannot be written is no reason to block the pod, so
    /// what it says then is read and dropped.
    pub fn drain(&mut self, mut from: impl Read) {
        let mut buffer = vec![0u8; BUFFER_BYTES];
        let mut failed = false;
        loop {
            let read = match from.read(&mut buffer) {
                Ok(0) => return,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return,
            };
            let result = self.append(buffer.get(..read).unwrap_or_default());
            if let Err(error) = &result
                && !failed
            {
                tracing::warn!(path = %self.path.display(), %error, "a pod's log cannot be written");
            }
            failed = result.is_err();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_log_never_takes_more_than_two_files_and_keeps_the_newest() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("setstone-0.log");
        let mut log = LogFile::with_limit(&path, 10).unwrap();
        for line in ["aaaa\n", "bbbb\n", "cccc\n"] {
            log.append(line.as_bytes()).unwrap();
        }
        drop(log);
        // A restart goes on where the last container ended.
        LogFile::with_limit(&path, 10).unwrap().drain(&b"dddd\n"[..]);
        assert_eq!(std::fs::read(&path).unwrap(), b"cccc\ndddd\n");
        assert_eq!(std::fs::read(directory.path().join("setstone-0.log.1")).unwrap(), b"aaaa\nbbbb\n");
        LogFile::with_limit(&path, 10).unwrap().drain(&b"longer than the limit\n"[..]);
        assert_eq!(std::fs::read(&path).unwrap(), b"longer than the limit\n");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 2);
    }
}
