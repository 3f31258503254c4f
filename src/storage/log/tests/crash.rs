//! The power goes after every single write and sync; the process dies; syncs fail; the disk is full.

use proptest::prelude::*;

use super::*;

/// A history that does all a log can do, in groups that share a write. Entries are cut, segments are rolled.
fn history() -> Vec<Vec<Call>> {
    let append = |term, from: u64, to: u64, size| {
        Call::Append((from..to).map(|index| entry(term, index, size)).collect())
    };
    let vote = |term, committed| Call::Vote(Vote { term, node: Some(term * 10), committed });
    vec![
        vec![vote(1, false)],
        vec![append(1, 0, 1, 40), vote(1, true)],
        vec![append(1, 1, 4, 300), Call::Committed(id(1, 2))],
        vec![append(1, 4, 5, 1500)],
        vec![append(1, 5, 6, 700), append(1, 6, 9, 10), vote(2, false)],
        vec![Call::Truncate(Some(id(1, 6))), append(2, 7, 9, 900)],
        vec![append(2, 9, 14, 400)],
        vec![Call::Purge(id(1, 5)), append(2, 14, 15, 2)],
        vec![append(2, 15, 16, 6000)],
        vec![vote(3, true), Call::Truncate(Some(id(2, 10))), append(3, 11, 20, 333)],
        vec![Call::Purge(id(3, 12))],
        vec![append(3, 20, 21, 1), Call::Committed(id(3, 19))],
        vec![Call::Purge(id(4, 50)), append(4, 51, 53, 2000)],
        vec![append(4, 53, 54, 0)],
    ]
}

/// Runs a history until the power goes. Returns what was asked for, and how much of it was acknowledged.
fn run(world: &World, log: &Log, history: &[Vec<Call>]) -> (Vec<Call>, usize) {
    let mut calls = Vec::new();
    let answers = Answers::default();
    for group in history {
        for call in group {
            call.make(log, answers.done(calls.len() as u64));
            calls.push(call.clone());
        }
        world.tasks.run();
        if world.files.stopped() {
            break;
        }
    }
    // Committed ids are answered at once and promise nothing.
    let promised: Vec<_> = answers
        .take()
        .into_iter()
        .filter(|(number, _)| !matches!(calls[*number as usize], Call::Committed(_)))
        .collect();
    assert!(promised.windows(2).all(|pair| pair[0].0 < pair[1].0), "answers come in order");
    let acknowledged = promised.iter().take_while(|(_, result)| result.is_ok()).count();
    assert!(promised.iter().skip(acknowledged).all(|(_, result)| result.is_err()), "a failure is final");
    let acknowledged = promised[..acknowledged].last().map_or(0, |(number, _)| *number as usize + 1);
    (calls, acknowledged)
}

/// The log must be what some prefix of the calls made of it, and that prefix must hold all that was acknowledged.
fn check(log: &Log, recovered: &Recovered, calls: &[Call], acknowledged: usize, context: &str) {
    let found = Model::of(log);
    assert_eq!((recovered.vote, recovered.purged, recovered.last), (found.vote, found.purged, found.last()));
    assert!(recovered.committed.is_none_or(|id| Some(id.index) <= found.last().map(|last| last.index)));
    let mut model = Model::default();
    for (done, call) in calls.iter().enumerate() {
        if done >= acknowledged && model == found {
            return;
        }
        model.apply(call);
    }
    assert_eq!(found, model, "{context}: {acknowledged} of {} calls were acknowledged", calls.len());
}

/// After any crash, the log goes on.
fn check_goes_on(world: &World, log: &Log) {
    let next = log.last().map_or(0, |last| last.index + 1);
    let answers = Answers::default();
    log.append(vec![entry(9, next, 123)], answers.done(1));
    world.tasks.run();
    assert_eq!(answers.take(), vec![(1, Ok(()))]);
    let before = Model::of(log);
    let (log, _) = crashed(world, Crash::LoseAll).unwrap();
    assert_eq!(Model::of(&log), before);
}

#[test]
fn the_power_goes_after_every_write_and_sync() {
    let mut stop = 0;
    loop {
        let keeps = [Crash::LoseAll, Crash::KeepAll];
        let seeded = (0..6).map(Crash::Seeded);
        let mut complete = false;
        for keep in keeps.into_iter().chain(seeded) {
            let world = World::new(stop);
            let (log, _) = created(&world);
            world.files.stop_after(stop);
            let (calls, acknowledged) = run(&world, &log, &history());
            complete = !world.files.stopped();
            let context = format!("stopped after operation {stop}, then {keep:?}");
            let (log, recovered) = crashed(&world, keep).unwrap_or_else(|error| panic!("{context}: {error}"));
            check(&log, &recovered, &calls, acknowledged, &context);
            check_goes_on(&world, &log);
        }
        if complete {
            break;
        }
        stop += 1;
    }
    assert!(stop > 60, "the history has only {stop} operations");
}

