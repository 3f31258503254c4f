//! etcd's lock and election services on real members, asked as any etcd client asks them.

#![allow(dead_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    missing_docs
)]

#[path = "../examples/election.rs"]
mod election_example;
#[path = "locks/held.rs"]
mod held;
#[path = "../examples/lock.rs"]
mod lock_example;
#[path = "../examples/pages.rs"]
mod pages_example;
#[path = "locks/parts.rs"]
mod parts;

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use setstone::client::{Client, Compact, Consistency, Kv, Range, Remote};
use setstone::proto::v3electionpb as epb;
use setstone::proto::v3electionpb::election_client::ElectionClient;
use setstone::proto::v3lockpb as pb;
use setstone::proto::v3lockpb::lock_client::LockClient;
use setstone::testing::TestCluster;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

/// Long enough for a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) async fn channel(cluster: &TestCluster, index: usize) -> Channel {
    let address = cluster.node(index).unwrap().addresses().client;
    Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap()
}

async fn locks(cluster: &TestCluster, index: usize) -> LockClient<Channel> {
    LockClient::new(channel(cluster, index).await)
}

async fn lease(client: &Remote, ttl: i64) -> i64 {
    client.grant(0, ttl).await.unwrap().value.id
}

fn request(name: &str, lease: i64) -> pb::LockRequest {
    pb::LockRequest { name: name.to_owned().into(), lease }
}

/// Asks for a lock, and waits in a task of its own.
fn ask(mut by: LockClient<Channel>, name: &str, lease: i64) -> JoinHandle<Result<Bytes, Status>> {
    let request = request(name, lease);
    tokio::spawn(async move { by.lock(request).await.map(|response| response.into_inner().key) })
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(PATIENCE, what).await.expect("in time")
}

async fn unlock(by: &mut LockClient<Channel>, key: &Bytes) {
    by.unlock(pb::UnlockRequest { key: key.clone() }).await.unwrap();
}

/// The keys in a queue, in the order in which they came.
async fn queue(client: &Remote, name: &str) -> Vec<Bytes> {
    let (key, range_end) = (format!("{name}/").into(), format!("{name}0").into());
    let range = Range { key, range_end, ..Range::default() };
    let mut found = Client::get(client, range, Consistency::Linearizable).await.unwrap().value.kvs;
    found.sort_by_key(|kv| kv.create_revision);
    found.into_iter().map(|kv| kv.key).collect()
}

