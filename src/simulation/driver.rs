//! Moves a simulation forward, lets things go wrong when the plan says so, and restarts pods as a kubelet does.

use std::time::Duration;

use turmoil::Sim;

use super::plan::Fault;
use super::shared::Shared;
use super::world::Dice;
use crate::env::Lookup;
use crate::env::simulated::mix;
use crate::env::simulated_files::Crash;

/// Time in which everything must work again after healing, in simulated milliseconds. A first bootstrap under faults waits
/// up to a minute for pods that it knows of.
const LIVENESS_MILLIS: u64 = 120_000;
/// Time until the process of a pod that ended by itself is started again, in milliseconds.
const RESTART_MILLIS: u64 = 500;

/// What ends at a certain time.
enum End {
    Down(u16),
    Partition(Vec<u16>),
    OneWay(u16, u16),
    Stall(u16, u16),
    SlowNetwork,
    SlowDisk(u16),
    Names,
}

pub(super) struct Driver<'a> {
    sim: Sim<'a>,
    shared: Shared,
    dice: Dice,
    ends: Vec<(u64, End)>,
    down: Vec<bool>,
    next_fault: usize,
    healed: bool,
    pub(super) faults: u64,
}

impl<'a> Driver<'a> {
    pub(super) fn new(sim: Sim<'a>, shared: Shared) -> Self {
        let dice = Dice::new(mix(shared.plan.seed) ^ 0x6472_6976);
        let down = vec![false; usize::from(shared.plan.size)];
        Self { sim, shared, dice, ends: Vec::new(), down, next_fault: 0, healed: false, faults: 0 }
    }

    /// Runs until the audit is done, something is wrong, or the time is up.
    pub(super) fn run(&mut self) {
        let plan = self.shared.plan.clone();
        let mut millis = 0;
        loop {
            self.shared.now.set(millis);
            self.serve_ends(millis);
            if millis < plan.heal {
                self.begin_faults(millis);
            } else if !self.healed {
                self.heal();
            }
            self.notice();
            match self.sim.step() {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => {
                    self.shared.complain(format!("a task ended: {error}"));
                    return;
                }
            }
            if !self.shared.invariants.borrow().wrong().is_empty() {
                return;
            }
            if millis > plan.heal + LIVENESS_MILLIS {
                self.complain_of_liveness();
                return;
            }
            millis += 1;
        }
    }

    fn complain_of_liveness(&self) {
        let waiting = self.shared.waiting_for.borrow().clone();
        self.shared.complain(format!(
            "not live: {} s after everything was healed the cluster still owes {waiting}",
            LIVENESS_MILLIS / 1_000
        ));
        for (ordinal, node) in self.shared.nodes.borrow().iter() {
            self.shared.complain(format!("member {ordinal}: {}", node.health().status));
        }
    }

    fn begin_faults(&mut self, millis: u64) {
        while let Some((at, fault)) = self.shared.plan.faults.get(self.next_fault).cloned() {
            if at > millis {
                return;
            }
            self.next_fault += 1;
            self.begin(millis, fault);
        }
    }

    fn begin(&mut self, millis: u64, fault: Fault) {
        self.faults += 1;
        self.shared.trace.add(&format!("FAULT {fault:?}"));
        match fault {
            Fault::PowerLoss { pods, down } => {
                for pod in pods {
                    self.stop(pod, true, millis + down);
                }
            }
            Fault::Kill { pods, down } => {
                for pod in pods {
                    self.stop(pod, false, millis + down);
                }
            }
            Fault::PowerLossInWrite { pod, operations, .. } => {
                if !self.is_down(pod)
                    && let Some(pod) = self.shared.pods.get(usize::from(pod))
                {
                    pod.files.stop_after(operations);
                }
            }
            Fault::Partition { pods, time } => {
                self.between(&pods, |sim, one, other| sim.partition(one, other));
                self.ends.push((millis + time, End::Partition(pods)));
            }
            Fault::OneWay { from, to, time } if from != to => {
                self.pair(from, to, |sim, one, other| sim.partition_oneway(one, other));
                self.ends.push((millis + time, End::OneWay(from, to)));
            }
            Fault::Stall { one, other, time } if one != other => {
                self.pair(one, other, |sim, one, other| sim.hold(one, other));
                self.ends.push((millis + time, End::Stall(one, other)));
            }
            Fault::OneWay { .. } | Fault::Stall { .. } => {}
            Fault::SlowNetwork { latency, time } => {
                self.sim.set_max_message_latency(Duration::from_millis(latency));
                self.ends.push((millis + time, End::SlowNetwork));
            }
            Fault::SlowDisk { pod, latency, time } => {
                self.set_disk(pod, latency * 1_000);
                self.ends.push((millis + time, End::SlowDisk(pod)));
            }
            Fault::FailedSync { pod, after } => {
                if let Some(pod) = self.shared.pods.get(usize::from(pod)) {
                    pod.files.fail_sync_after(after);
                }
            }
            Fault::NoNames { time } => {
                for ordinal in 0..self.shared.plan.size {
                    let name = self.shared.facts(ordinal).fqdn();
                    self.shared.zone.set(&name, Lookup::Unknown("refused".into()));
                }
                let service = self.shared.facts(0).service_fqdn();
                self.shared.zone.set(&service, Lookup::Unknown("refused".into()));
                self.ends.push((millis + time, End::Names));
            }
            Fault::Unpublished { pod, time } => {
                self.shared.zone.set(&self.shared.facts(pod).fqdn(), Lookup::Absent);
                self.ends.push((millis + time, End::Names));
            }
            Fault::StaleName { pod, at, time } => {
                if let Some(at) = self.shared.pods.get(usize::from(at)) {
                    self.shared.zone.set(&self.shared.facts(pod).fqdn(), Lookup::At(vec![at.address]));
                }
                self.ends.push((millis + time, End::Names));
            }
        }
    }

