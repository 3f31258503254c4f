//! A deterministic simulation: whole members, in one thread, on simulated time, network, names and disks. One seed decides
//! everything, so what it finds can be found again.
//!
//! Nothing imports this but `cli` and tests. It runs `Node::start_in`, unchanged, over turmoil; the only things that differ
//! from production are the implementations of `env`, the engine (sled is replaced by a journal, which a crash leaves as it
//! likes), and where consensus takes its randomness from.
//!
//! * `plan`, `later`, `fault`: what a seed decides beforehand: cluster, knobs, faults (pure)
//! * `world`, `network`: the implementations of `env`
//! * `driver`, `calamity`: moves time, makes things fail, heals
//! * `kubelet`, `process`: runs pods as the playground's StatefulSet controller says
//! * `volumes`: what is done to the disks of machines without power
//! * `workload`, `watching`, `audit`: the clients; those that watch; what is asked of every member at the end
//! * `permissions`, `permission_check`: users that may do little; whether they could do that and nothing else
//! * `disaster`: the end of some: a majority of the volumes is gone, and a human has it recovered
//! * `upkeep`: what members do about their stores by themselves, looked at at the end; `upkeep_check`: whether they may (pure)
//! * `restoring`: the end of others: all volumes are put back to older copies
//! * `history`, `check`, `watch_check`: what clients and watchers saw, and whether that can be (pure)
//! * `leases`: what was promised of leases, and whether it was kept (pure)
//! * `invariants`: what must hold inside the members at any time (pure)
//! * `trace`, `shared`: what the parts of a run share
//! * `os_clock`, `panics`: what a thread that simulates has of the operating system's clocks, and what its panics say

mod audit;
mod calamity;
pub mod check;
mod disaster;
mod driver;
pub mod fault;
pub mod history;
pub mod invariants;
mod kubelet;
pub mod later;
pub mod leases;
pub mod lock_check;
mod locking;
pub mod network;
mod os_clock;
mod panics;
pub mod permission_check;
mod permissions;
pub mod plan;
mod process;
mod restoring;
mod shared;
pub mod trace;
mod upkeep;
pub mod upkeep_check;
mod volumes;
pub mod watch_check;
mod watching;
mod workload;
pub mod world;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::env::simulated::{Bug, Seen, Simulating, mix};
use driver::Driver;
use history::Outcome;
use invariants::Invariants;
use leases::{End, Ledger};
use network::Zone;
use plan::Plan;
use shared::{Phase, Shared, Simulation};
use trace::Trace;
use upkeep_check::Book;
use watching::Observer;
use workload::Caller;
use world::{Now, Pod, SimulatedOwner};

/// Time that the audit waits for one answer.
const AUDIT: Duration = Duration::from_secs(5);

/// How to run a seed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Print what happens as it happens.
    pub echo: bool,
    /// A mistake to make, to see whether it is found.
    pub bug: Option<Bug>,
}

/// What a run found.
#[derive(Clone, Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// What is wrong. Empty: nothing was found.
    pub wrong: Vec<String>,
    /// Digest of everything that happened.
    pub hash: u64,
    /// Everything that happened.
    pub trace: Vec<String>,
    /// Simulated time, in milliseconds.
    pub millis: u64,
    /// How often what was begun, and happened.
    pub counts: BTreeMap<&'static str, u64>,
    /// Calls that were done, refused, and of unknown outcome.
    pub calls: (usize, usize, usize),
}

