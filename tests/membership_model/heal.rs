//! What "eventually" means here: from every world, once faults stop, one fair scheduler of the model's own steps comes to a world in
//! which all is well, within a bounded number of steps.
//!
//! That is checked in every world that is reached, as an invariant, and not with the checker's own "eventually", which overlooks
//! cycles. The scheduler is a function of the world alone: the first step in its order that changes something. So what is known of
//! one world is known of all that lead to it, and each is looked at once. Patience comes last: whoever waits, waits until nothing
//! else happens.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::model::{Act, FOREIGN, Model, is_intact};
use super::start::Ears;
use super::state::{PODS, World};

/// Steps within which a world must heal.
const STEPS: usize = 250;

/// All is well: it serves, every pod in the range is ready, and every pod outside is gone. A pod with another cluster's volume
/// needs a human.
pub fn is_well(model: &Model, world: &World) -> bool {
    let size = usize::from(world.size);
    let as_wanted = (0..PODS).all(|at| {
        let pod = world.pods[at].as_ref();
        pod.is_some() == (at < size) && pod.is_none_or(|pod| !pod.terminating)
    });
    let led = || {
        size == 0
            || (0..PODS).any(|at| {
                world.leads_alive(at) && world.is_committed(at) && world.members(at).configs.len() == 1
            })
    };
    let needs_a_human = |at: usize| world.volumes[at].cluster == FOREIGN;
    let serves = |at: usize| needs_a_human(at) || world.probes(model, at).1;
    as_wanted && led() && (0..size).all(serves)
}

/// Whether the world heals, if it is one that must: where a majority of the volumes is intact. If pods of that majority were scaled
/// away before they could be let go, it does as soon as somebody scales to all of them, as `status` says.
pub fn heals(model: &Model, world: &World) -> bool {
    let excused = world.ghost.broken.is_some() || world.ghost.blind;
    if excused || !is_intact(world, |_| true) {
        return true;
    }
    let there = |at: usize| world.is_live(at) || at < usize::from(world.size);
    if world.size == 0 || is_intact(world, there) {
        return heals_from(model, world.clone());
    }
    heals_from(model, World { size: PODS as u16, ..world.clone() })
}

fn heals_from(model: &Model, mut now: World) -> bool {
    let mut way = Vec::new();
    let healed = loop {
        let print = fingerprint(&now);
        if model.healing.lock().expect("nobody panicked").contains(&print) || is_well(model, &now) {
            way.push(print);
            break true;
        }
        way.push(print);
        if way.len() > STEPS {
            break false;
        }
        match step(model, &now) {
            Some((_, next)) => now = next,
            None => break false,
        }
    };
    if healed {
        model.healing.lock().expect("nobody panicked").extend(way);
    }
    healed
}

fn fingerprint(world: &World) -> u64 {
    let mut hasher = DefaultHasher::new();
    world.hash(&mut hasher);
    hasher.finish()
}

/// The next step of healing.
pub fn step(model: &Model, world: &World) -> Option<(Act, World)> {
    let tried = |act: Act| model.after(world, &act).map(|next| (act, next));
    let retiring = |at: &usize| world.process(*at).is_some_and(|process| process.retiring);
    tried(Act::Calm)
        .or_else(|| pods(model, world).into_iter().find_map(tried))
        .or_else(|| (0..PODS).flat_map(|at| of_process(model, world, at)).find_map(tried))
        .or_else(|| elections(world).into_iter().find_map(tried))
        .or_else(|| (0..PODS).flat_map(|at| of_leader(world, at)).find_map(tried))
        .or_else(|| (0..PODS).map(Act::Wait).find_map(tried))
        .or_else(|| (0..PODS).filter(retiring).map(Act::GraceOver).find_map(tried))
}

fn pods(model: &Model, world: &World) -> Vec<Act> {
    let (missing, condemned) = world.controller(model);
    let waiting = |at: &usize| world.pods[*at].as_ref().is_some_and(|pod| pod.process.is_none());
    let mut acts: Vec<Act> = missing.into_iter().map(Act::Create).collect();
    acts.extend(condemned.into_iter().map(Act::Terminate));
    acts.extend((0..PODS).filter(waiting).map(Act::Start));
    acts
}

fn of_process(model: &Model, world: &World, at: usize) -> Vec<Act> {
    let Some(process) = world.process(at) else { return Vec::new() };
    let mut acts = Vec::new();
    if let Some(founding) = &process.founding {
        // Letters of earlier attempts were lost; those of this one too, if they came no more.
        let own = |letter: &&super::state::Letter| letter.cluster == founding.cluster;
        acts.extend(world.letters.iter().filter(own).cloned().map(Act::Deliver));
        acts.extend([Act::Initialise(at), Act::GiveUp(at)]);
        return acts;
    }
    if model.late.contains(&at) && !process.part {
        acts.extend(
            (0..PODS as u16).filter(|other| usize::from(*other) != at).map(|other| Act::Ask(at, other)),
        );
    }
    acts.push(Act::Decide(at, Ears::default()));
    if world.pods[at].as_ref().is_some_and(|pod| pod.terminating) {
        acts.push(if process.retiring { Act::Retire(at) } else { Act::Depart(at) });
    }
    acts
}

fn elections(world: &World) -> Vec<Act> {
    let elected = |at: usize| world.electorates(at, false).into_iter().map(move |by| Act::Elect(at, by));
    (0..PODS).flat_map(elected).collect()
}

fn of_leader(world: &World, at: usize) -> Vec<Act> {
    let Some(lead) = world.leads(at) else { return Vec::new() };
    let mut acts: Vec<Act> = world.all().map(|member| Act::Replicate(at, member)).collect();
    acts.extend(lead.admitting.iter().map(|(ordinal, nonce)| Act::AddLearner(at, *ordinal, *nonce)));
    acts.extend([Act::Plan(at, false), Act::Plan(at, true)]);
    acts
}
