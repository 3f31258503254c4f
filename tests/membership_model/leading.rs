//! What a leader does beside writing: it admits disks, carries out the plan, and lets members go.

use std::collections::BTreeSet;

use setstone::identity::{ClusterId, Member, NodeId, Ordinal};
use setstone::limits;
use setstone::membership::{Applicant, Change, Leading, may_join};
use setstone::mvcc::cluster::{ClusterCommand, Touched};

use super::model::Model;
use super::state::{Broken, File, Said, World, replay};

impl World {
    /// What the leader there sees; `silent`: those outside the range that do not answer have been silent for long.
    pub fn leading(&self, at: usize, silent: bool) -> Option<Leading> {
        let lead = self.leads(at).filter(|_| self.leads_alive(at))?;
        let (members, process) = (self.members(at), self.process(at)?);
        let own = self.volume(at).node;
        let answers = |id: &NodeId| {
            *id == own
                || (lead.matched.contains_key(id) && self.all().any(|other| self.answers_to(at, other, *id)))
        };
        let answering: BTreeSet<NodeId> = members.ids().into_iter().filter(answers).collect();
        let desired = self.desired();
        let quiet = |id: &NodeId| silent && desired.excludes(id.ordinal()) && !answering.contains(id);
        let leaving =
            members.ids().into_iter().filter(|id| quiet(id) || lead.retiring.contains(id)).collect();
        Some(Leading {
            id: own,
            members: members.ids(),
            configs: members.configs,
            committed: self.is_committed(at),
            caught_up: lead.matched.keys().copied().chain([own]).collect(),
            answering,
            admissions: replay(&self.volume(at).log, process.commit).0.admissions,
            desired,
            max_voters: limits::MAX_VOTERS,
            leaving,
            ..Leading::default()
        })
    }

    /// The process there answers the leader as this member.
    fn answers_to(&self, leader: usize, other: usize, id: NodeId) -> bool {
        self.is_live(other)
            && self.volume(other).node == id
            && self.volume(other).cluster == self.volume(leader).cluster
            && self.leader_heard(other) == Some(leader)
    }

    /// The leader looks, and begins the change that comes next.
    pub fn reconcile(&mut self, model: &Model, at: usize, silent: bool) {
        if !self.can_write(at) {
            return;
        }
        let Some(view) = self.leading(at, silent) else { return };
        let Some(change) = model.rules.plan(view.clone()) else { return };
        self.look_at(&view, &change);
        self.change(at, &change);
    }

    /// What the ghost says to a change that is about to begin.
    fn look_at(&mut self, view: &Leading, change: &Change) {
        let newest = |id: &NodeId| view.newest(id.ordinal()).is_some_and(|newest| newest > *id);
        let gone = |left: &BTreeSet<NodeId>| {
            (&view.members - left).iter().any(|id| !self.is_outside(id.ordinal()) && !newest(id))
        };
        let few = |voters: &BTreeSet<NodeId>| {
            let live =
                |id: &&NodeId| self.all().any(|other| self.is_live(other) && self.volume(other).node == **id);
            view.configs.len() == 1 && 2 * voters.iter().filter(live).count() <= voters.len()
        };
        let (removes, too_few) = match change {
            Change::Voters(voters) => {
                let learners: BTreeSet<NodeId> =
                    &view.members - &view.configs.iter().flatten().copied().collect();
                (gone(&(voters | &learners)), few(voters))
            }
            Change::Demote(voters) => (false, few(voters)),
            Change::Remove(ids) => (gone(&(&view.members - ids)), false),
            Change::HandOver(_) => (false, false),
            other => panic!("not in a StatefulSet: {other:?}"),
        };
        // A demotion is of those outside the range, by what the StatefulSet wants at this moment.
        let demoted = matches!(change, Change::Demote(voters) if view.configs.len() == 1
            && view.configs[0].difference(voters).any(|id| !self.is_outside(id.ordinal())));
        if removes || demoted {
            self.broke(Broken::Removed);
        }
        if too_few {
            self.broke(Broken::TooFew);
        }
    }

