//! Every recorded row, in order, through the JSON gateway of a whole node.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use http::Request;
use serde_json::{Value, json};

use super::web::{self, Version};
use super::{Server, fields, recorded, rows, sorted, without_drawn, without_ids};

#[tokio::test]
async fn every_row_is_answered_as_etcd_does() {
    let server = Server::real().await;
    let mut given = Given::default();
    let mut compared = 0;
    for row in rows() {
        let mut answer = web::send(server.client(), Version::Http1, request(&row, &given)).await;
        assert_eq!(u64::from(answer.status), row["status"].as_u64().unwrap(), "{}", label(&row));
        assert_eq!(answer.header("content-type"), row["content_type"].as_str().unwrap(), "{}", label(&row));
        if row["content_type"] == "application/json" {
            let text = if is_stream(&row) { answer.line().await.unwrap() } else { answer.text().await };
            let answered: Value = serde_json::from_str(&text).unwrap();
            given.take(&answered);
            assert_eq!(comparable(answered, &row), comparable(recorded(&row), &row), "{}", label(&row));
        } else {
            let (text, expected) = (answer.text().await, row["answer"].as_str().unwrap());
            assert_eq!(sorted(text.trim_end()), sorted(expected), "{}", label(&row));
        }
        compared += 1;
    }
    assert_eq!(compared, 135);
}

/// What earlier answers gave to later requests.
#[derive(Default)]
struct Given {
    token: String,
    peer_url: String,
}

impl Given {
    fn take(&mut self, answer: &Value) {
        for (path, into) in [("/token", &mut self.token), ("/members/0/peerURLs/0", &mut self.peer_url)] {
            if let Some(given) = answer.pointer(path) {
                given.as_str().unwrap().clone_into(into);
            }
        }
    }
}

fn label(row: &Value) -> String {
    format!("row {}: {}", row["n"], row["name"])
}

fn is_stream(row: &Value) -> bool {
    row["path"] == "/v3/watch" || row["path"] == "/v3/lease/keepalive"
}

fn request(row: &Value, given: &Given) -> Request<web::Body> {
    let mut request =
        Request::builder().method(row["method"].as_str().unwrap()).uri(row["path"].as_str().unwrap());
    for (name, value) in row["headers"].as_object().into_iter().flatten() {
        request = request.header(name, value.as_str().unwrap().replace("$TOKEN", &given.token));
    }
    let mut body = row["body"].clone();
    if let Some(repeat) = row.get("value_repeat") {
        let (unit, times) = (repeat[0].as_str().unwrap(), repeat[1].as_u64().unwrap() as usize);
        body["value"] = json!(base64(unit.repeat(times).as_bytes()));
    }
    // A member is added by the URL of the one that there is.
    if let Some(url) = body.pointer_mut("/peerURLs/0") {
        *url = json!(given.peer_url);
    }
    if row["path"] == "/v3/maintenance/transfer-leadership" {
        // The recorded one may be a member here.
        body["targetID"] = json!(u64::MAX.to_string());
    }
    let body = match row.get("raw") {
        Some(raw) => raw.as_str().unwrap().to_owned(),
        None if body.is_null() => String::new(),
        None => body.to_string(),
    };
    request.body(web::whole(body)).unwrap()
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// What must be the same: SEMANTICS says what differs from server to server.
fn comparable(answer: Value, row: &Value) -> Value {
    let mut answer = without_drawn(without_ids(answer), row);
    match row["n"].as_u64().unwrap() {
        1 => {
            let mut known = json!({});
            for field in ["etcdserver", "etcdcluster", "storage"] {
                let version = answer[field].as_str().unwrap();
                assert!(version.split('.').all(|part| part.parse::<u32>().is_ok()), "{field}: {version}");
                known[field] = json!("numeric");
            }
            known
        }
        // The texts are those of a JSON parser.
        39 | 40 => json!({ "code": answer["code"] }),
        86 => {
            for member in answer["members"].as_array_mut().unwrap() {
                *member = json!(fields(member));
            }
            answer
        }
        91 => {
            for field in
                ["dbSize", "leader", "raftIndex", "raftTerm", "raftAppliedIndex", "dbSizeInUse", "version"]
            {
                assert_ne!(answer[field].as_str().unwrap(), "0", "{field}");
                answer[field] = json!("differs");
            }
            answer
        }
        101 | 102 => {
            assert!(answer["hash"].is_u64(), "{answer}");
            answer["hash"] = json!("differs");
            answer
        }
        122 => {
            assert!(!answer["token"].as_str().unwrap().is_empty());
            answer["token"] = json!("differs");
            answer
        }
        129..=131 => {
            for path in ["/key", "/leader/key", "/leader/lease", "/kv/key", "/kv/lease"] {
                if let Some(made) = answer.pointer_mut(path) {
                    assert!(!made.as_str().unwrap().is_empty(), "{path}");
                    *made = json!("made");
                }
            }
            answer
        }
        _ => answer,
    }
}
