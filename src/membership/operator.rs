//! Changes of the membership that a client asks for (etcd's `MemberRemove`, `MemberPromote`, `MoveLeader`). Whether one is granted is decided
//! on the leader, by a pure function, and carried out as the changes that the leader plans itself: one joint change, by a majority of
//! the new voters that answers and has caught up. Every member takes the wish and hands it to the leader.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::future::BoxFuture;
use tokio::time::{Instant, sleep, timeout_at};

use super::at_leader::at_leader;
use super::by_hand;
use super::explain::{self, Ages};
use super::journal::Journal;
use super::local::{Lead, Local};
use super::plan::{Change, Leading};
use super::scale;
use crate::discovery::PeerChannels;
use crate::identity::NodeId;
use crate::limits;
use crate::mvcc::cluster::ByHand;
use crate::proto::peer::{ChangeRequest, change_request, change_response};

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// This disk is to be no member any more. Inside the desired range that means: it is replaced, because its pod joins as new.
    Remove(NodeId),
    /// This member is to vote.
    Promote(NodeId),
    /// Somebody may join, outside a `StatefulSet`.
    Add {
        /// Where it will be found, as URLs.
        peer_urls: Vec<String>,
        /// It is not to vote until it is promoted.
        learner: bool,
    },
    /// A member is called or reached otherwise, outside a `StatefulSet`.
    Update(Update),
}

/// What is another about a member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// The member.
    pub id: NodeId,
    /// Where it is found, as URLs; empty: as before.
    pub peer_urls: Vec<String>,
    /// Its name and where its clients find it, as it says itself at its start; `None`: as before.
    pub published: Option<(String, Vec<String>)>,
}

impl Wish {
    /// The member that it is about; `None`: a new one.
    fn member(&self) -> Option<NodeId> {
        match self {
            Self::Remove(id) | Self::Promote(id) => Some(*id),
            Self::Update(update) => Some(update.id),
            Self::Add { .. } => None,
        }
    }
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
    /// A peer URL is another member's.
    #[error("a peer URL is another member's")]
    UrlTaken,
    /// There are as many learners as there may be.
    #[error("there are as many learners as there may be")]
    TooManyLearners,
    /// Too few members answer for it to be safe in etcd.
    #[error("too few members answer")]
    Unhealthy,
    /// It was not committed in time; it may be, nevertheless. Why.
    #[error("not committed: {0}")]
    NotCommitted(String),
    /// It was proposed and then lost sight of, and must not be tried again. Why.
    #[error("it may have happened: {0}")]
    Unknown(String),
}

/// Takes wishes; every member has one.
pub trait Operate: Send + Sync {
    /// Returns when the wish is fulfilled, within [`limits::REQUEST_TIMEOUT`].
    fn fulfil(&self, wish: Wish) -> BoxFuture<'_, Result<(), WishRefusal>>;
    /// Lets somebody join at these peer URLs, outside a `StatefulSet`; the id that it gets.
    fn add(&self, _peer_urls: Vec<String>, _learner: bool) -> BoxFuture<'_, Result<NodeId, WishRefusal>> {
        Box::pin(async { Err(WishRefusal::Against("members are not added by hand".into())) })
    }
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
    /// A member was added.
    Added(NodeId),
}

/// Whether and how a wish is fulfilled.
pub(super) fn grant(view: &Leading, wish: &Wish) -> Result<Granted, WishRefusal> {
    let id = wish.member().unwrap_or_default();
    let voters = match view.configs.as_slice() {
        [voters] if view.committed => voters,
        _ => return Err(WishRefusal::NotCommitted("another change is under way".into())),
    };
    if !view.members.contains(&id) {
        return grant_unstarted(view, wish, id);
    }
    match wish {
        Wish::Remove(_) => remove(view, voters, id),
        Wish::Promote(_) if voters.contains(&id) => Err(WishRefusal::NotLearner),
        Wish::Promote(_) => promote(view, voters, id),
        Wish::Update(update) => describe(view, update),
        Wish::Add { .. } => Err(WishRefusal::Against("nobody was added".into())),
    }
}

