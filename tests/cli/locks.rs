//! `lock` and `elect`, as scripts use them.

use std::io::{BufRead as _, BufReader, Lines};
use std::process::ChildStdout;

use super::*;

/// A command that is running, and what it prints.
struct Running {
    process: Child,
    lines: mpsc::Receiver<String>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Running {
    fn start(member: &Member, arguments: &[&str]) -> Self {
        let mut process = setstone(&[&["--endpoints", &member.endpoint], arguments].concat())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let printed: Lines<BufReader<ChildStdout>> = BufReader::new(process.stdout.take().unwrap()).lines();
        let (tell, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in printed.map_while(Result::ok) {
                let _ = tell.send(line);
            }
        });
        Self { process, lines }
    }

    fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("it prints nothing")
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }

    /// Its exit code, and what it said of errors.
    fn end(mut self) -> (Option<i32>, String) {
        let status = ended(&mut self.process);
        let mut errors = String::new();
        self.process.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        (status.code(), errors)
    }
}

/// Waits until a queue has so many keys.
fn queued(member: &Member, name: &str, count: usize) {
    let begin = Instant::now();
    let expected = format!("{count}\n");
    while stdout(&member.run(&["get", "--prefix", &format!("{name}/"), "--count-only"])) != expected {
        assert!(begin.elapsed() < PATIENCE, "{name} does not get {count} keys");
    }
}

#[test]
fn a_lock_is_held_while_a_command_runs_and_its_exit_code_comes_through() {
    let member = Member::start(&["--memory"]);
    let script = "echo $ETCD_LOCK_KEY $ETCD_LOCK_REV; exit 7";
    let ran = output(&["--endpoints", &member.endpoint, "lock", "job", "--", "sh", "-c", script]);
    assert_eq!(code(&ran), 7, "{}", stderr(&ran));
    let (key, token) = stdout(&ran).trim().split_once(' ').unwrap();
    assert!(key.starts_with("job/") && token.parse::<i64>().unwrap() > 1, "{key} {token}");
    queued(&member, "job", 0);
    let ran = output(&["--endpoints", &member.endpoint, "lock", "job", "true"]);
    assert_eq!(code(&ran), 0, "{}", stderr(&ran));
    let ran = output(&["--endpoints", &member.endpoint, "lock", "job", "/no/such/program"]);
    assert_eq!(code(&ran), 1);
    assert!(stderr(&ran).contains("/no/such/program"), "{}", stderr(&ran));
    let ran = output(&["--endpoints", &member.endpoint, "lock", "job", "--", "sh", "-c", "kill -9 $$"]);
    assert_eq!(code(&ran), 137);
    queued(&member, "job", 0);
    assert_eq!(code(&output(&["lock"])), 2);
    assert_eq!(code(&output(&["lock", "--ttl", "0", "x"])), 2);
}

#[test]
fn a_lock_passes_on_when_its_holder_is_interrupted_and_one_that_waits_leaves_the_queue() {
    let member = Member::start(&["--memory"]);
    let holder = Running::start(&member, &["lock", "--json", "--ttl", "60", "turn"]);
    let held: serde_json::Value = serde_json::from_str(&holder.line()).unwrap();
    let key = held["key"].as_str().unwrap();
    assert_eq!(key, format!("turn/{}", held["lease"].as_str().unwrap()));
    let waits = Running::start(&member, &["lock", "turn"]);
    queued(&member, "turn", 2);
    let next = Running::start(&member, &["lock", "--ttl", "60", "turn"]);
    queued(&member, "turn", 3);
    waits.signal(Signal::TERM);
    let (code, errors) = waits.end();
    assert_eq!(code, Some(1));
    assert!(errors.contains("interrupted before"), "{errors}");
    queued(&member, "turn", 2);
    assert!(next.lines.try_recv().is_err(), "it does not have the lock yet");
    holder.signal(Signal::INT);
    assert_eq!(holder.end(), (Some(0), String::new()));
    assert!(next.line().starts_with("turn/"));

    // Somebody takes it away.
    assert_eq!(super::code(&member.run(&["del", "--prefix", "turn/"])), 0);
    let (code, errors) = next.end();
    assert_eq!(code, Some(1));
    assert!(errors.contains("lost"), "{errors}");
    let ends = Running::start(
        &member,
        &["lock", "--ttl", "60", "turn", "--", "sh", "-c", "echo go; exec sleep 600"],
    );
    assert_eq!(ends.line(), "go");
    assert_eq!(super::code(&member.run(&["del", "--prefix", "turn/"])), 0);
    let (code, errors) = ends.end();
    assert_eq!(code, Some(1), "the command was ended: {errors}");
    assert!(errors.contains("lost while the command ran"), "{errors}");
}

#[test]
fn an_election_is_won_watched_and_passed_on() {
    let member = Member::start(&["--memory"]);
    let observer = Running::start(&member, &["elect", "--listen", "boss"]);
    let first = Running::start(&member, &["elect", "boss", "one"]);
    let key = first.line();
    assert!(key.starts_with("boss/"), "{key}");
    assert_eq!(first.line(), "one");
    assert_eq!((observer.line(), observer.line()), (key, "one".into()));
    let second = Running::start(&member, &["elect", "--json", "boss", "two"]);
    queued(&member, "boss", 2);
    first.signal(Signal::TERM);
    assert_eq!(first.end(), (Some(0), String::new()));
    let leads: serde_json::Value = serde_json::from_str(&second.line()).unwrap();
    assert_eq!(leads["value"], "two");
    assert_eq!((observer.line(), observer.line()), (leads["key"].as_str().unwrap().into(), "two".into()));
    assert_eq!(super::code(&member.run(&["del", "--prefix", "boss/"])), 0);
    let (code, errors) = second.end();
    assert_eq!(code, Some(1));
    assert!(errors.contains("leadership was lost"), "{errors}");
    observer.signal(Signal::INT);
    assert_eq!(observer.end(), (Some(0), String::new()));
    for wrong in [&["elect", "boss"][..], &["elect", "-l", "boss", "x"], &["elect"]] {
        assert_eq!(super::code(&output(wrong)), 2, "{wrong:?}");
    }
}
