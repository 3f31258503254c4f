//! Subcommands.

#[cfg(feature = "playground")]
pub mod playground;
