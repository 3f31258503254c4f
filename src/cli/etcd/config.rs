//! From etcd's options to one [`Config`]. Pure.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::options::{Compaction, Options};
use super::values::Url;
use crate::config::{
    AlsoListen, AuthConfig, AutoCompaction, Cluster, Config, Data, InitialCluster, Maintenance,
    RequestLimits, SizeFrom, Tuning,
};
use crate::limits;

/// Time in which a stop must be done.
const GRACE_PERIOD: Duration = Duration::from_secs(25);
/// How often etcd writes down what is left of leases.
const LEASE_CHECKPOINT: Duration = Duration::from_mins(5);

/// The configuration, and what a person should be told about it.
pub(super) fn config(options: &Options) -> Result<(Config, Vec<String>), String> {
    let mut said = Vec::new();
    let (listen_client, client) = first(&options.listen_client)?;
    let (listen_peer, peer) = first(&options.listen_peer)?;
    let mut admin = addresses(&options.listen_metrics)?;
    let client_tls = options.tls.of_client(&options.listen_client, &mut said)?;
    let members: Vec<&Url> =
        options.initial_cluster.iter().map(|(_, url)| url).chain(&options.advertise_peer).collect();
    let peer_tls = options.tls.of_peer(&options.listen_peer, &members, &mut said)?;
    let listen_admin = if admin.is_empty() { None } else { Some(admin.remove(0)) };
    let config = Config {
        name: options.name.clone(),
        data: Data::Directory(options.data_dir.clone().into()),
        cluster: Cluster::Initial(initial(options, &mut said)?),
        listen_client,
        listen_peer,
        listen_admin,
        also_listen: AlsoListen { client, peer, admin },
        auth: AuthConfig {
            tokens: options.tokens.clone(),
            token_ttl: options.auth_token_ttl,
            bcrypt_cost: options.bcrypt_cost,
            common_names: options.tls.client_cert_auth && client_tls.is_some(),
        },
        client_tls,
        peer_tls,
        advertise_client: options.advertise_client.iter().map(ToString::to_string).collect(),
        dns_server: None,
        tuning: tuning(options),
        requests: requests(options),
        per_address: limits::PerAddress::default(),
        size_from: SizeFrom::Fixed,
        api_server: None,
        max_voters: limits::PEERS,
        drain_delay: Duration::ZERO,
        grace_period: GRACE_PERIOD,
        cors: options.cors.clone(),
    };
    config.validate()?;
    let streams = config.requests.concurrent_streams as usize;
    let counts = [
        ("max-txn-ops", options.max_txn_ops, config.requests.txn_operations),
        ("max-request-bytes", options.max_request_bytes, config.requests.request_bytes),
        // To etcd 0 is no limit.
        (
            "max-concurrent-streams",
            options.max_concurrent_streams.filter(|asked| *asked > 0).unwrap_or(streams as u64),
            streams,
        ),
    ];
    for (name, asked, counts) in counts {
        if asked != counts as u64 {
            said.push(format!("--{name} is {asked}, and {counts} is what counts: more is not possible"));
        }
    }
    Ok((config, said))
}

fn requests(options: &Options) -> RequestLimits {
    let most = |asked: u64, most: usize| usize::try_from(asked).map_or(most, |asked| asked.min(most));
    RequestLimits {
        txn_operations: most(options.max_txn_ops, limits::TXN_OPERATIONS_MAX),
        request_bytes: most(options.max_request_bytes, limits::REQUEST_BYTES),
        concurrent_streams: match options.max_concurrent_streams {
            None | Some(0) => limits::STREAMS_PER_CONNECTION,
            Some(asked) => most(asked, limits::STREAMS_PER_CONNECTION as usize) as u32,
        },
    }
}

