//! The StatefulSet controller: which pods to create and delete, and in which order.
//!
//! Kubernetes' rules (`pkg/controller/statefulset/stateful_set_control.go`), so that what the playground and the
//! simulation show is what a cluster does. Pure: an event goes in, actions come out; no time, no I/O, no randomness, and
//! the same events give the same actions. The caller carries the actions out in the order given and reports back what
//! became of them.
//!
//! Invariants, tested as properties:
//! * never two containers for one ordinal at once: the next starts only after [`Event::ContainerExited`] of the last, except
//!   after a forced deletion, which is there to break this promise;
//! * with [`PodManagement::OrderedReady`] no pod is created before every lower one is ready, none is removed for its
//!   ordinal before every higher one is gone;
//! * nothing deletes a volume but [`WhenScaled::Delete`]: a pod that comes back finds what its predecessor left.
//!
//! Called by `driver`, and by the simulation.

use std::collections::{BTreeMap, BTreeSet};
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

/// `spec.persistentVolumeClaimRetentionPolicy.whenScaled`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum WhenScaled {
    /// The volume of a pod that goes because the set shrinks stays.
    #[default]
    Retain,
    /// It goes with the pod.
    Delete,
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
    /// What becomes of volumes when the set shrinks.
    pub when_scaled: WhenScaled,
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
            when_scaled: WhenScaled::default(),
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
    /// `kubectl delete pod --all`.
    DeleteAllPods,
    /// `kubectl delete pod --force`: the object goes at once, and its process when its kubelet hears of it.
    ForceDeletePod {
        /// Whose.
        ordinal: Ordinal,
        /// How long the kubelet hears nothing, as one on a node that is cut off. Until then the process runs on.
        linger: Duration,
    },
    /// `kubectl rollout restart`: each pod that exists now is replaced, from the highest, one after the other.
    RolloutRestart,
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
    /// The time that [`Action::Linger`] named is over.
    LingerElapsed {
        /// The container that ran on.
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
    /// The object is gone while its process runs: withdraw its names. Address and volume stay in use until
    /// [`Action::RemovePod`].
    Forget(PodKey),
    /// Report [`Event::LingerElapsed`] after this time.
    Linger {
        /// Which container.
        container: ContainerId,
        /// How long.
        linger: Duration,
    },
    /// SIGKILL.
    Kill(ContainerId),
    /// The pod is gone: take back its address and its names. Its volume stays.
    RemovePod(PodKey),
    /// The volume of this ordinal goes, as soon as no process uses it.
    DeleteVolume(Ordinal),
}

/// A StatefulSet: the spec and the pods that exist.
#[derive(Clone, Debug)]
pub struct StatefulSet {
    spec: Spec,
    pods: BTreeMap<Ordinal, Pod>,
    /// Containers whose pods were deleted with force.
    orphans: BTreeMap<ContainerId, Orphan>,
    /// Ordinals whose volumes go with their pods.
    condemned: BTreeSet<Ordinal>,
    last_uid: u64,
    /// Pods up to this uid are to be replaced.
    replaced_up_to: u64,
    ending: Ending,
}

