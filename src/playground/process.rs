//! Containers: a pod's container is a process of this same binary. An edge.
//!
//! Invariants: a process is signalled only while it has not been reaped, so a signal never meets a stranger that got
//! its pid; each is in a process group of its own, so Ctrl-C in the terminal reaches the playground alone; each dies when
//! the playground does (its standard input closes; a handle that is dropped kills it). Called by `driver`.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, kill_process};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::environment::PREFIX;
use super::log_file::LogFile;

pub use rustix::process::Signal;

/// Signals that may wait for a process: there are only ever a SIGTERM, a few SIGKILL, and two to pause it.
const SIGNALS: usize = 8;
/// Time until a process that was stopped stands still: a write that is under way ends first.
const PAUSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Between two looks whether it does.
const PAUSE_LOOK: Duration = Duration::from_millis(1);

/// What to start.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The program.
    pub binary: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Variables on top of the playground's own environment, of which everything that begins with [`PREFIX`] is left out.
    pub environment: Vec<(OsString, OsString)>,
    /// Where standard output and standard error go.
    pub log: PathBuf,
}

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// For people.
    pub how: String,
    /// From its start to its end.
    pub ran_for: Duration,
}

/// A process that was started. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    pid: Option<u32>,
    signals: mpsc::Sender<Signal>,
    _task: AbortOnDropHandle<()>,
}

impl Process {
    /// Starts it, in the current tokio runtime. `ended` is called once, when it has ended and been reaped.
    ///
    /// # Errors
    /// If the log cannot be opened or the program not be started; then `ended` is not called.
    pub fn start<F, Fut>(launch: &Launch, ended: F) -> io::Result<Self>
    where
        F: FnOnce(Exit) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send,
    {
        let (end, log_end) = std::sync::mpsc::channel();
        let child = spawn(launch, log_end)?;
        let pid = child.id();
        let (signals, waiting) = mpsc::channel(SIGNALS);
        let task = tokio::spawn(async move {
            let exit = watch(child, waiting).await;
            // Fails only if the log cannot be written.
            drop(end.send(format!(
                "--- playground: ended process {}: {}\n",
                pid.unwrap_or_default(),
                exit.how
            )));
            ended(exit).await;
        });
        Ok(Self { pid, signals, _task: AbortOnDropHandle::new(task) })
    }

    /// Its process id when it was started.
    pub fn pid(&self) -> Option<u32> {
        self.pid
    }

    /// Sends it a signal; nothing if it has ended.
    pub fn signal(&self, signal: Signal) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.signals.try_send(signal) {
            tracing::warn!(pid = self.pid, ?signal, "too many signals are waiting");
        }
    }
}

impl Process {
    /// What can stop it for a while, from another task.
    pub fn pauser(&self) -> Pauser {
        Pauser { pid: self.pid, signals: self.signals.clone() }
    }
}

/// Stops a process for a while.
#[derive(Debug)]
pub struct Pauser {
    pid: Option<u32>,
    signals: mpsc::Sender<Signal>,
}

/// A process that stands still until this is dropped.
#[derive(Debug)]
pub struct Paused(Option<mpsc::OwnedPermit<Signal>>);

impl Pauser {
    /// Stops it; returns when none of its threads runs, so that its files do not change. One that has ended counts as stopped.
    ///
    /// # Errors
    /// If it still runs after a second.
    pub async fn pause(self) -> io::Result<Paused> {
        // Its place is kept before it is stopped: nothing can keep it from going on.
        let Ok(resume) = self.signals.clone().reserve_owned().await else { return Ok(Paused(None)) };
        let paused = Paused(Some(resume));
        if self.signals.send(Signal::STOP).await.is_err() {
            return Ok(paused);
        }
        let stopped = async {
            while self.pid.is_some_and(runs) {
                tokio::time::sleep(PAUSE_LOOK).await;
            }
        };
        tokio::time::timeout(PAUSE_TIMEOUT, stopped).await.map_err(io::Error::from)?;
        Ok(paused)
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        if let Some(resume) = self.0.take() {
            resume.send(Signal::CONT);
        }
    }
}

/// Whether any thread of a process can write: one that is stopped, or ended, cannot.
fn runs(pid: u32) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    threads.filter_map(Result::ok).any(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        // The name before it may hold anything, so the state is looked for from its end.
        let state = stat.rsplit(')').next().unwrap_or_default().trim_start();
        !state.is_empty() && !state.starts_with(['T', 't', 'Z', 'X'])
    })
}

/// Its log ends with what comes through `end`, after all that it wrote itself.
fn spawn(launch: &Launch, end: std::sync::mpsc::Receiver<String>) -> io::Result<Child> {
    let mut log = LogFile::open(&launch.log)?;
    // One pipe for both, so that the order of what it says is kept.
    let (reader, stdout) = io::pipe()?;
    let stderr = stdout.try_clone()?;
    let mut command = Command::new(&launch.binary);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with(PREFIX) {
            command.env_remove(name);
        }
    }
    command
        .args(&launch.arguments)
        .envs(launch.environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::piped())
        .stdout(stdout)
        .stderr(stderr)
        .process_group(0)
        .kill_on_drop(true);
    let child = command.spawn()?;
    drop(command);
    log.append(format!("--- playground: started process {}\n", child.id().unwrap_or_default()).as_bytes())?;
    std::thread::Builder::new().name("pod-log".to_owned()).spawn(move || {
        log.drain(reader);
        if let Ok(line) = end.recv() {
            log.append(line.as_bytes()).ok();
        }
    })?;
    Ok(child)
}

/// Owns the child until it is reaped; signals are sent only from here. Its standard input stays open until then.
async fn watch(mut child: Child, mut signals: mpsc::Receiver<Signal>) -> Exit {
    let started = Instant::now();
    let stdin = child.stdin.take();
    let how = loop {
        tokio::select! {
            status = child.wait() => break match status {
                Ok(status) => describe(status),
                Err(error) => format!("cannot be waited for: {error}"),
            },
            Some(signal) = signals.recv() => {
                let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
                if let Some(pid) = pid && let Err(error) = kill_process(pid, signal) {
                    tracing::warn!(?pid, ?signal, %error, "a signal could not be sent");
                }
            }
        }
    };
    drop(stdin);
    Exit { how, ran_for: started.elapsed() }
}

fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(9)) => "SIGKILL".to_owned(),
        (None, Some(15)) => "SIGTERM".to_owned(),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}
