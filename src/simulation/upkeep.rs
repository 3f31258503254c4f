//! What members do about their stores by themselves, looked at when everything else was checked: automatic compaction, the alarm about a
//! volume that fills, which goes by itself, and the alarm about a store that is not what the others hold.
//!
//! In some plans volumes fill while the clients call, too; [`super::upkeep_check`] then knows what nobody may see.

use std::time::Duration;

use super::audit::{compare, newest_of, rejoins};
use super::shared::Shared;
use super::workload::Caller;
use crate::client::AlarmKind;
use crate::error::Error;

/// Pause between two looks.
const AGAIN: Duration = Duration::from_millis(100);
/// etcd's texts for what the alarms refuse.
const NO_SPACE: &str = "database space exceeded";
const CORRUPT: &str = "corrupt cluster";

/// What the audit has the driver do to a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Treatment {
    /// Others fill its volume, nearly.
    Fill(u16),
    /// There is room again.
    Room(u16),
    /// What it applies from now on is not what was asked for.
    Spoil(u16),
    /// A human gives it an empty volume.
    Replace(u16),
}

/// Looks at all of it, if the plan has it. The driver bounds the time.
pub(super) async fn run(caller: &mut Caller, shared: &Shared, serving: &[u16], newest: i64) {
    if !shared.plan.upkeep {
        return;
    }
    // What comes is in no history.
    shared.waiting_for.replace("watchers that have not seen everything".into());
    while shared.watching.get() > 0 {
        tokio::time::sleep(AGAIN).await;
    }
    if shared.plan.tuning.maintenance.auto_compaction.is_some() {
        compaction(caller, shared, serving, newest).await;
    }
    space(caller, shared, serving).await;
    if let Some(spoiled) = shared.plan.spoiled {
        corruption(caller, shared, serving, spoiled).await;
    }
}

/// What is old enough is forgotten, by every member.
async fn compaction(caller: &Caller, shared: &Shared, serving: &[u16], newest: i64) {
    for member in serving {
        shared
            .waiting_for
            .replace(format!("automatic compaction of what is before revision {newest}, by member {member}"));
        loop {
            match caller.hash(usize::from(*member), newest).await {
                Ok((compacted, _)) if compacted >= newest => break,
                // It may be beyond.
                Err(error) if error.to_string().contains("compacted") => break,
                _ => tokio::time::sleep(AGAIN).await,
            }
        }
    }
    shared.count("stores compacted by themselves");
}

/// A volume fills: what makes the store grow is refused by every member, reads go on, and it is over when there is room.
async fn space(caller: &mut Caller, shared: &Shared, serving: &[u16]) {
    let Some(full) = serving.get(shared.plan.seed as usize % serving.len().max(1)).copied() else { return };
    shared.treat(Treatment::Fill(full));
    for member in serving.iter().map(|member| usize::from(*member)) {
        let refusal =
            format!("a refusal by member {member}, because the volume of member {full} is nearly full");
        shared.waiting_for.replace(refusal);
        while !caller.touch(member).await.is_err_and(|error| says(&error, NO_SPACE)) {
            tokio::time::sleep(AGAIN).await;
        }
        shared.waiting_for.replace(format!("a read from member {member}, while a volume is nearly full"));
        newest_of(caller, member).await;
    }
    shared.treat(Treatment::Room(full));
    everybody_writes(caller, shared, serving, "since there is room again").await;
    shared.count("volumes that filled, and had room again");
}

/// A member's store is not what the others hold: the alarm names it, nobody serves keys any more, and all do once a human has replaced
/// its volume and taken the alarm back.
async fn corruption(caller: &mut Caller, shared: &Shared, serving: &[u16], spoiled: u16) {
    let others: Vec<u16> = serving.iter().copied().filter(|member| *member != spoiled).collect();
    let Some(other) = others.first().map(|member| usize::from(*member)) else { return };
    shared.treat(Treatment::Spoil(spoiled));
    shared.waiting_for.replace("a write that one member spoils".into());
    while caller.touch(other).await.is_err() {
        tokio::time::sleep(AGAIN).await;
    }
    shared.waiting_for.replace(format!("the alarm CORRUPT about member {spoiled}"));
    let alarms = loop {
        match caller.alarms(other).await {
            Ok(alarms) if !alarms.is_empty() => break alarms,
            _ => tokio::time::sleep(AGAIN).await,
        }
    };
    let named: Vec<(AlarmKind, u16)> =
        alarms.iter().map(|alarm| (alarm.kind, alarm.member.ordinal())).collect();
    if named != [(AlarmKind::Corrupt, spoiled)] {
        return shared.complain(format!(
            "CORRUPT: the store of member {spoiled} is wrong, and the alarms are {alarms:?}"
        ));
    }
    for member in others.iter().map(|member| usize::from(*member)) {
        shared.waiting_for.replace(format!("a refusal by member {member}, because of CORRUPT"));
        loop {
            match caller.newest(member).await {
                Err(error) if says(&error, CORRUPT) => break,
                // With a read index it has the alarm.
                Ok(_) => {
                    return shared.complain(format!(
                        "CORRUPT: member {member} serves a read, and the alarm is raised"
                    ));
                }
                Err(_) => tokio::time::sleep(AGAIN).await,
            }
        }
    }
    shared.treat(Treatment::Replace(spoiled));
    shared.waiting_for.replace(format!("member {spoiled} as another disk"));
    while !rejoins(shared, spoiled).await {
        tokio::time::sleep(AGAIN).await;
    }
    shared.waiting_for.replace("the end of the alarm CORRUPT".into());
    for alarm in alarms {
        while caller.disarm(other, alarm).await.is_err() {
            tokio::time::sleep(AGAIN).await;
        }
    }
    everybody_writes(caller, shared, serving, "since CORRUPT was taken back").await;
    compare(caller, shared, serving).await;
    shared.count("stores that were spoiled, found and replaced");
}

async fn everybody_writes(caller: &mut Caller, shared: &Shared, serving: &[u16], since: &str) {
    for member in serving.iter().map(|member| usize::from(*member)) {
        shared.waiting_for.replace(format!("a write through member {member}, {since}"));
        while caller.touch(member).await.is_err() {
            caller.forget(member);
            tokio::time::sleep(AGAIN).await;
        }
    }
}

fn says(error: &Error, text: &str) -> bool {
    error.to_string().contains(text)
}
