//! From flags, variables and a file to one [`Config`]. Pure: the caller gives the variables, the texts of files, and gets
//! a configuration or an error that names what is wrong and where it stands.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use super::duration;
use super::settings::{ConfigError, Flags, Texts};
use crate::config::{AuthConfig, Cluster, Config, Data, RequestLimits, SizeFrom, Tuning};
use crate::identity::PodFacts;
use crate::limits::{self, PerAddress};

#[path = "config_maintenance.rs"]
mod maintenance;
#[path = "config_tls.rs"]
mod tls;

const CLIENT_PORT: u16 = 2379;
const PEER_PORT: u16 = 2380;
pub(super) const ADMIN_PORT: u16 = 2381;
/// Time between SIGTERM and the first refusal in a pod: endpoints are taken out of services within about that time.
const POD_DRAIN_DELAY: Duration = Duration::from_secs(3);
/// Below Kubernetes' default grace period of 30 s.
const GRACE_PERIOD: Duration = Duration::from_secs(25);

/// What to log unless configured.
const LOG: &str = "info";

/// What `serve` needs to know.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    /// The node's configuration.
    pub config: Config,
    /// What to log.
    pub log: String,
    /// How to log.
    pub log_format: LogFormat,
    /// Stop when standard input ends.
    pub exit_with_stdin: bool,
}

/// How to log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object per line.
    Json,
}

/// The outside world that a configuration is read from.
pub(super) struct World<'a> {
    /// Looks up a variable.
    pub variables: &'a dyn Fn(&str) -> Option<String>,
    /// Reads a file.
    pub read: &'a dyn Fn(&Path) -> std::io::Result<String>,
    /// The text of `/etc/resolv.conf`; empty if there is none.
    pub resolv_conf: &'a str,
}

/// Reads the configuration: flag > variable > file > default.
pub(super) fn resolve(flags: &Flags, world: &World<'_>) -> Result<Settings, ConfigError> {
    let texts = Texts::new(flags, world.variables, world.read)?;
    let pod_ip = (world.variables)("SETSTONE_POD_IP").filter(|text| !text.is_empty());
    let cluster = cluster(&texts, world)?;
    let facts = match &cluster {
        Cluster::StatefulSet { pod, .. } => Some(pod),
        _ => None,
    };
    let source: Option<IpAddr> = match (facts.and_then(|facts| facts.pod_ip), pod_ip) {
        (Some(address), _) => Some(address),
        (None, None) => None,
        (None, Some(value)) => Some(value.parse().map_err(|_| ConfigError::Invalid {
            place: super::settings::Source::Variable("SETSTONE_POD_IP"),
            value,
            reason: "is no IP address".into(),
        })?),
    };
    let any = source.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let ordinal = match &cluster {
        // An initial cluster is `setstone etcd`'s.
        Cluster::Single | Cluster::Initial(_) => 0,
        Cluster::StatefulSet { pod, .. } => pod.ordinal,
        Cluster::Fixed { ordinal, .. } => *ordinal,
    };
    let name = match texts.get("name", name)? {
        Some(name) => name,
        None => facts.map_or_else(|| format!("setstone-{ordinal}"), |facts| facts.pod_name.clone()),
    };
    let listen_client = texts.get("listen-client", address)?.unwrap_or(SocketAddr::new(any, CLIENT_PORT));
    let listen_peer =
        texts.get("listen-peer", address)?.unwrap_or_else(|| default_listen_peer(&cluster, any));
    let listen_admin =
        texts.get("listen-admin", optional_address)?.unwrap_or(Some(SocketAddr::new(any, ADMIN_PORT)));
    let drain_delay = texts.get("drain-delay", duration::parse)?.unwrap_or(if facts.is_some() {
        POD_DRAIN_DELAY
    } else {
        Duration::ZERO
    });
    let api_server = texts.get("api-server", url)?;
    let kubernetes = api_server.is_some() || (world.variables)("KUBERNETES_SERVICE_HOST").is_some();
    let default_size = match facts {
        Some(_) if kubernetes && cfg!(feature = "kubernetes") => SizeFrom::StatefulSet,
        Some(_) => SizeFrom::Setting,
        None => SizeFrom::Fixed,
    };
    let cluster = with_ports(cluster, listen_client, listen_peer);
    let (client_tls, common_names) = tls::client(&texts)?;
    let has_tls = client_tls.is_some();
    let config = Config {
        data: data(&texts, &name)?,
        name,
        cluster,
        listen_client,
        listen_peer,
        listen_admin,
        client_tls,
        peer_tls: tls::peer(&texts)?,
        also_listen: crate::config::AlsoListen::default(),
        advertise_client: texts.get("advertise-client-url", |text| urls(text, has_tls))?.unwrap_or_default(),
        cors: texts.get("cors", origins)?.unwrap_or_default(),
        dns_server: texts.get("dns-server", address)?,
        auth: auth(&texts, common_names)?,
        tuning: tuning(&texts)?,
        requests: requests(&texts)?,
        per_address: per_address(&texts)?,
        size_from: texts.get("size-from", size_from)?.unwrap_or(default_size),
        api_server,
        max_voters: texts.get("max-voters", number::<usize>)?.unwrap_or(limits::MAX_VOTERS),
        drain_delay,
        grace_period: texts.get("grace-period", duration::parse)?.unwrap_or(GRACE_PERIOD),
    };
    config.validate().map_err(ConfigError::Contradiction)?;
    Ok(Settings {
        config,
        log: texts.find("log")?.map_or_else(|| LOG.into(), |(text, _)| text),
        log_format: texts.get("log-format", log_format)?.unwrap_or(LogFormat::Text),
        exit_with_stdin: texts.get("exit-with-stdin", truth)?.unwrap_or(false),
    })
}

