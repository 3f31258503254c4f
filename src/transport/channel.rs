//! The client side: a gRPC channel whose sockets and names come from an [`Env`].

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use futures::future::BoxFuture;
use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint};
use tower::ServiceExt as _;

use super::tls::Connector;
use crate::env::{Env, Lookup, Names, Network, Stream};
use crate::limits;

/// A channel to `uri` (`http://host:port`). It connects at the first call, and again whenever the connection was lost; a name
/// is looked up each time.
pub fn channel(uri: &Uri, env: &Env) -> Channel {
    let (network, names) = (Arc::clone(&env.network), Arc::clone(&env.names));
    let connector =
        tower::service_fn(move |uri: Uri| -> BoxFuture<'static, io::Result<TokioIo<Box<dyn Stream>>>> {
            let (network, names) = (Arc::clone(&network), Arc::clone(&names));
            Box::pin(async move {
                let connect = connect(&uri, network.as_ref(), names.as_ref());
                match tokio::time::timeout(limits::CLIENT_CONNECT_TIMEOUT, connect).await {
                    Ok(connected) => connected.map(TokioIo::new),
                    Err(_) => Err(io::Error::new(
                        io::ErrorKind::TimedOut,
                        format!("no connection to {uri} in time"),
                    )),
                }
            })
        });
    Endpoint::from(uri.clone())
        .initial_stream_window_size(limits::HTTP2_STREAM_WINDOW)
        .initial_connection_window_size(limits::HTTP2_CONNECTION_WINDOW)
        .http2_keep_alive_interval(limits::CHANNEL_PING_INTERVAL)
        .keep_alive_timeout(limits::CHANNEL_PING_TIMEOUT)
        .connect_with_connector_lazy(connector)
}

/// The channel that `endpoint` says, over TLS: the operating system connects, and resolves the name, which is the one that the server's
/// certificate must be for.
pub fn over_tls(endpoint: &Endpoint, tls: Connector) -> Channel {
    let mut system = HttpConnector::new();
    system.enforce_http(false);
    system.set_nodelay(true);
    endpoint.connect_with_connector_lazy(tower::service_fn(move |uri: Uri| {
        let (system, tls) = (system.clone(), tls.clone());
        async move {
            let host = name_of(uri.host().unwrap_or_default()).to_owned();
            let stream = system.oneshot(uri).await.map_err(io::Error::other)?;
            tls.connect(Box::new(stream.into_inner()), &host).await.map(TokioIo::new)
        }
    }))
}

/// A URI's host as certificates have it: without brackets, and without a dot at its end.
fn name_of(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.')
}

/// Connects to the first address of the URI's host that takes the connection.
async fn connect(uri: &Uri, network: &dyn Network, names: &dyn Names) -> io::Result<Box<dyn Stream>> {
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, format!("{uri}: {what}"));
    let host = uri.host().ok_or_else(|| wrong("no host"))?;
    let port = uri.port_u16().ok_or_else(|| wrong("no port"))?;
    let mut last = None;
    for address in addresses(host, names).await? {
        match network.connect(SocketAddr::new(address, port)).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| wrong("no address")))
}

/// The addresses of a host: itself if it is one, the loopback for `localhost`, else what DNS says.
async fn addresses(host: &str, names: &dyn Names) -> io::Result<Vec<IpAddr>> {
    if let Ok(address) = name_of(host).parse() {
        return Ok(vec![address]);
    }
    if host.eq_ignore_ascii_case("localhost") {
        return Ok(vec![IpAddr::from([127, 0, 0, 1]), IpAddr::from(std::net::Ipv6Addr::LOCALHOST)]);
    }
    match names.lookup(name_of(host)).await {
        Lookup::At(addresses) => Ok(addresses),
        Lookup::Absent => Err(io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address"))),
        Lookup::Unknown(reason) => Err(io::Error::other(format!("{host} could not be looked up: {reason}"))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

    use super::*;

    #[derive(Debug)]
    struct Zone;

    impl Names for Zone {
        fn lookup<'a>(&'a self, fqdn: &'a str) -> BoxFuture<'a, Lookup> {
            Box::pin(async move {
                match fqdn {
                    "a.example" => Lookup::At(vec![IpAddr::from([127, 0, 0, 7])]),
                    "b.example" => Lookup::Absent,
                    _ => Lookup::Unknown("refused".into()),
                }
            })
        }
    }

    #[tokio::test]
    async fn hosts_are_found() {
        assert_eq!(addresses("127.0.0.9", &Zone).await.unwrap(), [IpAddr::from([127, 0, 0, 9])]);
        assert_eq!(addresses("[::1]", &Zone).await.unwrap(), [IpAddr::from(std::net::Ipv6Addr::LOCALHOST)]);
        assert_eq!(addresses("a.example.", &Zone).await.unwrap(), [IpAddr::from([127, 0, 0, 7])]);
        assert_eq!(addresses("b.example", &Zone).await.unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(addresses("c.example", &Zone).await.unwrap_err().to_string().contains("refused"));
        assert!(addresses("LocalHost", &Zone).await.is_ok());
    }
}
