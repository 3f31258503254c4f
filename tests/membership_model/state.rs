//! The values of the abstract world: volumes, processes, pods, letters under way, and what a ghost remembers of it all.
//!
//! Everything here is small and hashed, because each distinct world is one state. Terms, boots, nonces and indexes are small numbers;
//! logs are whole, and shared between worlds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use setstone::identity::{Boot, ClusterId, DiskState, Identity, Member, Membership, NodeId, Ordinal};
use setstone::membership::{Disk, Held, LogId, Vote};
use setstone::mvcc::cluster::{Cluster, ClusterCommand, Mark, Touched};

/// Ordinals that there are.
pub const PODS: usize = 3;
/// The place of the zombie among the processes; below it are those of the pods, by ordinal.
pub const ZOMBIE: usize = PODS;

/// Voters in sets, and those who only listen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Members {
    /// One set of voters, or two.
    pub configs: Vec<BTreeSet<NodeId>>,
    /// Members in no set.
    pub learners: BTreeSet<NodeId>,
}

impl Members {
    pub fn voters(&self) -> BTreeSet<NodeId> {
        self.configs.iter().flatten().copied().collect()
    }

    pub fn ids(&self) -> BTreeSet<NodeId> {
        &self.voters() | &self.learners
    }

    pub fn is_voter(&self, id: NodeId) -> bool {
        self.configs.iter().any(|config| config.contains(&id))
    }

    pub fn contains(&self, id: NodeId) -> bool {
        self.is_voter(id) || self.learners.contains(&id)
    }

    pub fn has_quorum(&self, present: impl Fn(NodeId) -> bool) -> bool {
        !self.configs.is_empty()
            && self.configs.iter().all(|set| 2 * set.iter().filter(|id| present(**id)).count() > set.len())
    }

    fn real(&self) -> Membership {
        let member = |node_id| Member { node_id, ..Member::default() };
        Membership {
            configs: self.configs.iter().map(|config| config.iter().copied().collect()).collect(),
            members: self.ids().into_iter().map(member).collect(),
        }
    }
}

/// What a member has acknowledged as durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Durable {
    pub boot: u8,
    pub vote: (u8, NodeId),
    pub last: (u8, u8),
}

impl Durable {
    fn real(self) -> Mark {
        Mark {
            boot: self.boot.into(),
            vote_term: self.vote.0.into(),
            vote_node: self.vote.1.0,
            log_term: self.last.0.into(),
            log_index: self.last.1.into(),
        }
    }
}

/// What an entry says.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Said {
    /// The first entry of this leader.
    Blank(NodeId),
    /// A client's write, by its number.
    Write(u8),
    Members(Members),
    Admit(Ordinal, u64),
    Marks(Vec<(NodeId, Durable)>),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    pub term: u8,
    pub said: Said,
}

pub type Log = Arc<Vec<Entry>>;

/// The last membership in a log.
pub fn last_members(log: &Log) -> Option<&Members> {
    log.iter().rev().find_map(|entry| match &entry.said {
        Said::Members(members) => Some(members),
        _ => None,
    })
}

/// The replicated state after the first `applied` entries, by the crate's own state machine; and the members that it has.
pub fn replay(log: &Log, applied: u8) -> (Cluster, BTreeSet<NodeId>) {
    let (mut cluster, mut ids, mut touched) = (Cluster::default(), BTreeSet::new(), Touched::default());
    for (index, entry) in (1..).zip(log.iter().take(applied.into())) {
        match &entry.said {
            Said::Blank(_) | Said::Write(_) => {}
            Said::Members(members) => {
                ids = members.ids();
                let votes = ids.iter().map(|id| (*id, members.is_voter(*id))).collect();
                cluster.note_membership(&votes, &mut touched);
            }
            Said::Admit(ordinal, nonce) => {
                let command = ClusterCommand::Admit { ordinal: *ordinal, nonce: *nonce };
                cluster.apply(&command, index, &mut touched);
            }
            Said::Marks(marks) => {
                let marks = marks.iter().map(|(id, mark)| (*id, mark.real())).collect();
                cluster.apply(&ClusterCommand::Marks(marks), index, &mut touched);
            }
        }
    }
    (cluster, ids)
}

/// What the identity file says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum File {
    #[default]
    None,
    Prepared(Members),
    Joining(u64),
    Member,
    Lost(Option<u64>),
}

/// A volume: identity, vote and log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Volume {
    /// Which volume of its ordinal this is: a lost one is followed by the next.
    pub nth: u8,
    /// How often it was rolled back.
    pub branch: u8,
    /// It was rolled back, and lacks something that it had; forgotten when it joins anew.
    pub rolled: bool,
    pub file: File,
    pub cluster: u64,
    pub node: NodeId,
    pub ordinal: Ordinal,
    pub boot: u8,
    pub vote: (u8, NodeId),
    pub log: Log,
}

impl Volume {
    pub fn last(&self) -> (u8, u8) {
        self.log.last().map_or((0, 0), |entry| (entry.term, self.log.len() as u8))
    }

