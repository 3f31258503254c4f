//! Group commit: whatever waits goes into one log entry. No timer: while one entry is on its way, the next gathers.
//!
//! Runs on every member; only the leader's proposals get anywhere. Bounded by [`limits::PROPOSER_QUEUE_REQUESTS`] and
//! [`limits::PROPOSER_BYTES`]; an entry by [`limits::BATCH_REQUESTS`] and [`limits::BATCH_BYTES`].

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use openraft::errors::ClientWriteError;
use tokio::sync::mpsc::error::{SendError, TrySendError};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::codec;
use super::room::Growth;
use super::types::{Callback, ClientWriteResult, Raft};
use super::wire::{Applied, Proposed};
use crate::env::simulated::{self, Bug, Seen};
use crate::error::Error;
use crate::limits;
use crate::metrics::Metrics;
use crate::mvcc::command::Refusal;

/// Entries on their way at a time. With one, the disk and the network would wait for apply between two entries.
const ENTRIES_IN_FLIGHT: usize = 1;
/// Requests about alarms that wait. Members raise one at a time each.
const ALARMS_WAITING: usize = 64;

/// Bytes of requests that wait or are on their way, of all proposers of a member.
#[derive(Clone, Debug, Default)]
pub(crate) struct BytesWaiting(Arc<AtomicUsize>);

impl BytesWaiting {
    /// Counts a request in, or says that there are too many.
    pub(crate) fn enter(&self, bytes: usize) -> Result<Held, Error> {
        let before = self.0.fetch_add(bytes, Ordering::Relaxed);
        let held = Held { bytes, of: self.clone() };
        if before.saturating_add(bytes) > limits::PROPOSER_BYTES {
            Err(Error::TooManyRequests)
        } else {
            let (waiting, limit) = ((before + bytes) as u64, limits::PROPOSER_BYTES as u64);
            simulated::tell(|| Seen::Holds { what: "bytes of requests", held: waiting, limit });
            Ok(held)
        }
    }
}

#[cfg(test)]
impl BytesWaiting {
    pub(crate) fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// A request's share of the bytes that wait.
#[derive(Debug)]
pub(crate) struct Held {
    bytes: usize,
    of: BytesWaiting,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.of.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Where the outcome of a proposal goes. Dropped unanswered, it answers that the outcome is unknown.
#[derive(Debug)]
pub(crate) struct ReplyTo(Option<Target>);

#[derive(Debug)]
enum Target {
    Caller(oneshot::Sender<Proposed>),
    Follower(u64, mpsc::UnboundedSender<(u64, Proposed)>),
}

impl ReplyTo {
    /// To a caller on this member.
    pub(crate) fn caller(caller: oneshot::Sender<Proposed>) -> Self {
        Self(Some(Target::Caller(caller)))
    }

    /// To the stream of a follower, with the follower's number of the request.
    pub(crate) fn follower(number: u64, stream: mpsc::UnboundedSender<(u64, Proposed)>) -> Self {
        Self(Some(Target::Follower(number, stream)))
    }

    /// Whether nobody waits for the answer any more.
    pub(crate) fn is_abandoned(&self) -> bool {
        match &self.0 {
            Some(Target::Caller(caller)) => caller.is_closed(),
            Some(Target::Follower(_, stream)) => stream.is_closed(),
            None => true,
        }
    }

    pub(crate) fn answer(mut self, proposed: Proposed) {
        self.send(proposed);
    }

    // Whoever asked may have gone; then nobody wants to know.
    fn send(&mut self, proposed: Proposed) {
        match self.0.take() {
            Some(Target::Caller(caller)) => {
                let _ = caller.send(proposed);
            }
            Some(Target::Follower(number, stream)) => {
                let _ = stream.send((number, proposed));
            }
            None => {}
        }
    }
}

impl Drop for ReplyTo {
    fn drop(&mut self) {
        if simulated::planted(Bug::UnknownIsRefused) {
            return self.send(Err(Error::NoLeader));
        }
        self.send(Err(Error::OutcomeUnknown("the member stopped before the outcome was known".into())));
    }
}

/// One request on its way.
#[derive(Debug)]
pub(crate) struct Pending {
    /// A `setstone.log.v1.Request`.
    pub(crate) request: Bytes,
    pub(crate) growth: Growth,
    pub(crate) reply: ReplyTo,
    pub(crate) _held: Held,
}

/// Where requests for the proposer are put. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Proposals {
    alarms: mpsc::Sender<Pending>,
    others: mpsc::Sender<Pending>,
}

impl Proposals {
    fn of(&self, growth: Growth) -> &mpsc::Sender<Pending> {
        if growth == Growth::Alarm { &self.alarms } else { &self.others }
    }

    /// Puts one in, if there is room.
    pub(crate) fn try_send(&self, pending: Pending) -> Result<(), TrySendError<Pending>> {
        self.of(pending.growth).try_send(pending)
    }

