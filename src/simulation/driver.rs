//! Moves a simulation forward, lets things go wrong when the plan says so, and heals them.

use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use turmoil::Sim;

use super::fault::{Fault, Volume};
use super::kubelet::Kubelet;
use super::shared::Shared;
use super::upkeep::Treatment;
use super::world::{Dice, Pod, STEP_MICROS};
use super::{os_clock, volumes};
use crate::env::Lookup;
use crate::env::simulated::{self, mix, stopping};
use crate::env::simulated_files::SimulatedFiles;
use crate::playground::controller::Event;

/// Time in which everything must work again after healing, in simulated milliseconds. A first bootstrap under faults waits
/// up to a minute for pods that it knows of.
const LIVENESS_MILLIS: u64 = 120_000;
/// Bytes that a disk has room for without faults.
pub(super) const ROOM: u64 = 1 << 40;

type Pairs = Vec<(IpAddr, IpAddr)>;

/// What is to be done at a certain time.
pub(super) enum Step {
    Break(Pairs),
    Repair(Pairs),
    Release(Pairs),
    Lossless,
    Unbroken(u16),
    Resumed(u16, Pairs),
    GoesOn(tokio::runtime::Id),
    FastNetwork,
    FastPod(u16, Pairs),
    FastDisk(u16),
    Unstuck(u16),
    Left(u16, u64),
    Room(u16),
    Names,
    Speaks,
    Published,
    Scaled,
    Owner,
    LoseVolumes,
}

pub(super) struct Driver<'a> {
    pub(super) sim: Sim<'a>,
    pub(super) shared: Shared,
    pub(super) dice: Dice,
    pub(super) kubelet: Kubelet,
    steps: Vec<(u64, Step)>,
    next_fault: usize,
    healed: bool,
    /// From when on everything must work again, in time.
    pub(super) owed_from: u64,
    /// An old copy: of which pod's volume, and when it was made.
    pub(super) old_volume: Option<(u16, u64, SimulatedFiles)>,
    /// Copies of volumes that all are put back to.
    pub(super) copies: Vec<(u16, SimulatedFiles)>,
}

impl<'a> Driver<'a> {
    pub(super) fn new(sim: Sim<'a>, shared: Shared) -> Self {
        let dice = Dice::new(mix(shared.plan.seed) ^ 0x6472_6976);
        let kubelet = Kubelet::new(shared.clone());
        Self {
            sim,
            dice,
            kubelet,
            steps: Vec::new(),
            next_fault: 0,
            healed: false,
            owed_from: shared.plan.heal,
            shared,
            old_volume: None,
            copies: Vec::new(),
        }
    }

    /// Runs until the audit is done, something is wrong, or the time is up.
    pub(super) fn run(&mut self) {
        let heal = self.shared.plan.heal;
        let mut millis = 0;
        loop {
            self.shared.now.set(millis);
            os_clock::set(millis);
            self.take_steps(millis);
            if millis < heal {
                self.begin_faults(millis);
            } else if !self.healed {
                self.heal();
            }
            self.treat(millis);
            self.roll_back(millis);
            self.lose_majority(millis);
            self.restore(millis);
            self.kubelet.step(&mut self.sim);
            match self.sim.step() {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => return self.shared.complain(format!("a task ended: {error}")),
            }
            let broken = !self.shared.leases.borrow().wrong().is_empty()
                || !self.shared.book.borrow().wrong().is_empty();
            if broken
                || !self.shared.invariants.borrow().wrong().is_empty()
                || !self.shared.wrong.borrow().is_empty()
            {
                return;
            }
            if millis > self.owed_from + self.patience() {
                return self.complain_of_liveness();
            }
            millis += 1;
        }
    }

    /// Time in which everything must work again. At a first install in order, each pod may have to wait until the name server
    /// has forgotten that it was absent.
    fn patience(&self) -> u64 {
        let plan = &self.shared.plan;
        // And twice where a human must first see what becomes of the set.
        let times = 1 + u64::from(plan.resized.is_some());
        times * LIVENESS_MILLIS + u64::from(plan.size) * plan.names_cached * 3 / 2
    }

    fn complain_of_liveness(&self) {
        let waiting = self.shared.waiting_for.borrow().clone();
        self.shared.complain(format!(
            "not live: {} s after the last that was done to it the cluster still owes {waiting}",
            self.patience() / 1_000
        ));
        if self.shared.book.borrow().is_closed() {
            self.shared.complain("ALARM: NOSPACE is raised, and every volume has had room for long".into());
        }
        for (ordinal, report) in self.shared.reports.borrow().iter() {
            self.shared.complain(format!("member {ordinal}: {}", report.status));
        }
    }

