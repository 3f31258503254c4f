//! What asks the process to stop: SIGTERM, SIGINT, and the end of standard input when that was asked for.

use std::io::{self, Read};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

/// The reasons to stop, as they come.
#[derive(Debug)]
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    input: Option<mpsc::Receiver<()>>,
}

impl Signals {
    /// Begins to listen. Errors: the system allows no handler.
    pub fn new(with_input: bool) -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            input: with_input.then(watch_input),
        })
    }

    /// Waits for the next reason to stop, and names it.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            () = ended(&mut self.input) => "end of standard input",
        }
    }
}

/// Ends when standard input has; never if nobody watches it or it was reported already.
async fn ended(input: &mut Option<mpsc::Receiver<()>>) {
    match input {
        Some(end) => {
            end.recv().await;
            *input = None;
        }
        None => std::future::pending().await,
    }
}

/// Reads standard input to its end on a thread of its own: a read of a pipe cannot be taken back, and must not keep a
/// runtime from ending.
fn watch_input() -> mpsc::Receiver<()> {
    let (end, receiver) = mpsc::channel(1);
    std::thread::spawn(move || {
        let mut buffer = [0; 1024];
        let mut input = io::stdin().lock();
        while matches!(input.read(&mut buffer), Ok(1..)) {}
        drop(end);
    });
    receiver
}
