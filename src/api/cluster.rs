//! etcd's Cluster service, and our own about members.

use bytes::Bytes;

use tonic::Code;

use super::{Shared, convert, texts};
use crate::identity::OrdinalRange;
use crate::limits;
use crate::mvcc::cluster::ClusterCommand;
use crate::mvcc::command::{Command, Request};
use crate::proto::client;
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

/// Sets the desired number of pods.
pub(super) async fn resize(api: &Shared, request: client::ResizeRequest) -> Result<Bytes, Failure> {
    let size = u16::try_from(request.size)
        .ok()
        .filter(|size| usize::from(*size) <= limits::PEERS)
        .ok_or_else(|| {
            let text = format!("{} pods are too many; {} is the most", request.size, limits::PEERS);
            Failure::new(Code::InvalidArgument, text)
        })?;
    let command = Command::Cluster(ClusterCommand::Resize(OrdinalRange { start: 0, size }));
    api.store.propose(Request::anonymous(command)).await.map_err(|error| texts::failure(&error))?;
    let header = api.headers.at(&api.store.position(), 0, 0);
    Ok(grpc::encode(&client::ResizeResponse { header: Some(header) }))
}
