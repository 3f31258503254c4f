//! What the playground's name server knows. Pure: a name and a type in, an answer out.
//!
//! A value that is replaced as a whole; `resolution` puts the cache and the faults between it and the wire. Invariants: it answers for
//! [`CLUSTER_DOMAIN`] and nothing else; a name is absent only if neither it nor anything below it exists (RFC 8020);
//! every pod that exists is listed, ready or not (`publishNotReadyAddresses`). Called by `resolution` and `driver`.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use super::naming::{CLUSTER_DOMAIN, Naming};
use crate::identity::Ordinal;

/// Seconds that an answer may be kept: what `CoreDNS` says as kubeadm configures it. Whether the server itself keeps it is another matter.
pub const TTL_SECONDS: u32 = 30;

/// The record types that the zone tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// IPv4 addresses.
    A,
    /// Start of authority.
    Soa,
    /// All else; there are no such records, IPv6 addresses included.
    Other,
}

/// What the zone says of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// These addresses; never empty.
    Addresses(Vec<Ipv4Addr>),
    /// The zone's SOA record, which was asked for.
    Authority,
    /// The name exists and has no record of that type (NOERROR, with the SOA).
    NoData,
    /// There is no such name (NXDOMAIN, with the SOA).
    NoSuchName,
    /// The name is in another zone (REFUSED).
    NotOurs,
}

/// Names and their addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Zone {
    /// Lower case, without a trailing dot.
    names: BTreeMap<String, Vec<Ipv4Addr>>,
    serial: u32,
}

impl Zone {
    /// The zone of one StatefulSet: its pods, its headless service with all of them, and its client service.
    pub fn of(
        naming: &Naming,
        serial: u32,
        service: Ipv4Addr,
        pods: impl IntoIterator<Item = (Ordinal, Ipv4Addr)>,
    ) -> Self {
        let mut names = BTreeMap::from([(naming.client_fqdn(), vec![service])]);
        let mut all = Vec::new();
        for (ordinal, address) in pods {
            all.push(address);
            names.insert(naming.pod_fqdn(ordinal), vec![address]);
        }
        names.insert(naming.headless_fqdn(), all);
        Self { names, serial }
    }

    /// Raised with every change, as a serial number ought to be.
    pub fn serial(&self) -> u32 {
        self.serial
    }

    /// What the zone says of a name, given in any case and with or without its trailing dot.
    pub fn answer(&self, name: &str, kind: Kind) -> Answer {
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        if name == CLUSTER_DOMAIN {
            return if kind == Kind::Soa { Answer::Authority } else { Answer::NoData };
        }
        let below = format!(".{name}");
        if !name.strip_suffix(CLUSTER_DOMAIN).is_some_and(|rest| rest.ends_with('.')) {
            return Answer::NotOurs;
        }
        match self.names.get(&name) {
            Some(addresses) if kind == Kind::A && !addresses.is_empty() => {
                Answer::Addresses(addresses.clone())
            }
            Some(_) => Answer::NoData,
            None if self.names.keys().any(|known| known.ends_with(&below)) => Answer::NoData,
            None => Answer::NoSuchName,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_kind_of_question_has_its_answer() {
        let naming = Naming::new("setstone", "default").unwrap();
        let (a, b, service) =
            (Ipv4Addr::new(127, 70, 80, 10), Ipv4Addr::new(127, 70, 80, 11), Ipv4Addr::new(127, 70, 80, 2));
        let zone = Zone::of(&naming, 7, service, [(0, a), (2, b)]);
        let table: &[(&str, Kind, Answer)] = &[
            ("setstone-0.setstone-peers.default.svc.playground.local", Kind::A, Answer::Addresses(vec![a])),
            ("Setstone-2.SETSTONE-peers.default.svc.playground.local.", Kind::A, Answer::Addresses(vec![b])),
            ("setstone-peers.default.svc.playground.local", Kind::A, Answer::Addresses(vec![a, b])),
            ("setstone.default.svc.playground.local", Kind::A, Answer::Addresses(vec![service])),
            ("setstone-0.setstone-peers.default.svc.playground.local", Kind::Other, Answer::NoData),
            ("setstone-1.setstone-peers.default.svc.playground.local", Kind::A, Answer::NoSuchName),
            ("setstone-1.setstone-peers.default.svc.playground.local", Kind::Other, Answer::NoSuchName),
            ("x.setstone-0.setstone-peers.default.svc.playground.local", Kind::A, Answer::NoSuchName),
            ("svc.playground.local", Kind::A, Answer::NoData),
            ("default.svc.playground.local", Kind::Other, Answer::NoData),
            ("tone.default.svc.playground.local", Kind::A, Answer::NoSuchName),
            ("playground.local", Kind::Soa, Answer::Authority),
            ("playground.local", Kind::A, Answer::NoData),
            ("xplayground.local", Kind::A, Answer::NotOurs),
            ("example.com.", Kind::A, Answer::NotOurs),
            ("local", Kind::A, Answer::NotOurs),
            (".", Kind::Soa, Answer::NotOurs),
            ("", Kind::A, Answer::NotOurs),
        ];
        for (name, kind, expected) in table {
            assert_eq!(&zone.answer(name, *kind), expected, "{name} {kind:?}");
        }
    }

    #[test]
    fn a_headless_service_without_pods_exists() {
        let naming = Naming::new("setstone", "default").unwrap();
        let zone = Zone::of(&naming, 1, Ipv4Addr::new(127, 70, 80, 2), []);
        assert_eq!(zone.answer("setstone-peers.default.svc.playground.local", Kind::A), Answer::NoData);
    }
}
