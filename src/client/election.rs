//! Elections: one leads, the others wait, everybody can see who leads and what it says.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _};

use super::queue::Held;
use super::{Client, Consistency, EventKind, KeyValue, Watch, Watched, Watcher};
use crate::error::Error;
use crate::mvcc::command::Compare;
use crate::mvcc::queue;

/// Pause after a call that failed; the client has tried every endpoint by then.
const RETRY: Duration = Duration::from_millis(100);

/// Leadership, until it is resigned, dropped or lost. What [`super::Lock`] says of a lock holds for it, too; its keys are those of etcd's
/// elections.
///
/// ```
/// # async fn test() -> Result<(), setstone::Error> {
/// use std::time::Duration;
/// use setstone::client::Leadership;
///
/// let mut cluster = setstone::testing::TestCluster::start(1).await?;
/// let client = cluster.client();
/// let leads = Leadership::campaign(client.clone(), "scheduler", "10.0.0.7", Duration::from_secs(10)).await?;
/// let leader = Leadership::leader(&client, "scheduler").await?;
/// assert_eq!(&leader.unwrap().value[..], b"10.0.0.7");
/// leads.resign().await?;
/// # cluster.shutdown().await;
/// # Ok(())
/// # }
/// ```
#[must_use = "leadership that is dropped is given back"]
pub struct Leadership(Held);

impl fmt::Debug for Leadership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leadership")
            .field("key", self.key())
            .field("token", &self.token())
            .finish_non_exhaustive()
    }
}

impl Leadership {
    /// Waits until the caller leads. `value`: what everybody sees of it then. `ttl`: as [`super::Lock::acquire`].
    ///
    /// # Errors
    /// As [`super::Lock::acquire`].
    pub async fn campaign(
        client: impl Client + 'static,
        name: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        ttl: Duration,
    ) -> Result<Self, Error> {
        let leads = Self::campaign_unless(client, name, value, ttl, std::future::pending()).await?;
        leads.ok_or(Error::Stopped)
    }

    /// As [`Leadership::campaign`], unless `give_up` returns before: then it has left the queue, and there is none.
    ///
    /// # Errors
    /// As [`Leadership::campaign`].
    pub async fn campaign_unless(
        client: impl Client + 'static,
        name: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        ttl: Duration,
        give_up: impl Future<Output = ()>,
    ) -> Result<Option<Self>, Error> {
        let value = Bytes::copy_from_slice(value.as_ref());
        let held = Held::stand(Arc::new(client), name.as_ref(), value, ttl, true, give_up);
        Ok(held.await?.map(Self))
    }

    /// The leader's key.
    pub fn key(&self) -> &Bytes {
        self.0.key()
    }

    /// The lease that leadership hangs on, which is kept alive.
    pub fn lease(&self) -> i64 {
        self.0.lease()
    }

    /// The fencing token: each leader's is higher than those of all before. It is the create revision of the key.
    pub fn token(&self) -> i64 {
        self.0.token()
    }

    /// The condition that the caller leads, for a transaction that must not run otherwise.
    pub fn is_held(&self) -> Compare {
        self.0.is_held()
    }

    /// Whether it is lost, as [`Leadership::lost`] says.
    pub fn is_lost(&self) -> bool {
        self.0.is_lost()
    }

    /// Returns when leadership is lost, or may be: its lease ended or was not kept alive in time, or somebody deleted the key.
    pub async fn lost(&self) {
        self.0.lost().await;
    }

    /// Says something else to everybody; returns the revision.
    ///
    /// # Errors
    /// [`crate::mvcc::command::Refusal::LeaseNotFound`] if the caller leads no more; else as [`Client::txn`].
    pub async fn proclaim(&self, value: impl AsRef<[u8]>) -> Result<i64, Error> {
        self.0.rewrite(Bytes::copy_from_slice(value.as_ref())).await
    }

    /// Ends leadership, and waits until the cluster has it.
    ///
    /// # Errors
    /// As [`super::Lock::unlock`].
    pub async fn resign(self) -> Result<(), Error> {
        self.0.release().await
    }

