//! TLS on real ports: who gets in and who does not, on the client port and on the peer port; certificates that are replaced under load.
//!
//! `tls/authority.rs` signs certificates; `tls/strangers.rs` and `tls/clients.rs` are the client port, `tls/pods.rs` and `tls/peers.rs` the
//! peer port of pods with names, `tls/etcd.rs` etcd's command line.

#![allow(clippy::pedantic)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::panic,
    missing_docs
)]

#[path = "tls/authority.rs"]
mod authority;
#[path = "tls/clients.rs"]
mod clients;
#[path = "tls/etcd.rs"]
mod etcd;
#[path = "tls/peers.rs"]
mod peers;
#[path = "tls/pods.rs"]
mod pods;
#[path = "tls/strangers.rs"]
mod strangers;
#[path = "tls/world.rs"]
mod world;
