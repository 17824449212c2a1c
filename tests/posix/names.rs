//! Names, kinds of inodes, links, and what is left of an inode whose last name is gone.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, Instant};

use super::calls::{self, errno};
use super::common::cluster::Cluster;
use super::common::runner::long;
use super::common::wait_until;

pub(crate) fn names() {
    let cluster = Cluster::new(3, 2, 1);
    let mnt = cluster.mnt();
    not_named_yet(&mnt);
    long_names_and_paths(&mnt);
    kinds_of_inodes(&mnt);
    renaming(&mnt);
    links_of_directories(&mnt);
    links_of_files(&mnt);
    without_a_name(&mnt);
    how_much_there_is(&mnt);
    cluster.sync();
    cluster.assert_clean();
}

fn long_names_and_paths(mnt: &Path) {
    let name = mnt.join("n".repeat(255));
    fs::write(&name, "x").expect("written");
    fs::rename(&name, mnt.join("m".repeat(255))).expect("renamed");
    assert_eq!(errno(fs::write(mnt.join("n".repeat(256)), "x")), libc::ENAMETOOLONG);
    assert_eq!(errno(fs::metadata(mnt.join("n".repeat(256)))), libc::ENAMETOOLONG);

    // From within, so that all 4,095 bytes are of this filesystem.
    let mut path = "d".repeat(199);
    while path.len() + 200 < 4090 {
        path = format!("{path}/{}", "d".repeat(199));
    }
    fs::create_dir_all(mnt.join(&path)).expect("made");
    let longest = format!("{path}/{}", "f".repeat(4095 - path.len() - 1));
    let dir = File::open(mnt).expect("opened");
    let below = |path: &str| Path::new(&format!("/proc/self/fd/{}", dir_number(&dir))).join(path);
    // The kernel counts the path that it is given: this one is longer than it takes, one that begins here is not.
    assert_eq!(errno(fs::write(below(&longest), "x")), libc::ENAMETOOLONG);
    let told = std::process::Command::new("sh")
        .current_dir(mnt)
        .args([
            "-c",
            "echo deep > \"$1\" && cat \"$1\" && ! cat \"$1\"f 2> /dev/null",
            "sh",
            &longest,
        ])
        .output()
        .expect("there is a shell");
    assert_eq!(String::from_utf8_lossy(&told.stdout), "deep\n");
    assert!(told.status.success());

    let target = "t".repeat(4095);
    symlink(&target, mnt.join("long link")).expect("linked");
    let read = fs::read_link(mnt.join("long link")).expect("read");
    assert_eq!(read.as_os_str().len(), 4095);
    assert_eq!(errno(symlink("t".repeat(4096), mnt.join("longer link"))), libc::ENAMETOOLONG);
}

fn dir_number(dir: &File) -> i32 {
    std::os::fd::AsRawFd::as_raw_fd(dir)
}

fn kinds_of_inodes(mnt: &Path) {
    let fifo = mnt.join("fifo");
    calls::mknod(&fifo, libc::S_IFIFO | 0o640, 0).expect("made");
    let stat = fs::metadata(&fifo).expect("there");
    assert!(stat.file_type().is_fifo() && stat.mode() & 0o777 == 0o640);
    let (mut reader, mut writer) = (
        calls::open(&fifo, libc::O_RDWR).expect("opened"),
        calls::open(&fifo, libc::O_RDWR).expect("opened"),
    );
    writer.write_all(b"through").expect("written");
    let mut bytes = [0; 7];
    reader.read_exact(&mut bytes).expect("read");
    assert_eq!(&bytes, b"through");

    let socket = mnt.join("socket");
    let listener = std::os::unix::net::UnixListener::bind(&socket).expect("bound");
    let _client = std::os::unix::net::UnixStream::connect(&socket).expect("connected");
    listener.accept().expect("accepted");
    assert!(fs::metadata(&socket).expect("there").file_type().is_socket());

    // /dev/null and /dev/loop0 by their numbers; a mount shows them, and lets nobody open them unless asked to.
    for (name, kind, device) in [
        ("null", libc::S_IFCHR, libc::makedev(1, 3)),
        ("loop", libc::S_IFBLK, libc::makedev(7, 0)),
        ("high", libc::S_IFCHR, libc::makedev(0xabc, 0xf_edcb)),
    ] {
        calls::mknod(&mnt.join(name), kind | 0o600, device).expect("made");
        let stat = fs::metadata(mnt.join(name)).expect("there");
        assert_eq!((stat.mode() & libc::S_IFMT, stat.rdev()), (kind, device), "{name}");
    }
}

