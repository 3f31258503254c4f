//! The controller against tables and against every order of events that proptest finds.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;

use super::controller::{Action, Event, PodManagement, Spec, StatefulSet};
use super::pod::{BackOff, ContainerId, Phase, PodKey};
use crate::identity::Ordinal;

/// A world that carries out actions and forgets nothing: what the controller may rely on, checked at every action.
struct World {
    set: StatefulSet,
    /// Pods that were created and not removed, and what is known of them.
    pods: BTreeMap<PodKey, Known>,
    /// Containers whose process runs.
    running: BTreeSet<ContainerId>,
    waiting: Vec<(ContainerId, Duration)>,
    graces: Vec<ContainerId>,
    /// The pod that somebody deletes or kills by hand in this step.
    by_hand: Option<Ordinal>,
    /// A short transcript of the actions.
    said: Vec<String>,
}

#[derive(Default)]
struct Known {
    ready: bool,
    terminating: bool,
}

impl World {
    fn new(spec: Spec) -> Self {
        Self {
            set: StatefulSet::new(spec),
            pods: BTreeMap::new(),
            running: BTreeSet::new(),
            waiting: Vec::new(),
            graces: Vec::new(),
            by_hand: None,
            said: Vec::new(),
        }
    }

    fn with(replicas: Ordinal, management: PodManagement) -> Self {
        Self::new(Spec { management, ..Spec::new(replicas) })
    }

    fn ordered(&self) -> bool {
        self.set.spec().management == PodManagement::OrderedReady
    }

    /// Takes an event; says what followed, as in `create 0, start 0`.
    fn step(&mut self, event: Event) -> String {
        if let Event::ContainerExited { container, .. } = &event {
            self.running.remove(container);
        }
        self.by_hand = match &event {
            Event::DeletePod { ordinal } | Event::KillContainer { ordinal } => Some(*ordinal),
            _ => None,
        };
        self.said.clear();
        for action in self.set.step(event) {
            self.act(action);
        }
        for (ordinal, pod) in self.set.pods() {
            let known = &self.pods[&pod.key()];
            assert_eq!((pod.is_ready(), pod.is_terminating()), (known.ready, known.terminating));
            assert_eq!(*ordinal, pod.key().ordinal);
            assert_eq!(pod.running().is_some(), pod.running().is_some_and(|id| self.running.contains(&id)));
            assert!(!pod.is_ready() || pod.running().is_some(), "ready without a container");
        }
        assert_eq!(self.set.pods().len(), self.pods.len());
        self.said.join(", ")
    }

    fn act(&mut self, action: Action) {
        let n = |pod: PodKey| pod.ordinal;
        match action {
            Action::CreatePod(pod) => {
                self.said.push(format!("create {}", n(pod)));
                assert!(!self.set.is_ending(), "created while ending");
                assert!(self.set.spec().wants(pod.ordinal));
                assert!(self.pods.keys().all(|other| other.ordinal != pod.ordinal), "two pods of one name");
                if self.ordered() {
                    for lower in self.set.spec().ordinals().take_while(|lower| *lower < pod.ordinal) {
                        let below = self.pods.iter().find(|(key, _)| key.ordinal == lower);
                        let ready = below.is_some_and(|(_, known)| known.ready && !known.terminating);
                        assert!(ready, "{} created before {lower} is ready", pod.ordinal);
                    }
                }
                self.pods.insert(pod, Known::default());
            }
            Action::StartContainer(container) => {
                self.said.push(format!("start {}", n(container.pod)));
                let known = &self.pods[&container.pod];
                assert!(!known.terminating && !known.ready);
                let same = |other: &&ContainerId| other.pod.ordinal == container.pod.ordinal;
                assert_eq!(self.running.iter().find(same), None, "two processes for one ordinal");
                assert!(self.running.insert(container));
            }
            Action::Wait { container, wait } => {
                self.said.push(format!("wait {} {}s", n(container.pod), wait.as_secs()));
                self.waiting.push((container, wait));
            }
            Action::Ready { pod, ready } => {
                self.said.push(format!("{} {}", if ready { "ready" } else { "unready" }, n(pod)));
                let known = self.pods.get_mut(&pod).unwrap();
                assert_ne!(known.ready, ready, "told twice");
                known.ready = ready;
            }
            Action::Terminate { container, .. } => {
                self.said.push(format!("terminate {}", n(container.pod)));
                self.terminating(container);
                self.graces.push(container);
            }
            Action::Kill(container) => {
                self.said.push(format!("kill {}", n(container.pod)));
                assert!(self.running.contains(&container));
                if self.set.is_ending() && self.by_hand != Some(n(container.pod)) {
                    self.pods.get_mut(&container.pod).unwrap().terminating = true;
                }
            }
            Action::RemovePod(pod) => {
                self.said.push(format!("remove {}", n(pod)));
                assert!(self.running.iter().all(|container| container.pod != pod), "its process runs");
                assert!(!self.pods[&pod].ready);
                self.pods.remove(&pod);
            }
        }
    }

