//! Keys as files hold them: PEM (RFC 7468), and as much of the DER inside as must be looked at.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::transport::tls::der;

/// Why a key cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// There is no such way to sign.
    #[error(
        "tokens cannot be signed with {0:?}; HS256, HS384, HS512, RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384 and EdDSA are \
         possible"
    )]
    Method(String),
    /// There is no key.
    #[error("there is no key; priv-key names a file with the private key, pub-key one with the public key")]
    Missing,
    /// It is not PEM.
    #[error("the key is not in PEM")]
    NotPem,
    /// It is a key for something else.
    #[error("the key is not of a kind that this way to sign takes")]
    Kind,
    /// It is damaged, or weak.
    #[error("the key cannot be used: {0}")]
    Rejected(String),
    /// The public key is not the private key's.
    #[error("public and private key do not belong together")]
    Mismatch,
}

/// A private key, by its form.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Private {
    Pkcs8(Vec<u8>),
    Pkcs1(Vec<u8>),
    Sec1(Vec<u8>),
}

/// Label and content of the first key in a file.
fn first_key(file: &[u8]) -> Result<(String, Vec<u8>), KeyError> {
    let text = std::str::from_utf8(file).map_err(|_| KeyError::NotPem)?;
    let mut rest = text;
    while let Some((_, after)) = rest.split_once("-----BEGIN ") {
        let (label, after) = after.split_once("-----").ok_or(KeyError::NotPem)?;
        let end = format!("-----END {label}-----");
        let (body, after) = after.split_once(end.as_str()).ok_or(KeyError::NotPem)?;
        rest = after;
        // OpenSSL writes the parameters of a curve before the key.
        if label.ends_with("KEY") {
            let body: String = body.split_whitespace().collect();
            let der = STANDARD.decode(body).map_err(|_| KeyError::NotPem)?;
            return Ok((label.to_owned(), der));
        }
    }
    Err(KeyError::NotPem)
}

/// The private key in a file.
pub(super) fn private_key(file: &[u8]) -> Result<Private, KeyError> {
    let (label, der) = first_key(file)?;
    match label.as_str() {
        "PRIVATE KEY" => Ok(Private::Pkcs8(der)),
        "RSA PRIVATE KEY" => Ok(Private::Pkcs1(der)),
        "EC PRIVATE KEY" => Ok(Private::Sec1(der)),
        _ => Err(KeyError::Kind),
    }
}

/// The public key in a file, as ring takes it: the content of its bit string.
pub(super) fn public_key(file: &[u8], is_rsa: bool) -> Result<Vec<u8>, KeyError> {
    let (label, der) = first_key(file)?;
    match label.as_str() {
        "RSA PUBLIC KEY" if is_rsa => Ok(der),
        "PUBLIC KEY" => {
            // SEQUENCE { algorithm, BIT STRING }.
            let (whole, _) = element(&der, 0x30)?;
            let (_, after) = element(whole, 0x30)?;
            let (bits, _) = element(after, 0x03)?;
            match bits.split_first() {
                Some((0, key)) => Ok(key.to_vec()),
                _ => Err(KeyError::Kind),
            }
        }
        _ => Err(KeyError::Kind),
    }
}

/// The content of the DER element at the start, which has this tag, and what follows it.
fn element(der: &[u8], tag: u8) -> Result<(&[u8], &[u8]), KeyError> {
    let (found, content, rest) =
        der::element(der).ok_or_else(|| KeyError::Rejected("it is malformed".into()))?;
    if found == tag { Ok((content, rest)) } else { Err(KeyError::Kind) }
}

/// An EC key of RFC 5915 as PKCS #8, which is what ring takes.
pub(super) fn sec1_in_pkcs8(key: &[u8], is_p256: bool) -> Vec<u8> {
    const P256: &[u8] = &[
        0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
        0x3d, 0x03, 0x01, 0x07,
    ];
    const P384: &[u8] = &[
        0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81, 0x04, 0x00,
        0x22,
    ];
    let algorithm = if is_p256 { P256 } else { P384 };
    let inner = [&[0x02, 0x01, 0x00], algorithm, &wrapped(0x04, key)].concat();
    wrapped(0x30, &inner)
}

fn wrapped(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let head = match u8::try_from(length) {
        Ok(short) if short < 0x80 => vec![tag, short],
        Ok(byte) => vec![tag, 0x81, byte],
        Err(_) => vec![tag, 0x82, (length >> 8) as u8, length as u8],
    };
    [head.as_slice(), content].concat()
}
