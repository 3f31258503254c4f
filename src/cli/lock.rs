//! `setstone lock`: holds a lock while a command runs, or until it is stopped.

use std::io::Write;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use clap::Args;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tokio::process::{Child, Command};

use super::Global;
use super::exit::{Exit, Failure};
use super::output::{self, id};
use super::signals::Signals;
use super::text::Encoding;
use crate::client::Lock;

/// Takes a lock, and holds it while a command runs or until it is stopped
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  setstone lock nightly -- ./backup.sh          one at a time, in the order in which they asked
  setstone lock nightly                         prints the key, and holds the lock until it is interrupted
  setstone lock --ttl 5 nightly -- sh -c 'echo $ETCD_LOCK_KEY $ETCD_LOCK_REV'

The locks are those of `etcdctl lock`. The command finds the key in ETCD_LOCK_KEY and the fencing token, which is higher than
those of all holders before, in ETCD_LOCK_REV; what it exits with, this command exits with. If the lock is lost
meanwhile, the command gets SIGTERM, and this command exits with 1. It also does if it is interrupted while it waits.")]
pub(super) struct Arguments {
    /// Seconds that the lock stays held when this process is gone
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    pub ttl: u64,
    /// The name of the lock
    pub name: String,
    /// What to run while it is held
    #[arg(trailing_var_arg = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// Runs the command.
pub(super) async fn run(
    arguments: &Arguments,
    global: &Global,
    out: &mut dyn Write,
) -> Result<Exit, Failure> {
    let client = global.client()?;
    let mut signals = Signals::new(false)?;
    let ttl = Duration::from_secs(arguments.ttl);
    let interrupted = async {
        signals.next().await;
    };
    let Some(lock) = Lock::acquire_unless(client, &arguments.name, ttl, interrupted).await? else {
        return Err(Failure::new(Exit::Failed, "interrupted before the lock was held"));
    };
    if arguments.command.is_empty() {
        print(&lock, global, out)?;
        tokio::select! {
            () = lock.lost() => Err(Failure::new(Exit::Failed, "the lock was lost")),
            _ = signals.next() => {
                lock.unlock().await?;
                Ok(Exit::Ok)
            }
        }
    } else {
        hold_while_it_runs(lock, &arguments.command, &mut signals).await
    }
}

fn print(lock: &Lock, global: &Global, out: &mut dyn Write) -> Result<(), Failure> {
    if global.json {
        let mut document = json!({ "token": lock.token(), "lease": id(lock.lease() as u64) });
        if let Some(fields) = document.as_object_mut() {
            Encoding::Text.put_json(fields, "key", lock.key());
        }
        output::print_json(out, &document)?;
    } else {
        writeln!(out, "{}", Encoding::Text.show(lock.key()))?;
    }
    // Whoever reads a pipe wants to know it now.
    Ok(out.flush()?)
}

async fn hold_while_it_runs(lock: Lock, command: &[String], signals: &mut Signals) -> Result<Exit, Failure> {
    let Some((program, arguments)) = command.split_first() else { return Ok(Exit::Ok) };
    let spawned = Command::new(program)
        .args(arguments)
        .env("ETCD_LOCK_KEY", Encoding::Text.show(lock.key()))
        .env("ETCD_LOCK_REV", lock.token().to_string())
        .stdin(Stdio::inherit())
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) => {
            lock.unlock().await?;
            return Err(Failure::new(Exit::Failed, format!("{program}: {error}")));
        }
    };
    let (status, is_lost) = ended(&lock, &mut child, signals).await?;
    if is_lost {
        return Err(Failure::new(Exit::Failed, "the lock was lost while the command ran"));
    }
    let unlocked = lock.unlock().await;
    if !status.success() {
        // Not one of our own codes, so nothing that `Exit` has.
        std::process::exit(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)));
    }
    unlocked?;
    Ok(Exit::Ok)
}

/// Waits until the command has ended; also whether the lock was lost before. What asks this process to stop, the command hears.
async fn ended(lock: &Lock, child: &mut Child, signals: &mut Signals) -> Result<(ExitStatus, bool), Failure> {
    let mut is_lost = false;
    loop {
        let pid = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        tokio::select! {
            status = child.wait() => return Ok((status?, is_lost)),
            () = lock.lost(), if !is_lost => is_lost = true,
            _ = signals.next() => {}
        }
        if let Some(pid) = pid {
            // It may have ended at this moment.
            let _ = kill_process(pid, Signal::TERM);
        }
    }
}
