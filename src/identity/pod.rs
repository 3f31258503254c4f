//! What the environment says about this pod. Set by the downward API in the manifests, and by the playground in the same
//! words. Pure: the caller gives the lookup and the text of `/etc/resolv.conf`.

use std::net::IpAddr;

use super::Ordinal;

/// Port of the peer service, unless configured.
pub const PEER_PORT: u16 = 2380;
/// Port of the client service, unless configured.
pub const CLIENT_PORT: u16 = 2379;

const POD_NAME: &str = "SETSTONE_POD_NAME";
const NAMESPACE: &str = "SETSTONE_POD_NAMESPACE";
const INDEX: &str = "SETSTONE_POD_INDEX";
const SERVICE: &str = "SETSTONE_SERVICE_NAME";
const DOMAIN: &str = "SETSTONE_CLUSTER_DOMAIN";
const ZONE: &str = "SETSTONE_ZONE";
const IP: &str = "SETSTONE_POD_IP";

/// Longest DNS label, in bytes (RFC 1035).
const LABEL_BYTES: usize = 63;
/// Longest DNS name, in bytes (RFC 1035).
const NAME_BYTES: usize = 253;

/// Why the environment does not describe a pod of a `StatefulSet`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PodError {
    /// A variable that must be set is not, or is empty.
    #[error("{variable} is not set")]
    Missing {
        /// The variable.
        variable: &'static str,
    },
    /// A variable has a value that it cannot have.
    #[error("{variable}={value:?}: {reason}")]
    Invalid {
        /// The variable.
        variable: &'static str,
        /// Its value.
        value: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Two variables contradict each other.
    #[error("{variable}={value:?} does not fit the pod name {pod:?}, whose ordinal is {ordinal}")]
    Contradiction {
        /// The variable.
        variable: &'static str,
        /// Its value.
        value: String,
        /// The pod's name.
        pod: String,
        /// The ordinal in it.
        ordinal: Ordinal,
    },
}

/// Who this pod is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodFacts {
    /// Name of the pod: the `StatefulSet`'s name, a hyphen, the ordinal.
    pub pod_name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its ordinal.
    pub ordinal: Ordinal,
    /// The headless service that publishes the pods' names.
    pub service: String,
    /// The cluster domain, without dots at its ends; `cluster.local` almost everywhere.
    pub cluster_domain: String,
    /// The zone that the pod runs in, if it is known.
    pub zone: Option<String>,
    /// The pod's own address, if it is known.
    pub pod_ip: Option<IpAddr>,
    /// Port of the peer service; the same for all pods.
    pub peer_port: u16,
    /// Port of the client service; the same for all pods.
    pub client_port: u16,
}

impl PodFacts {
    /// Reads the facts from an environment and the text of `/etc/resolv.conf`. The ordinal is the pod index, or else the
    /// suffix of the pod's name; never anything from the OS hostname.
    pub fn from(lookup: impl Fn(&str) -> Option<String>, resolv_conf: &str) -> Result<Self, PodError> {
        let optional = |variable| lookup(variable).filter(|value| !value.is_empty());
        let required = |variable| optional(variable).ok_or(PodError::Missing { variable });
        let label = |variable, value: String| {
            if is_label(&value) {
                Ok(value)
            } else {
                Err(PodError::Invalid { variable, value, reason: "not a DNS label" })
            }
        };
        let pod_name = label(POD_NAME, required(POD_NAME)?)?;
        let namespace = label(NAMESPACE, required(NAMESPACE)?)?;
        let service = label(SERVICE, required(SERVICE)?)?;
        let ordinal = ordinal(&pod_name, optional(INDEX))?;
        let cluster_domain = match optional(DOMAIN) {
            Some(value) => domain(value)?,
            None => domain_of(resolv_conf, &namespace),
        };
        let pod_ip = match optional(IP) {
            None => None,
            Some(value) => Some(value.parse().map_err(|_| PodError::Invalid {
                variable: IP,
                value,
                reason: "not an IP address",
            })?),
        };
        let facts = Self {
            pod_name,
            namespace,
            ordinal,
            service,
            cluster_domain,
            zone: optional(ZONE),
            pod_ip,
            peer_port: PEER_PORT,
            client_port: CLIENT_PORT,
        };
        if facts.fqdn_of(Ordinal::MAX).len() > NAME_BYTES {
            return Err(PodError::Invalid {
                variable: POD_NAME,
                value: facts.fqdn(),
                reason: "the pods' names are longer than 253 bytes",
            });
        }
        Ok(facts)
    }

