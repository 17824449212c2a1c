//! What the requests of a mount share: the filesystem, what is open, and the few calls that are more than one
//! call of [`Fs`]: opening, writing and changing attributes have duties beside the thing itself, which
//! [`super::modes`] and [`super::privileges`] explain.

use std::sync::Arc;
use std::sync::mpsc::{SendError, Sender};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fuser::{FopenFlags, Generation, INodeNo, ReplyAttr, ReplyEntry, ReplyWrite};
use parking_lot::Mutex;
use tokio::runtime::Handle as Runtime;

use super::answer::{at_once, number};
use super::directory::Directories;
use super::invalidate::Invalidation;
use super::modes::{Caching, OpenFiles};
use super::privileges;
use super::translate::{self, Nodes};
use crate::client::fs::{Fs, Handle, OpenMode, SetAttr};
use crate::types::{Attr, Errno, FileKind, Ino};

/// What the kernel may not believe at all.
pub(super) const NOT_BELIEVED: Duration = Duration::ZERO;

/// Inode numbers are never used twice, so there are no generations of one.
pub(super) const GENERATION: Generation = Generation(0);

/// What a request takes along when it leaves the FUSE thread.
pub(super) struct Shared {
    /// The filesystem.
    pub fs: Arc<Fs>,
    /// Inode numbers.
    pub nodes: Nodes,
    /// The open files.
    pub open_files: Mutex<OpenFiles>,
    /// The open directories.
    pub directories: Directories,
    /// Writes that wait until pages are dropped.
    pub invalidations: Sender<Invalidation>,
}

/// A write request without its data.
#[derive(Clone, Copy)]
pub(super) struct Write {
    /// The file, as the kernel calls it.
    pub node: INodeNo,
    /// The file.
    pub ino: Ino,
    /// Through which handle.
    pub handle: Handle,
    /// Where, in bytes.
    pub offset: u64,
    /// How much, in bytes.
    pub length: u32,
    /// The kernel writes back pages of a mapping, through any writable handle of the file.
    pub from_mapping: bool,
    /// The writer may not leave setuid and setgid behind.
    pub takes_set_ids: bool,
}

impl Shared {
    /// Sends an inode that was made.
    pub(super) fn send_entry(&self, reply: ReplyEntry, attr: &Attr) {
        reply.entry(&NOT_BELIEVED, &self.nodes.attr(attr), GENERATION);
    }

    /// Sends what was looked up: that there is nothing is worth knowing, too.
    pub(super) fn send_found(
        &self,
        reply: ReplyEntry,
        (parent, name): (Ino, &[u8]),
        found: Result<Attr, Errno>,
    ) {
        match found {
            Ok(attr) => {
                let believed_for = self.believed_for(parent, name, &attr);
                reply.entry(&believed_for, &self.nodes.attr(&attr), GENERATION);
            }
            Err(Errno::NotFound) => match self.fs.tell_name(parent, name, None) {
                Duration::ZERO => reply.error(number(Errno::NotFound)),
                believed_for => {
                    let nothing = translate::bare_attr(INodeNo(0), FileKind::Regular);
                    reply.entry(&believed_for, &nothing, GENERATION);
                }
            },
            Err(errno) => reply.error(number(errno)),
        }
    }

    /// For how long the kernel may believe that this name leads to that inode, and its attributes.
    pub(super) fn believed_for(&self, parent: Ino, name: &[u8], attr: &Attr) -> Duration {
        self.fs.tell_name(parent, name, Some(attr.ino)).min(self.fs.tell_attr(attr))
    }

    /// Sends attributes.
    pub(super) fn send_attr(&self, reply: ReplyAttr, attr: &Attr) {
        reply.attr(&self.fs.tell_attr(attr), &self.nodes.attr(attr));
    }

    /// See [`privileges::take`].
    pub(super) async fn take_privileges(&self, ino: Ino, set_ids: bool) -> Result<(), Errno> {
        privileges::take(&self.fs, &self.open_files, ino, set_ids).await
    }

