//! The messages of a method's answer: what a gRPC client makes of it, without the network between.

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, Response};
use http_body_util::BodyExt;
use tonic::{Code, Status};

use crate::transport::{AnswerBody, Failure, grpc};

/// An answer that is being read.
#[derive(Debug)]
pub(super) struct Answered {
    body: AnswerBody,
    /// Not yet a whole message.
    buffer: BytesMut,
    /// From the headers.
    failure: Option<Failure>,
    has_ended: bool,
}

impl Answered {
    pub(super) fn new(response: Response<AnswerBody>) -> Self {
        let failure = failure_in(response.headers());
        Self { body: response.into_body(), buffer: BytesMut::new(), failure, has_ended: false }
    }

    /// The next message; `None` after the last, or after the failure. Nothing is lost if this is dropped while it waits.
    pub(super) async fn next(&mut self) -> Option<Result<Bytes, Failure>> {
        if let Some(failure) = self.failure.take() {
            self.has_ended = true;
            return Some(Err(failure));
        }
        while !self.has_ended {
            if let Some(message) = self.buffered() {
                return Some(Ok(message));
            }
            let ended = match self.body.frame().await {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => match self.take(data) {
                        Some(message) => return Some(Ok(message)),
                        None => continue,
                    },
                    Err(frame) => frame.trailers_ref().and_then(failure_in),
                },
                Some(Err(status)) => Some(Failure::new(status.code(), status.message().to_owned())),
                None => None,
            };
            self.has_ended = true;
            return ended.map(Err);
        }
        None
    }

    /// Keeps what came, or gives it back if it is one message, as nearly all pieces are.
    fn take(&mut self, mut data: Bytes) -> Option<Bytes> {
        let is_whole = message_length(&data).is_some_and(|length| grpc::PREFIX_BYTES + length == data.len());
        if self.buffer.is_empty() && is_whole {
            data.advance(grpc::PREFIX_BYTES);
            return Some(data);
        }
        self.buffer.extend_from_slice(&data);
        None
    }

    fn buffered(&mut self) -> Option<Bytes> {
        let whole = grpc::PREFIX_BYTES + message_length(&self.buffer)?;
        if self.buffer.len() < whole {
            return None;
        }
        let mut message = self.buffer.split_to(whole).freeze();
        message.advance(grpc::PREFIX_BYTES);
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
        Some(message)
    }
}

/// The length in a message's prefix, if it is there.
fn message_length(bytes: &[u8]) -> Option<usize> {
    let [_, a, b, c, d] = *bytes.first_chunk::<{ grpc::PREFIX_BYTES }>()?;
    Some(u32::from_be_bytes([a, b, c, d]) as usize)
}

fn failure_in(headers: &HeaderMap) -> Option<Failure> {
    let status = Status::from_header_map(headers)?;
    (status.code() != Code::Ok).then(|| Failure::new(status.code(), status.message().to_owned()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

    use futures::stream;
    use http_body::Frame;
    use http_body_util::StreamBody;

    use super::*;
    use crate::proto::etcdserverpb as pb;

    async fn all(mut answered: Answered) -> Vec<Result<Bytes, Failure>> {
        let mut found = Vec::new();
        while let Some(message) = answered.next().await {
            found.push(message);
        }
        assert_eq!(answered.next().await, None);
        found
    }

    fn pieces(pieces: Vec<Frame<Bytes>>) -> Answered {
        let frames = stream::iter(pieces.into_iter().map(Ok::<_, Status>));
        Answered::new(grpc::stream(tonic::body::Body::new(StreamBody::new(frames))))
    }

    #[tokio::test]
    async fn one_message_or_one_failure_is_the_answer_to_a_unary_call() {
        let message = pb::LeaseStatus { id: 5 };
        let answer = Answered::new(grpc::success(grpc::encode(&message)));
        assert_eq!(all(answer).await, [Ok(Bytes::from(prost::Message::encode_to_vec(&message)))]);
        let failure = Failure::new(Code::NotFound, "etcdserver: 100 % „gone“");
        assert_eq!(all(Answered::new(grpc::failure(&failure))).await, [Err(failure)]);
    }

    #[tokio::test]
    async fn streams_are_read_however_they_are_cut() {
        let messages = [1, 0, 300].map(|id| pb::LeaseStatus { id });
        let expected: Vec<_> =
            messages.iter().map(|message| Ok(Bytes::from(prost::Message::encode_to_vec(message)))).collect();
        let wire: Bytes =
            messages.iter().map(|message| grpc::encode(message).to_vec()).collect::<Vec<_>>().concat().into();
        for cut in 0..=wire.len() {
            let cut = vec![Frame::data(wire.slice(..cut)), Frame::data(wire.slice(cut..))];
            assert_eq!(all(pieces(cut)).await, expected);
        }
        let failure = Failure::new(Code::Unavailable, "etcdserver: no leader");
        let ends = vec![Frame::data(wire), Frame::trailers(grpc::trailers(&failure))];
        let found = all(pieces(ends)).await;
        assert_eq!((&found[..3], &found[3]), (&expected[..], &Err(failure)));
    }
}
