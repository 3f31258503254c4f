//! Transactions that read like what they do.
//!
//! ```
//! use setstone::client::txn::{created, delete, get, put, value, version, when};
//!
//! let move_it = when(value("job/7").is("waiting"))
//!     .and(version("workers/a").above(0))
//!     .then(put("job/7", "running"))
//!     .then(delete("queue/7"))
//!     .otherwise(get("job/7"))
//!     .otherwise(when(created("job/7").is(0)).then(put("missing", "job/7")));
//! # let _ = move_it.build();
//! ```

use bytes::Bytes;

use super::{Client, prefix_end};
use crate::client::Call;
use crate::mvcc::command::{Compare, CompareResult, DeleteRange, Operand, Put, Range, Txn, TxnOp, TxnResult};

/// A transaction that is being put together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use = "it does nothing before it is run"]
pub struct Transaction(Txn);

/// A transaction that runs its `then` if this holds.
pub fn when(condition: Compare) -> Transaction {
    always().and(condition)
}

/// A transaction that runs its `then` in any case.
pub fn always() -> Transaction {
    Transaction::default()
}

impl Transaction {
    /// Also this must hold.
    pub fn and(mut self, condition: Compare) -> Self {
        self.0.compares.push(condition);
        self
    }

    /// Then do this, after what was said before: a [`put`], a [`get`], a [`delete`], or another transaction.
    pub fn then(mut self, operation: impl Into<TxnOp>) -> Self {
        self.0.success.push(operation.into());
        self
    }

    /// Else do this, after what was said before.
    pub fn otherwise(mut self, operation: impl Into<TxnOp>) -> Self {
        self.0.failure.push(operation.into());
        self
    }

    /// The transaction.
    pub fn build(self) -> Txn {
        self.0
    }

    /// Runs it.
    pub fn run(self, client: &dyn Client) -> Call<'_, TxnResult> {
        client.txn(self.0)
    }
}

impl From<Transaction> for Txn {
    fn from(transaction: Transaction) -> Self {
        transaction.0
    }
}

impl From<Transaction> for TxnOp {
    fn from(transaction: Transaction) -> Self {
        Self::Txn(transaction.0)
    }
}

impl From<Txn> for TxnOp {
    fn from(txn: Txn) -> Self {
        Self::Txn(txn)
    }
}

impl From<Put> for TxnOp {
    fn from(put: Put) -> Self {
        Self::Put(put)
    }
}

impl From<Range> for TxnOp {
    fn from(range: Range) -> Self {
        Self::Range(range)
    }
}

impl From<DeleteRange> for TxnOp {
    fn from(delete: DeleteRange) -> Self {
        Self::DeleteRange(delete)
    }
}

/// Writes a key. A [`Put`] has more options.
pub fn put(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Put {
    Put { key: bytes(key), value: bytes(value), ..Put::default() }
}

/// Reads a key. A [`Range`] has more options.
pub fn get(key: impl AsRef<[u8]>) -> Range {
    Range { key: bytes(key), ..Range::default() }
}

/// Deletes a key. A [`DeleteRange`] has more options.
pub fn delete(key: impl AsRef<[u8]>) -> DeleteRange {
    DeleteRange { key: bytes(key), ..DeleteRange::default() }
}

/// A number of a key that can be compared: [`version`], [`created`], [`modified`] or [`lease`]. Of a key that is not there it is 0.
#[derive(Clone, Debug)]
#[must_use]
pub struct Number {
    key: Bytes,
    range_end: Bytes,
    operand: fn(i64) -> Operand,
}

/// Writes since the key was created.
pub fn version(key: impl AsRef<[u8]>) -> Number {
    Number { key: bytes(key), range_end: Bytes::new(), operand: Operand::Version }
}

/// Revision at which the key was created; 0: it is not there.
pub fn created(key: impl AsRef<[u8]>) -> Number {
    Number { key: bytes(key), range_end: Bytes::new(), operand: Operand::Create }
}

/// Revision of the last write of the key; 0: it is not there.
pub fn modified(key: impl AsRef<[u8]>) -> Number {
    Number { key: bytes(key), range_end: Bytes::new(), operand: Operand::Mod }
}

/// The lease that the key hangs on.
pub fn lease(key: impl AsRef<[u8]>) -> Number {
    Number { key: bytes(key), range_end: Bytes::new(), operand: Operand::Lease }
}

impl Number {
    /// Of every key that begins with the key: all must compare so.
    pub fn of_prefix(mut self) -> Self {
        self.range_end = prefix_end(&self.key);
        self
    }

    /// It is this.
    pub fn is(self, number: i64) -> Compare {
        self.compare(CompareResult::Equal, number)
    }

    /// It is not this.
    pub fn is_not(self, number: i64) -> Compare {
        self.compare(CompareResult::NotEqual, number)
    }

    /// It is greater than this.
    pub fn above(self, number: i64) -> Compare {
        self.compare(CompareResult::Greater, number)
    }

    /// It is less than this.
    pub fn below(self, number: i64) -> Compare {
        self.compare(CompareResult::Less, number)
    }

    fn compare(self, result: CompareResult, number: i64) -> Compare {
        Compare { operand: (self.operand)(number), key: self.key, range_end: self.range_end, result }
    }
}

/// The value of a key, which can be compared. Of a key that is not there no comparison holds, as in etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Value {
    key: Bytes,
    range_end: Bytes,
}

