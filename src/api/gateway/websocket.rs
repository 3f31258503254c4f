//! A call over a websocket, as etcd has it through grpc-websocket-proxy: a GET with an upgrade on any path of the gateway. Each message of
//! the client is a piece of the body that a POST would have, each line of the answer is a text message, and the connection ends with the
//! call.
//!
//! As there, nothing of the request's headers is passed on but who calls, which a browser can say by
//! `Sec-WebSocket-Protocol: Bearer, TOKEN` or by a cookie `token`. Otherwise than there, a call that takes one request has it with the
//! first message: etcd waits for the end of a body that ends with the connection.
//!
//! A client that vanished is noticed by pings. What it may send at once is bounded by [`limits::WEBSOCKET_MESSAGE_BYTES`]; what is for it
//! waits where it is made, as for any stream.

use std::pin::pin;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::{Sink, SinkExt, Stream, StreamExt, stream};
use http::header::{
    AUTHORIZATION, CONNECTION, COOKIE, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::Frame;
use http_body_util::{BodyDataStream, StreamBody};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_stream::wrappers::ReceiverStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};
use tonic::Code;

use super::routes::Route;
use super::status::{self, Form};
use super::{Shared, called, plain_http};
use crate::limits;
use crate::transport::answers::Answers;
use crate::transport::request::BodyError;
use crate::transport::{Afterwards, AnswerBody, Failure};
use crate::watch::Budget;

/// What is hashed with the client's key (RFC 6455, section 1.3).
const MAGIC: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// The version that there is.
const VERSION: &str = "13";
/// Begins the subprotocol that is a token.
const BEARER: &str = "Bearer";
/// The cookie that is a token.
const TOKEN_COOKIE: &str = "token";
/// Between two messages in the body.
const NEWLINE: &[u8] = b"\n";

/// Whether a request asks for a websocket.
pub(super) fn is_asked_for<B>(request: &Request<B>) -> bool {
    request.version() == Version::HTTP_11
        && lists(request.headers(), &CONNECTION, "upgrade")
        && lists(request.headers(), &UPGRADE, "websocket")
}

/// Whether a header is a list with this word in it.
fn lists(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|listed| listed.trim().eq_ignore_ascii_case(word))
}

/// Changes to the websocket, on which the call is made; `route` is `None` if there is no such.
pub(super) fn answer<B>(
    api: &Arc<Shared>,
    answers: &Answers,
    budget: &Budget,
    afterwards: &Afterwards,
    route: Option<Route>,
    mut request: Request<B>,
) -> Response<AnswerBody> {
    let accept = match accepted(request.method(), request.headers()) {
        Ok(accept) => accept,
        Err(status) => return refused(status),
    };
    let is_bearer = protocol(request.headers()).is_some_and(|protocol| protocol.starts_with(BEARER));
    let session = Session {
        api: Arc::clone(api),
        answers: answers.clone(),
        budget: budget.clone(),
        route,
        headers: passed_on(request.headers()),
    };
    afterwards.set(session.run(hyper::upgrade::on(&mut request)));
    let mut response = Response::new(AnswerBody::Plain(Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    if is_bearer {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(BEARER));
    }
    response
}

/// What shows the client that its request was understood; else the status of the refusal.
fn accepted(method: &Method, headers: &HeaderMap) -> Result<HeaderValue, StatusCode> {
    if method != Method::GET {
        return Err(StatusCode::METHOD_NOT_ALLOWED);
    }
    if !lists(headers, &SEC_WEBSOCKET_VERSION, VERSION) {
        return Err(StatusCode::BAD_REQUEST);
    }
    let key = headers.get(SEC_WEBSOCKET_KEY).and_then(|key| key.to_str().ok()).unwrap_or_default();
    if !STANDARD.decode(key).is_ok_and(|bytes| bytes.len() == 16) {
        return Err(StatusCode::BAD_REQUEST);
    }
    // The protocol names this hash; nothing is kept secret by it.
    let digest =
        ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{MAGIC}").as_bytes());
    HeaderValue::try_from(STANDARD.encode(digest)).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
}

fn refused(status: StatusCode) -> Response<AnswerBody> {
    let mut response = plain_http::error(status, status.canonical_reason().unwrap_or_default());
    response.headers_mut().insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static(VERSION));
    response
}

/// The subprotocol that is asked for, if one is.
fn protocol(headers: &HeaderMap) -> Option<&str> {
    headers.get(SEC_WEBSOCKET_PROTOCOL)?.to_str().ok().filter(|protocol| !protocol.is_empty())
}

