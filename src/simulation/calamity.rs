//! What the driver does to volumes at the end, when the audit lets it: an old copy of one takes its place, a majority is lost, or all are put
//! back to older copies.

use super::driver::{Driver, ROOM, Step};
use super::fault::Volume;
use super::history::Operation;
use super::later::Restore;
use super::plan::Rollback;
use super::shared::Phase;
use super::volumes;

impl Driver<'_> {
    /// Keeps an old copy of a volume, and puts it in place when every other member can tell; or, if it is young, when the others
    /// have everything.
    pub(super) fn roll_back(&mut self, now: u64) {
        let phase = self.shared.phase.get();
        let Some(Rollback { pod, made }) = self.shared.plan.rollback else {
            if phase == Phase::Settled {
                self.shared.phase.set(Phase::RolledBack);
            }
            return;
        };
        if made == Some(now) {
            self.copy_volume(pod, now);
        }
        match (phase, made) {
            (Phase::Settled, None) => {
                // That of a follower: with the leader's memory gone too, nothing shows what the copy lacks (DESIGN, section 5).
                let leads = self.shared.invariants.borrow().leader() == Some(pod);
                let pod = if leads { (pod + 1) % self.shared.plan.size } else { pod };
                self.copy_volume(pod, now);
                self.shared.phase.set(Phase::Copied);
            }
            (Phase::Settled, Some(_)) | (Phase::Written, None) => self.put_copy_in_place(now, made.is_none()),
            _ => {}
        }
    }

    /// Takes a majority of the volumes, and the power of all machines; the set may be scaled a little before, and all pods be wanted again
    /// a little later.
    pub(super) fn lose_majority(&mut self, now: u64) {
        if self.shared.phase.get() != Phase::Disaster {
            return;
        }
        match self.shared.plan.resized {
            Some(resize) => {
                self.shared.trace.add(&format!("FAULT {resize:?}"));
                self.shared.phase.set(Phase::Resized);
                self.scale(resize.replicas);
                self.later(now + resize.before, Step::LoseVolumes);
                self.later(now + resize.before + resize.after, Step::Scaled);
            }
            None => self.lose_volumes(),
        }
    }

    pub(super) fn lose_volumes(&mut self) {
        let now = self.shared.now.millis();
        self.shared.trace.add(&format!("FAULT the volumes of {:?} are gone", self.shared.plan.lost));
        for ordinal in 0..self.shared.plan.size {
            let down = self.dice.within(100, 3_000);
            self.shared.invariants.borrow_mut().tamper(ordinal);
            self.kubelet.power_loss(&mut self.sim, ordinal, now + down);
        }
        for ordinal in self.shared.plan.lost.clone() {
            volumes::replace(&self.shared, ordinal, Volume::Nothing, &self.dice);
        }
        self.shared.invariants.borrow_mut().recovers();
        self.owed_from = now + self.shared.plan.resized.map_or(0, |resize| resize.after);
        self.shared.phase.set(Phase::Lost);
    }

    /// Makes the copies that all volumes are put back to, and does so.
    pub(super) fn restore(&mut self, now: u64) {
        let Some(restore) = self.shared.plan.restored.clone() else { return };
        match (restore, self.shared.phase.get()) {
            (Restore::AtOnce(at), _) if at == now => {
                let done = self.shared.operations.borrow().iter().filter_map(Operation::revision).max();
                self.shared.copied_at.set(done.unwrap_or_default());
                self.copy_all(|_| true);
            }
            (Restore::Older(older), Phase::CopyOlder) => {
                self.copy_all(|pod| older.contains(&pod));
                self.shared.phase.set(Phase::CopiedOlder);
            }
            (Restore::Older(older), Phase::CopyOthers) => {
                self.copy_all(|pod| !older.contains(&pod));
                self.shared.phase.set(Phase::CopiedOthers);
            }
            (_, Phase::Restore) => self.put_all_back(now),
            _ => {}
        }
    }

    fn copy_all(&mut self, of: impl Fn(u16) -> bool) {
        for pod in self.shared.pods.iter().filter(|pod| of(pod.ordinal)) {
            self.shared.trace.add(&format!("volume {} is copied", pod.ordinal));
            self.copies.push((pod.ordinal, pod.files.copy()));
        }
    }

    fn put_all_back(&mut self, now: u64) {
        self.shared.trace.add("FAULT all volumes are what they were");
        self.shared.count("all volumes restored");
        // All at the same moment: who knows better must be asked before the others go on (DESIGN, section 5).
        let until = now + self.dice.within(100, 2_000);
        for (ordinal, copy) in std::mem::take(&mut self.copies) {
            self.shared.invariants.borrow_mut().tamper(ordinal);
            self.kubelet.power_loss(&mut self.sim, ordinal, until);
            self.with(ordinal, |pod| {
                pod.files.replace(&copy);
                pod.files.set_free(ROOM);
                pod.files.fail_sync_after(u64::MAX);
                pod.files.stop_after(u64::MAX);
            });
        }
        self.shared.invariants.borrow_mut().begins_anew();
        self.shared.leases.borrow_mut().begins_anew();
        self.owed_from = now;
        self.shared.phase.set(Phase::Restored);
    }

    fn copy_volume(&mut self, ordinal: u16, now: u64) {
        if let Some(pod) = self.shared.pods.get(usize::from(ordinal)) {
            self.old_volume = Some((ordinal, now, pod.files.copy()));
        }
    }

    fn put_copy_in_place(&mut self, now: u64, young: bool) {
        if let Some((ordinal, made, copy)) = self.old_volume.take() {
            self.shared.trace.add(&format!("FAULT the volume of {ordinal} is what it was at {made}"));
            self.shared.count(if young { "volume rolled back, young" } else { "volume rolled back" });
            self.shared.invariants.borrow_mut().tamper(ordinal);
            self.kubelet.power_loss(&mut self.sim, ordinal, now + 500);
            self.with(ordinal, |pod| pod.files.replace(&copy));
            let who = if young { &self.shared.may_wait } else { &self.shared.must_wait };
            who.borrow_mut().insert(ordinal);
        }
        self.shared.phase.set(Phase::RolledBack);
    }
}
