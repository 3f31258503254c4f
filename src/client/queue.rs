//! A place in a queue of keys ([`crate::mvcc::queue`]), with a lease that is kept alive: what a lock and leadership are made of.
//!
//! A place is taken by transactions and watched through [`Client`], so it works the same over the network, in this process, and against
//! etcd, whose own clients stand in the same queues. It does not hang on one member: when one fails, the wait goes on through another.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::{Client, KeptLease, Watch, Watched, Watcher};
use crate::env::simulated::{self, Bug};
use crate::error::Error;
use crate::mvcc::EventKind;
use crate::mvcc::command::{Compare, Refusal, TxnResult};
use crate::mvcc::queue::{self, Joined, Place, Standing};

/// Pause after a call that failed; the client has tried every endpoint by then.
const RETRY: Duration = Duration::from_millis(100);

/// The first place in a queue. Dropped, it is given back as soon as that goes; nobody waits for that.
pub(super) struct Held {
    client: Arc<dyn Client>,
    place: Place,
    created: i64,
    lost: watch::Receiver<bool>,
    /// Looks whether the key is there.
    keeper: AbortHandle,
    /// `None` once it is given back.
    lease: Option<KeptLease>,
}

/// A place that is taken, while it is not the first. Dropped, it is given back.
struct Waiting {
    client: Arc<dyn Client>,
    place: Place,
    lease: Option<KeptLease>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        give_back(self.lease.take());
    }
}

/// Ends a lease, and with it the key, without anybody waiting for it. Outside a runtime it ends by itself, later.
fn give_back(lease: Option<KeptLease>) {
    let (Some(lease), Ok(runtime)) = (lease, tokio::runtime::Handle::try_current()) else { return };
    runtime.spawn(async move {
        let id = lease.id();
        if let Err(error) = lease.revoke().await {
            tracing::debug!(%error, lease = id, "a lease was not revoked; it ends by itself");
        }
    });
}

fn lease_is_gone() -> Error {
    Refusal::LeaseNotFound.into()
}

fn no_answer(result: &TxnResult) -> Error {
    Error::OutcomeUnknown(format!("the store answered something else than was asked: {result:?}"))
}

impl Held {
    /// Joins the queue of `name` with a lease of its own, and waits until it is the first. `None` if `give_up` returned before, or if it
    /// may not wait and was not the first at once: then it has left the queue.
    pub(super) async fn stand(
        client: Arc<dyn Client>,
        name: &[u8],
        value: Bytes,
        ttl: Duration,
        may_wait: bool,
        give_up: impl Future<Output = ()>,
    ) -> Result<Option<Self>, Error> {
        let lease = KeptLease::grant_shared(client.clone(), ttl).await?;
        let place = Place::new(name, lease.id());
        let mut standing = Waiting { client, place, lease: Some(lease) };
        let taken = tokio::select! {
            taken = standing.take(value, may_wait) => taken?,
            () = give_up => None,
        };
        let Some(created) = taken else {
            if let Some(lease) = standing.lease.take() {
                lease.revoke().await?;
            }
            return Ok(None);
        };
        // The answer may have been long on its way.
        match standing.lease.take() {
            Some(lease) if !lease.is_lost() => Ok(Some(Self::keep(&standing, lease, created))),
            _ => Err(lease_is_gone()),
        }
    }

    fn keep(standing: &Waiting, lease: KeptLease, created: i64) -> Self {
        let (client, place) = (standing.client.clone(), standing.place.clone());
        let (told, lost) = watch::channel(false);
        let (asks, looked_at) = (client.clone(), place.clone());
        let ends = lease.when_lost();
        let keeper = tokio::spawn(async move {
            tokio::select! {
                () = ends => {}
                () = key_is_gone(&*asks, &looked_at, created) => {}
            }
            if !simulated::planted(Bug::LockNeverLost) {
                told.send_replace(true);
                return;
            }
            // Whoever holds it is never told.
            std::future::pending::<()>().await;
        });
        Self { client, place, created, lost, keeper: keeper.abort_handle(), lease: Some(lease) }
    }

    pub(super) fn key(&self) -> &Bytes {
        self.place.key()
    }

    pub(super) fn token(&self) -> i64 {
        self.created
    }

    pub(super) fn lease(&self) -> i64 {
        self.place.lease()
    }

    pub(super) fn is_held(&self) -> Compare {
        queue::is_created_at(self.key(), self.created)
    }

    pub(super) fn is_lost(&self) -> bool {
        *self.lost.borrow()
    }

    pub(super) async fn lost(&self) {
        // A keeper that has ended has told it.
        let _ = self.lost.clone().wait_for(|lost| *lost).await;
    }

