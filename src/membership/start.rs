//! What to do at start. Pure and total: the table of DESIGN section 5, disk × answers of the others → action.
//!
//! The first row that fits decides. The caller asks again with every answer, for as long as the process runs; so an action is what
//! is right *now*, and may be another one with the next answer. Absence of evidence leads to nothing but waiting.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::disk::{Answers, Described, Disk, Service, What};
use super::recovery::may_recover;
use super::{below_mark, resume, wait};
use crate::env::simulated::{self, Bug};
use crate::identity::{ClusterId, NodeId, Ordinal, OrdinalRange, Recovery};
use crate::limits;

/// The desired size of the `StatefulSet`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Desired {
    /// Nobody sets one.
    #[default]
    NotUsed,
    /// Its source cannot be read; why.
    Unknown(String),
    /// These pods.
    Known(OrdinalRange),
}

impl Desired {
    /// The pods that there should be, if that is known.
    pub fn range(&self) -> Option<OrdinalRange> {
        match self {
            Self::Known(range) => Some(*range),
            Self::NotUsed | Self::Unknown(_) => None,
        }
    }

    /// Whether the pod with this ordinal is to go. Nobody is while the whole set sleeps, or while nothing is known.
    pub fn excludes(&self, ordinal: Ordinal) -> bool {
        self.range().is_some_and(|range| range.size > 0 && !range.contains(ordinal))
    }
}

/// What is known beside the disk and the answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// This pod's ordinal.
    pub ordinal: Ordinal,
    /// This pod's name, as others are asked by theirs.
    pub name: String,
    /// Number of pods at the first install. It may be raised, never lowered.
    pub expected: u16,
    /// The desired size.
    pub desired: Desired,
    /// Whether a pod that is alone may found a cluster. On a persistent volume that a `StatefulSet` may have replaced, only while
    /// its `metadata.generation` is 1, or after `setstone bootstrap`.
    pub may_found_alone: bool,
    /// A human asks that this disk goes on alone, because a majority of its cluster's disks is gone for good.
    pub recovery: Option<Recovery>,
    /// Whether this process already takes part: it was released, or initialised.
    pub takes_part: bool,
    /// Ordinals of others that were named to this process.
    pub named: BTreeSet<Ordinal>,
    /// Time since this pod was first ready; where nobody starts pods by their readiness, time since it began to ask.
    pub ready_for: Option<Duration>,
}

impl Facts {
    /// The ordinals of `expected` and of the desired range, this pod's included if it is one of them.
    fn ordinals(&self) -> BTreeSet<Ordinal> {
        let desired = self.desired.range().unwrap_or_default();
        let expected = OrdinalRange { size: self.expected, ..desired };
        let named = self.named.iter().copied();
        expected.ordinals().chain(desired.ordinals()).chain(named).take(limits::PEERS).collect()
    }

    /// The others among [`Facts::ordinals`].
    pub(super) fn others(&self) -> BTreeSet<Ordinal> {
        let mut others = self.ordinals();
        others.remove(&self.ordinal);
        others
    }
}

