//! What was refused, and why.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;

use super::Metrics;

/// A port and why a connection on it was closed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ClosedLabels {
    port: &'static str,
    reason: &'static str,
}

impl Metrics {
    /// The counter of connections that `port` (`client`, `peer` or `admin`) closes for one reason.
    pub fn refused_connection(&self, port: &'static str, reason: &'static str) -> Counter {
        self.refused_connections.get_or_create_owned(&ClosedLabels { port, reason })
    }
}
