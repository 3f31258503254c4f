//! What is called: drawn from a seed, and from what both servers are known to hold.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;
use setstone::proto::etcdserverpb::{self as pb, compare::TargetUnion, request_op::Request as Op};

use super::auth::AuthCall;
use super::side::Answer;

/// Streams of watchers on each side.
pub const STREAMS: usize = 3;
/// A key that a watcher of every stream watches.
pub const SENTINEL: &str = "~";
pub const SENTINEL_ID: i64 = 9_999;

/// Keys that programs are about: few, so that calls meet, with what is special about bytes.
const KEYS: [&[u8]; 14] = [
    b"a",
    b"a\0",
    b"ab",
    b"b",
    b"b\xff",
    b"b\xff\xff",
    b"c",
    b"d/1",
    b"d/2",
    b"d/3",
    b"d/4",
    b"\0",
    b"\xff",
    b"\xff\xff",
];

/// One call.
#[derive(Clone, Debug)]
pub enum Call {
    Range(pb::RangeRequest),
    Put(pb::PutRequest),
    Delete(pb::DeleteRangeRequest),
    Txn(pb::TxnRequest),
    Compact(pb::CompactionRequest),
    Grant(pb::LeaseGrantRequest),
    /// A grant whose lease is revoked at once: its id is drawn, or its time so short that it would expire meanwhile.
    PassingGrant(pb::LeaseGrantRequest),
    Revoke(pb::LeaseRevokeRequest),
    KeepAlive(pb::LeaseKeepAliveRequest),
    TimeToLive(pb::LeaseTimeToLiveRequest),
    Leases,
    Auth(AuthCall),
}

#[derive(Clone, Debug)]
pub enum Step {
    Call(Call),
    Watch { stream: usize, create: pb::WatchCreateRequest },
    Cancel { stream: usize, watch_id: i64 },
    Reopen { stream: usize },
}

/// What both servers are known to hold.
#[derive(Debug, Default)]
pub struct World {
    pub revision: i64,
    pub compacted: i64,
    pub leases: BTreeSet<i64>,
    /// By stream: the newest revision that a watcher waits for.
    awaited: [i64; STREAMS],
}

impl World {
    pub fn learn(&mut self, call: &Call, answer: &Answer) {
        self.revision = self.revision.max(answer.revision().unwrap_or(0));
        match (call, answer) {
            (Call::Compact(request), Answer::Compact(_)) => self.compacted = request.revision,
            (Call::Grant(request), Answer::Grant(_)) => drop(self.leases.insert(request.id)),
            (Call::Revoke(request), Answer::Revoke(_)) => drop(self.leases.remove(&request.id)),
            _ => {}
        }
    }

    pub fn watched(&mut self, stream: usize, create: &pb::WatchCreateRequest) {
        self.awaited[stream] = self.awaited[stream].max(create.start_revision);
    }

    /// Whether a watcher that begins there is ended at once.
    pub fn is_compacted(&self, start_revision: i64) -> bool {
        (1..self.compacted).contains(&start_revision)
    }

    pub fn opened(&mut self, stream: usize) {
        self.awaited[stream] = 0;
    }

    pub fn awaited(&self, stream: usize) -> i64 {
        self.awaited[stream]
    }
}

/// A write that the watchers of all streams see.
pub fn sentinel() -> Call {
    Call::Put(pb::PutRequest { key: SENTINEL.into(), ..Default::default() })
}

/// Everything as it was at a revision.
pub fn everything_at(revision: i64) -> Call {
    let all = Bytes::from_static(b"\0");
    Call::Range(pb::RangeRequest { key: all.clone(), range_end: all, revision, ..Default::default() })
}

/// `SplitMix64`: the same numbers everywhere.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// True so many times in a hundred.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub fn one_of<T: Clone>(&mut self, values: &[T]) -> T {
        values[self.below(values.len() as u64) as usize].clone()
    }

    /// Between these, both included.
    fn between(&mut self, from: i64, to: i64) -> i64 {
        from + self.below((to - from + 1).max(1) as u64) as i64
    }
}

pub struct Program {
    dice: Dice,
    /// Whether the transaction that is being made may delete; if not, its puts may keep what is there.
    may_delete: bool,
    /// What follows, because it was begun.
    begun: VecDeque<Step>,
}

