//! The pods that can exist, by name, and for which of them a peer may speak.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use crate::identity::{Ordinal, PodFacts};
use crate::limits;
use crate::transport::tls::Certificate;

/// Where a peer service is to be found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Peer {
    /// Ordinal of the pod.
    pub ordinal: Ordinal,
    /// Its name in DNS, without a trailing dot; in a fixed list an IP address is allowed.
    pub fqdn: String,
    /// Port of its peer service.
    pub port: u16,
}

/// As in a membership: host and port.
impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.fqdn.contains(':') {
            write!(f, "[{}]:{}", self.fqdn, self.port)
        } else {
            write!(f, "{}:{}", self.fqdn, self.port)
        }
    }
}

/// Why a text is not the address of a peer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("peer address {address:?} of ordinal {ordinal}: {reason}")]
pub struct PeerError {
    /// The ordinal that it was given for.
    pub ordinal: Ordinal,
    /// The text.
    pub address: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl Peer {
    /// Reads `host:port`, as a membership and a fixed list hold it; an IPv6 address is in brackets.
    pub fn parse(ordinal: Ordinal, address: &str) -> Result<Self, PeerError> {
        let wrong = |reason| PeerError { ordinal, address: address.to_owned(), reason };
        let (host, port) = address.rsplit_once(':').ok_or_else(|| wrong("not host:port"))?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(|| wrong("not a port"))?;
        let host = match host.strip_prefix('[') {
            Some(rest) => rest
                .strip_suffix(']')
                .filter(|host| host.parse::<IpAddr>().is_ok())
                .ok_or_else(|| wrong("not an IP address in brackets"))?,
            None if is_name(host) => host,
            None => return Err(wrong("not a host name")),
        };
        Ok(Self { ordinal, fqdn: host.to_owned(), port })
    }

    /// The IP address, if the peer is known by one. This machine's own name for itself needs no name server.
    pub fn ip(&self) -> Option<IpAddr> {
        if self.fqdn == "localhost" {
            return Some(Ipv4Addr::LOCALHOST.into());
        }
        self.fqdn.parse().ok()
    }
}

/// Who this node is among the pods that can exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Directory {
    /// The pods of a `StatefulSet`, published by a headless service.
    Pods(PodFacts),
    /// A fixed list by ordinal, for machines without DNS.
    Fixed {
        /// This node's place.
        own: Peer,
        /// All of them, this node included.
        peers: Vec<Peer>,
    },
    /// Members by ordinal, which may move and may be joined by others: the membership is the truth about where they are.
    Members {
        /// This node.
        own: Peer,
        /// Those that are known from outside, this node included.
        peers: Vec<Peer>,
    },
}

impl Directory {
    /// The fixed list `peers` (`host:port` by ordinal), of which this node is `ordinal`.
    pub fn fixed(ordinal: Ordinal, peers: &[String]) -> Result<Self, PeerError> {
        let peers = peers
            .iter()
            .zip(0..)
            .map(|(address, ordinal)| Peer::parse(ordinal, address))
            .collect::<Result<Vec<_>, _>>()?;
        let own = peers.get(usize::from(ordinal)).cloned().ok_or_else(|| PeerError {
            ordinal,
            address: String::new(),
            reason: "the list of peers has no such ordinal",
        })?;
        Ok(Self::Fixed { own, peers })
    }

    /// This node.
    pub fn own(&self) -> Peer {
        match self {
            Self::Pods(facts) => pod(facts, facts.ordinal),
            Self::Fixed { own, .. } | Self::Members { own, .. } => own.clone(),
        }
    }

    /// The pod of an ordinal; `None` if it is not in the fixed list.
    pub fn peer(&self, ordinal: Ordinal) -> Option<Peer> {
        match self {
            Self::Pods(facts) => Some(pod(facts, ordinal)),
            Self::Fixed { peers, .. } => peers.get(usize::from(ordinal)).cloned(),
            Self::Members { peers, .. } => peers.iter().find(|peer| peer.ordinal == ordinal).cloned(),
        }
    }

