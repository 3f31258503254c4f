//! The state machine without an engine: applying batches of puts, reading one key, and the record codec.
//!
//! `cargo bench --bench apply`. The engine here is a `BTreeMap`, written outside of what is measured.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::ops::{Bound, ControlFlow};

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use setstone::mvcc::command::{Command, LogPosition, Put, Range, Request};
use setstone::mvcc::{Changes, History, HistoryError, State};

const VALUE_BYTES: usize = 256;
const KEYS: u64 = 100_000;
const AT: LogPosition = LogPosition { term: 1, index: 1 };

#[derive(Default)]
struct Memory(BTreeMap<Bytes, Bytes>);

impl Memory {
    fn write(&mut self, changes: Changes) {
        for key in changes.deletes {
            self.0.remove(&key);
        }
        self.0.extend(changes.puts);
    }
}

impl History for Memory {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, HistoryError> {
        Ok(self.0.get(key).cloned())
    }

    fn floor(&self, key: &[u8]) -> Result<Option<(Bytes, Bytes)>, HistoryError> {
        let found = self.0.range::<[u8], _>((Bound::Unbounded, Bound::Included(key))).next_back();
        Ok(found.map(|(key, value)| (key.clone(), value.clone())))
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(Bytes, Bytes) -> ControlFlow<()>,
    ) -> Result<(), HistoryError> {
        for (key, value) in self.0.range::<[u8], _>((Bound::Included(from), Bound::Excluded(to))) {
            if visit(key.clone(), value.clone()).is_break() {
                break;
            }
        }
        Ok(())
    }
}

/// Keys in an order that is not theirs, the same in every run.
fn key(number: u64) -> Bytes {
    Bytes::from(format!("/bench/{:08}", number.wrapping_mul(2_654_435_761) % KEYS))
}

fn put(number: u64) -> Request {
    let value = Bytes::from(vec![b'v'; VALUE_BYTES]);
    Request::anonymous(Command::Put(Put { key: key(number), value, ..Put::default() }))
}

/// A store in which every key was written once.
fn filled() -> (State, Memory) {
    let (mut state, mut memory) = (State::new(), Memory::default());
    let requests: Vec<Request> = (0..KEYS).map(put).collect();
    for batch in requests.chunks(100) {
        let applied = state.apply(&memory, AT, batch);
        memory.write(applied.changes);
    }
    (state, memory)
}

fn apply(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("apply puts of 256 bytes");
    for batch in [1, 50, 128, 500] {
        let (mut state, memory) = filled();
        let mut next = 0;
        group.throughput(Throughput::Elements(batch));
        group.bench_function(format!("{batch} in one entry"), |bencher| {
            bencher.iter_batched(
                || {
                    next += batch;
                    (next - batch..next).map(put).collect::<Vec<_>>()
                },
                |requests| {
                    let applied = state.apply(&memory, AT, &requests);
                    (applied, requests)
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

fn range(criterion: &mut Criterion) {
    let (state, memory) = filled();
    let mut next = 0;
    let read = |range: &Range| {
        let mut plan = state.plan_range(range).unwrap();
        while !plan.step(&memory, 512).unwrap() {}
        plan.finish()
    };
    criterion.bench_function("range of one key", |bencher| {
        bencher.iter_batched(
            || {
                next += 1;
                Range { key: key(next), ..Range::default() }
            },
            |range| (read(&range), range),
            BatchSize::SmallInput,
        );
    });
    let everything =
        Range { key: Bytes::from_static(b"\0"), range_end: Bytes::from_static(b"\0"), ..Range::default() };
    criterion.bench_function("range of 500 keys of 100 000, with count", |bencher| {
        let range = Range { limit: 500, ..everything.clone() };
        bencher.iter(|| black_box(read(&range)));
    });
    criterion.bench_function("range of one key, planned only", |bencher| {
        let range = Range { key: key(4_711), ..Range::default() };
        bencher.iter(|| black_box(state.plan_range(&range).unwrap()));
    });
}

fn codec(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("codec");
    group.sample_size(10);
    group.throughput(Throughput::Elements(KEYS));
    let (mut state, memory) = filled();
    group.bench_function("load 100 000 keys", |bencher| bencher.iter(|| State::load(&memory).unwrap()));
    group.bench_function("hash 100 000 keys", |bencher| bencher.iter(|| state.hash(&memory, 0).unwrap()));
    let requests: Vec<Request> = (0..KEYS).map(put).collect();
    group.bench_function("encode 100 000 keys", |bencher| {
        bencher.iter_batched(|| (), |()| state.apply(&memory, AT, &requests), BatchSize::PerIteration);
    });
    group.finish();
}

criterion_group!(benches, apply, range, codec);
criterion_main!(benches);
