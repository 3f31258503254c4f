//! A StatefulSet on a laptop: pods as processes of this same binary, each with its name in DNS, its address, its volume and its
//! facts in the environment, started and stopped in order. For Linux only, because of its loopback addresses.
//!
//! It knows how to run pods and nothing of what they do: it starts `setstone serve`, and asks `/readyz`.
//!
//! | File | What |
//! |---|---|
//! | `controller` | which pods to create and delete, and when (pure; the simulation runs the same) |
//! | `pod` | one pod: its container, back-off, readiness (pure) |
//! | `naming`, `environment` | names, what a pod is told (pure) |
//! | `zone`, `resolution` | what DNS knows, and what it says: its cache and its faults (pure) |
//! | `pending` | changes of volumes that wait for their pods (pure) |
//! | `status` | what a playground tells, what can be asked of it |
//! | `driver` | carries out what the controller says; `commands` what it is asked for, `claims` which pod has which volume |
//! | `accept`, `addresses`, `api_server`, `dns`, `proxy`, `probe`, `process`, `log_file`, `volumes`, `run_directory`, `control` | one edge each |

// The playground starts processes, proxies and name servers of its own; no node runs in it.
#![allow(clippy::disallowed_methods)]
// Kubernetes' words (StatefulSet) stand here as words, not as items of this crate.
#![allow(clippy::doc_markdown)]

mod accept;
pub mod addresses;
mod api_server;
mod claims;
mod commands;
pub mod control;
pub mod controller;
pub mod dns;
mod driver;
pub mod environment;
mod log_file;
pub mod naming;
pub mod pending;
pub mod pod;
pub mod probe;
pub mod process;
pub mod proxy;
pub mod resolution;
pub mod run_directory;
pub mod status;
pub mod volumes;
pub mod zone;

#[cfg(test)]
mod controller_property_tests;
#[cfg(test)]
mod controller_tests;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use self::addresses::{AddressError, Subnet};
use self::api_server::{ApiServer, Object};
use self::commands::Message;
use self::controller::{Event, Spec, StatefulSet};
use self::dns::NameServer;
use self::driver::{Driver, Pods, Program};
use self::naming::{API_PORT, CLIENT_PORT, InvalidName, Naming};
use self::pending::Pending;
use self::proxy::Proxy;
use self::run_directory::{RunDirectory, RunError};
use self::volumes::{VolumeError, Volumes};
use self::zone::Zone;
use crate::identity::Ordinal;
use crate::limits;

pub use self::controller::{PodManagement, WhenScaled};
pub use self::pod::{BackOff, Phase};
pub use self::status::{
    ApiMode, CommandError, DnsMode, Endpoints, OrphanStatus, PodStatus, Request, Response, Status,
};

/// What to run, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// The program that a pod is.
    pub binary: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Variables for every pod, on top of (and before) what `environment` sets.
    pub environment: Vec<(OsString, OsString)>,
    /// How many pods, 1 to [`limits::PLAYGROUND_PODS`].
    pub replicas: Ordinal,
    /// Their order.
    pub management: PodManagement,
    /// What becomes of the volumes of pods that go because the set shrinks.
    pub when_scaled: WhenScaled,
    /// How long the name server keeps an answer, as CoreDNS does. Zero: not at all.
    pub dns_cache: Duration,
    /// Name of the StatefulSet.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Where volumes and logs are kept. None: in a temporary directory, removed at the end.
    pub data: Option<PathBuf>,
    /// Where the control socket is put. None: where a second terminal looks for it.
    pub run: Option<PathBuf>,
    /// From SIGTERM to SIGKILL.
    pub grace: Duration,
    /// Between two readiness probes.
    pub probe_period: Duration,
    /// When a container that ended is started again.
    pub back_off: BackOff,
}

