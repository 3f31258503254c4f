//! Who are the others: their names, where those names are now, and channels to them. Knows nothing of consensus.
//!
//! * `peer`: the pods that can exist, by name; a fixed list for machines without DNS
//! * `timing`: when a name is asked and which address is dialled. Pure: the DNS rules of DESIGN section 5
//! * `book`: the addresses, found by asking, lent by hellos, told by others
//! * `channels`: gRPC channels to peers that look the address up again at each connect
//! * `guarded`: one connection, which can be cut from outside

mod book;
mod channels;
mod guarded;
mod peer;
mod timing;

pub use book::{AddressBook, Presence, ServiceAnswer};
pub use channels::{Path, PeerChannels};
pub use peer::{Directory, Peer, PeerError, Speaker};