/// One pod of a first bootstrap.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Founder {
    /// Its ordinal.
    pub ordinal: Ordinal,
    /// Its name.
    pub name: String,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Rows 1 and 5: do not start consensus, touch nothing, be loud.
    Refuse {
        /// Why, for people.
        reason: String,
    },
    /// Rows 3 and 4: store that the disk is lost, fsynced, before anything else; then decide again.
    BecomeLost {
        /// Why, for people.
        reason: String,
    },
    /// A newer process runs on this disk, or a bootstrap was given up: end this process, without touching the disk.
    Stop {
        /// Why, for people.
        reason: String,
    },
    /// Row 6, first step: run consensus, but take no entry, grant no vote, do not campaign.
    HoldResume {
        /// For what it is held, for people.
        waiting_for: String,
    },
    /// Row 6, second step: take part.
    Release,
    /// Whatever row 3 and the rest would say: a human decided that this disk goes on as the only member of a new cluster.
    Recover {
        /// The cluster that is replaced.
        cluster: ClusterId,
    },
    /// Row 7: be admitted anew; the old directory is set aside only once the leader has admitted the successor.
    Rejoin {
        /// The cluster.
        cluster: ClusterId,
        /// Its leader.
        leader: NodeId,
    },
    /// Row 8: be admitted.
    Join {
        /// The cluster.
        cluster: ClusterId,
        /// Its leader.
        leader: NodeId,
    },
    /// Row 9: found a cluster.
    Bootstrap {
        /// Who does it: the lowest ordinal.
        coordinator: Ordinal,
        /// All of them, this pod included, by ordinal.
        founders: Vec<Founder>,
    },
    /// Row 10: wait.
    Wait {
        /// For what, for people.
        waiting_for: String,
        /// Which command would help.
        hint: Option<String>,
        /// Nothing is missing but the addresses behind the headless service: ask it now.
        ask_service: bool,
    },
}

/// The ordinals whose pods must be asked; the caller adds, before a first bootstrap, whoever is behind the headless service.
pub fn whom_to_ask(disk: &Disk, answers: &Answers, facts: &Facts) -> BTreeSet<Ordinal> {
    let mut ordinals = facts.others();
    ordinals.extend(disk.membership.ids().iter().map(|id| id.ordinal()));
    ordinals.extend(resume::last_membership(disk, answers).ids().iter().map(|id| id.ordinal()));
    ordinals.remove(&facts.ordinal);
    ordinals
}

/// The start table. `disk` is this pod's.
pub fn decide(disk: &Disk, answers: &Answers, facts: &Facts) -> Action {
    if disk.has_identity() && disk.ordinal != facts.ordinal && !simulated::planted(Bug::IgnoreOrdinal) {
        let reason = format!(
            "the disk belongs to ordinal {} (node {} of cluster {}), and this pod is {} with ordinal {}: are two volumes \
             swapped?",
            disk.ordinal, disk.node_id, disk.cluster, facts.name, facts.ordinal
        );
        return Action::Refuse { reason };
    }
    if let Some(asked) = &facts.recovery
        && may_recover(asked, disk, answers).is_ok()
    {
        return if facts.takes_part {
            Action::Stop {
                reason: "a recovery was asked for, and consensus runs: starting anew for it".into(),
            }
        } else {
            Action::Recover { cluster: disk.cluster }
        };
    }
    match disk.what {
        What::Member => as_member(disk, answers, facts),
        // Admitted by this process; its log is about to hold something.
        What::Joining if facts.takes_part => as_member(disk, answers, facts),
        What::Prepared if facts.takes_part || member_of(disk.cluster, answers) => {
            as_member(disk, answers, facts)
        }
        What::Lost { .. } => as_lost(disk, answers, facts),
        What::Blank | What::Prepared | What::Joining => as_fresh(disk, answers, facts),
    }
}

/// Row 2: whether a member of the cluster answers.
fn member_of(cluster: ClusterId, answers: &Answers) -> bool {
    answers
        .described()
        .any(|(_, _, described)| described.disk.what == What::Member && described.disk.cluster == cluster)
}

/// Rows 3 to 6.
fn as_member(disk: &Disk, answers: &Answers, facts: &Facts) -> Action {
    for (name, _, described) in answers.described() {
        if let Some(reason) = removed(disk, name, described) {
            return Action::BecomeLost { reason };
        }
    }
    for (name, _, described) in answers.described() {
        if let Some(action) = rolled_back(disk, name, described, facts) {
            return action;
        }
    }
    if facts.takes_part {
        return Action::Release;
    }
    if let Some(reason) = only_others(disk, answers) {
        return Action::Refuse { reason };
    }
    match resume::held_for(disk, answers, facts) {
        Some(waiting_for) => Action::HoldResume { waiting_for },
        None => Action::Release,
    }
}