    /// Puts one in; waits for room.
    pub(crate) async fn send(&self, pending: Pending) -> Result<(), SendError<Pending>> {
        self.of(pending.growth).send(pending).await
    }
}

/// Requests that wait. Alarms come first: what they are raised against must not be proposed before them.
pub(crate) struct Queue {
    alarms: mpsc::Receiver<Pending>,
    others: mpsc::Receiver<Pending>,
}

/// The queue of a proposer.
pub(crate) fn queue() -> (Proposals, Queue) {
    let (alarms, alarms_queue) = mpsc::channel(ALARMS_WAITING);
    let (others, others_queue) = mpsc::channel(limits::PROPOSER_QUEUE_REQUESTS);
    (Proposals { alarms, others }, Queue { alarms: alarms_queue, others: others_queue })
}

impl Queue {
    /// `None` when no more can come.
    pub(crate) async fn next(&mut self) -> Option<Pending> {
        tokio::select! {
            biased;
            Some(alarm) = self.alarms.recv() => Some(alarm),
            other = self.others.recv() => other,
        }
    }

    fn try_next(&mut self) -> Option<Pending> {
        self.alarms.try_recv().or_else(|_| self.others.try_recv()).ok()
    }

    fn close(&mut self) {
        self.alarms.close();
        self.others.close();
    }
}

/// Answers what is not to be proposed: whoever asked has been told that the outcome is unknown (after a long time without a quorum there are
/// many), or there is no room.
fn still_wanted(pending: Pending, is_full: &impl Fn() -> bool) -> Option<Pending> {
    if pending.reply.is_abandoned() {
        return None;
    }
    if pending.growth == Growth::Grows && is_full() {
        pending.reply.answer(Err(Refusal::NoSpace.into()));
        return None;
    }
    Some(pending)
}

/// Runs until `cancel`; what waits then is answered as not proposed. `is_full`: whether requests that make the store grow are refused.
pub(crate) async fn run(
    raft: Raft,
    mut queue: Queue,
    is_full: impl Fn() -> bool,
    metrics: Metrics,
    cancel: CancellationToken,
) {
    let in_flight = Arc::new(Semaphore::new(ENTRIES_IN_FLIGHT));
    loop {
        let first = tokio::select! {
            first = queue.next() => first,
            () = cancel.cancelled() => None,
        };
        let Some(first) = first else { break };
        let permit = tokio::select! {
            permit = in_flight.clone().acquire_owned() => permit.ok(),
            () = cancel.cancelled() => None,
        };
        let Some(permit) = permit else {
            first.reply.answer(Err(Error::Stopped));
            break;
        };
        let batch = gather(first, &mut queue, &is_full);
        if batch.is_empty() {
            continue;
        }
        metrics.batch_requests.observe(batch.len() as f64);
        metrics.proposals_pending.inc_by(batch.len() as i64);
        let requests: Vec<Bytes> = batch.iter().map(|pending| pending.request.clone()).collect();
        let data = codec::encode_batch(&requests);
        let outcome_metrics = metrics.clone();
        let callback = Callback::new(move |result: ClientWriteResult| {
            drop(permit);
            outcome_metrics.proposals_pending.dec_by(batch.len() as i64);
            if result.is_err() {
                outcome_metrics.proposals_failed.inc_by(batch.len() as u64);
            }
            distribute(batch, result);
        });
        if raft.client_write_ff(data, Some(callback)).await.is_err() {
            // The callback was dropped, and has answered.
            break;
        }
    }
    queue.close();
    while let Some(pending) = queue.next().await {
        pending.reply.answer(Err(Error::Stopped));
    }
}

/// What goes into the next entry: `first`, and what waits.
fn gather(first: Pending, queue: &mut Queue, is_full: &impl Fn() -> bool) -> Vec<Pending> {
    let (mut bytes, mut batch) = (0, Vec::new());
    let mut next = Some(first);
    while let Some(pending) = next {
        if let Some(pending) = still_wanted(pending, is_full) {
            bytes += pending.request.len();
            batch.push(pending);
        }
        let has_room = batch.len() < limits::BATCH_REQUESTS && bytes < limits::BATCH_BYTES;
        next = if has_room { queue.try_next() } else { None };
    }
    batch
}

fn distribute(batch: Vec<Pending>, result: ClientWriteResult) {
    match result {
        Ok(response) => {
            let (term, index) = (response.log_id.leader_id.term, response.log_id.index);
            for (pending, reply) in batch.into_iter().zip(response.data) {
                pending.reply.answer(Ok(Applied { term, index, reply }));
            }
        }
        Err(ClientWriteError::ForwardToLeader(_)) => answer_all(batch, &Error::NoLeader),
        Err(error) => answer_all(batch, &Error::OutcomeUnknown(error.to_string())),
    }
}

fn answer_all(batch: Vec<Pending>, error: &Error) {
    for pending in batch {
        pending.reply.answer(Err(error.clone()));
    }
}
