//! Versions and cipher suites, by the names that etcd's options have for them. Pure, but for rustls' tables.

use std::str::FromStr;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};
use rustls::version::{TLS12, TLS13};
use rustls::{CipherSuite, SupportedCipherSuite, SupportedProtocolVersion};

/// A version of TLS. Older ones are not spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// TLS 1.2.
    Tls12,
    /// TLS 1.3.
    Tls13,
}

/// As in etcd: `TLS1.2` or `TLS1.3`.
impl FromStr for Version {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "TLS1.2" => Ok(Self::Tls12),
            "TLS1.3" => Ok(Self::Tls13),
            _ => Err("is no version of TLS that is spoken; TLS1.2 and TLS1.3 are".into()),
        }
    }
}

/// Which versions and cipher suites are offered and taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Protocol {
    /// The oldest version.
    pub min: Version,
    /// The newest.
    pub max: Version,
    /// Names of the cipher suites of TLS 1.2, in the order of preference; all if there are none. Those of TLS 1.3 are not chosen, as in Go:
    /// all of them are good.
    pub cipher_suites: Vec<String>,
}

impl Default for Protocol {
    fn default() -> Self {
        Self { min: Version::Tls12, max: Version::Tls13, cipher_suites: Vec::new() }
    }
}

/// The name of a suite in Go, and so in etcd's `--cipher-suites`: that of the registry, but for two that Go has an older name for, too.
const SUITES: [(&str, CipherSuite); 11] = [
    ("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305", CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    (
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
    ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305", CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
    ("TLS_AES_128_GCM_SHA256", CipherSuite::TLS13_AES_128_GCM_SHA256),
    ("TLS_AES_256_GCM_SHA384", CipherSuite::TLS13_AES_256_GCM_SHA384),
    ("TLS_CHACHA20_POLY1305_SHA256", CipherSuite::TLS13_CHACHA20_POLY1305_SHA256),
];

fn suite(name: &str) -> Option<CipherSuite> {
    SUITES.iter().find(|(known, _)| *known == name).map(|(_, suite)| *suite)
}

impl Protocol {
    /// Says what cannot be, if anything.
    ///
    /// # Errors
    /// The sentence.
    pub fn validate(&self) -> Result<(), String> {
        if self.min > self.max {
            return Err(format!(
                "the oldest version, {:?}, is newer than the newest, {:?}",
                self.min, self.max
            ));
        }
        if let Some(unknown) = self.cipher_suites.iter().find(|name| suite(name).is_none()) {
            let known: Vec<&str> = SUITES.iter().map(|(name, _)| *name).collect();
            return Err(format!("unexpected TLS cipher suite {unknown:?}; there are {}", known.join(", ")));
        }
        if self.cipher_suites.is_empty() {
            return Ok(());
        }
        if self.min == Version::Tls13 {
            return Err("cipher suites cannot be configured when only TLS1.3 is enabled".into());
        }
        let provider = self.provider();
        if self.max == Version::Tls12 && !provider.cipher_suites.iter().any(|suite| suite.tls13().is_none()) {
            return Err(format!(
                "none of the cipher suites {} is one of TLS1.2",
                self.cipher_suites.join(", ")
            ));
        }
        Ok(())
    }

    /// ring, with the chosen suites.
    pub(super) fn provider(&self) -> Arc<CryptoProvider> {
        let all = ring::default_provider();
        if self.cipher_suites.is_empty() {
            return Arc::new(all);
        }
        let is_of_tls13 = |suite: &SupportedCipherSuite| suite.tls13().is_some();
        let mut suites: Vec<_> = all.cipher_suites.iter().copied().filter(is_of_tls13).collect();
        for chosen in self.cipher_suites.iter().filter_map(|name| suite(name)) {
            let found = all.cipher_suites.iter().find(|suite| suite.suite() == chosen && !is_of_tls13(suite));
            if let Some(found) = found.filter(|found| !suites.contains(found)) {
                suites.push(*found);
            }
        }
        Arc::new(CryptoProvider { cipher_suites: suites, ..all })
    }

    /// The versions, the newest first.
    pub(super) fn versions(&self) -> Vec<&'static SupportedProtocolVersion> {
        let all = [(Version::Tls13, &TLS13), (Version::Tls12, &TLS12)];
        all.into_iter()
            .filter(|(version, _)| (self.min..=self.max).contains(version))
            .map(|(_, of)| of)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(provider: &CryptoProvider) -> Vec<CipherSuite> {
        provider.cipher_suites.iter().map(SupportedCipherSuite::suite).collect()
    }

    #[test]
    fn suites_of_tls12_are_chosen_and_those_of_tls13_stay() {
        let all = Protocol::default();
        assert_eq!(all.validate(), Ok(()));
        assert_eq!(names(&all.provider()).len(), 9);
        let chosen = |list: &[&str]| Protocol {
            cipher_suites: list.iter().map(|name| (*name).to_owned()).collect(),
            ..Protocol::default()
        };
        let one = chosen(&["TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305", "TLS_AES_128_GCM_SHA256"]);
        assert_eq!(one.validate(), Ok(()));
        let of_tls12 = CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256;
        assert_eq!(names(&one.provider()).last(), Some(&of_tls12));
        assert_eq!(names(&one.provider()).len(), 4);
        let weak = chosen(&["TLS_RSA_WITH_RC4_128_SHA"]).validate();
        assert!(weak.is_err_and(|said| said.contains("TLS_RSA_WITH_RC4_128_SHA")));
        let new = Protocol { min: Version::Tls13, ..one.clone() };
        assert!(new.validate().is_err_and(|said| said.contains("only TLS1.3")));
        let none = Protocol { max: Version::Tls12, ..chosen(&["TLS_AES_128_GCM_SHA256"]) };
        assert!(none.validate().is_err_and(|said| said.contains("is one of TLS1.2")));
    }

    #[test]
    fn versions_are_a_range() {
        let of = |min, max| Protocol { min, max, ..Protocol::default() };
        let (old, new) = (Version::Tls12, Version::Tls13);
        assert_eq!(of(old, new).versions().len(), 2);
        assert_eq!(of(new, new).versions(), [&TLS13]);
        assert_eq!(of(old, old).versions(), [&TLS12]);
        assert!(of(new, old).validate().is_err());
        assert_eq!(("TLS1.2".parse(), "TLS1.3".parse()), (Ok(old), Ok(new)));
        assert!("TLS1.1".parse::<Version>().is_err());
    }
}
