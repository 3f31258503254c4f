//! Sockets.

use std::fmt::Debug;
use std::io;
use std::net::SocketAddr;

use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::limits;

/// One connection.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Makes a type that looks at what is read of its field `stream` write to it as it is.
macro_rules! writes_through {
    ($type:ty) => {
        impl tokio::io::AsyncWrite for $type {
            fn poll_write(
                mut self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
                from: &[u8],
            ) -> std::task::Poll<std::io::Result<usize>> {
                std::pin::Pin::new(&mut self.stream).poll_write(cx, from)
            }

            fn poll_flush(
                mut self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
            ) -> std::task::Poll<std::io::Result<()>> {
                std::pin::Pin::new(&mut self.stream).poll_flush(cx)
            }

            fn poll_shutdown(
                mut self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
            ) -> std::task::Poll<std::io::Result<()>> {
                std::pin::Pin::new(&mut self.stream).poll_shutdown(cx)
            }

            fn poll_write_vectored(
                mut self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
                from: &[std::io::IoSlice<'_>],
            ) -> std::task::Poll<std::io::Result<usize>> {
                std::pin::Pin::new(&mut self.stream).poll_write_vectored(cx, from)
            }

            fn is_write_vectored(&self) -> bool {
                self.stream.is_write_vectored()
            }
        }
    };
}
pub(crate) use writes_through;

/// A bound port.
pub trait Listener: Debug + Send + Sync {
    /// Waits for the next connection; also tells where it comes from.
    fn accept(&self) -> BoxFuture<'_, io::Result<(Box<dyn Stream>, SocketAddr)>>;
    /// The address that was bound.
    fn local_address(&self) -> io::Result<SocketAddr>;
}

/// Opens sockets.
pub trait Network: Debug + Send + Sync {
    /// Connects; the caller sets the deadline.
    fn connect(&self, to: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Stream>>>;
    /// Binds a port; port 0 picks a free one.
    fn bind(&self, at: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>>;
}

/// TCP of the operating system. Connections are made without delay (no Nagle).
///
/// With `source` set, outgoing connections come from that address, as those of a pod come from the pod's own.
#[derive(Debug, Default)]
pub struct Tcp {
    /// Address that outgoing connections come from; the system chooses if it is not set.
    pub source: Option<std::net::IpAddr>,
}

impl Network for Tcp {
    fn connect(&self, to: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Stream>>> {
        Box::pin(async move {
            let socket = socket_for(to)?;
            if let Some(source) = self.source.filter(|source| source.is_ipv4() == to.is_ipv4()) {
                socket.bind(SocketAddr::new(source, 0))?;
            }
            let stream = socket.connect(to).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        })
    }

    fn bind(&self, at: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        Box::pin(async move { Ok(Box::new(TcpPort(listen(at)?)) as Box<dyn Listener>) })
    }
}

/// Binds a port at which [`limits::UNACCEPTED_CONNECTIONS`] may wait. The 128 that tokio lets wait are fewer than the clients that come
/// back at once when a leader ends; the system then has their connections and this process has not, so that they are reset.
///
/// # Errors
///
/// What the system says: the address is taken, or is not of this machine.
pub fn listen(at: SocketAddr) -> io::Result<tokio::net::TcpListener> {
    let socket = socket_for(at)?;
    // A port whose last connections are just ending can be bound.
    socket.set_reuseaddr(true)?;
    socket.bind(at)?;
    socket.listen(limits::UNACCEPTED_CONNECTIONS)
}

fn socket_for(address: SocketAddr) -> io::Result<tokio::net::TcpSocket> {
    if address.is_ipv4() { tokio::net::TcpSocket::new_v4() } else { tokio::net::TcpSocket::new_v6() }
}

/// Has the system ask whether a silent peer is still there, and close the connection of one that reads nothing: HTTP/1, which may
/// stream for days, has no pings of its own.
fn probe_when_silent(stream: &tokio::net::TcpStream) -> io::Result<()> {
    let probes = socket2::TcpKeepalive::new().with_time(limits::TCP_PROBE_AFTER);
    let socket = socket2::SockRef::from(stream);
    // Probes notice who is gone; whoever is there and reads nothing answers them.
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(limits::UNREAD_TIMEOUT))?;
    socket.set_tcp_keepalive(&probes)
}

#[derive(Debug)]
struct TcpPort(tokio::net::TcpListener);

impl Listener for TcpPort {
    fn accept(&self) -> BoxFuture<'_, io::Result<(Box<dyn Stream>, SocketAddr)>> {
        Box::pin(async move {
            let (stream, from) = self.0.accept().await?;
            stream.set_nodelay(true)?;
            probe_when_silent(&stream)?;
            Ok((Box::new(stream) as Box<dyn Stream>, from))
        })
    }

    fn local_address(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn hundreds_of_clients_may_come_at_once() {
        let allowed = std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap();
        let clients = allowed.trim().parse::<usize>().unwrap().min(512);
        let listener = listen(([127, 0, 0, 1], 0).into()).unwrap();
        let to = listener.local_addr().unwrap();
        let mut connected = Vec::new();
        // Nobody accepts meanwhile, as when the process has no processor for a moment.
        for client in 0..clients {
            let stream = std::net::TcpStream::connect_timeout(&to, Duration::from_millis(500));
            connected.push(stream.unwrap_or_else(|error| panic!("client {client}: {error}")));
        }
    }

    #[tokio::test]
    async fn silent_peers_are_probed() {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let stream = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let is_probed = || socket2::SockRef::from(&stream).keepalive().unwrap();
        assert!(!is_probed());
        probe_when_silent(&stream).unwrap();
        assert!(is_probed());
        #[cfg(target_os = "linux")]
        assert_eq!(socket2::SockRef::from(&stream).tcp_user_timeout().unwrap(), Some(limits::UNREAD_TIMEOUT));
    }
}
