//! Loading: what is sound is loaded, what is not is named.

use super::*;
use crate::mvcc::record::{self, Damage, Entry};
use crate::mvcc::{LoadError, Reason, Revision, layout, small};

/// An engine with one record per list of entries, and a compacted revision.
fn engine(compacted: Option<i64>, records: &[Vec<Entry>]) -> Memory {
    let mut memory = Memory::default();
    for entries in records {
        let base = entries[0].revision;
        let key = Bytes::copy_from_slice(&layout::record_key(base));
        memory.0.insert(key, record::record(base, entries, 0));
    }
    memory.0.extend(compacted.map(small::compacted));
    memory
}

fn put(main: i64, sub: i64, key: &str, create: i64, version: i64) -> Entry {
    Entry { revision: Revision::new(main, sub), key: text(key), create, version, ..Entry::default() }
}

fn gone(main: i64, sub: i64, key: &str) -> Entry {
    Entry { revision: Revision::new(main, sub), tombstone: true, key: text(key), ..Entry::default() }
}

fn reason(compacted: Option<i64>, records: &[Vec<Entry>]) -> Option<Reason> {
    match State::load(&engine(compacted, records)) {
        Ok(_) => None,
        Err(LoadError::Damaged { reason, .. }) => Some(reason),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn an_empty_engine_is_an_empty_store() {
    let state = State::load(&Memory::default()).unwrap();
    assert_eq!((state.revision(), state.compacted(), state.keys()), (1, -1, 0));
    let foreign = Memory([(text("r-applied"), text("?"))].into());
    assert_eq!(State::load(&foreign).unwrap().revision(), 1);
    assert!(matches!(State::load(&Broken), Err(LoadError::Unreadable(_))));
}

#[test]
fn revisions_have_no_gap_above_compaction() {
    let first = vec![put(2, 0, "a", 2, 1)];
    assert_eq!(reason(None, std::slice::from_ref(&first)), None);
    let order = |last: (i64, i64), found: (i64, i64)| {
        Some(Reason::Order { last: Revision::new(last.0, last.1), found: Revision::new(found.0, found.1) })
    };
    assert_eq!(reason(None, &[vec![put(3, 0, "a", 3, 1)]]), order((0, 0), (3, 0)));
    assert_eq!(reason(None, &[first.clone(), vec![put(4, 0, "b", 4, 1)]]), order((2, 0), (4, 0)));
    assert_eq!(reason(None, &[first.clone(), vec![put(3, 1, "b", 3, 1)]]), order((2, 0), (3, 1)));
    assert_eq!(reason(None, &[first.clone(), vec![put(2, 2, "b", 2, 1)]]), order((2, 0), (2, 2)));
    assert_eq!(reason(None, &[vec![put(2, 0, "a", 2, 1), put(2, 0, "b", 2, 1)]]), order((2, 0), (2, 0)));
    // Below the compacted revision gaps are what compaction does; from it on there is none.
    assert_eq!(reason(Some(9), &[vec![put(4, 3, "a", 2, 7)], vec![put(10, 0, "b", 10, 1)]]), None);
    assert_eq!(
        reason(Some(9), &[vec![put(4, 3, "a", 2, 7)], vec![put(11, 0, "b", 11, 1)]]),
        order((4, 3), (11, 0))
    );
    assert_eq!(State::load(&engine(Some(9), &[])).unwrap().revision(), 9);
}

#[test]
fn versions_follow() {
    let bad =
        |main, create, version| Some(Reason::Version { found: Revision::new(main, 0), create, version });
    let second = |entry: Entry| [vec![put(2, 0, "a", 2, 1)], vec![entry]];
    assert_eq!(reason(None, &second(put(3, 0, "a", 2, 2))), None);
    assert_eq!(reason(None, &second(put(3, 0, "a", 2, 3))), bad(3, 2, 3));
    assert_eq!(reason(None, &second(put(3, 0, "a", 3, 1))), bad(3, 3, 1));
    assert_eq!(reason(None, &second(put(3, 0, "b", 2, 1))), bad(3, 2, 1));
    assert_eq!(reason(None, &second(gone(3, 0, "a"))), None);
    assert_eq!(reason(None, &second(gone(3, 0, "b"))), Some(Reason::Absent { found: Revision::new(3, 0) }));
    // What compaction left must be possible too.
    assert_eq!(reason(Some(9), &second(put(5, 0, "a", 2, 4))), None);
    assert_eq!(reason(Some(9), &second(put(5, 0, "a", 2, 1))), bad(5, 2, 1));
    assert_eq!(reason(Some(9), &second(put(5, 0, "a", 4, 2))), None, "it was deleted in between");
}

#[test]
fn damage_is_reported_with_its_key() {
    let mut store = Store::default();
    store.put("a", "1");
    store.put("big", &"x".repeat(50_000));
    store.put("b", "1");
    store.compact(2).unwrap();
    store.clean();
    assert!(State::load(&store.engine).is_ok());
    for key in store.engine.0.keys() {
        let mut damaged = store.engine.clone();
        let mut value = damaged.0[key].to_vec();
        *value.last_mut().unwrap() ^= 1;
        damaged.0.insert(key.clone(), value.into());
        let error = State::load(&damaged).err().unwrap();
        let LoadError::Damaged { key: named, reason: Reason::Damage(Damage::Checksum { .. }) } = &error
        else {
            panic!("{error}")
        };
        assert_eq!(named, key);
        assert!(error.to_string().starts_with("the item "), "{error}");

        let mut missing = store.engine.clone();
        missing.0.remove(key);
        // What is newest may be missing (the caller compares the applied index), and progress costs one pass.
        let last = layout::record_key(Revision::new(4, 0));
        if key[..] != last && key[0] == layout::HISTORY && key[..] != layout::record_key(Revision::new(2, 0))
        {
            assert!(State::load(&missing).is_err(), "{key:?}");
        }
    }
}

#[test]
fn items_of_no_meaning_are_refused() {
    for key in ["s?", "h", "h123", "sm1"] {
        let mut memory = Memory::default();
        memory.0.insert(text(key), text("nonsense"));
        assert!(State::load(&memory).is_err(), "{key}");
    }
    let mut part = engine(None, &[vec![put(2, 0, "a", 2, 1)]]);
    let (key, value) = part.0.pop_first().unwrap();
    part.0.insert([&key[..], &[0, 0, 0, 1]].concat().into(), value);
    assert!(State::load(&part).is_err());
}
