//! The controller against tables. `controller_property_tests` has the orders of events that nobody thought of.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::controller::{Action, Event, PodManagement, Spec, StatefulSet, WhenScaled};
use super::pod::{ContainerId, Phase, PodKey};
use crate::identity::Ordinal;

/// A world that carries out actions and forgets nothing: what the controller may rely on, checked at every action.
pub(super) struct World {
    pub(super) set: StatefulSet,
    /// Pods that were created and not removed, and what is known of them.
    pub(super) pods: BTreeMap<PodKey, Known>,
    /// Containers whose process runs.
    pub(super) running: BTreeSet<ContainerId>,
    pub(super) waiting: Vec<(ContainerId, Duration)>,
    pub(super) graces: Vec<ContainerId>,
    /// Containers that run on without knowing that their pods are gone.
    pub(super) lingering: Vec<ContainerId>,
    /// Pods that were deleted with force and whose processes run.
    pub(super) forgotten: BTreeSet<PodKey>,
    /// The pod that somebody deletes or kills by hand in this step.
    by_hand: Option<Ordinal>,
    /// Somebody deletes all pods in this step.
    any_order: bool,
    /// A short transcript of the actions.
    pub(super) said: Vec<String>,
}

#[derive(Default)]
pub(super) struct Known {
    ready: bool,
    terminating: bool,
}

impl World {
    pub(super) fn new(spec: Spec) -> Self {
        Self {
            set: StatefulSet::new(spec),
            pods: BTreeMap::new(),
            running: BTreeSet::new(),
            waiting: Vec::new(),
            graces: Vec::new(),
            lingering: Vec::new(),
            forgotten: BTreeSet::new(),
            by_hand: None,
            any_order: false,
            said: Vec::new(),
        }
    }

    pub(super) fn with(replicas: Ordinal, management: PodManagement) -> Self {
        Self::new(Spec { management, ..Spec::new(replicas) })
    }

    fn ordered(&self) -> bool {
        self.set.spec().management == PodManagement::OrderedReady
    }

