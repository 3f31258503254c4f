//! Who am I: pod facts, node ids, the identity on disk. Values that everyone may use; no I/O but through `env`.
//!
//! * `node_id`: names of clusters, pods and disks
//! * `members`: who votes and who listens, as values
//! * `range`: the pods that there should be
//! * `pod`: what the environment says about this pod
//! * `disk`: what the identity file holds, and what the disk is
//! * `file`: the identity file itself

mod disk;
mod file;
mod members;
mod node_id;
mod pod;
mod range;

pub use disk::{Boot, DiskState, Identity};
pub use file::{IDENTITY_FORMAT, IdentityError, IdentityFile};
pub use members::{Member, Membership};
pub use node_id::{ClusterId, NodeId, Ordinal};
pub use pod::{CLIENT_PORT, PEER_PORT, PodError, PodFacts};
pub use range::OrdinalRange;
