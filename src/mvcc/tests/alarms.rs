//! Alarms: what they refuse, how they come and go, and that they are part of the state.

use std::collections::BTreeMap;

use super::*;
use crate::identity::NodeId;
use crate::mvcc::alarm::{Alarm, AlarmCommand, AlarmKind, Cause};
use crate::mvcc::cluster::{ClusterCommand, Mark};
use crate::mvcc::command::{Txn, TxnOp};
use crate::mvcc::lease::LeaseCommand;

const ONE: NodeId = NodeId::new(0, 1);
const TWO: NodeId = NodeId::new(1, 1);

fn alarm(kind: AlarmKind, member: NodeId) -> Alarm {
    Alarm { kind, member }
}

fn command(alarm: Alarm, cause: Cause, raised: bool) -> Command {
    Command::Cluster(ClusterCommand::Alarm(AlarmCommand { alarm, cause, raised }))
}

fn set(store: &mut Store, alarm: Alarm, cause: Cause, raised: bool) -> Vec<Alarm> {
    let revision = store.state.revision();
    let reply = store.one(command(alarm, cause, raised)).unwrap();
    assert_eq!(reply.revision, revision, "no revision for an alarm");
    match reply.outcome {
        Outcome::Alarms(alarms) => alarms,
        other => panic!("{other:?}"),
    }
}

fn list(store: &Store) -> Vec<Alarm> {
    store.state.cluster().alarms.list()
}

fn txn(ops: Vec<TxnOp>) -> Command {
    Command::Txn(Txn { failure: ops, ..Txn::default() })
}

fn put_op(key: &str) -> TxnOp {
    match put(key, "v") {
        Command::Put(put) => TxnOp::Put(put),
        other => panic!("{other:?}"),
    }
}

fn delete_op(key: &str) -> TxnOp {
    match delete(key, "") {
        Command::DeleteRange(delete) => TxnOp::DeleteRange(delete),
        other => panic!("{other:?}"),
    }
}

#[test]
fn under_nospace_what_makes_the_store_grow_is_refused_and_nothing_else() {
    let mut store = Store::default();
    for key in ["a", "b"] {
        store.put(key, "v");
    }
    store.one(Command::Lease(LeaseCommand::Grant { id: 7, ttl: 60 })).unwrap();
    let no_space = alarm(AlarmKind::NoSpace, ONE);
    assert_eq!(set(&mut store, no_space, Cause::Held, true), [no_space]);
    let nested = txn(vec![TxnOp::Txn(Txn { success: vec![put_op("c")], ..Txn::default() })]);
    for grows in [
        put("a", "w"),
        put("c", ""),
        // In the branch that would not run, too.
        txn(vec![put_op("c")]),
        nested,
        Command::Lease(LeaseCommand::Grant { id: 8, ttl: 60 }),
    ] {
        assert_eq!(store.one(grows.clone()), Err(Refusal::NoSpace), "{grows:?}");
    }
    assert_eq!(store.state.revision(), 3);
    store.one(txn(vec![delete_op("a")])).unwrap();
    assert_eq!(store.delete("b", ""), 1);
    store.one(Command::Lease(LeaseCommand::Revoke { id: 7 })).unwrap();
    store.compact(3).unwrap();
    store.range(&range("a", "z")).unwrap();
    assert_eq!(set(&mut store, no_space, Cause::Held, false), [no_space]);
    store.put("c", "v");
}