/// As [`grant`], of a member that was added and has not joined.
fn grant_unstarted(view: &Leading, wish: &Wish, id: NodeId) -> Result<Granted, WishRefusal> {
    let mut unstarted = by_hand::unstarted(view).filter(|(waiting, _)| *waiting == id);
    let Some((_, added)) = unstarted.next() else { return Err(WishRefusal::NotMember) };
    match wish {
        Wish::Remove(_) => {
            if !added.learner {
                by_hand::may_remove(view, id.ordinal())?;
            }
            Ok(Granted::Next(Change::Dismiss(id.ordinal())))
        }
        Wish::Update(update) if update.peer_urls.is_empty() || update.peer_urls == added.peer_urls => {
            Ok(Granted::Done)
        }
        Wish::Update(update) => expect(view, update),
        Wish::Promote(_) | Wish::Add { .. } => Err(WishRefusal::NotCaughtUp),
    }
}

/// Outside a `StatefulSet` the ordinal is dismissed first, so that no other disk of it is admitted meanwhile.
fn remove(view: &Leading, voters: &BTreeSet<NodeId>, id: NodeId) -> Result<Granted, WishRefusal> {
    let next = if voters.contains(&id) {
        by_hand::may_remove(view, id.ordinal())?;
        remove_voter(view, voters, id)?
    } else {
        Granted::Next(Change::Remove([id].into()))
    };
    let dismissed = view.by_hand.get(&id.ordinal()) == Some(&ByHand::Dismissed);
    if view.rules.is_some() && !dismissed {
        return Ok(Granted::Next(Change::Dismiss(id.ordinal())));
    }
    Ok(next)
}

/// A member is expected elsewhere.
fn expect(view: &Leading, update: &Update) -> Result<Granted, WishRefusal> {
    let ordinal = update.id.ordinal();
    if update.peer_urls.iter().any(|url| by_hand::is_taken(view, url, Some(ordinal))) {
        return Err(WishRefusal::UrlTaken);
    }
    Ok(Granted::Next(Change::Expect(ordinal, update.peer_urls.clone())))
}

