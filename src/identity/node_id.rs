//! Names of clusters, pods and disks.

use std::fmt;

use crate::env::Random;

/// A cluster; random, never 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub u64);

impl ClusterId {
    /// An id for a new cluster; never 0, which means none.
    pub fn draw(random: &dyn Random) -> Self {
        Self(random.next_u64().max(1))
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The ordinal of a pod in its `StatefulSet`.
pub type Ordinal = u16;

/// From here on are the ordinals of members that were added by `MemberAdd`, outside a `StatefulSet`.
pub const FIRST_ADDED: Ordinal = 32_768;

/// One incarnation of one disk: `ordinal << 48 | incarnation`. Never used again (DESIGN section 5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

impl NodeId {
    /// Incarnation of the members of a fresh cluster.
    pub const FIRST_INCARNATION: u64 = 1;
    const INCARNATION_BITS: u32 = 48;

    /// The id of `incarnation` of the disk of `ordinal`; the incarnation keeps its low 48 bits.
    pub const fn new(ordinal: Ordinal, incarnation: u64) -> Self {
        let mask = (1 << Self::INCARNATION_BITS) - 1;
        Self(((ordinal as u64) << Self::INCARNATION_BITS) | (incarnation & mask))
    }

    /// The ordinal of the pod that the disk belongs to.
    pub const fn ordinal(self) -> Ordinal {
        (self.0 >> Self::INCARNATION_BITS) as Ordinal
    }

    /// Which of the ordinal's disks.
    pub const fn incarnation(self) -> u64 {
        self.0 & ((1 << Self::INCARNATION_BITS) - 1)
    }
}

impl From<u64> for NodeId {
    fn from(id: u64) -> Self {
        Self(id)
    }
}

/// As in `2#1841`; whoever knows the pod's name prefix puts it before.
impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.ordinal(), self.incarnation())
    }
}
