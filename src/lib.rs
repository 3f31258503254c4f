//! Setstone: a replicated key-value store with etcd's v3 API, at home in a Kubernetes StatefulSet.
//!
//! | Part | What it is |
//! |---|---|
//! | [`Node`], [`Config`] | one member: start it, use it, stop it |
//! | [`client`] | one trait for the embedded store and for remote members |
//! | [`mvcc`] | the state machine, pure |
//! | [`storage`] | log, snapshots, engine: bytes on disk |
//! | [`raft`] | consensus |
//! | [`identity`], [`discovery`], [`membership`] | who am I, who are the others, who should be in |
//! | [`watch`] | who gets which event |
//! | [`transport`], [`api`] | ports, and etcd's API on them |
//! | [`env`] | the outside world, as traits |
//! | [`testing`] | a cluster in one process, for tests |
//! | `cli`, `playground` | the command line; a StatefulSet on a laptop |
//!
//! `ARCHITECTURE.md` tells how a request goes through them.

// Tests set up the world that they test in.
#![cfg_attr(test, allow(clippy::disallowed_methods))]

pub mod api;
#[cfg(feature = "cli")]
pub mod cli;
pub mod client;
pub mod config;
pub mod discovery;
mod duties;
pub mod env;
pub mod error;
#[cfg(feature = "simulation")]
pub mod fuzzing;
pub mod identity;
pub mod limits;
pub mod membership;
pub mod metrics;
pub mod mvcc;
pub mod node;
#[cfg(feature = "playground")]
pub mod playground;
pub mod proto;
pub mod raft;
#[cfg(feature = "simulation")]
pub mod simulation;
pub mod storage;
pub mod testing;
pub mod transport;
pub mod watch;

pub use config::Config;
pub use error::Error;
pub use node::Node;
