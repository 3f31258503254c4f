//! `setstone simulate`: runs seeds of the deterministic simulator. Only with the feature `simulation`.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;

use clap::Args;
use tracing_subscriber::EnvFilter;

use super::exit::{Exit, Failure};
use crate::env::simulated::Bug;
use crate::simulation::{self, Options, Report};

/// Runs whole clusters in one thread, on simulated time, network, names and disks; a seed decides everything
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  setstone simulate --seed 17 --trace            one seed, and everything that happens
  setstone simulate --seeds 0..1000 --jobs 2 --ledger seeds.txt
                                                 a sweep; started again, it goes on where it was

The first thing printed is the seed. Exit code 1: something is wrong.")]
pub(super) struct Arguments {
    /// Run one seed
    #[arg(long, conflicts_with = "seeds", required_unless_present = "seeds")]
    pub seed: Option<u64>,
    /// Run the seeds from A up to, but without, B
    #[arg(long, value_name = "A..B", value_parser = parse_range)]
    pub seeds: Option<(u64, u64)>,
    /// Print everything that happens; RUST_LOG adds the log of the members
    #[arg(long, requires = "seed")]
    pub trace: bool,
    /// Seeds that run at the same time
    #[arg(long, default_value_t = 1)]
    pub jobs: usize,
    /// Run with a planted bug, to see whether it is found
    #[arg(long, value_parser = parse_bug)]
    pub bug: Option<Bug>,
    /// Append each seed's result to this file, and skip the seeds that it holds
    #[arg(long, value_name = "FILE")]
    pub ledger: Option<PathBuf>,
}

fn parse_range(text: &str) -> Result<(u64, u64), String> {
    let range = text.split_once("..").and_then(|(first, end)| Some((first.parse().ok()?, end.parse().ok()?)));
    range.filter(|(first, end)| first < end).ok_or_else(|| format!("{text:?} is not A..B with A below B"))
}

fn parse_bug(text: &str) -> Result<Bug, String> {
    let all = || Bug::ALL.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    Bug::ALL.into_iter().find(|bug| bug.to_string() == text).ok_or_else(|| format!("not one of {}", all()))
}

pub(super) fn run(arguments: &Arguments, out: &mut dyn Write) -> Result<Exit, Failure> {
    match (arguments.seed, arguments.seeds) {
        (Some(seed), _) => one(seed, arguments, out),
        (None, Some(range)) => sweep(range, arguments, out),
        (None, None) => Err(Failure::new(Exit::Failed, "no seed is given".to_owned())),
    }
}

fn one(seed: u64, arguments: &Arguments, out: &mut dyn Write) -> Result<Exit, Failure> {
    writeln!(out, "seed {seed}")?;
    out.flush()?;
    if arguments.trace
        && let Ok(filter) = EnvFilter::try_from_default_env()
    {
        // A log that cannot be started was started before.
        let _ = tracing_subscriber::fmt().with_env_filter(filter).without_time().try_init();
    }
    let report = simulation::run(seed, Options { echo: arguments.trace, bug: arguments.bug });
    writeln!(out, "{}", line(&report))?;
    for wrong in &report.wrong {
        writeln!(out, "{wrong}")?;
    }
    Ok(if report.wrong.is_empty() { Exit::Ok } else { Exit::Failed })
}

/// One line of the ledger.
fn line(report: &Report) -> String {
    let Report { seed, hash, millis, faults, calls: (done, refused, unknown), wrong, .. } = report;
    let verdict = wrong.first().map_or("ok".to_owned(), |first| {
        format!("WRONG {}", first.chars().take(200).collect::<String>().replace('\n', " "))
    });
    format!(
        "seed {seed} hash {hash:016x} millis {millis} faults {faults} done {done} refused {refused} unknown {unknown} {verdict}"
    )
}

/// The seeds that a ledger holds.
fn known(ledger: &str) -> BTreeSet<u64> {
    ledger
        .lines()
        .filter_map(|line| line.strip_prefix("seed ")?.split_whitespace().next()?.parse().ok())
        .collect()
}

fn sweep((first, end): (u64, u64), arguments: &Arguments, out: &mut dyn Write) -> Result<Exit, Failure> {
    writeln!(out, "seeds {first}..{end}")?;
    out.flush()?;
    let mut ledger = None;
    let mut done = BTreeSet::new();
    if let Some(path) = &arguments.ledger {
        done = std::fs::read_to_string(path).map(|text| known(&text)).unwrap_or_default();
        ledger = Some(std::fs::OpenOptions::new().create(true).append(true).open(path)?);
    }
    let next = AtomicU64::new(first);
    let (reports, results) = mpsc::channel();
    let (mut ran, mut wrong) = (0_u64, 0_u64);
    std::thread::scope(|threads| -> Result<(), Failure> {
        for _ in 0..arguments.jobs.max(1) {
            let (reports, next, done) = (reports.clone(), &next, &done);
            threads.spawn(move || {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    // The receiver is gone only if the ledger cannot be written.
                    let options = Options { echo: false, bug: arguments.bug };
                    if !done.contains(&seed) && reports.send(simulation::run(seed, options)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(reports);
        for report in results {
            let line = line(&report);
            ran += 1;
            if !report.wrong.is_empty() {
                wrong += 1;
                writeln!(out, "{line}")?;
                out.flush()?;
            }
            if let Some(ledger) = &mut ledger {
                writeln!(ledger, "{line}")?;
            }
        }
        Ok(())
    })?;
    writeln!(out, "{ran} seeds ran, {wrong} of them found something wrong")?;
    Ok(if wrong == 0 { Exit::Ok } else { Exit::Failed })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read() {
        assert_eq!(parse_range("3..9"), Ok((3, 9)));
        for wrong in ["9..3", "3..3", "3", "a..b", "..", "-1..2"] {
            assert!(parse_range(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_ledger_tells_which_seeds_ran() {
        assert_eq!(known("seed 3 hash 0 ok\nnonsense\nseed 17 hash 1 WRONG seed 4\n"), [3, 17].into());
    }
}
