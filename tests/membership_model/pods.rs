//! The StatefulSet controller by Kubernetes' rules, the readiness that it waits for, and the stop of a pod.

use setstone::env::owner::Seen;
use setstone::identity::Ordinal;
use setstone::limits;
use setstone::membership::ready::Look;
use setstone::membership::{Desired, Verdict, needed, readiness, verdict};

use super::model::Model;
use super::start::Ears;
use super::state::{PODS, Pod, World, last_members};

impl World {
    /// The answers to the probes of the pod.
    pub fn look(&self, model: &Model, at: usize) -> Look {
        let Some(process) = self.process(at) else { return Look { draining: true, ..Look::default() } };
        let (facts, disk) = (self.facts(model, at), self.own_disk(at));
        let answers = self.answers(model, at, Ears::default(), &facts, &disk);
        let other_knows = answers.described().any(|(_, _, described)| described.leader().is_some());
        let leader_known = if process.part { self.leader_heard(at).is_some() } else { other_knows };
        let outside = answers.described().any(|(_, _, described)| {
            let desired = described.consensus.as_ref().and_then(|view| view.desired);
            desired.is_some_and(|range| Desired::Known(range).excludes(facts.ordinal))
        });
        let members = last_members(&self.volume(at).log).cloned().unwrap_or_default();
        let own = self.volume(at).node;
        let older = |id: &setstone::identity::NodeId| id.ordinal() == own.ordinal() && *id < own;
        let patience =
            if process.waited >= 2 { limits::LEADERLESS_PATIENCE } else { std::time::Duration::ZERO };
        Look {
            storage_moves: true,
            storage_failure: None,
            loading: false,
            draining: self.pods[at].as_ref().is_some_and(|pod| pod.terminating),
            leader_known,
            leaderless_for: if leader_known { std::time::Duration::ZERO } else { patience },
            is_member: process.part && members.contains(own),
            older_member: members.ids().into_iter().find(older),
            applied_index: process.commit.into(),
            read_index: process.caught_up.then_some(process.commit.into()),
            retired: outside,
            needed: needed(&disk, &answers, &facts),
        }
    }

    /// Ready, and serving.
    pub fn probes(&self, model: &Model, at: usize) -> (bool, bool) {
        if self.process(at).is_none() {
            return (false, false);
        }
        let look = self.look(model, at);
        let readiness = readiness(&look);
        let ready = readiness.ready && (look.leader_known || model.rules.ready_without_leader());
        (ready, readiness.serving)
    }

    /// The pods that the controller would create and delete now.
    pub fn controller(&self, model: &Model) -> (Vec<usize>, Vec<usize>) {
        let size = usize::from(self.size);
        let missing = (0..size).filter(|at| self.pods[*at].is_none());
        let condemned =
            (size..PODS).rev().filter(|at| self.pods[*at].as_ref().is_some_and(|pod| !pod.terminating));
        if model.parallel {
            return (missing.collect(), condemned.collect());
        }
        let is_ready = |at: &usize| self.probes(model, *at).0;
        if let Some(first) = (0..size).find(|at| !is_ready(at)) {
            return (missing.filter(|at| *at == first).collect(), Vec::new());
        }
        // From the top, one after the other; one that is not ready stops the descent, unless it is the lowest that is not.
        let highest = (size..PODS).rev().find(|at| self.pods[*at].is_some());
        let lowest_sick = (0..PODS).find(|at| self.pods[*at].is_some() && !is_ready(at));
        let goes = highest.filter(|at| {
            self.pods[*at].as_ref().is_some_and(|pod| !pod.terminating)
                && (is_ready(at) || lowest_sick == Some(*at))
        });
        (Vec::new(), goes.into_iter().collect())
    }

    pub fn create(&mut self, at: usize) {
        self.pods[at] = Some(Pod::default());
    }

    pub fn terminate(&mut self, at: usize) {
        match &mut self.pods[at] {
            Some(pod) if pod.process.is_some() => pod.terminating = true,
            pod => *pod = None,
        }
    }

    /// A pod that was told to stop: hands over, then looks at its StatefulSet, and ends or asks to be retired.
    pub fn depart(&mut self, at: usize) {
        let Some(process) = self.process(at) else { return };
        if !process.part {
            return self.end(at);
        }
        if self.leads_alive(at) {
            let desired = self.desired();
            let before = self.volume(at).vote;
            self.hand_over(at, |id| !desired.excludes(id.ordinal()));
            if self.volume(at).vote != before {
                return;
            }
        }
        let seen = if self.api {
            Seen::Wants { start: 0, size: self.size, generation: 1 }
        } else {
            Seen::Unknown("no API server".into())
        };
        match verdict(&seen, at as Ordinal) {
            Verdict::Retire => {
                if let Some(process) = self.process_mut(at) {
                    process.retiring = true;
                }
            }
            Verdict::Restart | Verdict::Teardown | Verdict::Hibernation => self.end(at),
        }
    }
}
