//! etcd's Cluster service, and our own about members.

use bytes::Bytes;

use tonic::Code;

use super::{Shared, convert, texts};
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
    let command = ClusterCommand::resize(request.size)
        .map(Command::Cluster)
        .map_err(|error| Failure::new(Code::InvalidArgument, error.to_string()))?;
    api.store.propose(Request::anonymous(command)).await.map_err(|error| texts::failure(&error))?;
    let header = api.headers.at(&api.store.position(), 0, 0);
    Ok(grpc::encode(&client::ResizeResponse { header: Some(header) }))
}
