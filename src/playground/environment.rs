//! The environment of a pod: what the manifests set through the downward API, and nothing else of ours. Pure.
//!
//! Invariant: no variable of the playground's own environment that configures Setstone reaches a pod. Called by `driver`.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use super::naming::{CLIENT_PORT, CLUSTER_DOMAIN, Naming};
use crate::identity::Ordinal;

/// Every variable that configures Setstone begins with this.
pub const PREFIX: &str = "SETSTONE_";

/// What one pod is told.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Names of its StatefulSet.
    pub naming: &'a Naming,
    /// Its ordinal.
    pub ordinal: Ordinal,
    /// `spec.replicas` at first install.
    pub expected: Ordinal,
    /// Its address in this life.
    pub address: Ipv4Addr,
    /// The address that clients reach it at in every life.
    pub client_address: Ipv4Addr,
    /// The playground's name server.
    pub dns: SocketAddr,
    /// URL of the playground's API server.
    pub api_server: &'a str,
    /// Its volume.
    pub volume: &'a Path,
}

impl Facts<'_> {
    /// The variables, in no particular order.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        let naming = self.naming;
        vec![
            ("SETSTONE_POD_NAME", naming.pod(self.ordinal)),
            ("SETSTONE_POD_NAMESPACE", naming.namespace().to_owned()),
            ("SETSTONE_POD_INDEX", self.ordinal.to_string()),
            ("SETSTONE_SERVICE_NAME", naming.headless_service()),
            ("SETSTONE_CLUSTER_DOMAIN", CLUSTER_DOMAIN.to_owned()),
            ("SETSTONE_POD_IP", self.address.to_string()),
            ("SETSTONE_DNS_SERVER", self.dns.to_string()),
            ("SETSTONE_API_SERVER", self.api_server.to_owned()),
            ("SETSTONE_EXPECTED", self.expected.to_string()),
            ("SETSTONE_DATA_DIR", self.volume.display().to_string()),
            ("SETSTONE_ADVERTISE_CLIENT_URL", format!("{}:{CLIENT_PORT}", self.client_address)),
            ("SETSTONE_LOG", "info".to_owned()),
            // The pod's standard input is a pipe that closes when the playground dies, however it dies.
            ("SETSTONE_EXIT_WITH_STDIN", "1".to_owned()),
        ]
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_pod_is_told_who_it_is() {
        let naming = Naming::new("setstone", "default").unwrap();
        let facts = Facts {
            naming: &naming,
            ordinal: 1,
            expected: 3,
            address: Ipv4Addr::new(127, 70, 80, 10),
            client_address: Ipv4Addr::new(127, 70, 80, 201),
            dns: SocketAddr::from(([127, 70, 80, 53], 5300)),
            api_server: "http://127.70.80.2:6443",
            volume: Path::new("/data/setstone-1"),
        };
        let text: Vec<String> =
            facts.variables().iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(
            text,
            [
                "SETSTONE_POD_NAME=setstone-1",
                "SETSTONE_POD_NAMESPACE=default",
                "SETSTONE_POD_INDEX=1",
                "SETSTONE_SERVICE_NAME=setstone-peers",
                "SETSTONE_CLUSTER_DOMAIN=playground.local",
                "SETSTONE_POD_IP=127.70.80.10",
                "SETSTONE_DNS_SERVER=127.70.80.53:5300",
                "SETSTONE_API_SERVER=http://127.70.80.2:6443",
                "SETSTONE_EXPECTED=3",
                "SETSTONE_DATA_DIR=/data/setstone-1",
                "SETSTONE_ADVERTISE_CLIENT_URL=127.70.80.201:2379",
                "SETSTONE_LOG=info",
                "SETSTONE_EXIT_WITH_STDIN=1",
            ]
        );
        assert!(facts.variables().iter().all(|(name, _)| name.starts_with(PREFIX)));
    }
}