    /// A disk asks to be admitted. Its id, once a committed membership has it; it asks again until then.
    pub fn admit(&mut self, at: usize, ordinal: Ordinal, nonce: u64) -> Option<NodeId> {
        let view = self.leading(at, false)?;
        let who = Applicant {
            cluster: ClusterId(self.volume(at).cluster),
            nonce,
            ordinal,
            member: Member { peer_address: super::start::name(ordinal), ..Member::default() },
        };
        if may_join(who.cluster, Some(&view), &self.desired(), &who).is_err() || !self.can_write(at) {
            return None;
        }
        let log = &self.volume(at).log;
        // An admission that changes nothing need not be written once more.
        let mut after = replay(log, log.len() as u8).0;
        let before = after.clone();
        let command = ClusterCommand::Admit { ordinal, nonce };
        after.apply(&command, log.len() as u64 + 1, &mut Touched::default());
        if after != before {
            self.append(at, Said::Admit(ordinal, nonce));
            self.wants_learner(at, ordinal, nonce);
            return None;
        }
        let commit = self.process(at)?.commit;
        let admitted = replay(log, commit).0.admissions.get(&ordinal).copied()?;
        if admitted.nonce != nonce {
            return None;
        }
        if view.members.contains(&admitted.id) {
            return view.committed.then_some(admitted.id);
        }
        self.wants_learner(at, ordinal, nonce);
        None
    }

    fn wants_learner(&mut self, at: usize, ordinal: Ordinal, nonce: u64) {
        if let Some(lead) = self.process_mut(at).and_then(|process| process.lead.as_mut()) {
            lead.admitting.insert((ordinal, nonce));
        }
    }

    /// The leader makes a disk a learner whose admission is committed. Given up if another change is under way.
    pub fn add_learner(&mut self, at: usize, ordinal: Ordinal, nonce: u64) {
        let Some(view) = self.leading(at, false).filter(|_| self.can_write(at)) else { return };
        let newest = view.admissions.get(&ordinal).copied().unwrap_or_default();
        if newest.nonce != nonce {
            return;
        }
        if let Some(lead) = self.process_mut(at).and_then(|process| process.lead.as_mut()) {
            lead.admitting.remove(&(ordinal, nonce));
        }
        if view.committed && !view.members.contains(&newest.id) {
            let mut members = self.members(at);
            members.learners.insert(newest.id);
            self.append(at, Said::Members(members));
        }
    }

    /// A member whose pod does not come back asks the leader that it heard last. It is told to go once a committed uniform membership
    /// lacks it; then its disk is lost, and its process ends.
    pub fn ask_to_retire(&mut self, at: usize) {
        let Some((term, leader)) = self.follows_or_leads(at) else { return };
        let (own, cluster) = (self.volume(at).node, self.volume(at).cluster);
        let asked = self.all().find(|other| {
            self.volume(*other).node == leader
                && self.volume(*other).cluster == cluster
                && self.leads(*other).is_some_and(|lead| lead.term == term)
        });
        let Some((asked, view)) = asked.and_then(|asked| Some((asked, self.leading(asked, false)?))) else {
            return;
        };
        if view.members.contains(&own) {
            if let Some(lead) = self.process_mut(asked).and_then(|process| process.lead.as_mut()) {
                lead.retiring.insert(own);
            }
        } else if view.committed && view.configs.len() == 1 {
            self.volume_mut(at).file = File::Lost(None);
            self.end(at);
        }
    }

    fn follows_or_leads(&self, at: usize) -> Option<(u8, NodeId)> {
        let process = self.process(at)?;
        let own = self.volume(at).node;
        process.lead.as_ref().map(|lead| (lead.term, own)).or(process.follows)
    }
}
