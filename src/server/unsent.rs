//! Answers that their callers do not fetch.
//!
//! A client may ask for a thousand shards and then stop reading, because its host hangs or because it means harm.
//! What was read for it waits in memory to be sent. So each connection may have only so much read and not yet
//! sent; more is read when some of it has left.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::types::limits::{BLOCK, STRIPE_BYTES_MAX};

/// How much may be read for one connection and not yet sent, in bytes.
const UNSENT_BYTES_MAX: usize = 64 << 20;

/// Keeps account of what is read for each connection.
#[derive(Default)]
pub(super) struct Unsent {
    connections: Mutex<HashMap<u64, Arc<Semaphore>>>,
}

/// The right to have an answer in memory, until it is sent or given up.
pub(super) struct Credit {
    _permit: OwnedSemaphorePermit,
}

/// An answer that holds its credit.
struct Held {
    bytes: Bytes,
    _credit: Credit,
}

impl Unsent {
    /// Waits until so many blocks may be read for that connection. `None` when it is gone, as `is_closed` says.
    pub(super) async fn take(
        &self,
        connection: u64,
        is_closed: impl FnOnce() -> bool,
        blocks: u32,
    ) -> Option<Credit> {
        let room = {
            let mut connections = self.connections.lock();
            // Asked under the lock: a connection is closed first and forgotten then.
            if is_closed() {
                return None;
            }
            let new = || Arc::new(Semaphore::new(UNSENT_BYTES_MAX));
            Arc::clone(connections.entry(connection).or_insert_with(new))
        };
        let bytes = blocks.saturating_mul(BLOCK).min(STRIPE_BYTES_MAX);
        let permit = room.acquire_many_owned(bytes).await.ok()?;
        Some(Credit { _permit: permit })
    }

    /// A connection is gone.
    pub(super) fn forget(&self, connection: u64) {
        self.connections.lock().remove(&connection);
    }
}

impl Credit {
    /// Keeps the credit until the last of the bytes is dropped.
    pub(super) fn hold(self, bytes: Bytes) -> Bytes {
        Bytes::from_owner(Held { bytes, _credit: self })
    }
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn is_waiting(future: &mut (impl Future + Unpin)) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        matches!(std::pin::Pin::new(future).poll(&mut context), Poll::Pending)
    }

    #[tokio::test]
    async fn a_connection_that_does_not_read_waits_and_no_other_does() {
        let unsent = Unsent::default();
        let take = |connection| unsent.take(connection, || false, u32::MAX);
        let mut answers = Vec::new();
        for _ in 0..UNSENT_BYTES_MAX / STRIPE_BYTES_MAX as usize {
            answers.push(take(1).await.unwrap().hold(Bytes::from_static(b"read")));
        }
        let mut next = Box::pin(take(1));
        assert!(is_waiting(&mut next));
        take(2).await.unwrap();
        assert_eq!(answers.pop().unwrap(), b"read"[..]);
        next.await.unwrap();
        unsent.forget(1);
        assert!(unsent.take(1, || true, 1).await.is_none());
        assert_eq!(unsent.connections.lock().len(), 1);
    }
}
