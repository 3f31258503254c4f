//! What a seed decides before anything runs: cluster, knobs, faults and when they happen. Pure.

use std::collections::BTreeSet;
use std::time::Duration;

use super::fault::{EngineBack, Fault, Part, Volume};
use super::later::{self, Basics, Resize, Restore};
use super::world::Dice;
use crate::config::{AutoCompaction, Maintenance, Tuning};
use crate::env::simulated::{FIRST_LATER_SEED, FIRST_UPKEEP_SEED, mix};
use crate::playground::controller::{PodManagement, Spec, WhenScaled};
use crate::playground::pod::{BackOff, Thresholds};

/// Longest time of faults, in simulated milliseconds.
const FAULTS_MILLIS: u64 = 20_000;
/// Kinds of faults, as [`fault`] counts them.
const KINDS: u64 = 27;

/// How the pods know of each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// By the names of a `StatefulSet`.
    StatefulSet,
    /// By a list.
    Fixed,
}

/// An old copy of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rollback {
    /// The pod that gets it.
    pub pod: u16,
    /// When it is made; `None`: once all is well, less than a second before it is put in place.
    pub made: Option<u64>,
}

/// Everything that a seed decides beforehand.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// Pods.
    pub size: u16,
    /// How they know of each other.
    pub mode: Mode,
    /// The `StatefulSet`. A fixed list has one too: somebody restarts its processes.
    pub spec: Spec,
    /// Time between two probes, in milliseconds.
    pub probe: u64,
    /// Time for which the name server answers from its cache, in milliseconds.
    pub names_cached: u64,
    /// Clients.
    pub clients: u16,
    /// Clients that watch, one thing after the other.
    pub watchers: u16,
    /// Clients that take locks; in many plans there are none.
    pub lockers: u16,
    /// Keys that they write.
    pub keys: u64,
    /// In how many of a hundred looks the archivist has the store compacted.
    pub compactions: u64,
    /// Knobs of the members.
    pub tuning: Tuning,
    /// Longest time of a message without faults, in milliseconds.
    pub latency: u64,
    /// Longest pause of a client between two calls, in milliseconds.
    pub pause: u64,
    /// Faults, and when they begin.
    pub faults: Vec<(u64, Fault)>,
    /// When everything is well again.
    pub heal: u64,
    /// The pod that gets an old copy of its volume once all is well.
    pub rollback: Option<Rollback>,
    /// Pods whose volumes are gone at the very end: without them there is no majority. Or none.
    pub lost: Vec<u16>,
    /// The set is scaled while they go.
    pub resized: Option<Resize>,
    /// All volumes are put back to older copies at the very end.
    pub restored: Option<Restore>,
    /// Users are asked who they are, and some may do little.
    pub has_users: bool,
    /// The members ask for the size of the `StatefulSet`, and membership follows it. A set that was scaled down can lose fewer
    /// disks, so nothing is done to them then.
    pub follows: bool,
    /// Members look after their stores by themselves, volumes fill, and all that is looked at when everything else was checked.
    pub upkeep: bool,
    /// The member whose store is spoiled at the end, if the plan has upkeep.
    pub spoiled: Option<u16>,
}

