//! The last thing that happens to some clusters, after everything else was checked: a majority of the volumes is gone, and all machines
//! lose their power. The pods must say so, found nothing and serve nobody; the command that they name is carried out, as a human
//! would; then all must serve again, with everything that the survivor that they named held.
//!
//! If the set is scaled at that time, the volumes that are gone may have been needed by nobody any more, or all that were needed may be
//! gone. So there is one cluster, the one that there was; or none, and each pod says why, and perhaps which command helps.
//!
//! Every member held everything before (the audit saw to that), so nothing may be missing afterwards.

use std::collections::BTreeSet;
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

/// Time in which a set that was scaled meanwhile has come to what it remains at.
const DECIDED: Duration = Duration::from_secs(110);
/// Time for which pods say the same before a human believes it.
const SAID_FOR: Duration = Duration::from_secs(15);

/// What becomes of a set that was scaled while volumes went.
enum End {
    /// It serves.
    Serves,
    /// The pods name a command that helps.
    Advice(Advice),
    /// Nothing of it is left that could go on, and the pods say so.
    Nothing,
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
    while shared.phase.get() != Phase::Lost {
        tokio::time::sleep(AGAIN).await;
    }
    if shared.plan.resized.is_none() {
        return heed(caller, shared, before, &held).await;
    }
    match end(shared).await {
        End::Serves => {
            everybody_serves(caller, shared).await;
            everybody_holds(caller, shared, &held).await;
            shared.count("scaled while volumes went, and serving");
        }
        End::Advice(advice) => recover(caller, shared, &advice, before, &held).await,
        End::Nothing => shared.count("scaled while volumes went, nothing left"),
    }
}

/// Waits until the pods say what brings the cluster back, and does it: nobody may serve before, and all must afterwards, with what was
/// `held` at revision `before`.
pub(super) async fn heed(caller: &mut Caller, shared: &Shared, before: i64, held: &State) {
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
    recover(caller, shared, &advice, before, held).await;
}

async fn recover(caller: &mut Caller, shared: &Shared, advice: &Advice, before: i64, held: &State) {
    shared.trace.add(&format!("{advice:?}"));
    ask(shared, advice);
    everybody_serves(caller, shared).await;
    everybody_holds(caller, shared, held).await;
    revisions_are_new(caller, shared, before).await;
    shared.count("clusters recovered");
}

/// Waits until all pods of the set are there again and it is clear what becomes of it.
async fn end(shared: &Shared) -> End {
    shared.waiting_for.replace("what becomes of the set".into());
    let deadline = tokio::time::Instant::now() + DECIDED;
    let mut advised: Option<(Advice, tokio::time::Instant)> = None;
    loop {
        let now = tokio::time::Instant::now();
        let size = usize::from(shared.plan.size);
        let serving = shared.reports.borrow().values().filter(|report| report.serving).count();
        if serving == size {
            return End::Serves;
        }
        let all_there = shared.places.borrow().len() == size;
        let advice = said(shared).filter(|_| serving == 0 && all_there);
        advised = match (advice, advised) {
            (Some(advice), Some((known, since))) if advice == known => Some((known, since)),
            (advice, _) => advice.map(|advice| (advice, now)),
        };
        if let Some((advice, since)) = &advised
            && now > *since + SAID_FOR
        {
            return End::Advice(advice.clone());
        }
        if now > deadline {
            everybody_says_why(shared);
            return End::Nothing;
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// No pod serves, and each says why.
fn everybody_says_why(shared: &Shared) {
    nobody_serves(shared);
    for (ordinal, report) in shared.reports.borrow().iter() {
        let decided = ["waiting", "refusing", "the disk is lost"];
        let says_why = decided.iter().any(|word| report.decided.contains(word));
        if !says_why && !report.status.contains("no leader is known") {
            shared.complain(format!("pod {ordinal} does not say why it does not serve: {}", report.status));
        }
    }
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
pub(super) async fn everybody_serves(caller: &mut Caller, shared: &Shared) {
    for member in 0..shared.plan.size {
        shared
            .waiting_for
            .replace(format!("a write through member {member}, after what was done to the volumes"));
        while let Err(error) = caller.touch(usize::from(member)).await {
            shared.trace.add(&format!("member {member}: {error}"));
            caller.forget(usize::from(member));
            is_one_cluster(shared);
            tokio::time::sleep(AGAIN).await;
        }
    }
    is_one_cluster(shared);
}

/// Pods that serve are of one cluster.
fn is_one_cluster(shared: &Shared) {
    let reports = shared.reports.borrow();
    let clusters: BTreeSet<&str> =
        reports.values().filter(|report| report.serving).map(|report| report.cluster.as_str()).collect();
    if clusters.len() > 1 {
        shared.complain(format!("SPLIT: pods of the clusters {clusters:?} serve"));
    }
}

/// What a member holds, and its revision.
async fn everything(caller: &Caller, member: u16) -> (State, i64) {
    loop {
        match caller.everything(usize::from(member)).await {
            Ok(found) => return found,
            Err(_) => tokio::time::sleep(AGAIN).await,
        }
    }
}

/// Every pod has what there was.
async fn everybody_holds(caller: &Caller, shared: &Shared, held: &State) {
    let mut held = held.clone();
    held.remove(Caller::TOUCHED.as_bytes());
    for member in 0..shared.plan.size {
        shared.waiting_for.replace(format!("what member {member} holds"));
        let (mut now, _) = everything(caller, member).await;
        now.remove(Caller::TOUCHED.as_bytes());
        if now != held {
            shared.complain(format!("LOST: member {member} held {held:?}, and holds {now:?} afterwards"));
        }
    }
}

/// Every pod is at a revision that nobody saw before, and says that the revisions before are gone.
async fn revisions_are_new(caller: &Caller, shared: &Shared, before: i64) {
    for member in 0..shared.plan.size {
        let (_, revision) = everything(caller, member).await;
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
