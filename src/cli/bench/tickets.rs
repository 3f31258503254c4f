//! How many requests, how fast, how long. Shared by all threads of a load: one counter to take from, one to add to.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::options::Plan;

/// Right to send one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket {
    /// Its number, from 0.
    pub number: u64,
    /// When it is due; `None`: now.
    pub due: Option<Instant>,
}

/// Hands out the tickets of a load.
#[derive(Debug)]
pub(super) struct Tickets {
    start: Instant,
    warmup: Duration,
    duration: Option<Duration>,
    total: Option<u64>,
    seconds_per_request: Option<f64>,
    taken: AtomicU64,
    done: AtomicU64,
    stopped: AtomicBool,
}

impl Tickets {
    /// The tickets of a plan; its time begins now.
    pub fn new(plan: &Plan) -> Self {
        Self {
            start: Instant::now(),
            warmup: plan.warmup,
            duration: plan.duration,
            total: plan.total,
            seconds_per_request: plan.rate.map(|rate| 1.0 / rate),
            taken: AtomicU64::new(0),
            done: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
        }
    }

    /// The next ticket; `None` when there will be none. `now` is the caller's time.
    pub fn take(&self, now: Instant) -> Option<Ticket> {
        if self.stopped.load(Ordering::Relaxed) || self.end().is_some_and(|end| now >= end) {
            return None;
        }
        let number = self.taken.fetch_add(1, Ordering::Relaxed);
        if self.total.is_some_and(|total| number >= total) {
            return None;
        }
        let due = self.seconds_per_request.map(|seconds| {
            self.start + Duration::try_from_secs_f64(seconds * number as f64).unwrap_or(Duration::MAX / 4)
        });
        match (due, self.end()) {
            (Some(due), Some(end)) if due >= end => None,
            _ => Some(Ticket { number, due }),
        }
    }

    /// When measuring begins.
    pub fn measure_from(&self) -> Instant {
        self.start + self.warmup
    }

    /// When measuring ends, if a time was set.
    pub fn end(&self) -> Option<Instant> {
        self.duration.map(|duration| self.start + self.warmup + duration)
    }

    /// Counts an answered request, for the progress bar.
    pub fn count(&self) {
        self.done.fetch_add(1, Ordering::Relaxed);
    }

    /// Hands out no more.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// Whether the load was cut short.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// How far the load is, in the unit of its length (requests or milliseconds), and requests per second so far.
    pub fn progress(&self) -> (u64, f64) {
        let elapsed = self.start.elapsed();
        let done = self.done.load(Ordering::Relaxed);
        let rate = done as f64 / elapsed.as_secs_f64().max(1e-9);
        match self.total {
            Some(_) => (done, rate),
            None => (elapsed.saturating_sub(self.warmup).as_millis() as u64, rate),
        }
    }
}
