//! What clients can do to a port: nothing, garbage, half of something, too much, and never reading the answers. All is
//! refused or bounded, and others are served meanwhile.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::disallowed_methods)]

#[path = "hostile/descriptors.rs"]
mod descriptors;
#[path = "golden/fake.rs"]
mod fake;
#[path = "hostile/messages.rs"]
mod messages;
#[path = "hostile/strangers.rs"]
mod strangers;
#[path = "golden/web.rs"]
mod web;

use std::net::SocketAddr;
use std::time::Duration;

use prost::Message;
use setstone::error::Error;
use setstone::limits;
use setstone::proto::etcdserverpb as pb;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::RwLock;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_prost::ProstCodec;

/// Who measures the memory of this process holds it alone, whoever starts a whole member shares it.
static MEMORY: RwLock<()> = RwLock::const_new(());

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend_from_slice(&[kind, flags]);
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// What an HTTP/2 client says first. It allows the server to send as much as it likes.
fn hello() -> Vec<u8> {
    let window = 0x7fff_ffff_u32.to_be_bytes();
    let settings = [&[0, 4][..], &window].concat();
    let more = (0x7fff_ffff_u32 - 65_535).to_be_bytes();
    [PREFACE, &frame(SETTINGS, 0, 0, &settings), &frame(WINDOW_UPDATE, 0, 0, &more)].concat()
}

fn headers(stream: u32, path: &str) -> Vec<u8> {
    headers_of(stream, path, "application/grpc")
}

fn headers_of(stream: u32, path: &str, kind: &str) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "x"),
        ("content-type", kind),
        ("te", "trailers"),
    ] {
        block.push(0);
        block.push(name.len() as u8);
        block.extend_from_slice(name.as_bytes());
        block.push(value.len() as u8);
        block.extend_from_slice(value.as_bytes());
    }
    frame(HEADERS, END_HEADERS, stream, &block)
}

fn grpc_message(message: &impl Message) -> Vec<u8> {
    let encoded = message.encode_to_vec();
    [&[0][..], &(encoded.len() as u32).to_be_bytes(), &encoded].concat()
}

/// A whole call.
fn call(stream: u32, path: &str, message: &impl Message) -> Vec<u8> {
    [headers(stream, path), frame(DATA, END_STREAM, stream, &grpc_message(message))].concat()
}

/// Reads frames until one of this kind.
async fn until(stream: &mut TcpStream, kind: u8) -> Vec<u8> {
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.unwrap();
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        stream.read_exact(&mut payload).await.unwrap();
        if head[3] == kind {
            return payload;
        }
    }
}

async fn channel(address: SocketAddr) -> Channel {
    Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap()
}

async fn unary<M, R>(channel: &Channel, path: &'static str, message: M) -> Result<R, Status>
where
    M: Message + 'static,
    R: Message + Default + 'static,
{
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await.map_err(|error| Status::unknown(error.to_string()))?;
    let codec = ProstCodec::<M, R>::default();
    Ok(grpc.unary(tonic::Request::new(message), path.parse().unwrap(), codec).await?.into_inner())
}

async fn put(channel: &Channel, key: &str, size: usize) -> Result<pb::PutResponse, Status> {
    let value = vec![b'v'; size].into();
    let put = pb::PutRequest { key: key.to_owned().into(), value, ..pb::PutRequest::default() };
    unary(channel, "/etcdserverpb.KV/Put", put).await
}

fn all_keys() -> pb::RangeRequest {
    pb::RangeRequest { key: vec![0].into(), range_end: vec![0].into(), ..pb::RangeRequest::default() }
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    let mut looks = tokio::time::interval(Duration::from_millis(5));
    while !holds() {
        assert!(tokio::time::Instant::now() < deadline, "not in time: {what}");
        looks.tick().await;
    }
}

/// Bytes of this process in memory.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
}

