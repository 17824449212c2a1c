//! Attributes other than the size, and extended attributes.
//!
//! Whether a change of owner or a write clears the setuid and setgid bits is decided where the caller's
//! credentials are known, in the client; what arrives here is taken as it is. So are the names of extended
//! attributes: which of them a program may set is the client's business. Only ACLs mean something here ([`acl`]).

use super::acl;
use super::fail::Fail;
use super::inodes::{At, live, touch};
use super::keys;
use super::records::{Inode, Xattr};
use super::txn::{Txn, exists};
use crate::monitor::store::StoreError;
use crate::types::{Errno, Ino, Timestamp, limits};
use crate::wire::metadata::{AttrChanges, Reply, XattrMode};

/// Most bytes of the list of an inode's extended attributes, as `listxattr` hands it out.
const XATTR_LIST_MAX: u32 = 64 << 10;

/// Changes attributes.
pub(super) fn set(
    txn: &mut Txn<'_>,
    at: At,
    ino: Ino,
    changes: &AttrChanges,
) -> Result<Reply, Fail> {
    let mut inode = live(txn, ino)?;
    inode.mode = changes.mode.map_or(inode.mode, |mode| mode & 0o7777);
    inode.uid = changes.uid.unwrap_or(inode.uid);
    inode.gid = changes.gid.unwrap_or(inode.gid);
    inode.atime = changes.atime.unwrap_or(inode.atime);
    inode.mtime = changes.mtime.unwrap_or(inode.mtime);
    if changes.mode.is_some() {
        acl::follow_mode(txn, at, (ino, &mut inode))?;
    }
    Ok(write(txn, at, ino, inode))
}

/// A file was read: sets the atime and nothing else, if that is due. (Of many who read it at once, the first does.)
pub(super) fn accessed(
    txn: &mut Txn<'_>,
    at: At,
    ino: Ino,
    time: Timestamp,
) -> Result<Reply, Fail> {
    let mut inode = live(txn, ino)?;
    if inode.attr(ino).is_access_due(at.time) {
        // A clock that is slow would have the file read before it was written, and every read written down.
        let is_slow = time <= inode.mtime.max(inode.ctime);
        inode.atime = if is_slow { at.time } else { time.min(at.time) };
        inode.birth = at.op;
        txn.put(&keys::inode(ino), &inode);
    }
    Ok(Reply::Inode(inode.attr(ino)))
}

/// Sets an extended attribute.
pub(super) fn set_xattr(
    txn: &mut Txn<'_>,
    at: At,
    ino: Ino,
    (name, value): (&[u8], &[u8]),
    (mode, takes_setgid): (XattrMode, bool),
) -> Result<Reply, Fail> {
    let mut inode = live(txn, ino)?;
    check_xattr(name, value)?;
    let key = keys::xattr(ino, name);
    let is_there = exists(txn, &key)?;
    match mode {
        XattrMode::Create if is_there => return Err(Errno::Exists.into()),
        XattrMode::Replace if !is_there => return Err(Errno::NoAttribute.into()),
        _ => {}
    }
    if acl::follow_list(&mut inode, name, value, takes_setgid)? {
        put_xattr(txn, at, (ino, &mut inode), name, value)?;
    } else {
        drop_xattr(txn, ino, &mut inode, name)?;
    }
    Ok(write(txn, at, ino, inode))
}

/// Stores an extended attribute; the inode, which counts them, is the caller's to write.
pub(super) fn put_xattr(
    txn: &mut Txn<'_>,
    at: At,
    (ino, inode): (Ino, &mut Inode),
    name: &[u8],
    value: &[u8],
) -> Result<(), Fail> {
    let key = keys::xattr(ino, name);
    if !exists(txn, &key)? {
        inode.xattr_names += name.len() as u32 + 1;
        if inode.xattr_names > XATTR_LIST_MAX {
            return Err(Errno::NoSpace.into());
        }
    }
    let xattr = Xattr { value: value.to_vec(), birth: at.op };
    txn.put(&key, &xattr);
    Ok(())
}

/// Removes an extended attribute, if it is there; the inode is the caller's to write.
fn drop_xattr(
    txn: &mut Txn<'_>,
    ino: Ino,
    inode: &mut Inode,
    name: &[u8],
) -> Result<bool, StoreError> {
    let key = keys::xattr(ino, name);
    let was_there = name.len() <= limits::XATTR_NAME_MAX && exists(txn, &key)?;
    if was_there {
        txn.delete(&key);
        inode.xattr_names = inode.xattr_names.saturating_sub(name.len() as u32 + 1);
    }
    Ok(was_there)
}

/// Linux's own answers: `ERANGE` for the name, `E2BIG` for the value.
fn check_xattr(name: &[u8], value: &[u8]) -> Result<(), Errno> {
    if name.is_empty() || name.contains(&0) {
        return Err(Errno::Invalid);
    }
    if name.len() > limits::XATTR_NAME_MAX {
        return Err(Errno::TooSmallBuffer);
    }
    if value.len() > limits::XATTR_VALUE_MAX {
        return Err(Errno::TooBig);
    }
    Ok(())
}

/// Removes an extended attribute.
pub(super) fn remove_xattr(
    txn: &mut Txn<'_>,
    at: At,
    ino: Ino,
    name: &[u8],
) -> Result<Reply, Fail> {
    let mut inode = live(txn, ino)?;
    if !drop_xattr(txn, ino, &mut inode, name)? {
        return Err(Errno::NoAttribute.into());
    }
    Ok(write(txn, at, ino, inode))
}

fn write(txn: &mut Txn<'_>, at: At, ino: Ino, mut inode: Inode) -> Reply {
    touch(&mut inode, at);
    txn.put(&keys::inode(ino), &inode);
    Reply::Inode(inode.attr(ino))
}
