//! The readiness probe: asks a container over HTTP, again and again. An edge; `pod` counts the answers.
//!
//! An answer from 200 to 399 is a success, as for the kubelet; anything else, silence included, is a failure. At most
//! [`ANSWER_BYTES`] are read, because only the first line matters. Called by `driver`.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Time for one probe: Kubernetes' `timeoutSeconds` by default.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Bytes of the answer that are looked at.
const ANSWER_BYTES: usize = 64;

/// Asks once.
pub async fn probe(address: SocketAddr, path: &str) -> bool {
    matches!(tokio::time::timeout(TIMEOUT, status(address, path)).await, Ok(Ok(200..=399)))
}

async fn status(address: SocketAddr, path: &str) -> io::Result<u16> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: kube-probe/playground\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::with_capacity(ANSWER_BYTES);
    let mut limited = stream.take(ANSWER_BYTES as u64);
    while parse(&answer).is_none() && limited.read_buf(&mut answer).await? > 0 {}
    parse(&answer).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The status code of `HTTP/1.1 200 OK`.
fn parse(answer: &[u8]) -> Option<u16> {
    let rest = answer.strip_prefix(b"HTTP/1.1 ").or_else(|| answer.strip_prefix(b"HTTP/1.0 "))?;
    let (code, rest) = rest.split_at_checked(3)?;
    rest.first().filter(|byte| b" \r\n".contains(byte))?;
    std::str::from_utf8(code).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::net::TcpListener;

    use super::*;

    async fn answers(answer: &'static [u8]) -> bool {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0u8; 1024];
            let read = stream.read(&mut request).await.unwrap();
            for part in answer.chunks(5) {
                if stream.write_all(part).await.is_err() {
                    break;
                }
            }
            String::from_utf8(request.get(..read).unwrap().to_vec()).unwrap()
        });
        let success = probe(address, "/readyz").await;
        assert!(server.await.unwrap().starts_with("GET /readyz HTTP/1.1\r\n"));
        success
    }

    #[tokio::test]
    async fn only_an_answer_from_200_to_399_is_a_success() {
        for good in [&b"HTTP/1.1 200 OK\r\n\r\n"[..], b"HTTP/1.0 399\r\n", b"HTTP/1.1 204 \r\n"] {
            assert!(answers(good).await, "{}", good.escape_ascii());
        }
        for bad in [
            &b"HTTP/1.1 503 Service Unavailable\r\n\r\n"[..],
            b"HTTP/1.1 199 x\r\n",
            b"HTTP/1.1 400 x\r\n",
            b"HTTP/1.1 2000 x\r\n",
            b"HTTP/1.1 20",
            b"HTTP/2 200 OK\r\n",
            b"\x00\x00\x04\x08",
            b"",
        ] {
            assert!(!answers(bad).await, "{}", bad.escape_ascii());
        }
    }

    #[tokio::test]
    async fn nobody_there_and_nobody_answering_are_failures() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        assert!(!probe(address, "/readyz").await, "accepted by the kernel, never answered");
        drop(listener);
        assert!(!probe(address, "/readyz").await);
    }
}
