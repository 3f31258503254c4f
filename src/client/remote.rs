//! Many endpoints of one cluster: requests are spread over them, and go to another one when one fails.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::failure::{self, Kind};
use super::{
    Alarm, Answer, Call, Client, Connection, Consistency, Endpoint, EventInfo, LeaseGranted, LeaseLife,
    MemberInfo, Options, Snapshot, Status, StoreHash, Watch, Watcher, retry, watch,
};
use crate::env::Random;
use crate::env::random::SystemRandom;
use crate::error::Error;
use crate::identity::NodeId;
use crate::limits;
use crate::mvcc::KeyValue;
use crate::mvcc::command::{Compact, DeleteRange, Deleted, Put, Range, RangeResult, Txn, TxnResult};

/// A cluster at a list of endpoints. Cheap to clone; clones share the connections.
#[derive(Clone)]
pub struct Remote(Arc<Shared>);

struct Shared {
    connections: Vec<Connection>,
    /// Until when others are asked first, by endpoint.
    blamed_until: Mutex<Vec<Option<Instant>>>,
    /// Where the next request starts to look for an endpoint.
    next: AtomicUsize,
    timeout: Duration,
    random: Arc<dyn Random>,
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").field("connections", &self.0.connections).finish_non_exhaustive()
    }
}

impl Remote {
    /// A client of the cluster at `endpoints` (as [`Endpoint::list`] reads them). Connects when it must; only a wrong
    /// text is an error here. Must be called inside a tokio runtime.
    pub fn new(endpoints: &str, options: &Options) -> Result<Self, Error> {
        let endpoints = Endpoint::list(endpoints).map_err(|error| Error::Invalid(error.to_string()))?;
        Self::with_random(endpoints, options, Arc::new(SystemRandom))
    }

    /// As [`Remote::new`], with the source of randomness for the first endpoint and for pauses.
    pub fn with_random(
        endpoints: Vec<Endpoint>,
        options: &Options,
        random: Arc<dyn Random>,
    ) -> Result<Self, Error> {
        if endpoints.is_empty() || endpoints.len() > limits::CALLER_ENDPOINTS {
            let most = limits::CALLER_ENDPOINTS;
            return Err(Error::Invalid(format!("{} endpoints; 1 to {most} are possible", endpoints.len())));
        }
        let start = random.next_u64() as usize % endpoints.len();
        let shared = Shared {
            blamed_until: Mutex::new(vec![None; endpoints.len()]),
            connections: endpoints.into_iter().map(|endpoint| Connection::new(endpoint, options)).collect(),
            next: AtomicUsize::new(start),
            timeout: options.timeout,
            random,
        };
        Ok(Self(Arc::new(shared)))
    }

    /// A client of one endpoint.
    pub(super) fn of(connection: Connection, timeout: Duration) -> Self {
        Self(Arc::new(Shared {
            connections: vec![connection],
            blamed_until: Mutex::new(vec![None]),
            next: AtomicUsize::new(0),
            timeout,
            random: Arc::new(SystemRandom),
        }))
    }

    /// One connection per endpoint, in the order of the list.
    pub fn connections(&self) -> &[Connection] {
        &self.0.connections
    }

    /// Runs `call` until it succeeds, fails for good, or the deadline passes.
    async fn run<T, F>(
        &self,
        kind: Kind,
        call: impl Fn(Connection, Duration) -> F,
    ) -> Result<Answer<T>, Error>
    where
        F: Future<Output = Result<Answer<T>, Error>>,
    {
        let deadline = Instant::now() + self.0.timeout;
        let mut attempt = 0;
        let mut last = failure::timed_out(kind);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(last);
            }
            let Some((index, connection)) = self.choose() else { return Err(last) };
            let error = match call(connection, self.attempt_limit(kind, left)).await {
                Ok(answer) => {
                    self.blame(index, None);
                    return Ok(answer);
                }
                Err(error) => error,
            };
            let blamed = retry::blames_endpoint(&error).then(|| Instant::now() + limits::CALLER_BLAME);
            self.blame(index, blamed);
            if !retry::is_safe(&error, kind) {
                return Err(error);
            }
            attempt += 1;
            let pause = retry::pause(attempt, self.0.connections.len(), self.0.random.next_u64());
            tracing::debug!(%error, attempt, ?pause, "a request is sent again");
            last = error;
            tokio::time::sleep(pause.min(deadline.saturating_duration_since(Instant::now()))).await;
        }
    }

    /// A read may be tried elsewhere when a member is silent, so one attempt does not get all the time. A write may not.
    fn attempt_limit(&self, kind: Kind, left: Duration) -> Duration {
        match kind {
            Kind::Read if self.0.connections.len() > 1 => {
                left.min((left / 2).max(limits::CALLER_ATTEMPT_MIN))
            }
            _ => left,
        }
    }

    /// Time for one call, repetitions included.
    pub(super) fn timeout(&self) -> Duration {
        self.0.timeout
    }

    /// Time to wait before an attempt.
    pub(super) fn pause(&self, attempt: u32) -> Duration {
        retry::pause(attempt, self.0.connections.len(), self.0.random.next_u64())
    }

    pub(super) fn choose(&self) -> Option<(usize, Connection)> {
        let now = Instant::now();
        let start = self.0.next.fetch_add(1, Ordering::Relaxed);
        let blamed: Vec<bool> =
            self.0.blamed_until.lock().iter().map(|until| until.is_some_and(|until| until > now)).collect();
        let index = retry::choose(start % blamed.len().max(1), &blamed);
        self.0.connections.get(index).map(|connection| (index, connection.clone()))
    }

    pub(super) fn blame(&self, index: usize, until: Option<Instant>) {
        if let Some(slot) = self.0.blamed_until.lock().get_mut(index) {
            *slot = until;
        }
    }
}

