//! Runs the pods as the playground's StatefulSet controller says, on machines that lose their power now and then.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use turmoil::Sim;

use super::fault::EngineBack;
use super::plan::Mode;
use super::shared::{Heard, Process, Shared};
use super::volumes;
use super::world::Dice;
use crate::env::simulated::mix;
use crate::env::simulated_files::Crash;
use crate::playground::controller::{Action, Event, StatefulSet};
use crate::playground::pod::{ContainerId, PodKey};

pub(super) struct Kubelet {
    shared: Shared,
    set: StatefulSet,
    dice: Dice,
    /// Events that are due at a time.
    timers: Vec<(u64, Event)>,
    /// Machines without power, until when.
    down: BTreeMap<u16, u64>,
    /// Containers that start when their machine has power.
    waiting: BTreeMap<u16, ContainerId>,
    /// How engines come back.
    engines: BTreeMap<u16, EngineBack>,
}

impl Kubelet {
    pub(super) fn new(shared: Shared) -> Self {
        let dice = Dice::new(mix(shared.plan.seed) ^ 0x6b75_6265);
        let set = StatefulSet::new(shared.plan.spec.clone());
        let (down, waiting) = (BTreeMap::new(), BTreeMap::new());
        Self { shared, set, dice, timers: vec![(0, Event::Sync)], down, waiting, engines: BTreeMap::new() }
    }

    /// What is due now.
    pub(super) fn step(&mut self, sim: &mut Sim<'_>) {
        let now = self.shared.now.millis();
        for ordinal in 0..self.shared.plan.size {
            let stopped = self.shared.pods.get(usize::from(ordinal)).is_some_and(|pod| pod.files.stopped());
            if stopped {
                let down = self.dice.within(1, 2_000);
                self.power_loss(sim, ordinal, now + down);
            }
        }
        let heard = std::mem::take(&mut *self.shared.heard.borrow_mut());
        for heard in heard {
            match heard {
                Heard::Ended(container, how) => self.ended(sim, container, how),
                Heard::Probed(container, success) => self.event(sim, Event::Probed { container, success }),
            }
        }
        let (due, later) = std::mem::take(&mut self.timers).into_iter().partition(|(at, _)| *at <= now);
        self.timers = later;
        let due: Vec<(u64, Event)> = due;
        for (_, event) in due {
            self.event(sim, event);
        }
        let up: Vec<u16> =
            self.down.iter().filter(|(_, until)| **until <= now).map(|(pod, _)| *pod).collect();
        for ordinal in up {
            self.power(sim, ordinal);
        }
    }

    /// Every machine has power again.
    pub(super) fn power_all(&mut self, sim: &mut Sim<'_>) {
        for ordinal in self.down.keys().copied().collect::<Vec<_>>() {
            self.power(sim, ordinal);
        }
    }

    /// Tells the controller, and does what it says.
    pub(super) fn event(&mut self, sim: &mut Sim<'_>, event: Event) {
        for action in self.set.step(event) {
            self.carry_out(sim, action);
        }
    }

    /// A machine loses its power; of what its disk had not synced, anything may survive.
    pub(super) fn power_loss(&mut self, sim: &mut Sim<'_>, ordinal: u16, until: u64) {
        let Some(pod) = self.shared.pods.get(usize::from(ordinal)) else { return };
        let kept = match self.dice.below(6) {
            0 => Crash::LoseAll,
            1 => Crash::KeepAll,
            _ => Crash::Seeded(self.dice.next()),
        };
        pod.files.crash(kept);
        self.shared.trace.add(&format!("machine {ordinal} is without power until {until}, {kept:?}"));
        self.down.insert(ordinal, until);
        let process = self.shared.processes.borrow().get(&ordinal).cloned();
        if let Some(process) = process {
            self.ended(sim, process.container, "no power".into());
        }
    }

    /// Tells the process of a pod to stop; its container starts again.
    pub(super) fn restart(&mut self, ordinal: u16, engine: EngineBack) {
        if let Some(process) = self.shared.processes.borrow().get(&ordinal) {
            process.stop.cancel();
            self.engines.insert(ordinal, engine);
        }
    }

    fn power(&mut self, sim: &mut Sim<'_>, ordinal: u16) {
        self.down.remove(&ordinal);
        if let Some(container) = self.waiting.remove(&ordinal) {
            self.start(sim, container);
        }
    }

