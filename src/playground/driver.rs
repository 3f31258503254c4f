//! Carries out what the controller says, and tells it what became of it.
//!
//! One task owns the controller and every edge: processes, probes, timers, addresses, names, proxies. All else sends it
//! messages. Invariants: actions are carried out in the order given; a pod's name is published before its process
//! starts; the task never waits for one of its own messages. Called by `mod`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::addresses::Subnet;
use super::api_server::ApiServer;
use super::commands::{Message, Reply};
use super::controller::{Action, Event, StatefulSet};
use super::dns::NameServer;
use super::environment::Facts;
use super::naming::{ADMIN_PORT, CLIENT_PORT, Naming};
use super::pending::Pending;
use super::pod::{ContainerId, Phase, Pod, PodKey};
use super::probe::probe;
use super::process::{Launch, Process, Signal};
use super::proxy::Proxy;
use super::run_directory::RunDirectory;
use super::status::{OrphanStatus, PodStatus, Status};
use super::volumes::Volumes;
use super::zone::Zone;
use crate::identity::Ordinal;

/// How pods are started.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) binary: PathBuf,
    pub(super) arguments: Vec<OsString>,
    pub(super) environment: Vec<(OsString, OsString)>,
    pub(super) probe_period: Duration,
    pub(super) expected: Ordinal,
}

/// What belongs to one pod.
#[derive(Debug, Default)]
pub(super) struct Edges {
    address: Option<Ipv4Addr>,
    pub(super) process: Option<Process>,
    probe: Option<AbortOnDropHandle<()>>,
    timer: Option<AbortOnDropHandle<()>>,
    /// It has its volume: from the first start of a container until the pod is gone.
    pub(super) attached: bool,
    /// The container that waits for that.
    pub(super) held: Option<ContainerId>,
}

/// The parts of a running playground. Fields are dropped from the top: processes first, their volumes last.
#[derive(Debug)]
pub(super) struct Driver {
    pub(super) pods: Pods,
    pub(super) set: StatefulSet,
    pub(super) naming: Naming,
    pub(super) program: Program,
    pub(super) subnet: Subnet,
    pub(super) dns: NameServer,
    pub(super) api: ApiServer,
    pub(super) service: Proxy,
    pub(super) clients: BTreeMap<Ordinal, Proxy>,
    pub(super) messages: mpsc::Sender<Message>,
    pub(super) status: watch::Sender<Status>,
    pub(super) kills: Vec<(ContainerId, Reply)>,
    /// Changes of volumes, as soon as their pods are gone.
    pub(super) pending: Pending,
    /// Volumes that are being copied.
    pub(super) copying: BTreeSet<Ordinal>,
    pub(super) serial: u32,
    pub(super) _control: AbortOnDropHandle<()>,
    pub(super) run: RunDirectory,
    pub(super) volumes: Volumes,
}

/// Edges of the pods that exist, and of those whose process does.
#[derive(Debug, Default)]
pub(super) struct Pods(pub(super) BTreeMap<PodKey, Edges>);

impl Driver {
    /// Runs until it was told to end and every pod has. When `abandoned` fires, it ends as fast as it can.
    pub(super) async fn run(mut self, mut inbox: mpsc::Receiver<Message>, abandoned: CancellationToken) {
        self.take(Message::Event(Event::Sync));
        let mut hurried = false;
        while !(self.set.is_ending() && self.set.is_gone()) {
            let message = tokio::select! {
                Some(message) = inbox.recv() => message,
                () = abandoned.cancelled(), if !hurried => {
                    hurried = true;
                    Message::Event(Event::Hurry)
                }
            };
            self.take(message);
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Event(event) => {
                if matches!(event, Event::TearDown | Event::Hurry) {
                    self.api.delete();
                }
                self.step(event);
            }
            Message::Asked(request, reply) => self.asked(request, reply),
            Message::Copied(copied) => self.copied(copied),
        }
    }

    /// One event, and those that follow from it at once (a process that cannot be started has ended).
    pub(super) fn step(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        let mut ended = Vec::new();
        while let Some(event) = events.pop_front() {
            if let Event::ContainerExited { container, .. } = &event {
                ended.push(*container);
                if let Some(edges) = self.pods.0.get_mut(&container.pod) {
                    (edges.process, edges.probe, edges.timer) = (None, None, None);
                }
            }
            for action in self.set.step(event) {
                tracing::debug!(?action, "playground");
                events.extend(self.act(action));
            }
        }
        self.refresh();
        // Only now: whoever waits for a kill sees the pod as it is after it.
        for (_, reply) in self.kills.extract_if(.., |(container, _)| ended.contains(container)) {
            drop(reply.send(Ok(())));
        }
    }

