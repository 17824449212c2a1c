//! Names.

use super::*;

const ROOT: Ino = Ino::ROOT;

fn path(world: &World, ino: Ino) -> Option<String> {
    let path = query::path(&world.store, ino).unwrap();
    path.map(|path| String::from_utf8(path).unwrap())
}

#[test]
fn directories_count_entries_and_subdirectories() {
    let mut world = World::new(1);
    let dir = world.directory(ROOT, "d");
    world.directory(dir, "sub");
    world.create(0, dir, "f", FileKind::Regular);
    let attr = world.stat(dir);
    assert_eq!((attr.size, attr.nlink), (2, 3));
    assert_eq!(attr.mtime, world.stat(dir).ctime);
    let rmdir = |name: &str| Op::Rmdir { parent: dir, name: name.into() };
    assert_eq!(world.op(0, rmdir("f")), Err(Errno::NotDirectory));
    assert_eq!(world.op(0, unlink(dir, "sub")), Err(Errno::IsDirectory));
    assert_eq!(world.op(0, rmdir("none")), Err(Errno::NotFound));
    world.op(0, rmdir("sub")).unwrap();
    let attr = world.stat(dir);
    assert_eq!((attr.size, attr.nlink), (1, 2));
    world.verify();
}

#[test]
fn nothing_can_be_made_in_a_removed_directory() {
    let mut world = World::new(1);
    let dir = world.directory(ROOT, "d");
    let (parent, name) = (ROOT, b"d".to_vec());
    let pinned_by = [world.session(0)];
    world.propose(0, Op::Rmdir { parent, name }, &pinned_by);
    assert_eq!(world.stat(dir).nlink, 0);
    let ino = world.inode_number(0);
    let op = create(dir, "f", ino, FileKind::Regular);
    assert_eq!(world.op(0, op), Err(Errno::NotFound));
    world.verify();
    let session = world.session(0);
    world.act(Action::Unpin { session, ino: dir });
    assert_eq!(world.ask(&Query::Attr { ino: dir }), Err(Errno::Stale));
    world.verify();
}

#[test]
fn names_are_checked() {
    let mut world = World::new(1);
    let long = "x".repeat(256);
    for (name, errno) in [
        ("", Errno::Invalid),
        (".", Errno::Invalid),
        ("..", Errno::Invalid),
        ("a/b", Errno::Invalid),
        ("a\0b", Errno::Invalid),
        (&long, Errno::NameTooLong),
    ] {
        let ino = world.inode_number(0);
        let op = create(ROOT, name, ino, FileKind::Regular);
        assert_eq!(world.op(0, op), Err(errno), "{name}");
    }
    let longest = "x".repeat(255);
    world.file(0, &longest);
}

#[test]
fn setgid_directories_hand_down_their_group() {
    let mut world = World::new(1);
    let dir = world.directory(ROOT, "d");
    let changes = AttrChanges { mode: Some(0o2775), gid: Some(77), ..AttrChanges::default() };
    world.op(0, Op::SetAttr { ino: dir, changes }).unwrap();
    let sub = world.directory(dir, "sub");
    let file = world.create(0, sub, "f", FileKind::Regular);
    assert_eq!((world.stat(sub).gid, world.stat(sub).mode), (77, 0o2644));
    assert_eq!((world.stat(file).gid, world.stat(file).mode), (77, 0o644));
}

#[test]
fn a_path_is_told_as_long_as_there_is_a_name() {
    let mut world = World::new(1);
    let dir = world.directory(ROOT, "d");
    let file = world.file(0, "first");
    assert_eq!(path(&world, ROOT).as_deref(), Some("/"));
    let (parent, name) = (dir, b"second".to_vec());
    world.op(0, Op::Link { ino: file, parent, name }).unwrap();
    assert_eq!(path(&world, file).as_deref(), Some("/first"));
    world.op(0, unlink(ROOT, "first")).unwrap();
    assert_eq!(path(&world, file).as_deref(), Some("/d/second"));
    world.verify();
    let op = rename(dir, "second", ROOT, "third", RenameMode::Replace);
    world.op(0, op).unwrap();
    assert_eq!(path(&world, file).as_deref(), Some("/third"));
    let removed = world.op(0, unlink(ROOT, "third"));
    let Ok(Reply::Removed(removed)) = removed else { panic!("{removed:?}") };
    assert_eq!((removed.attr.ino, removed.attr.nlink), (file, 0));
    assert!(!removed.open_elsewhere);
    assert_eq!(path(&world, file), None);
    world.verify();
}

