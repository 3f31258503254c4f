//! Every metric, its unit and what it means.
//!
//! Names that etcd's dashboards and alerts read are etcd's; all others begin with `setstone_`. The struct is made once by
//! `node` and cloned into every part; a clone shares its numbers. Incrementing costs one atomic operation: labelled
//! metrics on a hot path are resolved once, at the start.

mod refused;

use std::fmt::Write as _;
use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use refused::ClosedLabels;
pub use refused::{RefusedConnections, RefusedRequest};

/// The media type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The peer that a measurement is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
#[allow(non_snake_case)]
pub struct PeerLabel {
    /// Its id, in hexadecimal. The spelling is etcd's.
    pub To: String,
}

/// One method and the code that it answered with.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
#[allow(clippy::struct_field_names)] // They are the names of the labels.
struct HandledLabels {
    grpc_code: &'static str,
    grpc_method: &'static str,
    grpc_service: &'static str,
    grpc_type: &'static str,
}

/// One method.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
#[allow(clippy::struct_field_names)]
struct StartedLabels {
    grpc_method: &'static str,
    grpc_service: &'static str,
    grpc_type: &'static str,
}

/// The numbers of gRPC status codes, by code.
const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

/// Counts the calls of one gRPC method. Resolved once per method.
#[derive(Clone, Debug)]
pub struct MethodMetrics {
    started: Counter,
    handled: Arc<[Counter]>,
}

impl MethodMetrics {
    /// A call arrived.
    pub fn started(&self) {
        self.started.inc();
    }

    /// A call was answered with this status code; a code that gRPC does not have counts as `Unknown`.
    pub fn handled(&self, code: i32) {
        let known = usize::try_from(code).ok().and_then(|code| self.handled.get(code));
        if let Some(counter) = known.or_else(|| self.handled.get(2)) {
            counter.inc();
        }
    }
}