impl Plan {
    /// The plan of a seed.
    pub fn of(seed: u64) -> Self {
        let dice = Dice::new(mix(seed) ^ 0x706c_616e);
        let size = *dice.pick(&[1, 2, 3, 3, 3, 3, 3, 3, 3, 4, 5, 5, 5, 6, 7]).unwrap_or(&3);
        let begin = if dice.chance(30) { dice.within(0, 3_000) } else { dice.within(4_000, 7_000) };
        let heal = begin + dice.within(FAULTS_MILLIS / 4, FAULTS_MILLIS);
        let mean = dice.within(300, 2_500);
        let kinds: Vec<u64> = (0..KINDS).filter(|_| dice.chance(40)).collect();
        let mut faults = Vec::new();
        let mut tampered = BTreeSet::new();
        let mut at = begin;
        while at < heal {
            if let Some(kind) = dice.pick(&kinds) {
                let fault = fault(&dice, *kind, size);
                // A majority of the disks must stay what they were.
                let more: BTreeSet<u16> = tampered.iter().copied().chain(fault.tampers_with()).collect();
                if more.len() <= usize::from((size - 1) / 2) {
                    tampered = more;
                    faults.push((at, fault));
                }
            }
            at += dice.within(1, 2 * mean);
        }
        let mode = if dice.chance(75) { Mode::StatefulSet } else { Mode::Fixed };
        let rollback = (size >= 3 && tampered.is_empty() && dice.chance(25)).then(|| {
            let made = dice.within(begin, heal);
            Rollback { pod: dice.below(u64::from(size)) as u16, made: dice.chance(50).then_some(made) }
        });
        let untouched = tampered.is_empty() && rollback.is_none();
        // A pod that is alone founds no cluster once its set was changed.
        let may_follow = size > 1 && mode == Mode::StatefulSet && untouched;
        // Dice of its own: the other plans stay what they are.
        let scaling = Dice::new(mix(seed) ^ 0x7363_616c);
        let follows = may_follow && scaling.chance(60);
        if follows {
            faults.extend(scalings(&scaling, size, begin, heal));
        }
        let disaster = Dice::new(mix(seed) ^ 0x6c6f_7374);
        // Sizes of which all pods vote, whoever counts them.
        let may_lose = may_follow && !follows && matches!(size, 2 | 3 | 5);
        let lost = if may_lose && disaster.chance(50) { majority(&disaster, size) } else { Vec::new() };
        let basics = Basics { seed, size, mode, begin, heal, untouched, follows };
        faults.extend(later::standing(&basics));
        let (resized, lost, restored) = later::ends(&basics, lost);
        let may_spoil = untouched && !follows && matches!(size, 3 | 5);
        let ends = !lost.is_empty() || restored.is_some();
        let upkeep = if ends { None } else { upkeep(seed, size, may_spoil, (begin, heal)) };
        faults.extend(upkeep.iter().flat_map(|upkeep| upkeep.faults.iter().cloned()));
        faults.sort_by_key(|(at, _)| *at);
        let care = upkeep.as_ref().map_or_else(|| maintenance(seed), |upkeep| upkeep.maintenance.clone());
        let locking = Dice::new(mix(seed) ^ 0x6c6f_636b);
        // Of its own, too.
        let watching = Dice::new(mix(seed) ^ 0x7761_7463);
        Self {
            seed,
            size,
            mode,
            spec: spec(&dice, size, mode),
            probe: dice.within(100, 1_000),
            names_cached: *dice.pick(&[0, 0, 5_000, 30_000]).unwrap_or(&0),
            clients: dice.within(1, 4) as u16,
            watchers: watching.within(1, 5) as u16,
            lockers: if locking.chance(50) { locking.within(2, 4) as u16 } else { 0 },
            keys: dice.within(1, 6),
            compactions: *dice.pick(&[0, 1, 5, 20]).unwrap_or(&0),
            tuning: tuning(&dice, &watching, care),
            latency: dice.within(2, 12),
            pause: *dice.pick(&[2, 20, 100]).unwrap_or(&20),
            faults,
            heal,
            rollback,
            lost,
            resized,
            restored,
            has_users: later::has_users(seed),
            follows,
            upkeep: upkeep.is_some(),
            spoiled: upkeep.and_then(|upkeep| upkeep.spoiled),
        }
    }
}

/// The set is scaled and back, some times; the API server may be away meanwhile.
fn scalings(dice: &Dice, size: u16, begin: u64, heal: u64) -> Vec<(u64, Fault)> {
    let mut faults = Vec::new();
    for _ in 0..dice.within(1, 3) {
        let replicas = dice.below(u64::from(size)) as u16;
        let fault = Fault::Scale { replicas, time: dice.within(1_000, 10_000) };
        faults.push((dice.within(begin, heal), fault));
    }
    if dice.chance(40) {
        let fault = Fault::NoOwner { time: dice.within(1_000, 12_000) };
        faults.push((dice.within(begin, heal), fault));
    }
    faults
}

/// So many pods, and not all, that the others are no majority.
pub(super) fn majority(dice: &Dice, size: u16) -> Vec<u16> {
    let mut pods: Vec<u16> = (0..size).collect();
    for _ in 0..dice.within(1, u64::from(size / 2)) {
        pods.remove(dice.below(pods.len() as u64) as usize);
    }
    pods
}

fn spec(dice: &Dice, size: u16, mode: Mode) -> Spec {
    // Nobody who has a list starts its processes by their readiness.
    let management = match mode {
        Mode::StatefulSet if dice.chance(50) => PodManagement::OrderedReady,
        _ => PodManagement::Parallel,
    };
    let initial = Duration::from_millis(dice.within(200, 2_000));
    Spec {
        first: 0,
        replicas: size,
        management,
        when_scaled: WhenScaled::Retain,
        grace: Duration::from_millis(dice.within(200, 8_000)),
        back_off: BackOff { initial, max: initial * 4, reset_after: Duration::from_secs(4) },
        thresholds: Thresholds::default(),
    }
}

