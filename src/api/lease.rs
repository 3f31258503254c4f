//! etcd's Lease service.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use tonic::server::StreamingService;
use tonic::{Status, Streaming};

use super::permission::{self, Caller};
use super::{Shared, convert, kv, refused, texts};
use crate::limits;
use crate::mvcc::State;
use crate::mvcc::auth::By;
use crate::mvcc::command::{Command, Lifetime, Outcome, Request};
use crate::mvcc::lease::LeaseCommand;
use crate::proto::etcdserverpb as pb;
use crate::raft::lease::LeaseQuestion;
use crate::transport::answers::Answers;
use crate::transport::body::until;
use crate::transport::{AnswerBody, Failure, RequestBody, grpc};

/// Makes a lease. What the client asks for is raised to the least time that a leader can keep; what it is granted is in the answer.
pub(super) async fn grant(
    api: &Shared,
    caller: &Caller,
    request: pb::LeaseGrantRequest,
) -> Result<Bytes, Failure> {
    let by = caller.identity(api).await?;
    let granted = api.store.grant(by, request.id, request.ttl).await;
    let (reply, term) = granted.map_err(|error| texts::failure(&error))?;
    let Outcome::Granted { id, ttl } = reply.outcome else { return Err(convert::unexpected()) };
    let header = Some(api.headers.at(&api.store.position(), reply.revision, term));
    Ok(grpc::encode(&pb::LeaseGrantResponse { header, id, ttl, error: String::new() }))
}

/// Ends a lease, and deletes the keys that hang on it.
pub(super) async fn revoke(
    api: &Shared,
    caller: &Caller,
    request: pb::LeaseRevokeRequest,
) -> Result<Bytes, Failure> {
    let command = Command::Lease(LeaseCommand::Revoke { id: request.id });
    let by = permission::check(api, caller, |state, by| state.may_run(by, &command)).await?;
    let revoked = api.store.propose(Request::of(by, command)).await;
    let (reply, term) = revoked.map_err(|error| texts::failure(&error))?;
    let header = Some(api.headers.at(&api.store.position(), reply.revision, term));
    Ok(grpc::encode(&pb::LeaseRevokeResponse { header }))
}

/// How much time a lease has left, as its leader knows it.
pub(super) async fn time_to_live(
    api: &Shared,
    caller: &Caller,
    answers: &Answers,
    request: pb::LeaseTimeToLiveRequest,
) -> Result<Bytes, Failure> {
    let pb::LeaseTimeToLiveRequest { id, keys } = request;
    // Only who is told of keys must be permitted to read them.
    let may_see = |state: &State, by: By<'_>| if keys { state.may_see_lease(by, id) } else { Ok(()) };
    let by = permission::check(api, caller, may_see).await?;
    let question = LeaseQuestion { id, renew: false };
    let Lifetime { ttl, granted } =
        api.store.lifetime(question).await.map_err(|error| texts::failure(&error))?;
    let share = if keys { limits::LARGE_ANSWER_SHARE } else { 0 };
    let _turn = kv::turn(answers, share).await?;
    let names = if keys && ttl >= 0 { api.store.lease_keys(id) } else { Vec::new() };
    // Others may have hung keys on it meanwhile.
    if keys {
        let may_read =
            |state: &State, by: By<'_>| names.iter().try_for_each(|key| state.auth().may_read(by, key, &[]));
        permission::check_here(api, &by, may_read).map_err(texts::refusal)?;
    }
    let position = api.store.position();
    let header = Some(api.headers.at(&position, position.revision, 0));
    let response = pb::LeaseTimeToLiveResponse { header, id, ttl, granted_ttl: granted, keys: names };
    Ok(answers.count(grpc::encode(&response)))
}

