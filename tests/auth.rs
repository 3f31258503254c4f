//! Users, roles and permissions on real members, over the network: every refusal, tokens, passwords, what survives.

#![allow(clippy::pedantic)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::panic,
    missing_docs
)]

#[path = "auth/access.rs"]
mod access;
#[path = "auth/clients.rs"]
mod clients;
#[path = "auth/durable.rs"]
mod durable;
#[path = "auth/locks.rs"]
mod locks;
#[path = "auth/tokens.rs"]
mod tokens;
#[path = "auth/watching.rs"]
mod watching;
#[path = "auth/world.rs"]
mod world;
