//! The server's side of a handshake: bounded in time and number, and every failure counted.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsAcceptor;

use super::refusal::cause;
use super::{Allowed, Certificate, Material, Refusal};
use crate::env::Stream;
use crate::limits;
use crate::transport::Refusals;

/// The server's side of the handshakes of one port. Cheap to clone; clones share the bound.
#[derive(Clone)]
pub struct Acceptor(Arc<Shared>);

struct Shared {
    material: Material,
    turns: Semaphore,
    refusals: Refusals,
}

/// A connection after its handshake.
pub struct Secured {
    /// What is said on it.
    pub stream: Box<dyn Stream>,
    /// What whoever connected has shown; nobody has where no certificates are demanded.
    pub certificate: Option<Certificate>,
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acceptor").field("material", &self.0.material).finish_non_exhaustive()
    }
}

impl Acceptor {
    /// With these certificates; what is refused goes into `refusals`.
    pub fn new(material: Material, refusals: Refusals) -> Self {
        Self(Arc::new(Shared { material, turns: Semaphore::new(limits::TLS_HANDSHAKES), refusals }))
    }

    /// Does the handshake, within [`limits::TLS_HANDSHAKE_TIMEOUT`]. `None`: the connection is refused, and that was counted.
    pub async fn accept(&self, stream: Box<dyn Stream>, from: SocketAddr) -> Option<Secured> {
        let deadline = Instant::now() + limits::TLS_HANDSHAKE_TIMEOUT;
        let refuse = |why, detail: &dyn fmt::Display| self.0.refusals.refuse(why, from, detail);
        let Ok(Ok(_turn)) = timeout_at(deadline, self.0.turns.acquire()).await else {
            refuse(Refusal::Busy, &"its turn did not come in time");
            return None;
        };
        let Some(config) = self.0.material.server() else {
            refuse(Refusal::Handshake, &"there is no certificate to show");
            return None;
        };
        // In a box, so that the task of a connection is no larger for having been through this.
        let handshake = Box::pin(TlsAcceptor::from(config).accept(stream));
        let stream = match timeout_at(deadline, handshake).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                refuse(Refusal::of(&error), &error);
                return None;
            }
            Err(_) => {
                refuse(Refusal::Slow, &"the handshake was not done in time");
                return None;
            }
        };
        let certificate = Certificate::of(stream.get_ref().1.peer_certificates());
        if let Err(why) = allows(self.0.material.allowed(), certificate.as_ref()) {
            refuse(Refusal::WrongName, &why);
            return None;
        }
        Some(Secured { stream: Box::new(stream), certificate })
    }

    /// Counts a connection that is refused for what its certificate says.
    pub fn refuse(&self, from: SocketAddr, why: &dyn fmt::Display) {
        self.0.refusals.refuse(Refusal::WrongName, from, why);
    }
}

/// Whether a certificate is among those that are taken. Pure.
pub(super) fn allows(allowed: &Allowed, certificate: Option<&Certificate>) -> Result<(), String> {
    let Some(certificate) = certificate else {
        return match allowed {
            Allowed::Any => Ok(()),
            _ => Err("no certificate was shown".into()),
        };
    };
    match allowed {
        Allowed::Any => Ok(()),
        Allowed::CommonNames(names) => {
            let name = certificate.common_name();
            if names.contains(&name) {
                Ok(())
            } else {
                Err(format!("the common name {name:?} is not allowed"))
            }
        }
        Allowed::Hosts(hosts) if hosts.iter().any(|host| certificate.is_for(host)) => Ok(()),
        Allowed::Hosts(hosts) => {
            let names = certificate.names().join(", ");
            Err(format!("a certificate for {names:?} is for none of {}", hosts.join(", ")))
        }
    }
}

/// Whether a handshake failed because the certificate is for somebody else.
pub(super) fn is_for_another(error: &std::io::Error) -> bool {
    use rustls::{CertificateError, Error};
    matches!(
        cause(error),
        Some(Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }
        ))
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::tests::material;
    use super::*;
    use crate::metrics::Metrics;

    const FROM: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);

    fn acceptor(turns: usize) -> (Acceptor, Metrics, tempfile::TempDir) {
        let (directory, metrics) = (tempfile::tempdir().unwrap(), Metrics::new());
        let (material, refusals) = (material(directory.path()), Refusals::new("client", &metrics));
        let shared = Shared { material, turns: Semaphore::new(turns), refusals };
        (Acceptor(Arc::new(shared)), metrics, directory)
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_is_silent_is_cut_off() {
        for (turns, reason) in [(1, "handshake_slow"), (0, "handshakes_busy")] {
            let (acceptor, metrics, _directory) = acceptor(turns);
            let (_client, server) = tokio::io::duplex(64);
            let begin = Instant::now();
            assert!(acceptor.accept(Box::new(server), FROM).await.is_none());
            assert_eq!(begin.elapsed(), limits::TLS_HANDSHAKE_TIMEOUT);
            assert_eq!(metrics.refused_connection("client", reason).get(), 1, "{reason}");
            assert_eq!(acceptor.0.turns.available_permits(), turns);
        }
    }
}
