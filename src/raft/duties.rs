//! What every member does from time to time for its own log and state: snapshots, physical compaction, metrics.

use std::time::Duration;

use tokio::time::MissedTickBehavior;

use super::handle::Consensus;
use crate::config::Tuning;
use crate::metrics::Metrics;

/// How often the size of the log is looked at.
const LOG_SIZE_INTERVAL: Duration = Duration::from_millis(500);
/// How often a snapshot is tried again that found no room.
const FULL_DISK_INTERVAL: Duration = Duration::from_secs(30);
/// How often compaction that waited for a snapshot is tried again.
const COMPACTION_INTERVAL: Duration = Duration::from_secs(1);

/// Has a snapshot made when what came after the last one has outgrown `log_bytes_before_snapshot` and that snapshot. Of what the snapshot
/// holds, `log_entries_kept` stay in the log for those who lag; they may be large, and take at most as many bytes.
///
/// All of the log that is cut is cut here (or where room is scarce): openraft, which would cut some when a snapshot is made, holds it for a
/// bug when that is less than what already waits to be cut.
pub(crate) async fn watch_log_size(consensus: Consensus, tuning: Tuning) {
    let mut ticks = tokio::time::interval(LOG_SIZE_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let most = tuning.log_bytes_before_snapshot.max(consensus.snapshots().bytes());
        let newest = consensus.snapshots().newest_index();
        let too_many = newest.and_then(|newest| newest.checked_sub(tuning.log_entries_kept));
        let too_large = newest.and_then(|newest| consensus.log().excess(newest, most));
        if let Some(upto) = too_many.max(too_large) {
            consensus.cut_log(upto).await;
        }
        let outgrown = consensus.log().bytes_from(newest.map_or(0, |newest| newest + 1)) > most;
        if outgrown && consensus.has_newer_than_snapshot() {
            if !consensus.make_snapshot().await {
                return;
            }
            if consensus.snapshots().lacks_room() {
                tokio::time::sleep(FULL_DISK_INTERVAL).await;
            }
        }
    }
}

impl Consensus {
    /// Whether something was applied since the newest snapshot.
    pub(crate) fn has_newer_than_snapshot(&self) -> bool {
        self.machine().applied().map(|id| id.index) > self.snapshots().newest_index()
    }

    /// Has a snapshot made; openraft makes at most one at a time. False if it has ended.
    pub(crate) async fn make_snapshot(&self) -> bool {
        self.raft().trigger().snapshot().await.is_ok()
    }

    /// Has everything cut off the log that the newest snapshot holds, also what stays behind it for those who lag: they get the snapshot.
    pub(crate) async fn cut_all_of_log(&self) {
        if let Some(newest) = self.snapshots().newest_index() {
            self.cut_log(newest).await;
        }
    }

    /// Has the log cut up to an entry that the newest snapshot holds. Entries that are on their way are cut when they have arrived.
    async fn cut_log(&self, upto: u64) {
        if Some(upto) > self.log().purged().map(|id| id.index) {
            // It fails only when consensus has ended.
            let _ = self.raft().trigger().purge_log(upto).await;
        }
    }
}

/// Compacts the disk in bounded steps, after each of which writes have their turn.
pub(crate) async fn compact(consensus: Consensus) {
    let mut ticks = tokio::time::interval(COMPACTION_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = consensus.machine().wait_to_compact() => {}
        }
        loop {
            match consensus.machine().compaction_step() {
                Ok(true) => tokio::task::yield_now().await,
                Ok(false) => break,
                Err(error) => {
                    tracing::error!(%error, "the state could not be compacted; the store grows until a restart");
                    return;
                }
            }
        }
    }
}

/// Counts and tells the changes of the leader. Gauges are read when they are asked for.
pub(crate) async fn watch_leader(consensus: Consensus, metrics: Metrics) {
    let mut leader = None;
    loop {
        let now = consensus.leader();
        if now != leader {
            if now.is_some() {
                metrics.leader_changes.inc();
            }
            let text = now.map_or_else(|| "nobody".to_owned(), |id| id.to_string());
            tracing::info!(leader = text, "the leader changed");
            leader = now;
        }
        if !consensus.another_leads_than(leader).await {
            return;
        }
    }
}
