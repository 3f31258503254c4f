//! Disks that a member must not use, or can use no more: each is told in clear words, with the documented exit code or in the
//! status, and nothing on it is destroyed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use setstone::client::Kv;
use setstone::config::{Cluster, Data, Maintenance, Tuning};
use setstone::env::clock::SystemClock;
use setstone::env::network::Tcp;
use setstone::env::random::SystemRandom;
use setstone::env::real_names::Dns;
use setstone::env::simulated_files::SimulatedFiles;
use setstone::env::tasks::Threads;
use setstone::env::{Env, Tasks, Work};
use setstone::testing::TestCluster;
use setstone::{Config, Error, Node};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::process::{Process, refused};

pub const DISK: i32 = 12;
const LOCKED: i32 = 11;

/// All files below a directory, by path. The lock is empty, and `identity` changes by its boot counter at least.
pub fn tree(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    fn walk(root: &Path, at: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
        for entry in std::fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(root, &path, found);
            } else {
                found.insert(path.strip_prefix(root).unwrap().to_owned(), std::fs::read(&path).unwrap());
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(root, root, &mut found);
    found.remove(Path::new("lock"));
    found
}

/// As [`tree`], without what a start writes on any disk of its own.
pub fn kept(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = tree(root);
    found.remove(Path::new("identity"));
    found
}

pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.path().is_dir() {
            copy(&entry.path(), &to.join(entry.file_name()));
        } else {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

fn alone(directory: &Path) -> Config {
    Config { data: Data::Directory(directory.into()), ..Config::in_memory("alone") }
}

/// A volume with some writes on it, closed cleanly.
async fn volume(directory: &Path) {
    let node = Node::start(alone(directory)).await.unwrap();
    for number in 0..50 {
        Kv::put(&node.client(), format!("k{number}"), vec![b'v'; 200]).await.unwrap();
    }
    node.shutdown().await;
}

fn segment(directory: &Path) -> PathBuf {
    let mut names: Vec<_> =
        std::fs::read_dir(directory.join("log")).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    names.remove(0)
}

fn edit(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).unwrap();
    change(&mut bytes);
    std::fs::write(path, bytes).unwrap();
}

/// Why a node that runs is not ready, once it is about this.
async fn not_ready(node: &Node, words: &[&str]) -> String {
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut looks = tokio::time::interval(Duration::from_millis(10));
    loop {
        let report = node.health();
        let text = report.status.to_string();
        if words.iter().all(|word| text.contains(word)) {
            assert!(!report.ready && !report.serving, "{text}");
            assert!(report.live, "a restart would not help: {text}");
            return text;
        }
        assert!(Instant::now() < deadline, "never {words:?}: {text}");
        looks.tick().await;
    }
}

#[tokio::test]
async fn a_directory_that_is_in_use() {
    let directory = tempfile::tempdir().unwrap();
    let first = Process::start(directory.path(), &[]).await;
    let before = std::fs::read(directory.path().join("identity")).unwrap();
    let (code, text) = refused(directory.path(), &[]);
    assert_eq!(code, LOCKED, "{text}");
    assert!(text.contains("is in use by another process"), "{text}");
    assert_eq!(std::fs::read(directory.path().join("identity")).unwrap(), before);
    Kv::put(&first.remote(), "k", "v").await.unwrap();
    // The very same command, ports included.
    assert_eq!(first.terminate().await, 0);
}

#[tokio::test]
async fn a_directory_that_holds_something_else() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("photos")).unwrap();
    std::fs::write(directory.path().join("photos/1"), "x").unwrap();
    std::fs::write(directory.path().join("notes"), "y").unwrap();
    let before = tree(directory.path());
    let (code, text) = refused(directory.path(), &[]);
    assert_eq!(code, DISK, "{text}");
    assert!(text.contains("has no identity") && text.contains("notes") && text.contains("photos"), "{text}");
    assert_eq!(tree(directory.path()), before);
}

