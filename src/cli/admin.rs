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
    let (_, status) = get(&endpoint, "/status", global.timeout).await?;
    let (code, ready) = get(&endpoint, "/readyz?verbose", global.timeout).await?;
    let is_ready = code == 200;
    if global.json {
        let status = serde_json::from_str(&status).unwrap_or(Value::from(status));
        let checks: Vec<_> = ready.lines().collect();
        output::print_json(out, &json!({ "status": status, "ready": is_ready, "checks": checks }))?;
    } else {
        match serde_json::from_str::<Value>(&status) {
            Ok(value) => writeln!(out, "{value:#}")?,
            Err(_) => writeln!(out, "{}", status.trim_end())?,
        }
        writeln!(out, "{}", ready.trim_end())?;
    }
    Ok(if is_ready { Exit::Ok } else { Exit::Failed })
}

/// One GET on a connection of its own. Errors: no answer within `limit`, or none that is text.
async fn get(endpoint: &Endpoint, path: &str, limit: Duration) -> Result<(u16, String), Failure> {
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
