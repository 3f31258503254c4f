//! Whether there is room for what makes the store grow: the quota, and this member's volume. What alarms refuse on top of it, the state
//! machine says ([`crate::mvcc::alarm`]).
//!
//! The quota is compared with the size of this member's store, as in etcd: members' stores differ a little, and whichever member a client
//! asks raises the alarm for all. The size is asked for a few times a second at most; what was let through since is added to it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use openraft::async_runtime::watch::WatchReceiver;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::handle::Consensus;
use super::machine::Machine;
use super::types::Raft;
use crate::error::Error;
use crate::limits;
use crate::mvcc::alarm::{Alarm, AlarmCommand, AlarmKind, Cause};
use crate::mvcc::cluster::ClusterCommand;
use crate::mvcc::command::{Command, Outcome, Refusal, Request};
use crate::storage::engine::EngineError;

/// See the module.
#[derive(Debug)]
pub(crate) struct Room {
    /// Bytes; `None`: no quota.
    quota: Option<u64>,
    /// When the size was asked for, and what it was.
    size: Mutex<Option<(Instant, u64)>>,
    /// Bytes let through since.
    admitted: AtomicU64,
    /// The volume is nearly full.
    is_low: AtomicBool,
    /// The alarm is on its way.
    raising: AtomicBool,
}

impl Room {
    /// `quota`: bytes; negative for none.
    pub(super) fn new(quota: i64) -> Self {
        Self {
            quota: u64::try_from(quota).ok(),
            size: Mutex::new(None),
            admitted: AtomicU64::new(0),
            is_low: AtomicBool::new(false),
            raising: AtomicBool::new(false),
        }
    }

    /// Whether `cost` bytes more are within the quota; if so they count as let through.
    fn admits(&self, cost: u64, size: impl FnOnce() -> u64) -> bool {
        let Some(quota) = self.quota else { return true };
        let mut known = self.size.lock();
        let size = match *known {
            Some((asked, size)) if asked.elapsed() < limits::QUOTA_SIZE_AGE => size,
            _ => {
                let size = size();
                *known = Some((Instant::now(), size));
                self.admitted.store(0, Ordering::Relaxed);
                size
            }
        };
        let admitted = self.admitted.load(Ordering::Relaxed);
        let fits = size.saturating_add(admitted).saturating_add(cost) < quota;
        if fits {
            self.admitted.fetch_add(cost, Ordering::Relaxed);
        }
        fits
    }

    /// What was measured of the store holds no longer: it was made smaller.
    fn forget_size(&self) {
        *self.size.lock() = None;
    }

    /// Whether the volume is nearly full; from now on.
    pub(crate) fn set_low(&self, is_low: bool) {
        self.is_low.store(is_low, Ordering::Relaxed);
    }

    /// Whether the volume is nearly full.
    pub(crate) fn is_low(&self) -> bool {
        self.is_low.load(Ordering::Relaxed)
    }

    /// Whether requests that wait at the leader to make the store grow are refused there, as all members would when they are applied:
    /// then they would be in the logs already.
    pub(super) fn is_full(&self, machine: &Machine, raft: &Raft) -> bool {
        // An alarm of an earlier leader's time may have been lowered since, until an entry of this one's time is applied.
        let is_recent = || {
            let term = raft.metrics().borrow_watched().current_term;
            machine.applied().is_some_and(|applied| applied.leader_id.term == term)
        };
        self.is_low() || (machine.is_full() && is_recent())
    }
}

/// What a request is to room that gets scarce. Many may wait then, and must not fill what is kept free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Growth {
    /// It makes the store grow: refused where it waits, once room is scarce.
    Grows,
    /// It may be what makes room.
    Stays,
    /// It raises or lowers an alarm: it waits for no other.
    Alarm,
}

impl Growth {
    /// That of a command.
    pub(crate) fn of(command: &Command) -> Self {
        match command {
            Command::Cluster(ClusterCommand::Alarm(_)) => Self::Alarm,
            command if command.cost() > 0 => Self::Grows,
            _ => Self::Stays,
        }
    }
}