    fn begin_faults(&mut self, millis: u64) {
        while let Some((at, fault)) = self.shared.plan.faults.get(self.next_fault).cloned() {
            if at > millis {
                return;
            }
            self.next_fault += 1;
            // A disk of a pod that is no member yet holds nothing to lose, and a first bootstrap would rightly wait for ever.
            let is_member = |pod: &u16| self.shared.invariants.borrow().has_applied(*pod);
            if !fault.tampers_with().iter().all(is_member) {
                continue;
            }
            self.shared.count(fault.name());
            self.shared.trace.add(&format!("FAULT {fault:?}"));
            self.begin(millis, fault);
        }
    }

    fn begin(&mut self, now: u64, fault: Fault) {
        match fault {
            Fault::PowerLoss { pods, down } => {
                for pod in pods {
                    self.kubelet.power_loss(&mut self.sim, pod, now + down);
                }
            }
            Fault::PowerLossInWrite { pod, operations } => {
                self.with(pod, |pod| pod.files.stop_after(operations));
            }
            Fault::Kill { pods } => {
                for ordinal in pods {
                    self.kubelet.event(&mut self.sim, Event::KillContainer { ordinal });
                }
            }
            Fault::DeletePod { pod } => {
                self.kubelet.event(&mut self.sim, Event::DeletePod { ordinal: pod });
            }
            Fault::Scale { replicas, time } => {
                self.scale(replicas);
                self.later(now + time, Step::Scaled);
            }
            Fault::NoOwner { time } => {
                self.shared.owner.set_away(true);
                self.later(now + time, Step::Owner);
            }
            Fault::Engine { pod, back } => self.kubelet.restart(pod, back),
            Fault::BitFlip { pod, .. } | Fault::Replace { pod, .. } => self.tamper(now, pod, &fault),
            Fault::FailedSync { pod, after } => self.with(pod, |pod| pod.files.fail_sync_after(after)),
            Fault::FullDisk { pod, bytes, time } => {
                self.with(pod, |pod| pod.files.set_free(bytes));
                self.later(now + time, Step::Room(pod));
            }
            Fault::Filling { pod, time } => {
                let least = self.nearly_full();
                for (quarter, left) in (0..).zip([least * 4, least * 2, least * 3 / 2, least]) {
                    self.later(now + time * quarter / 6, Step::Left(pod, left));
                }
                self.later(now + time, Step::Room(pod));
            }
            Fault::SlowDisk { pod, latency, time } => {
                self.with(pod, |pod| pod.tasks.latency.store(latency * 1_000, Ordering::Relaxed));
                self.later(now + time, Step::FastDisk(pod));
            }
            Fault::StuckDisk { pod, time } => {
                self.with(pod, |pod| pod.tasks.stuck.store(true, Ordering::Relaxed));
                self.later(now + time, Step::Unstuck(pod));
            }
            Fault::ClockJump { pod, seconds } => {
                self.with(pod, |pod| pod.clock_error.store(seconds, Ordering::Relaxed));
            }
            Fault::NoNames { .. }
            | Fault::SilentNames { .. }
            | Fault::Unpublished { .. }
            | Fault::StaleName { .. } => self.begin_of_names(now, &fault),
            _ => self.begin_of_network(now, fault),
        }
    }

    fn begin_of_network(&mut self, now: u64, fault: Fault) {
        match fault {
            Fault::Partition { pods, time } => {
                let pairs = self.between(&pods);
                self.take(Step::Break(pairs.clone()));
                self.later(now + time, Step::Repair(pairs));
            }
            Fault::Flapping { pods, period, time } => {
                let pairs = self.between(&pods);
                for at in (0..time).step_by(2 * period as usize) {
                    self.later(now + at, Step::Break(pairs.clone()));
                    self.later(now + at + period, Step::Repair(pairs.clone()));
                }
            }
            Fault::Cut { one, other, time } => {
                let pairs = self.pair(one, other);
                self.take(Step::Break(pairs.clone()));
                self.later(now + time, Step::Repair(pairs));
            }
            Fault::OneWay { from, to, time } => {
                let pairs = self.pair(from, to);
                for (from, to) in &pairs {
                    self.sim.partition_oneway(*from, *to);
                }
                self.later(now + time, Step::Repair(pairs));
            }
            Fault::Stall { one, other, time } => {
                let pairs = self.pair(one, other);
                for (one, other) in &pairs {
                    self.sim.hold(*one, *other);
                }
                self.later(now + time, Step::Release(pairs));
            }
            Fault::Lossy { permille, time } => {
                self.sim.set_fail_rate(permille as f64 / 1_000.0);
                self.later(now + time, Step::Lossless);
            }
            Fault::Resets { pod, permille, time } => {
                self.with(pod, |pod| pod.network.breaks.store(permille, Ordering::Relaxed));
                self.later(now + time, Step::Unbroken(pod));
            }
            Fault::Repeats { pod, permille, time } => {
                self.with(pod, |pod| pod.network.repeats.store(permille, Ordering::Relaxed));
                self.later(now + time, Step::Unbroken(pod));
            }
            Fault::Paused { pod, time } => self.pause(now, pod, time),
            Fault::Stopped { pod, time } => {
                if let Some(runtime) = self.shared.runtimes.borrow().get(&pod) {
                    stopping::stop(*runtime);
                    self.steps.push((now + time, Step::GoesOn(*runtime)));
                }
                self.pause(now, pod, time);
            }
            Fault::SlowNetwork { latency, time } => {
                self.sim.set_max_message_latency(Duration::from_millis(latency));
                self.later(now + time, Step::FastNetwork);
            }
            Fault::SlowPod { pod, latency, time } => {
                let pairs = self.between(&[pod]);
                self.set_links(&pairs, latency);
                self.with(pod, |pod| pod.tasks.latency.store(latency * 1_000, Ordering::Relaxed));
                self.later(now + time, Step::FastPod(pod, pairs));
            }
            _ => {}
        }
    }

