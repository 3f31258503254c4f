//! What the JSON gateway does that no recorded row shows: streams both ways, failures of streams, headers, deadlines and limits. It
//! was seen to be the same with etcd 3.7.3.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::net::SocketAddr;
use std::time::Duration;

use http::Request;
use serde_json::{Value, json};
use setstone::limits;

use super::web::{self, Answer, Version, post};
use super::{Server, fake, without_ids};

const BOTH: [Version; 2] = [Version::Http1, Version::Http2];

async fn put(address: SocketAddr, key: &str, value: &str) {
    let mut answer = post(address, "/v3/kv/put", json!({"key": key, "value": value}).to_string()).await;
    let status = answer.status;
    assert_eq!(status, 200, "{}", answer.text().await);
}

/// One line of a stream, without what differs.
async fn result(answer: &mut Answer) -> Value {
    let mut result = without_ids(answer.json_line().await)["result"].take();
    result["header"].as_object_mut().unwrap().remove("revision");
    result.as_object_mut().unwrap().remove("header");
    result
}

#[tokio::test]
async fn a_watcher_is_made_and_ended_by_values_of_one_body() {
    let server = Server::real().await;
    for version in BOTH {
        let (requests, body) = web::pieces();
        let request = Request::post("/v3/watch").body(body).unwrap();
        // In pieces that are no values: however they are cut.
        requests.send("{\"create_request\":{\"key\":\"YQ".into()).await.unwrap();
        requests.send("==\",\"filters\":[\"NODELETE\"],\"watchId\":5}}".into()).await.unwrap();
        let mut answer = web::send(server.client(), version, request).await;
        assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"));
        assert_eq!(result(&mut answer).await, json!({"watch_id": "5", "created": true}), "{version:?}");

        put(server.client(), "YQ==", "MQ==").await;
        let events = result(&mut answer).await;
        assert_eq!(events["watch_id"], "5");
        assert_eq!(events["events"][0]["kv"]["value"], "MQ==");
        assert!(events["events"][0].get("type").is_none(), "PUT is the default, which is left out");

        requests
            .send(" \n{\"cancel_request\":{\"watch_id\":\"5\"}}{\"create_request\"".into())
            .await
            .unwrap();
        assert_eq!(result(&mut answer).await, json!({"watch_id": "5", "canceled": true}));
        requests.send(":{\"key\":\"Yg==\"}}".into()).await.unwrap();
        assert_eq!(result(&mut answer).await, json!({"created": true}));
        // Who has said everything still listens.
        drop(requests);
        put(server.client(), "Yg==", "Mg==").await;
        assert_eq!(result(&mut answer).await["events"][0]["kv"]["key"], "Yg==");
    }
}

#[tokio::test]
async fn what_is_no_request_ends_the_requests_and_not_the_answers() {
    let server = Server::real().await;
    let body = r#"{"create_request":{"key":"YQ=="}} {"create_request":{"key":"%%%"}} {"create_request":{"key":"Yg=="}}"#;
    let mut answer = post(server.client(), "/v3/watch", body).await;
    assert_eq!(result(&mut answer).await, json!({"created": true}));
    put(server.client(), "Yg==", "Mg==").await;
    put(server.client(), "YQ==", "MQ==").await;
    assert_eq!(result(&mut answer).await["events"][0]["kv"]["key"], "YQ==", "the third was not read");
}

