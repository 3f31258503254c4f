//! etcd's Watch service: one stream of requests and responses, which carries any number of watchers.
//!
//! Everything about who gets what is the session's ([`crate::watch`]). Here requests become calls of it, and what it has becomes
//! messages: the part of a response that several watchers share is encoded once and copied, small responses go into one chunk, and
//! large events go as they are. Nothing is made before HTTP/2 has room for it, so a client that does not read stops its own session.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use http::{Request, Response};
use http_body::Frame;
use prost::Message as _;
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tonic::Code;

use super::permission::{self, Caller};
use super::{Shared, leader, refused, texts};
use crate::limits;
use crate::mvcc::State;
use crate::mvcc::auth::By;
use crate::mvcc::{Event, EventKind, KeyValue, WatchOptions, WatchedKeys};
use crate::proto::{etcdserverpb as pb, mvccpb};
use crate::raft::access::AccessState;
use crate::transport::answers::Answers;
use crate::transport::messages::Messages;
use crate::transport::{AnswerBody, Failure, RequestBody, grpc};
use crate::watch::{
    Budget, Create, Delivery, Encode, Message, ReadFailure, Receiver, Refused, Session, Update,
};

use pb::watch_request::RequestUnion;

/// Id in answers that are of no watcher: etcd's `InvalidWatchID`.
const NO_WATCHER: i64 = -1;
/// Tag of `WatchResponse.events`, and of `Event.prev_kv`.
const EVENTS_TAG: u8 = 11 << 3 | 2;
const PREVIOUS_TAG: u8 = 3 << 3 | 2;
/// Tag of `WatchResponse.watch_id`.
const WATCH_ID_TAG: u8 = 2 << 3;
/// Tag of `WatchResponse.fragment`, and its value.
const FRAGMENT: [u8; 2] = [7 << 3, 1];

/// How events are encoded.
pub(crate) const ENCODE: Encode = Encode { event, previous };

