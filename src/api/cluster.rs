//! etcd's Cluster service, and our own about members.

use bytes::Bytes;

use tonic::Code;

use super::permission::Caller;
use super::{Shared, convert, texts};
use crate::identity::NodeId;
use crate::membership::{Wish, WishRefusal};
use crate::mvcc::cluster::ClusterCommand;
use crate::mvcc::command::{Command, Request};
use crate::proto::client;
use crate::proto::etcdserverpb as pb;
use crate::raft::store::EventInfo;
use crate::transport::{Failure, grpc};

/// Lists the members.
pub(super) async fn member_list(api: &Shared, request: pb::MemberListRequest) -> Result<Bytes, Failure> {
    if request.linearizable {
        api.store.barrier().await.map_err(|error| texts::failure(&error))?;
    }
    let (header, members) = listed(api);
    Ok(grpc::encode(&pb::MemberListResponse { header, members }))
}

/// Ends the membership of one. Inside the desired range its pod joins again, as new.
pub(super) async fn member_remove(api: &Shared, request: pb::MemberRemoveRequest) -> Result<Bytes, Failure> {
    fulfil(api, Wish::Remove(NodeId(request.id))).await?;
    let (header, members) = listed(api);
    Ok(grpc::encode(&pb::MemberRemoveResponse { header, members }))
}

/// Lets one vote that does not yet.
pub(super) async fn member_promote(
    api: &Shared,
    request: pb::MemberPromoteRequest,
) -> Result<Bytes, Failure> {
    fulfil(api, Wish::Promote(NodeId(request.id))).await?;
    let (header, members) = listed(api);
    Ok(grpc::encode(&pb::MemberPromoteResponse { header, members }))
}

/// Takes the peer URLs that a member has. Others it cannot have: members are found by the names of their pods.
pub(super) async fn member_update(api: &Shared, request: pb::MemberUpdateRequest) -> Result<Bytes, Failure> {
    if request.peer_ur_ls.is_empty() {
        return Err(texts::MEMBER_BAD_URLS.into());
    }
    api.store.barrier().await.map_err(|error| texts::failure(&error))?;
    let (header, members) = listed(api);
    let member = members.iter().find(|member| member.id == request.id).ok_or(texts::MEMBER_NOT_FOUND)?;
    if member.peer_ur_ls != request.peer_ur_ls {
        return Err(follows_pods(&format!("{} is reached at {}", member.name, member.peer_ur_ls.join(","))));
    }
    Ok(grpc::encode(&pb::MemberUpdateResponse { header, members }))
}

/// Refused: pods become members by themselves, when there should be more of them.
pub(super) fn member_add(request: &pb::MemberAddRequest) -> Result<Bytes, Failure> {
    if request.peer_ur_ls.is_empty() {
        return Err(texts::MEMBER_BAD_URLS.into());
    }
    Err(follows_pods("scale the StatefulSet, and the new pod joins by itself"))
}

fn follows_pods(what: &str) -> Failure {
    Failure::new(Code::FailedPrecondition, format!("etcdserver: the membership follows the pods: {what}"))
}

async fn fulfil(api: &Shared, wish: Wish) -> Result<(), Failure> {
    api.operator.fulfil(wish).await.map_err(|refusal| match refusal {
        WishRefusal::NotMember => texts::MEMBER_NOT_FOUND.into(),
        WishRefusal::NotLearner => texts::MEMBER_NOT_LEARNER.into(),
        WishRefusal::NotCaughtUp => texts::LEARNER_NOT_READY.into(),
        WishRefusal::TooFew => texts::NOT_ENOUGH_STARTED.into(),
        WishRefusal::Against(what) => follows_pods(&what),
        WishRefusal::NotCommitted(_) => texts::TIMED_OUT.into(),
    })?;
    // What the leader committed is to be in the answer, also in that of a follower.
    api.store.barrier().await.map_err(|error| texts::failure(&error))
}

/// The header of answers about members has no revision, as in etcd.
pub(super) fn header(api: &Shared) -> pb::ResponseHeader {
    api.headers.at(&api.store.position(), 0, 0)
}

fn listed(api: &Shared) -> (Option<pb::ResponseHeader>, Vec<pb::Member>) {
    let members = api.store.members().into_iter().map(convert::member).collect();
    (Some(header(api)), members)
}

/// Sets the desired number of pods.
pub(super) async fn resize(
    api: &Shared,
    caller: &Caller,
    request: client::ResizeRequest,
) -> Result<Bytes, Failure> {
    let command = ClusterCommand::resize(request.size)
        .map(Command::Cluster)
        .map_err(|error| Failure::new(Code::InvalidArgument, error.to_string()))?;
    let by = caller.identity(api).await?;
    api.store.propose(Request::of(by, command)).await.map_err(|error| texts::failure(&error))?;
    Ok(grpc::encode(&client::ResizeResponse { header: Some(header(api)) }))
}

/// Lists what the members decided lately. Of this member's own state, so that it is told without a leader, too.
pub(super) fn events(api: &Shared) -> Bytes {
    let event =
        |EventInfo { number, at_millis, source, text }| client::Event { number, at_millis, source, text };
    let events = api.store.events().into_iter().map(event).collect();
    grpc::encode(&client::EventsResponse { header: Some(header(api)), events })
}
