//! etcd's Cluster service.

use bytes::Bytes;

use super::{Shared, convert, texts};
use crate::proto::etcdserverpb as pb;
use crate::transport::{Failure, grpc};

/// Lists the members. The header has no revision, as in etcd.
pub(super) async fn member_list(api: &Shared, request: pb::MemberListRequest) -> Result<Bytes, Failure> {
    if request.linearizable {
        api.store.barrier().await.map_err(|error| texts::failure(&error))?;
    }
    let members = api.store.members().into_iter().map(convert::member).collect();
    let header = api.headers.at(&api.store.position(), 0, 0);
    Ok(grpc::encode(&pb::MemberListResponse { header: Some(header), members }))
}