    fn act(&mut self, action: Action) -> Vec<Event> {
        match action {
            Action::CreatePod(pod) => {
                self.pods.0.entry(pod).or_default();
                // If there is no address, the start of the container fails and says so.
                drop(self.address(pod));
                self.publish();
            }
            Action::StartContainer(container) => {
                return self.start_on_volume(container).into_iter().collect();
            }
            Action::Wait { container, wait } => {
                self.after(container, wait, Event::BackOffElapsed { container });
            }
            // The endpoints follow from the controller's state: see `refresh`.
            Action::Ready { .. } => {}
            Action::Terminate { container, grace } => {
                if let Some(never_started) = self.give_up(container) {
                    return vec![never_started];
                }
                self.signal(container, Signal::TERM);
                self.after(container, grace, Event::GraceElapsed { container });
            }
            Action::Kill(container) => {
                if let Some(never_started) = self.give_up(container) {
                    return vec![never_started];
                }
                self.signal(container, Signal::KILL);
            }
            Action::Forget(_) => self.publish(),
            Action::Linger { container, linger } => {
                self.after(container, linger, Event::LingerElapsed { container });
            }
            Action::RemovePod(pod) => {
                if let Some(address) = self.pods.0.remove(&pod).and_then(|edges| edges.address) {
                    self.subnet.release(address);
                }
                self.publish();
                return self.settle_volumes().events;
            }
            Action::DeleteVolume(ordinal) => return self.delete_condemned_volume(ordinal),
        }
        Vec::new()
    }

    fn address(&mut self, pod: PodKey) -> Result<Ipv4Addr, String> {
        let edges = self.pods.0.entry(pod).or_default();
        if let Some(address) = edges.address {
            return Ok(address);
        }
        let address = self.subnet.allocate().map_err(|error| error.to_string())?;
        edges.address = Some(address);
        Ok(address)
    }

    pub(super) fn start(&mut self, container: ContainerId) -> Result<(), String> {
        let ordinal = container.pod.ordinal;
        let address = self.address(container.pod)?;
        self.publish();
        let name = self.naming.pod(ordinal);
        let volume = self.volumes.attach(&name).map_err(|error| error.to_string())?;
        let facts = Facts {
            naming: &self.naming,
            ordinal,
            expected: self.program.expected,
            address,
            client_address: self.subnet.client(ordinal).ok_or("no client address is left")?,
            dns: self.dns.address(),
            api_server: &self.api.url(),
            volume: &volume,
        };
        let mut environment: Vec<(OsString, OsString)> =
            facts.variables().into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        environment.extend(self.program.environment.iter().cloned());
        let launch = Launch {
            binary: self.program.binary.clone(),
            arguments: self.program.arguments.clone(),
            environment,
            log: self.volumes.log(&name),
        };
        let messages = self.messages.clone();
        let process = Process::start(&launch, move |exit| async move {
            let event = Event::ContainerExited { container, ran_for: exit.ran_for, how: exit.how };
            // Fails only when the playground has ended.
            drop(messages.send(Message::Event(event)).await);
        });
        let process = process.map_err(|error| format!("{}: {error}", launch.binary.display()))?;
        let probe = self.probe(container, SocketAddr::from((address, ADMIN_PORT)));
        let edges = self.pods.0.entry(container.pod).or_default();
        edges.process = Some(process);
        edges.probe = Some(probe);
        Ok(())
    }

    fn probe(&self, container: ContainerId, address: SocketAddr) -> AbortOnDropHandle<()> {
        let messages = self.messages.clone();
        let period = self.program.probe_period;
        AbortOnDropHandle::new(tokio::spawn(async move {
            loop {
                tokio::time::sleep(period).await;
                let success = probe(address, "/readyz").await;
                if messages.send(Message::Event(Event::Probed { container, success })).await.is_err() {
                    return;
                }
            }
        }))
    }