    fn carry_out(&mut self, sim: &mut Sim<'_>, action: Action) {
        let now = self.shared.now.millis();
        let after = |time: Duration| now + time.as_millis() as u64;
        match action {
            Action::CreatePod(key) => self.create(key),
            Action::RemovePod(PodKey { ordinal, .. }) => {
                self.shared.trace.add(&format!("pod {ordinal} is gone"));
                self.shared.places.borrow_mut().remove(&ordinal);
                self.shared.publish_all();
            }
            Action::StartContainer(container) => self.start(sim, container),
            Action::Wait { container, wait } => {
                self.timers.push((after(wait), Event::BackOffElapsed { container }));
            }
            Action::Ready { pod, ready } => {
                let not = if ready { "" } else { "not " };
                self.shared.trace.add(&format!("pod {} is {not}ready", pod.ordinal));
            }
            Action::Terminate { container, grace } => {
                self.timers.push((after(grace), Event::GraceElapsed { container }));
                let process = self.shared.processes.borrow().get(&container.pod.ordinal).cloned();
                match process.filter(|process| process.container == container) {
                    Some(process) => process.stop.cancel(),
                    None => self.never_started(sim, container),
                }
            }
            // Nobody deletes with force here, and volumes stay.
            Action::Forget(_) | Action::Linger { .. } | Action::DeleteVolume(_) => {}
            Action::Kill(container) => {
                if self.waiting.get(&container.pod.ordinal) == Some(&container) {
                    self.never_started(sim, container);
                } else {
                    self.ended(sim, container, "killed".into());
                }
            }
        }
    }

    /// A container that waits for power counts as running; it ends without having been.
    fn never_started(&mut self, sim: &mut Sim<'_>, container: ContainerId) {
        self.waiting.remove(&container.pod.ordinal);
        let how = "never started".to_owned();
        self.event(sim, Event::ContainerExited { container, ran_for: Duration::ZERO, how });
    }

    fn create(&mut self, key: PodKey) {
        let all = self.shared.addresses();
        let address = {
            let places = self.shared.places.borrow();
            let free = |address: &IpAddr| !places.values().any(|taken| taken == address);
            let free: Vec<IpAddr> = all.iter().copied().filter(free).collect();
            match self.shared.plan.mode {
                Mode::StatefulSet => self.dice.pick(&free).copied(),
                Mode::Fixed => all.get(usize::from(key.ordinal)).copied(),
            }
        };
        let Some(address) = address else { return };
        if key.uid > u64::from(self.shared.plan.size) {
            self.shared.count("pod created anew");
        }
        self.shared.trace.add(&format!("pod {} is created at {address}", key.ordinal));
        self.shared.places.borrow_mut().insert(key.ordinal, address);
        self.shared.publish_all();
    }

    fn start(&mut self, sim: &mut Sim<'_>, container: ContainerId) {
        let ordinal = container.pod.ordinal;
        if self.down.contains_key(&ordinal) {
            self.waiting.insert(ordinal, container);
            return;
        }
        let Some(address) = self.shared.places.borrow().get(&ordinal).copied() else { return };
        if let (Some(back), Some(pod)) =
            (self.engines.remove(&ordinal), self.shared.pods.get(usize::from(ordinal)))
        {
            volumes::change_engine(pod, back, &self.dice);
        }
        self.shared.trace.add(&format!("process {container} starts"));
        let (stop, started) = (CancellationToken::new(), self.shared.now.millis());
        let process = Process { container, address, stop, started };
        self.shared.processes.borrow_mut().insert(ordinal, process);
        sim.bounce(address);
    }

    /// A process has ended, or ends now.
    fn ended(&mut self, sim: &mut Sim<'_>, container: ContainerId, how: String) {
        let ordinal = container.pod.ordinal;
        let current = self.shared.processes.borrow().get(&ordinal).cloned();
        let Some(process) = current.filter(|process| process.container == container) else { return };
        self.shared.processes.borrow_mut().remove(&ordinal);
        self.shared.reports.borrow_mut().remove(&ordinal);
        if let Some(pod) = self.shared.pods.get(usize::from(ordinal)) {
            pod.network.ends();
        }
        // Ends what runs there; nothing does afterwards, because the process is gone from the list.
        sim.bounce(process.address);
        if let Some(pod) = self.shared.pods.get(usize::from(ordinal))
            && !pod.files.stopped()
            && !self.down.contains_key(&ordinal)
        {
            pod.files.kill();
        }
        let ran_for = Duration::from_millis(self.shared.now.millis() - process.started);
        self.event(sim, Event::ContainerExited { container, ran_for, how });
    }
}
