//! What a member does with requests: proposes them here or at the leader, reads behind a barrier, and answers for itself.
//!
//! A request is sent again only while it is certain that nothing was proposed; what is not certain is answered as of unknown
//! outcome, never tried twice.

use bytes::Bytes;
use futures::future::BoxFuture;
use openraft::async_runtime::watch::WatchReceiver;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::access::AccessState;
use super::backup::Backup;
use super::codec;
use super::forward::{Ask, Forwarded, Waiting};
use super::handle::Consensus;
use super::lease::LeaseQuestion;
use super::proposer::{Pending, ReplyTo};
use super::room::Growth;
use super::state_machine;
use super::store::{DiskUse, EventInfo, MemberInfo, Position, Store, StoreHash};
use super::wire::Applied;
use crate::env::simulated::{self, Bug};
use crate::error::Error;
use crate::identity::{FIRST_ADDED, NodeId};
use crate::limits;
use crate::mvcc::State;
use crate::mvcc::alarm::Alarm;
use crate::mvcc::auth::Identity;
use crate::mvcc::cluster::ClusterEvent;
use crate::mvcc::command::{Command, Lifetime, Range, RangeResult, Reply, Request, Txn, TxnResult};

impl Consensus {
    /// Proposes, until it is applied or the deadline passes; tells where it was applied.
    pub(crate) async fn propose_until(&self, request: Request, deadline: Instant) -> Result<Applied, Error> {
        let growth = Growth::of(&request.command);
        let request = codec::encode_request(request);
        if request.len() > limits::RECEIVED_MESSAGE_BYTES {
            return Err(Error::Invalid(format!("the request has {} bytes", request.len())));
        }
        loop {
            let leader = self.leader();
            let attempt = match leader {
                Some(leader) => self.propose_at(leader, request.clone(), growth, deadline).await,
                None => Err(Error::NoLeader),
            };
            match attempt {
                Err(Error::NoLeader) => {}
                result => return result,
            }
            // Nothing was proposed. Whoever leads next is asked next.
            self.wait_for_another_leader(leader, deadline, Error::NoLeader).await?;
        }
    }

    /// Waits until another leads than `leader`, or until it may be worth asking the same one again.
    ///
    /// # Errors
    /// `late` after the deadline; why there will be no leader here any more.
    pub(super) async fn wait_for_another_leader(
        &self,
        leader: Option<NodeId>,
        deadline: Instant,
        late: Error,
    ) -> Result<(), Error> {
        let once = Instant::now() + limits::HEARTBEAT;
        let until = if leader.is_some() { once.min(deadline) } else { deadline };
        let runs = tokio::select! {
            changed = tokio::time::timeout_at(until, self.another_leads_than(leader)) => changed.unwrap_or(true),
            () = self.inner.cancel.cancelled() => false,
        };
        match self.failure() {
            Some(reason) => Err(Error::Storage(reason)),
            None if !runs => Err(Error::Stopped),
            None if Instant::now() >= deadline => Err(late),
            None => Ok(()),
        }
    }

    /// One round, joined: the read index.
    async fn try_read_index(&self, deadline: Instant) -> Result<u64, Error> {
        let (waiter, index) = oneshot::channel();
        self.join_read_round(waiter)?;
        tokio::time::timeout_at(deadline, index)
            .await
            .map_err(|_| Error::TimedOut)?
            .unwrap_or(Err(Error::Stopped))
    }

    /// The read index, from whoever leads before the deadline.
    async fn read_index_until(&self, deadline: Instant) -> Result<u64, Error> {
        loop {
            let leader = self.leader();
            let error = match self.try_read_index(deadline).await {
                Err(error @ (Error::NoLeader | Error::NotServing(_) | Error::TimedOut)) => error,
                result => return result,
            };
            // A read can always be tried again.
            self.wait_for_another_leader(leader, deadline, error).await?;
        }
    }