#[test]
fn under_corrupt_keys_and_leases_are_neither_read_nor_changed() {
    let mut store = Store::default();
    store.put("a", "v");
    store.one(Command::Lease(LeaseCommand::Grant { id: 7, ttl: 60 })).unwrap();
    let corrupt = alarm(AlarmKind::Corrupt, TWO);
    set(&mut store, corrupt, Cause::Held, true);
    let granted = store.state.leases().get(7).unwrap().granted;
    for refused in [
        put("a", "w"),
        delete("a", ""),
        txn(vec![]),
        Command::Compact(Compact { revision: 2, physical: false }),
        Command::Lease(LeaseCommand::Grant { id: 8, ttl: 60 }),
        Command::Lease(LeaseCommand::Revoke { id: 7 }),
        Command::Lease(LeaseCommand::Expire { term: 1, leases: vec![(7, granted)] }),
    ] {
        assert_eq!(store.one(refused.clone()), Err(Refusal::Corrupt), "{refused:?}");
    }
    assert_eq!(store.range(&range("a", "")), Err(Refusal::Corrupt));
    assert_eq!(store.state.read_txn(&store.engine, &Txn::default()), Err(Refusal::Corrupt));
    // What consensus needs goes on.
    store.one(Command::Cluster(ClusterCommand::Marks(vec![(ONE, Mark::default())]))).unwrap();
    assert!(store.state.hash(&store.engine, 0).is_ok(), "the hashes are what people look at now");
    set(&mut store, corrupt, Cause::Held, false);
    assert_eq!(store.range(&range("a", "")).unwrap().count, 1);
    store.one(Command::Lease(LeaseCommand::Expire { term: 1, leases: vec![(7, granted)] })).unwrap();
    assert!(store.state.leases().is_empty());
}

#[test]
fn an_alarm_is_of_one_member_and_is_raised_once() {
    let mut store = Store::default();
    let [first, second] = [ONE, TWO].map(|member| alarm(AlarmKind::NoSpace, member));
    let other = alarm(AlarmKind::Corrupt, ONE);
    for raised in [first, first, second] {
        assert_eq!(set(&mut store, raised, Cause::Held, true), [raised]);
    }
    assert_eq!(list(&store), [first, second]);
    assert_eq!(set(&mut store, other, Cause::Held, false), [], "it was not there");
    assert_eq!(set(&mut store, first, Cause::Held, false), [first]);
    assert_eq!(set(&mut store, first, Cause::Held, false), []);
    assert_eq!(store.one(put("a", "v")), Err(Refusal::NoSpace), "the other one is still there");
    assert_eq!(set(&mut store, second, Cause::Held, false), [second]);
    store.put("a", "v");
}

#[test]
fn the_alarm_about_a_volume_goes_by_itself_and_leaves_the_held_one() {
    let mut store = Store::default();
    let full = alarm(AlarmKind::NoSpace, ONE);
    set(&mut store, full, Cause::Held, true);
    set(&mut store, full, Cause::Disk, true);
    assert_eq!(list(&store), [full], "clients see one");
    assert_eq!(set(&mut store, full, Cause::Disk, false), [full]);
    assert_eq!(list(&store), [full], "the held one stays until somebody disarms it");
    assert_eq!(set(&mut store, full, Cause::Disk, false), []);
    // By hand both go.
    set(&mut store, full, Cause::Disk, true);
    assert_eq!(set(&mut store, full, Cause::Held, false), [full]);
    assert_eq!(list(&store), []);
}

#[test]
fn the_alarm_about_a_volume_goes_with_its_member() {
    let mut store = Store::default();
    for member in [ONE, TWO] {
        set(&mut store, alarm(AlarmKind::NoSpace, member), Cause::Disk, true);
    }
    set(&mut store, alarm(AlarmKind::Corrupt, TWO), Cause::Held, true);
    let changes = store.state.apply_membership(&BTreeMap::from([(ONE, true)]));
    store.engine.write(&changes);
    let left = [alarm(AlarmKind::NoSpace, ONE), alarm(AlarmKind::Corrupt, TWO)];
    assert_eq!(list(&store), left);
    assert_eq!(State::load(&store.engine).unwrap().cluster().alarms.list(), left);
}

