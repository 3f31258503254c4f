//! Leases: which are granted, and which keys hang on each. How much time a lease has left is not here, because no clock is:
//! the leader keeps it in memory (`duties`) and asks for what follows from it with [`LeaseCommand`].
//!
//! Invariants:
//! * A key that is there hangs on the lease that its newest version names, and that lease is there: a lease is revoked together
//!   with the keys that hang on it, in one entry. So the engine holds a lease's own numbers only; which keys hang on it is read off the
//!   history at load, and a key whose lease is missing is damage.
//! * Only the leader of a term expires leases and writes down what is left of them, and only by entries of that term: an entry
//!   of another term changes nothing. So what a deposed leader decided, and what somebody else handed on for it, takes no lease
//!   that a later leader has promised to keep: a leader promises nothing before it has applied the first entry of its term, and
//!   all entries of earlier terms come before that one.
//! * What the leader decides names the grant that it was decided for: an id that was revoked and granted again is another lease.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use super::command::{Outcome, Refusal};
use crate::env::simulated::{self, Bug};
use crate::limits;

/// Longest time to live that can be asked for, in seconds: etcd's `MaxLeaseTTL`.
pub const MAX_TTL: i64 = 9_000_000_000;

/// What a command does to leases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseCommand {
    /// Make a lease.
    Grant {
        /// Its id; not 0.
        id: i64,
        /// Its time to live in seconds, at least 1.
        ttl: i64,
    },
    /// End a lease, with the keys that hang on it: a client wants it.
    Revoke {
        /// Its id.
        id: i64,
    },
    /// End leases whose time is over, with all keys that hang on them, at one revision.
    Expire {
        /// Term of the leader that says so.
        term: u64,
        /// The leases.
        leases: Vec<(i64, Granted)>,
    },
    /// Write down how much time leases have left, for the next leader.
    Checkpoint {
        /// Term of the leader that says so.
        term: u64,
        /// The leases, and the seconds that each has left; 0: all of its time to live.
        remaining: Vec<(i64, Granted, i64)>,
    },
}

/// Which grant of an id: the log entry, and the place of the command in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Granted {
    /// Index of the entry.
    pub index: u64,
    /// Place in the entry.
    pub position: u32,
}

/// The key of an attachment, in both directions.
type Name = Arc<[u8]>;

/// One lease.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lease {
    /// Which grant it is.
    pub granted: Granted,
    /// Its time to live, in seconds.
    pub ttl: i64,
    /// Seconds that a leader wrote down as left; 0: all.
    pub remaining: i64,
    keys: BTreeSet<Name>,
}

impl Lease {
    pub(super) fn new(granted: Granted, ttl: i64, remaining: i64) -> Self {
        Self { granted, ttl, remaining, keys: BTreeSet::new() }
    }

    /// The keys that hang on it, in order.
    pub fn keys(&self) -> impl Iterator<Item = &[u8]> {
        self.keys.iter().map(AsRef::as_ref)
    }

    /// How many keys hang on it.
    pub fn key_count(&self) -> usize {
        self.keys.len()
    }

    /// Seconds that a leader which knows nothing else gives it.
    pub fn seconds_left(&self) -> i64 {
        if self.remaining > 0 { self.remaining.min(self.ttl) } else { self.ttl }
    }
}

/// All leases.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leases {
    known: BTreeMap<i64, Lease>,
    grants: BTreeMap<Granted, i64>,
    /// Each key that hangs on a lease, and which.
    keys: BTreeMap<Name, i64>,
}

impl Leases {
    /// A lease.
    pub fn get(&self, id: i64) -> Option<&Lease> {
        self.known.get(&id)
    }

    /// All, by id.
    pub fn iter(&self) -> impl Iterator<Item = (i64, &Lease)> {
        self.known.iter().map(|(id, lease)| (*id, lease))
    }

    /// Those that were granted after `granted`, in the order of their grants.
    pub fn granted_after(&self, granted: Granted) -> impl Iterator<Item = (i64, &Lease)> {
        let after = (std::ops::Bound::Excluded(granted), std::ops::Bound::Unbounded);
        self.grants.range(after).filter_map(|(_, id)| Some((*id, self.known.get(id)?)))
    }

