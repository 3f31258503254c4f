//! Standing in the queues of locks and elections ([`crate::mvcc::queue`]), for clients that only ask and wait.
//!
//! Each that stands has a task. It joins, waits for the end of the one key before its own (and of its own) with watchers of the hub, and
//! hands over what it got. Whoever asked may go away at any moment, also while the key is being written: the task then takes the key away
//! again, because a lease that goes on living would block the queue with a key that nobody knows of. So it does when this member stops.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Code;

use super::permission::{self, Caller};
use super::{Shared, convert, texts};
use crate::env::simulated::{self, Bug};
use crate::error::Error;
use crate::limits;
use crate::mvcc::auth::Identity;
use crate::mvcc::command::{Command, Outcome, Request, Txn, TxnResult};
use crate::mvcc::queue::{Joined, Place, Standing};
use crate::mvcc::{WatchOptions, WatchedKeys};
use crate::raft::store::SharedStore;
use crate::transport::Failure;
use crate::watch::{Budget, Create, Hub, Update};

/// Ids of the two watchers of one that waits.
const MINE: i64 = 1;
const BEFORE: i64 = 2;
/// Pause before the store is asked again that could not answer just now.
const AGAIN: Duration = Duration::from_millis(100);

/// All that stand in queues through this member.
pub(super) struct Queues {
    room: Arc<Semaphore>,
    /// Of the watchers of all that wait.
    budget: Budget,
    tasks: TaskTracker,
}

impl Default for Queues {
    fn default() -> Self {
        Self {
            room: Arc::new(Semaphore::new(limits::QUEUED_CALLS)),
            budget: Budget::of_connection(),
            tasks: TaskTracker::new(),
        }
    }
}

/// An answer of the store, for a header.
#[derive(Clone, Copy, Debug)]
pub(super) struct At {
    pub(super) revision: i64,
    pub(super) term: u64,
}

/// The first place is held.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    /// Create revision of the key.
    pub(super) created: i64,
    /// When it joined.
    pub(super) joined: At,
    /// When it was seen to be the first.
    pub(super) first: At,
}

impl Queues {
    /// Joins the queue, and returns once the place is the first. `value`: what a campaign writes; a lock writes nothing, and leaves what is
    /// there. When the caller drops this, the key goes.
    pub(super) async fn stand(
        &self,
        api: &Shared,
        by: Identity,
        place: Place,
        value: Option<Bytes>,
    ) -> Result<Held, Failure> {
        let Ok(room) = Arc::clone(&self.room).try_acquire_owned() else {
            return Err(texts::TOO_MANY_REQUESTS.into());
        };
        let (told, answer) = oneshot::channel();
        let (taken, is_taken) = oneshot::channel();
        let stander = Stander {
            store: api.store.clone(),
            hub: api.hub.clone(),
            budget: self.budget.clone(),
            stopping: api.stopping.clone(),
            place,
        };
        self.tasks.spawn(async move {
            stander.run(by, value, told, is_taken).await;
            drop(room);
        });
        let held = answer.await.map_err(|_| Failure::from(texts::STOPPED))??;
        // From here on it is the caller's.
        let _ = taken.send(());
        Ok(held)
    }

    /// Room for one more that waits, for as long as it is held.
    pub(super) fn enter(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.room).try_acquire_owned().ok()
    }

    /// Waits until nobody stands any more, or the time is up. For a member that stops: all have been told to leave by then.
    pub(super) async fn left(&self, limit: Duration) {
        self.tasks.close();
        let _ = tokio::time::timeout(limit, self.tasks.wait()).await;
    }
}

/// One that stands.
struct Stander {
    store: SharedStore,
    hub: Hub,
    budget: Budget,
    stopping: CancellationToken,
    place: Place,
}

