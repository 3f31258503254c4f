//! Tokens that are signed: JSON Web Tokens (RFC 7519) with etcd's claims, `username`, `revision` and `exp`. Any member that has the key can
//! check one, without having heard of it; it is void when users have changed since it was made, but only for requests of keys, as in etcd.
//!
//! The one accepted algorithm is the configured one, whatever a token's header claims. Signatures are ring's: it takes the numbers that
//! some of them need from the system, and no decision depends on those.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaKeyPair, UnparsedPublicKey};
use serde_json::{Value, json};
use tonic::Code;

use super::pem::{self, KeyError};
use crate::env::Clock;
use crate::mvcc::auth::Identity;
use crate::transport::Failure;

/// Longest token that is looked at, in bytes; headers are bounded, too.
const TOKEN_BYTES: usize = 16 << 10;

/// How tokens are signed: etcd's `sign-method`. ES512 is missing, because the library does not have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    Hmac(&'static str, hmac::Algorithm),
    Rsa(&'static str, RsaPair),
    Ecdsa(&'static str, EcdsaPair),
    Ed25519,
}

/// What signs with an RSA key, and what checks.
#[derive(Clone, Copy)]
struct RsaPair(&'static dyn signature::RsaEncoding, &'static signature::RsaParameters);

/// What signs with an ECDSA key, and what checks.
#[derive(Clone, Copy)]
struct EcdsaPair(&'static signature::EcdsaSigningAlgorithm, &'static signature::EcdsaVerificationAlgorithm);

macro_rules! opaque {
    ($name:ident) => {
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(stringify!($name))
            }
        }
        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                std::ptr::addr_eq(self.1, other.1)
            }
        }
        impl Eq for $name {}
    };
}
opaque!(RsaPair);
opaque!(EcdsaPair);

impl Method {
    /// By its name in RFC 7518.
    fn named(name: &str) -> Option<Self> {
        use signature as s;
        let rsa = |name, encoding, check| Some(Self::Rsa(name, RsaPair(encoding, check)));
        match name {
            "HS256" => Some(Self::Hmac("HS256", hmac::HMAC_SHA256)),
            "HS384" => Some(Self::Hmac("HS384", hmac::HMAC_SHA384)),
            "HS512" => Some(Self::Hmac("HS512", hmac::HMAC_SHA512)),
            "RS256" => rsa("RS256", &s::RSA_PKCS1_SHA256, &s::RSA_PKCS1_2048_8192_SHA256),
            "RS384" => rsa("RS384", &s::RSA_PKCS1_SHA384, &s::RSA_PKCS1_2048_8192_SHA384),
            "RS512" => rsa("RS512", &s::RSA_PKCS1_SHA512, &s::RSA_PKCS1_2048_8192_SHA512),
            "PS256" => rsa("PS256", &s::RSA_PSS_SHA256, &s::RSA_PSS_2048_8192_SHA256),
            "PS384" => rsa("PS384", &s::RSA_PSS_SHA384, &s::RSA_PSS_2048_8192_SHA384),
            "PS512" => rsa("PS512", &s::RSA_PSS_SHA512, &s::RSA_PSS_2048_8192_SHA512),
            "ES256" => Some(Self::Ecdsa(
                "ES256",
                EcdsaPair(&s::ECDSA_P256_SHA256_FIXED_SIGNING, &s::ECDSA_P256_SHA256_FIXED),
            )),
            "ES384" => Some(Self::Ecdsa(
                "ES384",
                EcdsaPair(&s::ECDSA_P384_SHA384_FIXED_SIGNING, &s::ECDSA_P384_SHA384_FIXED),
            )),
            "EdDSA" => Some(Self::Ed25519),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Hmac(name, _) | Self::Rsa(name, _) | Self::Ecdsa(name, _) => name,
            Self::Ed25519 => "EdDSA",
        }
    }
}

