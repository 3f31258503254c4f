//! What the members say of themselves on their admin ports: who they are and what they decided last.
//!
//! Asked for people only; the playground itself goes by `/readyz` alone. Invariant: a member that does not answer, or says
//! what is not understood, leaves its place empty and holds up nobody.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use futures::future::join_all;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::task::AbortOnDropHandle;

use crate::cli::admin;
use crate::client::Endpoint;
use crate::identity::Ordinal;
use crate::playground::naming::ADMIN_PORT;
use crate::playground::{PodStatus, Status};

/// Time for one answer: a member on this machine that takes longer is shown without.
const TIMEOUT: Duration = Duration::from_millis(500);
/// Between two rounds of questions: quick enough for a person, and next to nothing for an idle member.
const PERIOD: Duration = Duration::from_secs(1);

/// What one member says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Said {
    /// Leader, voter, learner; or what its disk is while it is no member.
    pub role: String,
    /// Its node id, with the incarnation.
    pub node: String,
    /// What it decided at start, or why it is not ready.
    pub decision: String,
}

/// By ordinal, of those that answered.
pub(super) type Members = BTreeMap<Ordinal, Said>;

/// Asks all that run, at once.
pub(super) async fn ask(status: &Status) -> Members {
    join_all(status.pods.iter().map(ask_one)).await.into_iter().flatten().collect()
}

/// Asks again and again, until the handle is dropped; not at all if nobody looks.
pub(super) fn follow(
    status: watch::Receiver<Status>,
    looked_at: bool,
) -> (watch::Receiver<Members>, Option<AbortOnDropHandle<()>>) {
    let (said, follows) = watch::channel(Members::new());
    let asking = async move {
        let mut rounds = tokio::time::interval(PERIOD);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            rounds.tick().await;
            let status = status.borrow().clone();
            said.send_replace(ask(&status).await);
        }
    };
    (follows, looked_at.then(|| AbortOnDropHandle::new(tokio::spawn(asking))))
}

async fn ask_one(pod: &PodStatus) -> Option<(Ordinal, Said)> {
    let address = SocketAddr::from((pod.address?, ADMIN_PORT));
    pod.pid?;
    let endpoint: Endpoint = address.to_string().parse().ok()?;
    let (_, text) = admin::get(&endpoint, "/status", TIMEOUT).await.ok()?;
    Some((pod.ordinal, parse(&serde_json::from_str(&text).ok()?)))
}

fn parse(status: &Value) -> Said {
    let text = |pointer: &str| status.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let node = text("/disk/node");
    let members = status.get("members").and_then(Value::as_array);
    let member = members.and_then(|members| members.iter().find(|member| member["id"] == node));
    let role = match member {
        Some(member) if member["leader"] == true => "leader",
        Some(member) if member["learner"] == true => "learner",
        Some(_) => "voter",
        None => text("/disk/is"),
    };
    Said { role: role.to_owned(), node: node.to_owned(), decision: text("/start/decided").to_owned() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_role_is_that_of_the_own_node_and_else_what_the_disk_is() {
        let members = json!([
            { "id": "0#1", "learner": false, "leader": true },
            { "id": "1#1", "learner": false, "leader": false },
            { "id": "2#9", "learner": true, "leader": false },
        ]);
        let said = |node: &str| {
            parse(&json!({
                "disk": { "is": "a member", "node": node }, "start": { "decided": "resumed" }, "members": members,
            }))
        };
        for (node, role) in [("0#1", "leader"), ("1#1", "voter"), ("2#9", "learner"), ("2#1", "a member")] {
            let expected =
                Said { role: role.to_owned(), node: node.to_owned(), decision: "resumed".to_owned() };
            assert_eq!(said(node), expected);
        }
        assert_eq!(parse(&json!("nonsense")), Said::default());
    }
}
