//! Whole nodes in one thread.
pub mod world;
