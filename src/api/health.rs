//! `grpc.health.v1`: whether this member serves. Only the service `""` is known, as in etcd.

use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use tokio::sync::watch;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::probe::Probe;

/// The service.
pub(super) struct HealthService {
    pub(super) probe: Arc<dyn Probe>,
}

fn answer(serving: bool) -> HealthCheckResponse {
    let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl Health for HealthService {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        if !request.get_ref().service.is_empty() {
            return Err(Status::not_found("unknown service"));
        }
        let serving = *self.probe.serving().borrow();
        Ok(Response::new(answer(serving)))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        if !request.get_ref().service.is_empty() {
            let unknown = HealthCheckResponse { status: ServingStatus::ServiceUnknown.into() };
            let stream = futures::stream::iter([Ok(unknown)]).chain(futures::stream::pending());
            return Ok(Response::new(Box::pin(stream)));
        }
        Ok(Response::new(Box::pin(changes(self.probe.serving()))))
    }
}

/// The state now, and again whenever it is another one.
fn changes(serving: watch::Receiver<bool>) -> impl Stream<Item = Result<HealthCheckResponse, Status>> + Send {
    futures::stream::unfold((serving, None), |(mut serving, mut last)| async move {
        loop {
            let now = *serving.borrow_and_update();
            if last != Some(now) {
                last = Some(now);
                return Some((Ok(answer(now)), (serving, last)));
            }
            serving.changed().await.ok()?;
        }
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

    use super::*;

    #[tokio::test]
    async fn watchers_hear_of_changes_only() {
        let (sender, receiver) = watch::channel(false);
        let mut changes = Box::pin(changes(receiver));
        let mut next = async || changes.next().await.map(|answer| answer.unwrap().status);
        assert_eq!(next().await, Some(ServingStatus::NotServing.into()));
        sender.send(false).unwrap();
        sender.send(true).unwrap();
        assert_eq!(next().await, Some(ServingStatus::Serving.into()));
        drop(sender);
        assert_eq!(next().await, None);
    }
}
