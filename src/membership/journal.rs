//! What this pod decided, told to the cluster's event log. Telling never waits: what the cluster cannot take yet is held back, up to
//! a bound, and what is beyond it only stands in the pod's own log.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::local::Lead;
use crate::env::{Clock, Random};
use crate::limits;
use crate::mvcc::cluster::ClusterEvent;

/// Takes events of this pod. Cheap to clone.
#[derive(Clone)]
pub struct Journal {
    name: Arc<str>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    waiting: mpsc::Sender<ClusterEvent>,
}

/// Hands the events on. One per process.
pub struct JournalKeeper {
    lead: Arc<dyn Lead>,
    told: mpsc::Receiver<ClusterEvent>,
}

impl Journal {
    /// The journal of the pod of this name.
    pub fn new(
        name: &str,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
        lead: Arc<dyn Lead>,
    ) -> (Self, JournalKeeper) {
        let (waiting, told) = mpsc::channel(limits::EVENTS_WAITING);
        (Self { name: name.into(), clock, random, waiting }, JournalKeeper { lead, told })
    }

    /// Tells what was decided or found.
    pub fn tell(&self, text: &str) {
        // A full queue is a cluster that takes nothing: the event is in the pod's log all the same.
        let _ = self.waiting.try_send(self.event(text));
    }

    /// Tells it now, for whoever stops: waits until the cluster has it, no longer than [`limits::EVENT_AT_STOP`].
    pub async fn tell_now(&self, text: &str, lead: &dyn Lead) {
        let _ = timeout(limits::EVENT_AT_STOP, lead.note(self.event(text))).await;
    }

    fn event(&self, text: &str) -> ClusterEvent {
        ClusterEvent::new(self.random.next_u64(), self.clock.unix_millis(), &self.name, text)
    }
}

impl JournalKeeper {
    /// Hands on until `cancel`, in order; what is not taken is told again. An event has an id, so that no retry doubles it.
    pub async fn run(mut self, cancel: CancellationToken) {
        let hand_on = async {
            while let Some(event) = self.told.recv().await {
                while self.lead.note(event.clone()).await.is_err() {
                    sleep(limits::EVENT_RETRY).await;
                }
            }
        };
        tokio::select! {
            () = hand_on => {}
            () = cancel.cancelled() => {}
        }
    }
}
