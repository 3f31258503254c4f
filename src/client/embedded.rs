//! The store in this process, behind the same trait as a remote one.
//!
//! What `api` checks for remote callers is checked here for local ones, before anything is proposed. As a remote client tries
//! again while a member starts, this one waits for it, no longer than a request may take.

use super::{
    Alarm, Answer, Call, Client, Consistency, EventInfo, Header, LeaseGranted, LeaseLife, MemberInfo,
    Snapshot, Status, StoreHash, Watch, Watcher, watch_here,
};
use crate::error::Error;
use crate::limits::{REQUEST_BYTES, REQUEST_TIMEOUT, TXN_OPERATIONS};
use crate::mvcc::KeyValue;
use crate::mvcc::alarm::{AlarmCommand, Cause};
use crate::mvcc::check;
use crate::mvcc::cluster::ClusterCommand;
use crate::mvcc::command::{
    Command, Compact, Compare, DeleteRange, Deleted, Lifetime, Operand, Outcome, Put, Range, RangeResult,
    Request, Txn, TxnOp, TxnResult,
};
use crate::mvcc::lease::LeaseCommand;
use crate::raft::lease::LeaseQuestion;
use crate::raft::store::SharedStore;
use crate::watch::Hub;

/// A client of the store in this process. Cheap to clone.
#[derive(Clone)]
pub struct Embedded {
    store: SharedStore,
    hub: Hub,
}

impl std::fmt::Debug for Embedded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Embedded").field("position", &self.store.position()).finish_non_exhaustive()
    }
}

impl Embedded {
    /// A client of `store`, whose changes `hub` hears of.
    pub fn new(store: SharedStore, hub: Hub) -> Self {
        Self { store, hub }
    }

    /// Waits while the member starts. One that takes too long refuses the request itself, and says why.
    async fn opened(&self) {
        let _ = tokio::time::timeout(REQUEST_TIMEOUT, self.store.opened()).await;
    }

    /// Waits until a read sees everything that was acknowledged before.
    async fn barrier(&self) -> Result<(), Error> {
        self.opened().await;
        self.store.barrier().await
    }

    fn header(&self, revision: i64, term: u64) -> Header {
        let position = self.store.position();
        Header { cluster: position.cluster, member: position.member, revision, term }
    }

    async fn propose(&self, command: Command) -> Result<Answer<Outcome>, Error> {
        check_size(&command)?;
        self.opened().await;
        let (reply, term) = self.store.propose(Request::anonymous(command)).await?;
        Ok(Answer { header: self.header(reply.revision, term), value: reply.outcome })
    }

    /// A transaction that only reads: not through the log, and linearizable all the same.
    async fn read_txn(&self, txn: Txn) -> Result<Answer<TxnResult>, Error> {
        self.barrier().await?;
        let read = self.store.read_txn(txn).await?;
        let (value, revision) = read
            .ok_or_else(|| Error::Invalid("the store wants a transaction proposed that only reads".into()))?;
        Ok(Answer { header: self.header(revision, self.store.position().term), value })
    }

    fn answer_now<T>(&self, value: T) -> Answer<T> {
        let position = self.store.position();
        Answer { header: self.header(position.revision, position.term), value }
    }
}

