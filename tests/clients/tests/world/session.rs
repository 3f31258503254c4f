//! One program against one cluster.
//!
//! It is told where the members are (`ENDPOINTS`, separated by commas) and whom to ask to kill one (`CONTROL`). For each scenario that holds
//! it prints `ok NAME SECONDS`, at the end `done COUNT`, and exits with 0.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::cluster::{Cluster, is_etcd};
use super::control::Control;

/// Time for a session.
const DEADLINE: Duration = Duration::from_secs(180);
/// Time for what a session needs: packages are downloaded.
const PREPARE: Duration = Duration::from_secs(400);

/// The folder with the programs of a language.
pub fn folder(language: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(language)
}

/// A folder for what is built of it; it stays, so that a second run downloads nothing.
pub fn built(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// The last lines of a file.
pub fn tail(path: &Path, lines: usize) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n") + "\n"
}

/// Runs a command to its end, which must be a good one; its output is kept in `log`.
pub fn run(command: &mut Command, log: &Path, deadline: Duration) {
    let file = File::create(log).unwrap();
    let what = format!("{command:?}");
    // A group of its own, so that its children end with it.
    let child =
        command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file).process_group(0).spawn();
    let mut child = child.unwrap_or_else(|error| panic!("{what}: {error}"));
    let end = Instant::now() + deadline;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > end {
            let _ = Command::new("kill").args(["-9", "--", &format!("-{}", child.id())]).status();
            let _ = child.wait();
            panic!("{what} did not end within {deadline:?}:\n{}", tail(log, 60));
        }
        // A child's end is looked for: the standard library cannot wait for it with a deadline.
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(status.success(), "{what} ended with {status}:\n{}", tail(log, 60));
}

/// Prepares with each of `prepare`, starts a cluster, runs `program` against it, and says what held and how long it took.
pub fn session(name: &str, prepare: Vec<Command>, mut program: Command) {
    let begin = Instant::now();
    let folder = built(&format!("{name}-log"));
    for (number, mut command) in prepare.into_iter().enumerate() {
        run(&mut command, &folder.join(format!("prepare-{number}.log")), PREPARE);
    }
    let prepared = begin.elapsed();
    let begin = Instant::now();
    let cluster = Arc::new(Mutex::new(Cluster::start(name)));
    let control = Control::listen(Arc::clone(&cluster));
    let endpoints = cluster.lock().unwrap().endpoints();
    let started = begin.elapsed();
    let begin = Instant::now();
    let log = folder.join("session.log");
    program.env("ENDPOINTS", endpoints).env("CONTROL", control.address());
    let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(&mut program, &log, DEADLINE)));
    if let Err(panic) = ran {
        println!("{}", cluster.lock().unwrap().logs());
        std::panic::resume_unwind(panic);
    }
    let text = fs::read_to_string(&log).unwrap();
    let held: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("ok ")).collect();
    let done = text.lines().find_map(|line| line.strip_prefix("done ")).expect("it says that it is done");
    assert_eq!(done.parse(), Ok(held.len()), "{text}");
    assert!(!held.is_empty());
    let of = if is_etcd() { " (etcd)" } else { "" };
    for scenario in held {
        println!("{name}{of}: {scenario} s");
    }
    println!(
        "{name}{of}: {done} scenarios in {:.1} s, after {:.1} s for its packages and {:.1} s for the cluster",
        begin.elapsed().as_secs_f64(),
        prepared.as_secs_f64(),
        started.as_secs_f64()
    );
}
