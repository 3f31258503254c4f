//! A load that remembers: writers that note the outcome of every write, readers on every member, and what must hold
//! between them at any moment.
//!
//! Checked while it runs, in real time: a linearizable read shows the store at or after every write that was acknowledged
//! before it began, and a write gets a higher revision than all of these; so revisions are the order of a linearization.
//! Serializable reads of one member never go back. Checked afterwards ([`History::check`]): what each read showed is what the
//! store held at that revision.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use setstone::client::{Client, Connection, Consistency, Remote};
use setstone::mvcc::KeyValue;
use setstone::mvcc::command::Put;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::world::{World, range};

const WRITERS: usize = 8;
/// Between two calls of one task: the load is steady, and the machine not busy with it alone.
const PAUSE: Duration = Duration::from_millis(2);
/// Reads that are looked up again in the end.
const READS_LOOKED_UP: usize = 300;

#[derive(Default)]
struct Shared {
    /// Highest revision of an acknowledged write.
    acknowledged: AtomicI64,
    /// When writes were acknowledged.
    times: Mutex<Vec<Instant>>,
    /// What must not be.
    violations: Mutex<Vec<String>>,
    reads: Mutex<Vec<Read>>,
}

/// What a linearizable read showed.
struct Read {
    key: Bytes,
    revision: i64,
    found: Option<KeyValue>,
}

#[derive(Debug)]
enum Outcome {
    Acknowledged(i64),
    /// It did not happen.
    Failed(String),
    /// Nobody knows.
    Unknown(String),
}

struct Write {
    key: Bytes,
    value: Bytes,
    outcome: Outcome,
}

/// A load that runs.
pub struct Load {
    stop: CancellationToken,
    shared: Arc<Shared>,
    writers: Vec<JoinHandle<Vec<Write>>>,
    readers: Vec<JoinHandle<()>>,
}

/// What a load that ended saw.
pub struct History {
    writes: Vec<Write>,
    shared: Arc<Shared>,
}

impl Load {
    /// Eight writers over all members, and on each member two readers. `name` is unique among the loads of one cluster.
    pub fn start(world: &World, name: &str) -> Self {
        Self::start_at(world.remote.clone(), name)
    }

    /// The same at some members only.
    pub fn start_at(remote: Remote, name: &str) -> Self {
        let mut load = Self::of_cluster(remote.clone(), name);
        let members = remote.connections().iter().enumerate();
        load.readers.extend(members.map(|(index, member)| {
            tokio::spawn(read_local(member.clone(), index, load.shared.clone(), load.stop.clone()))
        }));
        load
    }

    /// Only what must hold of the cluster, not of each of its members: a disk that was lost goes back.
    pub fn of_cluster(remote: Remote, name: &str) -> Self {
        let (stop, shared) = (CancellationToken::new(), Arc::new(Shared::default()));
        let writers = (0..WRITERS)
            .map(|writer| {
                let prefix = format!("{name}/{writer}");
                tokio::spawn(write(remote.clone(), prefix, shared.clone(), stop.clone()))
            })
            .collect();
        let members = remote.connections();
        let mut readers = Vec::new();
        for (index, member) in members.iter().enumerate() {
            let key = Bytes::from(format!("{name}/{index}/now"));
            readers.push(tokio::spawn(read(member.clone(), key, shared.clone(), stop.clone())));
        }
        Self { stop, shared, writers, readers }
    }

    /// Writes acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        self.shared.times.lock().len()
    }

    /// Waits until this many more were acknowledged.
    pub async fn more(&self, writes: usize) {
        let target = self.acknowledged() + writes;
        super::world::until(&format!("{writes} more writes are acknowledged"), async || {
            (self.acknowledged() >= target).then_some(())
        })
        .await;
    }

    /// Longest time between two acknowledgements one after the other, the second of them after `since`.
    pub fn longest_gap(&self, since: Instant) -> Duration {
        let times = self.shared.times.lock();
        let pairs = times.windows(2).filter(|pair| pair[1] > since);
        pairs.map(|pair| pair[1] - pair[0].max(since)).max().unwrap_or_default()
    }

    /// Ends it, waiting for what is under way.
    pub async fn stop(self) -> History {
        self.stop.cancel();
        let mut writes = Vec::new();
        for writer in self.writers {
            writes.extend(writer.await.unwrap());
        }
        for reader in self.readers {
            reader.await.unwrap();
        }
        History { writes, shared: self.shared }
    }
}

impl History {
    /// Every write was acknowledged.
    pub fn nothing_failed(&self) {
        for write in &self.writes {
            let outcome = &write.outcome;
            assert!(matches!(outcome, Outcome::Acknowledged(_)), "{:?}: {outcome:?}", write.key);
        }
    }

