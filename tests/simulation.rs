//! The simulator: that seeds which found something once find nothing any more, and that a seed decides everything.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

use setstone::simulation::{Options, run};

/// Runs a seed, and says what it found.
fn one_schedule(seed: u64) {
    let report = run(seed, Options::default());
    let tail = report.trace.iter().rev().take(40).rev().cloned().collect::<Vec<_>>().join("\n");
    assert!(report.wrong.is_empty(), "seed {seed}: {:#?}\n{tail}", report.wrong);
    assert!(report.calls.0 > 0, "seed {seed}: no call was answered");
}

/// A member that made a snapshot stopped: the snapshot's keys did not rise.
#[test]
fn seed_1() {
    one_schedule(1);
}

/// A leader called a member that could not be reached again and again without a pause, and never came to anything else.
#[test]
fn seed_0() {
    one_schedule(0);
}

/// A crash in the first write of an identity left a file that the next start took for somebody else's.
#[test]
fn seed_126() {
    one_schedule(126);
}

/// The identity said that the log holds something before it did on disk: a crash in between, and the disk counted as lost.
#[test]
fn seed_26() {
    one_schedule(26);
}

#[test]
fn the_same_seed_does_the_same() {
    let (one, other) = (run(2, Options::default()), run(2, Options::default()));
    let first = one.trace.iter().zip(&other.trace).find(|(one, other)| one != other);
    assert_eq!(first, None, "the runs differ");
    assert_eq!((one.hash, one.trace.len()), (other.hash, other.trace.len()));
    assert_ne!(one.hash, run(3, Options::default()).hash);
}
