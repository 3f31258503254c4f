//! Linearizable reads: one read-index round for all readers that wait.
//!
//! The round of a leader asks a quorum whether it still leads (openraft's ReadIndex); the round of a follower asks the
//! leader for its read index. A reader joins the round that starts after it came, never one that is under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use openraft::ReadPolicy;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{LinearizableReadError, RaftError};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::handle::wait_for_leader;
use super::network::PeerChannels;
use super::types::{LogId, Raft, TypeConfig};
use crate::env::simulated::{self, Bug};
use crate::error::Error;
use crate::identity::NodeId;
use crate::metrics::Metrics;

/// Readers of one round.
const ROUND_READERS: usize = 4_096;

/// Time for one round: when the leader is gone, another leads by then, and the readers are better off in the next round.
const ROUND_TIMEOUT: Duration = Duration::from_millis(1_600);

/// What a reader waits for: the index that it must see applied.
pub(crate) type Waiter = oneshot::Sender<Result<u64, Error>>;

/// Runs rounds until `cancel`; counts them, and those that take longer than `slow`.
pub(crate) async fn run(
    raft: Raft,
    mine: NodeId,
    peers: PeerChannels,
    mut queue: mpsc::Receiver<Waiter>,
    rounds: Arc<AtomicU64>,
    (metrics, slow): (Metrics, Duration),
    cancel: CancellationToken,
) {
    let mut waiting = Vec::new();
    loop {
        let count = tokio::select! {
            count = queue.recv_many(&mut waiting, ROUND_READERS) => count,
            () = cancel.cancelled() => 0,
        };
        if count == 0 {
            break;
        }
        rounds.fetch_add(1, Ordering::Relaxed);
        let started = Instant::now();
        let round = tokio::select! {
            round = tokio::time::timeout(ROUND_TIMEOUT, read_index(&raft, mine, &peers)) => round,
            () = cancel.cancelled() => Ok(Err(Error::Stopped)),
        };
        let result = round.unwrap_or(Err(Error::TimedOut)).map(|id| id.index);
        if result.is_err() {
            metrics.read_indexes_failed.inc();
        }
        if started.elapsed() > slow {
            metrics.slow_read_indexes.inc();
        }
        for waiter in waiting.drain(..) {
            // A reader that gave up is gone.
            let _ = waiter.send(result.clone());
        }
    }
}

async fn read_index(raft: &Raft, mine: NodeId, peers: &PeerChannels) -> Result<LogId, Error> {
    loop {
        match raft.current_leader().await {
            Some(leader) if leader == mine => return leader_read_index(raft).await,
            Some(leader) => tokio::select! {
                index = peers.read_index(leader) => return index,
                // It may be silent until the deadline, and all readers wait for this round: the new one is asked.
                changed = wait_for_leader(raft, |now| now != Some(leader)) => {
                    if !changed {
                        return Err(Error::Stopped);
                    }
                }
            },
            None => return Err(Error::NoLeader),
        }
    }
}

/// The read index of this member, if it leads and a quorum agrees.
pub(crate) async fn leader_read_index(raft: &Raft) -> Result<LogId, Error> {
    if simulated::planted(Bug::ReadWithoutQuorum)
        && let Some(applied) = raft.metrics().borrow_watched().last_applied
    {
        return Ok(applied);
    }
    match raft.get_read_linearizer(ReadPolicy::ReadIndex).await {
        Ok(linearizer) => Ok(*linearizer.read_log_id().log_id()),
        Err(error) => Err(read_error(&error)),
    }
}

fn read_error(error: &RaftError<TypeConfig, LinearizableReadError<TypeConfig>>) -> Error {
    match error {
        RaftError::APIError(LinearizableReadError::ForwardToLeader(_)) => Error::NoLeader,
        RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)) => Error::TimedOut,
        RaftError::Fatal(_) => Error::Stopped,
    }
}
