//! An authority that signs certificates and takes them back, and where they are kept.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams,
    SerialNumber, date_time_ymd,
};
use setstone::client::ClientTls;
use setstone::transport::tls;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Signs certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its own certificate, in PEM.
    pub pem: String,
}

/// What a certificate says.
#[derive(Clone)]
pub struct Wanted<'a> {
    pub common_name: &'a str,
    pub hosts: &'a [&'a str],
    /// The days from now on which it begins and ends to be valid.
    pub days: (i32, i32),
    pub serial: u64,
}

impl Default for Wanted<'_> {
    fn default() -> Self {
        Self { common_name: "", hosts: &[], days: (-1, 1), serial: 1 }
    }
}

/// What can be revoked or not be valid yet, by its kind; the type of times is not of a crate that the tests name.
macro_rules! days_from_now {
    ($days:expr) => {{
        let days: i32 = $days;
        let now = date_time_ymd(1970, 1, 1) + SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        if days < 0 { now - DAY * days.unsigned_abs() } else { now + DAY * days.unsigned_abs() }
    }};
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self { issuer: Issuer::new(params, key), pem: pem("CERTIFICATE", certificate.der()) }
    }

    /// A certificate and its key, in PEM.
    pub fn sign(&self, wanted: &Wanted<'_>) -> (String, String) {
        let hosts: Vec<String> = wanted.hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, wanted.common_name);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.serial_number = Some(SerialNumber::from(wanted.serial));
        (params.not_before, params.not_after) =
            (days_from_now!(wanted.days.0), days_from_now!(wanted.days.1));
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (pem("CERTIFICATE", certificate.der()), pem("PRIVATE KEY", &key.serialize_der()))
    }

    /// A revocation list with these numbers, in PEM.
    pub fn revoke(&self, serials: &[u64]) -> String {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: days_from_now!(-1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: days_from_now!(-1),
            next_update: days_from_now!(1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        pem("X509 CRL", params.signed_by(&self.issuer).unwrap().der())
    }
}

/// Certificates, keys and lists in files.
pub struct Shelf(tempfile::TempDir);

impl Shelf {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Puts something into a file, at once as whoever keeps certificates does.
    pub fn put(&self, name: &str, content: &str) -> PathBuf {
        let (path, beside) = (self.path(name), self.path(&format!("{name}.new")));
        std::fs::write(&beside, content).unwrap();
        std::fs::rename(beside, &path).unwrap();
        path
    }

    /// Puts a certificate and its key into `NAME.crt` and `NAME.key`.
    pub fn keep(&self, name: &str, signed: &(String, String)) -> tls::KeyPair {
        // The key first: between the two they do not fit.
        let key = self.put(&format!("{name}.key"), &signed.1);
        tls::KeyPair { certificate: self.put(&format!("{name}.crt"), &signed.0), key }
    }

    /// A client that trusts this authority and shows this certificate.
    pub fn client(&self, name: &str, trusted: &Authority, shown: Option<&(String, String)>) -> ClientTls {
        let ca = self.put(&format!("{name}-ca.crt"), &trusted.pem);
        let identity = shown.map(|signed| self.keep(name, signed));
        ClientTls { trusted_ca: Some(ca), identity, takes_any_server: false }
    }
}

/// Where a path ends, for options.
pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
