//! Reading very many keys: page after page, all of one revision, whatever is written meanwhile.
//!
//! ```text
//! cargo run --example pages
//! ```

#![allow(clippy::pedantic)]

use std::error::Error;

use setstone::client::txn::{always, put};
use setstone::client::{Client, Kv, Range, prefix_end};
use setstone::{Config, Node};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (pages, pairs) = run().await?;
    println!("{pairs} keys in {pages} pages");
    Ok(())
}

/// How many pages there were, and how many pairs.
pub async fn run() -> Result<(usize, usize), Box<dyn Error>> {
    let node = Node::start(Config::in_memory("pages")).await?;
    let store = node.client();
    for hundred in 0..10 {
        let keys = (0..100).map(|number| format!("logs/{hundred}{number:02}"));
        let write = keys.fold(always(), |write, key| write.then(put(key, "a line")));
        write.run(&store).await?;
    }

    let range = Range { key: "logs/".into(), range_end: prefix_end(b"logs/"), ..Range::default() };
    let mut pages = store.pages(range);
    let (mut count, mut pairs, mut revision) = (0, 0, 0);
    while let Some(page) = pages.next().await {
        let page = page?;
        if count == 0 {
            revision = page.revision;
            // Nobody who reads pages sees that.
            Kv::put(&store, "logs/999", "a later line").await?;
            Kv::put(&store, "logs/new", "a later line").await?;
        }
        assert!(page.revision == revision && page.kvs.iter().all(|pair| pair.mod_revision <= revision));
        (count, pairs) = (count + 1, pairs + page.kvs.len());
    }
    node.shutdown().await;
    Ok((count, pairs))
}
