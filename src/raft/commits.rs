//! When followers hear that an entry is committed.
//!
//! openraft tells them at once, in a message without entries, and such a message costs both sides as much as one with
//! entries. Here it waits for the next entries, which say the same, for at most [`limits::COMMIT_DELAY`]; but not when
//! somebody waits at a follower for the entry to be applied there: after a forwarded request, or with a read index.

use futures::{Stream, StreamExt};
use openraft::raft::AppendEntriesRequest;
use tokio::sync::watch;

use super::types::TypeConfig;
use crate::limits;

type Append = AppendEntriesRequest<TypeConfig>;

/// The highest entry that somebody waits for at a follower.
#[derive(Clone, Debug)]
pub(crate) struct Wanted(watch::Sender<u64>);

impl Wanted {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(0))
    }

    /// Somebody waits at a follower until this entry is applied there.
    pub(crate) fn raise(&self, index: u64) {
        self.0.send_if_modified(|wanted| {
            let higher = index > *wanted;
            *wanted = (*wanted).max(index);
            higher
        });
    }

    /// The requests of `input`, without those that only told a commit which the next one tells as well. Their answers are
    /// not missed: openraft takes an answer for one to all requests up to the entry that it names.
    pub(crate) fn merge<S: Stream<Item = Append> + Unpin>(
        &self,
        input: S,
    ) -> impl Stream<Item = Append> + use<S> {
        futures::stream::unfold((input.fuse(), self.0.subscribe()), |(mut input, mut wanted)| async move {
            let first = input.next().await?;
            let request = with_next(first, &mut input, &mut wanted).await;
            Some((request, (input, wanted)))
        })
    }
}

async fn with_next(
    mut request: Append,
    input: &mut (impl Stream<Item = Append> + Unpin),
    wanted: &mut watch::Receiver<u64>,
) -> Append {
    let mut delay = std::pin::pin!(tokio::time::sleep(limits::COMMIT_DELAY));
    while request.entries.is_empty() {
        let commit = request.leader_commit.as_ref().map_or(0, |id| id.index);
        let is_wanted = async {
            // It ends with its sender, and that with this member.
            let _ = wanted.wait_for(|wanted| *wanted >= commit).await;
        };
        tokio::select! {
            biased;
            () = is_wanted => break,
            next = input.next() => match next {
                Some(next) => request = next,
                None => break,
            },
            () = &mut delay => break,
        }
    }
    request
}

#[cfg(test)]
mod tests {
    use std::ops::Range;
    use std::time::Duration;

    use futures::FutureExt;
    use tokio::sync::mpsc;
    use tokio::time::Instant;
    use tokio_stream::wrappers::UnboundedReceiverStream;

    use super::super::types;
    use super::*;
    use crate::identity::NodeId;
    use crate::storage::LogId;

    fn id(index: u64) -> types::LogId {
        types::log_id(LogId { term: 1, index })
    }

    /// The entries and the commit of a request.
    type Seen = (Range<u64>, u64);

    fn request((entries, commit): Seen) -> Append {
        Append {
            vote: types::Vote::new_committed(1, NodeId::new(0, 1)),
            prev_log_id: entries.start.checked_sub(1).map(id),
            leader_commit: Some(id(commit)),
            entries: entries
                .map(|index| types::Entry { log_id: id(index), payload: types::EntryPayload::Blank })
                .collect(),
        }
    }

    fn seen(request: &Append) -> Seen {
        let start = request.prev_log_id.map_or(0, |id| id.index + 1);
        (start..start + request.entries.len() as u64, request.leader_commit.unwrap().index)
    }

    fn channel() -> (mpsc::UnboundedSender<Seen>, Wanted, impl Stream<Item = Seen>) {
        let (sender, input) = mpsc::unbounded_channel();
        let wanted = Wanted::new();
        let requests = UnboundedReceiverStream::new(input).map(request);
        let output = wanted.merge(requests).map(|request| seen(&request));
        (sender, wanted, output)
    }

    #[tokio::test(start_paused = true)]
    async fn a_commit_goes_with_the_next_entries() {
        let (sender, _wanted, output) = channel();
        let mut output = std::pin::pin!(output);
        for request in [(5..5, 4), (5..5, 5), (5..7, 5), (7..9, 6)] {
            sender.send(request).unwrap();
        }
        assert_eq!(output.next().await, Some((5..7, 5)));
        assert_eq!(output.next().await, Some((7..9, 6)), "what carries entries is never left out");
    }

    #[tokio::test(start_paused = true)]
    async fn a_commit_that_nothing_follows_goes_alone_after_a_moment() {
        let (sender, _wanted, output) = channel();
        let mut output = std::pin::pin!(output);
        sender.send((5..5, 4)).unwrap();
        let start = Instant::now();
        assert_eq!(output.next().now_or_never(), None);
        // One commit after the other: the delay is that of the first, and the last is told.
        sender.send((5..5, 5)).unwrap();
        assert_eq!(output.next().await, Some((5..5, 5)));
        // Timers go on by whole milliseconds.
        let delays = limits::COMMIT_DELAY..=limits::COMMIT_DELAY + Duration::from_millis(1);
        assert!(delays.contains(&start.elapsed()), "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_commit_that_somebody_waits_for_goes_at_once() {
        let (sender, wanted, output) = channel();
        let mut output = std::pin::pin!(output);
        let start = Instant::now();
        wanted.raise(4);
        wanted.raise(3);
        sender.send((5..5, 4)).unwrap();
        assert_eq!(output.next().await, Some((5..5, 4)));
        sender.send((6..6, 5)).unwrap();
        assert_eq!(output.next().now_or_never(), None, "nobody waits for it");
        wanted.raise(5);
        assert_eq!(output.next().await, Some((6..6, 5)));
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_at_the_end_is_not_lost() {
        let (sender, _wanted, output) = channel();
        let mut output = std::pin::pin!(output);
        sender.send((5..5, 4)).unwrap();
        drop(sender);
        assert_eq!(output.next().await, Some((5..5, 4)));
        assert_eq!(output.next().await, None);
    }
}
