//! Transactions: etcd's rules, one by one.

use super::*;
use crate::mvcc::command::{Compare, CompareResult, Operand, Txn, TxnOp, TxnResult};
use CompareResult::{Equal, Greater, Less, NotEqual};

fn compare(key: &str, range_end: &str, result: CompareResult, operand: Operand) -> Compare {
    Compare { key: text(key), range_end: text(range_end), result, operand }
}

fn op(command: Command) -> TxnOp {
    match command {
        Command::Put(put) => TxnOp::Put(put),
        Command::DeleteRange(delete) => TxnOp::DeleteRange(delete),
        Command::Txn(txn) => TxnOp::Txn(txn),
        other => panic!("{other:?}"),
    }
}

fn read(range: Range) -> TxnOp {
    TxnOp::Range(range)
}

fn success(ops: Vec<TxnOp>) -> Txn {
    Txn { success: ops, ..Txn::default() }
}

fn run(store: &mut Store, txn: Txn) -> Result<TxnResult, Refusal> {
    store.one(Command::Txn(txn)).map(|reply| match reply.outcome {
        Outcome::Txn(result) => result,
        other => panic!("{other:?}"),
    })
}

/// Whether one compare holds.
fn holds(store: &mut Store, key: &str, range_end: &str, result: CompareResult, operand: Operand) -> bool {
    let txn = Txn { compares: vec![compare(key, range_end, result, operand)], ..Txn::default() };
    run(store, txn).unwrap().succeeded
}

#[test]
fn an_empty_txn_succeeds_and_changes_nothing() {
    let mut store = Store::default();
    let result = run(&mut store, Txn::default()).unwrap();
    assert_eq!(result, TxnResult { succeeded: true, revision: 1, outcomes: vec![] });
}

#[test]
fn a_missing_key_compares_as_zero_but_its_value_never_holds() {
    let mut store = Store::default();
    for operand in [Operand::Version(0), Operand::Create(0), Operand::Mod(0), Operand::Lease(0)] {
        for range_end in ["", "z", "\0"] {
            assert!(holds(&mut store, "k", range_end, Equal, operand.clone()));
            assert!(!holds(&mut store, "k", range_end, NotEqual, operand.clone()));
        }
    }
    assert!(holds(&mut store, "k", "", Less, Operand::Version(1)));
    for result in [Equal, NotEqual, Greater, Less] {
        assert!(!holds(&mut store, "k", "", result, Operand::Value(text("x"))));
        assert!(!holds(&mut store, "k", "z", result, Operand::Value(text(""))));
    }
}

#[test]
fn a_range_compare_must_hold_for_every_key() {
    let mut store = Store::default();
    for (key, value) in [("a", "1"), ("b", "1"), ("c", "2")] {
        store.put(key, value);
    }
    assert!(holds(&mut store, "a", "c", Equal, Operand::Value(text("1"))));
    assert!(!holds(&mut store, "a", "\0", Equal, Operand::Value(text("1"))));
    assert!(holds(&mut store, "a", "\0", Greater, Operand::Mod(1)));
    assert!(!holds(&mut store, "a", "\0", Greater, Operand::Mod(2)));
    assert!(holds(&mut store, "a", "\0", Less, Operand::Value(text("3"))));
    assert!(holds(&mut store, "a", "\0", Equal, Operand::Lease(0)));
    store.put("a", "1");
    assert!(!holds(&mut store, "a", "\0", Equal, Operand::Version(1)));
    assert!(holds(&mut store, "a", "", Equal, Operand::Create(2)));
}

#[test]
fn operations_see_earlier_ones_and_carry_the_revision_they_saw() {
    let mut store = Store::default();
    store.put("m", "0");
    let txn = success(vec![
        read(range("m", "")),
        op(delete("none", "")),
        op(put("m", "1")),
        read(range("m", "")),
        read(Range { revision: 2, ..range("m", "") }),
        op(delete("none", "")),
        op(put("n", "1")),
    ]);
    let result = run(&mut store, txn).unwrap();
    assert_eq!((result.succeeded, result.revision), (true, 3));
    let ranges: Vec<_> = result
        .outcomes
        .iter()
        .filter_map(|outcome| match outcome {
            Outcome::Range(range) => Some((range.revision, &range.kvs[0].value[..])),
            _ => None,
        })
        .collect();
    assert_eq!(ranges, [(2, &b"0"[..]), (3, b"1"), (3, b"0")]);
    let deletes: Vec<_> = result
        .outcomes
        .iter()
        .filter_map(|outcome| match outcome {
            Outcome::DeleteRange(deleted) => Some((deleted.deleted, deleted.revision)),
            _ => None,
        })
        .collect();
    assert_eq!(deletes, [(0, 2), (0, 3)]);
    assert_eq!(store.range(&range("n", "")).unwrap().kvs[0].mod_revision, 3, "one main revision");
}

