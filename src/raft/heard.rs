//! Who was heard from, and when: of a follower its leader, of a leader each peer.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::identity::NodeId;
use crate::limits;

/// When this member last took a message of its leader. openraft's `current_leader` is whom it voted for or follows, dead or
/// alive: with pre-vote it does not go away at a time-out.
#[derive(Debug, Default)]
pub(crate) struct LeaderHeard(Mutex<Option<Instant>>);

impl LeaderHeard {
    /// The leader was heard from now.
    pub(crate) fn note(&self) {
        *self.0.lock() = Some(Instant::now());
    }

    /// Whether it was within the last `span`.
    pub(crate) fn within(&self, span: Duration) -> bool {
        self.0.lock().is_some_and(|heard| heard.elapsed() < span)
    }
}

/// Whether a peer answers its leader's heartbeats: one line in the log when that changes, not one for every heartbeat.
#[derive(Debug)]
pub(crate) struct Silence {
    peer: NodeId,
    since: Option<Instant>,
    told: bool,
}

impl Silence {
    pub(crate) fn new(peer: NodeId) -> Self {
        Self { peer, since: None, told: false }
    }

    /// The peer answered.
    pub(crate) fn ended(&mut self) {
        if self.told {
            tracing::info!(peer = %self.peer, "the member answers again");
        }
        self.since = None;
        self.told = false;
    }

    /// The peer did not answer. Single heartbeats get lost on a busy machine; as long as an election takes, none do.
    pub(crate) fn goes_on(&mut self, error: &dyn std::fmt::Display) {
        let since = *self.since.get_or_insert_with(Instant::now);
        if !self.told && since.elapsed() >= limits::ELECTION_MAX {
            self.told = true;
            tracing::warn!(peer = %self.peer, %error, "the member does not answer");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_leader_is_heard_for_a_time() {
        let heard = LeaderHeard::default();
        assert!(!heard.within(Duration::from_secs(1)), "nobody was heard yet");
        heard.note();
        tokio::time::advance(Duration::from_millis(999)).await;
        assert!(heard.within(Duration::from_secs(1)));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(!heard.within(Duration::from_secs(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_told_once_and_only_when_it_lasts() {
        let mut silence = Silence::new(NodeId(7));
        for _ in 0..20 {
            // One heartbeat is lost, again and again.
            silence.goes_on(&"lost");
            tokio::time::advance(limits::HEARTBEAT).await;
            assert!(!silence.told);
            silence.ended();
        }
        silence.goes_on(&"gone");
        tokio::time::advance(limits::ELECTION_MAX).await;
        silence.goes_on(&"gone");
        assert!(silence.told);
        silence.ended();
        assert!(!silence.told);
        silence.goes_on(&"gone");
        assert!(!silence.told, "an old silence counted");
    }
}
