//! The filesystem as a client sees it: everything that the FUSE adapter may call.

use bytes::Bytes;

use crate::types::{Attr, Errno, FileKind, Ino, Timestamp};
use crate::wire::metadata::{DirEntry, RenameMode, Space, XattrMode};

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
}

/// An open file. Given by [`Fs::open`] and [`Fs::create`], ended by [`Fs::release`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Handle(pub u64);

/// How a file is opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenMode {
    /// For reading.
    pub read: bool,
    /// For writing.
    pub write: bool,
    /// Every write goes to the end (`O_APPEND`).
    pub append: bool,
    /// Each write is durable when it returns (`O_SYNC`, `O_DSYNC`).
    pub sync: bool,
    /// Cut to nothing first (`O_TRUNC`).
    pub truncate: bool,
}

/// What `setattr` changes; `None` leaves one as it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct SetAttr {
    /// Permission bits.
    pub mode: Option<u16>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Size.
    pub size: Option<u64>,
    /// Last access.
    pub atime: Option<Timestamp>,
    /// Last change of content.
    pub mtime: Option<Timestamp>,
}

/// What a new inode is.
#[derive(Clone, Debug)]
pub struct NewInode {
    /// Its type.
    pub kind: FileKind,
    /// Permission bits, umask applied.
    pub mode: u16,
    /// Device number of a device node, else 0.
    pub rdev: u32,
    /// Target of a symbolic link, else empty.
    pub target: Vec<u8>,
}

/// What `fallocate` does with a range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Allocate {
    /// Make sure there is room (holes stay holes; the size grows unless `keep_size`).
    Reserve {
        /// Whether the size stays.
        keep_size: bool,
    },
    /// Make a hole; the size stays.
    Punch,
    /// Make it read as zeros.
    Zero {
        /// Whether the size stays.
        keep_size: bool,
    },
}

/// What `lseek` looks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seek {
    /// `SEEK_DATA`.
    Data,
    /// `SEEK_HOLE`.
    Hole,
}

/// A part of a directory.
#[derive(Clone, Debug)]
pub struct Listing {
    /// The directory's own parent.
    pub parent: Ino,
    /// Its entries; each says where to go on after it ([`DirEntry::next`], always above 2).
    pub entries: Vec<DirEntry>,
    /// Whether there are no more after them.
    pub end: bool,
}

/// A mounted filesystem.
#[derive(Debug)]
pub struct Fs {}

