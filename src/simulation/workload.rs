//! The clients of a simulation: what they ask for, and what they write down of the answers.

use std::time::Duration;

use bytes::Bytes;

use super::history::{Action, Answer, Outcome, State};
use super::shared::Shared;
use super::world::{Dice, Pod};
use crate::client::{self, Alarm, Client, Connection, Consistency, Dial, Header, Options};
use crate::error::Error;
use crate::mvcc::command::{
    Compact, Compare, CompareResult, DeleteRange, Operand, Put, Range, RangeResult, Txn, TxnOp, TxnResult,
};

/// Time that a client waits for one answer: shorter than a member's own, so that answers are missed.
const PATIENCE: Duration = Duration::from_millis(1_500);

/// Clients that take leases.
const TENANTS: usize = 3;

/// Most bytes that a value has beside its name.
const LARGE_VALUE_BYTES: u64 = 2_000;

/// One client.
pub(super) struct Caller {
    name: String,
    shared: Shared,
    dice: Dice,
    options: Options,
    members: Vec<Connection>,
    written: u64,
    /// The mod revision that this client saw last, for swaps.
    seen: i64,
    /// The newest revision that this client was told of.
    newest: i64,
}

impl Caller {
    /// The key that the audit writes.
    pub(super) const TOUCHED: &str = "audit";

    /// A client with a place of its own in the network.
    pub(super) fn new(name: &str, shared: Shared, place: &Pod, patience: Duration) -> Self {
        let env = place.env(&shared.now, &shared.zone);
        let dice = Dice::new(env.random.next_u64());
        let credentials = shared.credentials();
        let options = Options { timeout: patience, dial: Dial::Env(env), credentials, ..Options::default() };
        let members = (0..shared.plan.size)
            .filter_map(|ordinal| {
                let at = format!("{}:2379", shared.facts(ordinal).fqdn());
                at.parse::<client::Endpoint>().inspect_err(|error| shared.complain(error.to_string())).ok()
            })
            .map(|endpoint| Connection::new(endpoint, &options))
            .collect();
        Self { name: name.to_owned(), shared, dice, options, members, written: 0, seen: 0, newest: 1 }
    }

    /// A value that nobody else writes.
    fn value(&mut self) -> Bytes {
        self.written += 1;
        // Some are larger than a sector of a disk, so that a write of one can be torn.
        let more = if self.dice.chance(20) { self.dice.within(1, LARGE_VALUE_BYTES) as usize } else { 0 };
        format!("{}.{}{}", self.name, self.written, " ".repeat(more)).into()
    }

    fn key(&self) -> Bytes {
        format!("k{}", self.dice.below(self.shared.plan.keys)).into()
    }

    fn choose(&mut self) -> Action {
        match self.dice.below(100) {
            0..35 => Action::Put(self.key(), self.value()),
            35..42 => {
                let (one, value) = (self.key(), self.value());
                // No key twice in one transaction: etcd refuses that.
                let mut pairs = vec![(one, value)];
                let (other, value) = (self.key(), self.value());
                if pairs.iter().all(|(key, _)| *key != other) {
                    pairs.push((other, value));
                }
                Action::PutAll(pairs)
            }
            42..52 => Action::Delete(self.key()),
            52..65 => Action::Swap { key: self.key(), expected: self.seen, value: self.value() },
            65..87 => Action::Read,
            87..95 => Action::ReadLocal,
            _ => Action::ReadAt(1 + self.dice.below(self.newest.unsigned_abs()) as i64),
        }
    }

