//! Which member a process is that has no identity yet, outside a `StatefulSet`: whoever was added at its peer URL, or whoever the
//! membership has there. Only the leader can say.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::time::{sleep, timeout};

use super::by_hand;
use super::plan::Leading;
use super::wire;
use crate::discovery::{AddressBook, Directory, Path, Peer, PeerChannels};
use crate::identity::{Membership, Ordinal};
use crate::limits;
use crate::mvcc::cluster::ByHand;
use crate::proto::peer::membership_client::MembershipClient;
use crate::proto::peer::{LocateRequest, LocateResponse, locate_response};

/// What is said to whoever asks which member it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// The one of this ordinal.
    Ordinal(Ordinal),
    /// None.
    Nobody(String),
    /// Only the leader can say.
    Elsewhere,
}

/// The member at this address. Pure.
pub(super) fn find(view: Option<&Leading>, membership: &Membership, peer_address: &str) -> Found {
    let Some(view) = view else { return Found::Elsewhere };
    if view.rules.is_none() {
        return Found::Nobody("the membership of this cluster follows a StatefulSet".into());
    }
    let is_here = |url: &String| by_hand::address(url) == peer_address;
    let added = view.by_hand.iter().find_map(|(ordinal, by_hand)| match by_hand {
        ByHand::Added(added) if added.peer_urls.iter().any(is_here) => Some(*ordinal),
        _ => None,
    });
    let is_member = || {
        let mut members = membership.members.iter().filter(|member| member.peer_address == peer_address);
        let ordinal = members.next()?.node_id.ordinal();
        by_hand::is_listed(view, ordinal, peer_address).then_some(ordinal)
    };
    match added.or_else(is_member) {
        Some(ordinal) => Found::Ordinal(ordinal),
        None => Found::Nobody(format!(
            "no member was added at {peer_address}, or it was removed: MemberAdd comes first"
        )),
    }
}

pub(super) fn to_wire(found: Found, membership: &Membership) -> LocateResponse {
    use locate_response::Outcome;
    let outcome = match found {
        Found::Ordinal(ordinal) => Outcome::Ordinal(u32::from(ordinal)),
        Found::Nobody(reason) => Outcome::Refused(reason),
        Found::Elsewhere => Outcome::Again("this member does not lead".into()),
    };
    LocateResponse { outcome: Some(outcome), membership: Some(wire::to_membership(membership)) }
}

/// A process that knows which member it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// Its ordinal.
    pub ordinal: Ordinal,
    /// All members that are reached somewhere.
    pub members: Vec<Peer>,
}

/// Asks those at `named` (`host:port`), and whoever they tell of, until the leader says which member is the one at `own`. Does not end while
/// nobody answers: the caller gives up when it likes. `book` makes the book of addresses.
///
/// # Errors
/// The leader knows of none; or there is nobody to ask.
pub async fn locate(
    book: impl FnOnce(Directory) -> Arc<AddressBook>,
    named: &[String],
    own: &str,
) -> Result<Located, String> {
    let mut addresses: BTreeSet<String> = named.iter().filter(|address| *address != own).cloned().collect();
    if addresses.is_empty() {
        return Err(
            "which member this is, only another member could say, and the initial cluster names none".into(),
        );
    }
    let here = Peer::parse(0, own).map_err(|error| error.to_string())?;
    let directory = Directory::Members { own: here, peers: Vec::new() };
    let channels = PeerChannels::new(book(directory));
    let mut told = String::new();
    loop {
        let mut reasons = Vec::new();
        for (number, address) in (1..).zip(addresses.clone()) {
            match ask(&channels, number, &address, own).await {
                Ok((Outcome::Located(located), _)) => return Ok(located),
                Ok((Outcome::Refused(reason), _)) => return Err(format!("{address}: {reason}")),
                Ok((Outcome::Again(reason), members)) => {
                    let others = members.iter().map(ToString::to_string).filter(|address| address != own);
                    addresses.extend(others.take(limits::PEERS));
                    reasons.push(format!("{address}: {reason}"));
                }
                Err(reason) => reasons.push(format!("{address}: {reason}")),
            }
        }
        let reason = reasons.join("; ");
        if reason != told {
            tracing::info!(reason, "waiting for a leader that says which member this is");
            told = reason;
        }
        addresses = addresses.into_iter().take(limits::PEERS).collect();
        sleep(limits::HELLO_INTERVAL).await;
    }
}

enum Outcome {
    Located(Located),
    Refused(String),
    Again(String),
}

