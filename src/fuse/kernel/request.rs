//! Requests of the kernel: from bytes to what is asked for. Nothing here waits or decides.
//!
//! Each request is a header (40 bytes: length, opcode, unique number, inode, who asks) and the opcode's own
//! structure, then names that end with a zero byte, or data. What is too short is [`Malformed`]: that would be
//! a bug of the kernel or of ours, and its program gets an input/output error.

use super::abi::{self, Fields, IN_HEADER_BYTES, Opcode, fattr};
use crate::types::Timestamp;

/// An inode as the kernel calls it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(in crate::fuse) struct NodeId(pub(in crate::fuse) u64);

impl NodeId {
    /// The root of a mount.
    pub(in crate::fuse) const ROOT: Self = Self(1);
    /// Where a name leads that there is not.
    pub(in crate::fuse) const NOTHING: Self = Self(0);
}

impl std::fmt::Display for NodeId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A request that is shorter than it has to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the kernel sent a request that is too short: opcode {opcode}, {bytes} bytes")]
pub(in crate::fuse) struct Malformed {
    opcode: u32,
    bytes: usize,
}

/// What stands at the head of every request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Header {
    /// What is asked for.
    pub(super) opcode: u32,
    /// By which the answer names its request. No two requests of a mount have the same.
    pub(super) unique: u64,
    /// The inode that it is about.
    pub(super) node: NodeId,
    /// Effective user of who asks.
    pub(super) uid: u32,
    /// Effective group of who asks.
    pub(super) gid: u32,
    /// The thread that asks; 0 if our process namespace does not have it, or if it is the kernel itself.
    pub(super) pid: u32,
}

/// A request of the filesystem.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(in crate::fuse) struct Request<'a> {
    /// The inode that it is about; of requests about a name, the directory.
    pub(in crate::fuse) node: NodeId,
    /// Effective user of who asks.
    pub(in crate::fuse) uid: u32,
    /// Effective group of who asks.
    pub(in crate::fuse) gid: u32,
    /// What is asked for.
    pub(in crate::fuse) op: Op<'a>,
}