/// Every metric. Cheap to clone; clones share their numbers.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Registry>,
    grpc_started: Family<StartedLabels, Counter>,
    grpc_handled: Family<HandledLabels, Counter>,
    /// `setstone_refused_connections_total{port,reason}`: connections closed before anything was asked.
    refused_connections: Family<ClosedLabels, Counter>,
    /// `setstone_refused_requests_total{reason}`: requests that were not answered with what they asked for, by [`RefusedRequest`].
    refused_requests: Arc<[Counter]>,

    /// `etcd_server_has_leader`: 1 while a leader is known.
    pub has_leader: Gauge,
    /// `etcd_server_is_leader`: 1 while this member leads.
    pub is_leader: Gauge,
    /// `etcd_server_is_learner`: 1 while this member does not vote.
    pub is_learner: Gauge,
    /// `etcd_server_leader_changes_seen_total`: leaders seen since the start.
    pub leader_changes: Counter,
    /// `etcd_server_proposals_committed_total`: index of the last committed entry (a gauge under this name in etcd too).
    pub proposals_committed: Gauge,
    /// `etcd_server_proposals_applied_total`: index of the last applied entry (a gauge under this name in etcd too).
    pub proposals_applied: Gauge,
    /// `etcd_server_proposals_pending`: requests proposed here and not answered yet.
    pub proposals_pending: Gauge,
    /// `etcd_server_proposals_failed_total`: requests proposed here that failed or whose outcome is unknown.
    pub proposals_failed: Counter,
    /// `etcd_server_slow_read_indexes_total`: read index rounds that took longer than an election time-out.
    pub slow_read_indexes: Counter,
    /// `etcd_server_read_indexes_failed_total`: read index rounds that failed.
    pub read_indexes_failed: Counter,
    /// `etcd_server_health_success_total`: health requests answered with success.
    pub health_success: Counter,
    /// `etcd_server_health_failures_total`: health requests answered with failure.
    pub health_failures: Counter,
    /// `etcd_server_lease_expired_total`: leases that this member, as the leader, ended because their time was over.
    pub leases_expired: Counter,
    /// `setstone_leases`: leases that are granted.
    pub leases: Gauge,
    /// `setstone_lease_keys`: keys that hang on leases.
    pub lease_keys: Gauge,
    /// `etcd_server_quota_backend_bytes`: quota of the store, in bytes.
    pub quota_bytes: Gauge,
    /// `etcd_mvcc_db_total_size_in_bytes`: bytes of the state engine on disk.
    pub db_bytes: Gauge,
    /// `etcd_mvcc_db_total_size_in_use_in_bytes`: bytes of the state engine that hold something.
    pub db_bytes_in_use: Gauge,
    /// `etcd_debugging_mvcc_keys_total`: keys in the store.
    pub keys: Gauge,
    /// `etcd_debugging_mvcc_current_revision`: revision of the store.
    pub revision: Gauge,
    /// `etcd_debugging_mvcc_compact_revision`: revision up to which history was compacted.
    pub compacted_revision: Gauge,
    /// `etcd_debugging_mvcc_watch_stream_total`: open streams of watchers (a gauge under this name in etcd too).
    pub watch_streams: Gauge,
    /// `etcd_debugging_mvcc_watcher_total`: watchers (a gauge under this name in etcd too).
    pub watchers: Gauge,
    /// `etcd_debugging_mvcc_slow_watcher_total`: watchers that read the history because they lag, or begin in the past (a gauge under this
    /// name in etcd too).
    pub slow_watchers: Gauge,
    /// `etcd_debugging_mvcc_events_total`: events that were sent to watchers, each as often as it was.
    pub watch_events_sent: Counter,
    /// `setstone_watch_events_shared_total`: events that somebody watched when they were applied; each is encoded once.
    pub watch_events_shared: Counter,
    /// `setstone_watch_streams_fallen_behind_total`: how often a stream of watchers did not take its events in time, and had to
    /// read the history.
    pub watch_streams_fallen_behind: Counter,
    /// `etcd_disk_wal_fsync_duration_seconds`: time of one fdatasync of the log, in seconds.
    pub fsync_seconds: Histogram,
    /// `etcd_disk_backend_commit_duration_seconds`: time to write one applied entry to the state engine, in seconds.
    pub engine_commit_seconds: Histogram,
    /// `etcd_network_peer_round_trip_time_seconds{To}`: time until a peer answered a heartbeat, in seconds.
    pub peer_round_trip_seconds: Family<PeerLabel, Histogram, fn() -> Histogram>,
    /// `etcd_network_peer_sent_failures_total{To}`: messages that could not be sent to a peer.
    pub peer_send_failures: Family<PeerLabel, Counter>,
    /// `etcd_network_client_grpc_received_bytes_total`: bytes of gRPC requests received from clients.
    pub client_bytes_received: Counter,
    /// `etcd_network_client_grpc_sent_bytes_total`: bytes of gRPC answers made for clients.
    pub client_bytes_sent: Counter,
    /// `etcd_snap_db_save_total_duration_seconds`: time to make a snapshot, in seconds.
    pub snapshot_save_seconds: Histogram,

    /// `setstone_apply_duration_seconds`: time to apply one log entry, in seconds.
    pub apply_seconds: Histogram,
    /// `setstone_batch_requests`: requests in one log entry.
    pub batch_requests: Histogram,
    /// `setstone_log_bytes`: bytes of the log on disk.
    pub log_bytes: Gauge,
    /// `setstone_snapshot_bytes`: bytes of the newest snapshot.
    pub snapshot_bytes: Gauge,
    /// `setstone_snapshots_made_total`: snapshots made.
    pub snapshots_made: Counter,
    /// `setstone_snapshots_sent_total`: snapshots sent to peers, whole.
    pub snapshots_sent: Counter,
    /// `setstone_snapshots_received_total`: snapshots received from peers, whole.
    pub snapshots_received: Counter,
    /// `setstone_state_rebuild_seconds`: time of the last rebuild of the state engine, in seconds; 0 if there was none.
    pub state_rebuild_seconds: Gauge<f64, std::sync::atomic::AtomicU64>,
    /// `setstone_disk_free_bytes`: bytes that are free on the volume of the data; 0 while it is not watched.
    pub disk_free_bytes: Gauge,
    /// `setstone_ready`: 1 while this member is ready.
    pub ready: Gauge,
    /// `setstone_client_connections`: open connections on the client port.
    pub client_connections: Gauge,
    /// `setstone_client_connections_total`: connections accepted on the client port.
    pub client_connections_accepted: Counter,
    /// `setstone_slowed_reads_total`: how often reading was put off because an address had sent more than it may in a second.
    pub slowed_reads: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// 64 microseconds to 4 seconds: a fast disk's fdatasync up to what an election would not survive.
