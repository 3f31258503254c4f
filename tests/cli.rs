//! The binary as scripts and kubelets see it: exit codes, what is on which stream, signals.

#![allow(clippy::pedantic)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    missing_docs
)]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

#[path = "cli/locks.rs"]
mod locks;
#[path = "cli/watching.rs"]
mod watching;

/// Time for anything that a test waits for.
const PATIENCE: Duration = Duration::from_mins(1);

/// A member in a process of its own; killed at the end.
struct Member {
    process: Child,
    endpoint: String,
    admin: String,
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A loopback address of its own, and a port there that is free. It stays free: connections to elsewhere do not begin at this address.
fn free_address() -> String {
    static NEXT: AtomicU8 = AtomicU8::new(0);
    let [process, ..] = std::process::id().to_le_bytes();
    let own = Ipv4Addr::new(127, 128 | process >> 1, NEXT.fetch_add(1, Ordering::Relaxed), 1);
    TcpListener::bind((own, 0)).unwrap().local_addr().unwrap().to_string()
}

/// The binary, without what the environment of the test may say to it.
fn setstone(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_setstone"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("SETSTONE_")) {
        command.env_remove(name);
    }
    command.args(arguments);
    command
}

fn output(arguments: &[&str]) -> Output {
    setstone(arguments).stdin(Stdio::null()).output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

impl Member {
    fn start(more: &[&str]) -> Self {
        let (endpoint, admin) = (free_address(), free_address());
        let process =
            setstone(&["serve", "--listen-client", &endpoint, "--listen-admin", &admin, "--exit-with-stdin"])
                .args(more)
                .stdin(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
        let mut member = Self { process, endpoint, admin };
        member.wait_ready();
        member
    }

    /// A member answers clients as soon as it can, and says ready once it knows that it has caught up: what probes and
    /// `status --admin` go by.
    fn wait_ready(&mut self) {
        let begin = Instant::now();
        while code(&output(&["status", "--admin", &self.admin])) != 0 {
            assert!(self.process.try_wait().unwrap().is_none(), "{}", self.log());
            assert!(begin.elapsed() < PATIENCE, "not ready: {}", stderr(&self.run(&["status"])));
        }
    }

    fn run(&self, arguments: &[&str]) -> Output {
        output(&[arguments, &["--endpoints", &self.endpoint]].concat())
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }

    fn ended(&mut self) -> ExitStatus {
        ended(&mut self.process)
    }

    /// What it logged; only when it has ended.
    fn log(&mut self) -> String {
        let mut log = String::new();
        self.process.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        log
    }
}

/// Waits until a process has ended.
fn ended(process: &mut Child) -> ExitStatus {
    let (pid, (done, ended)) = (Pid::from_child(process), mpsc::channel());
    std::thread::spawn(move || {
        let wait = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
        done.send(wait.map(drop))
    });
    ended.recv_timeout(PATIENCE).expect("it does not end").unwrap();
    process.wait().unwrap()
}

#[test]
fn a_tour_of_the_client_commands() {
    let member = Member::start(&["--memory"]);
    let put = member.run(&["put", "color", "blue"]);
    assert_eq!((code(&put), stdout(&put), stderr(&put)), (0, "written at revision 2\n", ""));
    let get = member.run(&["get", "color", "--value-only"]);
    assert_eq!((code(&get), stdout(&get)), (0, "blue\n"));
    let json: serde_json::Value =
        serde_json::from_slice(&member.run(&["get", "color", "--json"]).stdout).unwrap();
    assert_eq!(json["kvs"][0]["value"], "blue");
    let absent = member.run(&["get", "missing"]);
    assert_eq!((code(&absent), stdout(&absent)), (3, "0 keys, revision 2\n"));
    assert_eq!(stdout(&member.run(&["get", "missing", "--count-only"])), "0\n");

    let mut txn = setstone(&["txn", "--endpoints", &member.endpoint])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    txn.stdin
        .take()
        .unwrap()
        .write_all(b"value(\"color\") = \"blue\"\n\nput color green\nget color\n")
        .unwrap();
    let txn = txn.wait_with_output().unwrap();
    assert_eq!(code(&txn), 0);
    assert!(
        stdout(&txn).starts_with("the compares hold; 2 operations ran, revision 3\n"),
        "{}",
        stdout(&txn)
    );

    let del = member.run(&["del", "--prefix", ""]);
    assert_eq!((code(&del), stdout(&del)), (0, "1 key deleted, revision 4\n"));
    assert_eq!(code(&member.run(&["compact", "3"])), 0);
    let compacted = member.run(&["get", "color", "--rev", "2"]);
    assert_eq!(code(&compacted), 1);
    assert!(stderr(&compacted).contains("required revision has been compacted"), "{}", stderr(&compacted));
    assert!(stdout(&member.run(&["status"])).contains("leader"));
    assert!(stdout(&member.run(&["members"])).contains("setstone-0"));
    assert!(stdout(&member.run(&["events", "--last", "3"])).contains("founded cluster"));
    let admin = output(&["status", "--admin", &member.admin]);
    assert_eq!(code(&admin), 0, "{}", stderr(&admin));
    assert!(stdout(&admin).contains("[+]"), "{}", stdout(&admin));
}

#[test]
fn users_and_roles_are_managed_and_passwords_are_read_from_a_pipe() {
    let member = Member::start(&["--memory", "--bcrypt-cost", "4"]);
    let says = |arguments: &str, exit: i32| {
        let output = member.run(&arguments.split(' ').collect::<Vec<_>>());
        assert_eq!(code(&output), exit, "{arguments}: {}", stderr(&output));
        if exit == 0 { stdout(&output) } else { stderr(&output) }.trim_end().to_owned()
    };
    let types = |arguments: &str, line: &str| {
        let arguments: Vec<_> = arguments.split(' ').collect();
        let arguments = [&arguments[..], &["--endpoints", &member.endpoint]].concat();
        let mut asked = setstone(&arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        asked.stdin.take().unwrap().write_all(line.as_bytes()).unwrap();
        asked.wait_with_output().unwrap()
    };
    assert_eq!(says("auth status", 0), "Authentication Status: false\nAuthRevision: 1");
    assert_eq!(says("user add root:pw", 0), "User root created");
    assert!(says("user add root:pw", 1).contains("user name already exists"));
    assert_eq!(says("user grant-role root root", 0), "Role root is granted to user root");
    assert_eq!(stdout(&types("user add alice", "secret\n")), "User alice created\n");
    assert_eq!(says("role add readers", 0), "Role readers created");
    assert_eq!(says("role grant-permission readers read config/ --prefix", 0), "Role readers updated");
    assert_eq!(says("role grant-permission readers readwrite k", 0), "Role readers updated");
    assert_eq!(says("user grant-role alice readers", 0), "Role readers is granted to user alice");
    assert_eq!(says("auth enable", 0), "Authentication Enabled");

    assert!(says("get k", 1).contains("user name is empty"));
    assert!(says("get k --user root:wrong", 1).contains("authentication failed"));
    assert_eq!(says("put k v --user root:pw", 0), "written at revision 2");
    assert_eq!(says("get k --value-only --user root --password pw", 0), "v");
    assert_eq!(stdout(&types("get k --value-only --user alice", "secret\n")), "v\n");
    assert!(says("get other --user alice:secret", 1).contains("permission denied"));
    assert!(says("get k --password pw", 2).contains("--user"));
    assert_eq!(code(&types("get k --user alice", "")), 2, "no password came");
    let from_environment = setstone(&["get", "k", "--value-only", "--endpoints", &member.endpoint])
        .env("SETSTONE_USER", "root")
        .env("SETSTONE_PASSWORD", "pw")
        .output()
        .unwrap();
    assert_eq!(stdout(&from_environment), "v\n");

    let root = |arguments: &str| says(&format!("{arguments} --user root:pw"), 0);
    assert_eq!(root("user get alice"), "User: alice\nRoles: readers");
    assert_eq!(root("user list"), "alice\nroot");
    assert_eq!(root("role list"), "readers");
    assert_eq!(
        root("role get readers"),
        "Role readers\nKV Read:\n\t[config/, config0) (prefix config/)\n\tk\nKV Write:\n\tk"
    );
    let role: serde_json::Value = serde_json::from_str(&root("role get readers --json")).unwrap();
    assert_eq!(role["permissions"][0]["access"], "READ");
    assert_eq!(role["permissions"][1]["key"], "k");
    assert_eq!(
        root("role revoke-permission readers config/ --prefix"),
        "Permission of range [config/, config0) is revoked from role readers"
    );
    assert_eq!(stdout(&types("user passwd alice --user root:pw", "other\n")), "Password updated\n");
    assert!(says("get k --user alice:secret", 1).contains("authentication failed"));
    assert_eq!(says("get k --value-only --user alice:other", 0), "v");
    assert_eq!(root("user revoke-role alice readers"), "Role readers is revoked from user alice");
    assert_eq!(root("role delete readers"), "Role readers deleted");
    assert_eq!(root("user delete alice"), "User alice deleted");
    let status: serde_json::Value = serde_json::from_str(&root("auth status --json")).unwrap();
    assert_eq!((&status["enabled"], &status["header"]["revision"]), (&true.into(), &2.into()));
    assert_eq!(root("auth disable"), "Authentication Disabled");
    assert_eq!(says("get k --value-only", 0), "v");
}

#[test]
fn leases_are_granted_shown_kept_and_ended() {
    let member = Member::start(&["--memory"]);
    let says = |arguments: &str, expected: i32| {
        let output = member.run(&arguments.split(' ').collect::<Vec<_>>());
        assert_eq!(code(&output), expected, "{arguments}: {}{}", stdout(&output), stderr(&output));
        stdout(&output).trim_end().to_owned()
    };
    assert_eq!(says("lease grant 60 --id 4d2", 0), "lease 4d2 granted with TTL(60s)");
    let drawn: serde_json::Value = serde_json::from_str(&says("lease grant -5 --json", 0)).unwrap();
    assert_eq!((drawn["ttl"].as_i64(), drawn["header"]["revision"].as_i64()), (Some(2), Some(1)));
    says("put color blue --lease 4d2", 0);
    let life = says("lease timetolive 4d2 --keys", 0);
    assert!(life.starts_with("lease 4d2 granted with TTL(60s), remaining("), "{life}");
    assert!(life.ends_with(", attached keys([color])"), "{life}");
    assert_eq!(says("lease keep-alive 4d2 --once", 0), "lease 4d2 keepalived with TTL(60)");
    assert!(says("lease list", 0).lines().any(|line| line == "4d2"));
    assert_eq!(says("lease revoke 4d2", 0), "lease 4d2 revoked");
    assert_eq!(says("get color", 3), "0 keys, revision 3");
    assert_eq!(says("lease timetolive 4d2", 0), "lease 4d2 already expired");
    assert_eq!(says("lease keep-alive 4d2", 1), "lease 4d2 expired or revoked.");
    assert_eq!(code(&member.run(&["lease", "revoke", "4d2"])), 1);
    assert_eq!(code(&member.run(&["lease", "revoke", "no-lease"])), 2);
}

#[test]
fn alarms_are_listed_and_disarmed_and_space_is_given_back() {
    let member = Member::start(&["--memory", "--quota-backend-bytes", "100000"]);
    let value = "v".repeat(60_000);
    assert_eq!(code(&member.run(&["put", "large", &value])), 0);
    let refused = member.run(&["put", "larger", &value]);
    assert_eq!(code(&refused), 1);
    assert!(stderr(&refused).contains("mvcc: database space exceeded"), "{}", stderr(&refused));
    let listed = member.run(&["alarm", "list"]);
    let (id, alarm) = stdout(&listed).trim_end().split_once(' ').unwrap();
    assert_eq!(alarm, "alarm:NOSPACE");
    let json: serde_json::Value =
        serde_json::from_slice(&member.run(&["alarm", "list", "--json"]).stdout).unwrap();
    assert_eq!(json["alarms"][0]["alarm"], "NOSPACE");
    assert_eq!(Some(json["alarms"][0]["member_id"].as_str().unwrap()), id.strip_prefix("memberID:"));
    assert!(stdout(&member.run(&["status"])).contains("NOSPACE"));
    assert_eq!(code(&member.run(&["del", "large"])), 0);
    assert_eq!(code(&member.run(&["compact", "3", "--physical"])), 0);
    let defragmented = member.run(&["defrag"]);
    assert_eq!(code(&defragmented), 0, "{}", stderr(&defragmented));
    assert!(stdout(&defragmented).starts_with("Finished defragmenting member["), "{}", stdout(&defragmented));
    assert_eq!(code(&member.run(&["defrag", "--cluster", "--json"])), 0);
    assert_eq!(stdout(&member.run(&["alarm", "disarm"])), stdout(&listed));
    assert_eq!(stdout(&member.run(&["alarm", "list"])), "");
    assert_eq!(code(&member.run(&["put", "large", &value])), 0);
    assert_eq!(code(&output(&["defrag", "--endpoints", &free_address(), "--timeout", "1s"])), 1);
}

#[test]
fn a_snapshot_is_saved_whole_or_not_at_all() {
    let member = Member::start(&["--memory"]);
    for number in 0..20 {
        let key = format!("k{number}");
        assert_eq!(code(&member.run(&["put", &key, &"v".repeat(10_000)])), 0);
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("saved");
    let file = path.to_str().unwrap();
    // Of an attempt that was killed.
    std::fs::write(directory.path().join("saved.part"), "half").unwrap();
    let saved = member.run(&["snapshot", "save", file]);
    assert_eq!(code(&saved), 0, "{}", stderr(&saved));
    assert_eq!(stdout(&saved), format!("Snapshot saved at {file}\nServer version 3.7.0\n"));
    assert_eq!(files(directory.path()), ["saved"]);
    assert_eq!(std::fs::metadata(&path).unwrap().len() % 512, 32);
    let status = output(&["snapshot", "status", file]);
    assert_eq!(code(&status), 0, "{}", stderr(&status));
    assert!(stdout(&status).starts_with("HASH"), "{}", stdout(&status));
    let json: serde_json::Value =
        serde_json::from_slice(&output(&["snapshot", "status", file, "--json"]).stdout).unwrap();
    assert_eq!((json["revision"].as_i64(), json["total_key"].as_i64()), (Some(21), Some(20)));
    assert!(stdout(&status).contains(json["hash"].as_str().unwrap()));

    // Saved again, it is replaced; where nobody answers it stays.
    assert_eq!(code(&member.run(&["snapshot", "save", file, "--json"])), 0);
    let before = std::fs::read(&path).unwrap();
    let two = format!("{},{}", member.endpoint, free_address());
    assert_eq!(code(&output(&["snapshot", "save", file, "--endpoints", &two])), 2);
    assert_eq!(code(&output(&["snapshot", "save", file, "--endpoints", &free_address()])), 1);
    assert_eq!(std::fs::read(&path).unwrap(), before);
    assert_eq!(files(directory.path()), ["saved"]);

    // A changed byte, a missing end, something else.
    let mut bytes = before.clone();
    bytes[before.len() / 2] ^= 1;
    for damaged in [&bytes[..], &before[..before.len() - 1], &before[..512], b"", b"no snapshot"] {
        std::fs::write(&path, damaged).unwrap();
        let status = output(&["snapshot", "status", file]);
        assert_eq!(code(&status), 12, "{}", stderr(&status));
        assert!(stderr(&status).contains(file), "{}", stderr(&status));
    }
    assert_eq!(code(&output(&["snapshot", "status", "/nowhere"])), 1);
}

#[test]
fn nobody_there_is_a_failure_and_not_an_unknown_outcome() {
    let nobody = free_address();
    for command in [&["put", "a", "b"][..], &["get", "a"], &["status"], &["members"]] {
        let answer = output(&[command, &["--endpoints", &nobody, "--timeout", "300ms"]].concat());
        assert_eq!(code(&answer), 1, "{command:?}: {}", stderr(&answer));
    }
}

#[test]
fn an_unanswered_write_has_an_exit_code_of_its_own() {
    // It takes connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = silent.local_addr().unwrap().to_string();
    let put = output(&["put", "a", "b", "--endpoints", &endpoint, "--timeout", "300ms"]);
    assert_eq!(code(&put), 4, "{}", stderr(&put));
    assert!(stderr(&put).contains("outcome unknown"), "{}", stderr(&put));
    let get = output(&["get", "a", "--endpoints", &endpoint, "--timeout", "300ms"]);
    assert_eq!(code(&get), 1, "{}", stderr(&get));
}

#[test]
fn wrong_configurations_are_told_and_exit_with_ten() {
    let refused = output(&["serve", "--listen-client", "here"]);
    assert_eq!(code(&refused), 10);
    assert_eq!(stderr(&refused), "setstone: --listen-client=\"here\": is no address; write ip:port\n");
    let refused = setstone(&["serve"]).env("SETSTONE_LOG", "a=b=c").output().unwrap();
    assert_eq!(code(&refused), 10, "{}", stderr(&refused));
    let refused = setstone(&["serve"]).env("SETSTONE_POD_NAME", "x").output().unwrap();
    assert_eq!((code(&refused), stderr(&refused)), (10, "setstone: SETSTONE_POD_NAMESPACE is not set\n"));
    assert_eq!(code(&output(&["serve", "--no-such-flag"])), 2);
}

#[test]
fn sigterm_stops_and_the_directory_is_sound_and_goes_on() {
    let root = tempfile::tempdir().unwrap();
    let data = root.path().join("data").to_str().unwrap().to_owned();
    let mut member = Member::start(&["--data-dir", &data]);
    assert_eq!(code(&member.run(&["put", "a", "1"])), 0);

    let second =
        output(&["serve", "--data-dir", &data, "--listen-client", "127.0.0.1:0", "--listen-admin", "none"]);
    assert_eq!(code(&second), 11, "{}", stderr(&second));
    assert!(stderr(&second).contains(&data) && stderr(&second).contains("in use"), "{}", stderr(&second));
    assert_eq!(code(&output(&["check", &data])), 11);

    member.signal(Signal::TERM);
    assert_eq!(member.ended().code(), Some(0), "{}", member.log());
    let check = output(&["check", &data]);
    assert_eq!(code(&check), 0, "{}{}", stdout(&check), stderr(&check));
    assert!(stdout(&check).contains("revision 2"), "{}", stdout(&check));

    let member = Member::start(&["--data-dir", &data]);
    assert_eq!(stdout(&member.run(&["get", "a", "--value-only"])), "1\n");
}

#[test]
fn a_killed_member_comes_back_with_what_it_acknowledged() {
    let root = tempfile::tempdir().unwrap();
    let data = root.path().join("data").to_str().unwrap().to_owned();
    let mut member = Member::start(&["--data-dir", &data]);
    for number in 0..20 {
        assert_eq!(code(&member.run(&["put", "a", &number.to_string()])), 0);
    }
    member.signal(Signal::KILL);
    member.ended();
    assert_eq!(code(&output(&["check", &data])), 0);
    let member = Member::start(&["--data-dir", &data]);
    assert_eq!(stdout(&member.run(&["get", "a", "--value-only"])), "19\n");
}

#[test]
fn damage_is_told_with_file_and_place_and_exits_with_twelve() {
    let root = tempfile::tempdir().unwrap();
    let data = root.path().join("data");
    let data_text = data.to_str().unwrap().to_owned();
    let mut member = Member::start(&["--data-dir", &data_text]);
    for number in 0..50 {
        assert_eq!(code(&member.run(&["put", "a", &number.to_string()])), 0);
    }
    member.signal(Signal::TERM);
    assert_eq!(member.ended().code(), Some(0));
    let before = files(&data);
    flip_in_the_middle(&data.join("log"));
    let check = output(&["check", &data_text]);
    assert_eq!(code(&check), 12, "{}", stdout(&check));
    assert!(stdout(&check).contains("is damaged at offset"), "{}", stdout(&check));
    assert_eq!(files(&data), before, "check removed or made files");

    let identity = data.join("identity");
    let mut bytes = std::fs::read(&identity).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&identity, bytes).unwrap();
    let refused = output(&[
        "serve",
        "--data-dir",
        &data_text,
        "--listen-client",
        "127.0.0.1:0",
        "--listen-admin",
        "none",
    ]);
    assert_eq!(code(&refused), 12, "{}", stderr(&refused));
    assert!(stderr(&refused).contains("identity: damaged"), "{}", stderr(&refused));
}

/// Changes a byte of a write that others follow.
fn flip_in_the_middle(log: &Path) {
    let segment = std::fs::read_dir(log).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&segment).unwrap();
    // The first sector is the header; each of the fifty writes begins on a sector of its own.
    bytes[10 * 512 + 40] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
}

fn files(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn the_end_of_standard_input_stops_a_member() {
    let mut member = Member::start(&["--memory"]);
    drop(member.process.stdin.take());
    assert_eq!(member.ended().code(), Some(0), "{}", member.log());
}

#[test]
fn a_second_signal_hurries() {
    let mut member = Member::start(&["--memory", "--drain-delay", "30s", "--grace-period", "60s"]);
    let begin = Instant::now();
    member.signal(Signal::TERM);
    // The first signal must have been taken before the second comes, or the two are one to the kernel.
    while code(&output(&["status", "--admin", &member.admin])) == 0 {
        assert!(begin.elapsed() < PATIENCE);
    }
    member.signal(Signal::INT);
    assert_eq!(member.ended().code(), Some(0));
    assert!(begin.elapsed() < Duration::from_secs(25), "{:?}", begin.elapsed());
}

#[test]
fn a_log_in_json_is_json() {
    let mut member = Member::start(&["--memory", "--log-format", "json"]);
    member.signal(Signal::TERM);
    member.ended();
    let log = member.log();
    assert!(log.lines().count() > 1, "{log}");
    for line in log.lines() {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(value["message"].is_string(), "{line}");
    }
}

#[test]
fn a_reader_that_leaves_is_no_reason_to_complain() {
    let mut process =
        setstone(&["completion", "bash"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(process.stdout.take());
    let output = process.wait_with_output().unwrap();
    assert_eq!(stderr(&output), "");
}

#[test]
fn a_short_load_is_measured_and_reported() {
    let member = Member::start(&["--memory"]);
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("report.json");
    for operation in [&["put"][..], &["get", "--prefill"], &["range", "--limit", "5"], &["txn"], &["mixed"]] {
        let bench = [
            &["bench"],
            operation,
            &[
                "--clients",
                "4",
                "--total",
                "100",
                "--key-space",
                "50",
                "--json",
                "--json-file",
                file.to_str().unwrap(),
            ],
        ]
        .concat();
        let report = member.run(&bench);
        assert_eq!(code(&report), 0, "{operation:?}: {}", stderr(&report));
        let json: serde_json::Value = serde_json::from_slice(&report.stdout).unwrap();
        assert_eq!((&json["requests"], &json["errors"]), (&100.into(), &0.into()), "{json}");
        assert_eq!(json["empty_reads"], 0, "{json}");
        let (p50, p99) =
            (json["latency_us"]["p50"].as_u64().unwrap(), json["latency_us"]["p99"].as_u64().unwrap());
        assert!(0 < p50 && p50 <= p99, "{json}");
        let written: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        assert_eq!(json, written);
    }
    let text = member.run(&["bench", "put", "--clients", "2", "--duration", "300ms", "--rate", "200"]);
    let (text, errors) = (stdout(&text).to_owned(), stderr(&text).to_owned());
    assert!(text.contains("requests/s") && text.contains("p99.9"), "{text}{errors}");
}

#[test]
fn a_load_on_nobody_fails_and_says_why() {
    let nobody = free_address();
    let report = output(&[
        "bench",
        "put",
        "--clients",
        "2",
        "--duration",
        "300ms",
        "--timeout",
        "200ms",
        "--endpoints",
        &nobody,
    ]);
    assert_eq!(code(&report), 1);
    assert!(stdout(&report).contains("refused"), "{}", stdout(&report));
}
