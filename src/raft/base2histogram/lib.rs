//! What openraft 0.10.0-alpha.37 needs of base2histogram when its feature `runtime-stats` is off: it records, and never
//! reads. With the feature on this does not compile, or shows zeros. `Cargo.toml` says why it is here.

#![deny(missing_docs, unsafe_code)]

use std::fmt;
use std::marker::PhantomData;

/// Takes values, and keeps how many there were.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    samples: u64,
    slots: PhantomData<T>,
}

impl<T> Histogram<T> {
    /// An empty one.
    pub const fn new() -> Self {
        Self { samples: 0, slots: PhantomData }
    }

    /// Takes a value.
    pub fn record(&mut self, _value: u64) {
        self.samples += 1;
    }

    /// Takes a value that comes `count` times.
    pub fn record_n(&mut self, _value: u64, count: u64) {
        self.samples += count;
    }

    /// How many values there were; the percentiles are 0.
    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats { samples: self.samples, ..PercentileStats::default() }
    }
}

impl<T> Default for Histogram<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// Percentiles of a histogram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // One field for each percentile.
pub struct PercentileStats {
    /// Values that were recorded.
    pub samples: u64,
    pub p0_1: u64,
    pub p1: u64,
    pub p5: u64,
    pub p10: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p99_9: u64,
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[samples: {}]", self.samples)
    }
}

/// A picture of histograms; an empty one.
#[derive(Clone, Debug, Default)]
pub struct AsciiChart;

impl AsciiChart {
    /// An empty one.
    pub fn new() -> Self {
        Self
    }

    /// Takes a histogram, and forgets it.
    #[must_use]
    pub fn add(self, _name: &str, _histogram: Histogram) -> Self {
        self
    }
}

impl fmt::Display for AsciiChart {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }
}
