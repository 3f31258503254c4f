//! Volumes that are really full: small file systems of their own, which these tests mount where nobody else sees them.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use setstone::Error;
use setstone::client::{Client, Kv};
use setstone::env::Files;
use setstone::env::real_files::RealFiles;

use crate::disks::{DISK, kept, tree};
use crate::process::{Looks, Process, refused_under};

/// A small file system, mounted in a mount namespace that a process holds open.
struct Volume {
    holder: Child,
    mount: tempfile::TempDir,
}

impl Volume {
    /// `None`, said aloud, where mounting is not permitted.
    fn new(mebibytes: usize) -> Option<Self> {
        let mount = tempfile::tempdir().unwrap();
        let script = r#"mount -t tmpfs -o "size=$2m" tmpfs "$1" && echo mounted && exec cat"#;
        let mut holder = Command::new("unshare")
            .args(["-m", "sh", "-c", script, "sh"])
            .arg(mount.path())
            .arg(mebibytes.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .ok()?;
        let mut said = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut said).unwrap();
        let volume = Self { holder, mount };
        if said == "mounted\n" {
            return Some(volume);
        }
        // Not `eprintln`, which the test harness hides.
        let _ =
            writeln!(std::io::stderr(), "SKIPPED: a full volume cannot be tested, mounting is not permitted");
        None
    }

    /// What a process must be run under to see it.
    fn under(&self) -> [String; 2] {
        ["nsenter".into(), format!("--mount=/proc/{}/ns/mnt", self.holder.id())]
    }

    /// The data directory, as a process in there sees it.
    fn inside(&self) -> PathBuf {
        self.mount.path().join("data")
    }

    /// The same directory, as this process reaches it.
    fn outside(&self) -> PathBuf {
        self.root().join("data")
    }

    fn root(&self) -> PathBuf {
        let below = self.mount.path().strip_prefix("/").unwrap();
        Path::new("/proc").join(self.holder.id().to_string()).join("root").join(below)
    }

    /// Takes all the space that is left, or that much of it.
    fn fill(&self, most: usize) {
        let mut file = std::fs::File::create(self.root().join("filler")).unwrap();
        let mut written = 0;
        for size in [1 << 20, 4 << 10, 1] {
            let block = vec![1; size];
            while written < most && file.write_all(&block).is_ok() {
                written += size;
            }
        }
    }

    fn free(&self) {
        std::fs::remove_file(self.root().join("filler")).unwrap();
    }

    fn refused(&self) -> (i32, String) {
        refused_under(&self.under(), &self.inside(), ARGUMENTS)
    }

    fn spawn(&self, log: Stdio) -> Process {
        Process::spawn(&self.under(), &self.inside(), ARGUMENTS, log)
    }

