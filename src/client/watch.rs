//! Watching keys: one [`Watcher`] for every kind of client.
//!
//! A remote watcher resumes by itself at the revision after the last that it handed out, at another endpoint if it must, for as long
//! as it is held. So no event is missed and none comes twice. Its end is compaction (it wants what is gone), or an answer that
//! trying again would not change.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::{Code, Streaming};

use super::failure::{self, Kind};
use super::{Connection, Remote, credentials, retry, wire};
use crate::error::Error;
use crate::limits;
use crate::mvcc::{EventKind, KeyValue};
use crate::proto::etcdserverpb as pb;

use pb::watch_create_request::FilterType;
use pb::watch_request::RequestUnion;

/// What to watch.
#[allow(clippy::struct_excessive_bools)] // They are etcd's, and independent of each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watch {
    /// The key, or the first one of a range.
    pub key: Bytes,
    /// As in [`Range`](super::Range): empty for one key, `"\0"` for every key from `key` on.
    pub range_end: Bytes,
    /// The first revision; 0: what comes after now.
    pub start_revision: i64,
    /// Each event with the pair before it.
    pub prev_kv: bool,
    /// Tell from time to time how far the store is while nothing happens.
    pub progress: bool,
    /// No events of writes.
    pub no_put: bool,
    /// No events of deletions.
    pub no_delete: bool,
}

/// One change of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchEvent {
    /// What happened.
    pub kind: EventKind,
    /// The pair after it; for a deletion only key and mod revision.
    pub kv: KeyValue,
    /// The pair before it, if it was asked for and was not compacted.
    pub previous: Option<KeyValue>,
}

impl WatchEvent {
    /// The key was not there before.
    pub fn is_create(&self) -> bool {
        self.kind == EventKind::Put && self.kv.create_revision == self.kv.mod_revision
    }
}

/// What a watcher says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Watched {
    /// It watches; the store is at this revision. Said once, first.
    Began(i64),
    /// All events of one or several whole revisions, in order.
    Events(Vec<WatchEvent>),
    /// All events up to this revision were handed out.
    Progress(i64),
    /// What it wants next was compacted at this revision. Said last: read the keys anew, and watch from there.
    Compacted(i64),
}

/// A watch. Dropping it ends it.
pub struct Watcher {
    items: BoxStream<'static, Result<Watched, Error>>,
    ask: mpsc::Sender<()>,
}

impl Watcher {
    pub(super) fn new(items: BoxStream<'static, Result<Watched, Error>>, ask: mpsc::Sender<()>) -> Self {
        Self { items, ask }
    }

    /// What comes next; `None` after the end, which is [`Watched::Compacted`] or an error.
    pub async fn next(&mut self) -> Option<Result<Watched, Error>> {
        self.items.next().await
    }

    /// Asks the member how far it is: [`Watched::Progress`] follows, unless the watch has not caught up or its start is not reached.
    /// Asking again before an answer came changes nothing.
    pub fn ask_progress(&self) {
        // Full: it was asked already. Closed: the end is near.
        let _ = self.ask.try_send(());
    }
}

impl Stream for Watcher {
    type Item = Result<Watched, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.items.as_mut().poll_next(cx)
    }
}

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watcher").finish_non_exhaustive()
    }
}

/// An event from the wire.
pub(super) fn event(event: crate::proto::mvccpb::Event) -> WatchEvent {
    let kind = if event.r#type == 0 { EventKind::Put } else { EventKind::Delete };
    WatchEvent {
        kind,
        kv: event.kv.map(wire::key_value).unwrap_or_default(),
        previous: event.prev_kv.map(wire::key_value),
    }
}