/// Waits until a queue has so many keys.
async fn queued(client: &Remote, name: &str, count: usize) -> Vec<Bytes> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = queue(client, name).await;
        if found.len() == count {
            return found;
        }
        assert!(Instant::now() < deadline, "{name} has {found:?}, not {count}");
        // Between two looks; nothing tells.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_goes_round_in_the_order_of_the_queue_whichever_member_is_asked() {
    let cluster = TestCluster::start(3).await.unwrap();
    let client = cluster.client();
    let mut waiting = Vec::new();
    for number in 0..9 {
        waiting.push(ask(locks(&cluster, number % 3).await, "round", lease(&client, 60).await));
        // One after the other, so that the order is known.
        queued(&client, "round", number + 1).await;
    }
    let order = queue(&client, "round").await;
    for (number, mut call) in waiting.into_iter().enumerate() {
        let key = soon(&mut call).await.unwrap().unwrap();
        assert_eq!(key, order[number]);
        assert_eq!(queue(&client, "round").await, order[number..], "those behind it wait");
        unlock(&mut locks(&cluster, (number + 1) % 3).await, &key).await;
    }
    assert_eq!(queue(&client, "round").await, [] as [Bytes; 0]);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_one_behind_is_woken_and_one_that_gives_up_is_passed_over() {
    let cluster = TestCluster::start(3).await.unwrap();
    let client = cluster.client();
    let mut by = locks(&cluster, 1).await;
    let held = by.lock(request("pass", lease(&client, 60).await)).await.unwrap().into_inner().key;
    let gives_up = ask(locks(&cluster, 1).await, "pass", lease(&client, 60).await);
    queued(&client, "pass", 2).await;
    let mut last = ask(locks(&cluster, 2).await, "pass", lease(&client, 60).await);
    let order = queued(&client, "pass", 3).await;
    // Its client goes away.
    gives_up.abort();
    assert_eq!(queued(&client, "pass", 2).await, [order[0].clone(), order[2].clone()]);
    assert!(!last.is_finished(), "the first is still there");
    // What it waited for is compacted away.
    let revision = Kv::put(&client, "other", "x").await.unwrap();
    client.compact(Compact { revision, physical: true }).await.unwrap();
    assert!(!last.is_finished());
    unlock(&mut by, &held).await;
    assert_eq!(soon(&mut last).await.unwrap().unwrap(), order[2]);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_ends_the_wait_and_takes_the_key_away() {
    let cluster = TestCluster::start(1).await.unwrap();
    let client = cluster.client();
    let mut by = locks(&cluster, 0).await;
    by.lock(request("late", lease(&client, 60).await)).await.unwrap();
    // Without tonic, which would look at its own clock.
    let message = request("late", lease(&client, 60).await).encode_to_vec();
    let body = [&[0][..], &(message.len() as u32).to_be_bytes(), &message].concat();
    let call = http::Request::post("http://x/v3lockpb.Lock/Lock")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", "300m")
        .body(Full::new(Bytes::from(body)))
        .unwrap();
    let address = cluster.node(0).unwrap().addresses().client;
    let stream = TokioIo::new(tokio::net::TcpStream::connect(address).await.unwrap());
    let (mut requests, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let response = soon(requests.send_request(call)).await.unwrap();
    let status = Status::from_header_map(response.headers()).unwrap();
    assert_eq!((status.code(), status.message()), (Code::DeadlineExceeded, "context deadline exceeded"));
    connection.abort();
    queued(&client, "late", 1).await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_ends_ends_the_wait_and_passes_the_lock_on() {
    let cluster = TestCluster::start(3).await.unwrap();
    let client = cluster.client();
    let mut by = locks(&cluster, 0).await;
    // Not kept alive.
    let short = lease(&client, 2).await;
    by.lock(request("ends", short)).await.unwrap();
    let revoked = lease(&client, 60).await;
    let waits = ask(locks(&cluster, 1).await, "ends", revoked);
    queued(&client, "ends", 2).await;
    let last = ask(locks(&cluster, 2).await, "ends", lease(&client, 60).await);
    let order = queued(&client, "ends", 3).await;
    client.revoke(revoked).await.unwrap();
    let status = soon(waits).await.unwrap().unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unknown, "mutex: session is expired"));
    assert_eq!(soon(last).await.unwrap().unwrap(), order[2], "the holder's lease is over");
    let status = by.lock(request("ends", 4_711)).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unknown, "etcdserver: requested lease not found"));
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_stops_sends_away_who_waits_there() {
    let mut cluster = TestCluster::start(3).await.unwrap();
    let client = cluster.client();
    let mut by = locks(&cluster, 0).await;
    let held = by.lock(request("stop", lease(&client, 60).await)).await.unwrap().into_inner().key;
    let mine = lease(&client, 60).await;
    let waits = ask(locks(&cluster, 2).await, "stop", mine);
    queued(&client, "stop", 2).await;
    let mut observer = ElectionClient::new(channel(&cluster, 2).await)
        .observe(epb::LeaderRequest { name: "stop".into() })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(soon(observer.message()).await.unwrap().unwrap().kv.unwrap().key, held);
    cluster.stop(2).await;
    let status = soon(waits).await.unwrap().unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "etcdserver: server stopped"));
    let status = soon(observer.message()).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "etcdserver: server stopped"));
    assert_eq!(queued(&client, "stop", 1).await, std::slice::from_ref(&held), "its key went with it");
    // It asks another one.
    let again = ask(locks(&cluster, 1).await, "stop", mine);
    queued(&client, "stop", 2).await;
    unlock(&mut by, &held).await;
    soon(again).await.unwrap().unwrap();
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_lease_is_one_holder_and_a_lock_without_one_gets_one() {
    let cluster = TestCluster::start(1).await.unwrap();
    let client = cluster.client();
    let mut by = locks(&cluster, 0).await;
    let mine = lease(&client, 60).await;
    let key = by.lock(request("same", mine)).await.unwrap().into_inner().key;
    assert_eq!(by.lock(request("same", mine)).await.unwrap().into_inner().key, key);
    assert_eq!(key, format!("same/{mine:x}"));
    unlock(&mut by, &key).await;
    // Unlocking what is not locked is no error.
    unlock(&mut by, &key).await;
    let key = by.lock(request("same", 0)).await.unwrap().into_inner().key;
    let id = i64::from_str_radix(std::str::from_utf8(&key[5..]).unwrap(), 16).unwrap();
    let life = client.time_to_live(id, true).await.unwrap().value;
    assert_eq!((life.granted, life.keys), (60, vec![key]));
    // Names are bytes, and may be empty.
    let strange = pb::LockRequest { name: vec![0xff, 0].into(), lease: mine };
    assert_eq!(by.lock(strange).await.unwrap().into_inner().key[..3], [0xff, 0, b'/']);
    assert!(by.lock(request("", mine)).await.unwrap().into_inner().key.starts_with(b"/"));
    cluster.shutdown().await;
}

