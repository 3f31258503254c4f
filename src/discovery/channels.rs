//! gRPC channels to peers. A channel connects when it is first used, notices a dead peer by HTTP/2 keep-alive, and looks the
//! address up again each time it connects; so it can be kept for the life of the process.
//!
//! Heartbeats have a connection of their own, and so have snapshots: neither waits behind data.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tonic::transport::{Channel, Endpoint, Uri};

use super::{AddressBook, Peer};
use crate::limits;

/// What a channel is for; each has a connection of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Path {
    /// Entries, votes, forwarded writes, read indexes, hellos.
    Data,
    /// Heartbeats: they must not queue behind data.
    Heartbeat,
    /// Snapshots: megabytes that may take their time.
    Snapshot,
}

/// Channels to peers, made on demand and kept. Cheap to clone.
#[derive(Clone)]
pub struct PeerChannels {
    book: Arc<AddressBook>,
    made: Arc<Mutex<Made>>,
}

#[derive(Default)]
struct Made {
    channels: BTreeMap<(Peer, Path), (Channel, u64)>,
    uses: u64,
}

impl fmt::Debug for PeerChannels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerChannels").field("book", &self.book).finish_non_exhaustive()
    }
}

impl PeerChannels {
    /// Channels that find their peers in this book.
    pub fn new(book: Arc<AddressBook>) -> Self {
        Self { book, made: Arc::default() }
    }

    /// Where the addresses come from.
    pub fn book(&self) -> &Arc<AddressBook> {
        &self.book
    }

    /// The channel to a peer; nothing is connected yet if it is new. Must be called inside a tokio runtime. A call on it fails
    /// at once while the peer is known to be unreachable.
    pub fn channel(&self, peer: &Peer, path: Path) -> Channel {
        let mut made = self.made.lock();
        made.uses += 1;
        let uses = made.uses;
        if let Some((channel, used)) = made.channels.get_mut(&(peer.clone(), path)) {
            *used = uses;
            return channel.clone();
        }
        if made.channels.len() >= limits::PEERS {
            let oldest = made.channels.iter().min_by_key(|(_, (_, used))| *used).map(|(key, _)| key.clone());
            if let Some(oldest) = oldest {
                made.channels.remove(&oldest);
            }
        }
        let channel = self.connect(peer);
        made.channels.insert((peer.clone(), path), (channel.clone(), uses));
        channel
    }

    /// A peer answered that it is not the one that was meant (another name, cluster or node id): its connections are cut, and
    /// the address is not dialled again until its name or a hello gives it anew.
    pub fn misdirected(&self, peer: &Peer) {
        self.book.misdirected(peer);
    }

    /// Forgets the channels to a peer. Those handed out go on until they are dropped.
    pub fn forget(&self, peer: &Peer) {
        self.made.lock().channels.retain(|(of, _), _| of != peer);
    }

    fn connect(&self, peer: &Peer) -> Channel {
        // The address in it is only what the peer sees as the host; where to connect, the book says.
        let scheme = if self.book.is_secure() { "https" } else { "http" };
        let endpoint = Endpoint::from_shared(format!("{scheme}://{peer}"))
            .unwrap_or_else(|_| Endpoint::from_static("http://peer.invalid"))
            .http2_keep_alive_interval(limits::PEER_KEEPALIVE)
            .keep_alive_timeout(limits::PEER_KEEPALIVE)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(limits::HTTP2_STREAM_WINDOW)
            .initial_connection_window_size(limits::HTTP2_CONNECTION_WINDOW);
        let (book, peer) = (Arc::clone(&self.book), peer.clone());
        endpoint.connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
            let (book, peer) = (Arc::clone(&book), peer.clone());
            async move { book.dial(&peer).await.map(TokioIo::new) }
        }))
    }
}

#[cfg(test)]
#[path = "channels_tests.rs"]
mod tests;
