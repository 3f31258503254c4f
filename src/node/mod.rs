//! One member: builds the parts, owns their tasks, starts and stops them in order. The composition root.
//!
//! Start: data directory and lock, identity; then the ports, which answer probes and hellos; then log and state, which may
//! take long; then the starter, which asks the others; consensus runs only when the start table says so. Stop: not ready, drain, hand over,
//! finish what is in flight, consensus, log and state, exit.
//!
//! * `world`: the real implementations of `env`
//! * `disk`: this node's own disk
//! * `auth`: how passwords are hashed and tokens made
//! * `dial`: connections to peers, for consensus
//! * `initial`: which member of an initial cluster this is
//! * `tls`: certificates of the ports
//! * `health`: ready, live, and why
//! * `watched`: what is applied, for watchers
//! * `run`: the task that carries out what the starter decides
//! * `stop`: the stop, step by step

mod auth;
mod dial;
mod disk;
mod health;
mod initial;
mod lead;
mod run;
mod stop;
mod tls;
mod watched;
mod world;

pub use crate::api::SERVER_VERSION as ETCD_VERSION;
pub(crate) use world::real as real_world;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::disk::LocalDisk;
use self::health::Health;
use self::tls::Secure;
use crate::api::{Api, Authenticator};
use crate::client::Embedded;
use crate::config::{Cluster, Config, Data, SizeFrom, reachable};
use crate::discovery::{AddressBook, Directory, PeerChannels};
use crate::env::{Env, Listener, simulated};
use crate::error::Error;
use crate::identity::Ordinal;
use crate::limits;
use crate::membership::{
    self, Journal, MembershipService, Operator, Outlook, Own, Reconciler, SizeKeeper, SizeSource, Starter,
    StarterConfig,
};
use crate::metrics::Metrics;
use crate::proto::peer::membership_server::MembershipServer;
use crate::raft::{Gate, Service};
use crate::storage::DataDirectory;
use crate::storage::directory::DirectoryError;
use crate::transport::tls::Connector;
use crate::watch::Hub;

/// A running member. Dropping it stops its tasks without handing over; call [`Node::shutdown`].
pub struct Node {
    gate: Gate,
    hub: Hub,
    health: Arc<Health>,
    disk: Arc<LocalDisk>,
    metrics: Metrics,
    config: Config,
    addresses: Addresses,
    tasks: TaskTracker,
    /// New client requests are refused.
    refusing: CancellationToken,
    /// The peer and admin ports close, and the starter ends.
    closing: CancellationToken,
    failed: watch::Receiver<Option<Error>>,
    ordinal: Ordinal,
    /// Where the desired size comes from.
    source: SizeSource,
    channels: Option<PeerChannels>,
    journal: Journal,
}

/// The ports that a node has bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// For clients.
    pub client: SocketAddr,
    /// For members; a node that is alone has none.
    pub peer: Option<SocketAddr>,
    /// For probes.
    pub admin: Option<SocketAddr>,
}

/// Who this node is among others, and how it reaches them.
struct Place {
    ordinal: Ordinal,
    own: Own,
    expected: u16,
    /// Ordinals of others that were named to this process.
    named: BTreeSet<Ordinal>,
    channels: Option<PeerChannels>,
}

impl Node {
    /// Starts a member. Returns when its disk is open; its ports answer probes before that, and [`Node::ready`] waits until it
    /// serves. It founds a cluster, resumes in its own, or waits for the others, as the start table says.
    ///
    /// # Errors
    /// [`Error::Start`] for a wrong configuration or a port that is taken, [`Error::Locked`] and [`Error::Disk`] for a data
    /// directory that cannot be used.
    pub async fn start(config: Config) -> Result<Self, Error> {
        config.validate().map_err(Error::Start)?;
        let env = real_world(&config)?;
        Self::start_in(config, env).await
    }