#[test]
fn only_the_chosen_path_is_checked_and_a_refusal_changes_nothing() {
    let mut store = Store::default();
    store.put("k", "v");
    let bad = |revision| read(Range { revision, ..range("k", "") });
    let leased = |lease| TxnOp::Put(Put { key: text("l"), lease, ..Put::default() });
    let txn = Txn { failure: vec![bad(99), leased(5)], ..success(vec![op(put("a", "1"))]) };
    assert_eq!(run(&mut store, txn).unwrap().revision, 3);
    let nested = |op| TxnOp::Txn(success(vec![op]));
    for (last, refusal) in [
        (bad(99), Refusal::FutureRevision),
        (bad(4), Refusal::FutureRevision),
        (leased(5), Refusal::LeaseNotFound),
        (nested(leased(5)), Refusal::LeaseNotFound),
        (TxnOp::Put(Put { key: text("no"), ignore_value: true, ..Put::default() }), Refusal::KeyNotFound),
    ] {
        let before = store.engine.clone();
        assert_eq!(run(&mut store, success(vec![op(put("a", "2")), last])), Err(refusal));
        assert_eq!((store.state.revision(), &store.engine), (3, &before));
    }
    store.compact(3).unwrap();
    for below in [2, 1, -1, -7] {
        assert_eq!(run(&mut store, success(vec![bad(below)])), Err(Refusal::Compacted), "{below}");
    }
    run(&mut store, success(vec![bad(3), bad(0)])).unwrap();
}

#[test]
fn nested_compares_see_the_state_before_the_whole_transaction() {
    let mut store = Store::default();
    let guard = compare("k", "", Equal, Operand::Create(0));
    let inner = Txn {
        compares: vec![guard],
        success: vec![op(put("inner", "absent"))],
        failure: vec![op(put("inner", "present"))],
    };
    let txn = success(vec![op(put("k", "1")), TxnOp::Txn(inner.clone()), read(range("inner", ""))]);
    let result = run(&mut store, txn).unwrap();
    let Outcome::Txn(nested) = &result.outcomes[1] else { panic!() };
    assert!(nested.succeeded, "k was not there when the transaction began");
    assert_eq!(nested.revision, 2);
    let outer = Txn {
        compares: vec![compare("k", "", Equal, Operand::Value(text("no")))],
        success: vec![],
        failure: vec![TxnOp::Txn(inner.clone()), TxnOp::Txn(success(vec![TxnOp::Txn(inner)]))],
    };
    let result = run(&mut store, outer).unwrap();
    assert!(!result.succeeded);
    assert_eq!(store.range(&range("inner", "")).unwrap().kvs[0].value, "present");
}

#[test]
fn a_txn_that_changes_nothing_does_not_move_the_revision() {
    let mut store = Store::default();
    store.put("k", "v");
    let txn = success(vec![read(range("k", "")), op(delete("none", "\0")), TxnOp::Txn(Txn::default())]);
    let applied = store.apply([Command::Txn(txn)]);
    assert!(applied.changes.is_empty());
    assert_eq!(applied.replies[0].as_ref().unwrap().revision, 2);
}

#[test]
fn a_read_only_txn_needs_no_log() {
    let mut store = Store::default();
    store.put("k", "v");
    let txn = Txn {
        compares: vec![compare("k", "", Equal, Operand::Value(text("v")))],
        success: vec![read(range("k", ""))],
        failure: vec![read(Range { revision: 99, ..range("k", "") })],
    };
    let direct = store.state.read_txn(&store.engine, &txn).unwrap().unwrap();
    assert_eq!(direct, run(&mut store, txn.clone()).unwrap());
    let writes = Txn { failure: vec![op(put("k", ""))], ..txn.clone() };
    assert_eq!(store.state.read_txn(&store.engine, &writes), Ok(None), "in either branch");
    assert_eq!(store.state.read_txn(&store.engine, &success(vec![TxnOp::Txn(txn.clone())])), Ok(None));
    store.put("k", "other");
    assert_eq!(store.state.read_txn(&store.engine, &txn), Err(Refusal::FutureRevision));
}

#[test]
fn a_value_that_a_txn_deleted_is_nothing_to_keep() {
    // Only a transaction that `check` refuses can ask for it; applying it must be defined all the same.
    let mut store = Store::default();
    store.put("k", "v");
    let keep = TxnOp::Put(Put { key: text("k"), ignore_value: true, prev_kv: true, ..Put::default() });
    let txn = success(vec![op(delete("k", "")), keep]);
    assert_eq!(crate::mvcc::check::txn(&txn, 128), Err(crate::mvcc::check::Invalid::DuplicateKey));
    let result = run(&mut store, txn).unwrap();
    assert_eq!(result.outcomes[1], Outcome::Put(None));
    let kv = &store.range(&range("k", "")).unwrap().kvs[0];
    assert_eq!((kv.version, kv.create_revision, kv.value.len()), (1, 3, 0));
}
