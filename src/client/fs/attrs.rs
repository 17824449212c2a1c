//! Attributes. Under the exclusive grant, size and mtime are what they are here.

use std::sync::Arc;

use super::{Fs, SetAttr};
use crate::client::file::{File, Grant};
use crate::types::{Attr, Errno, FileKind, Ino, VolumeId};
use crate::wire::metadata::{Answer, AttrChanges, Op, Query, Reply, Space};

impl Fs {
    /// Attributes.
    pub async fn getattr(&self, ino: Ino) -> Result<Attr, Errno> {
        if let Some(file) = self.files.find(ino)
            && let Some(attr) = self.held_attr(&file).await
        {
            return Ok(attr);
        }
        match self.learn_attr(Query::Attr { ino }).await {
            Ok(attr) => self.freshen(attr).await,
            Err(Errno::Stale) => self.removed.find(ino).ok_or(Errno::Stale),
            Err(errno) => Err(errno),
        }
    }

    /// Change attributes.
    pub async fn setattr(&self, ino: Ino, changes: SetAttr) -> Result<Attr, Errno> {
        self.must_be_writable()?;
        let mut attr = None;
        if let Some(size) = changes.size {
            attr = Some(self.truncate(ino, size, Some(self.session.now())).await?);
        }
        let SetAttr { mode, uid, gid, atime, mtime, size: _ } = changes;
        let changes = AttrChanges { mode, uid, gid, atime, mtime };
        if changes != AttrChanges::default() {
            attr = Some(match self.change_attrs(ino, changes).await {
                Err(Errno::Stale) => {
                    self.removed.change(ino, &changes, self.session.now()).ok_or(Errno::Stale)?
                }
                changed => changed?,
            });
        }
        match attr {
            Some(attr) => Ok(attr),
            None => self.getattr(ino).await,
        }
    }

    /// How full the volume of an inode is. Of the root volume it comes with each renewal.
    pub async fn space(&self, ino: Ino) -> Result<Space, Errno> {
        if self.session.believed(ino).is_some_and(|attr| attr.volume == VolumeId::ROOT)
            && let Some(space) = self.session.leases().space()
        {
            return Ok(space);
        }
        match self.session.query(Query::Space { ino }).await? {
            Answer::Space(space) => Ok(space),
            _ => Err(Errno::Io),
        }
    }

    /// Attributes that the monitors told a moment ago, and what we know better.
    pub(super) async fn freshen(&self, mut attr: Attr) -> Result<Attr, Errno> {
        if attr.kind != FileKind::Regular {
            return Ok(attr);
        }
        let Some(file) = self.files.find(attr.ino) else {
            return Ok(attr);
        };
        loop {
            if let Some(held) = self.held_attr(&file).await {
                return Ok(held);
            }
            let (dv, accessed) = {
                let state = file.state.lock();
                (state.map.dv(), state.accessed)
            };
            if attr.dv >= dv {
                attr.atime = accessed.map_or(attr.atime, |read| attr.atime.max(read));
                return Ok(attr);
            }
            // A commit of ours was applied after the monitors said this.
            attr = self.ask_attr(Query::Attr { ino: file.ino }).await?;
        }
    }

    /// Attributes of a file that is held. Waits for a release to be answered, and for what is stranded.
    pub(super) async fn held_attr(&self, file: &Arc<File>) -> Option<Attr> {
        let attr = file
            .when(|state| match state.grant {
                Grant::Held => Some(state.overlay()),
                Grant::Releasing => None,
                Grant::Nothing | Grant::Acquiring => state.is_unheld().then_some(None),
            })
            .await?;
        self.session.wait_for_lease().await;
        Some(attr)
    }

    /// The attributes that are the answer to a question, asked only if they are not known.
    pub(super) async fn learn_attr(&self, query: Query) -> Result<Attr, Errno> {
        match self.session.learn(query).await? {
            Answer::Attr(attr) => Ok(attr),
            _ => Err(Errno::Io),
        }
    }

    async fn ask_attr(&self, query: Query) -> Result<Attr, Errno> {
        match self.session.query(query).await? {
            Answer::Attr(attr) => Ok(attr),
            _ => Err(Errno::Io),
        }
    }

    /// A change that is answered with the inode as it is afterwards.
    pub(super) async fn change_inode(&self, op: Op) -> Result<Attr, Errno> {
        let Reply::Inode(attr) = self.session.mutate(op).await? else {
            return Err(Errno::Io);
        };
        self.told(&attr);
        self.freshen(attr).await
    }

    /// The monitors told, with the answer to a change of ours, what an inode is now.
    pub(super) fn told(&self, attr: &Attr) {
        if let Some(file) = self.files.find(attr.ino) {
            let mut state = file.state.lock();
            if state.grant == Grant::Held && attr.dv >= state.map.dv() {
                state.rebase(attr.clone());
            } else if let Some(base) = &mut state.base {
                // A commit of ours was answered in between, which says nothing of names.
                base.nlink = attr.nlink;
                base.ctime = base.ctime.max(attr.ctime);
            }
        }
    }

    /// The kernel does not know the inode any more.
    pub fn forget(&self, ino: Ino) {
        self.removed.forget(ino);
    }

    async fn change_attrs(&self, ino: Ino, changes: AttrChanges) -> Result<Attr, Errno> {
        let op = Op::SetAttr { ino, changes };
        let Some(file) = self.files.find(ino) else {
            return self.change_inode(op).await;
        };
        if changes.atime.is_some() {
            // Later than every read before it.
            file.when(|state| state.accessed.is_none().then_some(())).await;
        }
        if changes.mtime.is_none() {
            return self.change_inode(op).await;
        }
        // The time that a program sets is later than every write before it: those are committed without their
        // own time, and those whose commits are on their way are waited for.
        let _order = file.order.lock().await;
        file.when(|state| {
            let on_the_way = state.frozen.iter().any(|part| part.sent);
            let releasing = state.grant == Grant::Releasing;
            (!on_the_way && !releasing).then(|| {
                state.mtime = None;
                state.frozen.iter_mut().for_each(|part| part.mtime = None);
            })
        })
        .await;
        self.change_inode(op).await
    }
}
