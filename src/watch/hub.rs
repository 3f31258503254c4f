//! From apply to the streams. One lock, held for as long as the events of one entry take to be handed out: per event a look-up, and
//! per stream that watches its key a push. Nothing else happens under it.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::event::{Encode, SharedEvent};
use super::session::Session;
use super::source::Source;
use crate::env::Random;
use crate::env::simulated::{self, Bug, Seen};
use crate::limits;
use crate::metrics::Metrics;
use crate::mvcc::{Event, Interests, WatchedKeys};

/// Settings of a hub.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Time between two notices of progress to a watcher that nothing happens to; each stream adds up to a tenth.
    pub progress_interval: Duration,
    /// Bytes of events that may wait for one stream, while all have less than [`limits::WATCH_QUEUED_BYTES_OF_ALL`].
    pub queue_bytes: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { progress_interval: limits::WATCH_PROGRESS_INTERVAL, queue_bytes: limits::WATCH_QUEUE_BYTES }
    }
}

/// Distributes events. Cheap to clone.
#[derive(Clone)]
pub struct Hub(Arc<Shared>);

/// A hub that is not kept. Whoever the hub reads from must hold no more of it: what two hold of each other stays for ever.
pub struct WeakHub(Weak<Shared>);

impl WeakHub {
    /// The hub, while somebody keeps it.
    pub fn get(&self) -> Option<Hub> {
        self.0.upgrade().map(Hub)
    }
}

struct Shared {
    encode: Encode,
    settings: Settings,
    random: Arc<dyn Random>,
    metrics: Metrics,
    source: OnceLock<Arc<dyn Source>>,
    inner: Mutex<Inner>,
    budget: Budget,
    is_closed: AtomicBool,
}

/// What is under the lock.
#[derive(Default)]
struct Inner {
    /// All events up to this revision were handed out.
    published: i64,
    interests: Interests<Audience>,
    streams: Streams,
    queued_bytes: usize,
}

/// The streams, by number; numbers of streams that ended are used again.
#[derive(Default)]
struct Streams {
    slots: Vec<Option<Stream>>,
    free: Vec<u32>,
}

/// What waits for one stream.
struct Stream {
    queue: Vec<Arc<SharedEvent>>,
    bytes: usize,
    /// Events were dropped; the stream must read the history. Nothing is queued until it has taken note.
    is_behind: bool,
    wake: Arc<Notify>,
}

/// The streams that watch some keys, each with how many of its watchers do.
#[derive(Debug, Default)]
enum Audience {
    #[default]
    Nobody,
    One(u32, u32),
    Many(Vec<(u32, u32)>),
}

/// What a stream finds.
pub(super) struct Taken {
    /// Its events, in order.
    pub(super) events: Vec<Arc<SharedEvent>>,
    /// With them, all up to this revision were handed out.
    pub(super) published: i64,
    /// Events between the last time and this were dropped.
    pub(super) is_behind: bool,
}

/// Bytes of watchers, of one connection or of all.
#[derive(Clone, Debug)]
pub struct Budget {
    used: Arc<AtomicUsize>,
    most: usize,
}

impl Budget {
    /// A budget of `most` bytes.
    pub fn new(most: usize) -> Self {
        Self { used: Arc::default(), most }
    }

    /// Of one connection.
    pub fn of_connection() -> Self {
        Self::new(limits::WATCHER_BYTES_PER_CONNECTION)
    }

    /// Takes some of it, if there is as much.
    pub(super) fn take(&self, bytes: usize) -> bool {
        let used = self.used.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        if used > self.most {
            self.give_back(bytes);
        }
        used <= self.most
    }