fn disk_seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.000_064, 2.0, 17))
}

/// 100 microseconds to 3 seconds, as etcd's round trips.
fn network_seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.000_1, 2.0, 16))
}

/// 8 microseconds to half a second.
fn apply_seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.000_008, 2.0, 17))
}

/// Registers metrics one by one.
struct Registrar(Registry);

impl Registrar {
    fn add<M: prometheus_client::registry::Metric + Clone>(
        &mut self,
        name: &str,
        help: &str,
        metric: M,
    ) -> M {
        self.0.register(name, help, metric.clone());
        metric
    }

    fn counter(&mut self, name: &str, help: &str) -> Counter {
        self.add(name, help, Counter::default())
    }

    fn gauge(&mut self, name: &str, help: &str) -> Gauge {
        self.add(name, help, Gauge::default())
    }
}

impl Metrics {
    /// A registry of its own with every metric at zero.
    pub fn new() -> Self {
        let mut r = Registrar(Registry::default());
        r.0.register(
            "setstone_build",
            "Version of this program",
            Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]),
        );
        let round_trip: fn() -> Histogram = network_seconds;
        Self {
            grpc_started: r.add("grpc_server_started", "gRPC calls that arrived", Family::default()),
            grpc_handled: r.add(
                "grpc_server_handled",
                "gRPC calls that were answered, by code",
                Family::default(),
            ),
            has_leader: r.gauge("etcd_server_has_leader", "1 while a leader is known"),
            is_leader: r.gauge("etcd_server_is_leader", "1 while this member leads"),
            is_learner: r.gauge("etcd_server_is_learner", "1 while this member does not vote"),
            leader_changes: r.counter("etcd_server_leader_changes_seen", "Leaders seen since the start"),
            proposals_committed: r
                .gauge("etcd_server_proposals_committed_total", "Index of the last committed entry"),
            proposals_applied: r
                .gauge("etcd_server_proposals_applied_total", "Index of the last applied entry"),
            proposals_pending: r
                .gauge("etcd_server_proposals_pending", "Requests proposed and not answered yet"),
            proposals_failed: r.counter(
                "etcd_server_proposals_failed",
                "Requests that failed after they were proposed here",
            ),
            slow_read_indexes: r
                .counter("etcd_server_slow_read_indexes", "Read index rounds above an election time-out"),
            read_indexes_failed: r
                .counter("etcd_server_read_indexes_failed", "Read index rounds that failed"),
            health_success: r.counter("etcd_server_health_success", "Health requests answered with success"),
            health_failures: r
                .counter("etcd_server_health_failures", "Health requests answered with failure"),
            leases_expired: r
                .counter("etcd_server_lease_expired", "Leases ended because their time was over"),
            leases: r.gauge("setstone_leases", "Leases that are granted"),
            lease_keys: r.gauge("setstone_lease_keys", "Keys that hang on leases"),
            quota_bytes: r.gauge("etcd_server_quota_backend_bytes", "Quota of the store in bytes"),
            db_bytes: r.gauge("etcd_mvcc_db_total_size_in_bytes", "Bytes of the state engine on disk"),
            db_bytes_in_use: r.gauge(
                "etcd_mvcc_db_total_size_in_use_in_bytes",
                "Bytes of the state engine that hold something",
            ),
            keys: r.gauge("etcd_debugging_mvcc_keys_total", "Keys in the store"),
            revision: r.gauge("etcd_debugging_mvcc_current_revision", "Revision of the store"),
            compacted_revision: r
                .gauge("etcd_debugging_mvcc_compact_revision", "Revision up to which history was compacted"),
            watch_streams: r.gauge("etcd_debugging_mvcc_watch_stream_total", "Open streams of watchers"),
            watchers: r.gauge("etcd_debugging_mvcc_watcher_total", "Watchers"),
            slow_watchers: r.gauge("etcd_debugging_mvcc_slow_watcher_total", "Watchers that lag"),
            watch_events_sent: r.counter("etcd_debugging_mvcc_events", "Events sent to watchers"),
            watch_events_shared: r.counter(
                "setstone_watch_events_shared",
                "Events that somebody watched when they were applied",
            ),
            watch_streams_fallen_behind: r.counter(
                "setstone_watch_streams_fallen_behind",
                "Streams of watchers that did not take their events in time",
            ),
            fsync_seconds: r.add(
                "etcd_disk_wal_fsync_duration_seconds",
                "Time of one fdatasync of the log in seconds",
                disk_seconds(),
            ),
            engine_commit_seconds: r.add(
                "etcd_disk_backend_commit_duration_seconds",
                "Time to write one applied entry to the state engine in seconds",
                disk_seconds(),
            ),
            peer_round_trip_seconds: r.add(
                "etcd_network_peer_round_trip_time_seconds",
                "Time until a peer answered a heartbeat in seconds",
                Family::new_with_constructor(round_trip),
            ),
            peer_send_failures: r.add(
                "etcd_network_peer_sent_failures",
                "Messages that could not be sent to a peer",
                Family::default(),
            ),
            client_bytes_received: r
                .counter("etcd_network_client_grpc_received_bytes", "Bytes of gRPC requests from clients"),
            client_bytes_sent: r
                .counter("etcd_network_client_grpc_sent_bytes", "Bytes of gRPC answers for clients"),
            snapshot_save_seconds: r.add(
                "etcd_snap_db_save_total_duration_seconds",
                "Time to make a snapshot in seconds",
                Histogram::new(exponential_buckets(0.01, 2.0, 14)),
            ),
            apply_seconds: r.add(
                "setstone_apply_duration_seconds",
                "Time to apply one log entry in seconds",
                apply_seconds(),
            ),
            batch_requests: r.add(
                "setstone_batch_requests",
                "Requests in one log entry",
                Histogram::new(exponential_buckets(1.0, 2.0, 11)),
            ),
            log_bytes: r.gauge("setstone_log_bytes", "Bytes of the log on disk"),
            snapshot_bytes: r.gauge("setstone_snapshot_bytes", "Bytes of the newest snapshot"),
            snapshots_made: r.counter("setstone_snapshots_made", "Snapshots made"),
            snapshots_sent: r.counter("setstone_snapshots_sent", "Snapshots sent to peers"),
            snapshots_received: r.counter("setstone_snapshots_received", "Snapshots received from peers"),
            state_rebuild_seconds: r.add(
                "setstone_state_rebuild_seconds",
                "Time of the last rebuild of the state engine in seconds",
                Gauge::default(),
            ),
            disk_free_bytes: r
                .gauge("setstone_disk_free_bytes", "Bytes that are free on the volume of the data"),
            ready: r.gauge("setstone_ready", "1 while this member is ready"),
            client_connections: r.gauge("setstone_client_connections", "Open connections on the client port"),
            client_connections_accepted: r
                .counter("setstone_client_connections", "Connections accepted on the client port"),
            refused_connections: r.add(
                "setstone_refused_connections",
                "Connections closed before anything was asked",
                Family::default(),
            ),
            refused_requests: refused::requests(&mut r),
            slowed_reads: r.counter(
                "setstone_slowed_reads",
                "Reads put off because an address had sent more than it may in a second",
            ),
            registry: Arc::new(r.0),
        }
    }

    /// The counters of one gRPC method. `kind` is `unary`, `server_stream`, `client_stream` or `bidi_stream`.
    pub fn method(&self, service: &'static str, method: &'static str, kind: &'static str) -> MethodMetrics {
        let started = self.grpc_started.get_or_create_owned(&StartedLabels {
            grpc_method: method,
            grpc_service: service,
            grpc_type: kind,
        });
        let handled = CODES
            .iter()
            .map(|code| {
                self.grpc_handled.get_or_create_owned(&HandledLabels {
                    grpc_code: code,
                    grpc_method: method,
                    grpc_service: service,
                    grpc_type: kind,
                })
            })
            .collect();
        MethodMetrics { started, handled }
    }

    /// All metrics in the Prometheus text format 0.0.4 ([`CONTENT_TYPE`]).
    pub fn encode(&self) -> String {
        let mut open_metrics = String::new();
        // Writing into a String cannot fail.
        let _ = prometheus_client::encoding::text::encode(&mut open_metrics, &self.registry);
        to_prometheus(&open_metrics)
    }
}

