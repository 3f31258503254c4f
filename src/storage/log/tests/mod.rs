//! What the log promises, on simulated files.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // Real files and threads are part of what is tested.

mod crash;
mod damage;
mod fixture;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::*;
use crate::env::Files;
use crate::env::simulated_files::Crash;
use crate::storage::testing::{World, real};

const SMALL: Options = Options { segment_bytes: 4 << 10, cache_bytes: 600 };

fn directory() -> PathBuf {
    PathBuf::from("/data/log")
}

fn id(term: u64, index: u64) -> LogId {
    LogId { term, index }
}

/// A payload that tells which entry it is of.
fn entry(term: u64, index: u64, size: usize) -> Entry {
    let payload: Vec<u8> = (0..size).map(|at| (term * 31 + index * 7 + at as u64) as u8).collect();
    Entry { id: id(term, index), payload: Bytes::from(payload) }
}

/// The number of a call, and what it was told.
type Answer = (u64, Result<(), String>);

/// Collects the answers of calls, in the order in which they came.
#[derive(Clone, Default)]
struct Answers(Arc<Mutex<Vec<Answer>>>);

impl Answers {
    fn done(&self, number: u64) -> Done {
        let answers = self.0.clone();
        Box::new(move |result| answers.lock().push((number, result.map_err(|error| error.to_string()))))
    }

    fn take(&self) -> Vec<Answer> {
        std::mem::take(&mut self.0.lock())
    }
}

fn ignore() -> Done {
    Box::new(|_| {})
}

fn created(world: &World) -> (Log, Recovered) {
    Log::create(&world.env, &directory(), SMALL).unwrap();
    Log::open(&world.env, &directory(), SMALL).unwrap()
}

/// Ends the process, keeps what the kernel has, and starts it again.
fn reopened(world: &World) -> Result<(Log, Recovered), OpenError> {
    world.tasks.abandon();
    world.files.kill();
    Log::open(&world.env, &directory(), SMALL)
}

fn crashed(world: &World, keep: Crash) -> Result<(Log, Recovered), OpenError> {
    world.tasks.abandon();
    world.files.crash(keep);
    Log::open(&world.env, &directory(), SMALL)
}

/// One call.
#[derive(Clone, Debug)]
enum Call {
    Append(Vec<Entry>),
    Vote(Vote),
    Committed(LogId),
    Truncate(Option<LogId>),
    Purge(LogId),
}

impl Call {
    fn make(&self, log: &Log, done: Done) {
        match self.clone() {
            Self::Append(entries) => log.append(entries, done),
            Self::Vote(vote) => log.save_vote(vote, done),
            Self::Committed(id) => {
                log.save_committed(id);
                done(Ok(()));
            }
            Self::Truncate(last) => log.truncate_after(last, done),
            Self::Purge(upto) => log.purge(upto, done),
        }
    }
}

/// What a log is, without any of its difficulties.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    vote: Option<Vote>,
    purged: Option<LogId>,
    entries: BTreeMap<u64, Entry>,
}

impl Model {
    fn apply(&mut self, call: &Call) {
        match call {
            Call::Append(entries) => {
                self.entries.extend(entries.iter().map(|entry| (entry.id.index, entry.clone())));
            }
            Call::Vote(vote) => self.vote = Some(*vote),
            Call::Committed(_) => {}
            Call::Truncate(last) => {
                let keep = last.map_or(0, |id| id.index + 1);
                self.entries.retain(|index, _| *index < keep);
            }
            Call::Purge(upto) => {
                self.purged = self.purged.max(Some(*upto));
                self.entries.retain(|index, _| *index > upto.index);
            }
        }
    }

    fn last(&self) -> Option<LogId> {
        self.entries.last_key_value().map(|(_, entry)| entry.id).or(self.purged)
    }

