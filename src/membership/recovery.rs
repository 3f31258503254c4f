//! A majority of the disks is gone for good (DESIGN section 5, `setstone recover`). Pure: which survivor holds the most, which command
//! would help, and whether this disk may go on alone. A human says that the others are gone; silence never does.

use std::collections::{BTreeMap, BTreeSet};

use super::disk::{Answers, Asked, Described, Disk, LogId, What};
use super::resume::last_membership;
use super::start::Facts;
use super::wait::list;
use crate::identity::{ClusterId, Lineage, NodeId, Recovery};
use crate::limits;

/// Where one voter's disk is.
enum Found<'a> {
    /// A pod answers with it, sound.
    Sound(&'a str, LogId),
    /// A pod answers with it, and says that it is lost: it may still hold what others do not.
    Lost(&'a str, LogId),
    /// The pod of its ordinal answers, with another disk or with none.
    Gone,
    /// The pod of its ordinal does not answer; its name.
    Silent(String),
}

fn find(cluster: ClusterId, id: NodeId, answers: &Answers) -> Found<'_> {
    for (name, _, described) in answers.described() {
        let peer = &described.disk;
        if peer.has_identity() && peer.cluster == cluster && peer.node_id == id {
            return match peer.what {
                What::Lost { .. } => Found::Lost(name, peer.held.last),
                _ => Found::Sound(name, peer.held.last),
            };
        }
    }
    match answers.pods.iter().find(|(_, asked)| asked.ordinal == id.ordinal()) {
        Some((_, asked)) if asked.described().is_some() => Found::Gone,
        Some((name, _)) => Found::Silent(pod(name).to_owned()),
        None => Found::Silent(format!("ordinal {}", id.ordinal())),
    }
}

/// A pod that answers with a disk of a cluster that has nothing to do with this one: somebody must look first.
fn stranger<'a>(lineage: &Lineage, answers: &'a Answers) -> Option<(&'a str, ClusterId)> {
    let mut others = answers.described().map(|(name, _, described)| (name, &described.disk));
    let (name, disk) = others.find(|(_, disk)| disk.has_identity() && !lineage.includes(disk.cluster))?;
    Some((name, disk.cluster))
}

/// Whether this disk may go on as the only member of a new cluster, as `asked`.
///
/// # Errors
/// Why not, for people.
pub(super) fn may_recover(asked: &Recovery, disk: &Disk, answers: &Answers) -> Result<(), String> {
    if asked.cluster != disk.cluster || asked.node != disk.node_id {
        return Err(format!(
            "it is for {} of cluster {}, and this is {} of cluster {}",
            asked.node, asked.cluster, disk.node_id, disk.cluster
        ));
    }
    if !matches!(disk.what, What::Member | What::Lost { .. }) {
        return Err(format!("the disk is {}", disk.what));
    }
    let lineage = Lineage { cluster: disk.cluster, supersedes: disk.supersedes.clone() };
    if let Some((name, other)) = stranger(&lineage, answers) {
        return Err(format!("{name} is of cluster {other}, which this one did not replace"));
    }
    let led = |of: &&(&str, &Asked, &Described)| of.2.disk.cluster == disk.cluster && of.2.leader().is_some();
    if let Some((name, ..)) = answers.described().find(|of| led(&of)) {
        return Err(format!("{name} knows a leader: the cluster works"));
    }
    let membership = last_membership(disk, answers);
    let mut sound: BTreeSet<NodeId> = BTreeSet::new();
    if disk.what == What::Member {
        sound.insert(disk.node_id);
    }
    // An older disk of this pod is nowhere else.
    for id in membership.voters().filter(|id| id.ordinal() != disk.ordinal) {
        match find(disk.cluster, id, answers) {
            Found::Sound(name, last) | Found::Lost(name, last) if last > disk.held.last => {
                return Err(format!("{name} holds more than this disk: recover there"));
            }
            Found::Sound(..) => {
                sound.insert(id);
            }
            Found::Silent(_) if asked.everyone && was_silent_for(answers, id, limits::RESUME_PATIENCE) => {}
            Found::Silent(pod) if !asked.gone.contains(&pod) => {
                return Err(format!("{pod} does not answer, and was not said to be gone"));
            }
            Found::Lost(..) | Found::Gone | Found::Silent(_) => {}
        }
    }
    if membership.has_quorum(|id| sound.contains(&id)) {
        return Err("a majority of the disks is there: it elects a leader without help".into());
    }
    Ok(())
}

