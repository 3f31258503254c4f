//! `setstone serve` as a process of its own.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use setstone::client::{Options, Remote};
use tokio::time::Instant;

/// A process; killed when dropped.
pub struct Process {
    child: std::process::Child,
    pub client: SocketAddr,
    pub admin: SocketAddr,
}

/// Free ports. Another process may take one meanwhile; the start then fails, and the test with it.
pub fn free_ports<const COUNT: usize>() -> [SocketAddr; COUNT] {
    [0; COUNT]
        .map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap())
        .map(|port| port.local_addr().unwrap())
}

/// Looks at a condition again and again, until a deadline.
pub struct Looks {
    ticks: tokio::time::Interval,
    deadline: Instant,
}

impl Looks {
    pub fn within(patience: Duration) -> Self {
        let ticks = tokio::time::interval(Duration::from_millis(10));
        Self { ticks, deadline: Instant::now() + patience }
    }

    /// Waits until it is time for the next look; panics at the deadline.
    pub async fn next(&mut self, what: impl std::fmt::Display) {
        assert!(Instant::now() < self.deadline, "not in time: {what}");
        self.ticks.tick().await;
    }
}

/// `serve` on this directory. The words of `under` come first: a program that runs it somewhere else.
fn command(under: &[String], directory: &Path, ports: [SocketAddr; 2], more: &[&str]) -> Command {
    let binary = env!("CARGO_BIN_EXE_setstone").to_owned();
    let words = [under, &[binary]].concat();
    let mut command = Command::new(&words[0]);
    let [client, admin] = ports.map(|address| address.to_string());
    command
        .args(&words[1..])
        .args(["serve", "--listen-client", &client, "--listen-admin", &admin, "--data-dir"])
        .arg(directory)
        .args(more)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command
}

/// Runs a process that must end by itself; its exit code and what it said.
pub fn refused(directory: &Path, more: &[&str]) -> (i32, String) {
    refused_under(&[], directory, more)
}

/// As [`refused`], under another program.
pub fn refused_under(under: &[String], directory: &Path, more: &[&str]) -> (i32, String) {
    let child = command(under, directory, free_ports(), more).stderr(Stdio::piped()).spawn().unwrap();
    let id = Pid::from_child(&child);
    let (done, ended) = std::sync::mpsc::channel();
    let waiting = std::thread::spawn(move || {
        let output = child.wait_with_output().unwrap();
        let _ = done.send(());
        output
    });
    let in_time = ended.recv_timeout(Duration::from_secs(30)).is_ok();
    if !in_time {
        kill_process(id, Signal::KILL).unwrap();
    }
    let output = waiting.join().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(in_time, "it ran on: {text}");
    (output.status.code().unwrap(), text)
}

impl Process {
    /// A process that serves.
    pub async fn start(directory: &Path, more: &[&str]) -> Self {
        let mut process = Self::spawn(&[], directory, more, Stdio::inherit());
        process.serves().await;
        process
    }

    /// A process that may or may not come to serve. `log`: what it says.
    pub fn spawn(under: &[String], directory: &Path, more: &[&str], log: Stdio) -> Self {
        let [client, admin] = free_ports();
        let child = command(under, directory, [client, admin], more).stderr(log).spawn().unwrap();
        Self { child, client, admin }
    }

    pub async fn serves(&mut self) {
        self.until("it serves", |process| process.http("/readyz").starts_with("HTTP/1.1 200")).await;
    }

    pub async fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        let mut looks = Looks::within(Duration::from_secs(30));
        while !holds(self) {
            assert!(self.child.try_wait().unwrap().is_none(), "it ended");
            looks.next(what).await;
        }
    }

    /// The answer of the admin port; nothing if it does not answer.
    pub fn http(&self, path: &str) -> String {
        use std::io::{Read, Write};
        let Ok(mut stream) = std::net::TcpStream::connect(self.admin) else { return String::new() };
        let mut answer = String::new();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let _ = stream.write_all(request.as_bytes()).and_then(|()| stream.read_to_string(&mut answer));
        answer
    }

    /// A metric without labels.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.http("/metrics");
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no {name}")).parse().unwrap()
    }

    /// Its id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Bytes of it in memory.
    pub fn resident(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
    }

    pub fn remote(&self) -> Remote {
        Remote::new(&self.client.to_string(), &Options::default()).unwrap()
    }

    /// kill -9.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// SIGSTOP; returns when every thread of it stands still, which takes a while on a busy machine.
    pub async fn pause(&mut self) {
        self.signal(Signal::STOP);
        let tasks = format!("/proc/{}/task", self.child.id());
        self.until("it stands still", |_| {
            std::fs::read_dir(&tasks).unwrap().all(|task| {
                // What follows the name in parentheses; the thread may have ended.
                let stat = std::fs::read_to_string(task.unwrap().path().join("stat")).unwrap_or_default();
                stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('T'))
            })
        })
        .await;
    }

    /// SIGTERM; its exit code.
    pub async fn terminate(mut self) -> i32 {
        self.signal(Signal::TERM);
        self.ended().await
    }

    /// The exit code of a process that ends by itself.
    pub async fn ended(&mut self) -> i32 {
        let mut looks = Looks::within(Duration::from_secs(30));
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().unwrap();
            }
            looks.next("it ends").await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
