#![allow(clippy::unwrap_used, clippy::indexing_slicing)]
#![allow(clippy::disallowed_methods)] // Threads are part of what is tested.

use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;

use super::*;
use crate::env::tasks::Threads;
use crate::storage::MemoryEngine;
use crate::storage::engine::tests::scan;
use crate::storage::testing::Manual;

type Model = BTreeMap<Bytes, Bytes>;

/// The engine beneath: it can be looked into, also when it is closed, and can be made to fail.
#[derive(Clone, Debug, Default)]
struct Beneath(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    memory: MemoryEngine,
    batches: Mutex<Vec<Batch>>,
    fails: AtomicBool,
    closed: AtomicBool,
}

impl Default for Inner {
    fn default() -> Self {
        let (fails, closed) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { memory: MemoryEngine::new(), batches: Mutex::default(), fails, closed }
    }
}

impl Beneath {
    fn batches(&self) -> Vec<Batch> {
        self.0.batches.lock().clone()
    }

    fn content(&self) -> Model {
        scan(&self.0.memory, b"", b"").into_iter().collect()
    }
}

impl Engine for Beneath {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        self.0.memory.get(key)
    }

    fn floor(&self, end: Bound<&[u8]>) -> Result<Option<(Bytes, Bytes)>> {
        self.0.memory.floor(end)
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(Bytes, Bytes) -> ControlFlow<()>,
    ) -> Result<()> {
        self.0.memory.scan(from, to, visit)
    }

    fn commit(&self, batch: Batch) -> Result<()> {
        if self.0.fails.load(Ordering::Relaxed) {
            return Err(EngineError::Damaged("broken".into()));
        }
        self.0.batches.lock().push(batch.clone());
        self.0.memory.commit(batch)
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn size_on_disk(&self) -> Result<u64> {
        self.0.memory.size_on_disk()
    }

    fn close(&self) -> Result<()> {
        self.0.closed.store(true, Ordering::Relaxed);
        Ok(())
    }
}

fn pair(key: &str, value: &str) -> (Bytes, Bytes) {
    (Bytes::copy_from_slice(key.as_bytes()), Bytes::copy_from_slice(value.as_bytes()))
}

/// As apply makes them: a record, and the number of the last one.
fn record(number: u32) -> Batch {
    let number = number.to_string();
    Batch {
        puts: vec![pair(&format!("record {number:0>6}"), "…"), pair("applied", &number)],
        deletes: vec![],
    }
}

/// Bytes of a table with one [`record`], and of one more.
fn record_bytes() -> (usize, usize) {
    let mut table = Table::default();
    table.add(record(100_000));
    let one = table.bytes;
    table.add(record(100_001));
    (one, table.bytes - one)
}

fn behind(limit: usize, tasks: &dyn Tasks) -> (WriteBehind, Beneath) {
    let beneath = Beneath::default();
    (WriteBehind::new(Box::new(beneath.clone()), limit, tasks), beneath)
}

#[test]
fn a_full_table_is_one_batch_and_nothing_is_written_before() {
    let tasks = Manual::default();
    let (one, more) = record_bytes();
    let (engine, beneath) = behind(one + 9 * more, &tasks);
    for number in 100_000..100_009 {
        engine.commit(record(number)).unwrap();
        tasks.run();
    }
    assert_eq!(beneath.batches(), []);
    assert!(engine.size_on_disk().unwrap() as usize > 9 * more);
    engine.commit(record(100_009)).unwrap();
    engine.commit(record(100_010)).unwrap();
    tasks.run();
    let [batch] = &beneath.batches()[..] else { panic!("{:?}", beneath.batches()) };
    assert_eq!((batch.puts.len(), batch.deletes.len()), (11, 0));
    assert_eq!(batch.puts[10], pair("applied", "100009"), "the seal is last");
    assert_eq!(beneath.content()[&b"applied"[..]], "100009", "the number belongs to the records");
    assert_eq!(engine.get(b"applied").unwrap().unwrap(), "100010");
}

#[test]
fn flush_and_close_write_everything() {
    let (engine, beneath) = behind(usize::MAX, &Threads);
    engine.commit(record(1)).unwrap();
    engine.flush().unwrap();
    assert_eq!(beneath.content()[&b"applied"[..]], "1");
    engine.flush().unwrap();
    assert_eq!(beneath.batches().len(), 1, "there was nothing to write");
    engine.commit(record(2)).unwrap();
    engine.close().unwrap();
    assert_eq!(beneath.content()[&b"applied"[..]], "2");
    assert!(beneath.0.closed.load(Ordering::Relaxed));
}

#[test]
fn the_writer_ends_when_the_engine_is_dropped_and_what_waits_is_not_written() {
    let tasks = Manual::default();
    let (engine, beneath) = behind(usize::MAX, &tasks);
    engine.commit(record(1)).unwrap();
    let shared = Arc::downgrade(&engine.shared);
    drop(engine);
    assert!(beneath.0.closed.load(Ordering::Relaxed), "its files are given back at once");
    tasks.run();
    assert!(shared.upgrade().is_none());
    assert_eq!(beneath.batches(), []);
}

#[test]
fn who_fills_the_second_table_waits_for_the_first() {
    let tasks = Manual::default();
    let (engine, beneath) = behind(1, &tasks);
    engine.commit(record(1)).unwrap();
    std::thread::scope(|scope| {
        let second = scope.spawn(|| engine.commit(record(2)));
        while engine.get(b"applied").unwrap().unwrap() != "2" {
            std::thread::yield_now();
        }
        tasks.run();
        second.join().unwrap().unwrap();
    });
    tasks.run();
    let applied = |batch: &Batch| batch.puts.iter().find(|(key, _)| key == "applied").unwrap().1.clone();
    assert_eq!(beneath.batches().iter().map(applied).collect::<Vec<_>>(), ["1", "2"]);
    assert_eq!(beneath.content().len(), 3);
}