    /// Nothing reaches or leaves a process, and its disk does nothing.
    fn pause(&mut self, now: u64, pod: u16, time: u64) {
        let mut pairs = self.between(&[pod]);
        let place = self.shared.places.borrow().get(&pod).copied();
        let clients = self.shared.client_addresses();
        pairs.extend(place.into_iter().flat_map(|place| clients.iter().map(move |to| (place, *to))));
        for (one, other) in &pairs {
            self.sim.hold(*one, *other);
        }
        self.with(pod, |pod| pod.tasks.stuck.store(true, Ordering::Relaxed));
        self.later(now + time, Step::Resumed(pod, pairs));
    }

    fn begin_of_names(&mut self, now: u64, fault: &Fault) {
        let fqdn = |pod: u16| self.shared.facts(pod).fqdn();
        match *fault {
            Fault::NoNames { time } => {
                self.shared.zone.fail(true);
                self.later(now + time, Step::Names);
            }
            Fault::SilentNames { time } => {
                self.shared.zone.silence(true);
                self.later(now + time, Step::Speaks);
            }
            Fault::Unpublished { pod, time } => {
                self.shared.zone.set(&fqdn(pod), Lookup::Absent);
                self.later(now + time, Step::Published);
            }
            Fault::StaleName { pod, at, time } => {
                let place = self.shared.places.borrow().get(&at).copied();
                if let Some(place) = place {
                    self.shared.zone.set(&fqdn(pod), Lookup::At(vec![place]));
                }
                self.later(now + time, Step::Published);
            }
            _ => {}
        }
    }

    /// Something is done to a disk while its machine is down.
    fn tamper(&mut self, now: u64, pod: u16, fault: &Fault) {
        for ordinal in fault.tampers_with() {
            let down = self.dice.within(100, 3_000);
            self.shared.invariants.borrow_mut().tamper(ordinal);
            self.kubelet.power_loss(&mut self.sim, ordinal, now + down);
        }
        match *fault {
            Fault::BitFlip { part, .. } => self.with(pod, |pod| volumes::flip_bit(pod, part, &self.dice)),
            Fault::Replace { volume, .. } if volume != Volume::Of(pod) => {
                volumes::replace(&self.shared, pod, volume, &self.dice);
            }
            _ => {}
        }
    }

    /// Bytes that are less than what members want to be free, and enough for what the log begins next.
    fn nearly_full(&self) -> u64 {
        let tuning = &self.shared.plan.tuning;
        tuning.log_segment_bytes * 2 + tuning.maintenance.disk_reserve_bytes / 2
    }

    /// Does what the audit wants to be done to pods.
    fn treat(&mut self, now: u64) {
        let wanted = std::mem::take(&mut *self.shared.treatments.borrow_mut());
        for treatment in wanted {
            self.shared.trace.add(&format!("FAULT {treatment:?}"));
            self.owed_from = now;
            match treatment {
                Treatment::Fill(pod) => self.take(Step::Left(pod, self.nearly_full())),
                Treatment::Room(pod) => self.take(Step::Room(pod)),
                Treatment::Spoil(pod) => {
                    simulated::spoil(Some(pod));
                    self.shared.invariants.borrow_mut().spoil(Some(pod));
                }
                Treatment::Replace(pod) => {
                    simulated::spoil(None);
                    self.shared.invariants.borrow_mut().spoil(None);
                    self.shared.invariants.borrow_mut().tamper(pod);
                    self.kubelet.power_loss(&mut self.sim, pod, now + 500);
                    volumes::replace(&self.shared, pod, Volume::Nothing, &self.dice);
                }
            }
        }
    }

