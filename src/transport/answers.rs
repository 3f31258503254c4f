//! How much a connection may leave unread.
//!
//! HTTP/2 bounds what a client *sends*; what it does not *read* waits in our memory, for up to as many streams as it may
//! open. So every connection has a budget: the bytes of its answers count from when an answer is made until the last of
//! it was written to the socket, and while they exceed the budget, further requests are refused. Reads of ranges, whose
//! answers can be of any size, also take turns, because an answer counts only once it is there.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::limits;

/// The unread answers of one connection. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Answers(Arc<State>);

#[derive(Debug)]
struct State {
    unread_bytes: AtomicUsize,
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
        self.answers.0.unread_bytes.fetch_sub(self.bytes.len(), Ordering::Relaxed);
    }
}

impl Default for Answers {
    fn default() -> Self {
        Self::new()
    }
}

impl Answers {
    /// Of a new connection.
    pub fn new() -> Self {
        Self(Arc::new(State {
            unread_bytes: AtomicUsize::new(0),
            turns: Arc::new(Semaphore::new(limits::RANGE_READS_PER_CONNECTION)),
        }))
    }

    /// Bytes that the client has left unread.
    pub fn unread_bytes(&self) -> usize {
        self.0.unread_bytes.load(Ordering::Relaxed)
    }

    /// Whether further requests of this connection are to be refused.
    pub fn is_exhausted(&self) -> bool {
        self.unread_bytes() > limits::UNREAD_ANSWER_BYTES
    }

    /// The same bytes, counted until they are dropped. Small ones are not counted.
    pub fn count(&self, bytes: Bytes) -> Bytes {
        if bytes.len() < limits::UNCOUNTED_ANSWER_BYTES {
            return bytes;
        }
        self.0.unread_bytes.fetch_add(bytes.len(), Ordering::Relaxed);
        Bytes::from_owner(Counted { bytes, answers: self.clone() })
    }

    /// Waits for the turn to make an answer of any size; it is over when the permit is dropped. `None` if the turn did not
    /// come within [`limits::REQUEST_TIMEOUT`], or came when the budget was exhausted.
    pub async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        let turn = match Arc::clone(&self.0.turns).try_acquire_owned() {
            Ok(turn) => turn,
            Err(_) => {
                tokio::time::timeout(limits::REQUEST_TIMEOUT, Arc::clone(&self.0.turns).acquire_owned())
                    .await
                    .ok()?
                    .ok()?
            }
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
        let answers = Answers::new();
        let size = limits::UNREAD_ANSWER_BYTES / 2 + 1;
        let first = answers.count(Bytes::from(vec![1; size]));
        assert!(!answers.is_exhausted() && answers.turn().await.is_some());
        let mut second = answers.count(Bytes::from(vec![2; size]));
        assert!(answers.is_exhausted());
        assert!(answers.turn().await.is_none());
        drop(first);
        assert_eq!(answers.unread_bytes(), size);
        let rest = second.split_off(size - 1);
        drop(second);
        assert_eq!(answers.unread_bytes(), size, "a piece of it is still there");
        drop(rest);
        assert_eq!(answers.unread_bytes(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn turns_are_bounded_and_waiting_for_one_is_too() {
        let answers = Answers::new();
        let mut turns = Vec::new();
        for _ in 0..limits::RANGE_READS_PER_CONNECTION {
            turns.push(answers.turn().await.unwrap());
        }
        assert!(answers.turn().await.is_none(), "nobody gave a turn back");
        turns.pop();
        assert!(answers.turn().await.is_some());
    }
}