impl Program {
    pub fn new(seed: u64) -> Self {
        Self { dice: Dice::new(seed), may_delete: true, begun: VecDeque::new() }
    }

    pub fn next(&mut self, world: &World) -> Step {
        if let Some(step) = self.begun.pop_front() {
            return step;
        }
        let call = match self.dice.below(100) {
            0..26 => Call::Put(self.put(world)),
            26..48 => Call::Range(self.range(world)),
            48..58 => Call::Delete(self.delete()),
            58..76 => {
                self.may_delete = self.dice.chance(70);
                Call::Txn(self.txn(world, 0))
            }
            76 => Call::Compact(self.compact(world)),
            77..87 => self.lease(world),
            87 => return Step::Reopen { stream: self.stream() },
            88..92 => {
                let watch_id = self.dice.one_of(&[0, 1, 2, 3, 4, 7, 8, 77, -1, -5]);
                return Step::Cancel { stream: self.stream(), watch_id };
            }
            92 if self.dice.chance(10) => Call::Txn(self.large_txn()),
            93 if self.dice.chance(10) => return self.large_revision(),
            _ => return Step::Watch { stream: self.stream(), create: self.watch(world) },
        };
        Step::Call(call)
    }

    /// A key, and the end of a range that begins with it.
    pub fn key_and_end(&mut self) -> (Bytes, Bytes) {
        let key = self.key();
        (key.clone(), self.range_end(&key))
    }

    fn stream(&mut self) -> usize {
        self.dice.below(STREAMS as u64) as usize
    }

    fn key(&mut self) -> Bytes {
        if self.dice.chance(1) {
            return Bytes::new();
        }
        Bytes::from_static(self.dice.one_of(&KEYS))
    }

    fn range_end(&mut self, key: &Bytes) -> Bytes {
        match self.dice.below(10) {
            0..4 => Bytes::new(),
            4 | 5 => Bytes::from_static(b"\0"),
            6 => key.clone(),
            7 => Bytes::from_static(b"e"),
            8 => {
                // The end of the keys that begin with it.
                let mut end = key.to_vec();
                if let Some(last) = end.last_mut() {
                    *last = last.wrapping_add(1);
                }
                end.into()
            }
            _ => self.key(),
        }
    }

    fn value(&mut self) -> Bytes {
        let size = match self.dice.below(200) {
            0..20 => 0,
            20..190 => self.dice.below(12),
            190..198 => 8_000 + self.dice.below(1_000),
            198 => 300_000,
            _ => self.dice.one_of(&[1_572_864, 1_572_700, 2_097_200]),
        };
        let byte = b'a' + self.dice.below(20) as u8;
        vec![byte; size as usize].into()
    }

    fn lease_id(&mut self, world: &World) -> i64 {
        let known: Vec<i64> = world.leases.iter().copied().collect();
        if known.is_empty() || self.dice.chance(15) {
            return self.dice.one_of(&[5, 77, -3, i64::MAX, i64::MIN, 123_456]);
        }
        self.dice.one_of(&known)
    }

    /// A revision that may be asked for; some are too old, some are not there yet.
    fn revision(&mut self, world: &World) -> i64 {
        match self.dice.below(20) {
            0 => -self.dice.between(1, 5),
            1 => world.revision + self.dice.between(1, 3),
            2 => world.compacted,
            3 => self.dice.between(0, world.compacted),
            _ => self.dice.between(world.compacted, world.revision),
        }
    }

    fn put(&mut self, world: &World) -> pb::PutRequest {
        let ignore_value = self.dice.chance(6);
        let ignore_lease = self.dice.chance(6);
        pb::PutRequest {
            key: self.key(),
            value: if ignore_value && self.dice.chance(80) { Bytes::new() } else { self.value() },
            lease: if self.dice.chance(25) && !(ignore_lease && self.dice.chance(80)) {
                self.lease_id(world)
            } else {
                0
            },
            prev_kv: self.dice.chance(30),
            ignore_value,
            ignore_lease,
        }
    }

