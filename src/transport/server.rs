//! A port: accepts connections, owns their tasks, stops them in order.
//!
//! Invariants: no task outlives [`serve`]; no more connections are open than [`Port::door`] lets in; a connection that says nothing, or stops in the middle of something, is closed within a deadline.

use std::fmt;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::HttpService;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::addresses::Visit;
use super::door::Door;
use super::first_bytes::{Protocol, Rewound, protocol_of};
use super::tls::{Acceptor, Certificate, Refusal};
use super::{Afterwards, Refusals};
use crate::env::{Listener, Stream, simulated};
use crate::limits;

/// What a port allows.
#[derive(Clone, Debug)]
pub struct Port {
    /// Name for the log.
    pub name: &'static str,
    /// Who may connect; others are closed at once.
    pub door: Door,
    /// Requests that one connection of HTTP/2 may have open; more are refused as HTTP/2 does.
    pub streams: u32,
    /// How TLS is spoken with everybody; `None`: with nobody.
    pub tls: Option<Acceptor>,
    /// What is refused after it was accepted.
    pub refusals: Refusals,
    /// Time that requests in flight have to finish once the port stops.
    pub drain: Duration,
    /// Open connections.
    pub open: Gauge,
    /// Connections accepted.
    pub accepted: Counter,
}

/// A new connection, when its service is made.
#[derive(Debug)]
pub struct Arrival {
    /// Whose it is.
    pub visit: Visit,
    /// What was shown on it.
    pub certificate: Option<Certificate>,
    /// Takes what is to be spoken on it after HTTP/1.
    pub afterwards: Afterwards,
}

/// Errors of any kind, as hyper takes them.
type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Runs the tasks of HTTP/2 streams where their port can wait for them.
#[derive(Clone, Debug)]
struct Owned(TaskTracker);

impl<F> hyper::rt::Executor<F> for Owned
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn(simulated::stoppable(future));
    }
}

/// What all connections of a port share.
struct Shared {
    http1: http1::Builder,
    http2: http2::Builder<Owned>,
    door: Door,
    tls: Option<Acceptor>,
    refusals: Refusals,
    /// No new requests.
    stopping: CancellationToken,
    /// Close what is still open.
    abort: CancellationToken,
}

/// Serves `listener` until `stopping`: then accepts no more, tells the connections to finish (GOAWAY), gives the requests
/// in flight [`Port::drain`] to do so, and drops the rest. `open` makes the service of a new connection.
pub async fn serve<O, S>(listener: Box<dyn Listener>, port: Port, stopping: CancellationToken, open: O)
where
    O: Fn(Arrival) -> S + Send + Sync + 'static,
    S: HttpService<Incoming> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    S::ResBody: Body<Data = Bytes> + Send + 'static,
    <S::ResBody as Body>::Error: Into<BoxError>,
{
    let tasks = TaskTracker::new();
    let shared = Arc::new(Shared {
        http1: http1_settings(),
        http2: http2_settings(&tasks, port.streams),
        door: port.door.clone(),
        tls: port.tls.clone(),
        refusals: port.refusals.clone(),
        stopping: stopping.child_token(),
        abort: CancellationToken::new(),
    });
    // Whoever drops this future drops its connections too.
    let _end = (shared.stopping.clone().drop_guard(), shared.abort.clone().drop_guard());
    let open = Arc::new(open);
    loop {
        let accepted = tokio::select! {
            biased;
            () = stopping.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, from)) => {
                let Some((slot, visit)) = port.door.admit(from.ip()) else { continue };
                port.accepted.inc();
                let open_now = OpenConnection::new(&port.open, slot);
                let stream = visit.metered(stream);
                let (open, shared) = (Arc::clone(&open), Arc::clone(&shared));
                let served = async move {
                    let open = |certificate, afterwards| open(Arrival { visit, certificate, afterwards });
                    connection(stream, from, open, shared, open_now).await;
                };
                tasks.spawn(simulated::stoppable(served));
            }
            Err(error) => {
                tracing::warn!(port = port.name, %error, "a connection could not be accepted");
                tokio::time::sleep(limits::ACCEPT_BACKOFF).await;
            }
        }
    }
    drop(listener);
    tasks.close();
    if tokio::time::timeout(port.drain, tasks.wait()).await.is_err() {
        tracing::warn!(
            port = port.name,
            open = tasks.len(),
            "requests did not finish in time and are dropped"
        );
        shared.abort.cancel();
        tasks.wait().await;
    }
}

fn http1_settings() -> http1::Builder {
    let mut http1 = http1::Builder::new();
    http1
        .timer(TokioTimer::new())
        .header_read_timeout(limits::CONNECTION_HEADER_TIMEOUT)
        .max_buf_size(limits::HTTP1_BUFFER_BYTES);
    http1
}

