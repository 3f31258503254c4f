//! Whether a disk may join. Pure: what the leader sees × who asks → yes, or why not.

use super::by_hand;
use super::plan::Leading;
use super::start::Desired;
use crate::identity::{ClusterId, Member, NodeId, Ordinal};

/// A disk that asks to be admitted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applicant {
    /// The cluster that it wants to join.
    pub cluster: ClusterId,
    /// What it calls itself; never 0.
    pub nonce: u64,
    /// The ordinal of its pod.
    pub ordinal: Ordinal,
    /// What it is called and where it is reached; without an id.
    pub member: Member,
}

/// Why a disk was not admitted. It asks again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdmitRefusal {
    /// This member does not lead.
    #[error("this member does not lead")]
    NotLeader,
    /// It wants to join another cluster.
    #[error("this is cluster {0}")]
    OtherCluster(ClusterId),
    /// The ordinal is outside the desired range.
    #[error("ordinal {0} is outside the desired range")]
    Outside(Ordinal),
    /// Outside a `StatefulSet`: nobody added it, or it was removed.
    #[error("ordinal {0} is no member, and was not added at {1}, or was removed since")]
    NotListed(Ordinal, String),
    /// The member whose place it wants answers in consensus.
    #[error("{0} is a member and answers")]
    StillThere(NodeId),
    /// What it says of itself makes no sense.
    #[error("{0}")]
    Wrong(String),
    /// Consensus did not commit it; it may be, nevertheless, and the same nonce gets the same id.
    #[error("the admission was not committed: {0}")]
    NotCommitted(String),
}

/// Whether `applicant` may join the cluster that this member leads.
///
/// # Errors
/// Why not.
pub fn may_join(
    cluster: ClusterId,
    view: Option<&Leading>,
    desired: &Desired,
    applicant: &Applicant,
) -> Result<(), AdmitRefusal> {
    let ordinal = applicant.ordinal;
    if applicant.nonce == 0 || applicant.member.peer_address.is_empty() {
        return Err(AdmitRefusal::Wrong("it does not say who it is and where".into()));
    }
    if applicant.cluster != cluster {
        return Err(AdmitRefusal::OtherCluster(cluster));
    }
    let view = view.ok_or(AdmitRefusal::NotLeader)?;
    if desired.range().is_some_and(|range| !range.contains(ordinal)) {
        return Err(AdmitRefusal::Outside(ordinal));
    }
    if !by_hand::is_listed(view, ordinal, &applicant.member.peer_address) {
        return Err(AdmitRefusal::NotListed(ordinal, applicant.member.peer_address.clone()));
    }
    match view.answering.iter().find(|id| id.ordinal() == ordinal) {
        Some(present) => Err(AdmitRefusal::StillThere(*present)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::OrdinalRange;

    #[test]
    fn who_may_join() {
        let (cluster, id) = (ClusterId(7), NodeId::new(2, 1));
        let member = Member { peer_address: "s-2:2380".into(), ..Member::default() };
        let good = Applicant { cluster, nonce: 9, ordinal: 2, member };
        let mut view = Leading { id: NodeId::new(0, 1), ..Leading::default() };
        view.answering.insert(view.id);
        let range = |start, size| Desired::Known(OrdinalRange { start, size });
        let ask = |applicant: &Applicant, view: &Leading, desired: &Desired| {
            may_join(cluster, Some(view), desired, applicant)
        };
        for desired in [Desired::NotUsed, Desired::Unknown("no API server".into()), range(0, 3), range(2, 1)]
        {
            assert_eq!(ask(&good, &view, &desired), Ok(()), "{desired:?}");
        }
        for desired in [range(0, 2), range(3, 9), range(0, 0)] {
            assert_eq!(ask(&good, &view, &desired), Err(AdmitRefusal::Outside(2)));
        }
        assert_eq!(may_join(cluster, None, &Desired::NotUsed, &good), Err(AdmitRefusal::NotLeader));
        let elsewhere = Applicant { cluster: ClusterId(8), ..good.clone() };
        assert_eq!(ask(&elsewhere, &view, &Desired::NotUsed), Err(AdmitRefusal::OtherCluster(cluster)));
        let nameless = Applicant { nonce: 0, ..good.clone() };
        assert!(matches!(ask(&nameless, &view, &Desired::NotUsed), Err(AdmitRefusal::Wrong(_))));
        view.answering.insert(id);
        assert_eq!(ask(&good, &view, &Desired::NotUsed), Err(AdmitRefusal::StillThere(id)));
    }
}
