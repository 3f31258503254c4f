//! Signed tokens, with keys in every form that they come in, against forgeries of every kind.

use std::sync::atomic::{AtomicU64, Ordering};

use super::*;

/// A clock that is set.
#[derive(Debug, Default)]
struct Set(AtomicU64);

impl Clock for Set {
    fn unix_millis(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! key {
    ($name:literal) => {
        include_bytes!(concat!("../../tests/fixtures/keys/", $name)).as_slice()
    };
}

const TTL: Duration = Duration::from_mins(5);

fn signed(method: &str, public: Option<&[u8]>, private: Option<&[u8]>) -> Result<Signed, KeyError> {
    Signed::new(method, public, private, TTL, Arc::new(Set::default()))
}

/// Every way to sign, with its key in every form.
fn all() -> Vec<(&'static str, &'static [u8], &'static [u8])> {
    let mut all = Vec::new();
    for method in ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"] {
        all.push((method, key!("rsa.pub"), key!("rsa.pem")));
        all.push((method, key!("rsa.pub"), key!("rsa-pkcs1.pem")));
    }
    all.push(("ES256", key!("ec.pub"), key!("ec.pem")));
    all.push(("ES256", key!("ec.pub"), key!("ec-pkcs8.pem")));
    all.push(("ES384", key!("ec384.pub"), key!("ec384.pem")));
    all.push(("EdDSA", key!("ed.pub"), key!("ed.pem")));
    all
}

#[test]
fn whoever_signs_and_whoever_only_checks_agree() {
    let alice = Identity { user: "alice".into(), revision: 7 };
    for (method, public, private) in all() {
        let signer = signed(method, None, Some(private)).unwrap_or_else(|error| panic!("{method}: {error}"));
        let token = signer.sign("alice", 7).unwrap();
        assert_eq!(signer.verify(&token), Some(alice.clone()), "{method}");
        let checker = signed(method, Some(public), None).unwrap();
        assert_eq!(checker.verify(&token), Some(alice.clone()), "{method}");
        assert!(signed(method, Some(public), Some(private)).is_ok(), "{method}");
        assert_eq!(
            checker.sign("alice", 7).unwrap_err().text,
            "auth: token signing attempted with verify-only key"
        );
    }
    for method in ["HS256", "HS384", "HS512"] {
        let secret = signed(method, None, Some(b"any bytes at all")).unwrap();
        let token = secret.sign("alice", 7).unwrap();
        assert_eq!(secret.verify(&token), Some(alice.clone()));
        assert_eq!(signed(method, None, Some(b"other bytes")).unwrap().verify(&token), None);
    }
}

#[test]
fn a_token_of_another_key_or_method_or_of_none_is_no_token() {
    let rsa = signed("RS256", None, Some(key!("rsa.pem"))).unwrap();
    let other = signed("ES256", None, Some(key!("ec.pem"))).unwrap();
    assert_eq!(rsa.verify(&other.sign("root", 1).unwrap()), None);
    // The public key as a secret: the oldest trick.
    let public = signed("HS256", None, Some(key!("rsa.pub"))).unwrap();
    assert_eq!(rsa.verify(&public.sign("root", 1).unwrap()), None);
    // The right key, by another name.
    let renamed = signed("RS384", None, Some(key!("rsa.pem"))).unwrap();
    assert_eq!(rsa.verify(&renamed.sign("root", 1).unwrap()), None);
    let encode = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let claims = encode(json!({ "username": "root", "revision": 1 }));
    for header in [json!({ "alg": "none" }), json!({ "alg": "RS256" }), json!({})] {
        let header = encode(header);
        for token in [format!("{header}.{claims}."), format!("{header}.{claims}"), format!("{header}..")] {
            assert_eq!(rsa.verify(&token), None, "{token}");
        }
    }
    let token = rsa.sign("alice", 1).unwrap();
    for place in 0..token.len() {
        let mut bytes = token.clone().into_bytes();
        bytes[place] = if bytes[place] == b'A' { b'B' } else { b'A' };
        let forged = String::from_utf8(bytes).unwrap();
        // The last letter of a part has bits that stand for nothing; a strict reader takes no other than zeros for them.
        assert_eq!(rsa.verify(&forged), None, "{place}");
    }
    for token in ["", ".", "..", "...", "a.b.c", "\u{0}.\u{0}.\u{0}", &"x".repeat(1 << 20)] {
        assert_eq!(rsa.verify(token), None);
    }
}

#[test]
fn a_token_is_over_in_time_and_none_before() {
    let clock = Arc::new(Set(AtomicU64::new(1_700_000_000_000)));
    let secret = Signed::new("HS256", None, Some(b"secret"), TTL, clock.clone()).unwrap();
    let token = secret.sign("alice", 1).unwrap();
    assert!(secret.verify(&token).is_some());
    clock.0.fetch_add(TTL.as_millis() as u64 - 1, Ordering::Relaxed);
    assert!(secret.verify(&token).is_some());
    clock.0.fetch_add(1, Ordering::Relaxed);
    assert_eq!(secret.verify(&token), None);

    // Of somebody else who has the key.
    let make = |claims: Value| {
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", encode(&json!({ "alg": "HS256" })), encode(&claims));
        let signature = secret.signature(&Signer::Hmac, signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    };
    let now = clock.unix_millis() / 1_000;
    for (claims, holds) in [
        (json!({ "username": "a", "revision": 1 }), true),
        (json!({ "username": "a", "revision": 1.0, "exp": now + 9 }), true),
        (json!({ "username": "a", "revision": 1, "exp": "tomorrow" }), false),
        (json!({ "username": "a", "revision": 1, "exp": now - 1 }), false),
        (json!({ "username": "a", "revision": 1, "nbf": now + 9 }), false),
        (json!({ "username": "a", "revision": "1" }), false),
        (json!({ "username": 1, "revision": 1 }), false),
        (json!({ "username": "a" }), false),
        (json!({ "revision": 1 }), false),
        (json!([]), false),
    ] {
        assert_eq!(secret.verify(&make(claims.clone())).is_some(), holds, "{claims}");
    }
}

#[test]
fn what_is_wrong_with_a_key_is_said() {
    let said = |method, public, private| signed(method, public, private).unwrap_err();
    assert_eq!(said("ES512", None, None), KeyError::Method("ES512".into()));
    assert_eq!(said("none", None, None), KeyError::Method("none".into()));
    for method in ["HS256", "RS256", "ES256", "EdDSA"] {
        assert_eq!(said(method, None, None), KeyError::Missing);
    }
    assert_eq!(said("HS256", Some(b"x"), None), KeyError::Missing);
    assert_eq!(said("RS256", None, Some(b"x")), KeyError::NotPem);
    assert_eq!(said("RS256", None, Some(key!("ec.pem"))), KeyError::Kind);
    assert_eq!(said("ES256", None, Some(key!("rsa-pkcs1.pem"))), KeyError::Kind);
    assert_eq!(said("EdDSA", None, Some(key!("ec.pem"))), KeyError::Kind);
    assert!(matches!(said("ES256", None, Some(key!("ec384.pem"))), KeyError::Rejected(_)));
    assert!(matches!(said("ES256", None, Some(key!("rsa.pem"))), KeyError::Rejected(_)));
    assert_eq!(said("ES256", Some(key!("ec384.pub")), Some(key!("ec.pem"))), KeyError::Mismatch);
    let torn = &key!("rsa.pub")[..100];
    assert_eq!(said("RS256", Some(torn), None), KeyError::NotPem);
}
