//! A session's reading of the history: what watchers that lag have missed, and the pairs before events.

use std::sync::Arc;
use std::time::Duration;

use super::delivery::Outgoing;
use super::event::SharedEvent;
use super::session::{Session, Update};
use super::source::ReadFailure;
use super::table::From;
use crate::env::simulated::{self, Bug};
use crate::limits;
use crate::mvcc::WatchOptions;

/// How often a reader looks whether a snapshot is installed, should nobody tell it.
const BUSY: Duration = Duration::from_millis(100);
/// Pairs that are read before others may run.
const PREVIOUS_STEP: usize = 32;

impl Session {
    /// One step for those that lag: ends one that wants what is compacted, or reads on. `None` if there is nothing to tell of.
    pub(super) async fn catch_up(&mut self) -> Result<Option<Update>, ReadFailure> {
        let compacted = self.source.compacted();
        let lost = self.table.below(compacted);
        if !lost.is_empty() {
            for watch_id in lost {
                self.end(watch_id);
                self.ready.push_back(Update::Compacted { watch_id, compacted });
            }
            return Ok(None);
        }
        let handled = self.handled;
        let Some(first) = self.table.first_wanted().filter(|first| *first <= handled) else {
            self.table.catch_up(handled, handled);
            return Ok(None);
        };
        let first = first + i64::from(simulated::planted(Bug::WatchSkipOldest));
        let (table, source) = (&mut self.table, &self.source);
        let read = source
            .events(first, handled, &mut |key| table.is_wanted(key, From::History, WatchOptions::default()));
        let read = match read {
            Ok(read) => read,
            // The next look ends whom it concerns.
            Err(ReadFailure::Compacted) => return Ok(None),
            Err(ReadFailure::Busy) => {
                self.while_busy().await;
                return Ok(None);
            }
            Err(lost @ (ReadFailure::Lost(_) | ReadFailure::Stopped)) => return Err(lost),
        };
        let encode = self.handle.encode();
        let events: Vec<_> =
            read.events.iter().map(|event| Arc::new(SharedEvent::new(event, encode))).collect();
        drop(read.events);
        let (outgoing, too_large) = self.with_previous(&events, From::History).await?;
        // Not all, if the pairs before them are many: the rest is read again.
        let up_to = match events.get(outgoing.len()) {
            Some(rest) => rest.revision - 1,
            None => read.up_to,
        };
        let delivery = self.deliver(outgoing, From::History, too_large);
        self.table.catch_up(up_to, handled);
        Ok(delivery.map(Update::Events))
    }

    /// The first of `events`, at least all of one revision, with the pairs before them for those that want them; and whether that one
    /// revision has more than [`limits::WATCH_REVISION_BYTES`] of them: then they are not there.
    pub(super) async fn with_previous(
        &mut self,
        events: &[Arc<SharedEvent>],
        from: From,
    ) -> Result<(Vec<Outgoing>, bool), ReadFailure> {
        let mut outgoing: Vec<Outgoing> = Vec::with_capacity(events.len());
        let (mut bytes, mut whole, mut reads) = (0, 0, 0);
        for event in events {
            if outgoing.last().is_some_and(|last| last.event.revision != event.revision) {
                whole = outgoing.len();
            }
            let mut previous = None;
            if self.table.wants_previous() && !event.is_create {
                if event.knows_previous() {
                    previous = event.known_previous();
                } else if self.table.is_wanted(event.key(), from, WatchOptions::PREVIOUS) {
                    reads += 1;
                    if reads % PREVIOUS_STEP == 0 {
                        tokio::task::yield_now().await;
                    }
                    previous = self.previous(event).await?;
                }
            }
            bytes += event.encoded().len() + previous.as_ref().map_or(0, bytes::Bytes::len);
            if whole > 0 && bytes > limits::WATCH_RESPONSE_BYTES {
                // Revisions before this one are enough for now.
                outgoing.truncate(whole);
                return Ok((outgoing, false));
            }
            if bytes > limits::WATCH_REVISION_BYTES && self.table.wants_previous() {
                return Ok((only(events), true));
            }
            outgoing.push(Outgoing { event: event.clone(), previous });
        }
        Ok((outgoing, false))
    }

    async fn previous(&self, event: &SharedEvent) -> Result<Option<bytes::Bytes>, ReadFailure> {
        loop {
            match self.source.previous(event.key(), event.revision) {
                Ok(pair) => {
                    let previous = pair.map(self.handle.encode().previous);
                    event.keep_previous(previous.as_ref());
                    return Ok(previous);
                }
                Err(lost @ (ReadFailure::Lost(_) | ReadFailure::Stopped)) => return Err(lost),
                Err(ReadFailure::Busy | ReadFailure::Compacted) if self.handle.is_closed() => {
                    return Err(ReadFailure::Stopped);
                }
                Err(ReadFailure::Busy | ReadFailure::Compacted) => self.while_busy().await,
            }
        }
    }

    /// Waits for the end of the installation of a snapshot, of which the hub tells.
    async fn while_busy(&self) {
        let _ = tokio::time::timeout(BUSY, self.handle.woken()).await;
    }
}

/// All events of the first revision, without the pairs before them.
fn only(events: &[Arc<SharedEvent>]) -> Vec<Outgoing> {
    let first = events.first().map(|event| event.revision);
    let same = events.iter().take_while(|event| Some(event.revision) == first);
    same.map(|event| Outgoing { event: event.clone(), previous: None }).collect()
}
