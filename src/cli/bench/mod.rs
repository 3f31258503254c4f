//! `setstone bench`: a load on any etcd v3 endpoints, so also on a real etcd.
//!
//! The load generator often shares its machine with the servers, so it is frugal: threads with a runtime of their own
//! and nothing shared but two counters, few connections with many concurrent requests, values cut from one random slab.
//!
//! * `options`: what can be chosen
//! * `payload`: keys and values
//! * `worker`: one thread's clients
//! * `tickets`: how many, how fast, how long
//! * `report`: what was measured

mod options;
mod payload;
mod report;
mod tickets;
mod worker;

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::Global;
use super::exit::{Exit, Failure};
use crate::client::{Endpoint, Options};
pub(super) use options::Arguments;
use options::Plan;
use report::Report;
use tickets::Tickets;
use worker::{Measured, Worker};

/// How often the progress bar moves.
const TICK: Duration = Duration::from_millis(200);

pub(super) fn run(arguments: &Arguments, global: &Global, out: &mut dyn Write) -> Result<Exit, Failure> {
    let plan = arguments.plan().map_err(Failure::usage)?;
    let endpoints = Endpoint::list(&global.endpoints).map_err(|error| Failure::usage(error.to_string()))?;
    let plan = Arc::new(plan);
    let options = global.options()?;
    if plan.prefill {
        let fill = Arc::new(plan.filling());
        let measured = load(&fill, &endpoints, &options, "filling")?;
        if measured.errors.total() > 0 {
            let text = format!("filling failed: {}", measured.errors.summary());
            return Err(Failure::new(Exit::Failed, text));
        }
    }
    let measured = load(&plan, &endpoints, &options, plan.operation.name())?;
    let report = Report::new(&plan, endpoints.len(), &measured);
    if global.json {
        super::output::print_json(out, &report.json())?;
    } else {
        report.print(out)?;
    }
    if let Some(path) = &plan.json_file {
        let mut text = report.json().to_string();
        text.push('\n');
        std::fs::write(path, text)
            .map_err(|error| Failure::new(Exit::Failed, format!("{}: {error}", path.display())))?;
    }
    Ok(if measured.done == 0 { Exit::Failed } else { Exit::Ok })
}

/// Runs one load to its end: starts the threads, shows progress, merges what they measured.
fn load(
    plan: &Arc<Plan>,
    endpoints: &[Endpoint],
    options: &Options,
    what: &str,
) -> Result<Measured, Failure> {
    let tickets = Arc::new(Tickets::new(plan));
    let threads: Vec<_> = (0..plan.threads)
        .map(|thread| {
            let worker = Worker {
                thread,
                plan: Arc::clone(plan),
                tickets: Arc::clone(&tickets),
                endpoints: endpoints.to_vec(),
                options: options.clone(),
            };
            std::thread::Builder::new().name(format!("bench-{thread}")).spawn(move || worker.run())
        })
        .collect::<Result<_, _>>()?;
    let bar = progress_bar(plan, what);
    while !threads.iter().all(std::thread::JoinHandle::is_finished) {
        show(&bar, &tickets);
        std::thread::park_timeout(TICK.min(plan.duration.unwrap_or(TICK)));
    }
    bar.finish_and_clear();
    let mut measured = Measured::new()?;
    for thread in threads {
        let part =
            thread.join().map_err(|_| Failure::new(Exit::Failed, "a thread of the load panicked"))??;
        measured.merge(&part)?;
    }
    Ok(measured)
}

fn progress_bar(plan: &Plan, what: &str) -> ProgressBar {
    let length =
        plan.total.unwrap_or_else(|| plan.duration.map_or(0, |duration| duration.as_millis() as u64));
    let bar = ProgressBar::new(length);
    if let Ok(style) = ProgressStyle::with_template("{prefix} {wide_bar} {msg}") {
        bar.set_style(style);
    }
    bar.set_prefix(what.to_owned());
    bar
}

fn show(bar: &ProgressBar, tickets: &Tickets) {
    let (position, rate) = tickets.progress();
    bar.set_position(position);
    bar.set_message(format!("{rate:.0}/s"));
}
