//! Setstone.
pub mod env;
pub mod identity;
pub mod mvcc;
#[allow(missing_docs)]
pub mod proto;
pub mod limits;
pub mod storage;