    /// Who leads; `None`: nobody.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn leader(client: &dyn Client, name: impl AsRef<[u8]>) -> Result<Option<KeyValue>, Error> {
        let found = client.get(queue::first(name.as_ref()), Consistency::Linearizable).await?;
        Ok(queue::holder(found.value.kvs))
    }

    /// Follows who leads and what they say. Must be called inside a tokio runtime.
    pub fn observe(client: impl Client + 'static, name: impl AsRef<[u8]>) -> Leaders {
        let observing = Observing {
            client: Arc::new(client),
            name: Bytes::copy_from_slice(name.as_ref()),
            seen: VecDeque::new(),
            watching: Watching::Nobody,
            has_ended: false,
        };
        let items = futures::stream::unfold(observing, |mut observing| async move {
            if observing.has_ended {
                return None;
            }
            let item = observing.next().await;
            observing.has_ended = item.is_err();
            Some((item, observing))
        });
        Leaders(items.boxed())
    }
}

/// The leaders of an election and their values, as they come: first the one that leads now, then every value of it, then the next leader.
/// An error is the last item. While nobody leads, nothing comes.
pub struct Leaders(BoxStream<'static, Result<KeyValue, Error>>);

impl Leaders {
    /// What comes next.
    pub async fn next(&mut self) -> Option<Result<KeyValue, Error>> {
        self.0.next().await
    }
}

impl Stream for Leaders {
    type Item = Result<KeyValue, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(cx)
    }
}

impl fmt::Debug for Leaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leaders").finish_non_exhaustive()
    }
}

struct Observing {
    client: Arc<dyn Client>,
    name: Bytes,
    seen: VecDeque<KeyValue>,
    watching: Watching,
    has_ended: bool,
}

/// What is watched.
enum Watching {
    /// Who leads has to be looked up.
    Nobody,
    /// The queue, because it was empty.
    Queue(Watcher),
    /// The leader's key.
    Leader(Watcher),
}

impl Observing {
    async fn next(&mut self) -> Result<KeyValue, Error> {
        loop {
            if let Some(kv) = self.seen.pop_front() {
                return Ok(kv);
            }
            let item = match &mut self.watching {
                Watching::Nobody => {
                    self.look().await?;
                    continue;
                }
                Watching::Queue(watcher) | Watching::Leader(watcher) => watcher.next().await,
            };
            match item {
                Some(Ok(Watched::Began(_) | Watched::Progress(_))) => {}
                Some(Ok(Watched::Events(events))) => {
                    for event in events {
                        if !self.take(event.kind, event.kv) {
                            break;
                        }
                    }
                }
                // What it wants next is compacted: it is looked up again.
                Some(Ok(Watched::Compacted(_))) | None => self.watching = Watching::Nobody,
                Some(Err(error)) => return Err(error),
            }
        }
    }

    async fn look(&mut self) -> Result<(), Error> {
        let answer = match self.client.get(queue::first(&self.name), Consistency::Linearizable).await {
            Ok(answer) => answer,
            Err(error) if error.is_retryable() => {
                tokio::time::sleep(RETRY).await;
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let start_revision = answer.header.revision + 1;
        if let Some(kv) = queue::holder(answer.value.kvs) {
            self.follow(kv, start_revision);
        } else {
            let (key, range_end) = queue::all(&self.name);
            let watch = Watch { key, range_end, start_revision, no_delete: true, ..Watch::default() };
            self.watching = Watching::Queue(self.client.watch(watch));
        }
        Ok(())
    }

    fn follow(&mut self, kv: KeyValue, start_revision: i64) {
        let watch = Watch { key: kv.key.clone(), start_revision, ..Watch::default() };
        self.watching = Watching::Leader(self.client.watch(watch));
        self.seen.push_back(kv);
    }

    /// False if the watcher is another one from here on, and the rest is not what it would tell.
    fn take(&mut self, kind: EventKind, kv: KeyValue) -> bool {
        match (&self.watching, kind) {
            (Watching::Queue(_), EventKind::Put) => {
                // The first that came leads; what came with it, its own watcher tells.
                let next = kv.mod_revision + 1;
                self.follow(kv, next);
                return false;
            }
            (Watching::Leader(_), EventKind::Put) => self.seen.push_back(kv),
            (Watching::Leader(_), EventKind::Delete) => {
                self.watching = Watching::Nobody;
                return false;
            }
            (Watching::Queue(_), EventKind::Delete) | (Watching::Nobody, _) => {}
        }
        true
    }
}
