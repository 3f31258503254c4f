//! What a playground tells about itself, and what can be asked of it. Values only.
//!
//! Called by `driver`, which makes them, by `control`, which carries them, and by the command line, which shows them.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::pod::Phase;
use crate::identity::Ordinal;

/// A playground at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Name of the StatefulSet.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// `spec.replicas`.
    pub replicas: Ordinal,
    /// True once it was told to end.
    pub stopping: bool,
    /// Address of the client service.
    pub service: SocketAddr,
    /// Its name server.
    pub dns: SocketAddr,
    /// URL of its API server.
    pub api_server: String,
    /// How that answers.
    pub api_mode: ApiMode,
    /// How the name server answers.
    pub dns_mode: DnsMode,
    /// FQDN of the headless service.
    pub headless_service: String,
    /// Where volumes and logs are.
    pub data: PathBuf,
    /// True if that directory is removed at the end.
    pub temporary: bool,
    /// Where its control socket is.
    pub run: PathBuf,
    /// Every pod that exists or ought to, by ordinal.
    pub pods: Vec<PodStatus>,
    /// Processes of pods that were deleted with force.
    pub orphans: Vec<OrphanStatus>,
}

/// A process whose pod was deleted with force, as long as it runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrphanStatus {
    /// Ordinal of its pod.
    pub ordinal: Ordinal,
    /// Which pod of that name it was.
    pub uid: u64,
    /// The address that it still has.
    pub address: Option<Ipv4Addr>,
    /// Its process id.
    pub pid: Option<u32>,
}

/// A pod at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodStatus {
    /// Its ordinal.
    pub ordinal: Ordinal,
    /// Its name.
    pub name: String,
    /// Its FQDN, without a trailing dot.
    pub fqdn: String,
    /// What it does.
    pub phase: Phase,
    /// Whether the client service sends clients to it.
    pub ready: bool,
    /// Which pod of that name it is, counted over the whole StatefulSet; none if it does not exist.
    pub uid: Option<u64>,
    /// Its address in this life.
    pub address: Option<Ipv4Addr>,
    /// Where clients reach it in every life.
    pub client_address: Option<SocketAddr>,
    /// How often its container was started again.
    pub restarts: u32,
    /// Process id of its container.
    pub pid: Option<u32>,
    /// How its last container ended, for people.
    pub last_exit: Option<String>,
}

impl Status {
    /// True if all pods that ought to exist are ready, and no other exists.
    pub fn is_ready(&self) -> bool {
        self.pods.len() == usize::from(self.replicas) && self.pods.iter().all(|pod| pod.ready)
    }

    /// The pod of an ordinal.
    pub fn pod(&self, ordinal: Ordinal) -> Option<&PodStatus> {
        self.pods.iter().find(|pod| pod.ordinal == ordinal)
    }

    /// Where clients connect.
    pub fn endpoints(&self) -> Endpoints {
        Endpoints {
            service: format!("http://{}", self.service),
            pods: self
                .pods
                .iter()
                .filter_map(|pod| pod.client_address)
                .map(|at| format!("http://{at}"))
                .collect(),
        }
    }
}

/// Where clients connect, as URLs. They stay the same for as long as the playground runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoints {
    /// The client service: any ready pod.
    pub service: String,
    /// Each pod, by ordinal.
    pub pods: Vec<String>,
}

/// How the name server answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum DnsMode {
    /// As it ought to.
    #[default]
    Up,
    /// SERVFAIL to every question.
    Down,
    /// Not at all.
    Silent,
}

/// How the API server answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum ApiMode {
    /// As it ought to.
    #[default]
    Up,
    /// 503 to every question.
    Down,
    /// 403 to every question: the role or its binding is gone.
    Forbidden,
    /// Not at all.
    Silent,
}

