//! Messages to peers: appends one after another on one stream, heartbeats on a connection of their own, snapshots on a third.
//!
//! Every message carries who sends it to whom ([`Sender`]); every one has a deadline.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::RPCOption;
use openraft::network::v2::RaftNetworkV2;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RPCTypes, RaftNetworkFactory};
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;
use tokio::time::Instant;
use tonic::transport::Channel;

use super::commits::Wanted;
use super::heard::Silence;
use super::snapshot::{self, SnapshotFile};
use super::store::StoreHash;
use super::turns::Turns;
use super::types::{LogId, PeerNode, TypeConfig, Vote};
use super::wire::{self, Sender};
use crate::error::Error;
use crate::identity::NodeId;
use crate::limits;
use crate::metrics::{Metrics, PeerLabel};
use crate::mvcc::command::Refusal;
use crate::proto::peer;
use crate::proto::peer::raft_client::RaftClient;

/// Which connection to a peer a message takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// Entries, votes, forwarded requests.
    Data,
    /// Heartbeats: they must not queue behind data.
    Heartbeat,
    /// Snapshots: they must not hold up data.
    Snapshot,
}

/// Connections to peers, cached, redialled when they fail.
pub trait Dial: Send + Sync {
    /// The connection to a member's peer service (`host:port`).
    fn channel(&self, member: NodeId, address: &str, lane: Lane) -> Channel;
    /// A message for `member` was refused by the member `by`, which is what that connection led to.
    fn refused(&self, _member: NodeId, _address: &str, _by: NodeId) {}
    /// Whether connections are made over TLS.
    fn is_secure(&self) -> bool {
        false
    }
}

/// A peer that cannot be reached, is too slow, or says what we do not understand.
type RpcError = RPCError<TypeConfig>;

fn unreachable(error: &(dyn std::error::Error + 'static)) -> RpcError {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    RPCError::Unreachable(Unreachable::from_string(text))
}

/// Makes connections for openraft.
#[derive(Clone)]
pub struct Factory {
    mine: Sender,
    dial: Arc<dyn Dial>,
    boots: super::boots::Boots,
    snapshots: Arc<snapshot::Store>,
    wanted: Wanted,
    metrics: Metrics,
}

impl Factory {
    /// `mine` goes into every message.
    pub(crate) fn new(
        mine: Sender,
        dial: Arc<dyn Dial>,
        boots: super::boots::Boots,
        snapshots: Arc<snapshot::Store>,
        wanted: Wanted,
        metrics: Metrics,
    ) -> Self {
        Self { mine, dial, boots, snapshots, wanted, metrics }
    }

    fn peer(&self, target: NodeId, node: &PeerNode, lane: Lane) -> Peer {
        Peer {
            target,
            mine: self.mine,
            lane,
            boots: self.boots.clone(),
            snapshots: self.snapshots.clone(),
            wanted: self.wanted.clone(),
            dial: self.dial.clone(),
            address: node.peer_address.clone(),
            client: client(self.dial.channel(target, &node.peer_address, lane)),
            silence: Silence::new(target),
            counted: Counted::new(&self.metrics, target),
        }
    }
}

fn client(channel: Channel) -> RaftClient<Channel> {
    RaftClient::new(channel)
        .max_decoding_message_size(limits::PEER_MESSAGE_BYTES)
        .max_encoding_message_size(limits::PEER_MESSAGE_BYTES)
}

impl RaftNetworkFactory<TypeConfig> for Factory {
    type Network = Peer;

    async fn new_client(&mut self, target: NodeId, node: &PeerNode) -> Peer {
        self.peer(target, node, Lane::Data)
    }

    async fn new_heartbeat_client(&mut self, target: NodeId, node: &PeerNode) -> Peer {
        self.peer(target, node, Lane::Heartbeat)
    }

    async fn new_snapshot_client(&mut self, target: NodeId, node: &PeerNode) -> Peer {
        self.peer(target, node, Lane::Snapshot)
    }
}

/// One member, over one connection.
pub struct Peer {
    target: NodeId,
    mine: Sender,
    lane: Lane,
    boots: super::boots::Boots,
    snapshots: Arc<snapshot::Store>,
    wanted: Wanted,
    dial: Arc<dyn Dial>,
    address: String,
    client: RaftClient<Channel>,
    silence: Silence,
    counted: Counted,
}

/// The numbers about one peer.
struct Counted {
    round_trip_seconds: Histogram,
    failures: Counter,
}

impl Counted {
    fn new(metrics: &Metrics, target: NodeId) -> Self {
        let label = PeerLabel { To: format!("{:x}", target.0) };
        Self {
            round_trip_seconds: metrics.peer_round_trip_seconds.get_or_create_owned(&label),
            failures: metrics.peer_send_failures.get_or_create_owned(&label),
        }
    }
}

impl Peer {
    fn request<T>(message: T, deadline: Duration) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        request.set_timeout(deadline);
        request
    }

    fn timeout(&self, action: RPCTypes, timeout: Duration) -> RpcError {
        RPCError::Timeout(Timeout { action, id: self.mine.node, target: self.target, timeout })
    }

    fn envelope(&self) -> peer::Envelope {
        self.mine.envelope(self.target)
    }

    /// An answer of another process than the newest that runs as this member acknowledges nothing.
    fn heard(&self, boot: u64, boot_random: u64) -> Result<(), RpcError> {
        self.boots.heard(self.target, boot, boot_random).map_err(|error| unreachable(&error))
    }

    fn failed(&self, status: &tonic::Status) -> RpcError {
        self.note_refusal(status);
        unreachable(status)
    }

    /// A call failed. Whoever refused it for not being the addressee is not to be called again at this address.
    fn note_refusal(&self, status: &tonic::Status) {
        if let Some(by) = wire::refused_by(status) {
            self.dial.refused(self.target, &self.address, by);
        }
    }

    async fn within<T>(
        &self,
        action: RPCTypes,
        deadline: Duration,
        call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    ) -> Result<T, RpcError> {
        match tokio::time::timeout(deadline, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => {
                self.counted.failures.inc();
                Err(self.failed(&status))
            }
            Err(_) => {
                self.counted.failures.inc();
                Err(self.timeout(action, deadline))
            }
        }
    }

    async fn one_append(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        deadline: Duration,
    ) -> Result<StreamAppendResult<TypeConfig>, RpcError> {
        let message = wire::append_to_wire(self.envelope(), &request);
        let mut client = self.client.clone();
        let call = client.heartbeat(Self::request(message, deadline));
        let sent = Instant::now();
        let response = self.within(RPCTypes::AppendEntries, deadline, call).await?;
        self.counted.round_trip_seconds.observe(sent.elapsed().as_secs_f64());
        self.heard(response.boot, response.boot_random)?;
        wire::appended_from_wire(response, request.prev_log_id).map_err(|error| unreachable(&error))
    }
}

