//! After everything was healed: every member must serve again, hold the same, and tell the whole history.

use std::time::Duration;

use super::history::Action;
use super::shared::Shared;
use super::workload::Caller;

/// Pause between two attempts.
const AGAIN: Duration = Duration::from_millis(100);

/// Waits until the clients are done, then asks every member. The driver bounds the time.
pub(super) async fn run(mut caller: Caller, shared: Shared) {
    while shared.calling.get() > 0 || shared.now.millis() < shared.plan.heal {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let size = usize::from(shared.plan.size);
    for member in 0..size {
        shared.waiting_for.replace(format!("a write through member {member}"));
        let mut attempt = 0;
        loop {
            attempt += 1;
            let value = format!("audit.{member}.{attempt}");
            if caller.call(member, Action::Put(b"audit".as_slice().into(), value.into())).await {
                break;
            }
            tokio::time::sleep(AGAIN).await;
        }
    }
    let mut newest = 0;
    for member in 0..size {
        shared.waiting_for.replace(format!("a linearizable read through member {member}"));
        newest = newest.max(again(async || caller.newest(member).await.ok()).await);
    }
    // Nobody writes any more, but what was of unknown outcome may still come: all are asked at one revision.
    let mut hashes = Vec::new();
    for member in 0..size {
        shared.waiting_for.replace(format!("the hash of member {member} at revision {newest}"));
        hashes.push(again(async || caller.hash(member, newest).await.ok()).await);
    }
    shared.trace.add(&format!("hashes at revision {newest}: {hashes:x?}"));
    if hashes.windows(2).any(|pair| matches!(pair, [one, other] if one != other)) {
        shared.complain(format!("the members hold different stores at revision {newest}: {hashes:x?}"));
    }
    let member = shared.plan.seed as usize % size.max(1);
    for revision in 1..=newest {
        shared.waiting_for.replace(format!("revision {revision} from member {member}"));
        let state = again(async || caller.inspect(member, revision).await.ok()).await;
        shared.states.borrow_mut().insert(revision, state);
    }
    shared.waiting_for.replace(String::new());
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
