//! Leases: etcd's rules, one by one, and what is written for them.

use super::*;
use crate::mvcc::command::{Txn, TxnOp};
use crate::mvcc::lease::{Granted, LeaseCommand, MAX_TTL};
use crate::mvcc::{EventKind, LoadError, Reason};

fn grant(id: i64, ttl: i64) -> Command {
    Command::Lease(LeaseCommand::Grant { id, ttl })
}

fn revoke(id: i64) -> Command {
    Command::Lease(LeaseCommand::Revoke { id })
}

fn put_on(key: &str, lease: i64) -> Command {
    Command::Put(Put { key: text(key), value: text("v"), lease, ..Put::default() })
}

fn granted(store: &Store, id: i64) -> Granted {
    store.state.leases().get(id).unwrap().granted
}

fn expire(store: &Store, term: u64, ids: &[i64]) -> Command {
    let leases = ids.iter().map(|id| (*id, granted(store, *id))).collect();
    Command::Lease(LeaseCommand::Expire { term, leases })
}

fn hanging(store: &Store, id: i64) -> Vec<&str> {
    let lease = store.state.leases().get(id).unwrap();
    lease.keys().map(|key| std::str::from_utf8(key).unwrap()).collect()
}

#[test]
fn a_lease_is_granted_once_and_any_id_but_0_will_do() {
    let mut store = Store::default();
    assert_eq!(store.one(grant(7, 60)).unwrap().outcome, Outcome::Granted { id: 7, ttl: 60 });
    assert_eq!(store.one(grant(7, 60)), Err(Refusal::LeaseExists));
    assert_eq!(store.one(grant(-3, 60)).unwrap().outcome, Outcome::Granted { id: -3, ttl: 60 });
    assert!(store.one(grant(0, 60)).is_err());
    assert_eq!(store.one(grant(8, MAX_TTL + 1)), Err(Refusal::LeaseTtlTooLarge));
    assert!(store.one(grant(8, MAX_TTL)).is_ok());
    assert_eq!(store.state.revision(), 1, "leases are no revisions");
}

#[test]
fn a_key_hangs_on_the_lease_of_its_newest_version() {
    let mut store = Store::default();
    assert_eq!(store.one(put_on("k", 7)), Err(Refusal::LeaseNotFound));
    store.apply([grant(7, 60), grant(8, 60)]);
    store.one(put_on("k", 7)).unwrap();
    store.one(put_on("l", 7)).unwrap();
    assert_eq!(hanging(&store, 7), ["k", "l"]);
    store.one(put_on("k", 8)).unwrap();
    assert_eq!((hanging(&store, 7), hanging(&store, 8)), (vec!["l"], vec!["k"]), "moved");
    let keep = Put { key: text("k"), ignore_lease: true, ..Put::default() };
    store.one(Command::Put(keep)).unwrap();
    assert_eq!(hanging(&store, 8), ["k"], "kept");
    store.put("k", "no lease");
    assert!(hanging(&store, 8).is_empty(), "a put without a lease detaches");
    store.delete("l", "");
    assert!(hanging(&store, 7).is_empty(), "so does a deletion");
    store.reload();
    assert_eq!(store.state.leases().key_count(), 0);
    assert_eq!(store.state.leases().len(), 2, "without keys they stay");
}

#[test]
fn a_transaction_may_hang_and_detach_and_a_refused_one_does_nothing() {
    let mut store = Store::default();
    store.apply([grant(7, 60), put_on("a", 7)]);
    let op = |key: &str, lease| TxnOp::Put(Put { key: text(key), lease, ..Put::default() });
    let txn = |success| Command::Txn(Txn { success, ..Txn::default() });
    assert_eq!(store.one(txn(vec![op("a", 0), op("b", 9)])), Err(Refusal::LeaseNotFound));
    assert_eq!(hanging(&store, 7), ["a"]);
    store.one(txn(vec![op("a", 0), op("b", 7)])).unwrap();
    assert_eq!(hanging(&store, 7), ["b"]);
    let not_run = Txn { failure: vec![op("c", 9)], ..Txn::default() };
    assert!(store.one(Command::Txn(not_run)).is_ok(), "only what runs is checked");
}

#[test]
fn a_revoked_lease_takes_its_keys_along_sorted_at_one_revision() {
    let mut store = Store::default();
    store.apply([grant(7, 60), put_on("c", 7), put_on("a", 7), put_on("b", 7), put("d", "stays")]);
    let before = store.state.revision();
    let applied = store.apply([revoke(7)]);
    assert_eq!(applied.replies[0].as_ref().unwrap().revision, before + 1);
    let gone: Vec<_> = applied.events.iter().map(|event| (event.kind, event.kv.mod_revision)).collect();
    assert_eq!(gone, [(EventKind::Delete, before + 1); 3]);
    let keys: Vec<_> = applied.events.iter().map(|event| event.kv.key.clone()).collect();
    assert_eq!(keys, [text("a"), text("b"), text("c")]);
    assert_eq!(store.one(revoke(7)), Err(Refusal::LeaseNotFound));
    assert_eq!(store.state.keys(), 1);
    store.reload();
    assert!(store.state.leases().is_empty());
}

