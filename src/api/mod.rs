//! etcd's v3 API. The only place that names the client protobufs, status codes and etcd's error texts.
//!
//! It knows the store as [`SharedStore`], changes of the membership as [`Operate`] and the member's readiness as [`Probe`]; it may
//! not know openraft or the engine. `node` builds one [`Api`] and has it serve the client port and the admin port.
//!
//! * `texts`: the one table of error texts and codes
//! * `convert`: protobuf to and from the state machine's values, with every check of a request's form
//! * `header`: the header of every answer
//! * `methods`: the gRPC methods that there are, and how a call finds its own
//! * `kv`, `watch`, `lease`, `lock`, `election`, `cluster`, `maintenance`, `alarm`, `snapshot`, `health`: the services
//! * `queue`: standing in the queue of a lock or an election; `deadline`: for how long
//! * `sending`: calls that answer with a stream; `range_stream`: a range in parts
//! * `permission`: who calls, and whether the call is for them
//! * `auth`, `passwords`, `tokens`, `pem`: the service of users and roles; hashes of passwords; signed tokens and their keys
//! * `refused`: what counts as refused, and why
//! * `leader`: calls that want a leader
//! * `http`: health, version and metrics in plain HTTP; `redirect`: paths that lead to others
//! * `gateway`: the calls once more, as JSON over plain HTTP
//! * `probe`: the seam to readiness

mod alarm;
pub mod auth;
mod cluster;
pub(crate) mod convert;
mod deadline;
mod election;
pub(crate) mod gateway;
mod header;
mod health;
mod http;
mod kv;
mod leader;
mod lease;
mod lock;
mod maintenance;
mod methods;
mod passwords;
pub mod pem;
pub mod permission;
pub mod probe;
mod queue;
mod range_stream;
mod redirect;
mod refused;
mod sending;
mod snapshot;
pub mod texts;
pub mod tokens;
mod watch;

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ::http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use tokio_util::sync::CancellationToken;

pub use self::auth::Authenticator;
use self::gateway::Gateway;
use self::header::Headers;
use self::http::PortKind;
use self::methods::Methods;
use self::permission::CommonName;
pub use self::probe::{Clause, Probe, Report};
use self::queue::Queues;
use self::sending::SendingMethods;
pub(crate) use self::watch::ENCODE as WATCH_ENCODE;
use crate::config::RequestLimits;
use crate::env::Listener;
use crate::limits;
use crate::limits::PerAddress;
use crate::membership::Operate;
use crate::metrics::{MethodMetrics, Metrics, RefusedRequest};
use crate::raft::store::SharedStore;
use crate::transport::addresses::{Addresses, Visit};
use crate::transport::answers::{AllAnswers, Answers};
use crate::transport::server::Arrival;
use crate::transport::tls::Acceptor;
use crate::transport::{self, Afterwards, AnswerBody, Door, Port, Refusals, RequestBody, grpc};
use crate::watch::{Budget, Hub};

/// The etcd whose API this is. Numeric, because Patroni takes each part for a number and kube-apiserver for semver.
pub const SERVER_VERSION: &str = "3.7.3";
/// Its cluster version.
pub const CLUSTER_VERSION: &str = "3.7.0";
/// Its storage version.
pub const STORAGE_VERSION: &str = "3.7.0";

/// The paths of calls as JSON, each with that of the gRPC method behind it.
pub fn json_paths() -> impl Iterator<Item = (String, String)> {
    gateway::paths()
}

/// The API of one member. Cheap to clone.
#[derive(Clone)]
pub struct Api(Arc<Shared>);

/// What all calls share.
struct Shared {
    store: SharedStore,
    hub: Hub,
    operator: Arc<dyn Operate>,
    probe: Arc<dyn Probe>,
    metrics: Metrics,
    headers: Headers,
    methods: Methods,
    watch_method: MethodMetrics,
    queues: Queues,
    sending_methods: SendingMethods,
    snapshot_method: MethodMetrics,
    /// Services that stream.
    streams: tonic::service::Routes,
    gateway: Gateway,
    quota_bytes: i64,
    auth: OnceLock<Authenticator>,
    requests: RequestLimits,
    /// Who is connected to the client ports.
    addresses: Addresses,
    unread: AllAnswers,
    stopping: CancellationToken,
}

/// TLS of a client port.
#[derive(Clone, Debug)]
pub struct ClientTls {
    /// Its handshakes.
    pub acceptor: Acceptor,
    /// Whether the common name of a client's certificate is the user who calls.
    pub names_users: bool,
}

/// One connection.
struct Connection {
    api: Api,
    port: PortKind,
    /// Whose it is.
    visit: Visit,
    /// Who calls, if a certificate says so.
    common_name: Option<CommonName>,
    answers: Answers,
    /// Of its watchers.
    budget: Budget,
    afterwards: Afterwards,
}

impl Api {
    /// The API over `store`. After `stopping` no connection is accepted, each is told to end, and streams end; a call that was sent
    /// before its client heard of that is answered like any other, because a refused write is of unknown outcome to etcd's clients.
    pub fn new(
        store: SharedStore,
        hub: Hub,
        operator: Arc<dyn Operate>,
        probe: Arc<dyn Probe>,
        metrics: Metrics,
        quota_bytes: i64,
        stopping: CancellationToken,
    ) -> Self {
        metrics.quota_bytes.set(quota_bytes);
        let addresses = Addresses::new(PerAddress::default(), metrics.slowed_reads.clone());
        Self(Arc::new(Shared {
            methods: Methods::new(&metrics),
            watch_method: metrics.method("etcdserverpb.Watch", "Watch", "bidi_stream"),
            sending_methods: SendingMethods::new(&metrics),
            queues: Queues::default(),
            snapshot_method: metrics.method("etcdserverpb.Maintenance", "Snapshot", "server_stream"),
            streams: methods::streams(Arc::clone(&probe)),
            gateway: Gateway::default(),
            headers: Headers::default(),
            store,
            hub,
            operator,
            probe,
            metrics,
            quota_bytes,
            auth: OnceLock::new(),
            requests: RequestLimits::default(),
            addresses,
            unread: AllAnswers::default(),
            stopping,
        }))
    }

