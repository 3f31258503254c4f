//! Requests and connections that are too much, against a whole node.

use std::process::Stdio;
use std::time::Duration;

use prost::Message;
use setstone::client::Kv;
use setstone::limits;
use setstone::proto::etcdserverpb as pb;
use setstone::proto::etcdserverpb::kv_client::KvClient;
use setstone::{Config, Node};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tonic::Code;
use tonic::transport::Channel;

use crate::process::Process;

#[tokio::test]
async fn requests_that_are_too_much_are_refused() {
    let node = Node::start(Config::in_memory("alone")).await.unwrap();
    node.ready(Instant::now() + Duration::from_secs(20)).await.unwrap();
    let endpoint = Channel::from_shared(format!("http://{}", node.addresses().client)).unwrap();
    let mut client = KvClient::new(endpoint.connect().await.unwrap());
    let put = |bytes: usize| pb::PutRequest {
        key: "k".into(),
        value: vec![b'v'; bytes].into(),
        ..Default::default()
    };
    let text = |status: tonic::Status| (status.code(), status.message().to_owned());

    let (code, message) = text(client.put(put(limits::RECEIVED_MESSAGE_BYTES)).await.unwrap_err());
    assert_eq!(code, Code::ResourceExhausted);
    assert!(message.contains("larger than max"), "{message}");
    let refused = text(client.put(put(limits::REQUEST_BYTES)).await.unwrap_err());
    assert_eq!(refused, (Code::InvalidArgument, "etcdserver: request is too large".into()));
    client.put(put(limits::REQUEST_BYTES - 64)).await.unwrap();

    let op = pb::RequestOp {
        request: Some(pb::request_op::Request::RequestRange(pb::RangeRequest {
            key: "k".into(),
            ..Default::default()
        })),
    };
    let txn = |count| pb::TxnRequest { success: vec![op.clone(); count], ..Default::default() };
    let refused = text(client.txn(txn(limits::TXN_OPERATIONS + 1)).await.unwrap_err());
    assert_eq!(refused, (Code::InvalidArgument, "etcdserver: too many operations in txn request".into()));
    let small = pb::TxnRequest { success: vec![op.clone(); 2], ..Default::default() };
    client.txn(small).await.unwrap();

    let asking = client.clone();
    let range = async |range: pb::RangeRequest| {
        let status = asking.clone().range(range).await.unwrap_err();
        format!("{:?} {}", status.code(), status.message())
    };
    let key = || pb::RangeRequest { key: "k".into(), ..Default::default() };
    assert_eq!(range(pb::RangeRequest::default()).await, "InvalidArgument etcdserver: key is not provided");
    assert_eq!(
        range(pb::RangeRequest { sort_order: 9, ..key() }).await,
        "InvalidArgument etcdserver: invalid sort option"
    );
    assert_eq!(
        range(pb::RangeRequest { revision: 1 << 40, ..key() }).await,
        "OutOfRange etcdserver: mvcc: required revision is a future revision"
    );
    let inverted = pb::RangeRequest { range_end: "a".into(), ..key() };
    assert_eq!(client.range(inverted).await.unwrap().into_inner().count, 0, "empty, not an error");
    node.shutdown().await;
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// An empty SETTINGS frame.
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

/// An HTTP/2 connection that has been greeted and says nothing more.
async fn idle(process: &Process) -> TcpStream {
    let mut stream = TcpStream::connect(process.client).await.unwrap();
    stream.write_all(&[PREFACE, SETTINGS].concat()).await.unwrap();
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(head[3], 4, "its SETTINGS");
    stream
}

/// Raises this process's limit of open files as far as it may; returns it.
fn raise_open_files() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // Inherited by the processes that are started from here on.
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    limit.maximum.map_or(usize::MAX, |most| most as usize)
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_idle_connections_are_cheap_and_are_freed() {
    let count = raise_open_files().saturating_sub(500).min(10_000);
    if count < 10_000 {
        println!("the limit of open files allows {count} connections only");
    }
    let directory = tempfile::tempdir().unwrap();
    let mut process = Process::start(directory.path(), &[]).await;
    let mut clients = Vec::with_capacity(count);
    // The first few pay for what all share.
    for _ in 0..50 {
        clients.push(idle(&process).await);
    }
    let before = process.resident();
    while clients.len() < count {
        clients.push(idle(&process).await);
    }
    assert_eq!(process.metric("setstone_client_connections") as usize, count);
    let grown = process.resident().saturating_sub(before);
    let each = grown / (count - 50);
    println!("{each} bytes for each of {count} idle connections");
    assert!(each <= 40 << 10, "{each} bytes for each of {count} idle connections");
    assert_eq!(Kv::put(&process.remote(), "k", "v").await.unwrap(), 2, "others are served");
    drop(clients);
    process.until("all are closed", |process| process.metric("setstone_client_connections") < 2.0).await;
    // What was freed is used again.
    let freed = process.resident();
    let mut again = Vec::with_capacity(count);
    while again.len() < count {
        again.push(idle(&process).await);
    }
    let more = process.resident().saturating_sub(freed);
    assert!(more <= grown + (8 << 20), "{more} more bytes for as many connections as took {grown}");
    drop(again);
    assert_eq!(process.terminate().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_go_is_not_waited_for_until_the_grace_period_is_over() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::start(directory.path(), &[]).await;
    let client = idle(&process).await;
    let began = Instant::now();
    assert_eq!(process.terminate().await, 0);
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    drop(client);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_low_soft_limit_of_open_files_limits_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let low = ["sh", "-c", "ulimit -Sn 64 && exec \"$@\"", "sh"].map(str::to_owned);
    let mut process = Process::spawn(&low, directory.path(), &[], Stdio::inherit());
    process.serves().await;
    let mut clients = Vec::new();
    for _ in 0..200 {
        clients.push(idle(&process).await);
    }
    assert_eq!(Kv::put(&process.remote(), "k", "v").await.unwrap(), 2);
    drop(clients);
    assert_eq!(process.terminate().await, 0);
}

/// One call of a gRPC method, on a stream.
fn call(stream: u32, path: &str, message: &impl Message) -> Vec<u8> {
    let mut block = Vec::new();
    let names = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "x"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    for (name, value) in names {
        block.extend([0, name.len() as u8]);
        block.extend(name.as_bytes());
        block.push(value.len() as u8);
        block.extend(value.as_bytes());
    }
    let encoded = message.encode_to_vec();
    let data = [&[0][..], &(encoded.len() as u32).to_be_bytes(), &encoded].concat();
    [frame(1, 4, stream, &block), frame(0, 1, stream, &data)].concat()
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_without_manners_do_not_harm_the_process() {
    let directory = tempfile::tempdir().unwrap();
    let mut process = Process::start(directory.path(), &[]).await;
    let store = process.remote();
    for number in 0..8 {
        Kv::put(&store, format!("k{number}"), vec![b'v'; 128 << 10]).await.unwrap();
    }
    let before = process.resident();

    // Asks for a megabyte again and again, allows the server to send it, and never reads.
    let mut deaf = TcpStream::connect(process.client).await.unwrap();
    let window = [&[0, 4][..], &0x7fff_ffff_u32.to_be_bytes()].concat();
    let connection = (0x7fff_ffff_u32 - 65_535).to_be_bytes();
    deaf.write_all(&[PREFACE, &frame(4, 0, 0, &window), &frame(8, 0, 0, &connection)].concat())
        .await
        .unwrap();
    let all = pb::RangeRequest { key: vec![0].into(), range_end: vec![0].into(), ..Default::default() };
    for number in 0..1_000 {
        deaf.write_all(&call(number * 2 + 1, "/etcdserverpb.KV/Range", &all)).await.unwrap();
    }
    // Half a frame, twenty times, and an HTTP/1 request that claims to be gRPC.
    let mut halves = Vec::new();
    for _ in 0..20 {
        let mut half = idle(&process).await;
        half.write_all(&call(1, "/etcdserverpb.KV/Range", &all)[..40]).await.unwrap();
        halves.push(half);
    }
    let mut old = TcpStream::connect(process.client).await.unwrap();
    let request = "POST /etcdserverpb.KV/Range HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
                   Content-Type: application/grpc\r\nContent-Length: 5\r\n\r\n\0\0\0\0\0";
    old.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    old.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");

    process
        .until("most are refused", |process| {
            process.metric("setstone_refused_requests_total{reason=\"unread\"}") > 500.0
        })
        .await;
    let allowed = limits::UNREAD_ANSWER_BYTES
        + ((limits::ANSWERS_IN_THE_MAKING / limits::LARGE_ANSWER_SHARE) as usize + 16) * (1 << 20);
    let grown = process.resident().saturating_sub(before);
    assert!(grown < 2 * allowed, "{} MiB for one client", grown >> 20);
    assert_eq!(store.get_prefix("k").await.unwrap().len(), 8, "others are served");
    drop((deaf, halves));
    process.until("all are closed", |process| process.metric("setstone_client_connections") < 2.0).await;
    assert_eq!(process.terminate().await, 0);
}
