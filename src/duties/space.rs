//! The watch over this member's volume. A log that finds no room ends its member; so what makes the store grow is refused before, first
//! here, then by all members through an alarm. Deletes and compaction go on. What is needed stays free: the segments that the log begins
//! next, and the next snapshot, by which the log is cut. When there is room again, the alarm goes by itself.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::env::files::Space;
use crate::env::simulated::{self, Bug};
use crate::env::{Files, Tasks};
use crate::limits;
use crate::mvcc::State;
use crate::mvcc::alarm::{Alarm, AlarmCommand, AlarmKind, Cause};
use crate::raft::Consensus;

/// The volume that a member's data is on.
pub(crate) struct Volume {
    /// The file system.
    pub(crate) files: Arc<dyn Files>,
    /// Where it is asked: it may block.
    pub(crate) tasks: Arc<dyn Tasks>,
    /// A directory on it.
    pub(crate) directory: PathBuf,
}

/// What must stay free, in bytes. `reserve`: [`crate::config::Maintenance::disk_reserve_bytes`]; `segment`: bytes of one file of the log;
/// `snapshot`: bytes of the newest snapshot, beside which the next one is written.
fn needed(total: u64, reserve: u64, segment: u64, snapshot: u64) -> u64 {
    reserve.min(total / 8).saturating_add(segment.saturating_mul(2)).saturating_add(snapshot)
}

/// Whether space is low, where it was `low` before. It is over only when an eighth more than is needed is free: else a store at the edge
/// would go to and fro with each compaction.
fn is_low(free: u64, needed: u64, low: bool) -> bool {
    let enough = if low { needed.saturating_add(needed / 8) } else { needed };
    free < enough
}

/// Whether a snapshot that takes `next` bytes in the place of one of `snapshot` frees more of a log of `log` bytes than it takes.
fn gains(log: u64, segment: u64, snapshot: u64, next: u64) -> bool {
    log > segment.saturating_mul(2).saturating_add(next.saturating_sub(snapshot))
}

/// When to look again.
fn pause(free: u64, needed: u64) -> Duration {
    if free < needed.saturating_add(limits::DISK_NEAR_BYTES) {
        limits::DISK_LOOK_INTERVAL_NEAR
    } else {
        limits::DISK_LOOK_INTERVAL
    }
}

/// Watches until consensus ends.
pub(super) async fn watch(consensus: Consensus, volume: Volume, reserve: u64, segment: u64) {
    let mut watch = Watch { consensus, volume, reserve, segment, low: false, cut: None };
    loop {
        let pause = watch.look().await;
        tokio::time::sleep(pause).await;
    }
}

struct Watch {
    consensus: Consensus,
    volume: Volume,
    reserve: u64,
    segment: u64,
    low: bool,
    /// When the log was last cut to win space.
    cut: Option<Instant>,
}

impl Watch {
    async fn look(&mut self) -> Duration {
        let space = match self.space().await {
            Ok(space) => space,
            Err(error) => {
                // What cannot be asked is not known to have room, nor to have none: it stays as it was.
                tracing::warn!(%error, "the free space of the volume is not known");
                return limits::DISK_LOOK_TIMEOUT;
            }
        };
        let snapshot = self.consensus.snapshots().bytes();
        let needed = needed(space.total, self.reserve, self.segment, snapshot);
        let low = is_low(space.free, needed, self.low) && !simulated::planted(Bug::FillUnnoticed);
        self.consensus.metrics().disk_free_bytes.set(i64::try_from(space.free).unwrap_or(i64::MAX));
        if low != self.low {
            if low {
                tracing::warn!(
                    free = space.free,
                    needed,
                    "the volume is nearly full; what makes the store grow is refused until there is room"
                );
            } else {
                tracing::info!(free = space.free, needed, "the volume has room again");
            }
            self.low = low;
        }
        self.consensus.room().set_low(low);
        if low {
            self.cut_log().await;
        }
        self.set_alarm().await;
        pause(space.free, needed)
    }

