//! Marks: what each member has acknowledged as durable, written by the leader into the log (DESIGN section 5), so that a
//! disk that was rolled back can be told.

use std::collections::BTreeMap;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use tokio::time::MissedTickBehavior;

use super::codec;
use super::handle::Consensus;
use super::store::Store;
use super::types::{Batch, EntryPayload};
use crate::identity::NodeId;
use crate::limits;
use crate::mvcc::cluster::{ClusterCommand, Mark};
use crate::mvcc::command::{Command, Request};

/// Shortest time between two marks.
const INTERVAL: Duration = Duration::from_secs(1);

/// Writes marks while this member leads and something else was written since.
pub(crate) async fn keep(consensus: Consensus) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Index of the last marks; they are no reason for more.
    let mut marked = 0;
    loop {
        ticks.tick().await;
        let position = consensus.position();
        if !consensus.is_leader() || position.applied_index <= marked {
            continue;
        }
        let marks = acknowledged(&consensus);
        if marks.is_empty() {
            continue;
        }
        let command = Command::Cluster(ClusterCommand::Marks(marks));
        let deadline = tokio::time::Instant::now() + limits::REQUEST_TIMEOUT;
        match consensus.propose_until(Request::anonymous(command), deadline).await {
            Ok(applied) => marked = applied.index,
            Err(error) => {
                tracing::debug!(%error, "the marks were not written; the next leader writes its own");
            }
        }
    }
}

/// Notes a mark, unless a higher one is known.
fn note(marks: &mut BTreeMap<NodeId, Mark>, id: NodeId, mark: Mark) {
    let kept = marks.entry(id).or_insert(mark);
    if kept.is_below(&mark) {
        *kept = mark;
    }
}

/// Notes the marks in an entry. One is true from the moment it is written, committed or not.
pub(super) fn read(batch: &Batch, marks: &mut BTreeMap<NodeId, Mark>) -> Result<(), String> {
    for request in codec::decode_batch(batch).map_err(|error| error.to_string())? {
        if let Command::Cluster(ClusterCommand::Marks(found)) = request.command {
            for (id, mark) in found {
                note(marks, id, mark);
            }
        }
    }
    Ok(())
}

/// Everything that this member knows of what was once on the disks of the members: the marks in the applied state, those in
/// the log after it, and, if it leads, what was acknowledged to it until now.
pub(super) fn known(consensus: &Consensus) -> BTreeMap<NodeId, Mark> {
    let mut marks = consensus.marks();
    let next = consensus.machine().applied().map_or(0, |id| id.index + 1);
    // Entries that wait to be applied are in the cache, or their member lags far behind: then the leader knows more than they say. A
    // log that cannot be read has failed, and its member says so elsewhere.
    let waiting = consensus.log().read_cached(next..u64::MAX, limits::APPEND_BYTES);
    for entry in waiting.ok().flatten().unwrap_or_default() {
        if let Ok(EntryPayload::Normal(batch)) = codec::decode_payload(entry.payload) {
            // What cannot be read is refused where it is applied.
            let _ = read(&batch, &mut marks);
        }
    }
    if consensus.is_leader() {
        for (id, mark) in acknowledged(consensus) {
            note(&mut marks, id, mark);
        }
    }
    marks
}

/// What this leader knows to be on the disks of the members.
fn acknowledged(consensus: &Consensus) -> Vec<(NodeId, Mark)> {
    let mine = consensus.mine();
    let metrics = consensus.raft().metrics();
    let metrics = metrics.borrow_watched();
    // After what was matched: what a boot acknowledged must not be said of the one before, which its disk would be held against.
    let seen = consensus.boots().seen();
    let Some(replication) = metrics.replication.as_ref() else { return Vec::new() };
    replication
        .iter()
        .filter_map(|(id, matched)| {
            let boot = if *id == mine.node { mine.boot } else { seen.get(id)?.0 };
            let matched = matched.as_ref()?;
            let mark = Mark {
                boot,
                vote_term: metrics.vote.leader_id.term,
                vote_node: metrics.vote.leader_id.voted_for.0,
                log_term: matched.leader_id.term,
                log_index: matched.index,
            };
            Some((*id, mark))
        })
        .collect()
}
