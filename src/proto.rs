//! The generated wire types. Their sources, with comments, are in `proto/`.
#![allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    unreachable_pub
)]

/// Package `mvccpb` of etcd's client API.
pub mod mvccpb {
    tonic::include_proto!("mvccpb");
}

/// Package `authpb` of etcd's client API.
pub mod authpb {
    tonic::include_proto!("authpb");
}

/// Package `etcdserverpb` of etcd's client API.
pub mod etcdserverpb {
    tonic::include_proto!("etcdserverpb");
}

/// Package `v3lockpb` of etcd's client API.
pub mod v3lockpb {
    tonic::include_proto!("v3lockpb");
}

/// Package `v3electionpb` of etcd's client API.
pub mod v3electionpb {
    tonic::include_proto!("v3electionpb");
}

/// The descriptors of the client API, etcd's and ours, for reflection and JSON.
pub const CLIENT_DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/client_descriptors.bin"));

/// Our own packages, nested as the generator expects.
pub mod setstone {
    /// Package `setstone.v1`: what clients can ask for that etcd does not have.
    pub mod v1 {
        tonic::include_proto!("setstone.v1");
    }
    /// What a log entry holds.
    pub mod log {
        /// Package `setstone.log.v1`.
        pub mod v1 {
            tonic::include_proto!("setstone.log.v1");
        }
    }
    /// What members say to each other.
    pub mod peer {
        /// Package `setstone.peer.v1`.
        pub mod v1 {
            tonic::include_proto!("setstone.peer.v1");
        }
    }
}

pub use setstone::log::v1 as log;
pub use setstone::peer::v1 as peer;
pub use setstone::v1 as client;
