//! The clients of a simulation: what they ask for, and what they write down of the answers.

use std::time::Duration;

use bytes::Bytes;

use super::history::{Action, Answer, Outcome, State};
use super::shared::Shared;
use super::world::{Dice, Pod};
use crate::client::{self, Client, Connection, Consistency, Dial, Options};
use crate::error::Error;
use crate::mvcc::command::{
    Compare, CompareResult, DeleteRange, Operand, Put, Range, RangeResult, Txn, TxnOp, TxnResult,
};

/// Time that a client waits for one answer: shorter than a member's own, so that answers are missed.
const PATIENCE: Duration = Duration::from_millis(1_500);

/// One client.
pub(super) struct Caller {
    name: String,
    shared: Shared,
    dice: Dice,
    members: Vec<Connection>,
    written: u64,
    /// The mod revision that this client saw last, for swaps.
    seen: i64,
}

impl Caller {
    /// A client with a place of its own in the network.
    pub(super) fn new(name: &str, shared: Shared, place: &Pod, patience: Duration) -> Self {
        let env = place.env(&shared.now, &shared.zone);
        let dice = Dice::new(env.random.next_u64());
        let options = Options { timeout: patience, dial: Dial::Env(env), ..Options::default() };
        let members = (0..shared.plan.size)
            .filter_map(|ordinal| {
                let at = format!("{}:2379", shared.facts(ordinal).fqdn());
                at.parse::<client::Endpoint>().inspect_err(|error| shared.complain(error.to_string())).ok()
            })
            .map(|endpoint| Connection::new(endpoint, &options))
            .collect();
        Self { name: name.to_owned(), shared, dice, members, written: 0, seen: 0 }
    }

    /// A value that nobody else writes.
    fn value(&mut self) -> Bytes {
        self.written += 1;
        format!("{}.{}", self.name, self.written).into()
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
            65..90 => Action::Read,
            _ => Action::ReadLocal,
        }
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

    /// One call; true if it was done.
    pub(super) async fn call(&mut self, member: usize, action: Action) -> bool {
        let Some(connection) = self.members.get(member).cloned() else { return false };
        let place = self.shared.begin(format!("{}@{member}", self.name), action.clone());
        let result = execute(&connection, &action).await;
        let done = result.is_ok();
        match result {
            Ok((revision, answer)) => {
                if let Answer::State(state) = &answer {
                    let key = self.key();
                    self.seen = state.get(&key).map_or(0, |kv| kv.mod_revision);
                }
                self.shared.end(place, Outcome::Done { revision, answer }, "");
            }
            Err(error) if error.is_outcome_unknown() => {
                self.shared.end(place, Outcome::Unknown, &error.to_string());
            }
            Err(error) => self.shared.end(place, Outcome::Refused, &error.to_string()),
        }
        done
    }

    /// The state of a member at a revision, and its hash.
    pub(super) async fn inspect(&self, member: usize, revision: i64) -> Result<State, Error> {
        let connection = self.members.get(member).ok_or(Error::NoLeader)?;
        let range = Range { revision, ..everything() };
        Ok(state(connection.get(range, Consistency::Serializable).await?.value))
    }

    /// Hash of a member's store at a revision.
    pub(super) async fn hash(&self, member: usize, revision: i64) -> Result<u32, Error> {
        let connection = self.members.get(member).ok_or(Error::NoLeader)?;
        Ok(connection.hash(revision).await?.value.hash)
    }

    /// The newest revision, as this member knows it with everything that was acknowledged.
    pub(super) async fn newest(&self, member: usize) -> Result<i64, Error> {
        let connection = self.members.get(member).ok_or(Error::NoLeader)?;
        Ok(connection.get(everything(), Consistency::Linearizable).await?.header.revision)
    }
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

async fn execute(on: &Connection, action: &Action) -> Result<(i64, Answer), Error> {
    match action {
        Action::Put(key, value) => {
            let put = Put { key: key.clone(), value: value.clone(), prev_kv: true, ..Put::default() };
            let answer = on.put(put).await?;
            Ok((answer.header.revision, Answer::Previous(answer.value)))
        }
        Action::Delete(key) => {
            let delete = DeleteRange { key: key.clone(), prev_kv: true, ..DeleteRange::default() };
            let answer = on.delete(delete).await?;
            Ok((answer.header.revision, Answer::Previous(answer.value.previous.into_iter().next())))
        }
        Action::PutAll(pairs) => {
            let success = pairs.iter().map(|(key, value)| write(key, value)).collect();
            let (revision, _) = transact(on, Txn { success, ..Txn::default() }).await?;
            Ok((revision, Answer::Written))
        }
        Action::Swap { key, expected, value } => {
            let compare = Compare {
                key: key.clone(),
                range_end: Bytes::new(),
                result: CompareResult::Equal,
                operand: Operand::Mod(*expected),
            };
            let txn = Txn { compares: vec![compare], success: vec![write(key, value)], failure: Vec::new() };
            let (revision, result) = transact(on, txn).await?;
            Ok((revision, Answer::Swapped(result.succeeded)))
        }
        Action::Read | Action::ReadLocal => {
            let consistency = match action {
                Action::Read => Consistency::Linearizable,
                _ => Consistency::Serializable,
            };
            let answer = on.get(everything(), consistency).await?;
            Ok((answer.header.revision, Answer::State(state(answer.value))))
        }
    }
}

async fn transact(on: &Connection, txn: Txn) -> Result<(i64, TxnResult), Error> {
    let answer = on.txn(txn).await?;
    Ok((answer.header.revision, answer.value))
}