    /// Name of the `StatefulSet`: the pod's name without the ordinal.
    pub fn set_name(&self) -> &str {
        self.pod_name.rsplit_once('-').map_or(self.pod_name.as_str(), |(set, _)| set)
    }

    /// Name of the pod of an ordinal.
    pub fn pod_of(&self, ordinal: Ordinal) -> String {
        format!("{}-{ordinal}", self.set_name())
    }

    /// This pod's name in DNS, without a trailing dot, as TLS and `env::Names` want it.
    pub fn fqdn(&self) -> String {
        self.fqdn_of(self.ordinal)
    }

    /// The name in DNS of the pod of an ordinal, without a trailing dot.
    pub fn fqdn_of(&self, ordinal: Ordinal) -> String {
        format!("{}.{}", self.pod_of(ordinal), self.service_fqdn())
    }

    /// The name in DNS of the pod of an ordinal, with the trailing dot that keeps a resolver from its search list.
    pub fn absolute_of(&self, ordinal: Ordinal) -> String {
        format!("{}.", self.fqdn_of(ordinal))
    }

    /// The name in DNS of the headless service, without a trailing dot.
    pub fn service_fqdn(&self) -> String {
        format!("{}.{}.svc.{}", self.service, self.namespace, self.cluster_domain)
    }

    /// Host and port of the peer service of an ordinal.
    pub fn peer_address_of(&self, ordinal: Ordinal) -> String {
        format!("{}:{}", self.fqdn_of(ordinal), self.peer_port)
    }
}

fn ordinal(pod_name: &str, index: Option<String>) -> Result<Ordinal, PodError> {
    let suffix = pod_name.rsplit_once('-').map_or("", |(_, suffix)| suffix);
    let named = number(suffix).ok_or_else(|| PodError::Invalid {
        variable: POD_NAME,
        value: pod_name.into(),
        reason: "does not end in a hyphen and an ordinal from 0 to 65535",
    })?;
    let Some(index) = index else { return Ok(named) };
    match number(&index) {
        Some(ordinal) if ordinal == named => Ok(ordinal),
        Some(_) => Err(PodError::Contradiction {
            variable: INDEX,
            value: index,
            pod: pod_name.into(),
            ordinal: named,
        }),
        None => {
            Err(PodError::Invalid { variable: INDEX, value: index, reason: "not an ordinal from 0 to 65535" })
        }
    }
}

