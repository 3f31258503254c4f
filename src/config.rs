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
    /// URLs that clients are told to use. Empty: the address that is bound for them.
    pub advertise_client: Vec<String>,
    /// Name server to ask instead of the system's.
    pub dns_server: Option<SocketAddr>,
    /// Knobs that have good defaults.
    pub tuning: Tuning,
    /// Time between SIGTERM and the first refusal, for load balancers to notice.
    pub drain_delay: Duration,
    /// Time in which the stop must be done.
    pub grace_period: Duration,
}

impl Config {
    /// A member that is alone and keeps everything in memory, on free loopback ports. For tests and first steps.
    pub fn in_memory(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            data: Data::Memory,
            cluster: Cluster::Single,
            listen_client: SocketAddr::from(([127, 0, 0, 1], 0)),
            listen_peer: SocketAddr::from(([127, 0, 0, 1], 0)),
            listen_admin: None,
            advertise_client: Vec::new(),
            dns_server: None,
            tuning: Tuning::default(),
            drain_delay: Duration::ZERO,
            grace_period: Duration::from_secs(10),
        }
    }
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

impl Config {
    /// Says what does not go together, if anything. Every way to a node passes here.
    pub fn validate(&self) -> Result<(), String> {
        if self.name.is_empty() {
            return Err("the name is empty".into());
        }
        self.cluster.validate()?;
        self.tuning.validate()?;
        let mut listeners = vec![("client", self.listen_client)];
        listeners.extend((!matches!(self.cluster, Cluster::Single)).then_some(("peer", self.listen_peer)));
        listeners.extend(self.listen_admin.map(|address| ("admin", address)));
        for (index, (one, address)) in listeners.iter().enumerate() {
            let taken =
                listeners.iter().take(index).find(|(_, other)| other == address && address.port() != 0);
            if let Some((other, _)) = taken {
                return Err(format!("the {one} and the {other} listener are both at {address}"));
            }
        }
        if self.grace_period <= self.drain_delay {
            return Err(format!(
                "the grace period, {:?}, must be longer than the drain delay, {:?}",
                self.grace_period, self.drain_delay
            ));
        }
        Ok(())
    }
}

impl Cluster {
    fn validate(&self) -> Result<(), String> {
        match self {
            Self::StatefulSet { expected: 0, .. } => Err("0 pods are expected; at least 1 is needed".into()),
            Self::Fixed { ordinal, peers } if usize::from(*ordinal) >= peers.len() => Err(format!(
                "ordinal {ordinal} is not in the list of {} peers, which counts from 0",
                peers.len()
            )),
            Self::Single | Self::StatefulSet { .. } | Self::Fixed { .. } => Ok(()),
        }
    }
}

impl Tuning {
    /// A leader must be able to miss some heartbeats, and time-outs must differ for elections to end.
    fn validate(&self) -> Result<(), String> {
        if self.heartbeat < Duration::from_millis(1) {
            return Err(format!("a heartbeat every {:?} is too often; 1ms is the least", self.heartbeat));
        }
        if self.election_min < self.heartbeat * 3 {
            return Err(format!(
                "the shortest election time-out, {:?}, must be at least three heartbeats of {:?}",
                self.election_min, self.heartbeat
            ));
        }
        if self.election_max <= self.election_min {
            return Err(format!(
                "the longest election time-out, {:?}, must be longer than the shortest, {:?}",
                self.election_max, self.election_min
            ));
        }
        if self.log_segment_bytes < limits::PEER_MESSAGE_BYTES as u64 {
            return Err(format!(
                "a log segment of {} bytes is too small; {} is the least",
                self.log_segment_bytes,
                limits::PEER_MESSAGE_BYTES
            ));
        }
        Ok(())
    }
}
