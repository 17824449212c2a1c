//! Whether one more shard fits.
//!
//! A disk that is filled to its last block cannot even delete: a dead mark or a directory entry may need a block of
//! the filesystem's own. So some of it is kept free, and what is on its way to the disk counts as there.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::env::disk::Disk;

/// The part of a disk that is kept free: one in so many bytes ...
const RESERVE_SHARE: u64 = 100;
/// ... but no more than this.
const RESERVE_BYTES_MAX: u64 = 1 << 30;

/// Keeps account of the room on a disk.
pub(super) struct Room {
    /// Most bytes of shards, if somebody has set a limit.
    capacity: Option<u64>,
    in_flight: AtomicU64,
}

/// Room taken for a shard that is being written, until this is dropped.
pub(super) struct Taken<'a> {
    room: &'a Room,
    bytes: u64,
}

impl Room {
    pub(super) fn new(capacity: Option<u64>) -> Self {
        let in_flight = AtomicU64::new(0);
        Self { capacity, in_flight }
    }

    /// Takes room for `bytes`; `None` when there is not enough. `used_bytes` are those of all shards.
    pub(super) fn take(
        &self,
        disk: &dyn Disk,
        used_bytes: u64,
        bytes: u64,
    ) -> io::Result<Option<Taken<'_>>> {
        let in_flight = self.in_flight.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let taken = Taken { room: self, bytes };
        let capacity = self.capacity_bytes(disk, used_bytes)?;
        Ok((used_bytes + in_flight <= capacity).then_some(taken))
    }

    /// Bytes of shards that there could be altogether.
    pub(super) fn capacity_bytes(&self, disk: &dyn Disk, used_bytes: u64) -> io::Result<u64> {
        let room = disk.room()?;
        let reserve = (room.total_bytes / RESERVE_SHARE).min(RESERVE_BYTES_MAX);
        let possible = used_bytes + room.free_bytes.saturating_sub(reserve);
        Ok(possible.min(self.capacity.unwrap_or(u64::MAX)))
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.room.in_flight.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