    /// Keeps the state at every revision, before it has the store forget some of them.
    pub(super) async fn archive(mut self) {
        let shared = self.shared.clone();
        let mut kept = 0;
        while shared.now.millis() < shared.plan.heal {
            let member = self.dice.below(u64::from(shared.plan.size)) as usize;
            loop {
                match self.inspect(member, kept + 1).await {
                    Ok(state) => {
                        kept += 1;
                        shared.states.borrow_mut().insert(kept, state);
                    }
                    // Members compacted it by themselves; nobody else does without having read it.
                    Err(error) if is_compacted(&error) => {
                        kept = shared.book.borrow().newest_compacted().unwrap_or(kept).max(kept);
                        shared.note_gap();
                        break;
                    }
                    Err(_) => break,
                }
            }
            let revision = kept - self.dice.below(4) as i64;
            if revision > 1 && self.dice.chance(shared.plan.compactions) {
                self.call(member, Action::Compact(revision)).await;
            }
            tokio::time::sleep(Duration::from_millis(self.dice.within(20, 200))).await;
        }
        shared.calling.set(shared.calling.get().saturating_sub(1));
    }

    /// Takes leases, hangs keys on them, keeps them alive for a while, and then ends them or lets them end, until the simulation heals.
    async fn rent(&mut self, number: i64) {
        let shared = self.shared.clone();
        let mut taken = 0;
        while shared.now.millis() < shared.plan.heal {
            taken += 1;
            let lease = number * 1_000 + taken;
            let Some(ttl) = self.grant(lease).await else { continue };
            for key in 0..self.dice.below(4) {
                let (key, value) = (format!("l{lease}.{key}").into(), self.value());
                self.call(self.any_member(), Action::PutOn(key, value, lease)).await;
            }
            // As a client that has one stream, or as one that goes elsewhere each time.
            let always = self.dice.chance(50).then(|| self.any_member());
            // Whoever keeps it may die at any moment.
            for _ in 0..self.dice.below(9) {
                let pause = self.dice.within(0, ttl.unsigned_abs() * 400);
                tokio::time::sleep(Duration::from_millis(pause)).await;
                if shared.now.millis() >= shared.plan.heal
                    || !self.keep_alive(always.unwrap_or_else(|| self.any_member()), lease).await
                {
                    break;
                }
            }
            if self.dice.chance(20)
                && let Some(connection) = self.members.get(self.any_member())
            {
                // Whether it comes through, nobody needs to know.
                let _ = connection.revoke(lease).await;
            }
        }
    }

    fn any_member(&self) -> usize {
        self.dice.below(u64::from(self.shared.plan.size)) as usize
    }

    /// Grants a lease; returns its time to live, in seconds, if it was said to be granted.
    async fn grant(&self, lease: i64) -> Option<i64> {
        let connection = self.members.get(self.any_member())?;
        let (asked, ttl) = (self.shared.now.millis(), self.dice.within(1, 3) as i64);
        match connection.grant(lease, ttl).await {
            Ok(granted) => {
                self.shared
                    .trace
                    .add(&format!("{} has lease {lease} for {} s", self.name, granted.value.ttl));
                self.shared.leases.borrow_mut().promised(lease, asked, granted.value.ttl);
                Some(granted.value.ttl)
            }
            Err(error) => {
                self.shared.trace.add(&format!("{} has no lease {lease}: {error}", self.name));
                tokio::time::sleep(Duration::from_millis(self.dice.within(10, 200))).await;
                None
            }
        }
    }

    /// False if it is said to be gone.
    async fn keep_alive(&self, member: usize, lease: i64) -> bool {
        let Some(connection) = self.members.get(member) else { return false };
        let asked = self.shared.now.millis();
        match connection.keep_alive(lease).await {
            Ok(answer) if answer.value > 0 => {
                self.shared.trace.add(&format!("{}@{member} keeps lease {lease}", self.name));
                self.shared.count("keep-alives");
                self.shared.leases.borrow_mut().promised(lease, asked, answer.value);
                true
            }
            Ok(_) => {
                self.shared.trace.add(&format!("{}@{member} hears that lease {lease} is gone", self.name));
                self.shared.leases.borrow_mut().said_to_be_gone(lease);
                false
            }
            // It may be asked again.
            Err(_) => true,
        }
    }

    /// The leases that there are, as this member knows it with everything that was acknowledged.
    pub(super) async fn leases(&self, member: usize) -> Result<Vec<i64>, Error> {
        let answer = self.member(member)?.leases().await?;
        of(member, &answer.header)?;
        Ok(answer.value)
    }

