//! The keeper of the leases. Runs on every member and does something where one leads.
//!
//! Why no lease ends early:
//! * A new leader begins its book only after it has applied an entry of its own term, which it knows from a quorum ([`Lead`]). All
//!   that leaders before it put into the log comes before that entry, and they promise nothing any more: a promise is made only
//!   behind the same kind of certainty, taken after the question came. So every promise of theirs is older than this book, which
//!   begins every lease anew.
//! * What this leader proposes names its term, and changes nothing in an entry of another term. So it can be handed on, and come late,
//!   without harm.
//! * Within the term one book decides both what ends and what is promised ([`Book`]).
//!
//! Why each ends: while it leads, the keeper tries again until the lease is gone; and every leader has a keeper.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::lease_book::{Book, Known};
use crate::env::simulated::{self, Bug};
use crate::error::Error;
use crate::limits;
use crate::mvcc::lease::{Granted, LeaseCommand, Leases};
use crate::raft::Consensus;
use crate::raft::lease::{Asked, Lead};

/// Longest sleep: a timer of centuries would be of no use.
const LONGEST_SLEEP: Duration = Duration::from_hours(1);
/// Pause before an end that was not taken is proposed again.
const RETRY: Duration = limits::HEARTBEAT;

/// The same while the state is said to be corrupt, and nothing ends.
const RETRY_CORRUPT: Duration = Duration::from_secs(1);

/// Starts the keeper of a member. It ends with consensus.
pub(super) fn start(consensus: &Consensus, checkpoint: Option<Duration>) {
    let keeper = Keeper { consensus: consensus.clone(), book: Arc::default(), checkpoint };
    // There is one keeper per start of consensus.
    if let Some(questions) = consensus.take_questions() {
        consensus.spawn(keeper.clone().answer(questions));
        consensus.spawn(keeper.lead());
    }
}

#[derive(Clone)]
struct Keeper {
    consensus: Consensus,
    /// While this member leads. Locked before the state is.
    book: Arc<Mutex<Option<Book>>>,
    checkpoint: Option<Duration>,
}

/// A question whose answer waits until what was written down is taken back.
struct Late {
    asked: Asked,
    granted: Granted,
    written: u64,
}

impl Keeper {
    /// Looks at the book of `term` and at the leases together; `None` if this member leads another term, or none.
    fn with<T>(&self, term: u64, look: impl FnOnce(&mut Book, &Leases) -> T) -> Option<T> {
        let mut book = self.book.lock();
        let book = book.as_mut().filter(|book| book.term() == term)?;
        Some(self.consensus.machine().with_state(|state| look(book, state.leases())))
    }

    /// Leads whenever this member does.
    async fn lead(self) {
        while self.consensus.wait_to_lead().await {
            let confirmed = self.consensus.confirm_lead().await;
            let Some(lead) = confirmed.ok().filter(|lead| self.consensus.leads(lead.term)) else {
                tokio::time::sleep(RETRY).await;
                continue;
            };
            let begin = |leases: &Leases| Book::begin(lead.term, leases, Instant::now());
            let book = self.consensus.machine().with_state(|state| begin(state.leases()));
            *self.book.lock() = Some(book);
            tokio::select! {
                () = self.keep(lead.term) => {}
                () = self.deposed(lead.term) => {}
            }
            *self.book.lock() = None;
        }
    }

    async fn deposed(&self, term: u64) {
        if simulated::planted(Bug::ExpireOfDeposedLeader) {
            return std::future::pending().await;
        }
        self.consensus.wait_to_lead_no_more(term).await;
    }

    /// Ends leases whose time is over, as long as the book is that of `term`.
    async fn keep(&self, term: u64) {
        let mut write_down = self.checkpoint.map(|interval| Instant::now() + interval);
        loop {
            let now = Instant::now();
            let look = |book: &mut Book, leases: &Leases| {
                book.learn(leases, now);
                (book.due(leases, now), book.next())
            };
            let Some((due, next)) = self.with(term, look) else { return };
            if !due.is_empty() {
                self.end(term, due).await;
                continue;
            }
            if let (Some(at), Some(interval)) = (write_down, self.checkpoint)
                && at <= now
            {
                self.write_down(term, interval).await;
                write_down = Some(Instant::now() + interval);
                continue;
            }
            let longest = now + LONGEST_SLEEP;
            let until = [next, write_down, Some(longest)].into_iter().flatten().min().unwrap_or(longest);
            tokio::select! {
                () = tokio::time::sleep_until(until) => {}
                () = self.consensus.machine().wait_leases_granted() => {}
            }
        }
    }