/// What can be asked of a playground.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Tell how it is.
    Status,
    /// SIGKILL to the container of a pod. Answered when it has ended.
    Kill {
        /// Whose.
        ordinal: Ordinal,
    },
    /// Delete a pod: SIGTERM, and a new pod with another address. Answered when it is terminating.
    DeletePod {
        /// Whose.
        ordinal: Ordinal,
    },
    /// Delete a pod with force: the next one is created at once. Answered when the object is gone.
    ForceDeletePod {
        /// Whose.
        ordinal: Ordinal,
        /// How long its process is not told to stop, in milliseconds: its node is cut off.
        linger_ms: u64,
    },
    /// Delete all pods at once; they come back. Answered when they are terminating.
    DeleteAllPods,
    /// Replace one pod after the other, from the highest. Answered when it has begun.
    RolloutRestart,
    /// Change `spec.replicas`. Answered when it is changed.
    Scale {
        /// How many pods there ought to be.
        replicas: Ordinal,
    },
    /// How the API server answers.
    ApiServer {
        /// From now on.
        mode: ApiMode,
    },
    /// Delete a volume. As in Kubernetes, it is kept until its pod is gone.
    DeleteVolume {
        /// Whose.
        ordinal: Ordinal,
    },
    /// Copy a volume aside, while its process is stopped. Answered when the copy is complete.
    SaveVolume {
        /// Whose.
        ordinal: Ordinal,
    },
    /// Delete a pod, and put the copy of its volume in place once it is gone. Answered when it is terminating.
    RollbackVolume {
        /// Whose.
        ordinal: Ordinal,
    },
    /// Delete two pods, and exchange their volumes once both are gone. Answered when they are terminating.
    SwapVolumes {
        /// The one.
        one: Ordinal,
        /// The other.
        other: Ordinal,
    },
    /// How the name server answers. [`DnsMode::Up`] also takes back every [`Request::DnsStale`].
    Dns {
        /// From now on.
        mode: DnsMode,
    },
    /// Let the name of a pod give the address of another.
    DnsStale {
        /// Whose name.
        ordinal: Ordinal,
        /// Whose address.
        to: Ordinal,
    },
}

/// The answer to a [`Request`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Response {
    /// How it is, after what was asked.
    Status(Box<Status>),
    /// It was not done.
    Error(CommandError),
}

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum CommandError {
    /// There is no pod of that ordinal now.
    #[error("there is no pod with ordinal {ordinal} (replicas: {replicas})")]
    NoSuchPod {
        /// What was asked for.
        ordinal: Ordinal,
        /// How many there ought to be.
        replicas: Ordinal,
    },
    /// The pod's container does not run, so it cannot be killed.
    #[error("the container of the pod with ordinal {ordinal} does not run: {phase}")]
    NotRunning {
        /// What was asked for.
        ordinal: Ordinal,
        /// What the pod does.
        phase: Phase,
    },
    /// The pod is being deleted already.
    #[error("the pod with ordinal {ordinal} is terminating already")]
    Terminating {
        /// What was asked for.
        ordinal: Ordinal,
    },
    /// More pods than there can be.
    #[error("{replicas} pods are too many; {most} is the most")]
    TooMany {
        /// What was asked for.
        replicas: Ordinal,
        /// What is possible.
        most: Ordinal,
    },
    /// There is no volume of that ordinal.
    #[error("there is no volume for ordinal {ordinal}")]
    NoSuchVolume {
        /// What was asked for.
        ordinal: Ordinal,
    },
    /// No copy of the volume was saved.
    #[error("no copy of the volume for ordinal {ordinal} was saved")]
    NotSaved {
        /// What was asked for.
        ordinal: Ordinal,
    },
    /// Something else is being done with the volume.
    #[error("the volume for ordinal {ordinal} is being copied, or waits for another change")]
    VolumeBusy {
        /// Whose.
        ordinal: Ordinal,
    },
    /// A volume and itself cannot be exchanged.
    #[error("the volume for ordinal {ordinal} cannot be swapped with itself")]
    SameVolume {
        /// What was asked for.
        ordinal: Ordinal,
    },
    /// The file system refused.
    #[error("the volume for ordinal {ordinal}: {reason}")]
    Volume {
        /// What was asked for.
        ordinal: Ordinal,
        /// Why not.
        reason: String,
    },
    /// The playground ends, or has ended.
    #[error("the playground is stopping")]
    Stopping,
    /// The request could not be understood.
    #[error("not a request: {reason}")]
    BadRequest {
        /// What is wrong with it.
        reason: String,
    },
}