fn renaming(mnt: &Path) {
    let [one, two, three] = ["one", "two", "three"].map(|name| mnt.join(name));
    fs::write(&one, "1").expect("written");
    fs::write(&two, "2").expect("written");
    let (no_replace, exchange) = (libc::RENAME_NOREPLACE, libc::RENAME_EXCHANGE);
    assert_eq!(errno(calls::rename(&one, &two, no_replace)), libc::EEXIST);
    assert_eq!(errno(calls::rename(&one, &three, exchange)), libc::ENOENT);
    calls::rename(&one, &two, exchange).expect("exchanged");
    let content = |path: &Path| fs::read_to_string(path).expect("read");
    assert_eq!((content(&one), content(&two)), ("2".to_owned(), "1".to_owned()));
    calls::rename(&one, &three, no_replace).expect("renamed");
    let dir = mnt.join("a directory");
    fs::create_dir(&dir).expect("made");
    fs::write(dir.join("inside"), "x").expect("written");
    calls::rename(&dir, &three, exchange).expect("exchanged");
    assert!(three.join("inside").exists() && dir.is_file());
    assert_eq!(errno(calls::rename(&three, &three.join("below"), 0)), libc::EINVAL);
    assert_eq!(errno(calls::rename(&dir, &three.join("inside"), exchange)), 0);
    assert_eq!(errno(calls::rename(&one, &two, no_replace | exchange)), libc::EINVAL);
}

fn links_of_directories(mnt: &Path) {
    let [one, other] = ["first", "second"].map(|name| mnt.join(name));
    fs::create_dir(&one).expect("made");
    fs::create_dir(&other).expect("made");
    for number in 0..5 {
        fs::create_dir(one.join(number.to_string())).expect("made");
    }
    let links = |path: &Path| fs::metadata(path).expect("there").nlink();
    assert_eq!((links(&one), links(&other)), (7, 2));
    fs::rename(one.join("0"), other.join("0")).expect("moved");
    fs::remove_dir(one.join("1")).expect("removed");
    assert_eq!((links(&one), links(&other)), (5, 3));
    assert_eq!(errno(fs::hard_link(&one, mnt.join("linked"))), libc::EPERM);
}

fn links_of_files(mnt: &Path) {
    // More than ext4 has.
    let count = if long() { 70_000 } else { 300 };
    let file = mnt.join("linked file");
    fs::write(&file, "x").expect("written");
    let dir = mnt.join("links");
    fs::create_dir(&dir).expect("made");
    for number in 0..count {
        fs::hard_link(&file, dir.join(number.to_string())).expect("linked");
    }
    assert_eq!(fs::metadata(&file).expect("there").nlink(), count + 1);
    fs::remove_file(&file).expect("removed");
    assert_eq!(fs::metadata(dir.join("7")).expect("there").nlink(), count);
    fs::remove_dir_all(&dir).expect("removed");
}

/// What is open, or where somebody is, can be used after its last name is gone.
/// `O_TMPFILE`.
fn not_named_yet(mnt: &Path) {
    let inodes = || {
        let said = calls::statvfs(mnt).expect("told");
        said.f_files - said.f_ffree
    };
    let before = inodes();
    let make = |flags| {
        let file = calls::open(mnt, libc::O_TMPFILE | libc::O_RDWR | flags).expect("made");
        file.write_all_at(b"first", 0).expect("written");
        file
    };
    let file = make(0);
    let stat = file.metadata().expect("there");
    assert_eq!((stat.nlink(), stat.len(), stat.mode() & 0o777), (0, 5, 0o644));
    assert_eq!(fs::read_dir(mnt).expect("listed").count(), 0);
    file.sync_all().expect("synced");
    let path = mnt.join("named now");
    calls::link_open(&file, &path).expect("linked");
    assert_eq!(errno(calls::link_open(&file, &path)), libc::EEXIST);
    file.write_all_at(b"second", 5).expect("written");
    drop(file);
    assert_eq!(fs::read(&path).expect("read"), b"firstsecond");
    assert_eq!(fs::metadata(&path).expect("there").nlink(), 1);

    // Its content was not written back when it got its name.
    let file = make(0);
    let dirty = mnt.join("named while dirty");
    calls::link_open(&file, &dirty).expect("linked");
    drop(file);
    assert_eq!(fs::read(&dirty).expect("read"), b"first");

    let exclusive = make(libc::O_EXCL);
    let never = mnt.join("never named");
    assert_eq!(errno(calls::link_open(&exclusive, &never)), libc::ENOENT);
    exclusive.sync_all().expect("synced");
    let there_are = |count: u64| {
        wait_until("so many inodes are there", Duration::from_secs(10), || {
            let now = inodes() - before;
            if now == count { Ok(()) } else { Err(format!("but {now} instead of {count}")) }
        });
    };
    there_are(3);
    let another = make(0);
    there_are(4);
    drop((exclusive, another));
    there_are(2);
    fs::remove_file(&path).expect("removed");
    fs::remove_file(&dirty).expect("removed");
}