#[test]
fn a_file_that_begins_without_a_name_gets_one_or_goes() {
    let mut world = World::new(2);
    let dir = world.directory(ROOT, "d");
    let make = |world: &mut World, linkable| {
        let ino = world.inode_number(0);
        let made = attr(world.op(0, nameless(dir, ino, linkable)));
        assert_eq!((made.ino, made.nlink, made.gid), (ino, 0, 2));
        world.write(0, &[piece(ino, 0, BLOCK, 0)]);
        world.verify();
        ino
    };
    let before = world.stat(dir);
    let link = |ino, name: &str| Op::Link { ino, parent: ROOT, name: name.into() };

    let file = make(&mut world, true);
    assert_eq!((path(&world, file), world.stat(dir).mtime), (None, before.mtime));
    world.op(0, link(file, "named")).unwrap();
    assert_eq!((path(&world, file).as_deref(), world.stat(file).nlink), (Some("/named"), 1));
    world.op(0, link(file, "twice")).unwrap();
    world.verify();
    let session = world.session(0);
    world.act(Action::Unpin { session, ino: file });
    assert_eq!(world.stat(file).nlink, 2, "its names keep it");

    // Neither O_EXCL, nor a name that is gone, nor another session has it get one.
    let exclusive = make(&mut world, false);
    assert_eq!(world.op(0, link(exclusive, "e")), Err(Errno::NotFound));
    world.propose(0, unlink(ROOT, "named"), &[session]);
    world.propose(0, unlink(ROOT, "twice"), &[session]);
    assert_eq!(world.op(0, link(file, "again")), Err(Errno::NotFound));
    let other = make(&mut world, true);
    world.op(0, Op::Release { ino: other }).unwrap();
    assert_eq!(world.op(1, link(other, "o")), Err(Errno::NotFound));
    world.verify();

    world.act(Action::Unpin { session, ino: exclusive });
    assert_eq!(world.ask(&Query::Attr { ino: exclusive }), Err(Errno::Stale));
    world.act(Action::CloseSession { session, evicted: true });
    assert_eq!(world.ask(&Query::Attr { ino: other }), Err(Errno::Stale));
    assert_eq!(world.live_stripes(), []);
    world.verify();
}

#[test]
fn a_directory_never_comes_to_lie_below_itself() {
    let mut world = World::new(1);
    let a = world.directory(ROOT, "a");
    let b = world.directory(a, "b");
    let c = world.directory(b, "c");
    let into_itself = rename(ROOT, "a", a, "x", RenameMode::Replace);
    assert_eq!(world.op(0, into_itself), Err(Errno::Invalid));
    let below = rename(ROOT, "a", c, "x", RenameMode::Replace);
    assert_eq!(world.op(0, below), Err(Errno::Invalid));
    world.directory(c, "d");
    let exchange = rename(ROOT, "a", b, "c", RenameMode::Exchange);
    assert_eq!(world.op(0, exchange), Err(Errno::Invalid));
    let exchange = rename(b, "c", ROOT, "a", RenameMode::Exchange);
    assert_eq!(world.op(0, exchange), Err(Errno::Invalid));
    world.op(0, rename(a, "b", ROOT, "b", RenameMode::Replace)).unwrap();
    world.op(0, rename(ROOT, "a", b, "a", RenameMode::Replace)).unwrap();
    assert_eq!(path(&world, a).as_deref(), Some("/b/a"));
    world.verify();
}

#[test]
fn exchange_moves_a_directory_and_a_file() {
    let mut world = World::new(1);
    let one = world.directory(ROOT, "one");
    let two = world.directory(ROOT, "two");
    let sub = world.directory(one, "x");
    let file = world.create(0, two, "y", FileKind::Regular);
    let missing = rename(one, "x", two, "z", RenameMode::Exchange);
    assert_eq!(world.op(0, missing), Err(Errno::NotFound));
    world.op(0, rename(one, "x", two, "y", RenameMode::Exchange)).unwrap();
    assert_eq!(path(&world, sub).as_deref(), Some("/two/y"));
    assert_eq!(path(&world, file).as_deref(), Some("/one/x"));
    assert_eq!((world.stat(one).nlink, world.stat(two).nlink), (2, 3));
    world.verify();
}

#[test]
fn rename_replaces_what_it_may() {
    let mut world = World::new(1);
    let file = world.file(0, "f");
    let dir = world.directory(ROOT, "d");
    let full = world.directory(ROOT, "full");
    world.directory(full, "x");
    let replace = |from, to| rename(ROOT, from, ROOT, to, RenameMode::Replace);
    assert_eq!(world.op(0, replace("f", "d")), Err(Errno::IsDirectory));
    assert_eq!(world.op(0, replace("d", "f")), Err(Errno::NotDirectory));
    assert_eq!(world.op(0, replace("d", "full")), Err(Errno::NotEmpty));
    let keep = rename(ROOT, "f", ROOT, "d", RenameMode::NoReplace);
    assert_eq!(world.op(0, keep), Err(Errno::Exists));
    world.op(0, replace("full", "d")).unwrap();
    assert_eq!(world.ask(&Query::Attr { ino: dir }), Err(Errno::Stale));
    // Two names of one file both stay.
    let (parent, name) = (ROOT, b"g".to_vec());
    world.op(0, Op::Link { ino: file, parent, name }).unwrap();
    world.op(0, replace("f", "g")).unwrap();
    assert_eq!(world.stat(file).nlink, 2);
    world.verify();
}

