//! A lock: one at a time does what must not be done twice.
//!
//! ```text
//! cargo run --example lock
//! ```

#![allow(clippy::pedantic)]

use std::error::Error;
use std::time::Duration;

use setstone::client::txn::{put, when};
use setstone::client::{Client, Kv, Lock};
use setstone::{Config, Node};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    println!("the last one was {}", run().await?);
    Ok(())
}

/// Two workers, one after the other; returns which one was the last.
pub async fn run() -> Result<String, Box<dyn Error>> {
    let node = Node::start(Config::in_memory("lock")).await?;
    let store = node.client();
    let first = Lock::acquire(store.clone(), "migrations", Duration::from_secs(10)).await?;

    // It waits until the first one is done: with its work, or for ever.
    let waits = tokio::spawn({
        let store = store.clone();
        async move { Lock::acquire(store, "migrations", Duration::from_secs(10)).await }
    });

    tokio::select! {
        // Cut off for too long: somebody else may hold the lock now, so stop.
        () = first.lost() => return Err("the lock was lost".into()),
        done = work(&store, &first, "first") => done?,
    }
    let token = first.token();
    first.unlock().await?;

    let second = waits.await??;
    // For whatever lies outside the cluster, and can refuse a token lower than one that it has seen.
    assert!(second.token() > token);
    work(&store, &second, "second").await?;
    drop(second);

    let last = Kv::get(&store, "version").await?.ok_or("nobody came")?;
    node.shutdown().await;
    Ok(String::from_utf8(last.value.to_vec())?)
}

/// Writes only while the lock is held, even if this program was stopped for an hour before the next line.
async fn work(store: &impl Client, lock: &Lock, who: &str) -> Result<(), Box<dyn Error>> {
    let written = when(lock.is_held()).then(put("version", who)).run(store).await?;
    if written.value.succeeded { Ok(()) } else { Err("the lock was lost".into()) }
}