#[tokio::test]
async fn a_volume_that_has_lost_its_identity() {
    let directory = tempfile::tempdir().unwrap();
    volume(directory.path()).await;
    let identity = std::fs::read(directory.path().join("identity")).unwrap();
    std::fs::remove_file(directory.path().join("identity")).unwrap();
    let before = tree(directory.path());
    let (code, text) = refused(directory.path(), &[]);
    assert_eq!(code, DISK, "{text}");
    assert!(text.contains("has no identity") && text.contains("log"), "{text}");
    assert_eq!(tree(directory.path()), before);
    std::fs::write(directory.path().join("identity"), identity).unwrap();
    let node = Node::start(alone(directory.path())).await.unwrap();
    assert!(Kv::get(&node.client(), "k49").await.unwrap().is_some(), "put back, all is there");
    node.shutdown().await;
}

#[tokio::test]
async fn formats_of_another_version_and_damaged_identities() {
    let directory = tempfile::tempdir().unwrap();
    let pristine = directory.path().join("pristine");
    volume(&pristine).await;
    let version = |path: PathBuf| edit(&path, |bytes| bytes[8..12].copy_from_slice(&9_u32.to_le_bytes()));
    let change = |name: &str| {
        let copied = directory.path().join(name);
        copy(&pristine, &copied);
        copied
    };
    let identity = change("identity-version");
    version(identity.join("identity"));
    let log = change("log-version");
    version(segment(&log));
    // The checksum of the 512 bytes without its own four, so that it is a good header of a later version.
    edit(&segment(&log), |bytes| {
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..512]);
        bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
    });
    let damaged = change("identity-damage");
    edit(&damaged.join("identity"), |bytes| *bytes.last_mut().unwrap() ^= 1);
    let foreign = change("identity-foreign");
    edit(&foreign.join("identity"), |bytes| bytes[0] ^= 1);
    for (path, words) in [
        (identity, ["identity", "format version 9"]),
        (log, ["log", "version 9"]),
        (damaged, ["identity", "damaged"]),
        (foreign, ["identity", "not an identity file"]),
    ] {
        let before = kept(&path);
        let (code, text) = refused(&path, &[]);
        assert_eq!(code, DISK, "{}: {text}", path.display());
        assert!(words.iter().all(|word| text.contains(word)), "{}: {text}", path.display());
        assert_eq!(kept(&path), before, "{}", path.display());
    }
}

#[tokio::test]
async fn a_log_that_is_damaged_before_its_end() {
    let directory = tempfile::tempdir().unwrap();
    volume(directory.path()).await;
    let path = segment(directory.path());
    edit(&path, |bytes| {
        let at = bytes.windows(3).position(|window| window == b"k20").unwrap();
        bytes[at + 10] ^= 1;
    });
    let before = kept(directory.path());
    for _ in 0..2 {
        let node = Node::start(alone(directory.path())).await.unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        let text = not_ready(&node, &["the disk is lost", "damage", name]).await;
        assert!(text.contains("offset") || text.contains("byte"), "says where: {text}");
        let refused = Kv::get(&node.client(), "k1").await.unwrap_err();
        assert!(matches!(refused, Error::NotServing(_)), "{refused:?}");
        node.shutdown().await;
        assert_eq!(kept(directory.path()), before);
    }
}

/// A volume whose log was cut behind a snapshot.
async fn cut_volume(directory: &Path) {
    let tuning = Tuning { log_bytes_before_snapshot: 256 << 10, log_entries_kept: 10, ..Tuning::default() };
    let tuning = Tuning { log_segment_bytes: setstone::limits::PEER_MESSAGE_BYTES as u64, ..tuning };
    let node = Node::start(Config { tuning, ..alone(directory) }).await.unwrap();
    let store = node.client();
    Kv::put(&store, "first", "1").await.unwrap();
    let first = segment(directory);
    for number in 0..64 {
        Kv::put(&store, format!("k{number}"), vec![b'v'; 256 << 10]).await.unwrap();
    }
    let deadline = Instant::now() + Duration::from_secs(30);
    while node.metrics().snapshots_made.get() == 0 || first.exists() {
        assert!(Instant::now() < deadline, "no snapshot, or the log was not cut");
        Kv::put(&store, "more", vec![b'v'; 256 << 10]).await.unwrap();
    }
    Kv::put(&store, "last", "1").await.unwrap();
    node.shutdown().await;
}