    /// Gives some back.
    pub(super) fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Hub {
    /// A hub that serves nobody until it is bound.
    pub fn new(encode: Encode, settings: Settings, random: Arc<dyn Random>, metrics: Metrics) -> Self {
        Self(Arc::new(Shared {
            encode,
            settings,
            random,
            metrics,
            source: OnceLock::new(),
            inner: Mutex::default(),
            budget: Budget::new(limits::WATCHER_BYTES),
            is_closed: AtomicBool::new(false),
        }))
    }

    /// Binds it to the applied state, once, before anything is published.
    pub fn bind(&self, source: Arc<dyn Source>) {
        self.0.inner.lock().published = source.revision();
        // A process applies one state.
        let _ = self.0.source.set(source);
    }

    /// Hands out the events of one entry, in order; the store is at `revision` after them. Called between two applies.
    pub fn publish(&self, events: &[Event], revision: i64) {
        let mut inner = self.0.inner.lock();
        inner.published = revision;
        if events.is_empty() || inner.interests.is_empty() {
            return;
        }
        let Inner { interests, streams, queued_bytes, .. } = &mut *inner;
        let mut encoded = 0;
        for event in events {
            let mut shared: Option<Arc<SharedEvent>> = None;
            interests.visit(&event.kv.key, &mut |audience| {
                audience.each(|stream| {
                    let Some(stream) = streams.get_mut(stream) else { return };
                    if stream.is_behind {
                        return;
                    }
                    let shared =
                        shared.get_or_insert_with(|| Arc::new(SharedEvent::new(event, self.0.encode)));
                    if stream.queue.last().is_some_and(|last| Arc::ptr_eq(last, shared)) {
                        // It watches the key in several ways.
                        return;
                    }
                    let most = if *queued_bytes > limits::WATCH_QUEUED_BYTES_OF_ALL {
                        limits::WATCH_QUEUE_BYTES_WHEN_SCARCE
                    } else {
                        self.0.settings.queue_bytes
                    };
                    if !stream.push(shared, queued_bytes, most) {
                        self.0.metrics.watch_streams_fallen_behind.inc();
                    }
                });
            });
            encoded += u64::from(shared.is_some());
        }
        self.0.metrics.watch_events_shared.inc_by(encoded);
    }

    /// The state jumped to `revision`: a snapshot was installed. Everybody reads the history of what is between.
    pub fn jump(&self, revision: i64) {
        let mut inner = self.0.inner.lock();
        inner.published = revision;
        let Inner { streams, queued_bytes, .. } = &mut *inner;
        for stream in streams.slots.iter_mut().flatten() {
            stream.fall_behind(queued_bytes);
        }
    }

    /// For its source.
    pub fn downgrade(&self) -> WeakHub {
        WeakHub(Arc::downgrade(&self.0))
    }

    /// Ends all sessions, and opens no more: the member stops.
    pub fn close(&self) {
        self.0.is_closed.store(true, Ordering::Release);
        for stream in self.0.inner.lock().streams.slots.iter().flatten() {
            stream.wake.notify_one();
        }
    }

    /// Opens a stream; its watchers count towards `connection`. `None` until the hub is bound, and once it is closed.
    pub fn open(&self, connection: Budget) -> Option<Session> {
        if self.0.is_closed.load(Ordering::Acquire) {
            return None;
        }
        let source = self.0.source.get()?.clone();
        let wake = Arc::new(Notify::new());
        let (stream, published) = {
            let mut inner = self.0.inner.lock();
            (inner.streams.add(wake.clone()), inner.published)
        };
        self.0.metrics.watch_streams.inc();
        Some(Session::new(Handle { hub: self.clone(), stream, wake }, source, connection, published))
    }
}

#[cfg(test)]
impl Hub {
    /// Bytes that wait for all streams.
    pub(super) fn queued(&self) -> usize {
        self.0.inner.lock().queued_bytes
    }

    /// Events that were encoded for whoever watches.
    pub(super) fn encoded(&self) -> u64 {
        self.0.metrics.watch_events_shared.get()
    }
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub").field("published", &self.0.inner.lock().published).finish_non_exhaustive()
    }
}

/// A stream's end of the hub. Dropping it ends the stream; its interests must be gone by then.
pub(super) struct Handle {
    hub: Hub,
    stream: u32,
    wake: Arc<Notify>,
}

impl Handle {
    /// From now on events on `keys` are queued. Those up to the returned revision were handed out before.
    pub(super) fn add(&self, keys: &WatchedKeys) -> i64 {
        let mut inner = self.hub.0.inner.lock();
        inner.interests.entry(keys).add(self.stream);
        inner.published
    }

    /// One watcher fewer.
    pub(super) fn remove(&self, keys: &WatchedKeys) {
        let mut inner = self.hub.0.inner.lock();
        if let Some(audience) = inner.interests.get_mut(keys)
            && audience.remove(self.stream)
        {
            inner.interests.remove(keys);
        }
    }

    /// Takes what waits.
    pub(super) fn take(&self) -> Taken {
        let mut inner = self.hub.0.inner.lock();
        let Inner { published, streams, queued_bytes, .. } = &mut *inner;
        let mut taken = Taken { events: Vec::new(), published: *published, is_behind: false };
        if let Some(stream) = streams.get_mut(self.stream) {
            *queued_bytes -= std::mem::take(&mut stream.bytes);
            taken.events = std::mem::take(&mut stream.queue);
            taken.is_behind = std::mem::take(&mut stream.is_behind);
        }
        taken
    }

