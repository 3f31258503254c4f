//! What happened in a simulation, in order, and the digest of it: two runs of one seed must have the same.

use std::cell::{Cell, RefCell};

use super::world::Now;
use crate::env::simulated::{digest, mix};

/// The events of one run.
#[derive(Debug)]
pub struct Trace {
    now: Now,
    echo: bool,
    hash: Cell<u64>,
    lines: RefCell<Vec<String>>,
}

impl Trace {
    /// An empty one. With `echo`, each event is printed.
    pub fn new(now: Now, echo: bool) -> Self {
        Self { now, echo, hash: Cell::new(0), lines: RefCell::default() }
    }

    /// Something happened. Returns its place among all events.
    #[allow(clippy::print_stdout)] // A trace is what was asked for.
    pub fn add(&self, event: &str) -> u64 {
        let millis = self.now.millis();
        let line = format!("{:>6}.{:03} {event}", millis / 1_000, millis % 1_000);
        if self.echo {
            println!("{line}");
        }
        self.hash.set(mix(self.hash.get() ^ digest(line.as_bytes())));
        let mut lines = self.lines.borrow_mut();
        lines.push(line);
        lines.len() as u64
    }

    /// Digest of all events so far.
    pub fn hash(&self) -> u64 {
        self.hash.get()
    }

    /// All events so far.
    pub fn lines(&self) -> Vec<String> {
        self.lines.borrow().clone()
    }
}
