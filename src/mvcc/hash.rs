//! The hash that members compare to find one whose state differs.
//!
//! It is of everything that the store remembers at a revision: all changes above the compacted revision, and what compaction
//! leaves below. It depends on revision, compacted revision and content, on nothing else: not on how the records are cut, nor on how
//! far physical compaction has got. Like etcd's `HashKV`, whose values it does not share, it is only comparable between
//! members whose compacted revisions are equal.

use super::command::Refusal;
use super::history::History;
use super::record::Entry;
use super::{Revision, State, read};

/// Records that [`State::hash`] reads at a time.
const STEP: usize = 256;

/// A hash, and what it is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvHash {
    /// The hash.
    pub hash: u32,
    /// Compacted revision when it was made.
    pub compact_revision: i64,
    /// Revision up to which changes are in it.
    pub hash_revision: i64,
}

/// A hash that is being made.
#[derive(Clone, Copy, Debug)]
pub struct HashPlan {
    hash: KvHash,
    cursor: Revision,
}

impl HashPlan {
    /// The hash; whole once [`State::hash_step`] has said so.
    pub fn finish(self) -> KvHash {
        self.hash
    }
}

impl State {
    /// The hash at `revision`; 0 or less: the newest. Reads all of the history at once: for a large store take
    /// [`State::plan_hash`].
    pub fn hash(&self, history: &dyn History, revision: i64) -> Result<KvHash, Refusal> {
        let mut plan = self.plan_hash(revision)?;
        while !self.hash_step(history, &mut plan, STEP)? {}
        Ok(plan.finish())
    }

    /// Start a hash at `revision`; 0 or less: the newest.
    pub fn plan_hash(&self, revision: i64) -> Result<HashPlan, Refusal> {
        let revision = match revision {
            asked if asked > self.revision => return Err(Refusal::FutureRevision),
            ..=0 => self.revision,
            asked => asked,
        };
        if revision < self.compacted {
            return Err(Refusal::Compacted);
        }
        let hash = KvHash { hash: 0, compact_revision: self.compacted, hash_revision: revision };
        Ok(HashPlan { hash, cursor: Revision::default() })
    }

    /// Read up to `records` records more. `true`: the hash is whole. Writes may go on between two steps;
    /// [`Refusal::Compacted`] if the store was compacted since the plan was made, then make a new one.
    pub fn hash_step(
        &self,
        history: &dyn History,
        plan: &mut HashPlan,
        records: usize,
    ) -> Result<bool, Refusal> {
        if self.compacted != plan.hash.compact_revision {
            return Err(Refusal::Compacted);
        }
        let count = records.max(1);
        let through = plan.hash.hash_revision;
        let found = read::next_records(history, plan.cursor, through, count)?;
        for (base, value) in &found {
            for entry in read::entries(history, *base, value)? {
                if entry.revision.main <= through && self.is_kept(entry.revision, &entry.key) {
                    plan.hash.hash = add(plan.hash.hash, &entry);
                }
            }
            plan.cursor = read::after(*base);
        }
        Ok(found.len() < count)
    }
}

fn add(hash: u32, entry: &Entry) -> u32 {
    let Entry { revision, tombstone, create, version, lease, key, value } = entry;
    let numbers = [
        revision.main,
        revision.sub,
        i64::from(*tombstone),
        *create,
        *version,
        *lease,
        key.len() as i64,
        value.len() as i64,
    ];
    let hash = numbers.iter().fold(hash, |hash, number| crc32c::crc32c_append(hash, &number.to_le_bytes()));
    crc32c::crc32c_append(crc32c::crc32c_append(hash, key), value)
}
