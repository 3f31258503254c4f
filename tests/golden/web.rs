//! A client of plain HTTP, over HTTP/1 or HTTP/2, whose request may be a stream too.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

pub type Body = UnsyncBoxBody<Bytes, Infallible>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    Http1,
    Http2,
}

/// An answer, and the connection that it comes by.
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    body: Incoming,
    buffer: BytesMut,
    _connection: Connection,
}

/// Ends with whoever has it.
struct Connection(tokio::task::JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A body that is there already.
pub fn whole(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).boxed_unsync()
}

/// A body that comes in pieces.
pub fn pieces() -> (mpsc::Sender<Bytes>, Body) {
    let (sender, receiver) = mpsc::channel::<Bytes>(16);
    let frames = futures::stream::unfold(receiver, |mut receiver| async move {
        let piece = receiver.recv().await?;
        Some((Ok(Frame::data(piece)), receiver))
    });
    (sender, StreamBody::new(frames).boxed_unsync())
}

/// Sends one request, on a connection of its own.
pub async fn send(address: SocketAddr, version: Version, mut request: Request<Body>) -> Answer {
    let stream = TokioIo::new(TcpStream::connect(address).await.unwrap());
    let path = request.uri().path_and_query().unwrap().as_str().to_owned();
    let (response, connection) = match version {
        Version::Http1 => {
            request.headers_mut().insert("host", "x".parse().unwrap());
            let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
            let connection = Connection(tokio::spawn(async move { drop(connection.await) }));
            (sender.send_request(request).await.unwrap(), connection)
        }
        Version::Http2 => {
            *request.uri_mut() = format!("http://x{path}").parse().unwrap();
            let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream);
            let (mut sender, connection) = handshake.await.unwrap();
            let connection = Connection(tokio::spawn(async move { drop(connection.await) }));
            (sender.send_request(request).await.unwrap(), connection)
        }
    };
    let (head, body) = response.into_parts();
    Answer {
        status: head.status.as_u16(),
        headers: head.headers,
        body,
        buffer: BytesMut::new(),
        _connection: connection,
    }
}

/// POSTs JSON over HTTP/1.
pub async fn post(address: SocketAddr, path: &str, json: impl Into<Bytes>) -> Answer {
    let request = Request::post(path).body(whole(json)).unwrap();
    send(address, Version::Http1, request).await
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The next piece of the body.
    pub async fn piece(&mut self) -> Option<Bytes> {
        loop {
            match self.body.frame().await? {
                Ok(frame) => {
                    if let Ok(data) = frame.into_data() {
                        return Some(data);
                    }
                }
                Err(error) => panic!("the answer broke off: {error}"),
            }
        }
    }

    /// All of the body.
    pub async fn text(&mut self) -> String {
        while let Some(piece) = self.piece().await {
            self.buffer.extend_from_slice(&piece);
        }
        String::from_utf8(self.buffer.split().to_vec()).unwrap()
    }

    /// The next line of the body, without its end.
    pub async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(end + 1);
                return Some(String::from_utf8(line[..end].to_vec()).unwrap());
            }
            let Some(piece) = self.piece().await else {
                assert!(self.buffer.is_empty(), "the last line has no end: {:?}", self.buffer);
                return None;
            };
            self.buffer.extend_from_slice(&piece);
        }
    }

    /// The next line as JSON.
    pub async fn json_line(&mut self) -> serde_json::Value {
        let line = tokio::time::timeout(std::time::Duration::from_secs(20), self.line()).await;
        serde_json::from_str(&line.expect("a line in time").expect("a line")).unwrap()
    }

    /// All of the body as JSON.
    pub async fn json(&mut self) -> serde_json::Value {
        let text = self.text().await;
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text:?}"))
    }
}
