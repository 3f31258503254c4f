//! The playground itself: starts it, shows it, and stops it in order when somebody says so.

use std::fmt::Write as _;
use std::io::{self, IsTerminal};

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::view::View;
use super::{Failure, Start, members};
use crate::cli::serve::raise_file_limit;
use crate::playground::{Options, Playground, PodManagement, Status};

/// Runs until a signal, and until its pods have ended after that.
pub(super) async fn run(arguments: Start) -> Result<(), Failure> {
    // Before anything starts: no signal may find a playground that does not listen yet.
    let mut signals = Signals::listen()?;
    // Each client connection takes two of the proxy.
    raise_file_limit();
    let live = io::stdout().is_terminal() && !arguments.plain;
    let playground = Playground::start(options(arguments)?).await?;
    let introduction = introduction(&playground.status());
    let mut view = View::new(live, &introduction)?;
    let mut changes = playground.changes();
    let (mut said, _asking) = members::follow(playground.changes(), live);
    let mut told_ready = false;
    loop {
        let status = changes.borrow_and_update().clone();
        view.show(&status, &said.borrow_and_update())?;
        if status.is_ready() && !told_ready {
            told_ready = true;
            view.note(&format!("ready: {}\nCtrl-C stops it", status.endpoints().pods.join(",")))?;
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() {
                return Ok(());
            },
            Ok(()) = said.changed() => {}
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
                view.show(&status, &said.borrow_and_update())?;
            }
        }
    }
    drop(view);
    let status = playground.status();
    if !status.temporary {
        super::say(&format!("stopped; volumes and logs are in {}", status.data.display()))?;
    }
    Ok(())
}

fn options(arguments: Start) -> io::Result<Options> {
    Ok(Options {
        replicas: arguments.replicas,
        data: arguments.data,
        namespace: arguments.namespace,
        name: arguments.name,
        management: if arguments.parallel { PodManagement::Parallel } else { arguments.pod_management },
        when_scaled: arguments.when_scaled,
        dns_cache: arguments.dns_cache,
        run: arguments.run,
        ..Options::new(std::env::current_exe()?)
    })
}

/// What a person needs to know before the first pod is there.
pub(super) fn introduction(status: &Status) -> String {
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
         \x20 setstone playground status | scale N | kill N | delete-pod N | delete-volume N | … (see --help)\n",
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