async fn ask(
    channels: &PeerChannels,
    number: Ordinal,
    address: &str,
    own: &str,
) -> Result<(Outcome, Vec<Peer>), String> {
    let peer = Peer::parse(number, address).map_err(|error| error.to_string())?;
    let mut client = MembershipClient::new(channels.channel(&peer, Path::Data))
        .max_decoding_message_size(limits::HELLO_BYTES);
    let request = LocateRequest { peer_address: own.to_owned() };
    let answer = timeout(limits::HELLO_TIMEOUT, client.locate(request))
        .await
        .map_err(|_| "no answer in time".to_owned())?
        .map_err(|status| status.message().to_owned())?
        .into_inner();
    let membership = wire::from_membership(answer.membership.unwrap_or_default())
        .map_err(|error| format!("its answer makes no sense: {error}"))?;
    let parse =
        |member: &crate::identity::Member| Peer::parse(member.node_id.ordinal(), &member.peer_address).ok();
    let members: Vec<Peer> = membership.members.iter().filter_map(parse).collect();
    let outcome = match answer.outcome {
        Some(locate_response::Outcome::Ordinal(ordinal)) => {
            let ordinal = ordinal.try_into().map_err(|_| format!("it says ordinal {ordinal}"))?;
            Outcome::Located(Located { ordinal, members: members.clone() })
        }
        Some(locate_response::Outcome::Refused(reason)) => Outcome::Refused(reason),
        Some(locate_response::Outcome::Again(reason)) => Outcome::Again(reason),
        None => Outcome::Again("its answer says nothing".into()),
    };
    Ok((outcome, members))
}

/// Keeps what the membership says of this member as this process was told to be called: once, after its start, as etcd does.
pub async fn publish(
    operator: Arc<dyn super::operator::Operate>,
    local: Arc<dyn super::local::Local>,
    own: super::service::Own,
) {
    use super::operator::{Update, Wish};
    let mut told = String::new();
    loop {
        sleep(limits::HELLO_INTERVAL).await;
        let disk = local.disk();
        let led = local.consensus().is_some_and(|view| view.leader.is_some());
        let Some(member) = disk.membership.member(disk.node_id).filter(|_| led) else { continue };
        if member.name == own.member_name && member.client_urls == own.client_urls {
            return;
        }
        let published = Some((own.member_name.clone(), own.client_urls.clone()));
        let update = Update { id: disk.node_id, peer_urls: Vec::new(), published };
        if let Err(error) = operator.fulfil(Wish::Update(update)).await {
            let reason = error.to_string();
            if told != reason {
                tracing::info!(reason, "what this member is called is not published yet");
                told = reason;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::by_hand::Rules;
    use super::*;
    use crate::identity::{FIRST_ADDED, Member, NodeId};
    use crate::mvcc::cluster::{Added, Admission};

    fn member(id: NodeId, at: &str) -> Member {
        Member { node_id: id, peer_address: at.into(), ..Member::default() }
    }

    #[test]
    fn the_leader_knows_who_is_where() {
        let (old, kept, added) = (NodeId::new(1, 1), NodeId::new(0, 1), NodeId::new(FIRST_ADDED, 9));
        let membership = Membership {
            configs: vec![vec![kept, old]],
            members: vec![member(kept, "a:1"), member(old, "b:1")],
        };
        let by_hand = |url: &str| ByHand::Added(Added { peer_urls: vec![url.into()], learner: false });
        let mut view = Leading {
            id: kept,
            members: [kept, old].into(),
            rules: Some(Rules { strict: true, max_learners: 1 }),
            by_hand: [(FIRST_ADDED, by_hand("http://c:1"))].into(),
            admissions: [(FIRST_ADDED, Admission { id: added, ..Admission::default() })].into(),
            ..Leading::default()
        };
        let at = |view: &Leading, address| find(Some(view), &membership, address);
        assert_eq!(at(&view, "a:1"), Found::Ordinal(0));
        assert_eq!(at(&view, "c:1"), Found::Ordinal(FIRST_ADDED));
        assert!(matches!(at(&view, "d:1"), Found::Nobody(_)));
        assert_eq!(find(None, &membership, "a:1"), Found::Elsewhere, "a follower may lag");
        // It was removed, and another member was added in its place.
        view.by_hand.insert(1, ByHand::Dismissed);
        assert!(matches!(at(&view, "b:1"), Found::Nobody(_)));
        view.by_hand.insert(FIRST_ADDED, by_hand("http://b:1"));
        assert_eq!(at(&view, "b:1"), Found::Ordinal(FIRST_ADDED));
        view.rules = None;
        assert!(matches!(at(&view, "a:1"), Found::Nobody(_)), "a StatefulSet");
    }
}