    /// What a log says of itself. Also checks that its ways to tell agree.
    fn of(log: &Log) -> Self {
        let entries = all(log);
        let model = Self {
            vote: log.vote(),
            purged: log.purged(),
            entries: entries.iter().map(|entry| (entry.id.index, entry.clone())).collect(),
        };
        assert_eq!(log.last(), model.last());
        for entry in &entries {
            assert_eq!(log.term_at(entry.id.index), Some(entry.id.term));
            let alone = log.read(entry.id.index..entry.id.index + 1, 0).unwrap();
            assert_eq!(alone, std::slice::from_ref(entry));
        }
        if let Some((first, last)) = log.first_last() {
            assert_eq!(entries.len() as u64, last + 1 - first, "the log is contiguous");
            assert!(model.purged.is_none_or(|purged| purged.index + 1 == first));
        }
        model
    }
}

fn all(log: &Log) -> Vec<Entry> {
    let Some((first, last)) = log.first_last() else { return Vec::new() };
    log.read(first..last + 1, usize::MAX).unwrap()
}

#[test]
fn entries_are_read_at_once_and_acknowledged_in_order_when_durable() {
    let world = World::new(1);
    let (log, recovered) = created(&world);
    assert_eq!(recovered, Recovered::default());
    let answers = Answers::default();
    log.append((0..3).map(|index| entry(1, index, 100)).collect(), answers.done(1));
    log.save_vote(Vote { term: 1, node: Some(7), committed: true }, answers.done(2));
    log.append(Vec::new(), answers.done(3));
    log.append(vec![entry(2, 3, 0)], answers.done(4));
    assert_eq!(all(&log), vec![entry(1, 0, 100), entry(1, 1, 100), entry(1, 2, 100), entry(2, 3, 0)]);
    assert_eq!(*log.durable().borrow(), 0);
    assert!(answers.take().is_empty());
    world.tasks.run();
    assert_eq!(answers.take(), vec![(1, Ok(())), (2, Ok(())), (3, Ok(())), (4, Ok(()))]);
    assert_eq!(*log.durable().borrow(), 3);
    assert_eq!(log.stats().flushes, 1, "what waits shares one write");

    let (log, recovered) = crashed(&world, Crash::LoseAll).unwrap();
    assert_eq!(recovered.last, Some(id(2, 3)));
    assert_eq!(recovered.vote, Some(Vote { term: 1, node: Some(7), committed: true }));
    assert_eq!(recovered.cut, 0);
    assert_eq!(all(&log), vec![entry(1, 0, 100), entry(1, 1, 100), entry(1, 2, 100), entry(2, 3, 0)]);
}

#[test]
fn a_log_is_created_once_and_never_by_open() {
    let world = World::new(1);
    let open = || Log::open(&world.env, &directory(), SMALL).map(|_| ());
    assert!(matches!(open(), Err(OpenError::Missing(at)) if at == directory()));
    Log::create(&world.env, &directory(), SMALL).unwrap();
    world.files.crash(Crash::LoseAll);
    open().unwrap();
    let again = Log::create(&world.env, &directory(), SMALL);
    assert!(matches!(again, Err(OpenError::Exists(at)) if at == directory()));
}

#[test]
fn a_creation_that_broke_off_can_be_repeated() {
    for stop in 1..20 {
        for seed in 0..8 {
            let world = World::new(stop);
            world.files.stop_after(stop);
            let broke = Log::create(&world.env, &directory(), SMALL).is_err();
            world.files.crash(Crash::Seeded(seed));
            match Log::create(&world.env, &directory(), SMALL) {
                Ok(()) => assert!(broke, "a log that was created is gone"),
                // Everything may have reached the disk, just before the power went.
                Err(OpenError::Exists(_)) => {}
                Err(other) => panic!("{other}"),
            }
            Log::open(&world.env, &directory(), SMALL).unwrap();
            if !broke {
                return;
            }
        }
    }
    panic!("the creation was never complete");
}

/// A founder that told others of the entry that was still on its way to the disk lost its power; they waited for it for ever.
#[test]
fn what_is_on_its_way_is_not_on_disk() {
    let world = World::new(1);
    let (log, _) = created(&world);
    let vote = Vote { term: 1, node: Some(1), committed: false };
    log.save_vote(vote, ignore());
    log.append(vec![entry(1, 0, 10)], ignore());
    assert_eq!((log.vote(), log.last()), (Some(vote), Some(id(1, 0))));
    assert_eq!(log.on_disk(), (None, None));
    world.tasks.run();
    assert_eq!(log.on_disk(), (Some(vote), Some(id(1, 0))));
    log.truncate_after(None, ignore());
    assert_eq!(log.on_disk().1, Some(id(1, 0)));
    world.tasks.run();
    assert_eq!(log.on_disk(), (Some(vote), None));
    log.purge(id(1, 7), ignore());
    world.tasks.run();
    let (log, _) = reopened(&world).unwrap();
    assert_eq!(log.on_disk(), (Some(vote), Some(id(1, 7))));
}

