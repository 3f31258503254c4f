//! Locks, elections, ranges in parts and snapshots: services that stand on keys ask for the keys.

use prost::Message;
use setstone::client::Access;
use setstone::proto::{etcdserverpb as pb, v3electionpb, v3lockpb};
use tonic::{Code, Status};

use super::world::*;

const EMPTY: &str = "etcdserver: user name is empty";
const DENIED: &str = "etcdserver: permission denied";

/// The text of a refusal; these services have etcd's texts without its codes.
fn refused<T: std::fmt::Debug>(answer: Result<T, Status>) -> String {
    let status = answer.unwrap_err();
    assert_eq!(status.code(), Code::Unknown, "{status:?}");
    status.message().to_owned()
}

/// The first message of a stream.
async fn first<Q, A>(calls: &Calls, method: &str, message: Q) -> Result<A, Status>
where
    Q: Message + Send + Sync + 'static,
    A: Message + Default + Send + Sync + 'static,
{
    let mut grpc = tonic::client::Grpc::new(calls.channel());
    grpc.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<Q, A>::default();
    let path = format!("/{method}").parse().unwrap();
    let mut stream = grpc.server_streaming(calls.request(message), path, codec).await?.into_inner();
    Ok(stream.message().await?.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locks_and_elections_need_the_keys_of_their_queue() {
    let (node, root) =
        with_users(config(setstone::config::Tokens::Simple, setstone::limits::TOKEN_TTL)).await;
    root.role_grant_permission("r", permission(Access::ReadWrite, "l/", "l0")).await.unwrap();
    let nobody = Calls::to(node.addresses().client).await;
    let alice = nobody.user("alice").await;
    let lock = |name: &str| v3lockpb::LockRequest { name: bytes(name), lease: 0 };
    let ask = "v3lockpb.Lock/Lock";
    assert_eq!(refused(nobody.ask::<_, v3lockpb::LockResponse>(ask, lock("l")).await), EMPTY);
    // It may read there, and not write; and write there, and not read.
    for name in ["r", "w"] {
        assert_eq!(refused(alice.ask::<_, v3lockpb::LockResponse>(ask, lock(name)).await), DENIED, "{name}");
    }
    let held: v3lockpb::LockResponse = alice.ask(ask, lock("l")).await.unwrap();
    let unlock = |key: &bytes::Bytes| v3lockpb::UnlockRequest { key: key.clone() };
    let ask = "v3lockpb.Lock/Unlock";
    assert_eq!(refused(nobody.ask::<_, v3lockpb::UnlockResponse>(ask, unlock(&held.key)).await), EMPTY);
    assert_eq!(refused(alice.ask::<_, v3lockpb::UnlockResponse>(ask, unlock(&bytes("r/1"))).await), DENIED);
    alice.ask::<_, v3lockpb::UnlockResponse>(ask, unlock(&held.key)).await.unwrap();

    let campaign =
        |name: &str| v3electionpb::CampaignRequest { name: bytes(name), lease: 0, value: bytes("v") };
    let ask = "v3electionpb.Election/Campaign";
    assert_eq!(refused(nobody.ask::<_, v3electionpb::CampaignResponse>(ask, campaign("l")).await), EMPTY);
    assert_eq!(refused(alice.ask::<_, v3electionpb::CampaignResponse>(ask, campaign("r")).await), DENIED);
    let won: v3electionpb::CampaignResponse = alice.ask(ask, campaign("l")).await.unwrap();
    let proclaim = v3electionpb::ProclaimRequest { leader: won.leader.clone(), value: bytes("more") };
    let ask = "v3electionpb.Election/Proclaim";
    assert_eq!(refused(nobody.ask::<_, v3electionpb::ProclaimResponse>(ask, proclaim.clone()).await), EMPTY);
    alice.ask::<_, v3electionpb::ProclaimResponse>(ask, proclaim).await.unwrap();
    let who = |name: &str| v3electionpb::LeaderRequest { name: bytes(name) };
    for (calls, name, text) in [(&nobody, "l", EMPTY), (&alice, "w", DENIED)] {
        let leader = calls.ask::<_, v3electionpb::LeaderResponse>("v3electionpb.Election/Leader", who(name));
        assert_eq!(refused(leader.await), text);
        let observed =
            first::<_, v3electionpb::LeaderResponse>(calls, "v3electionpb.Election/Observe", who(name));
        assert_eq!(refused(observed.await), text);
    }
    let seen: v3electionpb::LeaderResponse =
        first(&alice, "v3electionpb.Election/Observe", who("l")).await.unwrap();
    assert_eq!(seen.kv.unwrap().value, "more");
    let resign = v3electionpb::ResignRequest { leader: won.leader };
    let ask = "v3electionpb.Election/Resign";
    assert_eq!(refused(nobody.ask::<_, v3electionpb::ResignResponse>(ask, resign.clone()).await), EMPTY);
    alice.ask::<_, v3electionpb::ResignResponse>(ask, resign).await.unwrap();
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_range_in_parts_needs_all_its_keys_and_a_snapshot_needs_root() {
    use Said::{Denied, Fine, Nobody};
    let (node, _root) =
        with_users(config(setstone::config::Tokens::Simple, setstone::limits::TOKEN_TTL)).await;
    let nobody = Calls::to(node.addresses().client).await;
    let (alice, root) = (nobody.user("alice").await, nobody.user("root").await);
    let range = |key: &str| pb::RangeRequest { key: bytes(key), range_end: bytes("s"), ..Default::default() };
    for (calls, key, says) in [(&nobody, "r", Nobody), (&alice, "r", Fine), (&alice, "q", Denied)] {
        let part =
            first::<_, pb::RangeStreamResponse>(calls, "etcdserverpb.KV/RangeStream", range(key)).await;
        assert_eq!(said(&part), says, "{key}");
    }
    for (calls, says) in [(&nobody, Nobody), (&alice, Denied), (&root, Fine)] {
        let ask = "etcdserverpb.Maintenance/Snapshot";
        let part = first::<_, pb::SnapshotResponse>(calls, ask, pb::SnapshotRequest {}).await;
        assert_eq!(said(&part), says);
    }
    node.shutdown().await;
}
