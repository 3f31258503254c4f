//! What can go wrong in a simulation. Values only.

/// A part of a volume that a bit is flipped in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The log, before its last write: a flipped bit there must be told from a torn end.
    Log,
    /// The newest snapshot.
    Snapshot,
}

/// How the engine comes back from a clean stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineBack {
    /// Without anything.
    Empty,
    /// As it was some batches earlier.
    Earlier,
    /// With a bit flipped.
    Damaged,
}

/// What stands in the place of a pod's volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Volume {
    /// An empty one.
    Nothing,
    /// The volume of the pod in another cluster.
    OtherCluster,
    /// The volume of this pod, which gets this one's.
    Of(u16),
}

/// One thing that goes wrong. Times are in simulated milliseconds; `time` says how long it lasts.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The fields say what they are.
pub enum Fault {
    /// The machines of these pods lose power for a while; of what they had not synced, anything may survive.
    PowerLoss { pods: Vec<u16>, down: u64 },
    /// A pod's machine loses power after this many more operations on its disk.
    PowerLossInWrite { pod: u16, operations: u64 },
    /// The processes of these pods are killed; their disks lose nothing.
    Kill { pods: Vec<u16> },
    /// A pod is deleted: it stops in order, and another one takes its place, at another address.
    DeletePod { pod: u16 },
    /// The set is scaled, and back. Membership follows it, or the pods are only away ([`super::plan::Plan::follows`]).
    Scale { replicas: u16, time: u64 },
    /// The API server does not answer: nobody knows the size of the set.
    NoOwner { time: u64 },
    /// Nothing passes between these pods and the others.
    Partition { pods: Vec<u16>, time: u64 },
    /// The same, on and off.
    Flapping { pods: Vec<u16>, period: u64, time: u64 },
    /// Nothing passes between two pods; each still hears the others.
    Cut { one: u16, other: u16, time: u64 },
    /// Nothing passes from one pod to another; the other direction works.
    OneWay { from: u16, to: u16, time: u64 },
    /// Messages between two pods wait until the end of it.
    Stall { one: u16, other: u16, time: u64 },
    /// Some messages in a thousand are lost, and with them what follows on their connection.
    Lossy { permille: u64, time: u64 },
    /// Some writes in a thousand of a pod break their connection, half a message sent.
    Resets { pod: u16, permille: u64, time: u64 },
    /// Some writes in a thousand of a pod arrive, and their connection is broken for the pod nevertheless: what it sent it sends
    /// again, on another connection, while the other side still has the old one.
    Repeats { pod: u16, permille: u64, time: u64 },
    /// A process stands still: nothing reaches or leaves it, and its disk does nothing. Then everything comes at once.
    Paused { pod: u16, time: u64 },
    /// The same, and its timers stand still too, as after SIGSTOP: those that were over meanwhile fire late, all at once.
    Stopped { pod: u16, time: u64 },
    /// Every message takes up to this long.
    SlowNetwork { latency: u64, time: u64 },
    /// Disk and network of one pod take up to this long.
    SlowPod { pod: u16, latency: u64, time: u64 },
    /// A disk takes up to this long for each step.
    SlowDisk { pod: u16, latency: u64, time: u64 },
    /// A disk does nothing at all.
    StuckDisk { pod: u16, time: u64 },
    /// An fdatasync fails, after this many that do not.
    FailedSync { pod: u16, after: u64 },
    /// There is room for this many bytes only.
    FullDisk { pod: u16, bytes: u64, time: u64 },
    /// Others fill the volume bit by bit, until little more is left than what the log begins next.
    Filling { pod: u16, time: u64 },
    /// A bit is flipped while the machine is down.
    BitFlip { pod: u16, part: Part },
    /// The pod stops in order, and its engine comes back otherwise than it went.
    Engine { pod: u16, back: EngineBack },
    /// The machine goes down, and comes back with another volume.
    Replace { pod: u16, volume: Volume },
    /// The wall clock of a pod jumps, by seconds.
    ClockJump { pod: u16, seconds: i64 },
    /// The name server says that it failed.
    NoNames { time: u64 },
    /// The name server does not answer.
    SilentNames { time: u64 },
    /// A pod's name is not published.
    Unpublished { pod: u16, time: u64 },
    /// A pod's name has another pod's address.
    StaleName { pod: u16, at: u16, time: u64 },
}

impl Fault {
    /// What kind it is, for counting.
    pub fn name(&self) -> &'static str {
        match self {
            Self::PowerLoss { pods, .. } if pods.len() > 1 => "power loss of several",
            Self::PowerLoss { .. } => "power loss",
            Self::PowerLossInWrite { .. } => "power loss in a write",
            Self::Kill { pods } if pods.len() > 1 => "kill of several",
            Self::Kill { .. } => "kill",
            Self::DeletePod { .. } => "pod deleted",
            Self::Scale { .. } => "scaled and back",
            Self::NoOwner { .. } => "API server away",
            Self::Partition { .. } => "partition",
            Self::Flapping { .. } => "flapping partition",
            Self::Cut { .. } => "partial partition",
            Self::OneWay { .. } => "one-way partition",
            Self::Stall { .. } => "stalled link",
            Self::Lossy { .. } => "lost messages",
            Self::Resets { .. } => "broken connections",
            Self::Repeats { .. } => "repeated messages",
            Self::Paused { .. } => "paused process",
            Self::Stopped { .. } => "stopped process",
            Self::SlowNetwork { .. } => "slow network",
            Self::SlowPod { .. } => "slow pod",
            Self::SlowDisk { .. } => "slow disk",
            Self::StuckDisk { .. } => "stuck disk",
            Self::FailedSync { .. } => "failed fdatasync",
            Self::FullDisk { .. } => "full disk",
            Self::Filling { .. } => "filling volume",
            Self::BitFlip { part: Part::Log, .. } => "bit flip in the log",
            Self::BitFlip { part: Part::Snapshot, .. } => "bit flip in a snapshot",
            Self::Engine { back: EngineBack::Empty, .. } => "engine back empty",
            Self::Engine { back: EngineBack::Earlier, .. } => "engine back at an earlier batch",
            Self::Engine { back: EngineBack::Damaged, .. } => "engine back damaged",
            Self::Replace { volume: Volume::Nothing, .. } => "empty volume",
            Self::Replace { volume: Volume::OtherCluster, .. } => "another cluster's volume",
            Self::Replace { volume: Volume::Of(_), .. } => "exchanged volumes",
            Self::ClockJump { .. } => "clock jump",
            Self::NoNames { .. } => "name server fails",
            Self::SilentNames { .. } => "name server silent",
            Self::Unpublished { .. } => "name absent",
            Self::StaleName { .. } => "stale name",
        }
    }

    /// The pods whose disks do not hold afterwards what they acknowledged.
    pub fn tampers_with(&self) -> Vec<u16> {
        match self {
            Self::Replace { pod, volume: Volume::Of(other) } => vec![*pod, *other],
            Self::BitFlip { pod, .. } | Self::Replace { pod, .. } => vec![*pod],
            _ => Vec::new(),
        }
    }
}
