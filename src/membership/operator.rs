//! Changes of the membership that a client asks for (etcd's `MemberRemove`, `MemberPromote`, `MoveLeader`). Whether one is granted is decided
//! on the leader, by a pure function, and carried out as the changes that the leader plans itself: one joint change, by a majority of
//! the new voters that answers and has caught up. Every member takes the wish and hands it to the leader.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::future::BoxFuture;
use tokio::time::{Instant, sleep, timeout_at};

use super::at_leader::at_leader;
use super::explain::{self, Ages};
use super::journal::Journal;
use super::local::{Lead, Local};
use super::plan::{Change, Leading};
use super::scale;
use crate::discovery::PeerChannels;
use crate::identity::NodeId;
use crate::limits;
use crate::proto::peer::{ChangeRequest, change_request, change_response};

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// This disk is to be no member any more. Inside the desired range that means: it is replaced, because its pod joins as new.
    Remove(NodeId),
    /// This member is to vote.
    Promote(NodeId),
}

/// Why it is not done, as etcd tells it apart.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WishRefusal {
    /// There is no such member.
    #[error("there is no such member")]
    NotMember,
    /// It votes already.
    #[error("it votes already")]
    NotLearner,
    /// It does not answer, or lacks too much.
    #[error("it has not caught up")]
    NotCaughtUp,
    /// What would be left could not commit anything.
    #[error("too few of the members that would be left answer and have caught up")]
    TooFew,
    /// The rules of the desired size are against it; which.
    #[error("{0}")]
    Against(String),
    /// It was not committed in time; it may be, nevertheless. Why.
    #[error("not committed: {0}")]
    NotCommitted(String),
}

/// Takes wishes; every member has one.
pub trait Operate: Send + Sync {
    /// Returns when the wish is fulfilled, within [`limits::REQUEST_TIMEOUT`].
    fn fulfil(&self, wish: Wish) -> BoxFuture<'_, Result<(), WishRefusal>>;
    /// Hands leadership to this voter; `false` if it has not taken over in time. Only on the leader: `None` on any other member.
    fn move_leader(&self, to: NodeId) -> BoxFuture<'_, Option<Result<bool, WishRefusal>>>;
}

/// What a leader does about a wish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Granted {
    /// It is fulfilled.
    Done,
    /// This comes next, then it is looked at again.
    Next(Change),
}

/// Whether and how a wish is fulfilled.
pub(super) fn grant(view: &Leading, wish: Wish) -> Result<Granted, WishRefusal> {
    let (Wish::Remove(id) | Wish::Promote(id)) = wish;
    let voters = match view.configs.as_slice() {
        [voters] if view.committed => voters,
        _ => return Err(WishRefusal::NotCommitted("another change is under way".into())),
    };
    if !view.members.contains(&id) {
        return Err(WishRefusal::NotMember);
    }
    match wish {
        Wish::Remove(_) if !voters.contains(&id) => Ok(Granted::Next(Change::Remove([id].into()))),
        Wish::Remove(_) => remove_voter(view, voters, id),
        Wish::Promote(_) if voters.contains(&id) => Err(WishRefusal::NotLearner),
        Wish::Promote(_) => promote(view, voters, id),
    }
}

/// A spare takes its place, if there is one.
fn remove_voter(view: &Leading, voters: &BTreeSet<NodeId>, id: NodeId) -> Result<Granted, WishRefusal> {
    let mut left = voters.clone();
    left.remove(&id);
    left.extend(scale::spares(view, voters).into_iter().next());
    if left.is_empty() || !view.has_fit_majority(&left) {
        return Err(WishRefusal::TooFew);
    }
    if id == view.id {
        let fit: BTreeSet<NodeId> =
            voters.iter().copied().filter(|to| *to != id && view.is_fit(*to)).collect();
        return if fit.is_empty() {
            Err(WishRefusal::TooFew)
        } else {
            Ok(Granted::Next(Change::HandOver(fit)))
        };
    }
    Ok(Granted::Next(Change::Voters(left)))
}

fn promote(view: &Leading, voters: &BTreeSet<NodeId>, id: NodeId) -> Result<Granted, WishRefusal> {
    if view.desired.excludes(id.ordinal()) {
        return Err(WishRefusal::Against(format!("ordinal {} is outside the desired range", id.ordinal())));
    }
    if voters.len() >= view.max_voters {
        return Err(WishRefusal::Against(format!("{} members vote, and no more may", voters.len())));
    }
    if voters.iter().any(|voter| voter.ordinal() == id.ordinal()) {
        return Err(WishRefusal::Against(format!("ordinal {} votes with an older disk", id.ordinal())));
    }
    if !view.is_fit(id) {
        return Err(WishRefusal::NotCaughtUp);
    }
    let mut more = voters.clone();
    more.insert(id);
    if !view.has_fit_majority(&more) {
        return Err(WishRefusal::TooFew);
    }
    Ok(Granted::Next(Change::Demote(more)))
}

/// One step on the leader.
pub(super) async fn step(
    lead: &dyn Lead,
    journal: &Journal,
    view: Leading,
    wish: Wish,
) -> Result<Granted, WishRefusal> {
    let granted = grant(&view, wish)?;
    if let Granted::Next(change) = &granted {
        lead.change(change.clone()).await.map_err(WishRefusal::NotCommitted)?;
        let text = explain::change(&view, change, &Ages::new());
        tracing::info!(?wish, "{text}");
        journal.tell(&text);
    }
    Ok(granted)
}

