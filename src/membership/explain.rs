//! What the leader's plan sees, does and waits for, in words. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::plan::{Change, Leading};
use super::start::Desired;
use super::wait::list;
use crate::identity::NodeId;

/// How long the members that do not vote are members, as far as this leader knows.
pub(super) type Ages = BTreeMap<NodeId, Duration>;

/// A change that was made, as an event.
pub(super) fn change(view: &Leading, change: &Change, ages: &Ages) -> String {
    match change {
        Change::Voters(voters) => votes(view, voters, ages, "is no member any more"),
        Change::Demote(voters) => votes(view, voters, ages, "votes no more"),
        Change::Remove(ids) => {
            let why = |id: &NodeId| match view.newest(id.ordinal()) {
                Some(newest) if newest != *id => format!("{id} ({newest} has its place)"),
                _ => format!("{id} ({})", removal(view, *id)),
            };
            format!("no members any more: {}", list(&ids.iter().map(why).collect::<Vec<_>>()))
        }
        Change::HandOver(_) => format!("{} handed leadership over: {}", view.id, removal(view, view.id)),
        Change::Dismiss(ordinal) => format!("somebody asked that ordinal {ordinal} is no member any more"),
        Change::Describe(member) => {
            format!("{} is {:?} at {}", member.node_id, member.name, member.peer_address)
        }
        Change::Expect(ordinal, urls) => format!("ordinal {ordinal} is expected at {}", urls.join(", ")),
    }
}

fn removal(view: &Leading, id: NodeId) -> &'static str {
    if view.desired.excludes(id.ordinal()) {
        "its ordinal is outside the desired range"
    } else {
        "somebody asked for it"
    }
}

fn votes(view: &Leading, voters: &BTreeSet<NodeId>, ages: &Ages, others: &str) -> String {
    let before: BTreeSet<NodeId> = view.configs.iter().flatten().copied().collect();
    let mut gone: BTreeSet<NodeId> = before.difference(voters).copied().collect();
    let mut said = Vec::new();
    for new in voters.difference(&before) {
        let caught_up = ages
            .get(new)
            .map_or_else(String::new, |age| format!(", caught up in {:.1} s", age.as_secs_f64()));
        let old = gone.iter().copied().find(|old| old.ordinal() == new.ordinal());
        said.push(match old.filter(|old| gone.remove(old)) {
            Some(old) => format!("{new} replaced {old}{caught_up}"),
            None => format!("{new} votes{caught_up}"),
        });
    }
    said.extend(gone.iter().map(|id| format!("{id} {others}: {}", removal(view, *id))));
    if said.is_empty() {
        said.push("a change that another leader began was completed".into());
    }
    format!("{}; {} vote", said.join("; "), voters.len())
}

/// What a leader sees, and what it does or waits for, for `status`.
pub(super) fn view(view: &Leading, planned: Option<&Change>) -> Vec<String> {
    let mut lines = vec![desired(&view.desired)];
    let voters: BTreeSet<NodeId> = view.configs.iter().flatten().copied().collect();
    lines.push(format!("voters: {}", list(&voters)));
    let learners: Vec<_> = view.members.difference(&voters).collect();
    if !learners.is_empty() {
        lines.push(format!("members that do not vote: {}", list(learners)));
    }
    for id in &view.members {
        let outside = view.desired.excludes(id.ordinal());
        if !view.answering.contains(id) {
            lines.push(format!("{id} does not answer{}", if outside { "" } else { "; it stays a member" }));
        } else if !view.caught_up.contains(id) {
            lines.push(format!("{id} has not caught up"));
        }
        if outside {
            lines.push(format!("{id} is outside the desired range: it leaves when its pod stops"));
        }
    }
    lines.push(match planned {
        _ if !view.committed => "waiting for the last change to be committed".into(),
        Some(Change::Voters(to) | Change::Demote(to)) => format!("next: these vote: {}", list(to)),
        Some(Change::Remove(ids)) => format!("next: these are no members any more: {}", list(ids)),
        Some(Change::HandOver(to)) => format!("next: one of these leads: {}", list(to)),
        // These are asked for, and not planned.
        Some(Change::Dismiss(_) | Change::Describe(_) | Change::Expect(..)) => {
            "next: as somebody asked".into()
        }
        None => "nothing to change".into(),
    });
    lines
}

