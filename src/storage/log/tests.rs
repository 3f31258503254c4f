//! What the log promises, on simulated files.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

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

/// Collects the answers of calls, in the order in which they came.
#[derive(Clone, Default)]
struct Answers(Arc<Mutex<Vec<(u64, Result<(), String>)>>>);

impl Answers {
    fn done(&self, number: u64) -> Done {
        let answers = self.0.clone();
        Box::new(move |result| answers.lock().push((number, result.map_err(|error| error.to_string()))))
    }

    fn take(&self) -> Vec<(u64, Result<(), String>)> {
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
