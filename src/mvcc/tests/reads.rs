//! Ranges: etcd's rules, one by one. The data is that of the recorded answers.

use super::*;
use SortOrder::{Ascend, Descend};

use crate::mvcc::command::{SortOrder, SortTarget};

/// As in the recorded answers: a three times, then b to f, at revision 9.
fn recorded() -> Store {
    let mut store = Store::default();
    for (key, value) in
        [("a", "1"), ("a", "2"), ("a", ""), ("b", "b"), ("c", "c"), ("d", "d"), ("e", "e"), ("f", "f")]
    {
        store.put(key, value);
    }
    store
}

fn all() -> Range {
    range("a", "z")
}

#[test]
fn the_range_end_decides_which_keys() {
    let store = recorded();
    let of = |key, range_end| store.range(&range(key, range_end)).unwrap();
    assert_eq!(keys(&of("b", "")), ["b"]);
    assert_eq!(keys(&of("b", "d")), ["b", "c"]);
    assert_eq!(keys(&of("e", "\0")), ["e", "f"]);
    assert_eq!(keys(&of("\0", "\0")).len(), 6);
    for (key, range_end) in [("z", "a"), ("a", "a"), ("none", "")] {
        let empty = of(key, range_end);
        assert_eq!((empty.kvs.len(), empty.count, empty.more, empty.revision), (0, 0, false, 9));
    }
}

#[test]
fn revisions_in_the_future_and_below_compaction_are_refused() {
    let mut store = recorded();
    let at = |store: &Store, revision| store.range(&Range { revision, ..range("a", "") });
    assert_eq!(at(&store, 10), Err(Refusal::FutureRevision));
    for newest in [0, -5, 9] {
        assert_eq!(at(&store, newest).unwrap().kvs[0].version, 3);
    }
    assert_eq!(at(&store, 3).unwrap().kvs[0].value, "2");
    assert_eq!(at(&store, 3).unwrap().revision, 9, "the header has the store's revision");
    assert_eq!(at(&store, 1).unwrap().kvs, []);
    store.compact(3).unwrap();
    for _ in 0..2 {
        assert_eq!(at(&store, 2), Err(Refusal::Compacted));
        assert_eq!(at(&store, 3).unwrap().kvs[0].value, "2", "at the compacted revision is allowed");
        assert_eq!(at(&store, -5).unwrap().kvs[0].version, 3);
        store.clean();
    }
}

#[test]
fn the_count_ignores_limit_and_filters() {
    let store = recorded();
    let limited = store.range(&Range { limit: 2, ..all() }).unwrap();
    assert_eq!((keys(&limited), limited.more, limited.count), (vec!["a", "b"], true, 6));
    let exact = store.range(&Range { limit: 6, ..all() }).unwrap();
    assert_eq!((exact.kvs.len(), exact.more), (6, false));
    let negative = store.range(&Range { limit: -1, ..all() }).unwrap();
    assert_eq!((negative.kvs.len(), negative.more), (6, false));
    let filtered = store.range(&Range { limit: 1, min_mod_revision: 6, ..all() }).unwrap();
    assert_eq!((keys(&filtered), filtered.more, filtered.count), (vec!["c"], true, 6));
    let old = store.range(&Range { limit: 1, revision: 6, ..all() }).unwrap();
    assert_eq!((old.count, old.more), (3, true));
    for count_only in [
        Range { count_only: true, ..all() },
        Range { count_only: true, limit: 2, ..all() },
        Range { count_only: true, min_mod_revision: 6, ..all() },
        Range { count_only: true, keys_only: true, ..all() },
    ] {
        let counted = store.range(&count_only).unwrap();
        assert_eq!((counted.kvs.len(), counted.count, counted.more), (0, 6, false));
    }
    let one = store.range(&Range { min_mod_revision: 9, ..range("a", "") }).unwrap();
    assert_eq!((one.kvs.len(), one.count), (0, 1), "of a single key too");
}

#[test]
fn filters_keep_their_bounds() {
    let store = recorded();
    let of = |range: Range| keys(&store.range(&range).unwrap()).concat();
    assert_eq!(of(Range { max_mod_revision: 5, ..all() }), "ab");
    assert_eq!(of(Range { min_mod_revision: 5, max_mod_revision: 6, ..all() }), "bc");
    assert_eq!(of(Range { min_create_revision: 3, ..all() }), "bcdef");
    assert_eq!(of(Range { max_create_revision: 2, ..all() }), "a");
    assert_eq!(of(Range { max_mod_revision: -1, ..all() }), "", "as in etcd: any but 0 filters");
}

