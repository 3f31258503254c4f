//! A snapshot of this member's store, in pieces as etcd sends it.

use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use parking_lot::Mutex;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tonic::server::ServerStreamingService;
use tonic::{Code, Status};

use super::permission::{self, Rule};
use super::{STORAGE_VERSION, Shared, refused, texts};
use crate::error::Error;
use crate::limits;
use crate::proto::etcdserverpb as pb;
use crate::raft::backup::Backup;
use crate::raft::store::Position;
use crate::transport::body::until;
use crate::transport::{AnswerBody, Failure, RequestBody, grpc};

/// Sends a snapshot, as fast as the client takes it and this member serves.
pub(super) async fn snapshot(
    api: &Arc<Shared>,
    request: http::Request<RequestBody>,
) -> http::Response<AnswerBody> {
    let admitted = permission::admit(api, Rule::Root, request.headers(), request.extensions()).await;
    if let Err(failure) = admitted {
        refused::count(api, &failure, false);
        return grpc::failure(&failure);
    }
    let codec = tonic_prost::ProstCodec::<pb::SnapshotResponse, pb::SnapshotRequest>::default();
    let mut grpc = tonic::server::Grpc::new(codec);
    let method = api.snapshot_method.clone();
    method.started();
    let response = grpc.server_streaming(Snapshot(Arc::clone(api)), request).await;
    let stopped = api.stopping.clone().cancelled_owned();
    response.map(|body| AnswerBody::Stream(until(body, stopped, texts::STOPPED.into())))
}

struct Snapshot(Arc<Shared>);

type Pieces = Pin<Box<dyn Stream<Item = Result<pb::SnapshotResponse, Status>> + Send>>;
type Begun = Pin<Box<dyn Future<Output = Result<tonic::Response<Pieces>, Status>> + Send>>;

impl ServerStreamingService<pb::SnapshotRequest> for Snapshot {
    type Response = pb::SnapshotResponse;
    type ResponseStream = Pieces;
    type Future = Begun;

    fn call(&mut self, _: tonic::Request<pb::SnapshotRequest>) -> Self::Future {
        let api = Arc::clone(&self.0);
        Box::pin(async move {
            let begun = api.store.backup().await.map_err(|error| {
                let status = status(&error);
                api.snapshot_method.handled(status.code() as i32);
                status
            })?;
            let pieces = futures::stream::unfold(Some(Sending::new(api, begun)), next);
            Ok(tonic::Response::new(Box::pin(pieces) as Pieces))
        })
    }
}

/// What is being sent, between two pieces. A client that takes none for too long loses it: its file takes room on the disk, and a client
/// that does not read is not heard of again.
struct Held {
    /// `None` while a piece is made of it, and when its time is over.
    backup: Option<Backup>,
    deadline: Instant,
}

struct Sending {
    api: Arc<Shared>,
    held: Arc<Mutex<Held>>,
    /// Where the store stood, for the headers.
    position: Position,
    /// How the call ends, as far as is known.
    code: Code,
    watchdog: AbortHandle,
}

impl Sending {
    fn new(api: Arc<Shared>, backup: Backup) -> Self {
        let position = api.store.position();
        let deadline = Instant::now() + limits::SNAPSHOT_CLIENT_TIMEOUT;
        let held = Arc::new(Mutex::new(Held { backup: Some(backup), deadline }));
        let watchdog = tokio::spawn(give_up(held.clone())).abort_handle();
        Self { api, held, position, code: Code::Cancelled, watchdog }
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.watchdog.abort();
        self.api.snapshot_method.handled(self.code as i32);
    }
}

/// Lets go of a snapshot whose time is over.
async fn give_up(held: Arc<Mutex<Held>>) {
    loop {
        let deadline = held.lock().deadline;
        tokio::time::sleep_until(deadline).await;
        let mut held = held.lock();
        if held.deadline <= Instant::now() {
            held.backup = None;
            return;
        }
    }
}

fn status(error: &Error) -> Status {
    let Failure { code, text } = texts::failure(error);
    Status::new(code, text)
}

/// Asked for when the client has room for more.
async fn next(sending: Option<Sending>) -> Option<(Result<pb::SnapshotResponse, Status>, Option<Sending>)> {
    let mut sending = sending?;
    let backup = sending.held.lock().backup.take();
    let Some(mut backup) = backup else {
        sending.code = Code::DeadlineExceeded;
        return Some((Err(Status::new(sending.code, "the snapshot was not taken in time")), None));
    };
    match backup.next().await {
        Ok(Some(piece)) => {
            let header = Some(sending.api.headers.at(&sending.position, backup.revision(), 0));
            let deadline = Instant::now() + limits::SNAPSHOT_CLIENT_TIMEOUT;
            *sending.held.lock() = Held { backup: Some(backup), deadline };
            sending.api.metrics.client_bytes_sent.inc_by(piece.blob.len() as u64);
            let response = pb::SnapshotResponse {
                header,
                remaining_bytes: piece.remaining,
                blob: piece.blob,
                version: STORAGE_VERSION.into(),
            };
            Some((Ok(response), Some(sending)))
        }
        Ok(None) => {
            sending.code = Code::Ok;
            None
        }
        Err(error) => {
            let status = status(&error);
            sending.code = status.code();
            Some((Err(status), None))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_nobody_takes_is_let_go_and_what_is_taken_is_not() {
        let backup = || Some(Backup::of_bytes(bytes::Bytes::from_static(b"snapshot"), 1));
        let deadline = || Instant::now() + limits::SNAPSHOT_CLIENT_TIMEOUT;
        let held = Arc::new(Mutex::new(Held { backup: backup(), deadline: deadline() }));
        let watchdog = tokio::spawn(give_up(held.clone()));
        for _ in 0..3 {
            tokio::time::sleep(limits::SNAPSHOT_CLIENT_TIMEOUT / 2).await;
            *held.lock() = Held { backup: backup(), deadline: deadline() };
        }
        assert!(held.lock().backup.is_some() && !watchdog.is_finished());
        tokio::time::timeout(2 * limits::SNAPSHOT_CLIENT_TIMEOUT, watchdog).await.unwrap().unwrap();
        assert!(held.lock().backup.is_none());
    }
}
