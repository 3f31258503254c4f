//! Cluster state that is not a key: marks (DESIGN section 5). Admissions, removed ids, settings, alarms and the event log
//! join it here.

use std::collections::{BTreeMap, BTreeSet};

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

impl Mark {
    /// This is below `other`: the vote is lower, or it is equal and the last log entry is lower.
    pub fn is_below(&self, other: &Self) -> bool {
        self.order() < other.order()
    }

    fn order(&self) -> (u64, u64, u64, u64) {
        (self.vote_term, self.vote_node, self.log_term, self.log_index)
    }
}

/// The cluster state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    /// By member; a mark is never replaced by a lower one.
    pub marks: BTreeMap<NodeId, Mark>,
}

impl Cluster {
    /// Apply `command`; whose marks are others now goes to `changed`.
    pub(super) fn apply(&mut self, command: &ClusterCommand, changed: &mut BTreeSet<NodeId>) {
        let ClusterCommand::Marks(marks) = command;
        for (node, mark) in marks {
            let replaced = match self.marks.get(node) {
                Some(old) => !mark.is_below(old) && mark != old,
                None => true,
            };
            if replaced {
                self.marks.insert(*node, *mark);
                changed.insert(*node);
            }
        }
    }
}
