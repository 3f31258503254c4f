//! etcd's flags, and what is done with each: the one table. `--help` prints it.

/// A flag.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flag {
    /// Its name, without hyphens before it.
    pub name: &'static str,
    /// What values it takes.
    pub kind: Kind,
    /// Its value unless it is set.
    pub default: &'static str,
    /// What is done with it.
    pub does: Does,
}

/// What values a flag takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Any text.
    Text,
    /// True or false, as Go writes them; the flag alone means true.
    Bool,
    /// A number from 0 on, at most this.
    Number(u64),
    /// A number that may be negative.
    Integer,
    /// A time as Go writes it: `1m30s`.
    Duration,
    /// URLs, separated by commas.
    Urls,
    /// One of these.
    Choice(&'static [&'static str]),
}

/// What is done with a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Does {
    /// It does what it does in etcd, or what the text says.
    Used(&'static str),
    /// It is taken and changes nothing; why.
    Nothing(&'static str),
    /// It is refused at the start unless it has its default value; why.
    Refused(&'static str),
}

use Does::{Nothing, Refused, Used};
use Kind::{Bool, Choice, Duration, Integer, Number, Text, Urls};

const ANY: Kind = Number(u64::MAX);
const SMALL: Kind = Number(u32::MAX as u64);
const FLAG: &str = "false";

const LOG: &str =
    "the log is cut by its size in bytes, and replaced by a snapshot, whatever the number of entries";
const BBOLT: &str = "there is no bbolt here";
const GATEWAY: &str = "the gateway is part of the server, and no client of it";
const REREAD: &str = "for URLs with https; read again when it changes";
const DISCOVERY: &str = "there is no discovery service; name the members with --initial-cluster";
const TRACING: &str = "there is no tracing by OpenTelemetry";
const SLOW: &str = "slow requests are seen in the metrics";
const COMPACTION: &str = "compaction runs in steps of a bounded size that give way to requests";
const SOCKETS: &str = "a port that was left is bound again at once, and one that is in use is refused";
const PEERS: &str = "peers' streams have keep-alives and deadlines of their own";
const COMPACT_HASH: &str = "the members' stores are compared by --corrupt-check-time";

const fn flag(name: &'static str, kind: Kind, default: &'static str, does: Does) -> Flag {
    Flag { name, kind, default, does }
}

/// The flags of etcd's newest version in the order of its `--help`, then older ones that scripts still pass.
pub(super) const FLAGS: &[Flag] = &[
    flag("version", Bool, FLAG, Used("prints the version of the etcd whose API this is, and our own")),
    flag(
        "config-file",
        Text,
        "",
        Used("YAML with etcd's keys; all other flags and variables are ignored then, as by etcd"),
    ),
    flag("name", Text, "default", Used("")),
    flag(
        "data-dir",
        Text,
        "",
        Used("default ${name}.etcd; what is in it is Setstone's, and an etcd's directory is refused"),
    ),
    flag(
        "wal-dir",
        Text,
        "",
        Nothing(
            "the log lives in the data directory: a member's disk is one thing that is replaced as a whole",
        ),
    ),
    flag("snapshot-count", ANY, "10000", Nothing(LOG)),
    flag("heartbeat-interval", Number(60_000), "100", Used("milliseconds")),
    flag(
        "election-timeout",
        Number(50_000),
        "1000",
        Used("milliseconds; elections begin after once to twice this, and sooner if it is not set"),
    ),
    flag(
        "initial-election-tick-advance",
        Bool,
        "true",
        Nothing("a member that starts campaigns only after it has heard of the others"),
    ),
    flag("listen-peer-urls", Urls, "http://localhost:2380", Used("")),
    flag("listen-client-urls", Urls, "http://localhost:2379", Used("")),
    flag(
        "listen-client-http-urls",
        Urls,
        "",
        Used("as more of --listen-client-urls: every client port serves gRPC and HTTP"),
    ),
    flag(
        "max-snapshots",
        SMALL,
        "5",
        Nothing("two are kept: the newest, and the one before it until the new one is proven"),
    ),
    flag("max-wals", SMALL, "5", Nothing(LOG)),
    flag("memory-mlock", Bool, FLAG, Nothing(BBOLT)),
    flag("quota-backend-bytes", Integer, "0", Used("")),
    flag("backend-bbolt-freelist-type", Choice(&["map", "array"]), "map", Nothing(BBOLT)),
    flag("backend-batch-interval", Duration, "0s", Nothing(BBOLT)),
    flag("backend-batch-limit", Integer, "0", Nothing(BBOLT)),
    flag("max-txn-ops", SMALL, "128", Used("at most 16384")),
    flag("max-request-bytes", SMALL, "1572864", Used("at most 1572864")),
    flag(
        "max-concurrent-streams",
        SMALL,
        "4294967295",
        Used("of a connection; at most 4096, and 0 stands for that"),
    ),
    flag("grpc-keepalive-min-time", Duration, "5s", Nothing("clients may ping as often as they like")),
    flag("grpc-keepalive-interval", Duration, "2h0m0s", Nothing("connections have keep-alives of their own")),
    flag("grpc-keepalive-timeout", Duration, "20s", Nothing("connections have keep-alives of their own")),
    flag("socket-reuse-port", Bool, FLAG, Nothing(SOCKETS)),
    flag("socket-reuse-address", Bool, FLAG, Nothing(SOCKETS)),
    flag("enable-grpc-gateway", Bool, "true", Nothing("JSON is served on the client ports in any case")),
    flag("raft-read-timeout", Duration, "5s", Nothing(PEERS)),
    flag("raft-write-timeout", Duration, "5s", Nothing(PEERS)),
    flag(
        "feature-gates",
        Text,
        "",
        Used(
            "LeaseCheckpoint and InitialCorruptCheck; the others change nothing, and unknown ones are refused",
        ),
    ),
    flag("initial-advertise-peer-urls", Urls, "http://localhost:2380", Used("the first of several counts")),
    flag(
        "initial-cluster",
        Text,
        "",
        Used("default ${name}=${initial-advertise-peer-urls}; counts for a blank data directory only"),
    ),
    flag(
        "initial-cluster-state",
        Choice(&["new", "existing"]),
        "new",
        Used("counts for a blank data directory only"),
    ),
    flag(
        "initial-cluster-token",
        Text,
        "etcd-cluster",
        Used("members of a first bootstrap with different tokens do not find each other"),
    ),
    flag("advertise-client-urls", Urls, "http://localhost:2379", Used("")),
    flag("discovery", Text, "", Refused(DISCOVERY)),
    flag("discovery-token", Text, "", Refused(DISCOVERY)),
    flag("discovery-endpoints", Text, "", Refused(DISCOVERY)),
    flag("discovery-dial-timeout", Duration, "2s", Nothing(DISCOVERY)),
    flag("discovery-request-timeout", Duration, "5s", Nothing(DISCOVERY)),
    flag("discovery-keepalive-time", Duration, "2s", Nothing(DISCOVERY)),
    flag("discovery-keepalive-timeout", Duration, "6s", Nothing(DISCOVERY)),
    flag("discovery-insecure-transport", Bool, "true", Nothing(DISCOVERY)),
    flag("discovery-insecure-skip-tls-verify", Bool, FLAG, Nothing(DISCOVERY)),
    flag("discovery-cert", Text, "", Nothing(DISCOVERY)),
    flag("discovery-key", Text, "", Nothing(DISCOVERY)),
    flag("discovery-cacert", Text, "", Nothing(DISCOVERY)),
    flag("discovery-user", Text, "", Nothing(DISCOVERY)),
    flag("discovery-password", Text, "", Nothing(DISCOVERY)),
    flag("discovery-fallback", Choice(&["exit", "proxy"]), "exit", Nothing(DISCOVERY)),
    flag("discovery-proxy", Text, "", Nothing(DISCOVERY)),
    flag("discovery-srv", Text, "", Refused(DISCOVERY)),
    flag("discovery-srv-name", Text, "", Nothing(DISCOVERY)),
    flag(
        "strict-reconfig-check",
        Bool,
        "true",
        Used("what would leave the voters without a fit majority is refused in any case"),
    ),
    flag("pre-vote", Bool, "true", Refused("there are no elections without a vote before them")),
    flag("auto-compaction-retention", Text, "0", Used("")),
    flag("auto-compaction-mode", Choice(&["periodic", "revision"]), "periodic", Used("")),
    flag("v2-deprecation", Text, "write-only", Nothing("there is no v2 store; etcd ignores it too")),
    flag("cert-file", Text, "", Used(REREAD)),
    flag("key-file", Text, "", Used(REREAD)),
    flag("client-cert-auth", Bool, FLAG, Used("")),
    flag("client-cert-file", Text, "", Nothing(GATEWAY)),
    flag("client-key-file", Text, "", Nothing(GATEWAY)),
    flag("client-crl-file", Text, "", Used(REREAD)),
    flag("client-cert-allowed-hostname", Text, "", Used("")),
    flag("trusted-ca-file", Text, "", Used(REREAD)),
    flag(
        "auto-tls",
        Bool,
        FLAG,
        Used("with a certificate that is kept in memory, another one with each start"),
    ),
    flag("peer-cert-file", Text, "", Used(REREAD)),
    flag("peer-key-file", Text, "", Used(REREAD)),
    flag("peer-client-cert-auth", Bool, FLAG, Used("")),
    flag("peer-client-cert-file", Text, "", Used(REREAD)),
    flag("peer-client-key-file", Text, "", Used(REREAD)),
    flag("peer-trusted-ca-file", Text, "", Used(REREAD)),
    flag("peer-cert-allowed-cn", Text, "", Used("")),
    flag("peer-cert-allowed-hostname", Text, "", Used("")),
    flag(
        "peer-auto-tls",
        Bool,
        FLAG,
        Used("with a certificate that is kept in memory, another one with each start"),
    ),
    flag("self-signed-cert-validity", Number(1_000), "1", Used("years; it is replaced at half of that")),
    flag("peer-crl-file", Text, "", Used(REREAD)),
    flag(
        "cipher-suites",
        Text,
        "",
        Used("those of TLS 1.2 with forward secrecy; those of TLS 1.3 are not chosen, as in etcd"),
    ),
    flag("cors", Text, "*", Used("")),
    flag("host-whitelist", Text, "*", Refused("host names of requests are not looked at")),
    flag("tls-min-version", Choice(&["", "TLS1.2", "TLS1.3"]), "TLS1.2", Used("")),
    flag("tls-max-version", Choice(&["", "TLS1.2", "TLS1.3"]), "", Used("")),
    flag("auth-token", Text, "simple", Used("")),
    flag("bcrypt-cost", Number(31), "10", Used("at most 18")),
    flag("auth-token-ttl", SMALL, "300", Used("")),
    flag("enable-pprof", Bool, FLAG, Refused("there is no Go profile here")),
    flag("metrics", Choice(&["basic", "extensive"]), "basic", Nothing("all metrics are always there")),
    flag("listen-metrics-urls", Urls, "", Used("probes, metrics and status in plain HTTP")),
    flag(
        "logger",
        Choice(&["zap"]),
        "zap",
        Nothing("the log has fields of its own: timestamp, level, message and what belongs to it"),
    ),
    flag("log-outputs", Text, "default", Used("stderr, stdout and files; default is stderr")),
    flag(
        "log-level",
        Choice(&["debug", "info", "warn", "error", "dpanic", "panic", "fatal"]),
        "info",
        Used(""),
    ),
    flag("log-format", Choice(&["json", "console"]), "json", Used("")),
    flag("enable-log-rotation", Bool, FLAG, Refused("leave rotation to whoever keeps the log")),
    flag("log-rotation-config-json", Text, "", Nothing("there is no rotation")),
    flag("warning-unary-request-duration", Duration, "300ms", Nothing(SLOW)),
    flag("enable-distributed-tracing", Bool, FLAG, Refused(TRACING)),
    flag("distributed-tracing-address", Text, "localhost:4317", Nothing(TRACING)),
    flag("distributed-tracing-service-name", Text, "etcd", Nothing(TRACING)),
    flag("distributed-tracing-instance-id", Text, "", Nothing(TRACING)),
    flag("distributed-tracing-sampling-rate", Integer, "0", Nothing(TRACING)),
    flag("corrupt-check-time", Duration, "0s", Used("")),
    flag("compact-hash-check-time", Duration, "1m0s", Nothing(COMPACT_HASH)),
    flag("compaction-batch-limit", Integer, "1000", Nothing(COMPACTION)),
    flag(
        "peer-skip-client-san-verification",
        Bool,
        FLAG,
        Used("else a peer's certificate is for where a member is, or for where it comes from"),
    ),
    flag("watch-progress-notify-interval", Duration, "10m0s", Used("")),
    flag("warning-apply-duration", Duration, "100ms", Nothing(SLOW)),
    flag("bootstrap-defrag-threshold-megabytes", SMALL, "0", Nothing(BBOLT)),
    flag("max-learners", Number(256), "1", Used("")),
    flag("compaction-sleep-interval", Duration, "10ms", Nothing(COMPACTION)),
    flag("downgrade-check-time", Duration, "5s", Nothing("there is nothing to downgrade to")),
    flag(
        "snapshot-catchup-entries",
        ANY,
        "5000",
        Used("entries kept behind a snapshot, for members that lag"),
    ),
    flag(
        "force-new-cluster",
        Bool,
        FLAG,
        Used("as `setstone recover`: refused while a member that answers leads, or holds more"),
    ),
    flag("unsafe-no-fsync", Bool, FLAG, Refused("what is acknowledged is on the disk, always")),
    // Of older versions.
    flag("initial-corrupt-check", Bool, FLAG, Used("")),
    flag(
        "enable-lease-checkpoint",
        Bool,
        FLAG,
        Used("what is left of long leases is written down every five minutes"),
    ),
    flag("enable-lease-checkpoint-persist", Bool, FLAG, Nothing("what is written down is always kept")),
    flag("enable-v2", Bool, FLAG, Refused("there is no v2 store")),
    flag("compact-hash-check-enabled", Bool, FLAG, Nothing(COMPACT_HASH)),
    flag("stop-grpc-service-on-defrag", Bool, FLAG, Nothing("nothing stops for a defragmentation")),
    flag("txn-mode-write-with-shared-buffer", Bool, "true", Nothing(BBOLT)),
    flag(
        "set-member-localaddr",
        Bool,
        FLAG,
        Nothing("the system chooses the address that a member speaks from"),
    ),
    flag("enable-distributed-tracing-sampling", Bool, FLAG, Nothing(TRACING)),
];

/// Flags that had this before their name while they were new.
const EXPERIMENTAL: &str = "experimental-";

/// The flag of a name, `experimental-` before it or not.
pub(super) fn find(name: &str) -> Option<&'static Flag> {
    let exact = |name: &str| FLAGS.iter().find(|flag| flag.name == name);
    exact(name).or_else(|| exact(name.strip_prefix(EXPERIMENTAL)?))
}

/// The variable that sets a flag.
pub(super) fn variable(name: &str) -> String {
    format!("ETCD_{}", name.to_ascii_uppercase().replace('-', "_"))
}

/// All names under which a flag may be set.
pub(super) fn names(flag: &Flag) -> [String; 2] {
    [flag.name.to_owned(), format!("{EXPERIMENTAL}{}", flag.name)]
}
