//! What a process hears, decides by the start table, and does: resuming, founding, joining, giving up.
//!
//! A decision is taken on what everyone says at this moment, but for those whose answer is lost; or, where answers come late, on
//! what the process heard of each pod when it asked that one last.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use setstone::identity::{Boot, NodeId, Ordinal, OrdinalRange};
use setstone::limits;
use setstone::membership::{
    Action, Answer, Answers, Asked, ConsensusView, Described, Desired, Disk, Facts, Service, What,
    below_mark, whom_to_ask,
};

use super::model::Model;
use super::state::{
    Broken, Durable, File, Founding, Heard, Letter, Members, PODS, Process, Said, View, Volume, Words, World,
    ZOMBIE, real_mark, replay,
};

/// How a process hears the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ears {
    /// Ordinals whose answers are lost, as bits.
    pub deaf: u8,
    /// The zombie answers for its ordinal.
    pub zombie: bool,
}

pub fn name(ordinal: Ordinal) -> String {
    format!("s-{ordinal}")
}

impl World {
    /// A process begins on the volume of its pod.
    pub fn start(&mut self, at: usize) {
        let ordinal = at as Ordinal;
        let volume = &mut self.volumes[at];
        let mine = volume.ordinal == ordinal && volume.file != File::None;
        if mine {
            volume.boot += 1;
        }
        let at_boot = Durable { boot: 0, vote: volume.vote, last: volume.last() };
        let process = Process {
            boot: volume.boot,
            random: volume.nth * 16 + volume.branch,
            at_boot: if mine { at_boot } else { Durable::default() },
            ..Process::default()
        };
        if let Some(pod) = &mut self.pods[at] {
            pod.process = Some(process);
        }
    }

    /// What the process there says of itself.
    pub fn words(&self, at: usize) -> Option<Words> {
        let process = self.process(at)?;
        let view = process.part.then(|| View {
            leader: self.leader_heard(at).map(|leader| self.volume(leader).node),
            commit: process.commit,
            matched: process.lead.as_ref().map(|lead| lead.matched.clone()).unwrap_or_default(),
            size: (self.api && self.leads_alive(at)).then_some(self.size),
        });
        let (boot, random, seen) = (process.boot, process.random, process.seen.clone());
        Some(Words { volume: self.volume(at).clone(), boot, random, seen, view })
    }

    /// This process's own disk.
    pub fn own_disk(&self, at: usize) -> Disk {
        let Some(words) = self.words(at) else { return Disk::default() };
        let at_boot = self.process(at).map(|process| process.at_boot).unwrap_or_default();
        words.disk(self.ordinal(at), at_boot)
    }

    /// What came of asking the pod of `ordinal`.
    fn heard(&self, by: usize, ordinal: Ordinal, ears: Ears) -> Heard {
        let at = usize::from(ordinal);
        if self.is_cut(by) || ears.deaf >> ordinal & 1 == 1 {
            return Heard::Silent;
        }
        let zombie = self.zombie.as_ref().is_some_and(|zombie| zombie.ordinal == ordinal && !zombie.cut);
        let from = if zombie && ears.zombie && by != ZOMBIE { ZOMBIE } else { at };
        match (self.words(from), &self.pods[at]) {
            (Some(words), _) => Heard::Words(Arc::new(words)),
            (None, Some(_)) => Heard::Silent,
            (None, None) => Heard::Absent,
        }
    }

    /// What is known beside disk and answers.
    pub fn facts(&self, model: &Model, at: usize) -> Facts {
        let ordinal = self.ordinal(at);
        let nobody = Process::default();
        let process = self.process(at).unwrap_or(&nobody);
        Facts {
            ordinal,
            name: name(ordinal),
            expected: model.expected,
            desired: self.desired(),
            may_found_alone: self.first_generation && self.api,
            recovery: None,
            takes_part: process.part,
            ready_for: (process.waited >= 3).then_some(limits::LONE_VOTER_PATIENCE),
            ..Facts::default()
        }
    }

    pub fn desired(&self) -> Desired {
        if self.api {
            Desired::Known(OrdinalRange { start: 0, size: self.size })
        } else {
            Desired::Unknown("no API server".into())
        }
    }

