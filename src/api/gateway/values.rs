//! The JSON values of a request's body, one after the other, however the body is cut.
//!
//! Only objects are messages, so what begins otherwise is refused at once. What is buffered is one value and what came with it,
//! bounded by [`limits::GATEWAY_VALUE_BYTES`], and large ones by what all connections may buffer together; a value that has begun
//! must be complete within [`limits::REQUEST_BODY_TIMEOUT`].

use std::fmt;
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use http_body::Body;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tonic::Code;

use super::super::texts;
use crate::limits;
use crate::transport::{Failure, grpc};

/// Reads values from the body of a request.
pub(super) struct Values<B> {
    body: B,
    buffer: BytesMut,
    scanner: Scanner,
    room: Room,
    /// By when the value that has begun must be complete.
    deadline: Option<Instant>,
}

/// Finds the end of an object.
#[derive(Debug, Default)]
struct Scanner {
    /// Bytes looked at.
    scanned: usize,
    depth: usize,
    in_text: bool,
    is_escaped: bool,
}

/// What is held of the memory for values that are not complete.
struct Room {
    all: Arc<Semaphore>,
    held: Option<OwnedSemaphorePermit>,
}

impl<B> Values<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: fmt::Display,
{
    /// The values of `body`, the first of which may begin when it likes. `room`: KiB that may still be buffered.
    pub(super) fn new(body: B, room: &Arc<Semaphore>) -> Self {
        let room = Room { all: Arc::clone(room), held: None };
        Self { body, buffer: BytesMut::new(), scanner: Scanner::default(), room, deadline: None }
    }

    /// The text of the only value of a body, all of which must be there in time; empty if it has none. What follows it is ignored,
    /// as with etcd.
    pub(super) async fn only(mut self) -> Result<Bytes, Failure> {
        let deadline = Some(Instant::now() + limits::REQUEST_BODY_TIMEOUT);
        self.deadline = deadline;
        let value = self.next().await?.unwrap_or_default();
        self.deadline = deadline;
        let mut rest = self.buffer.len();
        // Read, so that the connection can be used again.
        while rest < limits::GATEWAY_VALUE_BYTES && !self.body.is_end_stream() {
            match self.more().await? {
                Some(data) => rest += data.len(),
                None => break,
            }
        }
        Ok(value)
    }

    /// The text of the next value; `None` at the end of the body. May be dropped while it waits: nothing is lost.
    ///
    /// # Errors
    /// What its client is told of a value that is too large, late, cut short or no object.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            if let Some(value) = self.buffered()? {
                return Ok(Some(value));
            }
            match self.more().await? {
                Some(data) => {
                    self.buffer.extend_from_slice(&data);
                    self.room.grow(self.buffer.len())?;
                }
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(Failure::new(Code::InvalidArgument, "unexpected EOF")),
            }
        }
    }

    async fn more(&mut self) -> Result<Option<Bytes>, Failure> {
        let Some(deadline) = self.deadline else { return grpc::next_data(&mut self.body).await };
        tokio::time::timeout_at(deadline, grpc::next_data(&mut self.body)).await.unwrap_or_else(|_| {
            Err(Failure::new(Code::DeadlineExceeded, "the request did not arrive in time"))
        })
    }

    /// The next value, if all of it is here.
    fn buffered(&mut self) -> Result<Option<Bytes>, Failure> {
        if self.scanner.scanned == 0 {
            let blank = self.buffer.iter().take_while(|byte| is_blank(**byte)).count();
            self.buffer.advance(blank);
            match self.buffer.first() {
                None => {
                    // A stream that is silent for days holds no memory.
                    self.buffer = BytesMut::new();
                    return Ok(None);
                }
                Some(b'{') => {}
                Some(other) => {
                    let text =
                        format!("proto: syntax error: unexpected {:?}, not an object", char::from(*other));
                    return Err(Failure::new(Code::InvalidArgument, text));
                }
            }
            self.deadline.get_or_insert_with(|| Instant::now() + limits::REQUEST_BODY_TIMEOUT);
        }
        let Some(end) = self.scanner.end(&self.buffer) else {
            if self.buffer.len() > limits::GATEWAY_VALUE_BYTES {
                let text = format!("the request has more than {} bytes of JSON", limits::GATEWAY_VALUE_BYTES);
                return Err(Failure::new(Code::ResourceExhausted, text));
            }
            return Ok(None);
        };
        let value = self.buffer.split_to(end).freeze();
        self.scanner = Scanner::default();
        self.deadline = None;
        self.room.held = None;
        Ok(Some(value))
    }
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

