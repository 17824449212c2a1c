//! Buffers for dirty data, used again.
//!
//! Touching memory that the process has not touched before costs more than copying into it. A stream of
//! writes fills one stripe-sized buffer after another, so those are kept when a commit frees them. Small runs
//! use small vectors, which the allocator recycles well enough.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::types::limits::STRIPE_BYTES_MAX;

/// A run that grows beyond this is a stream: it gets a buffer of a whole stripe.
const SMALL_MAX: usize = 256 << 10;
const WHOLE: usize = STRIPE_BYTES_MAX as usize;

/// Stripe-sized buffers that nobody uses at the moment.
#[derive(Debug)]
pub(crate) struct Pool {
    free: Mutex<Vec<Vec<u8>>>,
    keep: usize,
}

/// Growing bytes; a large one returns to its pool when it is dropped.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    pool: Option<Arc<Pool>>,
}

impl Pool {
    /// A pool that keeps at most `keep` unused buffers.
    pub(crate) fn new(keep: usize) -> Arc<Self> {
        Arc::new(Self { free: Mutex::new(Vec::new()), keep })
    }

    /// An empty buffer with room for a whole stripe.
    pub(crate) fn whole(self: &Arc<Self>) -> Buffer {
        let bytes = self.free.lock().pop().unwrap_or_else(|| Vec::with_capacity(WHOLE));
        Buffer { bytes, pool: Some(Arc::clone(self)) }
    }

    fn give_back(&self, mut bytes: Vec<u8>) {
        bytes.clear();
        let mut free = self.free.lock();
        if free.len() < self.keep {
            free.push(bytes);
        }
    }
}

impl Buffer {
    /// Appends `data`, moving into a stripe-sized buffer of `pool` once it is a stream.
    pub(crate) fn append(&mut self, data: &[u8], pool: &Arc<Pool>) {
        if self.pool.is_none() && self.bytes.len() + data.len() > SMALL_MAX {
            let mut whole = pool.whole();
            whole.bytes.extend_from_slice(&self.bytes);
            *self = whole;
        }
        self.bytes.extend_from_slice(data);
    }

    /// Appends zeros until `length` bytes are there.
    pub(crate) fn pad_to(&mut self, length: usize) {
        if self.bytes.len() < length {
            self.bytes.resize(length, 0);
        }
    }

    /// Drops everything from `length` on.
    pub(crate) fn truncate(&mut self, length: usize) {
        self.bytes.truncate(length);
    }

    /// The bytes, to be overwritten in place.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.take() {
            pool.give_back(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_gets_a_whole_buffer_that_is_used_again() {
        let pool = Pool::new(1);
        let mut buffer = Buffer::default();
        buffer.append(&[1; 1000], &pool);
        assert!(buffer.pool.is_none());
        buffer.append(&vec![2; SMALL_MAX], &pool);
        assert_eq!(buffer.bytes.capacity(), WHOLE);
        assert_eq!((buffer.as_ref()[999], buffer.as_ref()[1000]), (1, 2));
        let at = buffer.bytes.as_ptr();
        drop(buffer);
        let again = pool.whole();
        assert_eq!((again.bytes.as_ptr(), again.len()), (at, 0));
    }
}
