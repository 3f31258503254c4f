//! DNS through hickory: it tells NXDOMAIN from failure, which the system's resolver does not.
//!
//! Nothing is cached here, and `/etc/hosts` is not read: a pod's own name is in it, and would be right long before it is published.
//! Names are asked as they are, without a search list.

use std::net::{IpAddr, SocketAddr};

use futures::future::BoxFuture;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use tokio::time::timeout;

use super::names::{Lookup, Names};
use crate::limits;

/// Asks name servers.
pub struct Dns {
    resolver: TokioResolver,
}

impl std::fmt::Debug for Dns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dns").finish_non_exhaustive()
    }
}

/// Why no name server can be asked.
#[derive(Debug, thiserror::Error)]
pub enum DnsSetupError {
    /// The system's configuration cannot be read.
    #[error("/etc/resolv.conf: {0}")]
    System(String),
    /// The resolver could not be made.
    #[error("name servers: {0}")]
    Resolver(String),
}

impl Dns {
    /// Asks the name servers of `/etc/resolv.conf`.
    pub fn system() -> Result<Self, DnsSetupError> {
        let (config, options) = hickory_resolver::system_conf::read_system_conf()
            .map_err(|error| DnsSetupError::System(error.to_string()))?;
        let (_, _, servers) = config.into_parts();
        Self::build(servers, options)
    }

    /// Asks these name servers.
    pub fn at(servers: &[SocketAddr]) -> Result<Self, DnsSetupError> {
        let connection = |mut connection: ConnectionConfig, port| {
            connection.port = port;
            connection
        };
        let servers = servers
            .iter()
            .map(|server| {
                let connections = vec![
                    connection(ConnectionConfig::udp(), server.port()),
                    connection(ConnectionConfig::tcp(), server.port()),
                ];
                NameServerConfig::new(server.ip(), true, connections)
            })
            .collect();
        Self::build(servers, ResolverOpts::default())
    }

    fn build(servers: Vec<NameServerConfig>, mut options: ResolverOpts) -> Result<Self, DnsSetupError> {
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Never;
        options.attempts = 1;
        options.timeout = limits::DNS_TIMEOUT / 3;
        options.ndots = 0;
        let config = ResolverConfig::from_parts(None, Vec::new(), servers);
        let resolver = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
            .with_options(options)
            .build()
            .map_err(|error| DnsSetupError::Resolver(error.to_string()))?;
        Ok(Self { resolver })
    }

    async fn ask(&self, name: &Name, of: RecordType) -> Lookup {
        match self.resolver.lookup(name.clone(), of).await {
            Ok(answer) => {
                let addresses: Vec<IpAddr> = answer
                    .answers()
                    .iter()
                    .filter_map(|record| match &record.data {
                        RData::A(address) => Some(IpAddr::V4(address.0)),
                        RData::AAAA(address) => Some(IpAddr::V6(address.0)),
                        _ => None,
                    })
                    .collect();
                match (addresses.is_empty(), answer.message().truncation) {
                    (false, _) => Lookup::At(addresses),
                    (true, true) => Lookup::Unknown("the answer was cut".into()),
                    (true, false) => Lookup::Absent,
                }
            }
            Err(NetError::Dns(DnsError::NoRecordsFound(none)))
                if matches!(none.response_code, ResponseCode::NXDomain | ResponseCode::NoError) =>
            {
                Lookup::Absent
            }
            Err(error) => Lookup::Unknown(error.to_string()),
        }
    }
}

impl Names for Dns {
    fn lookup<'a>(&'a self, fqdn: &'a str) -> BoxFuture<'a, Lookup> {
        Box::pin(async move {
            let name = match Name::from_ascii(fqdn) {
                Ok(mut name) => {
                    name.set_fqdn(true);
                    name
                }
                Err(error) => return Lookup::Unknown(format!("{fqdn:?} is no name: {error}")),
            };
            let both =
                async { tokio::join!(self.ask(&name, RecordType::A), self.ask(&name, RecordType::AAAA)) };
            match timeout(limits::DNS_TIMEOUT, both).await {
                Ok((four, six)) => merge(four, six),
                Err(_) => Lookup::Unknown("no answer in time".into()),
            }
        })
    }
}

/// Absent only if both say so.
fn merge(four: Lookup, six: Lookup) -> Lookup {
    match (four, six) {
        (Lookup::At(mut addresses), Lookup::At(more)) => {
            addresses.extend(more);
            Lookup::At(addresses)
        }
        (Lookup::At(addresses), _) | (_, Lookup::At(addresses)) => Lookup::At(addresses),
        (Lookup::Absent, Lookup::Absent) => Lookup::Absent,
        (Lookup::Unknown(reason), _) | (_, Lookup::Unknown(reason)) => Lookup::Unknown(reason),
    }
}

#[cfg(test)]
#[path = "real_names_tests.rs"]
mod tests;
