//! Messages from peers: the gRPC service `Raft`. Refuses whatever is not for this member before openraft sees it, and
//! everything while consensus does not run yet.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};

use futures::{Stream, StreamExt};
use openraft::raft::{AppendEntriesResponse, StreamAppendError};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::{mpsc, oneshot, watch};
use tonic::{Request, Response, Status, Streaming};

use super::handle::Consensus;
use super::lease::LeaseQuestion;
use super::proposer::ReplyTo;
use super::snapshot;
use super::wire;
use crate::discovery::Speaker;
use crate::error::Error;
use crate::identity::NodeId;
use crate::limits;
use crate::proto::peer::raft_server::{Raft, RaftServer};
use crate::proto::peer::{
    AppendRequest, AppendResponse, Envelope, ForwardRequest, ForwardResponse, ForwardedReply, HashRequest,
    HashResponse, InstallSnapshotResponse, ReadIndexRequest, ReadIndexResponse, SnapshotChunk,
    SnapshotOffsetRequest, SnapshotOffsetResponse, StoreHash, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse, hash_response,
};

/// The service. Consensus is put in when it starts, once.
#[derive(Clone, Default)]
pub struct Service {
    consensus: Arc<OnceLock<Consensus>>,
}

impl Service {
    /// A service without consensus: it refuses everything.
    pub fn new() -> Self {
        Self::default()
    }

    /// Consensus runs from now on.
    pub fn set(&self, consensus: Consensus) {
        // Consensus starts once in a process.
        let _ = self.consensus.set(consensus);
    }

    /// As a tonic server, with the limits of messages between members.
    pub fn into_server(self) -> RaftServer<Self> {
        RaftServer::new(self)
            .max_decoding_message_size(limits::PEER_MESSAGE_BYTES)
            // Answers to forwarded requests only are larger than a message between members.
            .max_encoding_message_size(limits::CALLER_ANSWER_BYTES)
    }

    fn consensus(&self) -> Result<&Consensus, Status> {
        self.consensus.get().ok_or_else(|| Status::unavailable("consensus does not run on this member yet"))
    }

    /// Refuses a message that is not for this member, or not from whom its connection may speak for.
    fn admit(&self, speaker: &Speaker, envelope: Option<&Envelope>) -> Result<&Consensus, Status> {
        let consensus = self.consensus()?;
        let from = NodeId(envelope.map_or(0, |envelope| envelope.from));
        if !speaker.speaks_for(from.ordinal()) {
            return Err(Status::permission_denied(format!("the certificate is not that of {from}'s pod")));
        }
        consensus.admit(envelope).map_err(|why| wire::refusal(&why, consensus.id()))?;
        Ok(consensus)
    }
}

/// A request, and for whom whoever sent it may speak.
fn taken<T>(request: Request<T>) -> (Speaker, T) {
    (Speaker::of(request.extensions()), request.into_inner())
}

fn malformed(error: &super::codec::CodecError) -> Status {
    Status::invalid_argument(error.to_string())
}

fn stopped(error: impl std::fmt::Display) -> Status {
    Status::unavailable(error.to_string())
}

type ResponseStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Raft for Service {
    type AppendStream = ResponseStream<AppendResponse>;
    type ForwardStream = ResponseStream<ForwardResponse>;

    async fn append(
        &self,
        request: Request<Streaming<AppendRequest>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        let consensus = self.consensus()?.clone();
        let service = self.clone();
        // openraft takes requests only; the reason why they ended goes beside them.
        let ended: Arc<Mutex<Option<Status>>> = Arc::default();
        let reason = ended.clone();
        let (speaker, messages) = taken(request);
        let requests = messages.scan((), move |(), message| {
            let checked = message.and_then(|message| {
                service.admit(&speaker, message.envelope.as_ref())?;
                wire::append_from_wire(message).map_err(|error| malformed(&error))
            });
            futures::future::ready(match checked {
                Ok(request) => Some(request),
                Err(status) => {
                    *reason.lock() = Some(status);
                    None
                }
            })
        });
        let (boot, boot_random) = consensus.boot();
        let follower = consensus.clone();
        let answers = consensus.raft().stream_append(requests).map(move |answer| {
            let answer = answer.map_err(stopped)?;
            if !matches!(answer, Err(StreamAppendError::HigherVote(_))) {
                follower.note_leader();
            }
            Ok(AppendResponse { boot, boot_random, ..wire::appended_to_wire(&answer) })
        });
        let last = futures::stream::once(async move { ended.lock().take() })
            .filter_map(|status| futures::future::ready(status.map(Err)));
        Ok(Response::new(Box::pin(answers.chain(last))))
    }

    async fn heartbeat(&self, request: Request<AppendRequest>) -> Result<Response<AppendResponse>, Status> {
        let (speaker, message) = taken(request);
        let consensus = self.admit(&speaker, message.envelope.as_ref())?;
        let request = wire::append_from_wire(message).map_err(|error| malformed(&error))?;
        let (prev, last) = (request.prev_log_id, wire::last_of(&request));
        let response = consensus.raft().append_entries(request).await.map_err(stopped)?;
        if !matches!(response, AppendEntriesResponse::HigherVote(_)) {
            consensus.note_leader();
        }
        let answer = wire::appended_to_wire(&wire::appended_of(&response, prev, last));
        let (boot, boot_random) = consensus.boot();
        Ok(Response::new(AppendResponse { boot, boot_random, ..answer }))
    }

    async fn vote(&self, request: Request<VoteRequest>) -> Result<Response<VoteResponse>, Status> {
        let (speaker, message) = taken(request);
        let consensus = self.admit(&speaker, message.envelope.as_ref())?;
        let request = wire::vote_request_from_wire(&message).map_err(|error| malformed(&error))?;
        let response = consensus.raft().vote(request).await.map_err(stopped)?;
        Ok(Response::new(wire::vote_response_to_wire(&response)))
    }

    async fn pre_vote(&self, request: Request<VoteRequest>) -> Result<Response<VoteResponse>, Status> {
        let (speaker, message) = taken(request);
        let consensus = self.admit(&speaker, message.envelope.as_ref())?;
        let request = wire::vote_request_from_wire(&message).map_err(|error| malformed(&error))?;
        let response = consensus.raft().pre_vote(request).await.map_err(stopped)?;
        Ok(Response::new(wire::vote_response_to_wire(&response)))
    }

    async fn transfer_leader(
        &self,
        request: Request<TransferLeaderRequest>,
    ) -> Result<Response<TransferLeaderResponse>, Status> {
        let (speaker, message) = taken(request);
        let consensus = self.admit(&speaker, message.envelope.as_ref())?;
        let from = message.from_leader.as_ref().ok_or_else(|| Status::invalid_argument("no vote"))?;
        let request = openraft::raft::TransferLeaderRequest::new(
            wire::vote_from_wire(from),
            NodeId(message.to),
            message.last.as_ref().map(wire::log_id_from_wire),
        );
        let accepted = consensus.raft().handle_transfer_leader(request).await.map_err(stopped)?.is_ok();
        Ok(Response::new(TransferLeaderResponse { accepted }))
    }

    async fn snapshot_offset(
        &self,
        request: Request<SnapshotOffsetRequest>,
    ) -> Result<Response<SnapshotOffsetResponse>, Status> {
        let (speaker, message) = taken(request);
        let consensus = self.admit(&speaker, message.envelope.as_ref())?;
        let offset = consensus.snapshots().offset(&message.snapshot_id).await.map_err(stopped)?;
        Ok(Response::new(SnapshotOffsetResponse { offset }))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<SnapshotChunk>>,
    ) -> Result<Response<InstallSnapshotResponse>, Status> {
        let (speaker, mut chunks) = taken(request);
        let first = chunks.message().await?.ok_or_else(|| Status::invalid_argument("no snapshot"))?;
        let head = first.head.ok_or_else(|| Status::invalid_argument("the snapshot has no head"))?;
        let consensus = self.admit(&speaker, head.envelope.as_ref())?;
        let committed = consensus.committed();
        let (vote, received) = snapshot::receive(consensus.snapshots(), head, &mut chunks, committed).await?;
        let response = consensus.raft().install_full_snapshot(vote, received).await.map_err(stopped)?;
        let (boot, boot_random) = consensus.boot();
        let vote = Some(wire::vote_to_wire(&response.vote));
        Ok(Response::new(InstallSnapshotResponse { vote, boot, boot_random }))
    }

    async fn forward(
        &self,
        request: Request<Streaming<ForwardRequest>>,
    ) -> Result<Response<Self::ForwardStream>, Status> {
        let (speaker, mut messages) = taken(request);
        let first = tokio::time::timeout(limits::PEER_CONNECT_TIMEOUT, messages.message())
            .await
            .map_err(|_| Status::deadline_exceeded("the first message did not come"))??
            .ok_or_else(|| Status::invalid_argument("no envelope"))?;
        let consensus = self.admit(&speaker, first.envelope.as_ref())?.clone();
        let entered =
            consensus.followers().enter().ok_or_else(|| stopped("this member takes no more requests"))?;
        let (replies, answered) = mpsc::unbounded_channel();
        let (mut unread, gate) = Unread::new();
        // Ends with the follower's stream; what it asked for by then is answered into a channel that nobody reads.
        let leader = consensus.clone();
        consensus.spawn(async move {
            let mut next = Some(first);
            while let Some(message) = next {
                for forwarded in message.requests {
                    if !unread.room().await {
                        return;
                    }
                    let reply = ReplyTo::follower(forwarded.number, replies.clone());
                    if let Some(lease) = forwarded.lease {
                        let question = LeaseQuestion { id: lease.id, renew: lease.renew };
                        leader.enqueue_question(question, reply);
                        continue;
                    }
                    leader.enqueue(forwarded.request, reply).await;
                }
                next = messages.message().await.ok().flatten();
            }
        });
        let replies = tokio_stream::wrappers::UnboundedReceiverStream::new(answered)
            .map(move |(number, proposed)| {
                if let Ok(applied) = &proposed {
                    consensus.note_wanted(applied.index);
                }
                ForwardedReply { number, reply: Some(wire::proposed_to_wire(proposed)) }
            })
            .ready_chunks(limits::BATCH_REQUESTS)
            .map(move |replies| {
                gate.taken(replies.len());
                replies
            })
            .flat_map(|replies| futures::stream::iter(bounded(replies)));
        Ok(Response::new(Box::pin(entered.answers(replies))))
    }

    async fn hash(&self, request: Request<HashRequest>) -> Result<Response<HashResponse>, Status> {
        let (speaker, message) = taken(request);
        let consensus = self.admit(&speaker, message.envelope.as_ref())?;
        let outcome = match consensus.machine().hash(message.revision).await {
            Ok(hash) => hash_response::Outcome::Hash(StoreHash {
                hash: hash.hash,
                compact_revision: hash.compact_revision,
                hash_revision: hash.hash_revision,
            }),
            Err(Error::Refused(refusal)) => hash_response::Outcome::Refused(refusal as u32),
            Err(error) => return Err(stopped(error)),
        };
        Ok(Response::new(HashResponse { outcome: Some(outcome) }))
    }

    async fn read_index(
        &self,
        request: Request<ReadIndexRequest>,
    ) -> Result<Response<ReadIndexResponse>, Status> {
        let (speaker, message) = taken(request);
        let consensus = self.admit(&speaker, message.envelope.as_ref())?;
        if !consensus.raft().is_leader() {
            return Err(Status::unavailable("this member does not lead"));
        }
        let (waiter, index) = oneshot::channel();
        consensus.join_read_round(waiter).map_err(stopped)?;
        let index = index.await.unwrap_or(Err(Error::Stopped)).map_err(stopped)?;
        consensus.note_wanted(index);
        let id = crate::proto::peer::LogId { term: 0, index };
        Ok(Response::new(ReadIndexResponse { id: Some(id) }))
    }
}

