//! The comparison of the members' stores: the hashes at one revision must be equal where as much is compacted. If they are not, an alarm
//! names whoever differs from the majority, and everything is refused until a human has looked: etcd's corruption check.
//!
//! A member that starts compares its own store, if it is configured so; the leader compares all from time to time.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::env::simulated::{self, Bug};
use crate::identity::NodeId;
use crate::limits;
use crate::mvcc::alarm::{Alarm, AlarmCommand, AlarmKind, Cause};
use crate::raft::Consensus;
use crate::raft::store::{Store as _, StoreHash};

/// Pause before a comparison at the start is tried again that found nobody to compare with.
const RETRY: Duration = Duration::from_secs(1);
/// Attempts of a comparison at the start.
const ATTEMPTS: u32 = 10;

/// Whose store differs.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    /// Nobody's, of so many that could be compared.
    Equal(usize),
    /// These differ from the majority of the members.
    Differ(Vec<NodeId>),
    /// They differ, and no majority is equal.
    Unclear,
}

/// Compares what the members said. Those that said nothing, or have compacted up to elsewhere, are left out; `members`: how many there are.
fn judge(mine: (NodeId, StoreHash), others: &BTreeMap<NodeId, StoreHash>, members: usize) -> Verdict {
    let comparable = |hash: &StoreHash| {
        hash.compact_revision == mine.1.compact_revision && hash.hash_revision == mine.1.hash_revision
    };
    let compared = others.iter().filter(|(_, hash)| comparable(hash)).map(|(id, hash)| (*id, hash.hash));
    let mut by_hash: BTreeMap<u32, Vec<NodeId>> = BTreeMap::new();
    let mut count = 0;
    for (id, hash) in compared.chain([(mine.0, mine.1.hash)]) {
        by_hash.entry(hash).or_default().push(id);
        count += 1;
    }
    if by_hash.len() <= 1 {
        return Verdict::Equal(count - 1);
    }
    let Some(right) = by_hash.iter().find(|(_, ids)| ids.len() > members / 2).map(|(hash, _)| *hash) else {
        return Verdict::Unclear;
    };
    if simulated::planted(Bug::CorruptMisnamed) {
        return Verdict::Differ(by_hash.remove(&right).unwrap_or_default());
    }
    by_hash.remove(&right);
    Verdict::Differ(by_hash.into_values().flatten().collect())
}

/// Compares at the start.
pub(super) async fn at_start(consensus: Consensus) {
    for _ in 0..ATTEMPTS {
        // What was acknowledged before the start is here then.
        if consensus.barrier().await.is_ok() {
            match compare(&consensus).await {
                Some(Verdict::Equal(0)) | None => {}
                Some(verdict) => return tell(&consensus, &verdict).await,
            }
        }
        tokio::time::sleep(RETRY).await;
    }
    tracing::info!("there was nobody to compare the store with");
}

/// Compares again and again, where this member leads.
pub(super) async fn from_time_to_time(consensus: Consensus, interval: Duration) {
    loop {
        tokio::time::sleep(interval).await;
        if consensus.is_leader()
            && let Some(verdict) = compare(&consensus).await
        {
            tell(&consensus, &verdict).await;
        }
    }
}

/// One comparison and what follows from it, now.
#[cfg(test)]
pub(crate) async fn compare_now(consensus: &Consensus) {
    let verdict = compare(consensus).await.expect("the store can be hashed");
    tell(consensus, &verdict).await;
}

