//! What is wrong with a request, whatever the state: checked before it is proposed. Pure functions; `api` gives the errors
//! etcd's codes and texts.
//!
//! etcd checks the form of a whole transaction first and only then whether its operations overlap. [`txn`] does both. A caller
//! that meets mistakes which a [`Txn`] cannot hold while it makes one (an operation without content, a sort option that
//! does not exist) takes [`txn_budget`] and the checks of the single operations as it goes, and [`overlaps`] at the end.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use super::command::{DeleteRange, Put, Range, Txn, TxnOp};

/// A request that is refused for its form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// No key, in a request, an operation or a compare.
    #[error("key is not provided")]
    EmptyKey,
    /// `ignore_value` together with a value.
    #[error("value is provided")]
    ValueProvided,
    /// `ignore_lease` together with a lease.
    #[error("lease is provided")]
    LeaseProvided,
    /// More compares or operations than a transaction may have.
    #[error("too many operations in txn request")]
    TooManyOperations,
    /// A key is put twice, or put and deleted, in what may run together.
    #[error("duplicate key given in txn request")]
    DuplicateKey,
    /// An operation without content; etcd says "key not found". Nothing here finds it: a [`TxnOp`] always has content.
    #[error("operation is empty")]
    EmptyOperation,
    /// A sort order or target that does not exist. Nothing here finds it: [`Range`] has none such.
    #[error("invalid sort option")]
    SortOption,
}

/// Check a range.
pub fn range(range: &Range) -> Result<(), Invalid> {
    key(&range.key)
}

/// Check a put.
pub fn put(put: &Put) -> Result<(), Invalid> {
    key(&put.key)?;
    if put.ignore_value && !put.value.is_empty() {
        return Err(Invalid::ValueProvided);
    }
    if put.ignore_lease && put.lease != 0 {
        return Err(Invalid::LeaseProvided);
    }
    Ok(())
}

/// Check a delete.
pub fn delete_range(delete: &DeleteRange) -> Result<(), Invalid> {
    key(&delete.key)
}

/// Check the key of a request, an operation or a compare.
pub fn key(key: &[u8]) -> Result<(), Invalid> {
    if key.is_empty() { Err(Invalid::EmptyKey) } else { Ok(()) }
}

/// Check a transaction of at most `limit` compares, and operations per branch (see [`txn_budget`]).
pub fn txn(txn: &Txn, limit: usize) -> Result<(), Invalid> {
    form(txn, limit)?;
    overlaps(txn)
}

/// What a transaction with so many compares and operations leaves of `limit` for each transaction inside it.
pub fn txn_budget(compares: usize, success: usize, failure: usize, limit: usize) -> Result<usize, Invalid> {
    limit.checked_sub(compares.max(success).max(failure)).ok_or(Invalid::TooManyOperations)
}

/// Check that no key is put twice, or put and deleted, in operations that may run together: those of one branch, with all
/// that is nested in it. The two branches of one nested transaction exclude each other. Deleting twice is allowed.
///
/// Two things that etcd does not find are not found here either: a put in a nested transaction before a delete in a later nested
/// one, and a delete up to the end of the key space (`range_end` `"\0"`).
pub fn overlaps(txn: &Txn) -> Result<(), Invalid> {
    writes(&txn.success)?;
    writes(&txn.failure)?;
    Ok(())
}

impl Txn {
    /// It holds nothing but ranges, in both branches. With a transaction inside it counts as writing, as in etcd.
    pub fn is_read_only(&self) -> bool {
        self.success.iter().chain(&self.failure).all(|op| matches!(op, TxnOp::Range(_)))
    }
}

fn form(txn: &Txn, limit: usize) -> Result<(), Invalid> {
    let rest = txn_budget(txn.compares.len(), txn.success.len(), txn.failure.len(), limit)?;
    txn.compares.iter().try_for_each(|compare| key(&compare.key))?;
    txn.success.iter().chain(&txn.failure).try_for_each(|op| match op {
        TxnOp::Range(op) => range(op),
        TxnOp::Put(op) => put(op),
        TxnOp::DeleteRange(op) => delete_range(op),
        TxnOp::Txn(op) => form(op, rest),
    })
}

/// What a list of operations may write.
#[derive(Default)]
struct Writes<'a> {
    puts: BTreeSet<&'a [u8]>,
    deletes: Intervals<'a>,
}

impl<'a> Writes<'a> {
    /// Whether `key` may be put beside all this.
    fn check(&self, key: &[u8]) -> Result<(), Invalid> {
        if self.puts.contains(key) || self.deletes.contains(key) {
            return Err(Invalid::DuplicateKey);
        }
        Ok(())
    }