    /// What all others said, now or when they were asked last.
    pub fn answers(&self, model: &Model, at: usize, ears: Ears, facts: &Facts, disk: &Disk) -> Answers {
        let mut answers = Answers { service: Service::Listed, pods: BTreeMap::new() };
        let nobody = Process::default();
        let process = self.process(at).unwrap_or(&nobody);
        let asked_for = if process.waited > 0 { limits::RESUME_PATIENCE } else { Duration::ZERO };
        // What is heard of the membership says who else is to be asked.
        for _ in 0..2 {
            let mut whom = whom_to_ask(disk, &answers, facts);
            if disk.is_fresh() {
                let listed =
                    (0..PODS as Ordinal).filter(|ordinal| self.pods[usize::from(*ordinal)].is_some());
                whom.extend(listed.filter(|ordinal| *ordinal != facts.ordinal));
            }
            whom.retain(|ordinal| usize::from(*ordinal) < PODS && answers.of(*ordinal).is_none());
            for ordinal in whom {
                let keeps = model.late.contains(&at) && !process.part;
                let heard = match process.heard.get(usize::from(ordinal)) {
                    Some(heard) if keeps => heard.clone(),
                    _ => self.heard(at, ordinal, ears),
                };
                let answer = match heard {
                    Heard::Nothing => Answer::NotAsked,
                    Heard::Silent => Answer::Silent,
                    Heard::Absent => Answer::Absent,
                    Heard::Words(words) => Answer::Described(Box::new(words.described(ordinal))),
                };
                answers.pods.insert(name(ordinal), Asked { ordinal, answer, asked_for });
            }
        }
        answers
    }

    /// One pod is asked, and what it says is kept.
    pub fn ask(&mut self, at: usize, ordinal: Ordinal, ears: Ears) {
        let heard = self.heard(at, ordinal, ears);
        if let Some(process) = self.process_mut(at) {
            process.heard[usize::from(ordinal)] = heard;
        }
    }

    /// The process decides, and does what follows.
    pub fn decide(&mut self, model: &Model, at: usize, ears: Ears) {
        let (facts, disk) = (self.facts(model, at), self.own_disk(at));
        let answers = self.answers(model, at, ears, &facts, &disk);
        match model.rules.decide(&disk, &answers, &facts) {
            // Nobody asks for a recovery here.
            Action::Refuse { .. } | Action::Wait { .. } | Action::Recover { .. } => {}
            Action::Stop { .. } => self.end(at),
            Action::BecomeLost { .. } => self.become_lost(at, model.copies),
            Action::HoldResume { .. } => self.close(at),
            Action::Release => self.release(at, &disk, &answers),
            Action::Bootstrap { coordinator, founders } => {
                if self.process(at).is_some_and(|process| process.closed) {
                    self.end(at);
                } else if coordinator == facts.ordinal {
                    self.found(at, founders.iter().map(|founder| founder.ordinal).collect());
                }
            }
            Action::Join { cluster, leader } | Action::Rejoin { cluster, leader } => {
                self.join(at, cluster.0, leader);
            }
        }
    }

    fn close(&mut self, at: usize) {
        if let Some(process) = self.process_mut(at) {
            process.closed = true;
        }
    }

    /// The disk is lost; a process whose consensus runs ends.
    fn become_lost(&mut self, at: usize, copies: bool) {
        let volume = self.volume(at);
        let acked = super::state::last_members(&self.ghost.acked);
        let removed = acked.is_some_and(|members| !members.contains(volume.node));
        // Of two copies of a disk, one may have acknowledged what the other lacks.
        if volume.branch == 0 && !removed && self.zombie.is_none() && !copies {
            self.broke(Broken::FalselyLost);
        }
        if self.can_write(at) && !matches!(self.volume(at).file, File::Lost(_)) {
            self.volume_mut(at).file = File::Lost(None);
        }
        if !self.can_write(at) || self.process(at).is_some_and(|process| process.part) {
            self.end(at);
        }
    }

    fn release(&mut self, at: usize, disk: &Disk, answers: &Answers) {
        if self.process(at).is_none_or(|process| process.part) {
            return;
        }
        if self.volume(at).rolled && has_asked(disk, answers) && !is_told(disk, answers) {
            self.ghost.blind = true;
        }
        if let Some(process) = self.process_mut(at) {
            (process.closed, process.part, process.waited) = (true, true, 0);
            process.heard = <[Heard; PODS]>::default();
        }
    }

