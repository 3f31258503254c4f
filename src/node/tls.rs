//! TLS of this node's ports and of its connections to peers, from the configuration.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::ClientTls;
use crate::config::{Cluster, Config};
use crate::discovery::{AddressBook, Speaker};
use crate::env::real_files::RealFiles;
use crate::env::{Env, Stream};
use crate::error::Error;
use crate::limits;
use crate::metrics::Metrics;
use crate::transport::Refusals;
use crate::transport::tls::{Acceptor, Connector, Material};

/// What there is of TLS on this node.
pub(super) struct Secure {
    /// For clients.
    pub(super) client: Option<ClientTls>,
    /// For peers.
    pub(super) peer: Option<Peers>,
    /// Whose files are looked at.
    kept: Vec<Material>,
}

/// TLS with peers. Cheap to clone.
#[derive(Clone)]
pub(super) struct Peers {
    pub(super) connector: Connector,
    acceptor: Acceptor,
    names: Names,
}

/// What is looked at in the certificate of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Names {
    /// Nothing: none is demanded, or its authority is enough.
    Any,
    /// Which members it is for.
    Members,
}

impl Secure {
    /// Reads certificates and keys. They are of the real file system, whatever the store lives on: who names such a file has put it there.
    ///
    /// # Errors
    /// [`Error::Start`]: which file cannot be read or used.
    pub(super) async fn load(config: &Config, env: &Env, metrics: &Metrics) -> Result<Self, Error> {
        let (config, clock, metrics) = (config.clone(), env.clock.clone(), metrics.clone());
        let load = move || {
            let files = Arc::new(RealFiles);
            let failed = |port: &str, error| Error::Start(format!("TLS of the {port} port: {error}"));
            let mut secure = Self { client: None, peer: None, kept: Vec::new() };
            if let Some(tls) = &config.client_tls {
                let hosts = hosts(&config, config.listen_client);
                let material = Material::of_port(tls, hosts, files.clone(), clock.clone());
                let material = material.map_err(|error| failed("client", error))?;
                secure.kept.push(material.clone());
                let acceptor = Acceptor::new(material, Refusals::new("client", &metrics));
                secure.client = Some(ClientTls { acceptor, names_users: config.auth.common_names });
            }
            if let Some(peer) =
                config.peer_tls.as_ref().filter(|_| !matches!(config.cluster, Cluster::Single))
            {
                let hosts = hosts(&config, config.listen_peer);
                let material = Material::of_peers(&peer.tls, hosts, files, clock);
                let material = material.map_err(|error| failed("peer", error))?;
                secure.kept.push(material.clone());
                let is_any = peer.any_name || !peer.tls.demands_certificates;
                secure.peer = Some(Peers {
                    connector: Connector::of_peers(material.clone()),
                    acceptor: Acceptor::new(material, Refusals::new("peer", &metrics)),
                    names: if is_any { Names::Any } else { Names::Members },
                });
            }
            Ok(secure)
        };
        super::blocking(env, load).await
    }

    /// How connections to peers are made.
    pub(super) fn connector(&self) -> Option<Connector> {
        self.peer.as_ref().map(|peer| peer.connector.clone())
    }

    /// Looks at the files from now on, until `closing`.
    pub(super) fn keep(&self, env: &Env, tasks: &TaskTracker, closing: &CancellationToken) {
        for material in &self.kept {
            tasks.spawn(material.clone().keep(env.tasks.clone(), closing.clone()));
        }
    }
}

/// For whom a certificate is that this node makes itself.
fn hosts(config: &Config, listens: SocketAddr) -> Vec<String> {
    let mut hosts = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    let own = listens.ip().to_string();
    if !listens.ip().is_unspecified() && !hosts.contains(&own) {
        hosts.push(own);
    }
    if let Cluster::StatefulSet { pod, .. } = &config.cluster {
        hosts.push(pod.fqdn());
    }
    hosts
}

impl Peers {
    /// Does the handshake with whoever has connected. `None`: it is refused.
    pub(super) async fn admit(
        &self,
        stream: Box<dyn Stream>,
        from: SocketAddr,
        book: &AddressBook,
    ) -> Option<(Box<dyn Stream>, Speaker)> {
        let secured = self.acceptor.accept(stream, from).await?;
        let speaker = match (self.names, &secured.certificate) {
            (Names::Any, _) => Ok(Speaker::Anyone),
            (Names::Members, None) => Err("no certificate was shown".to_owned()),
            (Names::Members, Some(certificate)) if book.directory().follows_members() => {
                let asked = timeout(limits::TLS_HANDSHAKE_TIMEOUT, book.is_member(certificate, from.ip()));
                match asked.await {
                    Ok(true) => Ok(Speaker::Anyone),
                    Ok(false) | Err(_) => book.directory().speaker(certificate),
                }
            }
            (Names::Members, Some(certificate)) => book.directory().speaker(certificate),
        };
        match speaker {
            Ok(speaker) => Some((secured.stream, speaker)),
            Err(why) => {
                self.acceptor.refuse(from, &why);
                None
            }
        }
    }
}
