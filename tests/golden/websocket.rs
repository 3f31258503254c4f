//! Calls over a websocket, and paths that lead to others: what etcd 3.7.3 was seen to do, and our bounds.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::net::SocketAddr;
use std::time::Duration;

use futures::{SinkExt, StreamExt};
use http::Request;
use serde_json::{Value, json};
use setstone::limits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{Frame, FrameHeader};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::web::{self, Version, post};
use super::{Server, without_ids};

/// Time for what comes at once.
const SOON: Duration = Duration::from_secs(20);

/// The example of RFC 6455, section 1.3, with what answers it.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

const UPGRADE: [(&str, &str); 4] = [
    ("connection", "Upgrade"),
    ("upgrade", "websocket"),
    ("sec-websocket-version", "13"),
    ("sec-websocket-key", KEY),
];

/// A client of a websocket.
struct Socket(WebSocketStream<TcpStream>);

impl Socket {
    /// Changes to a websocket, with more headers; returns the head of the answer, too.
    async fn open(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> (Self, String) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let lines = UPGRADE.iter().chain(headers).map(|(name, value)| format!("{name}: {value}\r\n"));
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n{}\r\n", lines.collect::<String>());
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            // Not a byte more: what follows is for the websocket.
            head.push(tokio::time::timeout(SOON, stream.read_u8()).await.unwrap().unwrap());
        }
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 101 "), "{head}");
        assert!(head.contains(&ACCEPT.to_ascii_lowercase()), "{head}");
        (Self(WebSocketStream::from_raw_socket(stream, Role::Client, None).await), head)
    }

    async fn watch(address: SocketAddr, headers: &[(&str, &str)]) -> Self {
        let mut socket = Self::open(address, "/v3/watch", headers).await.0;
        socket.text(&json!({"create_request": {"key": "YQ=="}}).to_string()).await;
        socket
    }

    async fn text(&mut self, text: &str) {
        self.0.send(Message::text(text)).await.unwrap();
    }

    async fn next(&mut self) -> Option<Result<Message, Error>> {
        tokio::time::timeout(SOON, self.0.next()).await.expect("a message in time")
    }

    /// The next message, as JSON, without what differs.
    async fn json(&mut self) -> Value {
        let Some(Ok(Message::Text(text))) = self.next().await else { panic!("no text") };
        assert!(!text.contains('\n'), "{text}");
        without_ids(serde_json::from_str(&text).unwrap())
    }

    /// The next result, without its header.
    async fn result(&mut self) -> Value {
        let mut result = self.json().await["result"].take();
        assert!(result["header"].is_object(), "{result}");
        result.as_object_mut().unwrap().remove("header");
        result
    }

    /// How the server ends it.
    async fn end(&mut self) -> Option<CloseCode> {
        match self.next().await {
            Some(Ok(Message::Close(frame))) => frame.map(|frame| frame.code),
            other => panic!("{other:?}"),
        }
    }
}

async fn put(address: SocketAddr) {
    let put = post(address, "/v3/kv/put", json!({"key": "YQ==", "value": "Yg=="}).to_string()).await;
    assert_eq!(put.status, 200);
}

#[tokio::test]
async fn each_message_is_a_request_and_each_answer_a_message() {
    let server = Server::real().await;
    let address = server.client();
    for path in ["/v3/watch", "/v3beta/watch"] {
        let (mut socket, head) = Socket::open(address, path, &[]).await;
        assert!(!head.contains("access-control") && !head.contains("sec-websocket-protocol"), "{head}");
        socket.text(&json!({"create_request": {"key": "YQ=="}}).to_string()).await;
        assert_eq!(socket.result().await, json!({"created": true}));
        put(address).await;
        assert_eq!(socket.result().await["events"][0]["kv"]["value"], "Yg==");
        // In pieces, and not as text; then two at once.
        let create = json!({"createRequest": {"key": "YQ==", "watchId": 7}}).to_string();
        let (one, other) = create.as_bytes().split_at(9);
        let piece = |bytes: &[u8], opcode, last| {
            let header =
                FrameHeader { is_final: last, opcode: OpCode::Data(opcode), ..FrameHeader::default() };
            Message::Frame(Frame::from_payload(header, bytes.to_vec().into()))
        };
        socket.0.send(piece(one, Data::Binary, false)).await.unwrap();
        socket.0.send(piece(other, Data::Continue, true)).await.unwrap();
        assert_eq!(socket.result().await, json!({"watch_id": "7", "created": true}));
        socket.text("{\"cancel_request\":{\"watch_id\":7}}{\"progress_request\":{}}").await;
        assert_eq!(socket.result().await, json!({"watch_id": "7", "canceled": true}));
        assert_eq!(socket.result().await, json!({"watch_id": "-1"}));
        socket.0.send(Message::Ping("hi".into())).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::Pong("hi".into()));
        socket.0.close(None).await.unwrap();
        assert!(matches!(socket.next().await, Some(Ok(Message::Close(_)))));
        assert!(socket.next().await.is_none(), "the connection ends");
    }
}

