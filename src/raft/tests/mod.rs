//! Members in one process, on simulated files, talking over loopback through connections that can be cut.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod appends;
mod cluster;
mod codecs;
mod corruption_tests;
mod crashes;
mod disks;
mod harness;
mod misdirected;
mod partitions;
mod proposals;
mod snapshots;
mod suite;
