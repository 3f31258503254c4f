//! Questions about leases: how much time one has, and whether it begins anew. They do not go through the log. The leader's keeper
//! (`duties`) answers them from its memory; a follower hands them to the leader with the requests of its clients (`forward`).
//!
//! Here is also what that keeper needs of consensus: the questions, the certainty that this member leads, and when that ends.

use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::forward::{Ask, Forwarded, Waiting};
use super::handle::Consensus;
use super::proposer::ReplyTo;
use super::requests::full_or_closed;
use super::state_machine;
use super::types::Raft;
use super::wire::Applied;
use crate::env::simulated::{self, Bug};
use crate::error::Error;
use crate::identity::NodeId;
use crate::limits;
use crate::mvcc::command::{Command, Lifetime, Outcome, Reply, Request};
#[cfg(feature = "simulation")]
use crate::mvcc::lease::Granted;
use crate::mvcc::lease::{LeaseCommand, MAX_TTL};

/// Time for one attempt: when the leader is gone, another leads by then. A question can always be asked again.
const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(1_600);

/// What is asked about a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseQuestion {
    /// The lease.
    pub id: i64,
    /// Begin its time anew first.
    pub renew: bool,
}

/// A question that waits for the keeper.
pub(crate) struct Asked {
    pub(crate) question: LeaseQuestion,
    reply: ReplyTo,
}

impl Asked {
    /// Nobody waits for the answer any more.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.reply.is_abandoned()
    }

    /// Answers what was found behind the barrier `lead`.
    pub(crate) fn answer(self, lifetime: Lifetime, lead: Lead) {
        // Who renews reads nothing afterwards, so nothing needs to be told to the followers for its sake.
        let index = if self.question.renew { 0 } else { lead.index };
        let reply = Ok(Reply { revision: 0, outcome: Outcome::Lifetime(lifetime) });
        self.reply.answer(Ok(Applied { term: lead.term, index, reply }));
    }

    /// Says why there is no answer. [`Error::NoLeader`]: it is asked again, of whoever leads then.
    pub(crate) fn refuse(self, error: Error) {
        self.reply.answer(Err(error));
    }
}

/// A moment at which this member certainly led.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lead {
    /// The term in which it led.
    pub(crate) term: u64,
    /// An entry of that term that is applied here, as is everything that was acknowledged before the moment.
    pub(crate) index: u64,
}

impl Consensus {
    /// The command that grants a lease. An id is drawn and a time to live set here, before it is proposed, so that all members
    /// apply the same.
    pub(super) fn grant_command(&self, id: i64, ttl: i64) -> Result<Command, Error> {
        if ttl > MAX_TTL {
            return Err(crate::mvcc::command::Refusal::LeaseTtlTooLarge.into());
        }
        let mut id = id;
        while id == 0 {
            id = (self.inner.random.next_u64() >> 1) as i64;
        }
        Ok(Command::Lease(LeaseCommand::Grant { id, ttl: ttl.max(least_ttl(self.inner.election_max)) }))
    }

    /// Asks whoever leads, until it answers or a request's time is over.
    pub(super) async fn lease_lifetime(&self, question: LeaseQuestion) -> Result<Lifetime, Error> {
        let deadline = Instant::now() + limits::REQUEST_TIMEOUT;
        loop {
            let leader = self.leader();
            let attempt = match leader {
                Some(leader) => self.ask_lease_at(leader, question, deadline).await,
                None => Err(Error::NoLeader),
            };
            match attempt {
                // Asking twice renews twice, which is the same as once.
                Err(Error::NoLeader | Error::OutcomeUnknown(_) | Error::TimedOut) => {}
                result => return result,
            }
            self.wait_for_another_leader(leader, deadline, Error::TimedOut).await?;
        }
    }

    async fn ask_lease_at(
        &self,
        leader: NodeId,
        question: LeaseQuestion,
        deadline: Instant,
    ) -> Result<Lifetime, Error> {
        let until = deadline.min(Instant::now() + ATTEMPT_TIMEOUT);
        let (reply, answer) = oneshot::channel();
        let reply = ReplyTo::caller(reply);
        if leader == self.inner.mine.node {
            self.enqueue_question(question, reply);
        } else {
            let held = self.inner.waiting.enter(limits::LEASE_QUESTION_BYTES)?;
            let waiting = Waiting { ask: Ask::Lease(question), reply, _held: held };
            let forwarded = Forwarded { leader, waiting };
            self.inner.forwards.try_send(forwarded).map_err(|error| full_or_closed(&error))?;
        }
        let answer = tokio::select! {
            answer = tokio::time::timeout_at(until, answer) => answer,
            // It may be silent until the time is over.
            _ = self.another_leads_than(Some(leader)) => return Err(Error::NoLeader),
        };
        let applied = match answer {
            Ok(Ok(proposed)) => proposed?,
            Ok(Err(_)) => return Err(Error::Stopped),
            Err(_) => return Err(Error::TimedOut),
        };
        if !question.renew {
            let seen = state_machine::wait_applied(&self.inner.machine, applied.index);
            let seen = tokio::time::timeout_at(deadline, seen).await.map_err(|_| Error::TimedOut)?;
            seen.map_err(|error| Error::Storage(error.to_string()))?;
        }
        match applied.reply?.outcome {
            Outcome::Lifetime(lifetime) => Ok(lifetime),
            other => {
                Err(Error::Invalid(format!("the leader answered {other:?} to a question about a lease")))
            }
        }
    }