/// In some seeds the volumes are watched, and stores are compared. In the others full disks are met, not avoided. Nobody compacts but the
/// archivist: what is forgotten, somebody asked to forget.
fn maintenance(seed: u64) -> Maintenance {
    let dice = &Dice::new(mix(seed) ^ 0x7370_6163);
    if seed < FIRST_LATER_SEED || !dice.chance(25) {
        return Maintenance { disk_reserve_bytes: 0, ..Maintenance::default() };
    }
    let seconds = |dice: &Dice| Duration::from_millis(dice.within(1_000, 5_000));
    Maintenance {
        disk_reserve_bytes: dice.within(1, 64) << 10,
        corrupt_check_at_start: dice.chance(50),
        corrupt_check_interval: dice.chance(50).then(|| seconds(dice)),
        ..Maintenance::default()
    }
}

/// What members do about their stores by themselves, and what is done to the stores.
struct Upkeep {
    maintenance: Maintenance,
    faults: Vec<(u64, Fault)>,
    spoiled: Option<u16>,
}

/// Of some seeds, with dice of its own. `may_spoil`: a majority is right for certain when one store is wrong.
fn upkeep(seed: u64, size: u16, may_spoil: bool, (begin, heal): (u64, u64)) -> Option<Upkeep> {
    let dice = Dice::new(mix(seed) ^ 0x7570_6b65);
    if seed < FIRST_UPKEEP_SEED || !dice.chance(60) {
        return None;
    }
    let pod = |dice: &Dice| dice.below(u64::from(size)) as u16;
    let faults = (0..dice.within(1, 2)).map(|_| {
        let fault = Fault::Filling { pod: pod(&dice), time: dice.within(1_000, 8_000) };
        (dice.within(begin, heal), fault)
    });
    let faults = faults.collect();
    let spoiled = (may_spoil && dice.chance(70)).then(|| pod(&dice));
    // Longer than clients wait, so that the archivist has read what is forgotten.
    let period = Duration::from_millis(dice.within(8_000, 15_000));
    let maintenance = Maintenance {
        disk_reserve_bytes: dice.within(4, 64) << 10,
        auto_compaction: dice.chance(60).then_some(AutoCompaction::Periodic(period)),
        corrupt_check_at_start: dice.chance(50),
        corrupt_check_interval: spoiled.map(|_| Duration::from_millis(dice.within(1_000, 5_000))),
        ..Maintenance::default()
    };
    Some(Upkeep { maintenance, faults, spoiled })
}

fn tuning(dice: &Dice, watching: &Dice, maintenance: Maintenance) -> Tuning {
    let heartbeat = dice.within(30, 100);
    let election = heartbeat * dice.within(4, 8);
    Tuning {
        log_segment_bytes: dice.within(4, 64) << 10,
        log_cache_bytes: dice.within(0, 64) as usize * 1_024,
        log_bytes_before_snapshot: dice.within(2, 40) << 10,
        log_entries_kept: *dice.pick(&[0, 1, 10, 100]).unwrap_or(&10),
        heartbeat: Duration::from_millis(heartbeat),
        election_min: Duration::from_millis(election),
        election_max: Duration::from_millis(election * 2),
        watch_progress_interval: Duration::from_millis(watching.within(100, 3_000)),
        // Two small events in one entry are too much for the least.
        watch_queue_bytes: *watching.pick(&[2_300, 5_000, 2 << 20]).unwrap_or(&5_000),
        maintenance,
        ..Tuning::default()
    }
}

fn some_pods(dice: &Dice, size: u16) -> Vec<u16> {
    let all: Vec<u16> = (0..size).collect();
    match dice.below(10) {
        0 => all,
        1 | 2 => all.into_iter().filter(|_| dice.chance(50)).collect(),
        _ => dice.pick(&all).copied().into_iter().collect(),
    }
}