/// A pod is one whose name is set; a fixed list makes a member of it; all else is a node alone.
fn cluster(texts: &Texts<'_>, world: &World<'_>) -> Result<Cluster, ConfigError> {
    let is_pod = (world.variables)("SETSTONE_POD_NAME").is_some_and(|name| !name.is_empty());
    let peers = texts.get("peers", peers)?;
    let ordinal = texts.get("ordinal", number::<u16>)?;
    match (is_pod, peers, ordinal) {
        (true, Some(_), _) | (true, _, Some(_)) => Err(ConfigError::Contradiction(
            "SETSTONE_POD_NAME makes this a pod of a StatefulSet; --peers and --ordinal are for members outside of one"
                .into(),
        )),
        (true, None, None) => {
            let pod = PodFacts::from(world.variables, world.resolv_conf)?;
            let expected = texts.get("expected", positive)?.ok_or(ConfigError::Missing {
                variable: "SETSTONE_EXPECTED",
                key: "expected",
                reason: "a pod must know how many there are at the first install",
            })?;
            Ok(Cluster::StatefulSet { pod, expected })
        }
        (false, Some(peers), Some(ordinal)) => Ok(Cluster::Fixed { ordinal, peers }),
        (false, Some(_), None) => Err(ConfigError::Missing {
            variable: "SETSTONE_ORDINAL",
            key: "ordinal",
            reason: "a member of --peers must know which of them it is",
        }),
        (false, None, Some(_)) => Err(ConfigError::Missing {
            variable: "SETSTONE_PEERS",
            key: "peers",
            reason: "an ordinal means nothing without the list of members",
        }),
        (false, None, None) => Ok(Cluster::Single),
    }
}

/// A member of a fixed list listens where the others are told that it does.
fn default_listen_peer(cluster: &Cluster, any: IpAddr) -> SocketAddr {
    let own = match cluster {
        Cluster::Fixed { ordinal, peers } => peers.get(usize::from(*ordinal)),
        _ => None,
    };
    let Some(own) = own else { return SocketAddr::new(any, PEER_PORT) };
    let port = own.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or(PEER_PORT);
    own.parse().unwrap_or(SocketAddr::new(any, port))
}

