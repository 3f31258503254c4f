//! Alarms: what is wrong with the cluster, as all members know it, and what is refused until it is over.
//!
//! An alarm is of one member and of one kind, and it has a cause:
//! * *Held*: raised by a client or because the quota was used up. It stays until a client disarms it, as in etcd.
//! * *Disk*: raised by the member whose volume is nearly full (`duties`), which lowers it itself when there is room again. A client may
//!   lower it too, and the leader does when the member is silent for long; the member raises it again if nothing has changed. It goes
//!   with the member.
//!
//! Clients do not see the cause: to them an alarm is there or not.

use std::collections::BTreeSet;
use std::fmt;

use super::command::{Command, Outcome, Refusal};
use super::lease::LeaseCommand;
use crate::env::simulated::{self, Bug};
use crate::identity::NodeId;
use crate::limits;

/// What is wrong. The numbers are etcd's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum AlarmKind {
    /// No space is left: what makes the store grow is refused.
    NoSpace = 1,
    /// The members' states differ: everything is refused.
    Corrupt = 2,
}

impl AlarmKind {
    /// The kind with this number.
    pub fn from_number(number: u32) -> Option<Self> {
        match number {
            1 => Some(Self::NoSpace),
            2 => Some(Self::Corrupt),
            _ => None,
        }
    }

    /// etcd's name of it.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoSpace => "NOSPACE",
            Self::Corrupt => "CORRUPT",
        }
    }
}

/// Why an alarm is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Cause {
    /// A client, or the quota: it stays until a client disarms it.
    #[default]
    Held = 0,
    /// The member's volume: it lowers the alarm itself.
    Disk = 1,
}

impl Cause {
    /// The cause with this number.
    pub fn from_number(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::Held),
            1 => Some(Self::Disk),
            _ => None,
        }
    }
}

/// An alarm, as clients see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Alarm {
    /// What is wrong.
    pub kind: AlarmKind,
    /// Where; 0: a client named nobody, or nobody knows.
    pub member: NodeId,
}

impl fmt::Display for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let refused = match self.kind {
            AlarmKind::NoSpace => "what makes the store grow is refused",
            AlarmKind::Corrupt => "everything is refused",
        };
        write!(f, "{} of {}: {refused}", self.kind.name(), self.member)
    }
}

/// Raises or lowers an alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AlarmCommand {
    /// Which.
    pub alarm: Alarm,
    /// Why. One that is lowered by a client (*held*) is lowered whatever its cause.
    pub cause: Cause,
    /// Whether it is to be there afterwards.
    pub raised: bool,
}

/// An alarm with its cause, as it is kept.
pub(super) type Kept = (Alarm, Cause);

/// Notes a change. One that is taken back in the same entry is none.
fn toggle(touched: &mut BTreeSet<Kept>, kept: Kept) {
    if !touched.remove(&kept) {
        touched.insert(kept);
    }
}

/// The alarms that are raised.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Alarms(BTreeSet<Kept>);

impl Alarms {
    /// Whether one of this kind is raised.
    pub fn is_raised(&self, kind: AlarmKind) -> bool {
        self.0.iter().any(|(alarm, _)| alarm.kind == kind)
    }

    /// The members whose volumes are nearly full.
    pub fn full_volumes(&self) -> Vec<NodeId> {
        self.0.iter().filter(|(_, cause)| *cause == Cause::Disk).map(|(alarm, _)| alarm.member).collect()
    }

    /// All, by kind and member.
    pub fn list(&self) -> Vec<Alarm> {
        let mut alarms: Vec<Alarm> = self.0.iter().map(|(alarm, _)| *alarm).collect();
        alarms.dedup();
        alarms
    }

    /// Why a command is refused, if the alarms refuse it. What etcd's appliers refuse: under CORRUPT whatever reads or changes keys and
    /// leases, under NOSPACE what makes the store grow.
    pub fn refuses(&self, command: &Command) -> Option<Refusal> {
        if self.0.is_empty() {
            return None;
        }
        let of_keys = match command {
            Command::Lease(LeaseCommand::Checkpoint { .. }) | Command::Cluster(_) | Command::Auth(_) => false,
            Command::Put(_)
            | Command::DeleteRange(_)
            | Command::Txn(_)
            | Command::Compact(_)
            | Command::Lease(_) => true,
        };
        if of_keys && self.is_raised(AlarmKind::Corrupt) {
            return Some(Refusal::Corrupt);
        }
        let grows = command.cost() > 0 && !simulated::planted(Bug::GrowWithoutSpace);
        (grows && self.is_raised(AlarmKind::NoSpace)).then_some(Refusal::NoSpace)
    }

    /// Applies a command; the answer names the alarm that it was about. What changes goes to `touched`.
    pub(super) fn apply(
        &mut self,
        command: AlarmCommand,
        touched: &mut BTreeSet<Kept>,
    ) -> Result<Outcome, Refusal> {
        let AlarmCommand { alarm, cause, raised } = command;
        if raised {
            if self.0.len() >= limits::ALARMS && !self.0.contains(&(alarm, cause)) {
                return Err(Refusal::TooManyAlarms);
            }
            if self.0.insert((alarm, cause)) {
                toggle(touched, (alarm, cause));
            }
            return Ok(Outcome::Alarms(vec![alarm]));
        }
        let causes: &[Cause] = if cause == Cause::Held { &[Cause::Held, Cause::Disk] } else { &[cause] };
        let mut lowered = Vec::new();
        for cause in causes {
            if self.0.remove(&(alarm, *cause)) {
                toggle(touched, (alarm, *cause));
                lowered = vec![alarm];
            }
        }
        Ok(Outcome::Alarms(lowered))
    }

    /// Those of volumes whose members are gone.
    pub(super) fn forget_others(&mut self, is_member: impl Fn(NodeId) -> bool, touched: &mut BTreeSet<Kept>) {
        let gone: Vec<Kept> = self
            .0
            .iter()
            .filter(|(alarm, cause)| *cause == Cause::Disk && !is_member(alarm.member))
            .copied()
            .collect();
        for kept in gone {
            self.0.remove(&kept);
            toggle(touched, kept);
        }
    }

    /// Puts back one that was read.
    pub(super) fn load(&mut self, kept: Kept) {
        self.0.insert(kept);
    }

    pub(super) fn contains(&self, kept: &Kept) -> bool {
        self.0.contains(kept)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Kept> {
        self.0.iter()
    }
}
