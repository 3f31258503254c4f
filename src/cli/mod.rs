//! The command line: one file per subcommand.
//!
//! What a command prints and how it exits is an interface that scripts rely on ([`exit::Exit`], `--json`). Tables are for
//! people. Nothing here knows the wire or the store: client commands call [`crate::client`], `serve` builds a
//! [`crate::config::Config`] and starts a node.
//!
//! * `serve` `config` `settings` `signals`: a member
//! * `get` `put` `del` `txn` `txn_script` `watch` `compact` `status` `admin` `members` `events` `lease` `lock` `elect`: clients; `keys`: which keys they mean;
//!   `credentials`: who calls; `tls`: over which connections
//! * `alarm` `defrag` `snapshot` `snapshot_status`: maintenance
//! * `auth` `user` `role`: who may what
//! * `etcd`: a member behind etcd's command line
//! * `bench`: a load generator
//! * `check`: a data directory, offline
//! * `recover`: what a human asks a pod for
//! * `playground`: a StatefulSet on this machine
//! * `simulate`: seeds of the simulator (feature `simulation`)
//! * `completion`: for shells
//! * `exit` `output` `text` `duration`: what they share

// The command line is an edge of its own: it reads files and clocks as every tool does.
#![allow(clippy::disallowed_methods)]
// An option on the command line is a bool.
#![allow(clippy::struct_excessive_bools)]

mod admin;
mod alarm;
mod auth;
mod bench;
mod check;
mod compact;
mod completion;
mod config;
mod credentials;
mod defrag;
mod del;
mod duration;
mod elect;
mod etcd;
mod events;
pub mod exit;
mod get;
mod keys;
mod lease;
mod lock;
mod members;
mod output;
#[cfg(feature = "playground")]
mod playground;
mod put;
mod recover;
mod role;
mod serve;
mod settings;
mod signals;
#[cfg(feature = "simulation")]
mod simulate;
mod snapshot;
mod snapshot_status;
mod status;
mod text;
mod tls;
mod txn;
mod txn_script;
mod user;
mod watch;
mod watch_lines;

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::client::{Options, Remote};
use exit::{Exit, Failure};

/// A replicated key-value store with etcd's v3 API.
#[derive(Debug, Parser)]
#[command(name = "setstone", version, max_term_width = 110, after_help = exit::HELP)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Where commands find a cluster, unless they are told.
const DEFAULT_ENDPOINTS: &str = "127.0.0.1:2379";

/// Options of every command that talks to a cluster.
#[derive(Args, Clone, Debug)]
struct Global {
    /// Members' client addresses, host:port, separated by commas
    #[arg(
        long,
        global = true,
        value_name = "LIST",
        env = "SETSTONE_ENDPOINTS",
        default_value = DEFAULT_ENDPOINTS,
        help_heading = "Client options"
    )]
    endpoints: String,
    /// Print one JSON document instead of a table
    #[arg(long, global = true, help_heading = "Client options")]
    json: bool,
    /// Time for one request, repetitions included: 500ms, 5s, 1m
    #[arg(
        long,
        global = true,
        value_name = "TIME",
        env = "SETSTONE_TIMEOUT",
        default_value = "8s",
        value_parser = duration::parse,
        help_heading = "Client options"
    )]
    timeout: Duration,
    /// Who calls, once authentication is enabled: NAME, or NAME:PASSWORD; a password that is not given is asked for
    #[arg(
        long,
        global = true,
        value_name = "USER",
        env = "SETSTONE_USER",
        hide_env_values = true,
        help_heading = "Client options"
    )]
    user: Option<String>,
    /// The password of --user; then --user is a name only
    #[arg(
        long,
        global = true,
        value_name = "PASSWORD",
        env = "SETSTONE_PASSWORD",
        hide_env_values = true,
        help_heading = "Client options"
    )]
    password: Option<String>,
    #[command(flatten)]
    tls: tls::TlsOptions,
}

impl Global {
    /// A client of all endpoints.
    fn client(&self) -> Result<Remote, Failure> {
        Ok(Remote::new(&self.endpoints, &self.options()?)?)
    }

