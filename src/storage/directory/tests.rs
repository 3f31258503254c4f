//! Layout, lock, and setting aside.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // Real files and threads are part of what is tested.

use bytes::Bytes;

use super::*;
use crate::env::files::Open;
use crate::env::real_files::RealFiles;
use crate::env::simulated_files::Crash;
use crate::storage::log::{Entry, Log, LogId, Options};
use crate::storage::replace_file;
use crate::storage::testing::World;

fn open(world: &World) -> Result<DataDirectory, DirectoryError> {
    DataDirectory::open(Arc::new(world.files.clone()), Path::new("/data"))
}

fn read(world: &World, path: &Path) -> Vec<u8> {
    crate::storage::read_small_file(&world.files, path, 100).unwrap()
}

#[test]
fn a_second_process_is_told_which_directory_is_in_use() {
    let temporary = tempfile::tempdir().unwrap();
    let root = temporary.path().join("a/b");
    let first = DataDirectory::open(Arc::new(RealFiles), &root).unwrap();
    let second = DataDirectory::open(Arc::new(RealFiles), &root).unwrap_err();
    assert!(matches!(&second, DirectoryError::Locked(at) if *at == root));
    assert_eq!(
        second.to_string(),
        format!("the data directory {} is in use by another process", root.display())
    );
    assert!(first.space().unwrap().free > 0 && first.space().unwrap().total > 0);
    assert_eq!(first.contents().unwrap(), Contents::Blank);
    drop(first);
    DataDirectory::open(Arc::new(RealFiles), &root).unwrap();
    let file = temporary.path().join("file");
    std::fs::write(&file, "").unwrap();
    assert!(matches!(DataDirectory::open(Arc::new(RealFiles), &file), Err(DirectoryError::Io { .. })));
}

#[test]
fn a_read_only_volume_is_said_so_and_a_full_one_opens() {
    let world = World::new(1);
    world.files.set_read_only(true);
    assert!(matches!(open(&world), Err(DirectoryError::ReadOnly(at)) if at == Path::new("/data")));
    world.files.set_read_only(false);
    drop(open(&world).unwrap());
    world.files.set_read_only(true);
    assert!(matches!(open(&world), Err(DirectoryError::ReadOnly(_))), "with a lock file as well");
    world.files.set_read_only(false);
    world.files.set_free(0);
    let directory = open(&world).unwrap();
    assert_eq!(directory.space().unwrap().free, 0);
    assert_eq!(directory.contents().unwrap(), Contents::Blank);
}

#[test]
fn blank_is_what_never_had_an_identity() {
    let world = World::new(1);
    let directory = open(&world).unwrap();
    world.files.create_dir_all(Path::new("/data/lost+found")).unwrap();
    for made in ["snapshots", "incoming", "state"] {
        world.files.create_dir_all(&directory.root().join(made)).unwrap();
    }
    world.files.open(Path::new("/data/identity.tmp"), Open::Create).unwrap();
    assert_eq!(directory.contents().unwrap(), Contents::Blank);

    // A first bootstrap makes the log, then the identity. It may break off anywhere before.
    let log = directory.log();
    world.files.create_dir_all(&log).unwrap();
    assert_eq!(directory.contents().unwrap(), Contents::Blank);
    Log::create(&world.env, &log, Options::default()).unwrap();
    assert_eq!(directory.contents().unwrap(), Contents::Blank);
    let (opened, _) = Log::open(&world.env, &log, Options::default()).unwrap();
    let entry = Entry { id: LogId { term: 1, index: 0 }, payload: Bytes::new() };
    opened.append(vec![entry], Box::new(|_| {}));
    world.tasks.run();
    assert_eq!(directory.contents().unwrap(), Contents::Remains(vec!["log".to_owned()]));

    replace_file(&world.files, &directory.identity(), b"me").unwrap();
    assert_eq!(directory.contents().unwrap(), Contents::Identity);
    directory.retire("1").unwrap();
    assert_eq!(directory.contents().unwrap(), Contents::Identity, "it was in use, and says so");
    world.files.remove_file(&directory.identity()).unwrap();
    assert_eq!(directory.contents().unwrap(), Contents::Remains(vec!["retired-1".to_owned()]));
}