    /// The lowest ordinal begins an attempt at a first bootstrap.
    fn found(&mut self, at: usize, founders: std::collections::BTreeSet<Ordinal>) {
        if self.left.attempts == 0 || self.process(at).is_none_or(|process| process.founding.is_some()) {
            return;
        }
        self.left.attempts -= 1;
        self.attempts += 1;
        let (from, cluster) = (at as Ordinal, u64::from(self.attempts));
        for to in founders.iter().copied().filter(|to| *to != from) {
            let replaces = self.volume(to.into()).cluster;
            self.letters.insert(Letter { from, to, cluster, founders: founders.clone(), replaces });
        }
        if let Some(process) = self.process_mut(at) {
            process.founding = Some(Founding { cluster, founders, accepted: [].into() });
        }
    }

    /// An identity of a first bootstrap comes to a disk, through the gate.
    fn take(&mut self, at: usize, letter: &Letter) -> bool {
        let disk = self.own_disk(at);
        let open = self.process(at).is_some_and(|process| !process.closed);
        if !open || !disk.is_fresh() || !disk.held.is_nothing() || disk.cluster.0 != letter.replaces {
            return false;
        }
        let id = |ordinal: &Ordinal| NodeId::new(*ordinal, NodeId::FIRST_INCARNATION);
        let configs = vec![letter.founders.iter().map(id).collect()];
        let volume = &mut self.volumes[at];
        volume.file = File::Prepared(Members { configs, ..Members::default() });
        (volume.cluster, volume.node, volume.ordinal) = (letter.cluster, id(&letter.to), letter.to);
        volume.boot = volume.boot.max(1);
        let boot = volume.boot;
        if let Some(process) = self.process_mut(at) {
            process.boot = boot;
        }
        true
    }

    /// A letter arrives; whoever sent it hears the answer, if it still waits. One that is refused breaks the attempt off. Unless letters
    /// are reordered, those that were sent before it came before it, or never come.
    pub fn deliver(&mut self, letter: &Letter, reordered: bool) {
        let way = |other: &Letter| (other.from, other.to) == (letter.from, letter.to);
        self.letters.retain(|other| !way(other) || other.cluster > letter.cluster || reordered);
        self.letters.remove(letter);
        let taken = self.take(letter.to.into(), letter);
        let Some(sender) = self.process_mut(letter.from.into()) else { return };
        if let Some(founding) = sender.founding.as_mut().filter(|own| own.cluster == letter.cluster) {
            if taken {
                founding.accepted.insert(letter.to);
            } else {
                sender.founding = None;
            }
        }
    }

    /// The coordinator, once all others have their identity, takes its own; then it initialises, if nothing came between.
    pub fn initialise(&mut self, at: usize) {
        let own = at as Ordinal;
        let Some(founding) = self.process(at).and_then(|process| process.founding.clone()) else { return };
        if founding.accepted.len() + 1 < founding.founders.len() {
            return;
        }
        if !founding.accepted.contains(&own) {
            let Founding { cluster, founders, .. } = founding;
            let replaces = self.volume(at).cluster;
            let taken = self.take(at, &Letter { from: own, to: own, cluster, founders, replaces });
            let Some(process) = self.process_mut(at) else { return };
            match &mut process.founding {
                Some(founding) if taken => drop(founding.accepted.insert(own)),
                founding => *founding = None,
            }
            return;
        }
        let volume = &mut self.volumes[at];
        let mine = volume.cluster == founding.cluster;
        let Some(process) = self.pods[at].as_mut().and_then(|pod| pod.process.as_mut()) else { return };
        process.founding = None;
        if !mine || process.closed {
            return;
        }
        (process.closed, process.part) = (true, true);
        process.heard = <[Heard; PODS]>::default();
        if let Some(voters) = volume.members().cloned() {
            let first = super::state::Entry { term: 0, said: Said::Members(voters) };
            volume.log = Arc::new(vec![first]);
            volume.settle();
        }
    }

