//! What Setstone promises, on a real Kubernetes, row by row.
//!
//! ```text
//! KUBECTL="kubectl" cargo test --release --manifest-path tests/kubernetes/Cargo.toml -- [GROUP…]
//! ```
//!
//! A group installs Setstone in a namespace of its own, and does one thing after the other to it while a load runs and remembers. A row
//! that fails ends its group; the pods' logs, events, and the objects are then kept as text. `CLUSTER` is the script that started the
//! cluster; without it, the rows that need more than `kubectl` are left out and named. Images must be on the nodes: `setstone:dev`,
//! `setstone:next` (another image), `setstone-load:dev`, `counters:dev`.
//!
//! * `kubectl`: processes with a deadline
//! * `world`: one installation
//! * `report`: rows, what is kept of failures
//! * `pods`, `scaling`, `volumes`, `outside`, `limits`, `embedded`: the groups

#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod embedded;
mod kubectl;
mod limits;
mod outside;
mod pods;
mod report;
mod scaling;
mod volumes;
mod world;

use std::process::ExitCode;

use kubectl::Tool;
use report::Run;
use world::Step;

/// The groups, in the order in which they run.
const GROUPS: [(&str, fn(&mut Run) -> Step); 15] = [
    ("ordered", pods::ordered),
    ("parallel", pods::parallel),
    ("memory", pods::memory),
    ("volumes", volumes::lost),
    ("recover", volumes::recover),
    ("once", volumes::once),
    ("scale-ordered", scaling::ordered),
    ("scale-parallel", scaling::parallel),
    ("nodes", outside::nodes),
    ("dns", outside::dns),
    ("rbac", outside::rbac),
    ("limits", limits::limits),
    ("full", limits::full),
    ("embedded", embedded::embedded),
    // Last: for some minutes after it, the cluster's own controllers are slow.
    ("api-server", outside::api_server),
];

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let unknown = wanted.iter().find(|word| !GROUPS.iter().any(|(name, _)| name == word));
    if let Some(word) = unknown {
        println!("{word:?} is no group; there are {:?}", GROUPS.map(|(name, _)| name));
        return ExitCode::from(2);
    }
    // Manifests are named from the top of the checkout, wherever cargo starts this.
    if let Err(error) = std::env::set_current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")) {
        println!("the checkout is not there any more: {error}");
        return ExitCode::from(2);
    }
    let kubectl = Tool::new(&std::env::var("KUBECTL").unwrap_or_else(|_| "kubectl".into()));
    let cluster = std::env::var("CLUSTER").ok().map(|script| Tool::new(&script));
    let mut run = Run::new(kubectl, cluster);
    let groups =
        GROUPS.iter().filter(|(name, _)| wanted.is_empty() || wanted.iter().any(|word| word == name));
    for (name, group) in groups {
        run.group(name, *group);
    }
    run.print();
    if run.failures() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
