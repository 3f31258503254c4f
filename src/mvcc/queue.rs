//! Queues of keys, on which locks and elections stand: the transactions that join, look at and leave one, and what their answers
//! mean. The layout is that of etcd's package `concurrency`, so its users and ours stand in the same queues.
//!
//! The queue of a name is the keys below `name/`, in the order of their create revisions; the first one is the holder's. A key hangs on
//! its owner's lease, whose id in hexadecimal digits ends its name. Whoever waits, waits for the end of the one key before its own.
//! Keys only ever leave: one that joins gets a higher create revision than all that are there. So what a member that lags says about who
//! is before a key can be too much, and never too little.

use bytes::Bytes;

use super::KeyValue;
use super::command::{
    Compare, CompareResult, DeleteRange, Operand, Outcome, Put, Range, SortOrder, SortTarget, Txn, TxnOp,
    TxnResult,
};

/// A place in the queue of a name, whether it is taken or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    prefix: Bytes,
    key: Bytes,
    lease: i64,
}

/// What came of joining.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// Create revision of the key: what the holder can show as a fencing token, because each holder's is higher than the one's before.
    pub created: i64,
    /// Nobody is before it.
    pub is_first: bool,
    /// The value that it has, if it was there already: the same lease had joined.
    pub found: Option<Bytes>,
}

/// Where a key stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is gone: its lease has ended, or somebody deleted it.
    Gone,
    /// It is the first.
    First,
    /// Right behind this key.
    Behind(Bytes),
}

impl Place {
    /// The place of the owner of `lease` in the queue of `name`.
    pub fn new(name: &[u8], lease: i64) -> Self {
        let prefix = prefix(name);
        // As Go prints it: the sign, then the number.
        let sign = if lease < 0 { "-" } else { "" };
        let key = [&prefix[..], format!("{sign}{:x}", lease.unsigned_abs()).as_bytes()].concat();
        Self { prefix, key: key.into(), lease }
    }

    /// The key.
    pub fn key(&self) -> &Bytes {
        &self.key
    }

    /// The lease that it hangs on.
    pub fn lease(&self) -> i64 {
        self.lease
    }

    /// Takes the place, with this value, unless it is taken; also reads who is the first.
    pub fn join(&self, value: Bytes) -> Txn {
        let put = Put { key: self.key.clone(), value, lease: self.lease, ..Put::default() };
        let first = || TxnOp::Range(first_of(self.prefix.clone()));
        Txn {
            compares: vec![is_created_at(&self.key, 0)],
            success: vec![TxnOp::Put(put), first()],
            failure: vec![TxnOp::Range(one(&self.key)), first()],
        }
    }

    /// What the answer to [`Place::join`] says; `None` if it is none.
    pub fn joined(&self, result: &TxnResult) -> Option<Joined> {
        let (created, found) = match result.outcomes.first()? {
            Outcome::Put(_) => (result.revision, None),
            Outcome::Range(own) => {
                let own = own.kvs.first()?;
                (own.create_revision, Some(own.value.clone()))
            }
            _ => return None,
        };
        let Outcome::Range(first) = result.outcomes.get(1)? else { return None };
        let is_first = first.kvs.first().is_none_or(|first| first.create_revision == created);
        Some(Joined { created, is_first, found })
    }

    /// Reads where the key stands that was created at `created`.
    pub fn look(&self, created: i64) -> Txn {
        let before = Range {
            sort_order: SortOrder::Descend,
            max_create_revision: created.saturating_sub(1),
            ..first_of(self.prefix.clone())
        };
        Txn { success: vec![TxnOp::Range(one(&self.key)), TxnOp::Range(before)], ..Txn::default() }
    }

    /// What the answer to [`Place::look`] says; `None` if it is none.
    pub fn standing(&self, created: i64, result: &TxnResult) -> Option<Standing> {
        let [Outcome::Range(own), Outcome::Range(before)] = result.outcomes.as_slice() else { return None };
        if own.kvs.first().is_none_or(|own| own.create_revision != created) {
            return Some(Standing::Gone);
        }
        // No revision is below 1, so nothing is before the first key of a store; and 0 would be no filter.
        let before = before.kvs.first().filter(|before| before.create_revision < created);
        Some(before.map_or(Standing::First, |before| Standing::Behind(before.key.clone())))
    }

    /// Leaves, if the key is still the one that was created at `created`.
    pub fn leave(&self, created: i64) -> Txn {
        leave(&self.key, created)
    }

    /// Gives the key another value, if it is still the one that was created at `created`.
    pub fn rewrite(&self, created: i64, value: Bytes) -> Txn {
        rewrite(&self.key, created, value, self.lease)
    }
}

/// Deletes `key`, if it was created at `created`.
pub fn leave(key: &Bytes, created: i64) -> Txn {
    let delete = DeleteRange { key: key.clone(), ..DeleteRange::default() };
    Txn {
        compares: vec![is_created_at(key, created)],
        success: vec![TxnOp::DeleteRange(delete)],
        failure: Vec::new(),
    }
}

/// Writes `key`, if it was created at `created`.
pub fn rewrite(key: &Bytes, created: i64, value: Bytes, lease: i64) -> Txn {
    let put = Put { key: key.clone(), value, lease, ..Put::default() };
    Txn { compares: vec![is_created_at(key, created)], success: vec![TxnOp::Put(put)], failure: Vec::new() }
}

/// The condition that `key` was created at `created`; 0: that it is not there. With it, a transaction has an effect only while the
/// holder of a lock holds it.
pub fn is_created_at(key: &Bytes, created: i64) -> Compare {
    Compare {
        key: key.clone(),
        range_end: Bytes::new(),
        result: CompareResult::Equal,
        operand: Operand::Create(created),
    }
}