impl Remote {
    /// Ends the membership of one; returns who is left. Where the membership follows a desired size that has room for it, its pod
    /// joins again, as new. Tried once more, it is answered as if there was none.
    pub fn remove_member(&self, id: NodeId) -> Call<'_, Vec<MemberInfo>> {
        Box::pin(self.run(Kind::Write, move |on, limit| on.remove_member_within(id, limit)))
    }

    /// Lets a member vote that does not yet; returns all members.
    pub fn promote_member(&self, id: NodeId) -> Call<'_, Vec<MemberInfo>> {
        Box::pin(self.run(Kind::Write, move |on, limit| on.promote_member_within(id, limit)))
    }

    /// Hands leadership to a voter.
    pub async fn move_leader(&self, to: NodeId) -> Result<Answer<()>, Error> {
        let mut answer = Err(Error::NoLeader);
        for connection in self.connections() {
            answer = connection.move_leader(to).await;
            // Only the leader takes it.
            let elsewhere = matches!(&answer, Err(Error::Remote { text, .. }) if text.ends_with("not leader"))
                || matches!(&answer, Err(error) if !matches!(error, Error::Remote { .. }));
            if !elsewhere {
                break;
            }
        }
        answer
    }
}

impl Client for Remote {
    fn get(&self, range: Range, consistency: Consistency) -> Call<'_, RangeResult> {
        Box::pin(self.run(Kind::Read, move |on, limit| on.get_within(range.clone(), consistency, limit)))
    }
    fn put(&self, put: Put) -> Call<'_, Option<KeyValue>> {
        Box::pin(self.run(Kind::Write, move |on, limit| on.put_within(put.clone(), limit)))
    }
    fn delete(&self, delete: DeleteRange) -> Call<'_, Deleted> {
        Box::pin(self.run(Kind::Write, move |on, limit| on.delete_within(delete.clone(), limit)))
    }
    fn txn(&self, txn: Txn) -> Call<'_, TxnResult> {
        Box::pin(self.run(Kind::Write, move |on, limit| on.txn_within(txn.clone(), limit)))
    }
    fn watch(&self, watch: Watch) -> Watcher {
        watch::remote(self.clone(), watch)
    }
    fn compact(&self, compact: Compact) -> Call<'_, ()> {
        Box::pin(self.run(Kind::Write, move |on, limit| on.compact_within(compact, limit)))
    }
    fn grant(&self, id: i64, ttl: i64) -> Call<'_, LeaseGranted> {
        Box::pin(self.run(Kind::Write, move |on, limit| on.grant_within(id, ttl, limit)))
    }
    fn revoke(&self, id: i64) -> Call<'_, ()> {
        Box::pin(self.run(Kind::Write, move |on, limit| on.revoke_within(id, limit)))
    }
    // Renewing twice is the same as once.
    fn keep_alive(&self, id: i64) -> Call<'_, i64> {
        Box::pin(self.run(Kind::Read, move |on, limit| on.keep_alive_within(id, limit)))
    }
    fn time_to_live(&self, id: i64, keys: bool) -> Call<'_, LeaseLife> {
        Box::pin(self.run(Kind::Read, move |on, limit| on.time_to_live_within(id, keys, limit)))
    }
    fn leases(&self) -> Call<'_, Vec<i64>> {
        Box::pin(self.run(Kind::Read, super::connection::Connection::leases_within))
    }
    fn status(&self) -> Call<'_, Status> {
        Box::pin(self.run(Kind::Read, super::connection::Connection::status_within))
    }
    fn members(&self) -> Call<'_, Vec<MemberInfo>> {
        Box::pin(self.run(Kind::Read, super::connection::Connection::members_within))
    }
    fn resize(&self, size: u16) -> Call<'_, ()> {
        Box::pin(self.run(Kind::Write, move |on, limit| on.resize_within(size, limit)))
    }
    fn events(&self) -> Call<'_, Vec<EventInfo>> {
        Box::pin(self.run(Kind::Read, super::connection::Connection::events_within))
    }
    fn hash(&self, revision: i64) -> Call<'_, StoreHash> {
        Box::pin(self.run(Kind::Read, move |on, limit| on.hash_within(revision, limit)))
    }
    fn alarms(&self) -> Call<'_, Vec<Alarm>> {
        Box::pin(self.run(Kind::Read, super::connection::Connection::alarms_within))
    }
    fn set_alarm(&self, alarm: Alarm, raised: bool) -> Call<'_, Vec<Alarm>> {
        Box::pin(self.run(Kind::Read, move |on, limit| on.set_alarm_within(alarm, raised, limit)))
    }
    fn defragment(&self) -> Call<'_, ()> {
        Box::pin(self.run(Kind::Write, super::connection::Connection::defragment_within))
    }
    fn snapshot(&self) -> Call<'_, Snapshot> {
        Box::pin(self.run(Kind::Read, super::connection::Connection::snapshot_within))
    }
}