/// Connections that this process may open to itself, at most `wanted`.
fn affordable(wanted: usize) -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let files: usize = line.split_whitespace().nth(3).unwrap().parse().unwrap_or(usize::MAX);
    wanted.min(files.saturating_sub(200) / 2)
}

#[tokio::test]
async fn an_http1_request_on_the_grpc_port_gets_an_ordinary_answer() {
    let server = fake::serve().await;
    assert_eq!(fake::get(server.client, "/health").await.0, 200);
    let grpc = "POST /etcdserverpb.KV/Range HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/grpc\r\nContent-Length: 5\r\n\r\n\0\0\0\0\0";
    let (status, _, body) = fake::http1(server.client, grpc).await;
    assert_eq!((status, body.trim_end()), (404, "404 page not found"));
}

#[tokio::test]
async fn garbage_is_closed_at_once() {
    let server = fake::serve().await;
    for garbage in [
        &b"\x16\x03\x01\x02\x00 hello, TLS?\r\n\r\n"[..],
        b"\0\0\0\0\0\0\0\0\0\0\0\0\r\n\r\n",
        b"PRI * HTTP/3.0\r\n\r\n",
    ] {
        let mut stream = TcpStream::connect(server.client).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
    }
    let mut stream = TcpStream::connect(server.client).await.unwrap();
    stream.write_all(&[PREFACE, &[255; 64]].concat()).await.unwrap();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    eventually("all closed", || server.metrics.client_connections.get() == 0).await;
}

#[tokio::test]
async fn a_connection_that_says_nothing_or_half_of_something_is_closed() {
    let server = fake::serve().await;
    let half_frame = [hello(), frame(DATA, 0, 1, &[0; 100])[..20].to_vec()].concat();
    let mut streams = Vec::new();
    for start in [&b""[..], b"P", b"PRI * HTTP/2.0\r\n", b"GET /health HT", &half_frame] {
        let mut stream = TcpStream::connect(server.client).await.unwrap();
        stream.write_all(start).await.unwrap();
        streams.push(stream);
    }
    eventually("accepted", || server.metrics.client_connections.get() == 5).await;
    // From here on time passes by itself whenever nothing else happens.
    tokio::time::pause();
    let begin = tokio::time::Instant::now();
    for mut stream in streams {
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
    }
    let waited = begin.elapsed();
    let bound =
        limits::CLIENT_PING_INTERVAL + limits::CLIENT_PING_TIMEOUT + limits::CONNECTION_HEADER_TIMEOUT;
    assert!(waited <= bound, "{waited:?}");
    eventually("freed", || server.metrics.client_connections.get() == 0).await;
}

#[tokio::test]
async fn half_a_grpc_message_ends_its_call_and_no_other() {
    let server = fake::serve().await;
    let mut stream = TcpStream::connect(server.client).await.unwrap();
    let half = &grpc_message(&all_keys())[..7];
    let half = [hello(), headers(1, "/etcdserverpb.KV/Range"), frame(DATA, 0, 1, half)].concat();
    stream.write_all(&half).await.unwrap();
    stream.write_all(&call(3, "/etcdserverpb.KV/Range", &all_keys())).await.unwrap();
    assert!(!until(&mut stream, DATA).await.is_empty(), "the whole call is answered");
    tokio::time::pause();
    until(&mut stream, HEADERS).await; // the trailers of the whole call
    let failed = until(&mut stream, HEADERS).await;
    assert!(!failed.is_empty());
    let text = server.metrics.encode();
    let line = "grpc_server_handled_total{grpc_code=\"DeadlineExceeded\",grpc_method=\"Range\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"} 1";
    assert!(text.contains(line), "{text}");
}

#[tokio::test]
async fn requests_that_are_too_large_are_refused_and_the_largest_is_not() {
    let server = fake::serve().await;
    let channel = channel(server.client).await;
    let refused = put(&channel, "big", limits::RECEIVED_MESSAGE_BYTES).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().starts_with("grpc: received message larger than max ("), "{refused}");
    assert!(refused.message().ends_with(" vs. 2097152)"), "{refused}");
    let refused = put(&channel, "big", limits::REQUEST_BYTES).await.unwrap_err();
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::InvalidArgument, "etcdserver: request is too large")
    );
    put(&channel, "big", limits::REQUEST_BYTES - 64).await.unwrap();
}