/// The headers of the call: who makes it.
fn passed_on(headers: &HeaderMap) -> HeaderMap {
    let by_protocol = protocol(headers).map(|protocol| match protocol.split_once("Bearer,") {
        Some((_, token)) => format!("{BEARER} {}", token.trim_matches(' ')),
        None => String::new(),
    });
    let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let by_cookie = cookies.flat_map(|value| value.split(';')).find_map(|cookie| {
        let (name, value) = cookie.trim().split_once('=')?;
        (name == TOKEN_COOKIE).then(|| format!("{BEARER} {}", value.trim_matches('"')))
    });
    let authorization = by_cookie.or(by_protocol).and_then(|text| HeaderValue::try_from(text).ok());
    authorization.map(|value| (AUTHORIZATION, value)).into_iter().collect()
}

/// One call, on a connection that is a websocket.
struct Session {
    api: Arc<Shared>,
    answers: Answers,
    budget: Budget,
    /// `None`: there is no such call.
    route: Option<Route>,
    headers: HeaderMap,
}

impl Session {
    /// Makes the call, until it or the connection ends.
    async fn run(self, upgrade: OnUpgrade) {
        let Ok(upgraded) = upgrade.await else { return };
        let socket =
            WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config())).await;
        let (mut to_client, mut from_client) = socket.split();
        let (to_call, requests) = mpsc::channel(1);
        let end = tokio::select! {
            end = listen(&mut from_client, to_call) => end,
            end = self.speak(&mut to_client, requests) => end,
        };
        // They are two halves of one.
        let Ok(socket) = to_client.reunite(from_client) else { return };
        // Whoever does not answer is gone, or not worth waiting for.
        let _ = tokio::time::timeout(limits::WEBSOCKET_CLOSE_TIMEOUT, say_goodbye(socket, end)).await;
    }

    /// Sends what is answered, a message for a line, and pings; says how it ended.
    async fn speak<S>(self, to_client: &mut S, requests: mpsc::Receiver<Bytes>) -> Option<CloseFrame>
    where
        S: Sink<Message, Error = Error> + Unpin,
    {
        let answered = stream::once(self.response(requests));
        let mut lines = pin!(answered.flat_map(|response| BodyDataStream::new(response.into_body())));
        let first = Instant::now() + limits::CLIENT_PING_INTERVAL;
        let mut pings = tokio::time::interval_at(first, limits::CLIENT_PING_INTERVAL);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let message = tokio::select! {
                line = lines.next() => match line {
                    Some(Ok(line)) => message(line)?,
                    Some(Err(_)) | None => return Some(closing(CloseCode::Normal)),
                },
                _ = pings.tick() => Message::Ping(Bytes::new()),
            };
            to_client.send(message).await.ok()?;
        }
    }

    async fn response(self, requests: mpsc::Receiver<Bytes>) -> Response<AnswerBody> {
        let Some(route) = self.route else {
            return status::response(&Failure::new(Code::NotFound, "Not Found"), Form::Bare);
        };
        let many = self.api.gateway.method(route).is_ok_and(|method| method.is_client_streaming());
        let messages = ReceiverStream::new(requests).take(if many { usize::MAX } else { 1 });
        let pieces = messages.flat_map(|message| stream::iter([message, Bytes::from_static(NEWLINE)]));
        let body = StreamBody::new(pieces.map(|piece| Ok::<_, BodyError>(Frame::data(piece))));
        let mut request = Request::new(body);
        *request.headers_mut() = self.headers;
        called(&self.api, &self.answers, &self.budget, route, request).await
    }
}

/// Says how it ended, and waits until the client has heard that.
async fn say_goodbye<S>(mut socket: WebSocketStream<S>, end: Option<CloseFrame>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // The answer to a client that said it first; after that nothing more can be said.
    let _ = socket.flush().await;
    let _ = socket.send(Message::Close(end)).await;
    let stream = socket.get_mut();
    let _ = stream.shutdown().await;
    // What the client still sends is read, or the system might take back what was said last.
    let mut rest = [0; 1_024];
    while stream.read(&mut rest).await.is_ok_and(|count| count > 0) {}
}

/// Hands what the client sends to the call; says how it ended.
async fn listen<S>(from_client: &mut S, to_call: mpsc::Sender<Bytes>) -> Option<CloseFrame>
where
    S: Stream<Item = Result<Message, Error>> + Unpin,
{
    loop {
        // Pings are sent oftener, so whoever is there is heard.
        let silence = limits::CLIENT_PING_INTERVAL + limits::CLIENT_PING_TIMEOUT;
        let text = match tokio::time::timeout(silence, from_client.next()).await {
            Ok(Some(Ok(Message::Text(text)))) => Bytes::from(text),
            Ok(Some(Ok(Message::Binary(bytes)))) => bytes,
            Ok(Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)))) => continue,
            Ok(Some(Err(Error::Capacity(_)))) => return Some(closing(CloseCode::Size)),
            Ok(Some(Err(_))) => return Some(closing(CloseCode::Protocol)),
            Ok(Some(Ok(Message::Close(_))) | None) | Err(_) => return None,
        };
        // A call may want no more; the client is listened to nevertheless, because it may go away.
        let _ = to_call.send(text).await;
    }
}

