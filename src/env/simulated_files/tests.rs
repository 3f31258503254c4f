//! What the simulated disk loses and keeps.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::collections::BTreeSet;

use super::*;
use crate::env::real_files::RealFiles;

fn content(files: &SimulatedFiles, path: &str) -> Option<Vec<u8>> {
    let file = files.open(Path::new(path), Open::Read).ok()?;
    let mut bytes = vec![0; file.length().unwrap() as usize];
    file.read_at(&mut bytes, 0).unwrap();
    Some(bytes)
}

fn create(files: &SimulatedFiles, path: &str) -> Box<dyn File> {
    files.open(Path::new(path), Open::Create).unwrap()
}

#[test]
fn bytes_are_durable_after_sync_data_and_names_after_sync_dir() {
    let files = SimulatedFiles::new(1);
    let file = create(&files, "/a");
    file.write_at(b"one", 0).unwrap();
    file.sync_data().unwrap();
    assert_eq!(content(&files, "/a").unwrap(), b"one");
    files.crash(Crash::LoseAll);
    assert_eq!(content(&files, "/a"), None, "the name was not synced");

    let file = create(&files, "/a");
    file.write_at(b"one", 0).unwrap();
    files.sync_dir(Path::new("/")).unwrap();
    files.crash(Crash::LoseAll);
    assert_eq!(content(&files, "/a").unwrap(), b"", "the bytes were not synced");
    assert!(file.write_at(b"x", 0).is_err(), "a handle does not outlive its process");

    let file = files.open(Path::new("/a"), Open::Write).unwrap();
    file.write_at(b"one", 0).unwrap();
    file.sync_data().unwrap();
    file.write_at(b"two", 0).unwrap();
    files.kill();
    assert_eq!(content(&files, "/a").unwrap(), b"two", "the kernel lives on");
    files.crash(Crash::LoseAll);
    assert_eq!(content(&files, "/a").unwrap(), b"one");
}

#[test]
fn a_crash_keeps_any_subset_of_unsynced_sectors_and_names() {
    let mut contents = BTreeSet::new();
    let mut names = BTreeSet::new();
    for seed in 0..200 {
        let files = SimulatedFiles::new(1);
        let file = create(&files, "/a");
        file.allocate(1024).unwrap();
        file.sync_data().unwrap();
        files.sync_dir(Path::new("/")).unwrap();
        file.write_at(&[1; 1024], 0).unwrap();
        create(&files, "/b");
        files.rename(Path::new("/a"), Path::new("/c")).unwrap();
        files.crash(Crash::Seeded(seed));
        let kept = files.list(Path::new("/")).unwrap();
        let path = if kept.contains(&"c".to_owned()) { "/c" } else { "/a" };
        let bytes = content(&files, path).expect("a rename is one change");
        assert!(bytes[..512].iter().all(|byte| *byte == bytes[0]), "a sector is whole");
        contents.insert((bytes[0], bytes[512]));
        names.insert(kept);
    }
    assert_eq!(contents.len(), 4);
    assert_eq!(names.len(), 4);
}

#[test]
fn the_same_seeds_give_the_same_disk() {
    let run = || {
        let files = SimulatedFiles::new(7);
        let file = create(&files, "/a");
        files.sync_dir(Path::new("/")).unwrap();
        file.write_at(&vec![9; 20_000], 100).unwrap();
        files.crash(Crash::Seeded(3));
        content(&files, "/a").unwrap()
    };
    assert_eq!(run(), run());
}

#[test]
fn what_a_failed_sync_covered_may_be_lost_even_if_the_next_one_succeeds() {
    let mut survived = BTreeSet::new();
    for seed in 0..50 {
        let files = SimulatedFiles::new(seed);
        let file = create(&files, "/a");
        files.sync_dir(Path::new("/")).unwrap();
        file.allocate(512).unwrap();
        file.sync_data().unwrap();
        file.write_at(&[1; 512], 0).unwrap();
        files.fail_sync_after(0);
        file.sync_data().unwrap_err();
        file.sync_data().unwrap();
        assert_eq!(content(&files, "/a").unwrap()[0], 1, "the cache has it still");
        files.crash(Crash::LoseAll);
        survived.insert(content(&files, "/a").unwrap()[0]);
    }
    assert_eq!(survived, BTreeSet::from([0, 1]));
}

