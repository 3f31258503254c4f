//! The gRPC methods that there are, and how a call finds its own.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use prost::Message;
use tonic::Code;
use tower::Service;

use super::health::HealthService;
use super::permission::Caller;
use super::probe::Probe;
use super::{
    Shared, alarm, auth, cluster, deadline, election, kv, leader, lease, lock, maintenance, permission,
    range_stream, refused, sending, snapshot, texts, watch,
};
use crate::metrics::{MethodMetrics, Metrics};
use crate::proto::{self, client, etcdserverpb as pb, v3electionpb};
use crate::transport::answers::Answers;
use crate::transport::body::until;
use crate::transport::{AnswerBody, Failure, RequestBody, grpc};
use crate::watch::Budget;

/// Generates the methods: a name for each, its counters, and its path.
macro_rules! unary_methods {
    ($($variant:ident = $service:literal $method:literal;)*) => {
        /// A unary method.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Unary { $($variant),* }

        /// By [`Unary`].
        const UNARY: &[(&str, &str)] = &[$(($service, $method)),*];

        fn unary_of(path: &str) -> Option<Unary> {
            match path {
                $(concat!("/", $service, "/", $method) => Some(Unary::$variant),)*
                _ => None,
            }
        }
    };
}

unary_methods! {
    Range = "etcdserverpb.KV" "Range";
    Put = "etcdserverpb.KV" "Put";
    DeleteRange = "etcdserverpb.KV" "DeleteRange";
    Txn = "etcdserverpb.KV" "Txn";
    Compact = "etcdserverpb.KV" "Compact";
    LeaseGrant = "etcdserverpb.Lease" "LeaseGrant";
    LeaseRevoke = "etcdserverpb.Lease" "LeaseRevoke";
    LeaseTimeToLive = "etcdserverpb.Lease" "LeaseTimeToLive";
    LeaseLeases = "etcdserverpb.Lease" "LeaseLeases";
    Lock = "v3lockpb.Lock" "Lock";
    Unlock = "v3lockpb.Lock" "Unlock";
    Campaign = "v3electionpb.Election" "Campaign";
    Proclaim = "v3electionpb.Election" "Proclaim";
    Leader = "v3electionpb.Election" "Leader";
    Resign = "v3electionpb.Election" "Resign";
    MemberAdd = "etcdserverpb.Cluster" "MemberAdd";
    MemberRemove = "etcdserverpb.Cluster" "MemberRemove";
    MemberUpdate = "etcdserverpb.Cluster" "MemberUpdate";
    MemberList = "etcdserverpb.Cluster" "MemberList";
    MemberPromote = "etcdserverpb.Cluster" "MemberPromote";
    Status = "etcdserverpb.Maintenance" "Status";
    HashKv = "etcdserverpb.Maintenance" "HashKV";
    MoveLeader = "etcdserverpb.Maintenance" "MoveLeader";
    Alarm = "etcdserverpb.Maintenance" "Alarm";
    Defragment = "etcdserverpb.Maintenance" "Defragment";
    Hash = "etcdserverpb.Maintenance" "Hash";
    Downgrade = "etcdserverpb.Maintenance" "Downgrade";
    AuthEnable = "etcdserverpb.Auth" "AuthEnable";
    AuthDisable = "etcdserverpb.Auth" "AuthDisable";
    AuthStatus = "etcdserverpb.Auth" "AuthStatus";
    Authenticate = "etcdserverpb.Auth" "Authenticate";
    UserAdd = "etcdserverpb.Auth" "UserAdd";
    UserGet = "etcdserverpb.Auth" "UserGet";
    UserList = "etcdserverpb.Auth" "UserList";
    UserDelete = "etcdserverpb.Auth" "UserDelete";
    UserChangePassword = "etcdserverpb.Auth" "UserChangePassword";
    UserGrantRole = "etcdserverpb.Auth" "UserGrantRole";
    UserRevokeRole = "etcdserverpb.Auth" "UserRevokeRole";
    RoleAdd = "etcdserverpb.Auth" "RoleAdd";
    RoleGet = "etcdserverpb.Auth" "RoleGet";
    RoleList = "etcdserverpb.Auth" "RoleList";
    RoleDelete = "etcdserverpb.Auth" "RoleDelete";
    RoleGrantPermission = "etcdserverpb.Auth" "RoleGrantPermission";
    RoleRevokePermission = "etcdserverpb.Auth" "RoleRevokePermission";
    Resize = "setstone.v1.Members" "Resize";
    Events = "setstone.v1.Members" "Events";
}

