//! The last thing that happens to some clusters, after everything else was checked: a majority of the volumes is gone, and all machines
//! lose their power. The pods must say so, found nothing and serve nobody; the command that they name is carried out, as a human
//! would; then all must serve again, with everything that the survivor that they named held.
//!
//! Every member held everything before (the audit saw to that), so nothing may be missing afterwards.

use std::sync::Arc;
use std::time::Duration;

use super::history::State;
use super::shared::{DATA, Phase, Shared};
use super::workload::Caller;
use crate::identity::{ClusterId, IdentityFile, REQUEST_FILE, Recovery, Request};
use crate::limits;
use crate::storage::replace_file;

/// Pause between two looks.
const AGAIN: Duration = Duration::from_millis(100);
/// Time in which nobody may begin to serve, although the pods have said that they wait for a human.
const TEMPTATION: Duration = Duration::from_secs(5);

/// What a pod says is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Advice {
    /// Ordinal of the pod that is to go on.
    survivor: u16,
    cluster: ClusterId,
    /// Pods that are said to be gone.
    gone: Vec<String>,
}

/// Lets it happen, if the plan has it; `before` is the newest revision. The driver bounds the time.
pub(super) async fn run(caller: &mut Caller, shared: &Shared, before: i64) {
    if shared.plan.lost.is_empty() {
        return;
    }
    while shared.watching.get() > 0 {
        tokio::time::sleep(AGAIN).await;
    }
    let Some(held) = shared.states.borrow().get(&before).cloned() else { return };
    shared.waiting_for.replace("the loss of a majority of the volumes".into());
    shared.phase.set(Phase::Disaster);
    while shared.phase.get() == Phase::Disaster {
        tokio::time::sleep(AGAIN).await;
    }
    shared.waiting_for.replace("a word about what brings the cluster back".into());
    let advice = loop {
        if let Some(advice) = said(shared) {
            break advice;
        }
        nobody_serves(shared);
        tokio::time::sleep(AGAIN).await;
    };
    let until = tokio::time::Instant::now() + TEMPTATION;
    while tokio::time::Instant::now() < until {
        nobody_serves(shared);
        tokio::time::sleep(AGAIN).await;
    }
    shared.trace.add(&format!("{advice:?}"));
    ask(shared, &advice);
    everybody_serves(caller, shared).await;
    compare(caller, shared, before, &held).await;
    shared.count("clusters recovered");
}

/// What some pod advises, in the words of `setstone status`.
fn said(shared: &Shared) -> Option<Advice> {
    shared.reports.borrow().values().find_map(|report| parse(&report.status))
}

fn parse(status: &str) -> Option<Advice> {
    let (_, rest) = status.split_once("kubectl exec stone-")?;
    let (survivor, rest) = rest.split_once(" -- setstone recover --cluster ")?;
    let (options, _) = rest.split_once(" --yes")?;
    let mut options = options.split(" --gone ");
    let cluster = u64::from_str_radix(options.next()?, 16).ok().map(ClusterId)?;
    Some(Advice { survivor: survivor.parse().ok()?, cluster, gone: options.map(str::to_owned).collect() })
}

fn nobody_serves(shared: &Shared) {
    for (ordinal, report) in shared.reports.borrow().iter() {
        if report.serving {
            shared.complain(format!(
                "pod {ordinal} serves, and a majority of the disks is gone: {}",
                report.status
            ));
        }
    }
}

/// Does what `setstone recover` does in the pod.
fn ask(shared: &Shared, advice: &Advice) {
    let Some(pod) = shared.pods.get(usize::from(advice.survivor)) else {
        return shared.complain(format!("there is no pod to carry out {advice:?}"));
    };
    let files = IdentityFile::new(Arc::new(pod.files.clone()), DATA.as_ref());
    let node = match files.load() {
        Ok(Some(identity)) if identity.cluster == advice.cluster => identity.node_id,
        other => return shared.complain(format!("{advice:?}, and the disk of that pod is {other:?}")),
    };
    let gone = advice.gone.iter().cloned().collect();
    let request = Request::Recover(Recovery { cluster: advice.cluster, node, gone, everyone: false });
    let path = std::path::Path::new(DATA).join(REQUEST_FILE);
    if let Err(error) = replace_file(&pod.files, &path, &request.encode()) {
        shared.complain(format!("{advice:?}: the request cannot be written: {error}"));
    }
}

/// Every pod acknowledges a write.
async fn everybody_serves(caller: &mut Caller, shared: &Shared) {
    for member in 0..shared.plan.size {
        shared.waiting_for.replace(format!("a write through member {member} of the recovered cluster"));
        while let Err(error) = caller.touch(usize::from(member)).await {
            shared.trace.add(&format!("member {member}: {error}"));
            caller.forget(usize::from(member));
            tokio::time::sleep(AGAIN).await;
        }
    }
}

/// Every pod has what there was, at a revision that nobody saw before, and says that the revisions before are gone.
async fn compare(caller: &Caller, shared: &Shared, before: i64, held: &State) {
    for member in 0..shared.plan.size {
        shared.waiting_for.replace(format!("what member {member} of the recovered cluster holds"));
        let (now, revision) = loop {
            match caller.everything(usize::from(member)).await {
                Ok(found) => break found,
                Err(_) => tokio::time::sleep(AGAIN).await,
            }
        };
        let mut now = now;
        let mut held = held.clone();
        now.remove(Caller::TOUCHED.as_bytes());
        held.remove(Caller::TOUCHED.as_bytes());
        if now != held {
            shared.complain(format!("LOST: member {member} held {held:?}, and holds {now:?} when recovered"));
        }
        if revision < before + i64::from(limits::RECOVERY_REVISIONS) {
            shared.complain(format!(
                "member {member} is at revision {revision} after the recovery at {before}"
            ));
        }
        if caller.inspect(usize::from(member), before).await.is_ok() {
            shared
                .complain(format!("member {member} shows revision {before} of the time before the recovery"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_is_found_in_what_a_pod_says() {
        let says =
            |text: &str| parse(&format!("{{\"wait\":\"… `kubectl exec stone-1 -- {text}` makes …\"}}"));
        let advice = Advice { survivor: 1, cluster: ClusterId(0xabc), gone: Vec::new() };
        assert_eq!(says("setstone recover --cluster abc --yes"), Some(advice.clone()));
        let gone = vec!["stone-0".to_owned(), "stone-2".to_owned()];
        let text = "setstone recover --cluster abc --gone stone-0 --gone stone-2 --yes";
        assert_eq!(says(text), Some(Advice { gone, ..advice }));
        assert_eq!(says("setstone bootstrap --yes"), None);
    }
}
