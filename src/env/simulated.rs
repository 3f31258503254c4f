//! Where a simulation looks into a node, and where it plants bugs. Nothing of this is in a build without the feature
//! `simulation`: there [`tell`] and [`planted`] are empty.
//!
//! Everything is per thread, because a simulation runs on one: several can run side by side.

use std::fmt;

/// What happened inside a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A member applied an entry.
    Applied {
        /// The member.
        node: u64,
        /// Term of the entry.
        term: u64,
        /// Index of the entry.
        index: u64,
        /// Digest of what is in it.
        digest: u64,
    },
    /// A member installed a snapshot up to an entry.
    Installed {
        /// The member.
        node: u64,
        /// The last entry that the snapshot holds.
        index: u64,
    },
    /// A member holds that this one leads in this term.
    Leads {
        /// The term.
        term: u64,
        /// The leader.
        leader: u64,
    },
}

/// A mistake that the simulator must find.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bug {
    /// An `fdatasync` says yes and does nothing, seven times of eight.
    AcknowledgeBeforeSync,
    /// The names in a directory are never made durable.
    NoDirectorySync,
    /// Some entries are applied twice.
    ApplyTwice,
    /// A linearizable read does not wait for a read index.
    NoReadIndex,
    /// Votes are not written to the log.
    ForgetVote,
    /// Some entries mean something else to some members.
    UnequalApply,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::AcknowledgeBeforeSync,
        Self::NoDirectorySync,
        Self::ApplyTwice,
        Self::NoReadIndex,
        Self::ForgetVote,
        Self::UnequalApply,
    ];
}

impl fmt::Display for Bug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[cfg(feature = "simulation")]
mod on {
    use std::cell::{Cell, RefCell};

    use super::{Bug, Seen};

    type Sink = Box<dyn Fn(Seen)>;

    thread_local! {
        static SINK: RefCell<Option<Sink>> = const { RefCell::new(None) };
        static BUG: Cell<Option<Bug>> = const { Cell::new(None) };
        static SEED: Cell<Option<u64>> = const { Cell::new(None) };
    }

    /// Tells whoever watches this thread what happened.
    pub fn tell(seen: impl FnOnce() -> Seen) {
        SINK.with_borrow(|sink| {
            if let Some(sink) = sink {
                sink(seen());
            }
        });
    }

    /// Whether this thread runs with the bug.
    pub fn planted(bug: Bug) -> bool {
        BUG.get() == Some(bug)
    }

    /// A random number for consensus: from the seed of this thread, or the operating system's if it has none.
    #[allow(clippy::disallowed_methods)] // As in production, where no simulation runs.
    pub fn random() -> u64 {
        match SEED.get() {
            None => rand::random(),
            Some(seed) => {
                SEED.set(Some(seed.wrapping_add(0x9e37_79b9_7f4a_7c15)));
                super::mix(seed)
            }
        }
    }

    /// Until it is dropped, this thread simulates.
    #[derive(Debug)]
    pub struct Simulating(());

    impl Simulating {
        /// From now on, what happens goes to `sink`, randomness comes from `seed`, and `bug` is there.
        pub fn begin(seed: u64, bug: Option<Bug>, sink: Box<dyn Fn(Seen)>) -> Self {
            SINK.set(Some(sink));
            SEED.set(Some(seed));
            BUG.set(bug);
            Self(())
        }
    }

    impl Drop for Simulating {
        fn drop(&mut self) {
            SINK.set(None);
            SEED.set(None);
            BUG.set(None);
        }
    }
}

#[cfg(feature = "simulation")]
pub use on::{Simulating, planted, random, tell};

/// Nobody watches.
#[cfg(not(feature = "simulation"))]
#[inline]
pub fn tell(_: impl FnOnce() -> Seen) {}

/// No bug is planted.
#[cfg(not(feature = "simulation"))]
#[inline]
pub const fn planted(_: Bug) -> bool {
    false
}

/// Spreads a number over all 64 bits (splitmix64); different numbers give different results.
pub const fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// Digest of bytes (FNV-1a), for comparison only.
pub fn digest(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
