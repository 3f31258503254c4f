//! How much clients may leave unread.
//!
//! HTTP/2 bounds what a client *sends*; what it does not *read* waits in our memory, for up to as many streams as it may
//! open. So the bytes of answers count, for their connection and for the port, from when an answer is made until the last of
//! it was written to the socket. While a connection's exceed its budget, its further requests are refused; if those of all
//! connections exceed theirs, the budget of each is small. An answer counts only once it is there; so that not too many are
//! made at once, large ones take turns.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::limits;

/// The unread answers of all connections of a port. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct AllAnswers(Arc<AtomicUsize>);

/// The unread answers of one connection. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Answers(Arc<State>);

#[derive(Debug)]
struct State {
    unread_bytes: AtomicUsize,
    all: AllAnswers,
    turns: Arc<Semaphore>,
}

/// Bytes that count until they are dropped.
struct Counted {
    bytes: Bytes,
    answers: Answers,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let State { unread_bytes, all, .. } = &*self.answers.0;
        unread_bytes.fetch_sub(self.bytes.len(), Ordering::Relaxed);
        all.0.fetch_sub(self.bytes.len(), Ordering::Relaxed);
    }
}

impl Answers {
    /// Of a new connection.
    pub fn new(all: &AllAnswers) -> Self {
        Self(Arc::new(State {
            unread_bytes: AtomicUsize::new(0),
            all: all.clone(),
            turns: Arc::new(Semaphore::new(limits::ANSWERS_IN_THE_MAKING as usize)),
        }))
    }

    /// Bytes that the client has left unread.
    pub fn unread_bytes(&self) -> usize {
        self.0.unread_bytes.load(Ordering::Relaxed)
    }

    /// Whether further requests of this connection are to be refused.
    pub fn is_exhausted(&self) -> bool {
        let unread = self.unread_bytes();
        unread > limits::UNREAD_ANSWER_BYTES
            || unread > limits::UNREAD_ANSWER_BYTES_WHEN_SCARCE
                && self.0.all.0.load(Ordering::Relaxed) > limits::UNREAD_ANSWER_BYTES_OF_ALL
    }

    /// The same bytes, counted until they are dropped. Small ones are not counted.
    pub fn count(&self, bytes: Bytes) -> Bytes {
        if bytes.len() < limits::UNCOUNTED_ANSWER_BYTES {
            return bytes;
        }
        self.0.unread_bytes.fetch_add(bytes.len(), Ordering::Relaxed);
        self.0.all.0.fetch_add(bytes.len(), Ordering::Relaxed);
        Bytes::from_owner(Counted { bytes, answers: self.clone() })
    }

    /// Waits for the turn to make a large answer, which counts for `share` of [`limits::ANSWERS_IN_THE_MAKING`]; the turn is
    /// over when the permit is dropped. `None` if it did not come within [`limits::REQUEST_TIMEOUT`], or came when the
    /// budget was exhausted.
    pub async fn turn(&self, share: u32) -> Option<OwnedSemaphorePermit> {
        let turns = || Arc::clone(&self.0.turns);
        let turn = match turns().try_acquire_many_owned(share) {
            Ok(turn) => turn,
            Err(_) => tokio::time::timeout(limits::REQUEST_TIMEOUT, turns().acquire_many_owned(share))
                .await
                .ok()?
                .ok()?,
        };
        (!self.is_exhausted()).then_some(turn)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn answers_count_until_the_last_of_them_is_dropped() {
        let answers = Answers::new(&AllAnswers::default());
        let size = limits::UNREAD_ANSWER_BYTES / 2 + 1;
        let first = answers.count(Bytes::from(vec![1; size]));
        assert!(!answers.is_exhausted() && answers.turn(1).await.is_some());
        let mut second = answers.count(Bytes::from(vec![2; size]));
        assert!(answers.is_exhausted());
        assert!(answers.turn(1).await.is_none());
        drop(first);
        assert_eq!(answers.unread_bytes(), size);
        let rest = second.split_off(size - 1);
        drop(second);
        assert_eq!(answers.unread_bytes(), size, "a piece of it is still there");
        drop(rest);
        assert_eq!(answers.unread_bytes(), 0);
    }

    #[test]
    fn many_connections_that_do_not_read_do_not_add_up_and_harm_none_that_does() {
        let all = AllAnswers::default();
        let each = limits::UNREAD_ANSWER_BYTES / 2;
        let lazy: Vec<_> = (0..=limits::UNREAD_ANSWER_BYTES_OF_ALL / each)
            .map(|_| {
                let answers = Answers::new(&all);
                let unread = answers.count(Bytes::from(vec![0; each]));
                (answers, unread)
            })
            .collect();
        assert!(lazy.iter().all(|(answers, _)| answers.is_exhausted()));
        let reader = Answers::new(&all);
        let under_way = reader.count(Bytes::from(vec![0; limits::UNREAD_ANSWER_BYTES_WHEN_SCARCE]));
        assert!(!reader.is_exhausted());
        let two: Vec<_> = lazy.into_iter().skip(2).collect();
        assert!(two.iter().all(|(answers, _)| !answers.is_exhausted()), "there is room again");
        drop((under_way, two));
        assert_eq!(all.0.load(Ordering::Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn turns_are_bounded_and_waiting_for_one_is_too() {
        let answers = Answers::new(&AllAnswers::default());
        let mut turns = Vec::new();
        for _ in 0..limits::ANSWERS_IN_THE_MAKING / limits::LARGE_ANSWER_SHARE {
            turns.push(answers.turn(limits::LARGE_ANSWER_SHARE).await.unwrap());
        }
        assert!(answers.turn(1).await.is_none(), "nobody gave a turn back");
        turns.pop();
        assert!(answers.turn(1).await.is_some());
    }
}
