//! One pod, as its kubelet sees it: which container runs, whether it is ready, when it starts again.
//!
//! Here because a StatefulSet's promises depend on it: a pod that crashes keeps its name, address and volume, and waits
//! longer each time. Pure: durations come in as values, nothing here reads a clock.
//! Invariants: a pod has at most one container, and a pod is ready only while its container runs and it is not
//! terminating. Called by `controller`.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::identity::Ordinal;

/// One pod object: the ordinal says which name it has, the uid which of the pods that ever had this name it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodKey {
    /// Its place in the StatefulSet.
    pub ordinal: Ordinal,
    /// Counts the pods that the StatefulSet created; never used again.
    pub uid: u64,
}

/// One container of a pod. A crash ends a container and the next attempt begins another in the same pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerId {
    /// The pod that it belongs to.
    pub pod: PodKey,
    /// 0 for the first container of the pod; so it is also the number of restarts.
    pub attempt: u32,
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.pod.ordinal, self.pod.uid, self.attempt)
    }
}

/// What `kubectl get pods` shows as the status of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// The StatefulSet has not created it yet (`kubectl` would not list it).
    Absent,
    /// It waits for its volume.
    ContainerCreating,
    /// Its container runs.
    Running,
    /// Its container ended and the next one waits for the back-off.
    CrashLoopBackOff,
    /// It was deleted and its container has not ended yet.
    Terminating,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Absent => "Absent",
            Self::ContainerCreating => "ContainerCreating",
            Self::Running => "Running",
            Self::CrashLoopBackOff => "CrashLoopBackOff",
            Self::Terminating => "Terminating",
        })
    }
}

/// How long a container that ended waits before it is started again. The kubelet's rule: at once the first time, then
/// `initial`, then twice as long each time up to `max`; forgotten once a container ran for longer than `reset_after`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackOff {
    /// The first wait that is not zero.
    pub initial: Duration,
    /// The longest wait.
    pub max: Duration,
    /// A container that ran longer than this starts the sequence anew.
    pub reset_after: Duration,
}

/// The kubelet's own values.
impl Default for BackOff {
    fn default() -> Self {
        Self {
            initial: Duration::from_secs(10),
            max: Duration::from_mins(5),
            reset_after: Duration::from_mins(10),
        }
    }
}

impl BackOff {
    /// The wait after a container that ran for `ran_for`, and what to hand in as `last` the next time.
    pub fn after(&self, last: Option<Duration>, ran_for: Duration) -> (Duration, Duration) {
        match last.filter(|_| ran_for <= self.reset_after) {
            None => (Duration::ZERO, self.initial),
            Some(wait) => (wait, wait.saturating_mul(2).min(self.max)),
        }
    }
}

/// How many probes in a row change the readiness of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Successes that make it ready.
    pub success: u32,
    /// Failures that make it not ready.
    pub failure: u32,
}

/// Kubernetes' defaults.
impl Default for Thresholds {
    fn default() -> Self {
        Self { success: 1, failure: 3 }
    }
}

/// What the pod's container does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Container {
    Running(ContainerId),
    Waiting(ContainerId),
}

/// A pod that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    key: PodKey,
    container: Container,
    terminating: bool,
    ready: bool,
    successes: u32,
    failures: u32,
    next_wait: Option<Duration>,
    last_exit: Option<String>,
}

/// What follows from the end of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AfterExit {
    /// The message was about a container that is long gone.
    Nothing,
    /// The pod was terminating and has ended.
    Gone,
    /// The next container is to be started after this wait.
    Again(ContainerId, Duration),
}

impl Pod {
    /// A pod whose first container is being started.
    pub(super) fn new(key: PodKey) -> Self {
        Self {
            key,
            container: Container::Running(ContainerId { pod: key, attempt: 0 }),
            terminating: false,
            ready: false,
            successes: 0,
            failures: 0,
            next_wait: None,
            last_exit: None,
        }
    }

    /// Which pod it is.
    pub fn key(&self) -> PodKey {
        self.key
    }

    /// True while its probes succeed and it is not terminating.
    pub fn is_ready(&self) -> bool {
        self.ready
    }

    /// True from its deletion on.
    pub fn is_terminating(&self) -> bool {
        self.terminating
    }

    /// The container that runs.
    pub fn running(&self) -> Option<ContainerId> {
        match self.container {
            Container::Running(id) => Some(id),
            Container::Waiting(_) => None,
        }
    }

    /// What to show as its status.
    pub fn phase(&self) -> Phase {
        match self.container {
            _ if self.terminating => Phase::Terminating,
            Container::Running(_) => Phase::Running,
            Container::Waiting(_) => Phase::CrashLoopBackOff,
        }
    }

    /// How often its container was started again. One that waits for its back-off is not counted yet.
    pub fn restarts(&self) -> u32 {
        match self.container {
            Container::Running(id) => id.attempt,
            Container::Waiting(id) => id.attempt.saturating_sub(1),
        }
    }

    /// How its last container ended, for people.
    pub fn last_exit(&self) -> Option<&str> {
        self.last_exit.as_deref()
    }

    /// Takes the answer of a probe. True if the readiness changed.
    pub(super) fn probed(&mut self, container: ContainerId, success: bool, thresholds: Thresholds) -> bool {
        if self.terminating || self.running() != Some(container) {
            return false;
        }
        let before = self.ready;
        if success {
            self.failures = 0;
            self.successes = self.successes.saturating_add(1);
            self.ready |= self.successes >= thresholds.success;
        } else {
            self.successes = 0;
            self.failures = self.failures.saturating_add(1);
            self.ready &= self.failures < thresholds.failure;
        }
        self.ready != before
    }

    /// Takes the end of a container.
    pub(super) fn exited(
        &mut self,
        container: ContainerId,
        ran_for: Duration,
        how: String,
        back_off: BackOff,
    ) -> AfterExit {
        if self.running() != Some(container) {
            return AfterExit::Nothing;
        }
        self.last_exit = Some(how);
        self.not_ready();
        if self.terminating {
            return AfterExit::Gone;
        }
        let (wait, next) = back_off.after(self.next_wait, ran_for);
        self.next_wait = Some(next);
        let again = ContainerId { attempt: container.attempt.saturating_add(1), ..container };
        self.container = Container::Waiting(again);
        AfterExit::Again(again, wait)
    }

    /// The wait is over. True if the container is to be started now.
    pub(super) fn start(&mut self, container: ContainerId) -> bool {
        if self.terminating || self.container != Container::Waiting(container) {
            return false;
        }
        self.container = Container::Running(container);
        true
    }

    /// Deletes it. It is not ready from now on.
    pub(super) fn terminate(&mut self) {
        self.terminating = true;
        self.not_ready();
    }

    fn not_ready(&mut self) {
        self.ready = false;
        self.successes = 0;
        self.failures = 0;
    }
}
