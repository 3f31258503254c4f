//! What all parts of one running simulation share. One thread; clones are the same one.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::history::{Action, Operation, Outcome, State};
use super::invariants::Invariants;
use super::later;
use super::leases::Ledger;
use super::lock_check::Holding;
use super::network::Zone;
use super::permission_check::Round;
use super::plan::{Mode, Plan};
use super::trace::Trace;
use super::upkeep::Treatment;
use super::upkeep_check::Book;
use super::watch_check::Watching;
use super::world::{Now, Pod, SimulatedOwner};
use crate::client::Credentials;
use crate::config::{AuthConfig, Cluster, Config, Data, SizeFrom};
use crate::env::Lookup;
use crate::identity::{ClusterId, NodeId, PodFacts};
use crate::playground::pod::ContainerId;

/// See the module.
pub(super) type Shared = Rc<Simulation>;

/// Where the data of every pod is, on its own volume.
pub(super) const DATA: &str = "/data";
/// Addresses that the pods take turns with, beyond one for each.
const SPARE_ADDRESSES: u16 = 3;

/// What a process tells the kubelet.
pub(super) enum Heard {
    /// It has ended; how.
    Ended(ContainerId, String),
    /// Its readiness was looked at.
    Probed(ContainerId, bool),
}

/// The process of a pod.
#[derive(Clone)]
pub(super) struct Process {
    pub(super) container: ContainerId,
    pub(super) address: IpAddr,
    /// SIGTERM.
    pub(super) stop: CancellationToken,
    pub(super) started: u64,
}

/// What a member says of itself.
#[derive(Clone, Debug)]
pub(super) struct Report {
    pub(super) serving: bool,
    /// Of which cluster its disk is.
    pub(super) cluster: String,
    /// Which disk it is.
    pub(super) node: Option<NodeId>,
    /// What it decided at its start, or what it waits for.
    pub(super) decided: String,
    /// Bytes of its snapshots.
    pub(super) snapshot_bytes: u64,
    /// Everything, for people.
    pub(super) status: String,
}

/// One running simulation.
pub(super) struct Simulation {
    pub(super) plan: Plan,
    pub(super) now: Now,
    pub(super) zone: Zone,
    pub(super) pods: Vec<Pod>,
    pub(super) trace: Rc<Trace>,
    pub(super) invariants: Rc<RefCell<Invariants>>,
    pub(super) operations: RefCell<Vec<Operation>>,
    pub(super) leases: Rc<RefCell<Ledger>>,
    /// The addresses of the pods that exist, by ordinal.
    pub(super) places: RefCell<BTreeMap<u16, IpAddr>>,
    /// The processes that run, by ordinal.
    pub(super) processes: RefCell<BTreeMap<u16, Process>>,
    /// The runtimes of the processes that were started last, by ordinal.
    pub(super) runtimes: RefCell<BTreeMap<u16, tokio::runtime::Id>>,
    /// What the members say of themselves, by ordinal.
    pub(super) reports: RefCell<BTreeMap<u16, Report>>,
    pub(super) heard: RefCell<Vec<Heard>>,
    /// Clients that still call.
    pub(super) calling: Cell<u16>,
    /// The state at every revision, as somebody read it.
    pub(super) states: RefCell<BTreeMap<i64, State>>,
    /// The size of the `StatefulSet`, as its members can ask for it.
    pub(super) owner: Arc<SimulatedOwner>,
    /// Pods whose disk is such that they must not serve any more.
    pub(super) must_wait: RefCell<BTreeSet<u16>>,
    /// Pods whose disk is such that they may serve, if they have what the others have, or say that it is lost.
    pub(super) may_wait: RefCell<BTreeSet<u16>>,
    /// Ids of clusters that volumes were made to be of.
    pub(super) other_clusters: RefCell<BTreeSet<ClusterId>>,
    /// The newest revision that was told of when all volumes were copied.
    pub(super) copied_at: Cell<i64>,
    /// What users were given, and what they did.
    pub(super) rounds: RefCell<Vec<Round>>,
    /// How far the audit has come.
    pub(super) phase: Cell<Phase>,
    /// What was watched.
    pub(super) watchings: RefCell<Vec<Watching>>,
    /// Clients that still watch.
    pub(super) watching: Cell<u16>,
    /// What locks were held.
    pub(super) holdings: RefCell<Vec<Holding>>,
    /// The revision of the store once nothing is written any more: watchers must reach it.
    pub(super) settled: Cell<Option<i64>>,
    /// What members did to their stores by themselves.
    pub(super) book: Rc<RefCell<Book>>,
    /// What the audit wants to be done to pods.
    pub(super) treatments: RefCell<Vec<Treatment>>,
    /// Something was forgotten before the archivist had read it: what clients saw of it cannot be checked.
    pub(super) missed: Cell<bool>,
    /// How often what happened.
    pub(super) counts: RefCell<BTreeMap<&'static str, u64>>,
    /// What else was found to be wrong.
    pub(super) wrong: RefCell<Vec<String>>,
    /// What is waited for after healing, for people.
    pub(super) waiting_for: RefCell<String>,
}

