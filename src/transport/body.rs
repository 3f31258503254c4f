//! The body of an answer, in the few shapes that there are, so that none needs a box.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body::{Body, Frame, SizeHint};

use super::Failure;

/// The body of an answer.
#[derive(Debug)]
pub enum AnswerBody {
    /// Nothing: a gRPC failure, whose status is in the headers.
    Empty,
    /// A gRPC message, then the status OK.
    Message(Bytes),
    /// The status OK, after the message.
    Ok,
    /// Plain bytes of plain HTTP.
    Plain(Bytes),
    /// A stream of messages, made by tonic.
    Stream(tonic::body::Body),
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        let this = &mut *self;
        if let Self::Stream(body) = this {
            return Pin::new(body).poll_frame(cx);
        }
        Poll::Ready(match std::mem::replace(this, Self::Empty) {
            Self::Message(bytes) => {
                *this = Self::Ok;
                Some(Ok(Frame::data(bytes)))
            }
            Self::Ok => {
                let mut trailers = HeaderMap::with_capacity(1);
                trailers.insert(super::grpc::STATUS, HeaderValue::from_static("0"));
                Some(Ok(Frame::trailers(trailers)))
            }
            Self::Plain(bytes) => Some(Ok(Frame::data(bytes))),
            Self::Empty | Self::Stream(_) => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Message(_) | Self::Ok => false,
            Self::Plain(bytes) => bytes.is_empty(),
            Self::Stream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Plain(bytes) => SizeHint::with_exact(bytes.len() as u64),
            // A length would be sent as a header, and gRPC has none.
            _ => SizeHint::default(),
        }
    }
}

/// `body`, until `end`: then it ends with `failure`, if it has not by itself.
pub fn until<E>(body: tonic::body::Body, end: E, failure: Failure) -> tonic::body::Body
where
    E: Future<Output = ()> + Send + 'static,
{
    tonic::body::Body::new(Until { body, end: Box::pin(end), failure: Some(failure) })
}

/// See [`until`].
struct Until {
    body: tonic::body::Body,
    end: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// `None` once the body has ended.
    failure: Option<Failure>,
}

impl Body for Until {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        let this = &mut *self;
        if this.failure.is_none() {
            return Poll::Ready(None);
        }
        // What is there already goes first.
        match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Ready(None) => {
                this.failure = None;
                return Poll::Ready(None);
            }
            Poll::Ready(frame) => return Poll::Ready(frame),
            Poll::Pending => {}
        }
        if this.end.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        Poll::Ready(this.failure.take().map(|failure| Ok(Frame::trailers(super::grpc::trailers(&failure)))))
    }
}