/// The recovery itself is interrupted, at each of its operations.
#[test]
fn the_power_goes_again_while_the_tail_is_cut() {
    for stop in 5..60 {
        for again in 0..6 {
            let world = World::new(stop);
            let (log, _) = created(&world);
            world.files.stop_after(stop);
            let (calls, acknowledged) = run(&world, &log, &history());
            world.tasks.abandon();
            world.files.crash(Crash::Seeded(stop));
            world.files.stop_after(again);
            let _ = Log::open(&world.env, &directory(), SMALL);
            let context = format!("stopped after {stop}, then after {again} of the recovery");
            let (log, recovered) =
                crashed(&world, Crash::Seeded(again)).unwrap_or_else(|error| panic!("{context}: {error}"));
            check(&log, &recovered, &calls, acknowledged, &context);
            check_goes_on(&world, &log);
        }
    }
}

/// The process dies between write and fdatasync: the next one reads from the kernel what is on no disk. What it reports
/// must survive a power cut all the same.
#[test]
fn what_open_reports_is_durable_even_if_the_process_before_never_synced_it() {
    let mut unacknowledged = 0;
    for stop in 0..80 {
        let world = World::new(stop);
        let (log, _) = created(&world);
        world.files.stop_after(stop);
        let (calls, acknowledged) = run(&world, &log, &history());
        let (log, recovered) = reopened(&world).unwrap();
        check(&log, &recovered, &calls, acknowledged, &format!("killed after {stop}"));
        let reported = Model::of(&log);
        let mut promised = Model::default();
        calls[..acknowledged].iter().for_each(|call| promised.apply(call));
        unacknowledged += u32::from(promised != reported);
        let (log, _) = crashed(&world, Crash::LoseAll).unwrap();
        assert_eq!(Model::of(&log), reported, "killed after {stop}");
    }
    assert!(unacknowledged > 5, "the case was met {unacknowledged} times only");
}

#[test]
fn a_failed_sync_is_final_and_costs_nothing_that_was_acknowledged() {
    for count in 0..40 {
        let world = World::new(count);
        let (log, _) = created(&world);
        world.files.fail_sync_after(count);
        let (calls, acknowledged) = run(&world, &log, &history());
        let Some(reason) = log.failed() else { return assert!(count > 15, "{count}") };
        assert!(reason.contains("fdatasync") || reason.contains("segment"), "{reason}");
        let answers = Answers::default();
        log.append(Vec::new(), answers.done(1));
        log.save_vote(Vote { term: 99, node: None, committed: false }, answers.done(2));
        log.truncate_after(None, answers.done(3));
        log.purge(id(99, 99), answers.done(4));
        let answered = answers.take();
        assert_eq!(answered.len(), 4);
        assert!(answered.iter().all(|(_, result)| result.as_ref().is_err_and(|text| *text == reason)));
        assert_eq!(log.read(0..1, 1).unwrap_err().to_string(), reason);
        assert_eq!(log.read_cached(0..1, 1).unwrap_err().to_string(), reason);

        // The kernel takes what was not written for clean. The next process must not rely on it.
        let (log, recovered) = reopened(&world).unwrap();
        check(&log, &recovered, &calls, acknowledged, &format!("sync {count} failed"));
        let reported = Model::of(&log);
        let (log, _) = crashed(&world, Crash::LoseAll).unwrap();
        assert_eq!(Model::of(&log), reported, "sync {count} failed");
    }
}

#[test]
fn a_full_disk_is_a_typed_error_and_nothing_is_acknowledged() {
    let world = World::new(1);
    let (log, _) = created(&world);
    world.files.set_free(1000);
    let kinds = Arc::new(Mutex::new(Vec::new()));
    for index in 0..12 {
        let kinds = kinds.clone();
        let done = move |result: io::Result<()>| kinds.lock().push(result.map_err(|error| error.kind()));
        log.append(vec![entry(1, index, 400)], Box::new(done));
        world.tasks.run();
    }
    let kinds = kinds.lock().clone();
    let acknowledged = kinds.iter().take_while(|kind| kind.is_ok()).count();
    assert!((1..12).contains(&acknowledged));
    assert!(kinds[acknowledged..].iter().all(|kind| *kind == Err(io::ErrorKind::StorageFull)));
    world.files.set_free(1 << 20);
    let (log, recovered) = crashed(&world, Crash::KeepAll).unwrap();
    assert_eq!(recovered.last, Some(id(1, acknowledged as u64 - 1)));
    check_goes_on(&world, &log);
}

