//! How much a command makes the store grow, as etcd's quota counts it.

use super::command::{Command, Put, Txn, TxnOp};
use super::lease::LeaseCommand;

/// Bytes that a pair takes beside key and value: etcd's estimate.
const PAIR_BYTES: u64 = 256;
/// Bytes that a lease takes: etcd's estimate.
const LEASE_BYTES: u64 = 64;

impl Command {
    /// Bytes that it adds to the store, estimated; 0 if it can add none. Of a transaction the larger branch counts, because nobody knows
    /// yet which one runs.
    pub fn cost(&self) -> u64 {
        match self {
            Self::Put(put) => put_cost(put),
            Self::Txn(txn) => txn_cost(txn),
            Self::Lease(LeaseCommand::Grant { .. }) => LEASE_BYTES,
            Self::DeleteRange(_) | Self::Compact(_) | Self::Lease(_) | Self::Cluster(_) | Self::Auth(_) => 0,
        }
    }
}

fn put_cost(put: &Put) -> u64 {
    PAIR_BYTES + put.key.len() as u64 + put.value.len() as u64
}

fn txn_cost(txn: &Txn) -> u64 {
    let branch = |ops: &[TxnOp]| ops.iter().map(op_cost).sum::<u64>();
    branch(&txn.success).max(branch(&txn.failure))
}

fn op_cost(op: &TxnOp) -> u64 {
    match op {
        TxnOp::Put(put) => put_cost(put),
        TxnOp::Txn(txn) => txn_cost(txn),
        TxnOp::Range(_) | TxnOp::DeleteRange(_) => 0,
    }
}