    fn terminating(&mut self, container: ContainerId) {
        assert!(self.running.contains(&container));
        let ordinal = container.pod.ordinal;
        let by_hand = self.by_hand == Some(ordinal);
        if !by_hand && self.ordered() && (self.set.is_ending() || !self.set.spec().wants(ordinal)) {
            let above = self.pods.keys().filter(|pod| pod.ordinal > ordinal);
            // A pod that was deleted by hand goes whenever it is told; the others wait for those above.
            assert_eq!(above.count(), 0, "{ordinal} goes before those above it");
        }
        self.pods.get_mut(&container.pod).unwrap().terminating = true;
    }

    fn container(&self, ordinal: Ordinal) -> ContainerId {
        self.set.pods()[&ordinal].running().unwrap()
    }

    fn probe(&mut self, ordinal: Ordinal, success: bool) -> String {
        let container = self.container(ordinal);
        self.step(Event::Probed { container, success })
    }

    fn exit(&mut self, ordinal: Ordinal) -> String {
        self.exit_after(ordinal, Duration::from_secs(1))
    }

    fn exit_after(&mut self, ordinal: Ordinal, ran_for: Duration) -> String {
        let container = self.container(ordinal);
        self.step(Event::ContainerExited { container, ran_for, how: "exit code 1".to_owned() })
    }

    fn wait_over(&mut self) -> String {
        let (container, _) = self.waiting.pop().unwrap();
        self.step(Event::BackOffElapsed { container })
    }

    fn all_ready(replicas: Ordinal, management: PodManagement) -> Self {
        let mut world = Self::with(replicas, management);
        world.step(Event::Sync);
        for ordinal in 0..replicas {
            world.probe(ordinal, true);
        }
        assert!(world.set.is_settled());
        world
    }
}

#[test]
fn ordered_pods_start_one_after_the_other_and_stop_in_reverse() {
    let mut world = World::with(3, PodManagement::OrderedReady);
    assert_eq!(world.step(Event::Sync), "create 0, start 0");
    assert_eq!(world.step(Event::Sync), "");
    assert_eq!(world.probe(0, false), "");
    assert_eq!(world.probe(0, true), "ready 0, create 1, start 1");
    assert_eq!(world.probe(1, true), "ready 1, create 2, start 2");
    assert!(!world.set.is_settled());
    assert_eq!(world.probe(2, true), "ready 2");
    assert!(world.set.is_settled());
    assert_eq!(world.step(Event::TearDown), "unready 2, terminate 2");
    assert_eq!(world.step(Event::TearDown), "");
    assert_eq!(world.exit(2), "remove 2, unready 1, terminate 1");
    assert_eq!(world.exit(1), "remove 1, unready 0, terminate 0");
    assert_eq!(world.exit(0), "remove 0");
    assert_eq!(world.step(Event::Sync), "");
}

#[test]
fn parallel_pods_start_and_stop_all_at_once() {
    let mut world = World::with(3, PodManagement::Parallel);
    assert_eq!(world.step(Event::Sync), "create 0, start 0, create 1, start 1, create 2, start 2");
    assert_eq!(world.probe(2, true), "ready 2");
    assert_eq!(world.step(Event::TearDown), "unready 2, terminate 2, terminate 1, terminate 0");
    assert_eq!(world.exit(1), "remove 1");
}

#[test]
fn readiness_lost_in_the_middle_of_the_start_holds_back_the_rest() {
    let mut world = World::with(3, PodManagement::OrderedReady);
    world.step(Event::Sync);
    world.probe(0, true);
    for expected in ["", "", "unready 0", ""] {
        assert_eq!(world.probe(0, false), expected);
    }
    assert_eq!(world.probe(1, true), "ready 1", "1 is ready, but 0 is not any more");
    // One success is enough, and the failures before it are forgotten.
    assert_eq!(world.probe(0, true), "ready 0, create 2, start 2");
    assert_eq!(world.probe(0, false), "");
    assert_eq!(world.probe(0, false), "");
    assert_eq!(world.probe(0, true), "");
    assert_eq!(world.probe(0, false), "");
}