#[test]
fn a_lease_without_keys_moves_no_revision() {
    let mut store = Store::default();
    store.apply([grant(7, 60), put("k", "v")]);
    let revision = store.state.revision();
    assert_eq!(store.one(revoke(7)).unwrap().revision, revision);
    assert_eq!(store.state.revision(), revision);
}

#[test]
fn thousands_of_keys_and_many_leases_go_at_one_revision() {
    let mut store = Store::default();
    store.apply((1..=3).map(|id| grant(id, 60)));
    store.apply((0..5_000).map(|number| put_on(&format!("k{number:04}"), 1 + number % 3)));
    let before = store.state.revision();
    let command = expire(&store, 1, &[1, 2, 3]);
    let applied = store.apply([command]);
    assert_eq!(applied.events.len(), 5_000);
    assert!(applied.events.iter().all(|event| event.kv.mod_revision == before + 1));
    assert!(applied.events.is_sorted_by_key(|event| event.kv.key.clone()));
    assert_eq!((store.state.revision(), store.state.keys()), (before + 1, 0));
    store.reload();
    assert_eq!((store.state.revision(), store.state.leases().len()), (before + 1, 0));
}

#[test]
fn what_the_leader_of_another_term_decided_changes_nothing() {
    let mut store = Store::default();
    store.apply([grant(7, 60), put_on("k", 7)]);
    for term in [0, 2] {
        let late = expire(&store, term, &[7]);
        let applied = store.apply([late]);
        assert!(applied.replies[0].is_ok() && applied.events.is_empty(), "term {term}");
        let remaining = vec![(7, granted(&store, 7), 5)];
        store.one(Command::Lease(LeaseCommand::Checkpoint { term, remaining })).unwrap();
    }
    assert_eq!(store.state.leases().get(7).unwrap().seconds_left(), 60);
    let now = expire(&store, 1, &[7]);
    assert_eq!(store.apply([now]).events.len(), 1);
}

#[test]
fn an_end_that_was_decided_for_an_earlier_grant_of_the_id_changes_nothing() {
    let mut store = Store::default();
    store.apply([grant(7, 60)]);
    let late = expire(&store, 1, &[7]);
    store.apply([revoke(7), grant(7, 60), put_on("k", 7)]);
    assert!(store.apply([late]).events.is_empty());
    assert_eq!(hanging(&store, 7), ["k"]);
}

#[test]
fn what_was_written_down_is_what_the_next_leader_finds() {
    let mut store = Store::default();
    store.apply([grant(7, 600)]);
    let write = |store: &mut Store, left| {
        let remaining = vec![(7, granted(store, 7), left), (9, Granted::default(), 3)];
        store.one(Command::Lease(LeaseCommand::Checkpoint { term: 1, remaining })).unwrap();
        store.reload();
        store.state.leases().get(7).unwrap().seconds_left()
    };
    assert_eq!(write(&mut store, 250), 250);
    assert_eq!(write(&mut store, 0), 600, "taken back");
    assert_eq!(write(&mut store, 9_000), 600, "never more than it was granted");
}

#[test]
fn a_lease_that_comes_and_goes_in_one_entry_leaves_no_trace() {
    let mut store = Store::default();
    let before = store.engine.clone();
    let applied = store.apply([grant(7, 60), put_on("k", 7), revoke(7)]);
    assert_eq!(applied.events.len(), 2);
    assert!(store.engine.0.keys().all(|key| before.0.contains_key(key) || key[0] == b'h'));
    store.reload();
    assert!(store.state.leases().is_empty());
}

#[test]
fn keys_that_hang_on_a_lease_that_is_missing_are_damage() {
    let mut store = Store::default();
    store.apply([grant(7, 60), put_on("k", 7), put_on("l", 7)]);
    assert!(store.engine.0.remove([b"sl".as_slice(), &7_i64.to_be_bytes()].concat().as_slice()).is_some());
    let Err(LoadError::Damaged { reason, .. }) = State::load(&store.engine) else {
        panic!("it was believed")
    };
    assert_eq!(reason, Reason::LeaseMissing);
}

#[test]
fn the_keys_of_a_lease_outlast_compaction_of_their_older_versions() {
    let mut store = Store::default();
    store.apply([grant(7, 60), put_on("k", 7), put_on("k", 7), put_on("l", 7), put("l", "none")]);
    store.compact(store.state.revision()).unwrap();
    store.clean();
    store.reload();
    assert_eq!(hanging(&store, 7), ["k"]);
}
