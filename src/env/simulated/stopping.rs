//! Processes that stand still for a while, as after SIGSTOP or while a virtual machine is paused: their tasks do nothing, and time goes
//! on. Afterwards all timers that are over fire at once, late.
//!
//! A simulation cannot keep the clock of a process from moving. So the tasks that a node spawns are wrapped: while the runtime of their
//! process stands still they are not polled, and all that would have been are woken afterwards. Everything is per thread, as a simulation is.

use std::cell::RefCell;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tokio::runtime::{Handle, Id};

thread_local! {
    /// Runtimes that stand still, each with what is to be woken.
    static STANDING: RefCell<Vec<(Id, Vec<Waker>)>> = const { RefCell::new(Vec::new()) };
}

/// A future that is not polled while its process stands still.
#[derive(Debug)]
pub struct Stoppable<F>(Pin<Box<F>>);

/// Lets a future stand still when its process does.
pub fn stoppable<F: Future>(future: F) -> Stoppable<F> {
    Stoppable(Box::pin(future))
}

/// True if the process of the running task stands still; its waker is kept then.
pub fn stands_still(cx: &Context<'_>) -> bool {
    STANDING.with_borrow_mut(|standing| {
        if standing.is_empty() {
            return false;
        }
        let runtime = Handle::current().id();
        let found = standing.iter_mut().find(|(id, _)| *id == runtime);
        found.map(|(_, wakers)| wakers.push(cx.waker().clone())).is_some()
    })
}

impl<F: Future> Future for Stoppable<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        if stands_still(cx) {
            return Poll::Pending;
        }
        self.0.as_mut().poll(cx)
    }
}

/// The process whose runtime this is stands still from now on.
pub fn stop(runtime: Id) {
    STANDING.with_borrow_mut(|standing| {
        if standing.iter().all(|(id, _)| *id != runtime) {
            standing.push((runtime, Vec::new()));
        }
    });
}

/// It goes on, or is gone.
pub fn go_on(runtime: Id) {
    let found = STANDING.with_borrow_mut(|standing| {
        let place = standing.iter().position(|(id, _)| *id == runtime)?;
        Some(standing.remove(place))
    });
    // Outside, because whoever is woken may ask whether it stands still.
    found.into_iter().flat_map(|(_, wakers)| wakers).for_each(Waker::wake);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::{Instant, sleep};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn timers_of_who_stands_still_fire_late_and_all_at_once() {
        let runtime = Handle::current().id();
        let begin = Instant::now();
        let timers = [10, 50, 2_000].map(|millis| {
            tokio::spawn(stoppable(async move {
                sleep(Duration::from_millis(millis)).await;
                begin.elapsed()
            }))
        });
        sleep(Duration::from_millis(20)).await;
        stop(runtime);
        sleep(Duration::from_secs(1)).await;
        assert_eq!(timers.each_ref().map(tokio::task::JoinHandle::is_finished), [true, false, false]);
        go_on(runtime);
        let [first, second, third] = timers;
        assert_eq!(first.await.unwrap(), Duration::from_millis(10));
        assert_eq!(second.await.unwrap(), Duration::from_millis(1_020));
        assert_eq!(third.await.unwrap(), Duration::from_secs(2));
    }

    #[tokio::test(start_paused = true)]
    async fn another_process_does_not_stand_still() {
        let other = tokio::runtime::Builder::new_current_thread().build().unwrap();
        stop(other.handle().id());
        let task = tokio::spawn(stoppable(async { sleep(Duration::from_millis(5)).await }));
        task.await.unwrap();
        go_on(other.handle().id());
        other.shutdown_background();
    }
}
