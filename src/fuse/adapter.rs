//! One method a request: translate, call [`Fs`], reply.

use std::ffi::OsStr;
use std::future::Future;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, FileHandle, FopenFlags, INodeNo, IoctlFlags,
    KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier, RenameFlags,
    ReplyAttr, ReplyBmap, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty,
    ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr,
    Request, TimeOrNow, WriteFlags,
};
use parking_lot::Mutex;
use tokio::runtime::Handle as Runtime;

use super::answer::{answer, at_once, begin, number, send_data, send_xattr};
use super::directory::Directories;
use super::invalidate::Invalidation;
use super::mount::REQUEST_BYTES_MAX;
use super::shared::{GENERATION, NOT_BELIEVED, Shared, Write};
use super::translate::{self, Nodes, bare_attr, caller, file_type, permissions};
use super::{capabilities, privileges};
use crate::client::fs::{Fs, Handle, NewInode};
use crate::types::{Errno, FileKind, Ino, limits};
use crate::wire::metadata::Space;

/// Unit in which `statfs` counts, in bytes.
const STATFS_BLOCK: u32 = limits::BLOCK;

/// Inodes that `df -i` shows as free: there is no limit to run into.
const INODES_FREE: u64 = 1 << 40;

/// The filesystem as `fuser` calls it.
pub(super) struct Adapter {
    mine: Arc<Shared>,
    runtime: Runtime,
}

impl Adapter {
    /// Adapts `fs`.
    pub(super) fn new(fs: Arc<Fs>, runtime: Runtime, invalidations: Sender<Invalidation>) -> Self {
        let nodes = Nodes { root: fs.root() };
        let mine = Shared {
            fs,
            nodes,
            open_files: Mutex::default(),
            directories: Directories::default(),
            invalidations,
        };
        Self { mine: Arc::new(mine), runtime }
    }

    /// What the requests share.
    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.mine
    }

    fn ino(&self, node: INodeNo) -> Ino {
        self.mine.nodes.ino(node)
    }

    fn begin<F: Future<Output = ()> + Send + 'static>(&self, call: impl FnOnce(Arc<Shared>) -> F) {
        begin(&self.runtime, call(Arc::clone(&self.mine)));
    }

    fn make(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new: NewInode,
        reply: ReplyEntry,
    ) {
        let (caller, parent, name) = (caller(request), self.ino(parent), bytes(name));
        self.begin(|my| async move {
            answer!(reply, my.fs.make(caller, parent, &name, new).await, |attr| my
                .send_entry(reply, &attr));
        });
    }
}

