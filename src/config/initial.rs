//! The initial cluster of `setstone etcd`: who founds it, and by which rules members come and go later.

use crate::limits;

/// An initial cluster, as etcd's flags describe it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitialCluster {
    /// Name and peer address (`host:port`) of each member of the first bootstrap. The place of a name in their order is its ordinal,
    /// then and never again.
    pub members: Vec<(String, String)>,
    /// Where this member's peer service is found, `host:port`.
    pub own: String,
    /// This member joins a cluster that is there already, to which `MemberAdd` has added it. Means nothing to a disk with data.
    pub existing: bool,
    /// Tells first bootstraps apart that have nothing to do with each other.
    pub token: String,
    /// Go on alone with what the disk holds, in a new cluster: all others are gone for good.
    pub force_new: bool,
    /// Refuse what would endanger the quorum of etcd's members.
    pub strict: bool,
    /// At most so many learners.
    pub max_learners: u32,
}

impl InitialCluster {
    /// The members by name, each with its address: the first is ordinal 0.
    pub fn by_ordinal(&self) -> Vec<(String, String)> {
        let mut members = self.members.clone();
        members.sort();
        members
    }

    /// The ordinal of the member of this name at the first bootstrap.
    pub fn ordinal_of(&self, name: &str) -> Option<u16> {
        let at = self.by_ordinal().iter().position(|(member, _)| member == name)?;
        u16::try_from(at).ok()
    }

    pub(super) fn validate(&self) -> Result<(), String> {
        if self.members.len() > limits::PEERS {
            return Err(format!(
                "an initial cluster of {} members; {} is the most",
                self.members.len(),
                limits::PEERS
            ));
        }
        let members = self.by_ordinal();
        for ((one, at), (other, also)) in members.iter().zip(members.iter().skip(1)) {
            if one == other {
                return Err(format!(
                    "the initial cluster has {one} at {at} and at {also}; a member has one peer URL"
                ));
            }
        }
        let mut addresses: Vec<&String> = members.iter().map(|(_, address)| address).collect();
        addresses.sort();
        match addresses.iter().zip(addresses.iter().skip(1)).find(|(one, other)| one == other) {
            Some((twice, _)) => Err(format!("the initial cluster has two members at {twice}")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn initial(members: &[(&str, &str)]) -> InitialCluster {
        let members = members.iter().map(|(name, at)| ((*name).to_owned(), (*at).to_owned())).collect();
        let token = "etcd-cluster".into();
        InitialCluster {
            members,
            own: "a:1".into(),
            existing: false,
            token,
            force_new: false,
            strict: true,
            max_learners: 1,
        }
    }

    #[test]
    fn the_order_of_names_is_that_of_ordinals() {
        let cluster = initial(&[("c", "z:1"), ("a", "y:1"), ("b", "x:1")]);
        assert_eq!(cluster.validate(), Ok(()));
        assert_eq!(
            ["a", "b", "c", "d"].map(|name| cluster.ordinal_of(name)),
            [Some(0), Some(1), Some(2), None]
        );
    }

    #[test]
    fn what_is_there_twice_is_named() {
        let twice = initial(&[("a", "y:1"), ("b", "y:1")]).validate();
        assert!(twice.is_err_and(|said| said.contains("two members at y:1")));
        let twice = initial(&[("a", "y:1"), ("a", "z:1")]).validate();
        assert!(twice.is_err_and(|said| said.contains("a at y:1 and at z:1")));
    }
}
