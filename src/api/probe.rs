//! What a member says of itself: the seam to whoever knows (`node` fills it from the readiness function).

use tokio::sync::watch;

/// Tells how a member stands. Called for each probe; must be cheap.
pub trait Probe: Send + Sync + 'static {
    /// How the member stands now.
    fn report(&self) -> Report;
    /// Whether it serves clients; changes wake gRPC health watchers.
    fn serving(&self) -> watch::Receiver<bool>;
}

/// How a member stands.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The process answers and its storage moves or is idle. Never looks at peers.
    pub live: bool,
    /// It may get traffic, or must be called ready so that pods after it are created (DESIGN, "Ready").
    pub ready: bool,
    /// It serves clients. Ready and not serving is possible.
    pub serving: bool,
    /// What readiness is made of, in the order that people should read it.
    pub clauses: Vec<Clause>,
    /// Everything that `setstone status` shows.
    pub status: serde_json::Value,
}

/// One condition of readiness.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clause {
    /// Its name, as in `leader_known`.
    pub name: &'static str,
    /// Whether it holds.
    pub holds: bool,
    /// Why, for people; may be empty.
    pub detail: String,
}
