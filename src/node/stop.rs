//! The stop of a member, in order: not ready, drain, decide, hand over, finish what is in flight, leave if the pod does not come
//! back, consensus, log and state. Each step has a time of its own, and all end within the grace period.
//!
//! Nothing is in flight when the member leaves: what it proposed would never come back to it, and its callers would wait.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Node, lead};
use crate::limits;
use crate::membership::{self, Local as _, Verdict, verdict};
use crate::raft::Consensus;

impl Node {
    /// Stops in order: not ready, drain, hand over leadership, finish what is in flight, log and state. Stopping is not leaving: the
    /// membership changes only if the desired size says that this pod does not come back. Ends within the grace period of the
    /// configuration, or soon after `hurry` is cancelled; a step that is late then still gets [`limits::STOP_STEP`]. What a stuck disk
    /// leaves undone, the next start makes good.
    pub async fn stop(&self, hurry: &CancellationToken) {
        let deadline = Instant::now() + self.config.grace_period;
        self.health.drain();
        tokio::select! {
            () = tokio::time::sleep(self.config.drain_delay) => {}
            () = hurry.cancelled() => {}
        }
        let leaves = tokio::select! {
            verdict = self.hand_over(deadline) => verdict == Some(Verdict::Retire),
            () = hurry.cancelled() => false,
        };
        self.refusing.cancel();
        // Whoever watches from the network is told by the port, with a status.
        self.hub.close();
        self.closing_time(deadline, hurry).await;
        self.end_forwarding(deadline, hurry).await;
        let left = leaves
            && tokio::select! {
                left = self.leave(deadline) => left,
                () = hurry.cancelled() => false,
            };
        self.closing.cancel();
        let ended = match self.gate.consensus() {
            Some(consensus) => step("consensus", deadline, hurry, consensus.shutdown()).await,
            None => true,
        };
        self.tasks.close();
        step("the tasks", deadline, hurry, self.tasks.wait()).await;
        if left && let Err(error) = self.disk.lose("the pod was scaled away, and its member was removed") {
            tracing::warn!(%error, "that this member was removed is not on its disk; its next start finds out");
        }
        // A state that may still change must not be marked as closed cleanly.
        if ended {
            step("the disk", deadline, hurry, self.disk.close()).await;
        }
        tracing::info!("stopped");
    }

    /// Decides whether the pod comes back, and hands leadership over.
    async fn hand_over(&self, deadline: Instant) -> Option<Verdict> {
        let consensus = self.gate.consensus()?;
        let seen = self.source.look(self.disk.recorded()).await;
        let verdict = verdict(&seen, self.ordinal);
        tracing::info!(?seen, decided = %verdict, "stopping");
        self.tell_stop(&verdict.to_string()).await;
        let desired = membership::Size::from(seen).desired;
        let until = deadline.min(Instant::now() + limits::HANDOVER_TIMEOUT);
        if !consensus.hand_over(until, |id| !desired.excludes(id.ordinal())).await {
            tracing::info!("there is nobody to hand leadership over to");
        }
        Some(verdict)
    }

    /// Asks to be removed. True if this disk is no member any more.
    async fn leave(&self, deadline: Instant) -> bool {
        let Some(channels) = &self.channels else { return false };
        match membership::leave(
            self.disk.clone(),
            channels,
            deadline - limits::STOP_CLOSING.min(deadline - Instant::now()),
        )
        .await
        {
            Ok(()) => {
                tracing::info!("this member was removed");
                true
            }
            Err(reason) => {
                tracing::warn!(
                    reason,
                    "this member was not removed in time; the leader does it when it is silent"
                );
                false
            }
        }
    }

    /// Keeps what was decided: on the disk for the next start, and in the cluster's event log, if there is a leader to take it.
    async fn tell_stop(&self, decided: &str) {
        if let Err(error) = self.disk.note_stop(decided) {
            tracing::warn!(%error, "what was decided at this stop is not on the disk");
        }
        self.journal.tell_now(&format!("stopping: {decided}"), &lead::Leader(self.gate.clone())).await;
    }

    /// Waits until the client port has answered what was in flight; while nobody leads, not much longer than an election takes: when
    /// all members stop at once, nothing that waits for a leader is ever answered.
    async fn closing_time(&self, deadline: Instant, hurry: &CancellationToken) {
        let open = self.metrics.client_connections.clone();
        let closed = async {
            let mut looks = tokio::time::interval(Duration::from_millis(10));
            let mut led = Instant::now();
            while open.get() > 0 && led.elapsed() < limits::LEADERLESS_AT_STOP {
                looks.tick().await;
                if self.gate.consensus().is_none_or(Consensus::leader_is_alive) {
                    led = Instant::now();
                }
            }
        };
        let until = deadline.min(Instant::now() + limits::REQUEST_TIMEOUT);
        tokio::select! {
            _ = tokio::time::timeout_at(until, closed) => {}
            () = hurry.cancelled() => {}
        }
    }

    /// What other members' clients have asked for is answered, and they ask another leader from then on. One that cannot be reached is
    /// not waited for.
    async fn end_forwarding(&self, deadline: Instant, hurry: &CancellationToken) {
        let Some(consensus) = self.gate.consensus() else { return };
        let until = deadline.min(Instant::now() + limits::FORWARDING_AT_STOP);
        tokio::select! {
            _ = tokio::time::timeout_at(until, consensus.end_forwarding()) => {}
            () = hurry.cancelled() => {}
        }
    }

    /// [`Node::stop`], without a reason to hurry.
    pub async fn shutdown(&self) {
        self.stop(&CancellationToken::new()).await;
    }
}

/// Waits for one step of a stop: until the deadline, or shortly once somebody hurries. False if it did not end.
async fn step(
    what: &str,
    deadline: Instant,
    hurry: &CancellationToken,
    work: impl Future<Output = ()>,
) -> bool {
    let last = deadline.max(Instant::now() + limits::STOP_STEP);
    let hurried = async {
        hurry.cancelled().await;
        tokio::time::sleep(limits::STOP_STEP).await;
    };
    tokio::select! {
        () = work => return true,
        () = tokio::time::sleep_until(last) => {}
        () = hurried => {}
    }
    tracing::warn!(what, "did not end in time, and is left");
    false
}
