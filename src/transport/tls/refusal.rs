//! Why a connection is refused: for the counter, and for people. Pure.

use std::io;

use rustls::{CertificateError, Error, InvalidMessage};

/// Why a connection is refused before anything is asked on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refusal {
    /// No certificate was shown where one is demanded.
    NoCertificate,
    /// Its certificate is signed by nobody who is trusted.
    UnknownAuthority,
    /// Its certificate is not valid any more, or not yet.
    Expired,
    /// Its certificate was revoked.
    Revoked,
    /// Its certificate is good, and not of somebody who may connect here.
    WrongName,
    /// It does not speak TLS.
    PlainText,
    /// It speaks TLS to a port that does not.
    TlsOnPlainPort,
    /// No version of TLS and no cipher suite that both speak.
    Version,
    /// It did not take this process's certificate.
    NotTrusted,
    /// The handshake was not done in time.
    Slow,
    /// Too many handshakes were being made.
    Busy,
    /// The handshake failed otherwise.
    Handshake,
}

impl Refusal {
    /// The label of its counter.
    pub fn label(self) -> &'static str {
        match self {
            Self::NoCertificate => "no_certificate",
            Self::UnknownAuthority => "unknown_authority",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::WrongName => "wrong_name",
            Self::PlainText => "plain_text",
            Self::TlsOnPlainPort => "tls_on_plain_port",
            Self::Version => "tls_version",
            Self::NotTrusted => "not_trusted",
            Self::Slow => "handshake_slow",
            Self::Busy => "handshakes_busy",
            Self::Handshake => "handshake",
        }
    }

    /// What the failure of a handshake means.
    pub(super) fn of(error: &io::Error) -> Self {
        match cause(error) {
            Some(Error::NoCertificatesPresented) => Self::NoCertificate,
            Some(Error::InvalidCertificate(wrong)) => match wrong {
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. } => Self::Expired,
                CertificateError::Revoked => Self::Revoked,
                CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::UnknownAuthority,
                _ => Self::Handshake,
            },
            Some(Error::InvalidMessage(InvalidMessage::InvalidContentType)) => Self::PlainText,
            Some(Error::PeerIncompatible(_)) => Self::Version,
            Some(Error::AlertReceived(_)) => Self::NotTrusted,
            _ => Self::Handshake,
        }
    }
}

/// What rustls says.
pub(super) fn cause(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}
