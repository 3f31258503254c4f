//! Who gets nowhere on the client port, each counted by its reason; and what whoever gets in finds there.

use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject;
use setstone::Config;
use setstone::client::{ClientTls, Connector, Kv};
use setstone::transport::tls::{Protocol, Tls, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::authority::{Authority, Wanted};
use super::world::{World, alone, connected, hasty, is_refused, refused, remote, start};

#[tokio::test]
async fn without_a_good_certificate_there_is_no_answer() {
    let world = World::new();
    let crl = Some(world.shelf.put("crl.pem", &world.authority.revoke(&[5, 6])));
    let node = alone(Some(Tls { crl, ..world.mutual() })).await;
    let at = node.addresses().client;
    let signed = |wanted: Wanted<'_>| Some(world.authority.sign(&wanted));
    let alice = Wanted { common_name: "alice", ..Wanted::default() };
    // Of the same name, so that only its key tells it from the other.
    let impostor = Authority::new("the authority").sign(&alice);
    let stranger = Authority::new("another authority").sign(&alice);
    for (name, certificate, reason) in [
        ("none", None, "no_certificate"),
        ("stranger", Some(stranger), "unknown_authority"),
        ("impostor", Some(impostor), "unknown_authority"),
        ("late", signed(Wanted { days: (-3, -1), ..alice.clone() }), "expired"),
        ("early", signed(Wanted { days: (1, 3), ..alice.clone() }), "expired"),
        ("revoked", signed(Wanted { serial: 6, ..alice.clone() }), "revoked"),
    ] {
        let before = refused(&node, "client", reason);
        let client = world.shelf.client(name, &world.authority, certificate.as_ref());
        hasty(at, Some(client)).put("k", name).await.unwrap_err();
        is_refused(&node, "client", reason, before).await;
    }
    let good = signed(Wanted { serial: 7, ..alice });
    let good = remote(at, Some(world.shelf.client("good", &world.authority, good.as_ref())));
    assert!(good.get("k").await.unwrap().is_none(), "nobody has written");
    good.put("k", "v").await.unwrap();
    node.shutdown().await;
}

#[tokio::test]
async fn a_port_speaks_tls_with_everybody_or_with_nobody() {
    let world = World::new();
    let secure = alone(Some(world.one_sided())).await;
    let plain = alone(None).await;
    for request in [&b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n"[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let before = refused(&secure, "client", "plain_text");
        let mut stream = connected(secure.addresses().client).await;
        stream.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        // It may be closed with a reset.
        let _ = stream.read_to_end(&mut answer).await;
        assert!(!String::from_utf8_lossy(&answer).contains("HTTP/1.1"), "{answer:?}");
        is_refused(&secure, "client", "plain_text", before).await;
    }
    hasty(secure.addresses().client, None).put("k", "v").await.unwrap_err();
    assert!(remote(secure.addresses().client, Some(world.nobody())).get("k").await.unwrap().is_none());

    hasty(plain.addresses().client, Some(world.nobody())).put("k", "v").await.unwrap_err();
    is_refused(&plain, "client", "tls_on_plain_port", 0).await;
    assert!(remote(plain.addresses().client, None).get("k").await.unwrap().is_none());
    secure.shutdown().await;
    plain.shutdown().await;
}

#[tokio::test]
async fn a_client_that_trusts_somebody_else_sends_nothing() {
    let world = World::new();
    let node = alone(Some(world.one_sided())).await;
    let other = world.shelf.client("other", &Authority::new("another authority"), None);
    let error = hasty(node.addresses().client, Some(other)).put("k", "v").await.unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");
    is_refused(&node, "client", "not_trusted", 0).await;
    // Its certificate is for localhost, not for this name of the same address.
    let stream = connected(node.addresses().client).await;
    let connector = Connector::new(world.nobody()).unwrap();
    let error = connector.connect(Box::new(stream), "elsewhere.example").await.err().unwrap();
    assert!(setstone::transport::tls::is_name_mismatch(&error), "{error}");
    node.shutdown().await;
}

#[tokio::test]
async fn health_and_json_are_behind_tls_too() {
    let world = World::new();
    let node = alone(Some(world.one_sided())).await;
    let connector = Connector::new(world.nobody()).unwrap();
    for (request, expected) in [
        ("GET /health HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n", "\"health\":\"true\""),
        (
            "POST /v3/kv/put HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 26\r\n\r\n{\"key\":\"aw==\",\"value\":\"\"}\n",
            "\"revision\":\"2\"",
        ),
    ] {
        let stream = connected(node.addresses().client).await;
        let mut stream = connector.connect(Box::new(stream), "localhost").await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer).await;
        assert!(answer.contains(expected), "{answer}");
    }
    node.shutdown().await;
}

