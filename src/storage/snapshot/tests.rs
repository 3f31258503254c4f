//! Snapshots on a disk that loses what was not synced.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use super::*;
use crate::env::real_files::RealFiles;
use crate::env::simulated_files::{Crash, SimulatedFiles};
use crate::limits;
use crate::storage::testing::World;

fn header(term: u64, index: u64) -> SnapshotHeader {
    SnapshotHeader {
        cluster: ClusterId(77),
        last: LogId { term, index },
        revision: 1234,
        membership: Bytes::from_static(b"who votes"),
        membership_id: Some(LogId { term: 1, index: 2 }),
    }
}

fn open(files: &SimulatedFiles) -> Snapshots {
    Snapshots::open(Arc::new(files.clone()), Path::new("/data/snapshots"), Path::new("/data/incoming"))
        .unwrap()
}

/// Pairs of all sizes: empty, small, and over several blocks.
fn pairs(count: u32) -> Vec<(Vec<u8>, Vec<u8>)> {
    let size = |number: u32| [0, 10, 8_000, 70_000, 150_000][number as usize % 5] + number as usize;
    let value = |number: u32| (0..size(number)).map(|at| (at as u32 * 7 + number) as u8).collect();
    (0..count).map(|number| (number.to_be_bytes().to_vec(), value(number))).collect()
}

fn write(
    snapshots: &Snapshots,
    header: &SnapshotHeader,
    pairs: &[(Vec<u8>, Vec<u8>)],
) -> Result<SnapshotFile> {
    let mut writer = snapshots.write(header)?;
    for (key, value) in pairs {
        writer.pair(key, value)?;
    }
    Ok(writer.finish()?.0)
}

fn read(snapshots: &Snapshots, file: &SnapshotFile) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut reader = snapshots.read(file).unwrap();
    let mut found = Vec::new();
    while let Some((key, value)) = reader.next_pair().unwrap() {
        found.push((key.to_vec(), value.to_vec()));
    }
    found
}

fn bytes_of(snapshots: &Snapshots, file: &SnapshotFile) -> Bytes {
    let raw = snapshots.raw(file).unwrap();
    raw.read(0, raw.length() as usize).unwrap()
}

#[test]
fn what_was_written_is_read_after_a_crash() {
    let world = World::new(1);
    for count in [0, 1, 11] {
        let file = write(&open(&world.files), &header(3, count.into()), &pairs(count)).unwrap();
        world.files.crash(Crash::LoseAll);
        let snapshots = open(&world.files);
        assert_eq!(snapshots.newest().unwrap(), Some(file.clone()));
        assert_eq!(read(&snapshots, &file), pairs(count));
        let verified = snapshots.verify(&file).unwrap();
        assert_eq!((verified.header, verified.pairs), (header(3, count.into()), count.into()));
        assert_eq!(verified.length, snapshots.raw(&file).unwrap().length());
    }
}

#[test]
fn the_power_goes_after_every_write_and_sync() {
    let mut stop = 0;
    let mut complete = false;
    while !complete {
        for keep in [Crash::LoseAll, Crash::KeepAll, Crash::Seeded(1), Crash::Seeded(2), Crash::Seeded(3)] {
            let world = World::new(stop);
            let snapshots = open(&world.files);
            let first = write(&snapshots, &header(1, 10), &pairs(3)).unwrap();
            world.files.stop_after(stop);
            let second = write(&snapshots, &header(1, 20), &pairs(8));
            let removed = second.as_ref().is_ok_and(|second| snapshots.remove_before(second).is_ok());
            complete = !world.files.stopped();
            world.files.crash(keep);
            let snapshots = open(&world.files);
            let listed = snapshots.list().unwrap();
            for file in &listed {
                let expected = pairs(if file.id.index == 10 { 3 } else { 8 });
                assert_eq!(read(&snapshots, file), expected, "{stop} {keep:?}: whatever has a name is whole");
            }
            match second {
                Ok(second) => assert_eq!(listed.first(), Some(&second), "{stop} {keep:?}"),
                Err(_) => assert!(listed.contains(&first), "{stop} {keep:?}"),
            }
            assert!(!removed || listed.len() == 1, "{stop} {keep:?}");
            let names = world.files.list(Path::new("/data/snapshots")).unwrap();
            assert_eq!(names.len(), listed.len(), "leftovers are removed: {names:?}");
        }
        stop += 1;
    }
    assert!(stop > 8);
}