/// Row 3. Only what a peer has *applied* counts; that a membership lacks this disk proves nothing.
fn removed(disk: &Disk, name: &str, described: &Described) -> Option<String> {
    let peer = &described.disk;
    if peer.supersedes(disk.cluster) {
        return Some(format!("{name} is of cluster {}, which replaced {}", peer.cluster, disk.cluster));
    }
    if !peer.has_identity() || peer.cluster != disk.cluster || peer.membership.contains(disk.node_id) {
        return None;
    }
    // Per ordinal the state keeps the newest admitted id, and a lower one that is no member counts as removed with it.
    let consensus = described.consensus.as_ref()?;
    let newest =
        consensus.removed.iter().find(|id| id.ordinal() == disk.node_id.ordinal() && **id >= disk.node_id)?;
    Some(format!("{name} has applied that {newest} was removed from cluster {}", disk.cluster))
}

/// Row 4.
fn rolled_back(disk: &Disk, name: &str, described: &Described, facts: &Facts) -> Option<Action> {
    let peer = &described.disk;
    if !peer.has_identity() || peer.cluster != disk.cluster {
        return None;
    }
    if simulated::planted(Bug::IgnoreMarks) {
        return None;
    }
    let boot = disk.boot;
    if let Some(seen) = peer.seen.get(&disk.node_id)
        && (seen.number > boot.number || (seen.number == boot.number && seen.random != boot.random))
    {
        let heard = format!("{name} has heard of boot {} of {}", seen.number, disk.node_id);
        return Some(if facts.takes_part {
            Action::Stop { reason: format!("{heard}, and this is boot {}", boot.number) }
        } else {
            Action::BecomeLost {
                reason: format!("rolled back: {heard}, and this start is boot {}", boot.number),
            }
        });
    }
    let mark = peer.marks.get(&disk.node_id)?;
    let below = below_mark(disk.at_boot, boot.number, facts.takes_part, mark)?;
    Some(if facts.takes_part && mark.boot > boot.number {
        Action::Stop { reason: format!("{name} holds a mark of boot {} of {}", mark.boot, disk.node_id) }
    } else {
        Action::BecomeLost { reason: format!("rolled back: {name} knows that {below}") }
    })
}

/// Row 5: pods answer, and all are of clusters that have nothing to do with the disk's. Decided once everyone was given the time
/// to answer.
fn only_others(disk: &Disk, answers: &Answers) -> Option<String> {
    let mut others = BTreeSet::new();
    for asked in answers.pods.values() {
        match asked.described() {
            Some(described) => {
                let peer = &described.disk;
                if !peer.has_identity() || peer.cluster == disk.cluster || disk.supersedes(peer.cluster) {
                    return None;
                }
                others.insert(peer.cluster);
            }
            None if asked.asked_for < limits::RESUME_PATIENCE => return None,
            None => {}
        }
    }
    let names: Vec<_> = others.iter().map(ToString::to_string).collect();
    (!others.is_empty()).then(|| {
        format!(
            "the disk is of cluster {}, and all pods that answer are of {}",
            disk.cluster,
            names.join(", ")
        )
    })
}

/// Row 7, or 10.
fn as_lost(disk: &Disk, answers: &Answers, facts: &Facts) -> Action {
    let led: BTreeMap<_, _> = led_clusters(answers)
        .into_iter()
        .filter(|(cluster, led)| *cluster == disk.cluster || led.supersedes.contains(&disk.cluster))
        .collect();
    match only(&led) {
        Some((cluster, led)) => Action::Rejoin { cluster, leader: led.leader },
        None => wait::action(disk, answers, facts),
    }
}

