//! What a seed decides before anything runs: cluster, knobs, faults and when they happen. Pure.

use std::time::Duration;

use super::world::Dice;
use crate::config::Tuning;
use crate::env::simulated::mix;

/// Longest time of faults, in simulated milliseconds.
const FAULTS_MILLIS: u64 = 20_000;

/// One thing that goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// These pods lose power; of what they had not synced, anything may survive.
    PowerLoss {
        /// The pods.
        pods: Vec<u16>,
        /// Until they come back.
        down: u64,
    },
    /// A pod loses power after this many more operations on its disk.
    PowerLossInWrite {
        /// The pod.
        pod: u16,
        /// The operations.
        operations: u64,
        /// Until it comes back.
        down: u64,
    },
    /// The processes of these pods are killed; their disks lose nothing.
    Kill {
        /// The pods.
        pods: Vec<u16>,
        /// Until they come back.
        down: u64,
    },
    /// Messages between these pods and the others are lost.
    Partition {
        /// One side.
        pods: Vec<u16>,
        /// How long.
        time: u64,
    },
    /// Messages from one pod to another are lost; the other direction works.
    OneWay {
        /// From here.
        from: u16,
        /// To here.
        to: u16,
        /// How long.
        time: u64,
    },
    /// Messages between two pods wait until the end of it.
    Stall {
        /// One pod.
        one: u16,
        /// The other.
        other: u16,
        /// How long.
        time: u64,
    },
    /// Every message takes up to this long.
    SlowNetwork {
        /// Milliseconds at most.
        latency: u64,
        /// How long.
        time: u64,
    },
    /// A disk takes this long for a write.
    SlowDisk {
        /// The pod.
        pod: u16,
        /// Milliseconds.
        latency: u64,
        /// How long.
        time: u64,
    },
    /// An fdatasync fails, after this many that do not.
    FailedSync {
        /// The pod.
        pod: u16,
        /// Syncs that still work.
        after: u64,
    },
    /// The name server does not answer for any name.
    NoNames {
        /// How long.
        time: u64,
    },
    /// A pod's name is not published.
    Unpublished {
        /// The pod.
        pod: u16,
        /// How long.
        time: u64,
    },
    /// A pod's name has another pod's address.
    StaleName {
        /// The name of this pod
        pod: u16,
        /// is said to be at this pod's address.
        at: u16,
        /// How long.
        time: u64,
    },
}

/// How the pods know of each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// By the names of a `StatefulSet`.
    StatefulSet,
    /// By a list.
    Fixed,
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
    /// Clients.
    pub clients: u16,
    /// Keys that they write.
    pub keys: u64,
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
}

impl Plan {
    /// The plan of a seed.
    pub fn of(seed: u64) -> Self {
        let dice = Dice::new(mix(seed) ^ 0x706c_616e);
        let size = *dice.pick(&[1, 2, 3, 3, 3, 3, 3, 3, 4, 5, 5]).unwrap_or(&3);
        let begin = if dice.chance(30) { dice.within(0, 3_000) } else { dice.within(4_000, 7_000) };
        let heal = begin + dice.within(FAULTS_MILLIS / 4, FAULTS_MILLIS);
        let mean = dice.within(300, 2_500);
        let kinds: Vec<u64> = (0..12).filter(|_| dice.chance(60)).collect();
        let mut faults = Vec::new();
        let mut at = begin;
        while at < heal {
            if let Some(kind) = dice.pick(&kinds) {
                faults.push((at, fault(&dice, *kind, size)));
            }
            at += dice.within(1, 2 * mean);
        }
        Self {
            seed,
            size,
            mode: if dice.chance(70) { Mode::StatefulSet } else { Mode::Fixed },
            clients: dice.within(1, 4) as u16,
            keys: dice.within(1, 6),
            tuning: tuning(&dice),
            latency: dice.within(2, 12),
            pause: *dice.pick(&[2, 20, 100]).unwrap_or(&20),
            faults,
            heal,
        }
    }
}

fn tuning(dice: &Dice) -> Tuning {
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
        0 => Fault::PowerLoss { pods: some_pods(dice, size), down },
        1 => Fault::PowerLossInWrite { pod, operations: dice.within(1, 30), down },
        2 => Fault::Kill { pods: some_pods(dice, size), down },
        3 => Fault::Partition { pods: some_pods(dice, size), time },
        4 => Fault::OneWay { from: pod, to: other, time },
        5 => Fault::Stall { one: pod, other, time },
        6 => Fault::SlowNetwork { latency: dice.within(20, 400), time },
        7 => Fault::SlowDisk { pod, latency: dice.within(5, 600), time },
        8 => Fault::FailedSync { pod, after: dice.within(0, 20) },
        9 => Fault::NoNames { time },
        10 => Fault::Unpublished { pod, time },
        _ => Fault::StaleName { pod, at: other, time },
    }
}