    /// Starts a member in a world of the caller's, which may be smaller than [`Config::validate`] allows: a simulated disk has
    /// small segments.
    ///
    /// # Errors
    /// As [`Node::start`].
    pub async fn start_in(config: Config, env: Env) -> Result<Self, Error> {
        let metrics = Metrics::new();
        // The lock first: the same command twice is refused for the directory, not for a port.
        let directory = lock_directory(&config, &env).await?;
        let secure = Secure::load(&config, &env, &metrics).await?;
        let ports = Ports::bind(&config, &env).await?;
        let addresses = ports.addresses()?;
        let authenticator = auth::authenticator(&config.auth, &env).await?;
        let place = match &config.cluster {
            Cluster::Initial(cluster) => {
                initial::place(&config, cluster, &env, secure.connector(), &directory, addresses).await?
            }
            _ => place(&config, &env, secure.connector(), addresses.client)?,
        };
        let gate = Gate::new("the disk is being opened");
        let disk = open_disk(&config, &env, directory, &place, &metrics, &gate).await?;
        let (ready, ready_watch) = watch::channel(false);
        let source = size_source(&config, &env)?;
        let (size, size_watch) = watch::channel(source.at_start());
        let rules = initial::rules(&config);
        let outlook = Outlook { size: size_watch, max_voters: config.max_voters, rules };
        let (hurry, retiring) = (Arc::<Notify>::default(), Arc::<membership::Retiring>::default());
        let leader = Arc::new(lead::Leader(gate.clone()));
        let (journal, keeper) =
            Journal::new(&place.own.member_name, env.clock.clone(), env.random.clone(), leader.clone());
        let starter = StarterConfig {
            own: place.own.clone(),
            expected: place.expected,
            named: place.named,
            outlook: outlook.clone(),
            hurry: hurry.clone(),
            retiring: retiring.clone(),
            may_found_alone: true,
            // Only a StatefulSet starts pods by their readiness.
            ready: matches!(config.cluster, Cluster::StatefulSet { .. }).then_some(ready_watch),
            channels: place.channels.clone(),
            journal: journal.clone(),
            random: env.random.clone(),
        };
        let (starter, state) = Starter::new(starter, disk.clone(), leader.clone());
        let (name, started) = (config.name.clone(), state.clone());
        let (seen, scale) = watch::channel(Vec::new());
        let book = place.channels.as_ref().map(|channels| channels.book().clone());
        let health = Arc::new(Health::new(gate.clone(), disk.clone(), started, scale, book, name, ready));
        let (failure, failed) = watch::channel(None);
        let hub = watched::hub(&config.tuning, env.random.clone(), metrics.clone());
        let runner = run::Runner {
            disk: disk.clone(),
            gate: gate.clone(),
            hub: hub.clone(),
            service: Service::new(),
            channels: place.channels.clone(),
            random: env.random.clone(),
            tuning: config.tuning.clone(),
            token_ttl: config.auth.token_ttl,
            metrics: metrics.clone(),
            state,
            failure,
        };
        let node = Self {
            gate,
            hub,
            health,
            disk,
            metrics,
            config,
            addresses,
            tasks: TaskTracker::new(),
            refusing: CancellationToken::new(),
            closing: CancellationToken::new(),
            failed,
            ordinal: place.ordinal,
            source: source.clone(),
            channels: place.channels,
            journal: journal.clone(),
        };
        let operator = Operator {
            local: node.disk.clone(),
            lead: leader.clone(),
            outlook: outlook.clone(),
            journal: journal.clone(),
            channels: node.channels.clone(),
        };
        let operator = Arc::new(operator);
        secure.keep(&env, &node.tasks, &node.closing);
        node.serve(ports, &secure, authenticator, &starter.service(), &runner.service, operator.clone());
        let disk = node.disk.clone();
        if let Err(error) = blocking(&env, move || disk.load()).await {
            node.abandon().await;
            return Err(error);
        }
        node.tasks.spawn(simulated::stoppable(starter.run(node.closing.clone())));
        node.tasks.spawn(simulated::stoppable(runner.run(node.closing.clone())));
        node.tasks.spawn(tidy(
            env.clone(),
            node.disk.clone(),
            node.health.watch_serving(),
            node.closing.clone(),
        ));
        node.tasks.spawn(simulated::stoppable(keeper.run(node.closing.clone())));
        if rules.is_some() {
            let (publishing, closing) =
                (membership::publish(operator, node.disk.clone(), place.own), node.closing.clone());
            node.tasks.spawn(async move {
                tokio::select! {
                    () = publishing => {}
                    () = closing.cancelled() => {}
                }
            });
        }
        let local = node.disk.clone();
        let keeper = SizeKeeper { source, local: local.clone(), lead: leader.clone(), size, hurry };
        node.tasks.spawn(simulated::stoppable(keeper.run(node.closing.clone())));
        let reconciler = Reconciler { lead: leader, local, outlook, retiring, journal, seen };
        node.tasks.spawn(simulated::stoppable(reconciler.run(node.closing.clone())));
        Ok(node)
    }

