//! A data directory is looked at and left as it is.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::env::simulated_files::Crash;
use crate::identity::ClusterId;
use crate::storage::log::{Entry, Log, Options};
use crate::storage::snapshot::{SnapshotHeader, Snapshots};
use crate::storage::testing::World;

fn id(index: u64) -> LogId {
    LogId { term: 1, index }
}

/// A data directory with a log that was cut behind a snapshot. A write at the end is torn as this seed says.
fn filled(torn: Option<u64>) -> World {
    let world = World::new(1);
    let options = Options { segment_bytes: 4096, cache_bytes: 0 };
    let directory = Path::new("/data/log");
    Log::create(&world.env, directory, options).unwrap();
    let (log, _) = Log::open(&world.env, directory, options).unwrap();
    let append = |from: u64, to: u64| {
        let entry = |index| Entry { id: id(index), payload: Bytes::from(vec![index as u8; 500]) };
        log.append((from..to).map(entry).collect(), Box::new(|_| {}));
        world.tasks.run();
    };
    log.save_vote(Vote { term: 1, node: Some(5), committed: true }, Box::new(|_| {}));
    (0..20).for_each(|index| append(index, index + 1));
    let files = Arc::new(world.files.clone());
    let snapshots =
        Snapshots::open(files, Path::new("/data/snapshots"), Path::new("/data/incoming")).unwrap();
    let header = SnapshotHeader {
        cluster: ClusterId(1),
        last: id(11),
        revision: 12,
        membership: Bytes::new(),
        membership_id: None,
    };
    let mut writer = snapshots.write(&header).unwrap();
    writer.pair(b"a", b"1").unwrap();
    writer.finish().unwrap();
    log.purge(id(10), Box::new(|_| {}));
    log.save_committed(id(15));
    world.tasks.run();
    if let Some(seed) = torn {
        world.files.stop_after(1);
        append(20, 21);
        world.tasks.abandon();
        world.files.crash(Crash::Seeded(seed));
    }
    world
}

fn run(world: &World) -> Report {
    let before = world.files.operations();
    let report = check(&world.files, Path::new("/data"), &mut |_| Ok("fine".to_owned()));
    assert_eq!(world.files.operations(), before, "it writes nothing");
    report
}

#[test]
fn a_sound_directory_is_described() {
    let report = run(&filled(None));
    assert!(report.is_sound());
    let log = report.log.unwrap();
    assert_eq!((log.first_last, log.entries), (Some((11, id(19))), 9));
    assert_eq!((log.purged, log.committed), (Some(id(10)), Some(id(15))));
    assert_eq!(log.vote, Some(Vote { term: 1, node: Some(5), committed: true }));
    assert_eq!(log.torn, None);
    assert!(log.segments > 1 && log.bytes > 4096);
    let snapshots = report.snapshots.unwrap();
    assert_eq!(snapshots.len(), 1);
    assert_eq!((snapshots[0].id, snapshots[0].content.as_ref().unwrap().pairs), (id(11), 1));
    assert_eq!(report.state, None);
}

#[test]
fn a_torn_tail_is_told_and_left() {
    let mut seen = 0;
    for seed in 0..20 {
        let world = filled(Some(seed));
        let report = run(&world);
        assert!(report.is_sound());
        let log = report.log.unwrap();
        let Some(torn) = log.torn else { continue };
        assert_eq!(log.first_last, Some((11, id(19))));
        assert!(torn.bytes > 0 && torn.offset % 512 == 0);
        assert_eq!(run(&world).log.unwrap().torn, Some(torn));
        seen += 1;
    }
    assert!(seen > 3, "torn {seen} times");
}

#[test]
fn damage_is_told_with_file_and_offset() {
    let world = filled(None);
    let names = world.files.list(Path::new("/data/log")).unwrap();
    let path = Path::new("/data/log").join(&names[0]);
    world.files.corrupt(&path, 600).unwrap();
    let report = run(&world);
    assert!(!report.is_sound());
    assert!(
        matches!(report.log, Err(OpenError::Damaged(damage)) if damage.file == path && damage.offset <= 600)
    );

    let world = filled(None);
    let names = world.files.list(Path::new("/data/snapshots")).unwrap();
    let path = Path::new("/data/snapshots").join(&names[0]);
    world.files.corrupt(&path, 40).unwrap();
    let report = run(&world);
    assert!(!report.is_sound());
    let snapshots = report.snapshots.unwrap();
    let Err(SnapshotError::Damaged(damage)) = &snapshots[0].content else { panic!("{snapshots:?}") };
    assert_eq!((&damage.file, damage.offset), (&path, 16));
    assert!(report.gap.is_some(), "what the log was cut up to is in no sound snapshot");

    // Under another's name it is sound bytes, but not what it says.
    let world = filled(None);
    let other = Path::new("/data/snapshots/0000000000000001-0000000000000099.snapshot");
    world.files.rename(&path, other).unwrap();
    assert!(!run(&world).is_sound());
    world.files.remove_file(other).unwrap();
    let report = run(&world);
    assert!(!report.is_sound() && report.gap.is_some(), "the snapshot is gone");
}

#[test]
fn what_is_not_there_is_told() {
    let world = World::new(1);
    let report = run(&world);
    assert!(matches!(report.log, Err(OpenError::Missing(_))));
    assert!(!report.is_sound());
    world.files.create_dir_all(Path::new("/data/state")).unwrap();
    let report =
        check(&world.files, Path::new("/data"), &mut |path| Err(format!("{} is empty", path.display())));
    assert_eq!(report.state, Some(Err("/data/state is empty".to_owned())));
}
