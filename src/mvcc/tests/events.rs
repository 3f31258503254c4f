//! Events read back from the history: what apply told of, in steps of any size, over records of every kind.

use super::*;
use crate::mvcc::{EventKind, read_events};

/// Reads revisions `from` to `to` in steps of so many bytes.
fn read_all(store: &Store, from: i64, to: i64, bytes: usize) -> Vec<Event> {
    let (mut next, mut events) = (from, Vec::new());
    while next <= to {
        let read = read_events(&store.engine, next, to, bytes, &mut |_| true).unwrap();
        assert!(read.up_to >= next, "no progress at {next}");
        assert!(read.events.iter().all(|event| (next..=read.up_to).contains(&event.kv.mod_revision)));
        events.extend(read.events);
        next = read.up_to + 1;
    }
    events
}

#[test]
fn what_apply_told_is_read_again_in_steps_of_any_size() {
    let mut store = Store::default();
    let mut told = Vec::new();
    for round in 0..6_u32 {
        // Small ones that share a record, large ones that are cut, many of one revision, deletions.
        let mut commands: Vec<_> = (0..20).map(|n| put(&format!("k{n}"), &format!("v{round}"))).collect();
        commands.push(put("large", &"x".repeat(20_000 * round as usize)));
        commands.push(delete("k1", "k3"));
        told.extend(store.apply(commands).events);
    }
    let newest = store.state.revision();
    for bytes in [1, 100, 5_000, 1 << 30] {
        assert_eq!(read_all(&store, 1, newest, bytes), told, "in steps of {bytes}");
        for from in [2, 21, 22, 23, 60, newest] {
            let expected: Vec<_> =
                told.iter().filter(|event| event.kv.mod_revision >= from).cloned().collect();
            assert_eq!(read_all(&store, from, newest, bytes), expected, "from {from} in steps of {bytes}");
        }
    }
    let wanted = read_events(&store.engine, 1, newest, 1 << 30, &mut |key| key == b"large").unwrap();
    assert_eq!(wanted.events.len(), 6);
    assert!(wanted.events.iter().all(|event| event.kind == EventKind::Put));
    assert_eq!(wanted.up_to, newest);
}

#[test]
fn a_damaged_record_is_an_error() {
    let mut store = Store::default();
    store.apply([put("a", "1")]);
    for value in store.engine.0.values_mut() {
        *value = Bytes::from_static(b"?");
    }
    let read = read_events(&store.engine, 1, 9, 1_000, &mut |_| true);
    assert_eq!(read, Err(Refusal::Unreadable));
}
