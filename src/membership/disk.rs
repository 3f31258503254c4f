//! What a disk is, and what a pod answers when it is asked. Values only.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use crate::identity::{Boot, ClusterId, DiskState, Identity, Membership, NodeId, Ordinal, OrdinalRange};
use crate::mvcc::cluster::Mark;

/// What a disk is (DESIGN section 5).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum What {
    /// No directory ever held an identity.
    #[default]
    Blank,
    /// The identity of a first bootstrap, and a log without vote or entry.
    Prepared,
    /// An identity with a nonce; its log never held anything.
    Joining,
    /// An identity and a sound log.
    Member,
    /// It was a member and cannot be one again.
    Lost {
        /// Why, for people; empty in the answer of another pod.
        reason: String,
    },
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Blank => "blank",
            Self::Prepared => "prepared",
            Self::Joining => "joining",
            Self::Member => "a member",
            Self::Lost { .. } => "lost",
        })
    }
}

/// A vote, as far as disks are compared by it. Ordered as Raft orders votes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Vote {
    /// The term.
    pub term: u64,
    /// Whom it is for; 0 for nobody.
    pub node: u64,
}

/// Where an entry is in the log. Ordered as Raft orders logs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogId {
    /// Term in which the entry was made.
    pub term: u64,
    /// Its place, from 1; 0 for none.
    pub index: u64,
}

/// What a disk holds of consensus.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Its vote.
    pub vote: Vote,
    /// Its last log id: the higher of log and snapshot.
    pub last: LogId,
}

impl Held {
    /// Whether the disk never took part: a prepared disk that holds something is a member.
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// What a disk is and holds, before consensus runs or while it does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Disk {
    /// What it is.
    pub what: What,
    /// The ordinal that it belongs to; means nothing if it is blank.
    pub ordinal: Ordinal,
    /// Its cluster; 0 if it is blank.
    pub cluster: ClusterId,
    /// Clusters that its cluster replaces after a recovery.
    pub supersedes: Vec<ClusterId>,
    /// Which disk it is; 0 if it is blank or joining.
    pub node_id: NodeId,
    /// This start. Of a blank disk, number 0 and the random number of the process.
    pub boot: Boot,
    /// What it holds now.
    pub held: Held,
    /// What it held when this boot began. Not known of other pods: there it is [`Disk::held`].
    pub at_boot: Held,
    /// The last membership in its log or snapshot, committed or not; of a prepared disk, the voters that it was given.
    pub membership: Membership,
    /// The marks in its state and log, by member.
    pub marks: BTreeMap<NodeId, Mark>,
    /// The newest boot that this process heard of, by member.
    pub seen: BTreeMap<NodeId, Boot>,
}

impl Disk {
    /// The disk without an identity.
    pub fn blank(random: u64) -> Self {
        Self { boot: Boot { number: 0, random }, ..Self::default() }
    }

    /// The disk of an identity whose log holds `held` at the start of this boot, and `membership` if it holds one.
    pub fn from_identity(
        identity: &Identity,
        boot: Boot,
        held: Held,
        membership: Option<Membership>,
    ) -> Self {
        let (what, voters) = match &identity.state {
            DiskState::Prepared { voters } if held.is_nothing() => (What::Prepared, voters.clone()),
            DiskState::Prepared { voters } => (What::Member, voters.clone()),
            DiskState::Joining { .. } if held.is_nothing() => (What::Joining, Membership::default()),
            // A disk is called a member only once its log holds something, so that was lost. The caller stores it.
            DiskState::Member if held.is_nothing() => {
                (What::Lost { reason: "its log is empty".into() }, Membership::default())
            }
            DiskState::Joining { .. } | DiskState::Member => (What::Member, Membership::default()),
            DiskState::Lost { reason, .. } => (What::Lost { reason: reason.clone() }, Membership::default()),
        };
        Self {
            what,
            ordinal: identity.ordinal,
            cluster: identity.cluster,
            supersedes: identity.supersedes.clone(),
            node_id: identity.node_id,
            boot,
            held,
            at_boot: held,
            membership: membership.unwrap_or(voters),
            ..Self::default()
        }
    }

    /// Whether it carries an identity.
    pub fn has_identity(&self) -> bool {
        self.what != What::Blank
    }

    /// Whether its cluster replaces `other`.
    pub fn supersedes(&self, other: ClusterId) -> bool {
        self.has_identity() && self.supersedes.contains(&other)
    }

    /// Whether it was never in use: such a disk may take part in a first bootstrap.
    pub fn is_fresh(&self) -> bool {
        matches!(self.what, What::Blank | What::Prepared)
    }
}

