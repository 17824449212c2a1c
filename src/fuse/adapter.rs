//! One method a request: translate, call [`Fs`], reply.

use std::future::Future;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::runtime::Handle as Runtime;

use super::answer::{answer, at_once, begin};
use super::directory::Directories;
use super::invalidate::Invalidation;
use super::kernel::{
    self, CopyFileRange, Delivery, Entries, Handler, NodeId, Op, Opened, Pages, Reply, Request,
    Room,
};
use super::mount::REQUEST_BYTES_MAX;
use super::privileges;
use super::shared::{Shared, Write};
use super::translate::{self, Nodes, caller, permissions, type_bits};
use crate::client::fs::{Caller, Fs, Handle, Lock, NewInode};
use crate::types::{Errno, FileKind, Ino, LockOwner, limits};
use crate::wire::metadata::Space;

/// Unit in which `statfs` counts, in bytes.
const STATFS_BLOCK: u32 = limits::BLOCK;

/// Inodes that `df -i` shows as free where there is no limit to run into.
const INODES_FREE: u64 = 1 << 40;

/// The filesystem as the kernel calls it.
pub(super) struct Adapter {
    mine: Arc<Shared>,
    runtime: Runtime,
}

impl Handler for Adapter {
    fn handle(&self, request: Request<'_>, reply: Reply) {
        let (node, by_root) = (request.node, request.uid == 0);
        match request.op {
            Op::Lookup { name } => self.lookup(node, name, reply),
            Op::GetAttr => self.getattr(node, reply),
            Op::StatX => self.statx(node, reply),
            Op::SetAttr(changes) => self.setattr(node, &changes, reply),
            Op::ReadLink => self.readlink(node, reply),
            Op::Symlink { name, target } => {
                self.symlink(caller(&request, 0), node, name, target, reply);
            }
            Op::MkNod { name, mode, umask, rdev } => {
                self.mknod(caller(&request, umask), node, name, (mode, rdev), reply);
            }
            Op::MkDir { name, mode, umask } => {
                self.mkdir(caller(&request, umask), node, name, mode, reply);
            }
            Op::Unlink { name } => self.unlink(node, name, reply),
            Op::RmDir { name } => self.rmdir(node, name, reply),
            Op::Rename { name, new_parent, new_name, flags } => {
                self.rename((node, name), (new_parent, new_name), flags, reply);
            }
            Op::Link { node: linked, name } => self.link(linked, node, name, reply),
            Op::Open { flags } => self.open(node, flags, reply),
            Op::Create { name, mode, umask, flags } => {
                self.create(caller(&request, umask), node, name, (mode, flags), reply);
            }
            Op::TmpFile { mode, umask, flags } => {
                self.create_nameless(caller(&request, umask), node, (mode, flags), reply);
            }
            Op::Read { handle, offset, size } => self.read(Handle(handle), offset, size, reply),
            Op::Write(write) => self.write(node, &write, reply),
            Op::Flush { handle, owner } => {
                self.flush(node, Handle(handle), LockOwner(owner), reply);
            }
            Op::Release { handle, .. } => self.release(node, Handle(handle), reply),
            Op::FSync { handle } => self.fsync(Handle(handle), reply),
            Op::OpenDir => self.opendir(node, reply),
            Op::ReadDir { handle, offset, size, plus: false } => {
                self.readdir(handle, offset, Entries::new(size), reply);
            }
            Op::ReadDir { handle, offset, size, plus: true } => {
                self.readdirplus(handle, offset, Entries::new(size), reply);
            }
            Op::ReleaseDir { handle } => self.releasedir(handle, reply),
            Op::FSyncDir => self.fsyncdir(reply),
            Op::StatFs => self.statfs(node, reply),
            Op::SetXattr { name, value, flags, takes_setgid } => {
                let caller = caller(&request, 0);
                self.setxattr(caller, node, (name, value), (flags, takes_setgid), reply);
            }
            Op::GetXattr { name, size } => self.getxattr(node, name, size, reply),
            Op::ListXattr { size } => self.listxattr(node, size, reply),
            Op::RemoveXattr { name } => self.removexattr(node, name, reply),
            Op::FAllocate { handle, offset, length, mode } => {
                self.fallocate(node, Handle(handle), (offset, length), mode, by_root, reply);
            }
            Op::LSeek { handle, offset, whence } => {
                self.lseek(Handle(handle), offset, whence, reply);
            }
            Op::CopyFileRange(range) => self.copy_file_range(&range, by_root, reply),
            Op::Ioctl => reply.refuse(libc::ENOTTY),
            Op::GetLock(lock) => self.get_lock(&lock, reply),
            Op::SetLock { lock, wait } => self.set_lock(&lock, wait, reply),
            // The kernel does not ask again, and does without: regular files are always ready, no block of ours is
            // a block of a device, and `default_permissions` has checked access.
            Op::Other => reply.refuse(libc::ENOSYS),
        }
    }

