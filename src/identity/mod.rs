//! Who am I: pod facts, node ids, the identity on disk. Values that everyone may use; no I/O but through `env`.

mod node_id;
mod pod;
pub use pod::{PodError, PodFacts};
pub use node_id::{ClusterId, NodeId, Ordinal};
