//! `setstone simulate`: runs seeds of the deterministic simulator. Only with the feature `simulation`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc;

use clap::Args;
use tracing_subscriber::EnvFilter;

use super::exit::{Exit, Failure};
use crate::env::simulated::Bug;
use crate::simulation::{self, Options, Report};

/// Seeds within which each planted bug must be found, counted from its first.
const BUG_SEEDS: u64 = 100;

/// Runs whole clusters in one thread, on simulated time, network, names and disks; a seed decides everything
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  setstone simulate --seed 17 --trace            one seed, and everything that happens
  setstone simulate --seeds 0..1000 --jobs 2 --ledger seeds.txt
                                                 a sweep; started again, it goes on where it was
  setstone simulate --bugs --jobs 2              plants each bug, and tells which seed finds it

The first thing printed is the seed. Exit code 1: something is wrong.")]
pub(super) struct Arguments {
    /// Run one seed
    #[arg(long, conflicts_with = "seeds", required_unless_present_any = ["seeds", "bugs"])]
    pub seed: Option<u64>,
    /// Run the seeds from A up to, but without, B
    #[arg(long, value_name = "A..B", value_parser = parse_range)]
    pub seeds: Option<(u64, u64)>,
    /// Print everything that happens; `RUST_LOG` adds the log of the members
    #[arg(long, requires = "seed")]
    pub trace: bool,
    /// Seeds that run at the same time
    #[arg(long, default_value_t = 1)]
    pub jobs: usize,
    /// Run with a planted bug, to see whether it is found
    #[arg(long, value_parser = parse_bug)]
    pub bug: Option<Bug>,
    /// Plant every bug, each until a seed finds it
    #[arg(long, conflicts_with_all = ["seed", "seeds", "bug", "ledger"])]
    pub bugs: bool,
    /// Write what happened in each seed to a file of its own in this directory
    #[arg(long, value_name = "DIR", requires = "seeds")]
    pub traces: Option<PathBuf>,
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
    Bug::ALL
        .iter()
        .copied()
        .find(|bug| bug.to_string() == text)
        .ok_or_else(|| format!("not one of {}", all()))
}

