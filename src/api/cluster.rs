//! etcd's Cluster service, and our own about members.

use bytes::Bytes;

use tonic::Code;

use super::permission::Caller;
use super::{Shared, convert, texts};
use crate::identity::NodeId;
use crate::limits;
use crate::membership::{Update, Wish, WishRefusal};
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

/// Changes the peer URLs of a member, outside a `StatefulSet`. In one it takes only those that the member has: members are found by the
/// names of their pods.
pub(super) async fn member_update(api: &Shared, request: pb::MemberUpdateRequest) -> Result<Bytes, Failure> {
    // etcd takes whatever it is given here; what nobody could dial helps nobody.
    let peer_urls = peer_urls(&request.peer_ur_ls)?;
    api.store.barrier().await.map_err(|error| texts::failure(&error))?;
    let (_, members) = listed(api);
    let member = members.iter().find(|member| member.id == request.id).ok_or(texts::MEMBER_NOT_FOUND)?;
    if member.peer_ur_ls != peer_urls {
        let update = Update { id: NodeId(request.id), peer_urls, published: None };
        fulfil(api, Wish::Update(update)).await?;
    }
    let (header, members) = listed(api);
    Ok(grpc::encode(&pb::MemberUpdateResponse { header, members }))
}

/// Lets somebody join, outside a `StatefulSet`. In one it is refused: pods become members by themselves, when there should be more of them.
pub(super) async fn member_add(api: &Shared, request: pb::MemberAddRequest) -> Result<Bytes, Failure> {
    let peer_urls = peer_urls(&request.peer_ur_ls)?;
    let is_taken = |url: &String| peer_urls.contains(url);
    if api.store.members().iter().any(|member| member.peer_urls.iter().any(is_taken)) {
        return Err(texts::PEER_URL_EXISTS.into());
    }
    let id = api.operator.add(peer_urls.clone(), request.is_learner).await.map_err(refused)?;
    api.store.barrier().await.map_err(|error| texts::failure(&error))?;
    let (header, members) = listed(api);
    let member = pb::Member {
        id: id.0,
        peer_ur_ls: peer_urls,
        is_learner: request.is_learner,
        ..pb::Member::default()
    };
    Ok(grpc::encode(&pb::MemberAddResponse { header, member: Some(member), members }))
}

/// URLs that a member can have, sorted as etcd sorts them.
fn peer_urls(urls: &[String]) -> Result<Vec<String>, Failure> {
    let mut urls: Vec<String> = urls.iter().map(|url| url.trim().to_owned()).collect();
    urls.sort();
    let few = (1..=limits::MEMBER_URLS).contains(&urls.len());
    if few && urls.iter().all(|url| is_peer_url(url)) { Ok(urls) } else { Err(texts::MEMBER_BAD_URLS.into()) }
}

/// A scheme, a host and a port, and nothing else.
fn is_peer_url(url: &str) -> bool {
    let Some((scheme, place)) = url.split_once("://") else { return false };
    let Some((host, port)) = place.rsplit_once(':') else { return false };
    let is_host = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').is_some_and(|host| host.parse::<std::net::IpAddr>().is_ok()),
        None => {
            !host.is_empty()
                && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
        }
    };
    matches!(scheme, "http" | "https")
        && is_host
        && port.parse::<u16>().is_ok_and(|port| port != 0)
        && url.len() <= limits::URL_BYTES
}

fn follows_pods(what: &str) -> Failure {
    Failure::new(Code::FailedPrecondition, format!("etcdserver: the membership follows the pods: {what}"))
}

async fn fulfil(api: &Shared, wish: Wish) -> Result<(), Failure> {
    api.operator.fulfil(wish).await.map_err(refused)?;
    // What the leader committed is to be in the answer, also in that of a follower.
    api.store.barrier().await.map_err(|error| texts::failure(&error))
}

fn refused(refusal: WishRefusal) -> Failure {
    match refusal {
        WishRefusal::NotMember => texts::MEMBER_NOT_FOUND.into(),
        WishRefusal::NotLearner => texts::MEMBER_NOT_LEARNER.into(),
        WishRefusal::NotCaughtUp => texts::LEARNER_NOT_READY.into(),
        WishRefusal::TooFew => texts::NOT_ENOUGH_STARTED.into(),
        WishRefusal::UrlTaken => texts::PEER_URL_EXISTS.into(),
        WishRefusal::TooManyLearners => texts::TOO_MANY_LEARNERS.into(),
        WishRefusal::Unhealthy => texts::UNHEALTHY.into(),
        WishRefusal::Against(what) => follows_pods(&what),
        WishRefusal::NotCommitted(_) | WishRefusal::Unknown(_) => texts::TIMED_OUT.into(),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peer_urls_are_those_that_etcd_takes() {
        let taken = |urls: &[&str]| peer_urls(&urls.iter().map(|url| (*url).to_owned()).collect::<Vec<_>>());
        for good in ["http://10.0.0.1:2380", "https://a-b.example:1", " http://[::1]:2380 "] {
            assert_eq!(taken(&[good]), Ok(vec![good.trim().to_owned()]));
        }
        assert_eq!(taken(&["http://b:1", "http://a:1"]), Ok(vec!["http://a:1".into(), "http://b:1".into()]));
        for bad in [
            "",
            "a:1",
            "http://a",
            "http://a:1/",
            "http://a:1/x",
            "http://:1",
            "ftp://a:1",
            "http://a:0",
            "http://[a]:1",
        ] {
            assert_eq!(taken(&[bad]), Err(texts::MEMBER_BAD_URLS.into()), "{bad}");
        }
        assert!(taken(&[]).is_err());
    }
}
