//! Extended attributes, and those that OkapiFS answers itself (`user.okapifs.*`).

use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use md5::{Digest, Md5};

use super::Fs;
use crate::client::file::File;
use crate::types::acl::{ACCESS_ACL, DEFAULT_ACL};
use crate::types::{DataVersion, Errno, FileKind, Ino};
use crate::wire::metadata::{Answer, Op, Query, XattrMode};

/// Ours begin so.
const OURS: &[u8] = b"user.okapifs.";
/// What a program may use.
const NAMESPACES: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];
/// Where SELinux keeps the label of a file. Where it is in use the kernel never asks us for it. Where it is not, `ls -l`
/// asks for that of each file, unless it hears that there are none.
const LABEL: &[u8] = b"security.selinux";
/// How much is read at a time for an MD5.
const MD5_PORTION: u64 = 4 << 20;

impl Fs {
    /// The value of an extended attribute, `user.okapifs.*` included.
    pub async fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>, Errno> {
        if let Some(ours) = name.strip_prefix(OURS) {
            return self.our_attribute(ino, ours).await;
        }
        if self.has_no_xattrs(ino).await {
            return Err(if name == LABEL { Errno::NotSupported } else { Errno::NoAttribute });
        }
        match self.session.learn(Query::GetXattr { ino, name: name.to_vec() }).await? {
            Answer::Bytes(value) => Ok(value),
            _ => Err(Errno::Io),
        }
    }

    /// The names of all extended attributes; `user.okapifs.*` are not among them, so that nothing copies them.
    pub async fn listxattr(&self, ino: Ino) -> Result<Vec<Vec<u8>>, Errno> {
        if self.has_no_xattrs(ino).await {
            return Ok(Vec::new());
        }
        match self.session.learn(Query::ListXattr { ino }).await? {
            Answer::Names(names) => Ok(names),
            _ => Err(Errno::Io),
        }
    }

    /// Whether an inode is known to have no extended attributes. The kernel asks often for what few have: capabilities
    /// with every program that is run, ACLs with every file that is listed.
    async fn has_no_xattrs(&self, ino: Ino) -> bool {
        let held = match self.files.find(ino) {
            Some(file) => self.held_attr(&file).await,
            None => None,
        };
        held.or_else(|| self.session.believed(ino)).is_some_and(|attr| attr.xattrs == 0)
    }

    /// Set an extended attribute. An ACL sets the mode as well, and takes setgid where `takes_setgid` says so.
    pub async fn setxattr(
        &self,
        ino: Ino,
        name: &[u8],
        value: &[u8],
        mode: XattrMode,
        takes_setgid: bool,
    ) -> Result<(), Errno> {
        self.may_change(name)?;
        let (name, value) = (name.to_vec(), value.to_vec());
        self.change_inode(Op::SetXattr { ino, name, value, mode, takes_setgid }).await.map(drop)
    }

    /// Remove an extended attribute.
    pub async fn removexattr(&self, ino: Ino, name: &[u8]) -> Result<(), Errno> {
        self.may_change(name)?;
        self.change_inode(Op::RemoveXattr { ino, name: name.to_vec() }).await.map(drop)
    }

    fn may_change(&self, name: &[u8]) -> Result<(), Errno> {
        self.must_be_writable()?;
        if name.starts_with(OURS) {
            return Err(Errno::NotPermitted);
        }
        let known = NAMESPACES.iter().any(|namespace| name.starts_with(namespace));
        if !known && name != ACCESS_ACL && name != DEFAULT_ACL {
            return Err(Errno::NotSupported);
        }
        Ok(())
    }

    async fn our_attribute(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>, Errno> {
        match name {
            b"md5" => Ok(hex(&self.md5(ino).await?)),
            b"ino" => Ok(ino.to_string().into_bytes()),
            b"cluster" => Ok(self.session.cluster().to_string().into_bytes()),
            b"stats" => Ok(self.stats().into_bytes()),
            b"config" => Ok(self.config.config_dir.as_os_str().as_bytes().to_vec()),
            _ => Err(Errno::NoAttribute),
        }
    }

    /// MD5 of a file's content: as it is known, else computed, and stored for the next to ask.
    async fn md5(&self, ino: Ino) -> Result<[u8; 16], Errno> {
        if let Some(file) = self.files.find(ino) {
            self.flush_or_fail(&file).await?;
        }
        loop {
            let attr = self.getattr(ino).await?;
            if attr.kind != FileKind::Regular {
                return Err(Errno::NoAttribute);
            }
            if let Some(md5) = attr.md5 {
                return Ok(md5);
            }
            let md5 = self.compute_md5(&self.files.get(ino), attr.size).await?;
            let after = self.getattr(ino).await?;
            if (after.dv, after.size) == (attr.dv, attr.size) {
                self.store_md5(ino, attr.dv, md5).await;
                return Ok(md5);
            }
        }
    }

    /// The next to ask need not compute it again.
    async fn store_md5(&self, ino: Ino, dv: DataVersion, md5: [u8; 16]) {
        if let Err(errno) = self.session.mutate(Op::SetMd5 { ino, dv, md5 }).await {
            log::debug!("inode {ino}: its MD5 was not stored: {errno}");
        }
        let Some(file) = self.files.find(ino) else {
            return;
        };
        let mut state = file.state.lock();
        if let Some(base) = state.base.as_mut().filter(|base| base.dv == dv) {
            base.md5 = Some(md5);
        }
    }

    async fn compute_md5(&self, file: &Arc<File>, size: u64) -> Result<[u8; 16], Errno> {
        let mut md5 = Md5::new();
        let ahead = parking_lot::Mutex::default();
        let mut at = 0;
        while at < size {
            let end = size.min(at + MD5_PORTION);
            let parts = self.reader.read(file, at..end, Some(&ahead)).await?;
            if parts.iter().map(|part| part.len() as u64).sum::<u64>() == 0 {
                break;
            }
            at += parts.iter().map(|part| part.len() as u64).sum::<u64>();
            // Slow enough to keep others from this thread.
            md5 = tokio::task::spawn_blocking(move || {
                parts.iter().for_each(|part| md5.update(part));
                md5
            })
            .await
            .map_err(|_| Errno::Io)?;
        }
        Ok(md5.finalize().into())
    }
}

fn hex(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().flat_map(|byte| format!("{byte:02x}").into_bytes()).collect()
}
