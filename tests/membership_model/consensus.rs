//! A small model of Raft: whole logs, terms, votes and quorums, with messages that arrive in one piece or not at all.
//!
//! * An election is one step: a candidate, and those who grant it their vote, a smallest quorum of its own membership. A vote is granted
//!   by the rules of Raft, and with pre-vote: not while the leader is heard from.
//! * A leader sends a member everything at once; that its entries are on a quorum of disks commits them, by what the members
//!   acknowledged to this leader.
//! * Messages carry cluster, addressee and boot, as the envelope of the crate does.
//! * What is committed by a leader is acknowledged; the ghost keeps it, and finds the second history.

use std::collections::BTreeSet;
use std::sync::Arc;

use setstone::identity::NodeId;
use setstone::membership::Change;

use super::state::{Broken, Durable, Entry, Lead, Members, Said, World, ZOMBIE, last_members};

impl World {
    /// The process takes part in consensus and can be reached.
    pub fn is_live(&self, at: usize) -> bool {
        self.process(at).is_some_and(|process| process.part) && !self.is_cut(at)
    }

    pub fn all(&self) -> impl Iterator<Item = usize> + use<> {
        let there: Vec<usize> = (0..=ZOMBIE).filter(|at| self.process(*at).is_some()).collect();
        there.into_iter()
    }

    fn same_cluster(&self, one: usize, other: usize) -> bool {
        self.volume(one).cluster == self.volume(other).cluster
    }

    /// The term in which it leads.
    pub fn leads(&self, at: usize) -> Option<&Lead> {
        self.process(at)?.lead.as_ref()
    }

    /// The members by the log of the process there.
    pub fn members(&self, at: usize) -> Members {
        last_members(&self.volume(at).log).cloned().unwrap_or_default()
    }

    /// It leads, and a quorum would say so.
    pub fn leads_alive(&self, at: usize) -> bool {
        let Some(lead) = self.leads(at).filter(|_| self.is_live(at)) else { return false };
        let own = self.volume(at).node;
        let backs = |id: NodeId| {
            id == own
                || self.all().any(|other| {
                    self.is_live(other)
                        && self.same_cluster(at, other)
                        && self.volume(other).node == id
                        && self.volume(other).vote.0 <= lead.term
                        && self.hears(at, other)
                })
        };
        self.members(at).has_quorum(backs)
    }

    /// The leader that it hears from. One that has lost its quorum falls silent again and again, so that an election can begin.
    pub fn leader_heard(&self, at: usize) -> Option<usize> {
        if self.leads_alive(at) {
            return Some(at);
        }
        let (term, leader) = self.process(at)?.follows?;
        let own = self.volume(at).node;
        self.all().find(|other| {
            self.is_live(*other)
                && self.same_cluster(at, *other)
                && self.volume(*other).node == leader
                && self.leads(*other).is_some_and(|lead| lead.term == term)
                && self.leads_alive(*other)
                && self.members(*other).contains(own)
        })
    }

    /// Whether both would take a message of the other, by the boots that they heard of.
    fn hears(&self, one: usize, other: usize) -> bool {
        let takes = |by: usize, from: usize| {
            let (Some(by), Some(sender)) = (self.process(by), self.process(from)) else { return false };
            by.seen.get(&self.volume(from).node).is_none_or(|(boot, random)| {
                sender.boot > *boot || (sender.boot == *boot && sender.random == *random)
            })
        };
        takes(one, other) && takes(other, one)
    }

    /// Both note the boot of the other. First boots are evidence against nobody, and are left out.
    fn note_boots(&mut self, one: usize, other: usize) {
        for (by, from) in [(one, other), (other, one)] {
            let id = self.volume(from).node;
            let Some(boot) = self.process(from).map(|sender| (sender.boot, sender.random)) else { continue };
            if boot.0 > 1
                && let Some(process) = self.process_mut(by)
            {
                process.seen.insert(id, boot);
            }
        }
    }

    /// The disk there acknowledges something under its id.
    fn note_name(&mut self, at: usize) {
        let (ordinal, volume) = (self.ordinal(at), self.volume(at));
        let (key, disk) = ((volume.cluster, volume.node), (ordinal, volume.nth));
        if *self.ghost.names.entry(key).or_insert(disk) != disk {
            self.broke(Broken::TwoDisks);
        }
    }

    /// Whether `voter` grants `candidate` its vote. With `forced`, the leader asked for the election.
    pub fn grants(&self, candidate: usize, voter: usize, forced: bool) -> bool {
        let (mine, its) = (self.volume(candidate), self.volume(voter));
        self.is_live(voter)
            && self.can_write(voter)
            && mine.cluster == its.cluster
            && mine.node != its.node
            && self.members(candidate).is_voter(its.node)
            && its.members().is_some()
            && its.last() <= mine.last()
            && self.hears(candidate, voter)
            && (forced || self.leader_heard(voter).is_none())
    }