/// Services that tonic serves.
const STREAMING: &[&str] = &[
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
];

/// Methods that stream and are served here.
const WATCH: &str = "/etcdserverpb.Watch/Watch";
const KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";
const RANGE_STREAM: &str = "/etcdserverpb.KV/RangeStream";
const OBSERVE: &str = "/v3electionpb.Election/Observe";
/// A learner serves it, too.
const SNAPSHOT: &str = "/etcdserverpb.Maintenance/Snapshot";

/// The counters of every method.
pub(super) struct Methods(Vec<MethodMetrics>);

impl Methods {
    pub(super) fn new(metrics: &Metrics) -> Self {
        Self(UNARY.iter().map(|(service, method)| metrics.method(service, method, "unary")).collect())
    }

    fn of(&self, method: Unary) -> Option<&MethodMetrics> {
        self.0.get(method as usize)
    }
}

/// The services that stream, or that nobody calls often: health and reflection.
pub(super) fn streams(probe: Arc<dyn Probe>) -> tonic::service::Routes {
    let health = tonic_health::pb::health_server::HealthServer::new(HealthService { probe });
    let mut routes = tonic::service::Routes::new(health);
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::CLIENT_DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    match (reflection().build_v1(), reflection().build_v1alpha()) {
        (Ok(v1), Ok(v1alpha)) => routes = routes.add_service(v1).add_service(v1alpha),
        (Err(error), _) | (_, Err(error)) => {
            tracing::error!(%error, "the descriptors cannot be read; reflection is not served");
        }
    }
    routes.prepare()
}

/// Answers one gRPC call.
pub(super) async fn call(
    api: &Arc<Shared>,
    answers: &Answers,
    budget: &Budget,
    request: Request<RequestBody>,
) -> Response<AnswerBody> {
    let Some(method) = unary_of(request.uri().path()) else {
        return Box::pin(other(api, answers, budget, request)).await;
    };
    if leader::is_wanted(request.headers()) && api.store.position().leader.is_none() {
        return grpc::failure(&texts::NO_LEADER.into());
    }
    let counters = api.methods.of(method);
    if let Some(counters) = counters {
        counters.started();
    }
    // All others end soon in any case.
    let limit = match method {
        Unary::Lock | Unary::Campaign => deadline::given(request.headers()),
        _ => None,
    };
    let (response, code) = match deadline::within(limit, unary(api, answers, method, request)).await {
        Ok(message) => {
            api.metrics.client_bytes_sent.inc_by(message.len() as u64);
            (grpc::success(message), Code::Ok)
        }
        Err(failure) => {
            refused::count(api, &failure, answers.is_exhausted());
            (grpc::failure(&failure), failure.code)
        }
    };
    if let Some(counters) = counters {
        counters.handled(code as i32);
    }
    response
}

async fn unary(
    api: &Shared,
    answers: &Answers,
    method: Unary,
    request: Request<RequestBody>,
) -> Result<Bytes, Failure> {
    if answers.is_exhausted() {
        return Err(texts::TOO_MANY_REQUESTS.into());
    }
    // As in etcd; of ours, what people look at.
    if api.store.is_held_back() && !matches!(method, Unary::Status | Unary::Range | Unary::Events) {
        return Err(texts::LEARNER_NOT_SUPPORTED.into());
    }
    let rule = permission::rule(method);
    let caller = &permission::admit(api, rule, request.headers(), request.extensions()).await?;
    let body = request.into_body();
    match method {
        Unary::Range => kv::range(api, caller, answers, received(api, body).await?.0).await,
        Unary::Put => {
            let (request, size) = received(api, body).await?;
            kv::put(api, caller, answers, request, size).await
        }
        Unary::DeleteRange => {
            let (request, size) = received(api, body).await?;
            kv::delete_range(api, caller, answers, request, size).await
        }
        Unary::Txn => {
            let (request, size) = received(api, body).await?;
            kv::txn(api, caller, answers, request, size).await
        }
        // In a box: what is called less often would make the future of every read larger.
        method => Box::pin(not_of_keys(api, caller, answers, method, body)).await,
    }
}

