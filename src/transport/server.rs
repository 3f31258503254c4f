//! A port: accepts connections, owns their tasks, stops them in order.
//!
//! Invariants: no task outlives [`serve`]; no more connections are open than [`Port::door`] lets in; a connection that says nothing, or stops in the middle of something, is closed within a deadline.

use std::fmt;
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

use super::Afterwards;
use super::addresses::Visit;
use super::door::Door;
use super::first_bytes::{Protocol, Rewound, protocol_of};
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
    /// Time that requests in flight have to finish once the port stops.
    pub drain: Duration,
    /// Open connections.
    pub open: Gauge,
    /// Connections accepted.
    pub accepted: Counter,
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
    /// No new requests.
    stopping: CancellationToken,
    /// Close what is still open.
    abort: CancellationToken,
}

/// Serves `listener` until `stopping`: then accepts no more, tells the connections to finish (GOAWAY), gives the requests
/// in flight [`Port::drain`] to do so, and drops the rest. `open` makes the service of a new connection, which may leave what is to be
/// done with it after HTTP/1.
pub async fn serve<O, S>(listener: Box<dyn Listener>, port: Port, stopping: CancellationToken, open: O)
where
    O: Fn(Visit, &Afterwards) -> S + Send + Sync + 'static,
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
        stopping: stopping.child_token(),
        abort: CancellationToken::new(),
    });
    // Whoever drops this future drops its connections too.
    let _end = (shared.stopping.clone().drop_guard(), shared.abort.clone().drop_guard());
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
                let afterwards = Afterwards::default();
                let service = open(visit, &afterwards);
                let served = connection(stream, service, afterwards, Arc::clone(&shared), open_now);
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

/// One connection from its first byte to its end.
async fn connection<S>(
    stream: Box<dyn Stream>,
    service: S,
    afterwards: Afterwards,
    shared: Arc<Shared>,
    _open: OpenConnection,
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
        first = tokio::time::timeout(limits::CONNECTION_HEADER_TIMEOUT, protocol_of(stream)) => first,
    };
    let (protocol, stream) = match first {
        Ok(Ok(told)) => told,
        Ok(Err(_)) => return,
        Err(_) => {
            shared.door.was_silent();
            return;
        }
    };
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