    /// Calls until the simulation heals.
    pub(super) async fn run(mut self) {
        let shared = self.shared.clone();
        while shared.now.millis() < shared.plan.heal {
            let action = self.choose();
            let member = self.dice.below(u64::from(shared.plan.size)) as usize;
            self.call(member, action).await;
            let pause = self.dice.within(0, shared.plan.pause);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        shared.calling.set(shared.calling.get().saturating_sub(1));
    }

    /// One call; returns the ordinal of the member that did it. A name that is stale leads to another than was asked for.
    pub(super) async fn call(&mut self, member: usize, action: Action) -> Option<u16> {
        let connection = self.members.get(member)?.clone();
        let place = self.shared.begin(format!("{}@{member}", self.name), action.clone());
        let result = execute(&connection, &action).await;
        let done = result.as_ref().ok().map(|(header, _)| header.member.ordinal());
        match result {
            Ok((header, answer)) => {
                let revision = header.revision;
                if let Answer::State(state) = &answer {
                    let key = self.key();
                    self.seen = state.get(&key).map_or(0, |kv| kv.mod_revision);
                }
                self.newest = self.newest.max(revision);
                self.shared.end(place, Outcome::Done { revision, answer }, "");
            }
            // It says nothing about how new the member is.
            Err(error) if matches!(action, Action::ReadAt(_)) && is_compacted(&error) => {
                self.shared.end(place, Outcome::Done { revision: 1, answer: Answer::Forgotten }, "");
            }
            Err(error) if error.is_outcome_unknown() => {
                self.shared.end(place, Outcome::Unknown, &error.to_string());
            }
            Err(error) => self.shared.end(place, Outcome::Refused, &error.to_string()),
        }
        done
    }

    /// The state of a member at a revision.
    pub(super) async fn inspect(&self, member: usize, revision: i64) -> Result<State, Error> {
        let range = Range { revision, ..everything() };
        let answer = self.member(member)?.get(range, Consistency::Serializable).await?;
        of(member, &answer.header)?;
        Ok(state(answer.value))
    }

    /// Hash of a member's store at a revision, and up to where it was compacted.
    pub(super) async fn hash(&self, member: usize, revision: i64) -> Result<(i64, u32), Error> {
        let answer = self.member(member)?.hash(revision).await?;
        of(member, &answer.header)?;
        Ok((answer.value.compact_revision, answer.value.hash))
    }

    /// The alarms, as this member knows them.
    pub(super) async fn alarms(&self, member: usize) -> Result<Vec<Alarm>, Error> {
        let answer = self.member(member)?.alarms().await?;
        of(member, &answer.header)?;
        Ok(answer.value)
    }

    /// Takes an alarm back.
    pub(super) async fn disarm(&self, member: usize, alarm: Alarm) -> Result<(), Error> {
        self.member(member)?.set_alarm(alarm, false).await.map(drop)
    }

    /// The newest revision, as this member knows it with everything that was acknowledged.
    pub(super) async fn newest(&self, member: usize) -> Result<i64, Error> {
        let answer = self.member(member)?.get(everything(), Consistency::Linearizable).await?;
        of(member, &answer.header)?;
        Ok(answer.header.revision)
    }

    /// The state of a member with everything that was acknowledged, and its revision.
    pub(super) async fn everything(&self, member: usize) -> Result<(State, i64), Error> {
        let answer = self.member(member)?.get(everything(), Consistency::Linearizable).await?;
        of(member, &answer.header)?;
        Ok((state(answer.value), answer.header.revision))
    }

    /// A write that is in no history.
    pub(super) async fn touch(&self, member: usize) -> Result<(), Error> {
        let put = Put { key: Self::TOUCHED.into(), value: "touched".into(), ..Put::default() };
        let answer = self.member(member)?.put(put).await?;
        of(member, &answer.header)
    }

    /// Forgets the connection to a member: it may lead to a pod that had the member's name.
    pub(super) fn forget(&mut self, member: usize) {
        if let Some(connection) = self.members.get_mut(member) {
            *connection = Connection::new(connection.endpoint().clone(), &self.options);
        }
    }

    fn member(&self, member: usize) -> Result<&Connection, Error> {
        self.members.get(member).ok_or(Error::NoLeader)
    }
}

/// Whether an answer is that of the member that was asked: its name may have led elsewhere.
fn of(member: usize, header: &Header) -> Result<(), Error> {
    if usize::from(header.member.ordinal()) == member {
        return Ok(());
    }
    Err(Error::NotServing(format!("{} answered", header.member)))
}

/// Some that rent at the same time.
pub(super) async fn tenants(shared: &Shared, place: &Pod) {
    let mut tenants: Vec<Caller> = (0..TENANTS)
        .map(|number| Caller::new(&format!("t{number}"), shared.clone(), place, PATIENCE))
        .collect();
    let rented = tenants.iter_mut().zip(1..).map(|(tenant, number)| tenant.rent(number));
    futures::future::join_all(rented).await;
    shared.calling.set(shared.calling.get().saturating_sub(1));
}

pub(super) fn is_compacted(error: &Error) -> bool {
    error.to_string().contains("compacted")
}

/// How a client of the workload waits.
pub(super) const fn patience() -> Duration {
    PATIENCE
}

fn everything() -> Range {
    Range { key: Bytes::from_static(b"\0"), range_end: Bytes::from_static(b"\0"), ..Range::default() }
}

fn state(result: RangeResult) -> State {
    result.kvs.into_iter().map(|kv| (kv.key.clone(), kv)).collect()
}

fn write(key: &Bytes, value: &Bytes) -> TxnOp {
    TxnOp::Put(Put { key: key.clone(), value: value.clone(), ..Put::default() })
}

async fn execute(on: &Connection, action: &Action) -> Result<(Header, Answer), Error> {
    match action {
        Action::Put(key, value) => {
            let put = Put { key: key.clone(), value: value.clone(), prev_kv: true, ..Put::default() };
            let answer = on.put(put).await?;
            Ok((answer.header, Answer::Previous(answer.value)))
        }
        Action::PutOn(key, value, lease) => {
            let (key, value) = (key.clone(), value.clone());
            let answer = on.put(Put { key, value, lease: *lease, prev_kv: true, ..Put::default() }).await?;
            Ok((answer.header, Answer::Previous(answer.value)))
        }
        Action::Delete(key) => {
            let delete = DeleteRange { key: key.clone(), prev_kv: true, ..DeleteRange::default() };
            let answer = on.delete(delete).await?;
            Ok((answer.header, Answer::Previous(answer.value.previous.into_iter().next())))
        }
        Action::PutAll(pairs) => {
            let success = pairs.iter().map(|(key, value)| write(key, value)).collect();
            let (header, _) = transact(on, Txn { success, ..Txn::default() }).await?;
            Ok((header, Answer::Written))
        }
        Action::Swap { key, expected, value } => {
            let compare = Compare {
                key: key.clone(),
                range_end: Bytes::new(),
                result: CompareResult::Equal,
                operand: Operand::Mod(*expected),
            };
            let txn = Txn { compares: vec![compare], success: vec![write(key, value)], failure: Vec::new() };
            let (header, result) = transact(on, txn).await?;
            Ok((header, Answer::Swapped(result.succeeded)))
        }
        Action::Compact(revision) => {
            let compact = Compact { revision: *revision, physical: false };
            let answer = on.compact(compact).await?;
            Ok((answer.header, Answer::Compacted))
        }
        Action::Read | Action::ReadLocal | Action::ReadAt(_) => {
            let (consistency, revision) = match action {
                Action::Read => (Consistency::Linearizable, 0),
                Action::ReadAt(revision) => (Consistency::Serializable, *revision),
                _ => (Consistency::Serializable, 0),
            };
            let answer = on.get(Range { revision, ..everything() }, consistency).await?;
            Ok((answer.header, Answer::State(state(answer.value))))
        }
    }
}

async fn transact(on: &Connection, txn: Txn) -> Result<(Header, TxnResult), Error> {
    let answer = on.txn(txn).await?;
    Ok((answer.header, answer.value))
}
