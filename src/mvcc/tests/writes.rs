//! Puts, deletes, compaction and marks: etcd's rules, one by one, and what is written for them.

use super::*;
use crate::identity::{FIRST_ADDED, NodeId};
use crate::limits;
use crate::mvcc::cluster::{Adding, ClusterCommand, ClusterEvent, Mark};
use crate::mvcc::command::Txn;
use crate::mvcc::command::TxnOp;
use crate::mvcc::{EventKind, KeyValue, Revision, layout};

fn get(store: &Store, key: &str) -> Option<KeyValue> {
    store.range(&range(key, "")).unwrap().kvs.pop()
}

fn with(change: impl FnOnce(&mut Put)) -> Command {
    let mut put = Put { key: text("k"), ..Put::default() };
    change(&mut put);
    Command::Put(put)
}

#[test]
fn an_empty_store_has_revision_1_and_the_first_write_makes_2() {
    let mut store = Store::default();
    assert_eq!((store.state.revision(), store.state.compacted(), store.state.keys()), (1, -1, 0));
    assert_eq!(store.put("a", "1"), 2);
    assert_eq!(store.put("a", "2"), 3);
    let kv = get(&store, "a").unwrap();
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (2, 3, 2));
    assert_eq!(store.state.keys(), 1);
}

#[test]
fn a_key_that_is_created_again_begins_at_version_1() {
    let mut store = Store::default();
    store.put("a", "1");
    store.put("a", "2");
    assert_eq!(store.delete("a", ""), 1);
    assert_eq!(get(&store, "a"), None);
    store.put("a", "3");
    let kv = get(&store, "a").unwrap();
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (5, 5, 1));
}

#[test]
fn deleting_nothing_does_not_move_the_revision() {
    let mut store = Store::default();
    store.put("a", "1");
    assert_eq!(store.delete("b", ""), 0);
    assert_eq!(store.delete("b", "\0"), 0);
    assert_eq!(store.delete("z", "a"), 0, "an inverted range is empty");
    assert_eq!(store.state.revision(), 2);
    store.delete("a", "");
    assert_eq!(store.delete("a", ""), 0);
    assert_eq!(store.state.revision(), 3);
}

#[test]
fn all_keys_of_one_delete_share_a_revision() {
    let mut store = Store::default();
    for key in ["c", "a", "b", "d"] {
        store.put(key, key);
    }
    let applied = store.apply([Command::DeleteRange(DeleteRange {
        key: text("a"),
        range_end: text("d"),
        prev_kv: true,
    })]);
    let Ok(Reply { revision: 6, outcome: Outcome::DeleteRange(deleted) }) = &applied.replies[0] else {
        panic!("{applied:?}")
    };
    assert_eq!((deleted.deleted, deleted.revision), (3, 6));
    assert_eq!(deleted.previous.iter().map(|kv| kv.mod_revision).collect::<Vec<_>>(), [3, 4, 2]);
    let event = |key| Event {
        kind: EventKind::Delete,
        kv: KeyValue { key: text(key), mod_revision: 6, ..KeyValue::default() },
    };
    assert_eq!(applied.events, ["a", "b", "c"].map(event));
}

#[test]
fn ignoring_needs_a_key_and_keeps_what_it_has() {
    let mut store = Store::default();
    for refused in [with(|put| put.ignore_value = true), with(|put| put.ignore_lease = true)] {
        assert_eq!(store.one(refused), Err(Refusal::KeyNotFound));
    }
    assert_eq!(store.state.revision(), 1);
    store.put("k", "old");
    let reply = store.one(with(|put| (put.ignore_value, put.prev_kv) = (true, true))).unwrap();
    let Outcome::Put(Some(previous)) = reply.outcome else { panic!() };
    assert_eq!((previous.mod_revision, &previous.value[..]), (2, &b"old"[..]));
    let kv = get(&store, "k").unwrap();
    assert_eq!((kv.version, &kv.value[..]), (2, &b"old"[..]));
    store.delete("k", "");
    assert_eq!(store.one(with(|put| put.ignore_value = true)), Err(Refusal::KeyNotFound));
}

#[test]
fn no_lease_exists_and_that_is_said_first() {
    let mut store = Store::default();
    assert_eq!(store.one(with(|put| put.lease = 5)), Err(Refusal::LeaseNotFound));
    let both = with(|put| (put.lease, put.ignore_value) = (5, true));
    assert_eq!(store.one(both), Err(Refusal::LeaseNotFound));
    assert_eq!(store.state.revision(), 1);
}

