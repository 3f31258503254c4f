//! `setstone members`: who is in the cluster.

use std::io::Write;

use clap::Args;
use serde_json::json;

use super::Global;
use super::exit::{Exit, Failure};
use super::output::{self, header_json};
use crate::client::{Answer, Client, MemberInfo};

/// Lists the members of the cluster
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  setstone members
  setstone members --json | jq -r '.members[].client_urls[]'")]
pub(super) struct Arguments {}

pub(super) async fn run(_: &Arguments, global: &Global, out: &mut dyn Write) -> Result<Exit, Failure> {
    let answer = global.client()?.members().await?;
    print(&answer, global.json, out)?;
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
