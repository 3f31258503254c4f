//! One unary gRPC call, straight between hyper and prost.
//!
//! tonic's generated servers do the same with a box for the call, one for the handler's future, one for the body and two
//! buffers of 8 KiB per call. This needs none of them: a message that came in one piece is decoded where it lies, and its
//! byte fields point into it; an answer is encoded once, into a buffer of its exact size. Streams still go through tonic.

use std::borrow::Cow;
use std::fmt;
use std::pin::pin;
use std::task::Poll;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body::Body;
use http_body_util::BodyExt;
use prost::Message;
use tonic::Code;

use super::AnswerBody;
use crate::limits;

/// The header, or trailer, with the status code.
pub const STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// The header, or trailer, with the text of a failure.
pub const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
/// What every gRPC content type begins with.
const MEDIA_TYPE: &str = "application/grpc";
/// What the text of a failure begins with whose message is larger than [`limits::RECEIVED_MESSAGE_BYTES`]: grpc-go's.
pub const TOO_LARGE: &str = "grpc: received message larger than max";
/// Bytes before each message: one for compression, four for the length.
pub const PREFIX_BYTES: usize = 5;

/// A call that failed: what its client is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The status code.
    pub code: Code,
    /// The status message.
    pub text: Cow<'static, str>,
}

impl Failure {
    /// A failure with this code and text.
    pub fn new(code: Code, text: impl Into<Cow<'static, str>>) -> Self {
        Self { code, text: text.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:?})", self.text, self.code)
    }
}

impl std::error::Error for Failure {}

/// Whether a request is gRPC: HTTP/2 with a gRPC content type. Over HTTP/1 it is an ordinary request, as with etcd.
pub fn is_grpc<B>(request: &Request<B>) -> bool {
    request.version() == http::Version::HTTP_2
        && request
            .headers()
            .get(CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(MEDIA_TYPE.as_bytes()))
}

/// Receives the one message of a unary call, and its size in bytes. What is not there within
/// [`limits::REQUEST_BODY_TIMEOUT`] fails the call.
pub async fn receive<M, B>(body: B) -> Result<(M, usize), Failure>
where
    M: Message + Default,
    B: Body<Data = Bytes> + Unpin,
    B::Error: fmt::Display,
{
    let mut message = pin!(message_bytes(body));
    // Nearly always all of it is there already, and no timer is needed.
    let bytes = match futures::poll!(message.as_mut()) {
        Poll::Ready(bytes) => bytes,
        Poll::Pending => {
            tokio::time::timeout(limits::REQUEST_BODY_TIMEOUT, message).await.unwrap_or_else(|_| {
                Err(Failure::new(Code::DeadlineExceeded, "the request did not arrive in time"))
            })
        }
    }?;
    let size = bytes.len();
    match M::decode(bytes) {
        Ok(message) => Ok((message, size)),
        Err(error) => {
            Err(Failure::new(Code::Internal, format!("grpc: error unmarshalling request: {error}")))
        }
    }
}

/// The bytes of the one message of `body`.
async fn message_bytes<B>(mut body: B) -> Result<Bytes, Failure>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: fmt::Display,
{
    let mut first = next_data(&mut body).await?.ok_or_else(cut_short)?;
    while first.len() < PREFIX_BYTES {
        let more = next_data(&mut body).await?.ok_or_else(cut_short)?;
        first = [first, more].concat().into();
    }
    let length = message_length(&first)?;
    let mut message = first.split_off(PREFIX_BYTES);
    if message.len() < length {
        // Not reserved at once: the length is only a claim so far.
        let mut whole = BytesMut::with_capacity(length.min(64 << 10));
        whole.put(message);
        while whole.len() < length {
            whole.put(next_data(&mut body).await?.ok_or_else(cut_short)?);
        }
        message = whole.freeze();
    }
    if message.len() > length || (!body.is_end_stream() && next_data(&mut body).await?.is_some()) {
        return Err(Failure::new(Code::Internal, "a unary call has one message; more came"));
    }
    Ok(message)
}

