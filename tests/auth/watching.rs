//! Watching: who may, and who may not any more.

use setstone::client::{Client, Put};
use setstone::config::Tokens;
use setstone::limits;
use setstone::proto::etcdserverpb as pb;
use setstone::proto::etcdserverpb::watch_client::WatchClient;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::world::*;

const DENIED: &str = "rpc error: code = PermissionDenied desc = etcdserver: permission denied";

type Requests = mpsc::Sender<pb::WatchRequest>;

async fn open(calls: &Calls) -> (Requests, Streaming<pb::WatchResponse>) {
    let (requests, sent) = mpsc::channel(100);
    let request = calls.request(ReceiverStream::new(sent));
    (requests, WatchClient::new(calls.channel()).watch(request).await.unwrap().into_inner())
}

async fn watch(requests: &Requests, key: &str, range_end: &str, start_revision: i64) {
    let create = pb::WatchCreateRequest {
        key: bytes(key),
        range_end: bytes(range_end),
        start_revision,
        ..Default::default()
    };
    let union = pb::watch_request::RequestUnion::CreateRequest(create);
    requests.send(pb::WatchRequest { request_union: Some(union) }).await.unwrap();
}

async fn next(responses: &mut Streaming<pb::WatchResponse>) -> pb::WatchResponse {
    timeout(PATIENCE, responses.message()).await.expect("in time").unwrap().expect("more")
}

async fn write(client: &impl Client, key: &str) -> i64 {
    client.put(Put { key: bytes(key), ..Put::default() }).await.unwrap().header.revision
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_that_may_not_read_all_its_keys_is_not_made() {
    let (node, root) = with_users(config(Tokens::Simple, limits::TOKEN_TTL)).await;
    let nobody = Calls::to(node.addresses().client).await;
    let alice = nobody.user("alice").await;
    let (requests, mut responses) = open(&alice).await;
    for (key, end, start) in
        [("w", "", 0), ("r", "t", 0), ("r", "\0", 0), ("", "\0", 0), ("q", "s", 1), ("", "", 0)]
    {
        watch(&requests, key, end, start).await;
        let response = next(&mut responses).await;
        assert!(
            response.created && response.canceled && response.watch_id == -1,
            "{key} {end}: {response:?}"
        );
        assert_eq!(response.cancel_reason, DENIED);
        assert!(response.header.is_some_and(|header| header.revision > 0));
    }
    // What cannot be is told first, as in etcd.
    watch(&requests, "w", "", -1).await;
    assert!(next(&mut responses).await.cancel_reason.ends_with("has been compacted"));
    watch(&requests, "r", "s", 0).await;
    let response = next(&mut responses).await;
    assert!(response.created && !response.canceled && response.watch_id == 0, "{response:?}");
    write(&root, "w1").await;
    let revision = write(&root, "r1").await;
    let events = next(&mut responses).await;
    assert_eq!((events.events.len(), events.header.unwrap().revision), (1, revision));

    for (calls, reason) in [
        (nobody.clone(), "rpc error: code = InvalidArgument desc = etcdserver: user name is empty"),
        (nobody.with_token("bad"), "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token"),
    ] {
        let (requests, mut responses) = open(&calls).await;
        watch(&requests, "r", "", 0).await;
        let response = next(&mut responses).await;
        assert!(response.created && response.canceled && response.watch_id == -1);
        assert_eq!(response.cancel_reason, reason);
    }
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_ends_when_its_user_may_not_read_its_keys_any_more_and_its_neighbour_goes_on() {
    let (node, root) = with_users(config(Tokens::Simple, limits::TOKEN_TTL)).await;
    root.role_add("more").await.unwrap();
    root.role_grant_permission("more", permission(setstone::client::Access::Read, "m", "n")).await.unwrap();
    root.user_grant_role("alice", "more").await.unwrap();
    let alice = Calls::to(node.addresses().client).await.user("alice").await;
    let (requests, mut responses) = open(&alice).await;
    for (id, key, end) in [(0, "r", "s"), (1, "m", "n"), (2, "m", "")] {
        watch(&requests, key, end, 0).await;
        assert_eq!(next(&mut responses).await.watch_id, id);
    }
    // Users change, and nothing about hers.
    root.user_add("bob", Some("bob")).await.unwrap();
    write(&root, "m").await;
    let mut told = Vec::new();
    for _ in 0..2 {
        let response = next(&mut responses).await;
        assert_eq!(response.events.len(), 1, "{response:?}");
        told.push(response.watch_id);
    }
    told.sort_unstable();
    assert_eq!(told, [1, 2]);
    root.user_revoke_role("alice", "more").await.unwrap();
    write(&root, "m").await;
    let revision = write(&root, "r").await;
    let mut ended = Vec::new();
    loop {
        let response = next(&mut responses).await;
        if response.canceled {
            assert!(!response.created && response.cancel_reason == DENIED, "{response:?}");
            ended.push(response.watch_id);
            continue;
        }
        assert_eq!(response.watch_id, 0, "nothing of what she may not read any more: {response:?}");
        assert_eq!(response.header.unwrap().revision, revision);
        break;
    }
    ended.sort_unstable();
    assert_eq!(ended, [1, 2]);
    // And when she is not there any more.
    root.user_delete("alice").await.unwrap();
    let response = next(&mut responses).await;
    assert!(response.canceled && response.watch_id == 0 && response.cancel_reason == DENIED, "{response:?}");
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_watched_before_anybody_was_asked_is_asked_when_everybody_is() {
    let node = alone().await;
    let nobody = Calls::to(node.addresses().client).await;
    let (requests, mut responses) = open(&nobody).await;
    watch(&requests, "r", "", 0).await;
    assert!(next(&mut responses).await.created);
    set_up(&remote(node.addresses().client, None)).await;
    let response = next(&mut responses).await;
    assert!(response.canceled && !response.created, "{response:?}");
    assert_eq!(
        response.cancel_reason,
        "rpc error: code = InvalidArgument desc = etcdserver: user name is empty"
    );
    node.shutdown().await;
}
