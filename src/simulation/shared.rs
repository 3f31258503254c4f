//! What all parts of one running simulation share. One thread; clones are the same one.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use super::history::{Action, Operation, Outcome, State};
use super::invariants::Invariants;
use super::plan::{Mode, Plan};
use super::trace::Trace;
use super::world::{Now, Pod, Zone};
use crate::config::{Cluster, Config, Data};
use crate::env::Lookup;
use crate::identity::PodFacts;
use crate::node::Node;

/// See the module.
pub(super) type Shared = Rc<Simulation>;

/// One running simulation.
pub(super) struct Simulation {
    pub(super) plan: Plan,
    pub(super) now: Now,
    pub(super) zone: Zone,
    pub(super) pods: Vec<Pod>,
    pub(super) trace: Rc<Trace>,
    pub(super) invariants: Rc<RefCell<Invariants>>,
    pub(super) operations: RefCell<Vec<Operation>>,
    /// The members that run, by ordinal.
    pub(super) nodes: RefCell<BTreeMap<u16, Arc<Node>>>,
    /// Pods whose process has ended by itself.
    pub(super) exits: RefCell<Vec<u16>>,
    /// Clients that still call.
    pub(super) calling: Cell<u16>,
    /// The state at every revision, read after everything was healed.
    pub(super) states: RefCell<BTreeMap<i64, State>>,
    /// What else was found to be wrong.
    pub(super) wrong: RefCell<Vec<String>>,
    /// What is waited for after healing, for people.
    pub(super) waiting_for: RefCell<String>,
}

impl Simulation {
    /// Who a pod is.
    pub(super) fn facts(&self, ordinal: u16) -> PodFacts {
        PodFacts {
            pod_name: format!("stone-{ordinal}"),
            namespace: "sim".into(),
            ordinal,
            service: "stone".into(),
            cluster_domain: "cluster.local".into(),
            zone: None,
            pod_ip: self.pods.get(usize::from(ordinal)).map(|pod| pod.address),
            peer_port: 2380,
            client_port: 2379,
        }
    }

    /// The configuration of a pod.
    pub(super) fn config(&self, ordinal: u16) -> Config {
        let facts = self.facts(ordinal);
        let cluster = match self.plan.mode {
            Mode::StatefulSet => Cluster::StatefulSet { pod: facts.clone(), expected: self.plan.size },
            Mode::Fixed => Cluster::Fixed {
                ordinal,
                peers: (0..self.plan.size).map(|ordinal| facts.peer_address_of(ordinal)).collect(),
            },
        };
        Config {
            data: Data::Memory,
            cluster,
            listen_client: ([0, 0, 0, 0], 2379).into(),
            listen_peer: ([0, 0, 0, 0], 2380).into(),
            advertise_client: vec![format!("http://{}:2379", facts.fqdn())],
            tuning: self.plan.tuning.clone(),
            ..Config::in_memory(&facts.pod_name)
        }
    }

    /// Publishes a pod's name as it should be.
    pub(super) fn publish(&self, ordinal: u16) {
        if let Some(pod) = self.pods.get(usize::from(ordinal)) {
            self.zone.set(&self.facts(ordinal).fqdn(), Lookup::At(vec![pod.address]));
        }
    }

    /// Publishes all names as they should be.
    pub(super) fn publish_all(&self) {
        for ordinal in 0..self.plan.size {
            self.publish(ordinal);
        }
        let all = self.pods.iter().map(|pod| pod.address).collect();
        self.zone.set(&self.facts(0).service_fqdn(), Lookup::At(all));
    }

    /// A client begins a call; returns its place in the history.
    pub(super) fn begin(&self, caller: String, action: Action) -> usize {
        let invoked = self.trace.add(&format!("{caller} calls {}", brief(&action)));
        let operation = Operation { caller, action, invoked, returned: None, outcome: Outcome::Unknown };
        let mut operations = self.operations.borrow_mut();
        operations.push(operation);
        operations.len() - 1
    }

    /// A call has ended.
    pub(super) fn end(&self, place: usize, outcome: Outcome, note: &str) {
        let mut operations = self.operations.borrow_mut();
        let Some(operation) = operations.get_mut(place) else { return };
        let text = match &outcome {
            Outcome::Done { revision, .. } => format!("done at {revision}"),
            Outcome::Refused => format!("refused: {note}"),
            Outcome::Unknown => format!("unknown: {note}"),
        };
        let returned = self.trace.add(&format!("{} #{place} {text}", operation.caller));
        operation.returned = Some(returned);
        operation.outcome = outcome;
    }

    /// Something is wrong.
    pub(super) fn complain(&self, text: String) {
        self.trace.add(&format!("WRONG {text}"));
        self.wrong.borrow_mut().push(text);
    }
}

fn brief(action: &Action) -> String {
    match action {
        Action::Put(key, value) => format!("put {key:?}={value:?}"),
        Action::PutAll(pairs) => format!("put {pairs:?}"),
        Action::Delete(key) => format!("delete {key:?}"),
        Action::Swap { key, expected, value } => format!("swap {key:?}@{expected}={value:?}"),
        Action::Read => "read".into(),
        Action::ReadLocal => "read local".into(),
    }
}
