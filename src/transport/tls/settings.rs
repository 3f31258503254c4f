//! What is configured of TLS. Values only; files are read by [`super::Material`].

use std::path::PathBuf;
use std::time::Duration;

use super::Protocol;

/// A certificate with the chain above it, and its key: files in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPair {
    /// The certificate, and those between it and the authority.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// What a process shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// What is in files. They are looked at again from time to time.
    Files(KeyPair),
    /// A certificate that it makes itself when it starts: for trying out. Nobody can tell it from another's.
    SelfSigned {
        /// How long it is valid. It is replaced before that is over.
        validity: Duration,
    },
}

/// Which certificates are taken beside being signed by a trusted authority. Those of a list count as alternatives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Allowed {
    /// All.
    #[default]
    Any,
    /// With one of these common names.
    CommonNames(Vec<String>),
    /// Valid for one of these hosts.
    Hosts(Vec<String>),
}

/// TLS of one kind of port, and of connections to such ports of others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// What is shown.
    pub identity: Identity,
    /// What is shown instead where this process is the one that connects.
    pub outgoing: Option<KeyPair>,
    /// File with the authorities, in PEM. Without it those of the system count where this process connects.
    pub trusted_ca: Option<PathBuf>,
    /// Whoever connects must show a certificate of a trusted authority.
    pub demands_certificates: bool,
    /// File with certificates that were revoked, in PEM or DER.
    pub crl: Option<PathBuf>,
    /// Which certificates are taken.
    pub allowed: Allowed,
    /// Versions and cipher suites.
    pub protocol: Protocol,
}

impl Tls {
    /// With this certificate, which nobody has to answer with another.
    pub fn with(identity: Identity) -> Self {
        Self {
            identity,
            outgoing: None,
            trusted_ca: None,
            demands_certificates: false,
            crl: None,
            allowed: Allowed::Any,
            protocol: Protocol::default(),
        }
    }

    /// Says what does not go together, if anything.
    ///
    /// # Errors
    /// The sentence.
    pub fn validate(&self) -> Result<(), String> {
        if self.demands_certificates && self.trusted_ca.is_none() {
            return Err("certificates are demanded, and no file says which authorities are trusted".into());
        }
        if self.crl.is_some() && !self.demands_certificates {
            return Err(
                "a revocation list is given, and no certificates are demanded that could be on it".into()
            );
        }
        if self.allowed != Allowed::Any && !self.demands_certificates {
            return Err("only some certificates are allowed, and none are demanded".into());
        }
        match self.identity {
            Identity::SelfSigned { validity } if validity < Duration::from_hours(1) => {
                Err(format!("a certificate that is valid for {validity:?} is of no use; 1h is the least"))
            }
            _ => self.protocol.validate(),
        }
    }
}

/// TLS of a client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientTls {
    /// File with the authorities that may have signed the server's certificate, in PEM. Without it those of the system count.
    pub trusted_ca: Option<PathBuf>,
    /// What is shown to servers that demand a certificate.
    pub identity: Option<KeyPair>,
    /// Takes any certificate of a server: who it is, is then not known.
    pub takes_any_server: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_go_together_is_said() {
        let files = KeyPair { certificate: "c".into(), key: "k".into() };
        let plain = Tls::with(Identity::Files(files));
        assert_eq!(plain.validate(), Ok(()));
        let mutual = Tls { trusted_ca: Some("ca".into()), demands_certificates: true, ..plain.clone() };
        assert_eq!(mutual.validate(), Ok(()));
        for (wrong, said) in [
            (Tls { trusted_ca: None, ..mutual.clone() }, "which authorities"),
            (Tls { crl: Some("x".into()), ..plain.clone() }, "revocation list"),
            (Tls { allowed: Allowed::Hosts(vec!["a".into()]), ..plain.clone() }, "only some"),
            (Tls::with(Identity::SelfSigned { validity: Duration::from_secs(1) }), "valid for 1s"),
        ] {
            assert!(wrong.validate().is_err_and(|text| text.contains(said)), "{said}");
        }
    }
}