/// A watcher of a cluster.
pub(super) fn remote(remote: Remote, watch: Watch) -> Watcher {
    let (ask, asked) = mpsc::channel(1);
    let following = Following {
        next: watch.start_revision,
        first_by: Some(Instant::now() + remote.timeout()),
        remote,
        watch,
        asked,
        open: None,
        attempt: 0,
        fragments: Vec::new(),
        has_ended: false,
    };
    let items = futures::stream::unfold(following, |mut following| async move {
        let item = following.next().await?;
        Some((item, following))
    });
    Watcher::new(items.boxed(), ask)
}

/// A watch of a cluster, wherever it is served now.
struct Following {
    remote: Remote,
    watch: Watch,
    /// The first revision that was not handed out; 0: none is known.
    next: i64,
    /// Until when it must have begun, if it has not.
    first_by: Option<Instant>,
    asked: mpsc::Receiver<()>,
    open: Option<Open>,
    /// Attempts since a member last said anything.
    attempt: u32,
    /// Events of a revision whose other events follow.
    fragments: Vec<WatchEvent>,
    has_ended: bool,
}

/// The stream at one endpoint.
struct Open {
    endpoint: usize,
    requests: mpsc::Sender<pb::WatchRequest>,
    responses: Streaming<pb::WatchResponse>,
    /// It was said that the watcher is there.
    is_created: bool,
}

impl Following {
    async fn next(&mut self) -> Option<Result<Watched, Error>> {
        if self.has_ended {
            return None;
        }
        loop {
            let result = match self.receive().await {
                Ok(response) => self.take(response),
                Err(error) => self.lost(error).await.map(|()| None),
            };
            match result {
                Ok(None) => {}
                Ok(Some(item)) => {
                    self.has_ended = matches!(item, Watched::Compacted(_));
                    return Some(Ok(item));
                }
                Err(error) => {
                    self.has_ended = true;
                    return Some(Err(error));
                }
            }
        }
    }

    /// The next response, from a new stream if there is none.
    async fn receive(&mut self) -> Result<pb::WatchResponse, Error> {
        let limit = limits::CALLER_ATTEMPT_MIN.max(self.remote.timeout() / 4);
        if self.open.is_none() {
            let (endpoint, connection) =
                self.remote.choose().ok_or_else(|| Error::Invalid("no endpoints".into()))?;
            let opened = open(connection, &self.watch, self.next, limit).await;
            if opened.is_err() {
                self.remote.blame(endpoint, Some(Instant::now() + limits::CALLER_BLAME));
            }
            let (requests, responses) = opened?;
            self.fragments.clear();
            self.open = Some(Open { endpoint, requests, responses, is_created: false });
        }
        let Some(open) = &mut self.open else { return Err(Error::NoLeader) };
        loop {
            // A watch may be silent for ever, but not before it says that it is there.
            let patience = if open.is_created { Duration::MAX } else { limit };
            let message = tokio::time::timeout(patience, open.responses.message());
            let asked = async {
                match self.asked.recv().await {
                    Some(()) => {}
                    None => std::future::pending().await,
                }
            };
            let message = tokio::select! {
                message = message => message,
                () = asked, if open.is_created => {
                    let progress = RequestUnion::ProgressRequest(pb::WatchProgressRequest {});
                    // If it is full, it is asked already.
                    let _ = open.requests.try_send(pb::WatchRequest { request_union: Some(progress) });
                    continue;
                }
            };
            return match message {
                Ok(Ok(Some(response))) if token_is_void(&self.remote, &response) => {
                    Err(unavailable("the token is void"))
                }
                Ok(Ok(Some(response))) => Ok(response),
                Ok(Ok(None)) => Err(unavailable("the stream has ended")),
                Ok(Err(status)) => Err(failure::from_status(&status, Kind::Read, "a watched member")),
                Err(_) => Err(Error::TimedOut),
            };
        }
    }

