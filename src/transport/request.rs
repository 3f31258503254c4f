//! The body of a call: what arrives by HTTP/2, or what was made here of a request in another form.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

/// Why a body broke off.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// The body of a call.
pub enum RequestBody {
    /// As it arrives.
    Wire(Incoming),
    /// One message with gRPC's prefix; `None` once it was taken.
    Message(Option<Bytes>),
    /// Messages with gRPC's prefix, made when they are asked for.
    Made(Pin<Box<dyn Body<Data = Bytes, Error = BodyError> + Send>>),
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Wire(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Self::Message(message) => Poll::Ready(message.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Made(body) => body.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Wire(body) => body.is_end_stream(),
            Self::Message(message) => message.is_none(),
            Self::Made(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Wire(body) => body.size_hint(),
            Self::Message(message) => SizeHint::with_exact(message.as_ref().map_or(0, Bytes::len) as u64),
            Self::Made(body) => body.size_hint(),
        }
    }
}

impl std::fmt::Debug for RequestBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Wire(_) => "RequestBody::Wire",
            Self::Message(_) => "RequestBody::Message",
            Self::Made(_) => "RequestBody::Made",
        })
    }
}
