//! How commands connect: `--cacert`, `--cert`, `--key` and `--insecure-skip-tls-verify`, as etcdctl has them.

use std::path::PathBuf;

use clap::Args;

use super::exit::Failure;
use crate::client::{ClientTls, Connector, KeyPair};

/// TLS of a client.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct TlsOptions {
    /// Authorities that may have signed the members' certificates, in PEM (default: those that the system trusts). Endpoints without a scheme
    /// are then reached over TLS
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "SETSTONE_CACERT",
        help_heading = "Client options"
    )]
    cacert: Option<PathBuf>,
    /// The certificate to show, in PEM; needs --key
    #[arg(long, global = true, value_name = "FILE", env = "SETSTONE_CERT", help_heading = "Client options")]
    cert: Option<PathBuf>,
    /// The key of --cert, in PEM
    // Not the id that it would have: commands have keys of the store.
    #[arg(
        id = "tls_key",
        long = "key",
        global = true,
        value_name = "FILE",
        env = "SETSTONE_KEY",
        help_heading = "Client options"
    )]
    key: Option<PathBuf>,
    /// Takes any certificate of a member; for trying out only
    #[arg(long, global = true, env = "SETSTONE_INSECURE_SKIP_TLS_VERIFY", help_heading = "Client options")]
    insecure_skip_tls_verify: bool,
}

impl TlsOptions {
    /// TLS as the options say; `None` if they say nothing.
    pub(super) fn connector(&self) -> Result<Option<Connector>, Failure> {
        let identity = match (&self.cert, &self.key) {
            (Some(certificate), Some(key)) => {
                Some(KeyPair { certificate: certificate.clone(), key: key.clone() })
            }
            (None, None) => None,
            (Some(_), None) => return Err(Failure::usage("--cert is of no use without --key")),
            (None, Some(_)) => return Err(Failure::usage("--key is of no use without --cert")),
        };
        if identity.is_none() && self.cacert.is_none() && !self.insecure_skip_tls_verify {
            return Ok(None);
        }
        let tls = ClientTls {
            trusted_ca: self.cacert.clone(),
            identity,
            takes_any_server: self.insecure_skip_tls_verify,
        };
        Connector::new(tls).map(Some).map_err(|error| Failure::usage(format!("TLS: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_has_a_key() {
        let none = TlsOptions::default();
        assert!(none.connector().unwrap().is_none());
        for (cert, key, said) in [(Some("c"), None, "without --key"), (None, Some("k"), "without --cert")] {
            let one = TlsOptions { cert: cert.map(Into::into), key: key.map(Into::into), ..none.clone() };
            assert!(one.connector().unwrap_err().text.contains(said));
        }
        let absent = TlsOptions { cacert: Some("/nowhere/ca.pem".into()), ..none.clone() };
        assert!(absent.connector().unwrap_err().text.starts_with("TLS: /nowhere/ca.pem: "));
        assert!(TlsOptions { insecure_skip_tls_verify: true, ..none }.connector().unwrap().is_some());
    }
}