#[test]
fn a_crash_loop_waits_longer_each_time_and_keeps_the_pod() {
    let mut world = World::with(2, PodManagement::OrderedReady);
    world.step(Event::Sync);
    let pod = world.set.pods()[&0].key();
    assert_eq!(world.exit(0), "start 0", "the first restart comes at once");
    for seconds in [10, 20, 40, 80, 160, 300, 300] {
        assert_eq!(world.exit(0), format!("wait 0 {seconds}s"));
        assert_eq!(world.set.pods()[&0].phase(), Phase::CrashLoopBackOff);
        assert_eq!(world.wait_over(), "start 0");
    }
    assert_eq!(world.set.pods()[&0].key(), pod, "still the same pod");
    assert_eq!(world.set.pods()[&0].restarts(), 8);
    assert_eq!(world.set.pods()[&0].last_exit(), Some("exit code 1"));
    assert_eq!(world.probe(0, true), "ready 0, create 1, start 1");
    // What ran long enough starts at once again; being ready makes no difference.
    assert_eq!(world.exit(0), "unready 0, wait 0 300s");
    world.wait_over();
    assert_eq!(world.exit_after(0, Duration::from_secs(601)), "start 0");
    assert_eq!(world.exit(0), "wait 0 10s");
}

#[test]
fn a_kill_is_a_crash_and_nothing_without_a_container() {
    let mut world = World::all_ready(1, PodManagement::OrderedReady);
    assert_eq!(world.step(Event::KillContainer { ordinal: 0 }), "kill 0");
    assert_eq!(world.exit(0), "unready 0, start 0");
    assert_eq!(world.exit(0), "wait 0 10s");
    assert_eq!(world.step(Event::KillContainer { ordinal: 0 }), "");
    assert_eq!(world.step(Event::KillContainer { ordinal: 7 }), "");
}

#[test]
fn a_deleted_pod_comes_back_as_another_once_it_has_ended() {
    let mut world = World::all_ready(3, PodManagement::OrderedReady);
    let old = world.set.pods()[&1].key();
    assert_eq!(world.step(Event::DeletePod { ordinal: 1 }), "unready 1, terminate 1");
    assert_eq!(world.step(Event::DeletePod { ordinal: 1 }), "");
    assert_eq!(world.probe(1, true), "", "a terminating pod does not become ready");
    assert_eq!(world.exit(1), "remove 1, create 1, start 1");
    assert_ne!(world.set.pods()[&1].key(), old);
    assert_eq!(world.set.pods()[&1].restarts(), 0);
}

#[test]
fn a_pod_that_does_not_end_is_killed_when_its_grace_is_over() {
    let mut world = World::all_ready(1, PodManagement::OrderedReady);
    world.step(Event::DeletePod { ordinal: 0 });
    let container = world.graces.pop().unwrap();
    assert_eq!(world.step(Event::GraceElapsed { container }), "kill 0");
    assert_eq!(world.exit(0), "remove 0, create 0, start 0");
    assert_eq!(
        world.step(Event::GraceElapsed { container }),
        "",
        "the new one is not killed for the old one"
    );
}

#[test]
fn deletion_while_starting_and_while_waiting() {
    let mut world = World::with(2, PodManagement::OrderedReady);
    world.step(Event::Sync);
    assert_eq!(world.step(Event::DeletePod { ordinal: 0 }), "terminate 0");
    assert_eq!(world.exit(0), "remove 0, create 0, start 0");
    world.exit(0);
    world.exit(0);
    // In back-off there is nothing to wait for, and the new pod knows nothing of the old one's back-off.
    assert_eq!(world.step(Event::DeletePod { ordinal: 0 }), "remove 0, create 0, start 0");
    assert_eq!(world.wait_over(), "", "the wait of the old pod");
    assert_eq!(world.exit(0), "start 0");
}

#[test]
fn a_lower_pod_that_is_not_ready_keeps_a_deleted_one_from_coming_back() {
    let mut world = World::all_ready(3, PodManagement::OrderedReady);
    for _ in 0..3 {
        world.probe(0, false);
    }
    world.step(Event::DeletePod { ordinal: 2 });
    assert_eq!(world.exit(2), "remove 2");
    assert_eq!(world.probe(0, true), "ready 0, create 2, start 2");
    // With Parallel it comes back whatever the others do.
    let mut world = World::with(3, PodManagement::Parallel);
    world.step(Event::Sync);
    world.step(Event::DeletePod { ordinal: 2 });
    assert_eq!(world.exit(2), "remove 2, create 2, start 2");
}

#[test]
fn scaling_up_and_down() {
    let mut world = World::all_ready(1, PodManagement::OrderedReady);
    assert_eq!(world.step(Event::Scale { replicas: 3 }), "create 1, start 1");
    assert_eq!(world.probe(1, true), "ready 1, create 2, start 2");
    // Down again while 2 starts: it is the lowest that is not ready, so it may go.
    assert_eq!(world.step(Event::Scale { replicas: 1 }), "terminate 2");
    assert_eq!(world.exit(2), "remove 2, unready 1, terminate 1");
    // Up again while 1 terminates: it goes first, then comes back.
    assert_eq!(world.step(Event::Scale { replicas: 2 }), "");
    assert_eq!(world.exit(1), "remove 1, create 1, start 1");
    assert_eq!(world.step(Event::Scale { replicas: 0 }), "terminate 1");
    assert_eq!(world.exit(1), "remove 1, unready 0, terminate 0");
    assert_eq!(world.exit(0), "remove 0");
    assert!(world.set.is_settled());
    assert_eq!(world.step(Event::Scale { replicas: 1 }), "create 0, start 0");
}

