//! What is read of the applied state: ranges, transactions that only read, events, hashes. A read that an installed snapshot or a
//! compaction overtook is made again, or says so.

use std::sync::atomic::Ordering;

use super::Machine;
use crate::error::Error;
use crate::limits;
use crate::mvcc::command::{Range, RangeResult, Refusal, Txn, TxnResult};
use crate::mvcc::{self, State};

impl Machine {
    /// Reads a range at the local state. Long ranges let others run every [`limits::RANGE_STEP_RECORDS`] records.
    pub async fn range(&self, range: &Range) -> Result<(RangeResult, i64), Error> {
        self.read(range, |state| state.plan_range(range)).await
    }

    /// Reads the first pairs of a range at the local state, as [`mvcc::State::plan_part`].
    pub async fn range_part(&self, range: &Range, bytes: usize) -> Result<(RangeResult, i64), Error> {
        self.read(range, |state| state.plan_part(range, bytes)).await
    }

    async fn read(
        &self,
        range: &Range,
        planned: impl Fn(&State) -> Result<mvcc::RangePlan, Refusal>,
    ) -> Result<(RangeResult, i64), Error> {
        loop {
            let (plan, revision, compacted, installs) = {
                let state = self.state.read();
                let installs = self.readable()?;
                (planned(&state)?, state.revision(), state.compacted(), installs)
            };
            let found = self.run_plan(plan).await;
            if self.installs.load(Ordering::Acquire) != installs {
                // What was read is of two states.
                continue;
            }
            match found {
                Err(Refusal::Compacted) if self.with_state(State::compacted) == compacted => {
                    return Err(Error::Storage("the state engine has lost a record".into()));
                }
                // A compaction passed between plan and read: the newest state is still there, a named one is not.
                Err(Refusal::Compacted) if range.revision <= 0 => {}
                Err(refusal) => return Err(refusal.into()),
                Ok(result) => return Ok((result, revision)),
            }
        }
    }

    /// One step of reading the events of revisions `from` to `to` on `wanted` keys, as [`mvcc::read_events`].
    ///
    /// # Errors
    /// [`Refusal::Compacted`] if `from` is below the compacted revision; [`Error::NotServing`] while a snapshot is installed.
    pub fn events(
        &self,
        from: i64,
        to: i64,
        wanted: &mut dyn FnMut(&[u8]) -> bool,
    ) -> Result<mvcc::EventsRead, Error> {
        let installs = self.readable()?;
        let read = mvcc::read_events(&self.history, from, to, limits::WATCH_STEP_BYTES, wanted);
        if self.readable()? != installs {
            return Err(Error::NotServing("a snapshot was installed meanwhile".into()));
        }
        // Only now: what a compaction took before this look may be missing from what was read.
        if from < self.with_state(State::compacted) {
            return Err(Refusal::Compacted.into());
        }
        read.map_err(|_| Error::Storage("the state engine has lost a record".into()))
    }

    /// The pair of `key` before its change at `revision`, as [`State::previous`].
    ///
    /// # Errors
    /// [`Error::NotServing`] while a snapshot is installed.
    pub fn previous(&self, key: &[u8], revision: i64) -> Result<Option<mvcc::KeyValue>, Error> {
        let state = self.state.read();
        let installs = self.readable()?;
        let found = state.previous(&self.history, key, revision);
        if self.readable()? != installs {
            return Err(Error::NotServing("a snapshot was installed meanwhile".into()));
        }
        found.map_err(|_| Error::Storage("the state engine has lost a record".into()))
    }

    /// The number of installs, if none runs.
    pub(super) fn readable(&self) -> Result<u64, Error> {
        let installs = self.installs.load(Ordering::Acquire);
        if installs % 2 == 1 {
            return Err(Error::NotServing("a snapshot is being installed".into()));
        }
        Ok(installs)
    }

    /// Runs a transaction that only reads; `None` if it does more. All its ranges are read at once, under the read lock, which
    /// keeps apply and compaction out meanwhile; [`limits::TXN_OPERATIONS`] bounds how many there are.
    pub fn read_txn(&self, txn: &Txn) -> Result<Option<(TxnResult, i64)>, Error> {
        let state = self.state.read();
        let installs = self.readable()?;
        let result = state.read_txn(&self.history, txn);
        if self.readable()? != installs {
            return Err(Error::NotServing("a snapshot was installed meanwhile".into()));
        }
        let result = result?;
        Ok(result.map(|result| (result, state.revision())))
    }

    async fn run_plan(&self, mut plan: mvcc::RangePlan) -> Result<RangeResult, Refusal> {
        while !plan.step(&self.history, limits::RANGE_STEP_RECORDS)? {
            tokio::task::yield_now().await;
        }
        Ok(plan.finish())
    }

    /// Hashes the state at a revision; 0: the newest. Lets others run between two steps.
    pub async fn hash(&self, revision: i64) -> Result<mvcc::KvHash, Error> {
        let begin = || -> Result<_, Error> {
            let state = self.state.read();
            Ok((self.readable()?, state.plan_hash(revision)?))
        };
        let (mut installs, mut plan) = begin()?;
        loop {
            let step = self.hash_step(&mut plan);
            if self.installs.load(Ordering::Acquire) != installs {
                (installs, plan) = begin()?;
                continue;
            }
            match step {
                Ok(true) => return Ok(plan.finish()),
                Ok(false) => tokio::task::yield_now().await,
                // A compaction passed: the hash of a named revision may be gone, the newest is begun again.
                Err(Refusal::Compacted) if revision <= 0 => (installs, plan) = begin()?,
                Err(refusal) => return Err(refusal.into()),
            }
        }
    }

    fn hash_step(&self, plan: &mut mvcc::HashPlan) -> Result<bool, Refusal> {
        self.state.read().hash_step(&self.history, plan, limits::RANGE_STEP_RECORDS)
    }
}