#[test]
fn alarms_are_loaded_and_in_the_small_state() {
    let mut store = Store::default();
    store.put("a", "v");
    let held = alarm(AlarmKind::NoSpace, NodeId(0));
    let other = alarm(AlarmKind::Corrupt, TWO);
    set(&mut store, held, Cause::Held, true);
    set(&mut store, held, Cause::Disk, true);
    set(&mut store, other, Cause::Held, true);
    let loaded = State::load(&store.engine).unwrap();
    assert_eq!(loaded.cluster(), store.state.cluster());
    let mut copy = Memory::default();
    copy.0.extend(store.state.small_state());
    assert_eq!(State::load(&copy).unwrap().cluster(), store.state.cluster());
    set(&mut store, other, Cause::Held, false);
    assert_eq!(State::load(&store.engine).unwrap().cluster().alarms.list(), [held]);
}

#[test]
fn one_that_comes_and_goes_in_one_entry_leaves_no_trace() {
    let mut store = Store::default();
    let full = alarm(AlarmKind::NoSpace, ONE);
    let before = store.engine.clone();
    let commands =
        [command(full, Cause::Held, true), put("a", "v"), command(full, Cause::Held, false), put("b", "v")];
    let replies = store.apply(commands).replies;
    assert_eq!(replies[1], Err(Refusal::NoSpace), "commands of one entry see each other");
    assert_eq!(replies[3].as_ref().unwrap().revision, 2);
    store.delete("b", "");
    assert!(store.engine.0.keys().all(|key| !key.starts_with(b"sk")));
    assert!(before.0.is_empty());
}

#[test]
fn alarms_are_bounded() {
    let mut store = Store::default();
    let nth = |number: usize| alarm(AlarmKind::Corrupt, NodeId(number as u64));
    for number in 0..crate::limits::ALARMS {
        set(&mut store, nth(number), Cause::Held, true);
    }
    let one_more = command(nth(crate::limits::ALARMS), Cause::Held, true);
    assert_eq!(store.one(one_more), Err(Refusal::TooManyAlarms));
    assert_eq!(set(&mut store, nth(5), Cause::Held, true), [nth(5)], "it is there already");
    assert_eq!(set(&mut store, nth(5), Cause::Held, false), [nth(5)]);
    set(&mut store, nth(crate::limits::ALARMS), Cause::Held, true);
}

#[test]
fn costs_are_etcds_estimates() {
    assert_eq!(put("ab", "cde").cost(), 256 + 5);
    assert_eq!(delete("a", "").cost(), 0);
    assert_eq!(Command::Lease(LeaseCommand::Grant { id: 1, ttl: 1 }).cost(), 64);
    let ops = |count: usize| (0..count).map(|_| put_op("k")).collect::<Vec<_>>();
    let both = Txn { success: ops(2), failure: ops(3), ..Txn::default() };
    assert_eq!(Command::Txn(both.clone()).cost(), 3 * 258, "the larger branch");
    let nested = Txn { success: vec![TxnOp::Txn(both), delete_op("x")], ..Txn::default() };
    assert_eq!(Command::Txn(nested).cost(), 3 * 258);
}

#[test]
fn the_bytes_of_the_history_are_counted_through_compaction_and_loading() {
    let mut store = Store::default();
    let check = |store: &Store| {
        let history = store.engine.0.iter().filter(|(key, _)| key.starts_with(b"h"));
        let bytes: usize = history.map(|(key, value)| key.len() + value.len()).sum();
        assert_eq!(store.state.history_bytes(), bytes as u64);
        assert_eq!(State::load(&store.engine).unwrap().history_bytes(), bytes as u64);
        bytes
    };
    assert_eq!(check(&store), 0);
    let large = "x".repeat(3 * crate::limits::RECORD_BYTES);
    for round in 0..3 {
        store.apply((0..20).map(|key| put(&format!("k{key}"), &format!("value {round}"))));
        store.put("large", &large);
        store.delete("k1", "k3");
        check(&store);
    }
    let before = check(&store);
    store.compact(store.state.revision()).unwrap();
    while store.step(1) {
        check(&store);
    }
    assert!(check(&store) < before / 2);
    store.delete("", "\0");
    store.put("last", "");
    store.compact(store.state.revision()).unwrap();
    store.clean();
    assert!(check(&store) < 200);
}