/// The length that the prefix announces, if it is one that we take. The texts are those of grpc-go.
pub(super) fn message_length(first: &[u8]) -> Result<usize, Failure> {
    let Some(&[compressed, a, b, c, d]) = first.first_chunk::<PREFIX_BYTES>() else {
        return Err(cut_short());
    };
    match compressed {
        0 => {}
        1 => {
            let text = "grpc: Decompressor is not installed for grpc-encoding";
            return Err(Failure::new(Code::Unimplemented, text));
        }
        other => {
            return Err(Failure::new(
                Code::Internal,
                format!("grpc: received unexpected payload format {other}"),
            ));
        }
    }
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    if length > limits::RECEIVED_MESSAGE_BYTES {
        let limit = limits::RECEIVED_MESSAGE_BYTES;
        let text = format!("{TOO_LARGE} ({length} vs. {limit})");
        return Err(Failure::new(Code::ResourceExhausted, text));
    }
    Ok(length)
}

pub(super) fn cut_short() -> Failure {
    Failure::new(Code::Internal, "the request ended before its message did: unexpected EOF")
}

/// The next data that is not empty; `None` at the end.
pub async fn next_data<B>(body: &mut B) -> Result<Option<Bytes>, Failure>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: fmt::Display,
{
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => match frame.into_data() {
                Ok(data) if !data.is_empty() => return Ok(Some(data)),
                _ => {}
            },
            Err(error) => {
                return Err(Failure::new(Code::Cancelled, format!("the request was broken off: {error}")));
            }
        }
    }
    Ok(None)
}

/// A message as it goes on the wire.
pub fn encode<M: Message>(message: &M) -> Bytes {
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(PREFIX_BYTES + length);
    bytes.put_u8(0);
    bytes.put_u32(length as u32);
    // Cannot fail: the buffer has room, and grows if it had not.
    let _ = message.encode(&mut bytes);
    bytes.freeze()
}

/// The answer to a call that succeeded; `message` is what [`encode`] made.
pub fn success(message: Bytes) -> Response<AnswerBody> {
    let mut response = Response::new(AnswerBody::Message(message));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    response
}

