//! DNS, with three values instead of two (DESIGN, rule 2).

use std::fmt::Debug;
use std::net::IpAddr;

use futures::future::BoxFuture;

/// What a name server said of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// The name has these addresses; never empty.
    At(Vec<IpAddr>),
    /// NXDOMAIN, or no error and neither an A nor an AAAA record.
    Absent,
    /// All else: refused, failed, timed out. The reason is for people.
    Unknown(String),
}

/// Asks for names.
pub trait Names: Debug + Send + Sync {
    /// Looks up a fully qualified name, given without its trailing dot. Nothing is cached. Has its own deadline.
    fn lookup<'a>(&'a self, fqdn: &'a str) -> BoxFuture<'a, Lookup>;
}