    /// The disk is to be admitted: it stores a nonce, then it asks.
    fn join(&mut self, at: usize, cluster: u64, leader: NodeId) {
        if at == ZOMBIE {
            return;
        }
        let own = at as Ordinal;
        let volume = &mut self.volumes[at];
        let nonce = match &volume.file {
            File::Joining(nonce) if volume.cluster == cluster => *nonce,
            File::Lost(Some(nonce)) => *nonce,
            File::Member => return,
            File::Lost(None) => {
                volume.file = File::Lost(Some(volume.nonce()));
                return;
            }
            File::None | File::Prepared(_) | File::Joining(_) => {
                let nonce = volume.nonce();
                volume.file = File::Joining(nonce);
                (volume.cluster, volume.node, volume.ordinal) = (cluster, NodeId::default(), own);
                volume.boot = volume.boot.max(1);
                let boot = volume.boot;
                if let Some(process) = self.process_mut(at) {
                    process.boot = boot;
                }
                return;
            }
        };
        let leading = self
            .all()
            .find(|other| self.volume(*other).node == leader && self.volume(*other).cluster == cluster)
            .filter(|other| self.leads_alive(*other));
        let Some(id) = leading.and_then(|leading| self.admit(leading, own, nonce)) else { return };
        let volume = &mut self.volumes[at];
        *volume = Volume {
            nth: volume.nth,
            branch: volume.branch,
            file: File::Joining(nonce),
            cluster,
            node: id,
            ordinal: own,
            boot: volume.boot,
            ..Volume::default()
        };
        if let Some(process) = self.process_mut(at) {
            (process.closed, process.part, process.waited) = (true, true, 0);
            (process.at_boot, process.commit, process.caught_up) = (Durable::default(), 0, false);
            process.heard = <[Heard; PODS]>::default();
        }
    }
}

/// Whether a quorum of what the disk knows as its last membership has answered, and everyone was given the time to.
fn has_asked(disk: &Disk, answers: &Answers) -> bool {
    let answered = |id: NodeId| {
        let is_it = |peer: &Disk| peer.node_id == id && peer.cluster == disk.cluster;
        id == disk.node_id || answers.described().any(|(_, _, described)| is_it(&described.disk))
    };
    let newest = answers
        .described()
        .map(|(_, _, described)| &described.disk)
        .filter(|peer| peer.cluster == disk.cluster);
    let quorum = newest.chain([disk]).any(|peer| peer.membership.has_quorum(answered));
    let patient = |asked: &Asked| asked.described().is_some() || asked.asked_for >= limits::RESUME_PATIENCE;
    quorum && answers.pods.values().all(patient)
}

/// Whether some answer shows that the disk once held more. Independent of the table: looks for any mark above the disk, and any boot
/// that cannot be.
fn is_told(disk: &Disk, answers: &Answers) -> bool {
    answers.described().filter(|(_, _, described)| described.disk.cluster == disk.cluster).any(
        |(_, _, described)| {
            let peer = &described.disk;
            let mark = peer.marks.get(&disk.node_id);
            let below =
                mark.is_some_and(|mark| below_mark(disk.at_boot, disk.boot.number, false, mark).is_some());
            let twin = peer.seen.get(&disk.node_id).is_some_and(|seen| {
                seen.number > disk.boot.number
                    || (seen.number == disk.boot.number && seen.random != disk.boot.random)
            });
            below || twin
        },
    )
}

impl Words {
    fn disk(&self, ordinal: Ordinal, at_boot: Durable) -> Disk {
        let boot = |(number, random): (u8, u8)| Boot { number: number.into(), random: random.into() };
        let mut disk = self.volume.disk(ordinal, boot((self.boot, self.random)), at_boot);
        if self.volume.file != File::None && self.volume.ordinal == ordinal {
            // Without consensus, what was recovered from the whole log.
            let applied = self.view.as_ref().map_or(self.volume.log.len() as u8, |view| view.commit);
            disk.marks = replay(&self.volume.log, applied).0.marks;
            let tail = self.volume.log.iter().skip(applied.into()).filter_map(|entry| match &entry.said {
                Said::Marks(marks) => Some(marks.iter()),
                _ => None,
            });
            let led = self.view.iter().flat_map(|view| view.matched.iter());
            let more = tail.flatten().map(|(id, mark)| (id, mark)).chain(led);
            for (id, mark) in more {
                let mark = real_mark(*mark);
                let kept = disk.marks.entry(*id).or_insert(mark);
                if kept.is_below(&mark) {
                    *kept = mark;
                }
            }
        }
        disk.seen = self.seen.iter().map(|(id, seen)| (*id, boot(*seen))).collect();
        disk
    }

    fn described(&self, ordinal: Ordinal) -> Described {
        let mut disk = self.disk(ordinal, Durable::default());
        disk.at_boot = disk.held;
        let consensus = self.view.as_ref().map(|view| {
            let (cluster, ids) = replay(&self.volume.log, view.commit);
            ConsensusView {
                leader: view.leader,
                term: self.volume.vote.0.into(),
                applied_index: view.commit.into(),
                removed: cluster.removed(&ids),
                desired: view.size.map(|size| OrdinalRange { start: 0, size }),
            }
        });
        if let What::Lost { reason } = &mut disk.what {
            reason.clear();
        }
        Described { disk, consensus, ..Described::default() }
    }
}