    /// How full the volume is.
    async fn space(&self) -> Result<Space, String> {
        let (files, directory) = (self.volume.files.clone(), self.volume.directory.clone());
        let (result, answer) = oneshot::channel();
        let ask = move || {
            // Whoever asked may have given up.
            let _ = result.send(files.space(&directory));
        };
        let asked = async {
            self.volume.tasks.blocking(Box::new(ask)).await;
            answer.await
        };
        match tokio::time::timeout(limits::DISK_LOOK_TIMEOUT, asked).await {
            Ok(Ok(Ok(space))) => Ok(space),
            Ok(Ok(Err(error))) => Err(error.to_string()),
            Ok(Err(_)) | Err(_) => Err("it does not answer".into()),
        }
    }

    /// Has all members know what is so here.
    async fn set_alarm(&self) {
        let alarm = Alarm { kind: AlarmKind::NoSpace, member: self.consensus.mine().node };
        if self.consensus.machine().has_alarm(alarm, Cause::Disk) == self.low {
            return;
        }
        if !self.low && simulated::planted(Bug::AlarmStays) {
            return;
        }
        let command = AlarmCommand { alarm, cause: Cause::Disk, raised: self.low };
        if let Err(error) = self.consensus.set_alarm(command).await {
            tracing::debug!(%error, "the alarm about the volume was not set; it is tried again");
        }
    }

    /// The log may hold more than is needed to start again: a snapshot lets go of that. What is kept behind it for those who lag may be
    /// the most of it, since that is counted in entries.
    async fn cut_log(&mut self) {
        let recent = self.cut.is_some_and(|cut| cut.elapsed() < limits::DISK_CUT_INTERVAL);
        let (log, snapshot) = (self.consensus.log().bytes(), self.consensus.snapshots().bytes());
        let next = self.consensus.machine().with_state(State::history_bytes);
        if !recent && gains(log, self.segment, snapshot, next) && self.consensus.has_newer_than_snapshot() {
            self.cut = Some(Instant::now());
            self.consensus.make_snapshot().await;
        }
        self.consensus.cut_all_of_log().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn what_is_needed_fits_the_volume() {
        assert_eq!(needed(1 << 40, 64 * MIB, 16 * MIB, 500 * MIB), (64 + 32 + 500) * MIB);
        assert_eq!(needed(256 * MIB, 64 * MIB, 16 * MIB, 0), (32 + 32) * MIB, "an eighth of a small one");
        assert_eq!(needed(u64::MAX, u64::MAX, u64::MAX, u64::MAX), u64::MAX);
    }

    #[test]
    fn it_is_over_only_when_there_is_a_little_more() {
        for (free, was_low, low) in [
            (800, false, false),
            (799, false, true),
            (800, true, true),
            (899, true, true),
            (900, true, false),
            (0, false, true),
            (u64::MAX, true, false),
        ] {
            assert_eq!(is_low(free, 800, was_low), low, "{free} of 800, before: {was_low}");
        }
    }

    #[test]
    fn a_snapshot_that_takes_more_than_it_frees_is_not_made() {
        assert!(gains(60, 8, 20, 40), "36 for 60");
        assert!(!gains(36, 8, 20, 40));
        assert!(!gains(26, 8, 0, 26), "the first one");
        assert!(gains(17, 8, 40, 20), "the store has shrunk");
    }

    #[test]
    fn the_nearer_the_end_the_oftener_it_looks() {
        assert_eq!(pause(0, 100), limits::DISK_LOOK_INTERVAL_NEAR);
        assert_eq!(pause(100 + limits::DISK_NEAR_BYTES - 1, 100), limits::DISK_LOOK_INTERVAL_NEAR);
        assert_eq!(pause(100 + limits::DISK_NEAR_BYTES, 100), limits::DISK_LOOK_INTERVAL);
    }
}