    /// Which web pages may read answers: their origins, or `*`. All may until this is called, which takes effect once, before serving.
    pub fn allow_origins(&self, origins: &[String]) {
        self.0.gateway.allow_origins(origins);
    }

    /// Says how passwords are hashed and tokens made, once, before clients are served. Until then nobody can authenticate.
    pub fn bind_authenticator(&self, authenticator: Authenticator) {
        // A member has one.
        let _ = self.0.auth.set(authenticator);
    }

    /// With other limits on requests, and on what one address may do on all client ports together. Before anything is served.
    #[must_use]
    pub fn limited(mut self, requests: RequestLimits, per_address: PerAddress) -> Self {
        if let Some(shared) = Arc::get_mut(&mut self.0) {
            shared.requests = requests;
            shared.addresses = Addresses::new(per_address, shared.metrics.slowed_reads.clone());
        }
        self
    }

    /// Serves gRPC and HTTP to clients, over TLS if it is given, until the token given to [`Api::new`] is cancelled and the requests in
    /// flight are done, or `drain` has passed.
    pub async fn serve_client(&self, listener: Box<dyn Listener>, tls: Option<ClientTls>, drain: Duration) {
        let metrics = &self.0.metrics;
        let names_users = tls.as_ref().is_some_and(|tls| tls.names_users);
        let port = Port {
            name: "client",
            door: Door::new(
                limits::CLIENT_CONNECTIONS,
                self.0.addresses.clone(),
                metrics.refused_connections("client"),
            ),
            streams: self.0.requests.concurrent_streams,
            tls: tls.map(|tls| tls.acceptor),
            refusals: Refusals::new("client", metrics),
            drain,
            open: metrics.client_connections.clone(),
            accepted: metrics.client_connections_accepted.clone(),
        };
        self.serve(listener, port, PortKind::Client, names_users, self.0.stopping.clone()).await;
        // Whoever stood in a queue takes its key away.
        self.0.queues.left(limits::STOP_STEP).await;
    }

    /// Serves probes, metrics and status in plain HTTP until `stopping`, which comes after that of the client port: probes
    /// are answered while it drains.
    pub async fn serve_admin(
        &self,
        listener: Box<dyn Listener>,
        stopping: CancellationToken,
        drain: Duration,
    ) {
        let metrics = &self.0.metrics;
        let connections = limits::ADMIN_CONNECTIONS_PER_ADDRESS;
        let per_address = PerAddress { connections, ..PerAddress::default() };
        let port = Port {
            name: "admin",
            door: Door::new(
                limits::ADMIN_CONNECTIONS,
                Addresses::new(per_address, metrics.slowed_reads.clone()),
                metrics.refused_connections("admin"),
            ),
            streams: limits::STREAMS_PER_CONNECTION,
            tls: None,
            refusals: Refusals::new("admin", metrics),
            drain,
            open: prometheus_client::metrics::gauge::Gauge::default(),
            accepted: prometheus_client::metrics::counter::Counter::default(),
        };
        self.serve(listener, port, PortKind::Admin, false, stopping).await;
    }

    async fn serve(
        &self,
        listener: Box<dyn Listener>,
        port: Port,
        kind: PortKind,
        names_users: bool,
        stopping: CancellationToken,
    ) {
        let api = self.clone();
        let open = move |Arrival { visit, certificate, afterwards }| {
            let certificate = certificate.filter(|_| names_users);
            let common_name = certificate.map(|certificate| CommonName(certificate.common_name()));
            let answers = Answers::new(&api.0.unread);
            let budget = Budget::of_connection();
            let api = api.clone();
            let connection =
                Arc::new(Connection { api, port: kind, visit, common_name, answers, budget, afterwards });
            service_fn(move |request| {
                let connection = Arc::clone(&connection);
                async move { Ok::<_, Infallible>(connection.call(request).await) }
            })
        };
        transport::serve(listener, port, stopping, open).await;
    }
}

impl Connection {
    /// Answers one request. gRPC is told apart first: it is what there is most of.
    async fn call(&self, mut request: Request<Incoming>) -> Response<AnswerBody> {
        let api = &self.api.0;
        if !self.visit.request() {
            api.metrics.refused(RefusedRequest::Rate);
            return refused::too_often(&request);
        }
        if self.port == PortKind::Client && grpc::is_grpc(&request) {
            // As in etcd, a certificate says who calls by gRPC only: what comes as JSON says it by a token.
            if let Some(name) = &self.common_name {
                request.extensions_mut().insert(name.clone());
            }
            methods::call(api, &self.answers, &self.budget, request.map(RequestBody::Wire)).await
        } else if self.port == PortKind::Client {
            // In a box, because it is rare and would make every call's future larger.
            Box::pin(gateway::answer(api, &self.answers, &self.budget, &self.afterwards, request)).await
        } else {
            Box::pin(http::answer(api, self.port, &self.answers, &request)).await
        }
    }
}
