//! The process of a pod, from its start to its end.

use std::any::Any;
use std::net::IpAddr;
use std::sync::Weak;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::shared::{Heard, Process, Report, Shared};
use super::volumes;
use super::world::Pod;
use crate::env::Env;
use crate::env::simulated::{Seen, stoppable};
use crate::identity::NodeId;
use crate::node::Node;

/// The processes of a set do not begin at the same moment.
const BEGIN_MILLIS: u64 = 300;
/// Tasks that a member may have: its own, and some for each connection and stream of six peers and a dozen clients. Twice what is usual.
const TASKS: u64 = 300;
/// Files that a member may have open beside the segments of its log that a large snapshot excuses. Between two looks at its size a log of
/// small segments may have a hundred more of them.
const OPEN_FILES: u64 = 200;
/// Time after a stop in which the last tasks end and the last files are closed.
const TIDY: Duration = Duration::from_secs(5);

/// Runs the process that belongs at an address, if there is one. It ends with its machine.
pub(super) async fn run(shared: Shared, address: IpAddr) -> turmoil::Result {
    if let Some(process) = shared.process_at(address) {
        let ordinal = process.container.pod.ordinal;
        if let Some(pod) = shared.pods.get(usize::from(ordinal)) {
            shared.runtimes.borrow_mut().insert(ordinal, tokio::runtime::Handle::current().id());
            let how = stoppable(live(&shared, pod, &process)).await;
            shared.trace.add(&format!("process {} ends: {how}", process.container));
            shared.heard.borrow_mut().push(Heard::Ended(process.container, how));
        }
    }
    std::future::pending().await
}

/// Lives until something ends it; says what.
async fn live(shared: &Shared, pod: &Pod, process: &Process) -> String {
    let ordinal = process.container.pod.ordinal;
    let env = Env { owner: Some(shared.owner.clone()), ..pod.env(&shared.now, &shared.zone) };
    tokio::time::sleep(Duration::from_millis(env.random.next_u64() % BEGIN_MILLIS)).await;
    shared.invariants.borrow_mut().started(ordinal);
    knows_that_it_is_a_member(shared, pod);
    let node = match Node::start_in(shared.config(ordinal), env).await {
        Ok(node) => node,
        Err(error) => {
            knows_its_disk(shared, ordinal, &error.to_string());
            return error.to_string();
        }
    };
    let mut probes = tokio::time::interval(Duration::from_millis(shared.plan.probe));
    probes.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            error = node.failed() => return error.to_string(),
            () = process.stop.cancelled() => break,
            _ = probes.tick() => {
                let report = node.health();
                shared.heard.borrow_mut().push(Heard::Probed(process.container, report.ready));
                let report = told(&report);
                keeps_limits(shared, pod, &report);
                shared.reports.borrow_mut().insert(ordinal, report);
            }
        }
    }
    shared.trace.add(&format!("process {} is told to stop", process.container));
    let deadline = Instant::now() + shared.config(ordinal).grace_period;
    let state = node.state();
    node.stop(&CancellationToken::new()).await;
    drop(node);
    if Instant::now() < deadline {
        leaves_nothing(shared, pod, &state).await;
        shared.count("stopped in order");
    }
    "stopped".into()
}

/// A member that runs, and what it has open.
fn keeps_limits(shared: &Shared, pod: &Pod, report: &Report) {
    let mut invariants = shared.invariants.borrow_mut();
    if let Some(node) = report.node {
        invariants.runs(node, shared.now.millis());
    }
    let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks() as u64;
    let files = pod.files.open_files() as u64;
    invariants.take(Seen::Holds { what: "tasks", held: tasks, limit: TASKS });
    // A log may take as many bytes as the snapshot, and again as many behind that for those who lag.
    let excused = 2 * report.snapshot_bytes / shared.plan.tuning.log_segment_bytes;
    invariants.take(Seen::Holds { what: "open files", held: files, limit: OPEN_FILES + excused });
}

/// A disk that once held an identity does not become blank by itself.
fn knows_that_it_is_a_member(shared: &Shared, pod: &Pod) {
    let invariants = shared.invariants.borrow();
    if invariants.has_applied(pod.ordinal) && !invariants.is_tampered(pod.ordinal) && volumes::is_blank(pod) {
        shared.complain(format!(
            "the disk of pod {} has forgotten that it is a member's, and nobody did anything to it",
            pod.ordinal
        ));
    }
}

/// A disk that cannot be used now may be used again; one that is not recognised was changed.
fn knows_its_disk(shared: &Shared, ordinal: u16, error: &str) {
    let changed = ["not an identity", "no identity", "checksum", "bytes follow the header"];
    if changed.iter().any(|text| error.contains(text)) && !shared.invariants.borrow().is_tampered(ordinal) {
        shared.complain(format!(
            "pod {ordinal} does not know its disk any more, and nobody did anything to it: {error}"
        ));
    }
}

/// What `NodeId` shows.
fn node_of(text: &str) -> Option<NodeId> {
    let (ordinal, incarnation) = text.split_once('#')?;
    Some(NodeId::new(ordinal.parse().ok()?, incarnation.parse().ok()?))
}

fn told(report: &crate::api::Report) -> Report {
    let decided = report.status.pointer("/start/decided").and_then(|text| text.as_str()).unwrap_or_default();
    let node = report.status.pointer("/disk/node").and_then(|text| text.as_str()).and_then(node_of);
    let cluster = report.status.pointer("/disk/cluster").and_then(|text| text.as_str()).unwrap_or_default();
    let snapshot_bytes = report.status.pointer("/disk/snapshotBytes").and_then(serde_json::Value::as_u64);
    Report {
        serving: report.serving,
        cluster: cluster.to_owned(),
        node,
        decided: decided.to_owned(),
        snapshot_bytes: snapshot_bytes.unwrap_or(0),
        status: report.status.to_string(),
    }
}

/// After a stop in time no task runs, no file is open and nothing keeps the state any more.
async fn leaves_nothing(shared: &Shared, pod: &Pod, state: &Weak<dyn Any + Send + Sync>) {
    let tasks = tokio::runtime::Handle::current().metrics();
    let deadline = Instant::now() + TIDY;
    while tasks.num_alive_tasks() > 0 || pod.files.open_files() > 0 || state.strong_count() > 0 {
        if Instant::now() > deadline {
            shared.complain(format!(
                "pod {} has left {} tasks, {} open files and {} holders of its state after its stop",
                pod.ordinal,
                tasks.num_alive_tasks(),
                pod.files.open_files(),
                state.strong_count()
            ));
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
