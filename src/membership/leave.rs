//! A member whose pod does not come back asks the leader until it is no member any more, or until its time is over.

use std::sync::Arc;

use tokio::time::{Instant, sleep, timeout_at};

use super::at_leader::at_leader;
use super::local::Local;
use crate::discovery::PeerChannels;
use crate::limits;
use crate::proto::peer::{RetireRequest, retire_response};

/// Asks until `deadline`.
///
/// # Errors
/// Why this disk is a member still, as far as is known. The leader removes it later, when it does not answer any more.
pub async fn leave(local: Arc<dyn Local>, channels: &PeerChannels, deadline: Instant) -> Result<(), String> {
    let mut reason = "nobody was asked".to_owned();
    loop {
        match timeout_at(deadline, ask(local.as_ref(), channels)).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(said)) => reason = said,
            Err(_) => return Err(reason),
        }
        if timeout_at(deadline, sleep(limits::RETIRE_RETRY)).await.is_err() {
            return Err(reason);
        }
    }
}

async fn ask(local: &dyn Local, channels: &PeerChannels) -> Result<(), String> {
    let ((asked, mut client), disk) = (at_leader(local, channels)?, local.disk());
    let request = RetireRequest { asked: asked.clone(), cluster_id: disk.cluster.0, node_id: disk.node_id.0 };
    let answer = client.retire(request).await.map_err(|status| format!("{asked}: {}", status.message()))?;
    match answer.into_inner().outcome {
        Some(retire_response::Outcome::Retired(_)) => Ok(()),
        Some(retire_response::Outcome::Pending(reason)) => Err(format!("{asked}: {reason}")),
        None => Err(format!("the answer of {asked} says nothing")),
    }
}
