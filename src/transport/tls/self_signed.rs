//! A certificate that a process makes itself. It is kept in memory only: with the next start there is another one.

use std::time::Duration;

use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, date_time_ymd};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// Clocks differ.
const VALID_BEFORE: Duration = Duration::from_hours(1);

/// A certificate for these hosts with its key, valid from now on.
///
/// # Errors
/// A host that cannot be in a certificate.
pub(super) fn make(
    hosts: &[String],
    now_millis: u64,
    validity: Duration,
) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), String> {
    let failed =
        |error: rcgen::Error| format!("no certificate can be made for {}: {error}", hosts.join(", "));
    let key = KeyPair::generate().map_err(failed)?;
    let mut params = CertificateParams::new(hosts).map_err(failed)?;
    let now = date_time_ymd(1970, 1, 1) + Duration::from_millis(now_millis);
    params.not_before = now - VALID_BEFORE;
    params.not_after = now.checked_add(validity.try_into().unwrap_or_default()).unwrap_or(params.not_after);
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "setstone");
    let certificate = params.self_signed(&key).map_err(failed)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    Ok((certificate.der().clone(), key))
}