fn event(event: &Event) -> (Bytes, std::ops::Range<usize>) {
    let kv = super::convert::key_value(event.kv.clone());
    let kind = match event.kind {
        EventKind::Put => mvccpb::event::EventType::Put,
        EventKind::Delete => mvccpb::event::EventType::Delete,
    };
    // The key is the first field of the last field.
    let length = event.kv.key.len();
    let rest = kv.encoded_len() - 1 - prost::length_delimiter_len(length) - length;
    let message = mvccpb::Event { r#type: kind.into(), kv: Some(kv), prev_kv: None };
    let encoded = Bytes::from(message.encode_to_vec());
    let end = encoded.len().saturating_sub(rest);
    (encoded, end.saturating_sub(length)..end)
}

fn previous(pair: KeyValue) -> Bytes {
    let pair = super::convert::key_value(pair);
    let length = pair.encoded_len();
    let mut bytes = BytesMut::with_capacity(1 + prost::length_delimiter_len(length) + length);
    bytes.put_u8(PREVIOUS_TAG);
    put_varint(&mut bytes, length as u64);
    // Cannot fail: the buffer grows.
    let _ = pair.encode(&mut bytes);
    bytes.freeze()
}

fn put_varint(out: &mut BytesMut, mut number: u64) {
    while number >= 0x80 {
        out.put_u8(number as u8 | 0x80);
        number >>= 7;
    }
    out.put_u8(number as u8);
}

/// Answers a call of `Watch`.
pub(super) fn watch(
    api: &Arc<Shared>,
    answers: &Answers,
    budget: &Budget,
    request: Request<RequestBody>,
) -> Response<AnswerBody> {
    let wants_leader = leader::is_wanted(request.headers());
    if wants_leader && api.store.position().leader.is_none() {
        return grpc::failure(&texts::NO_LEADER.into());
    }
    let caller = Caller::of(request.headers(), request.extensions());
    // Before anything is checked: what changes after that is looked at again.
    let auth_changes = api.store.access().map(AccessState::changes);
    let Some(session) = api.hub.open(budget.clone()) else {
        return grpc::failure(&texts::NO_LEADER.into());
    };
    api.watch_method.started();
    let call = Call {
        api: api.clone(),
        answers: answers.clone(),
        session,
        caller,
        user: String::new(),
        auth_changes,
        requests: Some(Messages::new(request.into_body())),
        delivery: None,
        shared: None,
        chunks: VecDeque::new(),
        chunk: BytesMut::new(),
        leader_looks: wants_leader.then(leader_looks),
        leaderless: 0,
        code: Code::Cancelled,
        has_ended: false,
    };
    let frames = futures::stream::unfold(call, |mut call| async move {
        let frame = call.next_frame().await?;
        Some((Ok::<_, tonic::Status>(frame), call))
    });
    grpc::stream(tonic::body::Body::new(http_body_util::StreamBody::new(frames)))
}

pub(super) fn leader_looks() -> Interval {
    let mut looks = tokio::time::interval_at(Instant::now() + limits::ELECTION_MAX, limits::ELECTION_MAX);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    looks
}

/// One call of `Watch`.
struct Call {
    api: Arc<Shared>,
    answers: Answers,
    session: Session,
    caller: Caller,
    /// Who watches; nobody before the first watcher, and while authentication is disabled.
    user: String,
    /// When to look again whether it may. `None` if there is nothing to follow.
    auth_changes: Option<tokio::sync::watch::Receiver<u64>>,
    /// `None` once the client sends no more.
    requests: Option<Messages<RequestBody>>,
    /// What is being sent.
    delivery: Option<Delivery>,
    /// The responses of the watcher that was served last: the next one often gets the same.
    shared: Option<(Receiver, Vec<Encoded>)>,
    /// Ready to be sent.
    chunks: VecDeque<Bytes>,
    /// Being filled.
    chunk: BytesMut,
    /// When to look for a leader, if the client wants one.
    leader_looks: Option<Interval>,
    leaderless: u32,
    code: Code,
    has_ended: bool,
}

/// The part of a response that does not depend on its watcher.
struct Encoded {
    pieces: Vec<Bytes>,
    bytes: usize,
}

/// What happened first.
enum Next {
    Request(Result<Option<pb::WatchRequest>, Failure>),
    Update(Result<Update, ReadFailure>),
    AuthChanged,
    Leaderless,
    Stopping,
}

impl Call {
    async fn next_frame(&mut self) -> Option<Frame<Bytes>> {
        if self.has_ended {
            return None;
        }
        loop {
            if let Some(chunk) = self.chunks.pop_front() {
                self.api.metrics.client_bytes_sent.inc_by(chunk.len() as u64);
                return Some(Frame::data(self.answers.count(chunk)));
            }
            // A call that always has something to send must end, too.
            if self.api.stopping.is_cancelled() {
                return Some(self.end(&texts::STOPPED.into()));
            }
            if self.fill_from_delivery() {
                continue;
            }
            self.look_again();
            let failure = match self.wait().await {
                Next::Request(Ok(Some(request))) => {
                    self.take(request).await;
                    continue;
                }
                Next::Request(Ok(None)) => {
                    // A client that has said everything still listens: the JSON gateway's do.
                    self.requests = None;
                    continue;
                }
                // It is looked at above.
                Next::AuthChanged => continue,
                Next::Update(Ok(update)) => {
                    self.tell(update);
                    continue;
                }
                Next::Request(Err(failure)) => failure,
                Next::Leaderless => texts::NO_LEADER.into(),
                Next::Update(Err(_)) | Next::Stopping => texts::STOPPED.into(),
            };
            return Some(self.end(&failure));
        }
    }

    fn end(&mut self, failure: &Failure) -> Frame<Bytes> {
        self.has_ended = true;
        self.code = failure.code;
        Frame::trailers(grpc::trailers(failure))
    }

    async fn wait(&mut self) -> Next {
        let Self { session, requests, leader_looks, leaderless, api, auth_changes, .. } = self;
        // One answer waits at most, so a client that asks and does not read is not asked further.
        let may_ask = requests.is_some() && !session.has_answers();
        let rest = async {
            tokio::select! {
                request = next_request(requests), if may_ask => match request {
                    Ok(Some((request, size))) => {
                        api.metrics.client_bytes_received.inc_by(size as u64);
                        Next::Request(Ok(Some(request)))
                    }
                    Ok(None) => Next::Request(Ok(None)),
                    Err(failure) => Next::Request(Err(failure)),
                },
                update = session.next() => Next::Update(update),
                () = no_leader(api, leader_looks, leaderless) => Next::Leaderless,
                () = api.stopping.cancelled() => Next::Stopping,
            }
        };
        tokio::select! {
            biased;
            // First: what may not be watched any more is not handed out.
            () = auth_changed(auth_changes) => Next::AuthChanged,
            next = rest => next,
        }
    }

    async fn take(&mut self, request: pb::WatchRequest) {
        match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => self.create(&create).await,
            Some(RequestUnion::CancelRequest(cancel)) => self.session.cancel(cancel.watch_id),
            Some(RequestUnion::ProgressRequest(_)) => self.session.ask_progress(),
            // etcd ignores it, too.
            None => {}
        }
    }

    async fn create(&mut self, create: &pb::WatchCreateRequest) {
        // The smallest key stands for none, as in etcd.
        let key = if create.key.is_empty() { b"\0" } else { create.key.as_ref() };
        let may_read = |state: &State, by: By<'_>| state.auth().may_read(by, key, &create.range_end);
        // A start that there cannot be is told first, as in etcd.
        if create.start_revision >= 0 {
            match permission::check(&self.api, &self.caller, may_read).await {
                Ok(identity) => self.user = identity.user,
                Err(failure) => {
                    refused::count(&self.api, &failure, false);
                    return self.session.deny(texts::watch_denied(&failure));
                }
            }
        }
        self.session.create(create_request(create));
    }

    /// Ends the watchers that may not watch any more, when something has changed about users. etcd lets them go on.
    fn look_again(&mut self) {
        let Self { api, session, user, auth_changes: Some(changes), .. } = self else { return };
        if !changes.has_changed().unwrap_or(false) {
            return;
        }
        changes.mark_unchanged();
        // Ended only afterwards: that looks at the state, too.
        let mut ending = Vec::new();
        api.store.look(&mut |state| {
            ending.extend(session.watched().filter_map(|(watch_id, keys)| {
                let (key, range_end) = keys.as_range();
                let refusal = state.auth().may_go_on_reading(user, key, range_end).err()?;
                let failure = texts::refusal(refusal);
                refused::count(api, &failure, false);
                Some((watch_id, texts::watch_denied(&failure)))
            }));
        });
        session.end_denied(ending);
    }

    /// Puts an answer into the chunk, or begins to send events.
    fn tell(&mut self, update: Update) {
        let header = |revision| {
            let position = self.api.store.position();
            Some(self.api.headers.at(&position, revision, 0))
        };
        let response = match update {
            Update::Events(delivery) => {
                self.delivery = Some(delivery);
                return;
            }
            Update::Created { watch_id, revision } => {
                pb::WatchResponse { header: header(revision), watch_id, created: true, ..Default::default() }
            }
            Update::Refused { reason, revision } => pb::WatchResponse {
                header: header(revision),
                watch_id: NO_WATCHER,
                created: true,
                canceled: true,
                cancel_reason: refusal(reason).into(),
                ..Default::default()
            },
            Update::Canceled { watch_id, revision } => {
                pb::WatchResponse { header: header(revision), watch_id, canceled: true, ..Default::default() }
            }
            Update::Compacted { watch_id, compacted } => pb::WatchResponse {
                // Without a revision, as in etcd.
                header: header(0),
                watch_id,
                canceled: true,
                compact_revision: compacted,
                ..Default::default()
            },
            Update::TooLarge { watch_id, revision } => pb::WatchResponse {
                header: header(revision),
                watch_id,
                canceled: true,
                cancel_reason: texts::REQUEST_TOO_LARGE.text.into(),
                ..Default::default()
            },
            Update::Denied { watch_id, why, revision } => pb::WatchResponse {
                header: header(revision),
                watch_id: watch_id.unwrap_or(NO_WATCHER),
                created: watch_id.is_none(),
                canceled: true,
                cancel_reason: why.into(),
                ..Default::default()
            },
            Update::Progress { watch_id, revision } => pb::WatchResponse {
                header: header(revision),
                watch_id: watch_id.unwrap_or(NO_WATCHER),
                ..Default::default()
            },
        };
        self.chunks.push_back(grpc::encode(&response));
    }

    /// Makes chunks of what is being delivered, a few at a time. False if there is nothing.
    fn fill_from_delivery(&mut self) -> bool {
        let Some(mut delivery) = self.delivery.take() else { return false };
        let position = self.api.store.position();
        let header = self.api.headers.at(&position, delivery.revision, 0).encode_to_vec();
        while self.chunks.is_empty() && self.chunk.len() < limits::WATCH_CHUNK_BYTES {
            let Some((receiver, same_part)) = delivery.next_receiver() else {
                self.shared = None;
                self.finish_chunk();
                return !self.chunks.is_empty();
            };
            let reused = self
                .shared
                .take()
                .filter(|(last, _)| same_part && last.gets_the_same_as(&receiver))
                .map(|(_, encoded)| encoded);
            let encoded =
                reused.unwrap_or_else(|| delivery.messages(&receiver).iter().map(encode_events).collect());
            for message in &encoded {
                self.put_response(&header, receiver.watch_id, message);
            }
            self.shared = Some((receiver, encoded));
        }
        self.finish_chunk();
        self.delivery = Some(delivery);
        true
    }

    fn put_response(&mut self, header: &[u8], watch_id: i64, encoded: &Encoded) {
        // gRPC's prefix, then the message: header, watch id, fragment and events.
        let id_bytes = if watch_id == 0 { 0 } else { 1 + prost::length_delimiter_len(watch_id as usize) };
        let length = 2 + header.len() + id_bytes + encoded.bytes;
        self.chunk.reserve(5 + length.min(limits::WATCH_CHUNK_BYTES));
        self.chunk.put_u8(0);
        self.chunk.put_u32(length as u32);
        // A header is far shorter than 128 bytes, so its length is one byte.
        self.chunk.put_slice(&[1 << 3 | 2, header.len() as u8]);
        self.chunk.put_slice(header);
        if watch_id != 0 {
            self.chunk.put_u8(WATCH_ID_TAG);
            put_varint(&mut self.chunk, watch_id as u64);
        }
        for piece in &encoded.pieces {
            if piece.len() < limits::WATCH_CHUNK_BYTES {
                self.chunk.put_slice(piece);
            } else {
                self.finish_chunk();
                self.chunks.push_back(piece.clone());
            }
        }
    }

    fn finish_chunk(&mut self) {
        if !self.chunk.is_empty() {
            self.chunks.push_back(self.chunk.split().freeze());
            self.chunk = BytesMut::new();
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.api.watch_method.handled(self.code as i32);
    }
}

/// Events as they go into a response, small ones together.
fn encode_events(message: &Message) -> Encoded {
    let (mut pieces, mut now, mut bytes) = (Vec::new(), BytesMut::new(), 0);
    if message.is_fragment {
        now.put_slice(&FRAGMENT);
    }
    for outgoing in &message.events {
        now.put_u8(EVENTS_TAG);
        put_varint(&mut now, outgoing.bytes() as u64);
        for part in [Some(outgoing.event.encoded()), outgoing.previous.as_ref()].into_iter().flatten() {
            if part.len() < limits::WATCH_CHUNK_BYTES {
                now.put_slice(part);
            } else {
                bytes += now.len() + part.len();
                pieces.extend([now.split().freeze(), part.clone()]);
            }
        }
        if now.len() >= limits::WATCH_CHUNK_BYTES {
            bytes += now.len();
            pieces.push(now.split().freeze());
        }
    }
    bytes += now.len();
    pieces.push(now.freeze());
    Encoded { pieces, bytes }
}

async fn next_request(
    requests: &mut Option<Messages<RequestBody>>,
) -> Result<Option<(pb::WatchRequest, usize)>, Failure> {
    match requests {
        Some(requests) => requests.next().await,
        None => Ok(None),
    }
}

async fn auth_changed(changes: &mut Option<tokio::sync::watch::Receiver<u64>>) {
    let Some(changes) = changes else { return std::future::pending().await };
    // Seen, it stays changed until it is looked at.
    match changes.has_changed() {
        Ok(true) => {}
        Ok(false) => match changes.changed().await {
            Ok(()) => changes.mark_changed(),
            Err(_) => std::future::pending().await,
        },
        Err(_) => std::future::pending().await,
    }
}

/// Returns when the client wants a leader and there was none for some time.
pub(super) async fn no_leader(api: &Shared, looks: &mut Option<Interval>, leaderless: &mut u32) {
    let Some(looks) = looks else { return std::future::pending().await };
    loop {
        looks.tick().await;
        if api.store.position().leader.is_some() {
            *leaderless = 0;
        } else {
            *leaderless += 1;
            if *leaderless >= limits::LEADERLESS_LOOKS {
                return;
            }
        }
    }
}

fn create_request(create: &pb::WatchCreateRequest) -> Create {
    let has = |filter| create.filters.contains(&i32::from(filter));
    let options = WatchOptions::default()
        .with(WatchOptions::NO_PUT, has(pb::watch_create_request::FilterType::Noput))
        .with(WatchOptions::NO_DELETE, has(pb::watch_create_request::FilterType::Nodelete))
        .with(WatchOptions::PREVIOUS, create.prev_kv)
        .with(WatchOptions::FRAGMENT, create.fragment)
        .with(WatchOptions::PROGRESS, create.progress_notify);
    Create {
        keys: WatchedKeys::new(&create.key, &create.range_end),
        watch_id: create.watch_id,
        start_revision: create.start_revision,
        options,
    }
}

fn refusal(reason: Refused) -> &'static str {
    match reason {
        Refused::EmptyRange => texts::WATCH_EMPTY_RANGE,
        Refused::DuplicateId => texts::WATCH_DUPLICATE_ID,
        Refused::NegativeStart => texts::COMPACTED.text,
        Refused::TooMany => texts::TOO_MANY_REQUESTS.text,
    }
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
