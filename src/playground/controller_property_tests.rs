//! The controller in every order of events that proptest finds.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::time::Duration;

use proptest::prelude::*;

use super::controller::{Event, PodManagement, Spec, WhenScaled};
use super::controller_tests::World;
use super::pod::{BackOff, ContainerId};
use crate::identity::Ordinal;

/// What the world may do next; numbers choose among what is possible.
#[derive(Clone, Copy, Debug)]
enum Move {
    Probe(usize, bool),
    Exit(usize, u16),
    WaitOver(usize),
    GraceOver(usize),
    Delete(Ordinal),
    DeleteAll,
    Force(Ordinal, u8),
    LingerOver(usize),
    Rollout,
    Kill(Ordinal),
    Scale(Ordinal),
    TearDown,
    Hurry,
    Stale(usize),
}

fn moves() -> impl Strategy<Value = Move> {
    prop_oneof![
        12 => (any::<usize>(), prop::bool::weighted(0.7)).prop_map(|(at, ok)| Move::Probe(at, ok)),
        5 => (any::<usize>(), 0..1_000u16).prop_map(|(at, seconds)| Move::Exit(at, seconds)),
        3 => any::<usize>().prop_map(Move::WaitOver),
        2 => any::<usize>().prop_map(Move::GraceOver),
        2 => (0..6u16).prop_map(Move::Delete),
        1 => Just(Move::DeleteAll),
        1 => (0..6u16, 0..3u8).prop_map(|(ordinal, seconds)| Move::Force(ordinal, seconds)),
        1 => any::<usize>().prop_map(Move::LingerOver),
        1 => Just(Move::Rollout),
        1 => (0..6u16).prop_map(Move::Kill),
        1 => (0..6u16).prop_map(Move::Scale),
        1 => any::<usize>().prop_map(Move::Stale),
    ]
}

impl World {
    fn play(&mut self, step: Move, old: &[ContainerId]) {
        let all: Vec<ContainerId> = self.running.iter().copied().collect();
        let pick = |at: usize, len: usize| at.checked_rem(len);
        let event = match step {
            Move::Probe(at, success) => {
                pick(at, all.len()).map(|at| Event::Probed { container: all[at], success })
            }
            Move::Exit(at, seconds) => pick(at, all.len()).map(|at| Event::ContainerExited {
                container: all[at],
                ran_for: Duration::from_secs(u64::from(seconds)),
                how: "exit code 0".to_owned(),
            }),
            Move::WaitOver(at) => pick(at, self.waiting.len())
                .map(|at| Event::BackOffElapsed { container: self.waiting.swap_remove(at).0 }),
            Move::GraceOver(at) => pick(at, self.graces.len())
                .map(|at| Event::GraceElapsed { container: self.graces.swap_remove(at) }),
            Move::LingerOver(at) => pick(at, self.lingering.len())
                .map(|at| Event::LingerElapsed { container: self.lingering.swap_remove(at) }),
            Move::Delete(ordinal) => Some(Event::DeletePod { ordinal }),
            Move::DeleteAll => Some(Event::DeleteAllPods),
            Move::Force(ordinal, seconds) => {
                Some(Event::ForceDeletePod { ordinal, linger: Duration::from_secs(seconds.into()) })
            }
            Move::Rollout => Some(Event::RolloutRestart),
            Move::Kill(ordinal) => Some(Event::KillContainer { ordinal }),
            Move::Scale(replicas) => Some(Event::Scale { replicas }),
            Move::TearDown => Some(Event::TearDown),
            Move::Hurry => Some(Event::Hurry),
            Move::Stale(at) => pick(at, old.len())
                .map(|at| old[at])
                .filter(|old| !self.running.contains(old))
                .map(|container| Event::ContainerExited {
                    container,
                    ran_for: Duration::ZERO,
                    how: String::new(),
                }),
        };
        if let Some(event) = event {
            self.step(event);
        }
    }

