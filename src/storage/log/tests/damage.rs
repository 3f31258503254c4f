//! Bytes change on the disk.

use super::*;
use crate::env::files::Open;

/// A log of several segments; the first ones are sealed.
fn filled() -> World {
    let world = World::new(3);
    let (log, _) = created(&world);
    log.save_vote(Vote { term: 1, node: Some(1), committed: true }, ignore());
    for index in 0..9 {
        log.append(vec![entry(1, 2 * index, 333), entry(1, 2 * index + 1, 277)], ignore());
        world.tasks.run();
    }
    world.tasks.abandon();
    world.files.crash(Crash::LoseAll);
    world
}

fn segments(world: &World) -> Vec<PathBuf> {
    let names = world.files.list(&directory()).unwrap();
    names.iter().map(|name| directory().join(name)).collect()
}

fn open(world: &World) -> Result<(Log, Recovered), OpenError> {
    Log::open(&world.env, &directory(), SMALL)
}

fn length(world: &World, path: &Path) -> u64 {
    world.files.open(path, Open::Read).unwrap().length().unwrap()
}

#[test]
fn a_flipped_bit_anywhere_in_a_sealed_segment_is_found() {
    let world = filled();
    let segments = segments(&world);
    assert!(segments.len() >= 3);
    for path in &segments[..segments.len() - 1] {
        for offset in 0..length(&world, path) {
            let world = filled();
            world.files.corrupt(path, offset).unwrap();
            match open(&world) {
                Err(OpenError::Damaged(damage)) => {
                    assert_eq!(&damage.file, path, "a bit at {offset}");
                    assert!(damage.offset <= offset, "a bit at {offset} of {damage}");
                    assert!(offset - damage.offset < 1024 || offset > 3500, "a bit at {offset} of {damage}");
                }
                other => panic!("a bit at {offset} of {}: {other:?}", path.display()),
            }
        }
    }
}

#[test]
fn in_the_last_segment_a_flipped_bit_before_the_last_write_is_damage_and_in_it_a_torn_tail() {
    let world = filled();
    let path = segments(&world).pop().unwrap();
    let scanned = scan(&world.files, &directory()).unwrap();
    let newest = scanned.segments.last().unwrap().clone();
    assert!(newest.last_write > format::HEADER_BYTES, "two writes or more");
    let whole = scanned.state.last.unwrap();
    for offset in 0..newest.used {
        let world = filled();
        world.files.corrupt(&path, offset).unwrap();
        let opened = open(&world);
        if offset < newest.last_write {
            let Err(OpenError::Damaged(damage)) = opened else { panic!("a bit at {offset}: {opened:?}") };
            assert_eq!(damage.file, path);
            assert!(damage.offset <= offset && offset - damage.offset < 1024);
        } else {
            let (log, recovered) = opened.unwrap();
            let lost = recovered.last.unwrap().index + 2 == whole.index;
            assert!(
                lost || recovered.last == Some(whole),
                "a bit at {offset}: a write is whole or not there"
            );
            assert!(recovered.cut > 0);
            assert_eq!(all(&log).len() as u64, recovered.last.unwrap().index + 1);
        }
    }
}

#[test]
fn a_sector_that_reads_as_zeros_is_damage_if_a_later_write_follows() {
    let scanned = scan(&filled().files, &directory()).unwrap();
    let newest = scanned.segments.last().unwrap().clone();
    for segment in &scanned.segments {
        for sector in (0..segment.used).step_by(512) {
            let world = filled();
            let file = world.files.open(&segment.path, Open::Write).unwrap();
            file.write_at(&[0; 512], sector).unwrap();
            let in_last_write = segment.path == newest.path && sector >= newest.last_write;
            match open(&world) {
                Err(OpenError::Damaged(damage)) => {
                    assert!(!in_last_write);
                    assert_eq!(damage.file, segment.path);
                }
                Ok(_) => assert!(in_last_write, "sector {sector} of {}", segment.path.display()),
                Err(other) => panic!("{other}"),
            }
        }
    }
}

