//! What a leader does from time to time beside consensus. Knows the handle of `raft` and the values of `mvcc`; not the API, and
//! not who is a member.
//!
//! * `leases`: the keeper of the leases: ends those whose time is over, answers how much time one has
//! * `lease_book`: what the keeper knows, and what follows from it (pure)

mod lease_book;
mod leases;

use std::time::Duration;

use crate::raft::Consensus;

/// Starts the duties of a member; they end with consensus. `checkpoint`: [`crate::config::Tuning::lease_checkpoint`].
pub(crate) fn start(consensus: &Consensus, checkpoint: Option<Duration>) {
    leases::start(consensus, checkpoint);
}