/// What the membership says of a member.
fn describe(view: &Leading, update: &Update) -> Result<Granted, WishRefusal> {
    let is = view.described.get(&update.id).cloned().unwrap_or_default();
    if view.rules.is_none() {
        let text = format!("{} is reached at {}", is.name, is.peer_address);
        return Err(WishRefusal::Against(text));
    }
    if let Some(ByHand::Added(added)) = view.by_hand.get(&update.id.ordinal())
        && !update.peer_urls.is_empty()
        && added.peer_urls != update.peer_urls
    {
        return expect(view, update);
    }
    let mut shall = is.clone();
    if let Some(url) = update.peer_urls.first() {
        if by_hand::is_taken(view, url, Some(update.id.ordinal())) {
            return Err(WishRefusal::UrlTaken);
        }
        by_hand::address(url).clone_into(&mut shall.peer_address);
    }
    if let Some((name, client_urls)) = &update.published {
        (shall.name, shall.client_urls) = (name.clone(), client_urls.clone());
    }
    Ok(if shall == is { Granted::Done } else { Granted::Next(Change::Describe(shall)) })
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
    if view.rules.is_none() && voters.len() >= view.max_voters {
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
    wish: &Wish,
) -> Result<Granted, WishRefusal> {
    if let Wish::Add { peer_urls, learner } = wish {
        return add(lead, journal, &view, peer_urls, *learner).await;
    }
    let granted = grant(&view, wish)?;
    if let Granted::Next(change) = &granted {
        lead.change(change.clone()).await.map_err(WishRefusal::NotCommitted)?;
        let text = explain::change(&view, change, &Ages::new());
        tracing::info!(?wish, "{text}");
        journal.tell(&text);
    }
    Ok(granted)
}

/// Adds a member, once.
async fn add(
    lead: &dyn Lead,
    journal: &Journal,
    view: &Leading,
    peer_urls: &[String],
    learner: bool,
) -> Result<Granted, WishRefusal> {
    let adding = by_hand::may_add(view, peer_urls, learner)?;
    // None: another was faster.
    let id = lead.add(adding).await.map_err(WishRefusal::Unknown)?.ok_or(WishRefusal::UrlTaken)?;
    let what = if learner { "a learner" } else { "a member" };
    let text = format!("{what} may join at {} as {id}", peer_urls.join(", "));
    tracing::info!("{text}");
    journal.tell(&text);
    Ok(Granted::Added(id))
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
    async fn fulfil_until(&self, wish: &Wish, deadline: Instant) -> Result<Option<NodeId>, WishRefusal> {
        let mut reason = "no leader is known".to_owned();
        let mut was_member = wish.member().is_some_and(|id| self.local.disk().membership.contains(id));
        loop {
            match timeout_at(deadline, self.once(wish)).await {
                Ok(Ok(Granted::Done)) => return Ok(None),
                Ok(Ok(Granted::Added(id))) => return Ok(Some(id)),
                Ok(Ok(Granted::Next(_))) => {
                    // A promotion is done when it is committed; a removal is looked at again, at whoever leads then.
                    if matches!(wish, Wish::Promote(_)) {
                        return Ok(None);
                    }
                    was_member = true;
                    reason = "the first step was done".into();
                }
                Ok(Err(WishRefusal::NotCommitted(why))) => reason = why,
                // It was one when this began: somebody removed it, and most likely this.
                Ok(Err(WishRefusal::NotMember)) if was_member && matches!(wish, Wish::Remove(_)) => {
                    return Ok(None);
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
    async fn once(&self, wish: &Wish) -> Result<Granted, WishRefusal> {
        if let Some(view) = self.outlook.of(self.lead.as_ref()) {
            return step(self.lead.as_ref(), &self.journal, view, wish).await;
        }
        let again = |reason: String| WishRefusal::NotCommitted(reason);
        let Some(channels) = &self.channels else { return Err(again("no leader is known".into())) };
        let (asked, mut client) = at_leader(self.local.as_ref(), channels).map_err(again)?;
        let cluster_id = self.local.disk().cluster.0;
        let is_addition = matches!(wish, Wish::Add { .. });
        let request = ChangeRequest { asked: asked.clone(), cluster_id, wish: Some(wish_to(wish)) };
        let answer = client.change(request).await.map_err(|status| {
            let text = format!("{asked}: {}", status.message());
            // Whoever refused it for what it is proposed nothing; of all else nobody knows.
            if is_addition && status.code() != tonic::Code::FailedPrecondition {
                WishRefusal::Unknown(text)
            } else {
                again(text)
            }
        })?;
        match answer.into_inner().outcome {
            Some(change_response::Outcome::Done(_)) => Ok(Granted::Done),
            Some(change_response::Outcome::Added(id)) => Ok(Granted::Added(NodeId(id))),
            Some(change_response::Outcome::Again(reason)) => Err(again(format!("{asked}: {reason}"))),
            Some(change_response::Outcome::Refused(refused)) => Err(refused_by(refused)),
            None => Err(again(format!("the answer of {asked} says nothing"))),
        }
    }
}

impl Operate for Operator {
    fn fulfil(&self, wish: Wish) -> BoxFuture<'_, Result<(), WishRefusal>> {
        Box::pin(
            async move { self.fulfil_until(&wish, Instant::now() + limits::REQUEST_TIMEOUT).await.map(drop) },
        )
    }

    fn add(&self, peer_urls: Vec<String>, learner: bool) -> BoxFuture<'_, Result<NodeId, WishRefusal>> {
        Box::pin(async move {
            let wish = Wish::Add { peer_urls, learner };
            let added = self.fulfil_until(&wish, Instant::now() + limits::REQUEST_TIMEOUT).await?;
            added.ok_or_else(|| WishRefusal::Unknown("the answer names nobody".into()))
        })
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

/// Said of a step after which the wish is to be looked at again.
const STEP_DONE: &str = "the first step was done";

/// A wish on the wire.
fn wish_to(wish: &Wish) -> change_request::Wish {
    use crate::proto::peer::{AddWish, Published, UpdateWish};
    match wish {
        Wish::Remove(id) => change_request::Wish::Remove(id.0),
        Wish::Promote(id) => change_request::Wish::Promote(id.0),
        Wish::Add { peer_urls, learner } => {
            change_request::Wish::Add(AddWish { peer_urls: peer_urls.clone(), learner: *learner })
        }
        Wish::Update(Update { id, peer_urls, published }) => change_request::Wish::Update(UpdateWish {
            node_id: id.0,
            peer_urls: peer_urls.clone(),
            published: published.clone().map(|(name, client_urls)| Published { name, client_urls }),
        }),
    }
}

/// A wish that came from a member.
///
/// # Errors
/// It has more of something than any may.
pub(super) fn wish_from(wish: change_request::Wish) -> Result<Wish, &'static str> {
    let few = |urls: Vec<String>| {
        let fine = urls.len() <= limits::MEMBER_URLS && urls.iter().all(|url| url.len() <= limits::URL_BYTES);
        fine.then_some(urls).ok_or("too many or too long URLs")
    };
    Ok(match wish {
        change_request::Wish::Remove(id) => Wish::Remove(NodeId(id)),
        change_request::Wish::Promote(id) => Wish::Promote(NodeId(id)),
        change_request::Wish::Add(add) => Wish::Add { peer_urls: few(add.peer_urls)?, learner: add.learner },
        change_request::Wish::Update(update) => {
            let published = match update.published {
                Some(said) if said.name.len() > limits::URL_BYTES => return Err("too long a name"),
                Some(said) => Some((said.name, few(said.client_urls)?)),
                None => None,
            };
            let (id, peer_urls) = (NodeId(update.node_id), few(update.peer_urls)?);
            Wish::Update(Update { id, peer_urls, published })
        }
    })
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
        Ok(Granted::Next(_)) => Outcome::Again(STEP_DONE.into()),
        Ok(Granted::Added(id)) => Outcome::Added(id.0),
        Err(WishRefusal::NotCommitted(reason)) => Outcome::Again(reason),
        Err(text @ WishRefusal::NotMember) => refused(Refused::NotMember, &text),
        Err(text @ WishRefusal::NotLearner) => refused(Refused::NotLearner, &text),
        Err(text @ WishRefusal::NotCaughtUp) => refused(Refused::NotCaughtUp, &text),
        Err(text @ WishRefusal::TooFew) => refused(Refused::TooFew, &text),
        Err(text @ WishRefusal::Against(_)) => refused(Refused::Against, &text),
        Err(text @ WishRefusal::UrlTaken) => refused(Refused::UrlTaken, &text),
        Err(text @ WishRefusal::TooManyLearners) => refused(Refused::TooManyLearners, &text),
        Err(text @ WishRefusal::Unhealthy) => refused(Refused::Unhealthy, &text),
        Err(WishRefusal::Unknown(reason)) => {
            Outcome::Refused(change_response::Refusal { code: Refused::Unknown.into(), text: reason })
        }
    }
}

fn refused_by(refused: change_response::Refusal) -> WishRefusal {
    use crate::proto::peer::Refused;
    match Refused::try_from(refused.code) {
        Ok(Refused::NotMember) => WishRefusal::NotMember,
        Ok(Refused::NotLearner) => WishRefusal::NotLearner,
        Ok(Refused::NotCaughtUp) => WishRefusal::NotCaughtUp,
        Ok(Refused::TooFew) => WishRefusal::TooFew,
        Ok(Refused::UrlTaken) => WishRefusal::UrlTaken,
        Ok(Refused::TooManyLearners) => WishRefusal::TooManyLearners,
        Ok(Refused::Unhealthy) => WishRefusal::Unhealthy,
        Ok(Refused::Unknown) => WishRefusal::Unknown(refused.text),
        // A newer leader's reason is still a reason.
        Ok(Refused::Against | Refused::Unspecified) | Err(_) => WishRefusal::Against(refused.text),
    }
}

#[cfg(test)]
#[path = "operator_tests.rs"]
mod tests;
