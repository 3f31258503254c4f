//! Connections to what a playground serves itself: so many at a time, each on a task of its own. An edge.
//!
//! Invariant: the connections end with the task that accepts them. Called by `api_server` and `control`.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Wait after an accept that failed.
const RETRY: Duration = Duration::from_millis(50);

/// Serves what is accepted, at most `most` connections at a time, for as long as anything is. `what` accepts, for people.
pub(super) async fn accept<S, F>(
    what: &'static str,
    most: usize,
    accepted: impl Stream<Item = io::Result<S>>,
    serve: impl Fn(S) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let mut accepted = std::pin::pin!(accepted);
    let permits = Arc::new(Semaphore::new(most));
    let mut connections = JoinSet::new();
    while let Ok(permit) = Arc::clone(&permits).acquire_owned().await {
        match accepted.next().await {
            Some(Ok(stream)) => {
                let serving = serve(stream);
                connections.spawn(async move {
                    let _permit = permit;
                    serving.await;
                });
            }
            Some(Err(error)) => {
                tracing::warn!(%error, what, "cannot accept, trying again");
                tokio::time::sleep(RETRY).await;
            }
            None => return,
        }
        while connections.try_join_next().is_some() {}
    }
}
