//! `setstone lease`: leases, with the words and habits of etcdctl.

use std::io::Write;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::Global;
use super::exit::{Exit, Failure};
use super::output::{self, header_json, id as hexadecimal};
use super::put::lease as parse;
use super::text::Encoding;
use crate::client::{Answer, Client, LeaseLife};

/// Grants, keeps alive, shows and ends leases
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  setstone lease grant 60                       prints the lease's id
  setstone put color blue --lease 694d81a1      deleted when the lease ends
  setstone lease keep-alive 694d81a1            until it is interrupted
  setstone lease timetolive 694d81a1 --keys
  setstone lease revoke 694d81a1

Ids of leases are hexadecimal digits, as etcdctl prints them.")]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// Makes a lease that lives for TTL seconds unless it is kept alive
    Grant {
        /// Seconds; the cluster raises what is too short for it
        #[arg(allow_negative_numbers = true)]
        ttl: i64,
        /// The id; the cluster chooses one if none is given
        #[arg(long, value_name = "ID", value_parser = parse, default_value = "0", hide_default_value = true)]
        id: i64,
    },
    /// Ends a lease, and deletes the keys that hang on it
    Revoke {
        /// The lease
        #[arg(value_parser = parse)]
        id: i64,
    },
    /// Begins a lease's time anew, again and again until it is interrupted or the lease is gone
    KeepAlive {
        /// The lease
        #[arg(value_parser = parse)]
        id: i64,
        /// Once only
        #[arg(long)]
        once: bool,
    },
    /// Tells how much time a lease has left
    #[command(name = "timetolive", alias = "time-to-live")]
    TimeToLive {
        /// The lease
        #[arg(value_parser = parse)]
        id: i64,
        /// Also name the keys that hang on it
        #[arg(long)]
        keys: bool,
        /// Print keys as hexadecimal digits
        #[arg(long)]
        hex: bool,
    },
    /// Lists all leases
    List,
}

pub(super) async fn run(
    arguments: &Arguments,
    global: &Global,
    out: &mut dyn Write,
) -> Result<Exit, Failure> {
    let client = global.client()?;
    match arguments.command {
        Command::Grant { ttl, id } => {
            let answer = client.grant(id, ttl).await?;
            let granted = answer.value;
            let text = format!("lease {} granted with TTL({}s)", name(granted.id), granted.ttl);
            let document = json!({ "id": name(granted.id), "ttl": granted.ttl });
            print(out, global, &answer, document, &text)?;
        }
        Command::Revoke { id } => {
            let answer = client.revoke(id).await?;
            let document = json!({ "id": name(id) });
            print(out, global, &answer, document, &format!("lease {} revoked", name(id)))?;
        }
        Command::KeepAlive { id, once } => return keep_alive(&client, id, once, global, out).await,
        Command::TimeToLive { id, keys, hex } => {
            let answer = client.time_to_live(id, keys).await?;
            let encoding = Encoding::from_flag(hex);
            let shown: Vec<String> = answer.value.keys.iter().map(|key| encoding.show(key)).collect();
            let LeaseLife { ttl, granted, .. } = answer.value;
            let document = json!({ "id": name(id), "ttl": ttl, "granted_ttl": granted, "keys": shown });
            print(out, global, &answer, document, &life(id, ttl, granted, keys.then_some(&shown)))?;
        }
        Command::List => {
            let answer = client.leases().await?;
            let names: Vec<String> = answer.value.iter().map(|id| name(*id)).collect();
            let lines = std::iter::once(format!("found {} leases", names.len())).chain(names.iter().cloned());
            let text = lines.collect::<Vec<_>>().join("\n");
            print(out, global, &answer, json!({ "leases": names }), &text)?;
        }
    }
    Ok(Exit::Ok)
}

fn name(id: i64) -> String {
    hexadecimal(id as u64)
}

fn life(id: i64, ttl: i64, granted: i64, keys: Option<&Vec<String>>) -> String {
    if ttl < 0 {
        return format!("lease {} already expired", name(id));
    }
    let keys = keys.map(|keys| format!(", attached keys([{}])", keys.join(" "))).unwrap_or_default();
    format!("lease {} granted with TTL({granted}s), remaining({ttl}s){keys}", name(id))
}

/// One document under the answer's header, or one text.
fn print<T>(
    out: &mut dyn Write,
    global: &Global,
    answer: &Answer<T>,
    mut document: Value,
    text: &str,
) -> Result<(), Failure> {
    if !global.json {
        writeln!(out, "{text}")?;
        return Ok(());
    }
    if let Some(object) = document.as_object_mut() {
        object.insert("header".into(), header_json(&answer.header));
    }
    output::print_json(out, &document)
}

async fn keep_alive(
    client: &impl Client,
    id: i64,
    once: bool,
    global: &Global,
    out: &mut dyn Write,
) -> Result<Exit, Failure> {
    loop {
        let asked = Instant::now();
        let answer = client.keep_alive(id).await?;
        let ttl = answer.value;
        if ttl <= 0 {
            let text = format!("lease {} expired or revoked.", name(id));
            print(out, global, &answer, json!({ "id": name(id), "ttl": 0 }), &text)?;
            out.flush()?;
            return Ok(Exit::Failed);
        }
        let text = format!("lease {} keepalived with TTL({ttl})", name(id));
        print(out, global, &answer, json!({ "id": name(id), "ttl": ttl }), &text)?;
        // Whoever reads a pipe wants to know it now.
        out.flush()?;
        if once {
            return Ok(Exit::Ok);
        }
        let third = Duration::from_secs(u64::try_from(ttl).unwrap_or(0)) / 3;
        tokio::time::sleep_until(asked + third).await;
    }
}
