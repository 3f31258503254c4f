//! The applied state as the watchers' hub wants it, and the hub as apply wants it.

use std::sync::Arc;

use crate::api::WATCH_ENCODE;
use crate::config::Tuning;
use crate::env::Random;
use crate::env::simulated::{self, Bug};
use crate::error::Error;
use crate::metrics::Metrics;
use crate::mvcc::command::Refusal;
use crate::mvcc::{EventsRead, KeyValue, State};
use crate::raft::machine::{Machine, Published};
use crate::watch::{Hub, ReadFailure, Settings, Source};

/// A hub that serves nobody until it is bound.
pub(super) fn hub(tuning: &Tuning, random: Arc<dyn Random>, metrics: Metrics) -> Hub {
    let settings =
        Settings { progress_interval: tuning.watch_progress_interval, queue_bytes: tuning.watch_queue_bytes };
    Hub::new(WATCH_ENCODE, settings, random, metrics)
}

/// Lets the hub hear of what is applied, and its sessions read it. Before consensus runs.
pub(super) fn bind(hub: &Hub, machine: &Arc<Machine>) {
    hub.bind(Arc::new(Watched(machine.clone())));
    let hub = hub.downgrade();
    machine.bind_events(Arc::new(move |published| {
        let Some(hub) = hub.get() else { return };
        match published {
            Published::Events(events, revision) => hub.publish(events, revision),
            Published::Jumped(revision) => hub.jump(revision),
        }
    }));
    if simulated::planted(Bug::KeepState) {
        std::mem::forget(machine.clone());
    }
}

struct Watched(Arc<Machine>);

fn failure(error: Error) -> ReadFailure {
    match error {
        Error::Refused(Refusal::Compacted) => ReadFailure::Compacted,
        Error::NotServing(_) => ReadFailure::Busy,
        lost => ReadFailure::Lost(lost.to_string()),
    }
}

impl Source for Watched {
    fn revision(&self) -> i64 {
        self.0.with_state(State::revision)
    }

    fn compacted(&self) -> i64 {
        self.0.with_state(State::compacted)
    }

    fn events(
        &self,
        from: i64,
        to: i64,
        wanted: &mut dyn FnMut(&[u8]) -> bool,
    ) -> Result<EventsRead, ReadFailure> {
        self.0.events(from, to, wanted).map_err(failure)
    }

    fn previous(&self, key: &[u8], revision: i64) -> Result<Option<KeyValue>, ReadFailure> {
        self.0.previous(key, revision).map_err(failure)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Duration;

    use tokio::time::Instant;

    use crate::client::Kv;
    use crate::config::Config;
    use crate::node::Node;

    #[tokio::test]
    async fn a_member_that_is_gone_leaves_no_state_in_memory() {
        let deadline = Instant::now() + Duration::from_secs(30);
        let node = Node::start(Config::in_memory("gone")).await.unwrap();
        node.ready(deadline).await.unwrap();
        let store = node.client();
        store.put("k", "v").await.unwrap();
        let watching = store.watch("k");
        let state = node.state();
        assert!(state.strong_count() > 0);
        drop((store, watching));
        node.shutdown().await;
        drop(node);
        // The last connections may be taken down a moment later.
        while state.strong_count() > 0 {
            assert!(Instant::now() < deadline, "{} hold it", state.strong_count());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
