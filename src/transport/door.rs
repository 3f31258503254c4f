//! Who may connect to a port, and until when somebody who did must have said something.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;

use super::addresses::{Addresses, Unwelcome, Visit};
use super::first_bytes::PREFACE;
use crate::env::Stream;
use crate::env::network::writes_through;
use crate::limits;
use crate::metrics::RefusedConnections;

/// Lets connections in, so many at a time. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Door {
    slots: Arc<Semaphore>,
    addresses: Addresses,
    refused: RefusedConnections,
}

impl Door {
    /// For so many connections at a time, and of one address what `addresses` allow. `refused` counts those that are closed.
    pub fn new(connections: usize, addresses: Addresses, refused: RefusedConnections) -> Self {
        Self { slots: Arc::new(Semaphore::new(connections)), addresses, refused }
    }

    /// Counts a new connection for as long as both are kept; `None` if it must be closed.
    pub fn admit(&self, from: IpAddr) -> Option<(OwnedSemaphorePermit, Visit)> {
        let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() else {
            self.refused.full.inc();
            return None;
        };
        match self.addresses.admit(from) {
            Ok(visit) => Some((slot, visit)),
            Err(Unwelcome::Connections) => {
                self.refused.address.inc();
                None
            }
            Err(Unwelcome::Rate) => {
                self.refused.rate.inc();
                None
            }
        }
    }

    /// A connection was closed because its first bytes did not come in time.
    pub fn was_silent(&self) {
        self.refused.silent.inc();
    }

    /// `stream`, if it is let in: counted until it is dropped, and broken unless the preface of HTTP/2 has come within
    /// [`limits::CONNECTION_HEADER_TIMEOUT`]. For servers that have no such deadline.
    pub fn admit_http2(&self, stream: Box<dyn Stream>, from: IpAddr) -> Option<Box<dyn Stream>> {
        let (slot, visit) = self.admit(from)?;
        Some(Box::new(Admitted {
            stream: visit.metered(stream),
            awaited: Some(Awaited {
                bytes: PREFACE.len(),
                end: Box::pin(tokio::time::sleep(limits::CONNECTION_HEADER_TIMEOUT)),
            }),
            door: self.clone(),
            _slot: slot,
            _visit: visit,
        }))
    }
}

/// See [`Door::admit_http2`].
struct Admitted {
    stream: Box<dyn Stream>,
    /// `None` once they have come.
    awaited: Option<Awaited>,
    door: Door,
    _slot: OwnedSemaphorePermit,
    _visit: Visit,
}

/// Bytes that must come before the end.
struct Awaited {
    bytes: usize,
    end: Pin<Box<Sleep>>,
}

impl AsyncRead for Admitted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = into.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, into);
        let Some(awaited) = &mut this.awaited else { return read };
        let count = into.filled().len().saturating_sub(before);
        awaited.bytes = awaited.bytes.saturating_sub(count);
        if awaited.bytes == 0 {
            this.awaited = None;
            return read;
        }
        // What trickles in does not move the end.
        if awaited.end.as_mut().poll(cx).is_ready() {
            this.door.was_silent();
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        read
    }
}

writes_through!(Admitted);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

    use std::net::Ipv4Addr;
    use std::time::Duration;

    use prometheus_client::metrics::counter::Counter;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::Instant;

    use super::*;
    use crate::limits::PerAddress;

    const HOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn door(connections: usize, each: usize) -> (Door, RefusedConnections) {
        let per_address = PerAddress { connections: each, ..PerAddress::default() };
        let refused = RefusedConnections::default();
        (Door::new(connections, Addresses::new(per_address, Counter::default()), refused.clone()), refused)
    }

    #[tokio::test]
    async fn each_refusal_is_counted_by_its_reason_and_leaves_no_trace() {
        let (door, refused) = door(3, 2);
        let other = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
        let two = [door.admit(HOST).unwrap(), door.admit(HOST).unwrap()];
        assert!(door.admit(HOST).is_none());
        assert_eq!((refused.full.get(), refused.address.get()), (0, 1));
        let third = door.admit(other).expect("the refused one has no slot");
        assert!(door.admit(other).is_none());
        assert_eq!((refused.full.get(), refused.address.get()), (1, 1));
        drop((two, third));
        assert_eq!(door.slots.available_permits(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_trickles_before_the_preface_is_there_is_cut_off() {
        let (door, refused) = door(8, 8);
        let (mut client, server) = tokio::io::duplex(64);
        let mut server = door.admit_http2(Box::new(server), HOST).unwrap();
        let begin = Instant::now();
        let trickle = tokio::spawn(async move {
            for byte in PREFACE.iter().take(PREFACE.len() - 1) {
                if client.write_all(&[*byte]).await.is_err() {
                    break;
                }
                // The clock of this test moves by sleeping.
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            client
        });
        let mut read = Vec::new();
        let failed = server.read_to_end(&mut read).await.unwrap_err();
        assert_eq!(failed.kind(), io::ErrorKind::TimedOut);
        assert_eq!(begin.elapsed(), limits::CONNECTION_HEADER_TIMEOUT);
        assert_eq!(refused.silent.get(), 1);
        drop(server);
        trickle.await.unwrap();
        assert_eq!(door.slots.available_permits(), 8);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_greeted_may_be_silent_for_ever() {
        let (door, refused) = door(8, 8);
        let (mut client, server) = tokio::io::duplex(64);
        let mut server = door.admit_http2(Box::new(server), HOST).unwrap();
        client.write_all(PREFACE).await.unwrap();
        let mut seen = [0; PREFACE.len()];
        server.read_exact(&mut seen).await.unwrap();
        assert_eq!(&seen, PREFACE);
        let silence = tokio::time::timeout(Duration::from_hours(1), server.read(&mut seen)).await;
        assert!(silence.is_err(), "nothing came, and nothing broke");
        assert_eq!(refused.silent.get(), 0);
    }
}
