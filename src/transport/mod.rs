//! Connections: listeners, the framing of gRPC, connectors. A leaf: it knows limits, metrics and `env`, and small crates.
//!
//! One port carries gRPC and plain HTTP/1 and HTTP/2. The first bytes tell HTTP/2 from HTTP/1; the content type tells gRPC
//! from the rest, before any router. A port speaks TLS with everybody or with nobody.
//!
//! * `server`: accepts connections, owns their tasks, stops them in order
//! * `afterwards`: what is spoken on a connection after HTTP/1
//! * `addresses`: what one client address may do
//! * `door`: who may connect
//! * `first_bytes`: which protocol a new connection speaks
//! * `grpc`: one unary call: the message in, the message or the failure out
//! * `messages`: the messages of a call that streams them
//! * `body`: the body of an answer
//! * `request`: the body of a call
//! * `answers`: how much a connection may leave unread
//! * `refusals`: connections that are refused before anything is asked on them
//! * `tls`: certificates and handshakes
//! * `channel`: the client side

pub mod addresses;
mod afterwards;
pub mod answers;
pub mod body;
pub mod channel;
pub mod door;
mod first_bytes;
pub mod grpc;
pub mod messages;
mod refusals;
pub mod request;
pub mod server;
pub mod tls;

pub use afterwards::Afterwards;
pub use body::AnswerBody;
pub use channel::{channel, over_tls};
pub use door::Door;
pub use grpc::Failure;
pub use refusals::Refusals;
pub use request::RequestBody;
pub use server::{Port, serve};
