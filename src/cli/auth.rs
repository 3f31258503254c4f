//! `setstone auth`: whether requests are checked, with the words and habits of etcdctl.

use std::io::Write;

use clap::{Args, Subcommand};
use serde_json::json;

use super::Global;
use super::exit::{Exit, Failure};
use super::output::print_answer;

/// Turns authentication on and off
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  setstone user add root                        asks for a password
  setstone user grant-role root root
  setstone auth enable
  setstone auth status --user root
  setstone auth disable --user root:secret

Once it is enabled every command needs --user. There must be a user root that has the role root.")]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, Debug, Subcommand)]
enum Command {
    /// Checks every request from now on
    Enable,
    /// Checks none any more; users, roles and permissions stay
    Disable,
    /// Tells whether requests are checked
    Status,
}

pub(super) async fn run(
    arguments: &Arguments,
    global: &Global,
    out: &mut dyn Write,
) -> Result<Exit, Failure> {
    let client = global.client()?;
    match arguments.command {
        Command::Enable => {
            let answer = client.auth_enable().await?;
            print_answer(out, global.json, &answer, json!({}), "Authentication Enabled")?;
        }
        Command::Disable => {
            let answer = client.auth_disable().await?;
            print_answer(out, global.json, &answer, json!({}), "Authentication Disabled")?;
        }
        Command::Status => {
            let answer = client.auth_status().await?;
            let status = answer.value;
            let text =
                format!("Authentication Status: {}\nAuthRevision: {}", status.enabled, status.revision);
            let document = json!({ "enabled": status.enabled, "auth_revision": status.revision });
            print_answer(out, global.json, &answer, document, &text)?;
        }
    }
    Ok(Exit::Ok)
}
