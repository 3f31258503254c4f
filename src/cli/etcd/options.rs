//! What the flags say, typed and checked: the one place from which a configuration is filled. Pure.

use std::time::Duration;

use super::super::config::origins;
use super::flags::Does;
use super::parse::Values;
use super::tls::TlsOptions;
use super::values::{self, Url};
use crate::config::{Tokens, go_time};

/// What the flags say.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Options {
    /// `--name`.
    pub name: String,
    /// `--data-dir`.
    pub data_dir: String,
    /// `--listen-peer-urls`.
    pub listen_peer: Vec<Url>,
    /// `--listen-client-urls` and `--listen-client-http-urls`.
    pub listen_client: Vec<Url>,
    /// `--listen-metrics-urls`.
    pub listen_metrics: Vec<Url>,
    /// `--initial-advertise-peer-urls`.
    pub advertise_peer: Vec<Url>,
    /// `--advertise-client-urls`.
    pub advertise_client: Vec<Url>,
    /// `--initial-cluster`: names and peer URLs; the first URL of each name.
    pub initial_cluster: Vec<(String, Url)>,
    /// `--initial-cluster-state existing`.
    pub existing: bool,
    /// `--initial-cluster-token`.
    pub token: String,
    /// `--force-new-cluster`.
    pub force_new_cluster: bool,
    /// `--strict-reconfig-check`.
    pub strict_reconfig_check: bool,
    /// `--max-learners`.
    pub max_learners: u32,
    /// `--heartbeat-interval`, if it is set.
    pub heartbeat: Option<Duration>,
    /// `--election-timeout`, if it is set.
    pub election: Option<Duration>,
    /// `--snapshot-catchup-entries`, if it is set.
    pub catch_up_entries: Option<u64>,
    /// `--watch-progress-notify-interval`.
    pub watch_progress: Duration,
    /// The gate `LeaseCheckpoint`.
    pub lease_checkpoint: bool,
    /// `--max-txn-ops`.
    pub max_txn_ops: u64,
    /// `--max-request-bytes`.
    pub max_request_bytes: u64,
    /// `--max-concurrent-streams`, if it is set.
    pub max_concurrent_streams: Option<u64>,
    /// `--quota-backend-bytes`: 0 for the default, negative for none.
    pub quota_backend_bytes: i64,
    /// `--auto-compaction-mode` and `-retention`.
    pub compaction: Compaction,
    /// `--initial-corrupt-check`, or the gate.
    pub initial_corrupt_check: bool,
    /// `--corrupt-check-time`; zero: never.
    pub corrupt_check: Duration,
    /// `--auth-token`.
    pub tokens: Tokens,
    /// Certificates.
    pub tls: TlsOptions,
    /// `--cors`.
    pub cors: Vec<String>,
    /// `--bcrypt-cost`.
    pub bcrypt_cost: u32,
    /// `--auth-token-ttl`.
    pub auth_token_ttl: Duration,
    /// `--log-level`.
    pub log_level: String,
    /// `--log-format json`.
    pub log_json: bool,
    /// `--log-outputs`.
    pub log_outputs: Vec<String>,
}

/// `--auto-compaction-mode` and `-retention`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compaction {
    /// Never.
    Off,
    /// What is older than this goes.
    Periodic(Duration),
    /// All but so many revisions go.
    Revisions(u64),
}

/// The gates of the newest etcd.
const GATES: &[&str] = &[
    "AllAlpha",
    "AllBeta",
    "CompactHashCheck",
    "FastLeaseKeepAlive",
    "InitialCorruptCheck",
    "LeaseCheckpoint",
    "LeaseCheckpointPersist",
    "PriorityRequest",
    "SetMemberLocalAddr",
    "StopGRPCServiceOnDefrag",
    "TxnModeWriteWithSharedBuffer",
];

/// etcd's longest election time-out, in milliseconds.
const MAX_ELECTION_MILLIS: u64 = 50_000;

