//! One attempt at being admitted: the disk says who it is, the leader gives it an id, the disk becomes that. Whatever breaks off is
//! begun again; the nonce is on disk before it is first said, so the same disk gets the same id.

use tokio::time::timeout;

use super::admission::Applicant;
use super::disk::Answers;
use super::local::{Admitted, Local};
use super::service::Own;
use super::wire;
use crate::discovery::{Path, Peer, PeerChannels};
use crate::identity::{ClusterId, NodeId};
use crate::limits;
use crate::proto::peer::admit_response;
use crate::proto::peer::membership_client::MembershipClient;

/// Why a disk was not admitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NotAdmitted {
    /// It asks again.
    Yet(String),
    /// Its member was removed by hand.
    Ever(String),
}

impl From<String> for NotAdmitted {
    fn from(reason: String) -> Self {
        Self::Yet(reason)
    }
}

/// Whom to ask for admission to which cluster.
pub(super) struct Attempt<'a> {
    pub(super) own: &'a Own,
    pub(super) cluster: ClusterId,
    /// The leader's pod: its name, and where it is.
    pub(super) leader: (String, Peer),
    pub(super) answers: &'a Answers,
}

impl Attempt<'_> {
    /// Asks; returns what this disk is now.
    pub(super) async fn join(
        self,
        local: &dyn Local,
        channels: &PeerChannels,
    ) -> Result<NodeId, NotAdmitted> {
        let nonce = local.begin_joining(self.cluster).await?;
        let node_id = self.ask(nonce, channels).await?;
        let supersedes = self
            .answers
            .described()
            .filter(|(_, _, described)| described.disk.cluster == self.cluster)
            .flat_map(|(_, _, described)| described.disk.supersedes.iter().copied())
            .collect::<std::collections::BTreeSet<_>>();
        let supersedes = supersedes.into_iter().collect();
        local.join(Admitted { cluster: self.cluster, supersedes, node_id, nonce }).await?;
        Ok(node_id)
    }

    async fn ask(&self, nonce: u64, channels: &PeerChannels) -> Result<NodeId, NotAdmitted> {
        let applicant =
            Applicant { cluster: self.cluster, nonce, ordinal: self.own.ordinal, member: self.own.member() };
        let (name, peer) = &self.leader;
        let mut client = MembershipClient::new(channels.channel(peer, Path::Data))
            .max_decoding_message_size(limits::HELLO_BYTES);
        let answer = timeout(limits::ADMIT_TIMEOUT, client.admit(wire::to_admit(name.clone(), &applicant)))
            .await
            .map_err(|_| format!("{name} did not answer in time"))?
            .map_err(|status| format!("{name}: {}", status.message()))?;
        match answer.into_inner().outcome {
            Some(admit_response::Outcome::NodeId(id)) if NodeId(id).ordinal() == self.own.ordinal => {
                Ok(NodeId(id))
            }
            Some(admit_response::Outcome::NodeId(id)) => {
                Err(format!("{name} gave the id {} to ordinal {}", NodeId(id), self.own.ordinal).into())
            }
            Some(admit_response::Outcome::Refused(reason)) => Err(format!("{name}: {reason}").into()),
            Some(admit_response::Outcome::Never(reason)) => {
                Err(NotAdmitted::Ever(format!("{name}: {reason}")))
            }
            None => Err(format!("the answer of {name} says nothing").into()),
        }
    }
}