#[test]
fn a_flipped_bit_anywhere_is_found_and_located() {
    let world = World::new(1);
    let snapshots = open(&world.files);
    let file = write(&snapshots, &header(1, 10), &pairs(4)).unwrap();
    let length = snapshots.raw(&file).unwrap().length();
    let mut offsets: Vec<u64> = (0..300).chain(length - 300..length).collect();
    offsets.extend((300..length - 300).step_by(997));
    for offset in offsets {
        let mut before = [0];
        let writable = world.files.open(&file.path, Open::Write).unwrap();
        writable.read_at(&mut before, offset).unwrap();
        world.files.corrupt(&file.path, offset).unwrap();
        match snapshots.verify(&file) {
            Err(SnapshotError::Damaged(damage)) => {
                assert_eq!(damage.file, file.path);
                assert!(damage.offset <= offset && offset - damage.offset < 66_000, "{offset}: {damage}");
            }
            other => panic!("a bit at {offset}: {other:?}"),
        }
        writable.write_at(&before, offset).unwrap();
    }
    snapshots.verify(&file).unwrap();
    for cut in [0, 10, 100, length - 1] {
        let writable = world.files.open(&file.path, Open::Write).unwrap();
        writable.set_length(cut).unwrap();
        assert!(matches!(snapshots.verify(&file), Err(SnapshotError::Damaged(_))), "cut to {cut}");
    }
}

#[test]
fn bytes_behind_the_end_blocks_of_another_snapshot_and_other_versions_are_refused() {
    let world = World::new(1);
    let snapshots = open(&world.files);
    let file = write(&snapshots, &header(1, 10), &pairs(6)).unwrap();
    let sound = bytes_of(&snapshots, &file);
    let put = |bytes: &[u8]| {
        let writable = world.files.open(&file.path, Open::Write).unwrap();
        writable.set_length(0).unwrap();
        writable.write_at(bytes, 0).unwrap();
        snapshots.verify(&file)
    };
    put(&sound).unwrap();
    let longer = [&sound[..], &[0]].concat();
    assert!(
        matches!(put(&longer), Err(SnapshotError::Damaged(damage)) if damage.offset == sound.len() as u64)
    );
    // Every block is sound, but one is left out: its ordinal is missing.
    let block = |at: usize| 16 + u32::from_le_bytes(sound[at + 4..at + 8].try_into().unwrap()) as usize;
    let first = 16 + block(16);
    let without = [&sound[..first], &sound[first + block(first)..]].concat();
    assert!(matches!(put(&without), Err(SnapshotError::Damaged(damage)) if damage.offset == first as u64));
    // A header of another snapshot: every block is sound and in its place, but the digest is not.
    let other = write(&snapshots, &SnapshotHeader { revision: 1235, ..header(1, 11) }, &pairs(6)).unwrap();
    let other = bytes_of(&snapshots, &other);
    assert_eq!(other.len(), sound.len());
    let mixed = [&other[..first], &sound[first..]].concat();
    assert!(matches!(put(&mixed), Err(SnapshotError::Damaged(damage)) if damage.reason.contains("digest")));
    let mut version = sound.to_vec();
    version[8] = 9;
    let crc = crc32c::crc32c(&version[..12]).to_le_bytes();
    version[12..16].copy_from_slice(&crc);
    assert!(matches!(put(&version), Err(SnapshotError::Version { found: 9, supported: 1, .. })));
}