#[test]
fn a_full_disk_a_lost_power_and_a_read_only_volume_refuse() {
    let files = SimulatedFiles::new(1);
    files.set_free(1000);
    let file = create(&files, "/a");
    file.allocate(900).unwrap();
    file.write_at(&[1; 900], 0).unwrap();
    assert_eq!(file.write_at(&[1; 101], 900).unwrap_err().kind(), io::ErrorKind::StorageFull);
    assert_eq!(files.space(Path::new("/")).unwrap().free, 100);
    files.remove_file(Path::new("/a")).unwrap();
    assert_eq!(files.space(Path::new("/")).unwrap().free, 1000);

    files.set_read_only(true);
    let refused = files.open(Path::new("/b"), Open::Create).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ReadOnlyFilesystem);
    files.set_read_only(false);

    let before = files.operations();
    let file = create(&files, "/b");
    files.stop_after(1);
    file.write_at(b"x", 0).unwrap();
    assert!(files.stopped());
    file.sync_data().unwrap_err();
    files.sync_dir(Path::new("/")).unwrap_err();
    assert_eq!(files.operations(), before + 2);
}

#[test]
fn a_shortened_file_reads_zeros_when_it_grows_again() {
    let files = SimulatedFiles::new(1);
    let file = create(&files, "/a");
    file.write_at(&[7; 2000], 0).unwrap();
    file.set_length(700).unwrap();
    file.set_length(2000).unwrap();
    let bytes = content(&files, "/a").unwrap();
    assert!(bytes[..700].iter().all(|byte| *byte == 7) && bytes[700..].iter().all(|byte| *byte == 0));
}

