//! Sessions of clients in other languages, each on a cluster of three whose leader is killed and comes back meanwhile.
//!
//! `SETSTONE_BIN` names the binary. A language that is not there is a failed test: run some by their names.

mod world;

use std::process::Command;

use world::session::{built, folder, session};

fn command(program: &str, arguments: &[&str], language: &str) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(folder(language));
    command
}

/// The directory of etcd's programs.
fn etcd_bin() -> String {
    std::env::var("ETCD_BIN").expect("ETCD_BIN must name the directory of etcdctl 3.7")
}

#[test]
fn etcdctl() {
    let mut run = Command::new("bash");
    run.arg(folder("etcdctl").join("session.sh")).env("ETCD_BIN", etcd_bin());
    session("etcdctl", Vec::new(), run);
}

#[test]
fn go() {
    let binary = built("go").join("session");
    let mut build = command("go", &["build", "-mod=readonly", "-trimpath", "-o"], "go");
    build.arg(&binary).arg(".").env("CGO_ENABLED", "0");
    session("go", vec![build], Command::new(binary));
}

#[test]
fn java() {
    let target = built("java");
    let goals = ["--batch-mode", "--quiet", "compile", "dependency:copy-dependencies"];
    let mut build = command("mvn", &goals, "java");
    build.arg(format!("-DbuildDirectory={}", target.display()));
    let mut run = Command::new("java");
    run.arg("-cp").arg(format!("{0}/classes:{0}/dependency/*", target.display())).arg("Session");
    session("java", vec![build], run);
}

#[test]
fn node() {
    let target = built("node");
    let mut copy = command("cp", &["-r", "package.json", "package-lock.json", "session.js"], "node");
    copy.arg(&target);
    let mut install = Command::new("npm");
    install.args(["ci", "--no-audit", "--no-fund", "--ignore-scripts"]).current_dir(&target);
    let mut run = Command::new("node");
    run.arg("session.js").current_dir(&target);
    session("node", vec![copy, install], run);
}

/// A session in Python, with its packages in an environment of its own.
fn python(name: &str) {
    let environment = built(&format!("python-{name}"));
    let create = {
        let mut create = Command::new("python3");
        create.args(["-m", "venv"]).arg(&environment);
        create
    };
    let bin = environment.join("bin");
    let mut install = Command::new(bin.join("pip"));
    install
        .args(["install", "--quiet", "--disable-pip-version-check", "--no-deps", "-r"])
        .arg(folder("python").join(format!("{name}.txt")));
    let mut run = Command::new(bin.join("python"));
    run.arg("-u").arg(folder("python").join(format!("{name}_session.py")));
    session(&format!("python-{name}"), vec![create, install], run);
}

#[test]
fn python_etcd3() {
    python("etcd3");
}

#[test]
fn python_aetcd() {
    python("aetcd");
}

#[test]
fn python_etcd3gw() {
    python("etcd3gw");
}

#[test]
fn patroni() {
    python("patroni");
}
