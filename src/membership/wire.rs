//! What members say to each other before consensus exists, in protobuf. What comes from outside can be anything: what makes no
//! sense is an error that names it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::admission::Applicant;
use super::disk::{ConsensusView, Described, Disk, Held, LogId, Vote, What};
use super::local::Prepared;
use crate::identity::{Boot, ClusterId, Member, Membership, NodeId, Ordinal, OrdinalRange};
use crate::limits;
use crate::mvcc::cluster::Mark;
use crate::proto::peer::description::Kind;
use crate::proto::{log, peer};

/// What is wrong with a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum WireError {
    #[error("it lacks {0}")]
    Lacks(&'static str),
    #[error("it says {value} for {field}")]
    Value { field: &'static str, value: i64 },
    #[error("it has {count} {what}, more than {most}")]
    TooMany { what: &'static str, count: usize, most: usize },
}

/// Where this pod is connected to others.
pub(super) fn whereabouts(connected: Vec<(String, SocketAddr)>) -> Vec<peer::Whereabouts> {
    let one = |(pod, address): (_, SocketAddr)| peer::Whereabouts { pod, address: address.to_string() };
    connected.into_iter().map(one).collect()
}

pub(super) fn description(disk: &Disk, consensus: Option<&ConsensusView>) -> peer::Description {
    let kind = match disk.what {
        What::Blank => Kind::Blank,
        What::Prepared => Kind::Prepared,
        What::Joining => Kind::Joining,
        What::Member => Kind::Member,
        What::Lost { .. } => Kind::Lost,
    };
    peer::Description {
        kind: kind.into(),
        ordinal: u32::from(disk.ordinal),
        cluster_id: disk.cluster.0,
        supersedes: disk.supersedes.iter().map(|cluster| cluster.0).collect(),
        node_id: disk.node_id.0,
        boot: disk.boot.number,
        boot_random: disk.boot.random,
        vote: Some(peer::Vote { term: disk.held.vote.term, node_id: disk.held.vote.node, committed: false }),
        last: Some(peer::LogId { term: disk.held.last.term, index: disk.held.last.index }),
        membership: Some(to_membership(&disk.membership)),
        marks: Some(log::Marks {
            marks: disk
                .marks
                .iter()
                .map(|(id, mark)| log::Mark {
                    node_id: id.0,
                    boot: mark.boot,
                    vote_term: mark.vote_term,
                    vote_node: mark.vote_node,
                    log_term: mark.log_term,
                    log_index: mark.log_index,
                })
                .collect(),
        }),
        seen: disk
            .seen
            .iter()
            .map(|(id, boot)| peer::Seen { node_id: id.0, boot: boot.number, boot_random: boot.random })
            .collect(),
        removed: consensus.map(|view| view.removed.iter().map(|id| id.0).collect()).unwrap_or_default(),
    }
}

pub(super) fn consensus(view: &ConsensusView) -> peer::Consensus {
    peer::Consensus {
        leader: view.leader.map_or(0, |leader| leader.0),
        term: view.term,
        applied_index: view.applied_index,
        desired: view
            .desired
            .map(|range| log::OrdinalRange { start: u32::from(range.start), size: u32::from(range.size) }),
    }
}

/// What a pod answered.
pub(super) fn described(response: peer::DescribeResponse) -> Result<Described, WireError> {
    let description = response.description.ok_or(WireError::Lacks("a description"))?;
    let removed: BTreeSet<_> = bounded("removed ids", description.removed.len())
        .map(|()| description.removed.iter().map(|id| NodeId(*id)).collect())?;
    // Applied state speaks even where consensus does not run.
    let consensus = match response.consensus {
        Some(view) => Some(ConsensusView {
            leader: (view.leader != 0).then_some(NodeId(view.leader)),
            term: view.term,
            applied_index: view.applied_index,
            removed,
            desired: view.desired.map(to_range).transpose()?,
        }),
        None if removed.is_empty() => None,
        None => Some(ConsensusView { removed, ..ConsensusView::default() }),
    };
    bounded("client URLs", response.client_urls.len())?;
    Ok(Described {
        disk: to_disk(description)?,
        consensus,
        member_name: response.member_name,
        client_urls: response.client_urls,
    })
}

fn to_range(range: log::OrdinalRange) -> Result<OrdinalRange, WireError> {
    let number = |field, value: u32| {
        u16::try_from(value).map_err(|_| WireError::Value { field, value: i64::from(value) })
    };
    Ok(OrdinalRange {
        start: number("the first ordinal", range.start)?,
        size: number("the size", range.size)?,
    })
}

fn to_disk(description: peer::Description) -> Result<Disk, WireError> {
    let what = match Kind::try_from(description.kind) {
        Ok(Kind::Blank) => What::Blank,
        Ok(Kind::Prepared) => What::Prepared,
        Ok(Kind::Joining) => What::Joining,
        Ok(Kind::Member) => What::Member,
        Ok(Kind::Lost) => What::Lost { reason: String::new() },
        Ok(Kind::Unknown) | Err(_) => {
            return Err(WireError::Value { field: "what its disk is", value: i64::from(description.kind) });
        }
    };
    let vote = description.vote.unwrap_or_default();
    let last = description.last.unwrap_or_default();
    let held = Held {
        vote: Vote { term: vote.term, node: vote.node_id },
        last: LogId { term: last.term, index: last.index },
    };
    let marks = description.marks.unwrap_or_default().marks;
    bounded("marks", marks.len())?;
    bounded("boots", description.seen.len())?;
    bounded("superseded clusters", description.supersedes.len())?;
    Ok(Disk {
        what,
        ordinal: to_ordinal(description.ordinal)?,
        cluster: ClusterId(description.cluster_id),
        supersedes: description.supersedes.into_iter().map(ClusterId).collect(),
        node_id: NodeId(description.node_id),
        boot: Boot { number: description.boot, random: description.boot_random },
        held,
        at_boot: held,
        membership: from_membership(description.membership.unwrap_or_default())?,
        marks: marks
            .into_iter()
            .map(|mark| {
                let log::Mark { node_id, boot, vote_term, vote_node, log_term, log_index } = mark;
                (NodeId(node_id), Mark { boot, vote_term, vote_node, log_term, log_index })
            })
            .collect(),
        seen: description
            .seen
            .into_iter()
            .map(|seen| (NodeId(seen.node_id), Boot { number: seen.boot, random: seen.boot_random }))
            .collect::<BTreeMap<_, _>>(),
    })
}

pub(super) fn to_prepare(asked: String, prepared: &Prepared) -> peer::PrepareRequest {
    peer::PrepareRequest {
        asked,
        cluster_id: prepared.cluster.0,
        node_id: prepared.node_id.0,
        voters: Some(to_membership(&prepared.voters)),
        replaces: prepared.replaces.0,
    }
}

pub(super) fn from_prepare(request: peer::PrepareRequest) -> Result<Prepared, WireError> {
    Ok(Prepared {
        cluster: ClusterId(request.cluster_id),
        node_id: NodeId(request.node_id),
        voters: from_membership(request.voters.ok_or(WireError::Lacks("the voters"))?)?,
        replaces: ClusterId(request.replaces),
    })
}

pub(super) fn to_admit(asked: String, applicant: &Applicant) -> peer::AdmitRequest {
    peer::AdmitRequest {
        asked,
        cluster_id: applicant.cluster.0,
        nonce: applicant.nonce,
        ordinal: u32::from(applicant.ordinal),
        member: Some(to_member(&applicant.member)),
    }
}

pub(super) fn from_admit(request: peer::AdmitRequest) -> Result<Applicant, WireError> {
    let member = request.member.ok_or(WireError::Lacks("the member"))?;
    bounded("client URLs", member.client_urls.len())?;
    Ok(Applicant {
        cluster: ClusterId(request.cluster_id),
        nonce: request.nonce,
        ordinal: to_ordinal(request.ordinal)?,
        member: from_member(member),
    })
}

fn to_ordinal(ordinal: u32) -> Result<Ordinal, WireError> {
    ordinal.try_into().map_err(|_| WireError::Value { field: "its ordinal", value: i64::from(ordinal) })
}

fn to_member(member: &Member) -> log::Member {
    log::Member {
        node_id: member.node_id.0,
        name: member.name.clone(),
        peer_address: member.peer_address.clone(),
        client_urls: member.client_urls.clone(),
    }
}

fn from_member(member: log::Member) -> Member {
    Member {
        node_id: NodeId(member.node_id),
        name: member.name,
        peer_address: member.peer_address,
        client_urls: member.client_urls,
    }
}

pub(super) fn to_membership(membership: &Membership) -> log::Membership {
    log::Membership {
        configs: membership
            .configs
            .iter()
            .map(|config| log::Voters { node_ids: config.iter().map(|id| id.0).collect() })
            .collect(),
        members: membership.members.iter().map(to_member).collect(),
    }
}

pub(super) fn from_membership(membership: log::Membership) -> Result<Membership, WireError> {
    bounded("members", membership.members.len())?;
    bounded("sets of voters", membership.configs.len())?;
    for config in &membership.configs {
        bounded("voters", config.node_ids.len())?;
    }
    Ok(Membership {
        configs: membership
            .configs
            .into_iter()
            .map(|config| config.node_ids.into_iter().map(NodeId).collect())
            .collect(),
        members: membership.members.into_iter().map(from_member).collect(),
    })
}

fn bounded(what: &'static str, count: usize) -> Result<(), WireError> {
    if count > limits::PEERS {
        return Err(WireError::TooMany { what, count, most: limits::PEERS });
    }
    Ok(())
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
