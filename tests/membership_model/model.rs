//! The model: what can happen in a world, and what must hold in all of them.

use std::collections::BTreeSet;
use std::sync::Mutex;

use setstone::identity::Ordinal;
use stateright::{Model as Explored, Property};

use super::heal;
use super::rules::Rules;
use super::start::Ears;
use super::state::{
    Broken, Budget, File, Letter, Log, PODS, Said, Volume, World, ZOMBIE, Zombie, last_members,
};

/// The cluster of a volume that belongs elsewhere.
pub const FOREIGN: u64 = 99;

/// What must hold, by name.
pub mod property {
    pub const ONE_CLUSTER: &str = "one cluster acknowledges";
    pub const ALL_STAYS: &str = "what is acknowledged stays";
    pub const ONE_DISK: &str = "a node id names one disk";
    pub const MAJORITY_LIVES: &str = "a majority of the voters is live after a change";
    pub const NONE_REMOVED: &str = "nobody is removed without cause";
    pub const SOUND_STAYS: &str = "a sound disk is never declared lost";
    pub const HEALS: &str = "it heals";
    pub const ALL_IS_WELL: &str = "all is well";
}

/// A scenario: the worlds it begins with, and what kind of world it is.
#[allow(clippy::struct_excessive_bools)] // Each by itself.
pub struct Model {
    pub rules: Rules,
    pub begin: Vec<World>,
    /// Number of pods at the first install.
    pub expected: u16,
    /// Pod management is Parallel.
    pub parallel: bool,
    /// Pods that go by what they heard last of each other pod, however old it is.
    pub late: Vec<usize>,
    /// Answers may be lost.
    pub lossy: bool,
    /// Sizes that it is scaled to.
    pub sizes: Vec<u16>,
    /// Volumes that are lost, rolled back, swapped or left behind by a zombie are those of these ordinals.
    pub struck: Vec<usize>,
    /// A letter may come after one that was sent later.
    pub reordered: bool,
    /// A zombie keeps its volume, and the pod that follows it has a copy; else the volume is taken away from the zombie.
    pub copies: bool,
    /// Fingerprints of worlds that are known to heal.
    pub healing: Mutex<BTreeSet<u64>>,
}

/// What happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    Scale(u16),
    Flip,
    Create(usize),
    Terminate(usize),
    Start(usize),
    Crash(usize),
    Lose(usize, bool),
    Snapshot(usize),
    RollBack(usize),
    Swap(usize),
    CutOff(usize),
    Return,
    Bury,
    Ask(usize, Ordinal),
    Decide(usize, Ears),
    Deliver(Letter),
    Initialise(usize),
    GiveUp(usize),
    Wait(usize),
    Elect(usize, Vec<usize>),
    Replicate(usize, usize),
    Write(usize),
    Mark(usize),
    AddLearner(usize, Ordinal, u64),
    Plan(usize, bool),
    Depart(usize),
    Retire(usize),
    GraceOver(usize),
    /// Healing only: faults stop.
    Calm,
}

impl Model {
    /// What comes of it; `None` if nothing.
    pub fn after(&self, before: &World, act: &Act) -> Option<World> {
        let mut world = before.clone();
        self.act(&mut world, act);
        (world != *before).then_some(world)
    }

