//! Who votes and who listens. Values only: `raft` fills them from its log, `membership` decides by them.

use std::collections::BTreeSet;

use super::{NodeId, Ordinal};

/// One member of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// Which incarnation of which ordinal's disk.
    pub node_id: NodeId,
    /// Name of its pod.
    pub name: String,
    /// Host and port of its peer service, by name; never an IP address in a `StatefulSet`.
    pub peer_address: String,
    /// URLs that clients are told to use.
    pub client_urls: Vec<String>,
}

/// A membership: one set of voters, or two while a joint change runs. A member in no set is a learner.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// The sets of voters; empty if no membership is known.
    pub configs: Vec<Vec<NodeId>>,
    /// All members, learners included.
    pub members: Vec<Member>,
}

impl Membership {
    /// The membership in which all of `members` vote.
    pub fn all_vote(members: Vec<Member>) -> Self {
        Self { configs: vec![members.iter().map(|member| member.node_id).collect()], members }
    }

    /// Whether nothing is known: such a disk neither votes nor campaigns.
    pub fn is_empty(&self) -> bool {
        self.voters().next().is_none()
    }

    /// Whether no joint change runs.
    pub fn is_uniform(&self) -> bool {
        self.configs.len() <= 1
    }

    /// The voters of all sets, ascending and without repetition.
    pub fn voters(&self) -> impl Iterator<Item = NodeId> + use<> {
        self.configs.iter().flatten().copied().collect::<BTreeSet<_>>().into_iter()
    }

    /// Ids of all members and voters, ascending and without repetition.
    pub fn ids(&self) -> BTreeSet<NodeId> {
        self.members.iter().map(|member| member.node_id).chain(self.voters()).collect()
    }

    /// Whether this id votes.
    pub fn is_voter(&self, id: NodeId) -> bool {
        self.configs.iter().flatten().any(|voter| *voter == id)
    }

    /// Whether this id is a member, voter or learner.
    pub fn contains(&self, id: NodeId) -> bool {
        self.is_voter(id) || self.members.iter().any(|member| member.node_id == id)
    }

    /// The member of this id.
    pub fn member(&self, id: NodeId) -> Option<&Member> {
        self.members.iter().find(|member| member.node_id == id)
    }

    /// Whether some member is a disk of this ordinal.
    pub fn knows_ordinal(&self, ordinal: Ordinal) -> bool {
        self.ids().iter().any(|id| id.ordinal() == ordinal)
    }

    /// Whether those for whom `present` holds are a majority of every set. False without a set: nobody is no quorum.
    pub fn has_quorum(&self, present: impl Fn(NodeId) -> bool) -> bool {
        !self.is_empty()
            && self.configs.iter().all(|config| {
                let voters: BTreeSet<_> = config.iter().copied().collect();
                voters.iter().filter(|id| present(**id)).count() > voters.len() / 2
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn membership(configs: &[&[u16]]) -> Membership {
        Membership {
            configs: configs
                .iter()
                .map(|config| config.iter().map(|ordinal| NodeId::new(*ordinal, 1)).collect())
                .collect(),
            members: Vec::new(),
        }
    }

    #[test]
    fn a_quorum_is_a_majority_of_every_set() {
        let among = |ordinals: &'static [u16]| move |id: NodeId| ordinals.contains(&id.ordinal());
        let joint = membership(&[&[0, 1, 2], &[2, 3, 4]]);
        assert!(joint.has_quorum(among(&[1, 2, 3])));
        assert!(!joint.has_quorum(among(&[0, 1, 3])));
        assert!(!membership(&[&[0, 1]]).has_quorum(among(&[0])));
        assert!(membership(&[&[0]]).has_quorum(among(&[0])));
    }

    #[test]
    fn nobody_is_no_quorum_and_repetition_does_not_count() {
        assert!(!membership(&[]).has_quorum(|_| true));
        assert!(!membership(&[&[]]).has_quorum(|_| true));
        assert!(!membership(&[&[0, 0, 1, 2]]).has_quorum(|id| id.ordinal() == 0));
    }
}