#[test]
fn reads_are_bounded_and_come_from_cache_or_disk() {
    let world = World::new(1);
    let (log, _) = created(&world);
    log.append((0..40).map(|index| entry(1, index, 100)).collect(), ignore());
    assert_eq!(
        log.read_cached(0..40, usize::MAX).unwrap().unwrap().len(),
        40,
        "nothing is dropped unwritten"
    );
    world.tasks.run();
    assert!(log.read_cached(0..40, usize::MAX).unwrap().is_none());
    assert_eq!(log.read_cached(36..50, usize::MAX).unwrap().unwrap().len(), 4);
    let expected: Vec<_> = (0..40).map(|index| entry(1, index, 100)).collect();
    assert_eq!(log.read(0..40, usize::MAX).unwrap(), expected);
    assert_eq!(log.read(5..40, 350).unwrap(), expected[5..8]);
    assert_eq!(log.read(5..40, 0).unwrap(), expected[5..6]);
    assert_eq!(log.read(33..36, usize::MAX).unwrap(), expected[33..36], "from both");
    assert!(log.read(40..50, usize::MAX).unwrap().is_empty());
    assert!(log.read(7..7, usize::MAX).unwrap().is_empty());
    #[allow(clippy::reversed_empty_ranges)]
    let reversed = log.read(9..7, usize::MAX).unwrap();
    assert!(reversed.is_empty());
}

#[test]
fn what_is_kept_is_counted_in_bytes() {
    let world = World::new(1);
    let (log, _) = created(&world);
    assert_eq!((log.bytes_from(0), log.excess(0, 0)), (0, None), "there is nothing");
    for index in 0..40 {
        // Every fourth one is large; over several segments.
        log.append(vec![entry(1, index, if index % 4 == 0 { 3_000 } else { 100 })], ignore());
        world.tasks.run();
    }
    assert_eq!(log.bytes_from(0), log.bytes());
    assert_eq!(log.bytes_from(40), 0);
    let kept = |from: u64, upto: u64| log.bytes_from(from) - log.bytes_from(upto + 1);
    assert!(kept(16, 16) > 3_000 && kept(17, 17) < 1_100, "{} {}", kept(16, 16), kept(17, 17));
    log.purge(id(1, 3), ignore());
    world.tasks.run();
    for upto in [10, 25, 39, 99] {
        let all = log.bytes() - log.bytes_from(upto + 1);
        for bytes in [0, 1, 100, 3_000, 7_000, all - 1] {
            let goes = log.excess(upto, bytes).unwrap();
            assert!((4..=upto.min(39)).contains(&goes), "{goes} of {upto}");
            assert!(kept(goes + 1, upto) <= bytes, "{bytes} of {upto}: after {goes} too much stays");
            assert!(kept(goes, upto) > bytes, "{bytes} of {upto}: {goes} might have stayed");
        }
        assert_eq!(log.excess(upto, all), None);
    }
    assert_eq!(log.excess(2, 0), None, "they are gone");
}

