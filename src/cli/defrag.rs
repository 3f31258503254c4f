//! `setstone defrag`: has members rewrite what they have on disk.

use std::io::Write;
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::ProgressBar;
use serde_json::json;

use super::Global;
use super::exit::{Exit, Failure};
use super::output;
use crate::client::{Client, Connection, Endpoint, Options, Remote};

/// How often the spinner moves.
const TICK: Duration = Duration::from_millis(100);

/// Gives back to the file system what compaction has freed, at each endpoint in turn
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  setstone defrag
  setstone defrag --cluster                     every member of the cluster

Reads and writes go on meanwhile. The member needs room for a second copy of what its store holds.")]
pub(super) struct Arguments {
    /// All members, as the cluster lists them
    #[arg(long)]
    pub cluster: bool,
}

pub(super) async fn run(
    arguments: &Arguments,
    global: &Global,
    out: &mut dyn Write,
) -> Result<Exit, Failure> {
    let options = global.options()?;
    let mut exit = Exit::Ok;
    let mut rows = Vec::new();
    for endpoint in endpoints(arguments, global, &options).await? {
        let connection = Connection::new(endpoint, &options);
        let place = connection.endpoint().to_string();
        let spinner = ProgressBar::new_spinner().with_message(format!("defragmenting {place}"));
        spinner.enable_steady_tick(TICK);
        let started = Instant::now();
        let done = connection.defragment().await;
        spinner.finish_and_clear();
        let took = started.elapsed();
        if let Err(error) = &done {
            exit = Exit::Failed;
            if !global.json {
                eprintln!("setstone: failed to defragment member[{place}]. took {took:.1?}. ({error})");
            }
        } else if !global.json {
            writeln!(out, "Finished defragmenting member[{place}]. took {took:.1?}")?;
            out.flush()?;
        }
        let error = done.err().map(|error| error.to_string());
        rows.push(json!({ "endpoint": place, "seconds": took.as_secs_f64(), "error": error }));
    }
    if global.json {
        output::print_json(out, &json!({ "members": rows }))?;
    }
    Ok(exit)
}

/// Those that were given, or those of all members.
async fn endpoints(
    arguments: &Arguments,
    global: &Global,
    options: &Options,
) -> Result<Vec<Endpoint>, Failure> {
    let list = if arguments.cluster {
        let members = Remote::new(&global.endpoints, options)?.members().await?.value;
        // One of each: they are the same member's.
        members
            .into_iter()
            .filter_map(|member| member.client_urls.into_iter().next())
            .collect::<Vec<_>>()
            .join(",")
    } else {
        global.endpoints.clone()
    };
    Endpoint::list(&list).map_err(|error| Failure::usage(error.to_string()))
}
