//! The outside world as traits, and the real ones. A leaf: it knows no other part of the project.
//!
//! Only `node` chooses which world a node lives in; every other part takes an [`Env`]. Monotonic time and timers come
//! from `tokio::time`, which a simulation replaces; everything else that is not a pure function comes through here.
//!
//! * `clock`: wall-clock time, for people
//! * `random`: random numbers
//! * `files`: the file system; `real_files` and `simulated_files` implement it
//! * `network`: sockets
//! * `names`: DNS; `real_names` asks name servers
//! * `tasks`: work that blocks
//! * `owner`: the `StatefulSet` that a pod belongs to; `real_owner` asks Kubernetes
//! * `simulated`: hooks of a simulation into a node; empty without the feature

pub mod clock;
pub mod files;
pub mod names;
pub mod network;
pub mod owner;
pub mod random;
pub mod real_files;
pub mod real_names;
#[cfg(feature = "kubernetes")]
pub mod real_owner;
pub mod simulated;
pub mod simulated_files;
pub mod tasks;
#[cfg(test)]
pub(crate) mod test_files;

use std::sync::Arc;

pub use clock::Clock;
pub use files::{File, Files};
pub use names::{Lookup, Names};
pub use network::{Listener, Network, Stream};
pub use owner::Owner;
pub use random::Random;
pub use tasks::{Tasks, Work};

/// One world. Cheap to clone.
#[derive(Clone)]
pub struct Env {
    /// Wall-clock time.
    pub clock: Arc<dyn Clock>,
    /// Random numbers.
    pub random: Arc<dyn Random>,
    /// The file system.
    pub files: Arc<dyn Files>,
    /// Sockets.
    pub network: Arc<dyn Network>,
    /// DNS.
    pub names: Arc<dyn Names>,
    /// Work that blocks.
    pub tasks: Arc<dyn Tasks>,
    /// The pod's `StatefulSet`; `None` where there is nobody to ask.
    pub owner: Option<Arc<dyn Owner>>,
}