pub(super) fn run(arguments: &Arguments, out: &mut dyn Write) -> Result<Exit, Failure> {
    match (arguments.seed, arguments.seeds) {
        (Some(seed), _) => one(seed, arguments, out),
        (None, Some(range)) => sweep(range, arguments, out),
        (None, None) => bugs(arguments.jobs, out),
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

/// The first thing that is wrong, in one line.
fn symptom(report: &Report) -> Option<String> {
    let first = report.wrong.first()?;
    Some(first.chars().take(200).collect::<String>().replace('\n', " "))
}

/// One line of the ledger: names and values, then the verdict.
fn line(report: &Report) -> String {
    let Report { seed, hash, millis, calls: (done, refused, unknown), .. } = report;
    let counts: Vec<String> =
        report.counts.iter().map(|(what, count)| format!("{}={count}", what.replace(' ', "-"))).collect();
    let counts = if counts.is_empty() { "none".to_owned() } else { counts.join(",") };
    let verdict = symptom(report).map_or("ok".to_owned(), |first| format!("WRONG {first}"));
    format!(
        "seed {seed} hash {hash:016x} millis {millis} counts {counts} done {done} refused {refused} unknown {unknown} {verdict}"
    )
}

/// What the lines of a ledger add up to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Totals {
    seeds: BTreeSet<u64>,
    millis: u64,
    calls: u64,
    counts: BTreeMap<String, u64>,
    wrong: u64,
}

impl Totals {
    /// Adds a line, if it is one and of a seed that is not in yet.
    fn add(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let value = |name: &str| {
            let at = words.iter().position(|word| *word == name)?;
            words.get(at + 1).copied()
        };
        let number = |name: &str| value(name).and_then(|value| value.parse::<u64>().ok());
        let Some(seed) = number("seed").filter(|_| line.starts_with("seed ")) else { return };
        if !self.seeds.insert(seed) {
            return;
        }
        self.millis += number("millis").unwrap_or(0);
        self.calls += number("done").unwrap_or(0);
        self.wrong += u64::from(words.contains(&"WRONG"));
        for pair in value("counts").unwrap_or_default().split(',') {
            if let Some((what, Ok(count))) =
                pair.split_once('=').map(|(what, count)| (what, count.parse::<u64>()))
            {
                *self.counts.entry(what.replace('-', " ")).or_default() += count;
            }
        }
    }

    fn write(&self, out: &mut dyn Write) -> Result<(), Failure> {
        for (what, count) in &self.counts {
            writeln!(out, "{count:>9}  {what}")?;
        }
        writeln!(
            out,
            "{} seeds, {:.1} simulated hours, {} calls answered; {} seeds found something wrong",
            self.seeds.len(),
            self.millis as f64 / 3_600_000.0,
            self.calls,
            self.wrong
        )?;
        Ok(())
    }
}

fn sweep((first, end): (u64, u64), arguments: &Arguments, out: &mut dyn Write) -> Result<Exit, Failure> {
    writeln!(out, "seeds {first}..{end}")?;
    out.flush()?;
    let mut ledger = None;
    let mut totals = Totals::default();
    if let Some(path) = &arguments.ledger {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.lines().for_each(|line| totals.add(line));
        ledger = Some(std::fs::OpenOptions::new().create(true).append(true).open(path)?);
    }
    let known = totals.seeds.clone();
    let todo: Vec<u64> = (first..end).filter(|seed| !known.contains(seed)).collect();
    let options = Options { echo: false, bug: arguments.bug };
    in_parallel(arguments.jobs, &todo, |seed| simulation::run(*seed, options), &mut |report| {
        let line = line(&report);
        if let Some(directory) = &arguments.traces {
            std::fs::write(directory.join(format!("{}.trace", report.seed)), report.trace.join("\n"))?;
        }
        if !report.wrong.is_empty() {
            writeln!(out, "{line}")?;
            out.flush()?;
        }
        if let Some(ledger) = &mut ledger {
            writeln!(ledger, "{line}")?;
        }
        totals.add(&line);
        Ok(())
    })?;
    totals.write(out)?;
    Ok(if totals.wrong == 0 { Exit::Ok } else { Exit::Failed })
}

/// Does the work on some threads, and hands the results over as they come.
fn in_parallel<T: Sync, R: Send>(
    jobs: usize,
    todo: &[T],
    work: impl Fn(&T) -> R + Sync,
    take: &mut dyn FnMut(R) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let next = AtomicUsize::new(0);
    let (results, received) = mpsc::channel();
    std::thread::scope(|threads| {
        for _ in 0..jobs.max(1) {
            let (results, next, work) = (results.clone(), &next, &work);
            threads.spawn(move || {
                while let Some(item) = todo.get(next.fetch_add(1, Ordering::Relaxed)) {
                    // The receiver is gone only if a result could not be written down.
                    if results.send(work(item)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(results);
        received.into_iter().try_for_each(take)
    })
}

/// Plants every bug; writes a table of the seeds that find them.
fn bugs(jobs: usize, out: &mut dyn Write) -> Result<Exit, Failure> {
    writeln!(
        out,
        "| Bug | What it does | Found by seed | Seeds tried | First symptom |\n|---|---|---|---|---|"
    )?;
    out.flush()?;
    let missed = AtomicU64::new(0);
    let find = |bug: &Bug| {
        let wrong = |seed| symptom(&simulation::run(seed, Options { echo: false, bug: Some(*bug) }));
        let first = bug.first_seed();
        let found = (first..first + BUG_SEEDS).find_map(|seed| Some((seed, wrong(seed)?)));
        let what = bug.what().trim();
        found.map_or_else(
            || {
                missed.fetch_add(1, Ordering::Relaxed);
                format!("| `{bug}` | {what} | none | {BUG_SEEDS} | |")
            },
            |(seed, symptom)| format!("| `{bug}` | {what} | {seed} | {} | {symptom} |", seed - first + 1),
        )
    };
    in_parallel(jobs, Bug::ALL, find, &mut |row| {
        writeln!(out, "{row}")?;
        Ok(out.flush()?)
    })?;
    Ok(if missed.into_inner() == 0 { Exit::Ok } else { Exit::Failed })
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
    fn a_ledger_adds_up() {
        let mut totals = Totals::default();
        for line in [
            "seed 3 hash 0 millis 1500 counts power-loss=2,kill=1 done 7 refused 0 unknown 0 ok",
            "nonsense",
            "seed 3 hash 0 millis 1500 counts power-loss=2 done 7 refused 0 unknown 0 ok",
            "seed 17 hash 1 millis 500 counts power-loss=1 done 1 refused 0 unknown 0 WRONG seed 4 done 9",
        ] {
            totals.add(line);
        }
        let expected = Totals {
            seeds: [3, 17].into(),
            millis: 2_000,
            calls: 8,
            counts: [("power loss".to_owned(), 3), ("kill".to_owned(), 1)].into(),
            wrong: 1,
        };
        assert_eq!(totals, expected);
    }
}
