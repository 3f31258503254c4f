//! A deterministic simulation: whole members, in one thread, on simulated time, network, names and disks. One seed decides
//! everything, so what it finds can be found again.
//!
//! Nothing imports this but `cli` and tests. It runs `Node::start_in`, unchanged, over turmoil; the only things that differ
//! from production are the implementations of `env`, the engine (sled is replaced by the one in memory, which comes back empty
//! after each crash), and where consensus takes its randomness from.
//!
//! * `plan`: what a seed decides beforehand: cluster, knobs, faults (pure)
//! * `world`: the implementations of `env`
//! * `driver`: moves time, makes things fail, heals, restarts
//! * `workload`, `audit`: the clients; what is asked of every member at the end
//! * `history`, `check`: what clients saw, and whether that can be (pure)
//! * `invariants`: what must hold inside the members at any time (pure)
//! * `trace`, `shared`: what the parts of a run share

mod audit;
pub mod check;
mod driver;
pub mod history;
pub mod invariants;
pub mod plan;
mod shared;
pub mod trace;
mod workload;
pub mod world;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::env::simulated::{Bug, Seen, Simulating, mix};
use crate::node::Node;
use driver::Driver;
use history::Outcome;
use invariants::Invariants;
use plan::Plan;
use shared::{Shared, Simulation};
use trace::Trace;
use workload::Caller;
use world::{Now, Pod, Zone};

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
    /// Faults that were begun.
    pub faults: u64,
    /// Calls that were done, refused, and of unknown outcome.
    pub calls: (usize, usize, usize),
}

/// Runs a seed to its end. Never panics: a panic inside is something wrong.
pub fn run(seed: u64, options: Options) -> Report {
    let now = Now::default();
    let trace = Rc::new(Trace::new(now.clone(), options.echo));
    let invariants: Rc<RefCell<Invariants>> = Rc::default();
    let sink = {
        let (trace, invariants) = (trace.clone(), invariants.clone());
        Box::new(move |seen: Seen| {
            if invariants.borrow_mut().take(seen) {
                trace.add(&format!("{seen:x?}"));
            }
        })
    };
    let _simulating = Simulating::begin(mix(seed), options.bug, sink);
    let plan = Plan::of(seed);
    let pods = (0..plan.size).map(|ordinal| Pod::new(ordinal, seed)).collect();
    let shared = Rc::new(Simulation {
        now: now.clone(),
        zone: Zone::default(),
        pods,
        trace: trace.clone(),
        invariants: invariants.clone(),
        operations: RefCell::default(),
        nodes: RefCell::default(),
        exits: RefCell::default(),
        calling: Cell::new(plan.clients),
        states: RefCell::new(BTreeMap::new()),
        wrong: RefCell::default(),
        waiting_for: RefCell::new("the end of the calls".into()),
        plan,
    });
    trace.add(&format!("plan {:?}", shared.plan));
    shared.publish_all();
    let mut faults = 0;
    let ran = std::panic::catch_unwind(AssertUnwindSafe(|| {
        let mut driver = Driver::new(build(&shared), shared.clone());
        driver.run();
        faults = driver.faults;
        // Members go before the world that they live in.
        shared.nodes.borrow_mut().clear();
    }));
    if let Err(panic) = ran {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        shared.complain(format!("panic: {}", text.unwrap_or_default()));
    }
    let mut wrong: Vec<String> = invariants.borrow().wrong().to_vec();
    wrong.extend(shared.wrong.borrow().iter().cloned());
    if wrong.is_empty() {
        wrong.extend(check::check(&shared.operations.borrow(), &shared.states.borrow()));
    }
    let count = |wanted: fn(&Outcome) -> bool| {
        shared.operations.borrow().iter().filter(|operation| wanted(&operation.outcome)).count()
    };
    Report {
        seed,
        wrong,
        hash: trace.hash(),
        trace: trace.lines(),
        millis: now.millis(),
        faults,
        calls: (
            count(|outcome| matches!(outcome, Outcome::Done { .. })),
            count(|outcome| *outcome == Outcome::Refused),
            count(|outcome| *outcome == Outcome::Unknown),
        ),
    }
}

fn build<'a>(shared: &Shared) -> turmoil::Sim<'a> {
    let plan = &shared.plan;
    let mut sim = turmoil::Builder::new()
        .rng_seed(mix(plan.seed) ^ 0x6e65_7477)
        .simulation_duration(Duration::from_secs(600))
        .tick_duration(Duration::from_millis(1))
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(Duration::from_millis(plan.latency))
        .tcp_capacity(64 << 10)
        .build();
    for pod in &shared.pods {
        let (shared, ordinal) = (shared.clone(), pod.ordinal);
        sim.host(pod.address, move || member(shared.clone(), ordinal));
    }
    // Clients have places of their own in the network, numbered after the pods of any size.
    for number in 0..=plan.clients {
        let mut place = Pod::new(100 + number, plan.seed);
        place.address = IpAddr::from([10, 0, 1, number as u8]);
        let (address, shared) = (place.address, shared.clone());
        sim.client(address, async move {
            if number == shared.plan.clients {
                let caller = Caller::new("audit", shared.clone(), &place, Duration::from_secs(5));
                audit::run(caller, shared).await;
            } else {
                let name = format!("c{number}");
                Caller::new(&name, shared, &place, workload::patience()).run().await;
            }
            Ok(())
        });
    }
    sim
}

/// The process of a pod, from its start to its end.
async fn member(shared: Shared, ordinal: u16) -> turmoil::Result {
    let Some(pod) = shared.pods.get(usize::from(ordinal)) else { return Ok(()) };
    let env = pod.env(&shared.now, &shared.zone);
    // The processes of a set do not begin at the same moment.
    tokio::time::sleep(Duration::from_millis(env.random.next_u64() % 300)).await;
    shared.invariants.borrow_mut().started(ordinal);
    let failure = match Node::start_in(shared.config(ordinal), env).await {
        Err(error) => error,
        Ok(node) => {
            let node = Arc::new(node);
            shared.nodes.borrow_mut().insert(ordinal, node.clone());
            node.failed().await
        }
    };
    shared.trace.add(&format!("pod {ordinal} ends: {failure}"));
    shared.exits.borrow_mut().push(ordinal);
    std::future::pending().await
}