#[tokio::test]
async fn a_snapshot_that_is_damaged() {
    let directory = tempfile::tempdir().unwrap();
    cut_volume(directory.path()).await;
    // The state can be lost: the snapshot has it.
    std::fs::remove_dir_all(directory.path().join("state")).unwrap();
    let node = Node::start(alone(directory.path())).await.unwrap();
    assert!(Kv::get(&node.client(), "last").await.unwrap().is_some());
    assert_eq!(node.client().get_prefix("k").await.unwrap().len(), 64);
    node.shutdown().await;

    std::fs::remove_dir_all(directory.path().join("state")).unwrap();
    for entry in std::fs::read_dir(directory.path().join("snapshots")).unwrap() {
        edit(&entry.unwrap().path(), |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        });
    }
    let mut before = kept(directory.path());
    for _ in 0..2 {
        let node = Node::start(alone(directory.path())).await.unwrap();
        let text = not_ready(&node, &["the disk is lost", "/snapshots/"]).await;
        assert!(text.contains("checksum") || text.contains("damage"), "{text}");
        node.shutdown().await;
        let after = kept(directory.path());
        // A snapshot that a stop left half made is removed at the next start: it was never one.
        let is_kept =
            |path: &Path| !path.starts_with("state") && path.extension().is_none_or(|kind| kind != "writing");
        let truth = |tree: &BTreeMap<PathBuf, Vec<u8>>| {
            tree.iter()
                .filter(|(path, _)| is_kept(path))
                .map(|(p, b)| (p.clone(), b.clone()))
                .collect::<Vec<_>>()
        };
        let names = |tree| truth(tree).into_iter().map(|(path, _)| path).collect::<Vec<_>>();
        assert_eq!(names(&after), names(&before));
        assert!(truth(&after) == truth(&before), "log and snapshots are as they were");
        before = after;
    }
}

#[tokio::test]
async fn an_engine_directory_that_is_damaged_heals() {
    let directory = tempfile::tempdir().unwrap();
    volume(directory.path()).await;
    let state = directory.path().join("state");
    let damages: [(&str, fn(&Path)); 5] = [
        ("one bit", |state| {
            edit(&state.join("sled/db"), |bytes| {
                let at = bytes.windows(3).position(|window| window == b"k20").unwrap();
                bytes[at + 10] ^= 1;
            });
        }),
        ("flipped", |state| {
            edit(&state.join("sled/db"), |bytes| bytes.iter_mut().step_by(61).for_each(|byte| *byte ^= 0x5a));
        }),
        ("zeroed", |state| edit(&state.join("sled/db"), |bytes| bytes.fill(0))),
        ("cut", |state| edit(&state.join("sled/db"), |bytes| bytes.truncate(bytes.len() / 3))),
        ("gone", |state| std::fs::remove_dir_all(state).unwrap()),
    ];
    for (number, (name, damage)) in (0..).zip(damages) {
        assert!(state.join("closed-cleanly").exists(), "before {name}");
        damage(&state);
        let node = Node::start(alone(directory.path())).await.unwrap();
        let store = node.client();
        assert_eq!(store.get_prefix("k").await.unwrap().len(), 50, "{name}");
        // sled may give back a part of what it had, which is believed only if the log continues it.
        assert!(name != "gone" || node.metrics().state_rebuild_seconds.get() > 0.0);
        assert_eq!(Kv::put(&store, "n", name).await.unwrap(), 52 + number, "{name}: the revision goes on");
        node.shutdown().await;
    }
}

