//! A cluster for clients of other hands, and sessions of them in their own languages, on whose word its leader is killed and comes back.
//!
//! * `cluster`: three processes, started as etcd is started
//! * `control`: what a session may ask for, by a line over TCP
//! * `session`: one program against one cluster, timed, with a deadline
// Each test binary needs a part of it.
#![allow(dead_code)]

pub mod cluster;
pub mod control;
pub mod session;

use std::time::{Duration, Instant};

/// Time for anything that a cluster is waited for.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Looks at a condition until it holds, up to [`PATIENCE`].
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "not in time: {what}");
        // Other processes tell nobody what they have come to.
        std::thread::sleep(Duration::from_millis(50));
    }
}