#[test]
fn what_waits_is_bounded() {
    let world = World::new(1);
    let (log, _) = created(&world);
    let answers = Answers::default();
    let payload = Bytes::from(vec![7; limits::LOG_ENTRY_BYTES]);
    for index in 0..4 {
        log.append(vec![Entry { id: id(1, index), payload: payload.clone() }], answers.done(index));
    }
    let refused = answers.take();
    assert_eq!(refused.len(), 1);
    assert!(refused[0].1.as_ref().unwrap_err().contains("already wait"));
    world.tasks.run();
    assert_eq!(answers.take().len(), 3);
    log.append(vec![Entry { id: id(1, 3), payload: payload.clone() }], answers.done(9));
    world.tasks.run();
    assert_eq!(answers.take(), vec![(9, Ok(()))]);
    assert_eq!(log.read(1..2, 0).unwrap()[0].payload, payload, "a segment of its own size");
}

/// What a random user of a log does.
#[derive(Clone, Debug)]
enum Step {
    Append { entries: u64, size: usize, new_term: bool },
    Vote,
    Committed,
    Truncate(u64),
    Purge(u64),
    PurgeBeyond,
    Run,
    Kill,
    Crash(u64),
    Close,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1..6u64, prop_oneof![0..20usize, 100..900usize, 3000..9000usize], any::<bool>())
            .prop_map(|(entries, size, new_term)| Step::Append { entries, size, new_term }),
        1 => Just(Step::Vote),
        1 => Just(Step::Committed),
        2 => (0..8u64).prop_map(Step::Truncate),
        2 => (0..12u64).prop_map(Step::Purge),
        1 => Just(Step::PurgeBeyond),
        6 => Just(Step::Run),
        1 => Just(Step::Kill),
        2 => any::<u64>().prop_map(Step::Crash),
        1 => Just(Step::Close),
    ]
}

/// The call that a step is, given what the log holds.
fn call_of(step: &Step, model: &Model, term: &mut u64) -> Option<Call> {
    let last = model.last();
    let next = last.map_or(0, |last| last.index + 1);
    match step {
        Step::Append { entries, size, new_term } => {
            *term += u64::from(*new_term);
            Some(Call::Append((next..next + entries).map(|index| entry(*term, index, *size)).collect()))
        }
        Step::Vote => Some(Call::Vote(Vote { term: *term, node: None, committed: false })),
        Step::Committed => last.map(Call::Committed),
        Step::Truncate(back) => {
            *term += 1;
            let kept = model.entries.values().rev().nth(*back as usize).map(|entry| entry.id);
            match kept.or(model.purged) {
                Some(id) => Some(Call::Truncate(Some(id))),
                None => Some(Call::Truncate(None)),
            }
        }
        Step::Purge(ahead) => model.entries.values().nth(*ahead as usize).map(|entry| Call::Purge(entry.id)),
        Step::PurgeBeyond => Some(Call::Purge(id(*term, next + 5))),
        _ => None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_history_ends_as_the_model_says(steps in prop::collection::vec(step(), 1..60), seed in any::<u64>()) {
        let world = World::new(seed);
        let (mut log, _) = created(&world);
        // Calls since everything was known to be durable, and the model of that moment.
        let (mut base, mut calls) = (Model::default(), Vec::<Call>::new());
        let mut now = Model::default();
        let mut term = 1;
        for step in &steps {
            if let Some(call) = call_of(step, &now, &mut term) {
                call.make(&log, Box::new(|_| {}));
                now.apply(&call);
                calls.push(call);
                continue;
            }
            let durable_known = match step {
                Step::Run => { world.tasks.run(); true }
                Step::Close => {
                    drop(std::mem::replace(&mut log, created_elsewhere()));
                    world.tasks.run();
                    log = crashed(&world, Crash::LoseAll).unwrap().0;
                    true
                }
                Step::Kill => { log = reopened(&world).unwrap().0; false }
                Step::Crash(seed) => { log = crashed(&world, Crash::Seeded(*seed)).unwrap().0; false }
                _ => continue,
            };
            let found = Model::of(&log);
            if durable_known {
                prop_assert_eq!(&found, &now);
            } else {
                let mut prefix = base.clone();
                let mut matches = prefix == found;
                for call in &calls {
                    prefix.apply(call);
                    matches |= prefix == found;
                }
                prop_assert!(matches, "not a prefix of {:?} on {:?}: {:?}", calls, base, found);
                now = found;
            }
            base = now.clone();
            calls.clear();
            prop_assert_eq!(*log.durable().borrow(), now.last().map_or(0, |last| last.index));
        }
    }
}

/// Some other log, to have the handle of the one at hand dropped.
fn created_elsewhere() -> Log {
    created(&World::new(0)).0
}
