//! A model check of membership: the crate's own pure functions (start table, readiness, plan, admission, stop, replicated cluster state)
//! in a small abstract world of three ordinals, which stateright explores in full, one scenario after the other.
//!
//! What must hold in every world that is reached:
//! * at most one cluster ever acknowledges anything, and what is acknowledged stays;
//! * a node id names one disk; a sound disk is never declared lost;
//! * nobody is removed whose ordinal is wanted and who has no successor, and no change begins that leaves fewer live voters than a
//!   majority;
//! * it heals: see `heal`. If a majority of the volumes is intact and faults stop, it serves, every pod in the range is ready,
//!   and every pod outside is gone. That is what "eventually" means here: one fair scheduler, from every world, in bounded steps; not every
//!   schedule, and not the checker's own "eventually", which overlooks cycles.
//!
//! That the check can fail is shown by mistakes put in place of single functions; each must be found.
//!
//! What is real: `decide`, `whom_to_ask`, `needed`, `readiness`, `plan`, `may_join`, `verdict`, `below_mark`, `Disk::from_identity`,
//! `Identity::settled`, `Cluster`. What is abstract:
//! * Consensus (`consensus`): logs are whole and never cut, an election with all its votes is one step, a leader sends all that it has
//!   or nothing. A leader without a quorum is not heard from. Candidates that lose do not raise terms.
//! * Time: patience may end at any moment (2 s, 15 s without a leader, 60 s since ready), for all peers at once. Time that is over stays
//!   over. What an answer says is of this moment, or lost; where a scenario says so, one pod goes by what it heard of each pod when it
//!   asked last, however old. DNS has no cache: a pod that does not exist is absent.
//! * Joining: an admission that changes nothing is not written once more; its requests are repeated, not kept.
//! * Not here: more than three ordinals, another `ordinals.start`, `max_voters`, the size as recorded in the state, `recover`,
//!   fixed lists of members, snapshots of the state, `MemberAdd` and `MemberRemove`.
//! * A volume that was rolled back and takes part although everyone was asked and nobody held any evidence is what DESIGN says cannot be
//!   noticed: such worlds are left aside.
//! * A zombie's volume is taken away from it, so that it can write no more. Two processes that write to copies of one disk can forget what was
//!   acknowledged, while nobody heard of the newer boot; the model shows that too.
//!
//! Bounds are the budgets of faults in `scenarios`. A set that sleeps and wakes is explored with `OrderedReady`; with Parallel it is a cold
//! start only. One that hides something: pods that are scaled away before the cluster could let them go may leave it without a quorum. Then
//! it heals as soon as somebody scales to all its members, as `status` says.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

#[path = "membership_model/consensus.rs"]
mod consensus;
#[path = "membership_model/heal.rs"]
mod heal;
#[path = "membership_model/leading.rs"]
mod leading;
#[path = "membership_model/model.rs"]
mod model;
#[path = "membership_model/pods.rs"]
mod pods;
#[path = "membership_model/rules.rs"]
mod rules;
#[path = "membership_model/scenarios.rs"]
mod scenarios;
#[path = "membership_model/start.rs"]
mod start;
#[path = "membership_model/state.rs"]
mod state;

use model::{Model, property};
use rules::Mistake;
use stateright::{Checker, HasDiscoveries, Model as _};

/// Explores all worlds of a scenario. Nothing may be wrong in any, and all must be well in one.
fn explore(model: Model) {
    let checker = model.checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    println!("{} worlds, {} deep", checker.unique_state_count(), checker.max_depth());
    for (what, path) in checker.discoveries() {
        if what != property::ALL_IS_WELL {
            let world = path.last_state().clone();
            let way: Vec<_> = path.into_actions().iter().map(|act| format!("  {act:?}")).collect();
            panic!("not always: {what}\n{}\n{world:#?}", way.join("\n"));
        }
    }
    assert!(checker.is_done(), "not every world was looked at");
    assert!(checker.discovery(property::ALL_IS_WELL).is_some(), "all is never well");
}

/// The scenario, with a mistake in it, must break the property.
fn finds(what: &'static str, model: Model) {
    let checker =
        model.checker().threads(2).finish_when(HasDiscoveries::AnyOf([what].into())).spawn_bfs().join();
    assert!(checker.discovery(what).is_some(), "{what}: a mistake was not found");
}

#[test]
fn first_bootstrap() {
    for parallel in [true, false] {
        explore(scenarios::bootstrap(parallel, Mistake::None));
    }
}

#[test]
fn first_bootstrap_by_late_answers() {
    for late in [0, 2] {
        explore(scenarios::bootstrap_late(late));
    }
}

#[test]
fn letters_of_two_bootstraps_out_of_order_found_one_cluster_at_most() {
    explore(scenarios::bootstrap_reordered());
}

#[test]
fn lost_volumes() {
    for parallel in [true, false] {
        explore(scenarios::replace(parallel, Mistake::None));
    }
}

#[test]
fn a_join_that_breaks_off() {
    explore(scenarios::join(Mistake::None));
}

#[test]
fn a_volume_that_was_rolled_back() {
    explore(scenarios::rolled_back(Mistake::None));
}

#[test]
fn a_volume_of_another_cluster() {
    for parallel in [true, false] {
        explore(scenarios::foreign_volume(parallel));
    }
}

#[test]
fn a_zombie() {
    explore(scenarios::zombie(false));
}

#[test]
fn scaled_down_and_up() {
    for parallel in [true, false] {
        explore(scenarios::scaling(parallel, Mistake::None));
    }
}

#[test]
fn scaled_up_and_down() {
    for parallel in [true, false] {
        for top in [2, 3] {
            explore(scenarios::growing(parallel, top, Mistake::None));
        }
    }
}

#[test]
fn the_last_volume_of_a_small_cluster_is_lost() {
    explore(scenarios::scaled_down_and_lost());
}

#[test]
fn hibernation() {
    explore(scenarios::hibernation());
}

#[test]
fn cold_start() {
    for parallel in [true, false] {
        explore(scenarios::cold_start(parallel, Mistake::None));
    }
}

#[test]
fn mistakes_are_found() {
    use property::{ALL_STAYS, HEALS, MAJORITY_LIVES, NONE_REMOVED, ONE_CLUSTER};
    finds(ONE_CLUSTER, scenarios::cold_start(true, Mistake::SilenceIsEverybody));
    finds(ALL_STAYS, scenarios::rolled_back(Mistake::ResumeWithoutQuorum));
    finds(ALL_STAYS, scenarios::rolled_back(Mistake::IgnoreMarks));
    // Not a mistake of a function: two processes write to copies of one disk, and none of the two learns of the other in time.
    finds(ALL_STAYS, scenarios::zombie(true));
    finds(NONE_REMOVED, scenarios::join(Mistake::SilenceIsRemoval));
    finds(NONE_REMOVED, scenarios::scaling(false, Mistake::SizeUnknownIsOne));
    finds(MAJORITY_LIVES, scenarios::growing(true, 2, Mistake::EverybodyIsFit));
    finds(HEALS, scenarios::bootstrap(false, Mistake::NeverReadyWithoutLeader));
}