fn http2_settings(tasks: &TaskTracker, streams: u32) -> http2::Builder<Owned> {
    let mut http2 = http2::Builder::new(Owned(tasks.clone()));
    http2
        .timer(TokioTimer::new())
        .auto_date_header(false)
        .adaptive_window(false)
        .initial_stream_window_size(limits::HTTP2_STREAM_WINDOW)
        .initial_connection_window_size(limits::HTTP2_CONNECTION_WINDOW)
        .max_concurrent_streams(streams)
        .max_send_buf_size(limits::HTTP2_SEND_BUFFER)
        .max_header_list_size(limits::REQUEST_HEADER_BYTES)
        .keep_alive_interval(limits::CLIENT_PING_INTERVAL)
        .keep_alive_timeout(limits::CLIENT_PING_TIMEOUT);
    http2
}

/// Counts one connection as long as it lives.
struct OpenConnection {
    open: Gauge,
    _slot: OwnedSemaphorePermit,
}

impl OpenConnection {
    fn new(open: &Gauge, slot: OwnedSemaphorePermit) -> Self {
        open.inc();
        Self { open: open.clone(), _slot: slot }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.open.dec();
    }
}

/// One connection from its first byte to its end. `open` makes its service.
async fn connection<S>(
    stream: Box<dyn Stream>,
    from: SocketAddr,
    open: impl FnOnce(Option<Certificate>, Afterwards) -> S,
    shared: Arc<Shared>,
    _counted: OpenConnection,
) where
    S: HttpService<Incoming> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    S::ResBody: Body<Data = Bytes> + Send + 'static,
    <S::ResBody as Body>::Error: Into<BoxError>,
{
    let first = tokio::select! {
        biased;
        () = shared.stopping.cancelled() => return,
        first = shared.first(stream, from) => first,
    };
    let Some((protocol, stream, certificate)) = first else { return };
    let afterwards = Afterwards::default();
    let service = open(certificate, afterwards.clone());
    // In a box, so that the task of an idle connection is no larger than what it speaks.
    match protocol {
        Protocol::Http2 => Box::pin(speak_http2(stream, service, &shared)).await,
        Protocol::Http1 => {
            Box::pin(speak_http1(stream, service, &shared)).await;
            if let Some(next) = afterwards.take() {
                tokio::select! {
                    biased;
                    () = shared.abort.cancelled() => {}
                    () = next => {}
                }
            }
        }
        Protocol::Tls => {
            let detail = &"this port speaks no TLS, or TLS within TLS was tried";
            shared.refusals.refuse(Refusal::TlsOnPlainPort, from, detail);
        }
    }
}

impl Shared {
    /// What a new connection speaks, and what was shown on it; `None` if it is closed.
    async fn first(
        &self,
        stream: Box<dyn Stream>,
        from: SocketAddr,
    ) -> Option<(Protocol, Rewound, Option<Certificate>)> {
        let (stream, certificate) = match &self.tls {
            Some(tls) => {
                let secured = Box::pin(tls.accept(stream, from)).await?;
                (secured.stream, secured.certificate)
            }
            None => (stream, None),
        };
        let first = tokio::time::timeout(limits::CONNECTION_HEADER_TIMEOUT, protocol_of(stream)).await;
        let Ok(first) = first else {
            self.door.was_silent();
            return None;
        };
        let (protocol, stream) = first.ok()?;
        Some((protocol, stream, certificate))
    }
}

async fn speak_http2<S>(stream: Rewound, service: S, shared: &Shared)
where
    S: HttpService<Incoming> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    S::ResBody: Body<Data = Bytes> + Send + 'static,
    <S::ResBody as Body>::Error: Into<BoxError>,
{
    let connection = pin!(shared.http2.serve_connection(TokioIo::new(stream), service));
    drive(connection, shared, http2::Connection::graceful_shutdown).await;
}

async fn speak_http1<S>(stream: Rewound, service: S, shared: &Shared)
where
    S: HttpService<Incoming> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    S::ResBody: Body<Data = Bytes> + Send + 'static,
    <S::ResBody as Body>::Error: Into<BoxError>,
{
    let connection = pin!(shared.http1.serve_connection(TokioIo::new(stream), service).with_upgrades());
    drive(connection, shared, http1::UpgradeableConnection::graceful_shutdown).await;
}

/// Drives a connection to its end; tells it to finish when the port stops.
async fn drive<C>(mut connection: Pin<&mut C>, shared: &Shared, finish: impl FnOnce(Pin<&mut C>))
where
    C: Future<Output = Result<(), hyper::Error>>,
{
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shared.stopping.cancelled() => {
            finish(connection.as_mut());
            tokio::select! {
                ended = connection => ended,
                () = shared.abort.cancelled() => return,
            }
        }
    };
    log_end(ended);
}

/// A connection that ends badly is its client's affair.
fn log_end(ended: Result<(), hyper::Error>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended");
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

/// A request as it arrives.
pub type Arrived = Request<Incoming>;
