//! What must hold at every moment, told from inside the members. Pure.
//!
//! * at most one member leads in a term, and its log holds everything that was committed before (leader completeness, by
//!   the order of last entries; log matching gives the rest);
//! * an entry of one term at one index is the same everywhere (log matching);
//! * members apply the same entries at the same index, in order, none twice (state machine safety), and then have equal states;
//! * what is applied is on the disk of the member that applies it, and on those of a majority;
//! * a log is cut only as far as a snapshot on disk reaches;
//! * what a disk acknowledged is there when it is opened again: the vote, and the log up to the entry;
//! * a disk is lost only if somebody did something to it;
//! * no change of the voters is begun of whose new voters a majority is not there;
//! * nothing that has a limit exceeds it.

use std::collections::{BTreeMap, BTreeSet};

use crate::env::simulated::{EntryId, Seen, VoteSeen};
use crate::identity::NodeId;

/// A member that has shown itself so long ago, in milliseconds, may still look alive to a leader.
const THERE_MILLIS: u64 = 4_000;

/// What was seen so far.
#[derive(Debug, Default)]
pub struct Invariants {
    /// Voters; 0: nobody knows how many.
    voters: usize,
    /// Ordinals that were outside the desired range.
    dismissed: BTreeSet<u16>,
    leaders: BTreeMap<u64, u64>,
    /// By term and index: the digest of the entry.
    logged: BTreeMap<EntryId, u64>,
    /// By index: the entry that was applied there.
    applied: BTreeMap<u64, (EntryId, u64)>,
    /// By index: the digest of the state.
    states: BTreeMap<u64, u64>,
    /// Last index that a member applied since it was started.
    positions: BTreeMap<u64, u64>,
    disks: BTreeMap<u64, Acknowledged>,
    /// Ordinals whose disk somebody did something to.
    tampered: BTreeMap<u16, u64>,
    /// Ordinals that have applied something: they are members.
    members: BTreeSet<u16>,
    /// By member: up to where its snapshots on disk reach.
    kept: BTreeMap<u64, u64>,
    /// By member: when its process last showed itself, in milliseconds, as exactly as the probes of all tell the time.
    there: BTreeMap<u64, u64>,
    /// When any process last showed itself.
    now: u64,
    /// The ordinal of a member whose state is made to be wrong.
    spoiled: Option<u16>,
    /// Snapshots that were installed.
    installed: u64,
    wrong: Vec<String>,
}

/// What a disk has acknowledged.
#[derive(Clone, Copy, Debug, Default)]
struct Acknowledged {
    vote: VoteSeen,
    last: EntryId,
    /// Where it is being cut.
    truncating: Option<EntryId>,
}

impl Invariants {
    /// For a cluster of this size.
    pub fn of(voters: u16) -> Self {
        Self { voters: usize::from(voters), ..Self::default() }
    }

    /// The ordinal of the leader of the newest term that has one.
    pub fn leader(&self) -> Option<u16> {
        self.leaders.values().next_back().map(|leader| NodeId(*leader).ordinal())
    }

    /// A process begins: its state starts wherever its disk says.
    pub fn started(&mut self, ordinal: u16) {
        self.positions.retain(|node, _| NodeId(*node).ordinal() != ordinal);
    }

    /// The process of a member runs, now.
    pub fn runs(&mut self, node: NodeId, millis: u64) {
        self.now = self.now.max(millis);
        self.there.insert(node.0, millis);
    }

    /// A majority of the disks is gone: what the others hold is one history, what comes then another. Terms go on.
    pub fn recovers(&mut self) {
        self.voters = 0;
        self.logged.clear();
        self.applied.clear();
        self.states.clear();
        self.positions.clear();
        self.there.clear();
    }

    /// All disks were put back to what they once were: what comes then is another history, its terms too.
    pub fn begins_anew(&mut self) {
        self.recovers();
        self.leaders.clear();
    }

