//! Random sequences of commands, physical compaction, restarts and reads, against the model.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;

use super::model::Model;
use super::{Memory, Store};
use crate::mvcc::command::{
    Command, Compact, Compare, CompareResult, DeleteRange, LogPosition, Operand, Put, Range, Request,
    SortOrder, SortTarget, Txn, TxnOp,
};
use crate::mvcc::lease::{Granted, LeaseCommand, MAX_TTL};
use crate::mvcc::read;
use crate::mvcc::{Revision, State};

/// What happens to the store.
#[derive(Clone, Debug)]
enum Action {
    /// One log entry.
    Apply(Vec<Command>),
    /// Some steps of physical compaction, of so many records.
    Compact { steps: usize, records: usize },
    /// The state is thrown away and rebuilt.
    Reload,
    /// A read.
    Read(Range),
    /// A transaction without the log, if it only reads.
    ReadTxn(Txn),
}

/// Revisions are drawn small, so that they hit; those of compaction and reads relate to the current one.
const REVISIONS: std::ops::Range<i64> = -2..40;

fn key() -> impl Strategy<Value = Bytes> {
    let long = Bytes::from(vec![b'b'; 9_000]);
    prop_oneof![
        8 => "[a-c]{1,2}".prop_map(Bytes::from),
        2 => Just(Bytes::from_static(b"\0")),
        1 => Just(Bytes::from_static(b"b-is-longer-than-the-inline-keys-are")),
        1 => Just(long),
    ]
}

fn range_end() -> impl Strategy<Value = Bytes> {
    prop_oneof![3 => Just(Bytes::new()), 2 => Just(Bytes::from_static(b"\0")), 2 => key()]
}

fn value() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        4 => "[x-z]{0,3}".prop_map(Bytes::from),
        2 => (any::<u8>(), 100..2_000_usize).prop_map(|(byte, length)| Bytes::from(vec![byte; length])),
        1 => (any::<u8>(), 8_100..30_000_usize).prop_map(|(byte, length)| Bytes::from(vec![byte; length])),
    ]
}

fn put() -> impl Strategy<Value = Put> {
    let lease = prop_oneof![6 => Just(0), 3 => LEASES];
    let often = || prop::bool::weighted(0.25);
    (key(), value(), lease, often(), often(), often()).prop_map(
        |(key, value, lease, prev_kv, ignore_value, ignore_lease)| Put {
            key,
            value,
            lease,
            prev_kv,
            ignore_value,
            ignore_lease,
        },
    )
}

/// Few ids, so that they meet; also one that is negative, and 0, which no lease has.
const LEASES: std::ops::Range<i64> = -1..3;

fn lease() -> impl Strategy<Value = LeaseCommand> {
    // Entries are counted from 1, and commands in them from 0: some of these were granted there.
    let granted =
        || (LEASES, 1..12_u64, 0..4_u32).prop_map(|(id, index, position)| (id, Granted { index, position }));
    let term = || prop_oneof![4 => Just(1_u64), 1 => Just(2)];
    prop_oneof![
        6 => (LEASES, prop_oneof![9 => 1..90_i64, 1 => Just(MAX_TTL + 1)])
            .prop_map(|(id, ttl)| LeaseCommand::Grant { id, ttl }),
        2 => LEASES.prop_map(|id| LeaseCommand::Revoke { id }),
        3 => (term(), vec(granted(), 0..20)).prop_map(|(term, leases)| LeaseCommand::Expire { term, leases }),
        2 => (term(), vec((granted(), 0..50_i64), 0..20)).prop_map(|(term, leases)| {
            let remaining = leases.into_iter().map(|((id, granted), left)| (id, granted, left)).collect();
            LeaseCommand::Checkpoint { term, remaining }
        }),
    ]
}

fn delete() -> impl Strategy<Value = DeleteRange> {
    (key(), range_end(), any::<bool>()).prop_map(|(key, range_end, prev_kv)| DeleteRange {
        key,
        range_end,
        prev_kv,
    })
}

fn filter() -> impl Strategy<Value = i64> {
    prop_oneof![6 => Just(0), 1 => REVISIONS]
}

prop_compose! {
    fn range()(
        key in key(),
        range_end in range_end(),
        limit in prop_oneof![2 => Just(0), 3 => -1..5_i64],
        revision in prop_oneof![2 => Just(0), 2 => REVISIONS],
        sort_order in prop::sample::select(vec![SortOrder::None, SortOrder::Ascend, SortOrder::Descend]),
        sort_target in prop::sample::select(vec![
            SortTarget::Key, SortTarget::Version, SortTarget::Create, SortTarget::Mod, SortTarget::Value,
        ]),
        keys_only in prop::bool::weighted(0.2),
        count_only in prop::bool::weighted(0.2),
        filters in (filter(), filter(), filter(), filter()),
    ) -> Range {
        let (min_mod_revision, max_mod_revision, min_create_revision, max_create_revision) = filters;
        Range {
            key, range_end, limit, revision, sort_order, sort_target, keys_only, count_only,
            min_mod_revision, max_mod_revision, min_create_revision, max_create_revision,
        }
    }
}

