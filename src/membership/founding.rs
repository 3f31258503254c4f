//! One attempt at a first bootstrap: a new cluster id, an identity for each founder, and everyone's word that it is on disk.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::join_all;
use tokio::time::timeout;

use super::asking::Asking;
use super::disk::{Answers, Disk};
use super::local::{Gate, Local, Prepared};
use super::service::Own;
use super::start::Founder;
use super::wire;
use crate::discovery::{Path, Peer, PeerChannels};
use crate::env::Random;
use crate::identity::{ClusterId, Member, Membership, NodeId};
use crate::limits;
use crate::proto::peer::membership_client::MembershipClient;
use crate::proto::peer::prepare_response;

/// One attempt.
pub(super) struct Attempt {
    cluster: ClusterId,
    voters: Membership,
    own: NodeId,
    /// Where the others are, by the name that they are asked by, and the cluster that their disks are prepared for.
    others: BTreeMap<String, (Peer, ClusterId)>,
    /// The cluster that this disk is prepared for.
    own_before: ClusterId,
}

impl Attempt {
    pub(super) fn new(
        own: &Arc<Own>,
        disk: &Disk,
        founders: &[Founder],
        answers: &Answers,
        asking: &Asking,
        random: &dyn Random,
    ) -> Self {
        let mut others = BTreeMap::new();
        let mut members = Vec::new();
        for founder in founders {
            let node_id = NodeId::new(founder.ordinal, NodeId::FIRST_INCARNATION);
            if founder.ordinal == own.ordinal {
                members.push(Member { node_id, ..own.member() });
                continue;
            }
            let described = answers.pods.get(&founder.name).and_then(|asked| asked.described());
            let peer = asking.peer(&founder.name);
            members.push(Member {
                node_id,
                name: described.map(|described| described.member_name.clone()).unwrap_or_default(),
                peer_address: peer.as_ref().map(ToString::to_string).unwrap_or_default(),
                client_urls: described.map(|described| described.client_urls.clone()).unwrap_or_default(),
            });
            if let (Some(peer), Some(described)) = (peer, described) {
                others.insert(founder.name.clone(), (peer, described.disk.cluster));
            }
        }
        Self {
            cluster: ClusterId::draw(random),
            own: NodeId::new(own.ordinal, NodeId::FIRST_INCARNATION),
            voters: Membership::all_vote(members),
            others,
            own_before: disk.cluster,
        }
    }

    /// Gives everyone its identity. `Ok` only if all have it on disk.
    pub(super) async fn prepare_all(
        self,
        gate: &Gate,
        local: &dyn Local,
        channels: Option<&PeerChannels>,
    ) -> Result<Prepared, String> {
        let own = self.identity(self.own, self.own_before);
        let attempt = &self;
        let others = self.others.iter().map(|(name, (peer, before))| async move {
            let Some(channels) = channels else { return Err(format!("{name} cannot be reached")) };
            attempt.prepare(name, peer, *before, channels).await.map_err(|reason| format!("{name}: {reason}"))
        });
        if self.others.len() + 1 != self.voters.members.len() {
            return Err("a founder has no address".into());
        }
        join_all(others).await.into_iter().collect::<Result<Vec<_>, _>>()?;
        // This disk last: until the others have theirs, it may still take part in another attempt.
        gate.hold().await.take(local, own.clone()).await.map_err(|refusal| format!("this pod: {refusal}"))?;
        Ok(own)
    }

    async fn prepare(
        &self,
        name: &str,
        peer: &Peer,
        before: ClusterId,
        channels: &PeerChannels,
    ) -> Result<(), String> {
        let identity = self.identity(NodeId::new(peer.ordinal, NodeId::FIRST_INCARNATION), before);
        let mut client = MembershipClient::new(channels.channel(peer, Path::Data))
            .max_decoding_message_size(limits::HELLO_BYTES);
        let answer =
            timeout(limits::PREPARE_TIMEOUT, client.prepare(wire::to_prepare(name.to_owned(), &identity)))
                .await
                .map_err(|_| "no answer in time".to_owned())?
                .map_err(|status| status.to_string())?;
        match answer.into_inner().outcome {
            Some(prepare_response::Outcome::Accepted(_)) => Ok(()),
            Some(prepare_response::Outcome::Refused(reason)) => Err(format!("refused: {reason}")),
            None => Err("its answer says nothing".into()),
        }
    }

    fn identity(&self, node_id: NodeId, replaces: ClusterId) -> Prepared {
        Prepared { cluster: self.cluster, node_id, voters: self.voters.clone(), replaces }
    }
}

#[cfg(test)]
#[path = "founding_tests.rs"]
mod tests;
