//! Which path is which method: etcd's table, from the `google.api.http` options of its services. All are called with POST.

use http::{HeaderMap, HeaderValue, Request, Uri, Version, header};
use tonic::Code;

use crate::transport::{Failure, RequestBody};

/// A method, by its full name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Route {
    pub service: &'static str,
    pub method: &'static str,
}

const KV: &str = "etcdserverpb.KV";
const WATCH: &str = "etcdserverpb.Watch";
const LEASE: &str = "etcdserverpb.Lease";
const CLUSTER: &str = "etcdserverpb.Cluster";
const MAINTENANCE: &str = "etcdserverpb.Maintenance";
const AUTH: &str = "etcdserverpb.Auth";
const LOCK: &str = "v3lockpb.Lock";
const ELECTION: &str = "v3electionpb.Election";

/// By what follows `/v3/`.
const ROUTES: [(&str, &str, &str); 51] = [
    ("kv/range", KV, "Range"),
    ("kv/put", KV, "Put"),
    ("kv/deleterange", KV, "DeleteRange"),
    ("kv/txn", KV, "Txn"),
    ("kv/compaction", KV, "Compact"),
    ("watch", WATCH, "Watch"),
    ("lease/grant", LEASE, "LeaseGrant"),
    ("lease/revoke", LEASE, "LeaseRevoke"),
    ("kv/lease/revoke", LEASE, "LeaseRevoke"),
    ("lease/keepalive", LEASE, "LeaseKeepAlive"),
    ("lease/timetolive", LEASE, "LeaseTimeToLive"),
    ("kv/lease/timetolive", LEASE, "LeaseTimeToLive"),
    ("lease/leases", LEASE, "LeaseLeases"),
    ("kv/lease/leases", LEASE, "LeaseLeases"),
    ("cluster/member/add", CLUSTER, "MemberAdd"),
    ("cluster/member/remove", CLUSTER, "MemberRemove"),
    ("cluster/member/update", CLUSTER, "MemberUpdate"),
    ("cluster/member/list", CLUSTER, "MemberList"),
    ("cluster/member/promote", CLUSTER, "MemberPromote"),
    ("maintenance/alarm", MAINTENANCE, "Alarm"),
    ("maintenance/status", MAINTENANCE, "Status"),
    ("maintenance/defragment", MAINTENANCE, "Defragment"),
    ("maintenance/hash", MAINTENANCE, "Hash"),
    ("maintenance/hashkv", MAINTENANCE, "HashKV"),
    ("maintenance/snapshot", MAINTENANCE, "Snapshot"),
    ("maintenance/transfer-leadership", MAINTENANCE, "MoveLeader"),
    ("maintenance/downgrade", MAINTENANCE, "Downgrade"),
    ("auth/enable", AUTH, "AuthEnable"),
    ("auth/disable", AUTH, "AuthDisable"),
    ("auth/status", AUTH, "AuthStatus"),
    ("auth/authenticate", AUTH, "Authenticate"),
    ("auth/user/add", AUTH, "UserAdd"),
    ("auth/user/get", AUTH, "UserGet"),
    ("auth/user/list", AUTH, "UserList"),
    ("auth/user/delete", AUTH, "UserDelete"),
    ("auth/user/changepw", AUTH, "UserChangePassword"),
    ("auth/user/grant", AUTH, "UserGrantRole"),
    ("auth/user/revoke", AUTH, "UserRevokeRole"),
    ("auth/role/add", AUTH, "RoleAdd"),
    ("auth/role/get", AUTH, "RoleGet"),
    ("auth/role/list", AUTH, "RoleList"),
    ("auth/role/delete", AUTH, "RoleDelete"),
    ("auth/role/grant", AUTH, "RoleGrantPermission"),
    ("auth/role/revoke", AUTH, "RoleRevokePermission"),
    ("lock/lock", LOCK, "Lock"),
    ("lock/unlock", LOCK, "Unlock"),
    ("election/campaign", ELECTION, "Campaign"),
    ("election/proclaim", ELECTION, "Proclaim"),
    ("election/leader", ELECTION, "Leader"),
    ("election/observe", ELECTION, "Observe"),
    ("election/resign", ELECTION, "Resign"),
];

/// All of them.
pub(super) fn all() -> impl Iterator<Item = (&'static str, Route)> {
    ROUTES.iter().map(|(name, service, method)| (*name, Route { service, method }))
}

/// What a path of the gateway names; `None` if it is not one of the gateway's. `/v3beta` is `/v3`, as with etcd.
pub(super) fn name_of(path: &str) -> Option<&str> {
    path.strip_prefix("/v3/").or_else(|| path.strip_prefix("/v3beta/"))
}

/// The method of a name.
pub(super) fn find(name: &str) -> Option<Route> {
    let (_, service, method) = ROUTES.iter().find(|(known, ..)| *known == name)?;
    Some(Route { service, method })
}

impl Route {
    /// The path of the gRPC method.
    pub(super) fn path(self) -> String {
        format!("/{}/{}", self.service, self.method)
    }

    /// The call as gRPC has it.
    pub(super) fn request(
        self,
        metadata: HeaderMap,
        body: RequestBody,
    ) -> Result<Request<RequestBody>, Failure> {
        let uri =
            Uri::try_from(self.path()).map_err(|error| Failure::new(Code::Internal, error.to_string()))?;
        let mut request = Request::new(body);
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = uri;
        *request.version_mut() = Version::HTTP_2;
        *request.headers_mut() = metadata;
        let headers = request.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

    use super::*;

    #[test]
    fn paths_are_found() {
        let range = Some(Route { service: KV, method: "Range" });
        assert_eq!(name_of("/v3/kv/range").and_then(find), range);
        assert_eq!(name_of("/v3beta/kv/range").and_then(find), range);
        assert_eq!(
            name_of("/v3/kv/lease/revoke").and_then(find),
            Some(Route { service: LEASE, method: "LeaseRevoke" })
        );
        assert_eq!(name_of("/v3alpha/kv/range"), None);
        assert_eq!(name_of("/v3"), None);
        for unknown in ["/v3/", "/v3/kv", "/v3/kv/range/", "/v3/kv/Range", "/v3/v3/kv/range"] {
            assert_eq!(name_of(unknown).and_then(find), None, "{unknown}");
        }
    }

    #[test]
    fn no_path_is_there_twice() {
        let mut names: Vec<_> = ROUTES.iter().map(|(name, ..)| *name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ROUTES.len());
    }

    #[test]
    fn a_call_is_addressed_as_grpc_does() {
        let body = RequestBody::Message(None);
        let request = find("kv/range").unwrap().request(HeaderMap::new(), body).unwrap();
        assert_eq!(request.uri().path(), "/etcdserverpb.KV/Range");
        assert!(crate::transport::grpc::is_grpc(&request));
    }
}