#[tokio::test]
async fn any_call_can_be_made_and_the_connection_ends_with_it() {
    let server = Server::real().await;
    let address = server.client();
    let (mut alive, _) = Socket::open(address, "/v3/lease/keepalive", &[]).await;
    for id in ["7", "8"] {
        alive.text(&json!({"ID": id}).to_string()).await;
        assert_eq!(alive.result().await, json!({"ID": id}));
    }
    // Nonsense is the end of what is asked for, and not of what is answered.
    let mut deaf = Socket::watch(address, &[]).await;
    assert_eq!(deaf.result().await, json!({"created": true}));
    deaf.text("nonsense").await;
    put(address).await;
    assert_eq!(deaf.result().await["events"][0]["kv"]["value"], "Yg==");

    let (mut unknown, _) = Socket::open(address, "/v3/nothing", &[]).await;
    assert_eq!(unknown.json().await, json!({"code": 5, "message": "Not Found"}));
    assert_eq!(unknown.end().await, Some(CloseCode::Normal));
    // To these etcd never answers.
    let (mut range, _) = Socket::open(address, "/v3/kv/range", &[]).await;
    range.text(&json!({"key": "YQ=="}).to_string()).await;
    assert_eq!(range.json().await["kvs"][0]["value"], "Yg==");
    assert_eq!(range.end().await, Some(CloseCode::Normal));
    let (mut snapshot, _) = Socket::open(address, "/v3/maintenance/snapshot", &[]).await;
    snapshot.text("{}").await;
    assert!(snapshot.result().await["blob"].is_string());
    let (mut refused, _) = Socket::open(address, "/v3/kv/put", &[]).await;
    refused.text("{}").await;
    assert_eq!(refused.json().await, json!({"code": 3, "message": "etcdserver: key is not provided"}));
}

#[tokio::test]
async fn who_calls_is_told_by_the_subprotocol_or_a_cookie() {
    let server = Server::real().await;
    let address = server.client();
    for (path, body) in [
        ("user/add", json!({"name": "root", "password": "p"})),
        ("role/add", json!({"name": "root"})),
        ("user/grant", json!({"user": "root", "role": "root"})),
        ("enable", json!({})),
    ] {
        assert_eq!(post(address, &format!("/v3/auth/{path}"), body.to_string()).await.status, 200, "{path}");
    }
    let given = json!({"name": "root", "password": "p"}).to_string();
    let token = post(address, "/v3/auth/authenticate", given).await.json().await["token"].take();
    let token = token.as_str().unwrap();
    let (bearer, cookie) = (format!("Bearer, {token}"), format!("a=b; token={token}"));
    for headers in [("sec-websocket-protocol", bearer.as_str()), ("cookie", &cookie)] {
        assert_eq!(Socket::watch(address, &[headers]).await.result().await, json!({"created": true}));
    }
    let head = Socket::open(address, "/v3/watch", &[("sec-websocket-protocol", &bearer)]).await.1;
    assert!(head.contains("sec-websocket-protocol: bearer\r\n"), "{head}");

    let unknown = "rpc error: code = InvalidArgument desc = etcdserver: user name is empty";
    let invalid = "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token";
    for (headers, reason) in [
        (None, unknown),
        (Some(("authorization", token)), unknown),
        (Some(("grpc-metadata-token", token)), unknown),
        (Some(("sec-websocket-protocol", "chat")), invalid),
        (Some(("sec-websocket-protocol", "Bearer, nobody's")), invalid),
    ] {
        let headers: Vec<_> = headers.into_iter().collect();
        let refused = Socket::watch(address, &headers).await.result().await;
        assert_eq!(
            (&refused["canceled"], &refused["cancel_reason"]),
            (&json!(true), &json!(reason)),
            "{headers:?}"
        );
    }
    let (mut alive, _) =
        Socket::open(address, "/v3/lease/keepalive", &[("sec-websocket-protocol", "Bearer, nobody's")]).await;
    alive.text("{\"ID\":\"7\"}").await;
    let error = json!({"error": {"code": 16, "message": "etcdserver: invalid auth token"}});
    assert_eq!(alive.json().await, error);
    assert_eq!(alive.end().await, Some(CloseCode::Normal));
}

