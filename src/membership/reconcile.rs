//! Carries out the leader's plan: looks, does at most one change, looks again. Runs on every member; acts where that one leads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::by_hand::Rules;
use super::explain::{self, Ages};
use super::journal::Journal;
use super::local::{Lead, Local};
use super::plan::{Leading, plan};
use super::size::Size;
use crate::env::simulated::{self, Bug};
use crate::identity::{NodeId, OrdinalRange};
use crate::limits;

/// Members that asked to be retired, and when they asked last: one that stops asking changed its mind, or is gone.
#[derive(Default)]
pub struct Retiring {
    asked: Mutex<BTreeMap<NodeId, Instant>>,
    news: Notify,
}

impl Retiring {
    /// A member asks. The caller has checked that it is one, so their number is bounded.
    pub(super) fn ask(&self, id: NodeId) {
        if self.asked.lock().insert(id, Instant::now()).is_none() {
            self.news.notify_one();
        }
    }

    fn now(&self) -> BTreeSet<NodeId> {
        let mut asked = self.asked.lock();
        asked.retain(|_, at| at.elapsed() < limits::RETIRE_MEMORY);
        asked.keys().copied().collect()
    }
}

/// How often in a row members outside the range did not answer.
#[derive(Default)]
struct Silent(BTreeMap<NodeId, u32>);

impl Silent {
    /// One look. Only looks count where the size was known.
    fn look(&mut self, view: &Leading) {
        let counts =
            |id: &NodeId| view.desired.excludes(id.ordinal()) || simulated::planted(Bug::RemoveSilent);
        let silent = |id: &NodeId| counts(id) && !view.answering.contains(id);
        self.0.retain(|id, _| view.members.contains(id) && silent(id));
        for id in view.members.iter().filter(|id| silent(id)) {
            let looks = self.0.entry(*id).or_default();
            *looks = looks.saturating_add(1);
        }
    }

    fn for_long(&self) -> BTreeSet<NodeId> {
        let long = self.0.iter().filter(|(_, looks)| **looks >= limits::REMOVAL_LOOKS);
        long.map(|(id, _)| *id).collect()
    }
}

/// Since when members that do not vote are seen.
#[derive(Default)]
struct Learners(BTreeMap<NodeId, Instant>);

impl Learners {
    fn look(&mut self, view: &Leading) -> Ages {
        let learner = |id: &NodeId| !view.configs.iter().any(|voters| voters.contains(id));
        self.0.retain(|id, _| view.members.contains(id) && learner(id));
        for id in view.members.iter().filter(|id| learner(id)) {
            self.0.entry(*id).or_insert_with(Instant::now);
        }
        self.0.iter().map(|(id, since)| (*id, since.elapsed())).collect()
    }
}

/// What a leader's plan goes by, beside what consensus shows it.
#[derive(Clone)]
pub struct Outlook {
    /// The desired size.
    pub size: watch::Receiver<Size>,
    /// At most so many vote.
    pub max_voters: usize,
    /// Outside a `StatefulSet`: members come and go by hand, by these rules.
    pub rules: Option<Rules>,
}

impl Outlook {
    /// What this member sees, if it leads.
    pub(super) fn of(&self, lead: &dyn Lead) -> Option<Leading> {
        let desired = self.size.borrow().desired.clone();
        Some(Leading { desired, max_voters: self.max_voters, rules: self.rules, ..lead.leading()? })
    }
}

/// The loop. See the module.
pub struct Reconciler {
    /// Consensus, where this member leads.
    pub lead: Arc<dyn Lead>,
    /// What the applied state holds.
    pub local: Arc<dyn Local>,
    /// What the plan goes by.
    pub outlook: Outlook,
    /// Who asked to be retired.
    pub retiring: Arc<Retiring>,
    /// What was done is told here.
    pub journal: Journal,
    /// What this member sees and waits for, if it leads; nothing, if it does not.
    pub seen: watch::Sender<Vec<String>>,
}

