//! Carries out what the starter decides: starts consensus, stores that the disk is lost, ends the process.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tonic::transport::server::Connected;

use super::dial::{DialNobody, DialPods};
use super::disk::{self, LocalDisk};
use super::tls::Peers;
use super::watched;
use crate::config::Tuning;
use crate::discovery::{AddressBook, PeerChannels, Speaker};
use crate::duties;
use crate::env::{Listener, Random, Stream};
use crate::error::Error;
use crate::limits::{self, PerAddress};
use crate::membership::{Action, MembershipService, Prepared, StartState, Step};
use crate::metrics::Metrics;
use crate::proto::peer::membership_server::MembershipServer;
use crate::raft::boots::Boots;
use crate::raft::{Consensus, Dial, Gate, Parts, Service};
use crate::transport::Door;
use crate::transport::addresses::Addresses;
use crate::watch::Hub;

/// The task that starts consensus.
pub(super) struct Runner {
    pub(super) disk: Arc<LocalDisk>,
    pub(super) gate: Gate,
    pub(super) hub: Hub,
    pub(super) service: Service,
    pub(super) channels: Option<PeerChannels>,
    pub(super) random: Arc<dyn Random>,
    pub(super) tuning: Tuning,
    pub(super) token_ttl: Duration,
    pub(super) metrics: Metrics,
    pub(super) state: watch::Receiver<StartState>,
    pub(super) failure: watch::Sender<Option<Error>>,
}

impl Runner {
    /// Runs until `cancel`, or until this member cannot go on.
    pub(super) async fn run(mut self, cancel: CancellationToken) {
        tokio::select! {
            result = self.follow() => {
                if let Err(error) = result {
                    self.failure.send_replace(Some(error));
                }
            }
            () = cancel.cancelled() => {}
        }
    }

    async fn follow(&mut self) -> Result<(), Error> {
        loop {
            let state = self.state.borrow_and_update().clone();
            self.gate.explain(&state.text);
            match &state.step {
                Step::Wait | Step::Refuse | Step::Hold => {}
                Step::BecomeLost => {
                    let reason = match &state.action {
                        Action::BecomeLost { reason } => reason.as_str(),
                        _ => &state.text,
                    };
                    self.disk.lose(reason)?;
                    if self.gate.consensus().is_some() {
                        return Err(Error::Disk(format!("the disk is lost: {reason}")));
                    }
                }
                Step::Stop => return Err(Error::Disk(state.text.clone())),
                Step::Recover(own) => {
                    self.disk.recover(own.clone()).await?;
                    return Err(Error::Disk("recovered; the next start begins with the new cluster".into()));
                }
                Step::Release => self.start(None).await?,
                Step::Initialise(prepared) => self.start(Some(prepared)).await?,
            }
            let changed = self.state.changed();
            match self.gate.consensus() {
                Some(consensus) => tokio::select! {
                    changed = changed => changed.map_err(|_| Error::Stopped)?,
                    reason = consensus.failed() => return Err(Error::Storage(reason)),
                },
                None => changed.await.map_err(|_| Error::Stopped)?,
            }
        }
    }

    /// Starts consensus, once; initialises the cluster if this member founds it.
    async fn start(&self, founding: Option<&Prepared>) -> Result<(), Error> {
        if self.gate.consensus().is_some() {
            return Ok(());
        }
        let (Some(mine), Some(opened)) = (self.disk.sender(), self.disk.opened()) else {
            return Err(Error::Start("the disk has no identity".into()));
        };
        let dial: Arc<dyn Dial> = match &self.channels {
            Some(channels) => Arc::new(DialPods(channels.clone())),
            None => Arc::new(DialNobody),
        };
        watched::bind(&self.hub, &opened.machine);
        opened.machine.access().set_token_ttl(self.token_ttl);
        let consensus = Consensus::start(Parts {
            mine,
            log: opened.log.clone(),
            committed: opened.committed,
            machine: opened.machine.clone(),
            snapshots: opened.snapshots.clone(),
            dial,
            boots: Boots::default(),
            random: self.random.clone(),
            tuning: self.tuning.clone(),
            metrics: self.metrics.clone(),
        })
        .await?;
        duties::start(&consensus, &self.tuning, self.disk.volume());
        self.service.set(consensus.clone());
        self.gate.open(consensus.clone());
        if let Some(prepared) = founding {
            consensus.initialise(disk::peer_nodes(&prepared.voters)).await?;
        }
        consensus.wait_for_first_entry().await;
        self.disk.settle()
    }
}

