//! Names: finding, making, removing, renaming, listing.

use super::{Caller, Fs, Handle, Listing, NewInode, OpenMode};
use crate::client::files::CREATION;
use crate::types::limits::NAME_MAX;
use crate::types::{Attr, Errno, FileKind, Ino};
use crate::wire::metadata::{
    Answer, Create, DirEntry, MUTATIONS_MAX, Op, Query, Removed, Rename, RenameMode, Reply, TmpFile,
};

impl Fs {
    /// The inode with that name.
    pub async fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Attr, Errno> {
        if name.len() > NAME_MAX {
            return Err(Errno::NameTooLong);
        }
        let attr = self.learn_attr(Query::Lookup { parent, name: name.to_vec() }).await?;
        self.freshen(attr).await
    }

    /// A new inode that is not opened by the same call (mknod, mkdir, symlink).
    pub async fn make(
        &self,
        caller: Caller,
        parent: Ino,
        name: &[u8],
        new: NewInode,
    ) -> Result<Attr, Errno> {
        self.must_be_writable()?;
        let ino = self.session.next_inode().await;
        self.change_to(creation(caller, parent, name, (ino, new), false)).await
    }

    /// A new regular file, opened.
    pub async fn create(
        &self,
        caller: Caller,
        parent: Ino,
        name: &[u8],
        mode: u16,
        open: OpenMode,
    ) -> Result<(Attr, Handle), Errno> {
        self.must_be_writable()?;
        let new = NewInode { kind: FileKind::Regular, mode, rdev: 0, target: Vec::new() };
        let op = |ino| creation(caller, parent, name, (ino, new), true);
        self.create_open(op, open).await
    }

    /// A new regular file without a name, opened. If it is `linkable`, [`Self::link`] gives it one; without, it is gone
    /// when it is closed.
    pub async fn create_nameless(
        &self,
        caller: Caller,
        dir: Ino,
        mode: u16,
        open: OpenMode,
        linkable: bool,
    ) -> Result<(Attr, Handle), Errno> {
        self.must_be_writable()?;
        let Caller { uid, gid, umask } = caller;
        let op = |ino| Op::TmpFile(TmpFile { parent: dir, ino, mode, umask, uid, gid, linkable });
        let (attr, handle) = self.create_open(op, open).await?;
        // What is dirty when it is closed need not be written, unless it has a name by then.
        self.file_of(handle)?.0.state.lock().gone = true;
        Ok((attr, handle))
    }

    async fn create_open(
        &self,
        op: impl FnOnce(Ino) -> Op,
        open: OpenMode,
    ) -> Result<(Attr, Handle), Errno> {
        let creator = self.session.id();
        let ino = self.session.next_inode().await;
        let file = self.files.get(ino);
        file.state.lock().pinning = Some(CREATION);
        let created = self.change_to(op(ino)).await;
        file.state.lock().pinning = None;
        let attr = created?;
        let handle = self.files.open(&file, open, Some(CREATION));
        if self.session.id() != creator {
            // The session was lost meanwhile, and with it the pin that came with the file.
            if let Err(errno) = self.pin(&file).await {
                self.release(handle).await;
                return Err(errno);
            }
        }
        self.grants.created(&file, attr.clone(), creator);
        Ok((attr, handle))
    }

    /// One more name.
    pub async fn link(&self, ino: Ino, parent: Ino, name: &[u8]) -> Result<Attr, Errno> {
        self.must_be_writable()?;
        if let Some(file) = self.files.find(ino) {
            // Perhaps it has no name yet. It may be closed before the answer comes, and is wanted all the same.
            file.state.lock().gone = false;
        }
        let op = Op::Link { ino, parent, name: name.to_vec() };
        self.change_inode(op).await
    }

    /// Remove a name of something that is not a directory.
    pub async fn unlink(&self, parent: Ino, name: &[u8]) -> Result<(), Errno> {
        self.must_be_writable()?;
        match self.session.mutate(Op::Unlink { parent, name: name.to_vec() }).await? {
            Reply::Removed(removed) => {
                self.unlinked(removed);
                Ok(())
            }
            _ => Err(Errno::Io),
        }
    }

    /// Remove an empty directory.
    pub async fn rmdir(&self, parent: Ino, name: &[u8]) -> Result<(), Errno> {
        self.must_be_writable()?;
        match self.session.mutate(Op::Rmdir { parent, name: name.to_vec() }).await? {
            Reply::Removed(removed) => {
                self.removed.remember(removed.attr);
                Ok(())
            }
            _ => Err(Errno::Io),
        }
    }