    /// How clients connect, and who calls. Asks for a password that is not given.
    fn options(&self) -> Result<Options, Failure> {
        Ok(Options {
            timeout: self.timeout,
            credentials: credentials::credentials(self.user.as_deref(), self.password.as_deref())?,
            tls: self.tls.connector()?,
            ..Options::default()
        })
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(Box<serve::Arguments>),
    Etcd(etcd::Arguments),
    Get(get::Arguments),
    Put(put::Arguments),
    Del(del::Arguments),
    Txn(txn::Arguments),
    Watch(watch::Arguments),
    Compact(compact::Arguments),
    Lease(lease::Arguments),
    Lock(lock::Arguments),
    Elect(elect::Arguments),
    Alarm(alarm::Arguments),
    Defrag(defrag::Arguments),
    Snapshot(snapshot::Arguments),
    Auth(auth::Arguments),
    User(user::Arguments),
    Role(role::Arguments),
    Status(status::Arguments),
    Members(members::Arguments),
    Events(events::Arguments),
    Bench(bench::Arguments),
    Check(check::Arguments),
    Recover(recover::RecoverArguments),
    Bootstrap(recover::BootstrapArguments),
    #[cfg(feature = "playground")]
    Playground(Box<playground::Arguments>),
    #[cfg(feature = "simulation")]
    Simulate(simulate::Arguments),
    Completion(completion::Arguments),
}

/// Reads the arguments of the process, does what they say, and returns what to exit with.
pub fn main() -> ExitCode {
    let words = etcd::called_for(std::env::args_os());
    let cli = if words.is_none() { Some(Cli::parse()) } else { None };
    // Not locked: the log of `etcd` may go there too.
    let mut out = std::io::BufWriter::new(std::io::stdout());
    let result = match (cli, words) {
        (Some(cli), _) => run(cli, &mut out),
        (None, words) => etcd::words(&words.unwrap_or_default(), &mut out),
    };
    let result = result.and_then(|exit| {
        out.flush()?;
        Ok(exit)
    });
    match result {
        Ok(exit) => exit.into(),
        Err(failure) => {
            let _ = out.flush();
            if !failure.text.is_empty() {
                eprintln!("setstone: {failure}");
            }
            failure.exit.into()
        }
    }
}

fn run(cli: Cli, out: &mut dyn Write) -> Result<Exit, Failure> {
    let Cli { global, command } = cli;
    let global = &global;
    match command {
        Command::Serve(arguments) => serve::run(&arguments),
        Command::Etcd(arguments) => etcd::run(&arguments, out),
        Command::Bench(arguments) => bench::run(&arguments, global, out),
        Command::Check(arguments) => check::run(&arguments, global, out),
        Command::Recover(arguments) => recover::recover(arguments, global, out),
        Command::Bootstrap(arguments) => recover::bootstrap(&arguments, global, out),
        #[cfg(feature = "simulation")]
        Command::Simulate(arguments) => simulate::run(&arguments, out),
        Command::Completion(arguments) => completion::run(&arguments, out),
        #[cfg(feature = "playground")]
        Command::Playground(arguments) => wait_on_all_cores(async {
            playground::run(*arguments)
                .await
                .map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
            Ok(Exit::Ok)
        }),
        Command::Get(arguments) => wait(get::run(arguments, global, out)),
        Command::Put(arguments) => wait(put::run(arguments, global, out)),
        Command::Del(arguments) => wait(del::run(arguments, global, out)),
        Command::Txn(arguments) => wait(txn::run(arguments, global, out)),
        Command::Watch(arguments) => wait(watch::run(arguments, global, out)),
        Command::Compact(arguments) => wait(compact::run(&arguments, global, out)),
        Command::Lease(arguments) => wait(lease::run(&arguments, global, out)),
        Command::Lock(arguments) => wait(lock::run(&arguments, global, out)),
        Command::Elect(arguments) => wait(elect::run(&arguments, global, out)),
        Command::Alarm(arguments) => wait(alarm::run(&arguments, global, out)),
        Command::Defrag(arguments) => wait(defrag::run(&arguments, global, out)),
        Command::Snapshot(arguments) => wait(snapshot::run(arguments, global, out)),
        Command::Auth(arguments) => wait(auth::run(&arguments, global, out)),
        Command::User(arguments) => wait(user::run(arguments, global, out)),
        Command::Role(arguments) => wait(role::run(arguments, global, out)),
        Command::Status(arguments) => wait(status::run(arguments, global, out)),
        Command::Events(arguments) => wait(events::run(&arguments, global, out)),
        Command::Members(arguments) => wait(members::run(&arguments, global, out)),
    }
}

/// Runs a client command in a runtime of its own.
fn wait(command: impl Future<Output = Result<Exit, Failure>>) -> Result<Exit, Failure> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(command)
}

/// Runs a command that itself serves others.
#[cfg(feature = "playground")]
fn wait_on_all_cores(command: impl Future<Output = Result<Exit, Failure>>) -> Result<Exit, Failure> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(command)
}

#[cfg(test)]
mod tests;