#[test]
fn a_lock_is_exclusive_until_it_or_its_process_is_gone() {
    let files = SimulatedFiles::new(1);
    let lock = files.lock(Path::new("/lock")).unwrap();
    assert_eq!(files.lock(Path::new("/lock")).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    drop(lock);
    let lock = files.lock(Path::new("/lock")).unwrap();
    files.kill();
    let again = files.lock(Path::new("/lock")).unwrap();
    drop(lock);
    assert!(files.lock(Path::new("/lock")).is_err(), "the lock of the dead frees nothing");
    drop(again);
}

#[test]
fn directories_are_made_moved_and_removed() {
    let files = SimulatedFiles::new(1);
    files.create_dir_all(Path::new("/a/b")).unwrap();
    create(&files, "/a/b/c");
    files.rename(Path::new("/a"), Path::new("/z")).unwrap();
    assert!(files.exists(Path::new("/z/b/c")).unwrap());
    files.remove_dir_all(Path::new("/z")).unwrap();
    assert_eq!(files.list(Path::new("/")).unwrap(), Vec::<String>::new());
    assert!(files.remove_file(Path::new("/z")).is_err());
}

/// What does not concern crashes is the same as on the real file system.
#[test]
fn both_file_systems_answer_alike() {
    let temporary = tempfile::tempdir().unwrap();
    answers_as_files_do(&RealFiles, temporary.path());
    let simulated = SimulatedFiles::new(1);
    simulated.create_dir_all(Path::new("/tmp/x")).unwrap();
    answers_as_files_do(&simulated, Path::new("/tmp/x"));
}

fn answers_as_files_do(files: &dyn Files, root: &Path) {
    let kind = |result: io::Result<()>| result.unwrap_err().kind();
    let open = |name: &str, how| files.open(&root.join(name), how);
    assert_eq!(kind(open("a", Open::Read).map(drop)), io::ErrorKind::NotFound);
    assert_eq!(kind(open("a", Open::Write).map(drop)), io::ErrorKind::NotFound);
    assert_eq!(kind(open("no/a", Open::Create).map(drop)), io::ErrorKind::NotFound);
    let file = open("a", Open::Create).unwrap();
    assert_eq!(kind(open("a", Open::Create).map(drop)), io::ErrorKind::AlreadyExists);
    file.write_at(b"abc", 1000).unwrap();
    assert_eq!(file.length().unwrap(), 1003);
    let mut buffer = [9; 10];
    assert_eq!(file.read_at(&mut buffer, 998).unwrap(), 5);
    assert_eq!(&buffer, b"\0\0abc\x09\x09\x09\x09\x09");
    assert_eq!(file.read_at(&mut buffer, 2000).unwrap(), 0);
    file.allocate(500).unwrap();
    assert_eq!(file.length().unwrap(), 1003, "an allocation does not shorten");
    file.allocate(5000).unwrap();
    file.sync_data().unwrap();
    assert_eq!(file.length().unwrap(), 5000);
    file.set_length(1).unwrap();
    assert_eq!(file.length().unwrap(), 1);
    assert!(open("a", Open::Read).unwrap().write_at(b"x", 0).is_err(), "opened for reading");

    files.create_dir_all(&root.join("d/e")).unwrap();
    files.create_dir_all(&root.join("d/e")).unwrap();
    assert_eq!(kind(open("d", Open::Write).map(drop)), io::ErrorKind::IsADirectory);
    assert_eq!(kind(files.create_dir_all(&root.join("a/b"))), io::ErrorKind::NotADirectory);
    open("d/e/f", Open::Create).unwrap();
    files.rename(&root.join("a"), &root.join("d/e/f")).unwrap();
    assert!(!files.exists(&root.join("a")).unwrap());
    assert_eq!(open("d/e/f", Open::Read).unwrap().length().unwrap(), 1, "a rename replaces");
    assert_eq!(kind(files.rename(&root.join("a"), &root.join("b"))), io::ErrorKind::NotFound);
    open("z", Open::Create).unwrap();
    assert_eq!(files.list(root).unwrap(), ["d", "z"]);
    assert_eq!(kind(files.list(&root.join("no")).map(drop)), io::ErrorKind::NotFound);
    files.sync_dir(&root.join("d")).unwrap();
    assert_eq!(kind(files.remove_file(&root.join("no"))), io::ErrorKind::NotFound);
    files.remove_file(&root.join("z")).unwrap();
    let held = open("d/e/f", Open::Read).unwrap();
    files.remove_dir_all(&root.join("d")).unwrap();
    files.sync_dir(root).unwrap();
    assert_eq!(held.length().unwrap(), 1, "an open file outlives its name");
    assert_eq!(files.list(root).unwrap(), Vec::<String>::new());

    let lock = files.lock(&root.join("lock")).unwrap();
    assert_eq!(kind(files.lock(&root.join("lock")).map(drop)), io::ErrorKind::WouldBlock);
    drop(lock);
    files.lock(&root.join("lock")).unwrap();
    let space = files.space(root).unwrap();
    assert!(space.free <= space.total && space.total > 0);
}

#[test]
fn a_volume_is_replaced_by_a_copy_of_what_was_durable() {
    let files = SimulatedFiles::new(1);
    let path = Path::new("/f");
    let file = files.open(path, Open::Create).unwrap();
    file.write_at(b"old", 0).unwrap();
    file.sync_data().unwrap();
    files.sync_dir(Path::new("/")).unwrap();
    file.write_at(b"new", 0).unwrap();
    let copy = files.copy();
    file.sync_data().unwrap();
    assert_eq!((files.open_files(), copy.open_files()), (1, 0));
    let lock = files.lock(Path::new("/lock")).unwrap();
    files.set_free(1000);

    files.replace(&copy);
    assert_eq!(files.space(Path::new("/")).unwrap().free, 1000, "others fill it as before");
    assert!(file.write_at(b"x", 0).is_err(), "the process that had it open is gone");
    drop((file, lock));
    let file = files.open(path, Open::Read).unwrap();
    let mut bytes = [0; 3];
    assert_eq!(file.read_at(&mut bytes, 0).unwrap(), 3);
    assert_eq!(&bytes, b"old");
    assert!(files.lock(Path::new("/lock")).is_ok());
    drop(file);
    assert_eq!(files.open_files(), 0);
}