#[test]
fn commands_of_one_entry_see_each_other() {
    let mut store = Store::default();
    let applied = store.apply([
        put("k", "1"),
        with(|put| (put.ignore_value, put.prev_kv) = (true, true)),
        delete("k", ""),
        with(|put| put.ignore_value = true),
        put("k", "2"),
    ]);
    let revisions: Vec<_> =
        applied.replies.iter().map(|reply| reply.as_ref().map(|reply| reply.revision)).collect();
    assert_eq!(revisions, [Ok(2), Ok(3), Ok(4), Err(&Refusal::KeyNotFound), Ok(5)]);
    assert_eq!(values(&applied.events), [&b"1"[..], b"1", b"", b"2"]);
    assert_eq!(applied.changes.puts.len(), 1, "one record for the entry");
}

#[test]
fn an_entry_of_puts_costs_its_records_and_nothing_else() {
    let mut store = Store::default();
    let value = "v".repeat(256);
    let applied = store.apply((0..100).map(|number| put(&format!("/some/key/{number:04}"), &value)));
    assert_eq!(applied.changes.deletes.len(), 0);
    let bytes: usize = applied.changes.puts.iter().map(|(_, value)| value.len()).sum();
    let full = limits::RECORD_GATHER_BYTES - (256 + 14 + 12);
    assert!(applied.changes.puts.len() <= bytes.div_ceil(full), "records are full");
    assert!(bytes < 100 * (256 + 14 + 12), "{bytes}");
    assert!(applied.changes.puts.iter().all(|(key, _)| key[0] == layout::HISTORY));
    assert!(store.apply([delete("nothing", "")]).changes.is_empty());
}

#[test]
fn large_values_and_keys_are_cut_and_come_back_whole() {
    let mut store = Store::default();
    let sizes = [0, 8_100, 8_150, 8_160, 8_170, 8_180, 8_182, 8_186, 8_192, 8_200, 16_384, 20_000, 1_500_000];
    let texts: Vec<String> = sizes.iter().map(|size| "x".repeat(*size)).collect();
    store.apply(
        texts.iter().flat_map(|text| [put("small", "s"), put(&format!("k{text}"), ""), put("value", text)]),
    );
    for text in &texts {
        let found = store.range(&range(&format!("k{text}"), "")).unwrap();
        assert_eq!(found.kvs[0].key.len(), 1 + text.len());
        let revision = found.kvs[0].mod_revision + 1;
        let found = store.range(&Range { revision, ..range("value", "") }).unwrap();
        assert_eq!(found.kvs[0].value, text.as_bytes());
    }
    let hash = store.state.hash(&store.engine, 0);
    store.reload();
    assert_eq!(store.state.hash(&store.engine, 0), hash);
    store.delete("\0", "\0");
    store.put("value", "short");
    store.compact(store.state.revision()).unwrap();
    store.clean();
    let bytes: usize = store.engine.0.values().map(Bytes::len).sum();
    assert!(bytes < 300, "all parts are gone: {bytes}");
}

#[test]
fn indexed_keys_do_not_hold_on_to_the_request() {
    let mut store = Store::default();
    let buffer = Bytes::from(vec![b'k'; 100_000]);
    let command =
        Command::Put(Put { key: buffer.slice(..50), value: buffer.slice(50..60), ..Put::default() });
    let applied = store.apply([command]);
    assert!(buffer.is_unique(), "neither index, nor records, nor events are slices of it");
    drop(applied);
}

#[test]
fn compaction_refuses_what_is_past_and_what_is_to_come() {
    let mut store = Store::default();
    for value in ["1", "2", "3", "4"] {
        store.put("a", value);
    }
    assert_eq!(store.compact(6), Err(Refusal::FutureRevision));
    assert_eq!(store.compact(-1), Err(Refusal::Compacted));
    assert_eq!(store.compact(3).unwrap().revision, 5);
    for refused in [3, 2, 0, -1] {
        assert_eq!(store.compact(refused), Err(Refusal::Compacted), "{refused}");
    }
    assert_eq!(store.compact(5).unwrap().outcome, Outcome::Compact, "the current revision is allowed");
    assert_eq!(store.state.revision(), 5);
    store.reload();
    assert_eq!((store.state.revision(), store.state.compacted()), (5, 5));
}

#[test]
fn compaction_leaves_the_last_version_and_the_tombstone_at_its_revision() {
    let mut store = Store::default();
    store.put("kept", "1"); // 2
    store.put("kept", "2"); // 3
    store.put("gone", "1"); // 4
    store.delete("gone", ""); // 5
    store.put("late", "1"); // 6
    store.delete("late", ""); // 7
    store.compact(7).unwrap();
    store.clean();
    let history = |store: &Store| -> Vec<i64> {
        let history = store.engine.0.keys().filter_map(|key| layout::parse_history_key(key));
        history.map(|(revision, _)| revision.main).collect()
    };
    assert_eq!(history(&store), [3, 7]);
    store.reload();
    assert_eq!(store.state.revision(), 7);
    store.put("other", "");
    store.compact(8).unwrap();
    assert!(store.clean() > 0);
    assert_eq!(history(&store), [3, 8]);
    assert_eq!(store.clean(), 0, "nothing is left to do");
    assert_eq!(get(&store, "kept").unwrap().version, 2);
}

