//! Automatic compaction, with etcd's modes and times. What to compact, and when, is decided by [`Periodic`] and [`ByRevision`] (pure).
//! Every member notes revisions, so that whoever leads next knows those of the past; the leader compacts.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::config::AutoCompaction;
use crate::env::simulated::{self, Bug, Seen};
use crate::error::Error;
use crate::limits;
use crate::mvcc::State;
use crate::mvcc::command::{Command, Compact, Refusal, Request};
use crate::raft::Consensus;
use crate::raft::store::Store as _;

/// Revisions are noted so many times per period, or per hour if that is shorter.
const NOTES: u32 = 10;
/// Of a longer period, every hour that is over is compacted.
const HOUR: Duration = Duration::from_hours(1);

/// Keeps what is younger than a period.
#[derive(Debug)]
struct Periodic {
    period: Duration,
    /// The revisions at the last looks; the first is a period old once there are all.
    revisions: VecDeque<i64>,
    compacted: i64,
    last: Instant,
    /// The first compaction waits for a whole period.
    is_first: bool,
}

impl Periodic {
    fn new(period: Duration, now: Instant) -> Self {
        Self { period, revisions: VecDeque::new(), compacted: 0, last: now, is_first: true }
    }

    /// Time between two looks.
    fn pause(&self) -> Duration {
        self.period.min(HOUR) / NOTES
    }

    /// How many revisions span a period.
    fn notes(&self) -> usize {
        (self.period.as_nanos() / self.pause().as_nanos().max(1)) as usize + 1
    }

    fn note(&mut self, revision: i64) {
        self.revisions.push_back(revision);
        while self.revisions.len() > self.notes() {
            self.revisions.pop_front();
        }
    }

    /// Up to where to compact now.
    fn due(&mut self, now: Instant) -> Option<i64> {
        let oldest = self.revisions.front()?;
        let revision =
            *self.revisions.back().filter(|_| simulated::planted(Bug::CompactYoung)).unwrap_or(oldest);
        let wait = if self.is_first { self.period } else { self.period.min(HOUR) };
        if now.saturating_duration_since(self.last) < wait || revision == self.compacted {
            return None;
        }
        self.is_first = false;
        Some(revision)
    }

    fn done(&mut self, revision: i64, now: Instant) {
        self.compacted = revision;
        self.last = now;
    }
}

/// Keeps so many of the newest revisions.
#[derive(Debug)]
struct ByRevision {
    kept: i64,
    compacted: i64,
}

impl ByRevision {
    fn due(&self, revision: i64) -> Option<i64> {
        let to = revision.saturating_sub(self.kept);
        (to > 0 && to != self.compacted).then_some(to)
    }
}

/// Compacts from time to time, until consensus ends.
pub(super) async fn run(consensus: Consensus, mode: AutoCompaction) {
    let revision = || consensus.machine().with_state(State::revision);
    match mode {
        AutoCompaction::Periodic(period) => {
            let mut periodic = Periodic::new(period, Instant::now());
            loop {
                periodic.note(revision());
                tokio::time::sleep(periodic.pause()).await;
                if !consensus.is_leader() || simulated::planted(Bug::NeverCompact) {
                    continue;
                }
                if let Some(to) = periodic.due(Instant::now()) {
                    simulated::tell(|| Seen::Compacts { revision: to, kept: period.as_millis() as u64 });
                    if compact(&consensus, to).await {
                        periodic.done(to, Instant::now());
                    }
                }
            }
        }
        AutoCompaction::Revision(kept) => {
            let mut by_revision = ByRevision { kept, compacted: 0 };
            loop {
                tokio::time::sleep(limits::AUTO_COMPACTION_REVISION_INTERVAL).await;
                if !consensus.is_leader() {
                    continue;
                }
                if let Some(to) = by_revision.due(revision())
                    && compact(&consensus, to).await
                {
                    by_revision.compacted = to;
                }
            }
        }
    }
}

/// Whether it is compacted up to there.
async fn compact(consensus: &Consensus, revision: i64) -> bool {
    let command = Command::Compact(Compact { revision, physical: false });
    match consensus.propose(Request::anonymous(command)).await {
        Ok(_) | Err(Error::Refused(Refusal::Compacted)) => {
            tracing::info!(revision, "compacted by itself");
            true
        }
        Err(error) => {
            tracing::warn!(%error, revision, "was not compacted by itself; it is tried again");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is compacted while a revision is written per second, with the seconds at which it is.
    fn compactions(period: Duration, seconds: u64) -> Vec<(u64, i64)> {
        let start = Instant::now();
        let mut periodic = Periodic::new(period, start);
        let mut now = start;
        let mut compacted = Vec::new();
        while now.duration_since(start) <= Duration::from_secs(seconds) {
            periodic.note(1 + now.duration_since(start).as_secs() as i64);
            now += periodic.pause();
            if let Some(to) = periodic.due(now) {
                periodic.done(to, now);
                compacted.push((now.duration_since(start).as_secs(), to));
            }
        }
        compacted
    }

    #[test]
    fn a_short_period_is_compacted_once_per_period() {
        let found = compactions(Duration::from_secs(100), 350);
        // The oldest note is one pause older than the period, as etcd's.
        assert_eq!(found, [(100, 1), (200, 91), (300, 191)]);
    }

    #[test]
    fn a_long_period_is_compacted_once_per_hour_after_the_first() {
        let hours = |count: u64| count * 3_600;
        let found = compactions(Duration::from_hours(3), hours(5));
        assert_eq!(found, [(hours(3), 1), (hours(4), 3_241), (hours(5), 6_841)]);
    }

    #[test]
    fn nothing_is_compacted_twice_or_without_a_note() {
        let start = Instant::now();
        let mut periodic = Periodic::new(Duration::from_secs(10), start);
        let later = start + Duration::from_secs(100);
        assert_eq!(periodic.due(later), None);
        periodic.note(7);
        assert_eq!(periodic.due(later), Some(7));
        // It failed: it is due at the next look.
        assert_eq!(periodic.due(later), Some(7));
        periodic.done(7, later);
        assert_eq!(periodic.due(later + Duration::from_secs(100)), None, "nothing was written since");
    }

    #[test]
    fn the_notes_are_bounded() {
        let mut periodic = Periodic::new(limits::AUTO_COMPACTION_LONGEST, Instant::now());
        for revision in 0..200_000 {
            periodic.note(revision);
        }
        assert_eq!(periodic.revisions.len(), 10 * 24 * 366 + 1);
        assert_eq!(periodic.revisions.back(), Some(&199_999));
    }

    #[test]
    fn by_revision_the_newest_are_kept() {
        let mut kept = ByRevision { kept: 100, compacted: 0 };
        assert_eq!(kept.due(100), None);
        assert_eq!(kept.due(101), Some(1));
        assert_eq!(kept.due(350), Some(250));
        kept.compacted = 250;
        assert_eq!(kept.due(350), None);
        assert_eq!(kept.due(351), Some(251));
    }
}
