//! A world for the tests of storage: simulated files, and work that is done when the test says so, in its thread.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;

use crate::env::network::Tcp;
use crate::env::simulated_files::SimulatedFiles;
use crate::env::{Env, Files, Lookup, Names, Random, Tasks, Work, clock::SystemClock, tasks::Threads};

#[derive(Debug)]
struct NoNames;

impl Names for NoNames {
    fn lookup<'a>(&'a self, _fqdn: &'a str) -> BoxFuture<'a, Lookup> {
        Box::pin(async { Lookup::Unknown("no names here".to_owned()) })
    }
}

#[derive(Debug, Default)]
pub struct Counting(AtomicU64);

impl Random for Counting {
    fn next_u64(&self) -> u64 {
        self.0.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed).wrapping_add(0x1234_5678_9ABC_DEF1)
    }
}

/// Work waits here until [`Manual::run`].
#[derive(Default)]
pub struct Manual(Mutex<Vec<Box<dyn Work>>>);

impl std::fmt::Debug for Manual {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Manual")
    }
}

impl Manual {
    /// Does all that there is to do.
    pub fn run(&self) {
        let mut works = std::mem::take(&mut *self.0.lock());
        works.retain_mut(|work| {
            loop {
                let ready = work.wait().now_or_never();
                match ready {
                    Some(true) => work.step(),
                    Some(false) => return false,
                    None => return true,
                }
            }
        });
        self.0.lock().extend(works);
    }

    /// The process is gone: the work ends wherever it was.
    pub fn abandon(&self) {
        self.0.lock().clear();
    }
}

impl Tasks for Manual {
    fn drive(&self, _name: &'static str, work: Box<dyn Work>) -> BoxFuture<'static, ()> {
        self.0.lock().push(work);
        Box::pin(async {})
    }

    fn blocking(&self, job: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        job();
        Box::pin(async {})
    }
}

/// A world of simulated files.
pub struct World {
    pub files: SimulatedFiles,
    pub tasks: Arc<Manual>,
    pub env: Env,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let files = SimulatedFiles::new(seed);
        files.create_dir_all(Path::new("/data")).unwrap();
        files.sync_dir(Path::new("/")).unwrap();
        let tasks = Arc::new(Manual::default());
        let env = env(Arc::new(files.clone()), tasks.clone());
        Self { files, tasks, env }
    }
}

fn env(files: Arc<dyn Files>, tasks: Arc<dyn Tasks>) -> Env {
    Env {
        clock: Arc::new(SystemClock),
        random: Arc::new(Counting::default()),
        files,
        network: Arc::new(Tcp::default()),
        names: Arc::new(NoNames),
        tasks,
        owner: None,
    }
}

/// The real world, but for names and randomness.
pub fn real() -> Env {
    env(Arc::new(crate::env::real_files::RealFiles), Arc::new(Threads))
}
