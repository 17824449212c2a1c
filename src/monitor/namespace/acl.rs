//! POSIX ACLs in the namespace: extended attributes that keep in step with the mode ([`crate::types::acl`]).

use super::attrs::put_xattr;
use super::fail::Fail;
use super::inodes::At;
use super::keys;
use super::records::Inode;
use super::txn::{Txn, get};
use crate::monitor::store::{Read, StoreError};
use crate::types::acl::{ACCESS_ACL, Acl, DEFAULT_ACL};
use crate::types::{Errno, FileKind, Ino};

const SETGID: u16 = 0o2000;

/// A new inode in a directory: its mode and, under a default list, its lists.
pub(super) fn inherit(
    txn: &mut Txn<'_>,
    at: At,
    (parent_ino, parent): (Ino, &Inode),
    (ino, inode): (Ino, &mut Inode),
    umask: u16,
) -> Result<(), Fail> {
    if inode.kind == FileKind::Symlink {
        return Ok(());
    }
    let Some(default) = list(txn, parent_ino, parent, DEFAULT_ACL)? else {
        inode.mode &= !umask;
        return Ok(());
    };
    if inode.is_directory() {
        put_xattr(txn, at, (ino, inode), DEFAULT_ACL, &default.to_bytes())?;
    }
    let mut own = default;
    inode.mode = own.restrict(inode.mode);
    if own.is_extended() {
        put_xattr(txn, at, (ino, inode), ACCESS_ACL, &own.to_bytes())?;
    }
    Ok(())
}

/// The mode was set: the inode's own list says the same.
pub(super) fn follow_mode(
    txn: &mut Txn<'_>,
    at: At,
    (ino, inode): (Ino, &mut Inode),
) -> Result<(), Fail> {
    if let Some(mut own) = list(txn, ino, inode, ACCESS_ACL)? {
        own.set_mode(inode.mode);
        put_xattr(txn, at, (ino, inode), ACCESS_ACL, &own.to_bytes())?;
    }
    Ok(())
}

/// An extended attribute is set. If it is a list, the mode follows an inode's own one, which is kept only when it
/// says more than that; `false` when it is not to be kept.
pub(super) fn follow_list(
    inode: &mut Inode,
    name: &[u8],
    value: &[u8],
    takes_setgid: bool,
) -> Result<bool, Errno> {
    let is_own = name == ACCESS_ACL;
    if !is_own && name != DEFAULT_ACL {
        return Ok(true);
    }
    let list = Acl::parse(value).ok_or(Errno::Invalid)?;
    if !is_own {
        return if inode.is_directory() { Ok(true) } else { Err(Errno::AccessDenied) };
    }
    let lost = if takes_setgid { SETGID } else { 0 };
    inode.mode = inode.mode & !(0o777 | lost) | list.mode();
    Ok(list.is_extended())
}

/// A list of an inode, if it has one.
fn list(read: &dyn Read, ino: Ino, inode: &Inode, name: &[u8]) -> Result<Option<Acl>, StoreError> {
    if inode.xattr_names == 0 {
        return Ok(None);
    }
    let xattr = get(read, &keys::xattr(ino, name))?;
    Ok(xattr.and_then(|xattr| Acl::parse(&xattr.value)))
}
