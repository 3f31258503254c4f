//! One validated configuration of a node. `cli` fills it (flag > environment > file > default); an embedder writes it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::limits::{self, PerAddress};
use crate::transport::tls::Tls;

mod auth;
pub(crate) mod go_time;

pub use auth::{AuthConfig, Jwt, Tokens};
mod initial;
mod tls;

pub use initial::InitialCluster;
pub use tls::PeerTls;

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
    /// TLS of the ports for clients; `None`: they speak none.
    pub client_tls: Option<Tls>,
    /// TLS of the ports for peers, and of connections to them; `None`: they speak none. The same on all members.
    pub peer_tls: Option<PeerTls>,
    /// Where else it listens.
    pub also_listen: AlsoListen,
    /// URLs that clients are told to use. Empty: the pod's name, or the address that is bound for them.
    pub advertise_client: Vec<String>,
    /// Origins whose web pages may read answers on the client port; empty, or with `*` in it: all.
    pub cors: Vec<String>,
    /// Name server to ask instead of the system's.
    pub dns_server: Option<SocketAddr>,
    /// How users show who they are.
    pub auth: AuthConfig,
    /// Knobs that have good defaults.
    pub tuning: Tuning,
    /// How large requests may be.
    pub requests: RequestLimits,
    /// What one client address may do on the client ports.
    pub per_address: PerAddress,
    /// Where the desired number of pods comes from.
    pub size_from: SizeFrom,
    /// URL of an API server that wants no credentials, instead of the one that every pod is told of.
    pub api_server: Option<String>,
    /// At most so many members vote; the others are spares.
    pub max_voters: usize,
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
            client_tls: None,
            peer_tls: None,
            also_listen: AlsoListen::default(),
            advertise_client: Vec::new(),
            cors: Vec::new(),
            dns_server: None,
            auth: AuthConfig::default(),
            tuning: Tuning::default(),
            requests: RequestLimits::default(),
            per_address: PerAddress::default(),
            size_from: SizeFrom::Fixed,
            api_server: None,
            max_voters: limits::MAX_VOTERS,
            drain_delay: Duration::ZERO,
            grace_period: Duration::from_secs(10),
        }
    }
}

/// Addresses beside the first of each kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AlsoListen {
    /// For clients.
    pub client: Vec<SocketAddr>,
    /// For peers.
    pub peer: Vec<SocketAddr>,
    /// For probes and metrics.
    pub admin: Vec<SocketAddr>,
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
    /// With the members of an initial cluster and those that are added later by hand, as etcd's are (`setstone etcd`).
    Initial(InitialCluster),
}

/// Where the desired number of pods comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SizeFrom {
    /// From nowhere: no member is ever one too many.
    #[default]
    Fixed,
    /// From the replicated setting, which `setstone members resize` makes. Until it is made, no member is one too many.
    Setting,
    /// From the pod's own `StatefulSet`, as the Kubernetes API server tells it (feature `kubernetes`).
    StatefulSet,
}

/// How large requests of clients may be, and how many there may be at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestLimits {
    /// Operations (compares, or operations of one branch) in a transaction; at most [`limits::TXN_OPERATIONS_MAX`].
    pub txn_operations: usize,
    /// Bytes of a write; at most [`limits::REQUEST_BYTES`].
    pub request_bytes: usize,
    /// Requests that may be open on one connection of HTTP/2; at most [`limits::STREAMS_PER_CONNECTION`].
    pub concurrent_streams: u32,
}

impl Default for RequestLimits {
    fn default() -> Self {
        Self {
            txn_operations: limits::TXN_OPERATIONS,
            request_bytes: limits::REQUEST_BYTES,
            concurrent_streams: limits::STREAMS_PER_CONNECTION,
        }
    }
}

