//! `setstone serve`: runs a member until a signal stops it.

use std::io::IsTerminal;
use std::time::Duration;

use clap::Args;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use super::config::{self, LogFormat, Settings, World};
use super::exit::{Exit, Failure};
use super::settings::Flags;
use super::signals::Signals;
use crate::config::{Cluster, Config, InitialCluster};
use crate::error::Error;
use crate::node::Node;

/// Runs a member
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Each setting is a flag, or else a variable, or else a key of the file, or else its default.

In a pod of a StatefulSet the manifest sets SETSTONE_POD_NAME, SETSTONE_POD_NAMESPACE,
SETSTONE_POD_INDEX, SETSTONE_SERVICE_NAME, SETSTONE_POD_IP, SETSTONE_ZONE and, if it is not found
in /etc/resolv.conf, SETSTONE_CLUSTER_DOMAIN. With neither these nor --peers, the member is alone.

Examples:
  setstone serve                                alone, on disk, in ./setstone-0.setstone
  setstone serve --memory --listen-client 127.0.0.1:2379
  setstone serve --ordinal 0 --peers a:2380,b:2380,c:2380
  setstone serve --config setstone.toml

SIGTERM and SIGINT stop the member in order, with exit code 0; a second one hurries.")]
pub(super) struct Arguments {
    #[command(flatten)]
    flags: Flags,
}

pub(super) fn run(arguments: &Arguments) -> Result<Exit, Failure> {
    let resolv_conf = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let world = World {
        variables: &|name| std::env::var(name).ok(),
        read: &|path| std::fs::read_to_string(path),
        resolv_conf: &resolv_conf,
    };
    let settings = config::resolve(&arguments.flags, &world)
        .map_err(|error| Failure::new(Exit::Config, error.to_string()))?;
    start_log(&settings)?;
    run_in_runtime(serve(settings.config, settings.exit_with_stdin, ""))
}

/// Runs a member as `setstone etcd` does: it says what etcd says when it serves, and one that was to go on alone starts anew once that is
/// decided, because consensus begins with the new cluster.
pub(super) fn etcd(mut config: Config) -> Result<Exit, Failure> {
    const READY: &str = "ready to serve client requests";
    run_in_runtime(async {
        let forced = match &mut config.cluster {
            Cluster::Initial(initial) => {
                std::mem::replace(&mut initial.force_new, false).then(|| initial.clone())
            }
            _ => None,
        };
        let Some(initial) = forced else { return Box::pin(serve(config, false, READY)).await };
        let force = InitialCluster { force_new: true, ..initial };
        let alone = Config { cluster: Cluster::Initial(force), ..config.clone() };
        match Box::pin(serve(alone, false, READY)).await {
            Err(failure) if failure.exit == Exit::Disk => {
                tracing::info!(reason = %failure, "starting anew");
                Box::pin(serve(config, false, READY)).await
            }
            other => other,
        }
    })
}

fn run_in_runtime(member: impl Future<Output = Result<Exit, Failure>>) -> Result<Exit, Failure> {
    raise_file_limit();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(workers()).enable_all().build()?;
    let result = runtime.block_on(member);
    // Whatever still runs has nothing to say any more.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

/// Lets the process have as many files open as it may at most. The usual limit of 1,024 is one for programs that cannot wait for more: each
/// segment of a log is a file, and so is each connection.
pub(super) fn raise_file_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files could not be raised");
    }
}

/// Half of the cores: the log's thread, the kernel's half of the network and the clients need the others, and workers that
/// have little to do spend most of their time on waking each other.
fn workers() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get() / 2).max(1)
}

/// As long as a member may wait for others.
const FOR_EVER: Duration = Duration::from_hours(24 * 365);

/// What to log of consensus, unless it is named: it tells every step at level info and every lost heartbeat as a warning,
/// hundreds of lines a second while a member is down. What a person needs of it, `raft` tells once.
const QUIET: &str = "openraft=error";

pub(super) fn log_filter(text: &str) -> Result<EnvFilter, tracing_subscriber::filter::ParseError> {
    EnvFilter::try_new(format!("{QUIET},{text}"))
}

fn start_log(settings: &Settings) -> Result<(), Failure> {
    let filter = log_filter(&settings.log).map_err(|error| {
        Failure::new(Exit::Config, format!("the log filter {:?} cannot be read: {error}", settings.log))
    })?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    let started = match settings.log_format {
        LogFormat::Text => log.try_init(),
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| Failure::new(Exit::Failed, format!("the log cannot be started: {error}")))
}

/// Runs a member until a signal stops it. `says`, if it is not empty, is logged once it serves.
async fn serve(config: Config, exit_with_stdin: bool, says: &str) -> Result<Exit, Failure> {
    // Before anything is started: no signal may find a member that does not listen yet.
    let mut signals = Signals::new(exit_with_stdin)?;
    let node = tokio::select! {
        started = Node::start(config) => started.map_err(|error| start_failure(&error))?,
        reason = signals.next() => {
            tracing::info!(reason, "stopped before it was started");
            return Ok(Exit::Ok);
        }
    };
    let addresses = node.addresses();
    tracing::info!(client = %addresses.client, peer = ?addresses.peer, admin = ?addresses.admin, "listening");
    let serves = async {
        if says.is_empty() || node.ready(Instant::now() + FOR_EVER).await.is_err() {
            std::future::pending::<()>().await;
        }
        tracing::info!("{says}");
        std::future::pending::<()>().await;
    };
    let failure = tokio::select! {
        () = serves => None,
        reason = signals.next() => {
            tracing::info!(reason, "stopping; a second signal hurries");
            None
        }
        error = node.failed() => Some(error),
    };
    let hurry = CancellationToken::new();
    if failure.is_some() {
        hurry.cancel();
    }
    let stopped = node.stop(&hurry);
    tokio::pin!(stopped);
    loop {
        tokio::select! {
            () = &mut stopped => break,
            reason = signals.next() => {
                tracing::info!(reason, "hurrying");
                hurry.cancel();
            }
        }
    }
    match failure {
        None => Ok(Exit::Ok),
        Some(error) => Err(start_failure(&error)),
    }
}

/// The failure of a member that could not start or go on.
fn start_failure(error: &Error) -> Failure {
    let exit = match error {
        Error::Locked(_) => Exit::Locked,
        Error::Disk(_) => Exit::Disk,
        Error::Invalid(_) => Exit::Config,
        _ => Exit::Failed,
    };
    Failure::new(exit, error.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn consensus_is_quiet_unless_it_is_named() {
        let shown = |text: &str| log_filter(text).unwrap().to_string();
        assert_eq!(shown("info"), "openraft=error,info");
        assert_eq!(shown("setstone=debug,warn"), "setstone=debug,openraft=error,warn");
        assert_eq!(shown("info,openraft=debug"), "openraft=debug,info");
        assert!(log_filter("setstone=loud").is_err());
    }
}