/// What the audit and the driver wait for of each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// Nothing is sure yet.
    Running,
    /// Every member has everything, and marks say so: an old copy of a volume is told from now on.
    Settled,
    /// A copy of a volume was made, and is put in place after some more writes.
    Copied,
    /// They were done.
    Written,
    /// It was put in place, if the plan has one.
    RolledBack,
    /// Everything was checked; now a majority of the volumes is to go.
    Disaster,
    /// The set was scaled; the volumes go in a moment.
    Resized,
    /// It is gone.
    Lost,
    /// Some volumes are to be copied.
    CopyOlder,
    /// They were.
    CopiedOlder,
    /// The others are to be copied.
    CopyOthers,
    /// They were.
    CopiedOthers,
    /// All volumes are to be put back to their copies.
    Restore,
    /// They were.
    Restored,
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
            pod_ip: self.places.borrow().get(&ordinal).copied(),
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
            data: Data::Directory(DATA.into()),
            cluster,
            listen_client: ([0, 0, 0, 0], 2379).into(),
            listen_peer: ([0, 0, 0, 0], 2380).into(),
            advertise_client: vec![format!("http://{}:2379", facts.fqdn())],
            tuning: self.plan.tuning.clone(),
            auth: if self.plan.has_users { later::auth(self.plan.seed) } else { AuthConfig::default() },
            size_from: if self.plan.follows { SizeFrom::StatefulSet } else { SizeFrom::Fixed },
            // SIGKILL comes a little later.
            grace_period: self.plan.spec.grace.saturating_sub(Duration::from_millis(100)),
            ..Config::in_memory(&facts.pod_name)
        }
    }

    /// Who the clients are that may do everything, where users are asked who they are.
    pub(super) fn credentials(&self) -> Option<Credentials> {
        self.plan.has_users.then(|| Credentials::new("root", "root"))
    }

    /// All addresses that pods may have.
    pub(super) fn addresses(&self) -> Vec<IpAddr> {
        (0..self.plan.size + SPARE_ADDRESSES)
            .map(|number| IpAddr::from([10, 0, 0, 10 + number as u8]))
            .collect()
    }

    /// The addresses of the clients, numbered after the pods of any size.
    pub(super) fn client_addresses(&self) -> Vec<IpAddr> {
        // The last ones are those of clients that take locks, and of users.
        let more = 4 + u16::from(self.plan.lockers > 0) + u16::from(self.plan.has_users);
        (0..self.plan.clients + more).map(|number| IpAddr::from([10, 0, 1, number as u8])).collect()
    }

    /// Publishes all names as they should be.
    pub(super) fn publish_all(&self) {
        let places = self.places.borrow().clone();
        for ordinal in 0..self.plan.size {
            let answer = places.get(&ordinal).map_or(Lookup::Absent, |place| Lookup::At(vec![*place]));
            self.zone.set(&self.facts(ordinal).fqdn(), answer);
        }
        let all: Vec<IpAddr> = places.values().copied().collect();
        let answer = if all.is_empty() { Lookup::Absent } else { Lookup::At(all) };
        self.zone.set(&self.facts(0).service_fqdn(), answer);
    }

    /// The process that is to run at an address.
    pub(super) fn process_at(&self, address: IpAddr) -> Option<Process> {
        self.processes.borrow().values().find(|process| process.address == address).cloned()
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

    /// Has the driver do something to a pod.
    pub(super) fn treat(&self, treatment: Treatment) {
        self.treatments.borrow_mut().push(treatment);
    }

    /// Something happened that is worth counting.
    pub(super) fn count(&self, what: &'static str) {
        *self.counts.borrow_mut().entry(what).or_default() += 1;
    }

    /// Members compacted by themselves what the archivist had not read.
    pub(super) fn note_gap(&self) {
        if !self.missed.replace(true) {
            self.count("histories with a gap");
        }
    }

    /// Something is wrong.
    pub(super) fn complain(&self, text: String) {
        self.trace.add(&format!("WRONG {text}"));
        self.wrong.borrow_mut().push(text);
    }
}

fn brief(action: &Action) -> String {
    match action {
        Action::Put(key, value) => format!("put {key:?}={}", brief_value(value)),
        Action::PutOn(key, value, lease) => format!("put {key:?}={} on {lease}", brief_value(value)),
        Action::PutAll(pairs) => {
            let pairs = pairs.iter().map(|(key, value)| format!("{key:?}={}", brief_value(value)));
            format!("put {}", pairs.collect::<Vec<_>>().join(" "))
        }
        Action::Delete(key) => format!("delete {key:?}"),
        Action::Swap { key, expected, value } => format!("swap {key:?}@{expected}={}", brief_value(value)),
        Action::Read => "read".into(),
        Action::ReadLocal => "read local".into(),
        Action::ReadAt(revision) => format!("read at {revision}"),
        Action::Compact(revision) => format!("compact at {revision}"),
    }
}

/// A value by its name; what makes it large is only counted.
fn brief_value(value: &Bytes) -> String {
    let name = value.trim_ascii_end();
    format!("{}+{}", String::from_utf8_lossy(name), value.len() - name.len())
}