fn compare() -> impl Strategy<Value = Compare> {
    let result = prop::sample::select(vec![
        CompareResult::Equal,
        CompareResult::NotEqual,
        CompareResult::Greater,
        CompareResult::Less,
    ]);
    let operand = prop_oneof![
        (0..4_i64).prop_map(Operand::Version),
        REVISIONS.prop_map(Operand::Create),
        REVISIONS.prop_map(Operand::Mod),
        value().prop_map(Operand::Value),
        (0..2_i64).prop_map(Operand::Lease),
    ];
    (key(), range_end(), result, operand).prop_map(|(key, range_end, result, operand)| Compare {
        key,
        range_end,
        result,
        operand,
    })
}

fn txn() -> impl Strategy<Value = Txn> {
    let leaf = prop_oneof![
        2 => range().prop_map(TxnOp::Range),
        3 => put().prop_map(TxnOp::Put),
        2 => delete().prop_map(TxnOp::DeleteRange),
    ];
    let op = leaf.prop_recursive(3, 12, 3, |op| {
        (vec(compare(), 0..2), vec(op.clone(), 0..3), vec(op, 0..3))
            .prop_map(|(compares, success, failure)| TxnOp::Txn(Txn { compares, success, failure }))
    });
    (vec(compare(), 0..3), vec(op.clone(), 0..4), vec(op, 0..4))
        .prop_map(|(compares, success, failure)| Txn { compares, success, failure })
}

fn command() -> impl Strategy<Value = Command> {
    prop_oneof![
        6 => put().prop_map(Command::Put),
        2 => delete().prop_map(Command::DeleteRange),
        3 => txn().prop_map(Command::Txn),
        4 => lease().prop_map(Command::Lease),
        1 => REVISIONS.prop_map(|revision| Command::Compact(Compact { revision, physical: false })),
    ]
}

fn action() -> impl Strategy<Value = Action> {
    let reads = (vec(compare(), 0..2), vec(range(), 0..3), vec(range(), 0..3)).prop_map(
        |(compares, success, failure)| Txn {
            compares,
            success: success.into_iter().map(TxnOp::Range).collect(),
            failure: failure.into_iter().map(TxnOp::Range).collect(),
        },
    );
    prop_oneof![
        6 => vec(command(), 1..8).prop_map(Action::Apply),
        2 => (1..4_usize, 1..4_usize).prop_map(|(steps, records)| Action::Compact { steps, records }),
        1 => Just(Action::Reload),
        3 => range().prop_map(Action::Read),
        1 => reads.prop_map(Action::ReadTxn),
    ]
}

/// A store beside the model, and one that gets the same commands but is never compacted physically, nor restarted.
struct Trio {
    store: Store,
    lazy: Store,
    model: Model,
}

impl Trio {
    fn run(&mut self, action: &Action) -> Result<(), TestCaseError> {
        match action {
            Action::Apply(commands) => self.apply(commands)?,
            Action::Compact { steps, records } => {
                for _ in 0..*steps {
                    self.store.step(*records);
                }
            }
            Action::Reload => self.store.reload(),
            Action::Read(range) => {
                let expected = self.model.range(range, self.model.revision);
                prop_assert_eq!(self.store.range(range), expected);
            }
            Action::ReadTxn(txn) => {
                let read = self.store.state.read_txn(&self.store.engine, txn);
                let (reply, events) = self.model.apply(&Command::Txn(txn.clone()), Granted::default());
                prop_assert_eq!(events.len(), 0);
                let outcome =
                    read.map(|result| crate::mvcc::command::Outcome::Txn(result.expect("reads only")));
                prop_assert_eq!(outcome, reply.map(|reply| reply.outcome));
            }
        }
        prop_assert_eq!(self.store.state.revision(), self.model.revision);
        prop_assert_eq!(self.store.state.compacted(), self.model.compacted);
        prop_assert_eq!(self.store.state.keys(), self.model.live());
        self.check_leases()
    }

    fn check_leases(&self) -> Result<(), TestCaseError> {
        let leases = self.store.state.leases();
        let ours: Vec<_> =
            leases.iter().map(|(id, lease)| (id, (lease.ttl, lease.remaining, lease.granted))).collect();
        let expected: Vec<_> = self.model.leases.iter().map(|(id, lease)| (*id, *lease)).collect();
        prop_assert_eq!(ours, expected);
        let mut hanging = 0;
        for (id, lease) in leases.iter() {
            let keys: Vec<_> = lease.keys().map(Bytes::copy_from_slice).collect();
            hanging += keys.len();
            prop_assert_eq!(keys, self.model.hanging(id), "lease {}", id);
        }
        prop_assert_eq!(leases.key_count(), hanging);
        prop_assert_eq!(leases, self.lazy.state.leases());
        Ok(())
    }

