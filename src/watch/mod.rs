//! Watchers: who gets which event, in order, once.
//!
//! Apply publishes what it changed to the [`Hub`], which hands each event to the streams that watch its key, as one shared, encoded
//! [`SharedEvent`]. A [`Session`] is one stream with its watchers. Nothing waits for a stream: what it does not take piles up to a
//! bound and is then dropped, and the stream reads the history ([`Source`]) from where it was.
//!
//! Invariants, per watcher:
//! * revisions rise; no event comes twice, because a watcher remembers the revision that it wants next; none is left out, because a
//!   stream knows up to which revision it has handled everything, and what it lost it reads from the history;
//! * all events of a revision are in one [`Delivery`];
//! * progress is told only of revisions whose events were all handed out before.
//!
//! It knows values of `mvcc`, and how an event is encoded only as a function ([`Encode`]). It may not know consensus, the engine or
//! the wire. `node` binds it to the applied state; `api` and `client` hold sessions.
//!
//! * `hub`: from apply to the streams
//! * `event`: one event, encoded once
//! * `session`: one stream: what it is asked, and what comes next
//! * `catch_up`: a session's reading of the history
//! * `table`: the watchers of a session
//! * `delivery`: what goes out, cut into messages
//! * `source`: what is asked of the applied state

mod catch_up;
mod delivery;
mod event;
mod hub;
mod session;
mod source;
mod table;
#[cfg(test)]
mod tests;

pub use delivery::{Delivery, Message, Outgoing, Receiver};
pub use event::{Encode, SharedEvent};
pub use hub::{Budget, Hub, Settings, WeakHub};
pub use session::{Create, Refused, Session, Update};
pub use source::{ReadFailure, Source};