impl RequestLimits {
    /// Says what is not possible, if anything.
    fn validate(self) -> Result<(), String> {
        let Self { txn_operations, request_bytes, concurrent_streams } = self;
        if !(1..=limits::TXN_OPERATIONS_MAX).contains(&txn_operations)
            || !(1..=limits::REQUEST_BYTES).contains(&request_bytes)
        {
            return Err(format!(
                "transactions of {txn_operations} operations and requests of {request_bytes} bytes; at most {} and {} are possible",
                limits::TXN_OPERATIONS_MAX,
                limits::REQUEST_BYTES
            ));
        }
        if !(1..=limits::STREAMS_PER_CONNECTION).contains(&concurrent_streams) {
            return Err(format!(
                "{concurrent_streams} concurrent streams of a connection; 1 to {} are possible",
                limits::STREAMS_PER_CONNECTION
            ));
        }
        Ok(())
    }
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
    /// The log is cut when what came after the last snapshot has outgrown this and that snapshot.
    pub log_bytes_before_snapshot: u64,
    /// Entries kept behind a snapshot; they take no more bytes than what comes after it may.
    pub log_entries_kept: u64,
    /// Interval of heartbeats.
    pub heartbeat: Duration,
    /// Shortest election time-out.
    pub election_min: Duration,
    /// Longest election time-out.
    pub election_max: Duration,
    /// How often a leader writes down how much time long leases have left, so that the next one does not begin them anew. `None`: never, as
    /// etcd without its experimental `LeaseCheckpoint`.
    pub lease_checkpoint: Option<Duration>,
    /// Time between two notices of progress to a watcher that nothing happens to; each stream adds up to a tenth.
    pub watch_progress_interval: Duration,
    /// Bytes of events that may wait for one stream of watchers before it must read the history.
    pub watch_queue_bytes: usize,
    /// What the store is kept in: space, revisions, and agreement between members.
    pub maintenance: Maintenance,
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
            lease_checkpoint: None,
            watch_progress_interval: limits::WATCH_PROGRESS_INTERVAL,
            watch_queue_bytes: limits::WATCH_QUEUE_BYTES,
            maintenance: Maintenance::default(),
        }
    }
}

/// Space, revisions, and agreement between members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Maintenance {
    /// Bytes of the store from which on writes that make it grow raise the alarm NOSPACE: etcd's `--quota-backend-bytes`. 0: etcd's default
    /// of 2 GiB; less than 0: no quota.
    pub quota_bytes: i64,
    /// Bytes of the volume that are kept free beside what the log and the next snapshot need; of a small volume an eighth at most. Below that,
    /// writes that make the store grow are refused until there is room again. 0: the volume is not watched.
    pub disk_reserve_bytes: u64,
    /// What the leader compacts by itself; `None`: nothing.
    pub auto_compaction: Option<AutoCompaction>,
    /// A member that starts compares its store with the others'.
    pub corrupt_check_at_start: bool,
    /// How often the leader compares the members' stores; `None`: never, as in etcd unless it is configured.
    pub corrupt_check_interval: Option<Duration>,
}

/// What the leader compacts by itself: etcd's `--auto-compaction-mode` and `--auto-compaction-retention`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoCompaction {
    /// What is older than this. Compacted once per such time, or per hour if that is shorter.
    Periodic(Duration),
    /// All but so many of the newest revisions. Compacted every five minutes.
    Revision(i64),
}

impl Default for Maintenance {
    fn default() -> Self {
        Self {
            quota_bytes: limits::QUOTA_BYTES,
            disk_reserve_bytes: limits::DISK_RESERVE_BYTES,
            auto_compaction: None,
            corrupt_check_at_start: false,
            corrupt_check_interval: None,
        }
    }
}

impl Maintenance {
    /// The quota in bytes that is in force; negative if there is none.
    pub fn quota(&self) -> i64 {
        if self.quota_bytes == 0 { limits::QUOTA_BYTES } else { self.quota_bytes }
    }

    fn validate(&self) -> Result<(), String> {
        let longest = limits::AUTO_COMPACTION_LONGEST;
        match self.auto_compaction {
            Some(AutoCompaction::Periodic(time)) if time < Duration::from_secs(1) || time > longest => {
                return Err(format!("revisions of the last {time:?} cannot be kept; 1s to {longest:?} can"));
            }
            Some(AutoCompaction::Revision(count)) if count < 1 => {
                return Err(format!("the newest {count} revisions cannot be kept; 1 is the least"));
            }
            _ => {}
        }
        let least = limits::CORRUPT_CHECK_INTERVAL_MIN;
        if let Some(interval) = self.corrupt_check_interval.filter(|interval| *interval < least) {
            return Err(format!(
                "stores compared every {interval:?} are read too often; {least:?} is the least"
            ));
        }
        Ok(())
    }
}

impl Config {
    /// URLs that clients are told to use, with the port for them bound at `bound`.
    pub fn client_urls(&self, bound: SocketAddr) -> Vec<String> {
        if !self.advertise_client.is_empty() {
            return self.advertise_client.clone();
        }
        let host = match &self.cluster {
            Cluster::StatefulSet { pod, .. } => Some(pod.fqdn()),
            // The others find it by this name, and so do clients.
            Cluster::Fixed { ordinal, peers } if bound.ip().is_unspecified() => {
                let own = peers.get(usize::from(*ordinal)).and_then(|own| own.rsplit_once(':'));
                own.map(|(host, _)| host.to_owned())
            }
            Cluster::Fixed { .. } | Cluster::Single | Cluster::Initial(_) => None,
        };
        let place = host.map_or_else(|| reachable(bound), |host| format!("{host}:{}", bound.port()));
        let scheme = if self.client_tls.is_some() { "https" } else { "http" };
        vec![format!("{scheme}://{place}")]
    }