/// Rows 8 and 9, or 10.
fn as_fresh(disk: &Disk, answers: &Answers, facts: &Facts) -> Action {
    let mut led = led_clusters(answers);
    if led.len() > 1 {
        led.retain(|_, led| led.ordinals.contains(&facts.ordinal));
    }
    if let Some((cluster, led)) = only(&led) {
        return Action::Join { cluster, leader: led.leader };
    }
    if !disk.is_fresh() {
        return wait::action(disk, answers, facts);
    }
    match founders(disk, answers, facts) {
        Some(founders) => match founders.first() {
            Some(first) => Action::Bootstrap { coordinator: first.ordinal, founders },
            None => wait::action(disk, answers, facts),
        },
        None => wait::action(disk, answers, facts),
    }
}

struct Led {
    leader: NodeId,
    supersedes: BTreeSet<ClusterId>,
    /// Ordinals of its members.
    ordinals: BTreeSet<Ordinal>,
    term: u64,
}

/// The clusters that have a leader, as members of them say; without those that another of them replaced.
fn led_clusters(answers: &Answers) -> BTreeMap<ClusterId, Led> {
    let mut clusters: BTreeMap<ClusterId, Led> = BTreeMap::new();
    for (_, _, described) in answers.described() {
        let disk = &described.disk;
        let (What::Member, Some(consensus)) = (&disk.what, &described.consensus) else { continue };
        let Some(leader) = consensus.leader else { continue };
        let led = clusters.entry(disk.cluster).or_insert_with(|| Led {
            leader,
            supersedes: BTreeSet::new(),
            ordinals: BTreeSet::new(),
            term: 0,
        });
        if consensus.term >= led.term {
            (led.leader, led.term) = (leader, consensus.term);
        }
        led.supersedes.extend(&disk.supersedes);
        led.ordinals.extend(disk.membership.ids().iter().map(|id| id.ordinal()));
    }
    let replaced: BTreeSet<_> = clusters.values().flat_map(|led| led.supersedes.iter().copied()).collect();
    clusters.retain(|cluster, _| !replaced.contains(cluster));
    clusters
}

fn only(clusters: &BTreeMap<ClusterId, Led>) -> Option<(ClusterId, &Led)> {
    let mut all = clusters.iter();
    match (all.next(), all.next()) {
        (Some((cluster, led)), None) => Some((*cluster, led)),
        _ => None,
    }
}

/// Row 9: the pods of a first bootstrap by ordinal, if everyone who must be asked answered and all are blank or prepared.
fn founders(disk: &Disk, answers: &Answers, facts: &Facts) -> Option<Vec<Founder>> {
    if simulated::planted(Bug::BootstrapAlone) {
        return Some(vec![Founder { ordinal: facts.ordinal, name: facts.name.clone() }]);
    }
    let sure = !matches!(facts.desired, Desired::Unknown(_))
        && matches!(answers.service, Service::NotUsed | Service::Listed)
        && all_are_fresh(disk, answers, facts);
    let own = Founder { ordinal: facts.ordinal, name: facts.name.clone() };
    let mut founders: Vec<_> = answers
        .pods
        .iter()
        .map(|(name, asked)| Founder { ordinal: asked.ordinal, name: name.clone() })
        .chain([own])
        .collect();
    founders.sort();
    let distinct: BTreeSet<_> = founders.iter().map(|founder| founder.ordinal).collect();
    let alone = founders.len() == 1;
    (sure && distinct.len() == founders.len() && (!alone || facts.may_found_alone)).then_some(founders)
}

/// Whether everyone who must be asked answered, and all are blank or prepared.
pub(super) fn all_are_fresh(disk: &Disk, answers: &Answers, facts: &Facts) -> bool {
    let everyone = whom_to_ask(disk, answers, facts);
    everyone.iter().all(|ordinal| answers.of(*ordinal).is_some())
        && answers
            .pods
            .values()
            .all(|asked| asked.described().is_some_and(|described| described.disk.is_fresh()))
}

#[cfg(test)]
#[path = "start_tests.rs"]
mod tests;
