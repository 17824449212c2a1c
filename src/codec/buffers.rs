//! Memory for parity, used again and again.
//!
//! Every full stripe needs a few MiB for its parity, for some milliseconds. Fresh memory from the kernel must be
//! zeroed and mapped page by page, which costs more than computing the parity does; so a few buffers are kept
//! when the last reader of their bytes is gone.

use bytes::Bytes;
use parking_lot::Mutex;

/// Smaller buffers are left to the allocator, which keeps those by itself.
const KEPT_BYTES_MIN: usize = 256 << 10;
/// How many buffers are kept.
const KEPT_MAX: usize = 16;

static KEPT: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// A buffer that goes back where it came from when it is dropped.
pub(super) struct Buffer {
    memory: Vec<u8>,
    length: usize,
}

impl Buffer {
    /// A buffer of that many bytes. What is in it is left over from its last use.
    pub(super) fn take(length: usize) -> Self {
        let mut kept = KEPT.lock();
        let fitting = kept.iter().position(|memory| memory.len() >= length);
        let memory = match fitting {
            Some(at) if length >= KEPT_BYTES_MIN => kept.swap_remove(at),
            _ => {
                drop(kept);
                vec![0; length]
            }
        };
        Self { memory, length }
    }

    /// The bytes, to be written.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[..self.length]
    }

    /// Done writing: the bytes, shared from now on.
    pub(super) fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.memory[..self.length]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.memory);
        let mut kept = KEPT.lock();
        if memory.len() >= KEPT_BYTES_MIN && kept.len() < KEPT_MAX {
            kept.push(memory);
        }
    }
}