#[tokio::test]
async fn keep_alives_are_answered_one_by_one_and_end_with_the_body() {
    let server = Server::real().await;
    for version in BOTH {
        let granted = post(server.client(), "/v3/lease/grant", r#"{"TTL":60}"#).await.json().await;
        let id = granted["ID"].as_str().unwrap();
        let body = format!("{{\"ID\":{id}}}\n{{\"ID\":\"{id}\"}}{{\"ID\":4}}");
        let request = Request::post("/v3/lease/keepalive").body(web::whole(body)).unwrap();
        let mut answer = web::send(server.client(), version, request).await;
        for expected in [json!({"ID": id, "TTL": "60"}), json!({"ID": id, "TTL": "60"}), json!({"ID": "4"})] {
            assert_eq!(result(&mut answer).await, expected);
        }
        assert_eq!(answer.line().await, None);
    }
    let mut answer = post(server.client(), "/v3/lease/keepalive", "").await;
    assert_eq!((answer.status, answer.header("content-type")), (200, ""));
    assert_eq!(answer.text().await, "");
}

#[tokio::test]
async fn a_stream_that_fails_says_so_in_its_last_line() {
    let server = fake::serve().await;
    server.store.position.lock().leader = None;
    let request = Request::post("/v3/watch")
        .header("Grpc-Metadata-Hasleader", "true")
        .body(web::whole(r#"{"create_request":{"key":"YQ=="}}"#))
        .unwrap();
    let mut answer = web::send(server.client, Version::Http1, request).await;
    assert_eq!((answer.status, answer.header("content-type")), (503, "application/json"));
    let failure = json!({"error": {"code": 14, "message": "etcdserver: no leader"}});
    assert_eq!(answer.json_line().await, failure);
    assert_eq!(answer.line().await, None);

    // One that has answered already.
    let Server::Real(node) = Server::real().await else { panic!("a node was asked for") };
    let (requests, body) = web::pieces();
    requests.send(r#"{"create_request":{"key":"YQ=="}}"#.into()).await.unwrap();
    let request = Request::post("/v3/watch").body(body).unwrap();
    let mut answer = web::send(node.addresses().client, Version::Http2, request).await;
    assert_eq!(result(&mut answer).await, json!({"created": true}));
    let stopping = tokio::spawn(async move { node.shutdown().await });
    let failure = json!({"error": {"code": 14, "message": "etcdserver: server stopped"}});
    assert_eq!(answer.json_line().await, failure);
    assert_eq!(answer.line().await, None);
    drop(answer);
    stopping.await.unwrap();
}

#[tokio::test]
async fn web_pages_may_read_what_they_are_allowed_to() {
    let server = fake::serve().await;
    let ask = async |method: &str, path: &str, origin: &str| {
        let request = Request::builder().method(method).uri(path).header("origin", origin);
        web::send(server.client, Version::Http1, request.body(web::whole("")).unwrap()).await
    };
    for path in ["/v3/kv/range", "/health", "/nowhere"] {
        let mut answer = ask("OPTIONS", path, "https://a.example").await;
        assert_eq!((answer.status, answer.text().await.as_str()), (200, ""), "{path}");
        assert_eq!(answer.header("access-control-allow-origin"), "*");
        assert_eq!(answer.header("access-control-allow-methods"), "POST, GET, OPTIONS, PUT, DELETE");
        assert_eq!(answer.header("access-control-allow-headers"), "accept, content-type, authorization");
    }
    for (method, path) in [("POST", "/v3/kv/range"), ("GET", "/version"), ("GET", "/nowhere")] {
        assert_eq!(ask(method, path, "x").await.header("access-control-allow-origin"), "*", "{path}");
    }
    let config =
        setstone::Config { cors: vec!["https://a.example".into()], ..setstone::Config::in_memory("cors") };
    let node = setstone::Node::start(config).await.unwrap();
    for (origin, allowed) in [("https://a.example", "https://a.example"), ("https://b.example", "")] {
        let request = Request::get("/version").header("origin", origin).body(web::whole("")).unwrap();
        let answer = web::send(node.addresses().client, Version::Http1, request).await;
        assert_eq!(answer.header("access-control-allow-origin"), allowed, "{origin}");
    }
}

#[tokio::test]
async fn paths_methods_and_bodies_are_taken_as_etcd_takes_them() {
    let server = fake::serve().await;
    let ask = async |method: &str, path: &str, body: &str| {
        let mut seen = Vec::new();
        for version in BOTH {
            let request =
                Request::builder().method(method).uri(path).body(web::whole(body.to_owned())).unwrap();
            let mut answer = web::send(server.client, version, request).await;
            assert_eq!(answer.header("content-type"), "application/json", "{method} {path} {body}");
            seen.push((answer.status, answer.json().await));
        }
        assert_eq!(seen[0], seen[1], "HTTP/1 and HTTP/2");
        seen.remove(0)
    };
    let not_found = (404, json!({"code": 5, "message": "Not Found"}));
    for path in ["/v3/", "/v3/kv", "/v3/kv/range/", "/v3beta/nothing"] {
        assert_eq!(ask("POST", path, "{}").await, not_found, "{path}");
    }
    assert_eq!(ask("GET", "/v3/nothing", "").await, not_found);
    let not_allowed = (501, json!({"code": 12, "message": "Method Not Allowed"}));
    for method in ["GET", "PUT", "DELETE", "PATCH"] {
        assert_eq!(ask(method, "/v3/kv/range", "{\"key\":\"YQ==\"}").await, not_allowed, "{method}");
    }
    // No body is an empty message, and what follows the first value is not looked at.
    assert_eq!(ask("POST", "/v3/cluster/member/list", "").await.0, 200);
    assert_eq!(ask("POST", "/v3/kv/range", " ").await.1["message"], "etcdserver: key is not provided");
    assert_eq!(ask("POST", "/v3/kv/range", "{\"key\":\"YQ==\"} ]garbage").await.0, 200);
    for wrong in [
        "[]",
        "null",
        "{\"key\":\"YQ==\",\"key\":\"YQ==\"}",
        "{\"limit\":1.5}",
        "{\"limit\":\"x\"}",
        "{'key':1}",
    ] {
        let (status, answer) = ask("POST", "/v3/kv/range", wrong).await;
        assert_eq!((status, &answer["code"]), (400, &json!(3)), "{wrong}");
    }
    let (status, answer) = ask("POST", "/v3/lease/revoke", "{\"ID\":7}").await;
    assert_eq!(
        (status, answer),
        (404, json!({"code": 5, "message": "etcdserver: requested lease not found"}))
    );
}

#[tokio::test]
async fn who_waits_no_longer_is_answered_in_time() {
    let server = fake::serve().await;
    server.store.gate.forget_permits(usize::MAX);
    let ask = async |timeout: &str| {
        let request = Request::post("/v3/kv/put").header("Grpc-Timeout", timeout);
        let request = request.body(web::whole(r#"{"key":"YQ=="}"#)).unwrap();
        let mut answer = web::send(server.client, Version::Http1, request).await;
        (answer.status, answer.json().await)
    };
    assert_eq!(ask("50m").await, (504, json!({"code": 4, "message": "context deadline exceeded"})));
    assert_eq!(ask("soon").await, (400, json!({"code": 3, "message": "invalid grpc-timeout: soon"})));
}

#[tokio::test]
async fn bodies_are_bounded() {
    let server = fake::serve().await;
    let long = format!("{{\"key\":\"{}\"}}", "A".repeat(limits::GATEWAY_VALUE_BYTES));
    let mut answer = post(server.client, "/v3/kv/range", long).await;
    assert_eq!((answer.status, &answer.json().await["code"]), (429, &json!(8)));
}

#[tokio::test]
async fn a_connection_serves_one_call_after_the_other() {
    let server = fake::serve().await;
    let body = r#"{"key":"YQ=="} and what follows"#;
    let request = |end: &str| {
        format!("POST /v3/kv/range HTTP/1.1\r\nHost: x\r\n{end}Content-Length: {}\r\n\r\n{body}", body.len())
    };
    let both = request("") + &request("Connection: close\r\n");
    let (status, kind, rest) = fake::http1(server.client, &both).await;
    assert_eq!((status, kind.as_str()), (200, "application/json"));
    assert_eq!(rest.matches("HTTP/1.1 200 OK").count(), 1, "{rest}");
    assert_eq!(rest.matches("\"revision\":\"1\"").count(), 2, "{rest}");
}

/// One whose client has left, whether it was told anything yet or not.
#[tokio::test]
async fn a_watcher_whose_client_leaves_is_forgotten() {
    let Server::Real(node) = Server::real().await else { panic!("a node was asked for") };
    let (address, streams) = (node.addresses().client, &node.metrics().watch_streams);
    for version in BOTH {
        let request =
            Request::post("/v3/watch").body(web::whole(r#"{"create_request":{"key":"YQ=="}}"#)).unwrap();
        let mut told = web::send(address, version, request).await;
        assert_eq!(result(&mut told).await, json!({"created": true}));
        // Nothing was asked, so there is no answer that could begin.
        let request = Request::post("/v3/watch").body(web::whole("")).unwrap();
        let silent = tokio::spawn(web::send(address, version, request));
        eventually("both are there", || streams.get() == 2).await;
        drop(told);
        silent.abort();
        eventually("both are gone", || streams.get() == 0).await;
    }
    node.shutdown().await;
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    let mut looks = tokio::time::interval(Duration::from_millis(5));
    while !holds() {
        assert!(tokio::time::Instant::now() < deadline, "not in time: {what}");
        looks.tick().await;
    }
}

/// Who was permitted something in the meantime is not told that it is denied by a member that does not know.
#[tokio::test]
async fn a_member_that_cannot_catch_up_denies_nothing() {
    let server = fake::serve().await;
    for (path, body) in [
        ("user/add", json!({"name": "root", "password": "root"})),
        ("role/add", json!({"name": "root"})),
        ("user/grant", json!({"user": "root", "role": "root"})),
        ("user/add", json!({"name": "alice", "password": "alice"})),
        ("enable", json!({})),
    ] {
        let answer = post(server.client, &format!("/v3/auth/{path}"), body.to_string()).await;
        assert_eq!(answer.status, 200, "{path}");
    }
    let alice = json!({"name": "alice", "password": "alice"}).to_string();
    let answer = post(server.client, "/v3/auth/authenticate", alice).await.text().await;
    let token = serde_json::from_str::<Value>(&answer).unwrap()["token"].as_str().unwrap().to_owned();
    let refused = async || {
        let request = Request::post("/v3/kv/put")
            .header("authorization", &token)
            .body(web::whole(json!({"key": "YQ==", "value": "MQ=="}).to_string()))
            .unwrap();
        let answer = web::send(server.client, Version::Http1, request).await.text().await;
        serde_json::from_str::<Value>(&answer).unwrap()["message"].as_str().unwrap().to_owned()
    };
    assert_eq!(refused().await, "etcdserver: permission denied");
    *server.store.failure.lock() = Some(setstone::error::Error::NoLeader);
    assert_eq!(refused().await, "etcdserver: no leader");
}
