//! Work that blocks: it gets a thread of its own in production and a task in a simulation.

use std::fmt::Debug;

use futures::future::BoxFuture;

/// Work that comes in steps, each of which may block.
pub trait Work: Send {
    /// Waits until there is something to do; false when there never will be again.
    fn wait(&mut self) -> BoxFuture<'_, bool>;
    /// Does what there is to do.
    fn step(&mut self);
}

/// Runs work that blocks.
pub trait Tasks: Debug + Send + Sync {
    /// Drives `work` until its [`Work::wait`] says false. The future ends when the work has been dropped; dropping the
    /// future does not stop the work.
    fn drive(&self, name: &'static str, work: Box<dyn Work>) -> BoxFuture<'static, ()>;
    /// Runs `job` once where it may block; the future ends with it.
    fn blocking(&self, job: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()>;
}

/// Threads of the operating system.
#[derive(Debug)]
pub struct Threads;

#[allow(clippy::disallowed_methods)] // The one place that starts threads.
impl Tasks for Threads {
    fn drive(&self, name: &'static str, mut work: Box<dyn Work>) -> BoxFuture<'static, ()> {
        let (done, ended) = tokio::sync::oneshot::channel();
        let spawned = std::thread::Builder::new().name(name.into()).spawn(move || {
            while futures::executor::block_on(work.wait()) {
                work.step();
            }
            drop(work);
            let _ = done.send(());
        });
        if let Err(error) = spawned {
            tracing::error!(name, %error, "no thread could be started; the work will not be done");
        }
        Box::pin(async move {
            let _ = ended.await;
        })
    }

    fn blocking(&self, job: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        let handle = tokio::task::spawn_blocking(job);
        Box::pin(async move {
            if let Err(error) = handle.await
                && error.is_panic()
            {
                std::panic::resume_unwind(error.into_panic());
            }
        })
    }
}