/// What is neither a read nor a write of keys.
async fn not_of_keys(
    api: &Shared,
    caller: &Caller,
    answers: &Answers,
    method: Unary,
    body: RequestBody,
) -> Result<Bytes, Failure> {
    match method {
        Unary::Compact => kv::compact(api, caller, answers, received(api, body).await?.0).await,
        Unary::LeaseGrant => lease::grant(api, caller, received(api, body).await?.0).await,
        Unary::LeaseRevoke => lease::revoke(api, caller, received(api, body).await?.0).await,
        Unary::LeaseTimeToLive => {
            lease::time_to_live(api, caller, answers, received(api, body).await?.0).await
        }
        Unary::LeaseLeases => {
            let _: (pb::LeaseLeasesRequest, _) = received(api, body).await?;
            lease::leases(api, caller, answers).await
        }
        Unary::Lock => {
            let (request, size) = received(api, body).await?;
            lock::lock(api, caller, request, size).await
        }
        Unary::Unlock => lock::unlock(api, caller, received(api, body).await?.0).await,
        Unary::Campaign => {
            let (request, size) = received(api, body).await?;
            election::campaign(api, caller, request, size).await
        }
        Unary::Proclaim => {
            let (request, size) = received(api, body).await?;
            Box::pin(election::proclaim(api, caller, request, size)).await
        }
        Unary::Leader => election::leader(api, caller, answers, received(api, body).await?.0).await,
        Unary::Resign => election::resign(api, caller, received(api, body).await?.0).await,
        Unary::MemberAdd => cluster::member_add(api, received(api, body).await?.0).await,
        Unary::MemberRemove => cluster::member_remove(api, received(api, body).await?.0).await,
        Unary::MemberUpdate => cluster::member_update(api, received(api, body).await?.0).await,
        Unary::MemberPromote => cluster::member_promote(api, received(api, body).await?.0).await,
        Unary::MoveLeader => maintenance::move_leader(api, received(api, body).await?.0).await,
        Unary::MemberList => cluster::member_list(api, received(api, body).await?.0).await,
        Unary::Status => {
            let _: (pb::StatusRequest, _) = received(api, body).await?;
            Ok(maintenance::status(api))
        }
        Unary::Alarm => alarm::alarm(api, received(api, body).await?.0).await,
        Unary::Defragment => {
            let _: (pb::DefragmentRequest, _) = received(api, body).await?;
            maintenance::defragment(api).await
        }
        Unary::Hash => {
            let _: (pb::HashRequest, _) = received(api, body).await?;
            maintenance::hash(api).await
        }
        Unary::Downgrade => maintenance::downgrade(api, received(api, body).await?.0).await,
        Unary::HashKv => maintenance::hash_kv(api, received(api, body).await?.0).await,
        Unary::Resize => cluster::resize(api, caller, received(api, body).await?.0).await,
        Unary::Events => {
            let _: (client::EventsRequest, _) = received(api, body).await?;
            Ok(cluster::events(api))
        }
        method => of_auth(api, caller, method, body).await,
    }
}

/// etcd's Auth service.
async fn of_auth(api: &Shared, caller: &Caller, method: Unary, body: RequestBody) -> Result<Bytes, Failure> {
    match method {
        Unary::AuthEnable => {
            let _: (pb::AuthEnableRequest, _) = received(api, body).await?;
            auth::enable(api, caller).await
        }
        Unary::AuthDisable => {
            let _: (pb::AuthDisableRequest, _) = received(api, body).await?;
            auth::disable(api, caller).await
        }
        Unary::AuthStatus => {
            let _: (pb::AuthStatusRequest, _) = received(api, body).await?;
            auth::status(api).await
        }
        Unary::Authenticate => auth::authenticate(api, received(api, body).await?.0).await,
        Unary::UserAdd => auth::user_add(api, caller, received(api, body).await?.0).await,
        Unary::UserGet => auth::user_get(api, caller, received(api, body).await?.0).await,
        Unary::UserList => {
            let _: (pb::AuthUserListRequest, _) = received(api, body).await?;
            auth::user_list(api).await
        }
        Unary::UserDelete => auth::user_delete(api, caller, received(api, body).await?.0).await,
        Unary::UserChangePassword => {
            auth::user_change_password(api, caller, received(api, body).await?.0).await
        }
        Unary::UserGrantRole => auth::user_grant_role(api, caller, received(api, body).await?.0).await,
        Unary::UserRevokeRole => auth::user_revoke_role(api, caller, received(api, body).await?.0).await,
        Unary::RoleAdd => auth::role_add(api, caller, received(api, body).await?.0).await,
        Unary::RoleGet => auth::role_get(api, caller, received(api, body).await?.0).await,
        Unary::RoleList => {
            let _: (pb::AuthRoleListRequest, _) = received(api, body).await?;
            auth::role_list(api).await
        }
        Unary::RoleDelete => auth::role_delete(api, caller, received(api, body).await?.0).await,
        Unary::RoleGrantPermission => {
            auth::role_grant_permission(api, caller, received(api, body).await?.0).await
        }
        Unary::RoleRevokePermission => {
            auth::role_revoke_permission(api, caller, received(api, body).await?.0).await
        }
        // All others have an arm above.
        _ => Err(Failure::new(Code::Unimplemented, "the method has no answer")),
    }
}