/// What a container without a pod does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Orphan {
    /// Its kubelet has not heard of the deletion.
    Lingers,
    /// It was told to stop.
    Terminates,
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
        Self {
            spec,
            pods: BTreeMap::new(),
            orphans: BTreeMap::new(),
            condemned: BTreeSet::new(),
            last_uid: 0,
            replaced_up_to: 0,
            ending: Ending::No,
        }
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

    /// True if neither a pod nor a process of one that was deleted with force exists.
    pub fn is_gone(&self) -> bool {
        self.pods.is_empty() && self.orphans.is_empty()
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
            Event::DeleteAllPods => {
                for ordinal in self.pods.keys().copied().collect::<Vec<_>>() {
                    self.delete(ordinal, &mut actions);
                }
            }
            Event::ForceDeletePod { ordinal, linger } => self.force_delete(ordinal, linger, &mut actions),
            Event::RolloutRestart => self.replaced_up_to = self.last_uid,
            Event::KillContainer { ordinal } => {
                actions.extend(self.pods.get(&ordinal).and_then(Pod::running).map(Action::Kill));
            }
            Event::TearDown => self.tear_down(&mut actions),
            Event::Hurry => self.hurry(&mut actions),
            Event::ContainerExited { container, ran_for, how } => {
                self.exited(container, ran_for, how, &mut actions);
            }
            Event::BackOffElapsed { container } => {
                if self.pod_mut(container.pod).is_some_and(|pod| pod.start(container)) {
                    actions.push(Action::StartContainer(container));
                }
            }
            Event::LingerElapsed { container } => self.stop_orphan(container, &mut actions),
            Event::GraceElapsed { container } => {
                let pod = self.pod_mut(container.pod).filter(|pod| pod.is_terminating());
                let runs = pod.and_then(|pod| pod.running()) == Some(container);
                if runs || self.orphans.get(&container) == Some(&Orphan::Terminates) {
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

    fn tear_down(&mut self, actions: &mut Vec<Action>) {
        self.ending = self.ending.max(Ending::InOrder);
        for container in self.orphans.keys().copied().collect::<Vec<_>>() {
            self.stop_orphan(container, actions);
        }
    }

    fn hurry(&mut self, actions: &mut Vec<Action>) {
        self.ending = Ending::AtOnce;
        actions.extend(self.orphans.keys().copied().map(Action::Kill));
        let terminating = self.pods.values().filter(|pod| pod.is_terminating());
        actions.extend(terminating.filter_map(Pod::running).map(Action::Kill));
    }

    fn exited(&mut self, container: ContainerId, ran_for: Duration, how: String, actions: &mut Vec<Action>) {
        if self.orphans.remove(&container).is_some() {
            actions.push(Action::RemovePod(container.pod));
            return;
        }
        let back_off = self.spec.back_off;
        let Some(pod) = self.pod_mut(container.pod) else { return };
        let was_ready = pod.is_ready();
        let after = pod.exited(container, ran_for, how, back_off);
        if was_ready && !pod.is_ready() {
            actions.push(Action::Ready { pod: container.pod, ready: false });
        }
        match after {
            AfterExit::Nothing => {}
            AfterExit::Gone => self.remove(container.pod, actions),
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
            None => self.remove(key, actions),
        }
    }

    fn remove(&mut self, key: PodKey, actions: &mut Vec<Action>) {
        self.pods.remove(&key.ordinal);
        actions.push(Action::RemovePod(key));
        self.delete_condemned_volume(key.ordinal, actions);
    }

    fn delete_condemned_volume(&mut self, ordinal: Ordinal, actions: &mut Vec<Action>) {
        if self.condemned.remove(&ordinal) {
            actions.push(Action::DeleteVolume(ordinal));
        }
    }

    /// What its kubelet does then: SIGTERM and a grace period, once it hears of it.
    fn force_delete(&mut self, ordinal: Ordinal, linger: Duration, actions: &mut Vec<Action>) {
        let Some(pod) = self.pods.get(&ordinal) else { return };
        let (key, was_ready, terminating) = (pod.key(), pod.is_ready(), pod.is_terminating());
        if was_ready {
            actions.push(Action::Ready { pod: key, ready: false });
        }
        let Some(container) = pod.running() else {
            self.remove(key, actions);
            return;
        };
        self.pods.remove(&ordinal);
        actions.push(Action::Forget(key));
        self.delete_condemned_volume(ordinal, actions);
        if terminating {
            // It was told before, and its grace period runs.
            self.orphans.insert(container, Orphan::Terminates);
            return;
        }
        self.orphans.insert(container, Orphan::Lingers);
        if linger.is_zero() {
            self.stop_orphan(container, actions);
        } else {
            actions.push(Action::Linger { container, linger });
        }
    }

    /// Tells a container without a pod to stop, unless it was told already.
    fn stop_orphan(&mut self, container: ContainerId, actions: &mut Vec<Action>) {
        if let Some(orphan) = self.orphans.get_mut(&container).filter(|orphan| **orphan == Orphan::Lingers) {
            *orphan = Orphan::Terminates;
            actions.push(Action::Terminate { container, grace: self.spec.grace });
        }
    }

    fn reconcile(&mut self, actions: &mut Vec<Action>) -> Progress {
        match self.ending {
            Ending::No => {
                self.condemn_volumes();
                let progress = self.reconcile_wanted(actions).or_else(|| self.reconcile_condemned(actions));
                progress.unwrap_or_else(|| self.reconcile_old(actions))
            }
            Ending::InOrder => self.reconcile_ending(self.ordered(), actions),
            Ending::AtOnce => self.reconcile_ending(false, actions),
        }
    }

    fn ordered(&self) -> bool {
        self.spec.management == PodManagement::OrderedReady
    }

    /// Volumes of pods that ought not to exist go with them, if that is the policy. A pod that terminates takes along what was
    /// decided when it was told to, as its claim belongs to it from then on.
    fn condemn_volumes(&mut self) {
        if self.spec.when_scaled == WhenScaled::Retain {
            return;
        }
        for (ordinal, pod) in &self.pods {
            if !self.spec.wants(*ordinal) {
                self.condemned.insert(*ordinal);
            } else if !pod.is_terminating() {
                self.condemned.remove(ordinal);
            }
        }
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
    /// the lowest that is not (`processCondemned`). `None`: nothing stands in the way of looking at those that are to be replaced.
    fn reconcile_condemned(&mut self, actions: &mut Vec<Action>) -> Option<Progress> {
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
                return Some(Progress::Waits);
            }
            self.delete(ordinal, actions);
            return Some(Progress::Made);
        }
        None
    }

    /// Pods that a rolling restart has not reached, from the highest: one at a time, whatever the management, and none while
    /// one above it is not ready (the end of `updateStatefulSet`).
    fn reconcile_old(&mut self, actions: &mut Vec<Action>) -> Progress {
        let wanted: Vec<Ordinal> = self.spec.ordinals().collect();
        for ordinal in wanted.into_iter().rev() {
            let Some(pod) = self.pods.get(&ordinal) else { return Progress::Waits };
            if !pod.is_terminating() && pod.key().uid <= self.replaced_up_to {
                self.delete(ordinal, actions);
                return Progress::Made;
            }
            if !pod.is_ready() {
                return Progress::Waits;
            }
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
