//! What a start finds of the run before it.

use std::time::Duration;

use setstone::client::{Client, Kv};
use setstone::config::Data;
use setstone::{Config, Node};
use tokio::time::Instant;

use crate::process::Process;

#[tokio::test]
async fn a_clean_restart_needs_no_rebuild_and_an_unclean_one_rebuilds() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let first = Process::start(&data, &[]).await;
    let store = first.remote();
    for number in 0..20 {
        Kv::put(&store, "k", format!("{number}")).await.unwrap();
    }
    let revision = Kv::put(&store, "k", "last").await.unwrap();
    let boot = boot(&first);
    assert_eq!(first.terminate().await, 0);
    assert!(data.join("state/closed-cleanly").exists());

    let second = Process::start(&data, &[]).await;
    assert_eq!(second.metric("setstone_state_rebuild_seconds"), 0.0, "closed cleanly");
    assert_eq!(self::boot(&second), boot + 1);
    let pair = Kv::get(&second.remote(), "k").await.unwrap().unwrap();
    assert_eq!((&pair.value[..], pair.version, pair.mod_revision), (&b"last"[..], 21, revision));
    assert!(!data.join("state/closed-cleanly").exists());
    assert_eq!(Kv::put(&second.remote(), "k", "more").await.unwrap(), revision + 1);
    let hash = second.remote().hash(0).await.unwrap().value;
    second.kill();

    let third = Process::start(&data, &[]).await;
    assert!(third.metric("setstone_state_rebuild_seconds") > 0.0, "killed");
    assert_eq!(self::boot(&third), boot + 2);
    assert_eq!(third.remote().hash(0).await.unwrap().value, hash);
    assert_eq!(Kv::put(&third.remote(), "k", "again").await.unwrap(), revision + 2);
    assert_eq!(third.terminate().await, 0);
}

fn boot(process: &Process) -> u64 {
    let answer = process.http("/status");
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    let status: serde_json::Value = serde_json::from_str(body).unwrap();
    status["disk"]["boot"].as_u64().unwrap()
}

#[tokio::test]
async fn a_node_that_was_stopped_leaves_its_directory_alone_when_it_is_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let config =
        Config { data: Data::Directory(directory.path().join("data")), ..Config::in_memory("alone") };
    let node = Node::start(config).await.unwrap();
    Kv::put(&node.client(), "k", "v").await.unwrap();
    node.shutdown().await;
    // It may be another process's now.
    let data = directory.path().join("data");
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::create_dir_all(data.join("state")).unwrap();
    drop(node);
    let metrics = tokio::runtime::Handle::current().metrics();
    let deadline = Instant::now() + Duration::from_secs(10);
    while metrics.num_alive_tasks() > 0 {
        assert!(Instant::now() < deadline, "a task was left");
        tokio::task::yield_now().await;
    }
    assert!(std::fs::read_dir(data.join("state")).unwrap().next().is_none());
}