    /// The pod of an ordinal, for whom a membership has `address`. In a `StatefulSet` the name is the truth, and a membership's address
    /// only helps where the directory has none; of members that may move, the membership knows better.
    pub fn peer_at(&self, ordinal: Ordinal, address: Option<&str>) -> Option<Peer> {
        let by_address = || Peer::parse(ordinal, address?).ok();
        match self {
            Self::Pods(_) | Self::Fixed { .. } => self.peer(ordinal).or_else(by_address),
            Self::Members { .. } => by_address().or_else(|| self.peer(ordinal)),
        }
    }

    /// Whether members may move, so that their memberships must be followed.
    pub fn follows_members(&self) -> bool {
        matches!(self, Self::Members { .. })
    }

    /// The pod that goes by this name (see [`Directory::name_of`]); `None` if none can.
    pub fn find(&self, name: &str) -> Option<Peer> {
        match self {
            Self::Pods(facts) => {
                let (pod_name, _) = name.split_once('.')?;
                let (_, ordinal) = pod_name.rsplit_once('-')?;
                let peer = pod(facts, ordinal.parse().ok()?);
                (peer.fqdn == name).then_some(peer)
            }
            Self::Fixed { peers, .. } => peers.iter().find(|peer| peer.to_string() == name).cloned(),
            Self::Members { .. } => self.peer(name.strip_prefix(MEMBER)?.parse().ok()?),
        }
    }

    /// Name in DNS of the headless service, if there is one.
    pub fn service(&self) -> Option<String> {
        match self {
            Self::Pods(facts) => Some(facts.service_fqdn()),
            Self::Fixed { .. } | Self::Members { .. } => None,
        }
    }

    /// Name of this node as a member: the pod's name, or the place in the list.
    pub fn own_name(&self) -> String {
        match self {
            Self::Pods(facts) => facts.pod_name.clone(),
            Self::Fixed { own, .. } | Self::Members { own, .. } => own.to_string(),
        }
    }

    /// The name under which a pod is asked who it is, and by which it answers: its FQDN; in a fixed list, where several may
    /// share a host, host and port; of members that may move, the ordinal.
    pub fn name_of(&self, peer: &Peer) -> String {
        match self {
            Self::Pods(_) => peer.fqdn.clone(),
            Self::Fixed { .. } => peer.to_string(),
            Self::Members { .. } => format!("{MEMBER}{}", peer.ordinal),
        }
    }
}

/// For which pods a peer may speak that has connected. Cheap to clone; clones are of one connection.
#[derive(Clone, Debug, Default)]
pub enum Speaker {
    /// For all: nobody has to show who they are, or the certificate is one for all.
    #[default]
    Anyone,
    /// For those whose names are in its certificate.
    Pods(Arc<Named>),
}

/// Whose names are in a certificate.
#[derive(Debug, Default)]
pub struct Named {
    pods: BTreeSet<Ordinal>,
    /// Ends the connection.
    hung_up: CancellationToken,
}

impl Speaker {
    /// Whoever sent a request: the peer port puts it into the extensions of each.
    pub fn of(extensions: &http::Extensions) -> Self {
        extensions.get().cloned().unwrap_or_default()
    }

    /// Whether it may speak for the pod of this ordinal. If not, its connection ends: it may come back with the right certificate.
    pub fn speaks_for(&self, ordinal: Ordinal) -> bool {
        match self {
            Self::Anyone => true,
            Self::Pods(named) if named.pods.contains(&ordinal) => true,
            Self::Pods(named) => {
                named.hung_up.cancel();
                false
            }
        }
    }

