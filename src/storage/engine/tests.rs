//! The same suite for every engine.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // Real files and threads are part of what is tested.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use super::state::{EngineKind, close_state, open_state, reset_state};
use super::*;
use crate::env::Files;
use crate::env::real_files::RealFiles;
use crate::env::tasks::Threads;

const DISK: EngineKind = EngineKind::Disk { cache_bytes: 4 << 20 };

/// Runs a test with each engine, empty.
fn each(test: impl Fn(&dyn Engine)) {
    test(&MemoryEngine::new());
    let temporary = tempfile::tempdir().unwrap();
    test(&SledEngine::open(temporary.path(), 4 << 20).unwrap());
    // One that writes at once, one that writes now and then, one that never does.
    for limit in [0, 10_000, usize::MAX] {
        test(&WriteBehind::new(Box::new(MemoryEngine::new()), limit, &Threads));
    }
}

fn put(key: &[u8], value: &[u8]) -> (Bytes, Bytes) {
    (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value))
}

fn commit(engine: &dyn Engine, puts: &[(&[u8], &[u8])], deletes: &[&[u8]]) {
    let puts = puts.iter().map(|(key, value)| put(key, value)).collect();
    let deletes = deletes.iter().map(|key| Bytes::copy_from_slice(key)).collect();
    engine.commit(Batch { puts, deletes }).unwrap();
}

pub(super) fn scan(engine: &dyn Engine, from: &[u8], to: &[u8]) -> Vec<(Bytes, Bytes)> {
    let mut found = Vec::new();
    engine
        .scan(from, to, &mut |key, value| {
            found.push((key, value));
            ControlFlow::Continue(())
        })
        .unwrap();
    found
}

#[test]
fn pairs_are_put_read_and_deleted() {
    each(|engine| {
        assert_eq!(engine.get(b"a").unwrap(), None);
        commit(engine, &[(b"a", b"1"), (b"b", b""), (b"\xff\xff", b"3"), (b"", b"empty")], &[]);
        assert_eq!(engine.get(b"a").unwrap().unwrap(), "1");
        assert_eq!(engine.get(b"b").unwrap().unwrap(), "");
        assert_eq!(engine.get(b"").unwrap().unwrap(), "empty");
        commit(engine, &[(b"a", b"2")], &[b"b", b"not there"]);
        assert_eq!(engine.get(b"a").unwrap().unwrap(), "2");
        assert_eq!(engine.get(b"b").unwrap(), None);
        commit(engine, &[], &[]);
        let large = vec![7; 300_000];
        commit(engine, &[(b"large", &large)], &[]);
        assert_eq!(engine.get(b"large").unwrap().unwrap(), large);
    });
}

#[test]
fn floor_is_the_greatest_key_that_is_not_after() {
    each(|engine| {
        assert_eq!(engine.floor(Bound::Included(b"x")).unwrap(), None);
        commit(engine, &[(b"b", b"1"), (b"bb", b"2"), (b"d", b"3")], &[]);
        assert_eq!(engine.floor(Bound::Included(b"a")).unwrap(), None);
        assert_eq!(engine.floor(Bound::Included(b"b")).unwrap(), Some(put(b"b", b"1")));
        assert_eq!(engine.floor(Bound::Included(b"ba")).unwrap(), Some(put(b"b", b"1")));
        assert_eq!(engine.floor(Bound::Included(b"c")).unwrap(), Some(put(b"bb", b"2")));
        assert_eq!(engine.floor(Bound::Included(b"\xff")).unwrap(), Some(put(b"d", b"3")));
    });
}

