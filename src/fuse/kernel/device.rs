//! An open `/dev/fuse`: whole messages in, whole messages out.
//!
//! A thread that reads has a descriptor of its own (FUSE_DEV_IOC_CLONE): the requests that were read from it
//! wait in a list of its own, so that threads do not meet at one lock. The price: a reply must go to the very
//! descriptor that its request came from.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use super::abi::BEFORE_WRITTEN_DATA;

/// Makes a new descriptor one of the mount of another, which is named by its number.
const FUSE_DEV_IOC_CLONE: libc::Ioctl = 0x8004_e500;

const PAGE: usize = 4096;

/// See the module.
#[derive(Debug)]
pub(super) struct Device(File);

impl Device {
    /// Takes over an open device.
    pub(super) fn new(device: OwnedFd) -> Self {
        Self(device.into())
    }

    /// Another descriptor of the same mount.
    pub(super) fn another(&self) -> io::Result<Self> {
        let device = OpenOptions::new().read(true).write(true).open("/dev/fuse")?;
        let of: RawFd = self.0.as_raw_fd();
        // SAFETY: the number that the call reads outlives it, and both descriptors are open.
        let result = unsafe { libc::ioctl(device.as_raw_fd(), FUSE_DEV_IOC_CLONE, &raw const of) };
        if result == 0 { Ok(Self(device)) } else { Err(io::Error::last_os_error()) }
    }

    /// Waits for a message; `None` when the filesystem was unmounted.
    pub(super) fn receive<'a>(&self, buffer: &'a mut Buffer) -> io::Result<Option<&'a [u8]>> {
        loop {
            match (&self.0).read(buffer.room()) {
                Ok(length) => return Ok(Some(&buffer.room()[..length])),
                Err(error) => match error.raw_os_error() {
                    // Nobody waits for it any more, or this thread got a signal.
                    Some(libc::ENOENT | libc::EINTR | libc::EAGAIN) => {}
                    Some(libc::ENODEV) => return Ok(None),
                    _ => return Err(error),
                },
            }
        }
    }

    /// Sends a message. `NotFound` when the kernel has nobody for it any more.
    pub(super) fn send(&self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        match (&self.0).write_vectored(parts)? {
            sent if sent == length => Ok(()),
            sent => Err(io::Error::other(format!("the kernel took {sent} of {length} bytes"))),
        }
    }
}

/// Where a thread's messages arrive, one after another. It lies in memory so that the data of a write request
/// begins with a page: the kernel copies page by page, and each of its copies is a whole page then.
#[derive(Debug)]
pub(super) struct Buffer {
    bytes: Vec<u8>,
    begin: usize,
}

impl Buffer {
    /// For requests of up to so many bytes of data.
    pub(super) fn new(data_bytes_max: usize) -> Self {
        let bytes = vec![0; PAGE + data_bytes_max + 2 * PAGE];
        let to_page = bytes.as_ptr().align_offset(PAGE);
        let begin = (to_page + PAGE - BEFORE_WRITTEN_DATA) % PAGE;
        Self { bytes, begin }
    }

    fn room(&mut self) -> &mut [u8] {
        &mut self.bytes[self.begin..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_begins_with_a_page_and_all_of_it_fits() {
        for data_bytes_max in [0, 1, 4096, 1 << 20] {
            let mut buffer = Buffer::new(data_bytes_max);
            let data = &buffer.room()[BEFORE_WRITTEN_DATA..];
            assert_eq!(data.as_ptr().addr() % PAGE, 0);
            // The kernel insists on 8 KiB, and on room for the longest write request with its head.
            assert!(buffer.room().len() >= (data_bytes_max + BEFORE_WRITTEN_DATA).max(8192));
        }
    }
}
