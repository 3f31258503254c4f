//! One event, encoded once and shared by all who watch its key.

use std::ops::Range;
use std::sync::OnceLock;

use bytes::Bytes;

use crate::mvcc::{Event, EventKind, KeyValue};

/// Bytes that an event takes beside its encoding, and by which its previous pair may be longer to be kept with it.
const SMALL: usize = 512;

/// How events go on the wire. Both are of one protobuf message, so the second can follow the first.
#[derive(Clone, Copy, Debug)]
pub struct Encode {
    /// An event without the pair before it, and where in it the key is.
    pub event: fn(&Event) -> (Bytes, Range<usize>),
    /// The pair before an event.
    pub previous: fn(KeyValue) -> Bytes,
}

/// One event.
#[derive(Debug)]
pub struct SharedEvent {
    /// Main revision.
    pub revision: i64,
    /// What happened.
    pub kind: EventKind,
    /// The key was not there before.
    pub is_create: bool,
    key: Bytes,
    encoded: Bytes,
    previous: OnceLock<Option<Bytes>>,
}

impl SharedEvent {
    /// Encodes an event.
    pub fn new(event: &Event, encode: Encode) -> Self {
        let (encoded, key) = (encode.event)(event);
        let is_create = event.kind == EventKind::Put && event.kv.create_revision == event.kv.mod_revision;
        let key = if key.end <= encoded.len() { encoded.slice(key) } else { event.kv.key.clone() };
        Self {
            revision: event.kv.mod_revision,
            kind: event.kind,
            is_create,
            key,
            encoded,
            previous: OnceLock::new(),
        }
    }

    /// The key.
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// The event on the wire, without the pair before it.
    pub fn encoded(&self) -> &Bytes {
        &self.encoded
    }

    /// The most bytes that it takes while it waits, the pair before it included.
    pub(super) fn weight(&self) -> usize {
        2 * (self.encoded.len() + SMALL)
    }

    /// Whether it is known what was before it: somebody has asked for it already and it is small.
    pub(super) fn knows_previous(&self) -> bool {
        self.previous.get().is_some()
    }

    /// The pair before it on the wire, if it is known.
    pub(super) fn known_previous(&self) -> Option<Bytes> {
        self.previous.get().cloned().flatten()
    }

    /// Keeps the pair before it for whoever asks next. A large one is not kept: events wait in queues, and their bytes count there
    /// before anyone knows what was before them.
    pub(super) fn keep_previous(&self, previous: Option<&Bytes>) {
        if previous.is_none_or(|previous| previous.len() <= self.encoded.len() + SMALL) {
            // Whoever was first has set the same.
            let _ = self.previous.set(previous.cloned());
        }
    }
}