    fn after(&mut self, container: ContainerId, wait: Duration, event: Event) {
        let messages = self.messages.clone();
        let timer = AbortOnDropHandle::new(tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            drop(messages.send(Message::Event(event)).await);
        }));
        self.pods.0.entry(container.pod).or_default().timer = Some(timer);
    }

    fn signal(&self, container: ContainerId, signal: Signal) {
        if let Some(process) = self.pods.0.get(&container.pod).and_then(|edges| edges.process.as_ref()) {
            process.signal(signal);
        }
    }

    /// Whether the pod exists for the API server, as one that was deleted with force does not.
    fn is_known(&self, key: PodKey) -> bool {
        self.set.pods().get(&key.ordinal).is_some_and(|pod| pod.key() == key)
    }

    /// Tells the name server which pods exist now.
    fn publish(&mut self) {
        self.serial = self.serial.wrapping_add(1);
        let known = self.pods.0.iter().filter(|(pod, _)| self.is_known(**pod));
        let pods = known.filter_map(|(pod, edges)| Some((pod.ordinal, edges.address?)));
        self.dns.publish(Zone::of(&self.naming, self.serial, self.subnet.service(), pods));
    }

    /// Brings proxies and status in line with the controller's state.
    pub(super) fn refresh(&mut self) {
        for ordinal in self.set.spec().ordinals() {
            if let Some(address) = self.subnet.client(ordinal) {
                let start = || Proxy::start(SocketAddr::from((address, CLIENT_PORT)));
                self.clients.entry(ordinal).or_insert_with(start);
            }
        }
        let backend = |pod: &Pod| {
            let address = self.pods.0.get(&pod.key())?.address?;
            Some(SocketAddr::from((address, CLIENT_PORT)))
        };
        let ready = self.set.pods().values().filter(|pod| pod.is_ready());
        self.service.set_backends(ready.filter_map(backend).collect());
        for (ordinal, proxy) in &self.clients {
            // One that is about to close its port would reset what this proxy has accepted: nobody could know whether a request
            // was lost or done. Refused at once, a client asks another pod.
            let takes = |pod: &&Pod| pod.running().is_some() && !pod.is_terminating();
            let running = self.set.pods().get(ordinal).filter(takes);
            proxy.set_backends(running.and_then(backend).into_iter().collect());
        }
        let status = self.describe();
        self.status.send_if_modified(|present| {
            let changed = *present != status;
            *present = status;
            changed
        });
    }

    fn describe(&self) -> Status {
        let mut ordinals: Vec<Ordinal> =
            self.set.spec().ordinals().chain(self.set.pods().keys().copied()).collect();
        ordinals.sort_unstable();
        ordinals.dedup();
        Status {
            name: self.naming.name().to_owned(),
            namespace: self.naming.namespace().to_owned(),
            replicas: self.set.spec().replicas,
            stopping: self.set.is_ending(),
            service: self.service.address(),
            dns: self.dns.address(),
            api_server: self.api.url(),
            api_mode: self.api.mode(),
            dns_mode: self.dns.mode(),
            headless_service: self.naming.headless_fqdn(),
            data: self.volumes.root().to_owned(),
            temporary: self.volumes.is_temporary(),
            run: self.run.path().to_owned(),
            pods: ordinals.into_iter().map(|ordinal| self.describe_pod(ordinal)).collect(),
            orphans: self.describe_orphans(),
        }
    }

    fn describe_orphans(&self) -> Vec<OrphanStatus> {
        let forgotten = self.pods.0.iter().filter(|(pod, _)| !self.is_known(**pod));
        let describe = |(pod, edges): (&PodKey, &Edges)| OrphanStatus {
            ordinal: pod.ordinal,
            uid: pod.uid,
            address: edges.address,
            pid: edges.process.as_ref().and_then(Process::pid),
        };
        forgotten.map(describe).collect()
    }

    fn describe_pod(&self, ordinal: Ordinal) -> PodStatus {
        let pod = self.set.pods().get(&ordinal);
        let edges = pod.and_then(|pod| self.pods.0.get(&pod.key()));
        PodStatus {
            ordinal,
            name: self.naming.pod(ordinal),
            fqdn: self.naming.pod_fqdn(ordinal),
            phase: match pod.map_or(Phase::Absent, Pod::phase) {
                Phase::Running if edges.is_some_and(|edges| edges.held.is_some()) => Phase::ContainerCreating,
                phase => phase,
            },
            ready: pod.is_some_and(Pod::is_ready),
            uid: pod.map(|pod| pod.key().uid),
            address: edges.and_then(|edges| edges.address),
            client_address: self.subnet.client(ordinal).map(|at| SocketAddr::from((at, CLIENT_PORT))),
            restarts: pod.map_or(0, Pod::restarts),
            pid: edges.and_then(|edges| edges.process.as_ref()).and_then(Process::pid),
            last_exit: pod.and_then(Pod::last_exit).map(str::to_owned),
        }
    }
}