    /// Serves the ports: probes and hellos are answered while the disk is still being opened.
    fn serve(
        &self,
        ports: Ports,
        secure: &Secure,
        authenticator: Authenticator,
        membership: &MembershipServer<MembershipService>,
        service: &Service,
        operator: Arc<Operator>,
    ) {
        let api = Api::new(
            Arc::new(self.gate.clone()),
            self.hub.clone(),
            operator,
            self.health.clone(),
            self.metrics.clone(),
            self.config.tuning.maintenance.quota(),
            self.refusing.clone(),
        )
        .limited(self.config.requests, self.config.per_address);
        api.allow_origins(&self.config.cors);
        api.bind_authenticator(authenticator);
        let (tasks, closing) = (&self.tasks, &self.closing);
        let door = run::peer_door(&self.metrics);
        for listener in ports.peer {
            let peers =
                secure.peer.clone().zip(self.channels.as_ref().map(|channels| channels.book().clone()));
            let (door, service, membership) = (door.clone(), service.clone(), membership.clone());
            let (tasks, closing) = (tasks.clone(), closing.clone());
            self.tasks.spawn(run::serve_peers(listener, door, peers, service, membership, tasks, closing));
        }
        for listener in ports.admin {
            let (api, closing) = (api.clone(), closing.clone());
            tasks.spawn(async move { api.serve_admin(listener, closing, Duration::ZERO).await });
        }
        // No request takes longer; a client that does not go then is not waited for.
        let drain = self.config.grace_period.min(limits::REQUEST_TIMEOUT + limits::STOP_STEP);
        for listener in ports.client {
            let (api, tls) = (api.clone(), secure.client.clone());
            tasks.spawn(async move { api.serve_client(listener, tls, drain).await });
        }
        tasks.spawn(simulated::stoppable(self.health.clone().keep(closing.clone())));
    }

    /// Ends what a start that failed has begun.
    async fn abandon(&self) {
        self.refusing.cancel();
        self.hub.close();
        self.closing.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.disk.give_back();
    }

    /// The store, for programs in the same process. Cheap to clone, and usable as long as the node runs.
    pub fn client(&self) -> Embedded {
        Embedded::new(Arc::new(self.gate.clone()), self.hub.clone())
    }

    /// The bound ports.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// The numbers of this member.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Ready, live, and why.
    pub fn health(&self) -> crate::api::Report {
        crate::api::Probe::report(&*self.health)
    }

    /// What is applied, and not kept: for whoever looks whether it goes away.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn state(&self) -> std::sync::Weak<dyn std::any::Any + Send + Sync> {
        let machine = self.gate.consensus().map(|consensus| Arc::downgrade(consensus.machine()));
        machine.unwrap_or_default()
    }

    /// Waits until the member serves.
    ///
    /// # Errors
    /// Why it does not, at the deadline; why it cannot go on.
    pub async fn ready(&self, deadline: Instant) -> Result<(), Error> {
        let mut serving = self.health.watch_serving();
        let ready = async {
            // The sender lives as long as the node.
            let _ = serving.wait_for(|serving| *serving).await;
        };
        tokio::select! {
            result = tokio::time::timeout_at(deadline, ready) => {
                result.map_err(|_| Error::NotServing(self.health.why_not()))
            }
            error = self.failed() => Err(error),
        }
    }

    /// Waits until the member cannot go on, and says why. Restarting the process is then the remedy.
    pub async fn failed(&self) -> Error {
        let mut failed = self.failed.clone();
        match failed.wait_for(Option::is_some).await {
            Ok(error) => error.clone().unwrap_or(Error::Stopped),
            Err(_) => Error::Stopped,
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.refusing.cancel();
        self.hub.close();
        self.closing.cancel();
        // After a stop this finds nothing left to do.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (gate, disk) = (self.gate.clone(), self.disk.clone());
            runtime.spawn(async move {
                if let Some(consensus) = gate.consensus() {
                    consensus.shutdown().await;
                }
                disk.close().await;
            });
        }
    }
}

/// Removes what was set aside once this member serves: only then its successor is complete.
async fn tidy(
    env: Env,
    disk: Arc<LocalDisk>,
    mut serving: watch::Receiver<bool>,
    closing: CancellationToken,
) {
    let serves = tokio::select! {
        serves = serving.wait_for(|serving| *serving) => serves.is_ok(),
        () = closing.cancelled() => false,
    };
    if serves {
        env.tasks.blocking(Box::new(move || disk.remove_retired())).await;
    }
}

/// Bound ports; the first of each kind is the one that is told of.
struct Ports {
    client: Vec<Box<dyn Listener>>,
    peer: Vec<Box<dyn Listener>>,
    admin: Vec<Box<dyn Listener>>,
}

impl Ports {
    async fn bind(config: &Config, env: &Env) -> Result<Self, Error> {
        let bind = async |name: &str, first: Option<SocketAddr>, also: &[SocketAddr]| {
            let mut bound = Vec::new();
            for at in first.iter().chain(also) {
                bound.push(env.network.bind(*at).await.map_err(|error| {
                    Error::Start(format!("the {name} port {at} cannot be bound: {error}"))
                })?);
            }
            Ok::<_, Error>(bound)
        };
        let also = &config.also_listen;
        let has_peers = !matches!(config.cluster, Cluster::Single);
        let peer = bind("peer", has_peers.then_some(config.listen_peer), &also.peer).await?;
        let admin = bind("admin", config.listen_admin, &also.admin).await?;
        Ok(Self { client: bind("client", Some(config.listen_client), &also.client).await?, peer, admin })
    }

