//! The store of a node whose consensus may not run yet: until then it refuses, and says why.
//!
//! A process that was killed may have shown more than its disk knows to be committed. So that no read goes back behind one before,
//! local reads wait until this process has seen once what was acknowledged before it; etcd answers no client before that either.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::RwLock;
use tokio::sync::watch;

use super::access::AccessState;
use super::backup::Backup;
use super::handle::Consensus;
use super::lease::LeaseQuestion;
use super::store::{DiskUse, EventInfo, MemberInfo, Position, Store, StoreHash};
use crate::error::Error;
use crate::mvcc::State;
use crate::mvcc::alarm::Alarm;
use crate::mvcc::auth::Identity;
use crate::mvcc::command::{Lifetime, Range, RangeResult, Reply, Request, Txn, TxnResult};

/// Stands before consensus. Cheap to clone.
#[derive(Clone, Default)]
pub struct Gate {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    consensus: OnceLock<Consensus>,
    is_open: watch::Sender<bool>,
    /// A read index was applied in the life of this process.
    caught_up: AtomicBool,
    why_closed: RwLock<String>,
}

impl Gate {
    /// A closed gate.
    pub fn new(why: &str) -> Self {
        let gate = Self::default();
        gate.explain(why);
        gate
    }

    /// Says why it is closed.
    pub fn explain(&self, why: &str) {
        why.clone_into(&mut self.inner.why_closed.write());
    }

    /// Opens it, once.
    pub fn open(&self, consensus: Consensus) {
        // Consensus starts once in a process.
        let _ = self.inner.consensus.set(consensus);
        self.inner.is_open.send_replace(true);
    }

    /// Consensus, if it runs.
    pub fn consensus(&self) -> Option<&Consensus> {
        self.inner.consensus.get()
    }

    fn get(&self) -> Result<&Consensus, Error> {
        self.consensus().ok_or_else(|| Error::NotServing(self.inner.why_closed.read().clone()))
    }

    /// Consensus, once its state is not older than what an earlier process showed.
    async fn caught_up(&self) -> Result<&Consensus, Error> {
        let consensus = self.get()?;
        if !self.inner.caught_up.load(Ordering::Relaxed) {
            consensus.barrier().await?;
            self.inner.caught_up.store(true, Ordering::Relaxed);
        }
        Ok(consensus)
    }
}

impl Store for Gate {
    fn propose(&self, request: Request) -> BoxFuture<'_, Result<(Reply, u64), Error>> {
        match self.get() {
            Ok(consensus) => consensus.propose(request),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }

    fn grant(&self, by: Identity, id: i64, ttl: i64) -> BoxFuture<'_, Result<(Reply, u64), Error>> {
        match self.get() {
            Ok(consensus) => consensus.grant(by, id, ttl),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }

    fn lifetime(&self, question: LeaseQuestion) -> BoxFuture<'_, Result<Lifetime, Error>> {
        match self.get() {
            Ok(consensus) => consensus.lifetime(question),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }

    fn leases(&self) -> Vec<i64> {
        self.get().map_or_else(|_| Vec::new(), Store::leases)
    }

    fn lease_keys(&self, id: i64) -> Vec<Bytes> {
        self.get().map_or_else(|_| Vec::new(), |consensus| consensus.lease_keys(id))
    }

    fn barrier(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            self.get()?.barrier().await?;
            self.inner.caught_up.store(true, Ordering::Relaxed);
            Ok(())
        })
    }

    fn range(&self, range: Range) -> BoxFuture<'_, Result<(RangeResult, i64), Error>> {
        Box::pin(async move { self.caught_up().await?.range(range).await })
    }

    fn range_part(&self, range: Range, bytes: usize) -> BoxFuture<'_, Result<(RangeResult, i64), Error>> {
        Box::pin(async move { self.caught_up().await?.range_part(range, bytes).await })
    }

    fn read_txn(&self, txn: Txn) -> BoxFuture<'_, Result<Option<(TxnResult, i64)>, Error>> {
        Box::pin(async move { self.caught_up().await?.read_txn(txn).await })
    }

    fn hash(&self, revision: i64) -> BoxFuture<'_, Result<StoreHash, Error>> {
        match self.get() {
            Ok(consensus) => consensus.hash(revision),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }

    fn hash_all(&self) -> BoxFuture<'_, Result<(u32, i64), Error>> {
        match self.get() {
            Ok(consensus) => consensus.hash_all(),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }

    fn alarms(&self) -> Vec<Alarm> {
        self.get().map_or_else(|_| Vec::new(), Store::alarms)
    }

    fn defragment(&self) -> BoxFuture<'_, Result<(), Error>> {
        match self.get() {
            Ok(consensus) => consensus.defragment(),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }

    fn backup(&self) -> BoxFuture<'_, Result<Backup, Error>> {
        Box::pin(async move { self.caught_up().await?.backup().await })
    }

    fn opened(&self) -> BoxFuture<'_, ()> {
        if self.consensus().is_some() {
            return Box::pin(std::future::ready(()));
        }
        let mut is_open = self.inner.is_open.subscribe();
        Box::pin(async move {
            // The sender lives as long as the gate.
            let _ = is_open.wait_for(|open| *open).await;
        })
    }

    fn access(&self) -> Option<&AccessState> {
        self.consensus().and_then(Store::access)
    }

    fn look(&self, look: &mut dyn FnMut(&State)) {
        if let Some(consensus) = self.consensus() {
            consensus.look(look);
        }
    }

    fn applied(&self, index: u64) -> BoxFuture<'_, ()> {
        match self.consensus() {
            Some(consensus) => consensus.applied(index),
            None => Box::pin(std::future::pending()),
        }
    }

    fn position(&self) -> Position {
        self.get().map_or_else(
            |error| Position { failure: Some(error.to_string()), ..Position::default() },
            Store::position,
        )
    }

    fn is_held_back(&self) -> bool {
        self.get().is_ok_and(Store::is_held_back)
    }

    fn members(&self) -> Vec<MemberInfo> {
        self.get().map_or_else(|_| Vec::new(), Store::members)
    }

    fn events(&self) -> Vec<EventInfo> {
        self.get().map_or_else(|_| Vec::new(), Store::events)
    }

    fn disk_use(&self) -> DiskUse {
        self.get().map_or_else(|_| DiskUse::default(), Store::disk_use)
    }
}