/// All pods of a set use the same ports, so a pod's own tell the others'.
fn with_ports(cluster: Cluster, client: SocketAddr, peer: SocketAddr) -> Cluster {
    match cluster {
        Cluster::StatefulSet { pod, expected } => Cluster::StatefulSet {
            pod: PodFacts { client_port: client.port(), peer_port: peer.port(), ..pod },
            expected,
        },
        other => other,
    }
}

fn data(texts: &Texts<'_>, name: &str) -> Result<Data, ConfigError> {
    let in_memory = texts.get("memory", truth)?.unwrap_or(false);
    let engine_in_memory = texts.get("engine", |text| match text {
        "memory" => Ok(true),
        "disk" => Ok(false),
        _ => Err("is no engine; disk and memory are".into()),
    })?;
    if in_memory && engine_in_memory == Some(false) {
        return Err(ConfigError::Contradiction("--memory and --engine disk exclude each other".into()));
    }
    if in_memory || engine_in_memory == Some(true) {
        return Ok(Data::Memory);
    }
    let directory = texts.find("data-dir")?.map_or_else(|| format!("{name}.setstone"), |(text, _)| text);
    Ok(Data::Directory(directory.into()))
}

fn auth(texts: &Texts<'_>, common_names: bool) -> Result<AuthConfig, ConfigError> {
    let default = AuthConfig::default();
    Ok(AuthConfig {
        tokens: texts.get("auth-token", str::parse)?.unwrap_or(default.tokens),
        token_ttl: texts.get("auth-token-ttl", token_ttl)?.unwrap_or(default.token_ttl),
        bcrypt_cost: texts.get("bcrypt-cost", number::<u32>)?.unwrap_or(default.bcrypt_cost),
        common_names,
    })
}

fn per_address(texts: &Texts<'_>) -> Result<PerAddress, ConfigError> {
    let default = PerAddress::default();
    Ok(PerAddress {
        connections: texts
            .get("max-connections-per-address", number::<u32>)?
            .map_or(default.connections, |count| count as usize),
        requests_per_second: texts
            .get("max-requests-per-address", number::<u64>)?
            .unwrap_or(default.requests_per_second),
        bytes_per_second: texts.get("max-bytes-per-address", byte_count)?.unwrap_or(default.bytes_per_second),
    })
}

/// As everywhere; a plain number is of seconds, as etcd has it.
fn token_ttl(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds) => Ok(Duration::from_secs(seconds)),
        Err(_) => duration::parse(text),
    }
}

fn requests(texts: &Texts<'_>) -> Result<RequestLimits, ConfigError> {
    let default = RequestLimits::default();
    let concurrent_streams =
        texts.get("max-concurrent-streams", number::<u32>)?.unwrap_or(default.concurrent_streams);
    Ok(RequestLimits { concurrent_streams, ..default })
}

fn tuning(texts: &Texts<'_>) -> Result<Tuning, ConfigError> {
    let default = Tuning::default();
    Ok(Tuning {
        engine_cache_bytes: texts.get("engine-cache", byte_count)?.unwrap_or(default.engine_cache_bytes),
        log_segment_bytes: texts.get("log-segment", byte_count)?.unwrap_or(default.log_segment_bytes),
        log_cache_bytes: match texts.get("log-cache", byte_count)? {
            Some(bytes) => usize::try_from(bytes).unwrap_or(usize::MAX),
            None => default.log_cache_bytes,
        },
        log_bytes_before_snapshot: texts
            .get("log-before-snapshot", byte_count)?
            .unwrap_or(default.log_bytes_before_snapshot),
        log_entries_kept: texts.get("log-entries-kept", number::<u64>)?.unwrap_or(default.log_entries_kept),
        heartbeat: texts.get("heartbeat", duration::parse)?.unwrap_or(default.heartbeat),
        election_min: texts.get("election-min", duration::parse)?.unwrap_or(default.election_min),
        election_max: texts.get("election-max", duration::parse)?.unwrap_or(default.election_max),
        lease_checkpoint: texts.get("lease-checkpoint", duration::parse)?,
        watch_progress_interval: texts
            .get("watch-progress-notify-interval", duration::parse)?
            .unwrap_or(default.watch_progress_interval),
        watch_queue_bytes: default.watch_queue_bytes,
        maintenance: maintenance::read(texts)?,
    })
}