#[test]
fn a_writer_refuses_what_a_reader_would_and_leaves_nothing() {
    let world = World::new(1);
    let snapshots = open(&world.files);
    let mut writer = snapshots.write(&header(1, 1)).unwrap();
    writer.pair(b"b", b"").unwrap();
    for key in [&b"a"[..], b"b", b""] {
        assert!(matches!(writer.pair(key, b""), Err(SnapshotError::Invalid(_))));
    }
    let large = vec![0; limits::SNAPSHOT_KEY_BYTES + 1];
    assert!(matches!(writer.pair(&large, b""), Err(SnapshotError::Invalid(_))));
    drop(writer);
    let membership = Bytes::from(vec![0; limits::SNAPSHOT_MEMBERSHIP_BYTES + 1]);
    assert!(snapshots.write(&SnapshotHeader { membership, ..header(1, 1) }).is_err());
    world.files.set_free(100_000);
    let full = write(&snapshots, &header(1, 1), &pairs(20)).unwrap_err();
    assert!(matches!(full, SnapshotError::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull));
    assert_eq!(world.files.list(Path::new("/data/snapshots")).unwrap(), Vec::<String>::new());
    assert_eq!(world.files.space(Path::new("/")).unwrap().free, 100_000, "its space is free again");
}

#[test]
fn the_newest_is_that_of_the_highest_id_and_older_ones_go_only_on_demand() {
    let world = World::new(1);
    let snapshots = open(&world.files);
    let mut written = Vec::new();
    for (term, index) in [(1, 300), (2, 20), (2, 100)] {
        written.push(write(&snapshots, &header(term, index), &pairs(2)).unwrap());
    }
    let raw = snapshots.raw(&written[0]).unwrap();
    written.reverse();
    assert_eq!(snapshots.list().unwrap(), written);
    snapshots.remove_before(&written[1]).unwrap();
    assert_eq!(snapshots.list().unwrap(), written[..2]);
    assert!(snapshots.remove_before(&written[2]).is_err(), "it is not there");
    assert_eq!(snapshots.list().unwrap(), written[..2]);
    assert!(!raw.read(0, 100).unwrap().is_empty(), "a peer that is being sent it still reads it");
}

/// Sends until the power goes; tells whether the snapshot was complete.
fn send(snapshots: &Snapshots, bytes: &[u8], chunk: usize) -> Result<(u64, SnapshotFile)> {
    let mut incoming = snapshots.receive("the snapshot", bytes.len() as u64)?;
    let resumed = incoming.offset();
    while incoming.offset() < incoming.length() {
        let at = incoming.offset() as usize;
        incoming.write(at as u64, &bytes[at..bytes.len().min(at + chunk)])?;
    }
    Ok((resumed, incoming.finish()?.0))
}

#[test]
fn an_incoming_snapshot_resumes_where_it_was_after_any_crash() {
    let source = World::new(9);
    let bytes = {
        let snapshots = open(&source.files);
        let file = write(&snapshots, &header(5, 50), &pairs(80)).unwrap();
        bytes_of(&snapshots, &file)
    };
    assert!(bytes.len() > limits::SNAPSHOT_SYNC_BYTES / 2);
    let mut resumed_somewhere = 0;
    for stop in (1..40).step_by(3) {
        for keep in [Crash::LoseAll, Crash::KeepAll, Crash::Seeded(4)] {
            let world = World::new(stop);
            let snapshots = open(&world.files);
            world.files.stop_after(stop);
            let _ = send(&snapshots, &bytes, 100_000);
            world.files.crash(keep);
            let snapshots = open(&world.files);
            match send(&snapshots, &bytes, 200_000) {
                Ok((resumed, file)) => {
                    resumed_somewhere += u32::from(resumed > 0);
                    assert_eq!(bytes_of(&snapshots, &file), bytes);
                    assert_eq!(file.id, LogId { term: 5, index: 50 });
                }
                Err(error) => panic!("{stop} {keep:?}: {error}"),
            }
            assert!(world.files.list(Path::new("/data/incoming")).unwrap().is_empty());
        }
    }
    assert!(resumed_somewhere > 5, "{resumed_somewhere}");
}