#[tokio::test]
async fn failures_have_etcds_words() {
    let server = fake::serve().await;
    let channel = channel(server.client).await;
    for (error, code, text) in [
        (Error::NoLeader, Code::Unavailable, "etcdserver: no leader"),
        (Error::NotServing("joining".into()), Code::Unavailable, "etcdserver: no leader"),
        (Error::OutcomeUnknown("x".into()), Code::Unavailable, "etcdserver: request timed out"),
        (Error::TooManyRequests, Code::ResourceExhausted, "etcdserver: too many requests"),
        (Error::Stopped, Code::Unavailable, "etcdserver: server stopped"),
    ] {
        *server.store.failure.lock() = Some(error);
        let status = put(&channel, "k", 1).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (code, text));
        let status = unary::<_, pb::RangeResponse>(&channel, "/etcdserverpb.KV/Range", all_keys()).await;
        assert_eq!(status.unwrap_err().message(), text);
    }
    let (status, _, body) = fake::get(server.client, "/health").await;
    assert_eq!(
        (status, body.trim_end()),
        (503, r#"{"health":"false","reason":"RANGE ERROR:etcdserver: server stopped"}"#)
    );
    let (status, _, body) = fake::get(server.client, "/readyz").await;
    assert_eq!(status, 503);
    assert!(
        body.contains("[-]linearizable_read failed: etcdserver: server stopped\n[+]non_learner ok\n"),
        "{body}"
    );
    assert_eq!(fake::get(server.client, "/readyz/non_learner").await.0, 200);
    assert_eq!(
        fake::get(server.client, "/readyz?exclude=linearizable_read&exclude=serializable_read").await.0,
        200
    );
    server.store.position.lock().leader = None;
    let (_, _, body) = fake::get(server.client, "/health").await;
    assert_eq!(body.trim_end(), r#"{"health":"false","reason":"RAFT NO LEADER"}"#);
    let status: pb::StatusResponse =
        unary(&channel, "/etcdserverpb.Maintenance/Status", pb::StatusRequest {}).await.unwrap();
    assert_eq!(status.errors, ["etcdserver: no leader"]);
}

#[tokio::test]
async fn the_admin_port_tells_why_a_member_is_not_ready() {
    let server = fake::serve().await;
    assert_eq!(fake::get(server.admin, "/readyz?verbose").await.2, "[+]leader_known ok\nok\n");
    {
        let mut report = server.probe.report.lock();
        report.ready = false;
        report.clauses[0].holds = false;
        report.clauses[0].detail = "nobody was heard from for 2 s".into();
    }
    let (status, _, body) = fake::get(server.admin, "/readyz").await;
    assert_eq!(
        (status, body.as_str()),
        (503, "[-]leader_known failed: nobody was heard from for 2 s\nnot ok\n")
    );
    assert_eq!(fake::get(server.admin, "/livez").await.0, 200);
    assert_eq!(fake::get(server.admin, "/readyz/leader_known").await.0, 503);
    assert_eq!(fake::get(server.admin, "/readyz/other").await.0, 404);
    assert_eq!(fake::get(server.admin, "/status").await.2, "{\"ready\":true}\n");
    assert_eq!(fake::get(server.client, "/status").await.0, 404);
    let (status, kind, body) = fake::get(server.admin, "/metrics").await;
    assert_eq!((status, kind.as_str()), (200, "text/plain; version=0.0.4; charset=utf-8"));
    assert!(body.contains("etcd_server_has_leader 1\n") && body.contains("setstone_ready 0\n"), "{body}");
}

#[tokio::test]
async fn health_follows_the_readiness_of_the_member() {
    use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus};
    let server = fake::serve().await;
    let channel = channel(server.client).await;
    let check = |service: &str| HealthCheckRequest { service: service.into() };
    let path = "/grpc.health.v1.Health/Check";
    let answer: HealthCheckResponse = unary(&channel, path, check("")).await.unwrap();
    assert_eq!(answer.status(), ServingStatus::Serving);
    server.probe.serving.send_replace(false);
    let answer: HealthCheckResponse = unary(&channel, path, check("")).await.unwrap();
    assert_eq!(answer.status(), ServingStatus::NotServing);
    let status = unary::<_, HealthCheckResponse>(&channel, path, check("nobody")).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
}

