//! Consensus reaches members by id; discovery knows pods by ordinal.

use tonic::transport::Channel;

use crate::discovery::{Path, Peer, PeerChannels};
use crate::identity::NodeId;
use crate::raft::{Dial, Lane};

/// Discovery's channels, for consensus.
pub(super) struct DialPods(pub(super) PeerChannels);

impl Dial for DialPods {
    fn channel(&self, member: NodeId, address: &str, lane: Lane) -> Channel {
        let path = match lane {
            Lane::Data => Path::Data,
            Lane::Heartbeat => Path::Heartbeat,
            Lane::Snapshot => Path::Snapshot,
        };
        let known = self.0.book().directory().peer(member.ordinal());
        // A member that the directory does not know (one added by URL) is found by the address in the membership.
        let peer = known.or_else(|| Peer::parse(member.ordinal(), address).ok());
        match peer {
            Some(peer) => self.0.channel(&peer, path),
            None => unreachable_peer(),
        }
    }
}

/// For a node that is alone: it has no peers to reach.
pub(super) struct DialNobody;

impl Dial for DialNobody {
    fn channel(&self, _: NodeId, _: &str, _: Lane) -> Channel {
        unreachable_peer()
    }
}

/// A channel whose every call fails at once.
fn unreachable_peer() -> Channel {
    tonic::transport::Endpoint::from_static("http://peer.invalid").connect_with_connector_lazy(
        tower::service_fn(|_: http::Uri| async {
            Err::<hyper_util::rt::TokioIo<tokio::io::DuplexStream>, _>(std::io::Error::other(
                "the membership names no address for this member",
            ))
        }),
    )
}