impl Options {
    /// Three pods of `setstone serve`, with what the manifests say otherwise; only the probes are more frequent.
    pub fn new(binary: impl Into<PathBuf>) -> Self {
        Self {
            binary: binary.into(),
            arguments: vec!["serve".into()],
            environment: Vec::new(),
            replicas: 3,
            management: PodManagement::OrderedReady,
            when_scaled: WhenScaled::Retain,
            dns_cache: Duration::ZERO,
            name: "setstone".to_owned(),
            namespace: "default".to_owned(),
            data: None,
            run: None,
            grace: Duration::from_secs(30),
            probe_period: Duration::from_millis(200),
            back_off: BackOff::default(),
        }
    }
}

/// Why a playground did not start. Nothing is left behind then.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A name is no DNS label.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// Too many pods, or none.
    #[error("{0} replicas: 1 to {most} are possible", most = limits::PLAYGROUND_PODS)]
    Replicas(Ordinal),
    /// No loopback network is free.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The data directory cannot be used.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// The run directory cannot be used.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A socket cannot be served.
    #[error("cannot serve {what}: {source}")]
    Serve {
        /// Which.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
}

/// What was waited for did not come.
#[derive(Debug, thiserror::Error)]
pub enum WaitError {
    /// Not in time. This is how it was at the end.
    #[error("not within {waited:?}; it is: {status:?}")]
    TimedOut {
        /// How long.
        waited: Duration,
        /// The state at the end.
        status: Box<Status>,
    },
    /// The playground has ended.
    #[error("the playground has ended")]
    Ended,
}

/// A running playground. Dropping it without [`Playground::stop`] kills its pods.
#[derive(Debug)]
pub struct Playground {
    handle: Handle,
    _abandoned: DropGuard,
}

/// What speaks to the driver.
#[derive(Clone, Debug)]
struct Handle {
    messages: mpsc::Sender<Message>,
    status: watch::Receiver<Status>,
    ended: CancellationToken,
}

impl Playground {
    /// Starts one in the current tokio runtime (which needs its I/O and time drivers). Returns before the first pod is ready.
    ///
    /// # Errors
    /// See [`StartError`]. That a pod cannot be started is not one: it is tried again, as in Kubernetes, and the status says why.
    // Not a future that waits, but only to be called where a runtime is; its callers need not know which parts wait.
    #[allow(clippy::unused_async)]
    pub async fn start(options: Options) -> Result<Self, StartError> {
        let naming = Naming::new(&options.name, &options.namespace)?;
        if !(1..=limits::PLAYGROUND_PODS).contains(&options.replicas) {
            return Err(StartError::Replicas(options.replicas));
        }
        let volumes = Volumes::open(options.data.as_deref())?;
        let run = RunDirectory::create(options.run.as_deref())?;
        let (subnet, sockets) = Subnet::reserve()?;
        let dns = NameServer::start(sockets, Zone::of(&naming, 0, subnet.service(), []), options.dns_cache)
            .map_err(serving("the name server"))?;
        let object = Object { replicas: options.replicas, generation: 1, deleted: false };
        let api = ApiServer::start(SocketAddr::from((subnet.service(), API_PORT)), &naming, object)
            .map_err(serving("the API server"))?;
        let spec = Spec {
            management: options.management,
            when_scaled: options.when_scaled,
            grace: options.grace,
            back_off: options.back_off,
            ..Spec::new(options.replicas)
        };
        let (messages, inbox) = mpsc::channel(limits::PLAYGROUND_MESSAGES);
        let service = Proxy::start(SocketAddr::from((subnet.service(), CLIENT_PORT)));
        let (status, changes) = watch::channel(Status {
            name: options.name,
            namespace: options.namespace,
            replicas: options.replicas,
            stopping: false,
            service: service.address(),
            dns: dns.address(),
            api_server: api.url(),
            api_mode: ApiMode::Up,
            dns_mode: DnsMode::Up,
            headless_service: naming.headless_fqdn(),
            data: volumes.root().to_owned(),
            temporary: volumes.is_temporary(),
            run: run.path().to_owned(),
            pods: Vec::new(),
            orphans: Vec::new(),
        });
        let handle = Handle { messages: messages.clone(), status: changes, ended: CancellationToken::new() };
        let control = control::serve(&run.socket(), handle.clone().into_handler())
            .map_err(serving("the control socket"))?;
        let mut driver = Driver {
            pods: Pods::default(),
            set: StatefulSet::new(spec),
            naming,
            program: Program {
                binary: options.binary,
                arguments: options.arguments,
                environment: options.environment,
                probe_period: options.probe_period,
                expected: options.replicas,
            },
            subnet,
            dns,
            api,
            service,
            clients: BTreeMap::new(),
            messages,
            status,
            kills: Vec::new(),
            pending: Pending::default(),
            copying: BTreeSet::new(),
            serial: 0,
            _control: control,
            run,
            volumes,
        };
        // So that the endpoints are known from the first moment.
        driver.refresh();
        let abandoned = CancellationToken::new();
        let (ended, orphaned) = (handle.ended.clone().drop_guard(), abandoned.clone());
        tokio::spawn(async move {
            driver.run(inbox, orphaned).await;
            drop(ended);
        });
        Ok(Self { handle, _abandoned: abandoned.drop_guard() })
    }