    /// The newest grant whose lease is there.
    pub fn newest(&self) -> Granted {
        self.grants.last_key_value().map_or_else(Granted::default, |(granted, _)| *granted)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// There is none.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// How many keys hang on leases.
    pub fn key_count(&self) -> usize {
        self.keys.len()
    }

    /// Let `key` hang on `lease` from now on, or on none.
    pub(super) fn hang(&mut self, key: &[u8], lease: i64) {
        if lease == 0 && self.keys.is_empty() {
            return;
        }
        if let Some((name, before)) = self.keys.get_key_value(key) {
            if *before == lease {
                return;
            }
            let (name, before) = (Arc::clone(name), *before);
            if let Some(old) = self.known.get_mut(&before) {
                old.keys.remove(&name);
            }
            self.keys.remove(&name);
        }
        if let Some(lease_now) = self.known.get_mut(&lease).filter(|_| lease != 0) {
            let name: Name = key.into();
            lease_now.keys.insert(Arc::clone(&name));
            self.keys.insert(name, lease);
        }
    }

    /// Puts back a lease that was read.
    pub(super) fn load(&mut self, id: i64, lease: Lease) {
        self.grants.insert(lease.granted, id);
        self.known.insert(id, lease);
    }

    fn remove(&mut self, id: i64) -> Option<Lease> {
        let lease = self.known.remove(&id)?;
        self.grants.remove(&lease.granted);
        Some(lease)
    }
}

/// Leases that the running entry changes, each with whether it was there before.
pub(super) type TouchedLeases = BTreeMap<i64, bool>;

/// What a lease command did.
pub(super) struct Done {
    pub(super) outcome: Outcome,
    /// Keys that must be deleted, in order.
    pub(super) keys: BTreeSet<Name>,
}

impl Leases {
    /// Applies a command of an entry of `term`, at the place `granted`. The keys of the leases that end still hang on nothing then,
    /// and must be deleted by the caller.
    pub(super) fn apply(
        &mut self,
        command: &LeaseCommand,
        term: u64,
        granted: Granted,
        touched: &mut TouchedLeases,
    ) -> Result<Done, Refusal> {
        let mut done = Done { outcome: Outcome::Lease, keys: BTreeSet::new() };
        match command {
            LeaseCommand::Grant { id, ttl } => {
                self.grant(*id, *ttl, granted, touched)?;
                done.outcome = Outcome::Granted { id: *id, ttl: *ttl };
            }
            LeaseCommand::Revoke { id } => {
                if !self.known.contains_key(id) {
                    return Err(Refusal::LeaseNotFound);
                }
                self.end(*id, touched, &mut done.keys);
            }
            LeaseCommand::Expire { term: decided, leases } => {
                if *decided != term && !simulated::planted(Bug::ExpireOfDeposedLeader) {
                    return Ok(done);
                }
                for (id, granted) in leases {
                    if self.known.get(id).is_some_and(|lease| lease.granted == *granted) {
                        self.end(*id, touched, &mut done.keys);
                    }
                }
            }
            LeaseCommand::Checkpoint { term: decided, remaining } => {
                if *decided != term {
                    return Ok(done);
                }
                for (id, granted, seconds) in remaining {
                    let found = self.known.get_mut(id).filter(|lease| lease.granted == *granted);
                    if let Some(lease) = found.filter(|lease| lease.remaining != *seconds) {
                        lease.remaining = (*seconds).max(0);
                        touched.entry(*id).or_insert(true);
                    }
                }
            }
        }
        Ok(done)
    }

    fn grant(
        &mut self,
        id: i64,
        ttl: i64,
        granted: Granted,
        touched: &mut TouchedLeases,
    ) -> Result<(), Refusal> {
        if id == 0 {
            return Err(Refusal::LeaseNotFound);
        }
        if ttl > MAX_TTL {
            return Err(Refusal::LeaseTtlTooLarge);
        }
        if self.known.contains_key(&id) {
            return Err(Refusal::LeaseExists);
        }
        if self.known.len() >= limits::LEASES {
            return Err(Refusal::TooManyLeases);
        }
        self.load(id, Lease::new(granted, ttl.max(1), 0));
        touched.entry(id).or_insert(false);
        Ok(())
    }

    fn end(&mut self, id: i64, touched: &mut TouchedLeases, keys: &mut BTreeSet<Name>) {
        let Some(mut lease) = self.remove(id) else { return };
        touched.entry(id).or_insert(true);
        for key in &lease.keys {
            self.keys.remove(key);
        }
        if simulated::planted(Bug::RevokeLeavesKey) {
            lease.keys.pop_last();
        }
        keys.append(&mut lease.keys);
    }
}

/// Which lease each key names that was read so far, for loading.
#[derive(Default)]
pub(super) struct Named(BTreeMap<Bytes, i64>);

impl Named {
    /// The newest version of `key` that was read so far names `lease`; 0: none, or the key is deleted.
    pub(super) fn set(&mut self, key: &Bytes, lease: i64) {
        if lease != 0 {
            // Copied: the key is a slice of its record.
            self.0.insert(Bytes::copy_from_slice(key), lease);
        } else if !self.0.is_empty() {
            self.0.remove(key);
        }
    }

    /// Hangs every key on the lease that it names. The id of one that is missing is the error.
    pub(super) fn hang_on(self, leases: &mut Leases) -> Result<(), i64> {
        for (key, lease) in self.0 {
            if !leases.known.contains_key(&lease) {
                return Err(lease);
            }
            leases.hang(&key, lease);
        }
        Ok(())
    }
}
