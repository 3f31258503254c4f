//! The last thing that happens to some other clusters: all volumes are put back to older copies, as a backup of volumes does it.
//!
//! Copies that were all made at one moment are what a power loss of all machines leaves: all must serve again, and hold everything that was
//! acknowledged by then. If some are older than the others by more than a mark shows (DESIGN, section 5), their pods find that they lack
//! something: with a majority of the others they join it as other disks; else nobody serves, and the pods name the command that helps.
//! What was acknowledged after the copies is gone with the volumes.

use std::time::Duration;

use tokio::time::Instant;

use super::audit::{self, MARKED};
use super::disaster::{everybody_serves, heed};
use super::history::State;
use super::later::Restore;
use super::shared::{Phase, Shared};
use super::workload::{Caller, is_compacted};

/// Pause between two looks.
const AGAIN: Duration = Duration::from_millis(100);
/// Writes that nothing is left of.
const LAST_WRITES: u16 = 3;

/// Lets it happen, if the plan has it. The driver bounds the time.
pub(super) async fn run(caller: &mut Caller, shared: &Shared) {
    let Some(restore) = &shared.plan.restored else { return };
    while shared.watching.get() > 0 {
        tokio::time::sleep(AGAIN).await;
    }
    shared.waiting_for.replace("copies of all volumes".into());
    let (size, mut others) = (usize::from(shared.plan.size), usize::from(shared.plan.size));
    let (at, held) = match restore {
        Restore::AtOnce(_) => {
            let at = shared.copied_at.get();
            (at, shared.states.borrow().get(&at).cloned())
        }
        Restore::Older(older) => {
            others -= older.len();
            let (held, at) = copied_apart(caller, shared).await;
            (at, Some(held))
        }
    };
    for number in 0..LAST_WRITES {
        // Whether it comes through, nobody needs to know.
        let _ = caller.touch(usize::from(number % shared.plan.size)).await;
    }
    pass(shared, Phase::Restore, Phase::Restored).await;
    if let Some(held) = held.as_ref().filter(|_| others * 2 <= size) {
        return heed(caller, shared, at, held).await;
    }
    everybody_serves(caller, shared).await;
    for member in 0..shared.plan.size {
        has(caller, shared, member, at, held.as_ref()).await;
    }
    let all: Vec<u16> = (0..shared.plan.size).collect();
    audit::compare(caller, shared, &all).await;
    shared.count("restored, and serving");
}

/// Tells the driver, and waits until it is done.
async fn pass(shared: &Shared, ask: Phase, done: Phase) {
    shared.phase.set(ask);
    while shared.phase.get() != done {
        tokio::time::sleep(AGAIN).await;
    }
}

/// Has some volumes copied, and the others when marks say what the first lack; what all of these hold, and its revision.
async fn copied_apart(caller: &mut Caller, shared: &Shared) -> (State, i64) {
    pass(shared, Phase::CopyOlder, Phase::CopiedOlder).await;
    let until = Instant::now() + MARKED;
    let mut member = 0;
    while Instant::now() < until {
        if caller.touch(member).await.is_err() {
            caller.forget(member);
        }
        member = (member + 1) % usize::from(shared.plan.size);
        tokio::time::sleep(AGAIN).await;
    }
    let mut held = None;
    for member in 0..usize::from(shared.plan.size) {
        // What a member shows, its disk has.
        held = Some(loop {
            match caller.everything(member).await {
                Ok(found) => break found,
                Err(_) => caller.forget(member),
            }
            tokio::time::sleep(AGAIN).await;
        });
    }
    pass(shared, Phase::CopyOthers, Phase::CopiedOthers).await;
    held.unwrap_or_default()
}

/// A member has what was acknowledged when the volumes were copied, unless it was compacted.
async fn has(caller: &mut Caller, shared: &Shared, member: u16, at: i64, held: Option<&State>) {
    if at == 0 {
        return;
    }
    shared.waiting_for.replace(format!("what member {member} holds after all volumes were put back"));
    let newest = loop {
        match caller.newest(usize::from(member)).await {
            Ok(newest) => break newest,
            Err(_) => caller.forget(usize::from(member)),
        }
        tokio::time::sleep(AGAIN).await;
    };
    if newest < at {
        shared.complain(format!(
            "LOST: the volumes were copied at revision {at}, and member {member} is at {newest} with them"
        ));
    }
    let state = loop {
        match caller.inspect(usize::from(member), at).await {
            Ok(state) => break state,
            Err(error) if is_compacted(&error) => return,
            Err(_) => caller.forget(usize::from(member)),
        }
        tokio::time::sleep(AGAIN).await;
    };
    if held.is_some_and(|held| *held != state) {
        shared.complain(format!(
            "LOST: revision {at} was {held:?} when the volumes were copied, and is {state:?} to member {member}"
        ));
    }
}
