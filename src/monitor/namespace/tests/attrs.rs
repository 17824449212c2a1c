//! Attributes that follow one another: ACLs and modes, times and reads, what a rename tells of what it renamed.

use super::*;
use crate::types::acl::{ACCESS_ACL, DEFAULT_ACL};

const ROOT: Ino = Ino::ROOT;
const NOBODY: u32 = u32::MAX;
/// Rights of the owner, of user 1000, of the owning group, of the mask and of the others.
type Rights = [u16; 5];

fn acl([owner, user, group, mask, other]: Rights) -> Vec<u8> {
    let named: &[(u16, u16, u32)] = &[
        (1, owner, NOBODY),
        (2, user, 1000),
        (4, group, NOBODY),
        (16, mask, NOBODY),
        (32, other, NOBODY),
    ];
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, rights, id) in named {
        bytes.extend([tag.to_le_bytes(), rights.to_le_bytes()].concat());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

fn set(ino: Ino, name: &[u8], value: Vec<u8>, takes_setgid: bool) -> Op {
    let (name, mode) = (name.to_vec(), XattrMode::Set);
    Op::SetXattr { ino, name, value, mode, takes_setgid }
}

fn chmod(ino: Ino, mode: u16) -> Op {
    Op::SetAttr { ino, changes: AttrChanges { mode: Some(mode), ..AttrChanges::default() } }
}

impl World {
    fn list(&self, ino: Ino, name: &[u8]) -> Option<Vec<u8>> {
        match self.ask(&Query::GetXattr { ino, name: name.to_vec() }) {
            Ok(Answer::Bytes(list)) => Some(list),
            Err(Errno::NoAttribute) => None,
            other => panic!("{other:?}"),
        }
    }

    /// What somebody with that umask makes.
    fn make(&mut self, parent: Ino, name: &str, kind: FileKind, mode: u16, umask: u16) -> Attr {
        let ino = self.inode_number(0);
        let Op::Create(made) = create(parent, name, ino, kind) else { unreachable!() };
        attr(self.op(0, Op::Create(Create { mode, umask, open: false, ..made })))
    }
}

#[test]
fn a_list_and_its_mode_follow_one_another() {
    let mut world = World::new(1);
    let file = world.file(0, "f");
    world.op(0, chmod(file, 0o2700)).unwrap();
    world.op(0, set(file, ACCESS_ACL, acl([6, 7, 5, 4, 1]), false)).unwrap();
    assert_eq!(world.stat(file).mode, 0o2641);
    assert!(world.stat(file).xattrs > 0);
    world.op(0, chmod(file, 0o2777)).unwrap();
    assert_eq!(world.list(file, ACCESS_ACL), Some(acl([7, 7, 5, 7, 7])));
    world.op(0, set(file, ACCESS_ACL, acl([6, 7, 5, 4, 0]), true)).unwrap();
    assert_eq!(world.stat(file).mode, 0o640, "setgid goes");

    // A list that says no more than a mode is not kept, and takes the old one along.
    let plain = [acl([7, 0, 5, 0, 1])[..12].to_vec(), acl([7, 0, 5, 0, 1])[20..28].to_vec()];
    let plain = [plain.concat(), acl([7, 0, 5, 0, 1])[36..].to_vec()].concat();
    world.op(0, set(file, ACCESS_ACL, plain, false)).unwrap();
    assert_eq!((world.list(file, ACCESS_ACL), world.stat(file).mode), (None, 0o751));
    assert_eq!(world.stat(file).xattrs, 0);

    let refused = |world: &mut World, name, value, errno| {
        assert_eq!(world.op(0, set(file, name, value, false)), Err(errno));
    };
    refused(&mut world, ACCESS_ACL, b"no list".to_vec(), Errno::Invalid);
    refused(&mut world, DEFAULT_ACL, acl([7, 7, 7, 7, 7]), Errno::AccessDenied);
    world.verify();
}

#[test]
fn what_is_made_under_a_default_list_inherits_it_and_no_umask_counts() {
    let mut world = World::new(1);
    let dir = world.directory(ROOT, "d");
    let masked = world.make(dir, "masked", FileKind::Regular, 0o666, 0o027);
    assert_eq!((masked.mode, masked.xattrs), (0o640, 0));
    world.op(0, set(dir, DEFAULT_ACL, acl([7, 7, 5, 7, 0]), false)).unwrap();
    let file = world.make(dir, "f", FileKind::Regular, 0o666, 0o077);
    assert_eq!(file.mode, 0o660);
    assert_eq!(world.list(file.ino, ACCESS_ACL), Some(acl([6, 7, 5, 6, 0])));
    assert_eq!(world.list(file.ino, DEFAULT_ACL), None);
    let sub = world.make(dir, "sub", FileKind::Directory, 0o777, 0o077);
    assert_eq!(sub.mode, 0o770);
    assert_eq!(world.list(sub.ino, DEFAULT_ACL), Some(acl([7, 7, 5, 7, 0])));
    let below = world.make(sub.ino, "f", FileKind::Fifo, 0o600, 0);
    assert_eq!((below.mode, below.xattrs > 0), (0o600, true));
    let ino = world.inode_number(0);
    let link = attr(world.op(0, create(dir, "link", ino, FileKind::Symlink)));
    assert_eq!(link.xattrs, 0, "links have none");
    world.verify();
}

#[test]
fn a_read_is_written_down_once_after_each_change() {
    let mut world = World::new(1);
    let file = world.file(0, "f");
    let early = Timestamp { seconds: 0, nanos: 0 };
    let read = |world: &mut World| attr(world.op(0, Op::Accessed { ino: file, time: early }));
    let made = world.stat(file);
    let first = read(&mut world);
    assert!(first.atime > made.atime && first.birth > made.birth);
    assert_eq!((first.mtime, first.ctime, first.dv), (made.mtime, made.ctime, made.dv));
    assert_eq!(read(&mut world), first, "again is not written down");
    world.op(0, chmod(file, 0o600)).unwrap();
    assert!(read(&mut world).atime > first.atime);
    let now = Timestamp { seconds: first.atime.seconds + 24 * 3600, nanos: 0 };
    assert!(first.is_access_due(now), "a day later it is");
}

#[test]
fn a_rename_tells_of_all_it_touched() {
    let mut world = World::new(1);
    let [one, two] = ["one", "two"].map(|name| world.file(0, name));
    let mut renamed =
        |name: &str, to: &str, mode| match world.op(0, rename(ROOT, name, ROOT, to, mode)).unwrap()
        {
            Reply::Renamed { moved, replaced } => {
                let left = replaced.map(|removed| removed.attr);
                for attr in moved.iter().chain(&left) {
                    assert!(attr.ctime > attr.mtime, "its ctime is the rename's");
                }
                let inos = moved.iter().map(|attr| attr.ino).collect::<Vec<_>>();
                (inos, left.map(|attr| (attr.ino, attr.nlink)))
            }
            other => panic!("{other:?}"),
        };
    assert_eq!(renamed("one", "three", RenameMode::NoReplace), (vec![one], None));
    assert_eq!(renamed("three", "two", RenameMode::Exchange), (vec![one, two], None));
    assert_eq!(renamed("two", "three", RenameMode::Replace), (vec![one], Some((two, 0))));
    world.verify();
}
