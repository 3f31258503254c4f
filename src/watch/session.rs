//! One stream: what it is asked, and what comes next.
//!
//! `handled` is the revision up to which everything that the hub had for this stream was taken; what was taken and not delivered yet
//! waits in `live`. A watcher whose start is above what the hub had handed out when it registered gets its events from the hub; one
//! that begins earlier lags, and gets them from the history until it wants nothing up to `handled` any more. Both ways look at
//! the revision that a watcher wants next, so that no change-over can give an event twice.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::time::Instant;

use super::delivery::{Delivery, Outgoing};
use super::event::SharedEvent;
use super::hub::{Budget, Handle};
use super::source::{ReadFailure, Source};
use super::table::{From, Table, WATCHER_BYTES, Watcher};
use crate::env::simulated::{self, Bug};
use crate::limits;
use crate::mvcc::{EmptyRange, WatchOptions, WatchedKeys};

/// A watcher that is asked for.
#[derive(Clone, Debug)]
pub struct Create {
    /// Its keys.
    pub keys: Result<WatchedKeys, EmptyRange>,
    /// Its id; 0: the stream chooses.
    pub watch_id: i64,
    /// The first revision; 0: what comes after now.
    pub start_revision: i64,
    /// What it wants.
    pub options: WatchOptions,
}

/// Why there is no such watcher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Its range holds no key.
    EmptyRange,
    /// The stream has one with this id.
    DuplicateId,
    /// Its start is negative: below anything that there was.
    NegativeStart,
    /// Too many watchers, or too long keys.
    TooMany,
}

/// What comes next on a stream. Revisions are for the header, and never go back on a stream.
#[derive(Debug)]
pub enum Update {
    /// A watcher begins.
    Created {
        /// Its id.
        watch_id: i64,
        /// Revision of the store when it began.
        revision: i64,
    },
    /// There is no such watcher.
    Refused {
        /// Why.
        reason: Refused,
        /// Revision of the store.
        revision: i64,
    },
    /// A watcher ended because it was asked to.
    Canceled {
        /// Its id.
        watch_id: i64,
        /// Revision of the store.
        revision: i64,
    },
    /// A watcher ended because what it wants is compacted.
    Compacted {
        /// Its id.
        watch_id: i64,
        /// The compacted revision.
        compacted: i64,
    },
    /// A watcher ended because a revision has more for it than [`limits::WATCH_REVISION_BYTES`].
    TooLarge {
        /// Its id.
        watch_id: i64,
        /// Revision of the store.
        revision: i64,
    },
    /// A watcher was not made, or has ended, because it may not watch its keys.
    Denied {
        /// Its id; `None`: it was not made.
        watch_id: Option<i64>,
        /// Why, in the words of whoever denied it.
        why: &'static str,
        /// Revision of the store.
        revision: i64,
    },
    /// All events up to the revision were delivered.
    Progress {
        /// To this watcher; `None`: to all of the stream.
        watch_id: Option<i64>,
        /// The revision.
        revision: i64,
    },
    /// Events.
    Events(Delivery),
}

/// One stream with its watchers. Ends when it is dropped.
pub struct Session {
    pub(super) table: Table,
    pub(super) source: Arc<dyn Source>,
    pub(super) handle: Handle,
    /// See above.
    pub(super) handled: i64,
    /// Watchers that lag were told by the hub that they do not get from it what is up to here: it must be handled before they
    /// can lag no longer.
    must_handle: i64,
    live: VecDeque<Arc<SharedEvent>>,
    pub(super) ready: VecDeque<Update>,
    connection: Budget,
    next_id: i64,
    /// Notices of progress that were asked for.
    asked: u32,
    /// It is the turn of those that lag.
    history_turn: bool,
    progress_at: Option<Instant>,
    /// Revision of the newest header.
    header: i64,
    /// Watchers that lag, as the metrics have counted them.
    counted_behind: usize,
}

impl Session {
    pub(super) fn new(handle: Handle, source: Arc<dyn Source>, connection: Budget, handled: i64) -> Self {
        Self {
            table: Table::default(),
            source,
            handle,
            handled,
            must_handle: 0,
            live: VecDeque::new(),
            ready: VecDeque::new(),
            connection,
            next_id: 0,
            asked: 0,
            history_turn: false,
            progress_at: None,
            header: 0,
            counted_behind: 0,
        }
    }

