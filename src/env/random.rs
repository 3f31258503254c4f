//! Random numbers.

use std::fmt::Debug;

/// A source of random numbers.
pub trait Random: Debug + Send + Sync {
    /// A number that nobody can guess from the ones before.
    fn next_u64(&self) -> u64;
}

/// The operating system's randomness.
#[derive(Debug)]
pub struct SystemRandom;

impl Random for SystemRandom {
    #[allow(clippy::disallowed_methods)] // The one place that asks the system for randomness.
    fn next_u64(&self) -> u64 {
        rand::random()
    }
}
