//! The answers to the probes: live and ready (DESIGN section 5). Pure. Each clause is shown to people, so a pod explains itself.

use std::time::Duration;

use super::wait::Needed;
use crate::identity::NodeId;
use crate::limits;

/// What the probes look at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // Observations, each by itself.
pub struct Look {
    /// The storage thread moves or is idle.
    pub storage_moves: bool,
    /// Why the storage is not healthy, if it is not.
    pub storage_failure: Option<String>,
    /// Log and state are being opened, or the state is being rebuilt.
    pub loading: bool,
    /// The pod was told to stop.
    pub draining: bool,
    /// A leader is known: heard from, or acknowledged by a quorum, within one election time-out. On a pod without consensus: another
    /// pod knows one.
    pub leader_known: bool,
    /// Time without a leader, if none is known.
    pub leaderless_for: Duration,
    /// This disk is in the committed membership.
    pub is_member: bool,
    /// A member that is an older disk of the same ordinal.
    pub older_member: Option<NodeId>,
    /// Index of the last entry applied.
    pub applied_index: u64,
    /// Read index taken when this process joined or resumed; `None` while there is none.
    pub read_index: Option<u64>,
    /// The leader says that this ordinal is outside the desired range, and this disk is in no membership.
    pub retired: bool,
    /// Pods that are needed and not there.
    pub needed: Needed,
}

/// One reason for or against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clause {
    /// Short name, stable for programs.
    pub name: &'static str,
    /// Whether it holds.
    pub holds: bool,
    /// For people.
    pub detail: String,
}

/// The answers to the probes, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readiness {
    /// Kubernetes need not restart the process. Never looks at peers.
    pub live: bool,
    /// Kubernetes may go on with the next pod.
    pub ready: bool,
    /// Requests can be served. A pod can be ready without serving, so that the next pod is created; gRPC health says this one.
    pub serving: bool,
    /// What decided, in the order in which it was looked at.
    pub clauses: Vec<Clause>,
}

/// Whether the pod is live, ready and serving.
pub fn readiness(look: &Look) -> Readiness {
    let mut clauses = Vec::new();
    let mut clause = |name, holds: bool, detail: String| {
        clauses.push(Clause { name, holds, detail });
        holds
    };
    let live = clause(
        "live",
        look.storage_moves,
        if look.storage_moves {
            "the storage thread moves or is idle"
        } else {
            "the storage thread is stuck"
        }
        .into(),
    );
    let staying = clause(
        "not draining",
        !look.draining,
        if look.draining { "the pod was told to stop" } else { "the pod was not told to stop" }.into(),
    );
    if look.loading {
        clause("disk open", false, "the log is being read, and the state opened or rebuilt".into());
        return Readiness { live, ready: false, serving: false, clauses };
    }
    let led = clause(
        "leader known",
        look.leader_known,
        if look.leader_known {
            "a leader is known".into()
        } else {
            format!("no leader is known for {} s", look.leaderless_for.as_secs())
        },
    );
    if !led {
        let ready = staying & clause("next pod needed", may_need_next(look), next_detail(look));
        return Readiness { live, ready, serving: false, clauses };
    }
    if look.retired && !look.is_member {
        clause("retired", true, "the leader says that this ordinal is outside the desired range".into());
        return Readiness { live, ready: staying, serving: false, clauses };
    }
    let serving = staying
        & clause(
            "storage healthy",
            look.storage_failure.is_none(),
            look.storage_failure.clone().unwrap_or_else(|| "the storage is healthy".into()),
        )
        & clause(
            "member",
            look.is_member,
            if look.is_member { "in the committed membership" } else { "not in the committed membership" }
                .into(),
        )
        & clause(
            "no older disk",
            look.older_member.is_none(),
            match look.older_member {
                Some(id) => format!("{id}, an older disk of this ordinal, is still a member"),
                None => "no older disk of this ordinal is a member".into(),
            },
        )
        & clause(
            "caught up",
            look.read_index.is_some_and(|index| look.applied_index >= index),
            match look.read_index {
                Some(index) => {
                    format!("applied {}, needs {index}, the read index at the start", look.applied_index)
                }
                None => "no read index was taken yet".into(),
            },
        );
    Readiness { live, ready: serving, serving, clauses }
}

/// Without a leader a pod is ready only so that `OrderedReady` creates the pod that is missing.
fn may_need_next(look: &Look) -> bool {
    !look.needed.absent.is_empty()
        && (look.needed.cannot_do_without || look.leaderless_for >= limits::LEADERLESS_PATIENCE)
}

fn next_detail(look: &Look) -> String {
    let absent = look.needed.absent.join(", ");
    match (absent.is_empty(), may_need_next(look)) {
        (true, _) => "no pod that is needed is absent in DNS".into(),
        (false, true) => format!("{absent} must be created before there can be a leader"),
        (false, false) => format!("{absent} is absent, but the pods that are there may do without"),
    }
}

#[cfg(test)]
#[path = "ready_tests.rs"]
mod tests;
