//! Which boot each member runs (DESIGN section 5): a message of an older boot, or of another process with the same boot,
//! is refused.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::wire::Sender;
use crate::env::simulated::{self, Bug};
use crate::identity::NodeId;
use crate::proto::peer::Envelope;

/// Why a message is not for us, or not from whom it says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WrongMessage {
    /// It has no envelope.
    #[error("the message does not say who sent it")]
    NoEnvelope,
    /// It is of another cluster.
    #[error("the message is of cluster {0:016x}, this member is of cluster {1:016x}")]
    Cluster(u64, u64),
    /// It is for another member.
    #[error("the message is for member {0}, this is member {1}")]
    Addressee(NodeId, NodeId),
    /// Its sender has been started again since.
    #[error("boot {1} of member {0} was followed by boot {2}")]
    OldBoot(NodeId, u64, u64),
    /// Two processes run as one member.
    #[error("another process runs as member {0} with the same boot {1}; the first one stays")]
    Twin(NodeId, u64),
}

/// The newest boot that was seen of each member, with its random number. Shared.
#[derive(Clone, Debug, Default)]
pub struct Boots(Arc<Mutex<BTreeMap<NodeId, (u64, u64)>>>);

impl Boots {
    /// Takes a message in, or says why not.
    pub fn admit(&self, mine: &Sender, envelope: Option<&Envelope>) -> Result<NodeId, WrongMessage> {
        let envelope = envelope.ok_or(WrongMessage::NoEnvelope)?;
        if envelope.cluster_id != mine.cluster.0 {
            return Err(WrongMessage::Cluster(envelope.cluster_id, mine.cluster.0));
        }
        if envelope.to != mine.node.0 && !simulated::planted(Bug::AcceptForeignMessage) {
            return Err(WrongMessage::Addressee(NodeId(envelope.to), mine.node));
        }
        let from = NodeId(envelope.from);
        self.note(from, envelope.boot, envelope.boot_random)?;
        Ok(from)
    }

    /// Notes the boot that a member's answer names, or says why the answer is not the member's; boot 0 names none.
    pub fn heard(&self, from: NodeId, boot: u64, random: u64) -> Result<(), WrongMessage> {
        if boot == 0 || simulated::planted(Bug::AcceptForeignMessage) {
            Ok(())
        } else {
            self.note(from, boot, random)
        }
    }

    fn note(&self, from: NodeId, boot: u64, random: u64) -> Result<(), WrongMessage> {
        let mut seen = self.0.lock();
        let entry = seen.entry(from).or_insert((boot, random));
        if boot < entry.0 {
            return Err(WrongMessage::OldBoot(from, boot, entry.0));
        }
        if boot == entry.0 && random != entry.1 {
            return Err(WrongMessage::Twin(from, boot));
        }
        *entry = (boot, random);
        Ok(())
    }

    /// The newest boot of each member that was heard of.
    pub fn seen(&self) -> BTreeMap<NodeId, (u64, u64)> {
        self.0.lock().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::ClusterId;

    const ME: Sender = Sender { cluster: ClusterId(7), node: NodeId(1), boot: 1, boot_random: 1 };

    fn from(node: u64, boot: u64, boot_random: u64) -> Envelope {
        Envelope { cluster_id: 7, to: 1, from: node, boot, boot_random }
    }

    #[test]
    fn refuses_what_is_not_for_this_member() {
        let boots = Boots::default();
        assert_eq!(boots.admit(&ME, None), Err(WrongMessage::NoEnvelope));
        let foreign = Envelope { cluster_id: 8, ..from(2, 1, 1) };
        assert_eq!(boots.admit(&ME, Some(&foreign)), Err(WrongMessage::Cluster(8, 7)));
        let other = Envelope { to: 3, ..from(2, 1, 1) };
        assert_eq!(boots.admit(&ME, Some(&other)), Err(WrongMessage::Addressee(NodeId(3), NodeId(1))));
        assert!(boots.seen().is_empty());
    }

    #[test]
    fn the_newest_boot_counts_and_of_twins_the_first() {
        let boots = Boots::default();
        assert_eq!(boots.admit(&ME, Some(&from(2, 5, 50))), Ok(NodeId(2)));
        assert_eq!(boots.admit(&ME, Some(&from(2, 5, 51))), Err(WrongMessage::Twin(NodeId(2), 5)));
        assert_eq!(boots.admit(&ME, Some(&from(2, 6, 60))), Ok(NodeId(2)));
        assert_eq!(boots.admit(&ME, Some(&from(2, 5, 50))), Err(WrongMessage::OldBoot(NodeId(2), 5, 6)));
        assert_eq!(boots.heard(NodeId(2), 7, 70), Ok(()));
        assert_eq!(boots.heard(NodeId(2), 0, 0), Ok(()));
        assert_eq!(boots.heard(NodeId(2), 7, 71), Err(WrongMessage::Twin(NodeId(2), 7)));
        assert_eq!(boots.heard(NodeId(2), 6, 60), Err(WrongMessage::OldBoot(NodeId(2), 6, 7)));
        assert_eq!(boots.seen().get(&NodeId(2)), Some(&(7, 70)));
    }
}
