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
//! Two groups run at a time, each in its namespace: whoever has ended takes the next of the list. What groups do to nodes, to the name
//! server and to the API server happens to all, so those run in the end, one by one.
//!
//! * `kubectl`: processes with a deadline
//! * `world`: one installation
//! * `report`: rows, what is kept of failures
//! * `certificates`: authorities, and what they sign
//! * `pods`, `scaling`, `volumes`, `outside`, `limits`, `embedded`, `tls`: the groups

#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod certificates;
mod embedded;
mod kubectl;
mod limits;
mod outside;
mod pods;
mod report;
mod scaling;
mod tls;
mod volumes;
mod world;

use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use kubectl::Tool;
use report::Run;
use world::Step;

/// So many groups run at a time: most of what a group does is to wait.
const LANES: usize = 2;

struct Group {
    name: &'static str,
    steps: fn(&mut Run) -> Step,
    /// Whether it does something to what all groups share.
    alone: bool,
}

const fn beside_others(name: &'static str, steps: fn(&mut Run) -> Step) -> Group {
    Group { name, steps, alone: false }
}

const fn alone(name: &'static str, steps: fn(&mut Run) -> Step) -> Group {
    Group { name, steps, alone: true }
}

/// The groups, in the order in which they are taken: long ones first.
const GROUPS: [Group; 16] = [
    beside_others("ordered", pods::ordered),
    beside_others("tls", tls::tls),
    beside_others("scale-ordered", scaling::ordered),
    beside_others("scale-parallel", scaling::parallel),
    beside_others("volumes", volumes::lost),
    beside_others("parallel", pods::parallel),
    beside_others("rbac", outside::rbac),
    beside_others("recover", volumes::recover),
    beside_others("embedded", embedded::embedded),
    beside_others("memory", pods::memory),
    beside_others("once", volumes::once),
    // These two keep the machine busy, and are beside each other.
    beside_others("limits", limits::limits),
    beside_others("full", limits::full),
    alone("nodes", outside::nodes),
    alone("dns", outside::dns),
    // Last: for a while after it, the cluster's own controllers are slow.
    alone("api-server", outside::api_server),
];

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let unknown = wanted.iter().find(|word| !GROUPS.iter().any(|group| group.name == *word));
    if let Some(word) = unknown {
        println!("{word:?} is no group; there are {:?}", GROUPS.map(|group| group.name));
        return ExitCode::from(2);
    }
    // Manifests are named from the top of the checkout, wherever cargo starts this.
    if let Err(error) = std::env::set_current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")) {
        println!("the checkout is not there any more: {error}");
        return ExitCode::from(2);
    }
    let is_wanted = |group: &Group| wanted.is_empty() || wanted.iter().any(|word| word == group.name);
    let done = run_all(is_wanted);
    report::print(&done);
    if done.iter().all(|run| run.failures() == 0) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs the groups that are wanted; what came of each, in the order of the list.
fn run_all(is_wanted: impl Fn(&Group) -> bool) -> Vec<Run> {
    let kubectl = Tool::new(&std::env::var("KUBECTL").unwrap_or_else(|_| "kubectl".into()));
    let cluster = std::env::var("CLUSTER").ok().map(|script| Tool::new(&script));
    let (alone, beside): (Vec<_>, Vec<_>) = GROUPS
        .into_iter()
        .enumerate()
        .filter(|(_, group)| is_wanted(group))
        .partition(|(_, group)| group.alone);
    let mut done = Vec::new();
    for (groups, lanes) in [(beside, LANES), (alone, 1)] {
        let (queue, ended) = (Mutex::new(groups.into_iter()), Mutex::new(Vec::new()));
        let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
        let lane = || {
            while let Some((place, group)) = next() {
                let run = Run::new(group.name, kubectl.clone(), cluster.clone()).through(group.steps);
                ended.lock().unwrap_or_else(PoisonError::into_inner).push((place, run));
            }
        };
        // A lane that panics makes this panic, too.
        std::thread::scope(|scope| (0..lanes).for_each(|_| drop(scope.spawn(lane))));
        done.extend(ended.into_inner().unwrap_or_else(PoisonError::into_inner));
    }
    done.sort_by_key(|(place, _)| *place);
    done.into_iter().map(|(_, run)| run).collect()
}