    fn apply(&mut self, commands: &[Command]) -> Result<(), TestCaseError> {
        let applied = self.store.apply(commands.to_vec());
        let lazy = self.lazy.apply(commands.to_vec());
        let mut events = Vec::new();
        let index = self.store.entries;
        for ((command, reply), position) in commands.iter().zip(&applied.replies).zip(0..) {
            let (expected, new) = self.model.apply(command, Granted { index, position });
            prop_assert_eq!(reply, &expected, "{:?}", command);
            events.extend(new);
        }
        prop_assert_eq!(&applied.events, &events);
        prop_assert_eq!(&applied.changes, &lazy.changes, "the same commands give the same bytes");
        prop_assert_eq!(&applied.replies, &lazy.replies);
        Ok(())
    }

    /// Everything at every revision that can be read.
    fn check_all(&self) -> Result<(), TestCaseError> {
        let everything = Bytes::from_static(b"\0");
        for revision in self.model.compacted.max(1)..=self.model.revision {
            for keys_only in [false, true] {
                let range = Range {
                    key: everything.clone(),
                    range_end: everything.clone(),
                    revision,
                    keys_only,
                    ..Range::default()
                };
                let expected = self.model.range(&range, self.model.revision);
                prop_assert_eq!(self.store.range(&range), expected);
            }
            let ours = self.store.state.hash(&self.store.engine, revision);
            let lazy = self.lazy.state.hash(&self.lazy.engine, revision);
            prop_assert_eq!(ours.unwrap(), lazy.unwrap());
        }
        Ok(())
    }
}

/// Revisions and keys of all changes in the engine.
fn physical(engine: &Memory) -> Vec<(i64, usize, Bytes)> {
    let mut all = Vec::new();
    for (base, value) in read::next_records(engine, Revision::default(), i64::MAX - 1, usize::MAX).unwrap() {
        for entry in read::entries(engine, base, &value).unwrap() {
            all.push((entry.revision.main, entry.revision.sub as usize, entry.key));
        }
    }
    all
}

fn cases() -> ProptestConfig {
    ProptestConfig { max_shrink_iters: 4_000, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn state_is_what_the_model_says(actions in vec(action(), 1..25)) {
        let mut trio = Trio { store: Store::default(), lazy: Store::default(), model: Model::new() };
        for action in &actions {
            trio.run(action)?;
        }
        trio.check_all()?;
        trio.store.clean();
        trio.check_all()?;
        prop_assert_eq!(physical(&trio.store.engine), trio.model.kept());
        prop_assert_eq!(trio.store.state.physically_compacted(), trio.model.compacted.max(0));

        // What was trimmed in steps is what loading finds; and the small state is all that is not a record.
        let loaded = State::load(&trio.store.engine).unwrap();
        prop_assert_eq!(&loaded.index, &trio.store.state.index);
        prop_assert_eq!(&State::load(&trio.lazy.engine).unwrap().index, &loaded.index, "cleaned or not");
        prop_assert_eq!(&loaded.leases, &trio.store.state.leases);
        trio.store.reload();
        trio.check_all()?;
        let small: Vec<_> = trio.store.engine.0.iter().filter(|(key, _)| key[0] == b's').collect();
        let mut expected = trio.store.state.small_state();
        expected.sort();
        prop_assert_eq!(small, expected.iter().map(|(key, value)| (key, value)).collect::<Vec<_>>());
    }

    /// A snapshot is the history up to a revision, read while writes go on, and the small state of that revision.
    #[test]
    fn a_snapshot_is_history_and_small_state(
        before in vec(vec(command(), 1..6), 1..8),
        after in vec(vec(command(), 1..6), 1..4),
    ) {
        let mut store = Store::default();
        for commands in before {
            store.apply(commands);
        }
        store.step(2);
        let (revision, compacted) = (store.state.revision(), store.state.compacted());
        let expected = store.state.hash(&store.engine, 0).unwrap();
        let small = store.state.small_state();
        let leases = store.state.leases().clone();
        for (commands, later) in after.into_iter().zip(1..) {
            let at = LogPosition { term: 1, index: store.entries + later };
            let requests: Vec<_> = commands.into_iter().map(Request::anonymous).collect();
            let applied = store.state.apply(&store.engine, at, &requests);
            store.engine.write(&applied.changes);
        }
        let (from, to) = crate::mvcc::layout::history_span(revision);
        let mut copy = Memory(small.into_iter().collect());
        copy.0.extend(
            store.engine.0.range(Bytes::from(from)..Bytes::from(to)).map(|(key, value)| (key.clone(), value.clone())),
        );
        let loaded = State::load(&copy).unwrap();
        prop_assert_eq!((loaded.revision(), loaded.compacted()), (revision, compacted));
        prop_assert_eq!(loaded.hash(&copy, 0).unwrap(), expected);
        prop_assert_eq!(loaded.leases(), &leases);
    }
}