    /// Says what does not go together, if anything. Every way to a node passes here.
    pub fn validate(&self) -> Result<(), String> {
        if self.name.is_empty() {
            return Err("the name is empty".into());
        }
        self.cluster.validate()?;
        self.tuning.validate()?;
        self.auth.validate()?;
        tls::validate(self.client_tls.as_ref(), self.peer_tls.as_ref(), &self.cluster, &self.auth)?;
        self.requests.validate()?;
        if self.per_address.connections == 0 {
            return Err("0 connections from one address; at least 1 is needed".into());
        }
        if self.max_voters == 0 {
            return Err("0 members may vote; at least 1 is needed".into());
        }
        let mut listeners = vec![("client", self.listen_client)];
        listeners.extend((!matches!(self.cluster, Cluster::Single)).then_some(("peer", self.listen_peer)));
        listeners.extend(self.listen_admin.map(|address| ("admin", address)));
        let also = &self.also_listen;
        for (name, addresses) in [("client", &also.client), ("peer", &also.peer), ("admin", &also.admin)] {
            listeners.extend(addresses.iter().map(|address| (name, *address)));
        }
        for (index, (one, address)) in listeners.iter().enumerate() {
            let taken =
                listeners.iter().take(index).find(|(_, other)| other == address && address.port() != 0);
            if let Some((other, _)) = taken {
                return Err(format!("the {one} and the {other} listener are both at {address}"));
            }
        }
        let least = self.stop_takes();
        if self.grace_period < least || self.grace_period <= self.drain_delay {
            return Err(format!(
                "the grace period, {:?}, is too short for a stop: the drain delay of {:?} and what follows may take {least:?}",
                self.grace_period, self.drain_delay
            ));
        }
        Ok(())
    }
}

/// Where something that listens at `address` can be reached, as `host:port`. "Everywhere" is no place to go to; `localhost`
/// is etcd's default.
pub(crate) fn reachable(address: SocketAddr) -> String {
    if address.ip().is_unspecified() { format!("localhost:{}", address.port()) } else { address.to_string() }
}

impl Cluster {
    fn validate(&self) -> Result<(), String> {
        match self {
            Self::StatefulSet { expected: 0, .. } => Err("0 pods are expected; at least 1 is needed".into()),
            Self::Fixed { ordinal, peers } if usize::from(*ordinal) >= peers.len() => Err(format!(
                "ordinal {ordinal} is not in the list of {} peers, which counts from 0",
                peers.len()
            )),
            Self::Initial(initial) => initial.validate(),
            Self::Single | Self::StatefulSet { .. } | Self::Fixed { .. } => Ok(()),
        }
    }
}

impl Config {
    /// Longest time of a stop that is in order, for the steps that have a time of their own. A pod that leaves waits for that between
    /// them, as long as the grace period lasts.
    fn stop_takes(&self) -> Duration {
        match self.cluster {
            Cluster::StatefulSet { .. } => {
                self.drain_delay
                    + limits::OWNER_TIMEOUT
                    + limits::EVENT_AT_STOP
                    + limits::HANDOVER_TIMEOUT
                    + limits::STOP_CLOSING
            }
            Cluster::Single | Cluster::Fixed { .. } | Cluster::Initial(_) => self.drain_delay,
        }
    }
}