    /// Ends a moment after it spoke for a pod that it may not speak for: it is told so first. `None` if that cannot be.
    pub fn hung_up(&self) -> Option<BoxFuture<'static, ()>> {
        let Self::Pods(named) = self else { return None };
        let named = Arc::clone(named);
        Some(Box::pin(async move {
            named.hung_up.cancelled().await;
            tokio::time::sleep(limits::PEER_HANG_UP).await;
        }))
    }
}

impl Directory {
    /// For which pods whoever has this certificate may speak, where the names of pods are known beforehand. A name with an asterisk for its
    /// first label stands for every pod.
    ///
    /// # Errors
    /// None of its names is that of a pod that can exist. Also of members that may move, whose names are not known here.
    pub fn speaker(&self, certificate: &Certificate) -> Result<Speaker, String> {
        let stranger = || {
            let names = certificate.names().join(", ");
            let name = certificate.common_name();
            format!("the certificate of {name:?}, for {names:?}, is that of no member")
        };
        let pods: BTreeSet<Ordinal> = match self {
            Self::Pods(facts) => {
                let all = format!("*.{}", facts.service_fqdn());
                let names = certificate.names();
                if names.iter().any(|name| name.eq_ignore_ascii_case(&all)) {
                    return Ok(Speaker::Anyone);
                }
                names.iter().filter_map(|name| Some(self.find(&name.to_ascii_lowercase())?.ordinal)).collect()
            }
            Self::Fixed { peers, .. } => {
                let named = peers.iter().filter(|peer| certificate.is_for(&peer.fqdn));
                named.map(|peer| peer.ordinal).collect()
            }
            Self::Members { .. } => BTreeSet::new(),
        };
        if pods.is_empty() {
            return Err(stranger());
        }
        Ok(Speaker::Pods(Arc::new(Named { pods, hung_up: CancellationToken::new() })))
    }
}

/// Begin of the name of a member that may move.
const MEMBER: &str = "member-";

/// A name in DNS or an IPv4 address. Longer names than 253 bytes do not exist.
fn is_name(host: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    !host.is_empty() && host.len() <= 253 && host.bytes().all(plain)
}