    /// The last membership that it knows.
    pub fn members(&self) -> Option<&Members> {
        last_members(&self.log).or(match &self.file {
            File::Prepared(voters) => Some(voters),
            _ => None,
        })
    }

    pub fn identity(&self) -> Option<Identity> {
        let state = match &self.file {
            File::None => return None,
            File::Prepared(voters) => DiskState::Prepared { voters: voters.real() },
            File::Joining(nonce) => DiskState::Joining { nonce: *nonce },
            File::Member => DiskState::Member,
            File::Lost(successor) => DiskState::Lost { reason: "lost".into(), successor: *successor },
        };
        Some(Identity {
            cluster: ClusterId(self.cluster),
            supersedes: Vec::new(),
            node_id: self.node,
            ordinal: self.ordinal,
            state,
            boot: self.boot.into(),
            last_stop: None,
        })
    }

    /// What the pod of `ordinal` says of it. Another pod's disk is not opened.
    pub fn disk(&self, ordinal: Ordinal, boot: Boot, at_boot: Durable) -> Disk {
        let Some(identity) = self.identity() else { return Disk { ordinal, ..Disk::blank(boot.random) } };
        let opened = self.ordinal == ordinal;
        let held = if opened { held(self.vote, self.last()) } else { Held::default() };
        let membership = last_members(&self.log).filter(|_| opened).map(Members::real);
        let mut disk = Disk::from_identity(&identity, boot, held, membership);
        disk.at_boot = held_of(at_boot);
        disk
    }

    /// Stores what follows from a log that is not empty, by the crate's own rule.
    pub fn settle(&mut self) {
        if self.identity().and_then(|identity| identity.settled(!self.log.is_empty())).is_some() {
            self.file = File::Member;
        }
    }

    /// A number that no other disk of the world draws.
    pub fn nonce(&self) -> u64 {
        let drawn = u64::from(self.boot) * 8 + u64::from(self.branch);
        1 + u64::from(self.nth) * 512 + drawn
    }
}

fn held(vote: (u8, NodeId), last: (u8, u8)) -> Held {
    Held {
        vote: Vote { term: vote.0.into(), node: vote.1.0 },
        last: LogId { term: last.0.into(), index: last.1.into() },
    }
}

fn held_of(durable: Durable) -> Held {
    held(durable.vote, durable.last)
}

/// What a leader keeps in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Lead {
    pub term: u8,
    /// What each member acknowledged to this leader.
    pub matched: BTreeMap<NodeId, Durable>,
    /// The second step of a joint change is this leader's to do; whether those who vote no more stay as learners.
    pub finishing: Option<bool>,
    /// Disks whose admission it was asked for, and which are no learners yet.
    pub admitting: BTreeSet<(Ordinal, u64)>,
    /// Members that asked to be retired.
    pub retiring: BTreeSet<NodeId>,
}

/// An attempt at a first bootstrap.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Founding {
    pub cluster: u64,
    pub founders: BTreeSet<Ordinal>,
    /// Ordinals that have their identity.
    pub accepted: BTreeSet<Ordinal>,
}

/// What a pod said of itself, as another keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Words {
    pub volume: Volume,
    pub boot: u8,
    pub random: u8,
    pub seen: BTreeMap<NodeId, (u8, u8)>,
    pub view: Option<View>,
}

/// What its consensus says.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct View {
    pub leader: Option<NodeId>,
    pub commit: u8,
    /// What it knows as a leader.
    pub matched: BTreeMap<NodeId, Durable>,
    /// The desired size that it sees as a leader.
    pub size: Option<u16>,
}

/// What a process heard of a pod last, and keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Heard {
    #[default]
    Nothing,
    Silent,
    Absent,
    Words(Arc<Words>),
}

/// A process: what is in memory.
#[allow(clippy::struct_excessive_bools)] // Each by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Process {
    pub boot: u8,
    pub random: u8,
    pub at_boot: Durable,
    /// Consensus runs: it was released, initialised or admitted.
    pub part: bool,
    /// No identity is taken any more.
    pub closed: bool,
    /// Patience that is over: 1 for two seconds, 2 for fifteen, 3 for a minute since it was ready.
    pub waited: u8,
    /// Term and leader that it took the last message of.
    pub follows: Option<(u8, NodeId)>,
    pub lead: Option<Lead>,
    /// Entries that it knows as committed, and has applied.
    pub commit: u8,
    /// It applied a read index since it began.
    pub caught_up: bool,
    /// Boots that it heard of, by member; the first are left out.
    pub seen: BTreeMap<NodeId, (u8, u8)>,
    pub founding: Option<Founding>,
    /// It was told to stop, and waits until it is no member any more.
    pub retiring: bool,
    pub heard: [Heard; PODS],
}

/// A pod, as the API server has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Pod {
    pub process: Option<Process>,
    pub terminating: bool,
}

/// A process whose pod was deleted by force while its node was cut off.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Zombie {
    pub ordinal: Ordinal,
    pub process: Process,
    /// The volume as the process sees it.
    pub volume: Volume,
    /// The volume was taken away: whatever must be written fails.
    pub fenced: bool,
    /// The node is cut off.
    pub cut: bool,
}

