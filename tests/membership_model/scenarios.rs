//! The scenarios: what each begins with, and how much may go wrong in it.

use std::sync::{Arc, Mutex};

use setstone::identity::{NodeId, Ordinal};

use super::heal;
use super::model::{FOREIGN, Model};
use super::rules::{Mistake, Rules};
use super::state::{Budget, Entry, File, Members, PODS, Said, Volume, World};

/// Three pods wanted, none there, all volumes blank.
fn nothing(size: u16) -> World {
    World { size, api: true, first_generation: true, ..World::default() }
}

fn model(mistake: Mistake) -> Model {
    Model {
        rules: Rules(mistake),
        begin: Vec::new(),
        expected: 3,
        parallel: true,
        late: Vec::new(),
        lossy: false,
        sizes: Vec::new(),
        struck: Vec::new(),
        reordered: false,
        copies: false,
        healing: Mutex::default(),
    }
}

/// A cluster of this size that was founded, serves, and has acknowledged something; by the model's own steps.
fn founded(size: u16, expected: u16) -> World {
    let model = Model { expected, ..model(Mistake::None) };
    let mut world = nothing(size);
    while !heal::is_well(&model, &world) {
        world = heal::step(&model, &world).expect("a cluster is founded").1;
    }
    world
}

/// Everything stands still: no pod is there, the volumes are as they were.
fn asleep(world: World) -> World {
    World { pods: Default::default(), ..world }
}

fn with(world: World, left: Budget) -> Vec<World> {
    vec![World { left, ..world }]
}

/// A member's volume of another cluster.
pub fn foreign(at: usize) -> Volume {
    let id = |ordinal| NodeId::new(ordinal, NodeId::FIRST_INCARNATION);
    let configs = vec![(0..PODS as Ordinal).map(id).collect()];
    let first = Entry { term: 0, said: Said::Members(Members { configs, ..Members::default() }) };
    Volume {
        nth: 9,
        file: File::Member,
        cluster: FOREIGN,
        node: id(at as Ordinal),
        ordinal: at as Ordinal,
        boot: 1,
        vote: (1, id(0)),
        log: Arc::new(vec![first, Entry { term: 1, said: Said::Blank(id(0)) }]),
        ..Volume::default()
    }
}

/// A first bootstrap: every step of it may be the last of a process; letters come late or never.
pub fn bootstrap(parallel: bool, mistake: Mistake) -> Model {
    let left = Budget { crashes: 1, attempts: 2, ..Budget::default() };
    Model { begin: with(nothing(3), left), parallel, ..model(mistake) }
}

/// A first bootstrap in which one pod goes by what it heard last, however old it is.
pub fn bootstrap_late(late: usize) -> Model {
    let left = Budget { crashes: 1, attempts: 1, ..Budget::default() };
    Model { begin: with(nothing(3), left), late: vec![late], ..model(Mistake::None) }
}

/// Letters of an attempt arrive after those of the next.
pub fn bootstrap_reordered() -> Model {
    Model { reordered: true, ..bootstrap(true, Mistake::None) }
}

/// Volumes are lost, up to two of them, one after the other or both at once.
pub fn replace(parallel: bool, mistake: Mistake) -> Model {
    let left = Budget { losses: 2, ..Budget::default() };
    Model { begin: with(founded(3, 3), left), parallel, struck: vec![0, 2], ..model(mistake) }
}

/// A volume is lost; every step of the join that follows may be the last of some process.
pub fn join(mistake: Mistake) -> Model {
    let left = Budget { losses: 1, crashes: 2, ..Budget::default() };
    Model { begin: with(founded(3, 3), left), struck: vec![2], ..model(mistake) }
}

/// A volume is put back to a snapshot of it.
pub fn rolled_back(mistake: Mistake) -> Model {
    let left = Budget { snapshots: 1, rollbacks: 1, writes: 1, marks: 1, crashes: 1, ..Budget::default() };
    Model { begin: with(founded(3, 3), left), struck: vec![2], ..model(mistake) }
}

/// A volume of another cluster is attached to a pod, while all begin anew. With Parallel, a process may crash.
pub fn foreign_volume(parallel: bool) -> Model {
    let left = Budget { foreign: 1, crashes: u8::from(parallel), ..Budget::default() };
    Model {
        begin: with(asleep(founded(3, 3)), left),
        parallel,
        lossy: true,
        struck: vec![0, 2],
        ..model(Mistake::None)
    }
}

/// A pod is deleted by force while its node is cut off, and its process comes back.
pub fn zombie(copies: bool) -> Model {
    let left = Budget { zombies: 1, writes: 1, crashes: 1, ..Budget::default() };
    Model { begin: with(founded(3, 3), left), struck: vec![0, 2], copies, ..model(Mistake::None) }
}

/// Two scalings, of a set whose pods are stopped one after the other while the API server comes and goes, or all at once.
pub fn scaling(parallel: bool, mistake: Mistake) -> Model {
    let flips = if parallel { 0 } else { 2 };
    let left = Budget { scalings: 2, flips, ..Budget::default() };
    Model {
        begin: with(founded(3, 3), left),
        parallel,
        sizes: if parallel { vec![1, 3] } else { vec![1, 2, 3] },
        ..model(mistake)
    }
}

/// From one pod to more and back; a crash on the way to two.
pub fn growing(parallel: bool, top: u16, mistake: Mistake) -> Model {
    let left = Budget { scalings: 2, crashes: u8::from(top == 2), ..Budget::default() };
    Model { begin: with(founded(1, 1), left), expected: 1, parallel, sizes: vec![1, top], ..model(mistake) }
}

/// The whole set sleeps and wakes, one after the other; a volume may be lost meanwhile.
pub fn hibernation() -> Model {
    let left = Budget { scalings: 2, losses: 1, ..Budget::default() };
    let begin = with(founded(3, 3), left);
    Model { begin, parallel: false, sizes: vec![0, 3], struck: vec![1], ..model(Mistake::None) }
}

/// All begin anew on volumes with data, and answers are lost. With Parallel, a process may crash.
pub fn cold_start(parallel: bool, mistake: Mistake) -> Model {
    let left = Budget { losses: 1, crashes: u8::from(parallel), attempts: 1, ..Budget::default() };
    Model {
        begin: with(asleep(founded(3, 3)), left),
        parallel,
        lossy: true,
        struck: vec![0],
        ..model(mistake)
    }
}

/// One pod is left of three, the volumes of the others stay, and the last one is lost.
pub fn scaled_down_and_lost() -> Model {
    let unmistaken = model(Mistake::None);
    let mut world = World { size: 1, first_generation: false, ..founded(3, 3) };
    while !heal::is_well(&unmistaken, &world) {
        world = heal::step(&unmistaken, &world).expect("two are let go").1;
    }
    let left = Budget { losses: 1, scalings: 1, attempts: 1, ..Budget::default() };
    Model { begin: with(world, left), sizes: vec![3], struck: vec![0], ..model(Mistake::None) }
}