    /// Gives the key another value, if it is still held.
    pub(super) async fn rewrite(&self, value: Bytes) -> Result<i64, Error> {
        let answer = self.client.txn(self.place.rewrite(self.created, value)).await?;
        if answer.value.succeeded { Ok(answer.header.revision) } else { Err(lease_is_gone()) }
    }

    /// Gives it back, and returns when the next one has it.
    pub(super) async fn release(mut self) -> Result<(), Error> {
        self.keeper.abort();
        match self.lease.take() {
            Some(lease) => lease.revoke().await,
            None => Ok(()),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.keeper.abort();
        give_back(self.lease.take());
    }
}

impl Waiting {
    fn is_lost(&self) -> bool {
        self.lease.as_ref().is_none_or(KeptLease::is_lost)
    }

    /// Joins, and waits if it may; when it is the first, the create revision of its key.
    async fn take(&self, value: Bytes, may_wait: bool) -> Result<Option<i64>, Error> {
        let Joined { created, is_first, .. } = self.join(value).await?;
        if is_first {
            return Ok(Some(created));
        }
        if !may_wait {
            return Ok(None);
        }
        self.wait(created).await?;
        Ok(Some(created))
    }

    /// Joins. What is of unknown outcome can be done once more: it finds then what it did.
    async fn join(&self, value: Bytes) -> Result<Joined, Error> {
        loop {
            let error = match self.client.txn(self.place.join(value.clone())).await {
                Ok(answer) => {
                    return self.place.joined(&answer.value).ok_or_else(|| no_answer(&answer.value));
                }
                Err(error) => error,
            };
            self.pause(error).await?;
        }
    }

    /// Waits until the key that was created at `created` is the first.
    async fn wait(&self, created: i64) -> Result<(), Error> {
        let mut has_waited = false;
        loop {
            let answer = match self.client.txn(self.place.look(created)).await {
                Ok(answer) => answer,
                Err(error) => {
                    self.pause(error).await?;
                    continue;
                }
            };
            let standing = self.place.standing(created, &answer.value);
            match standing.ok_or_else(|| no_answer(&answer.value))? {
                Standing::Gone => return Err(lease_is_gone()),
                Standing::First => return Ok(()),
                // The one before may have left the middle of the queue.
                Standing::Behind(_) if has_waited && simulated::planted(Bug::LockAfterAnyEnd) => {
                    return Ok(());
                }
                Standing::Behind(before) => self.change(before, answer.header.revision + 1).await?,
            }
            has_waited = true;
        }
    }

    /// Returns when the key before or the own one was deleted, or when it is not known whether it was.
    async fn change(&self, before: Bytes, from: i64) -> Result<(), Error> {
        let (mut before, mut own) =
            (ends(&*self.client, &before, from), ends(&*self.client, self.place.key(), from));
        let lost = self.lease.as_ref().map(KeptLease::when_lost);
        let lost = async {
            match lost {
                Some(lost) => lost.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = lost => Err(lease_is_gone()),
            () = next_end(&mut before) => Ok(()),
            () = next_end(&mut own) => Ok(()),
        }
    }

    /// After a call that failed: waits, unless trying again cannot help or the lease is gone.
    async fn pause(&self, error: Error) -> Result<(), Error> {
        let may_pass = error.is_retryable() || error.is_outcome_unknown();
        if !may_pass || self.is_lost() {
            return Err(if may_pass { lease_is_gone() } else { error });
        }
        tracing::debug!(%error, "a place in a queue is asked for again");
        tokio::time::sleep(RETRY).await;
        Ok(())
    }
}

/// Watches the end of a key.
fn ends(client: &dyn Client, key: &Bytes, start_revision: i64) -> Watcher {
    client.watch(Watch { key: key.clone(), start_revision, no_put: true, ..Watch::default() })
}

/// Returns at an end of the watched key, or when the watcher can tell no more.
async fn next_end(watcher: &mut Watcher) {
    while let Some(Ok(item)) = watcher.next().await {
        match item {
            Watched::Began(_) | Watched::Progress(_) => {}
            Watched::Compacted(_) => return,
            Watched::Events(events) => {
                if events.iter().any(|event| event.kind == EventKind::Delete) {
                    return;
                }
            }
        }
    }
}

/// Returns when the key is not the one that was created at `created` any more.
async fn key_is_gone(client: &dyn Client, place: &Place, created: i64) {
    loop {
        if let Ok(answer) = client.txn(place.look(created)).await {
            if place.standing(created, &answer.value) == Some(Standing::Gone) {
                return;
            }
            next_end(&mut ends(client, place.key(), answer.header.revision + 1)).await;
        } else {
            tokio::time::sleep(RETRY).await;
        }
    }
}
