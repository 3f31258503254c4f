//! Who am I: pod facts, node ids, the identity on disk. Values that everyone may use; no I/O but through `env`.
//!
//! * `node_id`: names of clusters, pods and disks
//! * `members`: who votes and who listens, as values
//! * `range`: the pods that there should be
//! * `lineage`: a cluster and those that it replaced
//! * `pod`: what the environment says about this pod
//! * `disk`: what the identity file holds, and what the disk is
//! * `file`: the identity file itself
//! * `request`: what a human asks a pod for, through its data directory

mod disk;
mod file;
mod lineage;
mod members;
mod node_id;
mod pod;
mod range;
mod request;

pub use disk::{Boot, DiskState, Identity, LastStop};
pub use file::{IDENTITY_FORMAT, IdentityError, IdentityFile};
pub use lineage::Lineage;
pub use members::{Member, Membership};
pub use node_id::{ClusterId, FIRST_ADDED, NodeId, Ordinal};
pub use pod::{CLIENT_PORT, PEER_PORT, PodError, PodFacts};
pub use range::OrdinalRange;
pub use request::{REQUEST_FILE, Recovery, Request};