/// All leases.
pub(super) async fn leases(api: &Shared, caller: &Caller, answers: &Answers) -> Result<Bytes, Failure> {
    api.store.barrier().await.map_err(|error| texts::failure(&error))?;
    let by = permission::check(api, caller, State::may_see_leases).await?;
    let _turn = kv::turn(answers, limits::LARGE_ANSWER_SHARE).await?;
    let leases = api.store.leases().into_iter().map(|id| pb::LeaseStatus { id }).collect();
    permission::unchanged(api, &by)?;
    let position = api.store.position();
    let header = Some(api.headers.at(&position, position.revision, 0));
    Ok(answers.count(grpc::encode(&pb::LeaseLeasesResponse { header, leases })))
}

/// Keeps leases alive, as long as the client asks and this member serves.
pub(super) async fn keep_alive(
    api: &Arc<Shared>,
    request: http::Request<RequestBody>,
) -> http::Response<AnswerBody> {
    let codec = tonic_prost::ProstCodec::<pb::LeaseKeepAliveResponse, pb::LeaseKeepAliveRequest>::default();
    let mut grpc = tonic::server::Grpc::new(codec);
    let caller = Arc::new(Caller::of(request.headers(), request.extensions()));
    let response = grpc.streaming(KeepAlive(Arc::clone(api), caller), request).await;
    let stopped = api.stopping.clone().cancelled_owned();
    response.map(|body| AnswerBody::Stream(until(body, stopped, texts::STOPPED.into())))
}

/// One stream of keep-alives. Answers keep the order of the requests, of which [`limits::KEEP_ALIVES_IN_FLIGHT`] are on their way at a
/// time. One that cannot be answered ends the stream, as in etcd: its client opens another one, at a member that can.
struct KeepAlive(Arc<Shared>, Arc<Caller>);

type KeepAlives = Pin<Box<dyn Stream<Item = Result<pb::LeaseKeepAliveResponse, Status>> + Send>>;

impl StreamingService<pb::LeaseKeepAliveRequest> for KeepAlive {
    type Response = pb::LeaseKeepAliveResponse;
    type ResponseStream = KeepAlives;
    type Future = std::future::Ready<Result<tonic::Response<KeepAlives>, Status>>;

    fn call(&mut self, request: tonic::Request<Streaming<pb::LeaseKeepAliveRequest>>) -> Self::Future {
        let (api, caller) = (Arc::clone(&self.0), Arc::clone(&self.1));
        let answers = request
            .into_inner()
            .map(move |request| {
                let (api, caller) = (Arc::clone(&api), Arc::clone(&caller));
                async move { renew(&api, &caller, request?.id).await }
            })
            .buffered(limits::KEEP_ALIVES_IN_FLIGHT);
        // After one that failed nothing follows.
        let answers = answers.scan(false, |failed, answer| {
            let last = std::mem::replace(failed, answer.is_err());
            std::future::ready((!last).then_some(answer))
        });
        std::future::ready(Ok(tonic::Response::new(Box::pin(answers))))
    }
}

async fn renew(api: &Shared, caller: &Caller, id: i64) -> Result<pb::LeaseKeepAliveResponse, Status> {
    let status = |Failure { code, text }| Status::new(code, text);
    let may_keep = |state: &State, by: By<'_>| {
        state.auth().is_somebody(by)?;
        state.may_keep_lease(by, id)
    };
    permission::check(api, caller, may_keep).await.map_err(|failure| {
        refused::count(api, &failure, false);
        status(failure)
    })?;
    // Before the renewal, as etcd fills it: a client may take its revision for one at which the lease was there.
    let position = api.store.position();
    let header = Some(api.headers.at(&position, position.revision, 0));
    let lifetime = api.store.lifetime(LeaseQuestion { id, renew: true }).await;
    let lifetime = lifetime.map_err(|error| status(texts::failure(&error)))?;
    // Of a lease that is not there it is 0, not an error.
    Ok(pb::LeaseKeepAliveResponse { header, id, ttl: lifetime.ttl.max(0) })
}