impl Stander {
    /// `told` gets the answer; `taken` says that the caller has it, or ends without a word if the caller is gone.
    async fn run(
        self,
        by: Identity,
        value: Option<Bytes>,
        told: oneshot::Sender<Result<Held, Failure>>,
        mut taken: oneshot::Receiver<()>,
    ) {
        let (joined, at) = match self.join(by.clone(), value.clone().unwrap_or_default()).await {
            Ok(joined) => joined,
            Err(failure) => {
                // Nobody may be there to hear it.
                let _ = told.send(Err(failure));
                return;
            }
        };
        let created = joined.created;
        let result = tokio::select! {
            biased;
            () = self.stopping.cancelled() => Err(texts::STOPPED.into()),
            // Only a caller that is gone ends it now; nobody hears this.
            _ = &mut taken => Err(Failure::new(Code::Cancelled, "context canceled")),
            held = self.wait(by, joined, at, value) => held,
        };
        let is_held = result.is_ok();
        // Before the caller hears that it failed: it may join anew at once, with the same key.
        let has_left = !is_held && self.leave_once(created).await;
        let is_told = told.send(result).is_ok();
        if (is_held && is_told && taken.await.is_ok()) || has_left {
            return;
        }
        self.leave(created).await;
    }

    async fn join(&self, by: Identity, value: Bytes) -> Result<(Joined, At), Failure> {
        let (result, at) = transact(&self.store, by, self.place.join(value)).await?;
        let joined = self.place.joined(&result).ok_or_else(convert::unexpected)?;
        Ok((joined, at))
    }

    async fn wait(
        &self,
        by: Identity,
        joined: Joined,
        at: At,
        value: Option<Bytes>,
    ) -> Result<Held, Failure> {
        let Joined { created, is_first, found } = joined;
        // An election has no text of its own for that.
        let gone = if value.is_some() {
            without_code(texts::LEASE_NOT_FOUND.into())
        } else {
            texts::LOCK_SESSION_EXPIRED.into()
        };
        if let (Some(value), Some(found)) = (value, found)
            && value != found
        {
            let (result, _) = transact(&self.store, by, self.place.rewrite(created, value)).await?;
            if !result.succeeded {
                return Err(texts::ELECTION_NOT_LEADER.into());
            }
        }
        let mut held = Held { created, joined: at, first: at };
        if is_first {
            return Ok(held);
        }
        let mut has_waited = false;
        loop {
            let (standing, revision) = self.look(created).await?;
            match standing {
                Standing::Gone => return Err(gone),
                // The one before may have left the middle of the queue.
                Standing::Behind(_) if has_waited && simulated::planted(Bug::LockAfterAnyEnd) => {
                    return Ok(held);
                }
                Standing::Behind(before) => self.change(&before, revision + 1).await?,
                Standing::First => {
                    // This member may lag, and the key may be gone by now.
                    self.store.barrier().await.map_err(|error| failed(&error))?;
                    let (standing, revision) = self.look(created).await?;
                    if standing == Standing::First {
                        held.first = At { revision, term: 0 };
                        return Ok(held);
                    }
                }
            }
            has_waited = true;
        }
    }

    /// Where the key stands, as this member knows it, and at which revision.
    async fn look(&self, created: i64) -> Result<(Standing, i64), Failure> {
        let deadline = Instant::now() + limits::REQUEST_TIMEOUT;
        loop {
            match self.store.read_txn(self.place.look(created)).await {
                Ok(Some((result, revision))) => {
                    let standing = self.place.standing(created, &result).ok_or_else(convert::unexpected)?;
                    return Ok((standing, revision));
                }
                Ok(None) => return Err(convert::unexpected()),
                // While a snapshot is installed.
                Err(Error::NotServing(_)) if Instant::now() < deadline => tokio::time::sleep(AGAIN).await,
                Err(error) => return Err(failed(&error)),
            }
        }
    }