    /// Takes an event; says what followed, as in `create 0, start 0`.
    pub(super) fn step(&mut self, event: Event) -> String {
        if let Event::ContainerExited { container, .. } = &event {
            self.running.remove(container);
        }
        self.by_hand = match &event {
            Event::DeletePod { ordinal } | Event::KillContainer { ordinal } => Some(*ordinal),
            _ => None,
        };
        self.any_order = matches!(&event, Event::DeleteAllPods);
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
        assert_eq!(self.set.is_gone(), self.pods.is_empty() && self.forgotten.is_empty());
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
                let same = |other: &&ContainerId| {
                    other.pod.ordinal == container.pod.ordinal && !self.forgotten.contains(&other.pod)
                };
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
            Action::Forget(pod) => {
                self.said.push(format!("forget {}", n(pod)));
                assert!(!self.pods[&pod].ready && self.running.iter().any(|container| container.pod == pod));
                self.pods.remove(&pod);
                self.forgotten.insert(pod);
            }
            Action::Linger { container, linger } => {
                self.said.push(format!("linger {} {}s", n(container.pod), linger.as_secs()));
                assert!(self.forgotten.contains(&container.pod));
                self.lingering.push(container);
            }
            Action::DeleteVolume(ordinal) => {
                self.said.push(format!("delete volume {ordinal}"));
                assert_eq!(self.set.spec().when_scaled, WhenScaled::Delete);
                assert!(self.pods.keys().all(|pod| pod.ordinal != ordinal), "a pod has it");
            }
            Action::Kill(container) => {
                self.said.push(format!("kill {}", n(container.pod)));
                assert!(self.running.contains(&container));
                if self.forgotten.contains(&container.pod) {
                    return;
                }
                if self.set.is_ending() && self.by_hand != Some(n(container.pod)) {
                    self.pods.get_mut(&container.pod).unwrap().terminating = true;
                }
            }
            Action::RemovePod(pod) => {
                self.said.push(format!("remove {}", n(pod)));
                assert!(self.running.iter().all(|container| container.pod != pod), "its process runs");
                if self.forgotten.remove(&pod) {
                    return;
                }
                assert!(!self.pods[&pod].ready);
                self.pods.remove(&pod);
            }
        }
    }

    fn terminating(&mut self, container: ContainerId) {
        assert!(self.running.contains(&container));
        if self.forgotten.contains(&container.pod) {
            return;
        }
        let ordinal = container.pod.ordinal;
        let by_hand = self.any_order || self.by_hand == Some(ordinal);
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

    pub(super) fn exit(&mut self, ordinal: Ordinal) -> String {
        self.exit_after(ordinal, Duration::from_secs(1))
    }

    fn exit_after(&mut self, ordinal: Ordinal, ran_for: Duration) -> String {
        let container = self.container(ordinal);
        self.step(Event::ContainerExited { container, ran_for, how: "exit code 1".to_owned() })
    }

    pub(super) fn wait_over(&mut self) -> String {
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

#[test]
fn all_deleted_at_once_come_back_in_order() {
    let mut world = World::all_ready(3, PodManagement::OrderedReady);
    let deleted = world.step(Event::DeleteAllPods);
    assert_eq!(deleted, "unready 0, terminate 0, unready 1, terminate 1, unready 2, terminate 2");
    assert_eq!(world.step(Event::DeleteAllPods), "");
    assert_eq!(world.exit(2), "remove 2", "0 and 1 are to be ready first");
    assert_eq!(world.exit(0), "remove 0, create 0, start 0");
    assert_eq!(world.exit(1), "remove 1");
    assert_eq!(world.probe(0, true), "ready 0, create 1, start 1");
    assert_eq!(world.probe(1, true), "ready 1, create 2, start 2");
}

#[test]
fn a_rolling_restart_replaces_one_after_the_other_from_the_highest() {
    for management in [PodManagement::OrderedReady, PodManagement::Parallel] {
        let mut world = World::all_ready(3, management);
        let old: Vec<PodKey> = world.pods.keys().copied().collect();
        assert_eq!(world.step(Event::RolloutRestart), "unready 2, terminate 2");
        assert_eq!(world.exit(2), "remove 2, create 2, start 2");
        assert_eq!(world.step(Event::Sync), "");
        assert_eq!(world.probe(2, true), "ready 2, unready 1, terminate 1");
        assert_eq!(world.exit(1), "remove 1, create 1, start 1");
        for _ in 0..3 {
            world.probe(2, false);
        }
        assert_eq!(world.probe(1, true), "ready 1", "2 is to be ready again first");
        assert_eq!(world.probe(2, true), "ready 2, unready 0, terminate 0");
        assert_eq!(world.exit(0), "remove 0, create 0, start 0");
        assert_eq!(world.probe(0, true), "ready 0");
        assert!(world.set.is_settled() && old.iter().all(|old| !world.pods.contains_key(old)));
        // One that waits for its back-off is replaced, too.
        world.exit(2);
        world.exit(2);
        if management == PodManagement::Parallel {
            assert_eq!(world.step(Event::RolloutRestart), "remove 2, create 2, start 2");
        }
    }
}

#[test]
fn a_forced_deletion_makes_two_of_one_name_until_the_old_one_ends() {
    let mut world = World::all_ready(2, PodManagement::OrderedReady);
    let old = world.container(0);
    let force = |seconds| Event::ForceDeletePod { ordinal: 0, linger: Duration::from_secs(seconds) };
    assert_eq!(world.step(force(5)), "unready 0, forget 0, linger 0 5s, create 0, start 0");
    assert!(world.running.contains(&old) && world.running.contains(&world.container(0)));
    assert_eq!(world.step(Event::Probed { container: old, success: true }), "", "nobody asks it any more");
    assert_eq!(world.step(Event::GraceElapsed { container: old }), "");
    assert_eq!(world.step(Event::LingerElapsed { container: old }), "terminate 0");
    assert_eq!(world.step(Event::LingerElapsed { container: old }), "");
    assert_eq!(world.step(Event::GraceElapsed { container: old }), "kill 0");
    let ended = |container| Event::ContainerExited { container, ran_for: Duration::ZERO, how: String::new() };
    assert_eq!(world.step(ended(old)), "remove 0");
    assert_eq!(world.step(ended(old)), "");
    assert_eq!(world.probe(0, true), "ready 0");

    // Without a time: it is told at once. The end of the set waits for it.
    let old = world.container(0);
    assert_eq!(world.step(force(0)), "unready 0, forget 0, terminate 0, create 0, start 0");
    world.step(Event::TearDown);
    world.exit(1);
    world.exit(0);
    assert!(world.set.pods().is_empty() && !world.set.is_gone());
    assert_eq!(world.step(ended(old)), "remove 0");
    assert!(world.set.is_gone());

    // One that was terminating goes on doing so, and one that does not run is simply gone.
    let mut world = World::all_ready(1, PodManagement::OrderedReady);
    let old = world.container(0);
    world.step(Event::DeletePod { ordinal: 0 });
    assert_eq!(world.step(force(5)), "forget 0, create 0, start 0");
    assert_eq!(world.step(Event::GraceElapsed { container: old }), "kill 0");
    world.exit(0);
    world.exit(0);
    assert_eq!(world.step(force(5)), "remove 0, create 0, start 0");
    assert_eq!(world.step(force(5)), "forget 0, linger 0 5s, create 0, start 0");
    // Both that still run are told.
    assert_eq!(world.step(Event::TearDown), "terminate 0, terminate 0");
    assert_eq!(world.step(Event::Hurry), "kill 0, kill 0, kill 0");
}

#[test]
fn volumes_go_with_the_pods_that_the_set_loses_if_that_is_the_policy() {
    let spec = Spec { when_scaled: WhenScaled::Delete, ..Spec::new(2) };
    let mut world = World::new(spec);
    world.step(Event::Sync);
    world.probe(0, true);
    world.probe(1, true);
    world.step(Event::DeletePod { ordinal: 1 });
    assert_eq!(world.exit(1), "remove 1, create 1, start 1", "it comes back, so its volume stays");
    world.probe(1, true);
    assert_eq!(world.step(Event::Scale { replicas: 1 }), "unready 1, terminate 1");
    // Scaled up while it terminates: its claim goes with it all the same.
    assert_eq!(world.step(Event::Scale { replicas: 2 }), "");
    assert_eq!(world.exit(1), "remove 1, delete volume 1, create 1, start 1");
    // Deleted by hand before the set lost it.
    world.step(Event::DeletePod { ordinal: 1 });
    world.step(Event::Scale { replicas: 1 });
    assert_eq!(world.exit(1), "remove 1, delete volume 1");
    assert_eq!(world.step(Event::Scale { replicas: 0 }), "unready 0, terminate 0");
    assert_eq!(world.exit(0), "remove 0, delete volume 0");
    // The end of the set is not a smaller set.
    world.step(Event::Scale { replicas: 1 });
    world.step(Event::TearDown);
    assert_eq!(world.exit(0), "remove 0");
}