    /// Hands a question to the keeper of this member.
    pub(crate) fn enqueue_question(&self, question: LeaseQuestion, reply: ReplyTo) {
        if let Err(error) = self.inner.questions.try_send(Asked { question, reply }) {
            let refused = full_or_closed(&error);
            let (mpsc::error::TrySendError::Full(asked) | mpsc::error::TrySendError::Closed(asked)) = error;
            asked.refuse(refused);
        }
    }

    /// The questions, once: for the one keeper.
    pub(crate) fn take_questions(&self) -> Option<mpsc::Receiver<Asked>> {
        self.inner.questions_queue.lock().take()
    }

    /// Makes sure that this member leads now, and waits until it has applied all that was acknowledged by now, and so an entry
    /// of its own term.
    ///
    /// # Errors
    /// [`Error::NoLeader`] if another leads or nobody does; [`Error::TimedOut`] if no quorum answers.
    pub(crate) async fn confirm_lead(&self) -> Result<Lead, Error> {
        if let Some(lead) = self.believed_lead().filter(|_| simulated::planted(Bug::PromiseUnconfirmed)) {
            return Ok(lead);
        }
        let confirm = async {
            let id = super::read::leader_read_index(self.raft()).await?;
            state_machine::wait_applied(&self.inner.machine, id.index)
                .await
                .map_err(|error| Error::Storage(error.to_string()))?;
            Ok(Lead { term: id.leader_id.term, index: id.index })
        };
        tokio::time::timeout(ATTEMPT_TIMEOUT, confirm).await.unwrap_or(Err(Error::TimedOut))
    }

    /// What this member believes without asking anybody. For a planted bug.
    fn believed_lead(&self) -> Option<Lead> {
        let term = led_term(self.raft(), self.inner.mine.node)?;
        Some(Lead { term, index: self.inner.machine.applied().map_or(0, |id| id.index) })
    }

    /// Waits until this member takes itself for the leader; false if openraft has ended before.
    pub(crate) async fn wait_to_lead(&self) -> bool {
        let mine = self.inner.mine.node;
        super::handle::wait_for_leader(self.raft(), |leader| leader == Some(mine)).await
    }

    /// Waits until this member leads the term no more.
    pub(crate) async fn wait_to_lead_no_more(&self, term: u64) {
        let mut metrics = self.raft().server_metrics();
        while self.leads(term) {
            if metrics.changed().await.is_err() {
                return;
            }
        }
    }

    /// Whether this member takes itself for the leader of `term`.
    pub(crate) fn leads(&self, term: u64) -> bool {
        led_term(self.raft(), self.inner.mine.node) == Some(term)
    }

    /// Proposes what the keeper decided.
    pub(crate) async fn commit_leases(&self, command: LeaseCommand) -> Result<(), Error> {
        let deadline = Instant::now() + limits::REQUEST_TIMEOUT;
        let request = Request::anonymous(Command::Lease(command));
        self.propose_until(request, deadline).await?.reply.map(drop).map_err(Error::from)
    }
}

/// The term that this member believes to lead.
fn led_term(raft: &Raft, mine: NodeId) -> Option<u64> {
    let metrics = raft.server_metrics();
    let metrics = metrics.borrow_watched();
    (metrics.current_leader == Some(mine)).then_some(metrics.vote.leader_id.term)
}

/// Shortest time to live that is granted, in seconds: a leader that is elected begins all leases anew, so a client must be able to
/// outlast an election. etcd's rule.
fn least_ttl(election_max: Duration) -> i64 {
    let millis = i64::try_from(election_max.as_millis()).unwrap_or(i64::MAX / 3);
    (millis.saturating_mul(3).saturating_add(1_999) / 2_000).max(1)
}

/// The leases before an entry, for a simulation that watches what becomes of them.
#[cfg(feature = "simulation")]
pub(super) struct Before {
    /// Each with when it was granted; those of the entry itself without: nobody could know.
    leases: Option<std::collections::BTreeMap<i64, Option<Granted>>>,
    revision: i64,
}