    async fn propose_at(
        &self,
        leader: NodeId,
        request: Bytes,
        growth: Growth,
        deadline: Instant,
    ) -> Result<Applied, Error> {
        if self.inner.cancel.is_cancelled() {
            return Err(Error::Stopped);
        }
        let held = self.inner.waiting.enter(request.len())?;
        let (reply, answer) = oneshot::channel();
        let reply = ReplyTo::caller(reply);
        let is_mine = leader == self.inner.mine.node;
        if is_mine {
            let pending = Pending { request, growth, reply, _held: held };
            self.inner.proposals.try_send(pending).map_err(|error| full_or_closed(&error))?;
        } else {
            let waiting = Waiting { ask: Ask::Propose(request, growth), reply, _held: held };
            let forwarded = Forwarded { leader, waiting };
            self.inner.forwards.try_send(forwarded).map_err(|error| full_or_closed(&error))?;
        }
        let applied = match tokio::time::timeout_at(deadline, answer).await {
            Ok(Ok(proposed)) => proposed?,
            Ok(Err(_)) => return Err(Error::OutcomeUnknown("the member stopped".into())),
            Err(_) => return Err(Error::OutcomeUnknown("the deadline passed before the answer came".into())),
        };
        if !is_mine {
            // The client may read here next, without a quorum, and must find what it wrote.
            let seen = state_machine::wait_applied(&self.inner.machine, applied.index);
            // The write is done in any case; a follower that lags does not make its outcome unknown.
            let _ = tokio::time::timeout_at(deadline, seen).await;
        }
        Ok(applied)
    }

    /// Refuses new work while apply is far behind commit, as etcd does.
    fn check_backlog(&self) -> Result<(), Error> {
        let applied = self.inner.machine.applied().map_or(0, |id| id.index);
        let metrics = self.inner.raft.metrics();
        let last = metrics.borrow_watched().last_log_index.unwrap_or(0);
        if last.saturating_sub(applied) > limits::APPLY_GAP_ENTRIES {
            return Err(Error::TooManyRequests);
        }
        Ok(())
    }
}

pub(super) fn full_or_closed<T>(error: &mpsc::error::TrySendError<T>) -> Error {
    match error {
        mpsc::error::TrySendError::Full(_) => Error::TooManyRequests,
        mpsc::error::TrySendError::Closed(_) => Error::Stopped,
    }
}