/// A line as a message; `None` if it is none.
fn message(mut line: Bytes) -> Option<Message> {
    if line.ends_with(NEWLINE) {
        line.truncate(line.len() - NEWLINE.len());
    }
    Utf8Bytes::try_from(line).ok().map(Message::Text)
}

fn closing(code: CloseCode) -> CloseFrame {
    CloseFrame { code, reason: Utf8Bytes::default() }
}

fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(limits::WEBSOCKET_READ_BYTES)
        // Each message is sent at once.
        .write_buffer_size(0)
        .max_message_size(Some(limits::WEBSOCKET_MESSAGE_BYTES))
        .max_frame_size(Some(limits::WEBSOCKET_MESSAGE_BYTES))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = pairs.iter();
        pairs.map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    /// The example of RFC 6455, section 1.3.
    const KEY: (&str, &str) = ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");

    #[test]
    fn a_handshake_is_answered_as_the_protocol_wants_it() {
        let right = headers(&[KEY, ("sec-websocket-version", "13")]);
        assert_eq!(accepted(&Method::GET, &right).unwrap(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(accepted(&Method::POST, &right), Err(StatusCode::METHOD_NOT_ALLOWED));
        for wrong in [
            headers(&[KEY]),
            headers(&[KEY, ("sec-websocket-version", "8")]),
            headers(&[("sec-websocket-version", "13")]),
            headers(&[("sec-websocket-key", "dGhlIHNhbXBsZQ=="), ("sec-websocket-version", "13")]),
            headers(&[("sec-websocket-key", "no base64"), ("sec-websocket-version", "13")]),
        ] {
            assert_eq!(accepted(&Method::GET, &wrong), Err(StatusCode::BAD_REQUEST), "{wrong:?}");
        }
    }

    #[test]
    fn it_is_asked_for_by_two_headers_of_http_1() {
        let request = |pairs, version| {
            let mut request = Request::new(());
            (*request.headers_mut(), *request.version_mut()) = (headers(pairs), version);
            request
        };
        let both = [("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket")];
        assert!(is_asked_for(&request(&both, Version::HTTP_11)));
        assert!(!is_asked_for(&request(&both, Version::HTTP_2)));
        assert!(!is_asked_for(&request(&both[..1], Version::HTTP_11)));
        assert!(!is_asked_for(&request(&both[1..], Version::HTTP_11)));
        assert!(!is_asked_for(&request(&[("connection", "upgrade"), ("upgrade", "h2c")], Version::HTTP_11)));
    }

    #[test]
    fn who_calls_is_told_by_the_subprotocol_or_a_cookie_and_by_nothing_else() {
        let passed = |pairs| passed_on(&headers(pairs));
        let bearer = |text| HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_static(text))]);
        assert_eq!(passed(&[("sec-websocket-protocol", "Bearer, tok.1")]), bearer("Bearer tok.1"));
        assert_eq!(passed(&[("sec-websocket-protocol", "Bearer,tok.1")]), bearer("Bearer tok.1"));
        assert_eq!(passed(&[("sec-websocket-protocol", "chat")]), bearer(""));
        assert_eq!(passed(&[("cookie", "a=b; token=tok.2")]), bearer("Bearer tok.2"));
        let both = [("sec-websocket-protocol", "Bearer, tok.1"), ("cookie", "token=tok.2")];
        assert_eq!(passed(&both), bearer("Bearer tok.2"));
        assert_eq!(
            passed(&[("authorization", "tok.3"), ("token", "tok.3"), ("origin", "o")]),
            HeaderMap::new()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_is_silent_is_gone_and_what_is_too_large_ends_it() {
        let (to_call, mut requests) = mpsc::channel(1);
        let messages = stream::iter([Ok(Message::Text("{}".into())), Ok(Message::Ping(Bytes::new()))]);
        let mut silent = messages.chain(stream::pending());
        assert_eq!(listen(&mut silent, to_call.clone()).await, None);
        assert_eq!(requests.recv().await.unwrap(), "{}");
        let too_large =
            tokio_tungstenite::tungstenite::error::CapacityError::MessageTooLong { size: 2, max_size: 1 };
        let mut large = stream::iter([Err(Error::Capacity(too_large))]);
        assert_eq!(listen(&mut large, to_call).await.unwrap().code, CloseCode::Size);
    }
}
