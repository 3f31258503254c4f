//! Every name of one StatefulSet: pods, services, FQDNs. Pure.
//!
//! Here because DNS, environment and status must agree on them. Invariant: a [`Naming`] holds only valid DNS labels, so
//! whatever is built of it is a valid name, file name and environment value. Called by `driver` and `zone`.

use crate::identity::Ordinal;

/// The domain that stands where a cluster has `cluster.local`.
pub const CLUSTER_DOMAIN: &str = "playground.local";
/// Client port of a pod, and of the client service: etcd's.
pub const CLIENT_PORT: u16 = 2379;
/// Port between pods: etcd's.
pub const PEER_PORT: u16 = 2380;
/// Port of probes and metrics.
pub const ADMIN_PORT: u16 = 2381;
/// Port of the API server: Kubernetes'.
pub const API_PORT: u16 = 6443;

/// Longest name of a StatefulSet, so that those of its pods and services, with `-peers` or an ordinal, are labels too.
const NAME_BYTES: usize = 52;
/// Longest DNS label (RFC 1035).
const LABEL_BYTES: usize = 63;

/// A name that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{what} {name:?} is not a DNS label: 1 to {longest} lower-case letters, digits and '-', \
     with a letter or digit first and last"
)]
pub struct InvalidName {
    what: &'static str,
    name: String,
    longest: usize,
}

/// Names of one StatefulSet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Naming {
    name: String,
    namespace: String,
}

impl Naming {
    /// Names of the StatefulSet `name` in `namespace`.
    ///
    /// # Errors
    /// If one of them is not a DNS label (RFC 1123), or is too long.
    pub fn new(name: &str, namespace: &str) -> Result<Self, InvalidName> {
        check("the name", name, NAME_BYTES)?;
        check("the namespace", namespace, LABEL_BYTES)?;
        Ok(Self { name: name.to_owned(), namespace: namespace.to_owned() })
    }

    /// The StatefulSet's name, which is also that of the client service.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Name of a pod, as in `setstone-0`.
    pub fn pod(&self, ordinal: Ordinal) -> String {
        format!("{}-{ordinal}", self.name)
    }

    /// Name of the headless service, as in `setstone-peers`.
    pub fn headless_service(&self) -> String {
        format!("{}-peers", self.name)
    }

    /// FQDN of the headless service, without a trailing dot.
    pub fn headless_fqdn(&self) -> String {
        self.fqdn(&self.headless_service())
    }

    /// FQDN of the client service, without a trailing dot.
    pub fn client_fqdn(&self) -> String {
        self.fqdn(&self.name)
    }

    /// FQDN of a pod under the headless service, without a trailing dot.
    pub fn pod_fqdn(&self, ordinal: Ordinal) -> String {
        format!("{}.{}", self.pod(ordinal), self.headless_fqdn())
    }

    fn fqdn(&self, service: &str) -> String {
        format!("{service}.{}.svc.{CLUSTER_DOMAIN}", self.namespace)
    }
}

fn check(what: &'static str, name: &str, longest: usize) -> Result<(), InvalidName> {
    let alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = name.as_bytes();
    let valid = bytes.len() <= longest
        && bytes.first().is_some_and(alphanumeric)
        && bytes.last().is_some_and(alphanumeric)
        && bytes.iter().all(|byte| alphanumeric(byte) || *byte == b'-');
    if valid { Ok(()) } else { Err(InvalidName { what, name: name.to_owned(), longest }) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_are_those_of_the_manifests() {
        let naming = Naming::new("setstone", "default").unwrap();
        assert_eq!(naming.pod(2), "setstone-2");
        assert_eq!(naming.pod_fqdn(0), "setstone-0.setstone-peers.default.svc.playground.local");
        assert_eq!(naming.headless_fqdn(), "setstone-peers.default.svc.playground.local");
        assert_eq!(naming.client_fqdn(), "setstone.default.svc.playground.local");
    }

    #[test]
    fn what_is_no_label_is_refused_by_name() {
        let long = "a".repeat(53);
        for name in ["", "-a", "a-", "A", "a.b", "a/b", "../x", "a b", "ä", long.as_str()] {
            let refused = Naming::new(name, "default").unwrap_err();
            assert!(refused.to_string().contains(&format!("{name:?}")), "{refused}");
            assert!(Naming::new("setstone", &format!("{name}.")).is_err());
        }
        assert!(Naming::new(&"a".repeat(52), &"b".repeat(63)).is_ok());
        assert!(Naming::new("0", "0").is_ok());
    }
}
