//! Loads of watchers: what a delivered event costs. The watchers are in this process, spread over the members; the writers too.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use setstone::client::{Client as _, Connection, Endpoint, Options, Put};
use setstone::proto::etcdserverpb as pb;
use setstone::proto::etcdserverpb::watch_client::WatchClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::Failure;
use crate::cluster::Cluster;
use crate::load::Sample;

/// Bytes of values.
const VALUE_BYTES: usize = 256;
/// Time for the last events to arrive once the last write was answered.
const REST: Duration = Duration::from_secs(30);

/// One load of watchers.
#[derive(Clone, Copy, Debug)]
pub struct WatchLoad {
    /// As it is called in the table.
    pub name: &'static str,
    streams: usize,
    watchers_per_stream: usize,
    /// Keys; the watchers take turns with them.
    keys: usize,
    writers: usize,
}

/// All of them.
pub const WATCH_LOADS: [WatchLoad; 5] = [
    WatchLoad {
        name: "watch, 100 watchers of 1 key",
        streams: 10,
        watchers_per_stream: 10,
        keys: 1,
        writers: 8,
    },
    WatchLoad {
        name: "watch, 1000 watchers of 1000 keys",
        streams: 10,
        watchers_per_stream: 100,
        keys: 1_000,
        writers: 64,
    },
    WatchLoad {
        name: "watch, 10000 watchers of 1 key",
        streams: 100,
        watchers_per_stream: 100,
        keys: 1,
        writers: 1,
    },
    WatchLoad {
        name: "watch, 100000 watchers of 1 key",
        streams: 100,
        watchers_per_stream: 1_000,
        keys: 1,
        writers: 1,
    },
    WatchLoad {
        name: "watch, 100000 watchers of 10000 keys",
        streams: 100,
        watchers_per_stream: 1_000,
        keys: 10_000,
        writers: 64,
    },
];

/// What the tasks of a run share.
struct Run {
    begun: Instant,
    stop: AtomicBool,
    written: AtomicU64,
    failed: AtomicU64,
    delivered: AtomicU64,
    /// From before a write until its event arrived, in microseconds.
    latencies: Mutex<Vec<u32>>,
}

impl WatchLoad {
    /// Puts the load on a cluster for `length`, and measures it.
    pub fn run(&self, cluster: &Cluster, length: Duration) -> Result<Sample, Failure> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(self.run_async(cluster, length))
    }

    async fn run_async(&self, cluster: &Cluster, length: Duration) -> Result<Sample, Failure> {
        let endpoints: Vec<String> = cluster.endpoints().split(',').map(str::to_owned).collect();
        let run = Arc::new(Run {
            begun: Instant::now(),
            stop: AtomicBool::new(false),
            written: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            latencies: Mutex::default(),
        });
        let mut streams = Vec::new();
        for stream in 0..self.streams {
            streams.push(self.open(&endpoints[stream % endpoints.len()], stream, run.clone()).await?);
        }
        let before = cluster.cost()?;
        let begun = Instant::now();
        let mut writers = Vec::new();
        for writer in 0..self.writers {
            let endpoint: Endpoint = endpoints[writer % endpoints.len()].parse()?;
            let connection = Connection::new(endpoint, &Options::default());
            writers.push(tokio::spawn(write(connection, run.clone(), writer, self.keys)));
        }
        tokio::time::sleep(length).await;
        run.stop.store(true, Ordering::Relaxed);
        for writer in writers {
            writer.await?;
        }
        let expected = run.written.load(Ordering::Relaxed) * self.watchers_per_key();
        let deadline = Instant::now() + REST;
        while run.delivered.load(Ordering::Relaxed) < expected {
            if Instant::now() > deadline {
                let delivered = run.delivered.load(Ordering::Relaxed);
                return Err(format!("{delivered} of {expected} events arrived").into());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let took = begun.elapsed();
        let cost = cluster.cost()?.since(before);
        for (stream, _requests) in streams {
            stream.abort();
        }
        let events = run.delivered.load(Ordering::Relaxed).max(1) as f64;
        let mut latencies = std::mem::take(&mut *run.latencies.lock().map_err(|_| "a stream has failed")?);
        latencies.sort_unstable();
        let at = |share: f64| {
            let place = (latencies.len() as f64 * share) as usize;
            f64::from(latencies.get(place).copied().unwrap_or(0))
        };
        Ok(Sample {
            per_second: events / took.as_secs_f64(),
            p50_us: at(0.5),
            p99_us: at(0.99),
            cpu_us: cost.cpu.as_secs_f64() * 1e6 / events,
            disk_bytes: cost.written_bytes as f64 / events,
            errors: run.failed.load(Ordering::Relaxed) as f64,
        })
    }

    fn watchers_per_key(&self) -> u64 {
        (self.streams * self.watchers_per_stream / self.keys) as u64
    }

    /// A stream with its watchers, which all are there when this returns.
    async fn open(
        &self,
        endpoint: &str,
        stream: usize,
        run: Arc<Run>,
    ) -> Result<(tokio::task::JoinHandle<()>, mpsc::Sender<pb::WatchRequest>), Failure> {
        let channel = Channel::from_shared(format!("http://{endpoint}"))?.connect().await?;
        let mut client = WatchClient::new(channel).max_decoding_message_size(usize::MAX);
        let (requests, sent) = mpsc::channel(self.watchers_per_stream);
        for watcher in 0..self.watchers_per_stream {
            let key = key((stream * self.watchers_per_stream + watcher) % self.keys);
            let create = pb::WatchCreateRequest { key: key.into(), ..Default::default() };
            let union = pb::watch_request::RequestUnion::CreateRequest(create);
            requests.send(pb::WatchRequest { request_union: Some(union) }).await?;
        }
        let mut responses = client.watch(ReceiverStream::new(sent)).await?.into_inner();
        for _ in 0..self.watchers_per_stream {
            let created = responses.message().await?.is_some_and(|response| response.created);
            if !created {
                return Err("a watcher was not made".into());
            }
        }
        let task = tokio::spawn(async move {
            while let Ok(Some(response)) = responses.message().await {
                let now = run.begun.elapsed().as_micros() as u64;
                if let Ok(mut latencies) = run.latencies.lock() {
                    let sent = response
                        .events
                        .iter()
                        .filter_map(|event| event.kv.as_ref())
                        .filter_map(|kv| Some(u64::from_be_bytes(*kv.value.first_chunk::<8>()?)));
                    latencies.extend(sent.map(|sent| now.saturating_sub(sent) as u32));
                }
                run.delivered.fetch_add(response.events.len() as u64, Ordering::Relaxed);
            }
        });
        Ok((task, requests))
    }
}

fn key(number: usize) -> String {
    format!("watched/{number:06}")
}

async fn write(connection: Connection, run: Arc<Run>, writer: usize, keys: usize) {
    let mut number = writer;
    while !run.stop.load(Ordering::Relaxed) {
        // Steps that share no factor with the number of keys visit them all.
        number += 7_919;
        let mut value = (run.begun.elapsed().as_micros() as u64).to_be_bytes().to_vec();
        value.resize(VALUE_BYTES, b'v');
        let put = Put { key: key(number % keys).into(), value: value.into(), ..Put::default() };
        match connection.put(put).await {
            Ok(_) => run.written.fetch_add(1, Ordering::Relaxed),
            Err(_) => run.failed.fetch_add(1, Ordering::Relaxed),
        };
    }
}