    pub fn may_campaign(&self, candidate: usize, forced: bool) -> bool {
        self.is_live(candidate)
            && self.can_write(candidate)
            && self.leads(candidate).is_none_or(|_| !self.leads_alive(candidate))
            && self.members(candidate).is_voter(self.volume(candidate).node)
            && (forced || self.leader_heard(candidate).is_none())
    }

    /// Smallest sets of voters that would elect `candidate`.
    pub fn electorates(&self, candidate: usize, forced: bool) -> Vec<Vec<usize>> {
        if !self.may_campaign(candidate, forced) {
            return Vec::new();
        }
        let granting: Vec<usize> =
            self.all().filter(|voter| self.grants(candidate, *voter, forced)).collect();
        let (own, members) = (self.volume(candidate).node, self.members(candidate));
        let elects = |set: &[usize]| {
            members.has_quorum(|id| id == own || set.iter().any(|voter| self.volume(*voter).node == id))
        };
        let subset = |mask: usize| -> Vec<usize> {
            granting
                .iter()
                .enumerate()
                .filter(|(at, _)| mask >> at & 1 == 1)
                .map(|(_, voter)| *voter)
                .collect()
        };
        let without = |set: &[usize], left: usize| -> Vec<usize> {
            set.iter().copied().filter(|voter| *voter != left).collect()
        };
        (0..1 << granting.len())
            .map(subset)
            .filter(|set| elects(set) && !set.iter().any(|voter| elects(&without(set, *voter))))
            .collect()
    }

    /// `candidate` is elected by `voters`.
    pub fn elect(&mut self, candidate: usize, voters: &[usize]) {
        let id = self.volume(candidate).node;
        let all = || voters.iter().copied().chain([candidate]);
        let term = 1 + all().map(|at| self.volume(at).vote.0).max().unwrap_or_default();
        for at in all() {
            self.volume_mut(at).vote = (term, id);
            self.note_name(at);
            self.note_boots(candidate, at);
            let Some(process) = self.process_mut(at) else { continue };
            (process.lead, process.follows, process.waited) = (None, Some((term, id)), 0);
        }
        let volume = self.volume(candidate);
        if self.ghost.cluster == Some(volume.cluster) && !volume.log.starts_with(&self.ghost.acked) {
            self.broke(Broken::Forgot);
        }
        if let Some(process) = self.process_mut(candidate) {
            process.lead = Some(Lead { term, ..Lead::default() });
            process.follows = None;
        }
        self.append(candidate, Said::Blank(id));
    }

    /// The leader there writes an entry.
    pub fn append(&mut self, leader: usize, said: Said) {
        let Some(term) = self.leads(leader).map(|lead| lead.term) else { return };
        Arc::make_mut(&mut self.volume_mut(leader).log).push(Entry { term, said });
        self.volume_mut(leader).settle();
        self.acknowledge(leader, leader);
        self.commit(leader);
    }

    /// `leader` hears that the disk of `member` holds its log.
    fn acknowledge(&mut self, leader: usize, member: usize) {
        let volume = self.volume(member);
        let boot = self.process(member).map_or(0, |process| process.boot);
        let (id, durable) = (volume.node, Durable { boot, vote: volume.vote, last: volume.last() });
        if let Some(lead) = self.process_mut(leader).and_then(|process| process.lead.as_mut()) {
            lead.matched.insert(id, durable);
        }
    }

    /// The leader commits what is on a quorum of disks.
    fn commit(&mut self, leader: usize) {
        let (Some(process), Some(lead)) = (self.process(leader), self.leads(leader)) else { return };
        let (members, log) = (self.members(leader), &self.volume(leader).log);
        let holds = |index: u8| {
            move |id: NodeId| lead.matched.get(&id).is_some_and(|durable| durable.last.1 >= index)
        };
        let committed = (process.commit + 1..=log.len() as u8).rev().find(|index| {
            log[usize::from(*index) - 1].term == lead.term && members.has_quorum(holds(*index))
        });
        let Some(commit) = committed else { return };
        self.acked(leader, commit);
        if let Some(process) = self.process_mut(leader) {
            (process.commit, process.caught_up) = (commit, true);
        }
        self.after_commit(leader, &members);
    }

    /// What the ghost says to what is acknowledged now.
    fn acked(&mut self, leader: usize, commit: u8) {
        let volume = self.volume(leader);
        let (cluster, log) = (volume.cluster, Arc::clone(&volume.log));
        if *self.ghost.cluster.get_or_insert(cluster) != cluster {
            return self.broke(Broken::SecondCluster);
        }
        let prefix = &log[..commit.into()];
        let both = prefix.len().min(self.ghost.acked.len());
        if prefix[..both] != self.ghost.acked[..both] {
            self.broke(Broken::Fork);
        } else if prefix.len() > both {
            self.ghost.acked = Arc::new(prefix.to_vec());
        }
    }