#[cfg(feature = "simulation")]
impl Before {
    pub(super) fn of(state: &crate::mvcc::State) -> Self {
        let known = || state.leases().iter().map(|(id, lease)| (id, Some(lease.granted))).collect();
        Self { leases: simulated::is_running().then(known), revision: state.revision() }
    }

    /// Tells which leases the entry has ended.
    pub(super) fn tell_ended(
        self,
        state: &crate::mvcc::State,
        at: crate::mvcc::command::LogPosition,
        requests: &[Request],
        replies: &super::types::Replies,
    ) {
        let Some(mut leases) = self.leases else { return };
        let mut last = self.revision;
        for (request, reply) in requests.iter().zip(replies) {
            let Ok(reply) = reply else { continue };
            let (revision, moved) = (reply.revision, reply.revision > last);
            last = revision;
            let (ids, expired) = match &request.command {
                Command::Lease(LeaseCommand::Grant { id, .. }) => {
                    leases.insert(*id, None);
                    continue;
                }
                Command::Lease(LeaseCommand::Revoke { id }) => (vec![*id], false),
                // What a deposed leader decided ends nothing; a client may end the same lease later in the entry.
                Command::Lease(LeaseCommand::Expire { term, leases: due })
                    if *term == at.term || simulated::planted(Bug::ExpireOfDeposedLeader) =>
                {
                    let known = |(id, granted): &&(i64, Granted)| leases.get(id) == Some(&Some(*granted));
                    (due.iter().filter(known).map(|(id, _)| *id).collect(), true)
                }
                _ => continue,
            };
            for lease in ids {
                if state.leases().get(lease).is_none() && leases.remove(&lease).is_some() {
                    let index = at.index;
                    simulated::tell(|| simulated::Seen::LeaseEnded {
                        lease,
                        index,
                        revision,
                        moved,
                        expired,
                    });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(feature = "simulation")]
    use crate::mvcc::tests::Memory;

    #[test]
    fn the_least_time_to_live_is_one_and_a_half_elections_rounded_up() {
        for (millis, seconds) in [(800, 2), (1_000, 2), (100, 1), (1_333, 2), (1_334, 3), (4_000, 6)] {
            assert_eq!(least_ttl(Duration::from_millis(millis)), seconds, "{millis}");
        }
    }

    /// What the simulation hears of an entry with `requests`, each in the term 2, in which lease 7 with a key may end.
    #[cfg(feature = "simulation")]
    fn heard_of(requests: impl Fn(Granted) -> Vec<LeaseCommand>) -> Vec<(i64, i64, bool, bool)> {
        use crate::env::simulated::{Seen, Simulating};
        use crate::mvcc::command::{LogPosition, Put};

        let heard = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
        let told = heard.clone();
        let _simulating = Simulating::begin(
            1,
            None,
            Box::new(move |seen| {
                if let Seen::LeaseEnded { lease, revision, moved, expired, .. } = seen {
                    told.borrow_mut().push((lease, revision, moved, expired));
                }
            }),
        );
        let mut state = crate::mvcc::State::new();
        let mut apply = |index, commands: Vec<Command>| {
            let requests: Vec<_> = commands.into_iter().map(Request::anonymous).collect();
            let at = LogPosition { term: 2, index };
            let before = Before::of(&state);
            let replies = state.apply(&Memory::default(), at, &requests).replies;
            before.tell_ended(&state, at, &requests, &replies);
            state.leases().newest()
        };
        let on_lease = Put { key: "k".into(), lease: 7, ..Put::default() };
        let granted =
            apply(1, vec![Command::Lease(LeaseCommand::Grant { id: 7, ttl: 10 }), Command::Put(on_lease)]);
        apply(2, requests(granted).into_iter().map(Command::Lease).collect());
        heard.take()
    }

    #[cfg(feature = "simulation")]
    #[test]
    fn a_lease_is_heard_to_end_by_what_ended_it() {
        let expire = |term, granted| LeaseCommand::Expire { term, leases: vec![(7, granted)] };
        let revoke = || LeaseCommand::Revoke { id: 7 };
        assert_eq!(heard_of(|granted| vec![expire(2, granted), revoke()]), [(7, 3, true, true)]);
        assert_eq!(heard_of(|granted| vec![revoke(), expire(2, granted)]), [(7, 3, true, false)]);
        // A leader that was deposed meanwhile decided it, or of an older lease with this id.
        assert_eq!(heard_of(|granted| vec![expire(1, granted), revoke()]), [(7, 3, true, false)]);
        assert_eq!(heard_of(|_| vec![expire(2, Granted::default()), revoke()]), [(7, 3, true, false)]);
        assert_eq!(heard_of(|granted| vec![expire(1, granted)]), []);
    }
}
