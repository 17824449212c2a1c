//! Extended attributes, POSIX ACLs and capabilities, and who may do what because of them.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use super::calls::{self, errno, remove_xattr, set_xattr, xattr, xattrs};
use super::common::cluster::Cluster;

const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";
/// Two users and two groups that need not exist.
const ALICE: u32 = 70_001;
const BOB: u32 = 70_002;
const GROUP: u32 = 70_010;
const OTHERS: u32 = 70_011;

pub(crate) fn rights() {
    let mut cluster = Cluster::new(3, 2, 1);
    let mnt = cluster.mnt();
    for dir in [cluster.scratch(), &mnt] {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).expect("changed");
    }
    attributes(&mnt);
    capabilities(&mnt);
    acls_let_in_and_keep_out(&mnt);
    acls_and_modes_agree(&mnt);
    acls_are_inherited(&mnt);
    acls_of_another_host(&mnt, &cluster.add_mount());
    cluster.sync();
    cluster.assert_clean();
}

fn attributes(mnt: &Path) {
    let file = mnt.join("attributes");
    fs::write(&file, "x").expect("written");
    for name in ["user.a", "trusted.b", "security.c"] {
        set_xattr(&file, name, name.as_bytes()).expect("set");
        assert_eq!(xattr(&file, name).expect("there"), name.as_bytes());
    }
    assert_eq!(xattrs(&file).expect("listed"), ["security.c", "trusted.b", "user.a"]);
    for name in ["system.d", "nowhere.e"] {
        assert_eq!(errno(set_xattr(&file, name, b"")), libc::EOPNOTSUPP, "{name}");
    }
    set_xattr(&file, "user.big", &[1; 65_536]).expect("set");
    assert_eq!(xattr(&file, "user.big").expect("there"), [1; 65_536]);
    assert_eq!(errno(set_xattr(&file, "user.big", &[1; 65_537])), libc::E2BIG);
    let longest = format!("user.{}", "n".repeat(250));
    set_xattr(&file, &longest, b"").expect("set");
    assert_eq!(errno(set_xattr(&file, &format!("{longest}n"), b"")), libc::ERANGE);
    remove_xattr(&file, &longest).expect("removed");
    assert_eq!(errno(remove_xattr(&file, &longest)), libc::ENODATA);
    assert_eq!(errno(xattr(&file, &longest)), libc::ENODATA);
    assert_eq!(errno(xattr(&file, "security.selinux")), libc::ENODATA);
    let bare = mnt.join("no attributes");
    fs::write(&bare, "x").expect("written");
    assert_eq!(errno(xattr(&bare, "user.a")), libc::ENODATA);
    // So that `ls -l` does not ask for that of each file.
    assert_eq!(errno(xattr(&bare, "security.selinux")), libc::EOPNOTSUPP);
    set_xattr(&bare, "security.selinux", b"a_label").expect("set");
    assert_eq!(xattr(&bare, "security.selinux").expect("there"), b"a_label");
    let link = mnt.join("attributes of a link");
    symlink("nowhere", &link).expect("linked");
    assert_eq!(errno(set_xattr(&link, "user.a", b"")), libc::EPERM);
    set_xattr(&link, "trusted.a", b"1").expect("set");
    assert_eq!(xattrs(&link).expect("listed"), ["trusted.a"]);
}

/// Capabilities of a program go when somebody writes to it or gives it to another.
fn capabilities(mnt: &Path) {
    // CAP_NET_RAW, permitted and effective.
    let mut capability = vec![0; 20];
    capability[..8].copy_from_slice(&[1, 0, 0, 2, 0, 0x20, 0, 0]);
    let file = mnt.join("program");
    fs::write(&file, "#!/bin/sh\n").expect("written");
    let give = || {
        set_xattr(&file, "security.capability", &capability).expect("set");
        assert_eq!(xattr(&file, "security.capability").expect("there"), capability);
    };
    let gone = || errno(xattr(&file, "security.capability")) == libc::ENODATA;
    give();
    fs::write(&file, "#!/bin/false\n").expect("written");
    assert!(gone(), "a program was changed and kept its capabilities");
    give();
    OpenOptions::new().write(true).open(&file).expect("opened").set_len(3).expect("cut");
    assert!(gone(), "a program was cut and kept its capabilities");
    give();
    std::os::unix::fs::chown(&file, Some(ALICE), Some(GROUP)).expect("given");
    assert!(gone(), "a program was given away and kept its capabilities");
}

