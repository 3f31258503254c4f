#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::path::Path;

use super::*;
use crate::identity::{ClusterId, NodeId};
use crate::storage::engine::Batch;

fn global() -> Global {
    let timeout = std::time::Duration::from_secs(1);
    Global {
        endpoints: String::new(),
        json: false,
        timeout,
        user: None,
        password: None,
        tls: Default::default(),
    }
}

fn checked(directory: &Path) -> (Result<Exit, Failure>, String) {
    let mut out = Vec::new();
    let exit = run(&Arguments { directory: directory.to_owned() }, &global(), &mut out);
    (exit, String::from_utf8(out).unwrap())
}

fn identity(state: DiskState) -> Identity {
    Identity {
        cluster: ClusterId(7),
        supersedes: vec![],
        node_id: NodeId::new(2, 1),
        ordinal: 2,
        state,
        boot: 3,
        last_stop: None,
    }
}

#[test]
fn a_directory_that_is_not_there_is_not_made() {
    let root = tempfile::tempdir().unwrap();
    let missing = root.path().join("missing");
    assert_eq!(checked(&missing).0.unwrap_err().exit, Exit::Failed);
    assert!(!missing.exists());
}

#[test]
fn an_empty_directory_is_blank() {
    let root = tempfile::tempdir().unwrap();
    let (exit, text) = checked(root.path());
    assert_eq!(exit.unwrap(), Exit::Ok);
    assert!(text.contains("is blank"), "{text}");
}

#[test]
fn a_directory_in_use_is_not_read() {
    let root = tempfile::tempdir().unwrap();
    let lock = RealFiles.lock(&root.path().join("lock")).unwrap();
    assert_eq!(checked(root.path()).0.unwrap_err().exit, Exit::Locked);
    drop(lock);
    assert_eq!(checked(root.path()).0.unwrap(), Exit::Ok);
}

#[test]
fn a_member_without_a_log_is_damaged() {
    let root = tempfile::tempdir().unwrap();
    IdentityFile::new(Arc::new(RealFiles), root.path()).store(&identity(DiskState::Member)).unwrap();
    let (exit, text) = checked(root.path());
    assert_eq!(exit.unwrap(), Exit::Disk);
    assert!(text.contains("there is no log"), "{text}");
    assert!(text.contains("cluster 0000000000000007, node 2#1, ordinal 2, boot 3"), "{text}");
}

#[test]
fn what_remains_without_an_identity_is_damaged() {
    let root = tempfile::tempdir().unwrap();
    std::fs::write(root.path().join("something"), "x").unwrap();
    let (exit, text) = checked(root.path());
    assert_eq!(exit.unwrap(), Exit::Disk);
    assert!(text.contains("missing, but the directory is not blank"), "{text}");
}

#[test]
fn a_clean_state_is_read_and_stays_clean() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("state");
    let kind = EngineKind::Disk { cache_bytes: 1 << 20 };
    let opened = state::open_state(&RealFiles, &Threads, &path, kind).unwrap();
    state::close_state(&RealFiles, &path, kind, &*opened.engine).unwrap();
    for _ in 0..2 {
        assert_eq!(scan_state(&RealFiles, &path, true).unwrap(), "revision 1, compacted up to -1");
    }
    assert!(path.join("closed-cleanly").exists());
}

#[test]
fn a_damaged_state_is_told_and_not_called_clean_again() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("state");
    let kind = EngineKind::Disk { cache_bytes: 1 << 20 };
    let opened = state::open_state(&RealFiles, &Threads, &path, kind).unwrap();
    let (from, _) = crate::mvcc::layout::small_span();
    let garbage = Bytes::from([&from[..], b"\xff\xff"].concat());
    opened.engine.commit(Batch { puts: vec![(garbage, "x".into())], deletes: vec![] }).unwrap();
    state::close_state(&RealFiles, &path, kind, &*opened.engine).unwrap();
    assert!(scan_state(&RealFiles, &path, true).is_err());
    assert!(scan_state(&RealFiles, &path, true).unwrap().contains("not closed cleanly"));
}