    /// Rename. Where it replaces a file, the new file's data is committed first: after a crash there is the old
    /// content or the new, never neither.
    pub async fn rename(
        &self,
        parent: Ino,
        name: &[u8],
        new_parent: Ino,
        new_name: &[u8],
        mode: RenameMode,
    ) -> Result<(), Errno> {
        self.must_be_writable()?;
        if mode == RenameMode::Replace && !self.flusher.is_idle() {
            self.commit_before_replacing(parent, name, new_parent, new_name).await?;
        }
        let (name, new_name) = (name.to_vec(), new_name.to_vec());
        let rename = Rename { parent, name, new_parent, new_name, mode };
        let Reply::Renamed { moved, replaced } = self.session.mutate(Op::Rename(rename)).await?
        else {
            return Err(Errno::Io);
        };
        moved.iter().for_each(|attr| self.told(attr));
        if let Some(removed) = replaced {
            self.unlinked(removed);
        }
        Ok(())
    }

    /// Entries of a directory after `after` ([`crate::wire::metadata::DirEntry::next`] of the last one, 0 at the
    /// beginning).
    pub async fn readdir(
        &self,
        dir: Ino,
        after: u64,
        limit: u32,
        attrs: bool,
    ) -> Result<Listing, Errno> {
        let answer = self.session.learn(Query::ReadDir { dir, after, limit, attrs }).await?;
        let Answer::Entries { parent, mut entries, end } = answer else {
            return Err(Errno::Io);
        };
        if attrs {
            self.learn_missing(&mut entries).await;
        }
        for entry in &mut entries {
            if let Some(attr) = entry.attr.take() {
                // One that was removed meanwhile is listed without attributes.
                entry.attr = self.freshen(attr).await.ok();
            }
        }
        Ok(Listing { parent, entries, end })
    }

    /// Asks for attributes that were not known together with the listing.
    async fn learn_missing(&self, entries: &mut [DirEntry]) {
        let mut missing: Vec<&mut DirEntry> =
            entries.iter_mut().filter(|entry| entry.attr.is_none()).collect();
        for portion in missing.chunks_mut(MUTATIONS_MAX) {
            let queries = portion.iter().map(|entry| Query::Attr { ino: entry.ino }).collect();
            let answers = self.session.query_all(queries).await;
            for (entry, answer) in portion.iter_mut().zip(answers) {
                if let Ok(Answer::Attr(attr)) = answer {
                    entry.attr = Some(attr);
                }
            }
        }
    }

    /// Where a symbolic link points.
    pub async fn readlink(&self, ino: Ino) -> Result<Vec<u8>, Errno> {
        match self.session.learn(Query::ReadLink { ino }).await? {
            Answer::Bytes(target) => Ok(target),
            _ => Err(Errno::Io),
        }
    }

    /// Makes a change that is answered with an inode.
    async fn change_to(&self, op: Op) -> Result<Attr, Errno> {
        match self.session.mutate(op).await? {
            Reply::Inode(attr) => Ok(attr),
            _ => Err(Errno::Io),
        }
    }

    /// A name of a file is gone. With the last one, dirty data of a file that is open nowhere is gone too.
    fn unlinked(&self, removed: Removed) {
        let Removed { attr, open_elsewhere } = removed;
        self.told(&attr);
        let (ino, has_no_name) = (attr.ino, attr.nlink == 0);
        if has_no_name {
            self.removed.remember(attr);
        }
        let Some(file) = self.files.find(ino) else {
            return;
        };
        let mut state = file.state.lock();
        if has_no_name && !open_elsewhere {
            state.gone = true;
            if state.handles == 0 {
                self.flusher.discard(&file, &mut state);
                state.ungranted();
            }
        }
        drop(state);
        file.changed.notify_waiters();
    }

    async fn commit_before_replacing(
        &self,
        parent: Ino,
        name: &[u8],
        new_parent: Ino,
        new_name: &[u8],
    ) -> Result<(), Errno> {
        let lookup = |parent, name: &[u8]| Query::Lookup { parent, name: name.to_vec() };
        let source = self.session.learn(lookup(parent, name)).await;
        let replaced = self.session.learn(lookup(new_parent, new_name)).await;
        let (Ok(Answer::Attr(source)), Ok(Answer::Attr(_))) = (source, replaced) else {
            return Ok(());
        };
        match self.files.find(source.ino) {
            Some(file) => self.flush_or_fail(&file).await,
            None => Ok(()),
        }
    }
}

fn creation(
    caller: Caller,
    parent: Ino,
    name: &[u8],
    (ino, new): (Ino, NewInode),
    open: bool,
) -> Op {
    Op::Create(Create {
        parent,
        name: name.to_vec(),
        ino,
        kind: new.kind,
        mode: new.mode,
        umask: caller.umask,
        uid: caller.uid,
        gid: caller.gid,
        rdev: new.rdev,
        target: new.target,
        open,
    })
}