/// A connection from a peer. It breaks when the port closes: a follower's leader keeps its streams open for ever, and would go
/// on talking to a member that has stopped.
struct PeerStream {
    stream: Box<dyn Stream>,
    /// For whom it may speak.
    speaker: Speaker,
    closed: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Ends when it spoke for another; `None` if it may speak for all.
    hung_up: Option<BoxFuture<'static, ()>>,
    /// It was hung up on.
    is_over: bool,
    /// The connection counts as a task of the node.
    _task: TaskTrackerToken,
}

impl PeerStream {
    /// The stream, unless the port is closed or it was hung up on.
    fn open(&mut self, cx: &mut Context<'_>) -> std::io::Result<Pin<&mut dyn Stream>> {
        if self.hung_up.as_mut().is_some_and(|hung_up| hung_up.as_mut().poll(cx).is_ready()) {
            self.is_over = true;
            self.hung_up = None;
        }
        if self.is_over || self.closed.as_mut().poll(cx).is_ready() {
            return Err(std::io::ErrorKind::ConnectionAborted.into());
        }
        Ok(Pin::new(&mut *self.stream))
    }
}

impl Connected for PeerStream {
    type ConnectInfo = Speaker;

    fn connect_info(&self) -> Speaker {
        self.speaker.clone()
    }
}

impl tokio::io::AsyncRead for PeerStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        self.open(cx)?.poll_read(cx, buffer)
    }
}

impl tokio::io::AsyncWrite for PeerStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.open(cx)?.poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.open(cx)?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut *self.stream).poll_shutdown(cx)
    }
}

/// Who may connect to the peer ports.
pub(super) fn peer_door(metrics: &Metrics) -> Door {
    let each = PerAddress { connections: limits::PEER_CONNECTIONS_PER_ADDRESS, ..PerAddress::default() };
    let addresses = Addresses::new(each, metrics.slowed_reads.clone());
    Door::new(limits::PEER_CONNECTIONS, addresses, metrics.refused_connections("peer"))
}

/// The connections that are let in, each with whom it may speak for.
fn admitted(
    listener: Box<dyn Listener>,
    door: Door,
    tls: Option<(Peers, Arc<AddressBook>)>,
) -> BoxStream<'static, (Box<dyn Stream>, Speaker)> {
    let accepted = futures::stream::unfold(listener, |listener| async move {
        let connection = listener.accept().await;
        if connection.is_err() {
            // Out of file descriptors, most often: trying at once again would only burn the processor.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Some((connection, listener))
    });
    // A connection that broke while it was accepted ends nothing.
    let accepted = accepted.filter_map(move |connection| {
        let admitted = connection
            .ok()
            .and_then(|(stream, from)| door.admit_http2(stream, from.ip()).map(|stream| (stream, from)));
        std::future::ready(admitted)
    });
    let Some((peers, book)) = tls else {
        return accepted.map(|(stream, _)| (stream, Speaker::Anyone)).boxed();
    };
    let handshakes = accepted.map(move |(stream, from)| {
        let (peers, book) = (peers.clone(), Arc::clone(&book));
        async move { peers.admit(stream, from, &book).await }
    });
    handshakes.buffer_unordered(limits::TLS_HANDSHAKES).filter_map(std::future::ready).boxed()
}

/// Serves the peer port until `cancel`, over TLS if it is given.
pub(super) async fn serve_peers(
    listener: Box<dyn Listener>,
    door: Door,
    tls: Option<(Peers, Arc<AddressBook>)>,
    service: Service,
    membership: MembershipServer<MembershipService>,
    tasks: TaskTracker,
    cancel: CancellationToken,
) {
    let closed = cancel.clone();
    let admitted = admitted(listener, door, tls);
    let streams = admitted.map(move |(stream, speaker)| {
        let closed = Box::pin(closed.clone().cancelled_owned());
        let hung_up = speaker.hung_up();
        Ok::<_, std::io::Error>(PeerStream {
            stream,
            speaker,
            closed,
            hung_up,
            is_over: false,
            _task: tasks.token(),
        })
    });
    let served = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(limits::PEER_KEEPALIVE))
        .http2_keepalive_timeout(Some(limits::PEER_KEEPALIVE))
        .initial_stream_window_size(limits::HTTP2_STREAM_WINDOW)
        .initial_connection_window_size(limits::HTTP2_CONNECTION_WINDOW)
        .add_service(service.into_server())
        .add_service(membership)
        .serve_with_incoming(streams);
    tokio::select! {
        result = served => {
            if let Err(error) = result {
                tracing::error!(%error, "the peer port is closed; this member hears nobody until it is restarted");
            }
        }
        () = cancel.cancelled() => {}
    }
}
