//! The mistakes that the simulator is shown to find. Each is one line somewhere in the code that runs in production, and none
//! is in a build without the feature `simulation`.

use std::fmt;

macro_rules! bugs {
    ($($(#[doc = $what:literal])+ $name:ident,)+) => {
        /// A mistake that the simulator must find.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Bug {
            $($(#[doc = $what])+ $name,)+
        }

        impl Bug {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// What is wrong with it, for people.
            pub const fn what(self) -> &'static str {
                match self {
                    $(Self::$name => concat!($($what,)+),)+
                }
            }
        }
    };
}

bugs! {
    /// The newest entries are never dropped from memory, although they are on disk.
    KeepAllInMemory,
    /// What waits for a stream of watchers is never too much.
    WatchQueueEndless,
    /// What a stream of watchers lost is not read from the history.
    WatchForgetLost,
    /// Watchers that fall behind read the last revision again that they were told of.
    WatchTellTwice,
    /// Watchers that begin in the past begin one revision too late.
    WatchSkipOldest,
    /// Progress is told of the revision after the one that was delivered.
    WatchProgressTooEarly,
    /// An fdatasync says yes and does nothing, seven times of eight.
    AcknowledgeBeforeSync,
    /// The names in a directory are never made durable.
    NoDirectorySync,
    /// Consensus is told that entries are on disk when they are only handed to the writer.
    FlushedTooEarly,
    /// Votes are not written to the log.
    ForgetVote,
    /// What is to be cut off the log stays, and what was sent in its place is not written.
    ForgetTruncation,
    /// The log is cut further than the snapshot reaches.
    CutTooFar,
    /// A snapshot counts as complete before it is on disk.
    UnsyncedSnapshot,
    /// Half of a received snapshot is installed.
    InstallHalf,
    /// Entries are applied before this disk has them, and the state is believed after a crash.
    ApplyBeforeSync,
    /// The state says that it was made from the entry before the one it was made from.
    LoseApplied,
    /// Some entries are applied twice.
    ApplyTwice,
    /// Some entries mean something else to one member.
    UnequalApply,
    /// One member leaves some entries out.
    SkipApply,
    /// A linearizable read does not ask for a read index.
    NoReadIndex,
    /// A linearizable read does not wait until its read index is applied.
    NoWaitForApply,
    /// A leader gives a read index without asking a quorum whether it still leads.
    ReadWithoutQuorum,
    /// A message for another member is taken.
    AcceptForeignMessage,
    /// A member founds a cluster with itself alone.
    BootstrapAlone,
    /// A start does not raise the boot number on disk.
    ForgetBoot,
    /// Another ordinal's disk is taken.
    IgnoreOrdinal,
    /// A disk that is admitted gets the id of the one before it.
    ReuseId,
    /// Members are removed because they are silent, inside the desired range too.
    RemoveSilent,
    /// Marks of what a disk once held are not looked at.
    IgnoreMarks,
    /// Compaction removes a live revision.
    CompactLive,
    /// A forwarded request is sent twice.
    ForwardTwice,
    /// A write of unknown outcome is said not to have happened.
    UnknownIsRefused,
    /// The condition of a transaction is not looked at.
    IgnoreCompare,
    /// A leader promises to keep leases without asking a quorum whether it still leads.
    PromiseUnconfirmed,
    /// What a deposed leader decided ends leases.
    ExpireOfDeposedLeader,
    /// A new leader does not begin the time of leases anew.
    ShortLeases,
    /// A lease ends and leaves a key behind.
    RevokeLeavesKey,
    /// Leases whose time is over are not ended.
    NeverExpire,
    /// Whoever waits for a lock takes it when the key before its own is gone, although others are before it.
    LockAfterAnyEnd,
    /// A holder is not told that it has lost its lock.
    LockNeverLost,
    /// Automatic compaction forgets what was made last.
    CompactYoung,
    /// Nobody compacts automatically.
    NeverCompact,
    /// Nobody notices that a volume is nearly full.
    FillUnnoticed,
    /// The alarm about a volume stays when there is room again.
    AlarmStays,
    /// What makes the store grow is let through while the alarm NOSPACE is raised.
    GrowWithoutSpace,
    /// Stores that differ are compared, and no alarm is raised.
    CorruptUntold,
    /// The alarm CORRUPT names those that are right.
    CorruptMisnamed,
    /// Reads go on while the alarm CORRUPT is raised.
    ServeCorrupt,
    /// A user who loses a role may go on doing what the role may.
    RevokeKeepsRights,
    /// Whether a user may write is asked of the member that it calls, and not when it is applied.
    AskOnlyAtTheDoor,
    /// Whoever may read may write.
    ReadersWrite,
    /// A stop leaves a file open.
    LeaveFileOpen,
    /// A stop leaves the whole state in memory.
    KeepState,
}

/// The first seed that plans what came after the first hundred: users, processes that stand still, volumes that are all put back.
pub const FIRST_LATER_SEED: u64 = 100;

/// The first seed in whose plan members look after their stores by themselves. Below, plans are what they were before there was that.
pub const FIRST_UPKEEP_SEED: u64 = 200;

impl Bug {
    /// The seed from which on it is looked for: below, nothing that it changes happens.
    pub const fn first_seed(self) -> u64 {
        match self {
            Self::CompactYoung
            | Self::NeverCompact
            | Self::FillUnnoticed
            | Self::AlarmStays
            | Self::GrowWithoutSpace
            | Self::CorruptUntold
            | Self::CorruptMisnamed
            | Self::ServeCorrupt => FIRST_UPKEEP_SEED,
            Self::RevokeKeepsRights | Self::AskOnlyAtTheDoor | Self::ReadersWrite => FIRST_LATER_SEED,
            _ => 0,
        }
    }
}

impl fmt::Display for Bug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