/// What is asked for. Flags and modes are those of the system call, unless they have a field of their own.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(in crate::fuse) enum Op<'a> {
    /// The inode with that name.
    Lookup { name: &'a [u8] },
    /// Attributes.
    GetAttr,
    /// Attributes, the time of birth with them.
    StatX,
    /// A change of attributes.
    SetAttr(SetAttr),
    /// The target of a symbolic link.
    ReadLink,
    /// A new symbolic link.
    Symlink { name: &'a [u8], target: &'a [u8] },
    /// A new file, pipe, socket or device. The umask is not applied.
    MkNod { name: &'a [u8], mode: u32, umask: u32, rdev: u32 },
    /// A new directory. The umask is not applied.
    MkDir { name: &'a [u8], mode: u32, umask: u32 },
    /// A name less.
    Unlink { name: &'a [u8] },
    /// A directory less.
    RmDir { name: &'a [u8] },
    /// Another name.
    Rename { name: &'a [u8], new_parent: NodeId, new_name: &'a [u8], flags: u32 },
    /// One more name, in the request's directory.
    Link { node: NodeId, name: &'a [u8] },
    /// Opens a file.
    Open { flags: i32 },
    /// Makes and opens a file. The umask is not applied.
    Create { name: &'a [u8], mode: u32, umask: u32, flags: i32 },
    /// Makes and opens a file without a name. The umask is not applied.
    TmpFile { mode: u32, umask: u32, flags: i32 },
    /// Reads.
    Read { handle: u64, offset: u64, size: u32 },
    /// Writes.
    Write(Write<'a>),
    /// A descriptor was closed (there may be others of the handle), and with it all locks of fcntl(2) that this
    /// owner has on the file.
    Flush { handle: u64, owner: u64 },
    /// The last descriptor of a handle was closed, and with it its lock of flock(2) if `unlocks`. Nobody waits for
    /// the answer.
    Release { handle: u64, owner: u64, unlocks: bool },
    /// Makes a file durable.
    FSync { handle: u64 },
    /// Opens a directory.
    OpenDir,
    /// Lists a directory, with attributes if `plus`.
    ReadDir { handle: u64, offset: u64, size: u32, plus: bool },
    /// A directory was closed.
    ReleaseDir { handle: u64 },
    /// Makes a directory durable.
    FSyncDir,
    /// Room and use.
    StatFs,
    /// Sets an extended attribute. If it is an ACL, it takes setgid away if `takes_setgid`; the kernel may not say.
    SetXattr { name: &'a [u8], value: &'a [u8], flags: i32, takes_setgid: Option<bool> },
    /// An extended attribute, or its size if `size` is 0.
    GetXattr { name: &'a [u8], size: u32 },
    /// The names of extended attributes, or their size if `size` is 0.
    ListXattr { size: u32 },
    /// Removes an extended attribute.
    RemoveXattr { name: &'a [u8] },
    /// Which lock is in the way of this one.
    GetLock(Lock),
    /// Takes or gives back a lock; waits for it if `wait`.
    SetLock { lock: Lock, wait: bool },
    /// Reserves room, makes holes or zeros.
    FAllocate { handle: u64, offset: u64, length: u64, mode: i32 },
    /// Looks for data or a hole.
    LSeek { handle: u64, offset: i64, whence: i32 },
    /// Copies within the filesystem, to another file.
    CopyFileRange(CopyFileRange),
    /// A control of a device, which no file here is.
    Ioctl,
    /// Something that we have no use for.
    Other,
}

/// What `setattr` changes; `None` leaves one as it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::fuse) struct SetAttr {
    pub(in crate::fuse) mode: Option<u32>,
    pub(in crate::fuse) uid: Option<u32>,
    pub(in crate::fuse) gid: Option<u32>,
    pub(in crate::fuse) size: Option<u64>,
    pub(in crate::fuse) atime: Option<TimeOrNow>,
    pub(in crate::fuse) mtime: Option<TimeOrNow>,
    /// The file loses setuid and setgid.
    pub(in crate::fuse) takes_set_ids: bool,
}

/// A time to set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::fuse) enum TimeOrNow {
    /// That time.
    Time(Timestamp),
    /// Whatever time it is.
    Now,
}

/// What is written where.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::fuse) struct Write<'a> {
    pub(in crate::fuse) handle: u64,
    pub(in crate::fuse) offset: u64,
    /// Pages of the cache come back, through any handle.
    pub(in crate::fuse) from_cache: bool,
    /// The file loses setuid and setgid.
    pub(in crate::fuse) takes_set_ids: bool,
    /// Those of the open file at this moment.
    pub(in crate::fuse) flags: i32,
    pub(in crate::fuse) data: &'a [u8],
}

/// A lock of flock(2) or fcntl(2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::fuse) struct Lock {
    /// The open file.
    pub(in crate::fuse) handle: u64,
    /// Who holds it, as the kernel tells owners apart: an open file (flock) or a process (fcntl).
    pub(in crate::fuse) owner: u64,
    /// First byte.
    pub(in crate::fuse) start: u64,
    /// Last byte, itself in it; `i64::MAX` is the end of all files.
    pub(in crate::fuse) end: u64,
    /// `F_RDLCK`, `F_WRLCK` or `F_UNLCK`.
    pub(in crate::fuse) kind: i32,
    /// The process, in our process namespace.
    pub(in crate::fuse) pid: u32,
    /// It is one of flock(2), which has nothing to do with those of fcntl(2).
    pub(in crate::fuse) is_flock: bool,
}

/// From the request's inode to another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::fuse) struct CopyFileRange {
    pub(in crate::fuse) from: u64,
    pub(in crate::fuse) from_offset: u64,
    pub(in crate::fuse) to_node: NodeId,
    pub(in crate::fuse) to: u64,
    pub(in crate::fuse) to_offset: u64,
    pub(in crate::fuse) length: u64,
}

/// The kernel's words at the beginning of a mount.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::fuse) struct Init {
    /// Major version of its protocol.
    pub(super) major: u32,
    /// Minor version of its protocol.
    pub(super) minor: u32,
    /// How far it would read ahead, in bytes.
    pub(super) max_readahead: u32,
    /// What it can do ([`abi::init`]).
    pub(in crate::fuse) flags: u64,
}

/// Inodes that the kernel has forgotten.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Forgotten<'a> {
    one: Option<NodeId>,
    /// Each with the number of its lookups, 16 bytes.
    more: &'a [u8],
}

impl Iterator for Forgotten<'_> {
    type Item = NodeId;

    fn next(&mut self) -> Option<NodeId> {
        if let Some(node) = self.one.take() {
            return Some(node);
        }
        let mut fields = Fields(self.more);
        let node = fields.u64()?;
        fields.skip(8)?;
        self.more = fields.0;
        Some(NodeId(node))
    }
}

/// Everything that can come from the device.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Message<'a> {
    /// A question to the filesystem.
    Request(Request<'a>),
    /// Beginning of the mount.
    Init(Init),
    /// Whoever waits for the answer of that request got a signal. Not answered.
    Interrupt(u64),
    /// The kernel knows some inodes no longer. Not answered.
    Forget(Forgotten<'a>),
    /// End of the mount.
    Destroy,
}

#[cfg(test)]
impl Init {
    /// A kernel that can do this.
    pub(in crate::fuse) fn offering(flags: u64) -> Self {
        Self { major: abi::MAJOR, minor: abi::MINOR, max_readahead: 1 << 20, flags }
    }
}

impl Header {
    /// Takes a header and its opcode's own bytes apart.
    pub(super) fn parse(message: &[u8]) -> Result<(Self, &[u8]), Malformed> {
        let malformed = Malformed { opcode: 0, bytes: message.len() };
        Self::try_parse(message).ok_or(malformed)
    }

    fn try_parse(message: &[u8]) -> Option<(Self, &[u8])> {
        let mut fields = Fields(message);
        let length = fields.u32()?;
        let header = Self {
            opcode: fields.u32()?,
            unique: fields.u64()?,
            node: NodeId(fields.u64()?),
            uid: fields.u32()?,
            gid: fields.u32()?,
            pid: fields.u32()?,
        };
        // Behind the opcode's own bytes there may be extensions, counted in units of 8 bytes.
        let extensions = usize::from(fields.u16()?) * 8;
        let end = usize::try_from(length).ok()?.checked_sub(extensions)?;
        (message.len() == usize::try_from(length).ok()?).then_some(())?;
        Some((header, message.get(IN_HEADER_BYTES..end)?))
    }
}

impl<'a> Message<'a> {
    /// Understands the opcode's own bytes, whose layout hangs on what both sides have agreed on ([`abi::init`]).
    pub(super) fn parse(header: &Header, body: &'a [u8], agreed: u64) -> Result<Self, Malformed> {
        let malformed = Malformed { opcode: header.opcode, bytes: body.len() };
        let mut fields = Fields(body);
        let message = match Opcode::from_number(header.opcode) {
            Some(Opcode::Init) => init(&mut fields).map(Self::Init),
            Some(Opcode::Interrupt) => fields.u64().map(Self::Interrupt),
            Some(Opcode::Forget) => {
                Some(Self::Forget(Forgotten { one: Some(header.node), more: &[] }))
            }
            Some(Opcode::BatchForget) => {
                fields.skip(8).map(|()| Self::Forget(Forgotten { one: None, more: fields.0 }))
            }
            Some(Opcode::Destroy) => Some(Self::Destroy),
            opcode => op(opcode, &mut fields, agreed).map(|op| {
                let Header { node, uid, gid, .. } = *header;
                Self::Request(Request { node, uid, gid, op })
            }),
        };
        message.ok_or(malformed)
    }
}

/// Reads the fields of one structure in their order, those that do not matter too.
fn op<'a>(opcode: Option<Opcode>, fields: &mut Fields<'a>, agreed: u64) -> Option<Op<'a>> {
    let Some(opcode) = opcode else { return Some(Op::Other) };
    Some(match opcode {
        Opcode::Lookup => Op::Lookup { name: fields.name()? },
        Opcode::GetAttr => Op::GetAttr,
        Opcode::StatX => Op::StatX,
        Opcode::SetAttr => Op::SetAttr(setattr(fields)?),
        Opcode::ReadLink => Op::ReadLink,
        Opcode::Symlink => Op::Symlink { name: fields.name()?, target: fields.name()? },
        Opcode::MkNod => {
            let (mode, rdev, umask) = (fields.u32()?, fields.u32()?, fields.u32()?);
            fields.skip(4)?;
            Op::MkNod { name: fields.name()?, mode, umask, rdev }
        }
        Opcode::MkDir => {
            let (mode, umask) = (fields.u32()?, fields.u32()?);
            Op::MkDir { name: fields.name()?, mode, umask }
        }
        Opcode::Unlink => Op::Unlink { name: fields.name()? },
        Opcode::RmDir => Op::RmDir { name: fields.name()? },
        Opcode::Rename => {
            let new_parent = NodeId(fields.u64()?);
            Op::Rename { new_parent, name: fields.name()?, new_name: fields.name()?, flags: 0 }
        }
        Opcode::Rename2 => {
            let (new_parent, flags) = (NodeId(fields.u64()?), fields.u32()?);
            fields.skip(4)?;
            Op::Rename { new_parent, name: fields.name()?, new_name: fields.name()?, flags }
        }
        Opcode::Link => Op::Link { node: NodeId(fields.u64()?), name: fields.name()? },
        Opcode::Open => Op::Open { flags: fields.i32()? },
        Opcode::Create => {
            let (flags, mode, umask) = (fields.i32()?, fields.u32()?, fields.u32()?);
            fields.skip(4)?;
            Op::Create { name: fields.name()?, mode, umask, flags }
        }
        Opcode::TmpFile => {
            let (flags, mode, umask) = (fields.i32()?, fields.u32()?, fields.u32()?);
            Op::TmpFile { mode, umask, flags }
        }
        Opcode::Read => {
            let (handle, offset, size) = (fields.u64()?, fields.u64()?, fields.u32()?);
            Op::Read { handle, offset, size }
        }
        Opcode::Write => Op::Write(write(fields)?),
        Opcode::Flush => {
            let handle = fields.u64()?;
            fields.skip(8)?;
            Op::Flush { handle, owner: fields.u64()? }
        }
        Opcode::Release => {
            let handle = fields.u64()?;
            fields.skip(4)?;
            let unlocks = fields.u32()? & abi::RELEASE_FLOCK_UNLOCK != 0;
            Op::Release { handle, owner: fields.u64()?, unlocks }
        }
        Opcode::FSync => Op::FSync { handle: fields.u64()? },
        Opcode::OpenDir => Op::OpenDir,
        Opcode::ReadDir | Opcode::ReadDirPlus => {
            let (handle, offset, size) = (fields.u64()?, fields.u64()?, fields.u32()?);
            Op::ReadDir { handle, offset, size, plus: opcode == Opcode::ReadDirPlus }
        }
        Opcode::ReleaseDir => Op::ReleaseDir { handle: fields.u64()? },
        Opcode::FSyncDir => Op::FSyncDir,
        Opcode::StatFs => Op::StatFs,
        Opcode::SetXattr => {
            let (size, flags) = (fields.u32()?, fields.i32()?);
            let takes_setgid = if agreed & abi::init::SETXATTR_EXT != 0 {
                let own_flags = fields.u32()?;
                fields.skip(4)?;
                Some(own_flags & abi::SETXATTR_ACL_KILL_SGID != 0)
            } else {
                None
            };
            let name = fields.name()?;
            let value = fields.bytes(usize::try_from(size).ok()?)?;
            Op::SetXattr { name, value, flags, takes_setgid }
        }
        Opcode::GetXattr => {
            let size = fields.u32()?;
            fields.skip(4)?;
            Op::GetXattr { name: fields.name()?, size }
        }
        Opcode::ListXattr => Op::ListXattr { size: fields.u32()? },
        Opcode::RemoveXattr => Op::RemoveXattr { name: fields.name()? },
        Opcode::GetLk => Op::GetLock(lock(fields)?),
        Opcode::SetLk => Op::SetLock { lock: lock(fields)?, wait: false },
        Opcode::SetLkW => Op::SetLock { lock: lock(fields)?, wait: true },
        Opcode::FAllocate => Op::FAllocate {
            handle: fields.u64()?,
            offset: fields.u64()?,
            length: fields.u64()?,
            mode: fields.i32()?,
        },
        Opcode::LSeek => {
            Op::LSeek { handle: fields.u64()?, offset: fields.i64()?, whence: fields.i32()? }
        }
        Opcode::CopyFileRange => Op::CopyFileRange(CopyFileRange {
            from: fields.u64()?,
            from_offset: fields.u64()?,
            to_node: NodeId(fields.u64()?),
            to: fields.u64()?,
            to_offset: fields.u64()?,
            length: fields.u64()?,
        }),
        Opcode::Ioctl => Op::Ioctl,
        Opcode::Init
        | Opcode::Interrupt
        | Opcode::Forget
        | Opcode::BatchForget
        | Opcode::Destroy => return None,
    })
}