impl Client for Embedded {
    fn get(&self, range: Range, consistency: Consistency) -> Call<'_, RangeResult> {
        Box::pin(async move {
            check(check::range(&range))?;
            if consistency == Consistency::Linearizable {
                self.barrier().await?;
            } else {
                self.opened().await;
            }
            let (value, revision) = self.store.range(range).await?;
            Ok(Answer { header: self.header(revision, self.store.position().term), value })
        })
    }

    fn put(&self, put: Put) -> Call<'_, Option<KeyValue>> {
        Box::pin(async move {
            check(check::put(&put))?;
            let answer = self.propose(Command::Put(put)).await?;
            match answer.value {
                Outcome::Put(previous) => Ok(Answer { header: answer.header, value: previous }),
                other => Err(mismatch(&other)),
            }
        })
    }

    fn delete(&self, delete: DeleteRange) -> Call<'_, Deleted> {
        Box::pin(async move {
            check(check::delete_range(&delete))?;
            let answer = self.propose(Command::DeleteRange(delete)).await?;
            match answer.value {
                Outcome::DeleteRange(deleted) => Ok(Answer { header: answer.header, value: deleted }),
                other => Err(mismatch(&other)),
            }
        })
    }

    fn txn(&self, txn: Txn) -> Call<'_, TxnResult> {
        Box::pin(async move {
            check(check::txn(&txn, TXN_OPERATIONS))?;
            if txn.is_read_only() {
                return self.read_txn(txn).await;
            }
            let answer = self.propose(Command::Txn(txn)).await?;
            match answer.value {
                Outcome::Txn(result) => Ok(Answer { header: answer.header, value: result }),
                other => Err(mismatch(&other)),
            }
        })
    }

    fn watch(&self, watch: Watch) -> Watcher {
        watch_here::here(self.store.clone(), self.hub.clone(), watch)
    }

    fn compact(&self, compact: Compact) -> Call<'_, ()> {
        Box::pin(async move {
            let answer = self.propose(Command::Compact(compact)).await?;
            Ok(Answer { header: answer.header, value: () })
        })
    }

    fn grant(&self, id: i64, ttl: i64) -> Call<'_, LeaseGranted> {
        Box::pin(async move {
            self.opened().await;
            let (reply, term) = self.store.grant(id, ttl).await?;
            match reply.outcome {
                Outcome::Granted { id, ttl } => {
                    Ok(Answer { header: self.header(reply.revision, term), value: LeaseGranted { id, ttl } })
                }
                other => Err(mismatch(&other)),
            }
        })
    }

    fn revoke(&self, id: i64) -> Call<'_, ()> {
        Box::pin(async move {
            let answer = self.propose(Command::Lease(LeaseCommand::Revoke { id })).await?;
            Ok(Answer { header: answer.header, value: () })
        })
    }

    fn keep_alive(&self, id: i64) -> Call<'_, i64> {
        Box::pin(async move {
            self.opened().await;
            let before = self.answer_now(());
            let lifetime = self.store.lifetime(LeaseQuestion { id, renew: true }).await?;
            Ok(Answer { header: before.header, value: lifetime.ttl.max(0) })
        })
    }

    fn time_to_live(&self, id: i64, keys: bool) -> Call<'_, LeaseLife> {
        Box::pin(async move {
            self.opened().await;
            let Lifetime { ttl, granted } = self.store.lifetime(LeaseQuestion { id, renew: false }).await?;
            let keys = if keys && ttl >= 0 { self.store.lease_keys(id) } else { Vec::new() };
            Ok(self.answer_now(LeaseLife { ttl, granted, keys }))
        })
    }

    fn leases(&self) -> Call<'_, Vec<i64>> {
        Box::pin(async move {
            self.barrier().await?;
            Ok(self.answer_now(self.store.leases()))
        })
    }

    fn status(&self) -> Call<'_, Status> {
        Box::pin(async move {
            let position = self.store.position();
            let disk = self.store.disk_use();
            let bytes = i64::try_from(disk.state).unwrap_or(i64::MAX);
            let in_use = i64::try_from(disk.state_in_use).unwrap_or(i64::MAX).min(bytes);
            let alarms = self.store.alarms();
            let alarms =
                alarms.iter().map(|alarm| format!("alarm {} of {}", alarm.kind.name(), alarm.member));
            let no_leader = position.leader.is_none().then(|| "no leader".to_owned());
            Ok(self.answer_now(Status {
                version: env!("CARGO_PKG_VERSION").into(),
                storage_version: String::new(),
                db_size: bytes,
                db_size_in_use: in_use,
                leader: position.leader,
                term: position.term,
                index: position.last_index,
                applied_index: position.applied_index,
                is_learner: position.is_learner,
                errors: position.failure.into_iter().chain(no_leader).chain(alarms).collect(),
            }))
        })
    }

    fn members(&self) -> Call<'_, Vec<MemberInfo>> {
        Box::pin(async move {
            self.barrier().await?;
            Ok(self.answer_now(self.store.members()))
        })
    }

    fn resize(&self, size: u16) -> Call<'_, ()> {
        Box::pin(async move {
            let resize =
                ClusterCommand::resize(u32::from(size)).map_err(|error| Error::Invalid(error.to_string()))?;
            self.store.propose(Request::anonymous(Command::Cluster(resize))).await?;
            Ok(self.answer_now(()))
        })
    }

    fn events(&self) -> Call<'_, Vec<EventInfo>> {
        Box::pin(async move { Ok(self.answer_now(self.store.events())) })
    }

    fn hash(&self, revision: i64) -> Call<'_, StoreHash> {
        Box::pin(async move {
            let hash = self.store.hash(revision).await?;
            Ok(self.answer_now(hash))
        })
    }

    fn alarms(&self) -> Call<'_, Vec<Alarm>> {
        Box::pin(async move {
            self.barrier().await?;
            Ok(self.answer_now(self.store.alarms()))
        })
    }

    fn set_alarm(&self, alarm: Alarm, raised: bool) -> Call<'_, Vec<Alarm>> {
        Box::pin(async move {
            let command = ClusterCommand::Alarm(AlarmCommand { alarm, cause: Cause::Held, raised });
            let answer = self.propose(Command::Cluster(command)).await?;
            match answer.value {
                Outcome::Alarms(alarms) => Ok(Answer { header: answer.header, value: alarms }),
                other => Err(mismatch(&other)),
            }
        })
    }

    fn defragment(&self) -> Call<'_, ()> {
        Box::pin(async move {
            self.store.defragment().await?;
            Ok(self.answer_now(()))
        })
    }

    fn snapshot(&self) -> Call<'_, Snapshot> {
        Box::pin(async move {
            self.opened().await;
            let backup = self.store.backup().await?;
            let header = self.header(backup.revision(), self.store.position().term);
            Ok(Answer { header, value: Snapshot::here(backup) })
        })
    }
}

