//! Where a simulation looks into a node, and where it plants bugs. Nothing of this is in a build without the feature
//! `simulation`: there [`tell`], [`planted`], [`is_running`] and [`stoppable`] are empty.
//!
//! Everything is per thread, because a simulation runs on one: several can run side by side.

mod bugs;
#[cfg(feature = "simulation")]
pub mod stopping;

pub use bugs::{Bug, FIRST_LATER_SEED, FIRST_UPKEEP_SEED};

/// The place of an entry: its term, then its index.
pub type EntryId = (u64, u64);

/// What a disk says, or once said, about votes: term, candidate, and whether a quorum has granted it.
pub type VoteSeen = (u64, u64, bool);

/// What happened inside a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A member opened its log.
    Opened {
        /// The member.
        node: u64,
        /// The vote in it.
        vote: VoteSeen,
        /// The last entry in it.
        last: EntryId,
    },
    /// A member has a vote on disk, it says.
    Voted {
        /// The member.
        node: u64,
        /// The vote.
        vote: VoteSeen,
    },
    /// A member was handed an entry for its log.
    Logged {
        /// The member.
        node: u64,
        /// The entry.
        id: EntryId,
        /// Digest of what is in it.
        digest: u64,
    },
    /// A member has its log up to an entry on disk, it says.
    Durable {
        /// The member.
        node: u64,
        /// The entry.
        id: EntryId,
    },
    /// A member was told to forget the entries after one.
    Truncated {
        /// The member.
        node: u64,
        /// The last entry that stays.
        id: EntryId,
        /// It has done so, on disk.
        done: bool,
    },
    /// A member applied an entry.
    Applied {
        /// The member.
        node: u64,
        /// The entry.
        id: EntryId,
        /// Digest of what is in it.
        digest: u64,
    },
    /// The state of a member after it applied an entry.
    State {
        /// The member.
        node: u64,
        /// Index of the entry.
        index: u64,
        /// Digest of the state.
        digest: u64,
    },
    /// A member applied the end of a lease.
    LeaseEnded {
        /// The lease.
        lease: i64,
        /// Index of the entry.
        index: u64,
        /// Revision of the store after it.
        revision: i64,
        /// Keys were deleted with it.
        moved: bool,
        /// Its time was over; else a client wanted it.
        expired: bool,
    },
    /// A member installed a snapshot up to an entry.
    Installed {
        /// The member.
        node: u64,
        /// The last entry that the snapshot holds.
        id: EntryId,
    },
    /// A member has a snapshot on disk, it says.
    Kept {
        /// The member.
        node: u64,
        /// Index of the last entry that the snapshot holds.
        index: u64,
    },
    /// A member is about to forget the begin of its log.
    Cut {
        /// The member.
        node: u64,
        /// Index of the last entry that goes.
        index: u64,
    },
    /// A member holds that one leads in a term.
    Leads {
        /// The member that says so.
        node: u64,
        /// The term.
        term: u64,
        /// The leader.
        leader: u64,
        /// The last entry in the log of the member that says so.
        last: EntryId,
    },
    /// A disk is lost, says its member.
    Lost {
        /// The member.
        node: u64,
    },
    /// A leader begins to change who votes.
    Votes {
        /// The leader.
        node: u64,
        /// Who is to vote.
        voters: Vec<u64>,
    },
    /// What the store of a member is after it applied an entry.
    Stored {
        /// Index of the entry.
        index: u64,
        /// Revision of the store.
        revision: i64,
        /// The alarm NOSPACE is raised.
        no_space: bool,
    },
    /// A leader compacts by itself.
    Compacts {
        /// Up to here.
        revision: i64,
        /// Milliseconds that are to be kept.
        kept: u64,
    },
    /// How much of something a member holds, which has a limit.
    Holds {
        /// What it holds.
        what: &'static str,
        /// How much.
        held: u64,
        /// How much it may hold.
        limit: u64,
    },
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
        static SPOILED: Cell<Option<u16>> = const { Cell::new(None) };
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

    /// From now on, the member of this ordinal applies something else than what was asked for.
    pub fn spoil(ordinal: Option<u16>) {
        SPOILED.set(ordinal);
    }

    /// Whether the member of this ordinal applies something else than what was asked for.
    pub fn is_spoiled(ordinal: u16) -> bool {
        SPOILED.get() == Some(ordinal)
    }

    /// Whether this thread simulates.
    pub fn is_running() -> bool {
        SEED.get().is_some()
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
            SPOILED.set(None);
        }
    }
}

#[cfg(feature = "simulation")]
pub use on::{Simulating, is_running, is_spoiled, planted, random, spoil, tell};
#[cfg(feature = "simulation")]
pub use stopping::stoppable;

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

/// No process stands still.
#[cfg(not(feature = "simulation"))]
#[inline]
pub const fn stoppable<F: Future>(future: F) -> F {
    future
}

/// Nothing is simulated.
#[cfg(not(feature = "simulation"))]
#[inline]
pub const fn is_running() -> bool {
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
