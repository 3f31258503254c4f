//! What goes out to the watchers of one session at once, and how it is cut into messages.

use std::sync::Arc;

use bytes::Bytes;

use super::event::SharedEvent;
use crate::limits;
use crate::mvcc::WatchOptions;

/// An event with the pair before it, if somebody who gets it wants that.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// The event.
    pub event: Arc<SharedEvent>,
    /// The pair before it on the wire.
    pub previous: Option<Bytes>,
}

/// One watcher that gets events of a [`Part`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receiver {
    /// Its id.
    pub watch_id: i64,
    /// What it wants.
    pub options: WatchOptions,
    /// The first of the part's events that it gets.
    from: u32,
}

impl Receiver {
    /// Whether it gets the same messages as `other` does, in the same part.
    pub fn gets_the_same_as(&self, other: &Self) -> bool {
        (self.options, self.from) == (other.options, other.from)
    }
}

/// Watchers of the same keys, and the events on these keys.
#[derive(Clone, Debug, Default)]
struct Part {
    /// Indices in [`Delivery::events`].
    events: Vec<u32>,
    receivers: Vec<Receiver>,
}

/// Events for some watchers: all that a span of revisions has for each of them.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Revision for the header: that of the newest event or above it.
    pub revision: i64,
    events: Vec<Outgoing>,
    parts: Vec<Part>,
    next: (usize, usize),
}

/// One response to one watcher.
#[derive(Clone, Debug)]
pub struct Message {
    /// More events of the same revision follow.
    pub is_fragment: bool,
    /// The events.
    pub events: Vec<Outgoing>,
}

impl Delivery {
    pub(super) fn new(revision: i64, events: Vec<Outgoing>) -> Self {
        Self { revision, events, parts: Vec::new(), next: (0, 0) }
    }

    /// Adds watchers of the same keys, and their events. Those that get the same are put beside each other.
    pub(super) fn add(&mut self, events: Vec<u32>, mut receivers: Vec<Receiver>) {
        if !receivers.is_empty() {
            receivers.sort_unstable_by_key(|receiver| (receiver.options, receiver.from, receiver.watch_id));
            self.parts.push(Part { events, receivers });
        }
    }

    pub(super) fn receiver(watch_id: i64, options: WatchOptions, from: usize) -> Receiver {
        Receiver { watch_id, options, from: from as u32 }
    }

    pub(super) fn event(&self, index: u32) -> Option<&SharedEvent> {
        self.events.get(index as usize).map(|outgoing| &*outgoing.event)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Events that are delivered, each as often as it is.
    pub(super) fn count(&self) -> u64 {
        let of = |part: &Part| {
            part.receivers.iter().map(|to| part.events.len() as u64 - u64::from(to.from)).sum::<u64>()
        };
        self.parts.iter().map(of).sum()
    }

    /// The next watcher. Its messages are those of the last one if it [gets the same](Receiver::gets_the_same_as) and the flag says
    /// that the part is the same.
    pub fn next_receiver(&mut self) -> Option<(Receiver, bool)> {
        loop {
            let (part, at) = self.next;
            let receivers = &self.parts.get(part)?.receivers;
            if let Some(receiver) = receivers.get(at) {
                self.next.1 += 1;
                return Some((*receiver, at > 0));
            }
            self.next = (part + 1, 0);
        }
    }

    /// The messages for the watcher that [`Delivery::next_receiver`] returned last: cut between revisions once
    /// [`limits::WATCH_RESPONSE_BYTES`] are reached, and within a revision at [`limits::RECEIVED_MESSAGE_BYTES`] if it wants fragments.
    pub fn messages(&self, receiver: &Receiver) -> Vec<Message> {
        let Some(part) = self.parts.get(self.next.0) else { return Vec::new() };
        let wanted = part.events.iter().skip(receiver.from as usize);
        let wanted = wanted.filter_map(|index| self.events.get(*index as usize));
        let wanted = wanted.filter(|outgoing| receiver.options.wants(outgoing.event.kind));
        let may_cut = receiver.options.has(WatchOptions::FRAGMENT);
        let (mut messages, mut now, mut bytes) = (Vec::new(), Vec::<Outgoing>::new(), 0);
        for outgoing in wanted {
            let mut outgoing = outgoing.clone();
            if !receiver.options.has(WatchOptions::PREVIOUS) {
                outgoing.previous = None;
            }
            let size = outgoing.bytes();
            if let Some(last) = now.last() {
                let is_fragment = last.event.revision == outgoing.event.revision;
                let cut = if is_fragment {
                    may_cut && bytes + size >= limits::RECEIVED_MESSAGE_BYTES - limits::WATCH_HEADER_BYTES
                } else {
                    bytes + size > limits::WATCH_RESPONSE_BYTES
                };
                if cut {
                    messages.push(Message { is_fragment, events: std::mem::take(&mut now) });
                    bytes = 0;
                }
            }
            bytes += size;
            now.push(outgoing);
        }
        if !now.is_empty() {
            messages.push(Message { is_fragment: false, events: now });
        }
        messages
    }
}

impl Outgoing {
    /// Bytes on the wire, without tag and length.
    pub fn bytes(&self) -> usize {
        self.event.encoded().len() + self.previous.as_ref().map_or(0, Bytes::len)
    }
}
