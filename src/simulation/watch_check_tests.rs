#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use super::*;

fn kv(key: &str, create: i64, revision: i64, version: i64) -> KeyValue {
    KeyValue {
        key: Bytes::copy_from_slice(key.as_bytes()),
        create_revision: create,
        mod_revision: revision,
        version,
        value: format!("{key}{revision}").into(),
        lease: 0,
    }
}

/// 2: a created. 3: b created, a changed. 4: a deleted. 5: b changed.
fn states() -> BTreeMap<i64, State> {
    let of = |pairs: &[KeyValue]| pairs.iter().map(|kv| (kv.key.clone(), kv.clone())).collect();
    BTreeMap::from([
        (1, State::new()),
        (2, of(&[kv("a", 2, 2, 1)])),
        (3, of(&[kv("a", 2, 3, 2), kv("b", 3, 3, 1)])),
        (4, of(&[kv("b", 3, 3, 1)])),
        (5, of(&[kv("b", 3, 5, 2)])),
    ])
}

fn put(kv: KeyValue, previous: Option<KeyValue>) -> WatchEvent {
    WatchEvent { kind: EventKind::Put, kv, previous }
}

/// A watch that saw everything rightly.
fn right() -> Watching {
    let gone = KeyValue { key: "a".into(), mod_revision: 4, ..KeyValue::default() };
    Watching {
        name: "w".into(),
        watch: Watch {
            key: "a".into(),
            range_end: "z".into(),
            start_revision: 2,
            prev_kv: true,
            ..Watch::default()
        },
        items: vec![
            Watched::Began(3),
            Watched::Events(vec![
                put(kv("a", 2, 2, 1), None),
                put(kv("b", 3, 3, 1), None),
                put(kv("a", 2, 3, 2), Some(kv("a", 2, 2, 1))),
            ]),
            Watched::Progress(3),
            Watched::Events(vec![WatchEvent {
                kind: EventKind::Delete,
                kv: gone,
                previous: Some(kv("a", 2, 3, 2)),
            }]),
            Watched::Events(vec![put(kv("b", 3, 5, 2), Some(kv("b", 3, 3, 1)))]),
        ],
        must_reach: Some(5),
    }
}

fn compaction(revision: i64) -> Vec<Operation> {
    vec![Operation {
        caller: "c".into(),
        action: Action::Compact(revision),
        invoked: 1,
        returned: None,
        outcome: Outcome::Unknown,
    }]
}

fn complaints(change: impl FnOnce(&mut Watching)) -> String {
    let mut watching = right();
    change(&mut watching);
    check(&[watching], &[], &states()).join("\n")
}

fn events(watching: &mut Watching, at: usize) -> &mut Vec<WatchEvent> {
    match &mut watching.items[at] {
        Watched::Events(events) => events,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_right_is_not_complained_of() {
    assert_eq!(complaints(|_| {}), "");
    // Filters, a part of the keys, an end before the end.
    assert_eq!(
        complaints(|watching| {
            watching.watch.no_delete = true;
            watching.items.remove(3);
        }),
        ""
    );
    assert_eq!(
        complaints(|watching| {
            watching.must_reach = None;
            watching.items.truncate(2);
        }),
        ""
    );
    // What was asked to be forgotten may lack the pair before.
    let mut watching = right();
    events(&mut watching, 3)[0].previous = None;
    assert!(check(&[watching], &compaction(4), &states()).is_empty());
    // And whoever wants it may be ended.
    let mut watching = right();
    watching.items = vec![Watched::Began(5), Watched::Compacted(4)];
    watching.must_reach = None;
    assert!(check(&[watching], &compaction(4), &states()).is_empty());
}

#[test]
fn every_rule_is_looked_at() {
    // Unique: a revision comes again.
    let again = complaints(|watching| watching.items.insert(4, watching.items[3].clone()));
    assert!(again.contains("after everything up to"), "{again}");
    // Ordered.
    let swapped = complaints(|watching| watching.items.swap(3, 4));
    assert!(swapped.contains("happened"), "{swapped}");
    // Atomic: a revision in two responses.
    let torn = complaints(|watching| {
        let rest = events(watching, 1).split_off(2);
        watching.items.insert(2, Watched::Events(rest));
    });
    assert!(torn.contains("happened"), "{torn}");
    // Reliable: one is missing between two.
    let lost = complaints(|watching| drop(watching.items.remove(3)));
    assert!(lost.contains("happened"), "{lost}");
    // Resumable: the first is missing.
    let late = complaints(|watching| drop(events(watching, 1).remove(0)));
    assert!(late.contains("happened"), "{late}");
    // Bookmarkable: announced too early.
    let early = complaints(|watching| watching.items[2] = Watched::Progress(4));
    assert!(early.contains("was told that it has all up to 4"), "{early}");
    // Filter: what it did not ask for.
    let foreign = complaints(|watching| watching.watch.range_end = Bytes::new());
    assert!(foreign.contains("happened"), "{foreign}");
    // The pair before.
    let before = complaints(|watching| events(watching, 3)[0].previous = Some(kv("a", 2, 2, 1)));
    assert!(before.contains("wrong pair before"), "{before}");
    let before = complaints(|watching| events(watching, 3)[0].previous = None);
    assert!(before.contains("wrong pair before"), "{before}");
    // Content.
    let content = complaints(|watching| events(watching, 4)[0].kv.version = 7);
    assert!(content.contains("happened"), "{content}");
    // Ended for a compaction that nobody asked for.
    let ended = complaints(|watching| watching.items = vec![Watched::Began(5), Watched::Compacted(4)]);
    assert!(ended.contains("compacted"), "{ended}");
    // The end.
    let unfinished = complaints(|watching| drop(watching.items.pop()));
    assert!(unfinished.contains("never saw"), "{unfinished}");
}
