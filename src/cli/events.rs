//! `setstone events`: what the members decided lately.

use std::io::Write;

use clap::Args;
use serde_json::json;

use super::Global;
use super::exit::{Exit, Failure};
use super::output::{self, header_json};
use crate::client::{Answer, Client, EventInfo};

/// Lists what the members decided lately: starts, joins, changes of the membership, stops
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  setstone events
  setstone events --last 5
  setstone events --json | jq -r '.events[].text'

The cluster keeps the newest 256. Times are UTC, by the clock of the pod that tells.")]
pub(super) struct Arguments {
    /// Only the newest N
    #[arg(long, value_name = "N")]
    last: Option<usize>,
}

pub(super) async fn run(
    arguments: &Arguments,
    global: &Global,
    out: &mut dyn Write,
) -> Result<Exit, Failure> {
    let mut answer = global.client()?.events().await?;
    if let Some(last) = arguments.last {
        let surplus = answer.value.len().saturating_sub(last);
        answer.value.drain(..surplus);
    }
    print(&answer, global.json, out)?;
    Ok(Exit::Ok)
}

pub(super) fn print(
    answer: &Answer<Vec<EventInfo>>,
    as_json: bool,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    if as_json {
        let events: Vec<_> = answer
            .value
            .iter()
            .map(|event| {
                json!({
                    "number": event.number,
                    "at": time(event.at_millis),
                    "source": event.source,
                    "text": event.text,
                })
            })
            .collect();
        return output::print_json(out, &json!({ "header": header_json(&answer.header), "events": events }));
    }
    let mut table = output::table(&["TIME", "POD", "EVENT"]);
    for event in &answer.value {
        table.add_row([time(event.at_millis), event.source.clone(), event.text.clone()]);
    }
    output::print_table(out, &table)?;
    Ok(())
}

/// As RFC 3339 has it; the number itself if no calendar reaches that far.
fn time(unix_millis: u64) -> String {
    let stamp =
        i64::try_from(unix_millis).ok().and_then(|millis| jiff::Timestamp::from_millisecond(millis).ok());
    stamp.map_or_else(|| unix_millis.to_string(), |stamp| format!("{stamp:.3}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_by_people() {
        assert_eq!(time(1_795_708_800_123), "2026-11-26T16:00:00.123Z");
        assert_eq!(time(u64::MAX), u64::MAX.to_string());
    }
}
