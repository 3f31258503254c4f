//! Compares three members of Setstone with three of etcd on this machine, under the same load from the same client.
//!
//! ```text
//! cargo bench --bench vs-etcd -- --etcd DIR        DIR holds etcd's binary
//! ```
//!
//! Machines differ and change from minute to minute, so the figures that count are ratios within one round: both clusters
//! run side by side, each load is put on one and at once on the other, which one is first changes with every round, and
//! the median of the rounds is shown. Each round starts with empty data directories on a real disk. What a server costs is
//! read from `/proc`: CPU time and bytes written, of its three members together.
//!
//! * `cluster`: starts and ends members
//! * `cost`: what members used so far
//! * `load`, `watch`: what is put on them
//! * `table`: medians and ratios

// A program for people at a terminal: it uses the real clock, files and processes.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::indexing_slicing)]

mod cluster;
mod cost;
mod load;
mod table;
mod watch;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;

use cluster::{Cluster, System};
use load::{LOADS, Load, Sample};
use table::Results;
use watch::{WATCH_LOADS, WatchLoad};

/// What goes wrong here ends the program.
type Failure = Box<dyn Error>;

/// Compare three members of Setstone with three of etcd
#[derive(Debug, Parser)]
#[command(name = "vs-etcd")]
struct Arguments {
    /// Directory that holds etcd's binary
    #[arg(long, value_name = "DIR", env = "ETCD_BIN")]
    etcd: PathBuf,
    /// Our binary, instead of the one that was built for this
    #[arg(long, value_name = "FILE", default_value = env!("CARGO_BIN_EXE_setstone"))]
    setstone: PathBuf,
    /// How often everything is measured; the median is shown
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=99))]
    rounds: u32,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
    /// Only loads whose names contain one of these texts, separated by commas
    #[arg(long, value_delimiter = ',', value_name = "TEXT")]
    only: Vec<String>,
    /// Puts after which resident memory is read; 0: not at all
    #[arg(long, default_value_t = 200_000)]
    memory_puts: u32,
    /// Where the data directories are made; they are removed at the end
    #[arg(long, value_name = "DIR", default_value = concat!(env!("CARGO_TARGET_TMPDIR"), "/vs-etcd"))]
    data: PathBuf,
    /// Print the table as Markdown
    #[arg(long)]
    markdown: bool,
    /// Also write every sample to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json_file: Option<PathBuf>,
    /// One round of one second, to see that it works
    #[arg(long)]
    quick: bool,
    /// Cargo says this
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<(), Failure> {
    let mut arguments = Arguments::parse();
    if arguments.quick {
        (arguments.rounds, arguments.seconds) = (1, 1);
        arguments.memory_puts = arguments.memory_puts.min(2_000);
    }
    require_disk(&arguments.data)?;
    let is_wanted =
        |name: &str| arguments.only.is_empty() || arguments.only.iter().any(|text| name.contains(text));
    let mut loads: Vec<_> = LOADS.into_iter().map(|load| (load.name, load)).collect();
    loads.retain(|(name, _)| is_wanted(name));
    let mut watch_loads: Vec<_> = WATCH_LOADS.into_iter().map(|load| (load.name, load)).collect();
    watch_loads.retain(|(name, _)| is_wanted(name));
    let length = Duration::from_secs(arguments.seconds.into());
    let mut results = Results::default();
    for round in 0..arguments.rounds {
        let run = |load: &Load, cluster: &Cluster| load.run(cluster, &arguments.setstone, length);
        run_loads(&arguments, round, &mut results, &loads, run)?;
        // Apart, so that their stores are as small as those of the others at their begin.
        let watch = |load: &WatchLoad, cluster: &Cluster| load.run(cluster, length);
        run_loads(&arguments, round, &mut results, &watch_loads, watch)?;
        if arguments.memory_puts > 0 {
            run_memory(&arguments, round, &mut results)?;
        }
    }
    let _ = std::fs::remove_dir_all(&arguments.data);
    if let Some(path) = &arguments.json_file {
        std::fs::write(path, results.json().to_string())?;
    }
    if arguments.markdown {
        print!("{}", results.markdown());
    } else {
        print!("{}", results.text());
    }
    Ok(())
}

/// Both clusters, fresh, in the order in which they are used in this round.
fn start_both(arguments: &Arguments, round: u32) -> Result<[Cluster; 2], Failure> {
    let mut systems = [System::Etcd, System::Setstone];
    if round % 2 == 1 {
        systems.reverse();
    }
    let _ = std::fs::remove_dir_all(&arguments.data);
    let start = |system: System| {
        let binary = match system {
            System::Etcd => arguments.etcd.join("etcd"),
            System::Setstone => arguments.setstone.clone(),
        };
        Cluster::start(system, &binary, &arguments.setstone, &arguments.data.join(system.name()))
    };
    let [first, second] = systems;
    Ok([start(first)?, start(second)?])
}

/// Runs loads on both, in turn, on clusters of their own.
fn run_loads<L>(
    arguments: &Arguments,
    round: u32,
    results: &mut Results,
    loads: &[(&'static str, L)],
    run: impl Fn(&L, &Cluster) -> Result<Sample, Failure>,
) -> Result<(), Failure> {
    if loads.is_empty() {
        return Ok(());
    }
    let clusters = start_both(arguments, round)?;
    for (name, load) in loads {
        for cluster in &clusters {
            eprintln!("round {}: {}: {name}", round + 1, cluster.system().name());
            results.add(name, cluster.system(), run(load, cluster)?);
        }
    }
    clusters.into_iter().try_for_each(Cluster::stop)
}

/// Resident memory after many puts, on clusters that did nothing else.
fn run_memory(arguments: &Arguments, round: u32, results: &mut Results) -> Result<(), Failure> {
    let clusters = start_both(arguments, round)?;
    for cluster in &clusters {
        eprintln!(
            "round {}: {}: memory after {} puts",
            round + 1,
            cluster.system().name(),
            arguments.memory_puts
        );
        load::fill(cluster, &arguments.setstone, arguments.memory_puts)?;
        results.add_memory(arguments.memory_puts, cluster.system(), cluster.resident_bytes()?);
    }
    clusters.into_iter().try_for_each(Cluster::stop)
}

/// An fsync on a file system in memory costs nothing, and comparisons would mean nothing.
fn require_disk(data: &Path) -> Result<(), Failure> {
    const TMPFS_MAGIC: i64 = 0x0102_1994;
    std::fs::create_dir_all(data)?;
    if rustix::fs::statfs(data)?.f_type == TMPFS_MAGIC {
        return Err(format!(
            "{} is in memory (tmpfs); name a directory on a disk with --data",
            data.display()
        )
        .into());
    }
    Ok(())
}

/// What one load was measured to cost.
fn sample_of(report: &serde_json::Value, cost: cost::Cost) -> Result<Sample, Failure> {
    let number = |pointer: &str| {
        report
            .pointer(pointer)
            .and_then(serde_json::Value::as_f64)
            .ok_or_else(|| format!("the report of the load has no {pointer}: {report}"))
    };
    let requests = number("/requests")?;
    if requests < 1.0 {
        return Err(format!("no request succeeded: {report}").into());
    }
    Ok(Sample {
        per_second: number("/requests_per_second")?,
        p50_us: number("/latency_us/p50")?,
        p99_us: number("/latency_us/p99")?,
        cpu_us: cost.cpu.as_secs_f64() * 1e6 / requests,
        disk_bytes: cost.written_bytes as f64 / requests,
        errors: number("/errors")?,
    })
}