fn name(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > 253 || text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err("is no name; up to 253 characters without blanks are".into());
    }
    Ok(text.to_owned())
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| {
        let most = match size_of::<T>() {
            2 => "65535",
            4 => "4294967295",
            _ => "2^64-1",
        };
        format!("is no number from 0 to {most}")
    })
}

fn positive(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err("is no number from 1 to 65535".into()),
    }
}

fn truth(text: &str) -> Result<bool, String> {
    match text {
        "true" | "1" | "yes" => Ok(true),
        "false" | "0" | "no" => Ok(false),
        _ => Err("is neither true nor false".into()),
    }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "is no address; write ip:port".into())
}

fn optional_address(text: &str) -> Result<Option<SocketAddr>, String> {
    if text == "none" { Ok(None) } else { address(text).map(Some) }
}

fn peers(text: &str) -> Result<Vec<String>, String> {
    let peers: Vec<String> = text.split(',').map(|peer| peer.trim().to_owned()).collect();
    for peer in &peers {
        let endpoint: crate::client::Endpoint = peer.parse().map_err(|error| format!("{error}"))?;
        if endpoint.authority() != peer {
            return Err(format!("{peer:?} is not host:port"));
        }
    }
    for (index, peer) in peers.iter().enumerate() {
        if peers.iter().take(index).any(|other| other == peer) {
            return Err(format!("names {peer:?} twice"));
        }
    }
    Ok(peers)
}

/// URLs; of those without a scheme the port says what they have.
fn urls(text: &str, has_tls: bool) -> Result<Vec<String>, String> {
    let list = crate::client::Endpoint::list(text).map_err(|error| error.to_string())?;
    let url = |endpoint: &crate::client::Endpoint| endpoint.for_client(has_tls).0.to_string();
    Ok(list.iter().map(|endpoint| url(endpoint).trim_end_matches('/').to_owned()).collect())
}

fn url(text: &str) -> Result<String, String> {
    match text.parse::<http::Uri>() {
        Ok(uri) if uri.scheme().is_some() && uri.host().is_some() => Ok(text.to_owned()),
        _ => Err("is no URL".into()),
    }
}

/// Origins as browsers send them, `http://host:port` or without the port; or `*`.
pub(super) fn origins(text: &str) -> Result<Vec<String>, String> {
    let is_origin = |origin: &str| {
        let Ok(uri) = origin.parse::<http::Uri>() else { return false };
        uri.scheme().is_some() && uri.host().is_some() && uri.path() == "/" && !origin.ends_with('/')
    };
    let list: Vec<&str> = text.split(',').map(str::trim).collect();
    match list.iter().find(|origin| **origin != "*" && !is_origin(origin)) {
        Some(wrong) => Err(format!("{wrong:?} is no origin such as https://example.com, nor *")),
        None => Ok(list.iter().map(ToString::to_string).collect()),
    }
}

fn size_from(text: &str) -> Result<SizeFrom, String> {
    match text {
        "kubernetes" => Ok(SizeFrom::StatefulSet),
        "setting" => Ok(SizeFrom::Setting),
        "fixed" => Ok(SizeFrom::Fixed),
        _ => Err("is no source of the size; kubernetes, setting and fixed are".into()),
    }
}

fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err("is no format; text and json are".into()),
    }
}

/// Bytes as people write them: `1048576`, `64KiB`, `32MiB`, `2GiB`.
fn byte_count(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let scale: u64 = match unit {
        "" | "B" => 1,
        "KiB" | "Ki" => 1 << 10,
        "MiB" | "Mi" => 1 << 20,
        "GiB" | "Gi" => 1 << 30,
        _ => return Err("is no number of bytes; write 1048576, 64KiB, 32MiB or 2GiB".into()),
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(scale))
        .ok_or_else(|| "is no number of bytes; write 1048576, 64KiB, 32MiB or 2GiB".into())
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