/// What consensus knows now, on a pod where it runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConsensusView {
    /// The leader that it leads as, or heard from within an election time-out.
    pub leader: Option<NodeId>,
    /// The term.
    pub term: u64,
    /// Index of the last entry applied.
    pub applied_index: u64,
    /// Newest admitted id per ordinal that the *applied* state knows as removed.
    pub removed: BTreeSet<NodeId>,
    /// The pods that there should be, if this pod leads and knows it.
    pub desired: Option<OrdinalRange>,
}

/// What a pod said of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Described {
    /// Its disk.
    pub disk: Disk,
    /// What its consensus knows, if it runs.
    pub consensus: Option<ConsensusView>,
    /// What it is called as a member.
    pub member_name: String,
    /// Where its clients reach it.
    pub client_urls: Vec<String>,
}

impl Described {
    /// The leader that this pod knows.
    pub fn leader(&self) -> Option<NodeId> {
        self.consensus.as_ref().and_then(|consensus| consensus.leader)
    }
}

/// What came of asking one pod. The newest attempt counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Answer {
    /// It was not asked yet.
    #[default]
    NotAsked,
    /// There is an address, and no answer.
    Silent,
    /// DNS says that it does not exist, and is to be believed.
    Absent,
    /// Nobody can say where it is; why.
    Unknown(String),
    /// The pod that was asked answered.
    Described(Box<Described>),
}

/// One pod that was asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// The pod's ordinal, by its name.
    pub ordinal: Ordinal,
    /// What came of it.
    pub answer: Answer,
    /// Time since it was first asked.
    pub asked_for: Duration,
}

impl Asked {
    /// What it said, if it answered.
    pub fn described(&self) -> Option<&Described> {
        match &self.answer {
            Answer::Described(described) => Some(described),
            _ => None,
        }
    }
}

/// Whether the addresses behind the headless service are among those asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Service {
    /// There is no such service.
    #[default]
    NotUsed,
    /// It was not asked yet: it is asked late, when all others have answered.
    NotAsked,
    /// It could not be asked; why.
    Unknown(String),
    /// All that it lists were asked.
    Listed,
}

/// What all others said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answers {
    /// By name.
    pub pods: BTreeMap<String, Asked>,
    /// The addresses behind the headless service.
    pub service: Service,
}

impl Answers {
    /// Those who answered.
    pub fn described(&self) -> impl Iterator<Item = (&str, &Asked, &Described)> {
        self.pods.iter().filter_map(|(name, asked)| Some((name.as_str(), asked, asked.described()?)))
    }

    /// The pod of an ordinal.
    pub fn of(&self, ordinal: Ordinal) -> Option<&Asked> {
        self.pods.values().find(|asked| asked.ordinal == ordinal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_disk_is_depends_on_its_identity_and_its_log() {
        let voters = Membership { configs: vec![vec![NodeId(1)]], members: Vec::new() };
        let newer = Membership { configs: vec![vec![NodeId(2)]], members: Vec::new() };
        let voted = Held { vote: Vote { term: 1, node: 1 }, last: LogId::default() };
        let lost = |reason: &str| What::Lost { reason: reason.into() };
        let prepared = DiskState::Prepared { voters: voters.clone() };
        for (state, held, what) in [
            (prepared.clone(), Held::default(), What::Prepared),
            (prepared.clone(), voted, What::Member),
            (DiskState::Joining { nonce: 1 }, Held::default(), What::Joining),
            (DiskState::Joining { nonce: 1 }, voted, What::Member),
            (DiskState::Member, voted, What::Member),
            (DiskState::Member, Held::default(), lost("its log is empty")),
            (DiskState::Lost { reason: "damaged".into(), successor: None }, voted, lost("damaged")),
        ] {
            let identity = Identity {
                cluster: ClusterId(1),
                supersedes: Vec::new(),
                node_id: NodeId(1),
                ordinal: 0,
                state,
                boot: 1,
                last_stop: None,
            };
            let disk = Disk::from_identity(&identity, Boot::default(), held, None);
            assert_eq!(disk.what, what, "{identity:?} {held:?}");
            // The voters that it was given are its last membership until the log holds one.
            let given = if identity.state == prepared { voters.clone() } else { Membership::default() };
            assert_eq!(disk.membership, given);
            let disk = Disk::from_identity(&identity, Boot::default(), held, Some(newer.clone()));
            assert_eq!(disk.membership, newer);
        }
    }
}