#[tokio::test]
async fn reflection_names_the_services() {
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::{ServerReflectionRequest, server_reflection_response::MessageResponse};

    let server = fake::serve().await;
    let channel = channel(server.client).await;
    let list = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = ServerReflectionClient::new(channel)
        .server_reflection_info(tokio_stream::iter([list]))
        .await
        .unwrap()
        .into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response.unwrap();
    let MessageResponse::ListServicesResponse(list) = answer else { panic!("{answer:?}") };
    let names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
    assert!(names.contains(&"etcdserverpb.KV") && names.contains(&"grpc.health.v1.Health"), "{names:?}");
}

#[tokio::test]
async fn what_is_in_flight_finishes_when_the_port_stops_and_nothing_new_begins() {
    let server = fake::serve().await;
    let (busy, watching) = (channel(server.client).await, channel(server.client).await);
    let mut health = tonic_health::pb::health_client::HealthClient::new(watching);
    let mut health =
        health.watch(tonic_health::pb::HealthCheckRequest::default()).await.unwrap().into_inner();
    assert!(health.message().await.unwrap().is_some());

    let taken = server.store.gate.forget_permits(usize::MAX);
    let in_flight = tokio::spawn(async move { put(&busy, "k", 1).await });
    let started = "grpc_server_started_total{grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"} 1";
    eventually("the put arrived", || server.metrics.encode().contains(started)).await;
    let idle = TcpStream::connect(server.client).await.unwrap();
    eventually("connected", || server.metrics.client_connections.get() == 3).await;

    server.stop.cancel();
    let status = health.message().await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "etcdserver: server stopped"));
    eventually("only the busy connection is left", || server.metrics.client_connections.get() == 1).await;
    assert!(TcpStream::connect(server.client).await.is_err(), "nobody is accepted");
    assert!(!server.client_task.is_finished());

    server.store.gate.add_permits(taken);
    in_flight.await.unwrap().unwrap();
    server.client_task.await.unwrap();
    assert_eq!(server.metrics.client_connections.get(), 0);
    drop(idle);
}

#[tokio::test]
async fn a_call_on_a_connection_that_is_being_closed_is_answered() {
    let server = fake::serve().await;
    let mut stream = TcpStream::connect(server.client).await.unwrap();
    let taken = server.store.gate.forget_permits(usize::MAX);
    stream.write_all(&hello()).await.unwrap();
    stream.write_all(&call(1, "/etcdserverpb.KV/Range", &all_keys())).await.unwrap();
    let started = "grpc_server_started_total{grpc_method=\"Range\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"} 1";
    eventually("the call arrived", || server.metrics.encode().contains(started)).await;
    server.stop.cancel();
    until(&mut stream, GOAWAY).await;
    // It has not heard of that yet, and sends another one.
    stream.write_all(&call(3, "/etcdserverpb.KV/Range", &all_keys())).await.unwrap();
    let both = "grpc_server_started_total{grpc_method=\"Range\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"} 2";
    eventually("the second call arrived", || server.metrics.encode().contains(both)).await;
    server.store.gate.add_permits(taken);
    let line = "grpc_server_handled_total{grpc_code=\"OK\",grpc_method=\"Range\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"} 2";
    eventually("both were answered", || server.metrics.encode().contains(line)).await;
    server.client_task.await.unwrap();
}