impl Scanner {
    /// Where the object ends that `buffer` begins with. Looks at no byte twice. Whether it is one is for the parser to say.
    fn end(&mut self, buffer: &[u8]) -> Option<usize> {
        for byte in buffer.get(self.scanned..)? {
            self.scanned += 1;
            match byte {
                _ if self.is_escaped => self.is_escaped = false,
                b'\\' if self.in_text => self.is_escaped = true,
                b'"' => self.in_text = !self.in_text,
                _ if self.in_text => {}
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.depth == 0 {
                        return Some(self.scanned);
                    }
                }
                _ => {}
            }
        }
        None
    }
}

impl Room {
    /// Makes sure that so many bytes are held.
    fn grow(&mut self, bytes: usize) -> Result<(), Failure> {
        if bytes <= limits::GATEWAY_UNCOUNTED_BYTES {
            return Ok(());
        }
        // Some at a time, so that the count is not touched for every piece.
        let wanted =
            (bytes.div_ceil(limits::GATEWAY_UNCOUNTED_BYTES) * limits::GATEWAY_UNCOUNTED_BYTES) >> 10;
        let held = self.held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let Some(missing) = wanted.checked_sub(held).filter(|missing| *missing > 0) else { return Ok(()) };
        let more = Arc::clone(&self.all)
            .try_acquire_many_owned(missing as u32)
            .map_err(|_| Failure::from(texts::TOO_MANY_REQUESTS))?;
        match &mut self.held {
            Some(held) => held.merge(more),
            None => self.held = Some(more),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

    use futures::{StreamExt, stream};
    use http_body::Frame;
    use http_body_util::StreamBody;

    use super::*;

    fn room() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(limits::GATEWAY_BUFFERED_BYTES >> 10))
    }

    type Pieces = Vec<Vec<u8>>;

    fn values(pieces: Pieces) -> Values<impl Body<Data = Bytes, Error = std::io::Error> + Unpin> {
        let frames = pieces.into_iter().map(|piece| Ok(Frame::data(Bytes::from(piece))));
        Values::new(StreamBody::new(stream::iter(frames)), &room())
    }

    async fn all(pieces: Pieces) -> Result<Vec<Bytes>, Failure> {
        let (mut values, mut found) = (values(pieces), Vec::new());
        while let Some(value) = values.next().await? {
            found.push(value);
        }
        Ok(found)
    }