#[test]
fn segments_that_are_missing_or_short_are_damage() {
    let segments = segments(&filled());
    for missing in &segments[..segments.len() - 1] {
        let world = filled();
        world.files.remove_file(missing).unwrap();
        let Err(OpenError::Damaged(damage)) = open(&world) else { panic!("{}", missing.display()) };
        assert_eq!(&damage.file, missing);
    }
    let world = filled();
    world.files.open(&segments[0], Open::Write).unwrap().set_length(1000).unwrap();
    assert!(matches!(open(&world), Err(OpenError::Damaged(damage)) if damage.file == segments[0]));
    let world = filled();
    world.files.rename(&segments[0], &segments[1]).unwrap();
    assert!(matches!(open(&world), Err(OpenError::Damaged(damage)) if damage.file == segments[1]));
    let world = filled();
    world.files.open(&segments[0], Open::Write).unwrap().set_length(2 << 30).unwrap();
    assert!(matches!(open(&world), Err(OpenError::Damaged(damage)) if damage.reason.contains("long")));
}

#[test]
fn damage_is_reported_again_and_nothing_is_changed() {
    let world = filled();
    let path = segments(&world).remove(0);
    world.files.corrupt(&path, 700).unwrap();
    let before = world.files.operations();
    let first = open(&world).unwrap_err().to_string();
    assert_eq!(open(&world).unwrap_err().to_string(), first);
    assert_eq!(world.files.operations(), before);
    assert!(first.contains("0000000000000001.log is damaged at offset 544"), "{first}");
}

#[test]
fn a_read_of_a_flipped_bit_names_file_and_offset() {
    let world = filled();
    let options = Options { cache_bytes: 0, ..SMALL };
    let (log, _) = Log::open(&world.env, &directory(), options).unwrap();
    let path = segments(&world).remove(0);
    world.files.corrupt(&path, 800).unwrap();
    let error = log.read(0..2, usize::MAX).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert!(error.to_string().contains("0000000000000001.log is damaged at offset "), "{error}");
    assert_eq!(log.read(6..8, usize::MAX).unwrap(), vec![entry(1, 6, 333), entry(1, 7, 277)]);
}

/// A client chooses what is in a payload. One that looks like a record must not turn a torn tail into damage.
#[test]
fn a_payload_that_poses_as_a_later_record_makes_no_damage() {
    let salt = scan(&filled().files, &directory()).unwrap().salt;
    for (guess, guessed) in [(0, false), (u32::MAX, false), (salt ^ 1, false), (salt, true)] {
        let world = World::new(1);
        let (log, _) = created(&world);
        let mut forged = format::WriteBuffer::new(guess);
        forged.push(1_000_000, &format::Record::Committed(id(1, 1)));
        forged.finish();
        let forged = &forged.bytes()[..40];
        let payload: Vec<u8> = forged.iter().copied().cycle().take(4000).collect();
        log.append(vec![Entry { id: id(1, 0), payload: Bytes::from(payload) }], ignore());
        world.files.stop_after(6); // a segment of its own, and the write without its sync
        world.tasks.run();
        world.tasks.abandon();
        world.files.crash(Crash::KeepAll);
        let path = segments(&world).pop().unwrap();
        world.files.corrupt(&path, 520).unwrap();
        let scanned = scan(&world.files, &directory());
        assert_eq!(scanned.is_err(), guessed, "only who knows the salt can do it: {:?}", scanned.err());
    }
}

#[test]
fn another_format_version_is_told_from_damage() {
    let world = filled();
    let path = segments(&world).remove(0);
    let file = world.files.open(&path, Open::Write).unwrap();
    let mut header = vec![0; 512];
    file.read_at(&mut header, 0).unwrap();
    header[8] = 2;
    let mut covered = header[..12].to_vec();
    covered.extend_from_slice(&header[16..]);
    header[12..16].copy_from_slice(&crc32c::crc32c(&covered).to_le_bytes());
    file.write_at(&header, 0).unwrap();
    let error = open(&world).unwrap_err();
    assert!(matches!(&error, OpenError::Version { found: 2, supported: 1, file } if *file == path));
    assert!(matches!(Log::create(&world.env, &directory(), SMALL), Err(OpenError::Exists(_))));
}