    fn act(&self, world: &mut World, act: &Act) {
        match act {
            Act::Create(at) => world.create(*at),
            Act::Terminate(at) => world.terminate(*at),
            Act::Start(at) => world.start(*at),
            Act::Ask(at, ordinal) => world.ask(*at, *ordinal, Ears::default()),
            Act::Decide(at, ears) => world.decide(self, *at, *ears),
            Act::Deliver(letter) => world.deliver(letter, self.reordered),
            Act::Initialise(at) => world.initialise(*at),
            Act::GiveUp(at) => {
                if let Some(process) = world.process_mut(*at) {
                    process.founding = None;
                }
            }
            Act::Wait(at) => self.wait(world, *at),
            Act::Elect(candidate, voters) => world.elect(*candidate, voters),
            Act::Replicate(leader, member) => drop(world.replicate(*leader, *member)),
            Act::Write(leader) => {
                let number = world.left.writes;
                world.left.writes -= 1;
                world.append(*leader, Said::Write(number));
            }
            Act::Mark(leader) => {
                world.left.marks -= 1;
                let lead = world.leads(*leader).map(|lead| lead.matched.clone()).unwrap_or_default();
                world.append(*leader, Said::Marks(lead.into_iter().collect()));
            }
            Act::AddLearner(leader, ordinal, nonce) => world.add_learner(*leader, *ordinal, *nonce),
            Act::Plan(leader, silent) => world.reconcile(self, *leader, *silent),
            Act::Depart(at) => world.depart(*at),
            Act::Retire(at) => world.ask_to_retire(*at),
            Act::GraceOver(at) => world.end(*at),
            Act::Calm => {
                (world.api, world.zombie, world.snapshot) = (true, None, None);
                world.left = Budget { attempts: 1, ..Budget::default() };
                let pending: Vec<u64> = world
                    .all()
                    .filter_map(|at| world.process(at)?.founding.as_ref().map(|founding| founding.cluster))
                    .collect();
                world.letters.retain(|letter| pending.contains(&letter.cluster));
            }
            fault => self.fail(world, fault),
        }
    }

    /// Faults, and what people do.
    fn fail(&self, world: &mut World, fault: &Act) {
        let left = &mut world.left;
        match fault {
            Act::Scale(size) => {
                left.scalings -= 1;
                (world.size, world.first_generation) = (*size, false);
            }
            Act::Flip => {
                left.flips -= 1;
                world.api = !world.api;
            }
            Act::Crash(at) => {
                left.crashes -= 1;
                world.end(*at);
            }
            Act::Lose(at, damaged) => {
                left.losses -= 1;
                world.end(*at);
                let volume = &mut world.volumes[*at];
                if *damaged && volume.file == File::Member {
                    let file = File::Lost(None);
                    *volume =
                        Volume { file, vote: Default::default(), log: Log::default(), ..volume.clone() };
                } else {
                    *volume = Volume { nth: volume.nth + 1, ..Volume::default() };
                }
                if world.ghost.cluster.is_none() {
                    world.ghost.lost_early.insert(*at as Ordinal);
                }
            }
            Act::Snapshot(at) => {
                left.snapshots -= 1;
                world.snapshot = Some((*at as Ordinal, world.volumes[*at].clone()));
            }
            Act::RollBack(at) => {
                left.rollbacks -= 1;
                world.end(*at);
                if let Some((_, old)) = world.snapshot.take() {
                    let now = &world.volumes[*at];
                    let rolled = (now.vote, &now.log, &now.file) != (old.vote, &old.log, &old.file);
                    world.volumes[*at] = Volume { branch: now.branch + 1, rolled, ..old };
                }
            }
            Act::Swap(at) => {
                left.foreign -= 1;
                world.end(*at);
                world.volumes[*at] = super::scenarios::foreign(*at);
            }
            Act::CutOff(at) => {
                left.zombies -= 1;
                let volume = world.volumes[*at].clone();
                let process = world.pods[*at].take().and_then(|pod| pod.process);
                world.zombie = process.map(|process| Zombie {
                    ordinal: *at as Ordinal,
                    process,
                    volume,
                    fenced: !self.copies,
                    cut: true,
                });
            }
            Act::Return => {
                if let Some(zombie) = &mut world.zombie {
                    zombie.cut = false;
                }
            }
            Act::Bury => world.zombie = None,
            _ => {}
        }
    }