fn init(fields: &mut Fields<'_>) -> Option<Init> {
    let (major, minor) = (fields.u32()?, fields.u32()?);
    let (max_readahead, lower) = (fields.u32()?, u64::from(fields.u32()?));
    let upper = match lower & abi::init::INIT_EXT {
        0 => 0,
        _ => u64::from(fields.u32()?),
    };
    Some(Init { major, minor, max_readahead, flags: upper << 32 | lower })
}

fn setattr(fields: &mut Fields<'_>) -> Option<SetAttr> {
    let valid = fields.u32()?;
    fields.skip(4 + 8)?;
    let size = fields.u64()?;
    fields.skip(8)?;
    let (atime, mtime) = (fields.i64()?, fields.i64()?);
    fields.skip(8)?;
    let (atime_nanos, mtime_nanos) = (fields.u32()?, fields.u32()?);
    fields.skip(4)?;
    let mode = fields.u32()?;
    fields.skip(4)?;
    let (uid, gid) = (fields.u32()?, fields.u32()?);
    let has = |flag: u32| valid & flag != 0;
    let time = |set: u32, now: u32, seconds: i64, nanos: u32| match (has(set), has(now)) {
        (false, _) => None,
        (true, true) => Some(TimeOrNow::Now),
        (true, false) => Some(TimeOrNow::Time(Timestamp { seconds, nanos })),
    };
    Some(SetAttr {
        mode: has(fattr::MODE).then_some(mode),
        uid: has(fattr::UID).then_some(uid),
        gid: has(fattr::GID).then_some(gid),
        size: has(fattr::SIZE).then_some(size),
        atime: time(fattr::ATIME, fattr::ATIME_NOW, atime, atime_nanos),
        mtime: time(fattr::MTIME, fattr::MTIME_NOW, mtime, mtime_nanos),
        takes_set_ids: has(fattr::KILL_SUIDGID),
    })
}

fn write<'a>(fields: &mut Fields<'a>) -> Option<Write<'a>> {
    let (handle, offset, size) = (fields.u64()?, fields.u64()?, fields.u32()?);
    let write_flags = fields.u32()?;
    fields.skip(8)?;
    let flags = fields.i32()?;
    fields.skip(4)?;
    Some(Write {
        handle,
        offset,
        from_cache: write_flags & abi::WRITE_CACHE != 0,
        takes_set_ids: write_flags & abi::WRITE_KILL_SUIDGID != 0,
        flags,
        data: fields.bytes(usize::try_from(size).ok()?)?,
    })
}

fn lock(fields: &mut Fields<'_>) -> Option<Lock> {
    Some(Lock {
        handle: fields.u64()?,
        owner: fields.u64()?,
        start: fields.u64()?,
        end: fields.u64()?,
        kind: fields.i32()?,
        pid: fields.u32()?,
        is_flock: fields.u32()? & abi::LK_FLOCK != 0,
    })
}

#[cfg(test)]
mod tests;
