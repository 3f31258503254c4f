//! One thread's clients: as many requests under way as its share says, all on one single-threaded runtime.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::task::LocalSet;

use super::options::{Operation, Plan};
use super::payload::{Payload, Rng};
use super::tickets::{Ticket, Tickets};
use crate::cli::exit::{Exit, Failure};
use crate::client::{Client, Connection, Consistency, Endpoint, KeepAlives, Options};
use crate::error::Error;
use crate::mvcc::command::{Compare, CompareResult, Operand, Put, Range, Txn, TxnOp};

/// Time to live of the leases that are kept alive: nothing is left of them soon after.
const LEASE_SECONDS: i64 = 60;
/// Different error texts that are counted apart.
const ERROR_TEXTS: usize = 16;
/// Pause of a client whose request failed: a server that is away must not cost a core.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(10);
/// Longest latency that is told apart from longer ones, in microseconds.
const LONGEST_US: u64 = 600_000_000;

/// One thread of a load.
pub(super) struct Worker {
    pub thread: u32,
    pub plan: Arc<Plan>,
    pub tickets: Arc<Tickets>,
    pub endpoints: Vec<Endpoint>,
    pub options: Options,
}

/// What was measured.
#[derive(Clone, Debug)]
pub(super) struct Measured {
    /// Latencies of requests that succeeded, in microseconds.
    pub latency_us: Histogram<u64>,
    /// Requests that succeeded within the time of measuring.
    pub done: u64,
    /// Reads among them that found nothing.
    pub empty: u64,
    /// Requests that failed.
    pub errors: Errors,
    /// When measuring began, and when the last request within the time of measuring was answered.
    pub from: Option<Instant>,
    pub to: Option<Instant>,
}

/// Failures, by text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Errors {
    by_text: BTreeMap<String, u64>,
    others: u64,
}

impl Errors {
    fn add(&mut self, text: String, count: u64) {
        if let Some(known) = self.by_text.get_mut(&text) {
            *known += count;
        } else if self.by_text.len() < ERROR_TEXTS {
            self.by_text.insert(text, count);
        } else {
            self.others += count;
        }
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        self.by_text.values().sum::<u64>() + self.others
    }

    /// Text and count, in the order of the texts; what was not told apart comes last.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        let others = (self.others > 0).then_some(("other errors", self.others));
        self.by_text.iter().map(|(text, count)| (text.as_str(), *count)).chain(others)
    }

    /// All of them in one line.
    pub fn summary(&self) -> String {
        let parts: Vec<_> = self.iter().map(|(text, count)| format!("{count} × {text}")).collect();
        parts.join("; ")
    }
}

impl Measured {
    /// Nothing yet.
    pub fn new() -> Result<Self, Failure> {
        let latency_us = Histogram::new_with_bounds(1, LONGEST_US, 3)
            .map_err(|error| Failure::new(Exit::Failed, format!("no histogram: {error}")))?;
        Ok(Self { latency_us, done: 0, empty: 0, errors: Errors::default(), from: None, to: None })
    }

    /// Adds what another thread measured.
    pub fn merge(&mut self, other: &Self) -> Result<(), Failure> {
        self.latency_us
            .add(&other.latency_us)
            .map_err(|error| Failure::new(Exit::Failed, format!("histograms do not fit: {error}")))?;
        self.done += other.done;
        self.empty += other.empty;
        for (text, count) in &other.errors.by_text {
            self.errors.add(text.clone(), *count);
        }
        self.errors.others += other.errors.others;
        self.from = [self.from, other.from].into_iter().flatten().min();
        self.to = self.to.max(other.to);
        Ok(())
    }

    /// Seconds of measuring.
    pub fn seconds(&self) -> f64 {
        match (self.from, self.to) {
            (Some(from), Some(to)) => to.saturating_duration_since(from).as_secs_f64(),
            _ => 0.0,
        }
    }
}

/// What the tasks of one thread share.
struct Shared {
    plan: Arc<Plan>,
    tickets: Arc<Tickets>,
    payload: Payload,
    measured: RefCell<Measured>,
}

impl Worker {
    /// Runs this thread's share to its end.
    pub fn run(self) -> Result<Measured, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let shared = Rc::new(Shared {
            plan: Arc::clone(&self.plan),
            tickets: Arc::clone(&self.tickets),
            payload: Payload::new(&self.plan),
            measured: RefCell::new(Measured::new()?),
        });
        let tasks = LocalSet::new();
        tasks.block_on(&runtime, self.clients(&shared));
        drop(tasks);
        let mut measured = shared.measured.borrow().clone();
        measured.from = Some(self.tickets.measure_from());
        if let Some(end) = self.tickets.end() {
            // A load that was not interrupted was measured for all of its time, even if nothing was answered at its end.
            measured.to =
                if measured.to.is_some() && !self.tickets.is_stopped() { Some(end) } else { measured.to };
        }
        Ok(measured)
    }

    async fn clients(&self, shared: &Rc<Shared>) {
        let interrupted = async {
            if tokio::signal::ctrl_c().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let connections = self.connections();
        let mine = share(self.plan.clients, self.plan.threads, self.thread);
        let clients: Vec<_> = connections
            .iter()
            .cycle()
            .take(mine as usize)
            .enumerate()
            .map(|(index, connection)| {
                let stream = (u64::from(self.thread) << 32) | index as u64;
                tokio::task::spawn_local(client(
                    Rc::clone(shared),
                    connection.clone(),
                    Rng::new(self.plan.seed, stream),
                ))
            })
            .collect();
        let all = futures::future::join_all(clients);
        tokio::select! {
            _ = all => {}
            () = interrupted => self.tickets.stop(),
        }
    }

    /// This thread's connections; at least one, on endpoints that no other thread began with if there are enough.
    fn connections(&self) -> Vec<Connection> {
        let wanted =
            if self.plan.connections == 0 { self.endpoints.len() as u32 } else { self.plan.connections };
        let mine = share(wanted, self.plan.threads, self.thread).max(1);
        let skip = self.thread as usize % self.endpoints.len().max(1);
        let endpoints = self.endpoints.iter().cycle().skip(skip);
        let connect = |endpoint: &Endpoint| Connection::new(endpoint.clone(), &self.options);
        endpoints.take(mine as usize).map(connect).collect()
    }
}