impl Store for Consensus {
    fn propose(&self, request: Request) -> BoxFuture<'_, Result<(Reply, u64), Error>> {
        Box::pin(async move {
            self.check_backlog()?;
            self.check_room(&request.command).await?;
            let deadline = Instant::now() + limits::REQUEST_TIMEOUT;
            let physical = match &request.command {
                Command::Compact(compact) if compact.physical => Some(compact.revision),
                _ => None,
            };
            let applied = self.propose_until(request, deadline).await?;
            let reply = applied.reply?;
            if let Some(revision) = physical {
                let forgotten = self.inner.machine.wait_compacted_on_disk(revision);
                tokio::time::timeout_at(deadline, forgotten).await.map_err(|_| {
                    Error::OutcomeUnknown("compacted, but the disk has not forgotten it in time".into())
                })?;
            }
            Ok((reply, applied.term))
        })
    }

    fn grant(&self, by: Identity, id: i64, ttl: i64) -> BoxFuture<'_, Result<(Reply, u64), Error>> {
        match self.grant_command(id, ttl) {
            Ok(command) => self.propose(Request::of(by, command)),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }

    fn lifetime(&self, question: LeaseQuestion) -> BoxFuture<'_, Result<Lifetime, Error>> {
        Box::pin(self.lease_lifetime(question))
    }

    fn leases(&self) -> Vec<i64> {
        self.inner.machine.with_state(|state| state.leases().iter().map(|(id, _)| id).collect())
    }

    fn lease_keys(&self, id: i64) -> Vec<Bytes> {
        let keys = |state: &State| {
            let lease = state.leases().get(id);
            lease.map(|lease| lease.keys().map(Bytes::copy_from_slice).collect()).unwrap_or_default()
        };
        self.inner.machine.with_state(keys)
    }

    fn barrier(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            if simulated::planted(Bug::NoReadIndex) {
                return Ok(());
            }
            let deadline = Instant::now() + limits::REQUEST_TIMEOUT;
            let index = self.read_index_until(deadline).await?;
            let applied = self.inner.machine.applied().is_some_and(|applied| applied.index >= index);
            if applied || simulated::planted(Bug::NoWaitForApply) {
                return Ok(());
            }
            tokio::time::timeout_at(deadline, state_machine::wait_applied(&self.inner.machine, index))
                .await
                .map_err(|_| Error::TimedOut)?
                .map_err(|error| Error::Storage(error.to_string()))
        })
    }

    fn range(&self, range: Range) -> BoxFuture<'_, Result<(RangeResult, i64), Error>> {
        Box::pin(async move { self.inner.machine.range(&range).await })
    }

    fn range_part(&self, range: Range, bytes: usize) -> BoxFuture<'_, Result<(RangeResult, i64), Error>> {
        Box::pin(async move { self.inner.machine.range_part(&range, bytes).await })
    }

    fn read_txn(&self, txn: Txn) -> BoxFuture<'_, Result<Option<(TxnResult, i64)>, Error>> {
        Box::pin(async move { self.inner.machine.read_txn(&txn) })
    }

    fn hash(&self, revision: i64) -> BoxFuture<'_, Result<StoreHash, Error>> {
        Box::pin(async move {
            let hash = self.inner.machine.hash(revision).await?;
            Ok(StoreHash {
                hash: hash.hash,
                compact_revision: hash.compact_revision,
                hash_revision: hash.hash_revision,
            })
        })
    }

    fn hash_all(&self) -> BoxFuture<'_, Result<(u32, i64), Error>> {
        Box::pin(self.hash_whole())
    }

    fn alarms(&self) -> Vec<Alarm> {
        self.inner.machine.alarms()
    }

    fn defragment(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(self.defragment_engine())
    }

    fn backup(&self) -> BoxFuture<'_, Result<Backup, Error>> {
        Box::pin(self.make_backup())
    }

    fn access(&self) -> Option<&AccessState> {
        Some(self.inner.machine.access())
    }

    fn look(&self, look: &mut dyn FnMut(&State)) {
        self.inner.machine.with_state(look);
    }

    fn applied(&self, index: u64) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if state_machine::wait_applied(&self.inner.machine, index).await.is_err() {
                std::future::pending::<()>().await;
            }
        })
    }

    fn position(&self) -> Position {
        let leader = self.leader().filter(|_| self.leader_is_alive());
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let is_learner = !metrics.membership_config.voter_ids().any(|id| id == self.inner.mine.node);
        let (revision, compacted, leases, lease_keys, is_held_back) =
            self.inner.machine.with_state(|state: &State| {
                let held_back = is_learner && state.cluster().is_held_back(self.inner.mine.node.ordinal());
                let leases = state.leases();
                (state.revision(), state.compacted(), leases.len(), leases.key_count(), held_back)
            });
        Position {
            cluster: self.inner.mine.cluster,
            member: self.inner.mine.node,
            leader,
            term: metrics.current_term,
            last_index: metrics.last_log_index.unwrap_or(0),
            committed_index: metrics.local_committed.map_or(0, |id| id.index),
            applied_index: self.inner.machine.applied().map_or(0, |id| id.index),
            revision,
            compacted,
            leases,
            lease_keys,
            is_learner,
            is_held_back,
            failure: metrics.running_state.as_ref().err().map(ToString::to_string),
        }
    }

    fn is_held_back(&self) -> bool {
        self.inner.mine.node.ordinal() >= FIRST_ADDED && self.position().is_held_back
    }

    fn members(&self) -> Vec<MemberInfo> {
        let membership = self.inner.machine.membership();
        let membership = membership.membership();
        let started = membership.nodes().map(|(id, node)| MemberInfo {
            id: *id,
            name: node.name.clone(),
            peer_urls: vec![self.inner.peers.url(&node.peer_address)],
            client_urls: node.client_urls.clone(),
            is_learner: !membership.voter_ids().any(|voter| voter == *id),
        });
        let mut members: Vec<MemberInfo> = started.collect();
        // Those that were added and have not joined have no name yet, as in etcd.
        let waiting = self.inner.machine.with_state(|state| {
            let cluster = state.cluster();
            let waits = |ordinal| !members.iter().any(|member| member.id.ordinal() == ordinal);
            let added = cluster.added().filter(|(ordinal, _)| waits(*ordinal));
            let info = added.filter_map(|(ordinal, added)| {
                Some(MemberInfo {
                    id: cluster.admissions.get(&ordinal)?.id,
                    name: String::new(),
                    peer_urls: added.peer_urls.clone(),
                    client_urls: Vec::new(),
                    is_learner: added.learner,
                })
            });
            info.collect::<Vec<_>>()
        });
        members.extend(waiting);
        members
    }

    fn events(&self) -> Vec<EventInfo> {
        let info = |(number, event): (u64, &ClusterEvent)| EventInfo {
            number,
            at_millis: event.at_millis,
            source: event.source.clone(),
            text: event.text.clone(),
        };
        self.inner.machine.with_state(|state| state.cluster().events.iter().map(info).collect())
    }

    fn disk_use(&self) -> DiskUse {
        DiskUse {
            state: self.inner.machine.engine().size_on_disk().unwrap_or(0),
            state_in_use: self.inner.machine.with_state(State::history_bytes),
            keys: self.inner.machine.with_state(State::keys) as u64,
            log: self.inner.log.bytes(),
            snapshots: self.inner.snapshots.bytes(),
        }
    }
}
