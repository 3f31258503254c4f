//! `setstone playground`: a StatefulSet on this machine, and what a second terminal can do with it.

// The comments on arguments are help texts: no backticks.
#![allow(clippy::doc_markdown)]

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;

use comfy_table::{ContentArrangement, Table, presets};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::identity::Ordinal;
use crate::limits::PLAYGROUND_PODS;
use crate::playground::{Options, Playground, PodManagement, PodStatus, Request, Response, Status, control};

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
    /// Put the control socket into this directory instead of the usual place.
    #[arg(long, value_name = "DIR")]
    run: Option<PathBuf>,
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
    Restart {
        /// Which pod, as in 2 for setstone-2.
        ordinal: Ordinal,
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
    /// Let the API server answer, or not.
    ApiServer {
        /// What it is from now on.
        #[arg(value_parser = ["up", "down"])]
        state: String,
        #[command(flatten)]
        chosen: Chosen,
    },
    /// Delete the volume of a pod. It is kept until the pod is gone, too: `restart` deletes that.
    DeleteVolume {
        /// Of which pod, as in 2 for setstone-2.
        ordinal: Ordinal,
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

/// Runs it.
///
/// # Errors
/// If the playground does not start, or none answers.
pub async fn run(arguments: Arguments) -> Result<(), Failure> {
    let (chosen, request, json) = match arguments.command {
        None => return start(arguments.start).await,
        Some(Command::Status { chosen, json }) => (chosen, Request::Status, json),
        Some(Command::Kill { ordinal, chosen }) => (chosen, Request::Kill { ordinal }, false),
        Some(Command::Restart { ordinal, chosen }) => (chosen, Request::Restart { ordinal }, false),
        Some(Command::Scale { replicas, chosen }) => (chosen, Request::Scale { replicas }, false),
        Some(Command::ApiServer { state, chosen }) => {
            (chosen, Request::ApiServer { up: state == "up" }, false)
        }
        Some(Command::DeleteVolume { ordinal, chosen }) => (chosen, Request::DeleteVolume { ordinal }, false),
    };
    show(&ask(chosen, request).await?, json)
}

async fn ask(chosen: Chosen, request: Request) -> Result<Status, Failure> {
    match control::ask(chosen.run.as_deref(), request).await? {
        Response::Status(status) => Ok(*status),
        Response::Error(error) => Err(error.into()),
    }
}

fn show(status: &Status, json: bool) -> Result<(), Failure> {
    if json {
        say(&serde_json::to_string_pretty(status)?)?;
    } else {
        say(&table(status))?;
        say(&format!("client service {}, volumes and logs in {}", status.service, status.data.display()))?;
    }
    Ok(())
}

async fn start(arguments: Start) -> Result<(), Failure> {
    // Before anything starts: no signal may find a playground that does not listen yet.
    let mut signals = Signals::listen()?;
    raise_file_limit();
    let playground = Playground::start(Options {
        replicas: arguments.replicas,
        data: arguments.data,
        namespace: arguments.namespace,
        name: arguments.name,
        management: arguments.pod_management,
        run: arguments.run,
        ..Options::new(std::env::current_exe()?)
    })
    .await?;
    say(&introduction(&playground.status()))?;

    let mut view = View::new(io::stdout().is_terminal());
    let mut changes = playground.changes();
    let mut told_ready = false;
    loop {
        let status = changes.borrow_and_update().clone();
        view.show(&status)?;
        if status.is_ready() && !told_ready {
            told_ready = true;
            view.note(&format!("ready: {}\nCtrl-C stops it", status.endpoints().pods.join(",")))?;
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() {
                return Ok(());
            },
            () = signals.next() => break,
        }
    }
    view.note("stopping; a second Ctrl-C does not wait")?;
    let stopped = playground.stop();
    tokio::pin!(stopped);
    loop {
        tokio::select! {
            () = &mut stopped => break,
            () = signals.next() => playground.hurry().await,
            Ok(()) = changes.changed() => {
                let status = changes.borrow_and_update().clone();
                view.show(&status)?;
            }
        }
    }
    let status = playground.status();
    if !status.temporary {
        view.note(&format!("stopped; volumes and logs are in {}", status.data.display()))?;
    }
    Ok(())
}

/// Each client connection takes two file descriptors of the proxy and one of its pod; the usual soft limit is 1,024.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files could not be raised");
    }
}

