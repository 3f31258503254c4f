//! What of openraft's requests goes to a peer.

use std::sync::Arc;

use futures::StreamExt;
use openraft::RaftNetworkFactory;
use openraft::network::RPCOption;
use openraft::network::v2::RaftNetworkV2;
use openraft::raft::AppendEntriesRequest;

use super::harness::*;
use crate::raft::boots::Boots;
use crate::raft::commits::Wanted;
use crate::raft::network::Factory;
use crate::raft::types::{self, PeerNode, TypeConfig};
use crate::raft::{Sender, store::Store};
use crate::storage::LogId;

#[tokio::test(flavor = "multi_thread")]
async fn a_task_whose_entries_were_cut_ends() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let (leader, follower) = (&cluster.members[leader], &cluster.members[(leader + 1) % 3]);
    leader.consensus.propose(put("k", "v")).await.unwrap();
    cluster.converge().await;
    let (term, last) = {
        let position = leader.consensus.position();
        (position.term, position.applied_index)
    };
    let (boot, boot_random) = leader.consensus.boot();
    let mut factory = Factory::new(
        Sender { cluster: CLUSTER, node: leader.id, boot, boot_random },
        Arc::new(DialFrom(leader.id, cluster.net.clone())),
        Boots::default(),
        leader.consensus.snapshots().clone(),
        Wanted::new(),
        crate::metrics::Metrics::new(),
    );
    let node =
        PeerNode { name: String::new(), peer_address: follower.address.to_string(), client_urls: Vec::new() };
    let mut peer = factory.new_client(follower.id, &node).await;
    let without_entries = |end: u64| AppendEntriesRequest::<TypeConfig> {
        vote: types::Vote::new_committed(term, leader.id),
        prev_log_id: Some(types::log_id(LogId { term, index: end })),
        leader_commit: Some(types::log_id(LogId { term, index: last })),
        entries: Vec::new(),
    };
    let option = || RPCOption::new(std::time::Duration::from_secs(5));

    let requests = [last, last - 1, last].map(without_entries);
    let answers = peer.stream_append(futures::stream::iter(requests), option()).await.unwrap();
    let answers: Vec<_> = answers.collect().await;
    assert!(matches!(answers[..], [Ok(Ok(_))]), "it ends before the request that lacks entries: {answers:?}");

    let requests = [last - 1, last].map(without_entries);
    let refused = peer.stream_append(futures::stream::iter(requests), option()).await.err().unwrap();
    assert!(refused.to_string().contains("the log was cut"), "{refused}");
    cluster.stop().await;
}