    fn put(&mut self, key: &'a [u8]) -> Result<(), Invalid> {
        self.check(key)?;
        self.puts.insert(key);
        Ok(())
    }
}

/// Collects what `ops` write. In etcd's order, which decides what is found: deletes of this level, nested transactions one by
/// one, puts of this level.
fn writes(ops: &[TxnOp]) -> Result<Writes<'_>, Invalid> {
    let mut all = Writes::default();
    for op in ops {
        if let TxnOp::DeleteRange(delete) = op {
            all.deletes.insert_range(&delete.key, &delete.range_end);
        }
    }
    for op in ops {
        let TxnOp::Txn(nested) = op else { continue };
        let (success, failure) = (writes(&nested.success)?, writes(&nested.failure)?);
        for key in success.puts.iter().chain(&failure.puts) {
            all.check(key)?;
        }
        all.puts.extend(success.puts);
        all.puts.extend(failure.puts);
        all.deletes.extend(success.deletes);
        all.deletes.extend(failure.deletes);
    }
    for op in ops {
        if let TxnOp::Put(put) = op {
            all.put(&put.key)?;
        }
    }
    Ok(all)
}

/// A set of keys, as disjoint intervals `[from, to)` by `from`.
#[derive(Default)]
struct Intervals<'a>(BTreeMap<&'a [u8], Cow<'a, [u8]>>);

impl<'a> Intervals<'a> {
    fn contains(&self, key: &[u8]) -> bool {
        let before = self.0.range::<[u8], _>((Bound::Unbounded, Bound::Included(key))).next_back();
        before.is_some_and(|(_, to)| key < to.as_ref())
    }

    fn insert_range(&mut self, key: &'a [u8], range_end: &'a [u8]) {
        if range_end.is_empty() {
            self.insert(key, Cow::Owned([key, &[0]].concat()));
        } else {
            self.insert(key, Cow::Borrowed(range_end));
        }
    }

    fn insert(&mut self, from: &'a [u8], to: Cow<'a, [u8]>) {
        if to.as_ref() <= from {
            return;
        }
        let (mut from, mut to) = (from, to);
        // Swallow every interval that this one meets: the last that begins at or before its end, until that ends before it.
        loop {
            let last = self.0.range::<[u8], _>((Bound::Unbounded, Bound::Included(to.as_ref()))).next_back();
            let Some((&met, end)) = last.filter(|(_, end)| end.as_ref() >= from) else { break };
            if end.as_ref() > to.as_ref() {
                to.clone_from(end);
            }
            from = from.min(met);
            self.0.remove(met);
        }
        self.0.insert(from, to);
    }

