//! Setstone.
pub mod api;
#[cfg(feature = "cli")]
pub mod cli;
pub mod client;
pub mod config;
pub mod discovery;
pub mod env;
pub mod error;
pub mod identity;
pub mod limits;
pub mod metrics;
pub mod membership;
pub mod mvcc;
#[allow(missing_docs)]
pub mod proto;
pub mod raft;
pub mod storage;
pub mod transport;
