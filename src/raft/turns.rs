//! One request to a peer at a time: the next is taken from openraft when it has taken the answer to the last.
//!
//! openraft counts an answer for every request that it handed out up to the entry that the answer names, and as sent when
//! the last of them was. A request that only tells a commit ends at the same entry as the append before it, so a late answer
//! to the append would confirm the leader at the time of that later request, which the peer may never have seen: a leader
//! that was paused in between, and has been deposed, would then serve a stale read. Entries are one append in flight anyway.

use std::sync::Arc;

use futures::{Stream, StreamExt};
use tokio::sync::Semaphore;

/// Whether a request may be taken: at first, and again after each answer. The requests end when nobody takes answers any more.
pub(crate) struct Turns(Arc<Semaphore>);

impl Drop for Turns {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Turns {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }

    /// The requests of `input`, each taken in its turn.
    pub(crate) fn requests<S: Stream + Unpin>(&self, input: S) -> impl Stream<Item = S::Item> + use<S> {
        futures::stream::unfold((input, self.0.clone()), |(mut input, turns)| async move {
            turns.acquire().await.ok()?.forget();
            let request = input.next().await?;
            Some((request, (input, turns)))
        })
    }

    /// The same `answers`. Who asks for the next has dealt with the last: then it is the next request's turn.
    pub(crate) fn answers<S: Stream + Unpin>(self, answers: S) -> impl Stream<Item = S::Item> + use<S> {
        futures::stream::unfold((answers, self, false), |(mut answers, turns, was_taken)| async move {
            if was_taken {
                turns.0.add_permits(1);
            }
            let answer = answers.next().await?;
            Some((answer, (answers, turns, true)))
        })
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use tokio::sync::mpsc;
    use tokio_stream::wrappers::UnboundedReceiverStream;

    use super::*;

    #[tokio::test]
    async fn the_next_request_is_taken_when_the_last_answer_was_dealt_with() {
        let turns = Turns::new();
        let (answer, answers) = mpsc::unbounded_channel();
        let mut requests = std::pin::pin!(turns.requests(futures::stream::iter(1..)));
        let mut answers = std::pin::pin!(turns.answers(UnboundedReceiverStream::new(answers)));

        for turn in 1..4 {
            assert_eq!(requests.next().await, Some(turn));
            assert_eq!(requests.next().now_or_never(), None, "the answer is on its way");
            assert_eq!(answers.next().now_or_never(), None);
            assert_eq!(requests.next().now_or_never(), None, "whoever waits has dealt with nothing");
            answer.send(turn).unwrap();
            assert_eq!(answers.next().await, Some(turn));
            assert_eq!(requests.next().now_or_never(), None, "the answer was taken, and not yet counted");
            assert_eq!(answers.next().now_or_never(), None);
        }
        assert_eq!(requests.next().await, Some(4));
    }

    #[tokio::test]
    async fn nothing_is_sent_when_nobody_takes_answers() {
        let turns = Turns::new();
        let mut requests = std::pin::pin!(turns.requests(futures::stream::iter(1..)));
        let answers = turns.answers(futures::stream::pending::<u8>());
        assert_eq!(requests.next().await, Some(1));
        assert_eq!(requests.next().now_or_never(), None);
        drop(answers);
        assert_eq!(requests.next().await, None);
    }
}
