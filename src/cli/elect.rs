//! `setstone elect`: takes part in an election, or watches one.

use std::io::Write;
use std::time::Duration;

use clap::Args;

use super::Global;
use super::exit::{Exit, Failure};
use super::output::{self, pair_json};
use super::signals::Signals;
use super::text::Encoding;
use crate::client::{KeyValue, Leadership};

/// Leads once it is elected, until it is stopped; or prints who leads
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  setstone elect scheduler 10.0.0.7             waits until it leads; prints key and value, and leads until it is interrupted
  setstone elect --listen scheduler             prints key and value of each leader, and each new value
  setstone elect --listen --json scheduler

The elections are those of `etcdctl elect`. Exits with 1 if leadership was lost.")]
pub(super) struct Arguments {
    /// Print who leads, and do not take part
    #[arg(long, short = 'l')]
    pub listen: bool,
    /// Seconds that it leads on when this process is gone
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    pub ttl: u64,
    /// The name of the election
    pub name: String,
    /// What everybody sees of it when it leads
    #[arg(required_unless_present = "listen", conflicts_with = "listen")]
    pub value: Option<String>,
}

/// Runs the command.
pub(super) async fn run(
    arguments: &Arguments,
    global: &Global,
    out: &mut dyn Write,
) -> Result<Exit, Failure> {
    let mut signals = Signals::new(false)?;
    match &arguments.value {
        Some(value) => lead(arguments, value, global, &mut signals, out).await,
        None => listen(&arguments.name, global, &mut signals, out).await,
    }
}

async fn lead(
    arguments: &Arguments,
    value: &str,
    global: &Global,
    signals: &mut Signals,
    out: &mut dyn Write,
) -> Result<Exit, Failure> {
    let ttl = Duration::from_secs(arguments.ttl);
    let interrupted = async {
        signals.next().await;
    };
    let client = global.client()?;
    let campaign = Leadership::campaign_unless(client, &arguments.name, value, ttl, interrupted);
    let Some(leads) = campaign.await? else {
        return Err(Failure::new(Exit::Failed, "interrupted before it led"));
    };
    let (key, created) = (leads.key().clone(), leads.token());
    // What it wrote when it joined.
    let kv = KeyValue {
        key,
        create_revision: created,
        mod_revision: created,
        version: 1,
        value: value.as_bytes().to_vec().into(),
        lease: leads.lease(),
    };
    print(&kv, global, out)?;
    tokio::select! {
        () = leads.lost() => Err(Failure::new(Exit::Failed, "leadership was lost")),
        _ = signals.next() => {
            leads.resign().await?;
            Ok(Exit::Ok)
        }
    }
}

async fn listen(
    name: &str,
    global: &Global,
    signals: &mut Signals,
    out: &mut dyn Write,
) -> Result<Exit, Failure> {
    let mut leaders = Leadership::observe(global.client()?, name);
    loop {
        let leader = tokio::select! {
            leader = leaders.next() => leader,
            _ = signals.next() => return Ok(Exit::Ok),
        };
        match leader {
            Some(leader) => print(&leader?, global, out)?,
            None => return Err(Failure::new(Exit::Failed, "who leads is not told any more")),
        }
    }
}

/// As etcdctl does.
fn print(kv: &KeyValue, global: &Global, out: &mut dyn Write) -> Result<(), Failure> {
    if global.json {
        output::print_json(out, &pair_json(kv, Encoding::Text, true))?;
    } else {
        writeln!(out, "{}", Encoding::Text.show(&kv.key))?;
        writeln!(out, "{}", Encoding::Text.show(&kv.value))?;
    }
    // Whoever reads a pipe wants it now.
    Ok(out.flush()?)
}
