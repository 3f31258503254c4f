//! The watch over this member's volume. A log that finds no room ends its member; so what makes the store grow is refused before, first
//! here, then by all members through an alarm. Deletes and compaction go on. What is needed stays free: the segments that the log begins
//! next, and the next snapshot, by which the log is cut. When there is room again, the alarm goes by itself.
//!
//! Of a member that does not answer any more, the leader takes it back: what grows meanwhile does not reach that volume, and the others
//! would wait for as long as nobody gives the pod a disk. A member that comes back looks at its volume as soon as it takes part.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::env::files::Space;
use crate::env::simulated::{self, Bug};
use crate::env::{Files, Tasks};
use crate::identity::NodeId;
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

/// Members that have raised the alarm and do not answer their leader, each since when.
#[derive(Debug, Default)]
struct Silent(BTreeMap<NodeId, Instant>);

impl Silent {
    /// Those whose alarm is to be taken back. `raised`: whose there are; `answering`: who answers, `None` where this member does not lead.
    fn for_long(
        &mut self,
        raised: &[NodeId],
        answering: Option<&BTreeSet<NodeId>>,
        now: Instant,
    ) -> Vec<NodeId> {
        let silent =
            raised.iter().filter(|member| answering.is_some_and(|answering| !answering.contains(member)));
        self.0 = silent.map(|member| (*member, self.0.get(member).copied().unwrap_or(now))).collect();
        let long =
            self.0.iter().filter(|(_, since)| now.duration_since(**since) >= limits::DISK_ALARM_OF_SILENT);
        long.map(|(member, _)| *member).collect()
    }
}

/// Watches until consensus ends.
pub(super) async fn watch(consensus: Consensus, volume: Volume, reserve: u64, segment: u64) {
    let mut watch =
        Watch { consensus, volume, reserve, segment, low: false, cut: None, silent: Silent::default() };
    loop {
        let pause = watch.look().await;
        // Afterwards: what all must agree on may take its time, and this member's own volume does not wait for it.
        watch.take_back().await;
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
    silent: Silent,
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
        let mine = self.consensus.mine().node;
        if self.consensus.machine().full_volumes().contains(&mine) == self.low {
            return;
        }
        if !self.low && simulated::planted(Bug::AlarmStays) {
            return;
        }
        self.set_alarm_of(mine, self.low).await;
    }

    /// Ends the alarms of members that do not answer for long, where this one leads.
    async fn take_back(&mut self) {
        let raised = self.consensus.machine().full_volumes();
        let seen = if raised.is_empty() { None } else { self.consensus.members_seen() };
        let answering = seen.as_ref().map(|seen| &seen.answering);
        for member in self.silent.for_long(&raised, answering, Instant::now()) {
            tracing::warn!(
                %member,
                "the volume of this member was nearly full when it was last heard; it does not answer, and the others go on without it"
            );
            self.set_alarm_of(member, false).await;
        }
    }

    async fn set_alarm_of(&self, member: NodeId, raised: bool) {
        let alarm = Alarm { kind: AlarmKind::NoSpace, member };
        let command = AlarmCommand { alarm, cause: Cause::Disk, raised };
        if let Err(error) = self.consensus.set_alarm(command).await {
            tracing::debug!(%error, %member, "the alarm about the volume was not set; it is tried again");
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
    fn an_alarm_is_taken_back_of_who_is_silent_for_long_only() {
        const A_MOMENT: Duration = Duration::from_millis(1);
        let (one, two) = (NodeId(1), NodeId(2));
        let mut silent = Silent::default();
        let start = Instant::now();
        let end = start + limits::DISK_ALARM_OF_SILENT;
        let nobody = BTreeSet::new();
        let just_one = BTreeSet::from([one]);
        assert_eq!(silent.for_long(&[one, two], Some(&just_one), start), []);
        assert_eq!(silent.for_long(&[one, two], Some(&nobody), end - A_MOMENT), []);
        assert_eq!(silent.for_long(&[one, two], Some(&nobody), end), [two], "the other was heard meanwhile");
        assert_eq!(silent.for_long(&[one], Some(&nobody), end), [], "it is done");
        let later = end + limits::DISK_ALARM_OF_SILENT;
        assert_eq!(silent.for_long(&[one], None, later), [], "who does not lead does not know");
        assert_eq!(silent.for_long(&[one], Some(&nobody), later), [], "a new leader waits as long");
        assert_eq!(silent.for_long(&[one], Some(&just_one), later + A_MOMENT), [], "it is back");
        assert_eq!(silent.for_long(&[one], Some(&nobody), later + limits::DISK_ALARM_OF_SILENT), []);
    }

    #[test]
    fn the_nearer_the_end_the_oftener_it_looks() {
        assert_eq!(pause(0, 100), limits::DISK_LOOK_INTERVAL_NEAR);
        assert_eq!(pause(100 + limits::DISK_NEAR_BYTES - 1, 100), limits::DISK_LOOK_INTERVAL_NEAR);
        assert_eq!(pause(100 + limits::DISK_NEAR_BYTES, 100), limits::DISK_LOOK_INTERVAL);
    }
}