/// An ACL as the kernel has it in an attribute: a version, then (tag, rights, id) each.
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, rights, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(rights.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

const OWNER: u16 = 1;
const USER: u16 = 2;
const OWNING_GROUP: u16 = 4;
const NAMED_GROUP: u16 = 8;
const MASK: u16 = 16;
const OTHER: u16 = 32;
const NOBODY: u32 = u32::MAX;

/// Whether a user may do that.
fn may(user: u32, group: u32, script: &str, path: &Path) -> bool {
    let mut shell = Command::new("sh");
    shell.args(["-c", script, "sh"]).arg(path).uid(user).gid(group).current_dir("/");
    shell.output().expect("there is a shell").status.success()
}

const READ: &str = "cat \"$1\" > /dev/null";
const WRITE: &str = "echo x >> \"$1\"";

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("there").mode() & 0o7777
}

fn acls_let_in_and_keep_out(mnt: &Path) {
    let file = mnt.join("guarded");
    fs::write(&file, "x").expect("written");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("changed");
    let list = [
        (OWNER, 6, NOBODY),
        (USER, 6, ALICE),
        (USER, 0, BOB),
        (OWNING_GROUP, 4, NOBODY),
        (NAMED_GROUP, 6, GROUP),
        (MASK, 6, NOBODY),
        (OTHER, 4, NOBODY),
    ];
    set_xattr(&file, ACCESS, &acl(&list)).expect("set");
    assert_eq!(xattr(&file, ACCESS).expect("there"), acl(&list));
    assert_eq!(mode(&file), 0o664, "the group of the mode is the mask");
    assert!(may(ALICE, OTHERS, WRITE, &file));
    assert!(!may(BOB, OTHERS, READ, &file));
    assert!(may(ALICE + 5, GROUP, WRITE, &file));
    assert!(may(ALICE + 5, OTHERS, READ, &file) && !may(ALICE + 5, OTHERS, WRITE, &file));
    // Not only where it was set: the list is asked for before it is believed.
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("changed");
    assert!(!may(ALICE, OTHERS, WRITE, &file), "the mask does not mask");
    assert!(may(ALICE, OTHERS, READ, &file));
    remove_xattr(&file, ACCESS).expect("removed");
    assert!(may(BOB, OTHERS, READ, &file));
}

fn acls_and_modes_agree(mnt: &Path) {
    let file = mnt.join("agrees");
    fs::write(&file, "x").expect("written");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("changed");
    // One that says no more than a mode is only a mode.
    let plain = acl(&[(OWNER, 7, NOBODY), (OWNING_GROUP, 5, NOBODY), (OTHER, 1, NOBODY)]);
    set_xattr(&file, ACCESS, &plain).expect("set");
    assert_eq!(mode(&file), 0o751);
    assert_eq!(errno(xattr(&file, ACCESS)), libc::ENODATA);
    // chmod changes the owner's, the mask and the others'.
    let list = |owner, mask, other| {
        acl(&[
            (OWNER, owner, NOBODY),
            (USER, 7, ALICE),
            (OWNING_GROUP, 5, NOBODY),
            (MASK, mask, NOBODY),
            (OTHER, other, NOBODY),
        ])
    };
    set_xattr(&file, ACCESS, &list(6, 5, 0)).expect("set");
    assert_eq!(mode(&file), 0o650);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o4724)).expect("changed");
    assert_eq!(mode(&file), 0o4724);
    assert_eq!(xattr(&file, ACCESS).expect("there"), list(7, 2, 4));
    for broken in [acl(&[(OWNER, 7, NOBODY)]), acl(&[(USER, 7, ALICE)])] {
        assert_eq!(errno(set_xattr(&file, ACCESS, &broken)), libc::EINVAL);
    }
    // Only directories have one for what is made in them.
    assert_eq!(errno(set_xattr(&file, DEFAULT, &plain)), libc::EACCES);
    // Who gives a list to a file of a group that is not theirs takes its setgid away.
    fs::set_permissions(&file, fs::Permissions::from_mode(0o2755)).expect("changed");
    std::os::unix::fs::chown(&file, Some(0), Some(GROUP)).expect("given");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o2755)).expect("changed");
    set_xattr(&file, ACCESS, &list(7, 5, 5)).expect("set");
    assert_eq!(mode(&file), 0o2755, "root may keep it");
    std::os::unix::fs::chown(&file, Some(ALICE), Some(GROUP)).expect("given");
    for (groups, expected) in [(&[GROUP][..], 0o2755), (&[][..], 0o755)] {
        fs::set_permissions(&file, fs::Permissions::from_mode(0o2755)).expect("changed");
        let list = list(7, 5, 5);
        calls::set_xattr_as((ALICE, OTHERS), groups, &file, (ACCESS, &list)).expect("set");
        assert_eq!(mode(&file), expected, "of the groups {groups:?}");
    }
}

