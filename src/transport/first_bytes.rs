//! Which protocol a new connection speaks, told from its first bytes, which are then read again by whoever speaks it.
//!
//! hyper-util has the same, but waits for the first bytes without a deadline.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

use crate::env::Stream;
use crate::env::network::writes_through;

/// What an HTTP/2 client sends first (RFC 9113, section 3.4).
pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The first byte of a handshake of TLS (RFC 8446, section 5.1), which no request begins with.
const HANDSHAKE: u8 = 0x16;

/// What somebody speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// TLS, where it is not spoken.
    Tls,
    Http1,
    Http2,
}

/// A connection whose first bytes were looked at.
pub(super) struct Rewound {
    seen: [u8; PREFACE.len()],
    from: usize,
    to: usize,
    stream: Box<dyn Stream>,
}

/// Reads until it is sure. Ends with an error if the peer closes before; the caller sets the deadline.
pub(super) async fn protocol_of(mut stream: Box<dyn Stream>) -> io::Result<(Protocol, Rewound)> {
    let mut seen = [0; PREFACE.len()];
    let mut to = 0;
    let protocol = loop {
        let (Some(got), Some(expected)) = (seen.get(..to), PREFACE.get(..to)) else { break Protocol::Http1 };
        if got != expected {
            break if got.first() == Some(&HANDSHAKE) { Protocol::Tls } else { Protocol::Http1 };
        }
        if to == PREFACE.len() {
            break Protocol::Http2;
        }
        match stream.read(seen.get_mut(to..).unwrap_or_default()).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => to += count,
        }
    };
    Ok((protocol, Rewound { seen, from: 0, to, stream }))
}

impl AsyncRead for Rewound {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        match this.seen.get(this.from..this.to) {
            Some(seen) if !seen.is_empty() => {
                let count = seen.len().min(into.remaining());
                into.put_slice(seen.get(..count).unwrap_or_default());
                this.from += count;
                Poll::Ready(Ok(()))
            }
            _ => Pin::new(&mut this.stream).poll_read(cx, into),
        }
    }
}

writes_through!(Rewound);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

    use tokio::io::AsyncWriteExt;

    use super::*;

    async fn told(pieces: &[&[u8]]) -> io::Result<(Protocol, Vec<u8>)> {
        let (mut client, server) = tokio::io::duplex(64);
        let pieces: Vec<Vec<u8>> = pieces.iter().map(|piece| piece.to_vec()).collect();
        let writer = tokio::spawn(async move {
            for piece in pieces {
                client.write_all(&piece).await.unwrap();
                tokio::task::yield_now().await;
            }
        });
        let (protocol, mut rewound) = protocol_of(Box::new(server)).await?;
        writer.await.unwrap();
        let mut all = Vec::new();
        rewound.read_to_end(&mut all).await?;
        Ok((protocol, all))
    }

    #[tokio::test]
    async fn nothing_that_was_looked_at_is_lost() {
        let request = b"POST /v3/kv/range HTTP/1.1\r\n\r\n";
        for cut in 0..request.len() {
            let (protocol, all) = told(&[&request[..cut], &request[cut..]]).await.unwrap();
            assert_eq!((protocol, all.as_slice()), (Protocol::Http1, request.as_slice()));
        }
        let mut preface = PREFACE.to_vec();
        preface.extend_from_slice(b"and more");
        for cut in 0..preface.len() {
            let (protocol, all) = told(&[&preface[..cut], &preface[cut..]]).await.unwrap();
            assert_eq!((protocol, all), (Protocol::Http2, preface.clone()));
        }
    }

    #[tokio::test]
    async fn tls_is_told_from_requests() {
        let hello = [0x16, 3, 1, 0, 5, 1, 0, 0, 1, 3];
        for cut in 0..hello.len() {
            let (protocol, all) = told(&[&hello[..cut], &hello[cut..]]).await.unwrap();
            assert_eq!((protocol, all.as_slice()), (Protocol::Tls, hello.as_slice()));
        }
    }

    #[tokio::test]
    async fn a_peer_that_leaves_early_is_an_error() {
        assert!(told(&[b""]).await.is_err());
        assert!(told(&[b"PRI * HT"]).await.is_err());
    }
}