/// A store that answers a command with another command's outcome has a defect; the command was executed all the same.
fn mismatch(outcome: &Outcome) -> Error {
    Error::OutcomeUnknown(format!("the store answered with the outcome of another command: {outcome:?}"))
}

fn check(form: Result<(), check::Invalid>) -> Result<(), Error> {
    form.map_err(|invalid| Error::Invalid(invalid.to_string()))
}

/// Refuses what is larger than a request may be. Keys and values are counted; their envelope is small beside them.
fn check_size(command: &Command) -> Result<(), Error> {
    let bytes = match command {
        Command::Put(put) => put.key.len() + put.value.len(),
        Command::DeleteRange(delete) => delete.key.len() + delete.range_end.len(),
        Command::Txn(txn) => txn_bytes(txn),
        Command::Compact(_) | Command::Lease(_) | Command::Cluster(_) => 0,
    };
    if bytes > REQUEST_BYTES {
        return Err(Error::Invalid(format!("the request has {bytes} bytes; {REQUEST_BYTES} are possible")));
    }
    Ok(())
}

fn txn_bytes(txn: &Txn) -> usize {
    let compare = |compare: &Compare| {
        let operand = if let Operand::Value(value) = &compare.operand { value.len() } else { 0 };
        compare.key.len() + compare.range_end.len() + operand
    };
    let operation = |op: &TxnOp| match op {
        TxnOp::Range(range) => range.key.len() + range.range_end.len(),
        TxnOp::Put(put) => put.key.len() + put.value.len(),
        TxnOp::DeleteRange(delete) => delete.key.len() + delete.range_end.len(),
        TxnOp::Txn(txn) => txn_bytes(txn),
    };
    txn.compares.iter().map(compare).sum::<usize>()
        + txn.success.iter().chain(&txn.failure).map(operation).sum::<usize>()
}