    /// A joint membership is followed by the uniform one; a leader that votes no more ceases to lead.
    fn after_commit(&mut self, leader: usize, members: &Members) {
        if !self.is_committed(leader) {
            return;
        }
        let own = self.volume(leader).node;
        let Some(process) = self.process_mut(leader) else { return };
        let Some(lead) = &mut process.lead else { return };
        if members.configs.len() > 1 {
            if let Some(retain) = lead.finishing.take() {
                let uniform = finished(members, retain);
                self.append(leader, Said::Members(uniform));
            }
        } else if !members.is_voter(own) {
            process.lead = None;
        }
    }

    /// Whether the last membership in its log is committed, as far as it knows.
    pub fn is_committed(&self, at: usize) -> bool {
        let log = &self.volume(at).log;
        let last =
            (1_u8..).zip(log.iter()).filter(|(_, entry)| matches!(entry.said, Said::Members(_))).last();
        let commit = self.process(at).map_or(0, |process| process.commit);
        last.is_some_and(|(index, _)| index <= commit)
    }

    /// The leader sends a member all that it has, and hears what came of it. False if nothing changed.
    pub fn replicate(&mut self, leader: usize, member: usize) -> bool {
        let Some(term) = self.leads(leader).map(|lead| lead.term) else { return false };
        let id = self.volume(member).node;
        if leader == member
            || !self.is_live(leader)
            || !self.is_live(member)
            || !self.can_write(member)
            || !self.same_cluster(leader, member)
            || !self.members(leader).contains(id)
            || id == self.volume(leader).node
            || !self.hears(leader, member)
        {
            return false;
        }
        self.note_boots(leader, member);
        let seen = self.volume(member).vote;
        if seen.0 > term {
            if self.can_write(leader) {
                self.volume_mut(leader).vote = seen;
            }
            if let Some(process) = self.process_mut(leader) {
                (process.lead, process.follows) = (None, None);
            }
            return true;
        }
        let (log, from) = (Arc::clone(&self.volume(leader).log), self.volume(leader).node);
        let volume = self.volume_mut(member);
        (volume.vote, volume.log) = ((term, from), log);
        volume.settle();
        self.note_name(member);
        self.acknowledge(leader, member);
        self.commit(leader);
        let (commit, caught_up) =
            self.process(leader).map_or((0, false), |process| (process.commit, process.caught_up));
        if let Some(process) = self.process_mut(member) {
            process.lead = None;
            process.follows = Some((term, from));
            process.waited = 0;
            process.commit = process.commit.max(commit);
            process.caught_up |= caught_up;
        }
        true
    }

    /// The leader begins a change of the membership, or does the step of one that is left to do.
    pub fn change(&mut self, leader: usize, change: &Change) {
        let members = self.members(leader);
        let joint = |voters: &BTreeSet<NodeId>| {
            let mut configs = members.configs.clone();
            configs.push(voters.clone());
            let voting: BTreeSet<NodeId> = configs.iter().flatten().copied().collect();
            Members { configs, learners: &members.ids() - &voting }
        };
        let (next, finishing) = match change {
            Change::Demote(voters) if members.configs.len() > 1 => {
                let uniform = finished(&members, true);
                assert!(uniform.configs.iter().eq([voters]), "only the second step is left to do");
                (uniform, None)
            }
            Change::Voters(voters) => (joint(voters), Some(false)),
            Change::Demote(voters) => (joint(voters), Some(true)),
            Change::Remove(ids) => (Members { learners: &members.learners - ids, ..members.clone() }, None),
            Change::HandOver(to) => return self.hand_over(leader, |id| to.contains(&id)),
            other => panic!("not in a StatefulSet: {other:?}"),
        };
        if let Some(lead) = self.process_mut(leader).and_then(|process| process.lead.as_mut()) {
            lead.finishing = finishing;
        }
        self.append(leader, Said::Members(next));
    }

    /// The leader gives its place to the first voter that may have it, holds everything, and gets the votes.
    pub fn hand_over(&mut self, leader: usize, may: impl Fn(NodeId) -> bool) {
        let last = self.volume(leader).last();
        let to = self.all().find(|at| {
            *at != leader
                && self.same_cluster(leader, *at)
                && may(self.volume(*at).node)
                && self.volume(*at).last() == last
                && self.may_campaign(*at, true)
        });
        let Some(to) = to else { return };
        if let Some(voters) = self.electorates(to, true).into_iter().find(|set| set.contains(&leader)) {
            self.elect(to, &voters);
        }
    }
}

/// The membership after the second step of a joint change.
fn finished(joint: &Members, retain: bool) -> Members {
    let last = joint.configs.last().cloned().unwrap_or_default();
    let mut learners = joint.learners.clone();
    if retain {
        learners.extend(joint.voters());
    }
    learners = &learners - &last;
    Members { configs: vec![last], learners }
}