#[test]
fn an_inode_number_is_used_once() {
    let mut world = World::new(2);
    let file = world.file(0, "f");
    world.op(0, unlink(ROOT, "f")).unwrap();
    let again = create(ROOT, "g", file, FileKind::Regular);
    assert_eq!(world.op(0, again), Err(Errno::Invalid));
    let foreign = create(ROOT, "g", Ino(file.0 + 1), FileKind::Regular);
    assert_eq!(world.op(1, foreign), Err(Errno::Invalid));
    for n in 1..limits::INODE_RANGE {
        world.file(0, &n.to_string());
    }
    let tags = world.pairs();
    assert!(!tags.iter().any(|(key, _)| key.starts_with(b"A/I")));
    world.verify();
}

#[test]
fn extended_attributes_obey_their_modes_and_limits() {
    let mut world = World::new(1);
    let ino = world.file(0, "f");
    let set = |name: &str, bytes: usize, mode| Op::SetXattr {
        ino,
        name: name.into(),
        value: vec![7; bytes],
        mode,
        takes_setgid: false,
    };
    let replace = set("user.a", 1, XattrMode::Replace);
    assert_eq!(world.op(0, replace), Err(Errno::NoAttribute));
    world.op(0, set("user.a", 1, XattrMode::Create)).unwrap();
    let create = set("user.a", 2, XattrMode::Create);
    assert_eq!(world.op(0, create), Err(Errno::Exists));
    world.op(0, set("user.a", 0, XattrMode::Replace)).unwrap();
    let big = set("user.b", limits::XATTR_VALUE_MAX + 1, XattrMode::Set);
    assert_eq!(world.op(0, big), Err(Errno::TooBig));
    let name = b"user.a".to_vec();
    let value = Query::GetXattr { ino, name: name.clone() };
    assert_eq!(world.ask(&value), Ok(Answer::Bytes(Vec::new())));
    let names = world.ask(&Query::ListXattr { ino });
    assert_eq!(names, Ok(Answer::Names(vec![name.clone()])));

    let long = "x".repeat(250);
    let mut full = 0;
    for n in 0..300 {
        match world.op(0, set(&format!("{long}{n:03}"), 0, XattrMode::Set)) {
            Ok(_) => full += 254,
            Err(errno) => assert_eq!(errno, Errno::NoSpace),
        }
    }
    assert!((65_000..=65_536).contains(&full));
    world.op(0, Op::RemoveXattr { ino, name: name.clone() }).unwrap();
    let remove = Op::RemoveXattr { ino, name };
    assert_eq!(world.op(0, remove), Err(Errno::NoAttribute));
    world.verify();
    // Too many to go at once.
    world.op(0, unlink(ROOT, "f")).unwrap();
    assert_eq!(world.act(Action::Free { ino }), Outcome::Done);
    assert_eq!(world.act(Action::Free { ino }), Outcome::Done);
    world.verify();
}

fn list(world: &World, dir: Ino, limit: u32) -> Vec<Vec<u8>> {
    let mut names = Vec::new();
    let mut after = 0;
    loop {
        let attrs = true;
        let query = Query::ReadDir { dir, after, limit, attrs };
        let Ok(Answer::Entries { entries, end, .. }) = world.ask(&query) else {
            panic!("not a directory");
        };
        for entry in entries {
            assert!(entry.next > 2 && entry.next < 1 << 63 && entry.next > after);
            after = entry.next;
            names.push(entry.name);
        }
        if end {
            return names;
        }
    }
}

#[test]
fn a_listing_can_stop_and_go_on_anywhere() {
    let mut world = World::new(1);
    let dir = world.directory(ROOT, "d");
    for n in 0..40 {
        world.create(0, dir, &n.to_string(), FileKind::Regular);
    }
    let whole = list(&world, dir, 1024);
    assert_eq!(whole.len(), 40);
    assert_eq!(list(&world, dir, 1), whole);
    assert_eq!(list(&world, dir, 7), whole);
    assert_eq!(list(&world, ROOT, 7).len(), 1);
}

#[test]
fn names_with_equal_hashes_are_all_listed() {
    let mut world = World::new(1);
    let dir = world.directory(ROOT, "d");
    let file = world.create(0, dir, "f", FileKind::Regular);
    let entry = world.store.get(&raw_entry(dir, super::super::keys::name_hash(b"f"), b"f"));
    let entry = entry.unwrap().unwrap();
    for (hash, names) in [(0x500, 5), (0x600, 1), (0x700, 3)] {
        for n in 0..names {
            let key = raw_entry(dir, hash, format!("{hash}-{n}").as_bytes());
            world.store.write(&[(key, Some(entry.clone()))].into()).unwrap();
        }
    }
    let whole = list(&world, dir, 100);
    assert_eq!(whole.len(), 10);
    for limit in 1..5 {
        assert_eq!(list(&world, dir, limit), whole);
    }
    assert_eq!(world.stat(file).nlink, 1);
}

fn raw_entry(dir: Ino, hash: u64, name: &[u8]) -> Vec<u8> {
    [b"D/", dir.0.to_be_bytes().as_slice(), &hash.to_be_bytes(), name].concat()
}
