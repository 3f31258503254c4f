//! Applying commands: the write path.
//!
//! Commands of one call see each other's changes, which are not in the history yet: the index has them at once, and their
//! entries wait in `pending` until all of them become records. A command is checked as a whole before it changes anything,
//! so a refused one leaves no trace.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::auth::{AuthCommand, AuthEvent, TouchedAuth};
use super::cluster::{ClusterCommand, Touched};
use super::command::{
    Command, Compact, DeleteRange, Deleted, LogPosition, Outcome, Put, Refusal, Reply, Request,
};
use super::history::History;
use super::index::Span;
use super::lease::{Granted, LeaseCommand, TouchedLeases};
use super::record::{self, Entry};
use super::txn::View;
use super::{Changes, Event, KeyValue, Revision, State, layout, small};
use crate::env::simulated::{self, Bug};
use crate::identity::NodeId;

/// What one call of [`State::apply`] did.
#[derive(Debug, Default)]
pub struct Applied {
    /// One per request, in their order.
    pub replies: Vec<Result<Reply, Refusal>>,
    /// What to write to the engine. Empty if any reply is [`Refusal::Unreadable`].
    pub changes: Changes,
    /// One per changed key, in order of revisions. Keys and values are slices of the records in `changes`.
    pub events: Vec<Event>,
    /// What those who keep tokens must hear of, in order.
    pub auth: Vec<AuthEvent>,
}

impl Applied {
    /// The engine could not be read: the state is lost, and this member must stop.
    pub fn is_unreadable(&self) -> bool {
        self.replies.iter().any(|reply| matches!(reply, Err(Refusal::Unreadable)))
    }
}

/// The changes of one call so far.
pub(super) struct Batch<'a> {
    pub(super) state: &'a mut State,
    pub(super) history: &'a dyn History,
    pub(super) pending: Vec<Entry>,
    /// Changes of the command that runs now.
    pub(super) subs: i64,
    /// The log entry.
    at: LogPosition,
    /// Place in it of the command that runs now.
    position: u32,
    touched: Touched,
    leases: TouchedLeases,
    auth: TouchedAuth,
    auth_events: Vec<AuthEvent>,
}

impl State {
    /// Apply the commands of the log entry `at`. `history` must hold what all earlier calls returned.
    pub fn apply(&mut self, history: &dyn History, at: LogPosition, requests: &[Request]) -> Applied {
        let compacted = self.compacted;
        let pending = Vec::with_capacity(requests.len());
        let touched = Touched::default();
        let leases = TouchedLeases::new();
        let (auth, auth_events) = (TouchedAuth::default(), Vec::new());
        let mut batch = Batch {
            state: self,
            history,
            pending,
            subs: 0,
            at,
            position: 0,
            touched,
            leases,
            auth,
            auth_events,
        };
        let mut applied = Applied { replies: Vec::with_capacity(requests.len()), ..Applied::default() };
        for request in requests {
            let reply = batch.run(request);
            applied.replies.push(reply);
            batch.position = batch.position.saturating_add(1);
        }
        let Batch { pending, touched, leases, auth, auth_events, .. } = batch;
        applied.auth = auth_events;
        if applied.is_unreadable() {
            return applied;
        }
        record::encode(&pending, &mut applied.changes.puts, &mut applied.events);
        self.history_bytes += size_of_items(&applied.changes.puts);
        if self.compacted != compacted {
            applied.changes.puts.push(small::compacted(self.compacted));
        }
        self.write_cluster(&touched, &mut applied.changes);
        self.write_leases(&leases, &mut applied.changes);
        self.auth.write(&auth, &mut applied.changes);
        applied
    }

    /// Apply a membership: its members, each with whether it votes. What to write to the engine.
    pub fn apply_membership(&mut self, members: &BTreeMap<NodeId, bool>) -> Changes {
        let (mut touched, mut changes) = (Touched::default(), Changes::default());
        self.cluster.note_membership(members, &mut touched);
        self.write_cluster(&touched, &mut changes);
        changes
    }

    fn write_cluster(&self, touched: &Touched, changes: &mut Changes) {
        for node in &touched.marks {
            match self.cluster.marks.get(node) {
                Some(mark) => changes.puts.push(small::mark(*node, mark)),
                None => changes.deletes.push(layout::mark_key(*node).into()),
            }
        }
        for ordinal in &touched.admissions {
            if let Some(admission) = self.cluster.admissions.get(ordinal) {
                changes.puts.push(small::admission(*ordinal, admission));
            }
        }
        for number in &touched.events {
            match self.cluster.events.get(*number) {
                Some(event) => changes.puts.push(small::event(*number, event)),
                None => changes.deletes.push(layout::event_key(*number).into()),
            }
        }
        for kept in &touched.alarms {
            if self.cluster.alarms.contains(kept) {
                changes.puts.push(small::alarm(kept));
            } else {
                changes.deletes.push(layout::alarm_key(kept).into());
            }
        }
        for ordinal in &touched.by_hand {
            match self.cluster.by_hand.get(ordinal) {
                Some(by_hand) => changes.puts.push(small::by_hand(*ordinal, by_hand)),
                None => changes.deletes.push(layout::by_hand_key(*ordinal).into()),
            }
        }
        changes.puts.extend(self.cluster.desired.filter(|_| touched.desired).map(small::desired));
    }
}

impl State {
    fn write_leases(&self, touched: &TouchedLeases, changes: &mut Changes) {
        for (id, was_there) in touched {
            match self.leases.get(*id) {
                Some(lease) => changes.puts.push(small::lease(*id, lease)),
                None if *was_there => changes.deletes.push(layout::lease_key(*id).into()),
                // It came and went in one entry.
                None => {}
            }
        }
    }
}

