//! Consensus. The only place that names openraft.

pub mod store;
