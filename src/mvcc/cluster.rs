//! Cluster state that is not a key: marks (DESIGN section 5). Admissions, removed ids, settings, alarms and the event log
//! join it here.

use std::collections::BTreeMap;

use crate::identity::NodeId;

/// A change to the cluster state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClusterCommand {
    /// Record what members have acknowledged as durable.
    Marks(Vec<(NodeId, Mark)>),
}

/// What one member has acknowledged as durable. A disk that holds less was rolled back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// Boot that acknowledged it.
    pub boot: u64,
    /// Term of its vote.
    pub vote_term: u64,
    /// Whom the vote is for; 0 for nobody.
    pub vote_node: u64,
    /// Term of its last log entry.
    pub log_term: u64,
    /// Index of its last log entry.
    pub log_index: u64,
}

/// The cluster state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    /// By member; a mark is never replaced by a lower one.
    pub marks: BTreeMap<NodeId, Mark>,
}
