//! The everyday calls, short: one key, one value, no options. Above [`Client`], so for every kind of client.

use bytes::Bytes;
use futures::TryFutureExt as _;
use futures::future::BoxFuture;

use super::{Client, Consistency, KeyValue, Watch, Watcher, prefix_end};
use crate::error::Error;
use crate::mvcc::command::{DeleteRange, Put, Range};

/// A short call that will be answered.
pub type Short<'a, T> = BoxFuture<'a, Result<T, Error>>;

/// Short forms of [`Client`]'s calls. Keys and values are anything that is bytes: `&str`, `String`, `&[u8]`, `Vec<u8>`,
/// [`Bytes`]; they are copied. All reads are linearizable. Errors are those of [`Client`].
///
/// Names are those of [`Client`], so import one of the two; the other one's calls can be made as `Client::put(&store, put)`.
pub trait Kv: Client {
    /// Writes a key; returns the revision of the write.
    fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Short<'_, i64> {
        let put = Put { key: bytes(key), value: bytes(value), ..Put::default() };
        Box::pin(Client::put(self, put).map_ok(|answer| answer.header.revision))
    }

    /// Reads a key; `None` if it is not there.
    fn get(&self, key: impl AsRef<[u8]>) -> Short<'_, Option<KeyValue>> {
        let range = Range { key: bytes(key), ..Range::default() };
        let found = Client::get(self, range, Consistency::Linearizable);
        Box::pin(found.map_ok(|answer| answer.value.kvs.into_iter().next()))
    }

    /// Reads all keys that begin with `prefix`, in the order of the keys. An empty prefix is that of every key.
    fn get_prefix(&self, prefix: impl AsRef<[u8]>) -> Short<'_, Vec<KeyValue>> {
        let prefix = prefix.as_ref();
        // No key is empty, so the first possible one is a zero byte.
        let key = if prefix.is_empty() { Bytes::from_static(b"\0") } else { Bytes::copy_from_slice(prefix) };
        let range = Range { key, range_end: prefix_end(prefix), ..Range::default() };
        let found = Client::get(self, range, Consistency::Linearizable);
        Box::pin(found.map_ok(|answer| answer.value.kvs))
    }

    /// Watches a key from now on.
    fn watch(&self, key: impl AsRef<[u8]>) -> Watcher {
        Client::watch(self, Watch { key: bytes(key), ..Watch::default() })
    }

    /// Watches all keys that begin with `prefix` from now on. An empty prefix is that of every key.
    fn watch_prefix(&self, prefix: impl AsRef<[u8]>) -> Watcher {
        let prefix = prefix.as_ref();
        let key = if prefix.is_empty() { Bytes::from_static(b"\0") } else { Bytes::copy_from_slice(prefix) };
        Client::watch(self, Watch { key, range_end: prefix_end(prefix), ..Watch::default() })
    }

    /// Deletes a key; tells whether it was there.
    fn delete(&self, key: impl AsRef<[u8]>) -> Short<'_, bool> {
        let delete = DeleteRange { key: bytes(key), ..DeleteRange::default() };
        Box::pin(Client::delete(self, delete).map_ok(|answer| answer.value.deleted > 0))
    }
}

impl<C: Client + ?Sized> Kv for C {}

fn bytes(of: impl AsRef<[u8]>) -> Bytes {
    Bytes::copy_from_slice(of.as_ref())
}
