//! What a member does from time to time beside consensus; most of it where it leads. Knows the handle of `raft`, the values of `mvcc` and
//! what is configured; not the API, and not who is a member.
//!
//! * `leases`: the keeper of the leases: ends those whose time is over, answers how much time one has
//! * `lease_book`: what the keeper knows, and what follows from it (pure)
//! * `space`: refuses what makes the store grow before the volume is full; on every member
//! * `compactor`: automatic compaction
//! * `corruption`: compares the members' stores

mod compactor;
mod corruption;
mod lease_book;
mod leases;
mod space;

#[cfg(test)]
pub(crate) use corruption::compare_now;
pub(crate) use space::Volume;

use crate::config::Tuning;
use crate::raft::Consensus;

/// Starts the duties of a member; they end with consensus.
pub(crate) fn start(consensus: &Consensus, tuning: &Tuning, volume: Volume) {
    leases::start(consensus, tuning.lease_checkpoint);
    let maintenance = &tuning.maintenance;
    if maintenance.disk_reserve_bytes > 0 {
        let (reserve, segment) = (maintenance.disk_reserve_bytes, tuning.log_segment_bytes);
        consensus.spawn(space::watch(consensus.clone(), volume, reserve, segment));
    }
    if let Some(mode) = maintenance.auto_compaction {
        consensus.spawn(compactor::run(consensus.clone(), mode));
    }
    if maintenance.corrupt_check_at_start {
        consensus.spawn(corruption::at_start(consensus.clone()));
    }
    if let Some(interval) = maintenance.corrupt_check_interval {
        consensus.spawn(corruption::from_time_to_time(consensus.clone(), interval));
    }
}
