//! etcd's flags about TLS, and the schemes of URLs that go with them. Pure.

use std::time::Duration;

use super::parse::Values;
use super::values::{self, Url};
use crate::config::PeerTls;
use crate::transport::tls::{Allowed, Identity, KeyPair, Protocol, Tls};

/// etcd's year.
const YEAR: Duration = Duration::from_hours(365 * 24);

/// What the flags say of TLS. Whether it is spoken, the schemes of the URLs say.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct TlsOptions {
    /// Of clients.
    pub client: Option<Tls>,
    /// `--client-cert-auth`: certificates say who calls.
    pub client_cert_auth: bool,
    /// Of peers.
    pub peer: Option<PeerTls>,
}

/// The flags of one kind of port.
struct Names {
    /// For people: `client` or `peer`.
    what: &'static str,
    certificate: &'static str,
    key: &'static str,
    ca: &'static str,
    crl: &'static str,
    auto: &'static str,
    demands: &'static str,
    subjects: Option<&'static str>,
    hosts: &'static str,
}

const CLIENT: Names = Names {
    what: "client",
    certificate: "cert-file",
    key: "key-file",
    ca: "trusted-ca-file",
    crl: "client-crl-file",
    auto: "auto-tls",
    demands: "client-cert-auth",
    subjects: None,
    hosts: "client-cert-allowed-hostname",
};

const PEER: Names = Names {
    what: "peer",
    certificate: "peer-cert-file",
    key: "peer-key-file",
    ca: "peer-trusted-ca-file",
    crl: "peer-crl-file",
    auto: "peer-auto-tls",
    demands: "peer-client-cert-auth",
    subjects: Some("peer-cert-allowed-cn"),
    hosts: "peer-cert-allowed-hostname",
};

impl TlsOptions {
    /// Reads and checks the flags.
    ///
    /// # Errors
    /// What cannot be, by the name of the flag.
    pub fn new(values: &Values) -> Result<Self, String> {
        let protocol = protocol(values)?;
        let client = CLIENT.read(values, &protocol)?;
        let client_cert_auth = client.is_some() && truth(values, CLIENT.demands);
        let outgoing = pair(values, "peer-client-cert-file", "peer-client-key-file", "Client")?;
        let peer = PEER.read(values, &protocol)?.map(|tls| {
            let any_name = tls.demands_certificates && truth(values, "peer-skip-client-san-verification");
            PeerTls { tls: Tls { outgoing, ..tls }, any_name }
        });
        Ok(Self { client, client_cert_auth, peer })
    }

    /// TLS of ports for clients at these URLs, and what a person should be told about it.
    ///
    /// # Errors
    /// Some of them are secure and some not, or there is no certificate for those that are.
    pub fn of_client(&self, listen: &[Url], said: &mut Vec<String>) -> Result<Option<Tls>, String> {
        CLIENT.spoken(self.client.as_ref(), "listen-client-urls", listen, said)
    }

    /// TLS with peers, as [`TlsOptions::of_client`].
    ///
    /// # Errors
    /// As there; or the members' URLs are not like those that this one listens on.
    pub fn of_peer(
        &self,
        listen: &[Url],
        members: &[&Url],
        said: &mut Vec<String>,
    ) -> Result<Option<PeerTls>, String> {
        let spoken = PEER.spoken(self.peer.as_ref(), "listen-peer-urls", listen, said)?;
        if let Some(other) = members.iter().find(|url| url.is_secure() != spoken.is_some()) {
            let listens = listen.first().map_or("", |url| url.scheme.as_str());
            return Err(format!(
                "the peer URL {other} is not {listens}, as --listen-peer-urls is: all members speak the same"
            ));
        }
        Ok(spoken)
    }
}