/// One comparison; `None` if this member's own store could not be read.
async fn compare(consensus: &Consensus) -> Option<Verdict> {
    let started = Instant::now();
    let mine = match consensus.hash(0).await {
        Ok(hash) => hash,
        Err(error) => {
            tracing::warn!(%error, "the store could not be hashed; the members' stores were not compared");
            return None;
        }
    };
    let me = consensus.mine().node;
    let members = consensus.membership().map(|membership| membership.ids()).unwrap_or_default();
    let mut others = BTreeMap::new();
    for member in members.iter().filter(|id| **id != me) {
        let asked = consensus.hash_of(*member, mine.hash_revision);
        match tokio::time::timeout(limits::CORRUPT_CHECK_TIMEOUT, asked).await {
            Ok(Ok(hash)) => {
                others.insert(*member, hash);
            }
            Ok(Err(error)) => tracing::debug!(%member, %error, "its store was not compared"),
            Err(_) => tracing::debug!(%member, "its store was not compared: it takes too long"),
        }
    }
    let verdict = judge((me, mine), &others, members.len());
    tracing::debug!(revision = mine.hash_revision, took = ?started.elapsed(), ?verdict, "stores were compared");
    Some(verdict)
}

/// Raises the alarm if the stores differ.
async fn tell(consensus: &Consensus, verdict: &Verdict) {
    let whose = match verdict {
        Verdict::Equal(_) => return,
        Verdict::Differ(_) if simulated::planted(Bug::CorruptUntold) => return,
        Verdict::Differ(members) => members.clone(),
        // As with etcd, the alarm is of nobody then.
        Verdict::Unclear => vec![NodeId::default()],
    };
    tracing::error!(
        ?verdict,
        "the members' stores differ; everything is refused until the alarm is disarmed"
    );
    for member in whose {
        let alarm = Alarm { kind: AlarmKind::Corrupt, member };
        let command = AlarmCommand { alarm, cause: Cause::Held, raised: true };
        if let Err(error) = consensus.set_alarm(command).await {
            tracing::error!(%error, %member, "the alarm CORRUPT was not raised");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn id(ordinal: u16) -> NodeId {
        NodeId::new(ordinal, 1)
    }

    fn hash(hash: u32) -> StoreHash {
        StoreHash { hash, compact_revision: 5, hash_revision: 9 }
    }

    fn verdict(mine: u32, others: &[(u16, StoreHash)], members: usize) -> Verdict {
        let others = others.iter().map(|(ordinal, hash)| (id(*ordinal), *hash)).collect();
        judge((id(0), hash(mine)), &others, members)
    }

    #[test]
    fn equal_stores_are_equal_and_silent_members_say_nothing() {
        assert_eq!(verdict(7, &[], 1), Verdict::Equal(0));
        assert_eq!(verdict(7, &[], 3), Verdict::Equal(0));
        assert_eq!(verdict(7, &[(1, hash(7))], 3), Verdict::Equal(1));
        assert_eq!(verdict(7, &[(1, hash(7)), (2, hash(7))], 3), Verdict::Equal(2));
    }

    #[test]
    fn what_cannot_be_compared_is_left_out() {
        let elsewhere = StoreHash { compact_revision: 4, ..hash(8) };
        let older = StoreHash { hash_revision: 8, ..hash(8) };
        assert_eq!(verdict(7, &[(1, elsewhere), (2, older)], 3), Verdict::Equal(0));
    }

    #[test]
    fn whoever_differs_from_the_majority_is_named_this_member_too() {
        assert_eq!(verdict(7, &[(1, hash(8)), (2, hash(7))], 3), Verdict::Differ(vec![id(1)]));
        assert_eq!(verdict(7, &[(1, hash(8)), (2, hash(8))], 3), Verdict::Differ(vec![id(0)]));
        let five = [(1, hash(7)), (2, hash(7)), (3, hash(8)), (4, hash(9))];
        assert_eq!(verdict(7, &five, 5), Verdict::Differ(vec![id(3), id(4)]));
    }

    #[test]
    fn without_a_majority_nobody_is_named() {
        assert_eq!(verdict(7, &[(1, hash(8))], 2), Verdict::Unclear);
        assert_eq!(verdict(7, &[(1, hash(8))], 3), Verdict::Unclear, "one of three is no majority");
        assert_eq!(verdict(7, &[(1, hash(8)), (2, hash(9))], 3), Verdict::Unclear);
    }
}
