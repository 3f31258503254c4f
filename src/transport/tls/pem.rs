//! Certificates, keys and revocation lists as files hold them. Pure.

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

/// The certificates in a file, at least one.
pub(super) fn certificates(file: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(file).collect();
    match read {
        Ok(none) if none.is_empty() => Err("there is no certificate in PEM in it".into()),
        read => read.map_err(|error| format!("its certificates cannot be read: {error}")),
    }
}

/// The first private key in a file.
pub(super) fn private_key(file: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    // Without rustls' reason, which may quote the file.
    PrivateKeyDer::from_pem_slice(file).map_err(|_| "there is no private key in PEM in it".into())
}

/// The authorities in a file.
pub(super) fn authorities(file: &[u8]) -> Result<RootCertStore, String> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(file)? {
        store
            .add(certificate)
            .map_err(|error| format!("one of its certificates is none of an authority: {error}"))?;
    }
    Ok(store)
}

/// The revocation lists in a file: one in DER, or some in PEM.
pub(super) fn revocation_lists(file: &[u8]) -> Result<Vec<CertificateRevocationListDer<'static>>, String> {
    const SEQUENCE: u8 = 0x30;
    if file.first() == Some(&SEQUENCE) {
        return Ok(vec![CertificateRevocationListDer::from(file.to_vec())]);
    }
    let read: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(file).collect();
    match read {
        Ok(none) if none.is_empty() => Err("there is no revocation list in it".into()),
        read => read.map_err(|error| format!("its revocation lists cannot be read: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_said() {
        for file in [&b""[..], b"nonsense", b"-----BEGIN CERTIFICATE-----\nAAAA\n", b"\xff\xfe"] {
            assert!(certificates(file).is_err() && authorities(file).is_err());
            assert!(private_key(file).is_err() && revocation_lists(file).is_err());
        }
        let broken = b"-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n";
        assert!(certificates(broken).is_err_and(|said| said.contains("cannot be read")));
        let empty = b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
        assert!(authorities(empty).is_err_and(|said| said.contains("none of an authority")));
        assert_eq!(
            revocation_lists(&[0x30, 0]).unwrap().len(),
            1,
            "what is in it is looked at where it is used"
        );
    }
}