    /// How it is now.
    pub fn status(&self) -> Status {
        self.handle.status.borrow().clone()
    }

    /// Every state that it comes into; a slow reader misses some.
    pub fn changes(&self) -> watch::Receiver<Status> {
        self.handle.status.clone()
    }

    /// Where clients connect. The same for as long as it runs.
    pub fn endpoints(&self) -> Endpoints {
        self.status().endpoints()
    }

    /// SIGKILL to the container of a pod, which then starts again at the same address. Returns when the process has ended.
    ///
    /// # Errors
    /// If there is no such pod, or its container does not run.
    pub async fn kill(&self, ordinal: Ordinal) -> Result<(), CommandError> {
        self.handle.command(Request::Kill { ordinal }).await
    }

    /// Deletes a pod: SIGTERM, then a new pod of that name with another address. Returns when the pod is terminating.
    ///
    /// # Errors
    /// If there is no such pod, or it is terminating already.
    pub async fn restart(&self, ordinal: Ordinal) -> Result<(), CommandError> {
        self.handle.command(Request::DeletePod { ordinal }).await
    }

    /// Deletes a pod with force: the next one is created at once, while the old process runs on. It is not told to stop for
    /// `linger`, as if its node were cut off, and has its grace period then. Returns when the next one is being started.
    ///
    /// # Errors
    /// If there is no such pod.
    pub async fn force_delete(&self, ordinal: Ordinal, linger: Duration) -> Result<(), CommandError> {
        let linger_ms = u64::try_from(linger.as_millis()).unwrap_or(u64::MAX);
        self.handle.command(Request::ForceDeletePod { ordinal, linger_ms }).await
    }

    /// Deletes all pods at once; they come back as the StatefulSet's order says. Returns when they are terminating.
    ///
    /// # Errors
    /// If the playground is stopping.
    pub async fn delete_all(&self) -> Result<(), CommandError> {
        self.handle.command(Request::DeleteAllPods).await
    }

    /// Replaces one pod after the other, from the highest, as `kubectl rollout restart` does. Returns when it has begun.
    ///
    /// # Errors
    /// If the playground is stopping.
    pub async fn restart_rolling(&self) -> Result<(), CommandError> {
        self.handle.command(Request::RolloutRestart).await
    }

    /// Changes the number of pods, as `kubectl scale` does. Returns when it is changed.
    ///
    /// # Errors
    /// If there cannot be so many.
    pub async fn scale(&self, replicas: Ordinal) -> Result<(), CommandError> {
        self.handle.command(Request::Scale { replicas }).await
    }

    /// How the API server answers from now on.
    ///
    /// # Errors
    /// If the playground is stopping.
    pub async fn set_api_server(&self, mode: ApiMode) -> Result<(), CommandError> {
        self.handle.command(Request::ApiServer { mode }).await
    }

    /// Deletes a volume. It is kept until its pod is gone, and the next pod of that name has an empty one.
    ///
    /// # Errors
    /// If there is none, or it cannot be removed.
    pub async fn delete_volume(&self, ordinal: Ordinal) -> Result<(), CommandError> {
        self.handle.command(Request::DeleteVolume { ordinal }).await
    }

