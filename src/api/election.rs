//! etcd's election service.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use futures::Stream;
use prost::Message as _;
use tokio::sync::OwnedSemaphorePermit;

use super::lock::header;
use super::permission::{self, Caller};
use super::queue::{self, At};
use super::{Shared, convert, kv, texts};
use crate::mvcc::State;
use crate::mvcc::auth::{By, Identity};
use crate::mvcc::command::RangeResult;
use crate::mvcc::queue::{self as keys, Place};
use crate::mvcc::{EventKind, KeyValue, WatchOptions, WatchedKeys, check};
use crate::proto::mvccpb;
use crate::proto::v3electionpb as pb;
use crate::transport::answers::Answers;
use crate::transport::{Failure, grpc};
use crate::watch::{Budget, Create, Delivery, Session, Update};

/// Waits until the caller leads.
pub(super) async fn campaign(
    api: &Shared,
    caller: &Caller,
    request: pb::CampaignRequest,
    size: usize,
) -> Result<Bytes, Failure> {
    queue::check_size(api, size, &request.name)?;
    let lease = queue::lease(api, caller, request.lease).await?;
    let place = Place::new(&request.name, lease);
    let by = queue::may_run(api, caller, &place.join(Bytes::new())).await?;
    // Copied: what waits is not to keep the whole message.
    let name = Bytes::copy_from_slice(&request.name);
    let value = Bytes::copy_from_slice(&request.value);
    drop(request);
    let key = place.key().clone();
    let held = api.queues.stand(api, by, place, Some(value)).await?;
    let leader = pb::LeaderKey { name, key, rev: held.created, lease };
    // As etcd's, that of the campaign's begin.
    Ok(grpc::encode(&pb::CampaignResponse { header: Some(header(api, held.joined)), leader: Some(leader) }))
}

/// Gives the leader's key a new value.
pub(super) async fn proclaim(
    api: &Shared,
    caller: &Caller,
    request: pb::ProclaimRequest,
    size: usize,
) -> Result<Bytes, Failure> {
    convert::check_size(size, api.requests.request_bytes).map_err(queue::without_code)?;
    let leader = given(request.leader)?;
    let lease = queue::lease(api, caller, leader.lease).await?;
    let write = keys::rewrite(&leader.key, leader.rev, request.value, lease);
    let by = queue::may_run(api, caller, &write).await?;
    let (result, at) = queue::transact(&api.store, by, write).await?;
    if !result.succeeded {
        return Err(texts::ELECTION_NOT_LEADER.into());
    }
    Ok(grpc::encode(&pb::ProclaimResponse { header: Some(header(api, at)) }))
}

/// Ends leadership. Of one that has ended already that is no error.
pub(super) async fn resign(
    api: &Shared,
    caller: &Caller,
    request: pb::ResignRequest,
) -> Result<Bytes, Failure> {
    let leader = given(request.leader)?;
    let leave = keys::leave(&leader.key, leader.rev);
    let by = queue::may_run(api, caller, &leave).await?;
    let (_, at) = queue::transact(&api.store, by, leave).await?;
    Ok(grpc::encode(&pb::ResignResponse { header: Some(header(api, at)) }))
}

/// The leader that a request names.
fn given(leader: Option<pb::LeaderKey>) -> Result<pb::LeaderKey, Failure> {
    let leader = leader.ok_or_else(|| Failure::from(texts::ELECTION_LEADER_MISSING))?;
    check::key(&leader.key).map_err(|invalid| queue::without_code(texts::invalid(invalid)))?;
    Ok(leader)
}

/// Who leads.
pub(super) async fn leader(
    api: &Shared,
    caller: &Caller,
    answers: &Answers,
    request: pb::LeaderRequest,
) -> Result<Bytes, Failure> {
    may_look(api, caller, &request.name).await?;
    let (found, revision) = first(api, answers, &request.name).await?;
    let kv = keys::holder(found.kvs).ok_or_else(|| Failure::from(texts::ELECTION_NO_LEADER))?;
    Ok(response(api, revision, convert::key_value(kv)))
}

/// Who calls, if it may see the whole queue of `name`.
async fn may_look(api: &Shared, caller: &Caller, name: &[u8]) -> Result<Identity, Failure> {
    let (key, end) = keys::all(name);
    let checked = permission::check(api, caller, |state, by| state.auth().may_read(by, &key, &end)).await;
    checked.map_err(queue::without_code)
}

/// The first in the queue, with everything that was acknowledged before; and the revision of the store.
async fn first(api: &Shared, answers: &Answers, name: &[u8]) -> Result<(RangeResult, i64), Failure> {
    api.store.barrier().await.map_err(|error| queue::failed(&error))?;
    let _turn = kv::turn(answers, 1).await?;
    api.store.range(keys::first(name)).await.map_err(|error| queue::failed(&error))
}

fn response(api: &Shared, revision: i64, kv: mvccpb::KeyValue) -> Bytes {
    let header = header(api, At { revision, term: 0 });
    grpc::encode(&pb::LeaderResponse { header: Some(header), kv: Some(kv) })
}