    /// Returns when something was deleted: the key before, or the own one; or when it is not known whether it was.
    async fn change(&self, before: &Bytes, from: i64) -> Result<(), Failure> {
        let Some(mut session) = self.hub.open(self.budget.clone()) else {
            return Err(texts::STOPPED.into());
        };
        for (watch_id, key) in [(MINE, self.place.key()), (BEFORE, before)] {
            session.create(Create {
                keys: WatchedKeys::new(key, b""),
                watch_id,
                start_revision: from,
                options: WatchOptions::default().with(WatchOptions::NO_PUT, true),
            });
        }
        loop {
            match session.next().await {
                Ok(Update::Created { .. } | Update::Progress { .. }) => {}
                Ok(Update::Refused { .. }) => return Err(texts::TOO_MANY_REQUESTS.into()),
                Ok(_) => return Ok(()),
                Err(_) => return Err(texts::STOPPED.into()),
            }
        }
    }

    /// Takes the key away; whether it is certain that it is gone.
    async fn leave_once(&self, created: i64) -> bool {
        let limit = if self.stopping.is_cancelled() { limits::STOP_STEP } else { limits::REQUEST_TIMEOUT };
        // As the member: it takes back what it did itself, whatever its client may do now.
        let left = transact(&self.store, Identity::member(), self.place.leave(created));
        matches!(tokio::time::timeout(limit, left).await, Ok(Ok(_)))
    }

    /// Takes the key away, if need be again and again for some time.
    async fn leave(&self, created: i64) {
        let deadline = Instant::now() + limits::QUEUE_LEAVE_TIMEOUT;
        while !self.leave_once(created).await {
            if self.stopping.is_cancelled() || Instant::now() >= deadline {
                let key = String::from_utf8_lossy(self.place.key());
                tracing::warn!(%key, "whoever stood in this queue is gone, and the key could not be deleted");
                return;
            }
            tokio::time::sleep(AGAIN).await;
        }
    }
}

/// Times that the transaction which joins a queue says its name, beside the request itself.
const NAMES: usize = 6;

/// Whether a request of this size is not too large once it is the transaction that joins the queue of `name`.
pub(super) fn check_size(api: &Shared, size: usize, name: &[u8]) -> Result<(), Failure> {
    convert::check_size(size + NAMES * name.len(), api.requests.request_bytes).map_err(without_code)
}

/// The lease that a client names, or one of a minute that nobody keeps alive.
pub(super) async fn lease(api: &Shared, caller: &Caller, asked: i64) -> Result<i64, Failure> {
    if asked != 0 {
        return Ok(asked);
    }
    let by = caller.identity(api).await.map_err(without_code)?;
    let granted = api.store.grant(by, 0, limits::QUEUE_LEASE_SECONDS).await;
    match granted.map_err(|error| failed(&error))?.0.outcome {
        Outcome::Granted { id, .. } => Ok(id),
        _ => Err(convert::unexpected()),
    }
}

/// Who calls, if it may run a transaction.
pub(super) async fn may_run(api: &Shared, caller: &Caller, txn: &Txn) -> Result<Identity, Failure> {
    let checked = permission::check(api, caller, |state, by| state.may_run_txn(by, txn)).await;
    checked.map_err(without_code)
}

/// Puts a transaction through the log, where it is looked at again whether `by` may run it.
pub(super) async fn transact(
    store: &SharedStore,
    by: Identity,
    txn: Txn,
) -> Result<(TxnResult, At), Failure> {
    let request = Request::of(by, Command::Txn(txn));
    let (reply, term) = store.propose(request).await.map_err(|error| failed(&error))?;
    match reply.outcome {
        Outcome::Txn(result) => Ok((result, At { revision: reply.revision, term })),
        _ => Err(convert::unexpected()),
    }
}

/// What etcd says of an error here: the text of the service that these services call, without its code, because to them it is an error
/// of their client. That this member stops keeps its code: another one will do.
pub(super) fn failed(error: &Error) -> Failure {
    without_code(texts::failure(error))
}

/// See [`failed`].
pub(super) fn without_code(failure: Failure) -> Failure {
    if failure == Failure::from(texts::STOPPED) {
        failure
    } else {
        Failure { code: Code::Unknown, ..failure }
    }
}
