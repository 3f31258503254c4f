//! The real world: the one place that binds the traits of `env`.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::config::{Cluster, Config, Data, SizeFrom};
use crate::env::clock::SystemClock;
use crate::env::network::Tcp;
use crate::env::random::SystemRandom;
use crate::env::real_files::RealFiles;
use crate::env::real_names::Dns;
use crate::env::simulated_files::SimulatedFiles;
use crate::env::tasks::Threads;
use crate::env::{Env, Files, Owner, Random};
use crate::error::Error;
use crate::identity::PodFacts;

/// The world that a node with this configuration lives in. A node in memory gets a file system in memory.
pub(crate) fn real(config: &Config) -> Result<Env, Error> {
    let random = SystemRandom;
    let files: Arc<dyn Files> = match config.data {
        Data::Memory => Arc::new(SimulatedFiles::new(random.next_u64())),
        Data::Directory(_) => Arc::new(RealFiles),
    };
    let names = match config.dns_server {
        Some(server) => Dns::at(&[server]),
        None => Dns::system(),
    };
    // Only a node that must find others by name needs name servers.
    let names = match (names, &config.cluster) {
        (Ok(names), _) => names,
        (Err(error), Cluster::StatefulSet { .. }) => return Err(Error::Start(error.to_string())),
        (Err(_), _) => Dns::at(&[SocketAddr::from(([127, 0, 0, 1], 53))])
            .map_err(|error| Error::Start(error.to_string()))?,
    };
    let owner = match (config.size_from, &config.cluster) {
        (SizeFrom::StatefulSet, Cluster::StatefulSet { pod, .. }) => {
            Some(owner(pod, config.api_server.as_deref())?)
        }
        _ => None,
    };
    Ok(Env {
        clock: Arc::new(SystemClock),
        random: Arc::new(random),
        files,
        network: Arc::new(Tcp { source: source(config) }),
        names: Arc::new(names),
        tasks: Arc::new(Threads),
        owner,
    })
}

/// The pod's `StatefulSet`.
#[cfg(feature = "kubernetes")]
fn owner(pod: &PodFacts, server: Option<&str>) -> Result<Arc<dyn Owner>, Error> {
    let owner = crate::env::real_owner::Kubernetes::new(&pod.namespace, pod.set_name(), server);
    owner.map(|owner| Arc::new(owner) as _).map_err(Error::Start)
}

/// The pod's `StatefulSet`.
#[cfg(not(feature = "kubernetes"))]
fn owner(_: &PodFacts, _: Option<&str>) -> Result<Arc<dyn Owner>, Error> {
    Err(Error::Start("this program was built without the feature `kubernetes`".into()))
}

/// A pod speaks from its own address. Everybody else from whichever the system chooses.
fn source(config: &Config) -> Option<IpAddr> {
    match &config.cluster {
        Cluster::StatefulSet { pod, .. } => pod.pod_ip,
        Cluster::Single | Cluster::Fixed { .. } | Cluster::Initial(_) => None,
    }
}
