//! `setstone members`: who is in the cluster, and how many there should be.

use std::io::Write;

use clap::{Args, Subcommand};
use serde_json::json;

use super::Global;
use super::exit::{Exit, Failure};
use super::output::{self, header_json};
use crate::client::{Answer, Client, MemberInfo};
use crate::identity::NodeId;

/// Lists the members of the cluster, sets how many there should be, or changes them
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  setstone members
  setstone members resize 3
  setstone members remove 1000000000001
  setstone members lead 2000000000001
  setstone members --json | jq -r '.members[].client_urls[]'")]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Option<Action>,
}

#[derive(Subcommand, Clone, Debug)]
enum Action {
    /// Sets the number of pods that there should be; members outside of it leave when their pods stop
    #[command(after_help = "\
Before the pods beyond N are stopped. It is for clusters whose members run with --size-from setting.

Examples:
  setstone members resize 5 && kubectl scale statefulset setstone --replicas=5")]
    Resize {
        /// Number of pods; 0: all of them sleep, and nobody leaves
        size: u16,
    },
    /// Ends the membership of one; inside the desired range its pod joins again, as new
    Remove {
        /// Its id, as `setstone members` shows it
        #[arg(value_parser = member_id)]
        id: NodeId,
    },
    /// Lets a member vote that does not yet
    Promote {
        /// Its id, as `setstone members` shows it
        #[arg(value_parser = member_id)]
        id: NodeId,
    },
    /// Hands leadership to a voter
    Lead {
        /// Its id, as `setstone members` shows it
        #[arg(value_parser = member_id)]
        id: NodeId,
    },
}

fn member_id(text: &str) -> Result<NodeId, String> {
    output::parse_id(text).map(NodeId)
}

pub(super) async fn run(
    arguments: &Arguments,
    global: &Global,
    out: &mut dyn Write,
) -> Result<Exit, Failure> {
    let client = global.client()?;
    match arguments.command.clone() {
        None => print(&client.members().await?, global.json, out)?,
        Some(Action::Resize { size }) => {
            let answer = client.resize(size).await?;
            if global.json {
                output::print_json(out, &json!({ "header": header_json(&answer.header), "size": size }))?;
            } else {
                writeln!(out, "there should be {size} pods")?;
            }
        }
        Some(Action::Remove { id }) => print(&client.remove_member(id).await?, global.json, out)?,
        Some(Action::Promote { id }) => print(&client.promote_member(id).await?, global.json, out)?,
        Some(Action::Lead { id }) => {
            let answer = client.move_leader(id).await?;
            if global.json {
                let leader = output::id(id.0);
                output::print_json(out, &json!({ "header": header_json(&answer.header), "leader": leader }))?;
            } else {
                writeln!(out, "{} leads", output::id(id.0))?;
            }
        }
    }
    Ok(Exit::Ok)
}

pub(super) fn print(
    answer: &Answer<Vec<MemberInfo>>,
    as_json: bool,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    if as_json {
        let members: Vec<_> = answer
            .value
            .iter()
            .map(|member| {
                json!({
                    "id": output::id(member.id.0),
                    "name": member.name,
                    "is_learner": member.is_learner,
                    "peer_urls": member.peer_urls,
                    "client_urls": member.client_urls,
                })
            })
            .collect();
        let document = json!({ "header": header_json(&answer.header), "members": members });
        return output::print_json(out, &document);
    }
    let mut table = output::table(&["ID", "NAME", "ROLE", "PEERS", "CLIENTS"]);
    for member in &answer.value {
        let name = if member.name.is_empty() { "-" } else { &member.name };
        table.add_row([
            output::id(member.id.0),
            name.to_owned(),
            if member.is_learner { "learner" } else { "voter" }.to_owned(),
            member.peer_urls.join(","),
            member.client_urls.join(","),
        ]);
    }
    output::print_table(out, &table)?;
    Ok(())
}