#[test]
fn a_purge_removes_whole_segments_and_may_go_beyond_the_end() {
    let world = World::new(1);
    let (log, _) = created(&world);
    for index in 0..40 {
        log.append(vec![entry(1, index, 500)], ignore());
        world.tasks.run();
    }
    let (before, segments) = (log.bytes(), world.files.list(&directory()).unwrap().len());
    assert!(segments > 5);
    log.purge(id(1, 29), ignore());
    world.tasks.run();
    assert!(world.files.list(&directory()).unwrap().len() < segments / 2);
    assert!(log.bytes() < before / 3, "{} of {before}", log.bytes());
    assert_eq!(log.first_last(), Some((30, 39)));
    assert_eq!((log.term_at(29), log.term_at(28)), (Some(1), None));
    assert!(log.read(0..40, usize::MAX).unwrap().is_empty(), "the start of the range is purged");

    let answers = Answers::default();
    log.purge(id(3, 99), answers.done(1));
    log.purge(id(1, 10), answers.done(2));
    assert_eq!((log.first_last(), log.last(), log.purged()), (None, Some(id(3, 99)), Some(id(3, 99))));
    assert_eq!(*log.durable().borrow(), 99, "the snapshot covers what is purged");
    log.append(vec![entry(3, 40, 10)], answers.done(3));
    log.append(vec![entry(3, 100, 10)], answers.done(4));
    world.tasks.run();
    let answered = answers.take();
    assert_eq!(answered.iter().map(|(number, _)| *number).collect::<Vec<_>>(), vec![3, 1, 2, 4]);
    assert!(answered[0].1.as_ref().unwrap_err().contains("3.40 cannot follow 3.99"));
    let (log, recovered) = crashed(&world, Crash::LoseAll).unwrap();
    assert_eq!((recovered.purged, recovered.last), (Some(id(3, 99)), Some(id(3, 100))));
    assert_eq!(all(&log), vec![entry(3, 100, 10)]);
    assert_eq!(world.files.list(&directory()).unwrap().len(), 1);
}

#[test]
fn a_truncation_lowers_what_is_durable_and_other_entries_follow() {
    let world = World::new(1);
    let (log, _) = created(&world);
    log.append((0..10).map(|index| entry(1, index, 50)).collect(), ignore());
    world.tasks.run();
    let durable = log.durable();
    assert_eq!(*durable.borrow(), 9);
    log.truncate_after(Some(id(1, 3)), ignore());
    assert_eq!(*durable.borrow(), 3);
    log.append(vec![entry(2, 4, 60)], ignore());
    assert_eq!(*durable.borrow(), 3);
    world.tasks.run();
    assert_eq!(*durable.borrow(), 4);
    let (log, _) = crashed(&world, Crash::LoseAll).unwrap();
    assert_eq!(log.last(), Some(id(2, 4)));
    log.truncate_after(None, ignore());
    world.tasks.run();
    let (log, recovered) = crashed(&world, Crash::LoseAll).unwrap();
    assert_eq!((recovered.last, log.first_last()), (None, None));
}

/// An entry is truncated and appended again while the first one still waits for the writer.
#[test]
fn an_entry_that_replaces_one_that_still_waits_is_the_one_that_is_read() {
    let world = World::new(1);
    let options = Options { cache_bytes: 0, ..SMALL };
    Log::create(&world.env, &directory(), options).unwrap();
    let (log, _) = Log::open(&world.env, &directory(), options).unwrap();
    log.append(vec![entry(1, 0, 20), entry(1, 1, 20)], ignore());
    log.truncate_after(Some(id(1, 0)), ignore());
    let second = Entry { id: id(1, 1), payload: Bytes::from_static(b"the second") };
    log.append(vec![second.clone()], ignore());
    world.tasks.run();
    assert_eq!(log.read(1..2, 100).unwrap(), vec![second.clone()]);
    let (log, _) = crashed(&world, Crash::LoseAll).unwrap();
    assert_eq!(all(&log), vec![entry(1, 0, 20), second]);
}

#[test]
fn calls_that_make_no_sense_are_refused_and_change_nothing() {
    let world = World::new(1);
    let (log, _) = created(&world);
    log.append((0..5).map(|index| entry(2, index, 10)).collect(), ignore());
    log.purge(id(2, 1), ignore());
    world.tasks.run();
    let before = Model::of(&log);
    let answers = Answers::default();
    log.append(vec![entry(2, 6, 1)], answers.done(1));
    log.append(vec![entry(1, 5, 1)], answers.done(2));
    log.append(vec![entry(2, 5, 1), entry(2, 7, 1)], answers.done(3));
    log.truncate_after(None, answers.done(4));
    log.truncate_after(Some(id(2, 0)), answers.done(5));
    log.truncate_after(Some(id(1, 3)), answers.done(6));
    log.truncate_after(Some(id(2, 9)), answers.done(7));
    let large = Bytes::from(vec![0; limits::LOG_ENTRY_BYTES + 1]);
    log.append(vec![Entry { id: id(2, 5), payload: large }], answers.done(8));
    world.tasks.run();
    let answered = answers.take();
    assert_eq!(answered.len(), 8);
    assert!(answered.iter().all(|(_, result)| result.is_err()));
    assert_eq!(Model::of(&log), before);
    assert_eq!(log.failed(), None);
    log.append(vec![entry(2, 5, 1)], answers.done(9));
    world.tasks.run();
    assert_eq!(answers.take(), vec![(9, Ok(()))]);
}