/// The value of a key.
pub fn value(key: impl AsRef<[u8]>) -> Value {
    Value { key: bytes(key), range_end: Bytes::new() }
}

impl Value {
    /// Of every key that begins with the key: all must compare so.
    pub fn of_prefix(mut self) -> Self {
        self.range_end = prefix_end(&self.key);
        self
    }

    /// It is this.
    pub fn is(self, value: impl AsRef<[u8]>) -> Compare {
        self.compare(CompareResult::Equal, value)
    }

    /// It is not this; and the key is there.
    pub fn is_not(self, value: impl AsRef<[u8]>) -> Compare {
        self.compare(CompareResult::NotEqual, value)
    }

    /// It comes after this, byte by byte.
    pub fn above(self, value: impl AsRef<[u8]>) -> Compare {
        self.compare(CompareResult::Greater, value)
    }

    /// It comes before this, byte by byte.
    pub fn below(self, value: impl AsRef<[u8]>) -> Compare {
        self.compare(CompareResult::Less, value)
    }

    fn compare(self, result: CompareResult, value: impl AsRef<[u8]>) -> Compare {
        Compare { key: self.key, range_end: self.range_end, result, operand: Operand::Value(bytes(value)) }
    }
}

/// The key is there.
pub fn exists(key: impl AsRef<[u8]>) -> Compare {
    version(key).above(0)
}

/// The key is not there.
pub fn missing(key: impl AsRef<[u8]>) -> Compare {
    version(key).is(0)
}

fn bytes(of: impl AsRef<[u8]>) -> Bytes {
    Bytes::copy_from_slice(of.as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_the_long_form_says() {
        let inner = when(missing("b")).then(put("b", "1"));
        let txn = when(value("a").is("x"))
            .and(version("a").above(3))
            .and(created("p/").of_prefix().below(9))
            .then(put("a", "y"))
            .then(delete("b"))
            .otherwise(get("a"))
            .otherwise(inner)
            .build();
        let compare = |key: &'static str, end: &'static str, result, operand| Compare {
            key: key.into(),
            range_end: end.into(),
            result,
            operand,
        };
        let nested = Txn {
            compares: vec![compare("b", "", CompareResult::Equal, Operand::Version(0))],
            success: vec![TxnOp::Put(Put { key: "b".into(), value: "1".into(), ..Put::default() })],
            failure: Vec::new(),
        };
        let expected = Txn {
            compares: vec![
                compare("a", "", CompareResult::Equal, Operand::Value("x".into())),
                compare("a", "", CompareResult::Greater, Operand::Version(3)),
                compare("p/", "p0", CompareResult::Less, Operand::Create(9)),
            ],
            success: vec![
                TxnOp::Put(Put { key: "a".into(), value: "y".into(), ..Put::default() }),
                TxnOp::DeleteRange(DeleteRange { key: "b".into(), ..DeleteRange::default() }),
            ],
            failure: vec![TxnOp::Range(Range { key: "a".into(), ..Range::default() }), TxnOp::Txn(nested)],
        };
        assert_eq!(txn, expected);
        assert_eq!(modified("k").is_not(2).result, CompareResult::NotEqual);
        assert_eq!(lease("k").is(2).operand, Operand::Lease(2));
        assert_eq!(exists("k"), version("k").above(0));
        assert_eq!(value("k").of_prefix().range_end, "l");
        assert!(always().build().compares.is_empty());
    }
}