/// Hands wishes to the leader.
pub struct Operator {
    /// This member's disk and what its consensus knows.
    pub local: Arc<dyn Local>,
    /// Consensus, where this member leads.
    pub lead: Arc<dyn Lead>,
    /// What the leader's plan goes by.
    pub outlook: super::reconcile::Outlook,
    /// What was done is told here.
    pub journal: Journal,
    /// Channels to the others; `None` for a node that is alone.
    pub channels: Option<PeerChannels>,
}

impl Operator {
    async fn fulfil_until(&self, wish: Wish, deadline: Instant) -> Result<(), WishRefusal> {
        let mut reason = "no leader is known".to_owned();
        let (Wish::Remove(id) | Wish::Promote(id)) = wish;
        let was_member = self.local.disk().membership.contains(id);
        loop {
            match timeout_at(deadline, self.once(wish)).await {
                Ok(Ok(Granted::Done)) => return Ok(()),
                Ok(Ok(Granted::Next(_))) => {
                    // A promotion is done when it is committed; a removal is looked at again, at whoever leads then.
                    if matches!(wish, Wish::Promote(_)) {
                        return Ok(());
                    }
                    reason = "the first step was done".into();
                }
                Ok(Err(WishRefusal::NotCommitted(why))) => reason = why,
                // It was one when this began: somebody removed it, and most likely this.
                Ok(Err(WishRefusal::NotMember)) if was_member && matches!(wish, Wish::Remove(_)) => {
                    return Ok(());
                }
                Ok(Err(refusal)) => return Err(refusal),
                Err(_) => return Err(WishRefusal::NotCommitted(reason)),
            }
            if timeout_at(deadline, sleep(limits::RETIRE_RETRY)).await.is_err() {
                return Err(WishRefusal::NotCommitted(reason));
            }
        }
    }

    /// One step, here or at the leader.
    async fn once(&self, wish: Wish) -> Result<Granted, WishRefusal> {
        if let Some(view) = self.outlook.of(self.lead.as_ref()) {
            return step(self.lead.as_ref(), &self.journal, view, wish).await;
        }
        let again = |reason: String| WishRefusal::NotCommitted(reason);
        let Some(channels) = &self.channels else { return Err(again("no leader is known".into())) };
        let (asked, mut client) = at_leader(self.local.as_ref(), channels).map_err(again)?;
        let wish = match wish {
            Wish::Remove(id) => change_request::Wish::Remove(id.0),
            Wish::Promote(id) => change_request::Wish::Promote(id.0),
        };
        let cluster_id = self.local.disk().cluster.0;
        let request = ChangeRequest { asked: asked.clone(), cluster_id, wish: Some(wish) };
        let answer =
            client.change(request).await.map_err(|status| again(format!("{asked}: {}", status.message())))?;
        match answer.into_inner().outcome {
            Some(change_response::Outcome::Done(_)) => Ok(Granted::Done),
            Some(change_response::Outcome::Again(reason)) => Err(again(format!("{asked}: {reason}"))),
            Some(change_response::Outcome::Refused(refused)) => Err(refused_by(refused)),
            None => Err(again(format!("the answer of {asked} says nothing"))),
        }
    }
}

impl Operate for Operator {
    fn fulfil(&self, wish: Wish) -> BoxFuture<'_, Result<(), WishRefusal>> {
        Box::pin(self.fulfil_until(wish, Instant::now() + limits::REQUEST_TIMEOUT))
    }

    fn move_leader(&self, to: NodeId) -> BoxFuture<'_, Option<Result<bool, WishRefusal>>> {
        Box::pin(async move {
            let view = self.outlook.of(self.lead.as_ref())?;
            if !view.configs.iter().all(|voters| voters.contains(&to)) {
                return Some(Err(WishRefusal::NotMember));
            }
            if to == view.id {
                return Some(Ok(true));
            }
            Some(Ok(self.lead.change(Change::HandOver([to].into())).await.is_ok()))
        })
    }
}

/// A step's outcome on the wire.
pub(super) fn to_wire(stepped: Result<Granted, WishRefusal>) -> change_response::Outcome {
    use crate::proto::peer::{Blank, Refused};
    use change_response::Outcome;
    let refused = |code: Refused, text: &WishRefusal| {
        Outcome::Refused(change_response::Refusal { code: code.into(), text: text.to_string() })
    };
    match stepped {
        // A promotion is done when it is committed; a removal is looked at again by whoever asks.
        Ok(Granted::Done | Granted::Next(Change::Demote(_))) => Outcome::Done(Blank {}),
        Ok(Granted::Next(_)) => Outcome::Again("the first step was done".into()),
        Err(WishRefusal::NotCommitted(reason)) => Outcome::Again(reason),
        Err(text @ WishRefusal::NotMember) => refused(Refused::NotMember, &text),
        Err(text @ WishRefusal::NotLearner) => refused(Refused::NotLearner, &text),
        Err(text @ WishRefusal::NotCaughtUp) => refused(Refused::NotCaughtUp, &text),
        Err(text @ WishRefusal::TooFew) => refused(Refused::TooFew, &text),
        Err(text @ WishRefusal::Against(_)) => refused(Refused::Against, &text),
    }
}

fn refused_by(refused: change_response::Refusal) -> WishRefusal {
    use crate::proto::peer::Refused;
    match Refused::try_from(refused.code) {
        Ok(Refused::NotMember) => WishRefusal::NotMember,
        Ok(Refused::NotLearner) => WishRefusal::NotLearner,
        Ok(Refused::NotCaughtUp) => WishRefusal::NotCaughtUp,
        Ok(Refused::TooFew) => WishRefusal::TooFew,
        // A newer leader's reason is still a reason.
        Ok(Refused::Against | Refused::Unspecified) | Err(_) => WishRefusal::Against(refused.text),
    }
}

#[cfg(test)]
#[path = "operator_tests.rs"]
mod tests;
