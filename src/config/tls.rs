//! TLS of a node's ports. What is in it, [`crate::transport::tls`] says.

use super::{AuthConfig, Cluster};
use crate::transport::tls::{Identity, Tls};

/// TLS between members. They show each other certificates; each is taken by the others only for the pods whose names are in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerTls {
    /// Certificates and what is demanded.
    pub tls: Tls,
    /// Takes everybody who has a certificate of a trusted authority, whatever names it is for: etcd's `--peer-skip-client-san-verification`.
    pub any_name: bool,
}

/// Says what does not go together, if anything.
pub(super) fn validate(
    client: Option<&Tls>,
    peer: Option<&PeerTls>,
    cluster: &Cluster,
    auth: &AuthConfig,
) -> Result<(), String> {
    if let Some(tls) = client {
        tls.validate().map_err(|what| format!("TLS of the client port: {what}"))?;
    }
    if auth.common_names && !client.is_some_and(|tls| tls.demands_certificates) {
        return Err("clients are to be known by their certificates, and none are demanded of them".into());
    }
    let Some(PeerTls { tls, any_name }) = peer else { return Ok(()) };
    tls.validate().map_err(|what| format!("TLS between members: {what}"))?;
    let shows_files = matches!(tls.identity, Identity::Files(_));
    if shows_files && !tls.demands_certificates && !matches!(cluster, Cluster::Initial(_)) {
        return Err(
            "TLS between members: they must show certificates, and a file says which authority's".into()
        );
    }
    if *any_name && !tls.demands_certificates {
        return Err(
            "TLS between members: their names are not looked at, and no certificates are demanded either"
                .into(),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::transport::tls::KeyPair;

    #[test]
    fn members_show_certificates_unless_etcds_flags_say_otherwise() {
        let files = Identity::Files(KeyPair { certificate: "c".into(), key: "k".into() });
        let one_sided = PeerTls { tls: Tls::with(files), any_name: false };
        let mutual =
            Tls { trusted_ca: Some("ca".into()), demands_certificates: true, ..one_sided.tls.clone() };
        let (fixed, auth) = (Cluster::Fixed { ordinal: 0, peers: vec!["a:1".into()] }, AuthConfig::default());
        let check = |peer: &PeerTls| validate(None, Some(peer), &fixed, &auth);
        assert!(check(&one_sided).is_err_and(|said| said.contains("must show certificates")));
        assert_eq!(check(&PeerTls { tls: mutual.clone(), any_name: true }), Ok(()));
        let own = Tls::with(Identity::SelfSigned { validity: Duration::from_hours(24) });
        assert_eq!(check(&PeerTls { tls: own.clone(), any_name: false }), Ok(()));
        assert!(check(&PeerTls { tls: own, any_name: true }).is_err());
        let known = AuthConfig { common_names: true, ..auth.clone() };
        assert_eq!(validate(Some(&mutual), None, &fixed, &known), Ok(()));
        for client in [None, Some(&one_sided.tls)] {
            assert!(
                validate(client, None, &fixed, &known)
                    .is_err_and(|said| said.contains("by their certificates"))
            );
        }
    }
}