/// The version that is spoken with whoever offers only these.
async fn spoken(
    world: &World,
    at: std::net::SocketAddr,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> std::io::Result<rustls::ProtocolVersion> {
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(rustls::pki_types::CertificateDer::from_pem_slice(world.authority.pem.as_bytes()).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let name = ServerName::try_from("localhost").unwrap();
    let stream =
        tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, connected(at).await).await?;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    Ok(stream.get_ref().1.protocol_version().unwrap())
}

#[tokio::test]
async fn an_old_version_of_tls_is_refused() {
    use rustls::ProtocolVersion::{TLSv1_2, TLSv1_3};
    use rustls::version::{TLS12, TLS13};
    let world = World::new();
    let with = |min, max| Tls { protocol: Protocol { min, max, ..Protocol::default() }, ..world.one_sided() };
    let new = alone(Some(with(Version::Tls13, Version::Tls13))).await;
    let at = new.addresses().client;
    assert_eq!(spoken(&world, at, &[&TLS13, &TLS12]).await.unwrap(), TLSv1_3);
    spoken(&world, at, &[&TLS12]).await.unwrap_err();
    is_refused(&new, "client", "tls_version", 0).await;
    let old = alone(Some(with(Version::Tls12, Version::Tls12))).await;
    let at = old.addresses().client;
    assert_eq!(spoken(&world, at, &[&TLS13, &TLS12]).await.unwrap(), TLSv1_2);
    spoken(&world, at, &[&TLS13]).await.unwrap_err();
    is_refused(&old, "client", "tls_version", 0).await;
    new.shutdown().await;
    old.shutdown().await;
}

#[tokio::test]
async fn a_certificate_of_its_own_making_is_taken_by_whoever_takes_any() {
    let world = World::new();
    let identity = setstone::transport::tls::Identity::SelfSigned {
        validity: std::time::Duration::from_secs(24 * 60 * 60),
    };
    let node = alone(Some(Tls::with(identity))).await;
    let anyone = ClientTls { takes_any_server: true, ..ClientTls::default() };
    let client = remote(node.addresses().client, Some(anyone));
    client.put("k", "v").await.unwrap();
    let listed = setstone::client::Client::members(&client).await.unwrap().value;
    assert!(listed[0].client_urls[0].starts_with("https://127.0.0.1:"), "{listed:?}");
    hasty(node.addresses().client, Some(world.nobody())).get("k").await.unwrap_err();
    node.shutdown().await;
}

#[tokio::test]
async fn files_that_are_no_certificates_are_refused_at_the_start() {
    let world = World::new();
    let good = world.mutual();
    let nonsense = world.shelf.put("nonsense.pem", "nonsense");
    let other = world.shelf.keep("other", &world.server());
    let absent = world.shelf.path("absent.pem");
    let mismatched =
        setstone::transport::tls::KeyPair { key: other.key, certificate: world.shelf.path("server.crt") };
    let wrong = [
        (Tls { trusted_ca: Some(nonsense.clone()), ..good.clone() }, "nonsense.pem: there is no certificate"),
        (Tls { trusted_ca: Some(absent), ..good.clone() }, "absent.pem: "),
        (Tls { crl: Some(nonsense), ..good.clone() }, "nonsense.pem: there is no revocation list"),
        (
            Tls { identity: setstone::transport::tls::Identity::Files(mismatched), ..good.clone() },
            "other.key: ",
        ),
        (Tls { trusted_ca: None, ..good }, "which authorities are trusted"),
    ];
    for (tls, said) in wrong {
        let config = Config { client_tls: Some(tls), ..Config::in_memory("alone") };
        let error = setstone::Node::start(config).await.err().unwrap().to_string();
        assert!(error.contains(said), "{error}");
    }
    start(Config::in_memory("alone")).await.shutdown().await;
}
