//! Everything at once, against a naive model: random writes, readers that are slow, compaction, cancels, snapshots.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

/// What happens next.
#[derive(Clone, Debug)]
enum Step {
    Write(Vec<Vec<(u8, bool)>>),
    Create { stream: usize, from: u8, to: u8, back: i64, options: u8 },
    Cancel { stream: usize, id: i64 },
    Progress { stream: usize },
    Read { stream: usize, most: usize },
    Compact { behind: i64 },
    Jump(u8),
    Reopen { stream: usize },
}

const STREAMS: usize = 3;

fn step() -> impl Strategy<Value = Step> {
    let stream = || 0..STREAMS;
    let changes = prop::collection::vec(prop::collection::vec((0..6_u8, any::<bool>()), 1..4), 1..4);
    prop_oneof![
        8 => changes.prop_map(Step::Write),
        4 => (stream(), 0..6_u8, 0..8_u8, -3..12_i64, 0..16_u8)
            .prop_map(|(stream, from, to, back, options)| Step::Create { stream, from, to, back, options }),
        1 => (stream(), 0..4_i64).prop_map(|(stream, id)| Step::Cancel { stream, id }),
        2 => stream().prop_map(|stream| Step::Progress { stream }),
        4 => (stream(), prop_oneof![1..4_usize, Just(usize::MAX)])
            .prop_map(|(stream, most)| Step::Read { stream, most }),
        1 => (0..8_i64).prop_map(|behind| Step::Compact { behind }),
        1 => (1..4_u8).prop_map(Step::Jump),
        1 => stream().prop_map(|stream| Step::Reopen { stream }),
    ]
}

fn name(key: u8) -> String {
    format!("k{key}")
}

/// A watcher as the model knows it.
#[derive(Clone, Debug)]
struct Model {
    keys: WatchedKeys,
    options: WatchOptions,
    start: i64,
    /// Events up to here were seen or are known to be none.
    seen: i64,
    /// It was asked for without a start.
    is_now: bool,
    /// Announced: no event up to here may follow.
    announced: i64,
}

/// All that was ever written.
#[derive(Default)]
struct Log {
    events: Vec<Seen>,
    values: BTreeMap<Bytes, Vec<(i64, Option<Bytes>)>>,
}

impl Log {
    fn add(&mut self, events: &[Event]) {
        for event in events {
            let kv = &event.kv;
            let value = (event.kind == EventKind::Put).then(|| kv.value.clone());
            let versions = self.values.entry(kv.key.clone()).or_default();
            let previous = versions.last().and_then(|(_, value)| value.clone());
            versions.push((kv.mod_revision, value));
            self.events.push(Seen {
                revision: kv.mod_revision,
                kind: event.kind,
                key: kv.key.clone(),
                value: kv.value.clone(),
                previous,
            });
        }
    }

    /// What a watcher must see of the revisions after `after`, up to `to`.
    fn expected(&self, model: &Model, after: i64, to: i64) -> Vec<Seen> {
        self.events
            .iter()
            .filter(|seen| seen.revision > after && seen.revision <= to && seen.revision >= model.start)
            .filter(|seen| model.keys.contains(&seen.key) && model.options.wants(seen.kind))
            .cloned()
            .collect()
    }
}

struct Run {
    world: Arc<World>,
    log: Log,
    streams: Vec<(Session, BTreeMap<i64, Model>, VecDeque<Model>)>,
    compacted: i64,
}

impl Run {
    fn step(&mut self, step: Step) {
        let revision = self.world.state.lock().revision();
        match step {
            Step::Write(entries) => {
                let commands = entries.into_iter().map(transaction).collect();
                let (events, revision) = self.world.apply_silently(commands);
                self.log.add(&events);
                self.world.hub.publish(&events, revision);
            }
            Step::Jump(writes) => {
                let commands = (0..writes).map(|n| put(&name(n), "jumped")).collect();
                let (events, revision) = self.world.apply_silently(commands);
                self.log.add(&events);
                self.world.hub.jump(revision);
            }
            Step::Compact { behind } => {
                let at = revision - behind;
                if at > self.compacted {
                    self.world.compact(at);
                    self.compacted = at;
                }
            }
            Step::Create { stream, from, to, back, options } => {
                let end = if to == 7 {
                    "\0".into()
                } else if to > from {
                    name(to)
                } else {
                    String::new()
                };
                let start_revision = (revision + 2 - back).max(0);
                let options = [
                    WatchOptions::NO_PUT,
                    WatchOptions::NO_DELETE,
                    WatchOptions::PREVIOUS,
                    WatchOptions::FRAGMENT,
                ]
                .into_iter()
                .enumerate()
                .fold(WatchOptions::default(), |all, (bit, one)| all.with(one, options & 1 << bit != 0));
                let create = Create { options, ..watch(&name(from), &end, start_revision) };
                let keys = create.keys.clone().unwrap();
                let start = if start_revision == 0 { revision + 1 } else { start_revision };
                let (session, _, waiting) = &mut self.streams[stream];
                session.create(create);
                waiting.push_back(Model {
                    keys,
                    options,
                    start,
                    seen: start - 1,
                    is_now: start_revision == 0,
                    announced: 0,
                });
            }
            Step::Cancel { stream, id } => self.streams[stream].0.cancel(id),
            Step::Progress { stream } => self.streams[stream].0.ask_progress(),
            Step::Read { stream, most } => self.read(stream, most),
            Step::Reopen { stream } => {
                self.streams[stream] = (self.world.open(), BTreeMap::new(), VecDeque::new());
            }
        }
    }

