//! `kubectl`, and the script of a cluster of one's own, as processes. Every call has a deadline; what hangs is killed.

use std::io::{Read, Write};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Time for a command that should take none.
const SHORT: Duration = Duration::from_secs(30);

/// A command line to which arguments are added.
#[derive(Clone, Debug)]
pub struct Tool(Vec<String>);

impl Tool {
    /// Words separated by blanks, as a variable has them.
    pub fn new(words: &str) -> Self {
        Self(words.split_whitespace().map(str::to_owned).collect())
    }

    pub fn with(mut self, arguments: &[&str]) -> Self {
        self.0.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        self
    }

    /// What it prints. The error has what it prints as errors, and the exit code.
    pub fn run(&self, arguments: &[&str]) -> Result<String, String> {
        self.within(SHORT, arguments, "")
    }

    pub fn within(&self, limit: Duration, arguments: &[&str], input: &str) -> Result<String, String> {
        let what = format!("{} {}", self.0.join(" "), arguments.join(" "));
        let (program, first) = self.0.split_first().ok_or("no command")?;
        let mut child = Command::new(program)
            .args(first)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(|error| format!("{what}: {error}"))?;
        let mut stdin = child.stdin.take().ok_or("no standard input")?;
        let (out, err) = (collect(child.stdout.take()), collect(child.stderr.take()));
        let input = input.to_owned();
        let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
        let ended = wait(&mut child, limit);
        let _ = writer.join();
        let (out, err) = (out.join().unwrap_or_default(), err.join().unwrap_or_default());
        match ended {
            Some(status) if status.success() => Ok(out),
            // Some commands say with the exit code how things are, and on standard output why.
            Some(status) => Err(format!("{what}: {status}: {err}{out}")),
            None => Err(format!("{what}: no end after {limit:?}: {err}{out}")),
        }
    }
}

fn collect(stream: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            let _ = stream.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn wait(child: &mut Child, limit: Duration) -> Option<std::process::ExitStatus> {
    let deadline = Instant::now() + limit;
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        if Instant::now() > deadline {
            // The whole group: scripts have children.
            let _ = Command::new("kill").args(["-KILL", "--", &format!("-{}", child.id())]).status();
            let _ = child.wait();
            return None;
        }
        // The standard library cannot wait for a process up to a deadline.
        std::thread::sleep(Duration::from_millis(5));
    }
}
