//! etcd's lock service.

use bytes::Bytes;

use super::permission::{self, Caller};
use super::queue::{self, At};
use super::{Shared, texts};
use crate::mvcc::check;
use crate::mvcc::command::{Command, DeleteRange, Request};
use crate::mvcc::queue::Place;
use crate::proto::etcdserverpb::ResponseHeader;
use crate::proto::v3lockpb as pb;
use crate::transport::{Failure, grpc};

/// Waits until the lock is the caller's.
pub(super) async fn lock(
    api: &Shared,
    caller: &Caller,
    request: pb::LockRequest,
    size: usize,
) -> Result<Bytes, Failure> {
    queue::check_size(api, size, &request.name)?;
    let place = Place::new(&request.name, queue::lease(api, caller, request.lease).await?);
    let by = queue::may_run(api, caller, &place.join(Bytes::new())).await?;
    // Not kept while it waits: it is part of a whole message.
    drop(request);
    let key = place.key().clone();
    let held = api.queues.stand(api, by, place, None).await?;
    Ok(grpc::encode(&pb::LockResponse { header: Some(header(api, held.first)), key }))
}

/// Deletes the key that a lock is held by.
pub(super) async fn unlock(
    api: &Shared,
    caller: &Caller,
    request: pb::UnlockRequest,
) -> Result<Bytes, Failure> {
    check::key(&request.key).map_err(|invalid| queue::without_code(texts::invalid(invalid)))?;
    let delete = DeleteRange { key: request.key, ..DeleteRange::default() };
    let command = Command::DeleteRange(delete);
    let by = permission::check(api, caller, |state, by| state.may_run(by, &command)).await;
    let deleted = api.store.propose(Request::of(by.map_err(queue::without_code)?, command)).await;
    let (reply, term) = deleted.map_err(|error| queue::failed(&error))?;
    let header = header(api, At { revision: reply.revision, term });
    Ok(grpc::encode(&pb::UnlockResponse { header: Some(header) }))
}

/// The header of an answer.
pub(super) fn header(api: &Shared, at: At) -> ResponseHeader {
    api.headers.at(&api.store.position(), at.revision, at.term)
}