#[tokio::test]
async fn what_does_not_finish_is_dropped_after_the_deadline() {
    let server = fake::serve_with(Duration::from_millis(50)).await;
    let busy = channel(server.client).await;
    server.store.gate.forget_permits(usize::MAX);
    let in_flight = tokio::spawn(async move { put(&busy, "k", 1).await });
    let started = "grpc_server_started_total{grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"} 1";
    eventually("the put arrived", || server.metrics.encode().contains(started)).await;
    server.stop.cancel();
    server.client_task.await.unwrap();
    assert!(in_flight.await.unwrap().is_err());
}

/// A whole call as JSON.
fn json_call(stream: u32, path: &str, text: &str) -> Vec<u8> {
    [headers_of(stream, path, "application/json"), frame(DATA, END_STREAM, stream, text.as_bytes())].concat()
}

#[tokio::test]
async fn a_client_that_never_reads_takes_bounded_memory_and_harms_nobody() {
    never_reads(|stream| call(stream, "/etcdserverpb.KV/Range", &all_keys())).await;
    let all = r#"{"key":"AA==","range_end":"AA=="}"#;
    never_reads(|stream| json_call(stream, "/v3/kv/range", all)).await;
}

async fn never_reads(range: impl Fn(u32) -> Vec<u8>) {
    let _alone = MEMORY.write().await;
    let server = fake::serve().await;
    let other = channel(server.client).await;
    for key in 0..8 {
        put(&other, &format!("key-{key}"), 128 << 10).await.unwrap();
    }
    let before = resident();
    let mut stream = TcpStream::connect(server.client).await.unwrap();
    stream.write_all(&hello()).await.unwrap();
    let calls = 1_000;
    for number in 0..calls {
        stream.write_all(&range(number * 2 + 1)).await.unwrap();
    }
    let refused = "grpc_server_handled_total{grpc_code=\"ResourceExhausted\",grpc_method=\"Range\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"} ";
    let count = || {
        let text = server.metrics.encode();
        text.lines().find_map(|line| line.strip_prefix(refused)?.parse::<u32>().ok()).unwrap()
    };
    // A megabyte each: what may be left unread, what took its turn meanwhile, what the kernel took; the rest is refused.
    let at_once = (limits::ANSWERS_IN_THE_MAKING / limits::LARGE_ANSWER_SHARE) as usize;
    let allowed = (limits::UNREAD_ANSWER_BYTES >> 20) + at_once + 16;
    eventually("most are refused", || count() as usize >= calls as usize - allowed).await;
    let grown = resident().saturating_sub(before);
    assert!(grown < (2 * allowed) << 20, "{} MiB for one client", grown >> 20);

    let served: pb::RangeResponse = unary(&other, "/etcdserverpb.KV/Range", all_keys()).await.unwrap();
    assert_eq!(served.count, 8);
    drop(stream);
    eventually("its connection is gone", || server.metrics.client_connections.get() == 1).await;
}

#[tokio::test]
async fn idle_connections_are_cheap_and_are_freed() {
    let _alone = MEMORY.write().await;
    let server = fake::serve().await;
    let count = affordable(1_000);
    let mut clients = Vec::with_capacity(count);
    // The first few pay for what all share.
    for _ in 0..20 {
        clients.push(idle(server.client).await);
    }
    let before = resident();
    for _ in 20..count {
        clients.push(idle(server.client).await);
    }
    assert_eq!(server.metrics.client_connections.get(), count as i64);
    let each = resident().saturating_sub(before) / (count - 20);
    println!("{each} bytes for each of {count} idle connections");
    assert!(each <= 40 << 10, "{each} bytes for each of {count} idle connections");
    drop(clients);
    eventually("all are closed", || server.metrics.client_connections.get() == 0).await;
    let freed = resident();
    let mut again = Vec::with_capacity(count);
    for _ in 0..count {
        again.push(idle(server.client).await);
    }
    // What was freed is used again.
    let grown = resident().saturating_sub(freed.max(before + each * count / 2));
    assert!(grown < each * count, "{grown} more bytes for as many connections");
}

