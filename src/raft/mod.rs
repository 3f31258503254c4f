//! Consensus. The only place that names openraft.
//!
//! Knows the state machine, the storage and the channels to peers; not the API, membership or watchers. Events go to a sink
//! that `node` binds.
//!
//! * `handle`: the running member; what `api` and `client` use through [`store::Store`]
//! * `requests`: what the handle does with requests
//! * `gate`: the store of a node whose consensus may not run yet
//! * `types`, `codec`, `wire`: openraft's types, the bytes of the log, the messages between members
//! * `open`: a member's log and state, made to fit together
//! * `log_store`, `state_machine`, `machine`, `snapshot`: adapters to `storage` and `mvcc`
//! * `change`: changes of the membership, on the leader
//! * `proposer`, `forward`, `read`: group commit, requests of followers, read index
//! * `network`, `service`: messages out, messages in; `turns`: one append at a time; `commits`: when followers hear that an entry
//!   is committed
//! * `access`, `auth_codec`: whose the tokens are; commands about users
//! * `lease`: questions about leases, and what the leader's keeper of them needs
//! * `room`: whether there is room for a write; `backup`: snapshots for clients
//! * `boots`, `heard`: which messages to refuse, and who was heard from
//! * `duties`, `marks`: what a member does from time to time

pub mod access;
mod auth_codec;
pub mod backup;
pub mod boots;
mod change;
pub mod codec;
mod commits;
mod duties;
mod forward;
pub mod gate;
pub mod handle;
mod heard;
pub mod lease;
mod log_store;
pub mod machine;
mod marks;
pub mod network;
mod open;
mod proposer;
mod read;
mod recovery;
mod requests;
mod room;
#[cfg(feature = "simulation")]
mod seeded;
pub mod service;
pub mod snapshot;
mod state_machine;
pub mod store;
#[cfg(test)]
mod tests;
mod turns;
mod types;
pub(crate) mod wire;

pub use change::MembersSeen;
pub use gate::Gate;
pub use handle::{Consensus, Parts};
pub use network::{Dial, Lane};
pub use open::{OpenError, Opened, Recovered, open, peer_node};
pub use recovery::recovery_entries;
pub use service::Service;
pub use types::PeerNode;
pub use wire::Sender;
