//! What is spoken on a connection of HTTP/1 after its last request. Whoever answers one with a change of protocols leaves here what is
//! to be done then; the connection's own task goes on with it, so that it is counted, and ended, like any other.

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use parking_lot::Mutex;

/// Of one connection. Cheap to clone.
#[derive(Clone, Default)]
pub struct Afterwards(Arc<Mutex<Option<BoxFuture<'static, ()>>>>);

impl Afterwards {
    /// What is to be done once the connection speaks HTTP no more. It must not hold this, which would keep both for ever.
    pub fn set(&self, next: impl Future<Output = ()> + Send + 'static) {
        *self.0.lock() = Some(Box::pin(next));
    }

    /// What was left to be done, once.
    pub(super) fn take(&self) -> Option<BoxFuture<'static, ()>> {
        self.0.lock().take()
    }
}

impl fmt::Debug for Afterwards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Afterwards").field(&self.0.lock().is_some()).finish()
    }
}
