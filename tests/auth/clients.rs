//! The Rust client with a user and a password.

use std::time::Duration;

use setstone::client::{Client, Consistency, KeptLease, Put, Range, Watch, Watched};
use setstone::config::Tokens;
use setstone::limits;
use setstone::testing::TestCluster;
use tokio::time::timeout;

use super::world::*;

fn key(key: &str) -> Put {
    Put { key: bytes(key), value: "v".into(), ..Put::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_authenticates_anew_when_its_token_is_void() {
    let (node, root) = with_users(config(Tokens::Simple, limits::TOKEN_TTL)).await;
    let alice = remote(node.addresses().client, Some(("alice", "alice")));
    let one = alice.connections()[0].clone();
    let use_it = async || {
        alice.put(key("w")).await.unwrap();
        one.put(key("w")).await.unwrap();
        let range = Range { key: "r".into(), ..Range::default() };
        alice.get(range, Consistency::Linearizable).await.unwrap();
        let lease = one.grant(0, 60).await.unwrap().value.id;
        assert_eq!(alice.keep_alive(lease).await.unwrap().value, 60);
        one.keep_alives().keep_alive(lease).await.unwrap();
        alice.revoke(lease).await.unwrap();
    };
    use_it().await;
    // Its token is void, and its password is not.
    root.user_change_password("alice", "alice").await.unwrap();
    use_it().await;
    root.auth_disable().await.unwrap();
    use_it().await;
    root.auth_enable().await.unwrap();
    use_it().await;
    // What it may not, no token cures.
    let denied = alice.put(key("x")).await.unwrap_err();
    assert!(denied.to_string().contains("permission denied") && !denied.is_outcome_unknown(), "{denied}");
    root.user_change_password("alice", "other").await.unwrap();
    let failed = alice.put(key("w")).await.unwrap_err();
    assert!(failed.to_string().contains("authentication failed"), "{failed}");
    let wrong = remote(node.addresses().client, Some(("bob", "alice")));
    assert!(wrong.put(key("w")).await.unwrap_err().to_string().contains("authentication failed"));
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_and_leases_outlive_a_member_that_forgets_its_tokens() {
    let mut cluster = TestCluster::start(3).await.unwrap();
    set_up(&cluster.client()).await;
    let endpoints: Vec<_> =
        (0..3).map(|index| cluster.node(index).unwrap().addresses().client.to_string()).collect();
    let alice = remote(endpoints.join(","), Some(("alice", "alice")));
    let root = remote(endpoints.join(","), Some(("root", "root")));
    let mut watcher = alice.watch(Watch { key: "r".into(), range_end: "s".into(), ..Watch::default() });
    assert!(matches!(timeout(PATIENCE, watcher.next()).await.unwrap(), Some(Ok(Watched::Began(_)))));
    let lease = KeptLease::grant(alice.clone(), Duration::from_secs(4)).await.unwrap();
    alice.put(Put { lease: lease.id(), ..key("w") }).await.unwrap();
    for index in 0..3 {
        cluster.stop(index).await;
        root.put(key(&format!("r{index}"))).await.unwrap();
        cluster.start_again(index).await.unwrap();
        loop {
            match timeout(PATIENCE, watcher.next()).await.unwrap().unwrap().unwrap() {
                Watched::Events(events) => {
                    assert_eq!(events[0].kv.key, format!("r{index}"));
                    break;
                }
                other => assert!(matches!(other, Watched::Progress(_)), "{other:?}"),
            }
        }
        assert!(!lease.is_lost());
    }
    // And a watcher that may not is told so, for good.
    let mut denied = alice.watch(Watch { key: "a".into(), ..Watch::default() });
    let error = timeout(PATIENCE, denied.next()).await.unwrap().unwrap().unwrap_err();
    assert!(error.to_string().contains("permission denied"), "{error}");
    drop(lease);
    cluster.shutdown().await;
}