/// The answer to a call that streams.
pub fn stream(body: tonic::body::Body) -> Response<AnswerBody> {
    let mut response = Response::new(AnswerBody::Stream(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    response
}

/// The answer to a call that failed: headers only.
pub fn failure(failure: &Failure) -> Response<AnswerBody> {
    let mut response = Response::new(AnswerBody::Empty);
    *response.headers_mut() = trailers(failure);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    response
}

/// What ends a stream that failed.
pub fn trailers(failure: &Failure) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(3);
    trailers.insert(STATUS, HeaderValue::from(failure.code as i32));
    if let Ok(text) = HeaderValue::from_str(&percent_encoded(&failure.text)) {
        trailers.insert(MESSAGE, text);
    }
    trailers
}

/// As the gRPC protocol wants a status message: printable ASCII but the percent sign, all else as `%XX`.
fn percent_encoded(text: &str) -> Cow<'_, str> {
    let plain = |byte: u8| matches!(byte, b' '..=b'~') && byte != b'%';
    if text.bytes().all(plain) {
        return Cow::Borrowed(text);
    }
    let mut encoded = String::with_capacity(text.len() + 16);
    for byte in text.bytes() {
        if plain(byte) {
            encoded.push(char::from(byte));
        } else {
            let digit =
                |value: u8| char::from_digit(u32::from(value), 16).unwrap_or('0').to_ascii_uppercase();
            encoded.extend(['%', digit(byte >> 4), digit(byte & 15)]);
        }
    }
    Cow::Owned(encoded)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

    use futures::stream;
    use http_body::Frame;
    use http_body_util::StreamBody;

    use super::*;

    #[derive(Clone, PartialEq, Message)]
    struct Sample {
        #[prost(bytes = "bytes", tag = "1")]
        key: Bytes,
        #[prost(bytes = "bytes", tag = "2")]
        value: Bytes,
        #[prost(int64, tag = "3")]
        lease: i64,
    }

    fn pieces(pieces: Vec<Vec<u8>>) -> impl Body<Data = Bytes, Error = std::io::Error> + Unpin {
        StreamBody::new(stream::iter(pieces.into_iter().map(|piece| Ok(Frame::data(Bytes::from(piece))))))
    }

    fn sample() -> Sample {
        Sample { key: "k".into(), value: vec![7; 300].into(), lease: -1 }
    }

    #[tokio::test]
    async fn a_message_arrives_however_it_is_cut() {
        let wire = encode(&sample());
        for cut in 0..=wire.len() {
            let body = pieces(vec![wire[..cut].to_vec(), Vec::new(), wire[cut..].to_vec()]);
            let (got, size) = receive::<Sample, _>(body).await.unwrap();
            assert_eq!((got, size), (sample(), wire.len() - PREFIX_BYTES));
        }
        let bytes = wire.iter().map(|byte| vec![*byte]).collect();
        assert_eq!(receive::<Sample, _>(pieces(bytes)).await.unwrap().0, sample());
    }

    #[tokio::test]
    async fn a_message_that_is_cut_short_fails() {
        let wire = encode(&sample());
        for cut in 0..wire.len() {
            let failure = receive::<Sample, _>(pieces(vec![wire[..cut].to_vec()])).await.unwrap_err();
            assert_eq!(failure, cut_short());
        }
    }

    #[tokio::test]
    async fn what_is_no_message_fails_without_reading_on() {
        let claim = |length: usize| {
            let mut bytes = vec![0];
            bytes.extend_from_slice(&(length as u32).to_be_bytes());
            bytes
        };
        let failure = receive::<Sample, _>(pieces(vec![claim(2_200_010)])).await.unwrap_err();
        let text = "grpc: received message larger than max (2200010 vs. 2097152)";
        assert_eq!(failure, Failure::new(Code::ResourceExhausted, text));

        let failure = receive::<Sample, _>(pieces(vec![vec![1, 0, 0, 0, 0]])).await.unwrap_err();
        assert_eq!(failure.code, Code::Unimplemented);
        let failure = receive::<Sample, _>(pieces(vec![vec![9, 0, 0, 0, 0]])).await.unwrap_err();
        assert_eq!(failure.code, Code::Internal);
        let failure = receive::<Sample, _>(pieces(vec![vec![0, 0, 0, 0, 1, 255]])).await.unwrap_err();
        assert_eq!(failure.code, Code::Internal);

        let twice = [encode(&sample()), encode(&sample())].concat();
        assert!(receive::<Sample, _>(pieces(vec![twice])).await.is_err());
        let twice = vec![encode(&sample()).to_vec(), encode(&sample()).to_vec()];
        assert!(receive::<Sample, _>(pieces(twice)).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn half_a_message_does_not_wait_for_ever() {
        let half =
            stream::iter([Ok::<_, std::io::Error>(Frame::data(Bytes::from_static(&[0, 0, 0, 0, 9, 1])))]);
        let body = StreamBody::new(futures::StreamExt::chain(half, stream::pending()));
        let failure = receive::<Sample, _>(body).await.unwrap_err();
        assert_eq!(failure.code, Code::DeadlineExceeded);
    }

    #[test]
    fn texts_survive_the_wire() {
        for text in ["etcdserver: key is not provided", "100%\n", "grüße", ""] {
            let response = failure(&Failure::new(Code::NotFound, text));
            let status = tonic::Status::from_header_map(response.headers()).unwrap();
            assert_eq!((status.code(), status.message()), (Code::NotFound, text));
        }
    }

    #[test]
    fn unknown_fields_are_ignored() {
        let mut bytes = sample().encode_to_vec();
        bytes.extend_from_slice(&[0xf8, 0x7f, 0x05]);
        assert_eq!(Sample::decode(bytes.as_slice()).unwrap(), sample());
    }
}