/// An identity of a first bootstrap, under way to a pod; it may come at any time, or never.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Letter {
    pub from: Ordinal,
    pub to: Ordinal,
    pub cluster: u64,
    pub founders: BTreeSet<Ordinal>,
    /// What the disk was prepared for when the attempt began.
    pub replaces: u64,
}

/// Faults and changes that are left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Budget {
    pub crashes: u8,
    /// Volumes that are lost, replaced by a blank one or damaged.
    pub losses: u8,
    pub snapshots: u8,
    pub rollbacks: u8,
    pub foreign: u8,
    pub zombies: u8,
    pub scalings: u8,
    pub writes: u8,
    pub marks: u8,
    pub attempts: u8,
    /// Changes of the API server between up and down.
    pub flips: u8,
}

/// What must never be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Broken {
    /// A second cluster acknowledged something.
    SecondCluster,
    /// Two leaders acknowledged different entries at one place.
    Fork,
    /// A leader was elected that lacks what was acknowledged.
    Forgot,
    /// Two disks acknowledged something under one id.
    TwoDisks,
    /// A change left fewer live voters than a majority.
    TooFew,
    /// A member was removed whose ordinal is wanted, and no successor was admitted.
    Removed,
    /// A sound disk was declared lost.
    FalselyLost,
}

/// What only the model knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ghost {
    /// The cluster that acknowledged something.
    pub cluster: Option<u64>,
    /// What it acknowledged.
    pub acked: Log,
    /// The volume that acknowledged something under an id.
    pub names: BTreeMap<(u64, NodeId), (Ordinal, u8)>,
    pub broken: Option<Broken>,
    /// A rolled-back disk took part, and nobody who answered it held any evidence: DESIGN says that this cannot be noticed.
    pub blind: bool,
    /// Ordinals whose volume was lost before anything was acknowledged.
    pub lost_early: BTreeSet<Ordinal>,
}

/// The world.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct World {
    /// `spec.replicas`.
    pub size: u16,
    /// `metadata.generation` is still 1.
    pub first_generation: bool,
    /// The API server answers.
    pub api: bool,
    pub pods: [Option<Pod>; PODS],
    pub volumes: [Volume; PODS],
    pub zombie: Option<Zombie>,
    /// A volume snapshot that was taken.
    pub snapshot: Option<(Ordinal, Volume)>,
    pub letters: BTreeSet<Letter>,
    /// Attempts at a first bootstrap.
    pub attempts: u8,
    pub left: Budget,
    pub ghost: Ghost,
}

impl World {
    pub fn process(&self, at: usize) -> Option<&Process> {
        match at {
            ZOMBIE => self.zombie.as_ref().map(|zombie| &zombie.process),
            _ => self.pods[at].as_ref()?.process.as_ref(),
        }
    }

    pub fn process_mut(&mut self, at: usize) -> Option<&mut Process> {
        match at {
            ZOMBIE => self.zombie.as_mut().map(|zombie| &mut zombie.process),
            _ => self.pods[at].as_mut()?.process.as_mut(),
        }
    }

    /// The volume as the process there sees it.
    pub fn volume(&self, at: usize) -> &Volume {
        match (at, &self.zombie) {
            (ZOMBIE, Some(zombie)) => &zombie.volume,
            _ => &self.volumes[at],
        }
    }

    pub fn volume_mut(&mut self, at: usize) -> &mut Volume {
        match (at, &mut self.zombie) {
            (ZOMBIE, Some(zombie)) => &mut zombie.volume,
            _ => &mut self.volumes[at],
        }
    }

    pub fn ordinal(&self, at: usize) -> Ordinal {
        match (at, &self.zombie) {
            (ZOMBIE, Some(zombie)) => zombie.ordinal,
            _ => at as Ordinal,
        }
    }

    pub fn is_cut(&self, at: usize) -> bool {
        at == ZOMBIE && self.zombie.as_ref().is_some_and(|zombie| zombie.cut)
    }

    pub fn can_write(&self, at: usize) -> bool {
        at != ZOMBIE || self.zombie.as_ref().is_some_and(|zombie| !zombie.fenced)
    }

    /// Ends a process; a pod that was told to stop is gone with it.
    pub fn end(&mut self, at: usize) {
        if at == ZOMBIE {
            self.zombie = None;
        } else if self.pods[at].as_ref().is_some_and(|pod| pod.terminating) {
            self.pods[at] = None;
        } else if let Some(pod) = &mut self.pods[at] {
            pod.process = None;
        }
    }

    pub fn broke(&mut self, what: Broken) {
        self.ghost.broken.get_or_insert(what);
    }

    /// Whether this pod is outside what the StatefulSet wants.
    pub fn is_outside(&self, ordinal: Ordinal) -> bool {
        ordinal >= self.size
    }
}

/// The crate's marks, of what an abstract one says.
pub fn real_mark(durable: Durable) -> Mark {
    durable.real()
}