#[test]
fn an_interrupted_pass_goes_on_after_a_restart() {
    let mut store = Store::default();
    for number in 0..200 {
        store.put(&format!("k{}", number % 10), "v");
    }
    store.compact(201).unwrap();
    for _ in 0..5 {
        store.step(10);
    }
    let left = store.engine.0.len();
    store.reload();
    assert!(store.step(10));
    assert_eq!(store.engine.0.len(), left - 10, "it does not begin again");
    store.clean();
    assert_eq!(store.engine.0.len(), 10 + 2);
    assert_eq!(store.state.physically_compacted(), 201);
}

#[test]
fn a_newer_compaction_does_not_starve_the_pass_that_runs() {
    let mut store = Store::default();
    for _ in 0..100 {
        store.put("k", "v");
    }
    let mut steps = 0;
    for revision in 60..100 {
        store.compact(revision).unwrap();
        store.step(10);
        steps += 1;
        if store.state.physically_compacted() >= 60 {
            break;
        }
    }
    assert!(steps < 10, "the first pass ended though each step met a newer compaction");
}

#[test]
fn marks_are_never_replaced_by_lower_ones() {
    let mut store = Store::default();
    let mark = |vote_term, vote_node, log_term, log_index| Mark {
        boot: 1,
        vote_term,
        vote_node,
        log_term,
        log_index,
    };
    let node = NodeId::new(1, 1);
    let mut write = |mark: Mark| {
        let command = Command::Cluster(ClusterCommand::Marks(vec![(node, mark)]));
        let applied = store.apply([command]);
        assert_eq!(applied.replies, [Ok(Reply { revision: 1, outcome: Outcome::Cluster })]);
        (applied.changes.puts.len(), store.state.cluster().marks[&node])
    };
    let first = mark(2, 1, 2, 10);
    assert_eq!(write(first), (1, first));
    assert_eq!(write(first), (0, first), "nothing changed, nothing is written");
    for lower in [mark(2, 1, 2, 9), mark(2, 1, 1, 99), mark(2, 0, 9, 99), mark(1, 9, 9, 99)] {
        assert_eq!(write(lower), (0, first));
    }
    let rebooted = Mark { boot: 2, ..first };
    assert_eq!(write(rebooted), (1, rebooted));
    for higher in [mark(2, 1, 2, 11), mark(2, 1, 3, 1), mark(2, 2, 1, 1), mark(3, 0, 1, 1)] {
        assert_eq!(write(higher), (1, higher));
    }
    let before = store.state.cluster().clone();
    store.reload();
    assert_eq!(store.state.cluster(), &before);
}

#[test]
fn events_are_kept_up_to_their_number_and_written_as_they_change() {
    let mut store = Store::default();
    let note = |id: u64| Command::Cluster(ClusterCommand::Note(ClusterEvent::new(id, id, "s-0", "resumed")));
    let most = crate::limits::EVENTS as u64;
    for id in 1..=most {
        let applied = store.apply([note(id)]);
        assert_eq!((applied.changes.puts.len(), applied.changes.deletes.len()), (1, 0));
    }
    assert!(store.apply([note(most)]).changes.is_empty(), "it is there already");
    let applied = store.apply([note(most + 1)]);
    assert_eq!((applied.changes.puts.len(), applied.changes.deletes.len()), (1, 1));
    let before = store.state.cluster().clone();
    let kept: Vec<u64> = before.events.iter().map(|(number, _)| number).collect();
    assert_eq!(kept, (2..=most + 1).collect::<Vec<_>>());
    store.reload();
    assert_eq!(store.state.cluster(), &before);
}

#[test]
fn members_by_hand_are_kept() {
    let mut store = Store::default();
    let add = |url: &str, learner| {
        let adding = Adding { peer_urls: vec![url.into(), format!("{url}0")], learner, most_learners: 2 };
        Command::Cluster(ClusterCommand::Add(adding))
    };
    store.apply([add("http://a:1", false), Command::Cluster(ClusterCommand::Dismiss(3))]);
    store.apply([add("http://b:1", true)]);
    let moved = vec!["http://c:1".to_owned()];
    store.apply([Command::Cluster(ClusterCommand::Expect { ordinal: FIRST_ADDED, peer_urls: moved })]);
    let before = store.state.cluster().clone();
    assert_eq!(before.by_hand.len(), 3);
    store.reload();
    assert_eq!(store.state.cluster(), &before);
    // A recovery expects nobody, and that is kept too.
    store.apply([Command::Cluster(ClusterCommand::RaiseRevision(1))]);
    let before = store.state.cluster().clone();
    assert_eq!(before.added().count(), 0);
    store.reload();
    assert_eq!(store.state.cluster(), &before);
}

