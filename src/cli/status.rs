//! `setstone status`: how each member is.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};

use clap::Args;
use futures::future::join_all;
use serde_json::{Value, json};

use super::config::ADMIN_PORT;
use super::exit::{Exit, Failure};
use super::output::{self, header_json};
use super::{Global, admin};
use crate::client::{Answer, Client, Status};
use crate::error::Error;

/// Shows how each member at the endpoints is
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  setstone status --endpoints a:2379,b:2379,c:2379
  setstone status --admin 127.0.0.1:2381        why this member is, or is not, ready, and what it waits for
  kubectl exec setstone-0 -- setstone status    the same of the pod's own member

Exits with 1 if a member does not answer.")]
pub(super) struct Arguments {
    /// Admin address, host:port, of one member: print its own account of itself
    #[arg(long, value_name = "ADDRESS", env = "SETSTONE_ADMIN")]
    pub admin: Option<String>,
}

/// Where the member of this pod listens for people, as its environment says.
fn own_admin(listen: Option<&str>) -> String {
    let at = listen.and_then(|listen| listen.parse::<SocketAddr>().ok());
    let mut at = at.unwrap_or(SocketAddr::from((Ipv4Addr::UNSPECIFIED, ADMIN_PORT)));
    if at.ip().is_unspecified() {
        at.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    at.to_string()
}

/// What one endpoint answered.
pub(super) type Row = (String, Result<Answer<Status>, Error>);

pub(super) async fn run(arguments: Arguments, global: &Global, out: &mut dyn Write) -> Result<Exit, Failure> {
    if let Some(address) = &arguments.admin {
        return admin::run(address, global, out).await;
    }
    if global.endpoints == super::DEFAULT_ENDPOINTS {
        let own = own_admin(std::env::var("SETSTONE_LISTEN_ADMIN").ok().as_deref());
        if admin::is_there(&own).await {
            return admin::run(&own, global, out).await;
        }
    }
    let remote = global.client()?;
    let rows: Vec<Row> = join_all(
        remote
            .connections()
            .iter()
            .map(|connection| async move { (connection.endpoint().to_string(), connection.status().await) }),
    )
    .await;
    print(&rows, global.json, out)?;
    Ok(if rows.iter().all(|(_, answer)| answer.is_ok()) { Exit::Ok } else { Exit::Failed })
}

pub(super) fn print(rows: &[Row], as_json: bool, out: &mut dyn Write) -> Result<(), Failure> {
    if as_json {
        let document: Vec<Value> = rows.iter().map(row_json).collect();
        return output::print_json(out, &Value::from(document));
    }
    let mut table = output::table(&[
        "ENDPOINT", "MEMBER", "VERSION", "ROLE", "TERM", "INDEX", "APPLIED", "REVISION", "DB SIZE", "ERRORS",
    ]);
    for (endpoint, answer) in rows {
        match answer {
            Ok(answer) => {
                let status = &answer.value;
                table.add_row([
                    endpoint.clone(),
                    output::id(answer.header.member.0),
                    status.version.clone(),
                    role(answer).to_owned(),
                    status.term.to_string(),
                    status.index.to_string(),
                    status.applied_index.to_string(),
                    answer.header.revision.to_string(),
                    output::bytes(status.db_size),
                    if status.errors.is_empty() { "-".into() } else { status.errors.join("; ") },
                ]);
            }
            Err(error) => {
                let mut row = vec![endpoint.clone()];
                row.extend(std::iter::repeat_n("-".to_owned(), 8));
                row.push(error.to_string());
                table.add_row(row);
            }
        }
    }
    output::right_align(&mut table, &[4, 5, 6, 7, 8]);
    output::print_table(out, &table)?;
    Ok(())
}

fn role(answer: &Answer<Status>) -> &'static str {
    match answer.value.leader {
        Some(leader) if leader == answer.header.member => "leader",
        _ if answer.value.is_learner => "learner",
        Some(_) => "follower",
        None => "no leader",
    }
}

fn row_json((endpoint, answer): &Row) -> Value {
    match answer {
        Ok(answer) => {
            let status = &answer.value;
            json!({
                "endpoint": endpoint,
                "header": header_json(&answer.header),
                "version": status.version,
                "storage_version": status.storage_version,
                "leader": status.leader.map(|leader| output::id(leader.0)),
                "role": role(answer),
                "raft_index": status.index,
                "raft_applied_index": status.applied_index,
                "db_size": status.db_size,
                "db_size_in_use": status.db_size_in_use,
                "errors": status.errors,
            })
        }
        Err(error) => json!({ "endpoint": endpoint, "error": error.to_string() }),
    }
}