    pub(super) fn later(&mut self, at: u64, step: Step) {
        self.steps.push((at, step));
    }

    fn take_steps(&mut self, now: u64) {
        let (due, later) = std::mem::take(&mut self.steps).into_iter().partition(|(at, _)| *at <= now);
        self.steps = later;
        let due: Vec<(u64, Step)> = due;
        for (_, step) in due {
            self.take(step);
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Break(pairs) => pairs.iter().for_each(|(one, other)| self.sim.partition(*one, *other)),
            Step::Repair(pairs) => pairs.iter().for_each(|(one, other)| self.sim.repair(*one, *other)),
            Step::Release(pairs) => pairs.iter().for_each(|(one, other)| self.sim.release(*one, *other)),
            Step::Lossless => self.sim.set_fail_rate(0.0),
            Step::Unbroken(pod) => self.with(pod, |pod| {
                pod.network.breaks.store(0, Ordering::Relaxed);
                pod.network.repeats.store(0, Ordering::Relaxed);
            }),
            Step::Resumed(pod, pairs) => {
                self.take(Step::Release(pairs));
                self.take(Step::Unstuck(pod));
            }
            Step::GoesOn(runtime) => stopping::go_on(runtime),
            Step::FastNetwork => {
                self.sim.set_max_message_latency(Duration::from_millis(self.shared.plan.latency));
            }
            Step::FastPod(pod, pairs) => {
                self.set_links(&pairs, self.shared.plan.latency);
                self.take(Step::FastDisk(pod));
            }
            Step::FastDisk(pod) => {
                self.with(pod, |pod| pod.tasks.latency.store(STEP_MICROS, Ordering::Relaxed));
            }
            Step::Unstuck(pod) => self.with(pod, |pod| pod.tasks.stuck.store(false, Ordering::Relaxed)),
            Step::Left(pod, bytes) => self.with(pod, |pod| pod.files.set_free(bytes)),
            Step::Room(pod) => self.with(pod, |pod| pod.files.set_free(ROOM)),
            Step::Names => self.shared.zone.fail(false),
            Step::Speaks => self.shared.zone.silence(false),
            Step::Published => self.shared.publish_all(),
            Step::Scaled => self.scale(self.shared.plan.size),
            Step::Owner => self.shared.owner.set_away(false),
            Step::LoseVolumes => self.lose_volumes(),
        }
    }

    pub(super) fn scale(&mut self, replicas: u16) {
        self.shared.owner.scale(replicas);
        if self.shared.plan.follows && replicas > 0 {
            let mut invariants = self.shared.invariants.borrow_mut();
            (replicas..self.shared.plan.size).for_each(|ordinal| invariants.dismiss(ordinal));
        }
        self.kubelet.event(&mut self.sim, Event::Scale { replicas });
    }

    /// Everything is well again.
    fn heal(&mut self) {
        self.shared.trace.add("everything is healed");
        self.healed = true;
        let steps = std::mem::take(&mut self.steps);
        for (_, step) in steps {
            if !matches!(step, Step::Break(_)) {
                self.take(step);
            }
        }
        self.kubelet.power_all(&mut self.sim);
        for pod in &self.shared.pods {
            pod.files.fail_sync_after(u64::MAX);
            if !pod.files.stopped() {
                pod.files.stop_after(u64::MAX);
            }
        }
    }

    pub(super) fn with(&self, pod: u16, act: impl FnOnce(&Pod)) {
        if let Some(pod) = self.shared.pods.get(usize::from(pod)) {
            act(pod);
        }
    }

    fn set_links(&self, pairs: &Pairs, latency: u64) {
        for (one, other) in pairs {
            self.sim.set_link_max_message_latency(*one, *other, Duration::from_millis(latency));
        }
    }

    /// The addresses of two pods, if both exist.
    fn pair(&self, one: u16, other: u16) -> Pairs {
        let places = self.shared.places.borrow();
        match (places.get(&one), places.get(&other)) {
            (Some(one), Some(other)) if one != other => vec![(*one, *other)],
            _ => Vec::new(),
        }
    }

    /// The addresses of these pods, each with those of the others.
    fn between(&self, pods: &[u16]) -> Pairs {
        let others: Vec<u16> = (0..self.shared.plan.size).filter(|other| !pods.contains(other)).collect();
        pods.iter().flat_map(|one| others.iter().flat_map(|other| self.pair(*one, *other))).collect()
    }
}
