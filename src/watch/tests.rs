//! Each trap of etcd's watch as a test, and everything at once against a naive model.

mod model;
mod traps;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use parking_lot::Mutex;

use super::*;
use crate::env::random::SystemRandom;
use crate::metrics::Metrics;
use crate::mvcc::command::{Command, Compact, DeleteRange, LogPosition, Put, Request, Txn, TxnOp};
use crate::mvcc::{
    Event, EventKind, EventsRead, History, HistoryError, KeyValue, State, WatchOptions, WatchedKeys,
    read_events,
};

/// An event as a test looks at it: revision, kind, key, value, and the value before if there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    revision: i64,
    kind: EventKind,
    key: Bytes,
    value: Bytes,
    previous: Option<Bytes>,
}

/// A readable encoding: kind, key length, key, revision, value.
fn encode_event(event: &Event) -> (Bytes, std::ops::Range<usize>) {
    let mut bytes = vec![u8::from(event.kind == EventKind::Put), event.kv.key.len() as u8];
    bytes.extend_from_slice(&event.kv.key);
    bytes.extend_from_slice(&event.kv.mod_revision.to_be_bytes());
    bytes.extend_from_slice(&event.kv.value);
    (bytes.into(), 2..2 + event.kv.key.len())
}

const ENCODE: Encode = Encode { event: encode_event, previous: |pair| pair.value };

impl Seen {
    fn of(outgoing: &Outgoing) -> Self {
        let bytes = outgoing.event.encoded();
        let length = usize::from(bytes[1]);
        assert_eq!(&bytes[2..2 + length], outgoing.event.key());
        let revision = i64::from_be_bytes(bytes[2 + length..10 + length].try_into().unwrap());
        assert_eq!(revision, outgoing.event.revision);
        Self {
            revision,
            kind: outgoing.event.kind,
            key: bytes.slice(2..2 + length),
            value: bytes.slice(10 + length..),
            previous: outgoing.previous.clone(),
        }
    }
}

/// A state in memory, with its hub.
pub(super) struct World {
    hub: Hub,
    state: Mutex<State>,
    store: Mutex<BTreeMap<Bytes, Bytes>>,
    index: Mutex<u64>,
    busy: Mutex<bool>,
}

struct Store<'a>(&'a BTreeMap<Bytes, Bytes>);

impl History for Store<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, HistoryError> {
        Ok(self.0.get(key).cloned())
    }
    fn floor(&self, key: &[u8]) -> Result<Option<(Bytes, Bytes)>, HistoryError> {
        let key = Bytes::copy_from_slice(key);
        Ok(self.0.range(..=key).next_back().map(|(key, value)| (key.clone(), value.clone())))
    }
    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(Bytes, Bytes) -> std::ops::ControlFlow<()>,
    ) -> Result<(), HistoryError> {
        let span = Bytes::copy_from_slice(from)..Bytes::copy_from_slice(to);
        for (key, value) in self.0.range(span) {
            if visit(key.clone(), value.clone()).is_break() {
                break;
            }
        }
        Ok(())
    }
}

struct Reading(Arc<World>, usize);

impl Source for Reading {
    fn revision(&self) -> i64 {
        self.0.state.lock().revision()
    }
    fn compacted(&self) -> i64 {
        self.0.state.lock().compacted()
    }
    fn events(
        &self,
        from: i64,
        to: i64,
        wanted: &mut dyn FnMut(&[u8]) -> bool,
    ) -> Result<EventsRead, ReadFailure> {
        if *self.0.busy.lock() {
            return Err(ReadFailure::Busy);
        }
        if from < self.compacted() {
            return Err(ReadFailure::Compacted);
        }
        let store = self.0.store.lock();
        read_events(&Store(&store), from, to, self.1, wanted)
            .map_err(|error| ReadFailure::Lost(error.to_string()))
    }
    fn previous(&self, key: &[u8], revision: i64) -> Result<Option<KeyValue>, ReadFailure> {
        if *self.0.busy.lock() {
            return Err(ReadFailure::Busy);
        }
        let (state, store) = (self.0.state.lock(), self.0.store.lock());
        state.previous(&Store(&store), key, revision).map_err(|error| ReadFailure::Lost(error.to_string()))
    }
}

impl World {
    fn new() -> Arc<Self> {
        Self::with(limits::WATCH_QUEUE_BYTES, limits::WATCH_STEP_BYTES)
    }

    /// With so many bytes that may wait for a stream, and that one step of reading looks at.
    fn with(queue_bytes: usize, step_bytes: usize) -> Arc<Self> {
        let settings = Settings { progress_interval: Duration::from_millis(100), queue_bytes };
        let hub = Hub::new(ENCODE, settings, Arc::new(SystemRandom), Metrics::new());
        let world = Arc::new(Self {
            hub: hub.clone(),
            state: Mutex::new(State::new()),
            store: Mutex::default(),
            index: Mutex::new(0),
            busy: Mutex::new(false),
        });
        hub.bind(Arc::new(Reading(world.clone(), step_bytes)));
        world
    }