    /// From any state: whatever was lost is replaced and every pod becomes ready, given that processes run.
    fn settle(&mut self) {
        for _ in 0..1_000 {
            if self.set.is_settled() && self.forgotten.is_empty() {
                return;
            }
            self.orphans_end();
            let ending: Vec<Ordinal> = self
                .set
                .pods()
                .values()
                .filter(|pod| pod.is_terminating())
                .map(|pod| pod.key().ordinal)
                .collect();
            for ordinal in ending {
                self.exit(ordinal);
            }
            while !self.waiting.is_empty() {
                self.wait_over();
            }
            for container in self.running.clone() {
                self.step(Event::Probed { container, success: true });
            }
        }
        panic!("does not settle: {:?}", self.set);
    }

    /// Processes without a pod end, whatever they were told.
    fn orphans_end(&mut self) {
        for container in self.running.clone() {
            if self.forgotten.contains(&container.pod) {
                self.step(Event::ContainerExited { container, ran_for: Duration::ZERO, how: String::new() });
            }
        }
    }

    /// From any state: it ends, given that processes end.
    fn end(&mut self) {
        self.step(Event::TearDown);
        self.orphans_end();
        for _ in 0..1_000 {
            if self.pods.is_empty() {
                return;
            }
            let ending = self.set.pods().values().find(|pod| pod.is_terminating());
            let ordinal = ending.map(|pod| pod.key().ordinal).expect("waits for nothing");
            self.exit(ordinal);
        }
        panic!("does not end: {:?}", self.set);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// The world's assertions hold in every order of events, and from wherever that leads the set settles and ends.
    #[test]
    fn whatever_happens_the_promises_hold(
        replicas in 0..5u16,
        first in 0..3u16,
        parallel: bool,
        delete: bool,
        steps in prop::collection::vec(moves(), 0..120),
        last in prop::option::of(prop_oneof![Just(Move::TearDown), Just(Move::Hurry)]),
        after in prop::collection::vec(moves(), 0..30),
    ) {
        let management = if parallel { PodManagement::Parallel } else { PodManagement::OrderedReady };
        let when_scaled = if delete { WhenScaled::Delete } else { WhenScaled::Retain };
        let mut world = World::new(Spec { first, management, when_scaled, ..Spec::new(replicas) });
        world.step(Event::Sync);
        let mut old = Vec::new();
        for step in steps {
            old.extend(world.running.iter().copied());
            old.dedup();
            world.play(step, &old);
        }
        match last {
            Some(last) => {
                world.play(last, &old);
                for step in after {
                    world.play(step, &old);
                }
            }
            None => world.settle(),
        }
        world.end();
        prop_assert!(world.running.is_empty() && world.set.is_gone());
    }

    /// The same events give the same actions.
    #[test]
    fn it_is_deterministic(steps in prop::collection::vec(moves(), 0..60)) {
        let (mut one, mut other) =
            (World::with(3, PodManagement::OrderedReady), World::with(3, PodManagement::OrderedReady));
        for step in steps {
            one.play(step, &[]);
            other.play(step, &[]);
            prop_assert_eq!(&one.said, &other.said);
        }
    }

    /// The back-off never shrinks before it is reset, and never passes its limit.
    #[test]
    fn back_off_is_monotone_and_bounded(runs in prop::collection::vec(0..1_200u64, 1..50)) {
        let rule = BackOff::default();
        let (mut last, mut before) = (None, Duration::ZERO);
        for seconds in runs {
            let ran_for = Duration::from_secs(seconds);
            let (wait, next) = rule.after(last, ran_for);
            prop_assert!(wait <= rule.max && next <= rule.max);
            if last.is_some() && ran_for <= rule.reset_after {
                prop_assert!(wait >= before && wait >= rule.initial);
            } else {
                prop_assert_eq!(wait, Duration::ZERO);
            }
            (last, before) = (Some(next), wait);
        }
    }
}
