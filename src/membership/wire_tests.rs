#![allow(clippy::unwrap_used)]
use super::*;

fn full() -> Described {
    let held = Held { vote: Vote { term: 5, node: 7 }, last: LogId { term: 4, index: 90 } };
    let id = NodeId::new(2, 31);
    Described {
        disk: Disk {
            what: What::Member,
            ordinal: 2,
            cluster: ClusterId(0xa1),
            supersedes: vec![ClusterId(1), ClusterId(2)],
            node_id: id,
            boot: Boot { number: 9, random: 99 },
            held,
            at_boot: held,
            membership: Membership {
                configs: vec![vec![id], vec![id, NodeId::new(0, 1)]],
                members: vec![Member {
                    node_id: id,
                    name: "s-2".into(),
                    peer_address: "s-2.p:2380".into(),
                    client_urls: vec!["http://s-2.p:2379".into()],
                }],
            },
            marks: [(id, Mark { boot: 8, vote_term: 5, vote_node: 7, log_term: 4, log_index: 80 })].into(),
            seen: [(id, Boot { number: 9, random: 99 })].into(),
        },
        consensus: Some(ConsensusView {
            leader: Some(id),
            term: 5,
            applied_index: 88,
            removed: [NodeId::new(1, 4)].into(),
            desired: Some(OrdinalRange { start: 2, size: 5 }),
        }),
        member_name: "s-2".into(),
        client_urls: vec!["http://s-2.p:2379".into()],
    }
}

fn response(of: &Described) -> peer::DescribeResponse {
    peer::DescribeResponse {
        pod: "s-2.p".into(),
        description: Some(description(&of.disk, of.consensus.as_ref())),
        consensus: of.consensus.as_ref().map(super::consensus),
        member_name: of.member_name.clone(),
        client_urls: of.client_urls.clone(),
        connected: Vec::new(),
        token: String::new(),
    }
}

#[test]
fn what_is_said_is_heard() {
    assert_eq!(described(response(&full())).unwrap(), full());
    for what in [What::Blank, What::Prepared, What::Joining, What::Lost { reason: String::new() }] {
        let said =
            Described { disk: Disk { what, ..Disk::default() }, consensus: None, ..Described::default() };
        assert_eq!(described(response(&said)).unwrap(), said);
    }
}

#[test]
fn applied_state_is_heard_without_consensus() {
    let mut said = response(&full());
    said.consensus = None;
    let heard = described(said).unwrap().consensus.unwrap();
    assert_eq!((heard.leader, heard.removed.len()), (None, 1));
}

#[test]
fn what_makes_no_sense_is_named() {
    let wrong = |change: &dyn Fn(&mut peer::DescribeResponse, &mut peer::Description)| {
        let mut said = response(&full());
        let mut of = said.description.clone().unwrap();
        change(&mut said, &mut of);
        if said.description.is_some() {
            said.description = Some(of);
        }
        described(said).unwrap_err().to_string()
    };
    assert_eq!(wrong(&|said, _| said.description = None), "it lacks a description");
    assert_eq!(wrong(&|_, of| of.kind = 0), "it says 0 for what its disk is");
    assert_eq!(wrong(&|_, of| of.kind = 99), "it says 99 for what its disk is");
    assert_eq!(wrong(&|_, of| of.ordinal = 65_536), "it says 65536 for its ordinal");
    assert_eq!(wrong(&|_, of| of.removed = vec![1; 257]), "it has 257 removed ids, more than 256");
    assert_eq!(wrong(&|_, of| of.seen = vec![peer::Seen::default(); 257]), "it has 257 boots, more than 256");
    let voters = log::Voters { node_ids: vec![1; 257] };
    let membership = log::Membership { configs: vec![voters], members: Vec::new() };
    assert_eq!(wrong(&|_, of| of.membership = Some(membership.clone())), "it has 257 voters, more than 256");
    assert!(from_prepare(peer::PrepareRequest::default()).is_err());
}

#[test]
fn an_identity_is_carried_whole() {
    let prepared = Prepared {
        cluster: ClusterId(7),
        node_id: NodeId::new(1, 1),
        voters: Membership::all_vote(vec![Member { node_id: NodeId::new(1, 1), ..Member::default() }]),
        replaces: ClusterId(6),
    };
    assert_eq!(from_prepare(to_prepare("s-1".into(), &prepared)).unwrap(), prepared);
}