impl Names {
    fn read(&self, values: &Values, protocol: &Protocol) -> Result<Option<Tls>, String> {
        let identity = match pair(values, self.certificate, self.key, "")? {
            Some(pair) => Identity::Files(pair),
            None if truth(values, self.auto) => Identity::SelfSigned { validity: validity(values)? },
            None => return Ok(None),
        };
        let trusted_ca = file(values, self.ca);
        // As in etcd, who names authorities wants certificates.
        let demands_certificates = trusted_ca.is_some() || truth(values, self.demands);
        let names = self.subjects.map(|name| list(values, name)).unwrap_or_default();
        let hosts = list(values, self.hosts);
        let allowed = match (names.is_empty(), hosts.is_empty()) {
            (true, true) => Allowed::Any,
            (false, true) => Allowed::CommonNames(names),
            (true, false) => Allowed::Hosts(hosts),
            (false, false) => {
                return Err(format!(
                    "AllowedCNs and AllowedHostnames are mutually exclusive (cns={names:?}, hostnames={hosts:?})"
                ));
            }
        };
        let tls = Tls {
            trusted_ca,
            demands_certificates,
            crl: file(values, self.crl),
            allowed,
            protocol: protocol.clone(),
            ..Tls::with(identity)
        };
        tls.validate().map_err(|what| format!("TLS with {}s: {what}", self.what))?;
        Ok(Some(tls))
    }

    /// What is there, if the URLs are secure.
    fn spoken<T: Clone>(
        &self,
        there: Option<&T>,
        flag: &str,
        listen: &[Url],
        said: &mut Vec<String>,
    ) -> Result<Option<T>, String> {
        let secure = listen.iter().find(|url| url.is_secure());
        let plain = listen.iter().find(|url| !url.is_secure());
        match (secure, plain) {
            (Some(secure), Some(plain)) => Err(format!(
                "--{flag} has {secure} and {plain}: the {} ports speak TLS with everybody or with nobody",
                self.what
            )),
            (Some(secure), None) => there.cloned().map(Some).ok_or_else(|| {
                format!(
                    "TLS key/cert (--{}, --{}) must be provided for {} url {secure} with HTTPS scheme",
                    self.certificate, self.key, self.what
                )
            }),
            (None, _) => {
                if let Some(plain) = plain.filter(|_| there.is_some()) {
                    said.push(format!("the scheme of {} url {plain} is HTTP while key/cert files are presented; they are ignored", self.what));
                }
                Ok(None)
            }
        }
    }
}

fn truth(values: &Values, name: &str) -> bool {
    values::truth(values.text(name)) == Ok(true)
}

fn file(values: &Values, name: &str) -> Option<std::path::PathBuf> {
    Some(values.text(name)).filter(|path| !path.is_empty()).map(Into::into)
}

fn list(values: &Values, name: &str) -> Vec<String> {
    let items = values.text(name).split(',').map(str::trim);
    items.filter(|item| !item.is_empty()).map(str::to_owned).collect()
}

/// A certificate and its key: both or neither.
fn pair(values: &Values, certificate: &str, key: &str, kind: &str) -> Result<Option<KeyPair>, String> {
    match (file(values, certificate), file(values, key)) {
        (Some(certificate), Some(key)) => Ok(Some(KeyPair { certificate, key })),
        (None, None) => Ok(None),
        _ => Err(format!(
            "{kind}KeyFile and {kind}CertFile must both be present[key: {}, cert: {}] (--{key}, --{certificate})",
            values.text(key),
            values.text(certificate)
        )),
    }
}

fn validity(values: &Values) -> Result<Duration, String> {
    let flag = "self-signed-cert-validity";
    let years = values::number(values.text(flag), 1_000).map_err(|error| format!("--{flag}: {error}"))?;
    if years == 0 {
        return Err("selfSignedCertValidity is invalid,it should be greater than 0".into());
    }
    Ok(YEAR * u32::try_from(years).unwrap_or(1))
}

fn protocol(values: &Values) -> Result<Protocol, String> {
    let default = Protocol::default();
    let version = |name: &str, default| match values.text(name) {
        "" => Ok(default),
        text => text.parse().map_err(|error| format!("--{name} {text:?}: {error}")),
    };
    let (min, max) = (version("tls-min-version", default.min)?, version("tls-max-version", default.max)?);
    if min > max {
        return Err(format!(
            "min version ({}) is greater than max version ({})",
            values.text("tls-min-version"),
            values.text("tls-max-version")
        ));
    }
    let protocol = Protocol { min, max, cipher_suites: list(values, "cipher-suites") };
    protocol.validate()?;
    Ok(protocol)
}