impl Options {
    /// Reads and checks what is set.
    ///
    /// # Errors
    /// What cannot be, by the name of the flag.
    pub fn new(values: &Values) -> Result<Self, String> {
        refused(values)?;
        let read = Reader { values, gates: gates(values.text("feature-gates"))? };
        let name = values.text("name").to_owned();
        let mut listen_client = read.urls("listen-client-urls")?;
        listen_client.extend(read.urls("listen-client-http-urls")?);
        if values.is_set("listen-client-urls") && !values.is_set("advertise-client-urls") {
            return Err(
                "--advertise-client-urls is required when --listen-client-urls is set explicitly".into()
            );
        }
        let advertise_peer = read.urls("initial-advertise-peer-urls")?;
        let initial_cluster = initial_cluster(values.text("initial-cluster"), &name, &advertise_peer)?;
        let data_dir = match values.text("data-dir") {
            "" => format!("{name}.etcd"),
            path => path.to_owned(),
        };
        let (catch_up, streams) = ("snapshot-catchup-entries", "max-concurrent-streams");
        let options = Self {
            data_dir,
            listen_peer: read.urls("listen-peer-urls")?,
            listen_client,
            listen_metrics: read.urls("listen-metrics-urls")?,
            advertise_peer,
            advertise_client: read.urls("advertise-client-urls")?,
            initial_cluster,
            existing: values.text("initial-cluster-state") == "existing",
            token: values.text("initial-cluster-token").to_owned(),
            force_new_cluster: read.truth("force-new-cluster"),
            strict_reconfig_check: read.truth("strict-reconfig-check"),
            max_learners: u32::try_from(read.number("max-learners")?).unwrap_or(u32::MAX),
            heartbeat: read.millis("heartbeat-interval")?,
            election: read.millis("election-timeout")?,
            catch_up_entries: values.is_set(catch_up).then(|| read.number(catch_up)).transpose()?,
            watch_progress: read.time("watch-progress-notify-interval")?,
            lease_checkpoint: read.gate("LeaseCheckpoint", "enable-lease-checkpoint"),
            max_txn_ops: read.number("max-txn-ops")?,
            max_request_bytes: read.number("max-request-bytes")?,
            max_concurrent_streams: values.is_set(streams).then(|| read.number(streams)).transpose()?,
            quota_backend_bytes: values::integer(values.text("quota-backend-bytes"))
                .map_err(|error| format!("--quota-backend-bytes: {error}"))?,
            compaction: compaction(values)?,
            initial_corrupt_check: read.gate("InitialCorruptCheck", "initial-corrupt-check"),
            corrupt_check: read.time("corrupt-check-time")?,
            tokens: read.read("auth-token", str::parse)?,
            tls: TlsOptions::new(values)?,
            // None are all, as in etcd.
            cors: if values.text("cors").is_empty() { Vec::new() } else { read.read("cors", origins)? },
            bcrypt_cost: u32::try_from(read.number("bcrypt-cost")?).unwrap_or(u32::MAX),
            auth_token_ttl: Duration::from_secs(read.number("auth-token-ttl")?),
            log_level: values.text("log-level").to_owned(),
            log_json: values.text("log-format") == "json",
            log_outputs: values.text("log-outputs").split(',').map(|part| part.trim().to_owned()).collect(),
            name,
        };
        options.check(values)?;
        Ok(options)
    }

    /// What etcd checks of values that are right alone.
    fn check(&self, values: &Values) -> Result<(), String> {
        let number = |name: &str| values::number(values.text(name), u64::MAX).unwrap_or(0);
        let (tick, election) = (number("heartbeat-interval"), number("election-timeout"));
        if self.name.is_empty() || self.name.contains([',', '=']) {
            return Err(format!("--name {:?} is no name of a member", self.name));
        }
        if tick == 0 {
            return Err("--heartbeat-interval must be >0 (set to 0ms)".into());
        }
        if 5 * tick > election {
            return Err(format!(
                "--election-timeout[{election}ms] should be at least as 5 times as --heartbeat-interval[{tick}ms]"
            ));
        }
        if election > MAX_ELECTION_MILLIS {
            return Err(format!(
                "--election-timeout[{election}ms] is too long, and should be set less than {MAX_ELECTION_MILLIS}ms"
            ));
        }
        if self.max_txn_ops == 0 || self.max_request_bytes == 0 {
            return Err("--max-txn-ops and --max-request-bytes must be >0".into());
        }
        let listens = [
            ("listen-peer-urls", &self.listen_peer),
            ("listen-client-urls", &self.listen_client),
            ("listen-metrics-urls", &self.listen_metrics),
        ];
        for (name, urls) in listens {
            if urls.is_empty() && name != "listen-metrics-urls" {
                return Err(format!("--{name}: at least one URL is needed"));
            }
            for url in urls {
                if url.is_secure() && name == "listen-metrics-urls" {
                    return Err(format!("--{name} {url}: probes and metrics are served in plain HTTP"));
                }
                if url.host != "localhost" && url.host.parse::<std::net::IpAddr>().is_err() {
                    return Err(format!("--{name}: expected IP in URL for binding ({url})"));
                }
            }
        }
        let advertised = [
            ("initial-advertise-peer-urls", &self.advertise_peer),
            ("advertise-client-urls", &self.advertise_client),
        ];
        for (name, urls) in advertised {
            if let Some(url) = urls.iter().find(|url| url.host.is_empty()) {
                return Err(format!(
                    "--{name} {:?} must be \"host:port\" (unexpected empty host ({url}))",
                    url.to_string()
                ));
            }
        }
        Ok(())
    }
}