    /// The patience of a process ends, by one step.
    fn wait(&self, world: &mut World, at: usize) {
        let Some(process) = world.process(at) else { return };
        let (part, waited) = (process.part, process.waited);
        let look = world.look(self, at);
        let next = match waited {
            0 if !part => 1,
            0 | 1 if !look.leader_known => 2,
            2 if !part && world.probes(self, at).0 => 3,
            _ => waited,
        };
        if let Some(process) = world.process_mut(at) {
            process.waited = next;
        }
    }

    fn of_process(&self, world: &World, at: usize, acts: &mut Vec<Act>) {
        let Some(process) = world.process(at).filter(|_| !world.is_cut(at)) else { return };
        let ordinal = world.ordinal(at);
        if process.founding.is_some() {
            acts.extend([Act::Initialise(at), Act::GiveUp(at)]);
        } else if self.late.contains(&at) && !process.part {
            acts.extend(
                (0..PODS as Ordinal).filter(|other| *other != ordinal).map(|other| Act::Ask(at, other)),
            );
            acts.push(Act::Decide(at, Ears::default()));
        } else {
            let deaf = if self.lossy && !process.part { 1 << PODS } else { 1 };
            let ears = (0..deaf)
                .filter(|_| !process.part || may_be_lost(world, at))
                .filter(|deaf| deaf >> ordinal & 1 == 0)
                .map(|deaf| Ears { deaf, zombie: false });
            acts.extend(ears.map(|ears| Act::Decide(at, ears)));
            if world.zombie.is_some() && at != ZOMBIE {
                acts.push(Act::Decide(at, Ears { deaf: 0, zombie: true }));
            }
        }
        if at != ZOMBIE {
            // Patience of one that takes part is for the sake of the next pod only.
            if process.waited < 3 && !(process.part && (self.parallel || process.waited == 2)) {
                acts.push(Act::Wait(at));
            }
            of_stop(world, at, acts);
        }
        acts.extend(world.electorates(at, false).into_iter().map(|voters| Act::Elect(at, voters)));
        of_leader(world, at, acts);
    }

    fn of_faults(&self, world: &World, acts: &mut Vec<Act>) {
        let left = &world.left;
        let running = |at: &usize| world.process(*at).is_some();
        if left.crashes > 0 {
            acts.extend((0..PODS).filter(running).map(Act::Crash));
        }
        if left.scalings > 0 {
            acts.extend(self.sizes.iter().filter(|size| **size != world.size).map(|size| Act::Scale(*size)));
        }
        if left.flips > 0 {
            acts.push(Act::Flip);
        }
        let struck = || self.struck.iter().copied();
        if left.losses > 0 {
            acts.extend(struck().flat_map(|at| [Act::Lose(at, false), Act::Lose(at, true)]));
        }
        if left.snapshots > 0 {
            acts.extend(struck().map(Act::Snapshot));
        }
        if let Some((ordinal, _)) = world.snapshot.as_ref().filter(|_| left.rollbacks > 0) {
            acts.push(Act::RollBack(usize::from(*ordinal)));
        }
        if left.foreign > 0 {
            acts.extend(struck().map(Act::Swap));
        }
        if left.zombies > 0 {
            acts.extend(struck().filter(running).map(Act::CutOff));
        }
        if let Some(zombie) = &world.zombie {
            acts.push(if zombie.cut { Act::Return } else { Act::Bury });
        }
    }
}

fn of_stop(world: &World, at: usize, acts: &mut Vec<Act>) {
    let terminating = world.pods[at].as_ref().is_some_and(|pod| pod.terminating);
    match world.process(at) {
        Some(process) if terminating && process.retiring => {
            acts.extend([Act::Retire(at), Act::GraceOver(at)]);
        }
        Some(_) if terminating => acts.push(Act::Depart(at)),
        _ => {}
    }
}

