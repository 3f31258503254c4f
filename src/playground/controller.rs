//! The StatefulSet controller: which pods to create and delete, and in which order.
//!
//! Kubernetes' rules (`pkg/controller/statefulset/stateful_set_control.go`), so that what the playground and the
//! simulation show is what a cluster does. Pure: an event goes in, actions come out; no time, no I/O, no randomness, and
//! the same events give the same actions. The caller carries the actions out in the order given and reports back what
//! became of them.
//!
//! Invariants, tested as properties:
//! * never two containers for one ordinal at once: the next starts only after [`Event::ContainerExited`] of the last;
//! * with [`PodManagement::OrderedReady`] no pod is created before every lower one is ready, none is removed for its
//!   ordinal before every higher one is gone;
//! * nothing deletes a volume: a pod that comes back finds what its predecessor left.
//!
//! Called by `driver`, and by the simulation.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::pod::{AfterExit, BackOff, ContainerId, Pod, PodKey, Thresholds};
use crate::identity::Ordinal;

/// `spec.podManagementPolicy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum PodManagement {
    /// One after the other: up in order of the ordinals, each waits until the one before is ready; down in reverse.
    #[default]
    OrderedReady,
    /// All at once.
    Parallel,
}

/// What is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// `spec.ordinals.start`: the lowest ordinal.
    pub first: Ordinal,
    /// `spec.replicas`: how many pods.
    pub replicas: Ordinal,
    /// Their order.
    pub management: PodManagement,
    /// `terminationGracePeriodSeconds`: from SIGTERM to SIGKILL.
    pub grace: Duration,
    /// When a container that ended is started again.
    pub back_off: BackOff,
    /// When probes change the readiness.
    pub thresholds: Thresholds,
}

impl Spec {
    /// `replicas` pods from ordinal 0 on, everything else as Kubernetes has it by default.
    pub fn new(replicas: Ordinal) -> Self {
        Self {
            first: 0,
            replicas,
            management: PodManagement::default(),
            grace: Duration::from_secs(30),
            back_off: BackOff::default(),
            thresholds: Thresholds::default(),
        }
    }

    /// The ordinals that ought to exist, ascending.
    pub fn ordinals(&self) -> impl Iterator<Item = Ordinal> + use<> {
        let all: RangeInclusive<Ordinal> = self.first..=Ordinal::MAX;
        all.take(usize::from(self.replicas))
    }

    /// True if a pod of this ordinal ought to exist.
    pub fn wants(&self, ordinal: Ordinal) -> bool {
        ordinal.checked_sub(self.first).is_some_and(|distance| distance < self.replicas)
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Look again; the first event of a new StatefulSet.
    Sync,
    /// `kubectl scale`.
    Scale {
        /// The new `spec.replicas`.
        replicas: Ordinal,
    },
    /// `kubectl delete pod`; nothing if there is no such pod or it is terminating already.
    DeletePod {
        /// Whose.
        ordinal: Ordinal,
    },
    /// `kill -9` of the container's process; nothing if none runs.
    KillContainer {
        /// Whose.
        ordinal: Ordinal,
    },
    /// All pods are to go, the highest first; nothing is created any more.
    TearDown,
    /// As [`Event::TearDown`], but all at once and without a grace period.
    Hurry,
    /// The process of a container ended, or could not be started.
    ContainerExited {
        /// Which.
        container: ContainerId,
        /// Time from its start to its end.
        ran_for: Duration,
        /// How it ended, for people.
        how: String,
    },
    /// A wait that [`Action::Wait`] asked for is over.
    BackOffElapsed {
        /// The container that waited.
        container: ContainerId,
    },
    /// The grace period that [`Action::Terminate`] named is over.
    GraceElapsed {
        /// The container that was to end.
        container: ContainerId,
    },
    /// The readiness probe of a container was answered, or was not.
    Probed {
        /// Whose.
        container: ContainerId,
        /// True for an answer from 200 to 399.
        success: bool,
    },
}

/// What to do, in the order given. Each can be carried out without looking at the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Give the pod an address that no other pod has, attach the volume of its ordinal (creating it if there is none), and
    /// publish it under the headless service although it is not ready.
    CreatePod(PodKey),
    /// Start its process and its probes.
    StartContainer(ContainerId),
    /// Report [`Event::BackOffElapsed`] after this time.
    Wait {
        /// The container that will be started then.
        container: ContainerId,
        /// How long.
        wait: Duration,
    },
    /// It became ready, or is not any more: the endpoints of the client service change.
    Ready {
        /// Which pod.
        pod: PodKey,
        /// Whether it is ready now.
        ready: bool,
    },
    /// SIGTERM, and report [`Event::GraceElapsed`] after this time.
    Terminate {
        /// Which container.
        container: ContainerId,
        /// How long it has.
        grace: Duration,
    },
    /// SIGKILL.
    Kill(ContainerId),
    /// The pod is gone: take back its address and its names. Its volume stays.
    RemovePod(PodKey),
}

