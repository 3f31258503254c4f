//! What servers that imitate etcd get wrong, one by one.

use super::*;

fn seen(revision: i64, key: &str, value: &str) -> Seen {
    Seen {
        revision,
        kind: EventKind::Put,
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::copy_from_slice(value.as_bytes()),
        previous: None,
    }
}

fn gone(revision: i64, key: &str) -> Seen {
    Seen { kind: EventKind::Delete, ..seen(revision, key, "") }
}

fn with(create: Create, options: &[WatchOptions]) -> Create {
    let options = options.iter().fold(create.options, |all, one| all.with(*one, true));
    Create { options, ..create }
}

#[tokio::test(start_paused = true)]
async fn created_comes_first_even_if_events_are_there() {
    let world = World::new();
    world.put("a", "1");
    let mut session = world.open();
    session.create(watch("a", "", 1));
    world.put("a", "2");
    let said = settle(&mut session).await;
    assert_eq!(said, [Said::Created(0), Said::Events(0, vec![seen(2, "a", "1"), seen(3, "a", "2")])]);
}

#[tokio::test(start_paused = true)]
async fn ids_are_counted_per_stream_and_a_double_one_is_refused() {
    let world = World::new();
    let (mut one, mut two) = (world.open(), world.open());
    one.create(watch("a", "", 0));
    one.create(Create { watch_id: 1, ..watch("a", "", 0) });
    one.create(watch("a", "", 0));
    one.create(Create { watch_id: 2, ..watch("a", "", 0) });
    one.create(Create { watch_id: -7, ..watch("a", "", 0) });
    two.create(watch("a", "", 0));
    assert_eq!(
        drain(&mut one),
        [
            Said::Created(0),
            Said::Created(1),
            Said::Created(2),
            Said::Refused(Refused::DuplicateId),
            Said::Created(-7)
        ]
    );
    assert_eq!(drain(&mut two), [Said::Created(0)]);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_watched_is_refused_and_leaves_nothing() {
    let world = World::new();
    let mut session = world.open();
    session.create(watch("b", "a", 0));
    session.create(watch("b", "b", 0));
    session.create(watch("a", "", -1));
    assert_eq!(
        drain(&mut session),
        [
            Said::Refused(Refused::EmptyRange),
            Said::Refused(Refused::EmptyRange),
            Said::Refused(Refused::NegativeStart)
        ]
    );
    assert_eq!(session.watchers(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_compacted_start_is_created_and_then_ended() {
    let world = World::new();
    for n in 0..4 {
        world.put("a", &n.to_string());
    }
    world.compact(4);
    let mut session = world.open();
    session.create(watch("a", "", 3));
    session.create(watch("a", "", 4));
    let said = settle(&mut session).await;
    assert_eq!(
        said,
        [
            Said::Created(0),
            Said::Created(1),
            Said::Compacted(0, 4),
            Said::Events(1, vec![seen(4, "a", "2"), seen(5, "a", "3")])
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_deletion_at_the_compacted_revision_is_told() {
    let world = World::new();
    world.put("a", "1");
    let deleted = world.delete("a");
    world.put("b", "1");
    world.compact(deleted);
    let mut session = world.open();
    session.create(watch("a", "", deleted));
    assert_eq!(settle(&mut session).await, [Said::Created(0), Said::Events(0, vec![gone(deleted, "a")])]);
}

#[tokio::test(start_paused = true)]
async fn before_a_future_start_nothing_is_told_and_no_progress() {
    let world = World::new();
    let mut session = world.open();
    session.create(with(watch("a", "", 4), &[WatchOptions::PROGRESS]));
    assert_eq!(drain(&mut session), [Said::Created(0)]);
    world.put("a", "2");
    world.put("a", "3");
    session.ask_progress();
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(drain(&mut session), []);
    world.put("a", "4");
    assert_eq!(drain(&mut session), [Said::Events(0, vec![seen(4, "a", "4")])]);
    session.ask_progress();
    assert_eq!(drain(&mut session), [Said::Progress(None, 4)]);
}

#[tokio::test(start_paused = true)]
async fn all_of_a_revision_is_in_one_message() {
    let world = World::new();
    let mut session = world.open();
    session.create(watch("a", "z", 0));
    drain(&mut session);
    world.apply(vec![both(vec![put("a", "1"), put("b", "1"), put("zz", "1")]), put("c", "2")]);
    assert_eq!(
        drain(&mut session),
        [Said::Events(0, vec![seen(2, "a", "1"), seen(2, "b", "1"), seen(3, "c", "2")])]
    );
    world.apply(vec![delete("a", "c")]);
    assert_eq!(drain(&mut session), [Said::Events(0, vec![gone(4, "a"), gone(4, "b")])]);
}

#[tokio::test(start_paused = true)]
async fn filters_leave_nothing_to_say() {
    let world = World::new();
    let mut session = world.open();
    session.create(with(watch("a", "", 0), &[WatchOptions::NO_PUT]));
    session.create(with(watch("a", "", 0), &[WatchOptions::NO_DELETE]));
    session.create(with(watch("a", "", 0), &[WatchOptions::NO_PUT, WatchOptions::NO_DELETE]));
    drain(&mut session);
    world.put("a", "1");
    assert_eq!(drain(&mut session), [Said::Events(1, vec![seen(2, "a", "1")])]);
    world.delete("a");
    assert_eq!(drain(&mut session), [Said::Events(0, vec![gone(3, "a")])]);
}

#[tokio::test(start_paused = true)]
async fn the_pair_before_is_that_of_the_revision_before() {
    let world = World::new();
    world.put("a", "1");
    world.put("a", "2");
    world.put("a", "3");
    world.delete("a");
    world.put("a", "4");
    let mut session = world.open();
    session.create(with(watch("a", "", 2), &[WatchOptions::PREVIOUS]));
    let before = |seen: Seen, previous: &str| Seen {
        previous: Some(Bytes::copy_from_slice(previous.as_bytes())),
        ..seen
    };
    let expected = vec![
        seen(2, "a", "1"),
        before(seen(3, "a", "2"), "1"),
        before(seen(4, "a", "3"), "2"),
        before(gone(5, "a"), "3"),
        seen(6, "a", "4"),
    ];
    assert_eq!(settle(&mut session).await, [Said::Created(0), Said::Events(0, expected)]);
    // At the compacted revision itself the pair is still there, below it is not.
    world.put("a", "5");
    world.compact(6);
    let mut late = world.open();
    late.create(with(watch("a", "", 6), &[WatchOptions::PREVIOUS]));
    let expected = vec![seen(6, "a", "4"), before(seen(7, "a", "5"), "4")];
    assert_eq!(settle(&mut late).await, [Said::Created(0), Said::Events(0, expected)]);
    world.compact(7);
    let mut later = world.open();
    later.create(with(watch("a", "", 7), &[WatchOptions::PREVIOUS]));
    assert_eq!(settle(&mut later).await, [Said::Created(0), Said::Events(0, vec![seen(7, "a", "5")])]);
}

#[tokio::test(start_paused = true)]
async fn canceling_is_answered_once_and_what_is_unknown_is_not() {
    let world = World::new();
    let mut session = world.open();
    session.create(watch("a", "", 0));
    session.cancel(5);
    session.cancel(0);
    session.cancel(0);
    assert_eq!(drain(&mut session), [Said::Created(0), Said::Canceled(0)]);
    world.put("a", "1");
    assert_eq!(drain(&mut session), []);
}

#[tokio::test(start_paused = true)]
async fn progress_is_told_only_if_all_have_everything() {
    let world = World::new();
    let mut session = world.open();
    session.ask_progress();
    assert_eq!(drain(&mut session), [], "there is no watcher");
    session.create(watch("a", "", 0));
    drain(&mut session);
    session.ask_progress();
    assert_eq!(drain(&mut session), [Said::Progress(None, 1)], "it has no start to wait for");
    session.create(watch("b", "", 2));
    drain(&mut session);
    session.ask_progress();
    assert_eq!(drain(&mut session), [], "the start of one is not there yet");
    world.put("x", "1");
    session.ask_progress();
    assert_eq!(drain(&mut session), [Said::Progress(None, 2)]);
    world.put("a", "2");
    session.ask_progress();
    session.ask_progress();
    assert_eq!(
        drain(&mut session),
        [Said::Events(0, vec![seen(3, "a", "2")]), Said::Progress(None, 3), Said::Progress(None, 3)]
    );
}

#[tokio::test(start_paused = true)]
async fn progress_is_told_to_whoever_began_in_the_past_and_found_nothing() {
    let world = World::with(2_300, 1 << 10);
    world.put("x", "1");
    world.put("x", "2");
    let mut session = world.open();
    session.create(watch("a", "", 2));
    session.create(watch("x", "", 4));
    assert_eq!(settle(&mut session).await, [Said::Created(0), Said::Created(1)]);
    session.ask_progress();
    assert_eq!(drain(&mut session), [], "the start of one is not there yet");
    world.put("y", "1");
    // It falls behind before anybody looks whether it has begun.
    world.apply(vec![put("x", "3"), put("x", "4")]);
    assert_eq!(settle(&mut session).await, [Said::Events(1, vec![seen(5, "x", "3"), seen(6, "x", "4")])]);
    session.cancel(1);
    session.ask_progress();
    assert_eq!(drain(&mut session), [Said::Canceled(1), Said::Progress(None, 6)]);
}

#[tokio::test(start_paused = true)]
async fn idle_watchers_hear_of_progress_from_time_to_time_and_busy_ones_do_not() {
    let world = World::new();
    let mut session = world.open();
    session.create(with(watch("a", "", 0), &[WatchOptions::PROGRESS]));
    session.create(with(watch("b", "", 0), &[WatchOptions::PROGRESS]));
    session.create(watch("c", "", 0));
    drain(&mut session);
    world.put("a", "1");
    drain(&mut session);
    tokio::time::advance(Duration::from_millis(110)).await;
    assert_eq!(drain(&mut session), [Said::Progress(Some(1), 2)]);
    tokio::time::advance(Duration::from_millis(110)).await;
    assert_eq!(drain(&mut session), [Said::Progress(Some(0), 2), Said::Progress(Some(1), 2)]);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_does_not_take_its_events_reads_them_later() {
    let world = World::with(8 << 10, 1 << 10);
    let mut session = world.open();
    session.create(watch("a", "b", 0));
    drain(&mut session);
    for n in 0..100 {
        world.put(&format!("a{}", n % 7), &n.to_string());
    }
    assert!(world.hub.queued() <= 8 << 10);
    let said = settle(&mut session).await;
    let events: Vec<_> = said
        .iter()
        .flat_map(|said| match said {
            Said::Events(0, seen) => seen.clone(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(events.len(), 100);
    assert!(events.iter().zip(2..).all(|(seen, revision)| seen.revision == revision));
    assert!(said.len() > 1, "it was read in steps");
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_in_between_is_read_over_or_ends_whom_it_must() {
    let world = World::new();
    let mut session = world.open();
    session.create(watch("a", "", 0));
    world.put("a", "1");
    drain(&mut session);
    // The state jumps: nobody published what is between.
    let (_, revision) = world.apply_silently(vec![put("a", "2"), put("a", "3")]);
    *world.busy.lock() = true;
    world.hub.jump(revision);
    assert_eq!(settle(&mut session).await, [], "the snapshot is being installed");
    *world.busy.lock() = false;
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(settle(&mut session).await, [Said::Events(0, vec![seen(3, "a", "2"), seen(4, "a", "3")])]);
    let (_, revision) = world.apply_silently(vec![put("a", "4"), put("b", "5")]);
    world.compact(revision);
    world.hub.jump(revision);
    assert_eq!(settle(&mut session).await, [Said::Compacted(0, revision)]);
}

#[tokio::test(start_paused = true)]
async fn large_revisions_are_cut_only_for_those_that_want_it() {
    let world = World::new();
    let mut session = world.open();
    session.create(with(watch("a", "b", 0), &[WatchOptions::FRAGMENT]));
    session.create(watch("a", "b", 0));
    drain(&mut session);
    let large = "x".repeat(1 << 20);
    world.apply(vec![both((0..5).map(|n| put(&format!("a{n}"), &large)).collect())]);
    let said = settle(&mut session).await;
    let counts: Vec<_> = said
        .iter()
        .map(|said| match said {
            Said::Events(id, seen) => (*id, seen.len(), false),
            Said::Fragment(id, seen) => (*id, seen.len(), true),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        counts,
        [(1, 5, false), (0, 1, true), (0, 1, true), (0, 1, true), (0, 1, true), (0, 1, false)]
    );
}

#[tokio::test(start_paused = true)]
async fn too_many_watchers_are_refused_and_their_room_comes_back() {
    let world = World::new();
    let budget = Budget::new(2 * (super::super::table::WATCHER_BYTES + 1));
    let mut session = world.hub.open(budget.clone()).unwrap();
    for _ in 0..3 {
        session.create(watch("a", "", 0));
    }
    assert_eq!(drain(&mut session), [Said::Created(0), Said::Created(1), Said::Refused(Refused::TooMany)]);
    session.cancel(0);
    session.create(watch("a", "", 0));
    assert_eq!(drain(&mut session), [Said::Canceled(0), Said::Created(2)]);
    drop(session);
    let mut next = world.hub.open(budget).unwrap();
    next.create(watch("a", "", 0));
    next.create(watch("a", "", 0));
    assert_eq!(drain(&mut next), [Said::Created(0), Said::Created(1)]);
}

#[tokio::test(start_paused = true)]
async fn what_nobody_watches_is_not_encoded() {
    let world = World::new();
    let mut session = world.open();
    session.create(watch("a", "", 0));
    session.create(watch("a", "c", 0));
    let mut other = world.open();
    other.create(watch("a", "\0", 0));
    world.put("a", "1");
    assert_eq!(world.hub.encoded(), 1, "once for all three");
    drop((session, other));
    world.put("a", "1");
    assert_eq!(world.hub.encoded(), 1);
    assert_eq!(world.hub.queued(), 0);
}