/// What a person needs to know before the first pod is there.
fn introduction(status: &Status) -> String {
    let endpoints = status.endpoints();
    let mut text = String::new();
    let kept = if status.temporary { "removed at the end" } else { "kept" };
    // Writing to a String does not fail.
    let _ = write!(
        text,
        "StatefulSet {}/{} with {} pods\n\
         \n\
         client service   {}\n\
         name server      {} (ask it for {})\n\
         volumes, logs    {} ({kept})\n\
         run directory    {}\n\
         \n\
         when it is ready:\n\
         \x20 etcdctl --endpoints={} put a 1\n\
         in a second terminal:\n\
         \x20 setstone playground status | kill N | restart N | scale N | delete-volume N | api-server up|down\n",
        status.namespace,
        status.name,
        status.replicas,
        endpoints.service,
        status.dns,
        status.headless_service,
        status.data.display(),
        status.run.display(),
        // Without a scheme: etcdctl 3.4 makes it a part of `:authority`, where HTTP/2 does not allow one.
        status.service,
    );
    text
}

fn table(status: &Status) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["POD", "PHASE", "READY", "ADDRESS", "RESTARTS", "CLIENT ADDRESS", "LAST EXIT"]);
    for pod in &status.pods {
        table.add_row(cells(pod));
    }
    table.to_string()
}

fn cells(pod: &PodStatus) -> [String; 7] {
    let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    [
        pod.name.clone(),
        pod.phase.to_string(),
        if pod.ready { "yes" } else { "no" }.to_owned(),
        or_dash(pod.address.map(|address| address.to_string())),
        pod.restarts.to_string(),
        or_dash(pod.client_address.map(|address| address.to_string())),
        or_dash(pod.last_exit.clone()),
    ]
}

/// One line about a pod.
fn line(pod: &PodStatus) -> String {
    let mut line = format!("{}  {}  {}", pod.name, pod.phase, if pod.ready { "ready" } else { "not ready" });
    if let Some(address) = pod.address {
        let _ = write!(line, "  {address}");
    }
    if pod.restarts > 0 {
        let _ = write!(line, "  restarts {}", pod.restarts);
    }
    if let Some(exit) = &pod.last_exit {
        let _ = write!(line, "  last exit: {exit}");
    }
    line
}

/// Shows the pods: as a table that is drawn anew in a terminal, else as a line per pod that changed.
struct View {
    live: bool,
    drawn_lines: usize,
    lines: Vec<String>,
}

impl View {
    fn new(live: bool) -> Self {
        Self { live, drawn_lines: 0, lines: Vec::new() }
    }

    fn show(&mut self, status: &Status) -> io::Result<()> {
        if self.live {
            let table = table(status);
            // Up to where the last table began, and clear from there.
            let up = match self.drawn_lines {
                0 => String::new(),
                lines => format!("\x1b[{lines}A\x1b[J"),
            };
            self.drawn_lines = table.lines().count();
            return say(&format!("{up}{table}"));
        }
        let lines: Vec<String> = status.pods.iter().map(line).collect();
        for line in lines.iter().filter(|line| !self.lines.contains(line)) {
            say(line)?;
        }
        self.lines = lines;
        Ok(())
    }

    /// A remark; what is drawn next comes below it.
    fn note(&mut self, text: &str) -> io::Result<()> {
        self.drawn_lines = 0;
        say(text)
    }
}

