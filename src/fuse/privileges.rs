//! What a file loses when it is written to: setuid, setgid and file capabilities.
//!
//! A program that may run as its owner must not keep that right when somebody changes what it does. Left to
//! itself the kernel asks for the attribute `security.capability` before *every* write. With
//! FUSE_HANDLE_KILLPRIV_V2 it leaves the matter to the filesystem, which has to know that
//!
//! * a change of owner or group takes all three,
//! * a write or a truncation takes the capabilities, and from a caller without CAP_FSETID setuid and setgid
//!   too. The kernel says so (FUSE_WRITE_KILL_SUIDGID, FATTR_KILL_SUIDGID), but not of fallocate and copy_file_range:
//!   there a caller that is not root is taken for one without,
//! * an ACL takes setgid when who sets it is not of the file's group. The kernel says so (FUSE_SETXATTR_ACL_KILL_SGID, since
//!   Linux 5.14); before that we know only the first of a caller's groups.
//!
//! Looking costs a call or two, so an open file that was seen to have nothing to lose is believed to be so for a
//! second ([`OpenFiles::is_clean`]); a file created here is clean from the start.

use std::time::Instant;

use parking_lot::Mutex;

use super::modes::OpenFiles;
use crate::client::fs::{Caller, Fs, SetAttr};
use crate::types::acl::ACCESS_ACL;
use crate::types::{Errno, FileKind, Ino};

/// The extended attribute that holds file capabilities.
pub(super) const CAPABILITY: &[u8] = b"security.capability";

const SETUID: u16 = 0o4000;
const SETGID: u16 = 0o2000;
const GROUP_EXECUTE: u16 = 0o0010;

/// What is left of `mode`, if it had something to lose. Setgid without group execution is no privilege: it
/// once meant mandatory locking.
pub(super) fn stripped(mode: u16) -> Option<u16> {
    let privileged_group = mode & (SETGID | GROUP_EXECUTE) == SETGID | GROUP_EXECUTE;
    let lost = mode & SETUID | if privileged_group { SETGID } else { 0 };
    (lost != 0).then_some(mode & !lost)
}

/// Whether a new file with `mode` has nothing to lose.
pub(super) fn is_clean(mode: u16) -> bool {
    stripped(mode).is_none()
}

/// Takes the capabilities of a file, and if `set_ids` says so, setuid and setgid.
pub(super) async fn take(
    fs: &Fs,
    open_files: &Mutex<OpenFiles>,
    ino: Ino,
    set_ids: bool,
) -> Result<(), Errno> {
    if open_files.lock().is_clean(ino, Instant::now()) {
        return Ok(());
    }
    let seen = Instant::now();
    let attr = fs.getattr(ino).await?;
    if attr.kind != FileKind::Regular {
        return Ok(());
    }
    let left = stripped(attr.mode);
    if set_ids && left.is_some() {
        let changes = SetAttr { mode: left, ..SetAttr::default() };
        fs.setattr(ino, changes).await?;
    }
    if attr.xattrs > 0 {
        take_capabilities(fs, ino).await?;
    }
    if set_ids || left.is_none() {
        open_files.lock().set_clean(ino, seen);
    }
    Ok(())
}

/// Whether setting this extended attribute takes setgid: an ACL does, set by who is not of the file's group.
pub(super) async fn acl_takes_setgid(
    fs: &Fs,
    ino: Ino,
    name: &[u8],
    caller: Caller,
) -> Result<bool, Errno> {
    if name != ACCESS_ACL || caller.uid == 0 {
        return Ok(false);
    }
    Ok(fs.getattr(ino).await?.gid != caller.gid)
}

async fn take_capabilities(fs: &Fs, ino: Ino) -> Result<(), Errno> {
    match fs.getxattr(ino, CAPABILITY).await {
        Ok(_) => match fs.removexattr(ino, CAPABILITY).await {
            Err(Errno::NoAttribute) => Ok(()),
            other => other,
        },
        Err(Errno::NoAttribute | Errno::NotSupported) => Ok(()),
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_loses_setuid_and_setgid_of_programs() {
        assert_eq!(stripped(0o4755), Some(0o755));
        assert_eq!(stripped(0o2755), Some(0o755));
        assert_eq!(stripped(0o7711), Some(0o1711));
        assert_eq!(stripped(0o2644), None);
        assert_eq!(stripped(0o6644), Some(0o2644));
        assert_eq!(stripped(0o1777), None);
        assert!(is_clean(0o644) && !is_clean(0o4644));
    }
}
