//! What a certificate says of its owner. Pure; whether it is to be believed was decided before.

use std::net::IpAddr;

use rustls::pki_types::{CertificateDer, ServerName};
use webpki::EndEntityCert;

use super::der;

/// A certificate that was shown, and whose chain leads to a trusted authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate(CertificateDer<'static>);

/// `id-at-commonName`, 2.5.4.3.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const OBJECT_ID: u8 = 0x06;
/// `UTF8String`, `PrintableString`, `IA5String` and `T61String`: as far as they hold UTF-8, which their usual content is.
const STRINGS: [u8; 4] = [0x0c, 0x13, 0x16, 0x14];

impl Certificate {
    /// The first of a chain.
    pub(super) fn of(chain: Option<&[CertificateDer<'_>]>) -> Option<Self> {
        chain?.first().map(|first| Self(first.clone().into_owned()))
    }

    /// One for these hosts, which signs itself.
    #[cfg(test)]
    pub(crate) fn made(hosts: &[&str]) -> Self {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let params = rcgen::CertificateParams::new(hosts).unwrap();
        Self(params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().der().clone())
    }

    fn read<T>(&self, read: impl FnOnce(&EndEntityCert<'_>) -> T) -> Option<T> {
        EndEntityCert::try_from(&self.0).ok().map(|certificate| read(&certificate))
    }

    /// The common name of its subject; empty if it has none. Of several the last counts, as in Go.
    pub fn common_name(&self) -> String {
        self.read(|certificate| common_name(certificate.subject())).flatten().unwrap_or_default()
    }

    /// Whether it is one for this host, by name or address. A name with an asterisk for its first label stands for all such names.
    pub fn is_for(&self, host: &str) -> bool {
        let Ok(name) = ServerName::try_from(host) else { return false };
        self.read(|certificate| certificate.verify_is_valid_for_subject_name(&name).is_ok()).unwrap_or(false)
    }

    /// Whether it is one for this address.
    pub fn is_for_address(&self, address: IpAddr) -> bool {
        self.is_for(&address.to_string())
    }

    /// The names in DNS that it is for.
    pub fn names(&self) -> Vec<String> {
        self.read(|certificate| certificate.valid_dns_names().map(str::to_owned).collect())
            .unwrap_or_default()
    }
}

/// The common name in a subject: a list of sets of pairs, without the list's own head.
fn common_name(subject: &[u8]) -> Option<String> {
    let mut found = None;
    for (_, set) in der::elements(subject)? {
        for (_, pair) in der::elements(set)? {
            match der::elements(pair)?.as_slice() {
                [(OBJECT_ID, COMMON_NAME), (kind, text)] if STRINGS.contains(kind) => {
                    found = std::str::from_utf8(text).ok().map(str::to_owned);
                }
                _ => {}
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, DnValue, KeyPair};

    use super::*;

    fn of_subject(subject: &[(DnType, DnValue)]) -> Certificate {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, text) in subject {
            params.distinguished_name.push(kind.clone(), text.clone());
        }
        Certificate(params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone())
    }

    #[test]
    fn it_says_what_its_owner_is_called() {
        let utf8 = |text: &str| DnValue::Utf8String(text.into());
        let organisation = (DnType::OrganizationName, utf8("O"));
        let printable = DnValue::PrintableString("bob".try_into().unwrap());
        let name = |subject: &[_]| of_subject(subject).common_name();
        assert_eq!(name(&[organisation.clone(), (DnType::CommonName, utf8("älice"))]), "älice");
        assert_eq!(name(&[(DnType::CommonName, printable), organisation.clone()]), "bob");
        assert_eq!(name(&[organisation]), "");
        assert_eq!(name(&[]), "");
        assert_eq!(Certificate(vec![1, 2, 3].into()).common_name(), "");
    }

    #[test]
    fn it_is_for_its_hosts_and_no_others() {
        let certificate = Certificate::made(&["s-0.p.shop.svc", "*.p.shop.svc", "10.0.0.1", "::1"]);
        for host in ["s-0.p.shop.svc", "S-0.P.shop.svc", "s-7.p.shop.svc", "10.0.0.1", "::1"] {
            assert!(certificate.is_for(host), "{host}");
        }
        for host in ["p.shop.svc", "a.b.p.shop.svc", "s-0.p.shop.svc.evil", "10.0.0.2", "", "a b"] {
            assert!(!certificate.is_for(host), "{host}");
        }
        assert_eq!(certificate.names(), ["s-0.p.shop.svc", "*.p.shop.svc"]);
        assert!(certificate.is_for_address("10.0.0.1".parse().unwrap()));
        assert!(Certificate(vec![0x30].into()).names().is_empty());
    }
}