fn fault(dice: &Dice, kind: u64, size: u16) -> Fault {
    let pod = dice.below(u64::from(size)) as u16;
    let other = (pod + 1 + dice.below(u64::from(size.saturating_sub(1)).max(1)) as u16) % size;
    let time = dice.within(100, 4_000);
    let down = if dice.chance(50) { dice.within(1, 200) } else { dice.within(200, 5_000) };
    match kind {
        0 | 1 => Fault::PowerLoss { pods: some_pods(dice, size), down },
        2 => Fault::PowerLossInWrite { pod, operations: dice.within(1, 30) },
        3 => Fault::Kill { pods: some_pods(dice, size) },
        4 => Fault::DeletePod { pod },
        5 => Fault::Scale { replicas: dice.below(u64::from(size) + 1) as u16, time: time * 2 },
        6 => Fault::Partition { pods: some_pods(dice, size), time },
        7 => Fault::Flapping { pods: some_pods(dice, size), period: dice.within(50, 900), time },
        8 => Fault::Cut { one: pod, other, time },
        9 => Fault::OneWay { from: pod, to: other, time },
        10 => Fault::Stall { one: pod, other, time },
        11 => Fault::Lossy { permille: dice.within(1, 60), time },
        12 => Fault::Resets { pod, permille: dice.within(1, 100), time },
        13 => Fault::SlowNetwork { latency: dice.within(20, 400), time },
        14 => Fault::SlowPod { pod, latency: dice.within(20, 400), time },
        15 => Fault::SlowDisk { pod, latency: dice.within(5, 600), time },
        16 => Fault::StuckDisk { pod, time: time * 2 },
        17 => Fault::FailedSync { pod, after: dice.within(0, 20) },
        18 => Fault::FullDisk { pod, bytes: dice.within(0, 20_000), time },
        19 => {
            let part = if dice.chance(60) { Part::Log } else { Part::Snapshot };
            Fault::BitFlip { pod, part }
        }
        20 => {
            let all = [EngineBack::Empty, EngineBack::Earlier, EngineBack::Damaged];
            Fault::Engine { pod, back: *dice.pick(&all).unwrap_or(&EngineBack::Empty) }
        }
        21 => {
            let all = [Volume::Nothing, Volume::OtherCluster, Volume::Of(other)];
            Fault::Replace { pod, volume: *dice.pick(&all).unwrap_or(&Volume::Nothing) }
        }
        22 => Fault::ClockJump { pod, seconds: dice.below(200_000) as i64 - 100_000 },
        23 => match dice.below(3) {
            0 => Fault::NoNames { time },
            1 => Fault::SilentNames { time },
            _ => Fault::Unpublished { pod, time },
        },
        24 => Fault::StaleName { pod, at: other, time },
        25 => Fault::Repeats { pod, permille: dice.within(1, 100), time },
        _ => Fault::Paused { pod, time: time * 2 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every kind of fault, size, mode and policy comes up, and no plan takes more disks than a cluster can lose.
    #[test]
    fn a_thousand_seeds_plan_everything() {
        let mut seen = BTreeSet::new();
        let mut sizes = BTreeSet::new();
        let (mut followed, mut disasters) = (0, 0);
        let (mut upkeep, mut spoiled) = (0, 0);
        for plan in (0..1_000).map(Plan::of) {
            sizes.insert(plan.size);
            let tampered: BTreeSet<u16> =
                plan.faults.iter().flat_map(|(_, fault)| fault.tampers_with()).collect();
            assert!(tampered.len() <= usize::from((plan.size - 1) / 2), "{plan:?}");
            assert!(plan.rollback.is_none() || tampered.is_empty(), "{plan:?}");
            let (left, all) = (usize::from(plan.size) - plan.lost.len(), usize::from(plan.size));
            assert!(plan.lost.is_empty() || left > 0 && left * 2 <= all && tampered.is_empty(), "{plan:?}");
            disasters += usize::from(!plan.lost.is_empty());
            upkeep += usize::from(plan.upkeep);
            spoiled += usize::from(plan.spoiled.is_some());
            assert!(!plan.upkeep || plan.seed >= FIRST_UPKEEP_SEED && plan.lost.is_empty(), "{plan:?}");
            followed += usize::from(
                plan.follows && plan.faults.iter().any(|(_, fault)| fault.name() == "scaled and back"),
            );
            seen.extend(plan.faults.iter().map(|(_, fault)| fault.name()));
            seen.extend(
                plan.rollback.map(|old| if old.made.is_some() { "rollback" } else { "young rollback" }),
            );
            let begin = plan.faults.first().map_or(plan.heal, |(at, _)| *at);
            assert!(plan.heal - begin <= FAULTS_MILLIS, "{plan:?}");
        }
        assert!(followed > 50, "{followed} of 1000 change their size");
        assert!(disasters > 30, "{disasters} of 1000 lose a majority of their volumes");
        assert_eq!(sizes, (1..=7).collect());
        assert_eq!(seen.len(), 40, "{seen:?}");
        assert!(upkeep > 200, "{upkeep} of 1000 have stores that are looked after");
        assert!(spoiled > 10, "{spoiled} of 1000 have a store that is spoiled");
    }
}