    /// Little is kept for an inode because the kernel knows it, and not one thing for each time it was looked up.
    fn forget(&self, node: NodeId) {
        self.mine.fs.forget(self.ino(node));
    }
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

    fn ino(&self, node: NodeId) -> Ino {
        self.mine.nodes.ino(node)
    }

    fn begin<F: Future<Output = ()> + Send + 'static>(
        &self,
        reply: Reply,
        call: impl FnOnce(Arc<Shared>, Reply) -> F,
    ) {
        let question = reply.question();
        begin(&self.runtime, &question, call(Arc::clone(&self.mine), reply));
    }

    /// The same, for a call that changes attributes of these inodes, or these names in them. If the kernel takes it for
    /// failed, since its program died meanwhile, it is to ask again for them.
    fn change<F: Future<Output = ()> + Send + 'static>(
        &self,
        reply: Reply,
        changed: Vec<(Ino, Option<Vec<u8>>)>,
        call: impl FnOnce(Arc<Shared>, Reply) -> F,
    ) {
        let question = reply.question();
        let (my, asked) = (Arc::clone(&self.mine), Arc::clone(&question));
        let call = call(Arc::clone(&my), reply);
        begin(&self.runtime, &question, async move {
            call.await;
            if asked.is_abandoned() {
                my.fs.changed_for_nobody(changed).await;
            }
        });
    }
}

/// Names.
impl Adapter {
    fn lookup(&self, parent: NodeId, name: &[u8], reply: Reply) {
        let (parent, name) = (self.ino(parent), name.to_vec());
        self.begin(reply, |my, reply| async move {
            let found = my.fs.lookup(parent, &name).await;
            answer!(reply, my.found((parent, &name), found), |entry| reply.entry(&entry));
        });
    }

    fn readlink(&self, node: NodeId, reply: Reply) {
        let ino = self.ino(node);
        self.begin(reply, |my, reply| async move {
            answer!(reply, my.fs.readlink(ino).await, |target| reply.data(&target));
        });
    }

