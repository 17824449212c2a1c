//! The numbers of the protocol: opcodes, flags, and how a field lies in a message.
//!
//! Messages are C structures of the machine's own byte order, laid out so that no padding is hidden: reading
//! their fields one after another ([`Fields`]) and writing them so ([`Body`]) is the whole of the matter. The
//! source is the kernel's `include/uapi/linux/fuse.h`; names are its names, and only what is used is here.

/// Major version of the protocol; there has been no other since 2006.
pub(super) const MAJOR: u32 = 7;
/// Minor version that we speak.
pub(super) const MINOR: u32 = 39;
/// Oldest minor version that we understand (Linux 4.20).
pub(super) const MINOR_MIN: u32 = 28;

/// Bytes of the header of a request.
pub(super) const IN_HEADER_BYTES: usize = 40;
/// Bytes of the header of a reply.
pub(super) const OUT_HEADER_BYTES: usize = 16;
/// Bytes before the data of a write request.
pub(super) const BEFORE_WRITTEN_DATA: usize = IN_HEADER_BYTES + 40;

/// Gives a number of the protocol its name, and back.
macro_rules! opcodes {
    ($($name:ident = $number:literal,)*) => {
        /// What a request asks for.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub(super) enum Opcode { $($name = $number,)* }

        impl Opcode {
            /// The request with that number, if we know it.
            pub(super) fn from_number(number: u32) -> Option<Self> {
                match number { $($number => Some(Self::$name),)* _ => None }
            }
        }
    };
}

opcodes! {
    Lookup = 1, Forget = 2, GetAttr = 3, SetAttr = 4, ReadLink = 5, Symlink = 6, MkNod = 8, MkDir = 9,
    Unlink = 10, RmDir = 11, Rename = 12, Link = 13, Open = 14, Read = 15, Write = 16, StatFs = 17,
    Release = 18, FSync = 20, SetXattr = 21, GetXattr = 22, ListXattr = 23, RemoveXattr = 24, Flush = 25,
    Init = 26, OpenDir = 27, ReadDir = 28, ReleaseDir = 29, FSyncDir = 30, GetLk = 31, SetLk = 32,
    SetLkW = 33, Create = 35, Interrupt = 36, Destroy = 38, Ioctl = 39, BatchForget = 42, FAllocate = 43,
    ReadDirPlus = 44, Rename2 = 45, LSeek = 46, CopyFileRange = 47, TmpFile = 51, StatX = 52,
}

/// What kernel and filesystem may agree on in FUSE_INIT; the upper half is in `flags2`.
pub(in crate::fuse) mod init {
    /// Several reads of one file at a time.
    pub(in crate::fuse) const ASYNC_READ: u64 = 1 << 0;
    /// Locks of fcntl(2) are ours.
    pub(in crate::fuse) const POSIX_LOCKS: u64 = 1 << 1;
    /// `open` cuts the file itself.
    /// Writes of more than a page.
    pub(in crate::fuse) const BIG_WRITES: u64 = 1 << 5;
    /// The umask comes with what is made, and is not applied.
    pub(in crate::fuse) const DONT_MASK: u64 = 1 << 6;
    /// Locks of flock(2) are ours.
    pub(in crate::fuse) const FLOCK_LOCKS: u64 = 1 << 10;
    /// Cached pages go when mtime or size changed.
    pub(in crate::fuse) const AUTO_INVAL_DATA: u64 = 1 << 12;
    /// Attributes come with directory entries,
    pub(in crate::fuse) const DO_READDIRPLUS: u64 = 1 << 13;
    /// where somebody seems to want them.
    pub(in crate::fuse) const READDIRPLUS_AUTO: u64 = 1 << 14;
    /// Direct reads and writes in several pieces at a time.
    pub(in crate::fuse) const ASYNC_DIO: u64 = 1 << 15;
    /// Lookups and listings of one directory at a time.
    pub(in crate::fuse) const PARALLEL_DIROPS: u64 = 1 << 18;
    /// POSIX ACLs are kept here and enforced by the kernel.
    pub(in crate::fuse) const POSIX_ACL: u64 = 1 << 20;
    /// `max_pages` is said.
    pub(in crate::fuse) const MAX_PAGES: u64 = 1 << 22;
    /// The targets of symbolic links are kept for as long as their inodes.
    pub(in crate::fuse) const CACHE_SYMLINKS: u64 = 1 << 23;
    /// The filesystem takes setuid, setgid and capabilities away.
    pub(in crate::fuse) const HANDLE_KILLPRIV_V2: u64 = 1 << 28;
    /// `setxattr` has flags of its own.
    pub(in crate::fuse) const SETXATTR_EXT: u64 = 1 << 29;
    /// There is a `flags2`.
    pub(in crate::fuse) const INIT_EXT: u64 = 1 << 30;
    /// Shared mappings of files that are open for direct reading and writing.
    pub(in crate::fuse) const DIRECT_IO_ALLOW_MMAP: u64 = 1 << 36;
}

/// Which fields of a `setattr` count.
pub(super) mod fattr {
    pub(in crate::fuse::kernel) const MODE: u32 = 1 << 0;
    pub(in crate::fuse::kernel) const UID: u32 = 1 << 1;
    pub(in crate::fuse::kernel) const GID: u32 = 1 << 2;
    pub(in crate::fuse::kernel) const SIZE: u32 = 1 << 3;
    pub(in crate::fuse::kernel) const ATIME: u32 = 1 << 4;
    pub(in crate::fuse::kernel) const MTIME: u32 = 1 << 5;
    pub(in crate::fuse::kernel) const ATIME_NOW: u32 = 1 << 7;
    pub(in crate::fuse::kernel) const MTIME_NOW: u32 = 1 << 8;
    pub(in crate::fuse::kernel) const KILL_SUIDGID: u32 = 1 << 11;
}

