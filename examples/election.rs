//! An election: one leads, another takes over, everybody sees who it is.
//!
//! ```text
//! cargo run --example election
//! ```

#![allow(clippy::pedantic)]

use std::error::Error;
use std::time::Duration;

use setstone::client::Leadership;
use setstone::{Config, Node};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    println!("{}", run().await?.join(", then "));
    Ok(())
}

/// What an observer saw.
pub async fn run() -> Result<Vec<String>, Box<dyn Error>> {
    let node = Node::start(Config::in_memory("election")).await?;
    let store = node.client();
    let ttl = Duration::from_secs(10);

    let mut leaders = Leadership::observe(store.clone(), "scheduler");
    let leads = Leadership::campaign(store.clone(), "scheduler", "10.0.0.1", ttl).await?;
    let waits = tokio::spawn(Leadership::campaign(store.clone(), "scheduler", "10.0.0.2", ttl));

    let mut seen = Vec::new();
    while seen.len() < 3 {
        let leader = leaders.next().await.ok_or("the observer has ended")??;
        seen.push(String::from_utf8(leader.value.to_vec())?);
        if seen.len() == 1 {
            // Something else that everybody is to know of the leader.
            leads.proclaim("10.0.0.1, draining").await?;
        } else if seen.len() == 2 {
            break;
        }
    }
    leads.resign().await?;
    let next = waits.await??;
    let leader = leaders.next().await.ok_or("the observer has ended")??;
    assert_eq!(&leader.key, next.key());
    seen.push(String::from_utf8(leader.value.to_vec())?);
    node.shutdown().await;
    Ok(seen)
}
