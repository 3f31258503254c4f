//! `setstone alarm`: what is wrong with the cluster, with the words and habits of etcdctl.

use std::io::Write;

use clap::{Args, Subcommand};
use serde_json::json;

use super::Global;
use super::exit::{Exit, Failure};
use super::output::{self, header_json};
use crate::client::{Alarm, Client, Header};

/// Lists alarms, or disarms them
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  setstone alarm list
  setstone compact 1200 && setstone defrag && setstone alarm disarm

NOSPACE: the store has reached its quota, or the volume of a member is nearly full. What makes the
store grow is refused. The alarm about a volume goes by itself when there is room again.
CORRUPT: the members' stores differ. Everything is refused.")]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// Lists all alarms
    List,
    /// Disarms all alarms
    Disarm,
}

pub(super) async fn run(
    arguments: &Arguments,
    global: &Global,
    out: &mut dyn Write,
) -> Result<Exit, Failure> {
    let client = global.client()?;
    let raised = client.alarms().await?;
    match arguments.command {
        Command::List => print(&raised.header, &raised.value, global, out)?,
        Command::Disarm => {
            let (mut header, mut disarmed) = (raised.header, Vec::new());
            for alarm in raised.value {
                let answer = client.set_alarm(alarm, false).await?;
                header = answer.header;
                disarmed.extend(answer.value);
            }
            print(&header, &disarmed, global, out)?;
        }
    }
    Ok(Exit::Ok)
}

fn print(header: &Header, alarms: &[Alarm], global: &Global, out: &mut dyn Write) -> Result<(), Failure> {
    if global.json {
        let alarms: Vec<_> = alarms
            .iter()
            .map(|alarm| json!({ "member_id": output::id(alarm.member.0), "alarm": alarm.kind.name() }))
            .collect();
        return output::print_json(out, &json!({ "header": header_json(header), "alarms": alarms }));
    }
    for alarm in alarms {
        writeln!(out, "memberID:{} alarm:{}", output::id(alarm.member.0), alarm.kind.name())?;
    }
    Ok(())
}
