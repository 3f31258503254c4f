//! What can be chosen, and the plan that follows from it.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use crate::cli::duration;
use crate::limits::REQUEST_BYTES;

/// Puts a load on the endpoints and measures it
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  setstone bench put --clients 128 --duration 30s
  setstone bench get --serializable --prefill --key-space 100000
  setstone bench mixed --reads 90 --rate 5000 --json
  setstone bench put --endpoints etcd-0:2379,etcd-1:2379 --total 200000

With --rate, requests start at fixed times, and a latency counts from the time at which its
request was due: a server that stalls is not spared the requests that had to wait. Without it,
each client sends its next request when the last was answered. A failed request is not repeated.")]
pub(in crate::cli) struct Arguments {
    #[command(subcommand)]
    operation: OperationArguments,
}

#[derive(Clone, Debug, Subcommand)]
enum OperationArguments {
    /// Writes keys
    Put(Load),
    /// Reads keys
    Get {
        #[command(flatten)]
        load: Load,
        /// Read from one member, without a quorum
        #[arg(long)]
        serializable: bool,
    },
    /// Reads ranges of keys
    Range {
        #[command(flatten)]
        load: Load,
        /// Read from one member, without a quorum
        #[arg(long)]
        serializable: bool,
        /// Keys per range
        #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(i64).range(1..))]
        limit: i64,
    },
    /// Compares a key's version, then writes the key
    Txn(Load),
    /// Keeps leases alive, one for each client, on a stream of its own
    KeepAlive(Load),
    /// Reads and writes keys
    Mixed {
        #[command(flatten)]
        load: Load,
        /// Share of reads, in percent
        #[arg(long, value_name = "PERCENT", default_value_t = 80, value_parser = clap::value_parser!(u64).range(0..=100))]
        reads: u64,
        /// Read from one member, without a quorum
        #[arg(long)]
        serializable: bool,
    },
}

#[derive(Args, Clone, Debug)]
struct Load {
    /// Requests under way at the same time
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    clients: u32,
    /// Connections, spread over the endpoints; 0: one for each endpoint
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    connections: u32,
    /// Threads that make the load
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    threads: u32,
    /// Different keys
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    key_space: u64,
    /// Bytes of a key
    #[arg(long, value_name = "BYTES", default_value_t = 16)]
    key_size: usize,
    /// What all keys begin with
    #[arg(long, value_name = "TEXT", default_value = "b/")]
    key_prefix: String,
    /// Bytes of a value
    #[arg(long, value_name = "BYTES", default_value_t = 256)]
    value_size: usize,
    /// Requests per second that are started; without it, as many as the clients can
    #[arg(long, value_name = "N", value_parser = rate)]
    rate: Option<f64>,
    /// How long to measure (default: 10s)
    #[arg(long, value_name = "TIME", value_parser = duration::parse, conflicts_with = "total")]
    duration: Option<Duration>,
    /// How many requests to measure, instead of how long
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    total: Option<u64>,
    /// How long to run before measuring
    #[arg(long, value_name = "TIME", value_parser = duration::parse, default_value = "0s")]
    warmup: Duration,
    /// Makes keys, values and their order repeatable
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Write every key once before measuring
    #[arg(long)]
    prefill: bool,
    /// Use the keys in their order instead of at random
    #[arg(long)]
    sequential: bool,
    /// Also write the report as JSON to this file
    #[arg(long, value_name = "FILE")]
    json_file: Option<PathBuf>,
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if (0.001..=10_000_000.0).contains(&rate) => Ok(rate),
        _ => Err("a rate is a number from 0.001 to 10000000".into()),
    }
}

/// What one request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Put,
    Get { serializable: bool },
    Range { serializable: bool, limit: i64 },
    Txn,
    KeepAlive,
    Mixed { reads: u64, serializable: bool },
}

impl Operation {
    /// As it is called in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get { serializable: false } => "get",
            Self::Get { serializable: true } => "get, serializable",
            Self::Range { serializable: false, .. } => "range",
            Self::Range { serializable: true, .. } => "range, serializable",
            Self::Txn => "txn",
            Self::KeepAlive => "keep-alive",
            Self::Mixed { .. } => "mixed",
        }
    }
}

/// A load, in full.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub operation: Operation,
    pub clients: u32,
    pub connections: u32,
    pub threads: u32,
    pub key_space: u64,
    pub key_size: usize,
    pub key_prefix: String,
    pub value_size: usize,
    pub rate: Option<f64>,
    /// One of `duration` and `total` is set.
    pub duration: Option<Duration>,
    pub total: Option<u64>,
    pub warmup: Duration,
    pub seed: u64,
    pub prefill: bool,
    pub sequential: bool,
    pub json_file: Option<PathBuf>,
}

impl Arguments {
    /// The plan. Errors: keys too short for the prefix and all numbers, requests larger than they may be.
    pub(super) fn plan(&self) -> Result<Plan, String> {
        let (operation, load) = match &self.operation {
            OperationArguments::Put(load) => (Operation::Put, load),
            OperationArguments::Get { load, serializable } => {
                (Operation::Get { serializable: *serializable }, load)
            }
            OperationArguments::Range { load, serializable, limit } => {
                (Operation::Range { serializable: *serializable, limit: *limit }, load)
            }
            OperationArguments::Txn(load) => (Operation::Txn, load),
            OperationArguments::KeepAlive(load) => (Operation::KeepAlive, load),
            OperationArguments::Mixed { load, reads, serializable } => {
                (Operation::Mixed { reads: *reads, serializable: *serializable }, load)
            }
        };
        let digits = (load.key_space - 1).to_string().len();
        let needed = load.key_prefix.len() + digits;
        if load.key_size < needed {
            return Err(format!(
                "--key-size {}: {needed} bytes are needed for prefix and number",
                load.key_size
            ));
        }
        if load.key_size.saturating_add(load.value_size) > REQUEST_BYTES {
            return Err(format!("key and value are larger than a request may be, {REQUEST_BYTES} bytes"));
        }
        let duration = match (load.duration, load.total) {
            (None, None) => Some(Duration::from_secs(10)),
            (duration, _) => duration,
        };
        if duration == Some(Duration::ZERO) {
            return Err("--duration: nothing can be measured in no time".into());
        }
        let threads = load.threads.min(load.clients);
        Ok(Plan {
            operation,
            clients: load.clients,
            connections: load.connections,
            threads,
            key_space: load.key_space,
            key_size: load.key_size,
            key_prefix: load.key_prefix.clone(),
            value_size: load.value_size,
            rate: load.rate,
            duration,
            total: load.total,
            warmup: load.warmup,
            seed: load.seed,
            prefill: load.prefill,
            sequential: load.sequential,
            json_file: load.json_file.clone(),
        })
    }
}

impl Plan {
    /// The load that writes every key once.
    pub fn filling(&self) -> Self {
        Self {
            operation: Operation::Put,
            clients: self.clients.max(64),
            rate: None,
            duration: None,
            total: Some(self.key_space),
            warmup: Duration::ZERO,
            sequential: true,
            ..self.clone()
        }
    }
}
