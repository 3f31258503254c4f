//! The state machine of etcd's data model. Pure: no async, no I/O, no clock, no openraft, no protobuf.
//!
//! `raft` feeds it commands from the log and persists what it returns; `raft` and `api` read through it.

pub mod cluster;
pub mod command;

use bytes::Bytes;

/// One key at one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: Bytes,
    /// Revision of the write that created the key.
    pub create_revision: i64,
    /// Revision of the last write to the key.
    pub mod_revision: i64,
    /// Writes since the key was created; 0 for a tombstone.
    pub version: i64,
    /// The value.
    pub value: Bytes,
    /// Lease that the key hangs on, or 0.
    pub lease: i64,
}
