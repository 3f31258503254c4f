//! One validated configuration of a node. `cli` fills it (flag > environment > file > default); an embedder writes it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::limits;

/// Everything that a node needs to know before it starts.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the member; the pod's name in a StatefulSet.
    pub name: String,
    /// Where its data lives.
    pub data: Data,
    /// Whom it forms a cluster with.
    pub cluster: Cluster,
    /// Where clients connect (gRPC and HTTP on one port).
    pub listen_client: SocketAddr,
    /// Where peers connect. Not bound by a node that is alone.
    pub listen_peer: SocketAddr,
    /// Where probes, metrics and status are served in plain HTTP; `None`: nowhere.
    pub listen_admin: Option<SocketAddr>,
    /// URLs that clients are told to use.
    pub advertise_client: Vec<String>,
    /// Knobs that have good defaults.
    pub tuning: Tuning,
    /// Time between SIGTERM and the first refusal, for load balancers to notice.
    pub drain_delay: Duration,
    /// Time in which the stop must be done.
    pub grace_period: Duration,
}

/// Where the data lives.
#[derive(Clone, Debug)]
pub enum Data {
    /// In memory; gone when the process ends.
    Memory,
    /// In a directory.
    Directory(PathBuf),
}

/// Whom a node forms a cluster with.
#[derive(Clone, Debug)]
pub enum Cluster {
    /// With nobody.
    Single,
    /// With the pods of its StatefulSet, found through a headless service.
    StatefulSet {
        /// Who this pod is.
        pod: crate::identity::PodFacts,
        /// Number of pods at the first install. It may be raised, never lowered.
        expected: u16,
    },
    /// With a fixed list of `host:port` peer addresses, by ordinal. For machines without DNS.
    Fixed {
        /// This node's place in the list.
        ordinal: u16,
        /// Peer addresses, by ordinal.
        peers: Vec<String>,
    },
}

/// Knobs that have good defaults.
#[derive(Clone, Debug)]
pub struct Tuning {
    /// Memory for the engine's cache, in bytes.
    pub engine_cache_bytes: u64,
    /// Bytes of one log segment.
    pub log_segment_bytes: u64,
    /// Bytes of the newest log entries kept in memory.
    pub log_cache_bytes: usize,
    /// The log is cut when it has outgrown this and the last snapshot.
    pub log_bytes_before_snapshot: u64,
    /// Entries kept behind a snapshot.
    pub log_entries_kept: u64,
    /// Interval of heartbeats.
    pub heartbeat: Duration,
    /// Shortest election time-out.
    pub election_min: Duration,
    /// Longest election time-out.
    pub election_max: Duration,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            engine_cache_bytes: limits::ENGINE_CACHE_BYTES,
            log_segment_bytes: limits::LOG_SEGMENT_BYTES,
            log_cache_bytes: limits::LOG_CACHE_BYTES,
            log_bytes_before_snapshot: limits::LOG_BYTES_BEFORE_SNAPSHOT,
            log_entries_kept: limits::LOG_ENTRIES_KEPT,
            heartbeat: limits::HEARTBEAT,
            election_min: limits::ELECTION_MIN,
            election_max: limits::ELECTION_MAX,
        }
    }
}