#[test]
fn ordered_scaling_down_stops_at_a_pod_that_is_not_ready_unless_it_is_the_lowest_such() {
    let mut world = World::all_ready(4, PodManagement::OrderedReady);
    for ordinal in [1, 3] {
        for _ in 0..3 {
            world.probe(ordinal, false);
        }
    }
    assert_eq!(world.step(Event::Scale { replicas: 1 }), "", "3 is not ready, and 1 is lower and not ready");
    assert_eq!(world.probe(1, true), "ready 1, terminate 3");
    let mut world = World::all_ready(3, PodManagement::OrderedReady);
    for _ in 0..3 {
        world.probe(0, false);
    }
    assert_eq!(world.step(Event::Scale { replicas: 1 }), "", "those that stay are to be ready first");
    assert_eq!(world.probe(0, true), "ready 0, unready 2, terminate 2");
}

#[test]
fn ordinals_may_begin_elsewhere() {
    let mut world = World::new(Spec { first: 5, ..Spec::new(2) });
    assert_eq!(world.step(Event::Sync), "create 5, start 5");
    assert_eq!(world.probe(5, true), "ready 5, create 6, start 6");
    let last = Spec { first: Ordinal::MAX - 1, ..Spec::new(5) };
    assert_eq!(last.ordinals().collect::<Vec<_>>(), [Ordinal::MAX - 1, Ordinal::MAX]);
    assert!(last.wants(Ordinal::MAX) && !last.wants(0));
}

#[test]
fn a_second_signal_kills_what_still_runs() {
    let mut world = World::all_ready(3, PodManagement::OrderedReady);
    world.step(Event::TearDown);
    assert_eq!(world.step(Event::Hurry), "kill 2, unready 1, kill 1, unready 0, kill 0");
    for ordinal in [1, 0, 2] {
        assert_eq!(world.exit(ordinal), format!("remove {ordinal}"));
    }
    // And a first one that hurries.
    let mut world = World::with(2, PodManagement::OrderedReady);
    world.step(Event::Sync);
    assert_eq!(world.step(Event::Hurry), "kill 0");
    assert_eq!(world.step(Event::TearDown), "", "there is no way back to order");
}

#[test]
fn a_sick_pod_does_not_keep_the_rest_from_ending() {
    let mut world = World::with(3, PodManagement::OrderedReady);
    world.step(Event::Sync);
    world.probe(0, true);
    world.exit(1);
    world.exit(1);
    assert_eq!(world.set.pods()[&1].phase(), Phase::CrashLoopBackOff);
    assert_eq!(world.step(Event::TearDown), "remove 1, unready 0, terminate 0");
    assert_eq!(world.wait_over(), "");
}

#[test]
fn messages_about_what_is_gone_do_nothing() {
    let mut world = World::all_ready(1, PodManagement::OrderedReady);
    let old = world.container(0);
    world.exit(0);
    for event in [
        Event::Probed { container: old, success: false },
        Event::ContainerExited { container: old, ran_for: Duration::ZERO, how: String::new() },
        Event::BackOffElapsed { container: old },
        Event::GraceElapsed { container: old },
        Event::GraceElapsed { container: world.container(0) },
        Event::BackOffElapsed { container: world.container(0) },
    ] {
        assert_eq!(world.step(event.clone()), "", "{event:?}");
    }
}

/// What the world may do next; numbers choose among what is possible.
#[derive(Clone, Copy, Debug)]
enum Move {
    Probe(usize, bool),
    Exit(usize, u16),
    WaitOver(usize),
    GraceOver(usize),
    Delete(Ordinal),
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
            Move::Delete(ordinal) => Some(Event::DeletePod { ordinal }),
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
            if self.set.is_settled() {
                return;
            }
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

    /// From any state: it ends, given that processes end.
    fn end(&mut self) {
        self.step(Event::TearDown);
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
        steps in prop::collection::vec(moves(), 0..120),
        last in prop::option::of(prop_oneof![Just(Move::TearDown), Just(Move::Hurry)]),
        after in prop::collection::vec(moves(), 0..30),
    ) {
        let management = if parallel { PodManagement::Parallel } else { PodManagement::OrderedReady };
        let mut world = World::new(Spec { first, management, ..Spec::new(replicas) });
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
        prop_assert!(world.running.is_empty());
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