    /// The pod is outside the desired range: its member may be removed, and its disk then is lost.
    pub fn dismiss(&mut self, ordinal: u16) {
        self.dismissed.insert(ordinal);
    }

    /// Something is done to a disk: it need not hold what it acknowledged any more.
    pub fn tamper(&mut self, ordinal: u16) {
        let newest = self.disks.keys().copied().filter(|node| NodeId(*node).ordinal() == ordinal).max();
        self.tampered.insert(ordinal, newest.unwrap_or_default());
    }

    /// The state of this member, and of nobody else, need not be that of the others from now on.
    pub fn spoil(&mut self, ordinal: Option<u16>) {
        self.spoiled = ordinal;
    }

    /// Whether this is a disk that was admitted after something was done to the one before.
    pub fn is_successor(&self, node: NodeId) -> bool {
        self.tampered
            .get(&node.ordinal())
            .is_some_and(|before| node.0 > (*before).max(NodeId::new(node.ordinal(), 1).0))
    }

    /// Whether something was done to a disk.
    pub fn is_tampered(&self, ordinal: u16) -> bool {
        self.tampered.contains_key(&ordinal)
    }

    /// Whether a pod ever was a member of a cluster that had a leader.
    pub fn has_applied(&self, ordinal: u16) -> bool {
        self.members.contains(&ordinal)
    }