/// What a peer still needs is no longer in the log.
#[derive(Debug, thiserror::Error)]
#[error("the log was cut behind entry {}, which the peer needs", .0.as_ref().map_or(0, |id| id.index))]
struct CutEntries(Option<LogId>);

/// Whether there are entries after those that the request names, and it carries none. So openraft tells that it went on
/// with an old task while the log was cut, and it would for ever, every 10 ms: a task that always has something to send is
/// not looked at again. An error, or the end of the stream, makes it look at what it is to do now, which is a snapshot.
fn lacks_entries(request: &AppendEntriesRequest<TypeConfig>) -> bool {
    let end = request.prev_log_id.as_ref().map(|id| id.index);
    request.entries.is_empty() && request.leader_commit.as_ref().map(|id| id.index) > end
}

/// The request that was sent and not answered: when, and the entry that it named as the one before its first.
type Unanswered = Arc<Mutex<Option<(Instant, Option<LogId>)>>>;

/// Takes answers off the stream, each within its deadline.
struct Answers {
    responses: tonic::Streaming<peer::AppendResponse>,
    unanswered: Unanswered,
    deadline: Duration,
    ended: bool,
}

impl Answers {
    fn sent(&self) -> Option<Instant> {
        self.unanswered.lock().map(|(sent, _)| sent)
    }

    /// `None`: the peer ended the stream in order. An error without a status: there was no answer in time.
    async fn next(&mut self) -> Option<Result<(peer::AppendResponse, Option<LogId>), Option<tonic::Status>>> {
        loop {
            let sent = self.sent();
            let until = sent.unwrap_or_else(Instant::now) + self.deadline;
            match tokio::time::timeout_at(until, self.responses.next()).await {
                Ok(Some(Ok(response))) => {
                    let asked = self.unanswered.lock().take();
                    let unasked = || Some(tonic::Status::internal("an answer to no request"));
                    return Some(asked.map(|(_, prev)| (response, prev)).ok_or_else(unasked));
                }
                Ok(Some(Err(status))) => return Some(Err(Some(status))),
                Ok(None) => return None,
                Err(_) if sent.is_some() => return Some(Err(None)),
                // Nothing had been sent when we began to wait.
                Err(_) => {}
            }
        }
    }
}