impl Tuning {
    /// A leader must be able to miss some heartbeats, and time-outs must differ for elections to end.
    fn validate(&self) -> Result<(), String> {
        if self.heartbeat < Duration::from_millis(1) {
            return Err(format!("a heartbeat every {:?} is too often; 1ms is the least", self.heartbeat));
        }
        if self.watch_progress_interval < limits::WATCH_PROGRESS_INTERVAL_MIN {
            return Err(format!(
                "progress told to watchers every {:?} is too often; {:?} is the least",
                self.watch_progress_interval,
                limits::WATCH_PROGRESS_INTERVAL_MIN
            ));
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
        if let Some(interval) = self.lease_checkpoint.filter(|interval| *interval < Duration::from_secs(1)) {
            return Err(format!(
                "leases written down every {interval:?} are too many writes; 1s is the least"
            ));
        }
        self.maintenance.validate()?;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn clients_are_told_of_a_place_that_they_can_reach() {
        let alone = Config::in_memory("alone");
        for (bound, url) in [
            ("10.1.2.3:2379", "http://10.1.2.3:2379"),
            ("0.0.0.0:2379", "http://localhost:2379"),
            ("[::]:2379", "http://localhost:2379"),
            ("[::1]:2379", "http://[::1]:2379"),
        ] {
            assert_eq!(alone.client_urls(address(bound)), [url]);
        }
        let peers = vec!["a:1".to_owned(), "[fd00::2]:1".to_owned()];
        let fixed = Config { cluster: Cluster::Fixed { ordinal: 1, peers }, ..alone.clone() };
        assert_eq!(fixed.client_urls(address("0.0.0.0:9")), ["http://[fd00::2]:9"]);
        assert_eq!(fixed.client_urls(address("10.0.0.1:9")), ["http://10.0.0.1:9"]);
        let told = Config { advertise_client: vec!["http://x:1".into()], ..alone };
        assert_eq!(told.client_urls(address("0.0.0.0:9")), ["http://x:1"]);
    }

    fn pod() -> crate::identity::PodFacts {
        crate::identity::PodFacts {
            pod_name: "s-0".into(),
            namespace: "default".into(),
            ordinal: 0,
            service: "s".into(),
            cluster_domain: "cluster.local".into(),
            zone: None,
            pod_ip: None,
            peer_port: 2380,
            client_port: 2379,
        }
    }

    #[test]
    fn what_does_not_go_together_is_said() {
        let good = || Config::in_memory("alone");
        assert_eq!(good().validate(), Ok(()));
        let tuned = |tuning| Config { tuning, ..good() };
        let default = Tuning::default;
        let kept = |maintenance| tuned(Tuning { maintenance, ..default() });
        let compacting = |auto_compaction| {
            kept(Maintenance { auto_compaction: Some(auto_compaction), ..Maintenance::default() })
        };
        let comparing =
            |interval| kept(Maintenance { corrupt_check_interval: Some(interval), ..Maintenance::default() });
        let at = Some(address("127.0.0.1:9"));
        let fixed = |ordinal| Cluster::Fixed { ordinal, peers: vec!["a:1".into()] };
        let (pod, seconds) = (Cluster::StatefulSet { pod: pod(), expected: 3 }, Duration::from_secs);
        for (config, words) in vec![
            (Config { name: String::new(), ..good() }, "the name is empty"),
            (Config { cluster: fixed(1), ..good() }, "ordinal 1 is not in the list of 1 peers"),
            (
                Config { listen_client: address("127.0.0.1:9"), listen_admin: at, ..good() },
                "the admin and the client listener are both at 127.0.0.1:9",
            ),
            (Config { grace_period: Duration::ZERO, ..good() }, "is too short for a stop"),
            (
                Config { cluster: pod, drain_delay: seconds(3), grace_period: seconds(10), ..good() },
                "the drain delay of 3s and what follows may take 10.3s",
            ),
            (tuned(Tuning { heartbeat: Duration::ZERO, ..default() }), "is too often"),
            (tuned(Tuning { election_min: limits::HEARTBEAT, ..default() }), "at least three heartbeats"),
            (tuned(Tuning { election_max: limits::ELECTION_MIN, ..default() }), "must be longer"),
            (tuned(Tuning { lease_checkpoint: Some(Duration::ZERO), ..default() }), "too many writes"),
            (
                Config {
                    requests: RequestLimits { txn_operations: 0, ..RequestLimits::default() },
                    ..good()
                },
                "transactions of 0 operations",
            ),
            (
                Config {
                    requests: RequestLimits { concurrent_streams: 5_000, ..RequestLimits::default() },
                    ..good()
                },
                "5000 concurrent streams of a connection; 1 to 4096 are possible",
            ),
            (tuned(Tuning { log_segment_bytes: 1, ..default() }), "is too small"),
            (compacting(AutoCompaction::Revision(0)), "the newest 0 revisions cannot be kept"),
            (compacting(AutoCompaction::Periodic(Duration::ZERO)), "of the last 0ns cannot be kept"),
            (compacting(AutoCompaction::Periodic(Duration::MAX)), "cannot be kept"),
            (comparing(Duration::from_millis(1)), "compared every 1ms are read too often"),
        ] {
            let said = config.validate().unwrap_err();
            assert!(said.contains(words), "{said}");
        }
    }
}
