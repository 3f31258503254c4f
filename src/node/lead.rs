//! What `membership` needs of consensus where it leads.

use futures::future::BoxFuture;
use tokio::time::Instant;

use crate::error::Error;
use crate::identity::{NodeId, OrdinalRange};
use crate::limits;
use crate::membership::{AdmitRefusal, Applicant, Change, Lead, Leading};
use crate::mvcc::cluster::{Adding, ClusterCommand, ClusterEvent};
use crate::mvcc::command::{Command, Outcome, Request};
use crate::raft::store::Store as _;
use crate::raft::{Consensus, Gate, MembersSeen, peer_node};

/// Consensus, once it runs.
pub(super) struct Leader(pub(super) Gate);

impl Leader {
    fn seen(&self) -> Option<(&Consensus, MembersSeen)> {
        let consensus = self.0.consensus()?;
        Some((consensus, consensus.members_seen()?))
    }

    fn commit(&self, command: ClusterCommand) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            let Some(consensus) = self.0.consensus() else { return Err("consensus does not run".into()) };
            let committed = consensus.propose(Request::anonymous(Command::Cluster(command))).await;
            committed.map(drop).map_err(|error| error.to_string())
        })
    }

    async fn admit_now(&self, applicant: Applicant) -> Result<NodeId, AdmitRefusal> {
        let Some(consensus) = self.0.consensus() else { return Err(AdmitRefusal::NotLeader) };
        let not_committed = |reason: String| AdmitRefusal::NotCommitted(reason);
        let Applicant { nonce, ordinal, member, .. } = applicant;
        let command = Command::Cluster(ClusterCommand::Admit { ordinal, nonce });
        let (reply, _) = consensus
            .propose(Request::anonymous(command))
            .await
            .map_err(|error| not_committed(error.to_string()))?;
        let Outcome::Admitted(Some(id)) = reply.outcome else {
            return Err(not_committed("another disk of this ordinal was admitted".into()));
        };
        // Seen after the admission: a newer disk of the ordinal would have been admitted by now.
        let (consensus, seen) = self.seen().ok_or(AdmitRefusal::NotLeader)?;
        consensus
            .add_learner(id, peer_node(member), &seen)
            .await
            .map_err(|error| not_committed(error.to_string()))?;
        Ok(id)
    }
}

impl Lead for Leader {
    fn leading(&self) -> Option<Leading> {
        let (consensus, seen) = self.seen()?;
        let MembersSeen { configs, members, committed, answering, caught_up, .. } = seen;
        let (admissions, by_hand) = (consensus.admissions(), consensus.by_hand());
        let described = consensus.membership().unwrap_or_default().members;
        let id = consensus.mine().node;
        Some(Leading {
            id,
            configs,
            members,
            committed,
            answering,
            caught_up,
            admissions,
            by_hand,
            described: described.into_iter().map(|member| (member.node_id, member)).collect(),
            ..Leading::default()
        })
    }

    fn admit(&self, applicant: Applicant) -> BoxFuture<'_, Result<NodeId, AdmitRefusal>> {
        Box::pin(self.admit_now(applicant))
    }

    fn record(&self, range: OrdinalRange) -> BoxFuture<'_, Result<(), String>> {
        self.commit(ClusterCommand::Resize(range))
    }

    fn note(&self, event: ClusterEvent) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            // What is told at the start waits until it can be.
            self.0.opened().await;
            self.commit(ClusterCommand::Note(event)).await
        })
    }

    fn add(&self, adding: Adding) -> BoxFuture<'_, Result<Option<NodeId>, String>> {
        Box::pin(async move {
            let Some(consensus) = self.0.consensus() else { return Err("consensus does not run".into()) };
            let command = Command::Cluster(ClusterCommand::Add(adding));
            let (reply, _) =
                consensus.propose(Request::anonymous(command)).await.map_err(|error| error.to_string())?;
            match reply.outcome {
                Outcome::Admitted(id) => Ok(id),
                other => Err(format!("the answer is {other:?}")),
            }
        })
    }

    fn change(&self, change: Change) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            let Some((consensus, seen)) = self.seen() else { return Err("this member does not lead".into()) };
            let changed = match change {
                Change::Voters(voters) => consensus.set_voters(voters, &seen).await,
                Change::Demote(voters) => consensus.demote_others(voters, &seen).await,
                Change::Remove(ids) => consensus.remove_learners(ids, &seen).await,
                Change::HandOver(to) => {
                    let deadline = Instant::now() + limits::HANDOVER_TIMEOUT;
                    let moved = consensus.hand_over(deadline, |id| to.contains(&id)).await;
                    moved.then_some(()).ok_or(Error::Invalid("nobody took over leadership in time".into()))
                }
                Change::Dismiss(ordinal) => return self.commit(ClusterCommand::Dismiss(ordinal)).await,
                Change::Expect(ordinal, peer_urls) => {
                    return self.commit(ClusterCommand::Expect { ordinal, peer_urls }).await;
                }
                Change::Describe(member) => {
                    consensus.describe(member.node_id, peer_node(member), &seen).await
                }
            };
            changed.map_err(|error| error.to_string())
        })
    }
}