fn acls_are_inherited(mnt: &Path) {
    let dir = mnt.join("inherited");
    fs::create_dir(&dir).expect("made");
    let list = [
        (OWNER, 7, NOBODY),
        (USER, 7, ALICE),
        (OWNING_GROUP, 5, NOBODY),
        (MASK, 7, NOBODY),
        (OTHER, 0, NOBODY),
    ];
    set_xattr(&dir, DEFAULT, &acl(&list)).expect("set");
    assert_eq!(errno(xattr(&dir, ACCESS)), libc::ENODATA);
    // Under a default ACL the umask does not count.
    let make = "umask 077; echo x > \"$1/file\"; mkdir \"$1/dir\"; mkfifo \"$1/fifo\"";
    assert!(may(0, 0, make, &dir));
    let restricted = |owner, mask| {
        acl(&[
            (OWNER, owner, NOBODY),
            (USER, 7, ALICE),
            (OWNING_GROUP, 5, NOBODY),
            (MASK, mask, NOBODY),
            (OTHER, 0, NOBODY),
        ])
    };
    for (name, expected) in [("file", 0o660), ("fifo", 0o660), ("dir", 0o770)] {
        assert_eq!(mode(&dir.join(name)), expected, "{name}");
        let rights = if name == "dir" { 7 } else { 6 };
        let inherited = xattr(&dir.join(name), ACCESS).expect("there");
        assert_eq!(inherited, restricted(rights, rights), "{name}");
    }
    assert_eq!(xattr(&dir.join("dir"), DEFAULT).expect("there"), acl(&list));
    assert_eq!(errno(xattr(&dir.join("file"), DEFAULT)), libc::ENODATA);
    assert!(may(0, 0, "cd \"$1/dir\" && umask 0 && mkdir below && echo x > below/file", &dir));
    assert_eq!(mode(&dir.join("dir/below/file")), 0o660);
    // A symbolic link has none.
    symlink("file", dir.join("link")).expect("linked");
    assert!(xattrs(&dir.join("link")).expect("listed").is_empty());
    // One that says no more than a mode leaves only a mode.
    let plain = acl(&[(OWNER, 6, NOBODY), (OWNING_GROUP, 4, NOBODY), (OTHER, 4, NOBODY)]);
    set_xattr(&dir, DEFAULT, &plain).expect("set");
    assert!(may(0, 0, "umask 0; echo x > \"$1/plain\"", &dir));
    assert_eq!(mode(&dir.join("plain")), 0o644);
    assert!(xattrs(&dir.join("plain")).expect("listed").is_empty());
    remove_xattr(&dir, DEFAULT).expect("removed");
    assert!(may(0, 0, "umask 027; echo x > \"$1/masked\"; mkdir \"$1/masked dir\"", &dir));
    assert_eq!(mode(&dir.join("masked")), 0o640);
    assert_eq!(mode(&dir.join("masked dir")), 0o750);
}

fn acls_of_another_host(mnt: &Path, elsewhere: &Path) {
    fs::set_permissions(elsewhere, fs::Permissions::from_mode(0o755)).expect("changed");
    let (here, there) = (mnt.join("elsewhere"), elsewhere.join("elsewhere"));
    File::create(&here).expect("made");
    fs::set_permissions(&here, fs::Permissions::from_mode(0o644)).expect("changed");
    assert!(may(BOB, OTHERS, READ, &there));
    let list = [
        (OWNER, 6, NOBODY),
        (USER, 0, BOB),
        (OWNING_GROUP, 4, NOBODY),
        (MASK, 4, NOBODY),
        (OTHER, 4, NOBODY),
    ];
    set_xattr(&here, ACCESS, &acl(&list)).expect("set");
    assert!(!may(BOB, OTHERS, READ, &there), "another host does not know the list");
    remove_xattr(&there, ACCESS).expect("removed");
    assert!(may(BOB, OTHERS, READ, &here), "another host still knows the list");
}
