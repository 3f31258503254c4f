//! What a pod waits for, in words; which command would help; and which of the missing pods DNS calls absent, which is what
//! readiness needs to know. Pure.

use std::collections::BTreeSet;
use std::fmt::Display;

use super::disk::{Answer, Answers, Asked, Disk, Service, What};
use super::resume;
use super::start::{Action, Desired, Facts, all_are_fresh, whom_to_ask};
use crate::identity::Ordinal;

/// Which pods are needed and not there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needed {
    /// Names of those whose answer or vote is needed and that DNS calls absent.
    pub absent: Vec<String>,
    /// Whether the pods that are there cannot do without them.
    pub cannot_do_without: bool,
}

/// Which pods are needed while no leader is known. Whatever the disk is: a pod that refuses its disk still must not keep
/// `OrderedReady` from creating the next one.
pub fn needed(disk: &Disk, answers: &Answers, facts: &Facts) -> Needed {
    let everyone = whom_to_ask(disk, answers, facts);
    let absent: Vec<_> = answers
        .pods
        .iter()
        .filter(|(_, asked)| everyone.contains(&asked.ordinal) && asked.answer == Answer::Absent)
        .map(|(name, _)| name.clone())
        .collect();
    let cannot_do_without = match disk.what {
        // A quorum of the membership can do without the rest, unless this disk is the only voter that it knows.
        What::Member => {
            let membership = resume::last_membership(disk, answers);
            let present = |id| id == disk.node_id || resume::answered_as(disk, answers, id);
            !membership.has_quorum(present) || !resume::silent_others(disk, answers, facts).is_empty()
        }
        // A first bootstrap needs everyone.
        What::Blank | What::Prepared => true,
        // These need a leader, which a quorum of the members that are there may elect.
        What::Joining | What::Lost { .. } => !answers.described().any(|(_, _, described)| {
            let peer = &described.disk;
            let voters = &peer.membership;
            peer.what == What::Member
                && voters.has_quorum(|id| id == peer.node_id || resume::answered_as(peer, answers, id))
        }),
    };
    Needed { cannot_do_without: cannot_do_without && !absent.is_empty(), absent }
}

/// Row 10: wait, and say for what.
pub(super) fn action(disk: &Disk, answers: &Answers, facts: &Facts) -> Action {
    let (waiting_for, hint) = match &disk.what {
        What::Lost { reason } => lost(disk, answers, facts, reason),
        What::Joining => (leader(answers, facts), None),
        _ if all_are_fresh(disk, answers, facts) => return fresh(answers, facts),
        _ => first(disk, answers, facts),
    };
    Action::Wait { waiting_for, hint, ask_service: false }
}

/// Everyone who was asked is blank or prepared; something else is missing.
fn fresh(answers: &Answers, facts: &Facts) -> Action {
    let wait = |waiting_for: String, hint: Option<&str>, ask_service| Action::Wait {
        waiting_for,
        hint: hint.map(Into::into),
        ask_service,
    };
    if let Desired::Unknown(reason) = &facts.desired {
        return wait(format!("the desired size, which cannot be read: {reason}"), None, false);
    }
    match &answers.service {
        Service::NotAsked => wait("the addresses behind the headless service".into(), None, true),
        Service::Unknown(reason) => {
            wait(format!("the addresses behind the headless service: {reason}"), None, true)
        }
        Service::NotUsed | Service::Listed if answers.pods.is_empty() => wait(
            "leave to found a cluster alone: the volume is new, but the StatefulSet is not".into(),
            Some("if its data is gone for good: setstone bootstrap"),
            false,
        ),
        Service::NotUsed | Service::Listed => {
            wait("every pod to have an ordinal of its own: two answer to the same".into(), None, false)
        }
    }
}

/// A blank or prepared disk, and not everyone is like it.
fn first(disk: &Disk, answers: &Answers, facts: &Facts) -> (String, Option<String>) {
    let used: Vec<_> = answers
        .described()
        .filter(|(_, _, described)| !described.disk.is_fresh())
        .map(|(name, _, described)| format!("{name} is {}", described.disk.what))
        .collect();
    if !used.is_empty() {
        let hint = "if a majority of the volumes is gone for good: setstone recover, on the survivor that `setstone status` names";
        return (format!("{}; {}", leader(answers, facts), used.join(", ")), Some(hint.into()));
    }
    let missing = missing(disk, answers, facts);
    (
        format!("everyone's answer, to found a cluster: {}", missing.join(", ")),
        scale_hint(disk, answers, facts),
    )
}

fn lost(disk: &Disk, answers: &Answers, facts: &Facts, reason: &str) -> (String, Option<String>) {
    let missing = missing(disk, answers, facts);
    let silent = if missing.is_empty() { String::new() } else { format!("; {}", missing.join(", ")) };
    (
        format!("a leader of cluster {}, to join it anew (the disk is lost: {reason}){silent}", disk.cluster),
        Some("if a majority of the volumes is gone for good: setstone recover, on the survivor that `setstone status` names".into()),
    )
}

fn leader(answers: &Answers, facts: &Facts) -> String {
    let clusters: BTreeSet<_> = answers
        .described()
        .filter(|(_, _, described)| described.leader().is_some())
        .map(|(_, _, described)| described.disk.cluster)
        .collect();
    if clusters.len() > 1 {
        let names: Vec<_> = clusters.iter().collect();
        return format!(
            "one cluster that knows ordinal {}: {} have a leader each",
            facts.ordinal,
            list(&names)
        );
    }
    "a cluster with a leader, to join it".into()
}

/// Who did not answer, and how that is known.
fn missing(disk: &Disk, answers: &Answers, facts: &Facts) -> Vec<String> {
    let mut missing: Vec<_> =
        answers.pods.iter().filter_map(|(name, asked)| Some(format!("{name} {}", silence(asked)?))).collect();
    let unasked =
        whom_to_ask(disk, answers, facts).into_iter().filter(|ordinal| answers.of(*ordinal).is_none());
    missing.extend(unasked.map(|ordinal| format!("ordinal {ordinal} was not asked yet")));
    missing
}

fn silence(asked: &Asked) -> Option<String> {
    match &asked.answer {
        Answer::Described(_) => None,
        Answer::NotAsked => Some("was not asked yet".into()),
        Answer::Silent => Some("does not answer".into()),
        Answer::Absent => Some("is absent".into()),
        Answer::Unknown(reason) => Some(format!("is unknown ({reason})")),
    }
}

/// An absent pod that nobody will create: the `StatefulSet` is smaller than the first install.
fn scale_hint(disk: &Disk, answers: &Answers, facts: &Facts) -> Option<String> {
    let highest: Ordinal = whom_to_ask(disk, answers, facts)
        .into_iter()
        .filter(|ordinal| answers.of(*ordinal).is_some_and(|asked| asked.answer == Answer::Absent))
        .max()?;
    let start = match facts.desired.range() {
        Some(range) if range.contains(highest) => return None,
        Some(range) => range.start,
        None => 0,
    };
    let least = u32::from(highest).saturating_sub(u32::from(start)) + 1;
    Some(format!("if they are not on their way: scale to at least {least}"))
}

/// `a, b, c`.
pub(super) fn list<'a, T: Display + 'a>(items: impl IntoIterator<Item = &'a T>) -> String {
    items.into_iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
