//! Setstone.
pub mod config;
pub mod env;
pub mod error;
pub mod identity;
pub mod limits;
pub mod metrics;
pub mod mvcc;
#[allow(missing_docs)]
pub mod proto;
pub mod raft;
pub mod storage;
