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

/// Two free ports. Another process may take one meanwhile; the start then fails, and the test with it.
fn free_ports() -> [SocketAddr; 2] {
    [0, 1].map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).map(|port| port.local_addr().unwrap())
}

fn command(directory: &Path, client: SocketAddr, admin: SocketAddr, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_setstone"));
    command
        .args(["serve", "--listen-client", &client.to_string(), "--listen-admin", &admin.to_string()])
        .arg("--data-dir")
        .arg(directory)
        .args(more)
        .stdin(Stdio::null());
    command
}

/// Runs a process that must end by itself; its exit code and what it said.
pub fn refused(directory: &Path, more: &[&str]) -> (i32, String) {
    let [client, admin] = free_ports();
    let child =
        command(directory, client, admin, more).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = Pid::from_child(&child);
    let (done, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || done.send(child.wait_with_output().unwrap()));
    let in_time = ended.recv_timeout(Duration::from_secs(30));
    let output = in_time.clone().unwrap_or_else(|_| {
        kill_process(pid, Signal::KILL).unwrap();
        ended.recv().unwrap()
    });
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(in_time.is_ok(), "it runs on: {text}");
    (output.status.code().unwrap(), text)
}

impl Process {
    pub async fn start(directory: &Path, more: &[&str]) -> Self {
        let [client, admin] = free_ports();
        let child = command(directory, client, admin, more)
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let mut process = Self { child, client, admin };
        process.until("it serves", |process| process.http("/readyz").starts_with("HTTP/1.1 200")).await;
        process
    }

    pub async fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        let mut looks = tokio::time::interval(Duration::from_millis(20));
        while !holds(self) {
            assert!(self.child.try_wait().unwrap().is_none(), "it ended");
            assert!(Instant::now() < deadline, "not in time: {what}");
            looks.tick().await;
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

    /// SIGTERM; its exit code.
    pub async fn terminate(mut self) -> i32 {
        let signalled = Command::new("kill").arg(self.child.id().to_string()).status().unwrap();
        assert!(signalled.success());
        let deadline = Instant::now() + Duration::from_secs(30);
        let mut looks = tokio::time::interval(Duration::from_millis(10));
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().unwrap();
            }
            assert!(Instant::now() < deadline, "it does not stop");
            looks.tick().await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