#[test]
fn setting_aside_is_complete_or_can_be_completed_after_every_crash() {
    let mut stop = 0;
    let mut complete = false;
    while !complete {
        for keep in [Crash::LoseAll, Crash::KeepAll, Crash::Seeded(1), Crash::Seeded(2), Crash::Seeded(3)] {
            let world = World::new(stop);
            let directory = open(&world).unwrap();
            for part in ["log", "snapshots", "state"] {
                let path = directory.root().join(part);
                world.files.create_dir_all(&path).unwrap();
                replace_file(&world.files, &path.join("file"), part.as_bytes()).unwrap();
            }
            replace_file(&world.files, &directory.identity(), b"me").unwrap();
            world.files.stop_after(stop);
            let retired = directory.retire("x");
            complete = !world.files.stopped();
            assert!(retired.is_ok() || !complete);
            world.files.crash(keep);
            let directory = open(&world).unwrap();
            assert_eq!(directory.contents().unwrap(), Contents::Identity, "{stop} {keep:?}");
            assert_eq!(read(&world, &directory.identity()), b"me");
            // The log of the successor, which has no identity yet, is not the one to be set aside.
            if retired.is_ok() {
                world.files.create_dir_all(&directory.root().join("log")).unwrap();
            }
            directory.retire("x").unwrap();
            assert_eq!(world.files.exists(&directory.root().join("log")).unwrap(), retired.is_ok());
            let aside = PathBuf::from("/data/retired-x");
            assert_eq!(directory.retired().unwrap(), vec![aside.clone()]);
            for part in ["log", "snapshots", "state"] {
                assert_eq!(read(&world, &aside.join(part).join("file")), part.as_bytes());
            }
            assert_eq!(read(&world, &aside.join("identity")), b"me");
            directory.remove_retired(&aside).unwrap();
            assert!(directory.retired().unwrap().is_empty());
        }
        stop += 1;
    }
    assert!(stop > 10);
}

#[test]
fn labels_are_plain_new_names_and_only_what_was_set_aside_is_removed() {
    let world = World::new(1);
    let directory = open(&world).unwrap();
    replace_file(&world.files, &directory.identity(), b"me").unwrap();
    for label in ["", "a/b", "..\0", &"x".repeat(200)] {
        assert!(matches!(directory.retire(label), Err(DirectoryError::Label(_))), "{label}");
    }
    let aside = directory.retire("1").unwrap();
    replace_file(&world.files, &directory.identity(), b"me again").unwrap();
    assert_eq!(directory.retire("1").unwrap(), aside, "it is done");
    for kept in ["/data/log", "/data/identity", "/data", "/data/retired-1/log"] {
        assert!(matches!(directory.remove_retired(Path::new(kept)), Err(DirectoryError::Label(_))));
    }
    assert_eq!(read(&world, &aside.join("identity")), b"me");
}

#[test]
fn a_file_is_replaced_whole_or_not_at_all() {
    let mut stop = 0;
    let mut complete = false;
    while !complete {
        for seed in 0..6 {
            let world = World::new(stop);
            let path = Path::new("/data/identity");
            replace_file(&world.files, path, b"old").unwrap();
            world.files.stop_after(stop);
            let replaced = replace_file(&world.files, path, &[b'n'; 1000]);
            complete = !world.files.stopped();
            world.files.crash(Crash::Seeded(seed));
            let found = crate::storage::read_small_file(&world.files, path, 2000).unwrap();
            assert!(found == [b'n'; 1000] || (found == b"old" && replaced.is_err()), "{stop} {seed}");
        }
        stop += 1;
    }
    let world = World::new(1);
    replace_file(&world.files, Path::new("/data/large"), &[1; 101]).unwrap();
    let refused = crate::storage::read_small_file(&world.files, Path::new("/data/large"), 100).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::FileTooLarge);
}