#[test]
fn a_failed_write_is_final_and_told_to_everyone() {
    let tasks = Manual::default();
    let (engine, beneath) = behind(1, &tasks);
    beneath.0.fails.store(true, Ordering::Relaxed);
    engine.commit(record(1)).unwrap();
    tasks.run();
    beneath.0.fails.store(false, Ordering::Relaxed);
    let failed = |result: Result<()>| matches!(result, Err(EngineError::Damaged(text)) if text == "broken");
    assert!(failed(engine.commit(record(2))));
    assert!(failed(engine.flush()));
    assert_eq!(engine.get(b"applied").unwrap().unwrap(), "1", "what was committed stays readable");
    tasks.run();
    assert!(failed(engine.close()));
    assert!(beneath.0.closed.load(Ordering::Relaxed));
    assert_eq!(beneath.batches(), []);
}

#[test]
fn nobody_waits_for_a_writer_that_is_gone() {
    let tasks = Manual::default();
    let (engine, _) = behind(1, &tasks);
    engine.commit(record(1)).unwrap();
    tasks.abandon();
    assert!(matches!(engine.commit(record(2)), Err(EngineError::Io(_))));
    assert!(matches!(engine.flush(), Err(EngineError::Io(_))));
    assert!(matches!(engine.close(), Err(EngineError::Io(_))));
}

/// One key is there at any time; it moves, and its value rises. Whoever looks at parts of two moments sees none, or an old
/// one.
#[test]
fn floor_is_of_one_moment_while_tables_are_written() {
    const MOVES: u32 = 30_000;
    let (engine, _) = behind(1_000, &Threads);
    let key = |number: u32| Bytes::from(vec![(number.wrapping_mul(2_654_435_761) >> 26) as u8]);
    let put = |number: u32| {
        let deletes = (number > 0 && key(number) != key(number - 1)).then(|| key(number - 1));
        let value = Bytes::copy_from_slice(&number.to_be_bytes());
        engine
            .commit(Batch { puts: vec![(key(number), value)], deletes: deletes.into_iter().collect() })
            .unwrap();
    };
    put(0);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut last = Bytes::new();
            while last[..] != MOVES.to_be_bytes() {
                let (_, value) = engine.floor(Bound::Included(&[0xff])).unwrap().expect("a key is there");
                assert!(value >= last, "{value:?} was read after {last:?}");
                last = value;
            }
        });
        for number in 1..=MOVES {
            put(number);
            if reader.is_finished() {
                break;
            }
        }
        reader.join().unwrap();
    });
}

/// What can happen, in any order.
#[derive(Clone, Debug)]
enum Step {
    Commit(BTreeMap<Bytes, Option<u8>>),
    Freeze,
    /// The engine has the frozen table, which is still in sight.
    Arrive,
    Write,
}

fn key() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(0..4u8, 0..5).prop_map(Bytes::from)
}

fn step() -> impl Strategy<Value = Step> {
    let changes = prop::collection::btree_map(key(), prop::option::of(any::<u8>()), 0..30);
    prop_oneof![
        4 => changes.prop_map(Step::Commit),
        2 => Just(Step::Freeze),
        1 => Just(Step::Arrive),
        1 => Just(Step::Write),
    ]
}

fn batch(changes: BTreeMap<Bytes, Option<u8>>, model: &mut Model) -> Batch {
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
    batch
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn reads_see_what_was_committed_wherever_it_is(
        steps in prop::collection::vec((step(), key(), key()), 1..40),
        shown in 1..40usize,
    ) {
        let tasks = Manual::default();
        let (engine, beneath) = behind(usize::MAX, &tasks);
        let (mut model, mut frozen) = (Model::new(), None);
        for (step, from, to) in steps {
            match step {
                Step::Commit(changes) => engine.commit(batch(changes, &mut model)).unwrap(),
                Step::Freeze if frozen.is_none() => {
                    engine.shared.freeze(&mut engine.shared.tables.lock());
                    frozen = Some(model.clone());
                }
                Step::Arrive if frozen.is_some() => {
                    let table = engine.shared.tables.lock().frozen.clone().unwrap();
                    beneath.commit(table.batch()).unwrap();
                }
                Step::Write => {
                    tasks.run();
                    if let Some(frozen) = frozen.take() {
                        prop_assert_eq!(beneath.content(), frozen, "the state at one moment");
                    }
                }
                Step::Freeze | Step::Arrive => {}
            }
            prop_assert_eq!(engine.get(&from).unwrap(), model.get(&from).cloned());
            for end in [Bound::Included(&from[..]), Bound::Excluded(&from[..])] {
                let floor = model.range::<[u8], _>((Bound::Unbounded, end)).next_back();
                let floor = floor.map(|(key, value)| (key.clone(), value.clone()));
                prop_assert_eq!(engine.floor(end).unwrap(), floor);
            }
            let all = model.iter().filter(|(key, _)| **key >= from && (to.is_empty() || **key < to));
            let all: Vec<_> = all.map(|(key, value)| (key.clone(), value.clone())).collect();
            prop_assert_eq!(&scan(&engine, &from, &to), &all);
            let mut some = Vec::new();
            engine.scan(&from, &to, &mut |key, value| {
                some.push((key, value));
                if some.len() < shown { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            }).unwrap();
            prop_assert_eq!(&some[..], &all[..shown.min(all.len())]);
        }
    }
}