impl fuser::Filesystem for Adapter {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        capabilities::negotiate(config)
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (parent, name) = (self.ino(parent), bytes(name));
        self.begin(|my| async move {
            let found = my.fs.lookup(parent, &name).await;
            my.send_found(reply, (parent, &name), found);
        });
    }

    /// Nothing is kept for an inode because the kernel knows it.
    fn forget(&self, _: &Request, _: INodeNo, _: u64) {}

    fn getattr(&self, _: &Request, node: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let ino = self.ino(node);
        self.begin(|my| async move {
            answer!(reply, my.fs.getattr(ino).await, |attr| my.send_attr(reply, &attr));
        });
    }

    fn setattr(
        &self,
        request: &Request,
        node: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let (ino, by_root) = (self.ino(node), request.uid() == 0);
        let changes = translate::changes(mode, (uid, gid), size, (atime, mtime));
        self.begin(|my| async move {
            answer!(reply, my.setattr(ino, changes, by_root).await, |attr| my
                .send_attr(reply, &attr));
        });
    }

    fn readlink(&self, _: &Request, node: INodeNo, reply: ReplyData) {
        let ino = self.ino(node);
        self.begin(|my| async move {
            answer!(reply, my.fs.readlink(ino).await, |target| reply.data(&target));
        });
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        match translate::node_kind(mode) {
            Ok(kind) => {
                let new = NewInode { kind, mode: permissions(mode), rdev, target: Vec::new() };
                self.make(request, parent, name, new, reply);
            }
            Err(errno) => reply.error(number(errno)),
        }
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let (kind, mode) = (FileKind::Directory, permissions(mode));
        let new = NewInode { kind, mode, rdev: 0, target: Vec::new() };
        self.make(request, parent, name, new, reply);
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let target = bytes(target.as_os_str());
        let new = NewInode { kind: FileKind::Symlink, mode: 0o777, rdev: 0, target };
        self.make(request, parent, name, new, reply);
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (parent, name) = (self.ino(parent), bytes(name));
        self.begin(|my| async move {
            answer!(reply, my.fs.unlink(parent, &name).await, |()| reply.ok());
        });
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (parent, name) = (self.ino(parent), bytes(name));
        self.begin(|my| async move {
            answer!(reply, my.fs.rmdir(parent, &name).await, |()| reply.ok());
        });
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let mode = match translate::rename_mode(flags) {
            Ok(mode) => mode,
            Err(errno) => return reply.error(number(errno)),
        };
        let (parent, name) = (self.ino(parent), bytes(name));
        let (new_parent, new_name) = (self.ino(new_parent), bytes(new_name));
        self.begin(|my| async move {
            let renamed = my.fs.rename(parent, &name, new_parent, &new_name, mode).await;
            answer!(reply, renamed, |()| reply.ok());
        });
    }

    fn link(
        &self,
        _: &Request,
        node: INodeNo,
        new_parent: INodeNo,
        new_name: &OsStr,
        reply: ReplyEntry,
    ) {
        let (ino, parent, name) = (self.ino(node), self.ino(new_parent), bytes(new_name));
        self.begin(|my| async move {
            answer!(reply, my.fs.link(ino, parent, &name).await, |attr| my
                .send_entry(reply, &attr));
        });
    }

    fn open(&self, request: &Request, node: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let (ino, by_root) = (self.ino(node), request.uid() == 0);
        let mode = translate::open_mode(flags);
        self.begin(|my| async move {
            answer!(reply, my.open(ino, mode, by_root).await, |(handle, flags)| {
                reply.opened(FileHandle(handle.0), flags);
            });
        });
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (caller, parent, name) = (caller(request), self.ino(parent), bytes(name));
        let (mode, open) = (permissions(mode), translate::open_mode(OpenFlags(flags)));
        let exclusive = flags & libc::O_EXCL != 0;
        self.begin(|my| async move {
            match my.fs.create(caller, parent, &name, mode, open).await {
                Ok((attr, handle)) => {
                    let flags = my.opened(attr.ino, handle, open);
                    if privileges::is_clean(attr.mode) {
                        my.open_files.lock().set_clean(attr.ino, Instant::now());
                    }
                    let (fh, attr) = (FileHandle(handle.0), my.nodes.attr(&attr));
                    reply.created(&NOT_BELIEVED, &attr, GENERATION, fh, flags);
                }
                // Another host was faster. The kernel takes ESTALE as "look again", finds the file, checks
                // whether the caller may open it, and opens it.
                Err(Errno::Exists) if !exclusive => reply.error(number(Errno::Stale)),
                Err(errno) => reply.error(number(errno)),
            }
        });
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let handle = Handle(fh.0);
        if let Some(read) = at_once(&self.runtime, || self.mine.fs.try_read(handle, offset, size)) {
            return answer!(reply, read, |parts| send_data(reply, &parts));
        }
        self.begin(|my| async move {
            answer!(reply, my.fs.read(handle, offset, size).await, |parts| {
                send_data(reply, &parts);
            });
        });
    }

    fn write(
        &self,
        _: &Request,
        node: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        flags: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let write = Write {
            node,
            ino: self.ino(node),
            handle: Handle(fh.0),
            offset,
            length: u32::try_from(data.len()).expect("a request is at most a mebibyte"),
            from_mapping: flags.contains(WriteFlags::FUSE_WRITE_CACHE),
            takes_set_ids: flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID),
        };
        if let Some(result) = self.mine.try_write(&self.runtime, write, data) {
            return self.mine.written(write, result, reply);
        }
        let data = Bytes::copy_from_slice(data);
        self.begin(|my| async move {
            let result = my.write(write, data).await;
            my.written(write, result, reply);
        });
    }

    fn flush(&self, _: &Request, _: INodeNo, fh: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        self.begin(|my| async move {
            answer!(reply, my.fs.flush(Handle(fh.0)).await, |()| reply.ok());
        });
    }

    fn release(
        &self,
        _: &Request,
        node: INodeNo,
        fh: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let ino = self.ino(node);
        self.begin(|my| async move {
            my.close(ino, Handle(fh.0)).await;
            reply.ok();
        });
    }

    fn fsync(&self, _: &Request, _: INodeNo, fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.begin(|my| async move {
            answer!(reply, my.fs.fsync(Handle(fh.0)).await, |()| reply.ok());
        });
    }

    fn opendir(&self, _: &Request, node: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let number = self.mine.directories.open(self.ino(node));
        reply.opened(FileHandle(number), FopenFlags::empty());
    }

    fn readdir(
        &self,
        _: &Request,
        _: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        self.begin(|my| async move {
            let read = my.directories.read(&my.fs, fh.0, offset, false, |row| {
                let name = OsStr::from_bytes(row.name);
                reply.add(my.nodes.node(row.ino), row.next, file_type(row.kind), name)
            });
            answer!(reply, read.await, |()| reply.ok());
        });
    }

    fn readdirplus(
        &self,
        _: &Request,
        _: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        self.begin(|my| async move {
            let read = my.directories.read(&my.fs, fh.0, offset, true, |row| {
                let node = my.nodes.node(row.ino);
                let attr = match row.attr {
                    Some(attr) => my.nodes.attr(attr),
                    None if row.is_dot() => bare_attr(node, row.kind),
                    // It was removed after its name was read.
                    None => return false,
                };
                let believed_for = match row.attr {
                    Some(attr) => my.believed_for(row.dir, row.name, attr),
                    None => NOT_BELIEVED,
                };
                let name = OsStr::from_bytes(row.name);
                reply.add(node, row.next, name, &believed_for, &attr, GENERATION)
            });
            answer!(reply, read.await, |()| reply.ok());
        });
    }

    fn releasedir(&self, _: &Request, _: INodeNo, fh: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        self.mine.directories.close(fh.0);
        reply.ok();
    }

    /// Promised in the design: fsync of any directory makes all that this mount has buffered durable.
    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.begin(|my| async move {
            answer!(reply, my.fs.sync_all().await, |()| reply.ok());
        });
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        self.begin(|my| async move {
            answer!(reply, my.fs.space().await, |space| send_space(reply, space));
        });
    }

    fn setxattr(
        &self,
        _: &Request,
        node: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let (ino, name, value) = (self.ino(node), bytes(name), value.to_vec());
        self.begin(|my| async move {
            let set = async {
                translate::check_xattr(&name)?;
                my.fs.setxattr(ino, &name, &value, translate::xattr_mode(flags)?).await
            };
            let set = set.await;
            if name == privileges::CAPABILITY {
                my.open_files.lock().set_unknown(ino);
            }
            answer!(reply, set, |()| reply.ok());
        });
    }

    fn getxattr(&self, _: &Request, node: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let (ino, name) = (self.ino(node), bytes(name));
        if let Err(errno) = translate::check_xattr(&name) {
            return reply.error(number(errno));
        }
        self.begin(|my| async move {
            answer!(reply, my.fs.getxattr(ino, &name).await, |value| send_xattr(
                reply, &value, size
            ));
        });
    }

    fn listxattr(&self, _: &Request, node: INodeNo, size: u32, reply: ReplyXattr) {
        let ino = self.ino(node);
        self.begin(|my| async move {
            answer!(reply, my.fs.listxattr(ino).await, |names| {
                send_xattr(reply, &translate::xattr_names(&names), size);
            });
        });
    }

    fn removexattr(&self, _: &Request, node: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (ino, name) = (self.ino(node), bytes(name));
        if let Err(errno) = translate::check_xattr(&name) {
            return reply.error(number(errno));
        }
        self.begin(|my| async move {
            answer!(reply, my.fs.removexattr(ino, &name).await, |()| reply.ok());
        });
    }

    fn fallocate(
        &self,
        request: &Request,
        node: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let what = match translate::allocate(mode) {
            Ok(what) => what,
            Err(errno) => return reply.error(number(errno)),
        };
        let (ino, by_root) = (self.ino(node), request.uid() == 0);
        self.begin(|my| async move {
            let allocated = async {
                my.take_privileges(ino, !by_root).await?;
                my.fs.fallocate(Handle(fh.0), offset, length, what).await
            };
            answer!(reply, allocated.await, |()| reply.ok());
        });
    }

    fn lseek(
        &self,
        _: &Request,
        _: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let (offset, whence) = match translate::seek(offset, whence) {
            Ok(seek) => seek,
            Err(errno) => return reply.error(number(errno)),
        };
        self.begin(|my| async move {
            answer!(reply, my.fs.lseek(Handle(fh.0), offset, whence).await, |found| reply
                .offset(i64::try_from(found).unwrap_or(i64::MAX)));
        });
    }

    fn copy_file_range(
        &self,
        request: &Request,
        _: INodeNo,
        from: FileHandle,
        from_offset: u64,
        to_node: INodeNo,
        to: FileHandle,
        to_offset: u64,
        length: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        // The reply counts in 32 bits; whoever wants more asks again.
        let length = length.min(u64::from(u32::MAX - (REQUEST_BYTES_MAX - 1)));
        let (ino, by_root) = (self.ino(to_node), request.uid() == 0);
        let (from, to) = (Handle(from.0), Handle(to.0));
        self.begin(|my| async move {
            let copied = async {
                my.take_privileges(ino, !by_root).await?;
                my.fs.copy_range(from, from_offset, to, to_offset, length).await
            };
            answer!(reply, copied.await, |bytes| reply
                .written(u32::try_from(bytes).unwrap_or(u32::MAX)));
        });
    }

    /// `default_permissions` has checked already; ENOSYS keeps the kernel from asking again.
    fn access(&self, _: &Request, _: INodeNo, _: AccessFlags, reply: ReplyEmpty) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        _: u32,
        _: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(fuser::Errno::ENOTTY);
    }

    /// ENOSYS keeps the kernel from asking again: regular files are always ready.
    fn poll(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: PollNotifier,
        _: PollEvents,
        _: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(fuser::Errno::ENOSYS);
    }

    /// No block of ours is a block of a device.
    fn bmap(&self, _: &Request, _: INodeNo, _: u32, _: u64, reply: ReplyBmap) {
        reply.error(fuser::Errno::ENOSYS);
    }
}

fn bytes(name: &OsStr) -> Vec<u8> {
    name.as_bytes().to_vec()
}

fn send_space(reply: ReplyStatfs, space: Space) {
    let block = u64::from(STATFS_BLOCK);
    let free = space.free_bytes / block;
    let name_max = u32::try_from(limits::NAME_MAX).expect("255");
    reply.statfs(
        space.total_bytes / block,
        free,
        free,
        space.inodes + INODES_FREE,
        INODES_FREE,
        STATFS_BLOCK,
        name_max,
        STATFS_BLOCK,
    );
}
