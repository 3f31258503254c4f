//! A TCP proxy: what kube-proxy is to a Service. An edge.
//!
//! One address in front of a list of backends that changes. A connection goes to one backend, in turn, for as long as it
//! lasts; a change of the list touches new connections only. Invariants: while there is no backend, nothing listens, so
//! a connection is refused at once; the number of connections is bounded. Called by `driver`.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

use crate::env::network::listen;
use crate::limits::PLAYGROUND_PROXY_CONNECTIONS;

/// Time to reach a backend, which is on this machine.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Wait after an accept or a bind that failed, for example for want of file descriptors.
const RETRY: Duration = Duration::from_millis(50);

/// A running proxy. Dropping it ends it and every connection through it.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    backends: watch::Sender<Vec<SocketAddr>>,
    _task: AbortOnDropHandle<()>,
}

impl Proxy {
    /// A proxy without backends, in the current tokio runtime.
    pub fn start(address: SocketAddr) -> Self {
        let (backends, changes) = watch::channel(Vec::new());
        let task = AbortOnDropHandle::new(tokio::spawn(serve(address, changes)));
        Self { address, backends, _task: task }
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections from now on go to these, in turn.
    pub fn set_backends(&self, backends: Vec<SocketAddr>) {
        self.backends.send_if_modified(|present| {
            let changed = *present != backends;
            *present = backends;
            changed
        });
    }
}

async fn serve(address: SocketAddr, mut backends: watch::Receiver<Vec<SocketAddr>>) {
    let permits = Arc::new(Semaphore::new(PLAYGROUND_PROXY_CONNECTIONS));
    let mut connections = JoinSet::new();
    let mut turn = 0usize;
    loop {
        // The listener lives only inside this loop: without backends there is none.
        if backends.wait_for(|list| !list.is_empty()).await.is_err() {
            return;
        }
        let listener = match listen(address) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::warn!(%address, %error, "the proxy cannot listen, trying again");
                tokio::time::sleep(RETRY).await;
                continue;
            }
        };
        loop {
            let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                changed = backends.changed() => match changed {
                    Ok(()) if backends.borrow().is_empty() => break,
                    Ok(()) => continue,
                    Err(_) => return,
                },
            };
            while connections.try_join_next().is_some() {}
            match accepted {
                Ok((client, _)) => {
                    let backend = next(&backends.borrow(), &mut turn);
                    connections.spawn(async move {
                        let _permit = permit;
                        if let Err(error) = forward(client, backend).await {
                            tracing::debug!(%address, %error, "a connection through the proxy failed");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%address, %error, "the proxy cannot accept, trying again");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }
}

fn next(backends: &[SocketAddr], turn: &mut usize) -> Option<SocketAddr> {
    *turn = turn.wrapping_add(1);
    let at = turn.checked_rem(backends.len())?;
    backends.get(at).copied()
}

/// Carries one connection until both sides have closed. A backend that cannot be reached resets the client: the nearest
/// that a proxy comes to a connection that was refused.
async fn forward(mut client: TcpStream, backend: Option<SocketAddr>) -> io::Result<()> {
    let connected = match backend {
        None => Err(io::ErrorKind::ConnectionRefused.into()),
        Some(backend) => tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(backend))
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())),
    };
    let mut server = match connected {
        Ok(server) => server,
        Err(error) => {
            client.set_zero_linger()?;
            return Err(error);
        }
    };
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let copied = copy_bidirectional(&mut client, &mut server).await;
    if copied.is_err() {
        // The one side was reset: so is the other, not closed as if all had been said.
        client.set_zero_linger()?;
        server.set_zero_linger()?;
    }
    copied.map(|_| ())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// A server that greets with its name, then echoes until the client has closed its side, then says goodbye.
    async fn backend(name: &'static str) -> (SocketAddr, AbortOnDropHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    stream.write_all(name.as_bytes()).await.unwrap();
                    let mut told = Vec::new();
                    stream.read_to_end(&mut told).await.unwrap();
                    stream.write_all(&told).await.unwrap();
                });
            }
        });
        (address, AbortOnDropHandle::new(task))
    }

    /// A free address that nothing listens on.
    async fn free() -> SocketAddr {
        TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
    }

    /// Polls until the proxy takes connections (or refuses them), with a deadline.
    async fn connect(address: SocketAddr) -> TcpStream {
        tokio::time::timeout(Duration::from_secs(10), async {
            loop {
                if let Ok(stream) = TcpStream::connect(address).await {
                    return stream;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .unwrap()
    }

    async fn refused(address: SocketAddr) {
        tokio::time::timeout(Duration::from_secs(10), async {
            while TcpStream::connect(address).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .unwrap();
        let error = TcpStream::connect(address).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }

    async fn greeting(stream: &mut TcpStream) -> String {
        let mut name = [0u8; 1];
        stream.read_exact(&mut name).await.unwrap();
        String::from_utf8(name.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn without_a_backend_connections_are_refused_and_with_one_they_go_there() {
        let (a, _a) = backend("a").await;
        let proxy = Proxy::start(free().await);
        refused(proxy.address()).await;
        proxy.set_backends(vec![a]);
        let mut old = connect(proxy.address()).await;
        assert_eq!(greeting(&mut old).await, "a");
        proxy.set_backends(vec![]);
        refused(proxy.address()).await;
        // What was connected stays so, half-closing included.
        old.write_all(b"still here").await.unwrap();
        old.shutdown().await.unwrap();
        let mut rest = String::new();
        old.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "still here");
        proxy.set_backends(vec![a]);
        assert_eq!(greeting(&mut connect(proxy.address()).await).await, "a");
    }

    #[tokio::test]
    async fn connections_take_turns_and_follow_a_change() {
        let ((a, _a), (b, _b)) = (backend("a").await, backend("b").await);
        let proxy = Proxy::start(free().await);
        proxy.set_backends(vec![a, b]);
        let mut seen = Vec::new();
        for _ in 0..4 {
            seen.push(greeting(&mut connect(proxy.address()).await).await);
        }
        seen.sort();
        assert_eq!(seen, ["a", "a", "b", "b"]);
        proxy.set_backends(vec![b]);
        for _ in 0..3 {
            assert_eq!(greeting(&mut connect(proxy.address()).await).await, "b");
        }
    }

    #[tokio::test]
    async fn a_backend_that_is_not_there_resets_the_client_and_a_dropped_proxy_ends_all() {
        let dead = free().await;
        let proxy = Proxy::start(free().await);
        proxy.set_backends(vec![dead]);
        let mut stream = connect(proxy.address()).await;
        let error = stream.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);

        let (a, _a) = backend("a").await;
        proxy.set_backends(vec![a]);
        let address = proxy.address();
        let mut stream = connect(address).await;
        assert_eq!(greeting(&mut stream).await, "a");
        drop(proxy);
        assert!(stream.read_u8().await.is_err());
        refused(address).await;
    }
}