/// Until it is dropped, the alarm is on its way.
struct Raising<'a>(&'a AtomicBool);

impl Drop for Raising<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Consensus {
    /// Refuses a command that the alarms refuse, or for which there is no room. Those that are let through may be refused all the same
    /// when they are applied.
    pub(super) async fn check_room(&self, command: &Command) -> Result<(), Error> {
        if self.inner.machine.refuses(command).is_some() {
            // This member may lag: what was lowered elsewhere must not be believed here. Else nothing is written to the log, which is
            // on a volume that may be full.
            use super::store::Store as _;
            self.barrier().await?;
            if let Some(refusal) = self.inner.machine.refuses(command) {
                return Err(refusal.into());
            }
        }
        let cost = command.cost();
        if cost == 0 {
            return Ok(());
        }
        let room = &self.inner.room;
        if room.is_low() {
            return Err(Refusal::NoSpace.into());
        }
        let size = || self.inner.machine.engine().size_on_disk().unwrap_or(0);
        if !room.admits(cost, size) {
            self.raise_for_quota().await;
            return Err(Refusal::NoSpace.into());
        }
        Ok(())
    }

    /// Raises the alarm; whoever comes meanwhile does not wait for it.
    async fn raise_for_quota(&self) {
        let raising = &self.inner.room.raising;
        if raising.swap(true, Ordering::AcqRel) {
            return;
        }
        let alarm = Alarm { kind: AlarmKind::NoSpace, member: self.inner.mine.node };
        // Also when the caller goes away.
        let _over = Raising(raising);
        tracing::warn!(
            "the store has reached its quota; the alarm NOSPACE is raised until somebody disarms it"
        );
        let command = AlarmCommand { alarm, cause: Cause::Held, raised: true };
        if let Err(error) = self.set_alarm(command).await {
            tracing::debug!(%error, "the alarm was not raised; the next write raises it");
        }
    }

    /// Raises or lowers an alarm; returns what it was about.
    pub(crate) async fn set_alarm(&self, command: AlarmCommand) -> Result<Vec<Alarm>, Error> {
        let deadline = Instant::now() + limits::REQUEST_TIMEOUT;
        let request = Request::anonymous(Command::Cluster(ClusterCommand::Alarm(command)));
        match self.propose_until(request, deadline).await?.reply?.outcome {
            Outcome::Alarms(alarms) => Ok(alarms),
            other => Err(Error::OutcomeUnknown(format!("an alarm was answered with {other:?}"))),
        }
    }

    /// Whether there is room here.
    pub(crate) fn room(&self) -> &Room {
        &self.inner.room
    }

    /// Rewrites what the engine has on disk without what is dead. Blocks a thread of its own; reads and writes go on.
    pub(super) async fn defragment_engine(&self) -> Result<(), Error> {
        let engine = self.inner.machine.engine().clone();
        let done = self.blocking(move || engine.defragment()).await?;
        self.inner.room.forget_size();
        done.map_err(|error| match error {
            EngineError::Closed => Error::Stopped,
            EngineError::Io(error) if error.kind() == std::io::ErrorKind::StorageFull => {
                Refusal::NoSpace.into()
            }
            error => Error::Storage(error.to_string()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_let_through_counts_until_the_size_is_asked_for_again() {
        let room = Room::new(1_000);
        assert!(room.admits(600, || 300), "900 of 1000");
        assert!(!room.admits(100, || 0), "1000 is not below the quota, and the size is known");
        assert!(room.admits(99, || 0));
        assert!(!room.admits(1, || 0));
        tokio::time::advance(limits::QUOTA_SIZE_AGE).await;
        assert!(room.admits(100, || 800), "asked again");
        assert!(!room.admits(100, || 0));
        room.forget_size();
        assert!(room.admits(100, || 0));
    }

    #[tokio::test]
    async fn without_a_quota_everything_fits() {
        assert!(Room::new(-1).admits(u64::MAX, || u64::MAX));
        assert!(!Room::new(0).admits(1, || 0));
    }
}