    /// What a response means to the caller.
    fn take(&mut self, response: pb::WatchResponse) -> Result<Option<Watched>, Error> {
        let revision = response.header.as_ref().map_or(0, |header| header.revision);
        self.attempt = 0;
        if response.compact_revision > 0 {
            return Ok(Some(Watched::Compacted(response.compact_revision)));
        }
        if response.canceled {
            let code = match response.cancel_reason.as_str() {
                reason if reason.ends_with("has been compacted") => Code::OutOfRange,
                reason if reason.ends_with("permission denied") => Code::PermissionDenied,
                _ => Code::InvalidArgument,
            };
            let text = response.cancel_reason;
            return Err(Error::Remote { code: code as i32, text, outcome_unknown: false });
        }
        if response.created {
            if let Some(open) = &mut self.open {
                open.is_created = true;
                self.remote.blame(open.endpoint, None);
            }
            if self.next == 0 {
                self.next = revision + 1;
            }
            return Ok(self.first_by.take().map(|_| Watched::Began(revision)));
        }
        if response.events.is_empty() {
            // Nothing up to here is missing, so nothing needs to be looked for there again.
            self.next = self.next.max(revision + 1);
            return Ok(Some(Watched::Progress(revision)));
        }
        self.fragments.extend(response.events.into_iter().map(event));
        let Some(last) = self.fragments.last().filter(|_| !response.fragment) else { return Ok(None) };
        self.next = last.kv.mod_revision + 1;
        Ok(Some(Watched::Events(std::mem::take(&mut self.fragments))))
    }

    /// A stream was lost, or none could be had: pauses before the next try.
    async fn lost(&mut self, error: Error) -> Result<(), Error> {
        if let Some(open) = self.open.take() {
            self.remote.blame(open.endpoint, Some(Instant::now() + limits::CALLER_BLAME));
        }
        if !is_passing(&error) || self.first_by.is_some_and(|by| Instant::now() >= by) {
            return Err(error);
        }
        self.attempt += 1;
        let pause = self.remote.pause(self.attempt);
        tracing::debug!(%error, attempt = self.attempt, next = self.next, ?pause, "a watch goes on elsewhere");
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

/// Whether a watcher was refused for its token, and another one may be had: then that one is tried.
fn token_is_void(remote: &Remote, response: &pb::WatchResponse) -> bool {
    let Some(credentials) = remote.credentials() else { return false };
    let is_void = response.canceled && credentials::reason_refuses_token(&response.cancel_reason);
    if is_void {
        credentials.forget(credentials.token().as_ref());
    }
    is_void
}

fn unavailable(text: &str) -> Error {
    Error::Remote { code: Code::Unavailable as i32, text: text.into(), outcome_unknown: false }
}

/// Whether another stream may do better. What a broken connection looks like is not one code, and nothing is changed by watching.
fn is_passing(error: &Error) -> bool {
    let broken = |code| matches!(code, Code::Unknown | Code::Cancelled | Code::Internal);
    retry::is_safe(error, Kind::Read)
        || matches!(error, Error::Remote { code, .. } if broken(Code::from_i32(*code)))
}

/// Opens a stream with one watcher.
async fn open(
    connection: Connection,
    watch: &Watch,
    start_revision: i64,
    limit: Duration,
) -> Result<(mpsc::Sender<pb::WatchRequest>, Streaming<pb::WatchResponse>), Error> {
    let filters = [(watch.no_put, FilterType::Noput), (watch.no_delete, FilterType::Nodelete)];
    let create = pb::WatchCreateRequest {
        key: watch.key.clone(),
        range_end: watch.range_end.clone(),
        start_revision,
        progress_notify: watch.progress,
        filters: filters.into_iter().filter(|(on, _)| *on).map(|(_, filter)| filter.into()).collect(),
        prev_kv: watch.prev_kv,
        watch_id: 0,
        fragment: true,
    };
    let (requests, sent) = mpsc::channel(2);
    // There is room: it is new.
    let _ = requests.try_send(pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) });
    if let Some(credentials) = connection.credentials() {
        connection.authenticate_if_needed(credentials, limit).await?;
    }
    let responses = connection.watch(sent, limit).await?;
    Ok((requests, responses))
}