#[tokio::test]
async fn what_asks_for_no_websocket_gets_none() {
    let server = Server::real().await;
    let ask = async |method: &str, path: &str, headers: &[(&str, &str)]| {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut answer =
            web::send(server.client(), Version::Http1, request.body(web::whole("")).unwrap()).await;
        (answer.status, answer.header("sec-websocket-version").to_owned(), answer.text().await)
    };
    let bad = (400, "13".to_owned(), "Bad Request\n".to_owned());
    assert_eq!(ask("GET", "/v3/watch", &UPGRADE[..3]).await, bad);
    let old = [UPGRADE[0], UPGRADE[1], UPGRADE[3], ("sec-websocket-version", "8")];
    assert_eq!(ask("GET", "/v3/watch", &old).await, bad);
    let (status, version, text) = ask("POST", "/v3/watch", &UPGRADE).await;
    assert_eq!((status, version.as_str(), text.as_str()), (405, "13", "Method Not Allowed\n"));
    assert_eq!(ask("GET", "/v3/watch", &UPGRADE[..1]).await.0, 501);
    assert_eq!(ask("GET", "/health", &UPGRADE).await.0, 200);
    assert_eq!(ask("GET", "/v3", &UPGRADE).await.0, 307);
}

#[tokio::test]
async fn paths_lead_to_others_as_those_of_gos_mux() {
    let server = Server::real().await;
    for (method, path, to, text) in [
        ("GET", "/v3", "/v3/", "<a href=\"/v3/\">Temporary Redirect</a>.\n\n"),
        ("GET", "/v3?a=b", "/v3/?a=b", "<a href=\"/v3/?a=b\">Temporary Redirect</a>.\n\n"),
        ("POST", "/v3", "/v3/", ""),
        ("POST", "//v3//kv/range", "/v3/kv/range", ""),
        ("POST", "/v3beta//kv/range", "/v3/kv/range", ""),
    ] {
        let request = Request::builder().method(method).uri(path).body(web::whole("{}")).unwrap();
        let mut answer = web::send(server.client(), Version::Http1, request).await;
        assert_eq!((answer.status, answer.header("location")), (307, to), "{path}");
        assert_eq!(answer.header("access-control-allow-origin"), "*");
        assert_eq!(answer.text().await, text);
    }
    for (path, status, text) in [
        ("/v3/", 404, "{\"code\":5,\"message\":\"Not Found\"}"),
        ("/v3beta", 404, "404 page not found\n"),
        ("/health/", 404, "404 page not found\n"),
        ("/v3/kv/range/", 404, "{\"code\":5,\"message\":\"Not Found\"}"),
    ] {
        let request = Request::get(path).body(web::whole("")).unwrap();
        let mut answer = web::send(server.client(), Version::Http1, request).await;
        assert_eq!((answer.status, answer.text().await.as_str()), (status, text), "{path}");
    }
}

#[tokio::test]
async fn what_is_too_large_or_no_websocket_ends_it() {
    let server = Server::real().await;
    let mut large = Socket::open(server.client(), "/v3/watch", &[]).await.0;
    let value = "x".repeat(limits::WEBSOCKET_MESSAGE_BYTES + 1);
    large.text(&value).await;
    assert_eq!(large.end().await, Some(CloseCode::Size));
    // Unmasked.
    let (mut wrong, _) = Socket::open(server.client(), "/v3/watch", &[]).await;
    wrong.0.get_mut().write_all(b"\x81\x02{}").await.unwrap();
    assert_eq!(wrong.end().await, Some(CloseCode::Protocol));
}

#[tokio::test]
async fn it_counts_as_a_connection_and_ends_with_the_member() {
    let Server::Real(node) = Server::real().await else { panic!("a node") };
    let address = node.addresses().client;
    let open = &node.metrics().client_connections;
    let before = open.get();
    let mut socket = Socket::watch(address, &[]).await;
    assert_eq!(socket.result().await, json!({"created": true}));
    assert_eq!(open.get(), before + 1);
    let stopped = tokio::time::timeout(SOON, async { tokio::join!(node.shutdown(), socket.next()) });
    let ((), last) = stopped.await.expect("it does not wait for the websocket");
    assert!(matches!(last, Some(Ok(Message::Text(text))) if text.contains("\"error\"")));
}
