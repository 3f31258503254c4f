//! The `StatefulSet` that a pod belongs to, as somebody outside keeps it.

use futures::future::BoxFuture;

/// What was seen of the pod's own `StatefulSet` when it was asked for once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// No access, an error, a time-out, or nothing to ask; why.
    Unknown(String),
    /// It does not exist (404).
    Gone,
    /// It is being deleted.
    BeingDeleted,
    /// It wants `size` pods, from ordinal `start` on.
    Wants {
        /// Ordinal of the first pod.
        start: u16,
        /// Number of pods.
        size: u16,
        /// How often it was changed, its creation included (`metadata.generation`).
        generation: i64,
    },
}

/// Where the `StatefulSet` can be looked at.
pub trait Owner: Send + Sync {
    /// Looks once. The caller bounds the time.
    fn look(&self) -> BoxFuture<'_, Seen>;
}