#[test]
fn a_scan_visits_its_range_in_order_until_it_breaks() {
    each(|engine| {
        let keys: Vec<[u8; 2]> = (0..1000u16).map(u16::to_be_bytes).collect();
        let puts = keys.iter().map(|key| put(key, key)).collect();
        engine.commit(Batch { puts, deletes: Vec::new() }).unwrap();
        let all: Vec<_> = keys.iter().map(|key| put(key, key)).collect();
        assert_eq!(scan(engine, b"", b""), all);
        assert_eq!(scan(engine, &keys[10], &keys[900]), all[10..900]);
        assert_eq!(scan(engine, &keys[990], b""), all[990..]);
        assert_eq!(scan(engine, &keys[10], &keys[10]), vec![]);
        assert_eq!(scan(engine, &keys[11], &keys[10]), vec![]);
        let mut seen = 0;
        engine
            .scan(b"", b"", &mut |_, _| {
                seen += 1;
                if seen == 300 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
            .unwrap();
        assert_eq!(seen, 300);
        // A visitor may use the engine.
        engine
            .scan(&keys[0], &keys[2], &mut |key, _| {
                commit(engine, &[(b"copy", &key)], &[]);
                ControlFlow::Continue(())
            })
            .unwrap();
        assert_eq!(engine.get(b"copy").unwrap().unwrap(), keys[1].to_vec());
    });
}

#[test]
fn after_close_every_call_says_so() {
    each(|engine| {
        commit(engine, &[(b"a", b"1")], &[]);
        engine.flush().unwrap();
        assert!(engine.size_on_disk().unwrap() > 0);
        engine.close().unwrap();
        engine.close().unwrap();
        assert!(matches!(engine.get(b"a"), Err(EngineError::Closed)));
        assert!(matches!(engine.floor(Bound::Included(b"a")), Err(EngineError::Closed)));
        assert!(matches!(engine.commit(Batch::default()), Err(EngineError::Closed)));
        assert!(matches!(engine.flush(), Err(EngineError::Closed)));
        assert!(matches!(engine.size_on_disk(), Err(EngineError::Closed)));
        let visited = engine.scan(b"", b"", &mut |_, _| ControlFlow::Continue(()));
        assert!(matches!(visited, Err(EngineError::Closed)));
    });
}

#[test]
fn a_fork_lives_on_its_own() {
    let engine = MemoryEngine::new();
    commit(&engine, &[(b"a", b"1")], &[]);
    let fork = engine.fork();
    commit(&engine, &[(b"a", b"2")], &[]);
    commit(&fork, &[(b"b", b"3")], &[]);
    assert_eq!(fork.get(b"a").unwrap().unwrap(), "1");
    assert_eq!(engine.get(b"b").unwrap(), None);
    assert_eq!(fork.size_on_disk().unwrap(), 4);
}

#[test]
fn only_a_clean_close_leaves_a_marker_and_an_open_takes_it() {
    let temporary = tempfile::tempdir().unwrap();
    let state = temporary.path().join("state");
    let opened = open_state(&RealFiles, &Threads, &state, DISK).unwrap();
    assert!(!opened.clean, "a new one holds nothing");
    commit(&*opened.engine, &[(b"a", b"1")], &[]);
    close_state(&RealFiles, &state, DISK, &*opened.engine).unwrap();

    let opened = open_state(&RealFiles, &Threads, &state, DISK).unwrap();
    assert!(opened.clean);
    assert_eq!(opened.engine.get(b"a").unwrap().unwrap(), "1");
    opened.engine.close().unwrap();
    let opened = open_state(&RealFiles, &Threads, &state, DISK).unwrap();
    assert!(!opened.clean, "closed without a marker");
    close_state(&RealFiles, &state, DISK, &*opened.engine).unwrap();

    std::fs::write(state.join("closed-cleanly"), "setstone state 2\n").unwrap();
    let opened = open_state(&RealFiles, &Threads, &state, DISK).unwrap();
    assert!(!opened.clean, "another version's marker is none");
    opened.engine.close().unwrap();
    reset_state(&RealFiles, &state).unwrap();
    assert!(!RealFiles.exists(&state).unwrap());
    reset_state(&RealFiles, &state).unwrap();
    let opened = open_state(&RealFiles, &Threads, &state, DISK).unwrap();
    assert_eq!((opened.clean, opened.engine.get(b"a").unwrap()), (false, None));

    let memory = open_state(&RealFiles, &Threads, Path::new("/nowhere"), EngineKind::Memory).unwrap();
    assert!(!memory.clean);
    close_state(&RealFiles, Path::new("/nowhere"), EngineKind::Memory, &*memory.engine).unwrap();
}

/// sled panics over some damage. Whatever it does, it must not take the process with it, and a reset must help.
#[test]
fn damaged_files_are_an_error_or_an_engine_but_never_a_panic() {
    for at in [0.0, 0.1, 0.5, 0.9] {
        for zeros in [true, false] {
            let temporary = tempfile::tempdir().unwrap();
            let state = temporary.path().join("state");
            let opened = open_state(&RealFiles, &Threads, &state, DISK).unwrap();
            for number in 0..200u32 {
                commit(&*opened.engine, &[(&number.to_be_bytes(), &[3; 3000])], &[]);
            }
            close_state(&RealFiles, &state, DISK, &*opened.engine).unwrap();
            drop(opened);
            let path = state.join("sled/db");
            let mut bytes = std::fs::read(&path).unwrap();
            let from = (bytes.len() as f64 * at) as usize;
            let rest = &mut bytes[from..];
            if zeros {
                rest.fill(0);
            } else {
                rest.iter_mut().step_by(97).for_each(|byte| *byte ^= 0x55);
            }
            std::fs::write(&path, &bytes).unwrap();
            if let Ok(opened) = open_state(&RealFiles, &Threads, &state, DISK) {
                let _ = opened.engine.scan(b"", b"", &mut |_, _| ControlFlow::Continue(()));
                let _ = opened.engine.close();
            }
            reset_state(&RealFiles, &state).unwrap();
            let opened = open_state(&RealFiles, &Threads, &state, DISK).unwrap();
            assert_eq!(opened.engine.get(&0u32.to_be_bytes()).unwrap(), None);
        }
    }
}

fn key() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(0..3u8, 0..4).prop_map(Bytes::from)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_engine_is_a_sorted_map(
        batches in prop::collection::vec(prop::collection::btree_map(key(), prop::option::of(any::<u8>()), 0..8), 1..20),
        from in key(),
        to in key(),
    ) {
        let temporary = tempfile::tempdir().unwrap();
        let sled: Arc<dyn Engine> = Arc::new(SledEngine::open(temporary.path(), 1 << 20).unwrap());
        let engines: [Arc<dyn Engine>; 2] = [Arc::new(MemoryEngine::new()), sled];
        let mut model = BTreeMap::new();
        for changes in batches {
            let mut batch = Batch::default();
            for (key, value) in changes {
                if let Some(value) = value {
                    let value = Bytes::from(vec![value; 3]);
                    model.insert(key.clone(), value.clone());
                    batch.puts.push((key, value));
                } else {
                    model.remove(&key);
                    batch.deletes.push(key);
                }
            }
            for engine in &engines {
                engine.commit(batch.clone()).unwrap();
                let floor = model.range(..=from.clone()).next_back().map(|(key, value)| (key.clone(), value.clone()));
                prop_assert_eq!(engine.floor(Bound::Included(&from)).unwrap(), floor);
                prop_assert_eq!(engine.get(&from).unwrap(), model.get(&from).cloned());
                let expected: Vec<_> = model
                    .iter()
                    .filter(|(key, _)| **key >= from && (to.is_empty() || **key < to))
                    .map(|(key, value)| (key.clone(), value.clone()))
                    .collect();
                prop_assert_eq!(scan(&**engine, &from, &to), expected);
            }
        }
    }
}

/// A sled with 200 MB of what is dead, and the little that is not.
fn fragmented(directory: &Path) -> SledEngine {
    let engine = SledEngine::open(directory, 4 << 20).unwrap();
    let value = vec![b'v'; 8_000];
    for round in 0..4_u32 {
        for number in 0..1_000_u32 {
            let key = [&round.to_be_bytes()[..], &number.to_be_bytes()].concat();
            commit(&engine, &[(&key, &value)], &[]);
        }
    }
    for round in 0..4_u32 {
        for number in (0..1_000_u32).filter(|number| !number.is_multiple_of(50)) {
            let key = [&round.to_be_bytes()[..], &number.to_be_bytes()].concat();
            commit(&engine, &[], &[&key]);
        }
    }
    engine.flush().unwrap();
    engine
}

#[test]
fn a_defragmented_sled_is_smaller_and_holds_the_same() {
    let temporary = tempfile::tempdir().unwrap();
    let directory = temporary.path().join("sled");
    let engine = fragmented(&directory);
    let (before, size) = (scan(&engine, b"", b""), engine.size_on_disk().unwrap());
    assert_eq!(before.len(), 80);
    // Twice: the second one goes back to the first directory.
    for _ in 0..2 {
        engine.defragment().unwrap();
        assert_eq!(scan(&engine, b"", b""), before);
        engine.flush().unwrap();
        let now = engine.size_on_disk().unwrap();
        assert!(now < size / 2, "{now} of {size} bytes");
        commit(&engine, &[(b"x", b"1")], &[]);
        commit(&engine, &[], &[b"x"]);
        let names = RealFiles.list(temporary.path()).unwrap();
        assert_eq!(names.len(), 1, "the old files are gone: {names:?}");
    }
    engine.defragment().unwrap();
    engine.close().unwrap();
    assert_eq!(RealFiles.list(temporary.path()).unwrap(), ["sled"]);
    drop(engine);
    let engine = SledEngine::open(&directory, 4 << 20).unwrap();
    assert_eq!(scan(&engine, b"", b""), before);
}

#[test]
fn what_is_written_and_read_during_a_defragmentation_is_there() {
    let temporary = tempfile::tempdir().unwrap();
    let engine = Arc::new(fragmented(&temporary.path().join("sled")));
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (writing, stopped) = (engine.clone(), stop.clone());
    let writer = std::thread::spawn(move || {
        let mut count = 0_u32;
        // Below, among and above the keys that are copied.
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) || count < 100 {
            for prefix in [&b"\0\0\0\0"[..], b"\0\0\0\x02", b"\xff"] {
                let key = [prefix, b"new", &count.to_be_bytes()].concat();
                commit(&*writing, &[(&key, b"new")], &[]);
                if count.is_multiple_of(3) {
                    commit(&*writing, &[], &[&key]);
                }
                assert_eq!(writing.get(&key).unwrap().is_some(), !count.is_multiple_of(3));
            }
            count += 1;
        }
        count
    });
    for _ in 0..3 {
        engine.defragment().unwrap();
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let count = writer.join().unwrap();
    let found = scan(&*engine, b"", b"");
    let kept = (0..count).filter(|count| !count.is_multiple_of(3)).count();
    assert_eq!(found.len(), 80 + 3 * kept);
    engine.close().unwrap();
    assert!(matches!(engine.defragment(), Err(EngineError::Closed)));
}
