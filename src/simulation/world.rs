//! The world that a simulated pod lives in: one implementation of each trait of `env`, all of them driven by the seed.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use parking_lot::Mutex;

use super::network::{SimulatedNetwork, Zone};
use crate::env::files::{File, Files, Lock, Open, Space};
use crate::env::owner::{Owner, Seen};
use crate::env::simulated::{self, Bug, mix};
use crate::env::simulated_files::SimulatedFiles;
use crate::env::{Clock, Env, Random, Tasks, Work};

/// Wall-clock time at which every simulation begins: 2026-01-01.
pub(super) const BEGIN_UNIX_MILLIS: u64 = 1_767_225_600_000;

/// Microseconds that a step of work on a healthy disk takes at most.
pub const STEP_MICROS: u64 = 500;

/// Numbers from a seed (splitmix64). Clones share their place in the sequence.
#[derive(Clone, Debug)]
pub struct Dice(Arc<AtomicU64>);

impl Dice {
    /// The sequence of a seed.
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(AtomicU64::new(mix(seed))))
    }

    /// The next number.
    pub fn next(&self) -> u64 {
        mix(self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed))
    }

    /// A number below `bound`; 0 if that is 0.
    pub fn below(&self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// A number from `low` to `high`, both included.
    pub fn within(&self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// True in `percent` of a hundred cases.
    pub fn chance(&self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of these.
    pub fn pick<'a, T>(&self, of: &'a [T]) -> Option<&'a T> {
        of.get(self.below(of.len() as u64) as usize)
    }
}

impl Random for Dice {
    fn next_u64(&self) -> u64 {
        self.next()
    }
}

/// Time since the simulation began, as its driver keeps it.
#[derive(Clone, Debug, Default)]
pub struct Now(Arc<AtomicU64>);

impl Now {
    /// Milliseconds since the begin.
    pub fn millis(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Sets it.
    pub fn set(&self, millis: u64) {
        self.0.store(millis, Ordering::Relaxed);
    }
}

/// A wall clock that may be wrong.
#[derive(Debug)]
struct PodClock(Now, Arc<AtomicI64>);

impl Clock for PodClock {
    fn unix_millis(&self) -> u64 {
        let error = self.1.load(Ordering::Relaxed) * 1_000;
        (BEGIN_UNIX_MILLIS + self.0.millis()).saturating_add_signed(error)
    }
}

/// Work as tasks. A step takes simulated time before it begins, as a disk does, so that crashes come in between.
#[derive(Clone, Debug)]
pub struct SimulatedTasks {
    /// Microseconds that a step takes; the driver of the simulation changes it.
    pub latency: Arc<AtomicU64>,
    /// Nothing is done at all.
    pub stuck: Arc<AtomicBool>,
    dice: Dice,
}

impl SimulatedTasks {
    /// Tasks of one pod.
    pub fn new(dice: Dice) -> Self {
        Self { latency: Arc::new(AtomicU64::new(STEP_MICROS)), stuck: Arc::default(), dice }
    }

