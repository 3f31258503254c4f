//! The format: what version 1 wrote must stay readable, and no bytes make a reader panic.

use proptest::prelude::*;

use super::*;
use crate::env::files::Open;
use crate::env::real_files::RealFiles;

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/format-v1/log")
}

/// The history that is in the fixture.
fn fixture_calls() -> Vec<Call> {
    vec![
        Call::Vote(Vote { term: 3, node: Some((1 << 48) | 1), committed: true }),
        Call::Append((0..6).map(|index| entry(3, index, 50 * index as usize)).collect()),
        Call::Committed(id(3, 4)),
        Call::Truncate(Some(id(3, 4))),
        Call::Append(vec![entry(4, 5, 100), entry(4, 6, 2000)]),
        Call::Vote(Vote { term: 5, node: None, committed: false }),
        Call::Purge(id(3, 1)),
        Call::Append(vec![entry(5, 7, 1500)]),
    ]
}

/// Run with `SETSTONE_WRITE_FIXTURES=1` to make the fixture of a new version.
#[test]
fn what_version_1_wrote_is_read() {
    if std::env::var_os("SETSTONE_WRITE_FIXTURES").is_some() {
        let env = real();
        let _ = RealFiles.remove_dir_all(&fixture());
        Log::create(&env, &fixture(), SMALL).unwrap();
        let (log, _) = Log::open(&env, &fixture(), SMALL).unwrap();
        for call in fixture_calls() {
            let (sender, receiver) = std::sync::mpsc::channel();
            call.make(&log, Box::new(move |result| sender.send(result).unwrap()));
            receiver.recv().unwrap().unwrap();
        }
        futures::executor::block_on(log.close());
    }
    // A copy, because open writes.
    let world = World::new(1);
    world.files.create_dir_all(&directory()).unwrap();
    let names = RealFiles.list(&fixture()).unwrap();
    assert_eq!(names.len(), 3, "{names:?}");
    for name in names {
        let from = RealFiles.open(&fixture().join(&name), Open::Read).unwrap();
        let mut bytes = vec![0; from.length().unwrap() as usize];
        from.read_at(&mut bytes, 0).unwrap();
        world.files.open(&directory().join(&name), Open::Create).unwrap().write_at(&bytes, 0).unwrap();
    }
    let (log, recovered) = Log::open(&world.env, &directory(), SMALL).unwrap();
    let mut model = Model::default();
    for call in fixture_calls() {
        model.apply(&call);
    }
    assert_eq!(Model::of(&log), model);
    assert_eq!((recovered.committed, recovered.cut), (Some(id(3, 4)), 0));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_make_a_reader_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..3000), whole in any::<bool>()) {
        if whole {
            let header = format::SegmentHeader { sequence: 1, first_write: 1, salt: 5, state: format::State::default() };
            let mut start = format::encode_header(&header);
            start.append(&mut bytes);
            bytes = start;
        }
        let world = World::new(1);
        world.files.create_dir_all(&directory()).unwrap();
        let file = world.files.open(&directory().join("0000000000000001.log"), Open::Create).unwrap();
        file.write_at(&bytes, 0).unwrap();
        let opened = Log::open(&world.env, &directory(), SMALL);
        prop_assert_eq!(opened.is_ok(), whole);
    }

    #[test]
    fn a_header_is_read_as_it_was_written(numbers in prop::array::uniform7(any::<u64>()), some in any::<bool>()) {
        let [sequence, first_write, salt, term, index, purged, node] = numbers;
        let state = format::State {
            vote: some.then_some(Vote { term, node: Some(node), committed: some }),
            committed: some.then_some(id(term, index)),
            purged: Some(id(term, purged)),
            last: some.then_some(id(index, term)),
        };
        let header = format::SegmentHeader { sequence, first_write, salt: salt as u32, state };
        prop_assert_eq!(format::decode_header(&format::encode_header(&header)), Ok(header));
    }
}
