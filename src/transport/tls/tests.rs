//! Files that change, and handshakes that do not come to an end.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::CertificateParams;

use super::*;
use crate::env::Clock;
use crate::env::clock::SystemClock;
use crate::env::real_files::RealFiles;

fn put(path: &Path, label: &str, der: &[u8]) {
    let text = format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der));
    std::fs::write(path, text).unwrap();
}

/// A certificate for `localhost` and its key in `directory`.
pub(super) fn files(directory: &Path) -> KeyPair {
    let pair = KeyPair { certificate: directory.join("a.crt"), key: directory.join("a.key") };
    let key = rcgen::KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    put(&pair.certificate, "CERTIFICATE", params.self_signed(&key).unwrap().der());
    put(&pair.key, "PRIVATE KEY", &key.serialize_der());
    pair
}

/// What a port has with those.
pub(super) fn material(directory: &Path) -> Material {
    let tls = Tls::with(Identity::Files(files(directory)));
    Material::of_port(&tls, Vec::new(), Arc::new(RealFiles), Arc::new(SystemClock)).unwrap()
}

#[test]
fn what_is_broken_changes_nothing_and_what_is_good_is_taken() {
    let directory = tempfile::tempdir().unwrap();
    let material = material(directory.path());
    let first = material.server().unwrap();
    let is_first = || Arc::ptr_eq(&first, &material.server().unwrap());
    material.look();
    assert!(is_first(), "nothing has changed");
    let key = std::fs::read(directory.path().join("a.key")).unwrap();
    files(directory.path());
    std::fs::write(directory.path().join("a.key"), key).unwrap();
    material.look();
    assert!(is_first(), "the key is not the certificate's");
    std::fs::write(directory.path().join("a.crt"), "nonsense").unwrap();
    material.look();
    std::fs::remove_file(directory.path().join("a.crt")).unwrap();
    material.look();
    assert!(is_first());
    files(directory.path());
    material.look();
    assert!(!is_first());
    assert!(material.client().is_none(), "a port of clients connects to nobody");
}

/// A clock that the test moves.
#[derive(Debug, Default)]
struct Moved(std::sync::atomic::AtomicU64);

impl Clock for Moved {
    fn unix_millis(&self) -> u64 {
        self.0.load(std::sync::atomic::Ordering::Relaxed)
    }
}

#[test]
fn a_certificate_of_ones_own_making_is_replaced_in_time() {
    let clock = Arc::new(Moved::default());
    let validity = Duration::from_hours(2);
    let tls = Tls::with(Identity::SelfSigned { validity });
    let hosts = vec!["localhost".to_owned(), "10.0.0.1".to_owned()];
    let material = Material::of_peers(&tls, hosts, Arc::new(RealFiles), clock.clone()).unwrap();
    let first = material.server().unwrap();
    assert!(material.client().is_some());
    let is_first = || Arc::ptr_eq(&first, &material.server().unwrap());
    clock.0.store(59 * 60_000, std::sync::atomic::Ordering::Relaxed);
    material.look();
    assert!(is_first());
    clock.0.store(60 * 60_000, std::sync::atomic::Ordering::Relaxed);
    material.look();
    assert!(!is_first(), "half of its time is over");
}
