//! After everything was healed: every member must serve again, hold the same, and tell the whole history; and those whose disk
//! was taken from them must wait, and say for what.

use std::time::Duration;

use super::history::Action;
use super::shared::{Phase, Shared};
use super::workload::{Caller, is_compacted};
use super::{disaster, restoring, upkeep};
use crate::playground::controller::PodManagement;

/// Pause between two attempts.
const AGAIN: Duration = Duration::from_millis(100);
/// Time in which the members' marks name the last write.
pub(super) const MARKED: Duration = Duration::from_millis(2_500);
/// Time in which leases end that nobody keeps alive: longer than any lives, and than an election takes.
const LEASES_END: Duration = Duration::from_secs(20);
/// Time in which a pod with another disk than it had finds out what it is to wait for.
const FIND_OUT: Duration = Duration::from_secs(30);

/// Waits until the clients are done, then asks every member. The driver bounds the time.
pub(super) async fn run(mut caller: Caller, shared: Shared) {
    while shared.calling.get() > 0 || shared.now.millis() < shared.plan.heal {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let serving = settle(&mut caller, &shared).await;
    tokio::time::sleep(MARKED).await;
    end_of_leases(&caller, &shared, &serving).await;
    shared.phase.set(Phase::Settled);
    while shared.phase.get() < Phase::RolledBack {
        if shared.phase.get() == Phase::Copied {
            write_on(&mut caller, &shared).await;
        }
        tokio::time::sleep(AGAIN).await;
    }
    let rolled_back = shared.may_wait.borrow().first().copied();
    let may_not = |member: &u16| rolled_back == Some(*member) || shared.must_wait.borrow().contains(member);
    let serving: Vec<u16> = serving.into_iter().filter(|member| !may_not(member)).collect();
    let newest = compare(&mut caller, &shared, &serving).await;
    read_history(&caller, &shared, &serving, newest).await;
    shared.settled.set(Some(newest));
    for member in (0..shared.plan.size).filter(|member| !serving.contains(member)) {
        if rolled_back == Some(member) && serves_the_same(&mut caller, &shared, member, &serving).await {
            shared.count("young rollbacks that took nothing away");
            continue;
        }
        shared.waiting_for.replace(format!("a word from member {member} about what it waits for"));
        if rejoins(&shared, member).await {
            shared.count("late, as another disk or as itself");
            caller.forget(usize::from(member));
            let all: Vec<u16> = serving.iter().copied().chain([member]).collect();
            compare(&mut caller, &shared, &all).await;
        } else {
            waits(&mut caller, &shared, member).await;
        }
    }
    upkeep::run(&mut caller, &shared, &serving, newest).await;
    shared.waiting_for.replace("watchers that have not seen everything".into());
    disaster::run(&mut caller, &shared, newest).await;
    restoring::run(&mut caller, &shared).await;
}

/// Nobody keeps leases alive any more: all of them end.
async fn end_of_leases(caller: &Caller, shared: &Shared, serving: &[u16]) {
    let Some(member) = serving.first() else { return };
    shared.waiting_for.replace("the end of all leases".into());
    let deadline = tokio::time::Instant::now() + LEASES_END;
    loop {
        match caller.leases(usize::from(*member)).await {
            Ok(left) if left.is_empty() => return,
            Ok(left) if tokio::time::Instant::now() > deadline => {
                return shared.complain(format!(
                    "LATE: nobody keeps the leases {left:?} alive, and they are still there"
                ));
            }
            _ => {}
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Writes that an old copy lacks, through every member: acknowledged within a second, and on the disks of all the others.
async fn write_on(caller: &mut Caller, shared: &Shared) {
    for member in 0..shared.plan.size {
        let put = Action::Put(b"audit".as_slice().into(), format!("late.{member}").into());
        let _ = tokio::time::timeout(AGAIN, caller.call(usize::from(member), put)).await;
    }
    // What is acknowledged is on the disks of a majority; a moment later it is on all.
    tokio::time::sleep(AGAIN).await;
    shared.phase.set(Phase::Written);
}

/// Whether a pod with a young old copy of its volume serves; then it must have what the others have. It may also find that its
/// disk is lost, and say so.
async fn serves_the_same(caller: &mut Caller, shared: &Shared, member: u16, serving: &[u16]) -> bool {
    let deadline = tokio::time::Instant::now() + FIND_OUT;
    while tokio::time::Instant::now() < deadline && !gave_up(shared, member) {
        caller.forget(usize::from(member));
        if caller.newest(usize::from(member)).await.is_ok() {
            shared
                .waiting_for
                .replace(format!("the hash of member {member}, whose volume is a young old copy"));
            let all: Vec<u16> = serving.iter().copied().chain([member]).collect();
            compare(caller, shared, &all).await;
            return true;
        }
        tokio::time::sleep(AGAIN).await;
    }
    false
}

/// Writes through every member that must serve; returns those that do.
async fn settle(caller: &mut Caller, shared: &Shared) -> Vec<u16> {
    let mut serving = Vec::new();
    for member in 0..shared.plan.size {
        if shared.must_wait.borrow().contains(&member) {
            continue;
        }
        shared.waiting_for.replace(format!("a write through member {member}"));
        let patience = tokio::time::Instant::now() + FIND_OUT;
        let mut attempt = 0;
        loop {
            attempt += 1;
            let value = format!("audit.{member}.{attempt}");
            let put = Action::Put(b"audit".as_slice().into(), value.into());
            if caller.call(usize::from(member), put).await == Some(member) {
                serving.push(member);
                break;
            }
            caller.forget(usize::from(member));
            if need_not_serve(shared, member)
                && (gave_up(shared, member) || tokio::time::Instant::now() > patience)
            {
                break;
            }
            tokio::time::sleep(AGAIN).await;
        }
    }
    serving
}

/// Whether a pod has a reason not to serve: its disk, or that of a pod which must be ready before it is created.
fn need_not_serve(shared: &Shared, member: u16) -> bool {
    if shared.plan.follows {
        return false;
    }
    let invariants = shared.invariants.borrow();
    let ordered = shared.plan.spec.management == PodManagement::OrderedReady;
    let absent = !shared.places.borrow().contains_key(&member);
    invariants.is_tampered(member)
        || (ordered && absent && (0..member).any(|lower| invariants.is_tampered(lower)))
}

/// Whether a pod said something that it will not take back, or is not there.
fn gave_up(shared: &Shared, member: u16) -> bool {
    let reports = shared.reports.borrow();
    let last = ["refusing", "the disk is lost", "waiting to be admitted"];
    reports.get(&member).map_or(!shared.places.borrow().contains_key(&member), |report| {
        last.iter().any(|begin| report.decided.starts_with(begin))
    })
}

/// All members have equal stores; returns the newest revision.
pub(super) async fn compare(caller: &mut Caller, shared: &Shared, serving: &[u16]) -> i64 {
    let mut newest = 0;
    for member in serving {
        shared.waiting_for.replace(format!("a linearizable read through member {member}"));
        newest = newest.max(newest_of(caller, usize::from(*member)).await);
    }
    // Nobody writes any more, but what was of unknown outcome may still come: all are asked at one revision, and again if one
    // has compacted meanwhile.
    shared.waiting_for.replace(format!("equal hashes at revision {newest}"));
    loop {
        let mut hashes = Vec::new();
        for member in serving {
            hashes.push(again(async || caller.hash(usize::from(*member), newest).await.ok()).await);
        }
        if hashes.windows(2).all(|pair| matches!(pair, [one, other] if one == other)) {
            shared.trace.add(&format!("hashes at revision {newest}: {hashes:x?}"));
            return newest;
        }
        if hashes.windows(2).all(|pair| matches!(pair, [one, other] if one.0 == other.0)) {
            shared.complain(format!("the members hold different stores at revision {newest}: {hashes:x?}"));
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Reads what is left of the history from one member, and compares it with what was read before.
async fn read_history(caller: &Caller, shared: &Shared, serving: &[u16], newest: i64) {
    let Some(member) = serving.get(shared.plan.seed as usize % serving.len().max(1)) else { return };
    let member = usize::from(*member);
    let asked = shared
        .operations
        .borrow()
        .iter()
        .filter_map(|operation| match operation.action {
            Action::Compact(revision) => Some(revision),
            _ => None,
        })
        .max();
    let by_itself = shared.book.borrow().newest_compacted();
    for revision in asked.max(by_itself).unwrap_or(1)..=newest {
        shared.waiting_for.replace(format!("revision {revision} from member {member}"));
        let state = again(async || match caller.inspect(member, revision).await {
            // What members compact by themselves meanwhile, the archivist has read.
            Err(error)
                if is_compacted(&error) && Some(revision) < shared.book.borrow().newest_compacted() =>
            {
                Some(None)
            }
            other => other.ok().map(Some),
        })
        .await;
        let Some(state) = state else { continue };
        let before = shared.states.borrow_mut().insert(revision, state.clone());
        if before.as_ref().is_some_and(|before| *before != state) {
            shared.complain(format!("revision {revision} was {before:?}, and is {state:?} now"));
        }
    }
    // The archivist went home when everything was healed, and members went on compacting.
    let compacted = shared.book.borrow().newest_compacted().unwrap_or(1);
    let states = shared.states.borrow();
    if (1..compacted).any(|revision| !states.contains_key(&revision)) {
        shared.note_gap();
    }
}

/// Whether a pod that did not serve at first does now: as another disk, or as itself, if what was done to its disk took nothing from it,
/// or its pod only came late. It may also have to wait, or to refuse what it has.
pub(super) async fn rejoins(shared: &Shared, member: u16) -> bool {
    let deadline = tokio::time::Instant::now() + FIND_OUT;
    while tokio::time::Instant::now() < deadline {
        if let Some(report) = shared.reports.borrow().get(&member) {
            let successor = report.node.is_some_and(|node| shared.invariants.borrow().is_successor(node));
            if report.serving && (successor || !shared.must_wait.borrow().contains(&member)) {
                return true;
            }
            if report.decided.starts_with("refusing") {
                return false;
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
    false
}

/// A pod whose disk was taken from it, and which is no other disk yet, does not serve, and says why.
async fn waits(caller: &mut Caller, shared: &Shared, member: u16) {
    let deadline = tokio::time::Instant::now() + FIND_OUT;
    loop {
        let report = shared.reports.borrow().get(&member).cloned();
        let says = |text: &str| {
            ["waiting", "refusing", "the disk is lost"].iter().any(|begin| text.starts_with(begin))
        };
        match report {
            Some(report) if !report.serving && says(&report.decided) => {
                shared.trace.add(&format!("pod {member} does not serve: {}", report.decided));
                shared.count("pods that wait and say for what");
                break;
            }
            None if !shared.places.borrow().contains_key(&member) => break,
            report if tokio::time::Instant::now() > deadline => {
                let what = if shared.must_wait.borrow().contains(&member) {
                    "has a disk that is not its own, and says"
                } else {
                    "neither serves nor says what it waits for, but"
                };
                shared.complain(format!("pod {member} {what} {report:?}"));
                return;
            }
            _ => {}
        }
        tokio::time::sleep(AGAIN).await;
    }
    caller.forget(usize::from(member));
    if caller.newest(usize::from(member)).await.is_ok() {
        shared.complain(format!("pod {member} says that it does not serve, and does"));
    }
}

/// The newest revision that a member knows. A connection may lead to another, whose address its name had in a cache.
pub(super) async fn newest_of(caller: &mut Caller, member: usize) -> i64 {
    loop {
        match caller.newest(member).await {
            Ok(revision) => return revision,
            Err(_) => caller.forget(member),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Asks until there is an answer.
async fn again<T>(ask: impl AsyncFn() -> Option<T>) -> T {
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        tokio::time::sleep(AGAIN).await;
    }
}
