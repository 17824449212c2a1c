//! Attributes. Under the exclusive grant, size and mtime are what they are here.

use std::sync::Arc;

use super::{Fs, SetAttr};
use crate::client::file::{File, Grant};
use crate::types::{Attr, Errno, FileKind, Ino};
use crate::wire::metadata::{Answer, AttrChanges, Op, Query, Reply, Space};

impl Fs {
    /// Attributes.
    pub async fn getattr(&self, ino: Ino) -> Result<Attr, Errno> {
        if let Some(file) = self.files.find(ino)
            && let Some(attr) = self.held_attr(&file).await
        {
            return Ok(attr);
        }
        let attr = self.learn_attr(Query::Attr { ino }).await?;
        self.freshen(attr).await
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
            attr = Some(self.change_attrs(ino, changes).await?);
        }
        match attr {
            Some(attr) => Ok(attr),
            None => self.getattr(ino).await,
        }
    }

    /// How full it is.
    pub async fn space(&self) -> Result<Space, Errno> {
        let known = self.session.leases().space().filter(|_| self.session.lease_holds());
        if let Some(space) = known {
            return Ok(space);
        }
        match self.session.query(Query::Space).await? {
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
            if attr.dv >= file.state.lock().map.dv() {
                return Ok(attr);
            }
            // A commit of ours was applied after the monitors said this.
            attr = self.ask_attr(Query::Attr { ino: file.ino }).await?;
        }
    }

    /// Attributes of a file that is held. Waits for a release to be answered.
    async fn held_attr(&self, file: &Arc<File>) -> Option<Attr> {
        let attr = file
            .when(|state| match state.grant {
                Grant::Held => Some(state.overlay()),
                Grant::Releasing => None,
                Grant::Nothing | Grant::Acquiring => Some(None),
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
        if let Some(file) = self.files.find(attr.ino) {
            let mut state = file.state.lock();
            if state.grant == Grant::Held && attr.dv >= state.map.dv() {
                state.rebase(attr.clone());
            }
        }
        self.freshen(attr).await
    }

    async fn change_attrs(&self, ino: Ino, changes: AttrChanges) -> Result<Attr, Errno> {
        let op = Op::SetAttr { ino, changes };
        let file = self.files.find(ino).filter(|_| changes.mtime.is_some());
        let Some(file) = file else {
            return self.change_inode(op).await;
        };
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
