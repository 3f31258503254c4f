//! TLS of `serve`'s ports: options that are named as etcd's.

use super::super::settings::{ConfigError, SETTINGS, Texts};
use super::truth;
use crate::config::PeerTls;
use crate::limits;
use crate::transport::tls::{Identity, KeyPair, Protocol, Tls, Version};

/// TLS of the client port, and whether certificates say who calls.
pub(super) fn client(texts: &Texts<'_>) -> Result<(Option<Tls>, bool), ConfigError> {
    let names_users = texts.get("client-cert-auth", truth)?.unwrap_or(false);
    let keys = Keys {
        certificate: "cert-file",
        key: "key-file",
        ca: "trusted-ca-file",
        crl: "client-crl-file",
        auto: "auto-tls",
    };
    let tls = keys.read(texts)?;
    if names_users && tls.is_none() {
        return Err(ConfigError::Contradiction(
            "--client-cert-auth means nothing without --cert-file".into(),
        ));
    }
    Ok((tls, names_users))
}

/// TLS between members.
pub(super) fn peer(texts: &Texts<'_>) -> Result<Option<PeerTls>, ConfigError> {
    let keys = Keys {
        certificate: "peer-cert-file",
        key: "peer-key-file",
        ca: "peer-trusted-ca-file",
        crl: "peer-crl-file",
        auto: "peer-auto-tls",
    };
    Ok(keys.read(texts)?.map(|tls| PeerTls { tls, any_name: false }))
}

/// The options of one kind of port.
struct Keys {
    certificate: &'static str,
    key: &'static str,
    ca: &'static str,
    crl: &'static str,
    auto: &'static str,
}

impl Keys {
    fn read(&self, texts: &Texts<'_>) -> Result<Option<Tls>, ConfigError> {
        let file = |key| texts.find(key).map(|found| found.map(|(path, _)| path.into()));
        let trusted_ca: Option<std::path::PathBuf> = file(self.ca)?;
        let crl = file(self.crl)?;
        let identity = match (file(self.certificate)?, file(self.key)?) {
            (Some(certificate), Some(key)) => Identity::Files(KeyPair { certificate, key }),
            (Some(_), None) => {
                return Err(missing(self.key, "a certificate is shown by whoever has its key"));
            }
            (None, Some(_)) => {
                return Err(missing(self.certificate, "a key is of no use without its certificate"));
            }
            (None, None) if texts.get(self.auto, truth)? == Some(true) => {
                Identity::SelfSigned { validity: limits::SELF_SIGNED_VALIDITY }
            }
            (None, None) if trusted_ca.is_some() || crl.is_some() => {
                return Err(missing(self.certificate, "without a certificate to show there is no TLS"));
            }
            (None, None) => return Ok(None),
        };
        let demands_certificates = trusted_ca.is_some();
        let protocol = protocol(texts)?;
        Ok(Some(Tls { trusted_ca, demands_certificates, crl, protocol, ..Tls::with(identity) }))
    }
}

fn protocol(texts: &Texts<'_>) -> Result<Protocol, ConfigError> {
    let default = Protocol::default();
    let names = |text: &str| Ok(text.split(',').map(|name| name.trim().to_owned()).collect());
    Ok(Protocol {
        min: texts.get("tls-min-version", str::parse::<Version>)?.unwrap_or(default.min),
        max: texts.get("tls-max-version", str::parse::<Version>)?.unwrap_or(default.max),
        cipher_suites: texts.get("cipher-suites", names)?.unwrap_or_default(),
    })
}

fn missing(key: &'static str, reason: &'static str) -> ConfigError {
    let variable = SETTINGS.iter().find(|setting| setting.key == key).map_or("", |setting| setting.variable);
    ConfigError::Missing { variable, key, reason }
}