/// The request's message and its size.
async fn received<M: Message + Default>(api: &Shared, body: RequestBody) -> Result<(M, usize), Failure> {
    let (message, size) = grpc::receive(body).await?;
    api.metrics.client_bytes_received.inc_by(size as u64);
    Ok((message, size))
}

/// A call that streams, or of nothing that there is.
async fn other(
    api: &Arc<Shared>,
    answers: &Answers,
    budget: &Budget,
    request: Request<RequestBody>,
) -> Response<AnswerBody> {
    let path = request.uri().path();
    let own = STREAMING.iter().any(|service| path.get(1..).is_some_and(|rest| rest.starts_with(service)));
    if api.store.is_held_back() && !own && path != SNAPSHOT {
        return grpc::failure(&texts::LEARNER_NOT_SUPPORTED.into());
    }
    match path {
        WATCH => return watch::watch(api, answers, budget, request),
        KEEP_ALIVE => return lease::keep_alive(api, request).await,
        RANGE_STREAM => {
            let caller = Caller::of(request.headers(), request.extensions());
            let parts = |request| range_stream::parts(api.clone(), caller, answers.clone(), request);
            return sending::call(api, &api.sending_methods.range_stream, request, parts).await;
        }
        OBSERVE => {
            let caller = Caller::of(request.headers(), request.extensions());
            let observe = |request: v3electionpb::LeaderRequest| {
                election::observe(api.clone(), caller, answers.clone(), budget.clone(), &request.name)
            };
            return sending::call(api, &api.sending_methods.observe, request, observe).await;
        }
        SNAPSHOT => return snapshot::snapshot(api, request).await,
        _ => {}
    }
    let (service, method) = path.get(1..).and_then(|rest| rest.rsplit_once('/')).unwrap_or((path, ""));
    if STREAMING.contains(&service) {
        let stopped = api.stopping.clone().cancelled_owned();
        let Ok(response) = api.streams.clone().call(request).await;
        return response.map(|body| AnswerBody::Stream(until(body, stopped, texts::STOPPED.into())));
    }
    // The texts are those of grpc-go.
    let known = UNARY.iter().any(|(known, _)| *known == service) || service == "etcdserverpb.Watch";
    let text = if known {
        format!("unknown method {method} for service {service}")
    } else {
        format!("unknown service {service}")
    };
    grpc::failure(&Failure::new(Code::Unimplemented, text))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

    use super::*;

    #[test]
    fn every_method_of_the_descriptors_is_served() {
        let pool = prost_reflect::DescriptorPool::decode(proto::CLIENT_DESCRIPTORS).unwrap();
        let mut described: Vec<String> = pool
            .services()
            .flat_map(|service| service.methods().collect::<Vec<_>>())
            .map(|method| format!("/{}/{}", method.parent_service().full_name(), method.name()))
            .collect();
        described.sort();
        let mut served: Vec<String> =
            UNARY.iter().map(|(service, method)| format!("/{service}/{method}")).collect();
        served.push(KEEP_ALIVE.into());
        served.push(WATCH.into());
        served.push(RANGE_STREAM.into());
        served.push(OBSERVE.into());
        served.push(SNAPSHOT.into());
        served.sort();
        assert_eq!(described, served);
        for (number, path) in UNARY.iter().map(|(service, method)| format!("/{service}/{method}")).enumerate()
        {
            assert_eq!(unary_of(&path).map(|method| method as usize), Some(number));
        }
        assert_eq!(unary_of("/etcdserverpb.KV/RangeStream"), None);
    }

    #[test]
    fn the_descriptors_can_be_reflected() {
        assert!(
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(proto::CLIENT_DESCRIPTORS)
                .build_v1()
                .is_ok()
        );
    }
}