    #[tokio::test]
    async fn values_arrive_however_they_are_cut() {
        let text = " {\"a\":[{\"}\\\\\\\"{\":1}]}\n{}{\"b\":\"]\"} \r\n\t";
        let expected = ["{\"a\":[{\"}\\\\\\\"{\":1}]}", "{}", "{\"b\":\"]\"}"];
        for cut in 0..=text.len() {
            let pieces = vec![text.as_bytes()[..cut].to_vec(), text.as_bytes()[cut..].to_vec()];
            assert_eq!(all(pieces).await.unwrap(), expected, "{cut}");
        }
        let bytes = text.bytes().map(|byte| vec![byte]).collect();
        assert_eq!(all(bytes).await.unwrap(), expected);
        assert!(all(vec![b" \n".to_vec()]).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn what_is_no_value_is_refused() {
        for (text, code) in [
            ("{", Code::InvalidArgument),
            ("{\"a\":\"}", Code::InvalidArgument),
            ("[]", Code::InvalidArgument),
            ("nonsense", Code::InvalidArgument),
            ("}", Code::InvalidArgument),
            ("\u{feff}{}", Code::InvalidArgument),
        ] {
            assert_eq!(all(vec![text.into()]).await.unwrap_err().code, code, "{text}");
        }
        assert_eq!(all(vec![b"{".to_vec()]).await.unwrap_err().text, "unexpected EOF");
    }

    #[tokio::test]
    async fn the_only_value_is_the_first() {
        let only = async |text: &str| values(vec![text.into()]).only().await;
        assert_eq!(only("").await.unwrap(), "");
        assert_eq!(only("{\"a\":1} garbage {").await.unwrap(), "{\"a\":1}");
        assert!(only("{\"a\":").await.is_err());
    }

    #[tokio::test]
    async fn large_values_are_bounded_each_and_together() {
        let open = |bytes: usize| vec![b"{\"a\":\"".to_vec(), vec![b'x'; bytes]];
        let failure = all(open(limits::GATEWAY_VALUE_BYTES)).await.unwrap_err();
        assert_eq!(failure.code, Code::ResourceExhausted);
        let (all, mut held) = (room(), Vec::new());
        let each = limits::GATEWAY_VALUE_BYTES / 2;
        for _ in 0..limits::GATEWAY_BUFFERED_BYTES / each {
            let frames = stream::iter(
                open(each).into_iter().map(|piece| Ok::<_, std::io::Error>(Frame::data(Bytes::from(piece)))),
            );
            let mut values = Values::new(StreamBody::new(frames.chain(stream::pending())), &all);
            if futures::poll!(std::pin::pin!(values.next())).is_ready() {
                break;
            }
            held.push(values);
        }
        let before = held.len();
        assert!(before < limits::GATEWAY_BUFFERED_BYTES / each, "not all of them have room");
        let mut refused = Values::new(
            StreamBody::new(stream::iter(
                open(each).into_iter().map(|piece| Ok::<_, std::io::Error>(Frame::data(Bytes::from(piece)))),
            )),
            &all,
        );
        assert_eq!(refused.next().await.unwrap_err().text, texts::TOO_MANY_REQUESTS.text);
        drop((held, refused));
        assert_eq!(all.available_permits(), limits::GATEWAY_BUFFERED_BYTES >> 10, "all of it is given back");
    }

    #[tokio::test(start_paused = true)]
    async fn half_a_value_does_not_wait_for_ever_and_silence_does() {
        let mut half = {
            let frames = stream::iter([Ok::<_, std::io::Error>(Frame::data(Bytes::from_static(b"{}{")))]);
            Values::new(StreamBody::new(frames.chain(stream::pending())), &room())
        };
        assert_eq!(half.next().await.unwrap().unwrap(), "{}");
        assert_eq!(half.next().await.unwrap_err().code, Code::DeadlineExceeded);

        let frames = stream::iter([Ok::<_, std::io::Error>(Frame::data(Bytes::from_static(b"{} ")))]);
        let mut silent = Values::new(StreamBody::new(frames.chain(stream::pending())), &room());
        assert!(silent.next().await.unwrap().is_some());
        let waits = tokio::time::timeout(limits::REQUEST_BODY_TIMEOUT * 10, silent.next()).await;
        assert!(waits.is_err(), "a client may be silent between its requests");

        let frames = stream::iter([Ok::<_, std::io::Error>(Frame::data(Bytes::from_static(b"{} ")))]);
        let open = Values::new(StreamBody::new(frames.chain(stream::pending())), &room());
        assert_eq!(open.only().await.unwrap_err().code, Code::DeadlineExceeded, "the body has no end");
    }
}
