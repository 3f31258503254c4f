//! Whole nodes, in this process or as a process of their own, with real files and sockets.

#![allow(clippy::pedantic, clippy::type_complexity)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::panic,
    dead_code,
    missing_docs
)]

#[path = "node/addresses.rs"]
mod addresses;
#[path = "node/disks.rs"]
mod disks;
#[path = "../examples/embedded.rs"]
mod embedded;
#[path = "node/library.rs"]
mod library;
#[path = "node/limits.rs"]
mod limits;
#[path = "node/loading.rs"]
mod loading;
#[path = "node/maintenance.rs"]
mod maintenance;
#[path = "node/process.rs"]
mod process;
#[path = "node/replaced.rs"]
mod replaced;
#[path = "node/restarts.rs"]
mod restarts;
#[path = "node/signals.rs"]
mod signals;
#[path = "node/unknown.rs"]
mod unknown;
#[path = "node/volumes.rs"]
mod volumes;
#[path = "node/watch.rs"]
mod watch;
#[path = "../examples/watch.rs"]
mod watch_example;
