//! The log on real files: one flush (write and fdatasync) per batch of 1, 16 and 128 entries of 300 bytes.
//!
//! Files are under `target/`, which is on a disk; a temporary directory may be in memory and would measure nothing.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use futures::future::BoxFuture;
use setstone::env::clock::SystemClock;
use setstone::env::network::Tcp;
use setstone::env::random::SystemRandom;
use setstone::env::real_files::RealFiles;
use setstone::env::tasks::Threads;
use setstone::env::{Env, Lookup, Names};
use setstone::storage::log::{Entry, Log, LogId, Options};

#[derive(Debug)]
struct NoNames;

impl Names for NoNames {
    fn lookup<'a>(&'a self, _fqdn: &'a str) -> BoxFuture<'a, Lookup> {
        Box::pin(async { Lookup::Unknown("no names in a benchmark".to_owned()) })
    }
}

fn flush(criterion: &mut Criterion) {
    let env = Env {
        clock: Arc::new(SystemClock),
        random: Arc::new(SystemRandom),
        files: Arc::new(RealFiles),
        network: Arc::new(Tcp::default()),
        names: Arc::new(NoNames),
        tasks: Arc::new(Threads),
        owner: None,
    };
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
    let directory = tempfile::tempdir_in(target).expect("a directory under target/");
    let log_directory = directory.path().join("log");
    Log::create(&env, &log_directory, Options::default()).expect("a new log");
    let (log, _) = Log::open(&env, &log_directory, Options::default()).expect("the log");
    let payload = Bytes::from(vec![7; 300]);
    let mut index = 0;

    let mut group = criterion.benchmark_group("log flush");
    for count in [1, 16, 128] {
        group.throughput(Throughput::Elements(count));
        group.bench_function(format!("{count} × 300 bytes"), |bencher| {
            bencher.iter_batched(
                || {
                    if index > 0 && index % 100_000 < count {
                        log.purge(LogId { term: 1, index: index - 1 }, Box::new(|_| {}));
                    }
                    let entries = (index..index + count)
                        .map(|index| Entry { id: LogId { term: 1, index }, payload: payload.clone() });
                    index += count;
                    entries.collect::<Vec<_>>()
                },
                |entries| {
                    let (done, waiting) = mpsc::sync_channel(1);
                    log.append(entries, Box::new(move |result| done.send(result).expect("it waits")));
                    waiting.recv().expect("it answers").expect("it is durable");
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
    let stats = log.stats();
    println!("{} flushes, {} bytes written", stats.flushes, stats.bytes);
    futures::executor::block_on(log.close());
}

criterion_group!(benches, flush);
criterion_main!(benches);
