//! Writers and readers, and the check of what they saw.
//!
//! Checked while it runs, in real time: a linearizable read shows the store at or after every write that was acknowledged before it
//! began, and a write gets a higher revision than all of these; so revisions are the order of a linearization. Checked in the end: every
//! acknowledged write is there, none that failed is, and what each read showed is what the store held at that revision.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use setstone::client::{
    Client, ClientTls, Connector, Consistency, KeyPair, KeyValue, Kv, Options, Put, Range, Remote,
};
use tokio::task::JoinHandle;

use super::Failure;
use super::history::{self, History, Outcome, Read, Write};

/// Each has a connection of its own, which the Service sends to a pod of its choice.
const WRITERS: usize = 6;
const READERS: usize = 3;
/// Between two calls of one worker: steady, and the machine not busy with it alone.
const PAUSE: Duration = Duration::from_millis(20);
/// Writes of one writer over one connection, where it speaks TLS: what becomes of certificates is seen in handshakes.
const WRITES_PER_CONNECTION: u64 = 25;
/// Reads that are looked up again in the end.
const READS_LOOKED_UP: usize = 300;

pub struct Workers {
    stop: Arc<AtomicBool>,
    writers: Vec<JoinHandle<Vec<Write>>>,
    readers: Vec<JoinHandle<()>>,
}

/// The store, and how it is reached.
#[derive(Clone)]
pub struct Target {
    endpoint: String,
    tls: Option<Connector>,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.endpoint, if self.tls.is_some() { " over TLS" } else { "" })
    }
}

impl Target {
    /// With a folder: over TLS with what is in it, also with what comes to be in it later.
    pub fn new(endpoint: &str, folder: Option<&str>) -> Result<Self, Failure> {
        let connector = |folder: &str| {
            let file = |name| Path::new(folder).join(name);
            let identity = KeyPair { certificate: file("tls.crt"), key: file("tls.key") };
            Connector::new(ClientTls {
                trusted_ca: Some(file("ca.crt")),
                identity: Some(identity),
                takes_any_server: false,
            })
        };
        Ok(Self { endpoint: endpoint.to_owned(), tls: folder.map(connector).transpose()? })
    }

    fn connect(&self) -> Result<Remote, Failure> {
        Ok(Remote::new(&self.endpoint, &Options { tls: self.tls.clone(), ..Options::default() })?)
    }
}

pub fn start(target: &Target, history: &Arc<History>) -> Result<Workers, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    let mut workers = Workers { stop: stop.clone(), writers: Vec::new(), readers: Vec::new() };
    // Loads that follow one another in one store keep apart.
    let name = format!("load/{}", history::now());
    for number in 0..WRITERS {
        let prefix = format!("{name}/{number}");
        workers.writers.push(tokio::spawn(write(target.clone(), prefix, history.clone(), stop.clone())));
    }
    for number in 0..READERS {
        let key = format!("{name}/{number}/now");
        workers.readers.push(tokio::spawn(read(target.connect()?, key, history.clone(), stop.clone())));
    }
    Ok(workers)
}

impl Workers {
    /// Stops them, waiting for what is under way; all writes that there were.
    pub async fn finish(&mut self) -> Vec<Write> {
        self.stop.store(true, Ordering::SeqCst);
        let mut writes = Vec::new();
        for writer in self.writers.drain(..) {
            writes.extend(writer.await.unwrap_or_default());
        }
        for reader in self.readers.drain(..) {
            let _ = reader.await;
        }
        writes
    }
}

