//! What every member does from time to time for its own log and state: snapshots, physical compaction, metrics.

use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use tokio::time::MissedTickBehavior;

use super::handle::Consensus;
use super::store::Store;
use crate::metrics::Metrics;

/// How often the size of the log is looked at.
const LOG_SIZE_INTERVAL: Duration = Duration::from_millis(500);
/// How often an idle member looks for something to compact.
const COMPACTION_INTERVAL: Duration = Duration::from_millis(200);

/// Has a snapshot made when the log has outgrown `least` bytes and the last snapshot.
pub(crate) async fn watch_log_size(consensus: Consensus, least: u64) {
    let mut ticks = tokio::time::interval(LOG_SIZE_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let outgrown = consensus.log().bytes() > least.max(consensus.snapshots().bytes());
        let applied = consensus.machine().applied().map(|id| id.index);
        if outgrown && applied > consensus.snapshots().newest_index() {
            // openraft makes at most one at a time.
            if consensus.raft().trigger().snapshot().await.is_err() {
                return;
            }
        }
    }
}

/// Compacts the disk in bounded steps, after each of which writes have their turn.
pub(crate) async fn compact(consensus: Consensus) {
    let mut ticks = tokio::time::interval(COMPACTION_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
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

/// Keeps the gauges of consensus.
pub(crate) async fn watch_leader(consensus: Consensus, metrics: Metrics) {
    let mut changes = consensus.raft().metrics();
    let mut leader = None;
    loop {
        let now = changes.borrow_watched().current_leader;
        if now != leader {
            metrics.leader(now.is_some(), now == Some(consensus.mine().node));
            tracing::info!(leader = now.map(|id| id.to_string()), "the leader changed");
            leader = now;
        }
        let used = consensus.disk_use();
        metrics.disk(used.state, used.log, used.snapshots);
        if changes.changed().await.is_err() {
            return;
        }
        // Every entry is a change; the gauges need no more than a look now and then.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
