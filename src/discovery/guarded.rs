//! One connection to a peer, which the address book can cut when the peer was heard of elsewhere, and which tells the address
//! book when it ends.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::env::Stream;
use crate::env::network::writes_through;

/// A connection that ends when it is cut. Whoever holds a channel over it reconnects, and so finds the new address.
pub(super) struct Guarded {
    stream: Box<dyn Stream>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Why nothing more is read, once that is so.
    broke: Option<io::Error>,
    ended: Option<Box<Ended>>,
}

/// Is told of the end, and of the error if there was one.
type Ended = dyn FnOnce(Option<io::Error>) + Send;

impl Guarded {
    pub(super) fn new(
        stream: Box<dyn Stream>,
        cut: CancellationToken,
        ended: impl FnOnce(Option<io::Error>) + Send + 'static,
    ) -> Self {
        Self { stream, cut: Box::pin(cut.cancelled_owned()), broke: None, ended: Some(Box::new(ended)) }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        if let Some(ended) = self.ended.take() {
            ended(self.broke.take());
        }
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionReset, "the peer moved")));
        }
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if let Poll::Ready(Err(error)) = &read {
            self.broke = Some(io::Error::new(error.kind(), error.to_string()));
        }
        read
    }
}

writes_through!(Guarded);