/// Reads who is the first in the queue of `name`.
pub fn first(name: &[u8]) -> Range {
    first_of(prefix(name))
}

/// Every key in the queue of `name`, as `key` and `range_end`.
pub fn all(name: &[u8]) -> (Bytes, Bytes) {
    let prefix = prefix(name);
    let end = end(&prefix);
    (prefix, end)
}

/// The first that [`first`] found.
pub fn holder(found: Vec<KeyValue>) -> Option<KeyValue> {
    found.into_iter().next()
}

fn prefix(name: &[u8]) -> Bytes {
    [name, b"/"].concat().into()
}

/// The first key after all that begin with `prefix`, which ends with a slash.
fn end(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end.into()
}

fn one(key: &Bytes) -> Range {
    Range { key: key.clone(), ..Range::default() }
}

fn first_of(prefix: Bytes) -> Range {
    Range {
        range_end: end(&prefix),
        key: prefix,
        limit: 1,
        sort_order: SortOrder::Ascend,
        sort_target: SortTarget::Create,
        ..Range::default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

    use super::super::tests::Store;
    use super::*;
    use crate::mvcc::command::Command;
    use crate::mvcc::lease::LeaseCommand;

    /// A store with some leases.
    fn store(leases: &[i64]) -> Store {
        let mut store = Store::default();
        for id in leases {
            store.one(Command::Lease(LeaseCommand::Grant { id: *id, ttl: 9 })).unwrap();
        }
        store
    }

    fn run(store: &mut Store, txn: Txn) -> TxnResult {
        match store.one(Command::Txn(txn)).unwrap().outcome {
            Outcome::Txn(result) => result,
            other => panic!("{other:?}"),
        }
    }

    fn join(store: &mut Store, place: &Place) -> Joined {
        let result = run(store, place.join("v".into()));
        place.joined(&result).unwrap()
    }

    fn standing(store: &mut Store, place: &Place, created: i64) -> Standing {
        let result = run(store, place.look(created));
        place.standing(created, &result).unwrap()
    }

    #[test]
    fn keys_have_etcds_names() {
        for (name, lease, key) in
            [("L", 0x7413, "L/7413"), ("a/b", 1, "a/b/1"), ("neg", -77, "neg/-4d"), ("", 255, "/ff")]
        {
            assert_eq!(Place::new(name.as_bytes(), lease).key(), key);
        }
        assert_eq!(Place::new(b"m", i64::MIN).key(), "m/-8000000000000000");
        assert_eq!(all(b"a"), ("a/".into(), "a0".into()));
    }

    #[test]
    fn each_waits_for_the_one_before_it_and_nobody_else() {
        let mut store = store(&[1, 2, 3]);
        let places: Vec<Place> = (1..=3).map(|lease| Place::new(b"q", lease)).collect();
        let joined: Vec<Joined> = places.iter().map(|place| join(&mut store, place)).collect();
        assert_eq!(joined.iter().map(|joined| joined.is_first).collect::<Vec<_>>(), [true, false, false]);
        assert!(joined[0].created < joined[1].created && joined[1].created < joined[2].created);
        let stand = |store: &mut Store, at: usize| standing(store, &places[at], joined[at].created);
        assert_eq!(stand(&mut store, 0), Standing::First);
        assert_eq!(stand(&mut store, 1), Standing::Behind("q/1".into()));
        assert_eq!(stand(&mut store, 2), Standing::Behind("q/2".into()));
        // One in the middle leaves: whoever was behind it is behind the one before it.
        assert!(run(&mut store, places[1].leave(joined[1].created)).succeeded);
        assert_eq!(stand(&mut store, 2), Standing::Behind("q/1".into()));
        assert_eq!(stand(&mut store, 1), Standing::Gone);
        store.one(Command::Lease(LeaseCommand::Revoke { id: 1 })).unwrap();
        assert_eq!(stand(&mut store, 2), Standing::First);
    }

    #[test]
    fn the_same_lease_joins_once_and_another_queue_is_another_one() {
        let mut store = store(&[1, 2]);
        let place = Place::new(b"q", 1);
        let first = join(&mut store, &place);
        assert_eq!(first.found, None);
        let again = join(&mut store, &place);
        assert_eq!(again, Joined { found: Some("v".into()), ..first });
        // A name that begins alike.
        assert!(join(&mut store, &Place::new(b"q2", 2)).is_first);
        assert!(join(&mut store, &Place::new(b"q/1", 2)).is_first);
    }

    #[test]
    fn what_was_created_again_is_somebody_elses() {
        let mut store = store(&[1]);
        let place = Place::new(b"q", 1);
        let old = join(&mut store, &place).created;
        assert!(run(&mut store, place.leave(old)).succeeded);
        let new = join(&mut store, &place).created;
        assert!(!run(&mut store, place.leave(old)).succeeded);
        assert!(!run(&mut store, place.rewrite(old, "x".into())).succeeded);
        assert_eq!(standing(&mut store, &place, old), Standing::Gone);
        assert!(run(&mut store, place.rewrite(new, "x".into())).succeeded);
        assert_eq!(standing(&mut store, &place, new), Standing::First);
    }

    #[test]
    fn an_answer_to_something_else_is_none() {
        let place = Place::new(b"q", 1);
        let result = TxnResult { succeeded: true, revision: 1, outcomes: vec![Outcome::Lease] };
        assert_eq!(place.joined(&result), None);
        assert_eq!(place.standing(1, &result), None);
    }
}
