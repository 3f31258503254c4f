//! What survives: a restart, a lost engine, a snapshot.

use setstone::client::{Client, Put};
use setstone::config::{Data, Tokens, Tuning};
use setstone::{Config, limits};
use tokio::time::Instant;

use super::world::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_survive_a_restart_a_lost_engine_and_a_snapshot() {
    let directory = tempfile::tempdir().unwrap();
    let config = || Config {
        data: Data::Directory(directory.path().to_path_buf()),
        tuning: Tuning { log_bytes_before_snapshot: 64 << 10, log_entries_kept: 1, ..Tuning::default() },
        ..config(Tokens::Simple, limits::TOKEN_TTL)
    };
    let (node, root) = with_users(config()).await;
    let before = root.auth_status().await.unwrap().value;
    let token = Calls::to(node.addresses().client).await.token("alice", "alice").await.unwrap();
    // Until there is a snapshot.
    let snapshots = directory.path().join("snapshots");
    let deadline = Instant::now() + PATIENCE;
    while std::fs::read_dir(&snapshots).map_or(0, Iterator::count) == 0 {
        assert!(Instant::now() < deadline, "no snapshot was made");
        let value = vec![7; 16 << 10].into();
        root.put(Put { key: "k".into(), value, ..Put::default() }).await.unwrap();
    }
    root.user_add("after", Some("the snapshot")).await.unwrap();
    node.shutdown().await;

    for lost in [false, true] {
        if lost {
            std::fs::remove_dir_all(directory.path().join("state")).unwrap();
        }
        let node = start(config()).await;
        let calls = Calls::to(node.addresses().client).await;
        assert_eq!(said(&calls.range("r", "", false).await), Said::Nobody, "it is enabled");
        assert_eq!(
            said(&calls.with_token(&token).range("r", "", false).await),
            Said::NoToken,
            "tokens are not kept"
        );
        let alice = calls.user("alice").await;
        assert_eq!(said(&alice.range("r", "s", false).await), Said::Fine);
        assert_eq!(said(&alice.range("r", "t", false).await), Said::Denied);
        assert!(calls.token("after", "the snapshot").await.is_ok());
        let root = remote(node.addresses().client, Some(("root", "root")));
        let now = root.auth_status().await.unwrap().value;
        assert_eq!((now.enabled, now.revision), (true, before.revision + 1));
        node.shutdown().await;
    }
}