impl RaftNetworkV2<TypeConfig> for Peer {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RpcError> {
        let last = wire::last_of(&request);
        let answer = self.one_append(request, option.soft_ttl()).await;
        match &answer {
            Ok(_) => self.silence.ended(),
            Err(error) => self.silence.goes_on(error),
        }
        Ok(match answer? {
            Ok(id) if id == last => AppendEntriesResponse::Success,
            Ok(id) => AppendEntriesResponse::PartialSuccess(id),
            Err(StreamAppendError::Conflict(_)) => AppendEntriesResponse::Conflict,
            Err(StreamAppendError::HigherVote(vote)) => AppendEntriesResponse::HigherVote(vote),
        })
    }

    fn stream_append<'s, S>(
        &'s mut self,
        mut input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RpcError>>, RpcError>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        if self.lane == Lane::Heartbeat {
            return openraft::network::stream_append_sequential(self, input, option);
        }
        Box::pin(async move {
            // openraft waits after failures where it hands out the first request, and nowhere else. A call that fails before
            // it has taken one, as one to a peer that cannot be reached does, would be made again and again without a pause.
            let Some(first) = input.next().await else {
                return Ok(Box::pin(futures::stream::empty()) as BoxStream<'s, _>);
            };
            if lacks_entries(&first) {
                return Err(unreachable(&CutEntries(first.prev_log_id)));
            }
            let turns = Turns::new();
            let input = input.take_while(|request| futures::future::ready(!lacks_entries(request)));
            let input = self.wanted.merge(futures::stream::iter([first]).chain(input));
            let unanswered = Unanswered::default();
            let envelope = self.envelope();
            let sent = unanswered.clone();
            let outgoing = turns.requests(Box::pin(input)).map(move |request| {
                *sent.lock() = Some((Instant::now(), request.prev_log_id));
                wire::append_to_wire(envelope, &request)
            });
            let deadline = option.soft_ttl().max(limits::ELECTION_MAX);
            let mut client = self.client.clone();
            let responses = self.within(RPCTypes::AppendEntries, deadline, client.append(outgoing)).await?;
            let answers = Answers { responses, unanswered, deadline, ended: false };
            let peer = &*self;
            let stream = futures::stream::unfold(answers, move |mut answers| async move {
                if answers.ended {
                    return None;
                }
                let item = match answers.next().await? {
                    Ok((response, prev)) => peer.heard(response.boot, response.boot_random).and_then(|()| {
                        wire::appended_from_wire(response, prev).map_err(|error| unreachable(&error))
                    }),
                    Err(None) => Err(peer.timeout(RPCTypes::AppendEntries, deadline)),
                    Err(Some(status)) => Err(peer.failed(&status)),
                };
                answers.ended = !matches!(item, Ok(Ok(_)));
                Some((item, answers))
            });
            Ok(Box::pin(turns.answers(Box::pin(stream))) as BoxStream<'s, _>)
        })
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        let message = wire::vote_request_to_wire(self.envelope(), &request);
        let deadline = option.soft_ttl();
        let mut client = self.client.clone();
        let response =
            self.within(RPCTypes::Vote, deadline, client.vote(Self::request(message, deadline))).await?;
        wire::vote_response_from_wire(&response).map_err(|error| unreachable(&error))
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        let message = wire::vote_request_to_wire(self.envelope(), &request);
        let deadline = option.soft_ttl();
        let mut client = self.client.clone();
        let response =
            self.within(RPCTypes::Vote, deadline, client.pre_vote(Self::request(message, deadline))).await?;
        wire::vote_response_from_wire(&response).map_err(|error| unreachable(&error))
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: openraft::alias::SnapshotOf<TypeConfig, SnapshotFile>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let send = snapshot::send(&self.snapshots, self.client.clone(), self.envelope(), vote, snapshot);
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = send => {
                let (vote, (boot, boot_random)) = sent.map_err(|status| {
                    tracing::debug!(target = %self.target, %status, "a snapshot was not sent");
                    self.note_refusal(&status);
                    StreamingError::Unreachable(Unreachable::from_string(status.message()))
                })?;
                self.heard(boot, boot_random).map_err(StreamingError::from)?;
                Ok(SnapshotResponse::new(vote))
            }
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RpcError> {
        let message = peer::TransferLeaderRequest {
            envelope: Some(self.envelope()),
            from_leader: Some(wire::vote_to_wire(request.from_leader())),
            to: request.to_node_id().0,
            last: request.last_log_id().map(wire::log_id_to_wire),
        };
        let deadline = option.soft_ttl();
        let mut client = self.client.clone();
        let call = client.transfer_leader(Self::request(message, deadline));
        // The target refuses if it has voted since or lacks the entry; the old leader then leads on.
        self.within(RPCTypes::TransferLeader, deadline, call).await?;
        Ok(Ok(()))
    }
}

/// Connections to members by id, for what is not openraft's: forwarded requests and read indexes.
#[derive(Clone)]
pub struct PeerChannels {
    mine: Sender,
    dial: Arc<dyn Dial>,
    raft: super::types::Raft,
}

impl PeerChannels {
    pub(crate) fn new(mine: Sender, dial: Arc<dyn Dial>, raft: super::types::Raft) -> Self {
        Self { mine, dial, raft }
    }

    /// The URL of a peer service (`host:port`): all members' have the same scheme.
    pub(crate) fn url(&self, address: &str) -> String {
        let scheme = if self.dial.is_secure() { "https" } else { "http" };
        format!("{scheme}://{address}")
    }

    /// The connection to a member, and the envelope for it.
    pub(crate) fn connect(&self, to: NodeId) -> Result<(RaftClient<Channel>, peer::Envelope), Error> {
        let address = self.address(to).ok_or(Error::NoLeader)?;
        // What a transaction read for a client may be as large as any answer to a client.
        let client = client(self.dial.channel(to, &address, Lane::Data))
            .max_decoding_message_size(limits::CALLER_ANSWER_BYTES);
        Ok((client, self.mine.envelope(to)))
    }

    fn address(&self, of: NodeId) -> Option<String> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        metrics.membership_config.membership().get_node(&of).map(|node| node.peer_address.clone())
    }

    /// A call to `to` failed. If another member answered it, its address is not to be called again for `to`.
    pub(crate) fn note_refusal(&self, to: NodeId, status: &tonic::Status) {
        if let (Some(by), Some(address)) = (wire::refused_by(status), self.address(to)) {
            self.dial.refused(to, &address, by);
        }
    }

    /// Asks a member for the hash of its store.
    pub(crate) async fn hash(&self, of: NodeId, revision: i64) -> Result<StoreHash, Error> {
        use peer::hash_response::Outcome;
        let (mut client, envelope) = self.connect(of)?;
        let request = peer::HashRequest { envelope: Some(envelope), revision };
        let request = Peer::request(request, limits::CORRUPT_CHECK_TIMEOUT);
        let response = client.hash(request).await.map_err(|status| {
            self.note_refusal(of, &status);
            Error::NotServing(status.message().to_owned())
        })?;
        match response.into_inner().outcome {
            Some(Outcome::Hash(hash)) => Ok(StoreHash {
                hash: hash.hash,
                compact_revision: hash.compact_revision,
                hash_revision: hash.hash_revision,
            }),
            Some(Outcome::Refused(number)) => Err(match Refusal::from_number(number) {
                Some(refusal) => refusal.into(),
                None => Error::NotServing(format!("it refused with {number}")),
            }),
            None => Err(Error::NotServing("it answered nothing".into())),
        }
    }

    /// Asks a leader for its read index.
    pub(crate) async fn read_index(&self, leader: NodeId) -> Result<LogId, Error> {
        let (mut client, envelope) = self.connect(leader)?;
        let request =
            Peer::request(peer::ReadIndexRequest { envelope: Some(envelope) }, limits::REQUEST_TIMEOUT);
        let response = client
            .read_index(request)
            .await
            // Whatever came between: whoever leads next is asked next.
            .map_err(|status| {
                tracing::debug!(%leader, %status, "no read index");
                self.note_refusal(leader, &status);
                Error::NoLeader
            })?;
        let id = response.into_inner().id.ok_or(Error::NoLeader)?;
        Ok(wire::log_id_from_wire(&id))
    }
}