    /// A member that does not watch how full the volume is.
    fn spawn_careless(&self, log: Stdio) -> Process {
        let arguments = [ARGUMENTS, &["--disk-reserve", "0"]].concat();
        Process::spawn(&self.under(), &self.inside(), &arguments, log)
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// The smallest segments, so that a small volume is soon full.
const ARGUMENTS: &[&str] = &["--log-segment", "8MiB"];

/// Whether a write was refused because the store must not grow.
fn no_space(error: &Error) -> bool {
    let text = "etcdserver: mvcc: database space exceeded".to_owned();
    *error == Error::Remote { code: 8, text, outcome_unknown: false }
}

fn says_full(text: &str) -> bool {
    text.contains("No space left") || text.contains("full")
}

#[tokio::test]
async fn a_full_volume_is_told_and_left_alone() {
    let Some(volume) = Volume::new(48) else { return };
    // Nothing was ever there: it waits, says for what, and goes on when there is space.
    std::fs::create_dir(volume.outside()).unwrap();
    volume.fill(usize::MAX);
    let mut member = volume.spawn(Stdio::inherit());
    let says_so = |process: &Process| says_full(&process.http("/status"));
    member.until("it says that the volume is full", says_so).await;
    assert!(member.http("/readyz").starts_with("HTTP/1.1 503"));
    let left = tree(&volume.outside());
    assert!(left.values().all(Vec::is_empty), "{:?}", left.keys());
    volume.free();
    member.serves().await;
    Kv::put(&member.remote(), "k", "acknowledged").await.unwrap();
    assert_eq!(member.terminate().await, 0);

    // A member.
    volume.fill(usize::MAX);
    let before = tree(&volume.outside());
    for _ in 0..2 {
        let (code, text) = volume.refused();
        assert_eq!(code, DISK, "{text}");
        assert!(says_full(&text), "{text}");
        let mut after = tree(&volume.outside());
        // The next boot found no space to be written down.
        after.remove(Path::new("identity.new"));
        assert!(after == before, "{:?} became {:?}", before.keys(), after.keys());
    }
    volume.free();
    let mut member = volume.spawn(Stdio::inherit());
    member.serves().await;
    let pair = Kv::get(&member.remote(), "k").await.unwrap().unwrap();
    assert_eq!(&pair.value[..], b"acknowledged");
    assert_eq!(member.terminate().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_fills_up_under_load_loses_nothing_that_was_acknowledged() {
    let Some(volume) = Volume::new(64) else { return };
    volume.fill(24 << 20);
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut member = volume.spawn_careless(log.reopen().unwrap().into());
    member.serves().await;
    let store = member.remote();
    let value = |number: usize| format!("{number:06}").repeat(16_000);
    let mut acknowledged = 0;
    let failed = loop {
        match Kv::put(&store, format!("k{acknowledged}"), value(acknowledged)).await {
            Ok(_) => acknowledged += 1,
            Err(error) => break error,
        }
        assert!(acknowledged < 1_000, "it is larger than it should be");
    };
    assert!(acknowledged > 50, "{acknowledged} before {failed}");
    assert_eq!(member.ended().await, 1, "it cannot go on");
    let said = std::fs::read_to_string(log.path()).unwrap();
    assert!(says_full(&said), "{said}");

    // Nothing changes by trying: it says so and ends, and its log is as it was.
    let log_files = || {
        let mut files = kept(&volume.outside());
        files.retain(|path, _| path.starts_with("log"));
        files
    };
    let before = log_files();
    for _ in 0..2 {
        volume.fill(usize::MAX);
        let (code, text) = volume.refused();
        assert_eq!(code, DISK, "{text}");
        assert!(says_full(&text), "{text}");
        assert!(log_files() == before, "its log is another one");
    }

    volume.free();
    let mut member = volume.spawn_careless(Stdio::inherit());
    member.serves().await;
    let store = member.remote();
    for number in 0..acknowledged {
        let pair = Kv::get(&store, format!("k{number}")).await.unwrap();
        assert!(pair.is_some_and(|pair| pair.value == value(number)), "{number} of {acknowledged} is lost");
    }
    Kv::put(&store, "more", "1").await.unwrap();
    assert_eq!(member.terminate().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_is_watched_is_refused_before_it_is_full_and_goes_on_by_itself() {
    let Some(volume) = Volume::new(128) else { return };
    volume.fill(32 << 20);
    let mut member = volume.spawn(Stdio::inherit());
    member.serves().await;
    let store = member.remote();
    let value = |number: usize| format!("{number:06}").repeat(40_000);
    let mut acknowledged = 0;
    let refused = loop {
        match Kv::put(&store, format!("k{acknowledged}"), value(acknowledged)).await {
            Ok(_) => acknowledged += 1,
            Err(error) => break error,
        }
        assert!(acknowledged < 1_000, "it is larger than it should be");
    };
    assert!(no_space(&refused), "{refused:?} after {acknowledged}");
    assert!(acknowledged > 20, "{acknowledged}");
    assert!(RealFiles.space(&volume.root()).unwrap().free > 8 << 20, "the log finds room");
    // Reads and deletes go on, and nothing is lost.
    for number in 0..acknowledged {
        let pair = Kv::get(&store, format!("k{number}")).await.unwrap();
        assert!(pair.is_some_and(|pair| pair.value == value(number)), "{number} of {acknowledged} is lost");
    }
    assert!(Kv::delete(&store, "k0").await.unwrap());
    assert!(no_space(&Kv::put(&store, "small", "1").await.unwrap_err()));
    assert_eq!(store.alarms().await.unwrap().value.len(), 1);
    assert!(member.http("/status").contains("NOSPACE of 0#1"), "{}", member.http("/status"));

    volume.free();
    let mut looks = Looks::within(Duration::from_secs(30));
    while let Err(error) = Kv::put(&store, "again", "1").await {
        assert!(no_space(&error), "{error:?}");
        looks.next("there is room again").await;
    }
    while !store.alarms().await.unwrap().value.is_empty() {
        looks.next("the alarm goes").await;
    }
    assert_eq!(member.terminate().await, 0);
    let mut member = volume.spawn(Stdio::inherit());
    member.serves().await;
    let pairs = member.remote().get_prefix("k").await.unwrap();
    assert_eq!(pairs.len(), acknowledged - 1);
    assert_eq!(member.terminate().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_when_a_volume_fills_up_is_refused_too() {
    let Some(volume) = Volume::new(160) else { return };
    let mut member = volume.spawn(Stdio::inherit());
    member.serves().await;
    let store = member.remote();
    let value = "x".repeat(1_000_000);
    // More is under way all the time than is kept free: what one connection carries is bounded, so each has its own.
    let writes = (0..150).map(|number| {
        let (store, value) = (member.remote(), value.clone());
        async move {
            let mut acknowledged = 0;
            loop {
                match Kv::put(&store, format!("k{number}"), value.clone()).await {
                    Ok(_) => acknowledged += 1,
                    Err(error) if no_space(&error) => return acknowledged,
                    // Too many wait, on a slow machine for longer than a client does.
                    Err(error) => assert!(error.is_retryable() || error.is_outcome_unknown(), "{error:?}"),
                }
            }
        }
    });
    let acknowledged: Vec<usize> = futures::future::join_all(writes).await;
    assert!(RealFiles.space(&volume.root()).unwrap().free > 16 << 20, "the log finds room");
    assert!(acknowledged.iter().sum::<usize>() > 20, "{acknowledged:?}");
    for (number, _) in acknowledged.iter().enumerate().filter(|(_, acknowledged)| **acknowledged > 0) {
        assert!(Kv::get(&store, format!("k{number}")).await.unwrap().is_some(), "k{number} is lost");
    }
    assert_eq!(store.alarms().await.unwrap().value.len(), 1);
    assert_eq!(member.terminate().await, 0);
}
