//! A lock that one holds at a time, wherever in the cluster.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::Client;
use super::queue::Held;
use crate::error::Error;
use crate::mvcc::command::Compare;

/// A lock that is held, until it is unlocked, dropped or lost.
///
/// It hangs on a lease that is kept alive while it is held. A holder that hangs, is cut off or stopped for longer than the lease lives has
/// lost it, and may not know yet: watch [`Lock::lost`], and guard what must not be done twice with [`Lock::is_held`] (a condition for a
/// transaction in the same cluster) or [`Lock::token`] (for anything outside that refuses tokens lower than one that it has seen).
///
/// Whoever waits gets it in the order in which they asked. The keys are those of etcd's locks, so `etcdctl lock` and etcd's clients wait
/// for the same locks.
///
/// ```
/// # async fn test() -> Result<(), setstone::Error> {
/// use std::time::Duration;
/// use setstone::client::Lock;
///
/// let mut cluster = setstone::testing::TestCluster::start(1).await?;
/// let lock = Lock::acquire(cluster.client(), "migrations", Duration::from_secs(10)).await?;
/// tokio::select! {
///     () = lock.lost() => println!("somebody else may hold it now"),
///     () = async { /* what only one may do */ } => lock.unlock().await?,
/// }
/// # cluster.shutdown().await;
/// # Ok(())
/// # }
/// ```
#[must_use = "a lock that is dropped is given back"]
pub struct Lock(Held);

impl std::fmt::Debug for Lock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lock").field("key", self.key()).field("token", &self.token()).finish_non_exhaustive()
    }
}

impl Lock {
    /// Waits until the lock is held. `ttl`: how long it stays held when this program is gone; rounded up to seconds, and the cluster may
    /// raise it. When the future is dropped, it waits no more. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// As [`Client::grant`] and [`Client::txn`]; [`crate::mvcc::command::Refusal::LeaseNotFound`] if the cluster could not be reached for
    /// so long that the place in the queue was lost.
    pub async fn acquire(
        client: impl Client + 'static,
        name: impl AsRef<[u8]>,
        ttl: Duration,
    ) -> Result<Self, Error> {
        let held = Self::acquire_unless(client, name, ttl, std::future::pending()).await?;
        held.ok_or(Error::Stopped)
    }

    /// As [`Lock::acquire`], unless `give_up` returns before: then it has left the queue, and there is none.
    ///
    /// # Errors
    /// As [`Lock::acquire`].
    pub async fn acquire_unless(
        client: impl Client + 'static,
        name: impl AsRef<[u8]>,
        ttl: Duration,
        give_up: impl Future<Output = ()>,
    ) -> Result<Option<Self>, Error> {
        let held = Held::stand(Arc::new(client), name.as_ref(), Bytes::new(), ttl, true, give_up);
        Ok(held.await?.map(Self))
    }

    /// Takes the lock if nobody holds it or waits for it.
    ///
    /// # Errors
    /// As [`Lock::acquire`].
    pub async fn try_acquire(
        client: impl Client + 'static,
        name: impl AsRef<[u8]>,
        ttl: Duration,
    ) -> Result<Option<Self>, Error> {
        let never = std::future::pending();
        let held = Held::stand(Arc::new(client), name.as_ref(), Bytes::new(), ttl, false, never);
        Ok(held.await?.map(Self))
    }

    /// The key that is there as long as the lock is held.
    pub fn key(&self) -> &Bytes {
        self.0.key()
    }

    /// The lease that the lock hangs on, which is kept alive.
    pub fn lease(&self) -> i64 {
        self.0.lease()
    }

    /// The fencing token: each holder's is higher than those of all before. It is the create revision of the key.
    pub fn token(&self) -> i64 {
        self.0.token()
    }

    /// The condition that the lock is held, for a transaction that must not run otherwise.
    pub fn is_held(&self) -> Compare {
        self.0.is_held()
    }

    /// Whether it is lost, as [`Lock::lost`] says.
    pub fn is_lost(&self) -> bool {
        self.0.is_lost()
    }

    /// Returns when the lock is lost, or may be: its lease ended or was not kept alive in time, or somebody deleted the key.
    pub async fn lost(&self) {
        self.0.lost().await;
    }

    /// Gives the lock back, and waits until the cluster has it.
    ///
    /// # Errors
    /// As [`Client::revoke`]. Not found: it was lost before. In any case it is given back when its lease ends.
    pub async fn unlock(self) -> Result<(), Error> {
        self.0.release().await
    }
}
