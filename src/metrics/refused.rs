//! What was refused, and why.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use super::{Metrics, Registrar};

/// A port and why a connection on it was closed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ClosedLabels {
    port: &'static str,
    reason: &'static str,
}

/// Counts the connections of one port that were closed before anything was asked. Resolved once per port.
#[derive(Clone, Debug, Default)]
pub struct RefusedConnections {
    /// `full`: the port has as many as it may have.
    pub full: Counter,
    /// `address`: the client's address has as many as it may have.
    pub address: Counter,
    /// `rate`: the client's address asks too often.
    pub rate: Counter,
    /// `silent`: the first bytes did not come in time.
    pub silent: Counter,
}

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusedLabels {
    reason: &'static str,
}

/// Why a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusedRequest {
    /// `unread`: its connection has too many unread answers.
    Unread,
    /// `rate`: its client's address asks too often.
    Rate,
    /// `busy`: too much waits already.
    Busy,
    /// `too_large`: it is larger than requests may be.
    TooLarge,
    /// `unauthenticated`: nobody showed who they are, or a token or password is none.
    Unauthenticated,
    /// `permission`: it is not for whoever asks.
    Permission,
}

/// By [`RefusedRequest`].
const REFUSED_REQUESTS: [&str; 6] = ["unread", "rate", "busy", "too_large", "unauthenticated", "permission"];

/// The counters by [`RefusedRequest`], all of which are there from the start.
pub(super) fn requests(r: &mut Registrar) -> Arc<[Counter]> {
    let family: Family<RefusedLabels, Counter> =
        r.add("setstone_refused_requests", "Requests that were refused", Family::default());
    REFUSED_REQUESTS.iter().map(|reason| family.get_or_create_owned(&RefusedLabels { reason })).collect()
}

impl Metrics {
    /// The counters of connections that `port` closes: `client`, `peer` or `admin`.
    pub fn refused_connections(&self, port: &'static str) -> RefusedConnections {
        let counter = |reason| self.refused_connection(port, reason);
        RefusedConnections {
            full: counter("full"),
            address: counter("address"),
            rate: counter("rate"),
            silent: counter("silent"),
        }
    }

    /// The counter of connections that `port` (`client`, `peer` or `admin`) closes for one reason.
    pub fn refused_connection(&self, port: &'static str, reason: &'static str) -> Counter {
        self.refused_connections.get_or_create_owned(&ClosedLabels { port, reason })
    }

    /// A request was refused.
    pub fn refused(&self, reason: RefusedRequest) {
        if let Some(counter) = self.refused_requests.get(reason as usize) {
            counter.inc();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

    use super::*;

    #[test]
    fn refusals_are_counted_by_their_reason() {
        let metrics = Metrics::new();
        metrics.refused_connections("client").address.inc();
        metrics.refused_connections("peer").silent.inc();
        for reason in [RefusedRequest::Permission, RefusedRequest::Unread, RefusedRequest::Permission] {
            metrics.refused(reason);
        }
        let text = metrics.encode();
        for line in [
            "setstone_refused_connections_total{port=\"client\",reason=\"address\"} 1\n",
            "setstone_refused_connections_total{port=\"client\",reason=\"full\"} 0\n",
            "setstone_refused_connections_total{port=\"peer\",reason=\"silent\"} 1\n",
            "setstone_refused_requests_total{reason=\"permission\"} 2\n",
            "setstone_refused_requests_total{reason=\"unread\"} 1\n",
            "setstone_refused_requests_total{reason=\"busy\"} 0\n",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