fn desired(desired: &Desired) -> String {
    match desired {
        Desired::NotUsed => "the number of pods is set by nobody".into(),
        Desired::Unknown(reason) => {
            format!("the desired size cannot be read ({reason}): nobody is added or removed for its sake")
        }
        Desired::Known(range) if range.size == 0 => "0 pods are desired: all sleep, and nobody leaves".into(),
        Desired::Known(range) => format!("{} pods are desired, from ordinal {} on", range.size, range.start),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::OrdinalRange;
    use crate::mvcc::cluster::Admission;

    fn leading(voters: &[NodeId], learners: &[NodeId]) -> Leading {
        let members: BTreeSet<NodeId> = voters.iter().chain(learners).copied().collect();
        Leading {
            id: NodeId::new(0, 1),
            configs: vec![voters.iter().copied().collect()],
            answering: members.clone(),
            caught_up: members.clone(),
            members,
            committed: true,
            max_voters: 5,
            desired: Desired::Known(OrdinalRange { start: 0, size: 3 }),
            ..Leading::default()
        }
    }

    const A: NodeId = NodeId::new(0, 1);
    const B: NodeId = NodeId::new(1, 1);
    const OLD: NodeId = NodeId::new(2, 1);
    const NEW: NodeId = NodeId::new(2, 1841);
    const D: NodeId = NodeId::new(3, 9);

    #[test]
    fn changes_in_words() {
        let ages = Ages::from([(NEW, Duration::from_millis(2_100))]);
        let view = leading(&[A, B, OLD], &[NEW]);
        let replaced = Change::Voters([A, B, NEW].into());
        assert_eq!(change(&view, &replaced, &ages), "2#1841 replaced 2#1, caught up in 2.1 s; 3 vote");
        let view = leading(&[A, B, D], &[NEW]);
        assert_eq!(
            change(&view, &Change::Demote([A, B, NEW].into()), &Ages::new()),
            "2#1841 votes; 3#9 votes no more: its ordinal is outside the desired range; 3 vote"
        );
        let mut view = leading(&[A, B], &[OLD, D]);
        view.admissions.insert(2, Admission { id: NEW, ..Admission::default() });
        assert_eq!(
            change(&view, &Change::Remove([OLD, D].into()), &ages),
            "no members any more: 2#1 (2#1841 has its place), 3#9 (its ordinal is outside the desired range)"
        );
        let mut view = leading(&[A, B], &[]);
        view.configs.push([A, B].into());
        assert_eq!(
            change(&view, &Change::Demote([A, B].into()), &ages),
            "a change that another leader began was completed; 2 vote"
        );
    }

    #[test]
    fn a_leader_says_what_it_sees_and_waits_for() {
        let mut seen = leading(&[A, B, D], &[NEW]);
        seen.answering.remove(&B);
        seen.caught_up.remove(&NEW);
        let next = Change::Demote([A, B].into());
        insta::assert_snapshot!(view(&seen, Some(&next)).join("\n"), @r"
        3 pods are desired, from ordinal 0 on
        voters: 0#1, 1#1, 3#9
        members that do not vote: 2#1841
        1#1 does not answer; it stays a member
        2#1841 has not caught up
        3#9 is outside the desired range: it leaves when its pod stops
        next: these vote: 0#1, 1#1
        ");
        seen.desired = Desired::Unknown("no answer in time".into());
        seen.committed = false;
        let lines = view(&seen, None);
        assert_eq!(
            lines[0],
            "the desired size cannot be read (no answer in time): nobody is added or removed for its sake"
        );
        assert_eq!(lines.last().unwrap(), "waiting for the last change to be committed");
    }
}
