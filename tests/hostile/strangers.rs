//! What one client address may do to a whole member, what it is told when it does more, and where that is counted.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::time::Duration;

use setstone::client::Kv;
use setstone::config::Cluster;
use setstone::limits::{self, PerAddress};
use setstone::proto::etcdserverpb as pb;
use setstone::{Config, Node};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;
use tonic::Code;

use super::{MEMORY, all_keys, channel, eventually, fake, hello, put, unary};

const START: Duration = Duration::from_secs(30);

/// A member that is alone, with an admin port.
async fn member(per_address: PerAddress) -> Node {
    let config = Config {
        per_address,
        listen_admin: Some(([127, 0, 0, 1], 0).into()),
        ..Config::in_memory("strangers")
    };
    let node = Node::start(config).await.unwrap();
    node.ready(Instant::now() + START).await.unwrap();
    node
}

fn counted(node: &Node, line: &str) -> u64 {
    let text = node.metrics().encode();
    let value = text.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("no {line} in\n{text}")).parse().unwrap()
}

fn refused(node: &Node, reason: &str) -> u64 {
    counted(node, &format!("setstone_refused_requests_total{{reason=\"{reason}\"}}"))
}

/// A connection from another address of this machine.
async fn from(host: [u8; 4], to: std::net::SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((host, 0).into()).unwrap();
    socket.connect(to).await.unwrap()
}

/// Whether the other side closes it, which it does at once or not at all.
async fn is_closed(stream: &mut TcpStream) -> bool {
    let closed = tokio::time::timeout(Duration::from_millis(200), stream.read(&mut [0])).await;
    matches!(closed, Ok(Ok(0) | Err(_)))
}

#[tokio::test]
async fn one_address_cannot_have_all_connections() {
    let _shared = MEMORY.read().await;
    let node = member(PerAddress { connections: 3, ..PerAddress::default() }).await;
    let to = node.addresses().client;
    let line = "setstone_refused_connections_total{port=\"client\",reason=\"address\"}";
    let mut many = Vec::new();
    for _ in 0..3 {
        let mut stream = from([127, 0, 0, 2], to).await;
        stream.write_all(&hello()).await.unwrap();
        assert!(stream.read(&mut [0; 9]).await.unwrap() > 0, "it is greeted");
        many.push(stream);
    }
    let mut one_more = from([127, 0, 0, 2], to).await;
    assert!(is_closed(&mut one_more).await);
    assert_eq!(counted(&node, line), 1);
    put(&channel(to).await, "k", 1).await.expect("another address is served");
    many.pop();
    eventually("there is room again", || node.metrics().client_connections.get() <= 3).await;
    let mut again = from([127, 0, 0, 2], to).await;
    again.write_all(&hello()).await.unwrap();
    assert!(again.read(&mut [0; 9]).await.unwrap() > 0);
    node.shutdown().await;
}

