//! The clients of a simulation that take locks: by themselves, or through a member's lock service; for a moment or for long; giving up,
//! giving back, or just going away. Only some seeds have them, and they draw from dice of their own, so that the other seeds and the
//! other clients stay what they are.

use std::time::Duration;

use bytes::Bytes;
use futures::future::{Either, select};

use super::lock_check::{Holding, PREFIX, register};
use super::shared::Shared;
use super::world::{Dice, Pod};
use crate::client::txn::{put, when};
use crate::client::{
    Client, Compare, CompareResult, Connection, Consistency, Dial, Endpoint, KeptLease, Lock, Operand,
    Options, Range, Remote,
};
use crate::env::simulated::mix;
use crate::error::Error;

/// Time for one call, repetitions included.
const PATIENCE: Duration = Duration::from_millis(1_500);
/// Locks that they quarrel about.
const LOCKS: u64 = 2;

/// Somebody who takes one lock after the other.
struct Locker {
    name: String,
    shared: Shared,
    dice: Dice,
    remote: Remote,
    members: Vec<Connection>,
}

/// A lock that is held, in one way or the other.
enum Held {
    /// By the client.
    Own(Lock),
    /// Through the lock service of a member, which is still to be asked with this connection.
    Service { key: Bytes, token: i64, lease: KeptLease, connection: Box<Connection> },
}

impl Held {
    fn token(&self) -> i64 {
        match self {
            Self::Own(lock) => lock.token(),
            Self::Service { token, .. } => *token,
        }
    }

    fn is_held(&self) -> Compare {
        match self {
            Self::Own(lock) => lock.is_held(),
            Self::Service { key, token, .. } => Compare {
                key: key.clone(),
                range_end: Bytes::new(),
                result: CompareResult::Equal,
                operand: Operand::Create(*token),
            },
        }
    }

    async fn lost(&self) {
        match self {
            Self::Own(lock) => lock.lost().await,
            Self::Service { lease, .. } => lease.lost().await,
        }
    }
}

/// Some that take locks, until the simulation heals.
pub(super) async fn lockers(shared: &Shared, place: &Pod) -> Result<(), Error> {
    let mut lockers = Vec::new();
    for number in 0..shared.plan.lockers {
        lockers.push(Locker::new(number, shared.clone(), place)?);
    }
    futures::future::join_all(lockers.iter_mut().map(Locker::run)).await;
    shared.calling.set(shared.calling.get().saturating_sub(1));
    Ok(())
}

impl Locker {
    fn new(number: u16, shared: Shared, place: &Pod) -> Result<Self, Error> {
        let env = place.env(&shared.now, &shared.zone);
        let dice = Dice::new(mix(shared.plan.seed ^ 0x6c6f_636b) ^ u64::from(number));
        let credentials = shared.credentials();
        let options = Options { timeout: PATIENCE, dial: Dial::Env(env), credentials, ..Options::default() };
        let at = |ordinal| format!("{}:2379", shared.facts(ordinal).fqdn()).parse::<Endpoint>();
        let endpoints: Vec<Endpoint> = (0..shared.plan.size)
            .map(at)
            .collect::<Result<_, _>>()
            .map_err(|error| Error::Invalid(error.to_string()))?;
        let members = endpoints.iter().map(|at| Connection::new(at.clone(), &options)).collect();
        let remote = Remote::with_random(endpoints, &options, std::sync::Arc::new(dice.clone()))?;
        Ok(Self { name: format!("l{number}"), shared, dice, remote, members })
    }

    async fn run(&mut self) {
        while self.shared.now.millis() < self.shared.plan.heal {
            let lock = format!("{PREFIX}{}", self.dice.below(LOCKS));
            self.shared.trace.add(&format!("{} asks for {lock}", self.name));
            let held = if self.dice.chance(60) { self.take(&lock).await } else { self.ask(&lock).await };
            match held {
                Ok(Some(held)) => self.hold(&lock, held).await,
                Ok(None) => drop(self.shared.trace.add(&format!("{} gives {lock} up", self.name))),
                Err(error) => {
                    self.shared.trace.add(&format!("{} has not got {lock}: {error}", self.name));
                }
            }
            tokio::time::sleep(Duration::from_millis(self.dice.within(1, 300))).await;
        }
    }

    fn ttl(&self) -> Duration {
        Duration::from_secs(self.dice.within(1, 3))
    }

    /// As a client that stands in the queue itself.
    async fn take(&self, lock: &str) -> Result<Option<Held>, Error> {
        let patience = Duration::from_millis(*self.dice.pick(&[150, 2_000, 20_000]).unwrap_or(&2_000));
        let give_up = tokio::time::sleep(patience);
        let lock = Lock::acquire_unless(self.remote.clone(), lock, self.ttl(), give_up).await?;
        Ok(lock.map(Held::Own))
    }

    /// As a client that has a member stand there.
    async fn ask(&self, lock: &str) -> Result<Option<Held>, Error> {
        let lease = KeptLease::grant(self.remote.clone(), self.ttl()).await?;
        let any = self.dice.below(self.members.len() as u64) as usize;
        let Some(connection) = self.members.get(any).cloned() else { return Ok(None) };
        let patience = Duration::from_millis(*self.dice.pick(&[150, 2_000, 20_000]).unwrap_or(&2_000));
        let key = match connection.lock(lock.as_bytes(), lease.id(), patience).await {
            Ok(answer) => answer.value,
            Err(error) => {
                lease.revoke().await?;
                return Err(error);
            }
        };
        let range = Range { key: key.clone(), ..Range::default() };
        let found = self.remote.get(range, Consistency::Linearizable).await?.value.kvs.into_iter().next();
        // It may be lost already.
        let held = found.filter(|_| !lease.is_lost());
        Ok(held.map(|kv| Held::Service {
            key,
            token: kv.create_revision,
            lease,
            connection: Box::new(connection),
        }))
    }

    async fn hold(&self, lock: &str, held: Held) {
        let token = held.token();
        let from = self.shared.now.millis();
        self.shared.trace.add(&format!("{} holds {lock} with token {token}", self.name));
        self.shared.count("locks held");
        // Some for longer than a lease lives.
        let time = *self.dice.pick(&[0, 50, 300, 2_000, 15_000]).unwrap_or(&0);
        let writes = when(held.is_held()).then(put(register(lock), token.to_string()));
        let work = Box::pin(async {
            tokio::time::sleep(Duration::from_millis(self.dice.within(0, time))).await;
            // Whether it comes through, nobody needs to know.
            let _ = writes.run(&self.remote).await;
        });
        let is_lost = matches!(select(work, Box::pin(held.lost())).await, Either::Right(_));
        let to = self.shared.now.millis();
        let end = if is_lost { "has lost" } else { "gives back" };
        self.shared.trace.add(&format!("{} {end} {lock} with token {token}", self.name));
        let holding = Holding { lock: lock.to_owned(), who: self.name.clone(), token, from, to };
        self.shared.holdings.borrow_mut().push(holding);
        self.end(held).await;
    }

    async fn end(&self, held: Held) {
        let gives_back = self.dice.chance(70);
        match held {
            // What is dropped is given back, too, without anybody waiting for it.
            Held::Own(lock) if gives_back => drop(lock.unlock().await),
            Held::Service { key, connection, .. } if gives_back => drop(connection.unlock(key).await),
            // Dropped, the lease lives to its end, and the lock with it.
            Held::Own(_) | Held::Service { .. } => {}
        }
    }
}