/// A connection that was used once, and is idle now.
async fn idle(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut bytes = hello();
    bytes.extend(call(1, "/etcdserverpb.KV/Range", &all_keys()));
    stream.write_all(&bytes).await.unwrap();
    until(&mut stream, DATA).await;
    until(&mut stream, HEADERS).await;
    stream
}

#[tokio::test]
async fn serializable_reads_need_no_quorum_and_linearizable_ones_wait_for_it() {
    let server = fake::serve().await;
    let channel = channel(server.client).await;
    put(&channel, "k", 1).await.unwrap();
    let taken = server.store.gate.forget_permits(usize::MAX);
    let waiting = {
        let channel = channel.clone();
        tokio::spawn(async move {
            unary::<_, pb::RangeResponse>(&channel, "/etcdserverpb.KV/Range", all_keys()).await
        })
    };
    let members = {
        let channel = channel.clone();
        let request = pb::MemberListRequest { linearizable: true };
        tokio::spawn(async move {
            unary::<_, pb::MemberListResponse>(&channel, "/etcdserverpb.Cluster/MemberList", request).await
        })
    };
    let started = "grpc_server_started_total{grpc_method=\"MemberList\",grpc_service=\"etcdserverpb.Cluster\",grpc_type=\"unary\"} 1";
    eventually("both arrived", || server.metrics.encode().contains(started)).await;
    let local = pb::RangeRequest { serializable: true, ..all_keys() };
    let answer: pb::RangeResponse = unary(&channel, "/etcdserverpb.KV/Range", local).await.unwrap();
    assert_eq!(answer.count, 1);
    assert!(!waiting.is_finished() && !members.is_finished());
    server.store.gate.add_permits(taken);
    assert_eq!(waiting.await.unwrap().unwrap().count, 1);
    assert_eq!(members.await.unwrap().unwrap().members.len(), 1);
}

#[tokio::test]
async fn connections_are_bounded_and_a_closed_one_makes_room() {
    use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
    use setstone::env::Network;
    use setstone::limits::PerAddress;
    use setstone::metrics::RefusedConnections;
    use setstone::transport::addresses::Addresses;
    use setstone::transport::{AnswerBody, Door, Port, Refusals, serve};

    let listener =
        setstone::env::network::Tcp::default().bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let address = listener.local_address().unwrap();
    let refused = RefusedConnections::default();
    let addresses = Addresses::new(PerAddress::default(), Counter::default());
    let port = Port {
        name: "test",
        door: Door::new(2, addresses, refused.clone()),
        streams: 16,
        tls: None,
        refusals: Refusals::new("test", &setstone::metrics::Metrics::new()),
        drain: Duration::ZERO,
        open: Gauge::default(),
        accepted: Counter::default(),
    };
    let open = port.open.clone();
    let service = |_| {
        hyper::service::service_fn(async |_| {
            Ok::<_, std::convert::Infallible>(http::Response::new(AnswerBody::Plain("x".into())))
        })
    };
    let stop = tokio_util::sync::CancellationToken::new();
    let task = tokio::spawn(serve(listener, port, stop.clone(), service));
    let first = TcpStream::connect(address).await.unwrap();
    let second = TcpStream::connect(address).await.unwrap();
    eventually("two are open", || open.get() == 2).await;
    let mut third = TcpStream::connect(address).await.unwrap();
    assert!(matches!(third.read(&mut [0]).await, Ok(0) | Err(_)), "closed at once");
    assert_eq!((open.get(), refused.full.get()), (2, 1));
    drop(first);
    eventually("one has left", || open.get() == 1).await;
    assert_eq!(fake::get(address, "/").await, (200, String::new(), "x".into()));
    stop.cancel();
    task.await.unwrap();
    drop(second);
    assert_eq!(open.get(), 0);
}