/// Decimal digits without a sign or leading zeros, as Kubernetes writes ordinals.
fn number(text: &str) -> Option<Ordinal> {
    let number: Ordinal = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

fn is_label(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= LABEL_BYTES
        && !text.starts_with('-')
        && !text.ends_with('-')
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

fn domain(value: String) -> Result<String, PodError> {
    let trimmed = value.trim_end_matches('.');
    if trimmed.split('.').all(is_label) {
        Ok(trimmed.to_owned())
    } else {
        Err(PodError::Invalid { variable: DOMAIN, value, reason: "not a DNS domain" })
    }
}

/// The kubelet writes `search <namespace>.svc.<domain> svc.<domain> <domain> …`. The last `search` line counts, as in
/// resolv.conf(5).
fn domain_of(resolv_conf: &str, namespace: &str) -> String {
    let words = resolv_conf
        .lines()
        .filter_map(|line| line.trim().strip_prefix("search"))
        .rfind(|rest| rest.starts_with([' ', '\t']))
        .map(|rest| rest.split_whitespace().map(|word| word.trim_end_matches('.')).collect::<Vec<_>>())
        .unwrap_or_default();
    let own = format!("{namespace}.svc.");
    words
        .iter()
        .find_map(|word| word.strip_prefix(own.as_str()))
        .or_else(|| words.iter().find_map(|word| word.strip_prefix("svc.")))
        .filter(|domain| domain.split('.').all(is_label))
        .unwrap_or("cluster.local")
        .to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const RESOLV: &str = "nameserver 10.96.0.10\nsearch shop.svc.k8s.example svc.k8s.example k8s.example\n";

    fn facts(set: &[(&str, &str)]) -> Result<PodFacts, PodError> {
        let base = [(POD_NAME, "setstone-2"), (NAMESPACE, "shop"), (SERVICE, "setstone-peers")];
        PodFacts::from(
            |name| {
                set.iter()
                    .chain(&base)
                    .find(|(variable, _)| *variable == name)
                    .map(|(_, value)| (*value).to_owned())
            },
            RESOLV,
        )
    }

    #[test]
    fn names_are_built_from_the_facts() {
        let facts = facts(&[(INDEX, "2"), (IP, "10.1.2.3")]).unwrap();
        assert_eq!(facts.ordinal, 2);
        assert_eq!(facts.set_name(), "setstone");
        assert_eq!(facts.fqdn(), "setstone-2.setstone-peers.shop.svc.k8s.example");
        assert_eq!(facts.absolute_of(0), "setstone-0.setstone-peers.shop.svc.k8s.example.");
        assert_eq!(facts.service_fqdn(), "setstone-peers.shop.svc.k8s.example");
        assert_eq!(facts.peer_address_of(1), "setstone-1.setstone-peers.shop.svc.k8s.example:2380");
        assert_eq!(facts.pod_ip, Some("10.1.2.3".parse().unwrap()));
        assert_eq!(facts.zone, None);
    }

    #[test]
    fn the_ordinal_falls_back_to_the_pod_name() {
        assert_eq!(facts(&[]).unwrap().ordinal, 2);
        assert_eq!(facts(&[(POD_NAME, "a-b-17")]).unwrap().ordinal, 17);
        assert_eq!(facts(&[(POD_NAME, "a-b-17")]).unwrap().set_name(), "a-b");
    }

    #[test]
    fn the_domain_is_overridden_found_or_usual() {
        assert_eq!(facts(&[(DOMAIN, "other.example.")]).unwrap().cluster_domain, "other.example");
        assert_eq!(facts(&[(NAMESPACE, "elsewhere")]).unwrap().cluster_domain, "k8s.example");
        assert_eq!(domain_of("", "shop"), "cluster.local");
        assert_eq!(domain_of("search example.com\n", "shop"), "cluster.local");
        assert_eq!(domain_of("search a\nsearch shop.svc.z\n", "shop"), "z");
        assert_eq!(domain_of("searching shop.svc.z\n", "shop"), "cluster.local");
        assert_eq!(domain_of("search svc.bad_name\n", "shop"), "cluster.local");
    }

    #[test]
    fn errors_name_the_variable_and_its_value() {
        let text = |set: &[(&str, &str)]| facts(set).unwrap_err().to_string();
        assert_eq!(text(&[(POD_NAME, "")]), "SETSTONE_POD_NAME is not set");
        assert_eq!(text(&[(NAMESPACE, "")]), "SETSTONE_POD_NAMESPACE is not set");
        assert!(text(&[(POD_NAME, "setstone")]).starts_with("SETSTONE_POD_NAME=\"setstone\": does not end"));
        assert!(text(&[(POD_NAME, "setstone-65536")]).contains("ordinal from 0 to 65535"));
        assert!(text(&[(POD_NAME, "setstone-02")]).contains("ordinal from 0 to 65535"));
        assert!(text(&[(INDEX, "-1")]).starts_with("SETSTONE_POD_INDEX=\"-1\""));
        assert!(text(&[(INDEX, "3")]).contains("does not fit the pod name \"setstone-2\""));
        assert!(text(&[(SERVICE, "Not.A.Label")]).starts_with("SETSTONE_SERVICE_NAME=\"Not.A.Label\""));
        assert!(text(&[(DOMAIN, "..")]).starts_with("SETSTONE_CLUSTER_DOMAIN=\"..\""));
        assert!(text(&[(IP, "here")]).starts_with("SETSTONE_POD_IP=\"here\""));
        let long = ["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(63)].join(".");
        assert!(text(&[(DOMAIN, &long)]).contains("253 bytes"));
    }
}