/// Bounds the answers that a follower has not read: beyond it, no more of its requests are taken.
struct Unread {
    asked: usize,
    taken: watch::Receiver<usize>,
}

impl Unread {
    fn new() -> (Self, Gate) {
        let (sender, taken) = watch::channel(0);
        (Self { asked: 0, taken }, Gate(sender))
    }

    /// Waits until one more may be asked; false if the answers have nowhere to go any more.
    async fn room(&mut self) -> bool {
        self.asked += 1;
        let asked = self.asked;
        self.taken.wait_for(|taken| asked - taken <= limits::PROPOSER_QUEUE_REQUESTS).await.is_ok()
    }
}

/// Tells how many answers have left.
struct Gate(watch::Sender<usize>);

impl Gate {
    fn taken(&self, count: usize) {
        self.0.send_modify(|taken| *taken += count);
    }
}

/// Puts replies into messages of [`limits::BATCH_BYTES`], or of one reply.
fn bounded(replies: Vec<ForwardedReply>) -> Vec<Vec<ForwardedReply>> {
    let mut messages = Vec::new();
    let mut message = Vec::new();
    let mut bytes = 0;
    for reply in replies {
        bytes += reply.encoded_len();
        message.push(reply);
        if bytes >= limits::BATCH_BYTES {
            bytes = 0;
            messages.push(std::mem::take(&mut message));
        }
    }
    if !message.is_empty() {
        messages.push(message);
    }
    messages
}