fn tuning(options: &Options) -> Tuning {
    let default = Tuning::default();
    // etcd's members begin an election after once to twice the time-out.
    let (election_min, election_max) = match (options.election, options.heartbeat) {
        (Some(election), _) => (election, 2 * election),
        // Its default goes with its default heartbeat.
        (None, Some(heartbeat)) if default.election_min < 5 * heartbeat => (10 * heartbeat, 20 * heartbeat),
        (None, _) => (default.election_min, default.election_max),
    };
    Tuning {
        heartbeat: options.heartbeat.unwrap_or(default.heartbeat),
        election_min,
        election_max,
        log_entries_kept: options.catch_up_entries.unwrap_or(default.log_entries_kept),
        lease_checkpoint: options.lease_checkpoint.then_some(LEASE_CHECKPOINT),
        watch_progress_interval: options.watch_progress,
        maintenance: Maintenance {
            quota_bytes: options.quota_backend_bytes,
            auto_compaction: match options.compaction {
                Compaction::Off => None,
                Compaction::Periodic(time) => Some(AutoCompaction::Periodic(time)),
                Compaction::Revisions(count) => {
                    Some(AutoCompaction::Revision(i64::try_from(count).unwrap_or(i64::MAX)))
                }
            },
            corrupt_check_at_start: options.initial_corrupt_check,
            corrupt_check_interval: Some(options.corrupt_check).filter(|time| !time.is_zero()),
            ..Maintenance::default()
        },
        ..default
    }
}

fn initial(options: &Options, said: &mut Vec<String>) -> Result<InitialCluster, String> {
    let own =
        options.advertise_peer.first().ok_or("--initial-advertise-peer-urls: at least one URL is needed")?;
    if let Some(more) = options.advertise_peer.get(1) {
        said.push(format!("members find this one at {own} only, not at {more}"));
    }
    let members: Vec<(String, String)> =
        options.initial_cluster.iter().map(|(name, url)| (name.clone(), url.place())).collect();
    let named = options.initial_cluster.iter().find(|(name, _)| *name == options.name);
    match named {
        Some((name, url)) if !is_same_place(url, own) && !options.existing => {
            return Err(format!(
                "--initial-cluster has {name}={url} but missing from --initial-advertise-peer-urls={own}"
            ));
        }
        _ => {}
    }
    // The initial cluster's spelling is the one that the others know.
    let own = named.map_or(own, |(_, url)| url);
    Ok(InitialCluster {
        members,
        own: own.place(),
        existing: options.existing,
        token: options.token.clone(),
        force_new: options.force_new_cluster,
        strict: options.strict_reconfig_check,
        max_learners: options.max_learners,
    })
}

/// The same port of the same host, as far as that can be seen without asking a name server.
fn is_same_place(one: &Url, other: &Url) -> bool {
    let host = |url: &Url| match ip(&url.host) {
        Some(address) => address.to_string(),
        None => url.host.clone(),
    };
    one.port == other.port && host(one) == host(other)
}

fn ip(host: &str) -> Option<IpAddr> {
    if host == "localhost" { Some(Ipv4Addr::LOCALHOST.into()) } else { host.parse().ok() }
}

fn first(urls: &[Url]) -> Result<(SocketAddr, Vec<SocketAddr>), String> {
    let mut all = addresses(urls)?;
    if all.is_empty() {
        return Err("there is no URL to listen on".into());
    }
    Ok((all.remove(0), all))
}

/// Where to listen, each address once; what "everywhere" covers is left out.
fn addresses(urls: &[Url]) -> Result<Vec<SocketAddr>, String> {
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for url in urls {
        let ip = ip(&url.host).ok_or_else(|| format!("expected IP in URL for binding ({url})"))?;
        let address = SocketAddr::new(ip, url.port);
        let covered =
            |by: &SocketAddr| by.port() == address.port() && (by.ip().is_unspecified() || *by == address);
        if address.port() == 0 || !addresses.iter().any(covered) {
            addresses.push(address);
        }
    }
    let everywhere: Vec<u16> =
        addresses.iter().filter(|address| address.ip().is_unspecified()).map(SocketAddr::port).collect();
    addresses.retain(|address| address.ip().is_unspecified() || !everywhere.contains(&address.port()));
    Ok(addresses)
}