    fn range(&mut self, world: &World) -> pb::RangeRequest {
        let key = self.key();
        let mut request = pb::RangeRequest { range_end: self.range_end(&key), key, ..Default::default() };
        request.limit = if self.dice.chance(40) { self.dice.between(-1, 5) } else { 0 };
        request.revision = if self.dice.chance(35) { self.revision(world) } else { 0 };
        if self.dice.chance(40) {
            request.sort_order = self.dice.between(0, 2) as i32;
            request.sort_target = self.dice.between(0, 4) as i32;
        }
        if self.dice.chance(2) {
            request.sort_order = self.dice.one_of(&[3, 7, -1]);
        }
        if self.dice.chance(2) {
            request.sort_target = self.dice.one_of(&[5, 9, -1]);
        }
        if request.sort_target != 0 && !request.range_end.is_empty() {
            // No more pairs than etcd sorts as everybody does.
            request.range_end = self.dice.one_of(&["e", "d/3", "c", "b"]).into();
        }
        request.serializable = self.dice.chance(30);
        request.keys_only = self.dice.chance(20);
        request.count_only = self.dice.chance(12);
        for bound in [
            &mut request.min_mod_revision,
            &mut request.max_mod_revision,
            &mut request.min_create_revision,
            &mut request.max_create_revision,
        ] {
            if self.dice.chance(8) {
                *bound = self.dice.between(-1, world.revision + 1);
            }
        }
        request
    }

    fn delete(&mut self) -> pb::DeleteRangeRequest {
        let key = self.key();
        pb::DeleteRangeRequest { range_end: self.range_end(&key), key, prev_kv: self.dice.chance(40) }
    }

    fn compare(&mut self, world: &World) -> pb::Compare {
        let key = self.key();
        let target = self.dice.between(0, 4) as i32;
        // Now and then what is compared with is not what the target says, or is not there.
        let union = if self.dice.chance(4) { self.dice.between(0, 5) as i32 } else { target };
        let revision = if self.dice.chance(30) { 0 } else { self.revision(world) };
        let target_union = match union {
            0 => Some(TargetUnion::Version(self.dice.between(-1, 4))),
            1 => Some(TargetUnion::CreateRevision(revision)),
            2 => Some(TargetUnion::ModRevision(revision)),
            3 => Some(TargetUnion::Value(self.value().slice(..0))),
            4 => Some(TargetUnion::Lease(if self.dice.chance(50) { 0 } else { self.lease_id(world) })),
            _ => None,
        };
        let target_union = match target_union {
            Some(TargetUnion::Value(_)) if self.dice.chance(70) => {
                let byte = b'a' + self.dice.below(20) as u8;
                Some(TargetUnion::Value(vec![byte; self.dice.below(6) as usize].into()))
            }
            other => other,
        };
        pb::Compare {
            result: self.dice.between(0, 3) as i32,
            target,
            range_end: if self.dice.chance(25) { self.range_end(&key) } else { Bytes::new() },
            key,
            target_union,
        }
    }

    fn txn(&mut self, world: &World, depth: usize) -> pb::TxnRequest {
        let compares = self.dice.below(3);
        let ops = |program: &mut Self| {
            let count = program.dice.one_of(&[0, 1, 1, 1, 2, 2, 3, 5]);
            (0..count).map(|_| program.op(world, depth)).collect::<Vec<_>>()
        };
        let (success, failure) = (ops(self), ops(self));
        pb::TxnRequest { compare: (0..compares).map(|_| self.compare(world)).collect(), success, failure }
    }

    fn op(&mut self, world: &World, depth: usize) -> pb::RequestOp {
        let request = match self.dice.below(100) {
            0 => None,
            1..40 => {
                let mut put = self.put(world);
                put.value = put.value.slice(..put.value.len().min(9_000));
                put.ignore_value &= !self.may_delete;
                put.ignore_lease &= !self.may_delete;
                Some(Op::RequestPut(put))
            }
            40..65 => Some(Op::RequestRange(self.range(world))),
            65..88 if self.may_delete => Some(Op::RequestDeleteRange(self.delete())),
            _ if depth < 2 => Some(Op::RequestTxn(self.txn(world, depth + 1))),
            _ => Some(Op::RequestRange(self.range(world))),
        };
        pb::RequestOp { request }
    }