fn pod(facts: &PodFacts, ordinal: Ordinal) -> Peer {
    Peer { ordinal, fqdn: facts.fqdn_of(ordinal), port: facts.peer_port }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port() {
        let peer = Peer::parse(1, "setstone-1.peers.shop.svc.cluster.local:2380").unwrap();
        assert_eq!((peer.fqdn.as_str(), peer.port), ("setstone-1.peers.shop.svc.cluster.local", 2380));
        let six = Peer::parse(0, "[::1]:2380").unwrap();
        assert_eq!(six.ip(), Some("::1".parse().unwrap()));
        assert_eq!(six.to_string(), "[::1]:2380");
        let here = Peer::parse(0, "localhost:2380").unwrap();
        assert_eq!((here.ip(), here.to_string()), ("127.0.0.1".parse().ok(), "localhost:2380".to_owned()));
        for wrong in
            ["", "host", "host:", "host:0", "host:65536", ":1", "[::1:1", "[host]:1", "a/b:1", "::1:1"]
        {
            let error = Peer::parse(7, wrong).unwrap_err();
            assert!(error.to_string().contains(&format!("{wrong:?} of ordinal 7")), "{error}");
        }
    }

    #[test]
    fn a_fixed_list_has_this_node_in_it() {
        let list: Vec<String> = vec!["127.0.0.1:1001".into(), "127.0.0.1:1002".into()];
        let directory = Directory::fixed(1, &list).unwrap();
        assert_eq!(directory.own().port, 1002);
        assert_eq!(directory.peer(2), None);
        assert_eq!(directory.name_of(&directory.peer(0).unwrap()), "127.0.0.1:1001");
        assert!(Directory::fixed(2, &list).is_err());
    }

    #[test]
    fn members_that_may_move_are_where_the_membership_says() {
        let at = |ordinal, address: &str| Peer::parse(ordinal, address).unwrap();
        let peers = vec![at(0, "a:1"), at(32_768, "b:1")];
        let directory = Directory::Members { own: at(0, "a:1"), peers };
        assert_eq!(directory.peer_at(32_768, Some("c:2")), Some(at(32_768, "c:2")));
        assert_eq!(directory.peer_at(32_768, None), Some(at(32_768, "b:1")));
        assert_eq!(directory.peer_at(32_768, Some("nonsense")), Some(at(32_768, "b:1")));
        assert_eq!(directory.peer_at(1, None), None);
        let name = directory.name_of(&at(32_768, "c:2"));
        assert_eq!(directory.find(&name), Some(at(32_768, "b:1")), "a name says nothing of the address");
        assert_eq!(directory.find("member-7"), None);
    }

    fn pods() -> Directory {
        Directory::Pods(PodFacts {
            pod_name: "s-0".into(),
            namespace: "shop".into(),
            ordinal: 0,
            service: "peers".into(),
            cluster_domain: "cluster.local".into(),
            zone: None,
            pod_ip: None,
            peer_port: 2380,
            client_port: 2379,
        })
    }

    /// The ordinals up to 3 that whoever has a certificate for these names may speak for.
    fn speaks_for(directory: &Directory, names: &[&str]) -> Result<Vec<Ordinal>, String> {
        let certificate = Certificate::made(names);
        let may = |ordinal: &Ordinal| {
            // Whoever was refused is hung up on, so each is asked anew.
            directory.speaker(&certificate).is_ok_and(|speaker| speaker.speaks_for(*ordinal))
        };
        directory.speaker(&certificate).map(|_| (0..4).filter(may).collect())
    }

    #[test]
    fn a_certificate_speaks_for_the_pods_that_are_named_in_it() {
        let directory = pods();
        let one = "s-1.peers.shop.svc.cluster.local";
        let speaks = |names: &[&str]| speaks_for(&directory, names);
        assert_eq!(speaks(&[one, "web.example", "10.0.0.1"]), Ok(vec![1]));
        assert_eq!(speaks(&["S-1.Peers.shop.svc.cluster.local"]), Ok(vec![1]));
        assert_eq!(speaks(&[one, "s-3.peers.shop.svc.cluster.local"]), Ok(vec![1, 3]));
        assert_eq!(speaks(&["*.peers.shop.svc.cluster.local"]), Ok(vec![0, 1, 2, 3]));
        for stranger in [
            "s-1",
            "s-1.peers.shop.svc",
            "s-1.peers.other.svc.cluster.local",
            "s-01.peers.shop.svc.cluster.local",
            "t-1.peers.shop.svc.cluster.local",
            "*.shop.svc.cluster.local",
            "peers.shop.svc.cluster.local",
            "a.s-1.peers.shop.svc.cluster.local",
            "10.0.0.1",
        ] {
            assert!(
                speaks(&[stranger]).is_err_and(|said| said.contains("is that of no member")),
                "{stranger}"
            );
        }
        let list: Vec<String> = vec!["a.example:1".into(), "10.0.0.2:1".into(), "a.example:2".into()];
        let fixed = Directory::fixed(0, &list).unwrap();
        assert_eq!(speaks_for(&fixed, &["a.example"]), Ok(vec![0, 2]), "several on one host");
        assert_eq!(speaks_for(&fixed, &["10.0.0.2"]), Ok(vec![1]));
        assert!(speaks_for(&fixed, &["b.example"]).is_err());
    }

    #[test]
    fn whoever_speaks_for_another_is_hung_up_on() {
        let speaker = pods().speaker(&Certificate::made(&["s-1.peers.shop.svc.cluster.local"])).unwrap();
        let Speaker::Pods(named) = &speaker else { panic!("{speaker:?}") };
        assert!(speaker.speaks_for(1) && !named.hung_up.is_cancelled());
        assert!(!speaker.clone().speaks_for(2) && named.hung_up.is_cancelled());
        assert!(Speaker::Anyone.hung_up().is_none());
    }
}