/// The ACL that is set takes setgid away.
pub(super) const SETXATTR_ACL_KILL_SGID: u32 = 1 << 0;
/// The write brings back pages of the cache.
pub(super) const WRITE_CACHE: u32 = 1 << 0;
/// The write takes setuid and setgid away.
pub(super) const WRITE_KILL_SUIDGID: u32 = 1 << 2;
/// The lock is one of flock(2), not of fcntl(2).
pub(super) const LK_FLOCK: u32 = 1 << 0;
/// The handle that is released held a flock(2).
pub(super) const RELEASE_FLOCK_UNLOCK: u32 = 1 << 1;
/// The file is read and written past the page cache.
pub(super) const FOPEN_DIRECT_IO: u32 = 1 << 0;
/// Pages that are cached of the file stay.
pub(super) const FOPEN_KEEP_CACHE: u32 = 1 << 1;

/// The name is looked up again before it is believed, and not taken away from whoever has it open or works in it. Linux
/// before 6.2 does not know this flag, and takes it away.
pub(super) const EXPIRE_ONLY: u32 = 1 << 0;

/// What we may tell the kernel unasked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Notification {
    /// Attributes and pages of an inode are stale.
    InvalInode = 2,
    /// A name is stale.
    InvalEntry = 3,
    /// A name was removed.
    Delete = 6,
}

/// The fields of a message, taken one after another. `None` where there are no more.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    /// The next `count` bytes.
    pub(super) fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(bytes)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    /// A number of 16 bits.
    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_ne_bytes)
    }

    /// A number of 32 bits.
    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_ne_bytes)
    }

    /// A number of 32 bits with a sign.
    pub(super) fn i32(&mut self) -> Option<i32> {
        self.u32().map(u32::cast_signed)
    }

    /// A number of 64 bits.
    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_ne_bytes)
    }

    /// A number of 64 bits with a sign.
    pub(super) fn i64(&mut self) -> Option<i64> {
        self.u64().map(u64::cast_signed)
    }

    /// A name: everything up to the next zero byte, which is passed.
    pub(super) fn name(&mut self) -> Option<&'a [u8]> {
        let end = self.0.iter().position(|byte| *byte == 0)?;
        let name = self.bytes(end)?;
        self.bytes(1)?;
        Some(name)
    }

    /// Passes fields that do not matter here.
    pub(super) fn skip(&mut self, count: usize) -> Option<()> {
        self.bytes(count).map(drop)
    }
}

/// A message without variable parts, built field by field where it is needed: no allocation.
#[derive(Clone, Debug)]
pub(super) struct Body {
    bytes: [u8; Self::ROOM],
    length: usize,
}

impl Body {
    /// The longest message is that of `statx`.
    const ROOM: usize = 288;

    /// Empty.
    pub(super) fn new() -> Self {
        Self { bytes: [0; Self::ROOM], length: 0 }
    }

    /// What was built.
    pub(super) fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    fn put(mut self, field: &[u8]) -> Self {
        self.bytes[self.length..][..field.len()].copy_from_slice(field);
        self.length += field.len();
        self
    }

    /// Adds a number of 16 bits.
    #[expect(clippy::host_endian_bytes, reason = "the kernel speaks this machine's byte order")]
    pub(super) fn u16(self, value: u16) -> Self {
        self.put(&value.to_ne_bytes())
    }

    /// Adds a number of 32 bits.
    #[expect(clippy::host_endian_bytes, reason = "the kernel speaks this machine's byte order")]
    pub(super) fn u32(self, value: u32) -> Self {
        self.put(&value.to_ne_bytes())
    }

    /// Adds a number of 64 bits.
    #[expect(clippy::host_endian_bytes, reason = "the kernel speaks this machine's byte order")]
    pub(super) fn u64(self, value: u64) -> Self {
        self.put(&value.to_ne_bytes())
    }

    /// Adds zeros.
    pub(super) fn zeros(mut self, count: usize) -> Self {
        self.length += count;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_come_in_order_and_end() {
        let body = Body::new().u32(1).u64(u64::MAX).u16(3).zeros(1);
        let mut fields = Fields(body.as_slice());
        assert_eq!(fields.u32(), Some(1));
        assert_eq!(fields.i64(), Some(-1));
        assert_eq!(fields.u32(), None, "three bytes are no number");
        assert_eq!(fields.u16(), Some(3));
        assert_eq!(fields.name(), Some(&b""[..]));
        assert_eq!(fields.name(), None);
        assert_eq!(Fields(b"no end").name(), None);
    }

    #[test]
    fn opcodes_have_the_numbers_of_the_kernel() {
        assert_eq!(Opcode::from_number(1), Some(Opcode::Lookup));
        assert_eq!(Opcode::from_number(36), Some(Opcode::Interrupt));
        assert_eq!(Opcode::from_number(51), Some(Opcode::TmpFile));
        assert_eq!(Opcode::from_number(7), None);
        assert_eq!(Opcode::from_number(4096), None);
    }
}
