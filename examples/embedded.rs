//! Setstone inside a program: start a member, write, read, run a transaction, stop.
//!
//! ```text
//! cargo run --example embedded              everything in memory
//! cargo run --example embedded -- DIR       in a directory: run it twice, and the counter goes on
//! ```

#![allow(clippy::pedantic)]

use std::error::Error;
use std::path::PathBuf;

use setstone::client::{
    Client, Compare, CompareResult, Consistency, Kv, Operand, Outcome, Put, Range, Txn, TxnOp,
};
use setstone::config::Data;
use setstone::{Config, Node};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let visits = run(std::env::args().nth(1).map(PathBuf::from)).await?;
    println!("this store was visited {visits} times");
    Ok(())
}

/// Visits a store; returns how often it was visited so far.
pub async fn run(directory: Option<PathBuf>) -> Result<u64, Box<dyn Error>> {
    // A member that is alone, on free loopback ports. Other values of `cluster` make it one of several.
    let mut config = Config::in_memory("embedded");
    if let Some(directory) = directory {
        config.data = Data::Directory(directory);
    }
    let node = Node::start(config).await?;
    // Cheap to clone. The first calls wait until the member has started.
    let store = node.client();

    // The everyday calls are short.
    let revision = Kv::put(&store, "greetings/en", "hello").await?;
    Kv::put(&store, "greetings/de", "hallo").await?;
    for pair in store.get_prefix("greetings/").await? {
        println!("{:?} is {:?}, version {}", pair.key, pair.value, pair.version);
    }
    Kv::delete(&store, "greetings/de").await?;

    // All of etcd's options are there too: the value as it was two writes ago.
    let range = Range { key: "greetings/de".into(), revision: revision + 1, ..Range::default() };
    let earlier = Client::get(&store, range, Consistency::Serializable).await?;
    assert_eq!(earlier.value.kvs.first().map(|pair| &pair.value[..]), Some(&b"hallo"[..]));

    let visits = count_visit(&store).await?;

    // Log and state are closed, so that the next start is quick. The directory is free when this returns.
    node.shutdown().await;
    Ok(visits)
}

/// Adds one to a counter, whoever else does the same at the same time. Works with every kind of client.
async fn count_visit(store: &impl Client) -> Result<u64, Box<dyn Error>> {
    loop {
        let old = Kv::get(store, "visits").await?;
        let visits = match &old {
            Some(pair) => std::str::from_utf8(&pair.value)?.parse::<u64>()? + 1,
            None => 1,
        };
        let unchanged = Compare {
            key: "visits".into(),
            range_end: "".into(),
            result: CompareResult::Equal,
            operand: Operand::Mod(old.map_or(0, |pair| pair.mod_revision)),
        };
        let write = Put { key: "visits".into(), value: visits.to_string().into(), ..Put::default() };
        let txn = Txn { compares: vec![unchanged], success: vec![TxnOp::Put(write)], ..Txn::default() };
        let result = store.txn(txn).await?.value;
        if let (true, [Outcome::Put(_)]) = (result.succeeded, &result.outcomes[..]) {
            return Ok(visits);
        }
    }
}