#[tokio::test]
async fn a_directory_on_a_volume_that_cannot_be_written() {
    let directory = tempfile::tempdir().unwrap();
    volume(directory.path()).await;
    let before = tree(directory.path());
    let script = r#"mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && exec "$2" serve --data-dir "$1" \
        --listen-client 127.0.0.1:0 --listen-admin none"#;
    let output = in_own_mounts(script, directory.path());
    let Some((code, text)) = output else {
        println!("no private mounts here: a simulated volume instead");
        return;
    };
    assert_eq!(code, DISK, "{text}");
    assert!(text.contains("read-only"), "{text}");
    assert_eq!(tree(directory.path()), before);
}

/// Runs a shell script with the directory and the binary as its arguments where its mounts are nobody else's; `None` where
/// that is not allowed.
fn in_own_mounts(script: &str, directory: &Path) -> Option<(i32, String)> {
    let may = std::process::Command::new("unshare").args(["-m", "true"]).output();
    if !may.is_ok_and(|output| output.status.success()) {
        return None;
    }
    let output = std::process::Command::new("timeout")
        .args(["30", "unshare", "-m", "sh", "-c", script, "sh"])
        .arg(directory)
        .arg(env!("CARGO_BIN_EXE_setstone"))
        .output()
        .unwrap();
    Some((output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr).into_owned()))
}

/// A world whose files are simulated.
pub fn world(files: &SimulatedFiles) -> Env {
    Env {
        clock: Arc::new(SystemClock),
        random: Arc::new(SystemRandom),
        files: Arc::new(files.clone()),
        network: Arc::new(Tcp::default()),
        names: Arc::new(Dns::at(&[([127, 0, 0, 1], 53).into()]).unwrap()),
        tasks: Arc::new(Threads),
        owner: None,
    }
}

#[tokio::test]
async fn a_volume_that_becomes_read_only_or_full_while_it_is_used() {
    // Nobody watches how full it is.
    let maintenance = Maintenance { disk_reserve_bytes: 0, ..Maintenance::default() };
    let tuning = Tuning { maintenance, ..Tuning::default() };
    let config = || Config { tuning: tuning.clone(), ..Config::in_memory("alone") };
    for full in [false, true] {
        let files = SimulatedFiles::new(7);
        let node = Node::start_in(config(), world(&files)).await.unwrap();
        let store = node.client();
        Kv::put(&store, "k", "acknowledged").await.unwrap();
        if full {
            files.set_free(0);
        } else {
            files.set_read_only(true);
        }
        // A log that has space left in its file goes on for a while.
        let failed = loop {
            if let Err(error) = Kv::put(&store, "more", vec![b'v'; 1 << 20]).await {
                break error;
            }
        };
        assert!(
            failed.is_outcome_unknown() || matches!(failed, Error::Storage(_) | Error::Stopped),
            "{failed:?}"
        );
        let why = tokio::time::timeout(Duration::from_secs(20), node.failed()).await.unwrap().to_string();
        let word = if full { "space" } else { "ead-only" };
        assert!(why.contains(word), "{why}");
        assert!(!node.health().ready);
        node.shutdown().await;
        drop(node);

        // Started like this, it is refused or says why it is not ready; with the cause gone, all is there.
        match Node::start_in(config(), world(&files)).await {
            Err(error) => {
                assert!(matches!(error, Error::Disk(_)), "{error:?}");
                assert!(
                    error.to_string().contains(if full { "full" } else { "read-only" })
                        || error.to_string().contains(word),
                    "{error}"
                );
            }
            Ok(node) => {
                assert!(full, "a read-only volume is refused");
                node.shutdown().await;
            }
        }
        files.set_free(1 << 40);
        files.set_read_only(false);
        let node = Node::start_in(config(), world(&files)).await.unwrap();
        let pair = Kv::get(&node.client(), "k").await.unwrap().unwrap();
        assert_eq!(&pair.value[..], b"acknowledged");
        node.shutdown().await;
    }
}

/// Threads whose log writer is held up while the sender says so.
#[derive(Debug)]
struct Stuck(watch::Receiver<bool>);

struct Held(Box<dyn Work>, watch::Receiver<bool>);