    fn mknod(
        &self,
        caller: Caller,
        parent: NodeId,
        name: &[u8],
        (mode, rdev): (u32, u32),
        reply: Reply,
    ) {
        match translate::node_kind(mode) {
            Ok(kind) => {
                let new = NewInode { kind, mode: permissions(mode), rdev, target: Vec::new() };
                self.make(caller, parent, name, new, reply);
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn mkdir(&self, caller: Caller, parent: NodeId, name: &[u8], mode: u32, reply: Reply) {
        let (kind, mode) = (FileKind::Directory, permissions(mode));
        self.make(
            caller,
            parent,
            name,
            NewInode { kind, mode, rdev: 0, target: Vec::new() },
            reply,
        );
    }

    fn symlink(&self, caller: Caller, parent: NodeId, name: &[u8], target: &[u8], reply: Reply) {
        let (kind, target) = (FileKind::Symlink, target.to_vec());
        self.make(caller, parent, name, NewInode { kind, mode: 0o777, rdev: 0, target }, reply);
    }

    fn make(&self, caller: Caller, parent: NodeId, name: &[u8], new: NewInode, reply: Reply) {
        let (parent, name) = (self.ino(parent), name.to_vec());
        let changed = vec![(parent, Some(name.clone()))];
        self.change(reply, changed, |my, reply| async move {
            let made = my.fs.make(caller, parent, &name, new).await;
            answer!(reply, made, |attr| reply.entry(&my.named((parent, &name), &attr)));
        });
    }

    fn unlink(&self, parent: NodeId, name: &[u8], reply: Reply) {
        let (parent, name) = (self.ino(parent), name.to_vec());
        let changed = vec![(parent, Some(name.clone()))];
        self.change(reply, changed, |my, reply| async move {
            answer!(reply, my.fs.unlink(parent, &name).await, |()| reply.ok());
        });
    }

    fn rmdir(&self, parent: NodeId, name: &[u8], reply: Reply) {
        let (parent, name) = (self.ino(parent), name.to_vec());
        let changed = vec![(parent, Some(name.clone()))];
        self.change(reply, changed, |my, reply| async move {
            answer!(reply, my.fs.rmdir(parent, &name).await, |()| reply.ok());
        });
    }

    fn rename(&self, from: (NodeId, &[u8]), to: (NodeId, &[u8]), flags: u32, reply: Reply) {
        let mode = match translate::rename_mode(flags) {
            Ok(mode) => mode,
            Err(errno) => return reply.error(errno),
        };
        let (parent, name) = (self.ino(from.0), from.1.to_vec());
        let (new_parent, new_name) = (self.ino(to.0), to.1.to_vec());
        let changed = vec![(parent, Some(name.clone())), (new_parent, Some(new_name.clone()))];
        self.change(reply, changed, |my, reply| async move {
            let renamed = my.fs.rename(parent, &name, new_parent, &new_name, mode).await;
            answer!(reply, renamed, |()| reply.ok());
        });
    }

    fn link(&self, node: NodeId, parent: NodeId, name: &[u8], reply: Reply) {
        let (ino, parent, name) = (self.ino(node), self.ino(parent), name.to_vec());
        let changed = vec![(parent, Some(name.clone())), (ino, None)];
        self.change(reply, changed, |my, reply| async move {
            let linked = my.fs.link(ino, parent, &name).await;
            answer!(reply, linked, |attr| reply.entry(&my.named((parent, &name), &attr)));
        });
    }
}

/// Attributes.
impl Adapter {
    fn getattr(&self, node: NodeId, reply: Reply) {
        let ino = self.ino(node);
        self.begin(reply, |my, reply| async move {
            answer!(reply, my.fs.getattr(ino).await, |attr| my.send_attr(reply, &attr));
        });
    }

    fn statx(&self, node: NodeId, reply: Reply) {
        let ino = self.ino(node);
        self.begin(reply, |my, reply| async move {
            answer!(reply, my.fs.getattr(ino).await, |attr| {
                reply.statx(&my.nodes.attr(&attr), my.fs.tell_attr(&attr));
            });
        });
    }

    fn setattr(&self, node: NodeId, asked: &kernel::SetAttr, reply: Reply) {
        let (ino, takes_set_ids) = (self.ino(node), asked.takes_set_ids);
        let changes = translate::changes(asked);
        let changed = vec![(ino, None)];
        self.change(reply, changed, |my, reply| async move {
            let changed = my.setattr(ino, changes, takes_set_ids).await;
            answer!(reply, changed, |attr| my.send_attr(reply, &attr));
        });
    }

    fn setxattr(
        &self,
        caller: Caller,
        node: NodeId,
        (name, value): (&[u8], &[u8]),
        (flags, takes_setgid): (i32, Option<bool>),
        reply: Reply,
    ) {
        let (ino, name, value) = (self.ino(node), name.to_vec(), value.to_vec());
        let changed = vec![(ino, None)];
        self.change(reply, changed, |my, reply| async move {
            let set = async {
                let mode = translate::xattr_mode(flags)?;
                let takes_setgid = match takes_setgid {
                    Some(said) => said,
                    None => privileges::acl_takes_setgid(&my.fs, ino, &name, caller).await?,
                };
                my.fs.setxattr(ino, &name, &value, mode, takes_setgid).await
            };
            let set = set.await;
            if name == privileges::CAPABILITY {
                my.open_files.lock().set_unknown(ino);
            }
            answer!(reply, set, |()| reply.ok());
        });
    }

    fn getxattr(&self, node: NodeId, name: &[u8], room: u32, reply: Reply) {
        let (ino, name) = (self.ino(node), name.to_vec());
        self.begin(reply, |my, reply| async move {
            let value = my.fs.getxattr(ino, &name).await;
            answer!(reply, value, |value| reply.xattr(&value, room));
        });
    }

    fn listxattr(&self, node: NodeId, room: u32, reply: Reply) {
        let ino = self.ino(node);
        self.begin(reply, |my, reply| async move {
            answer!(reply, my.fs.listxattr(ino).await, |names| {
                reply.xattr(&translate::xattr_names(&names), room);
            });
        });
    }

    fn removexattr(&self, node: NodeId, name: &[u8], reply: Reply) {
        let (ino, name) = (self.ino(node), name.to_vec());
        let changed = vec![(ino, None)];
        self.change(reply, changed, |my, reply| async move {
            answer!(reply, my.fs.removexattr(ino, &name).await, |()| reply.ok());
        });
    }

    fn statfs(&self, node: NodeId, reply: Reply) {
        let ino = self.ino(node);
        self.begin(reply, |my, reply| async move {
            answer!(reply, my.fs.space(ino).await, |space| reply.room(&room(space)));
        });
    }
}

/// Files.
impl Adapter {
    fn open(&self, node: NodeId, flags: i32, reply: Reply) {
        let (ino, mode) = (self.ino(node), translate::open_mode(flags));
        self.begin(reply, |my, reply| async move {
            answer!(reply, my.open(ino, mode).await, |opened| {
                my.close_unless(reply.opened(opened), ino, opened).await;
            });
        });
    }

    fn create(
        &self,
        caller: Caller,
        parent: NodeId,
        name: &[u8],
        (mode, flags): (u32, i32),
        reply: Reply,
    ) {
        let (parent, name) = (self.ino(parent), name.to_vec());
        let (mode, open) = (permissions(mode), translate::open_mode(flags));
        let exclusive = flags & libc::O_EXCL != 0;
        let changed = vec![(parent, Some(name.clone()))];
        self.change(reply, changed, |my, reply| async move {
            match my.fs.create(caller, parent, &name, mode, open).await {
                Ok((attr, handle)) => {
                    let at = Some((parent, &name[..]));
                    my.created(at, &attr, (handle, open), reply).await;
                }
                // Another host was faster. The kernel takes ESTALE as "look again", finds the file, checks
                // whether the caller may open it, and opens it.
                Err(Errno::Exists) if !exclusive => reply.error(Errno::Stale),
                Err(errno) => reply.error(errno),
            }
        });
    }

    fn create_nameless(
        &self,
        caller: Caller,
        dir: NodeId,
        (mode, flags): (u32, i32),
        reply: Reply,
    ) {
        let dir = self.ino(dir);
        let (mode, open) = (permissions(mode), translate::open_mode(flags));
        let linkable = flags & libc::O_EXCL == 0;
        self.begin(reply, |my, reply| async move {
            match my.fs.create_nameless(caller, dir, mode, open, linkable).await {
                Ok((attr, handle)) => my.created(None, &attr, (handle, open), reply).await,
                Err(errno) => reply.error(errno),
            }
        });
    }

    fn read(&self, handle: Handle, offset: u64, size: u32, reply: Reply) {
        if let Some(read) = at_once(&self.runtime, || self.mine.fs.try_read(handle, offset, size)) {
            return answer!(reply, read, |parts| reply.parts(&parts));
        }
        self.begin(reply, |my, reply| async move {
            answer!(reply, my.fs.read(handle, offset, size).await, |parts| reply.parts(&parts));
        });
    }

    fn write(&self, node: NodeId, asked: &kernel::Write<'_>, reply: Reply) {
        let write = Write {
            node,
            ino: self.ino(node),
            handle: Handle(asked.handle),
            offset: asked.offset,
            length: u32::try_from(asked.data.len()).expect("a request is at most a mebibyte"),
            from_mapping: asked.from_cache,
            takes_set_ids: asked.takes_set_ids,
            // Pages of a mapping belong where they are, whichever handle the kernel comes with.
            append: asked.flags & libc::O_APPEND != 0 && !asked.from_cache,
            sync: asked.flags & libc::O_DSYNC != 0,
        };
        if let Some(result) = self.mine.try_write(&self.runtime, write, asked.data) {
            return self.mine.written(write, result, reply);
        }
        let data = Bytes::copy_from_slice(asked.data);
        let changed = vec![(write.ino, None)];
        self.change(reply, changed, |my, reply| async move {
            let result = my.write(write, data).await;
            my.written(write, result, reply);
        });
    }

    fn flush(&self, node: NodeId, handle: Handle, owner: LockOwner, reply: Reply) {
        let ino = self.ino(node);
        self.begin(reply, |my, reply| async move {
            // First: others may wait for them.
            my.fs.drop_locks(ino, owner).await;
            let durable = my.fs.syncs_on_close() && reply.question().can_wait();
            let flushed = my.fs.flush(handle, durable).await;
            answer!(reply, flushed, |()| reply.ok());
        });
    }

    fn release(&self, node: NodeId, handle: Handle, reply: Reply) {
        let ino = self.ino(node);
        self.begin(reply, |my, reply| async move {
            my.close(ino, handle).await;
            reply.ok();
        });
    }

    fn fsync(&self, handle: Handle, reply: Reply) {
        self.begin(reply, |my, reply| async move {
            answer!(reply, my.fs.fsync(handle).await, |()| reply.ok());
        });
    }

    fn fallocate(
        &self,
        node: NodeId,
        handle: Handle,
        (offset, length): (u64, u64),
        mode: i32,
        by_root: bool,
        reply: Reply,
    ) {
        let what = match translate::allocate(mode) {
            Ok(what) => what,
            Err(errno) => return reply.error(errno),
        };
        let ino = self.ino(node);
        let changed = vec![(ino, None)];
        self.change(reply, changed, |my, reply| async move {
            let allocated = async {
                my.take_privileges(ino, !by_root).await?;
                my.fs.fallocate(handle, offset, length, what).await
            };
            answer!(reply, allocated.await, |()| reply.ok());
        });
    }

    fn lseek(&self, handle: Handle, offset: i64, whence: i32, reply: Reply) {
        let (offset, whence) = match translate::seek(offset, whence) {
            Ok(seek) => seek,
            Err(errno) => return reply.error(errno),
        };
        self.begin(reply, |my, reply| async move {
            let found = my.fs.lseek(handle, offset, whence).await;
            answer!(reply, found, |found| reply.offset(found));
        });
    }

    fn copy_file_range(&self, range: &CopyFileRange, by_root: bool, reply: Reply) {
        let CopyFileRange { from, from_offset, to_node, to, to_offset, length } = *range;
        // The reply counts in 32 bits; whoever wants more asks again.
        let length = length.min(u64::from(u32::MAX - (REQUEST_BYTES_MAX - 1)));
        let (ino, from, to) = (self.ino(to_node), Handle(from), Handle(to));
        let changed = vec![(ino, None)];
        self.change(reply, changed, |my, reply| async move {
            let copied = async {
                my.take_privileges(ino, !by_root).await?;
                my.fs.copy_range(from, from_offset, to, to_offset, length).await
            };
            answer!(reply, copied.await, |bytes| reply
                .written(u32::try_from(bytes).unwrap_or(u32::MAX)));
        });
    }
}

/// Locks.
impl Adapter {
    fn get_lock(&self, asked: &kernel::Lock, reply: Reply) {
        let (handle, lock) = match translate::lock(asked) {
            Ok(lock) => (Handle(asked.handle), lock),
            Err(errno) => return reply.error(errno),
        };
        self.begin(reply, |my, reply| async move {
            let found = my.fs.get_lock(handle, lock).await;
            answer!(reply, found, |found| reply.lock(found.map(translate::found_lock)));
        });
    }

    /// A wait ends with any signal, as POSIX has it.
    fn set_lock(&self, asked: &kernel::Lock, wait: bool, reply: Reply) {
        let (handle, lock) = match translate::lock(asked) {
            Ok(lock) => (Handle(asked.handle), lock),
            Err(errno) => return reply.error(errno),
        };
        self.begin(reply, |my, reply| async move {
            let set = tokio::select! {
                biased;
                set = my.fs.set_lock(handle, lock, wait) => set,
                () = reply.interrupted(), if wait => Err(Errno::Interrupted),
            };
            answer!(reply, set, |()| {
                if reply.locked() == Delivery::Abandoned && lock.mode.is_some() {
                    // Its program dies, and has perhaps said already that it holds no locks any more.
                    let unlock = Lock { mode: None, ..lock };
                    if let Err(errno) = my.fs.set_lock(handle, unlock, false).await {
                        log::debug!("a lock of a program that died is not given up: {errno}");
                    }
                }
            });
        });
    }
}

/// Directories.
impl Adapter {
    fn opendir(&self, node: NodeId, reply: Reply) {
        let handle = self.mine.directories.open(self.ino(node));
        if reply.opened(Opened { handle, pages: Pages::Dropped }) == Delivery::Abandoned {
            self.mine.directories.close(handle);
        }
    }

    fn readdir(&self, handle: u64, offset: u64, mut entries: Entries, reply: Reply) {
        self.begin(reply, |my, reply| async move {
            let read = my.directories.read(&my.fs, handle, offset, false, |row| {
                entries.add(my.nodes.node(row.ino), type_bits(row.kind), row.next, row.name)
            });
            answer!(reply, read.await, |()| reply.entries(&entries));
        });
    }

    fn readdirplus(&self, handle: u64, offset: u64, mut entries: Entries, reply: Reply) {
        self.begin(reply, |my, reply| async move {
            let read = my.directories.read(&my.fs, handle, offset, true, |row| {
                let node = my.nodes.node(row.ino);
                match row.attr {
                    // With new attributes the kernel would drop the ACLs that it has with the old ones.
                    Some(attr) if my.fs.is_told(row.dir, attr.ino) => {
                        entries.add_bare(node, type_bits(row.kind), row.next, row.name)
                    }
                    Some(attr) => {
                        entries.add_plus(&my.named((row.dir, row.name), attr), row.next, row.name)
                    }
                    None if row.is_dot() => {
                        entries.add_bare(node, type_bits(row.kind), row.next, row.name)
                    }
                    // It was removed after its name was read.
                    None => false,
                }
            });
            answer!(reply, read.await, |()| reply.entries(&entries));
        });
    }

    fn releasedir(&self, handle: u64, reply: Reply) {
        self.mine.directories.close(handle);
        reply.ok();
    }

    /// Promised in the design: fsync of any directory makes all that this mount has buffered durable.
    fn fsyncdir(&self, reply: Reply) {
        self.begin(reply, |my, reply| async move {
            answer!(reply, my.fs.sync_all().await, |()| reply.ok());
        });
    }
}

fn room(space: Space) -> Room {
    let block = u64::from(STATFS_BLOCK);
    let inodes_free = space.inodes_free.unwrap_or(INODES_FREE);
    Room {
        blocks: space.total_bytes / block,
        blocks_free: space.free_bytes / block,
        inodes: space.inodes + inodes_free,
        inodes_free,
        block_bytes: STATFS_BLOCK,
        name_bytes_max: u32::try_from(limits::NAME_MAX).expect("255"),
    }
}