fn of_leader(world: &World, at: usize, acts: &mut Vec<Act>) {
    let Some(lead) = world.leads(at) else { return };
    acts.extend(world.all().map(|member| Act::Replicate(at, member)));
    acts.extend(lead.admitting.iter().map(|(ordinal, nonce)| Act::AddLearner(at, *ordinal, *nonce)));
    acts.push(Act::Plan(at, false));
    if world.members(at).ids().iter().any(|id| world.is_outside(id.ordinal())) {
        acts.push(Act::Plan(at, true));
    }
    if world.can_write(at) && world.left.writes > 0 {
        acts.push(Act::Write(at));
    }
    if world.can_write(at) && world.left.marks > 0 {
        acts.push(Act::Mark(at));
    }
}

/// Whether a majority of the volumes is intact and `there`: of those that vote by what was acknowledged, and by what intact disks
/// hold.
pub fn is_intact(world: &World, there: impl Fn(usize) -> bool) -> bool {
    let volumes = || (0..PODS).map(|at| (at, &world.volumes[at]));
    let sound = |at: usize, volume: &Volume| {
        usize::from(volume.ordinal) == at && volume.branch == 0 && !matches!(volume.file, File::Lost(_))
    };
    let Some(cluster) = world.ghost.cluster else {
        return world.ghost.lost_early.len() * 2 < PODS;
    };
    let holds = |id| {
        volumes().any(|(at, volume)| {
            there(at) && sound(at, volume) && volume.cluster == cluster && volume.node == id
        })
    };
    let held = volumes()
        .filter(|(at, volume)| sound(*at, volume) && volume.cluster == cluster)
        .filter_map(|(_, volume)| last_members(&volume.log));
    last_members(&world.ghost.acked).into_iter().chain(held).all(|members| members.has_quorum(holds))
}

/// Whether a disk that takes part may hear anything against it: it was begun anew, rolled back, removed, or has a twin.
fn may_be_lost(world: &World, at: usize) -> bool {
    let volume = world.volume(at);
    let acked = last_members(&world.ghost.acked);
    world.zombie.is_some()
        || volume.branch > 0
        || volume.boot > 1
        || acked.is_some_and(|members| !members.contains(volume.node))
}

impl Explored for Model {
    type State = World;
    type Action = Act;

    fn init_states(&self) -> Vec<World> {
        self.begin.clone()
    }

    fn actions(&self, world: &World, acts: &mut Vec<Act>) {
        // Not a boundary of the checker, which would not look at what is beyond it.
        if world.ghost.broken.is_some() || world.ghost.blind {
            return;
        }
        let (missing, condemned) = world.controller(self);
        acts.extend(missing.into_iter().map(Act::Create));
        acts.extend(condemned.into_iter().map(Act::Terminate));
        let waiting = |at: &usize| world.pods[*at].as_ref().is_some_and(|pod| pod.process.is_none());
        acts.extend((0..PODS).filter(waiting).map(Act::Start));
        for at in 0..=ZOMBIE {
            self.of_process(world, at, acts);
        }
        acts.extend(world.letters.iter().cloned().map(Act::Deliver));
        self.of_faults(world, acts);
    }

    fn next_state(&self, world: &World, act: Act) -> Option<World> {
        self.after(world, &act)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        fn is_not(world: &World, what: &[Broken]) -> bool {
            world.ghost.broken.is_none_or(|broken| !what.contains(&broken))
        }
        vec![
            Property::always(property::ONE_CLUSTER, |_, world| is_not(world, &[Broken::SecondCluster])),
            Property::always(property::ALL_STAYS, |_, world| is_not(world, &[Broken::Fork, Broken::Forgot])),
            Property::always(property::ONE_DISK, |_, world| is_not(world, &[Broken::TwoDisks])),
            Property::always(property::MAJORITY_LIVES, |_, world| is_not(world, &[Broken::TooFew])),
            Property::always(property::NONE_REMOVED, |_, world| is_not(world, &[Broken::Removed])),
            Property::always(property::SOUND_STAYS, |_, world| is_not(world, &[Broken::FalselyLost])),
            Property::always(property::HEALS, heal::heals),
            Property::sometimes(property::ALL_IS_WELL, heal::is_well),
        ]
    }
}
