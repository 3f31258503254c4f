//! TLS: what is shown to whom, and whose certificates are taken. rustls with ring; no other part names them.
//!
//! A listener with TLS speaks nothing else, and one without speaks no TLS. No session is resumed: each connection looks at the
//! certificates anew, so that one that was revoked or has expired opens none.
//!
//! * `settings`: what is configured. Values
//! * `protocol`: versions and cipher suites, by etcd's names. Pure
//! * `certificate`: what a certificate says of its owner; `der`: as much of DER as that needs. Pure
//! * `pem`: certificates, keys and revocation lists as files hold them. Pure
//! * `material`: rustls' configurations, made of files, and made anew when these change
//! * `roots`: the authorities that the system trusts
//! * `anyone`: takes every certificate, where that is asked for; `any_name`: takes every name, to learn it
//! * `self_signed`: a certificate of one's own making, for trying out
//! * `accept`: the server's side of a handshake; `connect`: the client's
//! * `refusal`: why a connection is refused

mod accept;
mod any_name;
mod anyone;
mod certificate;
mod connect;
pub(crate) mod der;
mod material;
mod pem;
mod protocol;
mod refusal;
mod roots;
mod self_signed;
mod settings;
#[cfg(test)]
mod tests;

pub use accept::{Acceptor, Secured};
pub use certificate::Certificate;
pub use connect::{Connector, is_name_mismatch, says_certificate_is_refused};
pub use material::{Material, TlsError};
pub use protocol::{Protocol, Version};
pub use refusal::Refusal;
pub use settings::{Allowed, ClientTls, Identity, KeyPair, Tls};