    /// Something waits that was answered already: more requests must wait, or nothing bounds their answers.
    pub fn has_answers(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Watchers on this stream.
    pub fn watchers(&self) -> usize {
        self.table.len()
    }

    /// The revision for the next header.
    pub(super) fn stamp(&mut self, revision: i64) -> i64 {
        self.header = self.header.max(revision);
        self.header
    }

    /// Adds a watcher, or tells why not.
    pub fn create(&mut self, create: Create) {
        let store = self.source.revision();
        let revision = self.stamp(store);
        let update = match self.try_create(create, store) {
            Ok(watch_id) => Update::Created { watch_id, revision },
            Err(reason) => Update::Refused { reason, revision },
        };
        self.ready.push_back(update);
    }

    fn try_create(&mut self, create: Create, store: i64) -> Result<i64, Refused> {
        if create.start_revision < 0 {
            return Err(Refused::NegativeStart);
        }
        let keys = create.keys.map_err(|EmptyRange| Refused::EmptyRange)?;
        if self.table.has(create.watch_id) && create.watch_id != 0 {
            return Err(Refused::DuplicateId);
        }
        let bytes = WATCHER_BYTES + keys.bytes();
        if self.table.len() >= limits::WATCHERS_PER_STREAM || !self.connection.take(bytes) {
            return Err(Refused::TooMany);
        }
        if !self.handle.budget().take(bytes) {
            self.connection.give_back(bytes);
            return Err(Refused::TooMany);
        }
        let id = if create.watch_id == 0 { self.free_id() } else { create.watch_id };
        let start = if create.start_revision == 0 { store + 1 } else { create.start_revision };
        let handed_out = self.handle.add(&keys);
        let is_behind = start <= handed_out;
        if is_behind {
            self.must_handle = self.must_handle.max(handed_out);
        }
        let options = create.options;
        if options.has(WatchOptions::PROGRESS) && self.progress_at.is_none() {
            self.progress_at = Some(Instant::now() + self.handle.progress_interval());
        }
        self.handle.metrics().watchers.inc();
        self.table.add(Watcher {
            id,
            keys,
            options,
            is_behind,
            was_told: false,
            // One without a start has begun at once, although it gets only what comes later: as in etcd.
            has_begun: create.start_revision == 0,
            next: start,
        });
        Ok(id)
    }

    fn free_id(&mut self) -> i64 {
        while self.table.has(self.next_id) {
            self.next_id += 1;
        }
        self.next_id += 1;
        self.next_id - 1
    }

    /// Ends a watcher; silent if there is none.
    pub fn cancel(&mut self, watch_id: i64) {
        if self.end(watch_id) {
            let revision = self.stamp(self.source.revision());
            self.ready.push_back(Update::Canceled { watch_id, revision });
        }
    }

    /// Tells that a watcher is not made, and why.
    pub fn deny(&mut self, why: &'static str) {
        let revision = self.stamp(self.source.revision());
        self.ready.push_back(Update::Denied { watch_id: None, why, revision });
    }

    /// The watchers, and what they watch.
    pub fn watched(&self) -> impl Iterator<Item = (i64, &WatchedKeys)> {
        self.table.iter().map(|watcher| (watcher.id, &watcher.keys))
    }

    /// Ends watchers that may not watch any more, and tells why.
    pub fn end_denied(&mut self, ending: Vec<(i64, &'static str)>) {
        for (watch_id, why) in ending {
            self.end(watch_id);
            let revision = self.stamp(self.source.revision());
            self.ready.push_back(Update::Denied { watch_id: Some(watch_id), why, revision });
        }
    }

    pub(super) fn end(&mut self, watch_id: i64) -> bool {
        let Some(watcher) = self.table.remove(watch_id) else { return false };
        forget(&self.handle, &self.connection, &watcher);
        true
    }

    /// Asks for a notice of progress to the whole stream. There is none if a watcher lags or has not begun, as in etcd.
    pub fn ask_progress(&mut self) {
        self.asked = self.asked.saturating_add(1);
    }

    /// What comes next. May be dropped at any time: nothing is lost by that but the work of a step, which is done again.
    ///
    /// # Errors
    /// [`ReadFailure::Stopped`] if the member stops, [`ReadFailure::Lost`] if its state is lost: the stream must end.
    pub async fn next(&mut self) -> Result<Update, ReadFailure> {
        loop {
            self.count_behind(self.table.behind());
            if self.handle.is_closed() {
                return Err(ReadFailure::Stopped);
            }
            if let Some(update) = self.ready.pop_front() {
                return Ok(update);
            }
            let history_first = self.history_turn && self.handled >= self.must_handle;
            if !history_first {
                self.take();
                if !self.live.is_empty() {
                    if let Some(delivery) = self.next_live().await? {
                        return Ok(Update::Events(delivery));
                    }
                    continue;
                }
            }
            if self.table.behind() > 0 {
                self.history_turn = false;
                if let Some(update) = self.catch_up().await? {
                    return Ok(update);
                }
                tokio::task::yield_now().await;
                continue;
            }
            self.history_turn = false;
            if history_first {
                continue;
            }
            if self.progress() {
                continue;
            }
            self.wait().await;
        }
    }

    /// Takes what the hub has, once all that was taken before is delivered.
    fn take(&mut self) {
        if !self.live.is_empty() {
            return;
        }
        let taken = self.handle.take();
        if taken.is_behind && !simulated::planted(Bug::WatchForgetLost) {
            self.table.fall_behind(self.handled, taken.published);
        }
        self.live = taken.events.into();
        self.handled = taken.published;
    }

    /// Delivers some of what was taken; `None` if nobody wants it.
    async fn next_live(&mut self) -> Result<Option<Delivery>, ReadFailure> {
        self.history_turn = true;
        let events = self.live.iter().cloned().collect::<Vec<_>>();
        let (events, too_large) = self.with_previous(&events, From::Hub).await?;
        self.live.drain(..events.len());
        Ok(self.deliver(events, From::Hub, too_large))
    }

    /// Gives events to whom they are for.
    pub(super) fn deliver(&mut self, events: Vec<Outgoing>, from: From, too_large: bool) -> Option<Delivery> {
        let newest = events.last()?.event.revision;
        if too_large {
            // Of one revision only: whoever asked for the pairs before cannot have them.
            let wants: Vec<i64> = self
                .table
                .iter()
                .filter(|watcher| watcher.options.has(WatchOptions::PREVIOUS))
                .filter(|watcher| events.iter().any(|outgoing| watcher.keys.contains(outgoing.event.key())))
                .map(|watcher| watcher.id)
                .collect();
            let revision = self.stamp(newest);
            for watch_id in wants {
                self.end(watch_id);
                self.ready.push_back(Update::TooLarge { watch_id, revision });
            }
        }
        let revision = self.stamp(newest);
        let delivery = self.table.deliver(events, from, revision);
        self.handle.metrics().watch_events_sent.inc_by(delivery.count());
        (!delivery.is_empty()).then_some(delivery)
    }

    /// Pushes what there is to be told of progress; true if anything is.
    fn progress(&mut self) -> bool {
        let handled = self.handled + i64::from(simulated::planted(Bug::WatchProgressTooEarly));
        // A header must not go back, nor a notice be ahead of what was delivered.
        let may_tell = handled >= self.header && self.table.behind() == 0;
        let asked = std::mem::take(&mut self.asked);
        if asked > 0
            && may_tell
            && !self.table.is_empty()
            && self.table.iter().all(|watcher| watcher.has_begun || watcher.next <= handled)
        {
            // One by one: how many were asked for is not bounded.
            self.asked = asked - 1;
            self.header = handled;
            self.ready.push_back(Update::Progress { watch_id: None, revision: handled });
            return true;
        }
        if self.progress_at.is_none_or(|at| Instant::now() < at) {
            return false;
        }
        self.progress_at =
            self.table.wants_progress().then(|| Instant::now() + self.handle.progress_interval());
        let mut quiet = Vec::new();
        for watcher in self.table.iter_mut().filter(|watcher| watcher.options.has(WatchOptions::PROGRESS)) {
            let was_told = std::mem::take(&mut watcher.was_told);
            if !was_told && may_tell && (watcher.has_begun || watcher.next <= handled) {
                quiet.push(watcher.id);
            }
        }
        if !quiet.is_empty() {
            self.header = handled;
        }
        let told = |id| Update::Progress { watch_id: Some(id), revision: handled };
        self.ready.extend(quiet.into_iter().map(told));
        true
    }

    fn count_behind(&mut self, behind: usize) {
        if behind != self.counted_behind {
            self.handle.metrics().slow_watchers.inc_by(behind as i64 - self.counted_behind as i64);
            self.counted_behind = behind;
        }
    }

    /// Waits until the hub has something, or it is time to tell of progress.
    async fn wait(&self) {
        match self.progress_at {
            Some(at) => tokio::select! {
                () = self.handle.woken() => {}
                () = tokio::time::sleep_until(at) => {}
            },
            None => self.handle.woken().await,
        }
    }
}

/// Gives back what a watcher took.
fn forget(handle: &Handle, connection: &Budget, watcher: &Watcher) {
    let bytes = WATCHER_BYTES + watcher.keys.bytes();
    handle.remove(&watcher.keys);
    handle.budget().give_back(bytes);
    connection.give_back(bytes);
    handle.metrics().watchers.dec();
}

impl Drop for Session {
    fn drop(&mut self) {
        self.count_behind(0);
        for watcher in self.table.iter() {
            forget(&self.handle, &self.connection, watcher);
        }
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("watchers", &self.table.len())
            .field("behind", &self.table.behind())
            .field("handled", &self.handled)
            .finish_non_exhaustive()
    }
}
