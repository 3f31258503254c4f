//! `setstone playground`: a StatefulSet on this machine, and what a second terminal can do with it.
//!
//! * `start`: the playground itself, until it is told to stop
//! * `view`: what is shown meanwhile
//! * `members`: what the members say of themselves

// The comments on arguments are help texts: no backticks.
#![allow(clippy::doc_markdown)]

mod members;
mod start;
mod view;

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use crate::identity::Ordinal;
use crate::limits::PLAYGROUND_PODS;
use crate::playground::{ApiMode, DnsMode, PodManagement, Request, Response, WhenScaled, control};

/// What goes wrong here is told and ends the program.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Start a StatefulSet on this machine (Linux only): pods as processes, each with its own loopback address, its name in
/// DNS and its volume. Ctrl-C stops it.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    start: Start,
}

#[derive(Debug, clap::Args)]
struct Start {
    /// How many pods.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=i64::from(PLAYGROUND_PODS)))]
    replicas: Ordinal,
    /// Keep volumes and logs in this directory. Without it they are in a temporary one that is removed at the end.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Namespace of the StatefulSet.
    #[arg(long, default_value = "default")]
    namespace: String,
    /// Name of the StatefulSet.
    #[arg(long, default_value = "setstone")]
    name: String,
    /// Start and stop pods one after the other, or all at once.
    #[arg(long, value_enum, default_value_t = PodManagement::OrderedReady)]
    pod_management: PodManagement,
    /// The same as --pod-management parallel.
    #[arg(long, conflicts_with = "pod_management")]
    parallel: bool,
    /// Keep or delete the volumes of pods that go because the set shrinks, as persistentVolumeClaimRetentionPolicy does.
    #[arg(long, value_enum, default_value_t = WhenScaled::Retain)]
    when_scaled: WhenScaled,
    /// Keep answers of the name server for so long, as CoreDNS does for 30s: a pod that was created anew keeps its old address, and
    /// a name that was asked too early stays absent. 0: no answer is kept.
    #[arg(long, value_name = "DURATION", default_value = "0", value_parser = super::duration::parse)]
    dns_cache: Duration,
    /// Put the control socket into this directory instead of the usual place.
    #[arg(long, value_name = "DIR")]
    run: Option<PathBuf>,
    /// A line for each change, in a terminal too, instead of a table.
    #[arg(long)]
    plain: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Show the pods of the newest playground that runs.
    Status {
        #[command(flatten)]
        chosen: Chosen,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// SIGKILL to the process of a pod. It starts again at the same address, as a container does.
    Kill {
        /// Which pod, as in 2 for setstone-2.
        ordinal: Ordinal,
        #[command(flatten)]
        chosen: Chosen,
    },
    /// Delete a pod: SIGTERM, then it comes back at another address, as a pod does.
    DeletePod {
        /// Which pod, as in 2 for setstone-2.
        ordinal: Ordinal,
        /// Do not wait for its process: the next pod of that name is created at once, and both run until the old one ends.
        #[arg(long)]
        force: bool,
        /// With --force: how long the old process hears nothing of it, as on a node that is cut off. It has its grace period
        /// after that.
        #[arg(long, value_name = "DURATION", default_value = "0", requires = "force", value_parser = super::duration::parse)]
        linger: Duration,
        #[command(flatten)]
        chosen: Chosen,
    },
    /// Delete all pods at once; they come back.
    #[command(visible_alias = "stop-all")]
    DeletePods {
        #[command(flatten)]
        chosen: Chosen,
    },
    /// Delete a pod, or one after the other from the highest, each when the one before is ready again.
    #[command(group = clap::ArgGroup::new("what").required(true).args(["ordinal", "rolling"]))]
    Restart {
        /// Which pod, as in 2 for setstone-2: the same as delete-pod.
        ordinal: Option<Ordinal>,
        /// All of them, as `kubectl rollout restart` does.
        #[arg(long)]
        rolling: bool,
        #[command(flatten)]
        chosen: Chosen,
    },
    /// Change the number of pods, as `kubectl scale` does.
    Scale {
        /// How many there ought to be; 0: all of them sleep.
        replicas: Ordinal,
        #[command(flatten)]
        chosen: Chosen,
    },
    /// Delete the volume of a pod. It is kept until the pod is gone, too: delete-pod deletes that.
    DeleteVolume {
        /// Of which pod, as in 2 for setstone-2.
        ordinal: Ordinal,
        #[command(flatten)]
        chosen: Chosen,
    },
    /// Copy the volume of a pod aside, as a volume snapshot. Its process stands still meanwhile.
    SaveVolume {
        /// Of which pod, as in 2 for setstone-2.
        ordinal: Ordinal,
        #[command(flatten)]
        chosen: Chosen,
    },
    /// Delete a pod, and let it come back with the copy of its volume that was saved.
    RollbackVolume {
        /// Of which pod, as in 2 for setstone-2.
        ordinal: Ordinal,
        #[command(flatten)]
        chosen: Chosen,
    },
    /// Delete two pods, and let each come back with the volume of the other.
    SwapVolumes {
        /// Of one pod, as in 2 for setstone-2.
        one: Ordinal,
        /// Of another.
        other: Ordinal,
        #[command(flatten)]
        chosen: Chosen,
    },
    /// Let the name server answer, fail, or lie.
    Dns {
        #[command(subcommand)]
        fault: Dns,
    },
    /// Let the API server answer, or not.
    ApiServer {
        /// What it is from now on.
        mode: ApiMode,
        #[command(flatten)]
        chosen: Chosen,
    },
}

#[derive(Debug, clap::Subcommand)]
enum Dns {
    /// It answers as it ought to, about every name.
    Up {
        #[command(flatten)]
        chosen: Chosen,
    },
    /// It answers SERVFAIL to every question.
    Down {
        #[command(flatten)]
        chosen: Chosen,
    },
    /// It does not answer at all.
    Silent {
        #[command(flatten)]
        chosen: Chosen,
    },
    /// The name of a pod gives the address of another, until dns up.
    Stale {
        /// Whose name, as in 2 for setstone-2.
        ordinal: Ordinal,
        /// Whose address.
        to: Ordinal,
        #[command(flatten)]
        chosen: Chosen,
    },
}

#[derive(Debug, clap::Args)]
struct Chosen {
    /// The run directory of the playground that is meant, as it printed it.
    #[arg(long, value_name = "DIR")]
    run: Option<PathBuf>,
}

impl Command {
    /// What is asked, and whom.
    fn request(self) -> (Request, Chosen) {
        match self {
            Self::Status { chosen, .. } => (Request::Status, chosen),
            Self::Kill { ordinal, chosen } => (Request::Kill { ordinal }, chosen),
            Self::DeletePod { ordinal, force: true, linger, chosen } => {
                // A day at most.
                let linger_ms = linger.as_millis() as u64;
                (Request::ForceDeletePod { ordinal, linger_ms }, chosen)
            }
            Self::DeletePod { ordinal, chosen, .. }
            | Self::Restart { ordinal: Some(ordinal), chosen, .. } => {
                (Request::DeletePod { ordinal }, chosen)
            }
            Self::DeletePods { chosen } => (Request::DeleteAllPods, chosen),
            Self::Restart { ordinal: None, chosen, .. } => (Request::RolloutRestart, chosen),
            Self::Scale { replicas, chosen } => (Request::Scale { replicas }, chosen),
            Self::DeleteVolume { ordinal, chosen } => (Request::DeleteVolume { ordinal }, chosen),
            Self::SaveVolume { ordinal, chosen } => (Request::SaveVolume { ordinal }, chosen),
            Self::RollbackVolume { ordinal, chosen } => (Request::RollbackVolume { ordinal }, chosen),
            Self::SwapVolumes { one, other, chosen } => (Request::SwapVolumes { one, other }, chosen),
            Self::Dns { fault } => fault.request(),
            Self::ApiServer { mode, chosen } => (Request::ApiServer { mode }, chosen),
        }
    }
}

impl Dns {
    fn request(self) -> (Request, Chosen) {
        match self {
            Self::Up { chosen } => (Request::Dns { mode: DnsMode::Up }, chosen),
            Self::Down { chosen } => (Request::Dns { mode: DnsMode::Down }, chosen),
            Self::Silent { chosen } => (Request::Dns { mode: DnsMode::Silent }, chosen),
            Self::Stale { ordinal, to, chosen } => (Request::DnsStale { ordinal, to }, chosen),
        }
    }
}

/// Runs it.
///
/// # Errors
/// If the playground does not start, or none answers.
pub async fn run(arguments: Arguments) -> Result<(), Failure> {
    let Some(command) = arguments.command else { return start::run(arguments.start).await };
    let json = matches!(command, Command::Status { json: true, .. });
    let (request, chosen) = command.request();
    let status = match control::ask(chosen.run.as_deref(), request).await? {
        Response::Status(status) => *status,
        Response::Error(error) => return Err(error.into()),
    };
    if json {
        say(&serde_json::to_string_pretty(&status)?)?;
    } else {
        let members = members::ask(&status).await;
        say(&view::table(&status, &members, None).to_string())?;
        say(&view::summary(&status))?;
    }
    Ok(())
}

/// Prints. Nobody reading any more is no reason to end.
fn say(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests;