    fn addresses(&self) -> Result<Addresses, Error> {
        let of = |listeners: &[Box<dyn Listener>]| {
            let first = listeners.first().map(|listener| listener.local_address());
            first.transpose().map_err(|error| Error::Start(format!("a port has no address: {error}")))
        };
        Ok(Addresses {
            client: of(&self.client)?.ok_or_else(|| Error::Start("there is no client port".into()))?,
            peer: of(&self.peer)?,
            admin: of(&self.admin)?,
        })
    }
}

fn size_source(config: &Config, env: &Env) -> Result<SizeSource, Error> {
    Ok(match (config.size_from, &env.owner) {
        (SizeFrom::Fixed, _) => SizeSource::Fixed,
        (SizeFrom::Setting, _) => SizeSource::Setting,
        (SizeFrom::StatefulSet, Some(owner)) => SizeSource::Owner(owner.clone()),
        (SizeFrom::StatefulSet, None) => {
            return Err(Error::Start("there is no StatefulSet to read the desired size from".into()));
        }
    })
}

fn place(config: &Config, env: &Env, tls: Option<Connector>, client: SocketAddr) -> Result<Place, Error> {
    let client_urls = config.client_urls(client);
    let directory = match &config.cluster {
        Cluster::Single => {
            let own = Own {
                ordinal: 0,
                name: config.name.clone(),
                member_name: config.name.clone(),
                peer_address: reachable(config.listen_peer),
                client_urls,
                ..Own::default()
            };
            return Ok(Place { ordinal: 0, own, expected: 1, named: BTreeSet::new(), channels: None });
        }
        Cluster::Initial(_) => {
            return Err(Error::Start("an initial cluster has a place of its own".into()));
        }
        Cluster::StatefulSet { pod, .. } => Directory::Pods(pod.clone()),
        Cluster::Fixed { ordinal, peers } => {
            Directory::fixed(*ordinal, peers).map_err(|error| Error::Start(error.to_string()))?
        }
    };
    let expected = match &config.cluster {
        Cluster::StatefulSet { expected, .. } => *expected,
        Cluster::Fixed { peers, .. } => peers.len() as u16,
        Cluster::Single | Cluster::Initial(_) => 1,
    };
    let peer = directory.own();
    let reachable_at = match &config.cluster {
        Cluster::StatefulSet { pod, .. } => pod.pod_ip.map(|ip| SocketAddr::new(ip, peer.port)),
        _ => None,
    };
    let own = Own {
        ordinal: peer.ordinal,
        name: directory.name_of(&peer),
        member_name: config.name.clone(),
        peer_address: peer.to_string(),
        client_urls,
        reachable_at,
        token: String::new(),
    };
    let channels = PeerChannels::new(AddressBook::over(env, directory, tls));
    Ok(Place { ordinal: peer.ordinal, own, expected, named: BTreeSet::new(), channels: Some(channels) })
}

async fn lock_directory(config: &Config, env: &Env) -> Result<DataDirectory, Error> {
    let root = match &config.data {
        Data::Memory => "/memory".into(),
        Data::Directory(root) => root.clone(),
    };
    let files = env.files.clone();
    blocking(env, move || {
        DataDirectory::open(files, &root).map_err(|error| match error {
            DirectoryError::Locked { .. } => Error::Locked(error.to_string()),
            _ => Error::Disk(error.to_string()),
        })
    })
    .await
}

async fn open_disk(
    config: &Config,
    env: &Env,
    directory: DataDirectory,
    place: &Place,
    metrics: &Metrics,
    gate: &Gate,
) -> Result<Arc<LocalDisk>, Error> {
    let (world, config, ordinal) = (env.clone(), config.clone(), place.ordinal);
    let (metrics, gate) = (metrics.clone(), gate.clone());
    blocking(env, move || LocalDisk::open(&world, &config, directory, ordinal, metrics, gate))
        .await
        .map(Arc::new)
}

/// Runs a part of the start that waits for the disk.
async fn blocking<T: Send + 'static>(
    env: &Env,
    job: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let (result, done) = tokio::sync::oneshot::channel();
    let job = move || {
        // The caller waits for it.
        let _ = result.send(job());
    };
    env.tasks.blocking(Box::new(job)).await;
    done.await.map_err(|_| Error::Start("the data directory was not opened".into()))?
}
