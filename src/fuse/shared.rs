//! What the requests of a mount share: the filesystem, what is open, and the few calls that are more than one
//! call of [`Fs`]: opening, writing and changing attributes have duties beside the thing itself, which
//! [`super::modes`] and [`super::privileges`] explain.

use std::sync::Arc;
use std::sync::mpsc::{SendError, Sender};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::runtime::Handle as Runtime;

use super::answer::at_once;
use super::directory::Directories;
use super::invalidate::Invalidation;
use super::kernel::{Delivery, Entry, NodeId, Opened, Pages, Reply};
use super::modes::{Caching, OpenFiles};
use super::privileges;
use super::translate::{self, Nodes};
use crate::client::fs::{Fs, Handle, OpenMode, SetAttr};
use crate::types::{Attr, Errno, FileKind, Ino};

/// What the kernel may not believe at all.
const NOT_BELIEVED: Duration = Duration::ZERO;

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
    pub node: NodeId,
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
    /// It goes to the end of the file, wherever the kernel takes that to be. The flags of the moment say so: a program
    /// may set O_APPEND and clear it while the file is open.
    pub append: bool,
    /// It is durable when it is answered.
    pub sync: bool,
}

impl Write {
    fn place(&self) -> Option<u64> {
        (!self.append).then_some(self.offset)
    }
}

impl Shared {
    /// An inode that has this name in that directory.
    pub(super) fn named(&self, (dir, name): (Ino, &[u8]), attr: &Attr) -> Entry {
        Entry {
            attr: self.nodes.attr(attr),
            entry_valid: self.fs.tell_name(dir, name, Some(attr.ino)),
            attr_valid: self.fs.tell_attr(attr),
        }
    }

    /// What was looked up: that there is nothing is worth knowing, too, if it may be believed.
    pub(super) fn found(
        &self,
        (dir, name): (Ino, &[u8]),
        found: Result<Attr, Errno>,
    ) -> Result<Entry, Errno> {
        match found {
            Ok(attr) => Ok(self.named((dir, name), &attr)),
            Err(Errno::NotFound) => match self.fs.tell_name(dir, name, None) {
                Duration::ZERO => Err(Errno::NotFound),
                entry_valid => {
                    let attr = translate::bare_attr(NodeId::NOTHING, FileKind::Regular);
                    Ok(Entry { attr, entry_valid, attr_valid: NOT_BELIEVED })
                }
            },
            Err(errno) => Err(errno),
        }
    }

    /// Sends attributes.
    pub(super) fn send_attr(&self, reply: Reply, attr: &Attr) {
        reply.attr(&self.nodes.attr(attr), self.fs.tell_attr(attr));
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
        takes_set_ids: bool,
    ) -> Result<Attr, Errno> {
        if translate::is_nothing(&changes) {
            return self.fs.getattr(ino).await;
        }
        if changes.uid.is_some() || changes.gid.is_some() {
            self.take_privileges(ino, true).await?;
        } else if changes.size.is_some() {
            self.take_privileges(ino, takes_set_ids).await?;
        }
        let changed = self.fs.setattr(ino, changes).await;
        if changes.mode.is_some() {
            self.open_files.lock().set_unknown(ino);
        }
        changed
    }

    /// Opens a file and decides how the kernel treats it.
    pub(super) async fn open(&self, ino: Ino, mode: OpenMode) -> Result<Opened, Errno> {
        let handle = self.fs.open(ino, mode).await?;
        Ok(self.opened(ino, handle, mode))
    }

    /// Answers who has made and opened a file, which may have a name.
    pub(super) async fn created(
        &self,
        name: Option<(Ino, &[u8])>,
        attr: &Attr,
        (handle, mode): (Handle, OpenMode),
        reply: Reply,
    ) {
        let opened = self.opened(attr.ino, handle, mode);
        if privileges::is_clean(attr.mode) {
            self.open_files.lock().set_clean(attr.ino, Instant::now());
        }
        let entry = match name {
            Some(name) => self.named(name, attr),
            None => Entry {
                attr: self.nodes.attr(attr),
                entry_valid: NOT_BELIEVED,
                attr_valid: self.fs.tell_attr(attr),
            },
        };
        let delivery = reply.created(&entry, opened);
        self.close_unless(delivery, attr.ino, opened).await;
    }

    /// Remembers an open file and says how the kernel is to treat it.
    pub(super) fn opened(&self, ino: Ino, handle: Handle, mode: OpenMode) -> Opened {
        let caching = self.open_files.lock().open(ino, handle, mode);
        let pages = match caching {
            Caching::Direct => Pages::Bypassed,
            // It is among the open files first: if the version changes from now on, its pages are dropped.
            Caching::Cached => {
                let version = self.fs.settled_version(ino, mode);
                match self.open_files.lock().pages_are_of(ino, version) {
                    true => Pages::Kept,
                    false => Pages::Dropped,
                }
            }
        };
        Opened { handle: handle.0, pages }
    }

    /// Closes a file that was opened for somebody who is not there any more: the kernel does not know of it.
    pub(super) async fn close_unless(&self, delivery: Delivery, ino: Ino, opened: Opened) {
        if delivery == Delivery::Abandoned {
            self.close(ino, Handle(opened.handle)).await;
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
            if !clean || write.sync {
                return None;
            }
        }
        at_once(runtime, || self.fs.try_write(write.handle, write.place(), data))
    }

    /// A write that may wait.
    pub(super) async fn write(&self, write: Write, data: Bytes) -> Result<(), Errno> {
        if !write.from_mapping {
            self.take_privileges(write.ino, write.takes_set_ids).await?;
        }
        self.fs.write(write.handle, write.place(), data, write.sync).await
    }

    /// Answers a write, after the pages that it left stale are gone.
    pub(super) fn written(&self, write: Write, result: Result<(), Errno>, reply: Reply) {
        if let Err(errno) = result {
            return reply.error(errno);
        }
        let Write { node, ino, handle, length: written, from_mapping, .. } = write;
        let length = u64::from(written);
        let stale = self.open_files.lock().stale_after_write(ino, handle, write.place(), length);
        match stale {
            Some(range) if !from_mapping => {
                reply.question().begin_to_wait();
                let invalidation = Invalidation { node, range, written, reply };
                if let Err(SendError(unsent)) = self.invalidations.send(invalidation) {
                    unsent.reply.written(written);
                }
            }
            _ => reply.written(written),
        }
    }
}
