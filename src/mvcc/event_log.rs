//! What the members decided, for people: a bounded log that is replicated as all cluster state is. Nothing is decided by it.

use std::collections::BTreeMap;

use crate::limits::{EVENT_BYTES, EVENTS};

/// Something that a member decided or found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterEvent {
    /// Drawn at random by whoever tells it: told twice, it is kept once.
    pub id: u64,
    /// When, by the clock of whoever tells it: milliseconds since 1970-01-01 UTC.
    pub at_millis: u64,
    /// The pod that tells it.
    pub source: String,
    /// What happened.
    pub text: String,
}

impl ClusterEvent {
    /// An event, with names and texts cut to [`EVENT_BYTES`].
    pub fn new(id: u64, at_millis: u64, source: &str, text: &str) -> Self {
        Self { id, at_millis, source: cut(source), text: cut(text) }
    }
}

fn cut(text: &str) -> String {
    let end = text.floor_char_boundary(EVENT_BYTES);
    text.get(..end).unwrap_or_default().to_owned()
}

/// The newest [`EVENTS`] events, by number. Numbers rise by one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventLog(BTreeMap<u64, ClusterEvent>);

/// What a new event changed.
pub(super) struct Added {
    pub(super) number: u64,
    /// The one that made room.
    pub(super) forgotten: Option<u64>,
}

impl EventLog {
    /// Adds an event; `None` if it is there already.
    pub(super) fn add(&mut self, event: ClusterEvent) -> Option<Added> {
        if self.0.values().any(|known| known.id == event.id) {
            return None;
        }
        let number = self.0.last_key_value().map_or(1, |(last, _)| last.saturating_add(1));
        self.0.insert(number, event);
        let forgotten = (self.0.len() > EVENTS).then(|| self.0.pop_first()).flatten();
        Some(Added { number, forgotten: forgotten.map(|(number, _)| number) })
    }

    /// Puts back an event that was read.
    pub(super) fn load(&mut self, number: u64, event: ClusterEvent) {
        self.0.insert(number, event);
    }

    pub(super) fn get(&self, number: u64) -> Option<&ClusterEvent> {
        self.0.get(&number)
    }

    /// From the oldest on, with their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &ClusterEvent)> {
        self.0.iter().map(|(number, event)| (*number, event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: u64) -> ClusterEvent {
        ClusterEvent::new(id, 5, "setstone-0", "resumed")
    }

    #[test]
    fn the_newest_are_kept_and_their_numbers_go_on() {
        let mut log = EventLog::default();
        for id in 1..=EVENTS as u64 {
            let added = log.add(event(id)).unwrap();
            assert_eq!((added.number, added.forgotten), (id, None));
        }
        let next = EVENTS as u64 + 1;
        let added = log.add(event(next)).unwrap();
        assert_eq!((added.number, added.forgotten), (next, Some(1)));
        assert_eq!(log.iter().count(), EVENTS);
    }

    #[test]
    fn what_is_told_twice_is_kept_once() {
        let mut log = EventLog::default();
        assert!(log.add(event(9)).is_some());
        assert!(log.add(event(9)).is_none());
        assert_eq!(log.iter().count(), 1);
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        let text = "ü".repeat(EVENT_BYTES);
        let event = ClusterEvent::new(1, 0, "s", &format!("x{text}"));
        assert!(event.text.len() <= EVENT_BYTES && event.text.len() >= EVENT_BYTES - 1);
        assert!(event.text.ends_with('ü'));
    }
}