/// Bytes of keys and values.
fn size_of_items(items: &[(Bytes, Bytes)]) -> u64 {
    items.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum()
}

impl Batch<'_> {
    fn run(&mut self, request: &Request) -> Result<Reply, Refusal> {
        self.subs = 0;
        // Again: it may have been permitted when it was asked, and not be any more.
        if !simulated::planted(Bug::AskOnlyAtTheDoor) {
            self.state.may_run(request.by(), &request.command)?;
        }
        if let Some(refusal) = self.state.cluster.alarms.refuses(&request.command) {
            return Err(refusal);
        }
        let outcome = match &request.command {
            Command::Put(put) => {
                self.view().check_put(put)?;
                Outcome::Put(self.put(put)?)
            }
            Command::DeleteRange(delete) => Outcome::DeleteRange(self.delete_range(delete)?),
            Command::Txn(txn) => Outcome::Txn(self.txn(txn)?),
            Command::Compact(compact) => self.compact(*compact)?,
            Command::Lease(command) => self.lease(command)?,
            Command::Auth(command) => self.auth(command)?,
            Command::Cluster(ClusterCommand::RaiseRevision(by)) => {
                self.state.revision = self.state.revision.saturating_add(i64::from(*by));
                self.state.compacted = self.state.revision;
                let raise = ClusterCommand::RaiseRevision(*by);
                self.state.cluster.apply(&raise, self.at.index, &mut self.touched)
            }
            Command::Cluster(ClusterCommand::Alarm(command)) => {
                self.state.cluster.alarms.apply(*command, &mut self.touched.alarms)?
            }
            Command::Cluster(command) => self.state.cluster.apply(command, self.at.index, &mut self.touched),
        };
        self.state.revision = self.newest();
        Ok(Reply { revision: self.state.revision, outcome })
    }

    /// Revision that a read in the running command sees.
    pub(super) fn newest(&self) -> i64 {
        self.state.revision + i64::from(self.subs > 0)
    }

    /// The state as the running command sees it.
    pub(super) fn view(&self) -> View<'_> {
        View::new(self.state, self.history, &self.pending, self.newest())
    }

    /// Write a key, which was checked. The pair as it was before, if asked for.
    pub(super) fn put(&mut self, put: &Put) -> Result<Option<KeyValue>, Refusal> {
        let mut entry =
            Entry { key: put.key.clone(), value: put.value.clone(), lease: put.lease, ..Entry::default() };
        let mut previous = None;
        if put.prev_kv || put.ignore_value || put.ignore_lease {
            previous = self.view().get(&put.key)?;
            // A transaction may have deleted the key since it was checked; then there is nothing to keep.
            if put.ignore_value {
                entry.value = previous.as_ref().map(|kv| kv.value.clone()).unwrap_or_default();
            }
            if put.ignore_lease {
                entry.lease = previous.as_ref().map_or(0, |kv| kv.lease);
            }
        }
        entry.revision = self.next_revision();
        (entry.create, entry.version) = self.state.index.put(&entry.key, entry.revision);
        self.state.leases.hang(&entry.key, entry.lease);
        self.pending.push(entry);
        Ok(previous.filter(|_| put.prev_kv))
    }

    /// Delete keys. They share one main revision; if there are none, the revision stays.
    pub(super) fn delete_range(&mut self, delete: &DeleteRange) -> Result<Deleted, Refusal> {
        let span = Span::new(&delete.key, &delete.range_end);
        let newest = self.newest();
        let mut keys = Vec::new();
        let mut previous = Vec::new();
        {
            let mut view = self.view();
            for (key, found) in view.state.index.range(span, newest) {
                keys.push(Bytes::copy_from_slice(key));
                if delete.prev_kv {
                    previous.push(view.read(found.modified)?);
                }
            }
        }
        let deleted = keys.len() as i64;
        for key in keys {
            self.state.leases.hang(&key, 0);
            self.bury(key);
        }
        Ok(Deleted { deleted, previous, revision: self.newest() })
    }

    /// Delete a key that is there.
    fn bury(&mut self, key: Bytes) {
        let revision = self.next_revision();
        self.state.index.delete(&key, revision);
        self.pending.push(Entry { revision, tombstone: true, key, ..Entry::default() });
    }

    /// Leases end together with their keys, which share one main revision; if there are none, the revision stays.
    fn lease(&mut self, command: &LeaseCommand) -> Result<Outcome, Refusal> {
        let granted = Granted { index: self.at.index, position: self.position };
        let done = self.state.leases.apply(command, self.at.term, granted, &mut self.leases)?;
        for key in done.keys {
            self.bury(Bytes::copy_from_slice(&key));
        }
        Ok(done.outcome)
    }

    fn auth(&mut self, command: &AuthCommand) -> Result<Outcome, Refusal> {
        let done = self.state.auth.apply(command, self.at.index, &mut self.auth)?;
        self.auth_events.extend(done.event);
        Ok(done.outcome)
    }

    fn compact(&mut self, compact: Compact) -> Result<Outcome, Refusal> {
        if compact.revision <= self.state.compacted {
            return Err(Refusal::Compacted);
        }
        if compact.revision > self.state.revision {
            return Err(Refusal::FutureRevision);
        }
        self.state.compacted = compact.revision;
        Ok(Outcome::Compact)
    }

    fn next_revision(&mut self) -> Revision {
        let revision = Revision::new(self.state.revision + 1, self.subs);
        self.subs += 1;
        revision
    }
}
