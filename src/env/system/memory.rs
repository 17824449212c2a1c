//! How the process's allocator treats memory that was given back.
//!
//! Touching fresh memory is expensive: the kernel clears each page, and a virtual machine may have to get it
//! from its host first. By default glibc gives the top of a thread's heap back to the kernel as soon as 128 KiB
//! of it are free, and the TLS records of a busy connection free and take that much thousands of times a second:
//! a cold 1 GiB read cost 3.7 CPU-seconds with that and 2.8 without.

use libc::c_int;

/// Free memory at the top of a heap that is kept for the next allocation, in bytes.
const KEEP: c_int = 64 << 20;
/// Allocations from this size on get a mapping of their own, in bytes: the most that glibc allows.
const OWN_MAPPING: c_int = 32 << 20;

/// Lets the allocator keep what it has. To be called once, before there are threads.
pub fn keep_freed_memory() {
    // SAFETY: mallopt only sets parameters of the allocator; no other thread allocates yet. Where it refuses
    // (another C library), everything works as before, only slower.
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEEP);
        libc::mallopt(libc::M_MMAP_THRESHOLD, OWN_MAPPING);
    }
}