/// Prints. Nobody reading any more is no reason to end.
fn say(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// What asks for an end: Ctrl-C, a service manager, a terminal that is closed.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use clap::Parser;

    use super::*;
    use crate::playground::Phase;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn parse(line: &str) -> Result<Arguments, String> {
        let words = std::iter::once("playground").chain(line.split_whitespace());
        Program::try_parse_from(words).map(|parsed| parsed.arguments).map_err(|error| error.to_string())
    }

    #[test]
    fn arguments() {
        let Arguments { command: None, start } = parse("").unwrap() else { panic!("a command") };
        assert_eq!(
            (start.replicas, start.name.as_str(), start.namespace.as_str()),
            (3, "setstone", "default")
        );
        assert_eq!((start.data, start.run, start.pod_management), (None, None, PodManagement::OrderedReady));
        let start = parse("--replicas 5 --data d --run r --pod-management parallel").unwrap().start;
        assert_eq!((start.replicas, start.data, start.run), (5, Some("d".into()), Some("r".into())));
        assert_eq!(start.pod_management, PodManagement::Parallel);

        let command = |line: &str| parse(line).unwrap().command.unwrap();
        assert!(matches!(command("status --json"), Command::Status { json: true, .. }));
        assert!(matches!(command("kill 2"), Command::Kill { ordinal: 2, .. }));
        assert!(matches!(
            command("restart 0 --run r"),
            Command::Restart { chosen: Chosen { run: Some(_) }, .. }
        ));
        assert!(matches!(command("scale 0"), Command::Scale { replicas: 0, .. }));
        assert!(matches!(command("delete-volume 1"), Command::DeleteVolume { ordinal: 1, .. }));
        for bad in [
            "scale",
            "--replicas 0",
            "--replicas 51",
            "--replicas x",
            "kill",
            "kill -1",
            "kill 65536",
            "dance",
            "--replicas 3 status",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    fn status() -> Status {
        let pod = |ordinal: Ordinal, phase, ready, restarts| PodStatus {
            ordinal,
            name: format!("setstone-{ordinal}"),
            fqdn: format!("setstone-{ordinal}.setstone-peers.default.svc.playground.local"),
            phase,
            ready,
            uid: Some(1),
            address: (phase != Phase::Absent).then_some([127, 70, 80, 10 + ordinal as u8].into()),
            client_address: Some(([127, 70, 80, 200 + ordinal as u8], 2379).into()),
            restarts,
            pid: None,
            last_exit: (restarts > 0).then(|| "SIGKILL".to_owned()),
        };
        Status {
            name: "setstone".to_owned(),
            namespace: "default".to_owned(),
            replicas: 3,
            stopping: false,
            service: ([127, 70, 80, 2], 2379).into(),
            dns: ([127, 70, 80, 53], 5300).into(),
            api_server: "http://127.70.80.2:6443".to_owned(),
            api_server_up: true,
            headless_service: "setstone-peers.default.svc.playground.local".to_owned(),
            data: "/tmp/x".into(),
            temporary: true,
            run: "/tmp/y".into(),
            pods: vec![
                pod(0, Phase::Running, true, 0),
                pod(1, Phase::CrashLoopBackOff, false, 2),
                pod(2, Phase::Absent, false, 0),
            ],
        }
    }

    #[test]
    fn a_table_and_lines_say_how_the_pods_are() {
        let table = table(&status());
        let words: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(
            words[1],
            ["setstone-0", "Running", "yes", "127.70.80.10", "0", "127.70.80.200:2379", "-"]
        );
        assert_eq!(
            words[2],
            ["setstone-1", "CrashLoopBackOff", "no", "127.70.80.11", "2", "127.70.80.201:2379", "SIGKILL"]
        );
        assert_eq!(words[3], ["setstone-2", "Absent", "no", "-", "0", "127.70.80.202:2379", "-"]);
        let lines: Vec<String> = status().pods.iter().map(line).collect();
        assert_eq!(
            lines,
            [
                "setstone-0  Running  ready  127.70.80.10",
                "setstone-1  CrashLoopBackOff  not ready  127.70.80.11  restarts 2  last exit: SIGKILL",
                "setstone-2  Absent  not ready",
            ]
        );
    }

    #[test]
    fn the_introduction_names_every_way_in() {
        let text = introduction(&status());
        for needed in [
            "etcdctl --endpoints=127.70.80.2:2379 put a 1",
            "127.70.80.53:5300",
            "/tmp/x (removed at the end)",
            "/tmp/y",
            "setstone playground status | kill N | restart N | scale N | delete-volume N | api-server up|down",
        ] {
            assert!(text.contains(needed), "{needed:?} is missing in\n{text}");
        }
    }

    #[test]
    fn json_is_read_back_as_it_was() {
        let json = serde_json::to_string(&status()).unwrap();
        assert_eq!(serde_json::from_str::<Status>(&json).unwrap(), status());
    }
}