fn campaign(name: &str, lease: i64, value: &str) -> epb::CampaignRequest {
    epb::CampaignRequest { name: name.to_owned().into(), lease, value: value.to_owned().into() }
}

/// What an observer sees next.
async fn seen(observer: &mut Streaming<epb::LeaderResponse>) -> (String, i64) {
    let response = soon(observer.message()).await.unwrap().expect("more");
    let kv = response.kv.unwrap();
    assert!(response.header.unwrap().revision >= kv.mod_revision);
    (String::from_utf8(kv.value.to_vec()).unwrap(), kv.create_revision)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_election_passes_leadership_on_and_everybody_sees_who_leads() {
    let cluster = TestCluster::start(3).await.unwrap();
    let client = cluster.client();
    let mut on = ElectionClient::new(channel(&cluster, 0).await);
    let mut other = ElectionClient::new(channel(&cluster, 1).await);
    // Before anybody leads.
    let name = epb::LeaderRequest { name: "e".into() };
    let mut observer =
        ElectionClient::new(channel(&cluster, 2).await).observe(name.clone()).await.unwrap().into_inner();

    let one = lease(&client, 60).await;
    let first = on.campaign(campaign("e", one, "a")).await.unwrap().into_inner().leader.unwrap();
    assert_eq!((&first.key, first.lease), (&format!("e/{one:x}").into(), one));
    assert_eq!(seen(&mut observer).await, ("a".into(), first.rev));
    let two = lease(&client, 60).await;
    let mut waiting = tokio::spawn(async move { other.campaign(campaign("e", two, "b")).await });
    queued(&client, "e", 2).await;

    // A leader that campaigns again leads, with the new value.
    let again = on.campaign(campaign("e", one, "a2")).await.unwrap().into_inner().leader.unwrap();
    assert_eq!(again, first);
    assert_eq!(seen(&mut observer).await, ("a2".into(), first.rev));
    let value = epb::ProclaimRequest { leader: Some(first.clone()), value: "a3".into() };
    on.proclaim(value.clone()).await.unwrap();
    assert_eq!(seen(&mut observer).await, ("a3".into(), first.rev));
    let leader = on.leader(name.clone()).await.unwrap().into_inner().kv.unwrap();
    assert_eq!((&leader.value[..], leader.create_revision, leader.lease), (&b"a3"[..], first.rev, one));
    assert!(!waiting.is_finished());

    on.resign(epb::ResignRequest { leader: Some(first.clone()) }).await.unwrap();
    let second = soon(&mut waiting).await.unwrap().unwrap().into_inner().leader.unwrap();
    assert!(second.rev > first.rev && second.lease == two);
    assert_eq!(seen(&mut observer).await, ("b".into(), second.rev));
    let status = on.proclaim(value).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unknown, "election: not leader"));

    // One that waits hears that its lease has ended.
    let ended = lease(&client, 60).await;
    let mut by = ElectionClient::new(channel(&cluster, 1).await);
    let waits = tokio::spawn(async move { by.campaign(campaign("e", ended, "x")).await });
    queued(&client, "e", 2).await;
    client.revoke(ended).await.unwrap();
    let status = soon(waits).await.unwrap().unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unknown, "etcdserver: requested lease not found"));

    // Its lease ends, the next one comes, and the observer sees it without having looked away.
    client.revoke(two).await.unwrap();
    let three = lease(&client, 60).await;
    let third = on.campaign(campaign("e", three, "c")).await.unwrap().into_inner().leader.unwrap();
    assert_eq!(seen(&mut observer).await, ("c".into(), third.rev));
    cluster.shutdown().await;
}