#[tokio::test]
async fn whoever_asks_too_often_is_told_so_by_every_protocol_and_others_are_served() {
    let _shared = MEMORY.read().await;
    let node = member(PerAddress { requests_per_second: 20, ..PerAddress::default() }).await;
    let to = node.addresses().client;
    let busy = channel(to).await;
    let (mut served, mut told) = (0, 0);
    let begin = Instant::now();
    for _ in 0..200 {
        match put(&busy, "k", 1).await {
            Ok(_) => served += 1,
            Err(status) => {
                assert_eq!(status.code(), Code::ResourceExhausted);
                assert_eq!(status.message(), "etcdserver: too many requests");
                told += 1;
            }
        }
    }
    let most = 20 + 20 * (begin.elapsed().as_secs() + 1);
    assert!(served <= most, "{served} were served in {:?}", begin.elapsed());
    assert!(told > 0);
    assert_eq!(refused(&node, "rate"), told);
    let mut other = from([127, 0, 0, 3], to).await;
    other.write_all(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut answer = vec![0; 12];
    other.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, b"HTTP/1.1 200");
    // As plain HTTP; on a connection that was there before the address had asked so often.
    let mut statuses = Vec::new();
    for _ in 0..60 {
        other.write_all(b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    }
    let mut text = String::new();
    while statuses.len() < 60 {
        let mut piece = vec![0; 4096];
        let count = other.read(&mut piece).await.unwrap();
        assert!(count > 0, "the connection stays");
        text.push_str(std::str::from_utf8(&piece[..count]).unwrap());
        statuses = text
            .match_indices("HTTP/1.1 ")
            .map(|(at, _)| text[at + 9..].chars().take(3).collect::<String>())
            .collect();
    }
    assert!(statuses.iter().any(|status| status == "429"), "{statuses:?}");
    let line = "setstone_refused_connections_total{port=\"client\",reason=\"rate\"}";
    let mut closed = Vec::new();
    while counted(&node, line) == 0 && closed.len() < 200 {
        closed.push(from([127, 0, 0, 3], to).await);
        // Counted when it is accepted, which is soon.
        tokio::task::yield_now().await;
    }
    assert!(counted(&node, line) > 0, "connections are requests, too");
    node.shutdown().await;
}

#[tokio::test]
async fn whoever_sends_too_much_is_read_slowly_and_others_are_not() {
    const SIZE: usize = 100_000;
    let _shared = MEMORY.read().await;
    let node = member(PerAddress { bytes_per_second: SIZE as u64, ..PerAddress::default() }).await;
    let to = node.addresses().client;
    let heavy = channel(to).await;
    let begin = Instant::now();
    for _ in 0..3 {
        put(&heavy, "k", SIZE).await.expect("slow is not refused");
    }
    assert!(begin.elapsed() >= Duration::from_millis(1_500), "{:?}", begin.elapsed());
    assert!(counted(&node, "setstone_slowed_reads_total") > 0);
    let other = async {
        let mut other = from([127, 0, 0, 3], to).await;
        other.write_all(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        other.read_exact(&mut [0; 12]).await.unwrap();
    };
    tokio::select! {
        answer = put(&heavy, "k", SIZE) => panic!("the other waits for the heavy one: {answer:?}"),
        () = other => {}
    }
    node.shutdown().await;
}

/// kube-apiserver, or a benchmark: hundreds of connections of one address, all of which ask as fast as they can.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_clients_of_one_address_are_hindered_by_no_default() {
    let _shared = MEMORY.read().await;
    let node = member(PerAddress::default()).await;
    let to = node.addresses().client;
    let clients: Vec<_> = (0..512)
        .map(|number| {
            tokio::spawn(async move {
                let channel = channel(to).await;
                for _ in 0..4 {
                    put(&channel, &format!("k{number}"), 100).await.unwrap();
                    unary::<_, pb::RangeResponse>(
                        &channel,
                        "/etcdserverpb.KV/Range",
                        pb::RangeRequest { key: format!("k{number}").into(), ..pb::RangeRequest::default() },
                    )
                    .await
                    .unwrap();
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    let text = node.metrics().encode();
    for line in text
        .lines()
        .filter(|line| line.starts_with("setstone_refused_") || line.starts_with("setstone_slowed_"))
    {
        assert!(line.ends_with(" 0"), "{line}");
    }
    node.shutdown().await;
}

#[tokio::test]
async fn silence_is_counted() {
    let server = fake::serve().await;
    let mut silent = TcpStream::connect(server.client).await.unwrap();
    let mut half = TcpStream::connect(server.client).await.unwrap();
    half.write_all(b"PRI * HTTP").await.unwrap();
    eventually("accepted", || server.metrics.client_connections.get() == 2).await;
    // From here on time passes by itself whenever nothing else happens.
    tokio::time::pause();
    let mut rest = Vec::new();
    let _ = silent.read_to_end(&mut rest).await;
    let _ = half.read_to_end(&mut rest).await;
    let text = server.metrics.encode();
    let line = "setstone_refused_connections_total{port=\"client\",reason=\"silent\"} 2\n";
    assert!(text.contains(line), "{text}");
}

#[tokio::test]
async fn refused_requests_are_counted_by_their_reason() {
    let server = fake::serve().await;
    let channel = channel(server.client).await;
    put(&channel, "k", limits::RECEIVED_MESSAGE_BYTES).await.unwrap_err();
    put(&channel, "k", limits::REQUEST_BYTES).await.unwrap_err();
    *server.store.failure.lock() = Some(setstone::error::Error::TooManyRequests);
    unary::<_, pb::RangeResponse>(&channel, "/etcdserverpb.KV/Range", all_keys()).await.unwrap_err();
    let text = server.metrics.encode();
    for line in ["too_large\"} 2\n", "busy\"} 1\n", "unread\"} 0\n"] {
        assert!(text.contains(&format!("setstone_refused_requests_total{{reason=\"{line}")), "{text}");
    }
}

/// On the peer port, too, nobody may take a connection and say nothing.
#[tokio::test]
async fn the_peer_port_closes_connections_that_say_nothing() {
    let _shared = MEMORY.read().await;
    // The other member is never there: this one waits for it, and listens.
    let config = Config {
        cluster: Cluster::Fixed { ordinal: 0, peers: vec!["127.0.0.1:1".into(), "127.0.0.1:2".into()] },
        ..Config::in_memory("strangers")
    };
    let node = Node::start(config).await.unwrap();
    let mut silent = TcpStream::connect(node.addresses().peer.unwrap()).await.unwrap();
    silent.write_all(b"PRI * HT").await.unwrap();
    // Real time: the member has other things to wait for.
    let mut rest = Vec::new();
    let limit = limits::CONNECTION_HEADER_TIMEOUT + START;
    let _ = tokio::time::timeout(limit, silent.read_to_end(&mut rest)).await.expect("it is closed");
    let line = "setstone_refused_connections_total{port=\"peer\",reason=\"silent\"}";
    assert_eq!(counted(&node, line), 1);
    node.shutdown().await;
}

/// Whatever the store holds and whoever its users are: probes, metrics and status tell none of it.
#[tokio::test]
async fn the_admin_port_tells_no_secrets() {
    let _shared = MEMORY.read().await;
    let node = member(PerAddress::default()).await;
    node.client().put("secret-key", "secret-value").await.unwrap();
    let client = channel(node.addresses().client).await;
    let user = pb::AuthUserAddRequest {
        name: "secret-user".into(),
        password: "secret-password".into(),
        ..pb::AuthUserAddRequest::default()
    };
    let _: pb::AuthUserAddResponse = unary(&client, "/etcdserverpb.Auth/UserAdd", user).await.unwrap();
    let role = pb::AuthRoleAddRequest { name: "secret-role".into() };
    let _: pb::AuthRoleAddResponse = unary(&client, "/etcdserverpb.Auth/RoleAdd", role).await.unwrap();
    let admin = node.addresses().admin.unwrap();
    for path in
        ["/status", "/metrics", "/health", "/version", "/livez?verbose", "/readyz?verbose", "/readyz/x", "/"]
    {
        let (_, _, body) = fake::get(admin, path).await;
        assert!(!body.contains("secret"), "{path}: {body}");
    }
    // Nor can anything be asked for there.
    for request in [
        "POST /v3/kv/range",
        "POST /v3/auth/user/list",
        "GET /debug/pprof/",
        "GET /debug/vars",
        "PUT /status",
    ] {
        let text =
            format!("{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{{}}");
        let (status, _, body) = fake::http1(admin, &text).await;
        assert!(matches!(status, 404 | 405) && !body.contains("secret"), "{request}: {status} {body}");
    }
    let by_grpc: Result<pb::RangeResponse, _> =
        unary(&channel(admin).await, "/etcdserverpb.KV/Range", all_keys()).await;
    assert!(by_grpc.is_err());
    node.shutdown().await;
}