/// What signs.
enum Signer {
    Hmac,
    Rsa(RsaKeyPair, &'static dyn signature::RsaEncoding),
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

/// What checks.
enum Checker {
    Hmac(hmac::Key),
    Public(UnparsedPublicKey<Vec<u8>>),
}

/// Signs tokens, if it has a key for that, and checks them.
pub struct Signed {
    method: Method,
    /// `None`: there is a public key only, and somebody else signs.
    signer: Option<Signer>,
    checker: Checker,
    ttl: Duration,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for Signed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signed")
            .field("method", &self.method.name())
            .field("signs", &self.signer.is_some())
            .field("ttl", &self.ttl)
            .finish_non_exhaustive()
    }
}

impl Signed {
    /// Tokens of a method, with the content of the files that hold its keys. The private key alone is enough; a public key alone checks
    /// tokens only. The key of the methods HS is what the file for the private key holds.
    ///
    /// # Errors
    /// What does not fit.
    pub fn new(
        method: &str,
        public: Option<&[u8]>,
        private: Option<&[u8]>,
        ttl: Duration,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, KeyError> {
        let method = Method::named(method).ok_or_else(|| KeyError::Method(method.to_owned()))?;
        let (signer, own) = match (method, private) {
            (Method::Hmac(_, algorithm), private) => {
                let secret = private.filter(|secret| !secret.is_empty()).ok_or(KeyError::Missing)?;
                let checker = Checker::Hmac(hmac::Key::new(algorithm, secret));
                return Ok(Self { method, signer: Some(Signer::Hmac), checker, ttl, clock });
            }
            (_, None) => (None, None),
            (_, Some(private)) => {
                let (signer, public) = signer(method, private)?;
                (Some(signer), Some(public))
            }
        };
        let given =
            public.map(|public| pem::public_key(public, matches!(method, Method::Rsa(..)))).transpose()?;
        let public = match (own, given) {
            (Some(own), Some(given)) if own != given => return Err(KeyError::Mismatch),
            (Some(key), _) | (None, Some(key)) => key,
            (None, None) => return Err(KeyError::Missing),
        };
        let checker = Checker::Public(match method {
            Method::Rsa(_, RsaPair(_, check)) => UnparsedPublicKey::new(check, public),
            Method::Ecdsa(_, EcdsaPair(_, check)) => UnparsedPublicKey::new(check, public),
            Method::Ed25519 | Method::Hmac(..) => UnparsedPublicKey::new(&signature::ED25519, public),
        });
        Ok(Self { method, signer, checker, ttl, clock })
    }

    /// A token for a user, at an auth revision.
    pub(super) fn sign(&self, user: &str, revision: u64) -> Result<String, Failure> {
        let failed = |text: &'static str| Failure::new(Code::Unknown, text);
        // The text is etcd's.
        let signer = self
            .signer
            .as_ref()
            .ok_or_else(|| failed("auth: token signing attempted with verify-only key"))?;
        let header = json!({ "alg": self.method.name(), "typ": "JWT" });
        let over = self.clock.unix_millis() / 1_000 + self.ttl.as_secs();
        let claims = json!({ "username": user, "revision": revision, "exp": over });
        let encode = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let signed = format!("{}.{}", encode(&header), encode(&claims));
        let signature =
            self.signature(signer, signed.as_bytes()).ok_or_else(|| failed("the token was not signed"))?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    fn signature(&self, signer: &Signer, message: &[u8]) -> Option<Vec<u8>> {
        let random = SystemRandom::new();
        Some(match (signer, &self.checker) {
            (Signer::Hmac, Checker::Hmac(key)) => hmac::sign(key, message).as_ref().to_vec(),
            (Signer::Hmac, Checker::Public(_)) => return None,
            (Signer::Rsa(pair, encoding), _) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(*encoding, &random, message, &mut signature).ok()?;
                signature
            }
            (Signer::Ecdsa(pair), _) => pair.sign(&random, message).ok()?.as_ref().to_vec(),
            (Signer::Ed25519(pair), _) => pair.sign(message).as_ref().to_vec(),
        })
    }

    /// Whose a token is, and since when; `None` if it was not signed with our key, is over, or lacks something.
    pub(super) fn verify(&self, token: &str) -> Option<Identity> {
        if token.len() > TOKEN_BYTES {
            return None;
        }
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        let is_ours = match &self.checker {
            Checker::Hmac(key) => hmac::verify(key, signed.as_bytes(), &signature).is_ok(),
            Checker::Public(key) => key.verify(signed.as_bytes(), &signature).is_ok(),
        };
        if !is_ours {
            return None;
        }
        let decode =
            |part| -> Option<Value> { serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok() };
        let (header, claims) = (decode(header)?, decode(claims)?);
        if header.get("alg")?.as_str()? != self.method.name() {
            return None;
        }
        let now = self.clock.unix_millis() as f64 / 1_000.0;
        let holds = |name, holds: fn(f64, f64) -> bool| match claims.get(name) {
            None => true,
            Some(time) => time.as_f64().is_some_and(|time| holds(now, time)),
        };
        if !holds("exp", |now, exp| now < exp) || !holds("nbf", |now, nbf| now >= nbf) {
            return None;
        }
        let user = claims.get("username")?.as_str()?.to_owned();
        let revision = claims.get("revision")?;
        let revision = revision.as_u64().or_else(|| revision.as_f64().map(|number| number as u64))?;
        Some(Identity { user, revision })
    }
}

/// What signs with a private key, and the public key that belongs to it.
fn signer(method: Method, private: &[u8]) -> Result<(Signer, Vec<u8>), KeyError> {
    let rejected = |error: ring::error::KeyRejected| KeyError::Rejected(error.to_string());
    let key = pem::private_key(private)?;
    Ok(match method {
        Method::Rsa(_, RsaPair(encoding, _)) => {
            let pair = match &key {
                pem::Private::Pkcs8(der) => RsaKeyPair::from_pkcs8(der),
                pem::Private::Pkcs1(der) => RsaKeyPair::from_der(der),
                pem::Private::Sec1(_) => return Err(KeyError::Kind),
            };
            let pair = pair.map_err(rejected)?;
            let public = pair.public_key().as_ref().to_vec();
            (Signer::Rsa(pair, encoding), public)
        }
        Method::Ecdsa(name, EcdsaPair(sign, _)) => {
            let der = match key {
                pem::Private::Pkcs8(der) => der,
                pem::Private::Sec1(der) => pem::sec1_in_pkcs8(&der, name == "ES256"),
                pem::Private::Pkcs1(_) => return Err(KeyError::Kind),
            };
            let pair = EcdsaKeyPair::from_pkcs8(sign, &der, &SystemRandom::new()).map_err(rejected)?;
            let public = pair.public_key().as_ref().to_vec();
            (Signer::Ecdsa(pair), public)
        }
        Method::Ed25519 => {
            let pem::Private::Pkcs8(der) = key else { return Err(KeyError::Kind) };
            let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).map_err(rejected)?;
            let public = pair.public_key().as_ref().to_vec();
            (Signer::Ed25519(pair), public)
        }
        Method::Hmac(..) => return Err(KeyError::Kind),
    })
}

#[cfg(test)]
#[path = "tokens_tests.rs"]
mod tests;