    /// Changes attributes, and with an owner or the size, what a change of those takes.
    pub(super) async fn setattr(
        &self,
        ino: Ino,
        changes: SetAttr,
        by_root: bool,
    ) -> Result<Attr, Errno> {
        if translate::is_nothing(&changes) {
            return self.fs.getattr(ino).await;
        }
        if changes.uid.is_some() || changes.gid.is_some() {
            self.take_privileges(ino, true).await?;
        } else if changes.size.is_some() {
            self.take_privileges(ino, !by_root).await?;
        }
        let changed = self.fs.setattr(ino, changes).await;
        if changes.mode.is_some() {
            self.open_files.lock().set_unknown(ino);
        }
        changed
    }

    /// Opens a file and decides how the kernel treats it.
    pub(super) async fn open(
        &self,
        ino: Ino,
        mode: OpenMode,
        by_root: bool,
    ) -> Result<(Handle, FopenFlags), Errno> {
        let handle = self.fs.open(ino, mode).await?;
        let flags = self.opened(ino, handle, mode);
        if mode.truncate
            && let Err(errno) = self.take_privileges(ino, !by_root).await
        {
            self.close(ino, handle).await;
            return Err(errno);
        }
        Ok((handle, flags))
    }

    /// Remembers an open file and says how the kernel is to treat it.
    pub(super) fn opened(&self, ino: Ino, handle: Handle, mode: OpenMode) -> FopenFlags {
        let caching = self.open_files.lock().open(ino, handle, mode);
        if caching == Caching::Direct {
            return FopenFlags::FOPEN_DIRECT_IO;
        }
        // It is among the open files first: if the version changes from now on, its pages are dropped.
        let version = self.fs.settled_version(ino);
        match self.open_files.lock().pages_are_of(ino, version) {
            true => FopenFlags::FOPEN_KEEP_CACHE,
            false => FopenFlags::empty(),
        }
    }

    /// Closes a file.
    pub(super) async fn close(&self, ino: Ino, handle: Handle) {
        self.open_files.lock().close(ino, handle);
        self.fs.release(handle).await;
    }

    /// A write that only has to be copied.
    pub(super) fn try_write(
        &self,
        runtime: &Runtime,
        write: Write,
        data: &[u8],
    ) -> Option<Result<(), Errno>> {
        {
            let open_files = self.open_files.lock();
            let clean = write.from_mapping || open_files.is_clean(write.ino, Instant::now());
            let elsewhere = write.from_mapping && open_files.appends(write.ino, write.handle);
            if !clean || elsewhere {
                return None;
            }
        }
        at_once(runtime, || self.fs.try_write(write.handle, write.offset, data))
    }

    /// A write that may wait.
    pub(super) async fn write(&self, write: Write, data: Bytes) -> Result<(), Errno> {
        if !write.from_mapping {
            self.take_privileges(write.ino, write.takes_set_ids).await?;
        } else if self.open_files.lock().appends(write.ino, write.handle) {
            return self.write_in_place(write, data).await;
        }
        self.fs.write(write.handle, write.offset, data).await
    }

    /// Pages of a mapping belong where they are, though the kernel came with a handle that appends.
    async fn write_in_place(&self, write: Write, data: Bytes) -> Result<(), Errno> {
        let mode = OpenMode { write: true, ..OpenMode::default() };
        let handle = self.fs.open(write.ino, mode).await?;
        let written = self.fs.write(handle, write.offset, data).await;
        self.fs.release(handle).await;
        written
    }

    /// Answers a write, after the pages that it left stale are gone.
    pub(super) fn written(&self, write: Write, result: Result<(), Errno>, reply: ReplyWrite) {
        if let Err(errno) = result {
            return reply.error(number(errno));
        }
        let Write { node, ino, handle, offset, length: written, from_mapping, .. } = write;
        let stale =
            self.open_files.lock().stale_after_write(ino, handle, offset, u64::from(written));
        match stale {
            Some(range) if !from_mapping => {
                let invalidation = Invalidation { node, range, written, reply };
                if let Err(SendError(unsent)) = self.invalidations.send(invalidation) {
                    unsent.reply.written(written);
                }
            }
            _ => reply.written(written),
        }
    }
}