/// A StatefulSet: the spec and the pods that exist.
#[derive(Clone, Debug)]
pub struct StatefulSet {
    spec: Spec,
    pods: BTreeMap<Ordinal, Pod>,
    last_uid: u64,
    ending: Ending,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Ending {
    No,
    InOrder,
    AtOnce,
}

/// What one look at the pods led to.
enum Progress {
    /// Something changed: look again.
    Made,
    /// Nothing to do before the next event.
    Waits,
}

impl StatefulSet {
    /// A StatefulSet without pods. [`Event::Sync`] creates the first.
    pub fn new(spec: Spec) -> Self {
        Self { spec, pods: BTreeMap::new(), last_uid: 0, ending: Ending::No }
    }

    /// What is wanted.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// The pods that exist, by ordinal.
    pub fn pods(&self) -> &BTreeMap<Ordinal, Pod> {
        &self.pods
    }

    /// True once it was told to end.
    pub fn is_ending(&self) -> bool {
        self.ending != Ending::No
    }

    /// True if every pod that ought to exist is ready and no other exists.
    pub fn is_settled(&self) -> bool {
        self.pods.len() == usize::from(self.spec.replicas)
            && self.pods.iter().all(|(ordinal, pod)| self.spec.wants(*ordinal) && pod.is_ready())
    }

    /// Takes an event and says what to do. Events about pods and containers that are gone do nothing.
    pub fn step(&mut self, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Sync => {}
            Event::Scale { replicas } => self.spec.replicas = replicas,
            Event::DeletePod { ordinal } => self.delete(ordinal, &mut actions),
            Event::KillContainer { ordinal } => {
                actions.extend(self.pods.get(&ordinal).and_then(Pod::running).map(Action::Kill));
            }
            Event::TearDown => self.ending = self.ending.max(Ending::InOrder),
            Event::Hurry => {
                self.ending = Ending::AtOnce;
                let terminating = self.pods.values().filter(|pod| pod.is_terminating());
                actions.extend(terminating.filter_map(Pod::running).map(Action::Kill));
            }
            Event::ContainerExited { container, ran_for, how } => {
                self.exited(container, ran_for, how, &mut actions);
            }
            Event::BackOffElapsed { container } => {
                if self.pod_mut(container.pod).is_some_and(|pod| pod.start(container)) {
                    actions.push(Action::StartContainer(container));
                }
            }
            Event::GraceElapsed { container } => {
                let pod = self.pod_mut(container.pod).filter(|pod| pod.is_terminating());
                if pod.and_then(|pod| pod.running()) == Some(container) {
                    actions.push(Action::Kill(container));
                }
            }
            Event::Probed { container, success } => {
                let thresholds = self.spec.thresholds;
                if let Some(pod) = self.pod_mut(container.pod)
                    && pod.probed(container, success, thresholds)
                {
                    actions.push(Action::Ready { pod: pod.key(), ready: pod.is_ready() });
                }
            }
        }
        while let Progress::Made = self.reconcile(&mut actions) {}
        actions
    }

    fn pod_mut(&mut self, key: PodKey) -> Option<&mut Pod> {
        self.pods.get_mut(&key.ordinal).filter(|pod| pod.key() == key)
    }