fn without_a_name(mnt: &Path) {
    let path = mnt.join("soon gone");
    let file = File::create_new(&path).expect("made");
    file.write_all_at(b"abc", 0).expect("written");
    fs::remove_file(&path).expect("removed");
    let stat = file.metadata().expect("there");
    assert_eq!((stat.nlink(), stat.len()), (0, 3));
    file.write_all_at(b"d", 3).expect("written");
    file.sync_all().expect("synced");
    file.set_permissions(fs::Permissions::from_mode(0o600)).expect("changed");
    file.set_len(2).expect("cut");
    let again = Path::new("/proc/self/fd").join(dir_number(&file).to_string());
    assert_eq!(fs::read(again).expect("read"), b"ab");

    // A directory, a FIFO and a file that nobody has open but by its path.
    let dir = mnt.join("no directory");
    fs::create_dir(&dir).expect("made");
    let opened = File::open(&dir).expect("opened");
    fs::remove_dir(&dir).expect("removed");
    let fifo = mnt.join("no fifo");
    calls::mknod(&fifo, libc::S_IFIFO | 0o600, 0).expect("made");
    let pipe = calls::open(&fifo, libc::O_RDWR).expect("opened");
    fs::remove_file(&fifo).expect("removed");
    let file = mnt.join("no file");
    fs::write(&file, "x").expect("written");
    let path = calls::open(&file, libc::O_PATH).expect("opened");
    fs::remove_file(&file).expect("removed");
    for (what, file) in [("directory", &opened), ("pipe", &pipe), ("path", &path)] {
        assert_eq!(file.metadata().expect("it is there").nlink(), 0, "{what}");
    }
    opened.set_permissions(fs::Permissions::from_mode(0o711)).expect("changed");
    assert_eq!(opened.metadata().expect("there").mode() & 0o777, 0o711);
    let below = Path::new("/proc/self/fd").join(dir_number(&opened).to_string()).join("x");
    assert_eq!(errno(fs::write(below, "x")), libc::ENOENT);
}

fn how_much_there_is(mnt: &Path) {
    let before = calls::statvfs(mnt).expect("told");
    assert_eq!((before.f_namemax, before.f_frsize), (255, 4096));
    assert!(before.f_bavail <= before.f_bfree && before.f_bfree <= before.f_blocks);
    assert!(before.f_blocks > 0 && before.f_favail > 1 << 32);
}

/// Whatever is done with a directory costs the same for each entry, however many there are.
pub(crate) fn a_big_directory() {
    let cluster = Cluster::new(3, 2, 1);
    let dir = cluster.mnt().join("big");
    fs::create_dir(&dir).expect("made");
    let count = if long() { 100_000 } else { 2000 };
    let name = |number: u64| dir.join(format!("file {number}"));
    let timed = |what: &str, run: &dyn Fn()| {
        let since = Instant::now();
        run();
        let seconds = since.elapsed().as_secs_f64();
        println!("{what} {count} files: {seconds:.1} s, {:.0} a second", count as f64 / seconds);
    };
    timed("create", &|| {
        (0..count).for_each(|number| drop(File::create(name(number)).expect("made")));
    });
    timed("list", &|| {
        assert_eq!(fs::read_dir(&dir).expect("read").count() as u64, count);
    });
    timed("stat", &|| {
        let entries = fs::read_dir(&dir).expect("read");
        let sizes = entries.map(|entry| entry.expect("read").metadata().expect("there").len());
        assert_eq!(sizes.sum::<u64>(), 0);
    });
    timed("rename", &|| {
        let new = |number: u64| dir.join(format!("renamed {number}"));
        (0..count).for_each(|number| fs::rename(name(number), new(number)).expect("renamed"));
    });
    // Entries that are there all the time are listed exactly once, whatever happens to others meanwhile.
    let mut listed = std::collections::BTreeSet::new();
    for (at, entry) in fs::read_dir(&dir).expect("read").enumerate() {
        let name = entry.expect("read").file_name();
        if at % 7 == 0 {
            fs::write(dir.join(format!("added {at}")), "").expect("written");
        }
        if name.to_string_lossy().starts_with("renamed") {
            assert!(listed.insert(name.clone()), "{name:?} is listed twice");
        }
    }
    assert_eq!(listed.len() as u64, count);
    timed("remove", &|| fs::remove_dir_all(&dir).expect("removed"));
    cluster.sync();
    cluster.assert_clean();
}
