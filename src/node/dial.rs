//! Consensus reaches members by id; discovery knows pods by ordinal.

use tonic::transport::Channel;

use crate::discovery::{Path, Peer, PeerChannels};
use crate::identity::NodeId;
use crate::raft::{Dial, Lane};

/// Discovery's channels, for consensus.
pub(super) struct DialPods(pub(super) PeerChannels);

impl DialPods {
    fn peer(&self, member: NodeId, address: &str) -> Option<Peer> {
        // A member that the directory does not know (one added by URL) is found by the address in the membership.
        self.0.book().directory().peer_at(member.ordinal(), Some(address))
    }
}

impl Dial for DialPods {
    fn channel(&self, member: NodeId, address: &str, lane: Lane) -> Channel {
        let path = match lane {
            Lane::Data => Path::Data,
            Lane::Heartbeat => Path::Heartbeat,
            Lane::Snapshot => Path::Snapshot,
        };
        match self.peer(member, address) {
            Some(peer) => self.0.channel(&peer, path),
            None => unreachable_peer(),
        }
    }

    fn is_secure(&self) -> bool {
        self.0.book().is_secure()
    }

    fn refused(&self, member: NodeId, address: &str, by: NodeId) {
        // The same pod with another disk is where it should be; one that only has the same ordinal gives another name when it
        // is asked what it is.
        if by.ordinal() == member.ordinal() {
            return;
        }
        if let Some(peer) = self.peer(member, address) {
            tracing::debug!(%member, %by, %peer, "another member answers there; the address is given up");
            self.0.misdirected(&peer);
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

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;

    use super::*;
    use crate::config::{Cluster, Config};
    use crate::discovery::{AddressBook, Directory};

    #[tokio::test]
    #[allow(clippy::disallowed_methods)] // A peer of the test's own.
    async fn a_connection_to_somebody_else_is_cut_and_one_to_another_disk_of_the_pod_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peers = vec!["127.0.0.1:1".to_owned(), listener.local_addr().unwrap().to_string()];
        let directory = Directory::fixed(0, &peers).unwrap();
        let config = Config { cluster: Cluster::Fixed { ordinal: 0, peers }, ..Config::in_memory("m") };
        let env = crate::node::real_world(&config).unwrap();
        let dial = DialPods(PeerChannels::new(AddressBook::new(&env, directory)));
        let member = NodeId::new(1, 1);
        let mut client =
            crate::proto::peer::raft_client::RaftClient::new(dial.channel(member, "", Lane::Data));
        let call = tokio::spawn(async move { client.vote(crate::proto::peer::VoteRequest::default()).await });
        let (mut stream, _) = listener.accept().await.unwrap();
        // What an HTTP/2 client says first.
        stream.read_exact(&mut [0; 24]).await.unwrap();

        dial.refused(member, "", NodeId::new(1, 7));
        let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        tokio::io::AsyncWriteExt::write_all(&mut stream, &settings).await.unwrap();
        assert!(stream.read(&mut [0; 9]).await.unwrap() > 0, "the connection is still used");
        assert!(!call.is_finished());

        dial.refused(member, "", NodeId::new(0, 1));
        call.await.unwrap().unwrap_err();
        let mut rest = Vec::new();
        // It is closed, one way or the other; what it has still said does not matter.
        let _ = stream.read_to_end(&mut rest).await;
    }
}