    fn extend(&mut self, other: Self) {
        for (from, to) in other.0 {
            self.insert(from, to);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::super::command::{Compare, CompareResult, Operand};
    use super::*;

    fn put(key: &'static str) -> TxnOp {
        TxnOp::Put(Put { key: key.into(), ..Put::default() })
    }

    fn delete(key: &'static str, range_end: &'static str) -> TxnOp {
        TxnOp::DeleteRange(DeleteRange { key: key.into(), range_end: range_end.into(), prev_kv: false })
    }

    fn nested(success: Vec<TxnOp>, failure: Vec<TxnOp>) -> TxnOp {
        TxnOp::Txn(Txn { compares: vec![], success, failure })
    }

    fn both(ops: Vec<TxnOp>) -> Result<(), Invalid> {
        let success = Txn { success: ops.clone(), ..Txn::default() };
        let failure = Txn { failure: ops, ..Txn::default() };
        assert_eq!(txn(&success, 128), txn(&failure, 128));
        txn(&success, 128)
    }

    #[test]
    fn a_put_says_one_thing() {
        let of = |key: &'static str, value: &'static str, lease, ignore_value, ignore_lease| {
            let (key, value) = (key.into(), value.into());
            super::put(&Put { key, value, lease, ignore_value, ignore_lease, prev_kv: false })
        };
        assert_eq!(of("", "", 0, false, false), Err(Invalid::EmptyKey));
        assert_eq!(of("k", "v", 0, true, false), Err(Invalid::ValueProvided));
        assert_eq!(of("k", "", 5, false, true), Err(Invalid::LeaseProvided));
        assert_eq!(of("k", "v", 5, false, false), Ok(()));
        assert_eq!(of("k", "", 0, true, true), Ok(()));
    }

    #[test]
    fn overlaps_are_found_as_in_etcd() {
        let duplicate = Err(Invalid::DuplicateKey);
        assert_eq!(both(vec![put("x"), put("x")]), duplicate);
        assert_eq!(both(vec![put("x"), put("y")]), Ok(()));
        assert_eq!(both(vec![put("x"), delete("x", "")]), duplicate);
        assert_eq!(both(vec![delete("x", "y"), put("x1")]), duplicate);
        assert_eq!(both(vec![delete("x", "y"), put("y")]), Ok(()));
        assert_eq!(both(vec![delete("y", "x"), put("x1")]), Ok(()), "an inverted range is empty");
        assert_eq!(both(vec![delete("x", ""), delete("x", ""), delete("a", "z")]), Ok(()));
        assert_eq!(both(vec![put("x"), delete("a", "\0")]), Ok(()), "etcd does not see this one");
        // Nested: with this level, with each other, but not the two branches of one.
        assert_eq!(both(vec![nested(vec![put("x")], vec![]), put("x")]), duplicate);
        assert_eq!(both(vec![nested(vec![], vec![put("x")]), put("x")]), duplicate);
        assert_eq!(both(vec![nested(vec![put("x")], vec![put("x")])]), Ok(()));
        assert_eq!(both(vec![nested(vec![put("x")], vec![]), nested(vec![], vec![put("x")])]), duplicate);
        assert_eq!(both(vec![nested(vec![put("x")], vec![]), delete("a", "z")]), duplicate);
        assert_eq!(both(vec![nested(vec![delete("a", "z")], vec![]), put("x")]), duplicate);
        assert_eq!(
            both(vec![nested(vec![delete("a", "z")], vec![]), nested(vec![], vec![put("x")])]),
            duplicate
        );
        assert_eq!(
            both(vec![nested(vec![put("x")], vec![]), nested(vec![delete("x", "")], vec![])]),
            Ok(()),
            "etcd does not see this one"
        );
        assert_eq!(
            both(vec![nested(vec![nested(vec![put("x")], vec![put("x")])], vec![]), put("x")]),
            duplicate
        );
    }

    #[test]
    fn the_budget_shrinks_with_each_level() {
        let puts = |count: usize| {
            let key = |number| TxnOp::Put(Put { key: format!("{number}").into(), ..Put::default() });
            (0..count).map(key).collect::<Vec<_>>()
        };
        assert_eq!(both(puts(128)), Ok(()));
        assert_eq!(both(puts(129)), Err(Invalid::TooManyOperations));
        let inner = |count| TxnOp::Txn(Txn { success: puts(count), ..Txn::default() });
        assert_eq!(both(vec![inner(127)]), Ok(()));
        assert_eq!(both(vec![inner(128)]), Err(Invalid::TooManyOperations));
        let compare = Compare {
            key: "k".into(),
            range_end: Bytes::new(),
            result: CompareResult::Equal,
            operand: Operand::Version(0),
        };
        let many = Txn { compares: vec![compare.clone(); 129], ..Txn::default() };
        assert_eq!(txn(&many, 128), Err(Invalid::TooManyOperations));
        let unnamed = Txn { compares: vec![Compare { key: Bytes::new(), ..compare }], ..Txn::default() };
        assert_eq!(txn(&unnamed, 128), Err(Invalid::EmptyKey));
        let mut deep = Txn::default();
        for _ in 0..128 {
            deep = Txn { success: vec![TxnOp::Txn(deep)], ..Txn::default() };
        }
        assert_eq!(txn(&deep, 128), Ok(()));
        deep = Txn { success: vec![TxnOp::Txn(deep)], ..Txn::default() };
        assert_eq!(txn(&deep, 128), Err(Invalid::TooManyOperations));
    }

    #[test]
    fn operations_are_checked_inside() {
        assert_eq!(both(vec![TxnOp::Range(Range::default())]), Err(Invalid::EmptyKey));
        assert_eq!(both(vec![delete("", "z")]), Err(Invalid::EmptyKey));
        let bad = TxnOp::Put(Put { key: "k".into(), lease: 1, ignore_lease: true, ..Put::default() });
        assert_eq!(both(vec![nested(vec![], vec![bad])]), Err(Invalid::LeaseProvided));
        assert!(Txn::default().is_read_only());
        assert!(!Txn { failure: vec![put("k")], ..Txn::default() }.is_read_only());
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn intervals_are_a_set(ranges in prop::collection::vec(("[a-f]{0,2}", "[a-f]{0,2}"), 0..12)) {
            let mut intervals = Intervals::default();
            for (from, to) in &ranges {
                intervals.insert(from.as_bytes(), Cow::Borrowed(to.as_bytes()));
            }
            let names = ["", "a", "b", "c", "d", "e", "f", "aa", "ab", "ba", "bf", "ca", "cc", "da", "ef", "fa", "ff"];
            for name in names {
                let expected = ranges.iter().any(|(from, to)| from.as_str() <= name && name < to.as_str());
                prop_assert_eq!(intervals.contains(name.as_bytes()), expected, "{}", name);
            }
        }
    }
}