/// The part of `total` that the `index`-th of `parts` gets.
fn share(total: u32, parts: u32, index: u32) -> u32 {
    total / parts + u32::from(index < total % parts)
}

/// One client: takes tickets until there are none.
async fn client(shared: Rc<Shared>, connection: Connection, mut rng: Rng) {
    let mut kept = None;
    if shared.plan.operation == Operation::KeepAlive {
        // Should it fail, each request tries again, and counts its failure.
        kept = keep(&connection).await.ok();
    }
    while let Some(ticket) = shared.tickets.take(Instant::now()) {
        if let Some(due) = ticket.due {
            tokio::time::sleep_until(due.into()).await;
        }
        let begin = ticket.due.unwrap_or_else(Instant::now);
        let result = match shared.plan.operation {
            Operation::KeepAlive => keep_alive(&connection, &mut kept).await,
            _ => request(&shared, &connection, &mut rng, ticket).await,
        };
        let now = Instant::now();
        shared.tickets.count();
        let failed = result.is_err();
        record(&mut shared.measured.borrow_mut(), &shared.tickets, begin, now, result);
        if failed {
            tokio::time::sleep(PAUSE_AFTER_ERROR).await;
        }
    }
}

/// Requests that began in the warm-up are left out. One that began in time counts with its latency whenever its answer
/// came, but towards the throughput only if it came in time.
fn record(
    measured: &mut Measured,
    tickets: &Tickets,
    begin: Instant,
    now: Instant,
    result: Result<Found, Error>,
) {
    if begin < tickets.measure_from() {
        return;
    }
    match result {
        Ok(found) => {
            let latency = now.saturating_duration_since(begin).as_micros() as u64;
            measured.latency_us.saturating_record(latency.max(1));
            if tickets.end().is_none_or(|end| now <= end) {
                measured.done += 1;
                measured.to = measured.to.max(Some(now));
            }
            measured.empty += u64::from(found == Found::Nothing);
        }
        Err(error) => measured.errors.add(error.to_string(), 1),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Something,
    Nothing,
}

async fn request(
    shared: &Shared,
    connection: &Connection,
    rng: &mut Rng,
    ticket: Ticket,
) -> Result<Found, Error> {
    let plan = &shared.plan;
    let number = if plan.sequential { ticket.number % plan.key_space } else { rng.below(plan.key_space) };
    let key = shared.payload.key(number);
    match plan.operation {
        Operation::Get { serializable } => {
            get(connection, Range { key, ..Range::default() }, serializable).await
        }
        Operation::Range { serializable, limit } => {
            let range = Range { key, range_end: shared.payload.end(), limit, ..Range::default() };
            get(connection, range, serializable).await
        }
        Operation::Txn => {
            let compare = Compare {
                key: key.clone(),
                range_end: bytes::Bytes::new(),
                result: CompareResult::Greater,
                operand: Operand::Version(-1),
            };
            let put = Put { key, value: shared.payload.value(rng), ..Put::default() };
            let txn = Txn { compares: vec![compare], success: vec![TxnOp::Put(put)], failure: vec![] };
            connection.txn(txn).await.map(|_| Found::Something)
        }
        Operation::Mixed { reads, serializable } if rng.below(100) < reads => {
            get(connection, Range { key, ..Range::default() }, serializable).await
        }
        // A keep-alive needs a lease and a stream, which its client has.
        Operation::Put | Operation::KeepAlive | Operation::Mixed { .. } => {
            put(shared, connection, rng, key).await
        }
    }
}

/// A lease, and the stream that it is kept alive on.
type Kept = (i64, KeepAlives);

async fn keep(connection: &Connection) -> Result<Kept, Error> {
    Ok((connection.grant(0, LEASE_SECONDS).await?.value.id, connection.keep_alives()))
}

async fn keep_alive(connection: &Connection, kept: &mut Option<Kept>) -> Result<Found, Error> {
    let (lease, mut stream) = match kept.take() {
        Some(kept) => kept,
        None => keep(connection).await?,
    };
    let ttl = stream.keep_alive(lease).await?;
    *kept = (ttl > 0).then_some((lease, stream));
    Ok(if ttl > 0 { Found::Something } else { Found::Nothing })
}

async fn put(
    shared: &Shared,
    connection: &Connection,
    rng: &mut Rng,
    key: bytes::Bytes,
) -> Result<Found, Error> {
    let put = Put { key, value: shared.payload.value(rng), ..Put::default() };
    connection.put(put).await.map(|_| Found::Something)
}

async fn get(connection: &Connection, range: Range, serializable: bool) -> Result<Found, Error> {
    let consistency = if serializable { Consistency::Serializable } else { Consistency::Linearizable };
    let answer = connection.get(range, consistency).await?;
    Ok(if answer.value.kvs.is_empty() { Found::Nothing } else { Found::Something })
}

#[cfg(test)]
#[path = "worker_tests.rs"]
mod tests;