/// Runs a seed to its end. Never panics: a panic inside is something wrong.
///
/// Each seed has a thread of its own, because what crates keep for a thread (hyper the date that it wrote last, for one) would
/// tell it which seeds ran before.
pub fn run(seed: u64, options: Options) -> Report {
    if options.echo {
        // Whoever asks for that holds the lock of the standard output, and runs no other.
        return run_here(seed, options);
    }
    let run = std::thread::scope(|threads| threads.spawn(|| run_here(seed, options)).join());
    run.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn run_here(seed: u64, options: Options) -> Report {
    let _clocks = os_clock::Simulated::begin();
    let now = Now::default();
    let trace = Rc::new(Trace::new(now.clone(), options.echo));
    let plan = Plan::of(seed);
    let invariants = Rc::new(RefCell::new(Invariants::of(if plan.follows { 1 } else { plan.size })));
    let leases = Rc::new(RefCell::new(Ledger::default()));
    let book = Rc::new(RefCell::new(Book::default()));
    let sink = {
        let (trace, invariants) = (trace.clone(), invariants.clone());
        let (leases, book, now) = (leases.clone(), book.clone(), now.clone());
        Box::new(move |seen: Seen| {
            match seen {
                Seen::LeaseEnded { lease, index, revision, moved, expired } => {
                    leases.borrow_mut().ended(lease, End { index, revision, moved, expired }, now.millis());
                }
                Seen::Stored { index, revision, no_space } => {
                    book.borrow_mut().stored(index, revision, no_space, now.millis());
                }
                Seen::Compacts { revision, kept } => {
                    let place = trace.add(&format!("{seen:?}"));
                    book.borrow_mut().compacts(revision, kept, now.millis(), place);
                }
                _ => {}
            }
            if invariants.borrow_mut().take(seen.clone()) {
                trace.add(&format!("{seen:x?}"));
            }
        })
    };
    let _simulating = Simulating::begin(mix(seed), options.bug, sink);
    let zone = Zone::new(now.clone(), plan.names_cached);
    let pods = (0..plan.size).map(|ordinal| Pod::new(ordinal, seed)).collect();
    let shared = Rc::new(Simulation {
        now: now.clone(),
        zone,
        pods,
        trace: trace.clone(),
        invariants: invariants.clone(),
        operations: RefCell::default(),
        leases,
        places: RefCell::default(),
        processes: RefCell::default(),
        runtimes: RefCell::default(),
        reports: RefCell::default(),
        heard: RefCell::default(),
        // The archivist, the tenants, those who take locks and those who have few rights are among them.
        calling: Cell::new(plan.clients + 2 + u16::from(plan.lockers > 0) + u16::from(plan.has_users)),
        states: RefCell::default(),
        owner: Arc::new(SimulatedOwner::new(plan.size, plan.seed)),
        must_wait: RefCell::default(),
        may_wait: RefCell::default(),
        other_clusters: RefCell::default(),
        copied_at: Cell::new(0),
        rounds: RefCell::default(),
        phase: Cell::new(Phase::Running),
        watchings: RefCell::default(),
        watching: Cell::new(plan.watchers),
        holdings: RefCell::default(),
        settled: Cell::new(None),
        book,
        treatments: RefCell::default(),
        missed: Cell::new(false),
        counts: RefCell::default(),
        wrong: RefCell::default(),
        waiting_for: RefCell::new("the end of the calls".into()),
        plan,
    });
    trace.add(&format!("plan {:?}", shared.plan));
    shared.publish_all();
    panics::listen();
    let mut driver = Driver::new(build(&shared), shared.clone());
    if std::panic::catch_unwind(AssertUnwindSafe(|| driver.run())).is_err() {
        // What is half-way in a panic cannot be taken down in order.
        std::mem::forget(driver);
    } else if std::panic::catch_unwind(AssertUnwindSafe(|| drop(driver))).is_err() {
        trace.add("the world could not be taken down");
    }
    // The first is the cause; others follow from it.
    if let Some(text) = panics::take().into_iter().next() {
        shared.complain(format!("panic: {text}"));
    }
    report(seed, &shared)
}

/// What a run that has ended found.
fn report(seed: u64, shared: &Shared) -> Report {
    let invariants = shared.invariants.borrow();
    let mut wrong: Vec<String> = invariants.wrong().to_vec();
    wrong.extend(shared.wrong.borrow().iter().cloned());
    wrong.extend(shared.leases.borrow().wrong().iter().cloned());
    wrong.extend(shared.book.borrow().check(&shared.operations.borrow()));
    if wrong.is_empty() && !shared.missed.get() {
        let (states, leases) = (shared.states.borrow(), shared.leases.borrow());
        let mut operations = shared.operations.borrow().clone();
        operations.extend(shared.book.borrow().compactions());
        wrong.extend(leases.check(&states));
        wrong.extend(check::check(&operations, &states, &leases.revisions()));
        wrong.extend(lock_check::check(&shared.holdings.borrow(), &states));
        wrong.extend(permission_check::check(&shared.rounds.borrow(), &states));
        wrong.extend(watch_check::check(&shared.watchings.borrow(), &operations, &states));
    }
    let mut counts = shared.counts.borrow().clone();
    counts.extend(invariants.counts());
    counts.extend(shared.leases.borrow().counts());
    counts.extend(shared.book.borrow().counts());
    counts.insert("watches", shared.watchings.borrow().len() as u64);
    let count = |wanted: fn(&Outcome) -> bool| {
        shared.operations.borrow().iter().filter(|operation| wanted(&operation.outcome)).count()
    };
    Report {
        seed,
        wrong,
        hash: shared.trace.hash(),
        trace: shared.trace.lines(),
        millis: shared.now.millis(),
        counts,
        calls: (
            count(|outcome| matches!(outcome, Outcome::Done { .. })),
            count(|outcome| *outcome == Outcome::Refused),
            count(|outcome| *outcome == Outcome::Unknown),
        ),
    }
}

/// All watchers share a place.
async fn watch(shared: &Shared, place: &Pod) -> Result<(), crate::error::Error> {
    let mut observers = Vec::new();
    for number in 0..shared.plan.watchers {
        observers.push(Observer::new(&format!("w{number}"), shared.clone(), place)?.run());
    }
    futures::future::join_all(observers).await;
    Ok(())
}

fn build<'a>(shared: &Shared) -> turmoil::Sim<'a> {
    let plan = &shared.plan;
    let mut sim = turmoil::Builder::new()
        .rng_seed(mix(plan.seed) ^ 0x6e65_7477)
        .simulation_duration(Duration::from_mins(10))
        .tick_duration(Duration::from_millis(1))
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(Duration::from_millis(plan.latency))
        .tcp_capacity(64 << 10)
        .build();
    for address in shared.addresses() {
        let shared = shared.clone();
        sim.host(address, move || {
            shared.pods.iter().for_each(|pod| pod.network.ended());
            process::run(shared.clone(), address)
        });
    }
    // Clients have places of their own in the network.
    for (number, address) in (0..).zip(shared.client_addresses()) {
        let place = Pod::new(100 + number, plan.seed);
        let shared = shared.clone();
        let clients = plan.clients;
        sim.client(address, async move {
            match number.checked_sub(clients) {
                None => Caller::new(&format!("c{number}"), shared, &place, workload::patience()).run().await,
                Some(0) => Caller::new("archive", shared, &place, workload::patience()).archive().await,
                Some(1) => workload::tenants(&shared, &place).await,
                Some(2) => watch(&shared, &place).await?,
                Some(3) => audit::run(Caller::new("audit", shared.clone(), &place, AUDIT), shared).await,
                Some(4) if shared.plan.lockers > 0 => locking::lockers(&shared, &place).await?,
                Some(_) => permissions::users(&shared, &place).await?,
            }
            Ok(())
        });
    }
    sim
}