/// Which survivor is the newest, and which command makes the cluster go on with what that one holds; `None` while a majority of the
/// disks may be on its way.
pub(super) fn advice(disk: &Disk, answers: &Answers, facts: &Facts) -> Option<String> {
    let peers = answers.described().map(|(name, _, described)| (name, &described.disk));
    let disks: Vec<(&str, &Disk)> = peers.chain([(facts.name.as_str(), disk)]).collect();
    if answers.described().any(|(_, _, described)| described.leader().is_some()) {
        return None;
    }
    // The newest disk of each cluster that somebody has a disk of.
    let mut newest: BTreeMap<ClusterId, (&str, &Disk)> = BTreeMap::new();
    for (name, disk) in disks.iter().copied() {
        if matches!(disk.what, What::Member | What::Lost { .. }) && !disk.held.is_nothing() {
            let best = newest.entry(disk.cluster).or_insert((name, disk));
            if disk.held.last > best.1.held.last {
                *best = (name, disk);
            }
        }
    }
    let mut clusters = newest.into_iter();
    let ((cluster, (name, survivor)), None) = (clusters.next()?, clusters.next()) else { return None };
    if stranger(&Lineage { cluster, supersedes: survivor.supersedes.clone() }, answers).is_some() {
        return None;
    }
    let membership = &survivor.membership;
    let (mut gone, mut silent) = (BTreeSet::new(), BTreeMap::new());
    for id in membership.voters() {
        let own = disk.cluster == cluster && disk.node_id == id && !matches!(disk.what, What::Lost { .. });
        match find(cluster, id, answers) {
            _ if own => {}
            Found::Silent(_) if id.ordinal() == facts.ordinal => drop(gone.insert(id)),
            Found::Silent(pod) if was_silent_for_long(answers, id) => drop(silent.insert(id, pod)),
            Found::Lost(..) | Found::Gone => drop(gone.insert(id)),
            Found::Sound(..) | Found::Silent(_) => {}
        }
    }
    if membership.is_empty() || membership.has_quorum(|id| !gone.contains(&id) && !silent.contains_key(&id)) {
        return None;
    }
    Some(words(cluster, &gone, &silent, pod(name), survivor.held.last))
}

fn words(
    cluster: ClusterId,
    gone: &BTreeSet<NodeId>,
    silent: &BTreeMap<NodeId, String>,
    survivor: &str,
    last: LogId,
) -> String {
    let mut missing: Vec<String> = gone.iter().map(|id| format!("{id} is gone")).collect();
    missing.extend(silent.keys().map(|id| format!("{id} is silent")));
    let flags: Vec<String> = silent.values().map(|pod| format!(" --gone {pod}")).collect();
    let flags = flags.concat();
    format!(
        "no majority of the disks of cluster {cluster} is there ({}). If these are gone for good: {survivor} has the newest of what is left \
         (entry {} of term {}); `kubectl exec {survivor} -- setstone recover --cluster {cluster}{flags} --yes` makes the cluster go on \
         with it",
        list(&missing),
        last.index,
        last.term,
    )
}

fn was_silent_for_long(answers: &Answers, id: NodeId) -> bool {
    was_silent_for(answers, id, limits::LEADERLESS_PATIENCE)
}

fn was_silent_for(answers: &Answers, id: NodeId, time: std::time::Duration) -> bool {
    answers.of(id.ordinal()).is_some_and(|asked| asked.asked_for >= time)
}

/// The name of a pod, of its FQDN.
fn pod(name: &str) -> &str {
    name.split_once('.').map_or(name, |(pod, _)| pod)
}

#[cfg(test)]
#[path = "recovery_tests.rs"]
mod tests;
