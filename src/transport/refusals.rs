//! Connections that are refused before anything is asked on them: counted by reason, and told of now and then.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::tls::Refusal;
use crate::limits;
use crate::metrics::Metrics;

/// The refusals of one port. Cheap to clone.
#[derive(Clone)]
pub struct Refusals {
    port: &'static str,
    metrics: Metrics,
    /// When each reason was last told: whoever comes again and again must not fill the log.
    told: Arc<Mutex<BTreeMap<Refusal, Instant>>>,
}

impl fmt::Debug for Refusals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Refusals").field("port", &self.port).finish_non_exhaustive()
    }
}

impl Refusals {
    /// Of the port with this name.
    pub fn new(port: &'static str, metrics: &Metrics) -> Self {
        Self { port, metrics: metrics.clone(), told: Arc::default() }
    }

    /// Counts one from `from`. `detail` is for people.
    pub fn refuse(&self, why: Refusal, from: SocketAddr, detail: &dyn fmt::Display) {
        let reason = why.label();
        self.metrics.refused_connection(self.port, reason).inc();
        let now = Instant::now();
        let mut told = self.told.lock();
        let is_new = told.get(&why).is_none_or(|last| now - *last >= limits::REFUSAL_LOG_INTERVAL);
        if is_new {
            told.insert(why, now);
            tracing::warn!(port = self.port, %from, reason, %detail, "a connection is refused");
        } else {
            tracing::debug!(port = self.port, %from, reason, %detail, "a connection is refused");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_is_counted() {
        let metrics = Metrics::new();
        let (from, refusals) = (SocketAddr::from(([10, 0, 0, 1], 7)), Refusals::new("client", &metrics));
        for why in [Refusal::Expired, Refusal::Expired, Refusal::PlainText] {
            refusals.clone().refuse(why, from, &"x");
        }
        let text = metrics.encode();
        for (reason, count) in [("expired", 2), ("plain_text", 1)] {
            let line = format!(
                "setstone_refused_connections_total{{port=\"client\",reason=\"{reason}\"}} {count}\n"
            );
            assert!(text.contains(&line), "{text}");
        }
    }
}