#[test]
fn committed_is_written_with_the_next_write_and_at_close() {
    let world = World::new(1);
    let (log, _) = created(&world);
    log.append((0..5).map(|index| entry(1, index, 10)).collect(), ignore());
    world.tasks.run();
    let flushes = log.stats().flushes;
    log.save_committed(id(1, 2));
    world.tasks.run();
    assert_eq!(log.stats().flushes, flushes);
    let (log, recovered) = crashed(&world, Crash::LoseAll).unwrap();
    assert_eq!(recovered.committed, None);
    log.save_committed(id(1, 3));
    log.append(vec![entry(1, 5, 10)], ignore());
    world.tasks.run();
    assert_eq!(log.stats().flushes, 1);
    let (log, recovered) = crashed(&world, Crash::LoseAll).unwrap();
    assert_eq!(recovered.committed, Some(id(1, 3)));
    log.save_committed(id(1, 4));
    drop(log);
    world.tasks.run();
    let (_, recovered) = crashed(&world, Crash::LoseAll).unwrap();
    assert_eq!(recovered.committed, Some(id(1, 4)), "the last handle's drop closes");
}

#[test]
fn after_close_calls_fail_and_what_waited_is_durable() {
    let world = World::new(1);
    let (log, _) = created(&world);
    let answers = Answers::default();
    log.append(vec![entry(1, 0, 10)], answers.done(1));
    futures::executor::block_on(log.close());
    world.tasks.run();
    log.append(vec![entry(1, 1, 10)], answers.done(2));
    let answered = answers.take();
    assert_eq!(answered[0], (1, Ok(())));
    assert!(answered[1].1.as_ref().unwrap_err().contains("closed"));
    let (_, recovered) = crashed(&world, Crash::LoseAll).unwrap();
    assert_eq!(recovered.last, Some(id(1, 0)));
}

/// Several threads append nothing but votes and read, one appends: with the real disk and the real thread.
#[test]
fn it_works_with_threads_and_the_real_file_system() {
    let temporary = tempfile::tempdir().unwrap();
    let directory = temporary.path().join("log");
    let env = real();
    let options = Options { segment_bytes: 64 << 10, cache_bytes: 10_000 };
    Log::create(&env, &directory, options).unwrap();
    let (log, _) = Log::open(&env, &directory, options).unwrap();
    let answers = Answers::default();
    let observed = Arc::new(Mutex::new(0));
    let counter = observed.clone();
    log.observe(Box::new(move |stats| *counter.lock() = stats.flushes));
    std::thread::scope(|scope| {
        for voter in 0..2 {
            let log = log.clone();
            scope.spawn(move || {
                for term in 0..20 {
                    log.save_vote(Vote { term, node: Some(voter), committed: false }, ignore());
                    let Some((first, last)) = log.first_last() else { continue };
                    let entries = log.read(first..last + 1, 5_000).unwrap();
                    assert!(entries.iter().all(|found| *found == entry(1, found.id.index, 300)));
                }
            });
        }
        for index in 0..500 {
            log.append(vec![entry(1, index, 300)], answers.done(index));
        }
    });
    futures::executor::block_on(log.close());
    let answered = answers.take();
    assert_eq!(answered, (0..500).map(|index| (index, Ok(()))).collect::<Vec<_>>());
    assert_eq!(*log.durable().borrow(), 499);
    assert!(log.stats().flushes > 0 && *observed.lock() == log.stats().flushes);
    let (log, recovered) = Log::open(&env, &directory, options).unwrap();
    assert_eq!(recovered.last, Some(id(1, 499)));
    assert_eq!(all(&log), (0..500).map(|index| entry(1, index, 300)).collect::<Vec<_>>());
    futures::executor::block_on(log.close());
}
