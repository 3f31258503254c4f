//! The simulator: that it runs, that it is deterministic, and that it sees.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

use setstone::simulation::{Options, run};

/// Runs a seed, and says what it found.
fn one_schedule(seed: u64) {
    let report = run(seed, Options::default());
    let tail = report.trace.iter().rev().take(40).rev().cloned().collect::<Vec<_>>().join("\n");
    assert!(report.wrong.is_empty(), "seed {seed}: {:#?}\n{tail}", report.wrong);
    assert!(report.calls.0 > 0, "seed {seed}: no call was answered");
}

#[test]
fn one_seed() {
    one_schedule(1);
}
