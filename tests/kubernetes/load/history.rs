//! What the load saw.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use setstone::client::KeyValue;

/// This pod's clock, in milliseconds.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// How a write ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// At this revision.
    Acknowledged(i64),
    /// It did not happen, says the answer.
    Failed(String),
    /// It may have happened.
    Unknown(String),
}

/// One write. No two have the same value.
#[derive(Clone, Debug)]
pub struct Write {
    pub key: String,
    pub value: String,
    pub outcome: Outcome,
}

/// What a linearizable read showed.
pub struct Read {
    pub key: String,
    pub revision: i64,
    pub found: Option<KeyValue>,
}

/// One answer, or none.
struct Moment {
    asked: u64,
    answered: u64,
    failure: Option<(bool, String)>,
}

#[derive(Default)]
pub struct History {
    /// Highest revision of an acknowledged write.
    pub acknowledged: AtomicI64,
    moments: Mutex<Vec<Moment>>,
    violations: Mutex<Vec<String>>,
    reads: Mutex<Vec<Read>>,
    failed_reads: Mutex<Vec<(u64, String)>>,
}

/// What was seen since a moment.
#[derive(Serialize)]
pub struct Report {
    acknowledged: usize,
    failed: usize,
    unknown: usize,
    failed_reads: usize,
    /// Longest time without an acknowledged write, in milliseconds; the one that is not over yet counts too.
    gap: u64,
    /// Time to the answer of the slowest write that was acknowledged, in milliseconds.
    slowest: u64,
    violations: Vec<String>,
    errors: BTreeMap<String, usize>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl History {
    pub fn wrote(&self, asked: u64, outcome: &Outcome) {
        let failure = match outcome {
            Outcome::Acknowledged(revision) => {
                self.acknowledged.fetch_max(*revision, Ordering::SeqCst);
                None
            }
            Outcome::Failed(why) => Some((false, why.clone())),
            Outcome::Unknown(why) => Some((true, why.clone())),
        };
        locked(&self.moments).push(Moment { asked, answered: now(), failure });
    }

    pub fn read(&self, read: Read) {
        locked(&self.reads).push(read);
    }

    pub fn read_failed(&self, why: String) {
        locked(&self.failed_reads).push((now(), why));
    }

    pub fn violation(&self, what: String) {
        locked(&self.violations).push(what);
    }

    pub fn violations(&self) -> Vec<String> {
        locked(&self.violations).clone()
    }

    /// How many linearizable reads were answered.
    pub fn reads(&self) -> usize {
        locked(&self.reads).len()
    }

    /// Some of the reads, evenly.
    pub fn sample(&self, most: usize) -> Vec<(String, i64, Option<KeyValue>)> {
        let reads = locked(&self.reads);
        let step = reads.len().div_ceil(most).max(1);
        reads.iter().step_by(step).map(|read| (read.key.clone(), read.revision, read.found.clone())).collect()
    }

    pub fn report(&self, since: u64) -> Report {
        let moments = locked(&self.moments);
        let mut report = Report {
            acknowledged: 0,
            failed: 0,
            unknown: 0,
            failed_reads: 0,
            gap: 0,
            slowest: 0,
            violations: self.violations(),
            errors: BTreeMap::new(),
        };
        let mut last = since;
        for moment in moments.iter().filter(|moment| moment.answered >= since) {
            match &moment.failure {
                None => {
                    report.acknowledged += 1;
                    report.gap = report.gap.max(moment.answered.saturating_sub(last));
                    report.slowest = report.slowest.max(moment.answered - moment.asked.min(moment.answered));
                    last = last.max(moment.answered);
                }
                Some((unknown, why)) => {
                    let counter = if *unknown { &mut report.unknown } else { &mut report.failed };
                    *counter += 1;
                    *report.errors.entry(why.clone()).or_default() += 1;
                }
            }
        }
        report.gap = report.gap.max(now().saturating_sub(last));
        for (_, why) in locked(&self.failed_reads).iter().filter(|(at, _)| *at >= since) {
            report.failed_reads += 1;
            *report.errors.entry(format!("read: {why}")).or_default() += 1;
        }
        report
    }
}
