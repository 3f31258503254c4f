//! How users show who they are.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::go_time;
use crate::limits;

/// How users show who they are, once authentication is enabled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthConfig {
    /// What tokens are.
    pub tokens: Tokens,
    /// Time that a simple token lives after it was last used.
    pub token_ttl: Duration,
    /// Work that hashing a password takes, as a power of two: bcrypt's cost.
    pub bcrypt_cost: u32,
    /// The common name of a client's certificate is the user who calls, unless a token says otherwise: etcd's `--client-cert-auth`.
    pub common_names: bool,
}

impl Default for AuthConfig {
    fn default() -> Self {
        Self {
            tokens: Tokens::Simple,
            token_ttl: limits::TOKEN_TTL,
            bcrypt_cost: limits::BCRYPT_COST,
            common_names: false,
        }
    }
}

/// What tokens are. All members must have the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tokens {
    /// Random letters that the members remember.
    Simple,
    /// Signed.
    Jwt(Jwt),
}

/// Tokens that are signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jwt {
    /// How: `RS256`, `ES256`, `HS256` and others of RFC 7518.
    pub method: String,
    /// File with the public key, in PEM. Not needed beside the private key.
    pub public_key: Option<PathBuf>,
    /// File with the private key, in PEM; for `HS…` with the secret. Without it tokens are checked, and somebody else signs them.
    pub private_key: Option<PathBuf>,
    /// Time that a token lives.
    pub ttl: Duration,
}

impl AuthConfig {
    /// Says what does not go together, if anything.
    pub(super) fn validate(&self) -> Result<(), String> {
        let (least, most) = (limits::BCRYPT_COST_MIN, limits::BCRYPT_COST_MAX);
        if !(least..=most).contains(&self.bcrypt_cost) {
            return Err(format!("a bcrypt cost of {} is not from {least} to {most}", self.bcrypt_cost));
        }
        let ttl = match &self.tokens {
            Tokens::Simple => self.token_ttl,
            Tokens::Jwt(jwt) => jwt.ttl,
        };
        if ttl < Duration::from_secs(1) {
            return Err(format!("tokens that live for {ttl:?} are of no use; 1s is the least"));
        }
        Ok(())
    }
}

/// As etcd's `--auth-token`: `simple`, or `jwt,sign-method=…,priv-key=…,pub-key=…,ttl=…`.
impl FromStr for Tokens {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split(',');
        match parts.next() {
            Some("simple") => match parts.next() {
                None => Ok(Self::Simple),
                Some(option) => Err(format!("{option:?} is no option; simple tokens have none")),
            },
            Some("jwt") => jwt(parts).map(Self::Jwt),
            _ => Err("is no kind of tokens; simple and jwt,… are".into()),
        }
    }
}

fn jwt<'a>(options: impl Iterator<Item = &'a str>) -> Result<Jwt, String> {
    let (mut method, mut public_key, mut private_key, mut ttl) = (None, None, None, None);
    for option in options {
        let (name, value) = option.split_once('=').ok_or_else(|| format!("{option:?} is not NAME=VALUE"))?;
        let slot = match name {
            "sign-method" => &mut method,
            "pub-key" => &mut public_key,
            "priv-key" => &mut private_key,
            "ttl" => &mut ttl,
            _ => return Err(format!("{name:?} is no option; sign-method, pub-key, priv-key and ttl are")),
        };
        if slot.replace(value.to_owned()).is_some() {
            return Err(format!("{name} is there twice"));
        }
    }
    Ok(Jwt {
        method: method.ok_or("sign-method is missing")?,
        public_key: public_key.map(PathBuf::from),
        private_key: private_key.map(PathBuf::from),
        ttl: ttl.map_or(Ok(limits::TOKEN_TTL), |text| go_time::parse(&text))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_written_as_etcd_writes_them() {
        assert_eq!("simple".parse(), Ok(Tokens::Simple));
        let jwt = |text: &str| match text.parse() {
            Ok(Tokens::Jwt(jwt)) => jwt,
            other => panic!("{other:?}"),
        };
        let all = jwt("jwt,pub-key=/a/b.pub,priv-key=/a/b.pem,sign-method=RS256,ttl=1h30m");
        assert_eq!((all.method.as_str(), all.ttl), ("RS256", Duration::from_mins(90)));
        assert_eq!(all.public_key, Some("/a/b.pub".into()));
        assert_eq!(all.private_key, Some("/a/b.pem".into()));
        assert_eq!(jwt("jwt,sign-method=HS256,priv-key=k").ttl, limits::TOKEN_TTL);
        for (text, said) in [
            ("", "is no kind"),
            ("opaque", "is no kind"),
            ("simple,ttl=5s", "simple tokens have none"),
            ("jwt", "sign-method is missing"),
            ("jwt,RS256", "is not NAME=VALUE"),
            ("jwt,sign-method=RS256,sign-method=RS256", "is there twice"),
            ("jwt,sign-method=RS256,key=x", "is no option"),
            ("jwt,sign-method=RS256,ttl=5", "is no time"),
            ("jwt,sign-method=RS256,ttl=5d", "is no time"),
            ("jwt,sign-method=RS256,ttl=-5s", "is no time"),
            ("jwt,sign-method=RS256,ttl=", "is no time"),
        ] {
            let error = text.parse::<Tokens>().unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
    }

    #[test]
    fn what_cannot_be_is_said() {
        let good = AuthConfig::default();
        assert_eq!(good.validate(), Ok(()));
        for bcrypt_cost in [3, 19] {
            assert!(AuthConfig { bcrypt_cost, ..good.clone() }.validate().is_err());
        }
        assert!(AuthConfig { token_ttl: Duration::ZERO, ..good }.validate().is_err());
    }
}