impl Work for Held {
    fn wait(&mut self) -> BoxFuture<'_, bool> {
        Box::pin(async {
            let ready = self.0.wait().await;
            let _ = self.1.wait_for(|stuck| !stuck).await;
            ready
        })
    }

    fn step(&mut self) {
        self.0.step();
    }
}

impl Tasks for Stuck {
    fn drive(&self, name: &'static str, work: Box<dyn Work>) -> BoxFuture<'static, ()> {
        Threads.drive(name, Box::new(Held(work, self.0.clone())))
    }

    fn blocking(&self, job: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        Threads.blocking(job)
    }
}

#[tokio::test]
async fn a_stop_does_not_wait_for_a_disk_that_is_stuck() {
    let files = SimulatedFiles::new(7);
    let (stuck, state) = watch::channel(false);
    let env = Env { tasks: Arc::new(Stuck(state)), ..world(&files) };
    let grace = Duration::from_secs(2);
    let config = Config { grace_period: grace, ..Config::in_memory("alone") };
    let node = Node::start_in(config, env).await.unwrap();
    Kv::put(&node.client(), "k", "acknowledged").await.unwrap();
    stuck.send_replace(true);
    let began = Instant::now();
    node.shutdown().await;
    assert!(began.elapsed() >= grace, "it ended after {:?}: the disk was not stuck", began.elapsed());
    assert!(began.elapsed() < grace + 3 * setstone::limits::STOP_STEP, "{:?}", began.elapsed());
    // Once the disk moves again, what was left undone ends too, and gives the directory back.
    stuck.send_replace(false);
    drop(node);
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut tries = tokio::time::interval(Duration::from_millis(20));
    let node = loop {
        match Node::start_in(Config::in_memory("alone"), world(&files)).await {
            Err(Error::Locked(_)) if Instant::now() < deadline => {
                tries.tick().await;
            }
            result => break result.unwrap(),
        }
    };
    let pair = Kv::get(&node.client(), "k").await.unwrap().unwrap();
    assert_eq!(&pair.value[..], b"acknowledged");
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn disks_of_another_cluster_and_of_another_ordinal() {
    let root = tempfile::tempdir().unwrap();
    let (ours, theirs) = (root.path().join("ours"), root.path().join("theirs"));
    let foreign = TestCluster::start_in(&theirs, 3).await.unwrap();
    Kv::put(&foreign.client(), "k", "theirs").await.unwrap();
    foreign.shutdown().await;

    let mut cluster = TestCluster::start_in(&ours, 3).await.unwrap();
    Kv::put(&cluster.client(), "k", "ours").await.unwrap();
    let own = cluster.node(2).unwrap().addresses();
    let peers: Vec<_> =
        (0..3).map(|index| cluster.node(index).unwrap().addresses().peer.unwrap().to_string()).collect();
    cluster.stop(2).await;
    for (volume, words) in [
        (theirs.join("member-2"), ["all pods that answer are of", "cluster"]),
        (theirs.join("member-1"), ["ordinal 1", "ordinal 2"]),
    ] {
        let before = kept(&volume);
        let config = Config {
            data: Data::Directory(volume.clone()),
            cluster: Cluster::Fixed { ordinal: 2, peers: peers.clone() },
            listen_peer: own.peer.unwrap(),
            ..Config::in_memory("member-2")
        };
        let node = Node::start(config).await.unwrap();
        not_ready(&node, &words).await;
        assert!(matches!(Kv::get(&node.client(), "k").await, Err(Error::NotServing(_))));
        assert_eq!(&Kv::get(&cluster.client(), "k").await.unwrap().unwrap().value[..], b"ours");
        node.shutdown().await;
        let mut after = kept(&volume);
        after.retain(|path, _| !path.starts_with("state"));
        let mut before = before;
        before.retain(|path, _| !path.starts_with("state"));
        assert!(after == before, "{}", volume.display());
    }
    cluster.start_again(2).await.unwrap();
    cluster.shutdown().await;
    let foreign = TestCluster::start_in(&theirs, 3).await;
    drop(foreign);
}
