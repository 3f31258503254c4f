//! Setstone.
#[cfg(feature = "cli")]
pub mod cli;
pub mod env;
pub mod identity;
pub mod mvcc;
#[allow(missing_docs)]
pub mod proto;
pub mod limits;
#[cfg(feature = "playground")]
pub mod playground;
