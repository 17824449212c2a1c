//! A disk, as a store needs it: the files of one directory.
//!
//! A store's hardest promise is about moments when nothing runs: what was acknowledged is there after a power
//! cut, what was not may be there in part. Such moments cannot be arranged with real files in a test, so the
//! store talks to this trait. [`super::system::disk::SystemDisk`] is a real directory;
//! [`super::sim::disk::SimDisk`] is one in memory that, on a crash, forgets and tears what was not synced.
//!
//! What a disk promises, and all that a store may rely on:
//!
//! * bytes written to a file survive a crash once [`DiskFile::sync`] has returned since; before, any part of
//!   them may, and the file may end anywhere;
//! * names made, changed or removed survive once [`Disk::sync_dir`] of their directory has returned since;
//!   before, any of them may. A rename happens wholly or not at all;
//! * a write of at most 512 bytes that crosses no multiple of 512 happens wholly or not at all.
//!
//! All calls block: they are made on threads kept for it. Paths are relative to the disk's directory, with `/`;
//! the directory itself is the empty path.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

/// The files of one directory.
pub trait Disk: Send + Sync + 'static {
    /// Makes a directory; its parent must exist. One that exists already is fine.
    ///
    /// # Errors
    ///
    /// What the operating system says.
    fn make_dir(&self, dir: &str) -> io::Result<()>;

    /// What is in a directory, by name, in ascending order.
    ///
    /// # Errors
    ///
    /// What the operating system says.
    fn list(&self, dir: &str) -> io::Result<Vec<DirItem>>;

    /// Makes an empty file, to be written in the given way; one that has the name is cut to nothing.
    ///
    /// # Errors
    ///
    /// What the operating system says.
    fn create(&self, path: &str, access: Access) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens a file for reading and writing.
    ///
    /// # Errors
    ///
    /// What the operating system says.
    fn open(&self, path: &str, access: Access) -> io::Result<Arc<dyn DiskFile>>;

    /// Gives a file another name, replacing what has it.
    ///
    /// # Errors
    ///
    /// What the operating system says.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    ///
    /// What the operating system says.
    fn remove(&self, path: &str) -> io::Result<()>;

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    ///
    /// What the operating system says; then nothing is known about what is durable.
    fn sync_dir(&self, dir: &str) -> io::Result<()>;

    /// How much there is room for.
    ///
    /// # Errors
    ///
    /// What the operating system says.
    fn room(&self) -> io::Result<Room>;
}

/// An open file. It stays usable when its name is changed or removed.
pub trait DiskFile: Send + Sync {
    /// Its length in bytes.
    ///
    /// # Errors
    ///
    /// What the operating system says.
    fn length(&self) -> io::Result<u64>;

    /// Exactly `length` bytes from `offset`.
    ///
    /// # Errors
    ///
    /// `UnexpectedEof` when the file ends before, else what the operating system says.
    fn read(&self, offset: u64, length: usize) -> io::Result<Bytes>;

    /// Writes all of `bytes` at `offset`; the file grows as needed.
    ///
    /// # Errors
    ///
    /// What the operating system says; any part may be written then.
    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes everything written before durable, the file's length included.
    ///
    /// # Errors
    ///
    /// What the operating system says; then nothing is known about what is durable.
    fn sync(&self) -> io::Result<()>;

    /// Gives the space of a range back; it reads as zeros. Durable with the next [`Self::sync`].
    ///
    /// # Errors
    ///
    /// What the operating system says: not every filesystem can.
    fn punch(&self, offset: u64, length: u64) -> io::Result<()>;
}

/// Whether a read failed because that part of the medium is bad: all else may be well.
pub fn is_bad_sector(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EIO)
}

/// How a file's bytes go between memory and disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Through the operating system's page cache: small, repeated or unaligned.
    Cached,
    /// Past it where the filesystem can and offset, length and memory are whole blocks: large and seldom twice.
    Direct,
}

/// A name in a directory.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct DirItem {
    /// The name.
    pub name: String,
    /// Whether it is a directory itself.
    pub is_dir: bool,
}

/// How much a disk can hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Room {
    /// Bytes of the whole filesystem.
    pub total_bytes: u64,
    /// Bytes that can still be written.
    pub free_bytes: u64,
}