    /// Copies a volume aside, as a volume snapshot: a process that has it stands still meanwhile. Returns when the copy is complete.
    ///
    /// # Errors
    /// If there is no such volume, or it cannot be copied.
    pub async fn save_volume(&self, ordinal: Ordinal) -> Result<(), CommandError> {
        self.handle.command(Request::SaveVolume { ordinal }).await
    }

    /// Deletes a pod, and puts the copy that was saved in the place of its volume once it is gone. Returns when it is terminating.
    ///
    /// # Errors
    /// If nothing was saved, or the copy cannot be used.
    pub async fn rollback_volume(&self, ordinal: Ordinal) -> Result<(), CommandError> {
        self.handle.command(Request::RollbackVolume { ordinal }).await
    }

    /// Deletes two pods, and exchanges their volumes once both are gone. Returns when they are terminating.
    ///
    /// # Errors
    /// If one of the volumes does not exist, or waits for another change.
    pub async fn swap_volumes(&self, one: Ordinal, other: Ordinal) -> Result<(), CommandError> {
        self.handle.command(Request::SwapVolumes { one, other }).await
    }

    /// How the name server answers from now on.
    ///
    /// # Errors
    /// If the playground has ended.
    pub async fn set_dns(&self, mode: DnsMode) -> Result<(), CommandError> {
        self.handle.command(Request::Dns { mode }).await
    }

    /// Lets the name of one pod give the address of another, until DNS is set up again.
    ///
    /// # Errors
    /// If there is no pod that has the address.
    pub async fn set_dns_stale(&self, ordinal: Ordinal, to: Ordinal) -> Result<(), CommandError> {
        self.handle.command(Request::DnsStale { ordinal, to }).await
    }

    /// Waits until every pod is ready.
    ///
    /// # Errors
    /// If that does not happen within `deadline` from now.
    pub async fn wait_ready(&self, deadline: Duration) -> Result<Status, WaitError> {
        self.wait_until(deadline, Status::is_ready).await
    }

    /// Waits until the status is as wanted.
    ///
    /// # Errors
    /// If that does not happen within `deadline` from now.
    pub async fn wait_until(
        &self,
        deadline: Duration,
        mut wanted: impl FnMut(&Status) -> bool,
    ) -> Result<Status, WaitError> {
        let mut changes = self.changes();
        match tokio::time::timeout(deadline, changes.wait_for(|status| wanted(status))).await {
            Ok(Ok(status)) => Ok(status.clone()),
            Ok(Err(_)) => Err(WaitError::Ended),
            Err(_) => Err(WaitError::TimedOut { waited: deadline, status: Box::new(self.status()) }),
        }
    }

    /// Stops all pods, the highest ordinal first, each with its grace period. Returns when nothing of it runs any more.
    pub async fn stop(&self) {
        self.handle.end(Event::TearDown).await;
    }

    /// Stops all pods at once, without a grace period. Returns when nothing of it runs any more.
    pub async fn hurry(&self) {
        self.handle.end(Event::Hurry).await;
    }
}

impl Handle {
    async fn command(&self, request: Request) -> Result<(), CommandError> {
        let (reply, answer) = oneshot::channel();
        // Either fails only when the playground has ended.
        self.messages.send(Message::Asked(request, reply)).await.map_err(|_| CommandError::Stopping)?;
        answer.await.unwrap_or(Err(CommandError::Stopping))
    }

    async fn end(&self, event: Event) {
        // Fails only when the playground has ended.
        drop(self.messages.send(Message::Event(event)).await);
        self.ended.cancelled().await;
    }

    async fn answer(&self, request: Request) -> Response {
        // How it is can be told at the end, too.
        let done = if request == Request::Status { Ok(()) } else { self.command(request).await };
        match done {
            Ok(()) => Response::Status(Box::new(self.status.borrow().clone())),
            Err(error) => Response::Error(error),
        }
    }

    fn into_handler(self) -> control::Handler {
        Arc::new(move |request| {
            let handle = self.clone();
            Box::pin(async move { handle.answer(request).await })
        })
    }
}

fn serving(what: &'static str) -> impl FnOnce(io::Error) -> StartError {
    move |source| StartError::Serve { what, source }
}
