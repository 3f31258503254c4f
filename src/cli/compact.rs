//! `setstone compact`: forgets old revisions.

use std::io::Write;

use clap::Args;
use serde_json::json;

use super::Global;
use super::exit::{Exit, Failure};
use super::output::{self, header_json};
use crate::client::Client;
use crate::mvcc::command::Compact;

/// Forgets versions of keys that newer ones, at or below a revision, replaced
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  setstone compact 1200
  setstone compact 1200 --physical              returns when the disk has forgotten too

Revision 1200 can still be read afterwards; those before it cannot.")]
pub(super) struct Arguments {
    /// The oldest revision that can still be read afterwards
    #[arg(value_parser = clap::value_parser!(i64).range(1..))]
    pub revision: i64,
    /// Return only when the old versions are gone from the disk
    #[arg(long)]
    pub physical: bool,
}

pub(super) async fn run(
    arguments: &Arguments,
    global: &Global,
    out: &mut dyn Write,
) -> Result<Exit, Failure> {
    let Arguments { revision, physical } = *arguments;
    let answer = global.client()?.compact(Compact { revision, physical }).await?;
    if global.json {
        output::print_json(out, &json!({ "header": header_json(&answer.header), "compacted": revision }))?;
    } else {
        writeln!(out, "compacted up to revision {revision}; the store is at {}", answer.header.revision)?;
    }
    Ok(Exit::Ok)
}
