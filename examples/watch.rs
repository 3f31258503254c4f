//! Watching keys: read them once, and follow what changes, as a cache does.
//!
//! ```text
//! cargo run --example watch
//! ```

#![allow(clippy::pedantic)]

use std::collections::BTreeMap;
use std::error::Error;

use setstone::client::{Client, Consistency, EventKind, Kv, Range, Watch, Watched, prefix_end};
use setstone::{Config, Node};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    println!("{:?}", run().await?);
    Ok(())
}

/// Keeps a copy of all keys below `services/`; returns what it held in the end.
pub async fn run() -> Result<BTreeMap<String, String>, Box<dyn Error>> {
    let node = Node::start(Config::in_memory("watch")).await?;
    let store = node.client();
    Kv::put(&store, "services/web", "10.0.0.1").await?;

    // First the keys as they are, then every change after that revision: nothing is missed, nothing seen twice.
    let prefix = "services/";
    let range = Range { key: prefix.into(), range_end: prefix_end(prefix.as_bytes()), ..Range::default() };
    let answer = Client::get(&store, range.clone(), Consistency::Linearizable).await?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut copy: BTreeMap<_, _> =
        answer.value.kvs.iter().map(|kv| (text(&kv.key), text(&kv.value))).collect();
    let mut watcher = Client::watch(
        &store,
        Watch {
            key: range.key,
            range_end: range.range_end,
            start_revision: answer.header.revision + 1,
            ..Watch::default()
        },
    );

    Kv::put(&store, "services/db", "10.0.0.2").await?;
    Kv::delete(&store, "services/web").await?;
    let last = Kv::put(&store, "services/db", "10.0.0.3").await?;

    let mut seen = 0;
    while seen < last {
        match watcher.next().await.ok_or("the watch has ended")?? {
            Watched::Began(_) => {}
            Watched::Events(events) => {
                for event in events {
                    let key = text(&event.kv.key);
                    match event.kind {
                        EventKind::Put => copy.insert(key, text(&event.kv.value)),
                        EventKind::Delete => copy.remove(&key),
                    };
                    seen = event.kv.mod_revision;
                }
            }
            Watched::Progress(revision) => seen = revision,
            // What it wants is gone: read the keys again, and watch from there.
            Watched::Compacted(revision) => return Err(format!("compacted at {revision}").into()),
        }
    }
    node.shutdown().await;
    Ok(copy)
}