    /// Applies commands as one entry, without telling the hub.
    fn apply_silently(&self, commands: Vec<Command>) -> (Vec<Event>, i64) {
        let requests: Vec<_> = commands.into_iter().map(Request::anonymous).collect();
        let (mut state, mut store) = (self.state.lock(), self.store.lock());
        *self.index.lock() += 1;
        let at = LogPosition { term: 1, index: *self.index.lock() };
        let applied = state.apply(&Store(&store), at, &requests);
        assert!(!applied.is_unreadable());
        for key in &applied.changes.deletes {
            store.remove(key);
        }
        store.extend(applied.changes.puts);
        (applied.events, state.revision())
    }

    fn apply(&self, commands: Vec<Command>) -> i64 {
        let (events, revision) = self.apply_silently(commands);
        self.hub.publish(&events, revision);
        revision
    }

    fn put(&self, key: &str, value: &str) -> i64 {
        self.apply(vec![put(key, value)])
    }

    fn delete(&self, key: &str) -> i64 {
        self.apply(vec![delete(key, "")])
    }

    /// Compacts, on disk too.
    fn compact(&self, revision: i64) {
        self.apply(vec![Command::Compact(Compact { revision, physical: false })]);
        let (mut state, mut store) = (self.state.lock(), self.store.lock());
        while let Some(changes) = state.compaction_step(&Store(&store), 16).unwrap() {
            for key in &changes.deletes {
                store.remove(key);
            }
            store.extend(changes.puts);
        }
    }

    fn open(&self) -> Session {
        self.hub.open(Budget::of_connection()).unwrap()
    }
}

fn put(key: &str, value: &str) -> Command {
    Command::Put(Put {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::copy_from_slice(value.as_bytes()),
        ..Put::default()
    })
}

fn delete(key: &str, end: &str) -> Command {
    Command::DeleteRange(DeleteRange {
        key: Bytes::copy_from_slice(key.as_bytes()),
        range_end: Bytes::copy_from_slice(end.as_bytes()),
        ..DeleteRange::default()
    })
}

fn both(commands: Vec<Command>) -> Command {
    let op = |command| match command {
        Command::Put(put) => TxnOp::Put(put),
        Command::DeleteRange(delete) => TxnOp::DeleteRange(delete),
        other => panic!("{other:?}"),
    };
    Command::Txn(Txn { success: commands.into_iter().map(op).collect(), ..Txn::default() })
}

fn watch(key: &str, end: &str, start_revision: i64) -> Create {
    Create {
        keys: WatchedKeys::new(key.as_bytes(), end.as_bytes()),
        watch_id: 0,
        start_revision,
        options: WatchOptions::default(),
    }
}

/// What a stream said, in the order in which it did: per watcher (-1: to all).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    Created(i64),
    Refused(Refused),
    Canceled(i64),
    Compacted(i64, i64),
    TooLarge(i64),
    Denied(Option<i64>, &'static str),
    Progress(Option<i64>, i64),
    Events(i64, Vec<Seen>),
    Fragment(i64, Vec<Seen>),
}

/// Everything that a session has now.
fn drain(session: &mut Session) -> Vec<Said> {
    let mut said = Vec::new();
    while let Some(update) = session.next().now_or_never() {
        say(update.unwrap(), &mut said);
    }
    said
}

/// As [`drain`], while the session lets others run in between.
async fn settle(session: &mut Session) -> Vec<Said> {
    let mut said = Vec::new();
    // Time stands still unless nothing else can be done.
    while let Ok(update) = tokio::time::timeout(Duration::from_millis(1), session.next()).await {
        say(update.unwrap(), &mut said);
    }
    said
}

fn say(update: Update, said: &mut Vec<Said>) {
    said.push(match update {
        Update::Created { watch_id, .. } => Said::Created(watch_id),
        Update::Refused { reason, .. } => Said::Refused(reason),
        Update::Canceled { watch_id, .. } => Said::Canceled(watch_id),
        Update::Compacted { watch_id, compacted, .. } => Said::Compacted(watch_id, compacted),
        Update::TooLarge { watch_id, .. } => Said::TooLarge(watch_id),
        Update::Progress { watch_id, revision } => Said::Progress(watch_id, revision),
        Update::Denied { watch_id, why, .. } => Said::Denied(watch_id, why),
        Update::Events(mut delivery) => {
            while let Some((receiver, _)) = delivery.next_receiver() {
                for message in delivery.messages(&receiver) {
                    let seen: Vec<_> = message.events.iter().map(Seen::of).collect();
                    assert!(!seen.is_empty(), "an empty message");
                    assert!(seen.iter().all(|seen| seen.revision <= delivery.revision));
                    let id = receiver.watch_id;
                    said.push(if message.is_fragment {
                        Said::Fragment(id, seen)
                    } else {
                        Said::Events(id, seen)
                    });
                }
            }
            return;
        }
    });
}

use crate::limits;