    async fn take_time(&self) {
        let latency = self.latency.load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_micros(self.dice.within(latency / 2, latency))).await;
        while self.stuck.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Tasks for SimulatedTasks {
    fn drive(&self, _name: &'static str, mut work: Box<dyn Work>) -> BoxFuture<'static, ()> {
        let pace = self.clone();
        let task = tokio::spawn(async move {
            while work.wait().await {
                pace.take_time().await;
                work.step();
            }
        });
        Box::pin(async move {
            // It ends in no other way than by itself: a crash drops whoever waits here as well.
            let _ = task.await;
        })
    }

    fn blocking(&self, job: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        let pace = self.clone();
        let task = tokio::spawn(async move {
            pace.take_time().await;
            job();
        });
        Box::pin(async move {
            let _ = task.await;
        })
    }
}

/// A disk that a planted bug makes lie.
#[derive(Debug)]
struct Disk(SimulatedFiles, Dice);

#[derive(Debug)]
struct DiskFile(Box<dyn File>, Dice);

impl File for DiskFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_at(bytes, offset)
    }
    fn sync_data(&self) -> io::Result<()> {
        if simulated::planted(Bug::AcknowledgeBeforeSync) && self.1.below(8) != 0 {
            return Ok(());
        }
        self.0.sync_data()
    }
    fn allocate(&self, length: u64) -> io::Result<()> {
        self.0.allocate(length)
    }
    fn set_length(&self, length: u64) -> io::Result<()> {
        self.0.set_length(length)
    }
    fn length(&self) -> io::Result<u64> {
        self.0.length()
    }
}

impl Files for Disk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Box<dyn File>> {
        Ok(Box::new(DiskFile(self.0.open(path, how)?, self.1.clone())))
    }
    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        self.0.list(directory)
    }
    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.0.exists(path)
    }
    fn create_dir_all(&self, directory: &Path) -> io::Result<()> {
        self.0.create_dir_all(directory)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.0.remove_file(path)
    }
    fn remove_dir_all(&self, directory: &Path) -> io::Result<()> {
        self.0.remove_dir_all(directory)
    }
    fn sync_dir(&self, directory: &Path) -> io::Result<()> {
        if simulated::planted(Bug::NoDirectorySync) {
            return Ok(());
        }
        self.0.sync_dir(directory)
    }
    fn space(&self, path: &Path) -> io::Result<Space> {
        self.0.space(path)
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        self.0.lock(path)
    }
}

/// Everything that outlives the processes of a pod.
#[derive(Clone, Debug)]
pub struct Pod {
    /// Its place in the set.
    pub ordinal: u16,
    /// Its volume.
    pub files: SimulatedFiles,
    /// Its pace.
    pub tasks: SimulatedTasks,
    /// Its connections.
    pub network: SimulatedNetwork,
    /// By how many seconds its wall clock is wrong.
    pub clock_error: Arc<AtomicI64>,
    dice: Dice,
}

/// The `StatefulSet`, as members ask for it: now and then there is no answer.
pub struct SimulatedOwner {
    /// Size and generation.
    spec: Mutex<(u16, i64)>,
    is_away: AtomicBool,
    dice: Dice,
}

impl SimulatedOwner {
    /// A set that was just created.
    pub fn new(size: u16, seed: u64) -> Self {
        Self {
            spec: Mutex::new((size, 1)),
            is_away: AtomicBool::new(false),
            dice: Dice::new(mix(seed) ^ 0x6f77_6e65),
        }
    }

    /// Changes the size.
    pub fn scale(&self, size: u16) {
        let mut spec = self.spec.lock();
        *spec = (size, spec.1 + 1);
    }

    /// Whether the API server answers nobody.
    pub fn set_away(&self, is_away: bool) {
        self.is_away.store(is_away, Ordering::Relaxed);
    }
}

impl Owner for SimulatedOwner {
    fn look(&self) -> BoxFuture<'_, Seen> {
        let (size, generation) = *self.spec.lock();
        let seen = if self.dice.chance(10) || self.is_away.load(Ordering::Relaxed) {
            Seen::Unknown("the API server does not answer".into())
        } else {
            Seen::Wants { start: 0, size, generation }
        };
        Box::pin(std::future::ready(seen))
    }
}

impl Pod {
    /// A pod with an empty volume.
    pub fn new(ordinal: u16, seed: u64) -> Self {
        let dice = Dice::new(mix(seed) ^ u64::from(ordinal));
        Self {
            ordinal,
            files: SimulatedFiles::new(dice.next()),
            tasks: SimulatedTasks::new(dice.clone()),
            network: SimulatedNetwork::new(dice.clone()),
            clock_error: Arc::default(),
            dice,
        }
    }

    /// The world of a process in this pod.
    pub fn env(&self, now: &Now, zone: &Zone) -> Env {
        Env {
            clock: Arc::new(PodClock(now.clone(), self.clock_error.clone())),
            random: Arc::new(Dice::new(self.dice.next())),
            files: Arc::new(Disk(self.files.clone(), self.dice.clone())),
            network: Arc::new(self.network.clone()),
            names: Arc::new(zone.clone()),
            tasks: Arc::new(self.tasks.clone()),
            owner: None,
        }
    }
}