/// Turns `OpenMetrics` text into Prometheus text: there, a counter's `HELP` and `TYPE` carry its whole name (with `_total`),
/// an info is a gauge, and neither units nor an end mark exist.
fn to_prometheus(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len() + 1024);
    let mut help = None;
    for line in open_metrics.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ');
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                other => ("", other),
            };
            if let Some((_, help)) = help.take().filter(|(of, _)| *of == name) {
                let _ = writeln!(text, "# HELP {name}{suffix} {help}");
            }
            let _ = writeln!(text, "# TYPE {name}{suffix} {kind}");
        } else if !line.starts_with('#') {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

    use super::*;

    #[test]
    fn the_names_that_dashboards_read_are_there_with_their_types() {
        let metrics = Metrics::new();
        let round_trip = metrics.peer_round_trip_seconds.get_or_create_owned(&PeerLabel { To: "1".into() });
        round_trip.observe(0.001);
        let text = metrics.encode();
        for (name, kind) in [
            ("etcd_server_has_leader", "gauge"),
            ("etcd_server_leader_changes_seen_total", "counter"),
            ("etcd_mvcc_db_total_size_in_bytes", "gauge"),
            ("etcd_mvcc_db_total_size_in_use_in_bytes", "gauge"),
            ("etcd_server_quota_backend_bytes", "gauge"),
            ("etcd_disk_wal_fsync_duration_seconds", "histogram"),
            ("etcd_disk_backend_commit_duration_seconds", "histogram"),
            ("etcd_network_peer_round_trip_time_seconds", "histogram"),
            ("etcd_server_proposals_committed_total", "gauge"),
            ("etcd_server_proposals_applied_total", "gauge"),
            ("etcd_server_proposals_pending", "gauge"),
            ("etcd_server_proposals_failed_total", "counter"),
            ("etcd_server_slow_read_indexes_total", "counter"),
            ("etcd_server_lease_expired_total", "counter"),
            ("etcd_debugging_mvcc_slow_watcher_total", "gauge"),
            ("etcd_debugging_mvcc_keys_total", "gauge"),
        ] {
            assert!(text.contains(&format!("# TYPE {name} {kind}\n")), "{name} is no {kind} in\n{text}");
            assert!(text.contains(&format!("# HELP {name} ")), "{name} has no help in\n{text}");
        }
        assert!(!text.contains("# EOF") && !text.contains("# UNIT"));
    }

    #[test]
    fn calls_are_counted_by_method_and_code() {
        let metrics = Metrics::new();
        let put = metrics.method("etcdserverpb.KV", "Put", "unary");
        put.started();
        put.handled(0);
        put.handled(14);
        put.handled(99);
        put.handled(-1);
        let text = metrics.encode();
        let count = |code: &str| {
            let line = format!(
                "grpc_server_handled_total{{grpc_code=\"{code}\",grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"}} "
            );
            text.lines().find_map(|l| l.strip_prefix(&line)).map(|n| n.parse::<u64>().unwrap())
        };
        assert_eq!(count("OK"), Some(1));
        assert_eq!(count("Unavailable"), Some(1));
        assert_eq!(count("Unknown"), Some(2), "codes that gRPC does not have");
        assert_eq!(count("NotFound"), Some(0));
        assert!(text.contains("grpc_server_started_total{grpc_method=\"Put\""));
    }

    #[test]
    fn clones_share_their_numbers() {
        let metrics = Metrics::new();
        metrics.clone().proposals_failed.inc();
        assert!(metrics.encode().contains("etcd_server_proposals_failed_total 1\n"));
    }

    #[test]
    fn no_name_is_announced_twice() {
        let text = Metrics::new().encode();
        let mut names: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup_by_key(|line| line.split(' ').next());
        assert_eq!(names.len(), all);
    }
}