/// After an fsync that failed the pages count as clean, so what can be read, and the next fsync, say nothing of the disk.
#[test]
fn what_did_not_reach_the_disk_is_received_again() {
    let bytes = {
        let world = World::new(1);
        let snapshots = open(&world.files);
        let file = write(&snapshots, &header(5, 50), &pairs(80)).unwrap();
        bytes_of(&snapshots, &file)
    };
    let mut failed = 0;
    for after in 0..4 {
        let world = World::new(after);
        let snapshots = open(&world.files);
        world.files.fail_sync_after(after);
        // Without a restart in between: the member gets it again.
        let again = |_| {
            failed += 1;
            send(&snapshots, &bytes, 100_000)
        };
        let (_, file) = send(&snapshots, &bytes, 100_000).or_else(again).unwrap();
        world.files.crash(Crash::LoseAll);
        assert_eq!(bytes_of(&open(&world.files), &file), bytes, "after {after} that succeeded");
    }
    assert!(failed > 0);
}

#[test]
fn an_incoming_snapshot_is_bounded_checked_and_forgotten_for_another() {
    let world = World::new(1);
    let snapshots = open(&world.files);
    let file = write(&snapshots, &header(5, 50), &pairs(6)).unwrap();
    let bytes = bytes_of(&snapshots, &file);
    world.files.remove_file(&file.path).unwrap();
    let length = bytes.len() as u64;

    let mut incoming = snapshots.receive("../../etc", length).unwrap();
    assert!(matches!(incoming.write(1, &bytes), Err(SnapshotError::Invalid(_))));
    assert!(matches!(incoming.write(0, &[&bytes[..], &[0]].concat()), Err(SnapshotError::Invalid(_))));
    assert!(matches!(incoming.write(u64::MAX, &bytes), Err(SnapshotError::Invalid(_))));
    incoming.write(0, &bytes[..200_000]).unwrap();
    assert!(matches!(incoming.finish(), Err(SnapshotError::Invalid(_))));
    let resumed = snapshots.receive("../../etc", length).unwrap().offset();
    assert!((100_000..=200_000).contains(&resumed), "{resumed}");
    assert_eq!(snapshots.receive("another", length).unwrap().offset(), 0);
    assert_eq!(snapshots.receive("../../etc", length).unwrap().offset(), 0, "it was removed");
    assert_eq!(world.files.list(Path::new("/data/incoming")).unwrap().len(), 1);

    // Damaged on the way: refused, and not resumed.
    let mut damaged = bytes.to_vec();
    damaged[100_000] ^= 1;
    assert!(matches!(send(&snapshots, &damaged, 50_000), Err(SnapshotError::Damaged(_))));
    assert_eq!(snapshots.list().unwrap(), vec![]);
    assert_eq!(send(&snapshots, &bytes, 50_000).unwrap().0, 0);

    world.files.set_free(1000);
    let full = snapshots.receive("large", 1001).unwrap_err();
    assert!(matches!(full, SnapshotError::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull));
    snapshots.forget_incoming().unwrap();
    assert!(world.files.list(Path::new("/data/incoming")).unwrap().is_empty());
}

/// Run with `SETSTONE_WRITE_FIXTURES=1` to make the fixture of a new version.
#[test]
fn what_version_1_wrote_is_read() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/format-v1/snapshots");
    let pairs: Vec<_> =
        (0..50u32).map(|number| (number.to_be_bytes().to_vec(), vec![number as u8; 40])).collect();
    if std::env::var_os("SETSTONE_WRITE_FIXTURES").is_some() {
        let _ = RealFiles.remove_dir_all(&fixture);
        let incoming = tempfile::tempdir().unwrap();
        let snapshots = Snapshots::open(Arc::new(RealFiles), &fixture, incoming.path()).unwrap();
        write(&snapshots, &header(3, 1), &pairs).unwrap();
    }
    let listed = list(&RealFiles, &fixture).unwrap();
    assert_eq!(listed.len(), 1);
    let mut reader = SnapshotReader::open(&RealFiles, &listed[0].path).unwrap();
    assert_eq!(reader.header(), &header(3, 1));
    let mut found = Vec::new();
    while let Some((key, value)) = reader.next_pair().unwrap() {
        found.push((key.to_vec(), value.to_vec()));
    }
    assert_eq!(found, pairs);
    assert_eq!(reader.into_verified().unwrap().pairs, 50);
}