    /// A revision whose events, with the pairs before them, are too large for one response: those who asked for it get fragments.
    fn large_revision(&mut self) -> Step {
        for stream in 0..STREAMS {
            let create = pb::WatchCreateRequest {
                key: "d/".into(),
                range_end: "d0".into(),
                prev_kv: true,
                fragment: self.dice.chance(60),
                ..Default::default()
            };
            self.begun.push_back(Step::Watch { stream, create });
        }
        for key in ["d/1", "d/2", "d/3", "d/4"] {
            let value = vec![b'a' + self.dice.below(20) as u8; 400_000].into();
            let put = pb::PutRequest { key: key.into(), value, ..Default::default() };
            self.begun.push_back(Step::Call(Call::Put(put)));
        }
        let delete = pb::DeleteRangeRequest { key: "d/".into(), range_end: "d0".into(), prev_kv: false };
        self.begun.push_back(Step::Call(Call::Delete(delete)));
        Step::Call(Call::Leases)
    }

    /// As many operations as may be, one less, or one more; sometimes inside of another.
    fn large_txn(&mut self) -> pb::TxnRequest {
        let count = self.dice.between(126, 129);
        let op = |number: i64| pb::RequestOp {
            request: Some(Op::RequestPut(pb::PutRequest {
                key: format!("many/{number}").into(),
                value: "x".into(),
                ..Default::default()
            })),
        };
        let txn = pb::TxnRequest { success: (0..count).map(op).collect(), ..Default::default() };
        if self.dice.chance(50) {
            let nested = pb::RequestOp { request: Some(Op::RequestTxn(txn)) };
            return pb::TxnRequest { success: vec![nested], ..Default::default() };
        }
        txn
    }

    fn compact(&mut self, world: &World) -> pb::CompactionRequest {
        let revision = match self.dice.below(10) {
            0..6 => self.dice.between(world.compacted, world.revision),
            6 => world.revision,
            _ => self.revision(world),
        };
        pb::CompactionRequest { revision, physical: self.dice.chance(30) }
    }

    fn lease(&mut self, world: &World) -> Call {
        match self.dice.below(10) {
            0..3 if world.leases.len() < 12 => {
                let id = self.dice.one_of(&[5, 77, -3, i64::MAX, 1, 2, 3, 4, i64::MIN]);
                Call::Grant(pb::LeaseGrantRequest { id, ttl: self.dice.between(1_000, 100_000) })
            }
            3 => {
                let ttl =
                    self.dice.one_of(&[-5, 0, 1, 2, 3, 60, 9_000_000_000, 9_000_000_001, i64::MAX, i64::MIN]);
                // Not one that stays.
                let id = self.dice.one_of(&[0, 0, 424_242, -424_242]);
                Call::PassingGrant(pb::LeaseGrantRequest { id, ttl })
            }
            4 => Call::Revoke(pb::LeaseRevokeRequest { id: self.lease_id(world) }),
            5 | 6 => Call::KeepAlive(pb::LeaseKeepAliveRequest { id: self.lease_id(world) }),
            7 | 8 => {
                let request =
                    pb::LeaseTimeToLiveRequest { id: self.lease_id(world), keys: self.dice.chance(60) };
                Call::TimeToLive(request)
            }
            _ => Call::Leases,
        }
    }

    fn watch(&mut self, world: &World) -> pb::WatchCreateRequest {
        let key = self.key();
        let start_revision = match self.dice.below(10) {
            0..4 => 0,
            4..7 => self.dice.between(world.compacted + 1, world.revision),
            7 => world.revision + self.dice.between(1, 3),
            8 => self.dice.between(1, world.compacted.max(1)),
            _ => self.revision(world),
        };
        let filters = match self.dice.below(10) {
            0 => vec![0],
            1 => vec![1],
            2 => vec![0, 1],
            _ => Vec::new(),
        };
        pb::WatchCreateRequest {
            range_end: self.range_end(&key),
            key,
            start_revision,
            progress_notify: self.dice.chance(10),
            filters,
            prev_kv: self.dice.chance(40),
            watch_id: self.dice.one_of(&[0, 0, 0, 0, 3, 77, -5]),
            fragment: self.dice.chance(20),
        }
    }
}
