//! Memory for payloads: aligned to pages, and recycled.
//!
//! On a virtual machine the first touch of a page costs far more than copying into it (2.5 CPU-seconds a GiB
//! were measured where free memory is given back to the host). A filesystem that streams would pay that for
//! every byte, if each payload were allocated and freed. So buffers go back to a process-wide pool instead,
//! when the last [`Bytes`] that looks into them is dropped.
//!
//! A small slice of a large payload keeps the whole buffer: what is to be kept for long is copied out.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use bytes::Bytes;
use parking_lot::Mutex;

/// Where every buffer begins: the kernel writes such memory to a disk without copying it (O_DIRECT).
pub const ALIGNMENT: usize = 4096;
/// How much unused memory the process keeps for reuse, in bytes.
const KEPT_BYTES_MAX: usize = 64 << 20;

static POOL: Mutex<Pool> = Mutex::new(Pool { free: BTreeMap::new(), bytes: 0 });

/// A writable buffer from the pool. [`Self::freeze`] makes it shareable; dropping either gives it back.
pub struct Buffer {
    memory: Option<Memory>,
    len: usize,
}

impl Buffer {
    /// A buffer of `len` bytes that begins on a page. Its content is arbitrary (what was in it last), never
    /// uninitialized.
    pub fn new(len: usize) -> Self {
        let memory = (len > 0).then(|| {
            let capacity = capacity_for(len);
            let recycled = POOL.lock().take(capacity);
            recycled.unwrap_or_else(|| Memory::allocate(capacity))
        });
        Self { memory, len }
    }

    /// Gives up writing; the memory returns to the pool with the last clone or slice.
    pub fn freeze(self) -> Bytes {
        if self.len == 0 {
            return Bytes::new();
        }
        Bytes::from_owner(self)
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.memory {
            // SAFETY: the memory is initialized, at least `len` long, and borrowed as long as `self` is.
            Some(memory) => unsafe { std::slice::from_raw_parts(memory.start.as_ptr(), self.len) },
            None => &[],
        }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.memory {
            // SAFETY: as in `deref`, and `self` is borrowed mutably, so nobody else looks at the memory.
            Some(memory) => unsafe {
                std::slice::from_raw_parts_mut(memory.start.as_ptr(), self.len)
            },
            None => &mut [],
        }
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(memory) = self.memory.take() {
            let surplus = POOL.lock().give_back(memory);
            drop(surplus);
        }
    }
}

/// Capacities have two significant bits, so that buffers of about the same size serve one another and at
/// most a quarter of one is unused.
fn capacity_for(len: usize) -> usize {
    let step = (len.next_power_of_two() / 8).max(ALIGNMENT);
    len.next_multiple_of(step)
}

/// One allocation; it has one owner.
struct Memory {
    start: NonNull<u8>,
    capacity: usize,
}

// SAFETY: plain bytes with one owner; nothing about them belongs to a thread.
unsafe impl Send for Memory {}
// SAFETY: shared access only reads.
unsafe impl Sync for Memory {}

impl Memory {
    fn allocate(capacity: usize) -> Self {
        let layout = Self::layout(capacity);
        // SAFETY: `capacity_for` never gives 0.
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(layout) };
        Self { start, capacity }
    }

    fn layout(capacity: usize) -> Layout {
        Layout::from_size_align(capacity, ALIGNMENT)
            .expect("frames are far shorter than isize::MAX")
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: it was allocated with this layout and has one owner, who is giving it up.
        unsafe { dealloc(self.start.as_ptr(), Self::layout(self.capacity)) };
    }
}

/// Unused buffers by capacity.
struct Pool {
    free: BTreeMap<usize, Vec<Memory>>,
    bytes: usize,
}

impl Pool {
    fn take(&mut self, capacity: usize) -> Option<Memory> {
        let memory = self.free.get_mut(&capacity)?.pop()?;
        self.bytes -= capacity;
        Some(memory)
    }

    /// Keeps `memory`. What had to leave for it is returned, to be freed without the lock: buffers of other
    /// sizes first, because this size is the one in use.
    fn give_back(&mut self, memory: Memory) -> Vec<Memory> {
        let capacity = memory.capacity;
        let mut surplus = Vec::new();
        while self.bytes + capacity > KEPT_BYTES_MAX {
            let Some(other) = self.take_other_than(capacity) else {
                surplus.push(memory);
                return surplus;
            };
            surplus.push(other);
        }
        self.bytes += capacity;
        self.free.entry(capacity).or_default().push(memory);
        surplus
    }

    fn take_other_than(&mut self, capacity: usize) -> Option<Memory> {
        let mut others = self.free.iter_mut().filter(|(size, _)| **size != capacity);
        let memory = others.find_map(|(_, list)| list.pop())?;
        self.bytes -= memory.capacity;
        Some(memory)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_as_long_as_asked() {
        for len in [0, 1, 4095, 4096, 4097, 65_537, 1 << 20, (4 << 20) + 8192, 9 << 20] {
            let mut buffer = Buffer::new(len);
            assert_eq!(buffer.len(), len);
            if len > 0 {
                assert_eq!(buffer.as_ptr().align_offset(ALIGNMENT), 0);
                assert!(capacity_for(len) <= (len + len / 3).max(len + ALIGNMENT), "{len}");
            }
            buffer.fill(7);
            let bytes = buffer.freeze();
            assert!(bytes.len() == len && bytes.iter().all(|byte| *byte == 7));
        }
    }

    #[test]
    fn memory_comes_back_when_the_last_slice_is_gone() {
        // A pool of its own: the process-wide one is shared with other tests.
        let mut pool = Pool { free: BTreeMap::new(), bytes: 0 };
        assert!(pool.take(8192).is_none());
        let memory = Memory::allocate(8192);
        let start = memory.start;
        assert!(pool.give_back(memory).is_empty());
        assert_eq!(pool.take(8192).map(|memory| memory.start), Some(start));
        assert_eq!(pool.bytes, 0);
    }

    #[test]
    fn the_pool_keeps_what_is_in_use_and_no_more_than_allowed() {
        let mut pool = Pool { free: BTreeMap::new(), bytes: 0 };
        let big = KEPT_BYTES_MAX / 4;
        for _ in 0..4 {
            assert!(pool.give_back(Memory::allocate(big)).is_empty());
        }
        assert_eq!(pool.give_back(Memory::allocate(big)).len(), 1, "full of this size");
        let surplus = pool.give_back(Memory::allocate(ALIGNMENT));
        assert_eq!(surplus.len(), 1, "another size makes room");
        assert_eq!(pool.bytes, 3 * big + ALIGNMENT);
    }
}
