//! What every member does from time to time for its own log and state: snapshots, physical compaction, metrics.

use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use tokio::time::MissedTickBehavior;

use super::handle::Consensus;
use super::store::Store;
use crate::metrics::Metrics;
use crate::mvcc::State;

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

/// How often the gauges are brought up to date, at most.
const GAUGE_INTERVAL: Duration = Duration::from_millis(500);

/// Keeps the gauges of consensus, and says when the leader changes.
pub(crate) async fn watch_leader(consensus: Consensus, metrics: Metrics) {
    let mut changes = consensus.raft().metrics();
    let mut leader = None;
    loop {
        let now = consensus.leader();
        if now != leader {
            if now.is_some() {
                metrics.leader_changes.inc();
            }
            tracing::info!(leader = now.map(|id| id.to_string()), "the leader changed");
            leader = now;
        }
        set_gauges(&consensus, &metrics);
        // Every entry is a change, and so is every heartbeat.
        let changed = async {
            while consensus.leader() == leader && changes.changed().await.is_ok() {}
        };
        let _ = tokio::time::timeout(GAUGE_INTERVAL, changed).await;
    }
}

fn set_gauges(consensus: &Consensus, metrics: &Metrics) {
    let position = consensus.position();
    metrics.has_leader.set(i64::from(position.leader.is_some()));
    metrics.is_leader.set(i64::from(position.leader == Some(position.member)));
    metrics.is_learner.set(i64::from(position.is_learner));
    metrics.proposals_committed.set(position.committed_index as i64);
    metrics.proposals_applied.set(position.applied_index as i64);
    metrics.revision.set(position.revision);
    metrics.compacted_revision.set(position.compacted);
    metrics.keys.set(consensus.machine().with_state(State::keys) as i64);
    let used = consensus.disk_use();
    metrics.db_bytes.set(used.state as i64);
    metrics.db_bytes_in_use.set(used.state as i64);
    metrics.log_bytes.set(used.log as i64);
    metrics.snapshot_bytes.set(used.snapshots as i64);
}