    fn exited(&mut self, container: ContainerId, ran_for: Duration, how: String, actions: &mut Vec<Action>) {
        let back_off = self.spec.back_off;
        let Some(pod) = self.pod_mut(container.pod) else { return };
        let was_ready = pod.is_ready();
        let after = pod.exited(container, ran_for, how, back_off);
        if was_ready && !pod.is_ready() {
            actions.push(Action::Ready { pod: container.pod, ready: false });
        }
        match after {
            AfterExit::Nothing => {}
            AfterExit::Gone => {
                self.pods.remove(&container.pod.ordinal);
                actions.push(Action::RemovePod(container.pod));
            }
            AfterExit::Again(next, Duration::ZERO) => {
                if pod.start(next) {
                    actions.push(Action::StartContainer(next));
                }
            }
            AfterExit::Again(next, wait) => actions.push(Action::Wait { container: next, wait }),
        }
    }

    fn create(&mut self, ordinal: Ordinal, actions: &mut Vec<Action>) {
        self.last_uid += 1;
        let pod = Pod::new(PodKey { ordinal, uid: self.last_uid });
        actions.push(Action::CreatePod(pod.key()));
        actions.extend(pod.running().map(Action::StartContainer));
        self.pods.insert(ordinal, pod);
    }

    fn delete(&mut self, ordinal: Ordinal, actions: &mut Vec<Action>) {
        let at_once = self.ending == Ending::AtOnce;
        let grace = self.spec.grace;
        let Some(pod) = self.pods.get_mut(&ordinal).filter(|pod| !pod.is_terminating()) else { return };
        let key = pod.key();
        if pod.is_ready() {
            actions.push(Action::Ready { pod: key, ready: false });
        }
        pod.terminate();
        match pod.running() {
            Some(container) if at_once => actions.push(Action::Kill(container)),
            Some(container) => actions.push(Action::Terminate { container, grace }),
            None => {
                self.pods.remove(&ordinal);
                actions.push(Action::RemovePod(key));
            }
        }
    }

    fn reconcile(&mut self, actions: &mut Vec<Action>) -> Progress {
        match self.ending {
            Ending::No => match self.reconcile_wanted(actions) {
                Some(progress) => progress,
                None => self.reconcile_condemned(actions),
            },
            Ending::InOrder => self.reconcile_ending(self.ordered(), actions),
            Ending::AtOnce => self.reconcile_ending(false, actions),
        }
    }

    fn ordered(&self) -> bool {
        self.spec.management == PodManagement::OrderedReady
    }

    /// Pods that ought to exist. `None`: nothing stands in the way of looking at those that ought not to.
    fn reconcile_wanted(&mut self, actions: &mut Vec<Action>) -> Option<Progress> {
        let ordered = self.ordered();
        for ordinal in self.spec.ordinals() {
            match self.pods.get(&ordinal) {
                None => {
                    self.create(ordinal, actions);
                    if ordered {
                        return Some(Progress::Waits);
                    }
                }
                // Terminating pods are never ready; both mean: not before this one is well.
                Some(pod) if ordered && !pod.is_ready() => return Some(Progress::Waits),
                Some(_) => {}
            }
        }
        None
    }

    /// Pods that ought not to exist, from the highest. In order, a pod that is not ready stops the descent unless it is
    /// the lowest that is not (`processCondemned`).
    fn reconcile_condemned(&mut self, actions: &mut Vec<Action>) -> Progress {
        let condemned: Vec<Ordinal> =
            self.pods.keys().copied().filter(|ordinal| !self.spec.wants(*ordinal)).collect();
        let first_unhealthy = self.pods.iter().find(|(_, pod)| !pod.is_ready()).map(|(ordinal, _)| *ordinal);
        for ordinal in condemned.into_iter().rev() {
            let Some(pod) = self.pods.get(&ordinal) else { continue };
            if !self.ordered() {
                self.delete(ordinal, actions);
                continue;
            }
            if pod.is_terminating() || (!pod.is_ready() && first_unhealthy != Some(ordinal)) {
                return Progress::Waits;
            }
            self.delete(ordinal, actions);
            return Progress::Made;
        }
        Progress::Waits
    }

    /// Everything goes; health does not matter, or a sick pod would keep the playground from ending.
    fn reconcile_ending(&mut self, ordered: bool, actions: &mut Vec<Action>) -> Progress {
        let all: Vec<Ordinal> = self.pods.keys().rev().copied().collect();
        for ordinal in all {
            if ordered && self.pods.get(&ordinal).is_some_and(Pod::is_terminating) {
                return Progress::Waits;
            }
            self.delete(ordinal, actions);
            if ordered && self.pods.contains_key(&ordinal) {
                return Progress::Waits;
            }
        }
        Progress::Waits
    }
}