    fn serve_ends(&mut self, millis: u64) {
        let (due, later) = std::mem::take(&mut self.ends).into_iter().partition(|(at, _)| *at <= millis);
        self.ends = later;
        let due: Vec<(u64, End)> = due;
        for (_, end) in due {
            self.end(end);
        }
    }

    fn end(&mut self, end: End) {
        match end {
            End::Down(pod) => self.start(pod),
            End::Partition(pods) => self.between(&pods, |sim, one, other| sim.repair(one, other)),
            End::OneWay(from, to) => self.pair(from, to, |sim, one, other| sim.repair(one, other)),
            End::Stall(one, other) => self.pair(one, other, |sim, one, other| sim.release(one, other)),
            End::SlowNetwork => {
                self.sim.set_max_message_latency(Duration::from_millis(self.shared.plan.latency));
            }
            End::SlowDisk(pod) => self.set_disk(pod, 500),
            End::Names => self.shared.publish_all(),
        }
    }

    /// Everything is well again.
    fn heal(&mut self) {
        self.shared.trace.add("everything is healed");
        self.healed = true;
        for (_, end) in std::mem::take(&mut self.ends) {
            self.end(end);
        }
        for pod in &self.shared.pods {
            pod.files.fail_sync_after(u64::MAX);
            if !pod.files.stopped() {
                pod.files.stop_after(u64::MAX);
            }
        }
    }

    /// Restarts what has ended, and takes the power from pods whose disks ran out of it.
    fn notice(&mut self) {
        let millis = self.shared.now.millis();
        for pod in 0..self.shared.plan.size {
            let stopped = self.shared.pods.get(usize::from(pod)).is_some_and(|pod| pod.files.stopped());
            if stopped && !self.is_down(pod) {
                let down = self.dice.within(1, 2_000);
                self.stop(pod, true, millis + down);
            }
        }
        let exits = std::mem::take(&mut *self.shared.exits.borrow_mut());
        for pod in exits {
            self.stop(pod, false, millis + RESTART_MILLIS);
        }
    }

    fn is_down(&self, pod: u16) -> bool {
        self.down.get(usize::from(pod)).copied().unwrap_or(true)
    }

    fn stop(&mut self, pod: u16, power: bool, until: u64) {
        if self.is_down(pod) {
            return;
        }
        let Some(place) = self.shared.pods.get(usize::from(pod)) else { return };
        let kept = if power {
            let kept = match self.dice.below(6) {
                0 => Crash::LoseAll,
                1 => Crash::KeepAll,
                _ => Crash::Seeded(self.dice.next()),
            };
            place.files.crash(kept);
            format!("without power, {kept:?}")
        } else {
            place.files.kill();
            "killed".into()
        };
        self.shared.trace.add(&format!("pod {pod} is down, {kept}"));
        self.shared.nodes.borrow_mut().remove(&pod);
        self.sim.crash(place.address);
        if let Some(down) = self.down.get_mut(usize::from(pod)) {
            *down = true;
        }
        self.ends.push((until, End::Down(pod)));
    }

    fn start(&mut self, pod: u16) {
        let Some(place) = self.shared.pods.get(usize::from(pod)) else { return };
        if let Some(down) = self.down.get_mut(usize::from(pod)) {
            *down = false;
        }
        self.shared.trace.add(&format!("pod {pod} starts"));
        self.sim.bounce(place.address);
    }

    fn set_disk(&self, pod: u16, micros: u64) {
        if let Some(pod) = self.shared.pods.get(usize::from(pod)) {
            pod.tasks.latency.store(micros, std::sync::atomic::Ordering::Relaxed);
        }
    }

    fn pair(&self, one: u16, other: u16, act: impl Fn(&Sim<'a>, std::net::IpAddr, std::net::IpAddr)) {
        let address = |pod: u16| self.shared.pods.get(usize::from(pod)).map(|pod| pod.address);
        if let (Some(one), Some(other)) = (address(one), address(other)) {
            act(&self.sim, one, other);
        }
    }

    fn between(&self, pods: &[u16], act: impl Fn(&Sim<'a>, std::net::IpAddr, std::net::IpAddr)) {
        for one in pods {
            for other in (0..self.shared.plan.size).filter(|other| !pods.contains(other)) {
                self.pair(*one, other, &act);
            }
        }
    }
}
