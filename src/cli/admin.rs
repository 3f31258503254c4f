//! What a member says of itself on its admin port, in plain HTTP.

use std::io::Write;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::Global;
use super::exit::{Exit, Failure};
use super::output;
use crate::client::Endpoint;

/// Most bytes of an answer.
const ANSWER_BYTES: usize = 4 << 20;

/// Prints `/status` and `/readyz?verbose` of the member at `address`. Exits with 1 if it is not ready.
pub(super) async fn run(address: &str, global: &Global, out: &mut dyn Write) -> Result<Exit, Failure> {
    let endpoint: Endpoint = address.parse().map_err(|error| Failure::usage(format!("--admin: {error}")))?;
    if endpoint.for_client(false).1 {
        return Err(Failure::usage(format!("--admin: {address}: the admin port speaks plain HTTP")));
    }
    let (_, status) = get(&endpoint, "/status", global.timeout).await?;
    let (code, ready) = get(&endpoint, "/readyz?verbose", global.timeout).await?;
    let is_ready = code == 200;
    if global.json {
        let status = serde_json::from_str(&status).unwrap_or(Value::from(status));
        let checks: Vec<_> = ready.lines().collect();
        output::print_json(out, &json!({ "status": status, "ready": is_ready, "checks": checks }))?;
    } else {
        match serde_json::from_str::<Value>(&status) {
            Ok(value) => print(&value, out)?,
            Err(_) => writeln!(out, "{}", status.trim_end())?,
        }
        writeln!(out, "{}", ready.trim_end())?;
    }
    Ok(if is_ready { Exit::Ok } else { Exit::Failed })
}

/// Whether somebody listens at `address`: the member of this pod.
pub(super) async fn is_there(address: &str) -> bool {
    let connected = tokio::time::timeout(Duration::from_secs(1), TcpStream::connect(address)).await;
    matches!(connected, Ok(Ok(_)))
}

/// What a member says of itself, for people: what is, what was decided, what is waited for.
fn print(status: &Value, out: &mut dyn Write) -> Result<(), Failure> {
    let text = |pointer: &str| match status.pointer(pointer) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    let yes = |pointer: &str| status.pointer(pointer).and_then(Value::as_bool).unwrap_or(false);
    let no = |holds: bool| if holds { "" } else { "not " };
    writeln!(out, "{}: {}ready, {}serving", text("/name"), no(yes("/ready")), no(yes("/serving")))?;
    let mut line = |name: &str, value: String| -> Result<(), Failure> {
        if !value.is_empty() {
            writeln!(out, "{name:<10} {value}")?;
        }
        Ok(())
    };
    line("start", text("/start/decided"))?;
    line("", text("/start/hint"))?;
    if status.pointer("/lastStop").is_some_and(|stop| !stop.is_null()) {
        line("last stop", format!("of start {}: {}", text("/lastStop/start"), text("/lastStop/decided")))?;
    }
    line(
        "disk",
        format!(
            "{}; cluster {}, node {}, start {}",
            text("/disk/is"),
            text("/disk/cluster"),
            text("/disk/node"),
            text("/disk/boot")
        ),
    )?;
    let leader = text("/consensus/leader");
    line(
        "consensus",
        format!(
            "{}, term {}, applied {} of {}, revision {}",
            if leader.is_empty() { "no leader".into() } else { format!("leader {leader}") },
            text("/consensus/term"),
            text("/consensus/appliedIndex"),
            text("/consensus/lastIndex"),
            text("/consensus/revision")
        ),
    )?;
    line("failure", text("/consensus/failure"))?;
    for (list, title) in [("unreached", "no answer"), ("alarms", "alarm"), ("scale", "members")] {
        for (place, said) in status[list].as_array().into_iter().flatten().enumerate() {
            let name = if place == 0 { title } else { "" };
            line(name, said.as_str().unwrap_or_default().to_owned())?;
        }
    }
    Ok(())
}

/// One GET on a connection of its own. Errors: no answer within `limit`, or none that is text.
pub(super) async fn get(endpoint: &Endpoint, path: &str, limit: Duration) -> Result<(u16, String), Failure> {
    let what = format!("http://{endpoint}{path}");
    let fail = |reason: String| Failure::new(Exit::Failed, format!("{what}: {reason}"));
    match tokio::time::timeout(limit, exchange(endpoint, path)).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(fail(error.to_string())),
        Err(_) => Err(fail("no answer came before the deadline".into())),
    }
}

async fn exchange(
    endpoint: &Endpoint,
    path: &str,
) -> Result<(u16, String), Box<dyn std::error::Error + Send + Sync>> {
    let stream = TcpStream::connect(endpoint.authority()).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let request = http::Request::get(path)
        .header(http::header::HOST, endpoint.authority())
        .header(http::header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let code = response.status().as_u16();
    let body = Limited::new(response.into_body(), ANSWER_BYTES).collect().await?.to_bytes();
    driver.abort();
    Ok((code, String::from_utf8(body.to_vec())?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Answers one request with `answer`, as it is.
    async fn server(answer: &'static [u8]) -> Endpoint {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = listener.local_addr().unwrap().to_string().parse().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(answer).await;
        });
        endpoint
    }

    #[test]
    fn a_member_explains_itself_to_people() {
        let status = json!({
            "name": "setstone-2", "ready": true, "serving": false,
            "start": { "decided": "held, waiting for a quorum", "hint": "if it is gone: setstone recover" },
            "lastStop": { "start": 4, "decided": "the pod comes back" },
            "disk": { "is": "a member", "cluster": "0000000000000abc", "node": "2#1841", "boot": 5 },
            "consensus": { "leader": null, "term": 3, "appliedIndex": 40, "lastIndex": 41, "revision": 17 },
            "unreached": ["setstone-0.peers:2380 at 10.0.0.7:2380: invalid peer certificate: UnknownIssuer"],
            "alarms": ["NOSPACE of 1#3: what makes the store grow is refused"],
            "scale": ["3 pods are desired, from ordinal 0 on", "nothing to change"],
        });
        let mut out = Vec::new();
        print(&status, &mut out).unwrap();
        insta::assert_snapshot!(String::from_utf8(out).unwrap(), @r"
        setstone-2: ready, not serving
        start      held, waiting for a quorum
                   if it is gone: setstone recover
        last stop  of start 4: the pod comes back
        disk       a member; cluster 0000000000000abc, node 2#1841, start 5
        consensus  no leader, term 3, applied 40 of 41, revision 17
        no answer  setstone-0.peers:2380 at 10.0.0.7:2380: invalid peer certificate: UnknownIssuer
        alarm      NOSPACE of 1#3: what makes the store grow is refused
        members    3 pods are desired, from ordinal 0 on
                   nothing to change
        ");
    }

    #[tokio::test]
    async fn code_and_text_come_back() {
        let endpoint = server(b"HTTP/1.1 503 x\r\ncontent-length: 4\r\n\r\nno\n!").await;
        let answer = get(&endpoint, "/readyz", Duration::from_secs(5)).await.unwrap();
        assert_eq!(answer, (503, "no\n!".to_owned()));
    }

    #[tokio::test]
    async fn what_is_no_answer_is_an_error_that_names_the_address() {
        let endpoint = server(b"\x00\x01garbage\r\n\r\n").await;
        let failure = get(&endpoint, "/status", Duration::from_secs(5)).await.unwrap_err();
        assert!(failure.text.starts_with(&format!("http://{endpoint}/status: ")), "{failure}");
    }
}
