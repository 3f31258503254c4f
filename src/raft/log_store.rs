//! The write-ahead log as openraft wants it. A thin adapter: order, durability and damage are `storage::log`'s matter.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};

use openraft::OptionalSend;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use tokio::sync::oneshot;

use super::codec;
use super::types::{self, Entry, LogId, TypeConfig, Vote};
use crate::env::simulated::{self, Bug, EntryId, Seen};
use crate::identity::NodeId;
use crate::limits;
use crate::storage::{self, Log};

/// openraft's view of the log.
#[derive(Clone, Debug)]
pub struct LogStore {
    /// Whose it is, for a simulation that watches.
    node: NodeId,
    log: Log,
    /// The committed entry that the log recorded last before this start.
    committed: Option<LogId>,
}

impl LogStore {
    /// `committed`: what the log recorded when it was opened.
    pub fn new(log: Log, committed: Option<storage::LogId>) -> Self {
        Self { node: NodeId(0), log, committed: committed.map(types::log_id) }
    }

    /// Names the member whose log it is.
    #[must_use]
    pub fn of(self, node: NodeId) -> Self {
        Self { node, ..self }
    }

    fn last(&self) -> EntryId {
        self.log.last().or(self.log.purged()).map_or((0, 0), |id| (id.term, id.index))
    }
}

/// Waits until a write of the log is durable.
async fn durable(write: impl FnOnce(storage::Done)) -> io::Result<()> {
    let (done, durable) = oneshot::channel();
    write(Box::new(move |result| {
        // The waiter is gone only if openraft is shutting down.
        let _ = done.send(result);
    }));
    durable.await.unwrap_or_else(|_| Err(io::Error::other("the log was closed")))
}

fn entry_of(stored: storage::Entry) -> io::Result<Entry> {
    let id = stored.id;
    let payload = codec::decode_payload(stored.payload).map_err(|error| {
        io::Error::new(io::ErrorKind::InvalidData, format!("entry {}-{}: {error}", id.term, id.index))
    })?;
    Ok(Entry { log_id: types::log_id(id), payload })
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(start) => start.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(end) => end.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => self.log.last().map_or(0, |last| last.index.saturating_add(1)),
        };
        // What is missing at the begin of the range is left out; the log reads nothing from where there is nothing.
        let first = self.log.first_last().map_or(start, |(first, _)| first.max(start));
        self.log.read(first..end, usize::MAX)?.into_iter().map(entry_of).collect()
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.log.read(start..end, limits::APPEND_BYTES)?.into_iter().map(entry_of).collect()
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.log.vote().map(types::vote))
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let purged = self.log.purged().map(types::log_id);
        Ok(LogState {
            last_purged_log_id: purged,
            last_log_id: self.log.last().map(types::log_id).or(purged),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let vote = types::stored_vote(vote);
        let node = self.node.0;
        if let (true, Some(leader)) = (vote.committed, vote.node) {
            simulated::tell(|| Seen::Leads { node, term: vote.term, leader, last: self.last() });
        }
        durable(|done| self.log.save_vote(vote, done)).await?;
        let seen = (vote.term, vote.node.unwrap_or_default(), vote.committed);
        simulated::tell(|| Seen::Voted { node, vote: seen });
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        if let Some(id) = committed {
            self.log.save_committed(types::stored_log_id(&id));
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let kept = self.log.last().filter(|_| simulated::planted(Bug::ForgetTruncation));
        let entries: Vec<_> = entries
            .into_iter()
            .filter(|entry| kept.is_none_or(|kept| kept.index < entry.log_id.index))
            .map(|entry| storage::Entry {
                id: types::stored_log_id(&entry.log_id),
                payload: codec::encode_payload(&entry.payload),
            })
            .collect();
        let node = self.node.0;
        let mut last = (0, 0);
        for entry in &entries {
            last = (entry.id.term, entry.id.index);
            let digest = || simulated::digest(&entry.payload);
            simulated::tell(|| Seen::Logged { node, id: last, digest: digest() });
        }
        if simulated::planted(Bug::FlushedTooEarly) {
            simulated::tell(|| Seen::Durable { node, id: last });
            callback.io_completed(Ok(()));
            self.log.append(entries, Box::new(drop));
            return Ok(());
        }
        let done = move |result: io::Result<()>| {
            if result.is_ok() {
                simulated::tell(|| Seen::Durable { node, id: last });
            }
            callback.io_completed(result);
        };
        self.log.append(entries, Box::new(done));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        if simulated::planted(Bug::ForgetTruncation) {
            return Ok(());
        }
        let last = last.as_ref().map(types::stored_log_id);
        if let (Some(after), Some(end)) = (last, self.log.last())
            && after.index > end.index
        {
            // Nothing is there that could be removed.
            return Ok(());
        }
        let id = last.map_or((0, 0), |id| (id.term, id.index));
        let node = self.node.0;
        simulated::tell(|| Seen::Truncated { node, id, done: false });
        durable(|done| self.log.truncate_after(last, done)).await?;
        simulated::tell(|| Seen::Truncated { node, id, done: true });
        Ok(())
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        let mut upto = types::stored_log_id(&upto);
        if simulated::planted(Bug::CutTooFar)
            && let Some(last) = self.log.last()
        {
            upto = last;
        }
        let (node, index) = (self.node.0, upto.index);
        simulated::tell(|| Seen::Cut { node, index });
        durable(|done| self.log.purge(upto, done)).await
    }
}
