//! etcd's v3 API. The only place that names the client protobufs, status codes and etcd's error texts.
//!
//! It knows the store as [`SharedStore`], changes of the membership as [`Operate`] and the member's readiness as [`Probe`]; it may
//! not know openraft or the engine. `node` builds one [`Api`] and has it serve the client port and the admin port.
//!
//! * `texts`: the one table of error texts and codes
//! * `convert`: protobuf to and from the state machine's values, with every check of a request's form
//! * `header`: the header of every answer
//! * `methods`: the gRPC methods that there are, and how a call finds its own
//! * `kv`, `watch`, `lease`, `cluster`, `maintenance`, `health`: the services
//! * `leader`: calls that want a leader
//! * `http`: health, version and metrics in plain HTTP
//! * `probe`: the seam to readiness

mod cluster;
pub(crate) mod convert;
mod header;
mod health;
mod http;
mod kv;
mod leader;
mod lease;
mod maintenance;
mod methods;
pub mod probe;
pub mod texts;
mod watch;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use ::http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use tokio_util::sync::CancellationToken;

use self::header::Headers;
use self::http::PortKind;
use self::methods::Methods;
pub use self::probe::{Clause, Probe, Report};
pub(crate) use self::watch::ENCODE as WATCH_ENCODE;
use crate::config::RequestLimits;
use crate::env::Listener;
use crate::limits;
use crate::membership::Operate;
use crate::metrics::{MethodMetrics, Metrics};
use crate::raft::store::SharedStore;
use crate::transport::answers::{AllAnswers, Answers};
use crate::transport::{self, AnswerBody, Port, grpc};
use crate::watch::{Budget, Hub};

/// The etcd whose API this is. Numeric, because Patroni takes each part for a number and kube-apiserver for semver.
pub const SERVER_VERSION: &str = "3.7.3";
/// Its cluster version.
pub const CLUSTER_VERSION: &str = "3.7.0";
/// Its storage version.
pub const STORAGE_VERSION: &str = "3.7.0";

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
    /// Services that stream.
    streams: tonic::service::Routes,
    quota_bytes: i64,
    requests: RequestLimits,
    unread: AllAnswers,
    stopping: CancellationToken,
}

/// One connection.
struct Connection {
    api: Api,
    port: PortKind,
    answers: Answers,
    /// Of its watchers.
    budget: Budget,
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
        Self(Arc::new(Shared {
            methods: Methods::new(&metrics),
            watch_method: metrics.method("etcdserverpb.Watch", "Watch", "bidi_stream"),
            streams: methods::streams(Arc::clone(&probe)),
            headers: Headers::default(),
            store,
            hub,
            operator,
            probe,
            metrics,
            quota_bytes,
            requests: RequestLimits::default(),
            unread: AllAnswers::default(),
            stopping,
        }))
    }

    /// With other limits on requests. Before anything is served.
    #[must_use]
    pub fn limited(mut self, requests: RequestLimits) -> Self {
        if let Some(shared) = Arc::get_mut(&mut self.0) {
            shared.requests = requests;
        }
        self
    }

    /// Serves gRPC and HTTP to clients until the token given to [`Api::new`] is cancelled and the requests in flight are
    /// done, or `drain` has passed.
    pub async fn serve_client(&self, listener: Box<dyn Listener>, drain: Duration) {
        let metrics = &self.0.metrics;
        let port = Port {
            name: "client",
            connections: limits::CLIENT_CONNECTIONS,
            drain,
            open: metrics.client_connections.clone(),
            accepted: metrics.client_connections_accepted.clone(),
            refused: metrics.client_connections_refused.clone(),
        };
        self.serve(listener, port, PortKind::Client, self.0.stopping.clone()).await;
    }

    /// Serves probes, metrics and status in plain HTTP until `stopping`, which comes after that of the client port: probes
    /// are answered while it drains.
    pub async fn serve_admin(
        &self,
        listener: Box<dyn Listener>,
        stopping: CancellationToken,
        drain: Duration,
    ) {
        let port = Port {
            name: "admin",
            connections: limits::ADMIN_CONNECTIONS,
            drain,
            open: prometheus_client::metrics::gauge::Gauge::default(),
            accepted: prometheus_client::metrics::counter::Counter::default(),
            refused: prometheus_client::metrics::counter::Counter::default(),
        };
        self.serve(listener, port, PortKind::Admin, stopping).await;
    }

    async fn serve(
        &self,
        listener: Box<dyn Listener>,
        port: Port,
        kind: PortKind,
        stopping: CancellationToken,
    ) {
        let api = self.clone();
        let open = move |_from| {
            let answers = Answers::new(&api.0.unread);
            let budget = Budget::of_connection();
            let connection = Arc::new(Connection { api: api.clone(), port: kind, answers, budget });
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
    async fn call(&self, request: Request<Incoming>) -> Response<AnswerBody> {
        let api = &self.api.0;
        if self.port == PortKind::Client && grpc::is_grpc(&request) {
            methods::call(api, &self.answers, &self.budget, request).await
        } else {
            // In a box, because it is rare and would make every call's future larger.
            Box::pin(http::answer(api, self.port, &self.answers, &request)).await
        }
    }
}