async fn write(target: Target, prefix: String, history: Arc<History>, stop: Arc<AtomicBool>) -> Vec<Write> {
    let mut writes = Vec::new();
    let mut last = 0;
    let Ok(mut store) = target.connect() else { return writes };
    for number in 0u64.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        if target.tls.is_some()
            && number % WRITES_PER_CONNECTION == 0
            && let Ok(another) = target.connect()
        {
            store = another;
        }
        // Every other write is to a key of its own; the rest are to one that is written again and again.
        let key = if number % 2 == 0 { format!("{prefix}/{number:08}") } else { format!("{prefix}/now") };
        let value = format!("{prefix} {number:0100}");
        let (before, asked) = (history.acknowledged.load(Ordering::SeqCst), history::now());
        let put = Put { key: key.clone().into(), value: value.clone().into(), ..Put::default() };
        let outcome = match Client::put(&store, put).await {
            Ok(answer) => {
                let revision = answer.header.revision;
                if revision <= before || revision <= last {
                    history.violation(format!("{key} has revision {revision}, after {before} and {last}"));
                }
                last = revision;
                Outcome::Acknowledged(revision)
            }
            Err(error) if error.is_outcome_unknown() => Outcome::Unknown(error.to_string()),
            Err(error) => Outcome::Failed(error.to_string()),
        };
        history.wrote(asked, &outcome);
        writes.push(Write { key, value, outcome });
        // The load has a rate.
        tokio::time::sleep(PAUSE).await;
    }
    writes
}

async fn read(store: Remote, key: String, history: Arc<History>, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::SeqCst) {
        let before = history.acknowledged.load(Ordering::SeqCst);
        let range = Range { key: key.clone().into(), ..Range::default() };
        match Client::get(&store, range, Consistency::Linearizable).await {
            Ok(answer) => {
                let revision = answer.header.revision;
                if revision < before {
                    history.violation(format!("stale: {key} at revision {revision}, after {before}"));
                }
                history.read(Read { key: key.clone(), revision, found: answer.value.kvs.into_iter().next() });
            }
            Err(error) => history.read_failed(error.to_string()),
        }
        // The load has a rate.
        tokio::time::sleep(PAUSE).await;
    }
}

/// What is wrong with what was seen.
pub async fn check(target: &Target, history: &History, writes: &[Write]) -> Vec<String> {
    let mut wrong = history.violations();
    match looked_up(target, history, writes).await {
        Ok(found) => wrong.extend(found),
        Err(error) => wrong.push(format!("the store could not be read: {error}")),
    }
    wrong
}

async fn looked_up(target: &Target, history: &History, writes: &[Write]) -> Result<Vec<String>, Failure> {
    let store = target.connect()?;
    let pairs = Kv::get_prefix(&store, "load/").await?;
    let by_key: BTreeMap<&[u8], &KeyValue> = pairs.iter().map(|pair| (&pair.key[..], pair)).collect();
    let (mut wrong, mut revisions) = (Vec::new(), BTreeSet::new());
    for write in writes {
        let found = by_key.get(write.key.as_bytes());
        let is_there = found.is_some_and(|found| found.value == write.value);
        match &write.outcome {
            Outcome::Acknowledged(revision) => {
                if !revisions.insert(*revision) {
                    wrong.push(format!("two writes have revision {revision}"));
                }
                let kept = match found {
                    Some(found) if found.mod_revision == *revision => is_there,
                    // Another one came later.
                    Some(found) => found.mod_revision > *revision && write.key.ends_with("/now"),
                    None => false,
                };
                if !kept {
                    wrong
                        .push(format!("LOST: {} at revision {revision}; the store has {found:?}", write.key));
                }
            }
            Outcome::Failed(why) if is_there => wrong.push(format!("{} is there, but: {why}", write.key)),
            Outcome::Failed(_) | Outcome::Unknown(_) => {}
        }
    }
    for (key, revision, seen) in history.sample(READS_LOOKED_UP) {
        let range = Range { key: key.clone().into(), revision, ..Range::default() };
        let held = match Client::get(&store, range, Consistency::Linearizable).await {
            Ok(answer) => answer.value.kvs,
            // Somebody wanted that to be forgotten.
            Err(error) if error.to_string().contains("has been compacted") => continue,
            Err(error) => return Err(error.into()),
        };
        if held.first() != seen.as_ref() {
            wrong
                .push(format!("WRONG: {key} at revision {revision} was {seen:?}, and is {:?}", held.first()));
        }
    }
    Ok(wrong)
}
