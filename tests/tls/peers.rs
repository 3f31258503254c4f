//! The peer port: members that know each other by certificates, and all those who are none.

use std::net::SocketAddr;

use hyper_util::rt::TokioIo;
use setstone::client::{self, ClientTls, Connector, Kv};
use setstone::identity::NodeId;
use setstone::proto::peer::membership_client::MembershipClient;
use setstone::proto::peer::raft_client::RaftClient;
use setstone::proto::peer::{DescribeRequest, Envelope, RetireRequest, VoteRequest};
use setstone::transport::tls::Tls;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use super::authority::{Authority, Wanted};
use super::pods::Pods;
use super::world::{connected, is_refused, refused, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_form_a_cluster_and_survive_their_leader() {
    let mut pods = Pods::running().await;
    let client = pods.client(&[0, 1, 2]);
    client.put("k", "v").await.unwrap();
    let members = client::Client::members(&client).await.unwrap().value;
    for member in &members {
        assert!(member.peer_urls[0].starts_with("https://s-"), "{members:?}");
        assert!(member.client_urls[0].starts_with("http://s-"), "only peers speak TLS here: {members:?}");
    }
    let leader = pods.leader().await;
    pods.kill(leader);
    let others: Vec<usize> = (0..3).filter(|ordinal| *ordinal != leader).collect();
    let client = pods.client(&others);
    until("writes go on", async || client.put("k", "w").await.ok()).await;
    pods.start(leader).await;
    pods.ready(leader).await;
    assert_eq!(pods.client(&[leader]).get("k").await.unwrap().unwrap().value, "w");
    pods.stop_all().await;
}

/// Connects to a peer port with a certificate, and asks what everybody may ask there.
async fn ask(at: SocketAddr, name: &str, tls: ClientTls) -> Result<String, tonic::Status> {
    let mut client = MembershipClient::new(channel(at, name, tls));
    let request = DescribeRequest { asked: name.to_owned(), ..DescribeRequest::default() };
    Ok(client.describe(request).await?.into_inner().pod)
}

fn channel(at: SocketAddr, name: &str, tls: ClientTls) -> Channel {
    let connector = Connector::new(tls).unwrap();
    let name = name.to_owned();
    Endpoint::from_static("https://peer.invalid").connect_with_connector_lazy(tower::service_fn(
        move |_: http::Uri| {
            let (connector, name) = (connector.clone(), name.clone());
            async move {
                let stream = tokio::net::TcpStream::connect(at).await?;
                connector.connect(Box::new(stream), &name).await.map(TokioIo::new)
            }
        },
    ))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_no_member_gets_nowhere() {
    let mut pods = Pods::new();
    let crl = pods.shelf.put("crl.pem", &pods.authority.revoke(&[66]));
    pods.start_with(0, Tls { crl: Some(crl), ..pods.tls(0) }).await;
    let (at, name) = (pods.peer_port(0), pods.name(0));
    let member = pods.name(1);
    let hosts: &[&str] = &[&member];
    let good = Wanted { common_name: "s-1", hosts, ..Wanted::default() };
    let sign = |wanted: &Wanted<'_>| Some(pods.authority.sign(wanted));
    let another = Authority::new("another authority").sign(&good);
    let elsewhere: &[&str] = &["web-1.peers.shop.svc.cluster.local"];
    let outside: &[&str] = &["s-1.peers.other.svc.cluster.local", "s-1", "10.0.0.1"];
    for (who, shown, reason) in [
        ("without a certificate", None, "no_certificate"),
        ("of another authority", Some(another), "unknown_authority"),
        ("expired", sign(&Wanted { days: (-2, -1), ..good.clone() }), "expired"),
        ("revoked", sign(&Wanted { serial: 66, ..good.clone() }), "revoked"),
        ("a client", sign(&Wanted { common_name: "alice", ..Wanted::default() }), "wrong_name"),
        (
            "a client of the same name",
            sign(&Wanted { common_name: &member, ..Wanted::default() }),
            "wrong_name",
        ),
        ("another set's pod", sign(&Wanted { hosts: elsewhere, ..good.clone() }), "wrong_name"),
        ("a pod of another place", sign(&Wanted { hosts: outside, ..good.clone() }), "wrong_name"),
    ] {
        let before = refused(pods.node(0), "peer", reason);
        let tls = pods.shelf.client("stranger", &pods.authority, shown.as_ref());
        ask(at, &name, tls).await.expect_err(who);
        is_refused(pods.node(0), "peer", reason, before).await;
    }
    let mut plain = connected(at).await;
    plain.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    // It may be closed with a reset.
    let _ = plain.read_to_end(&mut answer).await;
    is_refused(pods.node(0), "peer", "plain_text", 0).await;
    // One for every pod, or for several, is good; and what was refused is not for want of a good one.
    let wild: &[&str] = &["*.peers.shop.svc.cluster.local"];
    for hosts in [hosts, wild, &[elsewhere[0], &member]] {
        let tls =
            pods.shelf.client("peer", &pods.authority, sign(&Wanted { hosts, ..good.clone() }).as_ref());
        assert_eq!(ask(at, &name, tls).await.unwrap(), name);
    }
    pods.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_speaks_for_itself_only() {
    let pods = Pods::running().await;
    let (at, name) = (pods.peer_port(0), pods.name(0));
    let files = pods.shelf.path("pod-1.crt");
    let identity = setstone::client::KeyPair { certificate: files, key: pods.shelf.path("pod-1.key") };
    let tls = ClientTls {
        trusted_ca: Some(pods.shelf.path("ca.crt")),
        identity: Some(identity),
        takes_any_server: false,
    };
    let channel = channel(at, &name, tls);
    let members = client::Client::members(&pods.client(&[0])).await.unwrap();
    let cluster_id = members.header.cluster.0;
    let id = |ordinal: u16| members.value.iter().find(|member| member.id.ordinal() == ordinal).unwrap().id;
    let vote = async |from: NodeId| {
        let envelope = Envelope { cluster_id, to: id(0).0, from: from.0, boot: 1, boot_random: 1 };
        let request = VoteRequest { envelope: Some(envelope), ..VoteRequest::default() };
        RaftClient::new(channel.clone()).pre_vote(request).await.unwrap_err()
    };
    let refused = vote(id(2)).await;
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    assert!(refused.message().contains(&format!("not that of {}'s pod", id(2))), "{refused}");
    let of_itself = vote(id(1)).await;
    assert_ne!(
        of_itself.code(),
        Code::PermissionDenied,
        "it may speak, and says nothing of use: {of_itself}"
    );
    let retire = async |id: NodeId| {
        let request = RetireRequest { asked: name.clone(), cluster_id, node_id: id.0 };
        MembershipClient::new(channel.clone()).retire(request).await
    };
    assert_eq!(retire(id(2)).await.unwrap_err().code(), Code::PermissionDenied);
    assert!(retire(id(1)).await.is_ok());
    pods.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_with_another_pods_certificate_is_no_member_until_it_has_its_own() {
    let mut pods = Pods::running().await;
    pods.client(&[0, 1, 2]).put("k", "v").await.unwrap();
    pods.stop(2).await;
    pods.certify(2, 1);
    pods.start(2).await;
    // The others dial it by its name, and find the certificate of another.
    let at = pods.peer_port(2);
    let tls = ClientTls { identity: None, ..pods.shelf.client("looker", &pods.authority, None) };
    let error = Connector::new(tls).unwrap().connect(Box::new(connected(at).await), &pods.name(2)).await;
    assert!(setstone::transport::tls::is_name_mismatch(&error.err().unwrap()));
    let client = pods.client(&[0, 1]);
    for number in 0..50 {
        client.put(format!("k{number}"), "v").await.unwrap();
    }
    is_refused(pods.node(2), "peer", "not_trusted", 0).await;
    assert!(!pods.node(2).health().ready, "{:?}", pods.node(2).health());
    until("the others say why it does not answer", async || says(&pods, 0, &["s-2.peers", "certificate"]))
        .await;
    // The right one is taken without a restart.
    pods.certify(2, 2);
    pods.ready(2).await;
    assert_eq!(pods.client(&[2]).get("k49").await.unwrap().unwrap().value, "v");
    pods.stop_all().await;
}

/// Whether the status of a pod names somebody who could not be reached, with all these words.
fn says(pods: &Pods, ordinal: usize, words: &[&str]) -> Option<()> {
    let status = pods.node(ordinal).health().status;
    let lines = status["unreached"].as_array()?;
    let has_all = |line: &str| words.iter().all(|word| line.contains(word));
    lines.iter().any(|line| line.as_str().is_some_and(has_all)).then_some(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_with_a_certificate_of_another_authority_says_why_it_is_not_ready() {
    let mut pods = Pods::running().await;
    pods.stop(2).await;
    let name = pods.name(2);
    let hosts: &[&str] = &[&name];
    let wanted = Wanted { common_name: "s-2", hosts, ..Wanted::default() };
    pods.shelf.keep("pod-2", &Authority::new("another authority").sign(&wanted));
    pods.start(2).await;
    until("it says why", async || says(&pods, 2, &["s-0.peers", "does not take the certificate"])).await;
    until("so do the others", async || says(&pods, 0, &["s-2.peers", "UnknownIssuer"])).await;
    assert!(!pods.node(2).health().ready, "{:?}", pods.node(2).health());
    pods.client(&[0, 1]).put("k", "v").await.unwrap();
    pods.certify(2, 2);
    pods.ready(2).await;
    let answer = async || says(&pods, 0, &["s-2.peers"]).is_none().then_some(());
    until("nothing is wrong any more", answer).await;
    pods.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_change_their_authority_while_they_serve() {
    let pods = Pods::running().await;
    let client = pods.client(&[0, 1, 2]);
    client.put("k", "v").await.unwrap();
    let next = Authority::new("the next authority");
    pods.shelf.put("ca.crt", &format!("{}{}", pods.authority.pem, next.pem));
    for ordinal in 0..3 {
        let name = pods.name(ordinal);
        let hosts: &[&str] = &[&name];
        let signed = next.sign(&Wanted { common_name: "next", hosts, serial: 200, ..Wanted::default() });
        pods.shelf.keep(&format!("pod-{ordinal}"), &signed);
    }
    let tls = ClientTls { trusted_ca: Some(pods.shelf.put("next.crt", &next.pem)), ..ClientTls::default() };
    let connector = Connector::new(tls).unwrap();
    for ordinal in 0..3 {
        let (at, name) = (pods.peer_port(ordinal), pods.name(ordinal));
        until("the new certificate is shown", async || {
            client.put("k", "w").await.unwrap();
            connector.connect(Box::new(connected(at).await), &name).await.ok()
        })
        .await;
    }
    // What is dialled anew finds the new ones on both sides.
    let mut pods = pods;
    pods.stop(1).await;
    pods.shelf.put("ca.crt", &next.pem);
    pods.start(1).await;
    pods.ready(1).await;
    client.put("k", "x").await.unwrap();
    pods.stop_all().await;
}