#[expect(clippy::unused_async, reason = "signatures only")]
impl Fs {
    /// The inode that the mount shows as its root.
    pub fn root(&self) -> Ino {
        todo!()
    }
    /// The inode with that name.
    pub async fn lookup(&self, _parent: Ino, _name: &[u8]) -> Result<Attr, Errno> {
        todo!()
    }
    /// Attributes.
    pub async fn getattr(&self, _ino: Ino) -> Result<Attr, Errno> {
        todo!()
    }
    /// Change attributes.
    pub async fn setattr(&self, _ino: Ino, _changes: SetAttr) -> Result<Attr, Errno> {
        todo!()
    }
    /// Where a symbolic link points.
    pub async fn readlink(&self, _ino: Ino) -> Result<Vec<u8>, Errno> {
        todo!()
    }
    /// A new inode that is not opened by the same call (mknod, mkdir, symlink).
    pub async fn make(
        &self,
        _caller: Caller,
        _parent: Ino,
        _name: &[u8],
        _new: NewInode,
    ) -> Result<Attr, Errno> {
        todo!()
    }
    /// A new regular file, opened.
    pub async fn create(
        &self,
        _caller: Caller,
        _parent: Ino,
        _name: &[u8],
        _mode: u16,
        _open: OpenMode,
    ) -> Result<(Attr, Handle), Errno> {
        todo!()
    }
    /// One more name.
    pub async fn link(&self, _ino: Ino, _parent: Ino, _name: &[u8]) -> Result<Attr, Errno> {
        todo!()
    }
    /// Remove a name of something that is not a directory.
    pub async fn unlink(&self, _parent: Ino, _name: &[u8]) -> Result<(), Errno> {
        todo!()
    }
    /// Remove an empty directory.
    pub async fn rmdir(&self, _parent: Ino, _name: &[u8]) -> Result<(), Errno> {
        todo!()
    }
    /// Rename.
    pub async fn rename(
        &self,
        _parent: Ino,
        _name: &[u8],
        _new_parent: Ino,
        _new_name: &[u8],
        _mode: RenameMode,
    ) -> Result<(), Errno> {
        todo!()
    }
    /// Open a regular file.
    pub async fn open(&self, _ino: Ino, _open: OpenMode) -> Result<Handle, Errno> {
        todo!()
    }
    /// Read up to `size` bytes; fewer only at the end of the file. The parts follow one another.
    pub async fn read(
        &self,
        _handle: Handle,
        _offset: u64,
        _size: u32,
    ) -> Result<Vec<Bytes>, Errno> {
        todo!()
    }
    /// [`Self::read`] where it can be answered from memory, without waiting for anybody.
    pub fn try_read(
        &self,
        _handle: Handle,
        _offset: u64,
        _size: u32,
    ) -> Option<Result<Vec<Bytes>, Errno>> {
        todo!()
    }
    /// Write all of `data`. It is buffered when this returns (durable, if the handle is `sync`).
    pub async fn write(&self, _handle: Handle, _offset: u64, _data: Bytes) -> Result<(), Errno> {
        todo!()
    }
    /// [`Self::write`] where it only has to be copied into the buffer, without waiting for anybody.
    pub fn try_write(
        &self,
        _handle: Handle,
        _offset: u64,
        _data: &[u8],
    ) -> Option<Result<(), Errno>> {
        todo!()
    }
    /// What `close` reports: an error that an earlier write met. Does not wait.
    pub async fn flush(&self, _handle: Handle) -> Result<(), Errno> {
        todo!()
    }
    /// Everything written to the file by anybody is durable.
    pub async fn fsync(&self, _handle: Handle) -> Result<(), Errno> {
        todo!()
    }
    /// The handle is closed.
    pub async fn release(&self, _handle: Handle) {
        todo!()
    }
    /// Everything that this mount has buffered is durable.
    pub async fn sync_all(&self) -> Result<(), Errno> {
        todo!()
    }
    /// Entries of a directory after `after` ([`DirEntry::next`] of the last one, 0 at the beginning).
    pub async fn readdir(
        &self,
        _dir: Ino,
        _after: u64,
        _limit: u32,
        _attrs: bool,
    ) -> Result<Listing, Errno> {
        todo!()
    }
    /// How full it is.
    pub async fn space(&self) -> Result<Space, Errno> {
        todo!()
    }
    /// The value of an extended attribute, `user.okapifs.*` included.
    pub async fn getxattr(&self, _ino: Ino, _name: &[u8]) -> Result<Vec<u8>, Errno> {
        todo!()
    }
    /// The names of all extended attributes; `user.okapifs.*` are not among them, so that nothing copies them.
    pub async fn listxattr(&self, _ino: Ino) -> Result<Vec<Vec<u8>>, Errno> {
        todo!()
    }
    /// Set an extended attribute.
    pub async fn setxattr(
        &self,
        _ino: Ino,
        _name: &[u8],
        _value: &[u8],
        _mode: XattrMode,
    ) -> Result<(), Errno> {
        todo!()
    }
    /// Remove an extended attribute.
    pub async fn removexattr(&self, _ino: Ino, _name: &[u8]) -> Result<(), Errno> {
        todo!()
    }
    /// Reserve, punch or zero a range.
    pub async fn fallocate(
        &self,
        _handle: Handle,
        _offset: u64,
        _length: u64,
        _what: Allocate,
    ) -> Result<(), Errno> {
        todo!()
    }
    /// Find data or a hole.
    pub async fn lseek(&self, _handle: Handle, _offset: u64, _whence: Seek) -> Result<u64, Errno> {
        todo!()
    }
    /// Copy a range, sharing extents where it can; how many bytes were copied.
    pub async fn copy_range(
        &self,
        _from: Handle,
        _from_offset: u64,
        _to: Handle,
        _to_offset: u64,
        _length: u64,
    ) -> Result<u64, Errno> {
        todo!()
    }
}
