//! The client's side of a handshake.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;

use super::accept::{allows, is_for_another};
use super::{Certificate, ClientTls, Material, TlsError};
use crate::env::clock::SystemClock;
use crate::env::real_files::RealFiles;
use crate::env::tasks::Threads;
use crate::env::{Stream, Tasks};

/// Makes connections secure. Cheap to clone.
#[derive(Clone)]
pub struct Connector(Arc<Source>);

enum Source {
    /// What somebody else keeps up to date.
    Kept(Material),
    /// What is looked at before each connection.
    Looked(Material),
    /// There is none, and why.
    None(TlsError),
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            Source::Kept(material) | Source::Looked(material) => {
                f.debug_tuple("Connector").field(material).finish()
            }
            Source::None(error) => f.debug_tuple("Connector").field(error).finish(),
        }
    }
}

impl Connector {
    /// For a client. Reads the files now, and whenever it connects: what has changed is used, unless it is broken.
    ///
    /// # Errors
    /// Which file cannot be read or used.
    pub fn new(tls: ClientTls) -> Result<Self, TlsError> {
        let material = Material::of_client(tls, Arc::new(RealFiles), Arc::new(SystemClock))?;
        Ok(Self(Arc::new(Source::Looked(material))))
    }

    /// For a client of servers that an authority of the system has signed for. Where there is none, connections fail and say so.
    pub fn of_system() -> Self {
        Self::new(ClientTls::default()).unwrap_or_else(|error| Self(Arc::new(Source::None(error))))
    }

    /// For members.
    pub fn of_peers(material: Material) -> Self {
        Self(Arc::new(Source::Kept(material)))
    }

    /// Does the handshake with the server that is expected to be `host`, a name (without a dot at its end) or an address. The caller sets the
    /// deadline.
    ///
    /// # Errors
    /// It is somebody else ([`is_name_mismatch`]), nobody who is trusted, or does not speak TLS.
    pub async fn connect(&self, stream: Box<dyn Stream>, host: &str) -> io::Result<Box<dyn Stream>> {
        let material = self.material().await?;
        let (stream, _) = shake_hands(material, material.client(), stream, host).await?;
        Ok(stream)
    }

    /// As [`Connector::connect`] with the server at `address`, whatever its name: the caller looks at its certificate.
    ///
    /// # Errors
    /// As there.
    pub async fn connect_to_unknown(
        &self,
        stream: Box<dyn Stream>,
        address: IpAddr,
    ) -> io::Result<(Box<dyn Stream>, Certificate)> {
        let material = self.material().await?;
        let config = material.client_of_any_name();
        let (stream, certificate) = shake_hands(material, config, stream, &address.to_string()).await?;
        let certificate = certificate.ok_or_else(|| io::Error::other("no certificate was shown"))?;
        Ok((stream, certificate))
    }

    async fn material(&self) -> io::Result<&Material> {
        Ok(match &*self.0 {
            Source::Kept(material) => material,
            Source::Looked(material) => {
                let looking = material.clone();
                Threads.blocking(Box::new(move || looking.look())).await;
                material
            }
            Source::None(error) => return Err(io::Error::other(error.clone())),
        })
    }
}

/// The handshake, and what the server has shown.
async fn shake_hands(
    material: &Material,
    config: Option<Arc<ClientConfig>>,
    stream: Box<dyn Stream>,
    host: &str,
) -> io::Result<(Box<dyn Stream>, Option<Certificate>)> {
    let config = config.ok_or_else(|| io::Error::other("there is no TLS to connect with"))?;
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, format!("{host:?} is no name for TLS")))?;
    let stream = Box::pin(TlsConnector::from(config).connect(name, stream)).await?;
    let certificate = Certificate::of(stream.get_ref().1.peer_certificates());
    allows(material.allowed(), certificate.as_ref()).map_err(io::Error::other)?;
    Ok((Box::new(stream), certificate))
}

/// How rustls tells that the server has refused the certificate, or that there was none. HTTP/2 keeps of an error only its text.
const REFUSALS: [&str; 8] = [
    "AccessDenied",
    "BadCertificate",
    "CertificateExpired",
    "CertificateRequired",
    "CertificateRevoked",
    "CertificateUnknown",
    "UnknownCA",
    "UnsupportedCertificate",
];

/// Whether an error's text is that of a connection that the server has refused for the certificate that it was shown. In TLS 1.3 that
/// comes after the client's handshake, so that requests may have been sent already; none was looked at.
pub fn says_certificate_is_refused(text: &str) -> bool {
    text.split("received fatal alert: ")
        .skip(1)
        .any(|rest| REFUSALS.iter().any(|alert| rest.starts_with(alert)))
}

/// Whether a connection failed because somebody else answers there: its certificate is good, and for another name.
pub fn is_name_mismatch(error: &io::Error) -> bool {
    is_for_another(error)
}

#[cfg(test)]
mod tests {
    use rustls::{AlertDescription, Error};

    use super::*;

    #[test]
    fn a_refused_certificate_is_told_from_other_alerts() {
        let said = |alert| says_certificate_is_refused(&format!("broken: {}", Error::AlertReceived(alert)));
        for alert in [
            AlertDescription::AccessDenied,
            AlertDescription::BadCertificate,
            AlertDescription::CertificateExpired,
            AlertDescription::CertificateRequired,
            AlertDescription::CertificateRevoked,
            AlertDescription::CertificateUnknown,
            AlertDescription::UnknownCA,
            AlertDescription::UnsupportedCertificate,
        ] {
            assert!(said(alert), "{alert:?}");
        }
        for alert in
            [AlertDescription::InternalError, AlertDescription::DecryptError, AlertDescription::CloseNotify]
        {
            assert!(!said(alert), "{alert:?}");
        }
        assert!(!says_certificate_is_refused("CertificateRequired"));
    }
}
