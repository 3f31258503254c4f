//! A cluster and those that it replaced.

use super::ClusterId;

/// A cluster with the clusters that it replaced in recoveries: what they wrote is its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lineage {
    /// The cluster.
    pub cluster: ClusterId,
    /// Those that it replaced.
    pub supersedes: Vec<ClusterId>,
}

impl Lineage {
    /// Whether something of `cluster` is of this one.
    pub fn includes(&self, cluster: ClusterId) -> bool {
        self.cluster == cluster || self.supersedes.contains(&cluster)
    }
}

impl From<ClusterId> for Lineage {
    fn from(cluster: ClusterId) -> Self {
        Self { cluster, supersedes: Vec::new() }
    }
}