#[test]
fn sorting_by_anything_but_the_key_ascends_unless_told_otherwise() {
    let mut store = recorded();
    store.put("c", "\u{1}");
    store.put("b", "z");
    let of = |sort_target, sort_order, limit| {
        let result = store.range(&Range { limit, sort_order, sort_target, ..all() }).unwrap();
        (keys(&result).concat(), result.more)
    };
    assert_eq!(of(SortTarget::Key, SortOrder::None, 0).0, "abcdef");
    assert_eq!(of(SortTarget::Key, Descend, 2), ("fe".into(), true));
    assert_eq!(of(SortTarget::Mod, SortOrder::None, 0).0, "adefcb");
    assert_eq!(of(SortTarget::Mod, Ascend, 3), ("ade".into(), true));
    assert_eq!(of(SortTarget::Mod, Descend, 0).0, "bcfeda");
    assert_eq!(of(SortTarget::Create, Descend, 1), ("f".into(), true));
    assert_eq!(of(SortTarget::Version, SortOrder::None, 0).0, "defbca", "equal ones by key");
    assert_eq!(of(SortTarget::Version, Descend, 0).0, "abcdef", "equal ones by key");
    assert_eq!(of(SortTarget::Value, SortOrder::None, 0).0, "acdefb");
    assert_eq!(of(SortTarget::Value, Descend, 2), ("bf".into(), true));
}

#[test]
fn without_an_order_the_limit_cuts_before_the_sort() {
    let mut store = Store::default();
    for key in ["d", "c", "b", "a"] {
        store.put(key, "");
    }
    // etcd takes limit + 1 pairs in the order of keys (a, b), sorts those (b, a), and cuts.
    let cut = Range { sort_target: SortTarget::Mod, limit: 1, ..all() };
    let first = |range: &Range| keys(&store.range(range).unwrap()).concat();
    assert_eq!(first(&cut), "b");
    assert_eq!(first(&Range { sort_order: Ascend, ..cut.clone() }), "d");
    assert_eq!(first(&Range { min_mod_revision: 1, ..cut }), "d", "nor does it with a filter");
}

#[test]
fn keys_only_and_count_only_do_not_touch_the_history() {
    let store = recorded();
    let untouched = [
        Range { keys_only: true, ..all() },
        Range { keys_only: true, ..range("a", "") },
        Range {
            keys_only: true,
            sort_target: SortTarget::Mod,
            sort_order: SortOrder::Descend,
            limit: 2,
            ..all()
        },
        Range { count_only: true, ..all() },
    ];
    for range in untouched {
        let plan = store.state.plan_range(&range).unwrap();
        assert!(plan.is_done());
        assert_eq!(plan.finish().count, store.range(&range).unwrap().count);
    }
    let found = store.range(&Range { keys_only: true, ..range("a", "") }).unwrap();
    let kv = &found.kvs[0];
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version, kv.value.len()), (2, 4, 3, 0));
    let by_value =
        Range { keys_only: true, sort_target: SortTarget::Value, sort_order: SortOrder::Descend, ..all() };
    let found = store.range(&by_value).unwrap();
    assert_eq!(keys(&found).concat(), "fedcba");
    assert!(found.kvs.iter().all(|kv| kv.value.is_empty()));
    assert_eq!(store.state.plan_range(&all()).unwrap().step(&Broken, 9), Err(Refusal::Unreadable));
}

#[test]
fn a_plan_stays_at_its_revision_while_writes_go_on() {
    let mut store = recorded();
    let mut plan = store.state.plan_range(&all()).unwrap();
    assert_eq!(plan.step(&store.engine, 4), Ok(false));
    store.delete("\0", "\0");
    store.put("b", "new");
    assert_eq!(plan.step(&store.engine, 4), Ok(true));
    let result = plan.finish();
    assert_eq!((keys(&result).concat(), result.revision), ("abcdef".into(), 9));
    assert_eq!(result.kvs[1].value, "b");
}

#[test]
fn a_plan_that_compaction_overtakes_says_so() {
    let mut store = recorded();
    let mut plan = store.state.plan_range(&all()).unwrap();
    let mut single = store.state.plan_range(&range("e", "")).unwrap();
    assert_eq!(plan.step(&store.engine, 1), Ok(false));
    store.delete("\0", "\0");
    store.put("x", "");
    store.compact(11).unwrap();
    store.clean();
    assert_eq!(plan.step(&store.engine, 9), Err(Refusal::Compacted));
    assert_eq!(single.step(&store.engine, 9), Err(Refusal::Compacted));
}

#[test]
fn a_large_value_that_compaction_overtakes_says_so() {
    let mut store = Store::default();
    store.put("k", &"x".repeat(50_000));
    let mut plan = store.state.plan_range(&range("k", "")).unwrap();
    let parts: Vec<_> = store.engine.0.keys().skip(1).cloned().collect();
    for part in parts {
        store.engine.0.remove(&part);
    }
    assert_eq!(plan.step(&store.engine, 1), Err(Refusal::Compacted));
}

#[test]
fn values_are_slices_of_the_record() {
    let store = recorded();
    let found = store.range(&range("d", "")).unwrap();
    let record = store.engine.floor(&layout_of(7)).unwrap().unwrap().1;
    let inside = record.as_ptr_range();
    assert!(inside.contains(&found.kvs[0].value.as_ptr()));
}

fn layout_of(main: i64) -> Vec<u8> {
    crate::mvcc::layout::record_key(crate::mvcc::Revision::new(main, 0)).to_vec()
}
