//! A lease that keeps itself alive, for locks, registrations, elections: whatever must not outlast the program.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::Client;
use crate::env::simulated::{self, Bug};
use crate::error::Error;

/// First pause after a keep-alive that failed; the client has tried every endpoint by then.
const RETRY: Duration = Duration::from_millis(100);

/// A lease that is kept alive until it is dropped, revoked or lost. Keys are hung on it by writing them with its id.
///
/// Dropped, it is not revoked: its keys stay until its time is over, as they would if the program had died. [`KeptLease::revoke`]
/// ends it at once.
///
/// ```
/// # async fn test() -> Result<(), setstone::Error> {
/// use std::time::Duration;
/// use setstone::client::{Client, KeptLease, Put};
///
/// let mut cluster = setstone::testing::TestCluster::start(1).await?;
/// let client = cluster.client();
/// let lease = KeptLease::grant(client.clone(), Duration::from_secs(10)).await?;
/// let here = Put { key: "services/a".into(), value: "10.0.0.7".into(), lease: lease.id(), ..Put::default() };
/// client.put(here).await?;
/// tokio::select! {
///     () = lease.lost() => println!("nobody may believe any more that we are here"),
///     () = async { /* serve */ } => lease.revoke().await?,
/// }
/// # cluster.shutdown().await;
/// # Ok(())
/// # }
/// ```
#[must_use = "a lease that is dropped is kept alive no more"]
pub struct KeptLease {
    id: i64,
    ttl: Duration,
    client: Arc<dyn Client>,
    lost: watch::Receiver<bool>,
    keeper: AbortHandle,
}

impl std::fmt::Debug for KeptLease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeptLease")
            .field("id", &self.id)
            .field("ttl", &self.ttl)
            .field("lost", &self.is_lost())
            .finish_non_exhaustive()
    }
}

impl KeptLease {
    /// Grants a lease and keeps it alive. `ttl` is rounded up to seconds; the cluster may raise it. Must be called inside a tokio
    /// runtime.
    ///
    /// # Errors
    /// As [`Client::grant`].
    pub async fn grant(client: impl Client + 'static, ttl: Duration) -> Result<Self, Error> {
        Self::grant_shared(Arc::new(client), ttl).await
    }

    /// As [`KeptLease::grant`], of a client that is shared already.
    pub(super) async fn grant_shared(client: Arc<dyn Client>, ttl: Duration) -> Result<Self, Error> {
        let asked = Instant::now();
        let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
        let granted = client.grant(0, i64::try_from(seconds).unwrap_or(i64::MAX)).await?.value;
        Ok(Self::keep(client, granted.id, granted.ttl, asked))
    }

    /// Keeps a lease alive that somebody else granted.
    ///
    /// # Errors
    /// [`Error::Refused`] with [`crate::mvcc::command::Refusal::LeaseNotFound`] if it is not there; else as [`Client::keep_alive`].
    pub async fn adopt(client: impl Client + 'static, id: i64) -> Result<Self, Error> {
        let asked = Instant::now();
        match client.keep_alive(id).await?.value {
            0 => Err(crate::mvcc::command::Refusal::LeaseNotFound.into()),
            ttl => Ok(Self::keep(Arc::new(client), id, ttl, asked)),
        }
    }

    /// `asked`: when the last answer was asked for. Its time is counted from then, so that it is given up before the cluster ends it.
    fn keep(client: Arc<dyn Client>, id: i64, ttl: i64, asked: Instant) -> Self {
        let ttl = seconds(ttl);
        let (told, lost) = watch::channel(false);
        let renewed = client.clone();
        let keeper = tokio::spawn(async move {
            renew(&*renewed, id, ttl, asked).await;
            if simulated::planted(Bug::LockNeverLost) {
                std::future::pending::<()>().await;
            }
            told.send_replace(true);
        });
        Self { id, ttl, client, lost, keeper: keeper.abort_handle() }
    }

    /// Its id, to write keys with.
    pub fn id(&self) -> i64 {
        self.id
    }

    /// Its time to live, as it was granted.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// Whether it is lost, as [`KeptLease::lost`] says.
    pub fn is_lost(&self) -> bool {
        *self.lost.borrow()
    }

    /// Returns when the lease is gone, or when it may be: no keep-alive was answered for as long as it lives. What hangs on it may be
    /// somebody else's from then on.
    pub async fn lost(&self) {
        // A keeper that has ended has told it.
        let _ = self.lost.clone().wait_for(|lost| *lost).await;
    }

    /// As [`KeptLease::lost`], for whoever may outlive it: it is lost, too, when it is dropped or revoked.
    pub(super) fn when_lost(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut lost = self.lost.clone();
        async move {
            let _ = lost.wait_for(|lost| *lost).await;
        }
    }

    /// Ends it, with the keys that hang on it.
    ///
    /// # Errors
    /// As [`Client::revoke`].
    pub async fn revoke(self) -> Result<(), Error> {
        self.keeper.abort();
        self.client.revoke(self.id).await.map(drop)
    }
}

impl Drop for KeptLease {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

fn seconds(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// Keeps a lease alive as long as that goes.
async fn renew(client: &dyn Client, id: i64, mut ttl: Duration, mut asked: Instant) {
    loop {
        let over = asked + ttl;
        tokio::time::sleep_until(asked + ttl / 3).await;
        loop {
            let asks = Instant::now();
            match tokio::time::timeout_at(over, client.keep_alive(id)).await {
                Ok(Ok(answer)) if answer.value > 0 => {
                    (asked, ttl) = (asks, seconds(answer.value));
                    break;
                }
                Ok(Ok(_)) | Err(_) => return,
                Ok(Err(error)) => {
                    tracing::debug!(%error, lease = id, "a lease was not kept alive; it is tried again");
                    tokio::time::sleep_until(over.min(asks + RETRY)).await;
                }
            }
            if Instant::now() >= over {
                return;
            }
        }
    }
}