/// The leader and its values, then those of the next one, and so on. No value of a leader is left out from when it was first seen.
/// Its watchers count towards `budget`.
pub(super) fn observe(
    api: Arc<Shared>,
    caller: Caller,
    answers: Answers,
    budget: Budget,
    name: &[u8],
) -> impl Stream<Item = Result<Bytes, Failure>> + Send + use<> {
    let name = Bytes::copy_from_slice(name);
    let room = api.queues.enter();
    let observer = Observer {
        api,
        caller,
        by: None,
        answers,
        budget,
        name,
        room,
        seen: VecDeque::new(),
        watching: Watching::Nobody,
    };
    futures::stream::try_unfold(observer, |mut observer| async move {
        let message = observer.next().await?;
        Ok(Some((message, observer)))
    })
}

struct Observer {
    api: Arc<Shared>,
    caller: Caller,
    /// Who that is, once it was looked at.
    by: Option<Identity>,
    answers: Answers,
    budget: Budget,
    name: Bytes,
    /// `None`: there are too many.
    room: Option<OwnedSemaphorePermit>,
    /// What is to be told next.
    seen: VecDeque<Bytes>,
    watching: Watching,
}

/// What is watched.
enum Watching {
    /// Who leads has to be looked up.
    Nobody,
    /// The queue, because it was empty.
    Queue(Session),
    /// The leader's key.
    Leader(Session),
}

impl Observer {
    async fn next(&mut self) -> Result<Bytes, Failure> {
        loop {
            self.check().await?;
            if let Some(message) = self.seen.pop_front() {
                return Ok(message);
            }
            if self.room.is_none() {
                return Err(texts::TOO_MANY_REQUESTS.into());
            }
            let update = match &mut self.watching {
                Watching::Nobody => {
                    self.look().await?;
                    continue;
                }
                Watching::Queue(session) | Watching::Leader(session) => session.next().await,
            };
            match update.map_err(|_| Failure::from(texts::STOPPED))? {
                Update::Created { .. } | Update::Progress { .. } => {}
                Update::Events(delivery) => self.take(delivery)?,
                Update::Refused { .. } => return Err(texts::TOO_MANY_REQUESTS.into()),
                // What was to be watched is compacted, or is too much: it is looked up again.
                _ => self.watching = Watching::Nobody,
            }
        }
    }

    /// Whether the caller may, or may still, see the queue.
    async fn check(&mut self) -> Result<(), Failure> {
        let Some(by) = &self.by else {
            self.by = Some(may_look(&self.api, &self.caller, &self.name).await?);
            return Ok(());
        };
        let (key, end) = keys::all(&self.name);
        let goes_on = |state: &State, _: By<'_>| state.auth().may_go_on_reading(&by.user, &key, &end);
        permission::check_here(&self.api, by, goes_on)
            .map_err(|refusal| queue::without_code(texts::refusal(refusal)))
    }

    /// Tells who leads, and watches that one; or the queue until somebody does.
    async fn look(&mut self) -> Result<(), Failure> {
        let (found, revision) = first(&self.api, &self.answers, &self.name).await?;
        if let Some(kv) = keys::holder(found.kvs) {
            return self.follow(convert::key_value(kv), revision);
        }
        let (key, end) = keys::all(&self.name);
        self.watching = Watching::Queue(self.watch(&key, &end, revision + 1, WatchOptions::NO_DELETE)?);
        Ok(())
    }

    /// Tells a leader, and watches its key after `revision`.
    fn follow(&mut self, kv: mvccpb::KeyValue, revision: i64) -> Result<(), Failure> {
        let session = self.watch(&kv.key, b"", revision + 1, WatchOptions::default())?;
        self.watching = Watching::Leader(session);
        self.seen.push_back(response(&self.api, revision, kv));
        Ok(())
    }

    fn watch(
        &self,
        key: &[u8],
        end: &[u8],
        start_revision: i64,
        options: WatchOptions,
    ) -> Result<Session, Failure> {
        let session = self.api.hub.open(self.budget.clone());
        let mut session = session.ok_or_else(|| Failure::from(texts::STOPPED))?;
        session.create(Create { keys: WatchedKeys::new(key, end), watch_id: 0, start_revision, options });
        Ok(session)
    }

    fn take(&mut self, delivery: Delivery) -> Result<(), Failure> {
        let revision = delivery.revision;
        for (kind, kv) in changes(delivery)? {
            match (&self.watching, kind) {
                (Watching::Queue(_), EventKind::Put) => {
                    // The first that came leads; what came with it, its own watcher tells.
                    let at = kv.mod_revision;
                    return self.follow(kv, at);
                }
                (Watching::Leader(_), EventKind::Put) => {
                    self.seen.push_back(response(&self.api, revision, kv));
                }
                (Watching::Leader(_), EventKind::Delete) => {
                    self.watching = Watching::Nobody;
                    return Ok(());
                }
                (Watching::Queue(_), EventKind::Delete) | (Watching::Nobody, _) => {}
            }
        }
        Ok(())
    }
}

/// The changes in a delivery to one watcher, in order.
fn changes(mut delivery: Delivery) -> Result<Vec<(EventKind, mvccpb::KeyValue)>, Failure> {
    let mut changes = Vec::new();
    while let Some((receiver, _)) = delivery.next_receiver() {
        for message in delivery.messages(&receiver) {
            for outgoing in &message.events {
                let event = mvccpb::Event::decode(outgoing.event.encoded().clone());
                let event = event.map_err(|_| convert::unexpected())?;
                let kv = event.kv.unwrap_or_else(|| convert::key_value(KeyValue::default()));
                changes.push((outgoing.event.kind, kv));
            }
        }
    }
    Ok(changes)
}
