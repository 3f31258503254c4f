//! The API server of a playground: it serves one object, its StatefulSet, as Kubernetes' does. An edge.
//!
//! So the pods learn their desired size on the same way as in a real cluster. It can be made to fail. Called by `mod` and `driver`.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::accept;
use super::naming::Naming;
use super::status::ApiMode;
use crate::identity::Ordinal;
use crate::limits::PLAYGROUND_API_CONNECTIONS;

/// What there is to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Object {
    pub(super) replicas: Ordinal,
    /// How often its spec was changed, its creation included.
    pub(super) generation: i64,
    /// It is being deleted.
    pub(super) deleted: bool,
}

/// A running API server; it ends when it is dropped.
#[derive(Debug)]
pub(super) struct ApiServer {
    address: SocketAddr,
    object: watch::Sender<Object>,
    mode: watch::Sender<ApiMode>,
    _serving: AbortOnDropHandle<()>,
}

impl ApiServer {
    /// Serves the object of `naming` at `address`.
    pub(super) fn start(address: SocketAddr, naming: &Naming, object: Object) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let address = listener.local_addr()?;
        let (object, objects) = watch::channel(object);
        let (mode, modes) = watch::channel(ApiMode::Up);
        let served = Arc::new(Served {
            path: format!("/apis/apps/v1/namespaces/{}/statefulsets/{}", naming.namespace(), naming.name()),
            namespace: naming.namespace().to_owned(),
            name: naming.name().to_owned(),
            service: naming.headless_service(),
            objects,
            modes,
        });
        let serving = AbortOnDropHandle::new(tokio::spawn(accept(listener, served)));
        Ok(Self { address, object, mode, _serving: serving })
    }

    /// Its URL.
    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Changes the number of pods.
    pub(super) fn scale(&self, replicas: Ordinal) {
        self.object.send_if_modified(|object| {
            let changes = object.replicas != replicas;
            object.generation += i64::from(changes);
            object.replicas = replicas;
            changes
        });
    }

    /// Changes the template of the pods.
    pub(super) fn change_template(&self) {
        self.object.send_modify(|object| object.generation += 1);
    }

    /// The object is deleted, and goes when its pods have.
    pub(super) fn delete(&self) {
        self.object.send_modify(|object| object.deleted = true);
    }

    /// How it answers from now on.
    pub(super) fn set_mode(&self, mode: ApiMode) {
        self.mode.send_replace(mode);
    }

    /// How it answers.
    pub(super) fn mode(&self) -> ApiMode {
        *self.mode.borrow()
    }
}

struct Served {
    path: String,
    namespace: String,
    name: String,
    service: String,
    objects: watch::Receiver<Object>,
    modes: watch::Receiver<ApiMode>,
}

impl Served {
    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let mode = *self.modes.borrow();
        let (status, body) = match (request.method().as_str(), request.uri().path() == self.path) {
            // Until whoever asks gives up and closes the connection.
            _ if mode == ApiMode::Silent => std::future::pending().await,
            _ if mode == ApiMode::Down => (
                StatusCode::SERVICE_UNAVAILABLE,
                failure(503, "ServiceUnavailable", "the API server is down"),
            ),
            _ if mode == ApiMode::Forbidden => {
                (StatusCode::FORBIDDEN, failure(403, "Forbidden", "the service account may not get it"))
            }
            ("GET", true) => (StatusCode::OK, self.object()),
            ("GET", false) => (
                StatusCode::NOT_FOUND,
                failure(404, "NotFound", &format!("{} not found", request.uri().path())),
            ),
            _ => (
                StatusCode::METHOD_NOT_ALLOWED,
                failure(405, "MethodNotAllowed", "only one object can be read here"),
            ),
        };
        let mut response = Response::new(Full::from(body.to_string()));
        *response.status_mut() = status;
        response
            .headers_mut()
            .insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
        response
    }

    fn object(&self) -> Value {
        let Object { replicas, generation, deleted } = self.objects.borrow().clone();
        let metadata = json!({
            "name": self.name, "namespace": self.namespace, "generation": generation,
            "uid": "00000000-0000-4000-8000-000000000000",
            "deletionTimestamp": deleted.then_some("2026-01-01T00:00:00Z"),
        });
        json!({
            "apiVersion": "apps/v1",
            "kind": "StatefulSet",
            "metadata": metadata,
            "spec": {
                "replicas": replicas,
                "serviceName": self.service,
                "selector": { "matchLabels": { "app": self.name } },
                "template": { "metadata": { "labels": { "app": self.name } } },
            },
            "status": { "replicas": replicas },
        })
    }
}

/// A failure, as Kubernetes tells it.
fn failure(code: u16, reason: &str, message: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message,
    })
}

async fn accept(listener: TcpListener, served: Arc<Served>) {
    let accepted = futures::stream::unfold(listener, |listener| async {
        Some((listener.accept().await.map(|(stream, _)| stream), listener))
    });
    let serve = |stream| serve(stream, Arc::clone(&served));
    accept::accept("the API server", PLAYGROUND_API_CONNECTIONS, accepted, serve).await;
}

async fn serve(stream: TcpStream, served: Arc<Served>) {
    let answer = service_fn(move |request| {
        let served = Arc::clone(&served);
        async move { Ok::<_, Infallible>(served.answer(&request).await) }
    });
    if let Err(error) =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await
    {
        tracing::debug!(%error, "a connection to the API server ended");
    }
}
