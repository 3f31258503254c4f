//! Authorities, what they sign, and the Secrets that hold it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use serde_json::{Value, json};

use super::world::Step;

/// Signs certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its own certificate, in PEM.
    pub pem: String,
}

/// A certificate and its key, in PEM.
pub struct Signed {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    pub fn new(name: &str) -> Step<Self> {
        let mut params = params(name, &[])?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().map_err(said)?;
        let certificate = params.self_signed(&key).map_err(said)?;
        Ok(Self { pem: pem("CERTIFICATE", certificate.der()), issuer: Issuer::new(params, key) })
    }

    /// A certificate for these names and addresses.
    pub fn sign(&self, name: &str, hosts: &[String]) -> Step<Signed> {
        let mut params = params(name, hosts)?;
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().map_err(said)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(said)?;
        Ok(Signed {
            certificate: pem("CERTIFICATE", certificate.der()),
            key: pem("PRIVATE KEY", &key.serialize_der()),
        })
    }
}

impl Signed {
    /// A Secret with this certificate, and the authorities that whoever has it trusts.
    pub fn secret(&self, name: &str, authorities: &str) -> Value {
        let named = |file: &str| file.to_owned();
        files(
            name,
            &[
                (named("ca.crt"), authorities),
                (named("tls.crt"), &self.certificate),
                (named("tls.key"), &self.key),
            ],
        )
    }
}

/// A Secret with these files.
pub fn files(name: &str, files: &[(String, &str)]) -> Value {
    let data: serde_json::Map<_, _> =
        files.iter().map(|(file, content)| (file.clone(), json!(content))).collect();
    json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name }, "stringData": data })
}

fn params(name: &str, hosts: &[String]) -> Step<CertificateParams> {
    let mut params = CertificateParams::new(hosts.to_vec()).map_err(said)?;
    params.distinguished_name.push(DnType::CommonName, name);
    Ok(params)
}

fn said(error: rcgen::Error) -> String {
    error.to_string()
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}