    /// Returns once something waits, or at once if something came since it last did.
    pub(super) async fn woken(&self) {
        self.wake.notified().await;
    }

    /// The member stops.
    pub(super) fn is_closed(&self) -> bool {
        self.hub.0.is_closed.load(Ordering::Acquire)
    }

    pub(super) fn encode(&self) -> Encode {
        self.hub.0.encode
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.hub.0.metrics
    }

    /// Bytes of the watchers of all connections.
    pub(super) fn budget(&self) -> &Budget {
        &self.hub.0.budget
    }

    /// Time between two notices of progress on this stream.
    pub(super) fn progress_interval(&self) -> Duration {
        let interval = self.hub.0.settings.progress_interval;
        let share = (self.hub.0.random.next_u64() % 1_000) as u32;
        interval + interval / 10 * share / 1_000
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let mut inner = self.hub.0.inner.lock();
        let Inner { streams, queued_bytes, .. } = &mut *inner;
        if let Some(stream) = streams.slots.get_mut(self.stream as usize).and_then(Option::take) {
            *queued_bytes -= stream.bytes;
            streams.free.push(self.stream);
        }
        drop(inner);
        self.hub.0.metrics.watch_streams.dec();
    }
}

impl Streams {
    fn add(&mut self, wake: Arc<Notify>) -> u32 {
        let stream = Stream { queue: Vec::new(), bytes: 0, is_behind: false, wake };
        if let Some(number) = self.free.pop()
            && let Some(slot) = self.slots.get_mut(number as usize)
        {
            *slot = Some(stream);
            return number;
        }
        self.slots.push(Some(stream));
        self.slots.len() as u32 - 1
    }

    fn get_mut(&mut self, number: u32) -> Option<&mut Stream> {
        self.slots.get_mut(number as usize)?.as_mut()
    }
}

impl Stream {
    /// Adds an event, unless more than `most` bytes would wait: then all are dropped.
    fn push(&mut self, event: &Arc<SharedEvent>, queued_bytes: &mut usize, most: usize) -> bool {
        if self.bytes + event.weight() > most && !simulated::planted(Bug::WatchQueueEndless) {
            self.fall_behind(queued_bytes);
            return false;
        }
        if self.queue.is_empty() {
            self.wake.notify_one();
        }
        self.bytes += event.weight();
        *queued_bytes += event.weight();
        self.queue.push(event.clone());
        let (held, limit) = (self.bytes as u64, most as u64);
        simulated::tell(|| Seen::Holds { what: "bytes of events for one stream", held, limit });
        true
    }

    fn fall_behind(&mut self, queued_bytes: &mut usize) {
        self.queue = Vec::new();
        *queued_bytes -= std::mem::take(&mut self.bytes);
        self.is_behind = true;
        self.wake.notify_one();
    }
}

impl Audience {
    fn add(&mut self, stream: u32) {
        match self {
            Self::Nobody => *self = Self::One(stream, 1),
            Self::One(known, count) if *known == stream => *count += 1,
            Self::One(known, count) => {
                let mut many = vec![(*known, *count), (stream, 1)];
                many.sort_unstable();
                *self = Self::Many(many);
            }
            Self::Many(many) => match many.binary_search_by_key(&stream, |(known, _)| *known) {
                Ok(at) => {
                    if let Some((_, count)) = many.get_mut(at) {
                        *count += 1;
                    }
                }
                Err(at) => many.insert(at, (stream, 1)),
            },
        }
    }

    /// One watcher of `stream` fewer; true if nobody is left.
    fn remove(&mut self, stream: u32) -> bool {
        match self {
            Self::One(known, count) if *known == stream => {
                *count -= 1;
                if *count == 0 {
                    *self = Self::Nobody;
                }
            }
            Self::Nobody | Self::One(..) => {}
            Self::Many(many) => {
                if let Ok(at) = many.binary_search_by_key(&stream, |(known, _)| *known)
                    && let Some((_, count)) = many.get_mut(at)
                {
                    *count -= 1;
                    if *count == 0 {
                        many.remove(at);
                    }
                }
                if let [(stream, count)] = many.as_slice() {
                    *self = Self::One(*stream, *count);
                }
            }
        }
        matches!(self, Self::Nobody)
    }

    fn each(&self, mut visit: impl FnMut(u32)) {
        match self {
            Self::Nobody => {}
            Self::One(stream, _) => visit(*stream),
            Self::Many(many) => many.iter().for_each(|(stream, _)| visit(*stream)),
        }
    }
}