/// Flags that cannot be had, and are not as they are anyway.
fn refused(values: &Values) -> Result<(), String> {
    for (flag, text, by) in values.all() {
        let Does::Refused(why) = flag.does else { continue };
        let same = text == flag.default
            || values::truth(text).is_ok_and(|truth| Ok(truth) == values::truth(flag.default));
        // Everything, said otherwise.
        let all = flag.default == "*" && text.is_empty();
        if !same && !all {
            return Err(format!("{by} is set to {text:?}, which cannot be had: {why}"));
        }
    }
    Ok(())
}

/// Reads values; what is wrong is told by the name of the flag.
struct Reader<'a> {
    values: &'a Values,
    gates: Vec<(String, bool)>,
}

impl Reader<'_> {
    fn read<T>(&self, name: &str, read: impl Fn(&str) -> Result<T, String>) -> Result<T, String> {
        read(self.values.text(name)).map_err(|error| format!("--{name}: {error}"))
    }

    fn urls(&self, name: &str) -> Result<Vec<Url>, String> {
        self.read(name, values::urls)
    }

    fn time(&self, name: &str) -> Result<Duration, String> {
        self.read(name, go_time::parse)
    }

    fn number(&self, name: &str) -> Result<u64, String> {
        self.read(name, |text| values::number(text, u64::MAX))
    }

    /// Milliseconds, if they are set.
    fn millis(&self, name: &str) -> Result<Option<Duration>, String> {
        self.values.is_set(name).then(|| self.number(name).map(Duration::from_millis)).transpose()
    }

    fn truth(&self, name: &str) -> bool {
        values::truth(self.values.text(name)) == Ok(true)
    }

    /// A feature that was once a flag.
    fn gate(&self, gate: &str, flag: &str) -> bool {
        self.gates.iter().any(|(name, on)| name == gate && *on) || self.truth(flag)
    }
}

/// `name=URL,…`; a name may stand there with several URLs, of which the first counts.
fn initial_cluster(text: &str, name: &str, advertised: &[Url]) -> Result<Vec<(String, Url)>, String> {
    let mut members: Vec<(String, Url)> = Vec::new();
    if text.is_empty() {
        let own = advertised.first().ok_or("--initial-advertise-peer-urls: at least one URL is needed")?;
        return Ok(vec![(name.to_owned(), own.clone())]);
    }
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let wrong = |reason: &str| format!("--initial-cluster {part:?}: {reason}");
        let (member, url) = part.split_once('=').ok_or_else(|| wrong("not name=URL"))?;
        if member.is_empty() {
            return Err(wrong("empty name"));
        }
        let url = values::urls(url).map_err(|error| wrong(&error))?.into_iter().next();
        let url = url.ok_or_else(|| wrong("not name=URL"))?;
        if !members.iter().any(|(other, _)| other == member) {
            members.push((member.to_owned(), url));
        }
    }
    Ok(members)
}

/// `periodic` is in hours where no unit is named.
fn compaction(values: &Values) -> Result<Compaction, String> {
    let text = values.text("auto-compaction-retention");
    let wrong = |reason: &str| format!("--auto-compaction-retention {text:?}: {reason}");
    if values.text("auto-compaction-mode") == "revision" {
        return match values::number(text, i64::MAX as u64).map_err(|error| wrong(&error))? {
            0 => Ok(Compaction::Off),
            revisions => Ok(Compaction::Revisions(revisions)),
        };
    }
    let time = match text.parse::<u64>() {
        Ok(hours) => Duration::from_secs(hours.checked_mul(3600).ok_or_else(|| wrong("too long"))?),
        Err(_) => go_time::parse(text).map_err(|error| wrong(&error))?,
    };
    Ok(if time.is_zero() { Compaction::Off } else { Compaction::Periodic(time) })
}

/// `Gate=true,…`.
fn gates(text: &str) -> Result<Vec<(String, bool)>, String> {
    let mut gates = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (name, value) =
            part.split_once('=').ok_or_else(|| format!("--feature-gates: missing bool value for {part}"))?;
        if !GATES.contains(&name) {
            return Err(format!("--feature-gates: unrecognized feature gate: {name}"));
        }
        let on =
            values::truth(value).map_err(|_| format!("--feature-gates: invalid value of {name}: {value}"))?;
        gates.push((name.to_owned(), on));
    }
    Ok(gates)
}