    /// Terms that had a leader, and snapshots that were installed.
    pub fn counts(&self) -> [(&'static str, u64); 2] {
        [("terms with a leader", self.leaders.len() as u64), ("snapshots installed", self.installed)]
    }

    /// Takes in what happened; true if it is something new.
    pub fn take(&mut self, seen: Seen) -> bool {
        if let Seen::Opened { node, .. } | Seen::Logged { node, .. } | Seen::Applied { node, .. } = seen {
            self.there.insert(node, self.now);
        }
        match seen {
            Seen::Leads { node, term, leader, last } => return self.leads(node, term, leader, last),
            Seen::Logged { node, id, digest } => {
                let known = *self.logged.entry(id).or_insert(digest);
                if known != digest {
                    self.complain(format!(
                        "log matching: entry {id:?} of {} is not what another member has there",
                        NodeId(node)
                    ));
                }
                return false;
            }
            Seen::Durable { node, id } => {
                let disk = self.disks.entry(node).or_default();
                // What is being cut off may be gone at the next start.
                disk.last = disk.last.max(disk.truncating.map_or(id, |left| left.min(id)));
                return false;
            }
            Seen::Truncated { node, id, done } => {
                let disk = self.disks.entry(node).or_default();
                disk.last = disk.last.min(id);
                disk.truncating = (!done).then_some(id);
            }
            Seen::Voted { node, vote } => self.disks.entry(node).or_default().vote = vote,
            Seen::Opened { node, vote, last } => self.opened(node, vote, last),
            Seen::Installed { node, id } => {
                self.installed += 1;
                self.positions.insert(node, id.1);
                self.keep(node, id.1);
                let disk = self.disks.entry(node).or_default();
                disk.last = disk.last.max(id);
            }
            Seen::Kept { node, index } => self.keep(node, index),
            Seen::Cut { node, index } => self.cut(node, index),
            Seen::Applied { node, id, digest } => self.applied(node, id, digest),
            Seen::State { node, .. } if self.spoiled == Some(NodeId(node).ordinal()) => return false,
            Seen::State { node, index, digest } => {
                if *self.states.entry(index).or_insert(digest) != digest {
                    self.complain(format!(
                        "the state of {} after entry {index} is not that of another member",
                        NodeId(node)
                    ));
                }
                return false;
            }
            Seen::Votes { node, voters } => self.votes(node, &voters),
            Seen::Holds { what, held, limit } => {
                if held > limit {
                    self.complain(format!("LIMIT: {held} {what}, and there may be {limit}"));
                }
                return false;
            }
            // The ledger of the leases takes it, or the book of the stores.
            Seen::LeaseEnded { .. } | Seen::Stored { .. } | Seen::Compacts { .. } => return false,
            Seen::Lost { node } => {
                let ordinal = NodeId(node).ordinal();
                if !self.is_tampered(ordinal) && !self.dismissed.contains(&ordinal) {
                    self.complain(format!(
                        "the disk of {} is lost, it says, and nobody did anything to it",
                        NodeId(node)
                    ));
                }
            }
        }
        true
    }

    fn leads(&mut self, node: u64, term: u64, leader: u64, last: EntryId) -> bool {
        let first = !self.leaders.contains_key(&term);
        let known = *self.leaders.entry(term).or_insert(leader);
        if known != leader {
            self.complain(format!("two leaders in term {term}: {} and {}", NodeId(known), NodeId(leader)));
        }
        let committed = self.applied.values().map(|(id, _)| *id).filter(|id| id.0 < term).max();
        if node == leader
            && let Some(committed) = committed
            && last < committed
        {
            self.complain(format!(
                "{} leads term {term} with a log that ends at {last:?}, and entry {committed:?} was committed",
                NodeId(leader)
            ));
        }
        first
    }

    fn opened(&mut self, node: u64, vote: VoteSeen, last: EntryId) {
        let known =
            self.disks.insert(node, Acknowledged { vote, last, truncating: None }).unwrap_or_default();
        if self.is_tampered(NodeId(node).ordinal()) {
            return;
        }
        let order = |vote: VoteSeen| (vote.0, vote.2);
        // A candidate whose term has another leader follows that one.
        let led = vote.2 && !known.vote.2;
        let other = vote.0 == known.vote.0 && vote.1 != known.vote.1 && !led;
        if order(vote) < order(known.vote) || other {
            self.complain(format!(
                "{} has forgotten a vote: {:?} was acknowledged, {vote:?} is on the disk",
                NodeId(node),
                known.vote
            ));
        }
        if last < known.last {
            self.complain(format!(
                "{} has forgotten entries: up to {:?} was acknowledged, {last:?} is the last on the disk",
                NodeId(node),
                known.last
            ));
        }
    }

    fn keep(&mut self, node: u64, index: u64) {
        let kept = self.kept.entry(node).or_default();
        *kept = index.max(*kept);
    }

    fn cut(&mut self, node: u64, index: u64) {
        let kept = self.kept.get(&node).copied().unwrap_or_default();
        if index > kept && !self.is_tampered(NodeId(node).ordinal()) {
            self.complain(format!(
                "{} cuts its log up to {index}, and its snapshots on disk reach up to {kept}",
                NodeId(node)
            ));
        }
    }

    /// An entry is applied only when this disk has it, and committed only when a majority of disks has it.
    fn is_on_disks(&mut self, node: u64, id: EntryId) {
        let has = |node: u64| self.disks.get(&node).is_some_and(|disk| disk.last >= id);
        let own = has(node);
        let first = !self.applied.contains_key(&id.1);
        let on = self.disks.keys().filter(|node| has(**node) || self.is_tampered(NodeId(**node).ordinal()));
        let count = on.count();
        if !own {
            self.complain(format!("{} applied {id:?}, and its own disk does not have it", NodeId(node)));
        }
        if first && self.voters > 0 && count * 2 <= self.voters {
            self.complain(format!(
                "{} applied {id:?}, and only {count} disks of {} have it",
                NodeId(node),
                self.voters
            ));
        }
    }

    fn applied(&mut self, node: u64, id: EntryId, digest: u64) {
        self.members.insert(NodeId(node).ordinal());
        self.is_on_disks(node, id);
        let known = *self.applied.entry(id.1).or_insert((id, digest));
        if known != (id, digest) {
            self.complain(format!(
                "{} applied {id:?} with digest {digest:x}; another applied {:?} with {:x}",
                NodeId(node),
                known.0,
                known.1
            ));
        }
        if let Some(last) = self.positions.insert(node, id.1)
            && id.1 != last + 1
        {
            self.complain(format!("{} applied entry {} after entry {last}", NodeId(node), id.1));
        }
    }

    fn votes(&mut self, node: u64, voters: &[u64]) {
        // Whoever says so is there, also if it stood still until now.
        self.there.insert(node, self.now);
        let is_there =
            |voter: &&u64| self.there.get(voter).is_some_and(|seen| seen + THERE_MILLIS >= self.now);
        let there = voters.iter().filter(is_there).count();
        if there * 2 <= voters.len() {
            let voters: Vec<String> = voters.iter().map(|voter| NodeId(*voter).to_string()).collect();
            self.complain(format!(
                "{} lets {} vote, and only {there} of them are there",
                NodeId(node),
                voters.join(", ")
            ));
        }
    }

    fn complain(&mut self, text: String) {
        self.wrong.push(text);
    }

    /// What did not hold.
    pub fn wrong(&self) -> &[String] {
        &self.wrong
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const A: u64 = 7;
    const B: u64 = 1 << 48 | 7;

    fn applied(node: u64, term: u64, index: u64, digest: u64) -> Seen {
        Seen::Applied { node, id: (term, index), digest }
    }

    fn leads(node: u64, term: u64, leader: u64, last: EntryId) -> Seen {
        Seen::Leads { node, term, leader, last }
    }

    fn seen(all: &[Seen]) -> Vec<String> {
        let mut invariants = Invariants::default();
        for seen in all {
            invariants.take(seen.clone());
        }
        invariants.wrong().to_vec()
    }

    #[test]
    fn what_may_be_is_not_reported() {
        let vote = (2, B, false);
        let all = [
            leads(A, 1, A, (0, 0)),
            leads(B, 1, A, (0, 0)),
            Seen::Logged { node: A, id: (1, 5), digest: 50 },
            Seen::Logged { node: B, id: (1, 5), digest: 50 },
            Seen::Logged { node: B, id: (2, 5), digest: 51 },
            Seen::Durable { node: A, id: (1, 6) },
            Seen::Durable { node: B, id: (1, 6) },
            applied(A, 1, 5, 50),
            applied(A, 1, 6, 60),
            applied(B, 1, 6, 60),
            Seen::State { node: A, index: 6, digest: 1 },
            Seen::State { node: B, index: 6, digest: 1 },
            Seen::Voted { node: A, vote },
            // A follower may learn late of a leader; only the leader itself must have everything.
            leads(A, 2, B, (1, 2)),
            leads(B, 2, B, (1, 6)),
            Seen::Installed { node: B, id: (2, 9) },
            Seen::Cut { node: B, index: 9 },
            Seen::Durable { node: B, id: (2, 10) },
            applied(B, 2, 10, 100),
            Seen::Kept { node: A, index: 5 },
            Seen::Cut { node: A, index: 5 },
            Seen::Opened { node: A, vote, last: (1, 6) },
            Seen::Truncated { node: A, id: (1, 3), done: false },
            Seen::Durable { node: A, id: (1, 6) },
            Seen::Opened { node: A, vote: (2, B, true), last: (1, 3) },
            // It wanted to lead the term, and another does; it lost its power before it told anybody that it knows.
            Seen::Voted { node: A, vote: (3, A, false) },
            Seen::Opened { node: A, vote: (3, B, true), last: (1, 3) },
        ];
        assert_eq!(seen(&all), Vec::<String>::new());
        let mut invariants = Invariants::default();
        invariants.take(Seen::Durable { node: A, id: (1, 5) });
        invariants.take(applied(A, 1, 5, 50));
        invariants.started(NodeId(A).ordinal());
        invariants.take(applied(A, 1, 5, 50));
        // A disk that somebody replaced.
        invariants.take(Seen::Voted { node: A, vote });
        invariants.tamper(NodeId(A).ordinal());
        invariants.take(Seen::Opened { node: A, vote: (0, 0, false), last: (0, 0) });
        invariants.take(Seen::Lost { node: A });
        assert_eq!(invariants.wrong(), Vec::<String>::new());
    }

    #[test]
    fn what_must_not_be_is_reported() {
        let before = [
            leads(A, 1, A, (0, 0)),
            Seen::Logged { node: A, id: (1, 5), digest: 50 },
            Seen::Durable { node: A, id: (1, 5) },
            Seen::Voted { node: A, vote: (1, A, true) },
            applied(A, 1, 5, 50),
            Seen::State { node: A, index: 5, digest: 1 },
        ];
        for (after, what) in [
            (leads(B, 1, B, (9, 9)), "two leaders"),
            (leads(B, 2, B, (1, 4)), "was committed"),
            (Seen::Logged { node: B, id: (1, 5), digest: 51 }, "log matching"),
            (applied(B, 1, 5, 51), "with digest"),
            (applied(B, 2, 5, 50), "with digest"),
            (applied(A, 1, 5, 50), "after entry 5"),
            (applied(A, 1, 7, 70), "after entry 5"),
            (Seen::State { node: B, index: 5, digest: 2 }, "not that of another"),
            (Seen::Opened { node: A, vote: (1, A, false), last: (1, 5) }, "forgotten a vote"),
            (Seen::Opened { node: A, vote: (1, B, true), last: (1, 5) }, "forgotten a vote"),
            (Seen::Opened { node: A, vote: (2, B, false), last: (1, 4) }, "forgotten entries"),
            (Seen::Lost { node: A }, "is lost"),
            (Seen::Cut { node: A, index: 4 }, "its snapshots on disk"),
            (applied(A, 1, 6, 60), "its own disk"),
            (applied(B, 1, 5, 50), "its own disk"),
        ] {
            let mut all = before.to_vec();
            assert_eq!(seen(&all), Vec::<String>::new());
            all.push(after);
            assert!(seen(&all).iter().any(|wrong| wrong.contains(what)), "{:?}", seen(&all));
        }
    }

    #[test]
    fn most_of_those_who_are_to_vote_are_there() {
        let lets_vote = |voters: &[u64]| {
            let mut invariants = Invariants::default();
            invariants.runs(NodeId(A), 1_000);
            invariants.runs(NodeId(B), 5_000);
            invariants.runs(NodeId(B), 1_001 + THERE_MILLIS);
            invariants.take(Seen::Votes { node: B, voters: voters.to_vec() });
            invariants.wrong().first().cloned().unwrap_or_default()
        };
        assert_eq!(lets_vote(&[B]), "");
        let mut invariants = Invariants::default();
        invariants.runs(NodeId(B), 99_000);
        invariants.take(Seen::Opened { node: A, vote: (0, 0, false), last: (0, 0) });
        invariants.take(Seen::Votes { node: B, voters: vec![A] });
        assert_eq!(invariants.wrong(), Vec::<String>::new(), "it was just begun");
        assert!(lets_vote(&[A, B]).contains("only 1 of them are there"));
        assert!(lets_vote(&[A]).contains("only 0"));
    }

    #[test]
    fn what_has_a_limit_keeps_it() {
        let holds = |held| seen(&[Seen::Holds { what: "stones", held, limit: 7 }]);
        assert_eq!(holds(7), Vec::<String>::new());
        assert_eq!(holds(8), ["LIMIT: 8 stones, and there may be 7"]);
    }

    #[test]
    fn what_is_committed_is_on_a_majority_of_disks() {
        let with = |voters: u16, tampered: bool| {
            let mut invariants = Invariants::of(voters);
            if tampered {
                invariants.take(Seen::Voted { node: B, vote: (1, A, false) });
                invariants.tamper(NodeId(B).ordinal());
            }
            invariants.take(Seen::Durable { node: A, id: (1, 5) });
            invariants.take(applied(A, 1, 5, 50));
            invariants.wrong().to_vec()
        };
        assert_eq!(with(1, false), Vec::<String>::new());
        assert_eq!(with(3, true), Vec::<String>::new());
        assert!(with(3, false).first().unwrap().contains("only 1 disks of 3"));
    }
}