    /// Reads what a stream has, so many updates at most, and compares.
    fn read(&mut self, stream: usize, most: usize) {
        let session = &mut self.streams[stream].0;
        let said = futures::executor::block_on(async {
            let (mut said, mut updates) = (Vec::new(), 0);
            // Dropped while it waits, as a request does that arrives meanwhile: nothing is lost by that.
            if let std::task::Poll::Ready(update) = futures::poll!(std::pin::pin!(session.next())) {
                say(update.unwrap(), &mut said);
                updates += 1;
            }
            'updates: while updates < most {
                let mut next = std::pin::pin!(session.next());
                // It yields between steps of reading, of which there are fewer; nothing else runs that could give it more.
                for _ in 0..1_000 {
                    if let std::task::Poll::Ready(update) = futures::poll!(next.as_mut()) {
                        say(update.unwrap(), &mut said);
                        updates += 1;
                        continue 'updates;
                    }
                }
                break;
            }
            said
        });
        let (_, models, waiting) = &mut self.streams[stream];
        for said in said {
            match said {
                Said::Created(id) => {
                    assert!(models.insert(id, waiting.pop_front().unwrap()).is_none());
                }
                Said::Canceled(id) => assert!(models.remove(&id).is_some()),
                Said::Compacted(id, at) => {
                    let model = models.remove(&id).unwrap();
                    // What was read only now may have been said before.
                    assert!(at <= self.compacted);
                    assert!(model.seen + 1 < at || model.start < at, "{model:?} was ended at {at}");
                }
                Said::Progress(None, at) => {
                    for model in models.values_mut() {
                        assert!(at >= model.start || model.is_now, "{model:?} has not begun at {at}");
                        let missed = self.log.expected(model, model.seen, at);
                        assert_eq!(missed, [], "{at} was announced to {model:?}");
                        model.announced = at;
                    }
                }
                Said::Events(id, events) => {
                    let model = models.get_mut(&id).unwrap();
                    check(&self.log, model, &events, self.compacted);
                }
                other => panic!("{other:?}"),
            }
        }
        if most < usize::MAX {
            return;
        }
        assert_eq!(waiting.len(), 0);
        // All that there is was delivered to those that were not ended.
        let revision = self.world.state.lock().revision();
        for model in models.values() {
            assert_eq!(self.log.expected(model, model.seen, revision), [], "{model:?} missed these");
        }
    }
}

/// The events are the next ones, whole revisions, with the right pairs before.
fn check(log: &Log, model: &mut Model, events: &[Seen], compacted: i64) {
    let last = events.last().unwrap().revision;
    assert!(events[0].revision > model.announced, "{events:?} after progress: {model:?}");
    let expected = log.expected(model, model.seen, last);
    assert_eq!(events.len(), expected.len(), "{events:?} for {model:?}, not {expected:?}");
    for (event, expected) in events.iter().zip(expected) {
        let bare = |seen: &Seen| Seen { previous: None, ..seen.clone() };
        assert_eq!(bare(event), bare(&expected), "for {model:?}");
        if !model.options.has(WatchOptions::PREVIOUS) {
            assert_eq!(event.previous, None);
        } else if event.previous != expected.previous {
            assert!(
                event.previous.is_none() && event.revision - 1 < compacted,
                "{event:?}, not {expected:?}"
            );
        }
    }
    model.seen = last;
}

fn transaction(changes: Vec<(u8, bool)>) -> Command {
    let mut seen = std::collections::BTreeSet::new();
    let changes = changes.into_iter().filter(|(key, _)| seen.insert(*key));
    both(
        changes
            .map(
                |(key, is_put)| {
                    if is_put { put(&name(key), &format!("v{key}")) } else { delete(&name(key), "") }
                },
            )
            .collect(),
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn every_watcher_sees_all_that_happened_once_and_in_order(
        steps in prop::collection::vec(step(), 1..80),
        queue in prop_oneof![Just(2_000_usize), Just(8_000), Just(1 << 20)],
        read in prop_oneof![Just(1_usize), Just(100), Just(1 << 20)],
    ) {
        let world = World::with(queue, read);
        let open = || (world.open(), BTreeMap::new(), VecDeque::new());
        let streams = (0..STREAMS).map(|_| open()).collect();
        let mut run = Run { world: world.clone(), log: Log::default(), streams, compacted: -1 };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let _guard = runtime.enter();
        for step in steps {
            run.step(step);
        }
        for stream in 0..STREAMS {
            run.read(stream, usize::MAX);
        }
    }
}
