//! The messages of a call that streams them, as they arrive.

use std::fmt;

use bytes::{Buf, Bytes, BytesMut};
use http_body::Body;
use prost::Message;
use tonic::Code;

use super::grpc::{self, Failure};

/// Reads messages from the body of a request. At most one message and what came with it in one piece is buffered.
#[derive(Debug)]
pub struct Messages<B> {
    body: B,
    buffer: BytesMut,
}

impl<B> Messages<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: fmt::Display,
{
    /// The messages of `body`.
    pub fn new(body: B) -> Self {
        Self { body, buffer: BytesMut::new() }
    }

    /// The next message and its size in bytes; `None` if the client sends no more. May be dropped while it waits: nothing is lost.
    ///
    /// # Errors
    /// What its client is told of a message that is too large, compressed, cut short or not one.
    pub async fn next<M: Message + Default>(&mut self) -> Result<Option<(M, usize)>, Failure> {
        loop {
            if let Some(message) = self.buffered()? {
                let size = message.len();
                let message = M::decode(message).map_err(|error| {
                    Failure::new(Code::Internal, format!("grpc: error unmarshalling request: {error}"))
                })?;
                return Ok(Some((message, size)));
            }
            match grpc::next_data(&mut self.body).await? {
                Some(data) => self.buffer.extend_from_slice(&data),
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(grpc::cut_short()),
            }
        }
    }

    /// The next message, if all of it is here.
    fn buffered(&mut self) -> Result<Option<Bytes>, Failure> {
        if self.buffer.len() < grpc::PREFIX_BYTES {
            return Ok(None);
        }
        let length = grpc::message_length(&self.buffer)?;
        if self.buffer.len() < grpc::PREFIX_BYTES + length {
            return Ok(None);
        }
        self.buffer.advance(grpc::PREFIX_BYTES);
        // A copy of its own: what it names must not keep the buffer.
        let message = Bytes::copy_from_slice(self.buffer.get(..length).unwrap_or_default());
        self.buffer.advance(length);
        if self.buffer.is_empty() {
            // A stream that is silent for days holds no memory.
            self.buffer = BytesMut::new();
        }
        Ok(Some(message))
    }
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
    }

    fn body(pieces: Vec<Vec<u8>>) -> impl Body<Data = Bytes, Error = std::io::Error> + Unpin {
        StreamBody::new(stream::iter(pieces.into_iter().map(|piece| Ok(Frame::data(Bytes::from(piece))))))
    }

    #[tokio::test]
    async fn messages_arrive_however_they_are_cut() {
        let samples: Vec<_> = ["a", "", "ccc"].map(|key| Sample { key: key.into() }).into();
        let wire = samples.iter().map(|sample| grpc::encode(sample).to_vec()).collect::<Vec<_>>().concat();
        for cut in 0..=wire.len() {
            let mut messages = Messages::new(body(vec![wire[..cut].to_vec(), wire[cut..].to_vec()]));
            for sample in &samples {
                let (message, size) = messages.next::<Sample>().await.unwrap().unwrap();
                assert_eq!((&message, size), (sample, sample.encoded_len()));
            }
            assert_eq!(messages.next::<Sample>().await.unwrap(), None);
        }
    }

    #[tokio::test]
    async fn what_is_no_message_ends_the_call() {
        let mut cut_short = Messages::new(body(vec![vec![0, 0, 0, 0, 9, 1]]));
        assert_eq!(cut_short.next::<Sample>().await.unwrap_err(), grpc::cut_short());
        let mut too_large = Messages::new(body(vec![vec![0, 0x7f, 0, 0, 0]]));
        assert_eq!(too_large.next::<Sample>().await.unwrap_err().code, Code::ResourceExhausted);
        let mut nonsense = Messages::new(body(vec![vec![0, 0, 0, 0, 1, 255]]));
        assert_eq!(nonsense.next::<Sample>().await.unwrap_err().code, Code::Internal);
    }
}