    /// Everything that was acknowledged is there, nothing that failed is, and reads showed what was. `pairs` is what the members
    /// agree on.
    pub async fn check(&self, world: &World, pairs: &[KeyValue]) {
        let violations = self.shared.violations.lock().clone();
        assert!(violations.is_empty(), "{violations:#?}");
        let by_key: BTreeMap<&Bytes, &KeyValue> = pairs.iter().map(|pair| (&pair.key, pair)).collect();
        let mut revisions = BTreeSet::new();
        let (mut acknowledged, mut failed, mut unknown) = (0, 0, BTreeMap::<&str, usize>::new());
        for write in &self.writes {
            let found = by_key.get(&write.key);
            match &write.outcome {
                Outcome::Acknowledged(revision) => {
                    acknowledged += 1;
                    assert!(revisions.insert(*revision), "two writes have revision {revision}");
                    let found =
                        found.unwrap_or_else(|| panic!("{:?} (revision {revision}) is lost", write.key));
                    assert!(found.mod_revision >= *revision, "{found:?} is older than revision {revision}");
                    if found.mod_revision == *revision {
                        assert_eq!(found.value, write.value, "{:?}", write.key);
                    }
                    assert!(
                        found.mod_revision == *revision || write.key.ends_with(b"/now"),
                        "{found:?}: {revision}"
                    );
                }
                Outcome::Failed(why) => {
                    failed += 1;
                    assert!(found.is_none_or(|found| found.value != write.value), "{found:?}, but: {why}");
                }
                Outcome::Unknown(why) => *unknown.entry(why).or_default() += 1,
            }
        }
        self.check_reads(world).await;
        println!("{acknowledged} writes acknowledged, {failed} failed, of unknown outcome: {unknown:?}");
    }

    async fn check_reads(&self, world: &World) {
        let reads: Vec<Read> = std::mem::take(&mut *self.shared.reads.lock());
        let step = reads.len().div_ceil(READS_LOOKED_UP).max(1);
        for read in reads.iter().step_by(step) {
            let mut then = range(&read.key, None);
            then.revision = read.revision;
            let held = world.remote.get(then, Consistency::Linearizable).await.unwrap().value.kvs;
            assert_eq!(held.first(), read.found.as_ref(), "{:?} at revision {}", read.key, read.revision);
        }
        println!("{} linearizable reads", reads.len());
    }
}

async fn write(remote: Remote, prefix: String, shared: Arc<Shared>, stop: CancellationToken) -> Vec<Write> {
    let mut writes = Vec::new();
    let mut last = 0;
    let mut pace = tokio::time::interval(PAUSE);
    for number in 0u64.. {
        if stop.is_cancelled() {
            break;
        }
        // Every other write is to a key of its own; the rest are to one that is written again and again.
        let key = if number % 2 == 0 { format!("{prefix}/{number:08}") } else { format!("{prefix}/now") };
        let (key, value) = (Bytes::from(key), Bytes::from(format!("{number:0200}")));
        let before = shared.acknowledged.load(Ordering::SeqCst);
        let put = Put { key: key.clone(), value: value.clone(), ..Put::default() };
        let outcome = match remote.put(put).await {
            Ok(answer) => {
                let revision = answer.header.revision;
                if revision <= before || revision <= last {
                    let text = format!("{key:?} has revision {revision}, after {before} and {last}");
                    shared.violations.lock().push(text);
                }
                last = revision;
                shared.acknowledged.fetch_max(revision, Ordering::SeqCst);
                shared.times.lock().push(Instant::now());
                Outcome::Acknowledged(revision)
            }
            Err(error) if error.is_outcome_unknown() => Outcome::Unknown(error.to_string()),
            Err(error) => Outcome::Failed(error.to_string()),
        };
        writes.push(Write { key, value, outcome });
        pace.reset();
        pace.tick().await;
    }
    writes
}

async fn read(member: Connection, key: Bytes, shared: Arc<Shared>, stop: CancellationToken) {
    let mut pace = tokio::time::interval(2 * PAUSE);
    while !stop.is_cancelled() {
        let before = shared.acknowledged.load(Ordering::SeqCst);
        if let Ok(answer) = member.get(range(&key, None), Consistency::Linearizable).await {
            let revision = answer.header.revision;
            if revision < before {
                let text = format!("{}: stale: {revision}, after {before}", member.endpoint().authority());
                shared.violations.lock().push(text);
            }
            let found = answer.value.kvs.into_iter().next();
            shared.reads.lock().push(Read { key: key.clone(), revision, found });
        }
        pace.reset();
        pace.tick().await;
    }
}

async fn read_local(member: Connection, index: usize, shared: Arc<Shared>, stop: CancellationToken) {
    let mut last = 0;
    let mut pace = tokio::time::interval(2 * PAUSE);
    while !stop.is_cancelled() {
        if let Ok(answer) = member.get(range(b"any", None), Consistency::Serializable).await {
            let revision = answer.header.revision;
            if revision < last {
                shared.violations.lock().push(format!("member {index} went back: {last}, then {revision}"));
            }
            last = revision;
        }
        pace.reset();
        pace.tick().await;
    }
}
