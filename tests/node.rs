//! Whole nodes, in this process or as a process of their own, with real files and sockets.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::panic,
    dead_code,
    missing_docs
)]

pub fn log() {
    let _ = tracing_subscriber::fmt()
        .with_env_filter(std::env::var("RUST_LOG").unwrap_or_default())
        .with_ansi(false)
        .try_init();
}

#[path = "node/disks.rs"]
mod disks;
#[path = "../examples/embedded.rs"]
mod embedded;
#[path = "node/library.rs"]
mod library;
#[path = "node/limits.rs"]
mod limits;
#[path = "node/process.rs"]
mod process;
#[path = "node/restarts.rs"]
mod restarts;