impl Reconciler {
    /// Runs until `cancel`. A change that broke off is planned anew from what is seen then.
    pub async fn run(self, cancel: CancellationToken) {
        let mut looks = interval(limits::RECONCILE_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut silent = Silent::default();
        let mut learners = Learners::default();
        let mut told = None;
        loop {
            tokio::select! {
                _ = looks.tick() => {}
                () = self.retiring.news.notified() => {}
                () = cancel.cancelled() => return,
            }
            let Some(view) = self.look(&mut silent) else {
                learners = Learners::default();
                self.publish(Vec::new());
                continue;
            };
            let ages = learners.look(&view);
            let change = plan(&view);
            self.publish(explain::view(&view, change.as_ref()));
            let work = async {
                self.record().await;
                let change = change?;
                Some((
                    change.clone(),
                    timeout(limits::MEMBERSHIP_CHANGE_TIMEOUT, self.lead.change(change)).await,
                ))
            };
            let done = tokio::select! {
                done = work => done,
                () = cancel.cancelled() => return,
            };
            let Some((change, outcome)) = done else { continue };
            match outcome {
                Ok(Ok(())) => {
                    let text = explain::change(&view, &change, &ages);
                    tracing::info!("{text}");
                    self.journal.tell(&text);
                }
                Ok(Err(reason)) => {
                    if told.as_ref() != Some(&reason) {
                        tracing::warn!(?change, reason, "the membership was not changed; trying again");
                    }
                    told = Some(reason);
                }
                Err(_) => tracing::warn!(?change, "the change of the membership is not committed yet"),
            }
        }
    }

    fn publish(&self, lines: Vec<String>) {
        self.seen.send_if_modified(|seen| {
            let changed = *seen != lines;
            *seen = lines;
            changed
        });
    }

    fn look(&self, silent: &mut Silent) -> Option<Leading> {
        let Some(mut view) = self.outlook.of(self.lead.as_ref()) else {
            *silent = Silent::default();
            return None;
        };
        silent.look(&view);
        view.leaving = &self.retiring.now() | &silent.for_long();
        Some(view)
    }

    /// A size that was seen outside is kept in the state, for a start at which it cannot be read. What was set is there already, and
    /// may be newer than what was seen of it.
    async fn record(&self) {
        let Size { desired, generation } = self.outlook.size.borrow().clone();
        let is_news = |range: &OrdinalRange| generation.is_some() && self.local.recorded() != Some(*range);
        let Some(range) = desired.range().filter(is_news) else { return };
        let before = self.local.recorded();
        if let Err(reason) = self.lead.record(range).await {
            tracing::debug!(reason, "the desired size was not recorded; trying again");
            return;
        }
        let was = before.map_or_else(String::new, |before| format!("; it was {before}"));
        self.journal.tell(&format!("the StatefulSet wants {range}{was}"));
    }
}

#[cfg(test)]
mod tests {
    use super::super::start::Desired;
    use super::*;

    #[test]
    fn only_looks_in_a_row_count() {
        let id = |ordinal| NodeId::new(ordinal, 1);
        let mut view = Leading { members: [id(0), id(1)].into(), ..Leading::default() };
        view.desired = Desired::Known(OrdinalRange { start: 0, size: 1 });
        let mut silent = Silent::default();
        let looks = |silent: &mut Silent, view: &Leading, times| {
            for _ in 0..times {
                silent.look(view);
            }
            silent.for_long()
        };
        assert_eq!(looks(&mut silent, &view, limits::REMOVAL_LOOKS - 1), [].into());
        view.answering.insert(id(1));
        assert_eq!(looks(&mut silent, &view, 1), [].into(), "it answered");
        view.answering.remove(&id(1));
        assert_eq!(looks(&mut silent, &view, limits::REMOVAL_LOOKS), [id(1)].into());
        view.desired = Desired::Unknown("no answer".into());
        assert_eq!(looks(&mut silent, &view, 1), [].into(), "nobody is outside now");
    }
}