    /// Proposes the end of leases.
    async fn end(&self, term: u64, due: Vec<(i64, Granted)>) {
        let corrupt = self.consensus.machine().is_corrupt();
        let ended = if simulated::planted(Bug::NeverExpire) {
            Ok(())
        } else if corrupt {
            // It would be refused, and every attempt is an entry in the log.
            Err(crate::mvcc::command::Refusal::Corrupt.into())
        } else {
            self.consensus.commit_leases(LeaseCommand::Expire { term, leases: due.clone() }).await
        };
        match ended {
            Ok(()) => {
                self.consensus.metrics().leases_expired.inc_by(due.len() as u64);
            }
            Err(error) => tracing::debug!(%error, "leases were not ended; it is tried again"),
        }
        let again = Instant::now() + if corrupt { RETRY_CORRUPT } else { RETRY };
        // If the book is another one, there is nothing to settle.
        let _ = self.with(term, |book, leases| book.settle(&due, leases, again));
    }

    /// Writes down what is left of long leases.
    async fn write_down(&self, term: u64, interval: Duration) {
        let now = Instant::now();
        let Some(left) = self.with(term, |book, _| book.write_down(interval, now)) else { return };
        for remaining in left.chunks(limits::EXPIRE_LEASES) {
            let command = LeaseCommand::Checkpoint { term, remaining: remaining.to_vec() };
            if let Err(error) = self.consensus.commit_leases(command).await {
                tracing::debug!(%error, "what is left of leases was not written down");
                break;
            }
        }
        let _ = self.with(term, |book, _| book.written_down());
    }

    /// Answers questions. Whatever waits shares one round that makes sure that this member leads.
    async fn answer(self, mut questions: mpsc::Receiver<Asked>) {
        let mut waiting = Vec::new();
        while questions.recv_many(&mut waiting, limits::BATCH_REQUESTS).await > 0 {
            waiting.retain(|asked| !asked.is_abandoned());
            match self.consensus.confirm_lead().await {
                Ok(lead) => self.answer_all(lead, waiting.drain(..)),
                Err(error) => {
                    for asked in waiting.drain(..) {
                        asked.refuse(error.clone());
                    }
                }
            }
        }
    }

    fn answer_all(&self, lead: Lead, waiting: impl Iterator<Item = Asked>) {
        let now = Instant::now();
        let mut late = Vec::new();
        let mut waiting = waiting;
        let _ = self.with(lead.term, |book, leases| {
            for asked in waiting.by_ref() {
                match book.ask(asked.question, leases.get(asked.question.id), now) {
                    Known::Answer(lifetime) => asked.answer(lifetime, lead),
                    // Asked again, until it is gone.
                    Known::Ending => asked.refuse(Error::NoLeader),
                    Known::Written(granted, written) => late.push(Late { asked, granted, written }),
                }
            }
        });
        // The book of this term is not there yet, or not any more: they are asked again.
        for asked in waiting {
            asked.refuse(Error::NoLeader);
        }
        if !late.is_empty() {
            self.consensus.spawn(self.clone().answer_late(lead, late));
        }
    }

    /// Takes back what was written down, then renews.
    async fn answer_late(self, lead: Lead, late: Vec<Late>) {
        let remaining = late.iter().map(|late| (late.asked.question.id, late.granted, 0)).collect();
        let command = LeaseCommand::Checkpoint { term: lead.term, remaining };
        let taken_back = self.consensus.commit_leases(command).await;
        let now = Instant::now();
        for Late { asked, granted, written } in late {
            let id = asked.question.id;
            let renewed = self.with(lead.term, |book, leases| {
                let lease = leases.get(id);
                let whole = lease.is_none_or(|lease| lease.granted == granted && lease.remaining == 0);
                let renews = lease.is_none() || whole && book.taken_back(id, granted, written);
                renews.then(|| book.ask(asked.question, lease, now))
            });
            match (&taken_back, renewed.flatten()) {
                (Err(error), _) => asked.refuse(error.clone()),
                (Ok(()), Some(Known::Answer(lifetime))) => asked.answer(lifetime, lead),
                (Ok(()), _) => asked.refuse(Error::NoLeader),
            }
        }
    }
}