#[test]
fn a_raised_revision_leaves_the_keys_and_ends_the_history_before_it() {
    let mut store = Store::default();
    store.apply([put("k", "1"), put("k", "2"), put("j", "1")]);
    assert_eq!(store.state.revision(), 4);
    store.apply([Command::Cluster(ClusterCommand::RaiseRevision(1000))]);
    assert_eq!((store.state.revision(), store.state.compacted()), (1004, 1004));
    store.reload();
    assert_eq!((store.state.revision(), store.state.compacted()), (1004, 1004));
    store.apply([put("k", "3")]);
    store.clean();
    store.reload();
    assert_eq!(store.state.revision(), 1005);
    let kv = get(&store, "j").unwrap();
    assert_eq!((kv.mod_revision, kv.value.as_ref()), (4, &b"1"[..]));
    assert_eq!(get(&store, "k").unwrap().mod_revision, 1005);
}

#[test]
fn a_txn_that_deletes_what_it_wrote_leaves_two_changes_of_one_revision() {
    let mut store = Store::default();
    let inside = |op| TxnOp::Txn(Txn { success: vec![op], ..Txn::default() });
    let (Command::Put(put), Command::DeleteRange(delete)) = (put("k", "v"), delete("k", "")) else {
        panic!()
    };
    let txn =
        Txn { success: vec![inside(TxnOp::Put(put)), inside(TxnOp::DeleteRange(delete))], ..Txn::default() };
    let applied = store.apply([Command::Txn(txn)]);
    assert_eq!(applied.events.len(), 2);
    assert_eq!((store.state.revision(), store.state.keys()), (2, 0));
    assert_eq!(get(&store, "k"), None);
    store.compact(2).unwrap();
    store.clean();
    let record = store.engine.0.first_key_value().unwrap().1.clone();
    let left = crate::mvcc::read::entries(&store.engine, Revision::new(2, 0), &record).unwrap();
    assert_eq!(left.len(), 1, "the put of the same revision is dead");
    store.reload();
    assert_eq!(store.state.index.last_at(b"k", 2), Some((Revision::new(2, 1), true)));
}

#[test]
fn an_engine_that_cannot_be_read_yields_nothing_to_write() {
    let mut store = Store::default();
    store.put("k", "v");
    let requests = [put("a", "1"), with(|put| put.prev_kv = true)].map(Request::anonymous);
    let applied = store.state.apply(&Broken, AT, &requests);
    assert_eq!(applied.replies[1], Err(Refusal::Unreadable));
    assert!(applied.is_unreadable() && applied.changes.is_empty() && applied.events.is_empty());
    store.state.compacted = 2;
    assert_eq!(store.state.compaction_step(&Broken, 1), Err(Refusal::Unreadable));
    assert_eq!(store.state.hash(&Broken, 0), Err(Refusal::Unreadable));
}

#[test]
fn the_hash_of_a_revision_is_the_same_later_and_is_of_one_compaction() {
    let mut store = Store::default();
    let mut hashes = Vec::new();
    store.apply([put("a", "1"), put("b", "1"), delete("a", ""), put("c", "1")]);
    for revision in 2..=5 {
        hashes.push(store.state.hash(&store.engine, revision).unwrap().hash);
    }
    let mut apart = Store::default();
    for (command, hash) in
        [put("a", "1"), put("b", "1"), delete("a", ""), put("c", "1")].into_iter().zip(hashes)
    {
        apart.one(command).unwrap();
        let found = apart.state.hash(&apart.engine, -1).unwrap();
        assert_eq!((found.hash, found.hash_revision), (hash, apart.state.revision()));
    }
    assert_eq!(store.state.hash(&store.engine, 6), Err(Refusal::FutureRevision));
    let mut plan = apart.state.plan_hash(0).unwrap();
    assert_eq!(apart.state.hash_step(&apart.engine, &mut plan, 2), Ok(false));
    apart.put("d", "1");
    assert_eq!(apart.state.hash_step(&apart.engine, &mut plan, 9), Ok(true));
    assert_eq!(plan.finish(), store.state.hash(&store.engine, 5).unwrap(), "writes meanwhile do not matter");
    apart.compact(4).unwrap();
    assert_eq!(apart.state.hash_step(&apart.engine, &mut plan, 9), Err(Refusal::Compacted));
    assert_eq!(apart.state.hash(&apart.engine, 3), Err(Refusal::Compacted));
    assert_eq!(apart.state.hash(&apart.engine, 4).unwrap().compact_revision, 4);
    store.put("d", "2");
    assert_ne!(store.state.hash(&store.engine, 0), apart.state.hash(&apart.engine, 0));
}
