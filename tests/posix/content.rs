//! What is in files, by all ways there are to change and to look at it.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::calls::{self, Mapping, errno, fallocate, seek, times};
use super::common::cluster::{Cluster, success};
use super::common::files::Random;

const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | KEEP;
const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE;
/// The largest file.
const TOP: i64 = 16 << 40;

pub(crate) fn content() {
    let cluster = Cluster::new(3, 2, 1);
    let mnt = cluster.mnt();
    files_of_16_tebibytes(&mnt);
    reserving_and_zeroing(&mnt);
    holes_are_found(&mnt);
    appending(&mnt);
    past_the_page_cache(&mnt);
    mappings(&mnt);
    running_programs(&mnt);
    shared_extents(&cluster);
    times_of_changes(&mnt);
    times_of_reading(&mnt);
    cluster.sync();
    cluster.assert_clean();
}

fn new(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).create_new(true).open(path).expect("made")
}

fn read_at(file: &File, offset: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, offset).expect("read");
    bytes
}

fn files_of_16_tebibytes(mnt: &Path) {
    let path = mnt.join("16 TiB");
    let file = new(&path);
    file.write_all_at(b"end", TOP as u64 - 3).expect("written");
    assert_eq!(file.metadata().expect("there").len(), TOP as u64);
    assert_eq!(read_at(&file, TOP as u64 - 5, 5), b"\0\0end");
    assert_eq!(read_at(&file, 1 << 43, 4096), vec![0; 4096]);
    assert_eq!(errno(file.write_all_at(b"x", TOP as u64)), libc::EFBIG);
    assert_eq!(errno(file.set_len(TOP as u64 + 1)), libc::EFBIG);
    drop(file);
    success(Command::new("sync").arg(&path));
    // Whoever looks for data does not wade through all those zeros.
    let since = Instant::now();
    let file = File::open(&path).expect("opened");
    assert_eq!(seek(&file, 0, libc::SEEK_DATA).expect("found"), TOP - 4096);
    assert_eq!(seek(&file, 0, libc::SEEK_HOLE).expect("found"), 0);
    assert_eq!(seek(&file, TOP - 1, libc::SEEK_HOLE).expect("found"), TOP);
    assert!(since.elapsed() < Duration::from_secs(5), "seeking took {:?}", since.elapsed());
    assert_eq!(file.metadata().expect("there").blocks(), 8, "holes take space");
    fs::remove_file(path).expect("removed");
}

fn reserving_and_zeroing(mnt: &Path) {
    let path = mnt.join("reserved");
    let file = new(&path);
    let size = || file.metadata().expect("there").len();
    fallocate(&file, 0, 0, 1 << 20).expect("reserved");
    assert_eq!(size(), 1 << 20);
    fallocate(&file, KEEP, 1 << 20, 1 << 20).expect("reserved");
    assert_eq!(size(), 1 << 20);
    assert_eq!(read_at(&file, (1 << 20) - 10, 10), [0; 10]);

    file.write_all_at(&[7; 65_536], 0).expect("written");
    fallocate(&file, ZERO, 1000, 10_000).expect("zeroed");
    fallocate(&file, PUNCH, 20_000, 20_000).expect("punched");
    let mut expected = vec![7; 65_536];
    expected[1000..11_000].fill(0);
    expected[20_000..40_000].fill(0);
    assert_eq!(read_at(&file, 0, 65_536), expected);
    fallocate(&file, ZERO | KEEP, (1 << 20) - 100, 10_000).expect("zeroed");
    assert_eq!(size(), 1 << 20);
    fallocate(&file, ZERO, (1 << 20) - 100, 10_000).expect("zeroed");
    assert_eq!(size(), (1 << 20) + 9900);
    // Behind the end there is nothing to punch.
    fallocate(&file, PUNCH, 2 << 20, 1 << 20).expect("punched");
    assert_eq!(size(), (1 << 20) + 9900);

    assert_eq!(errno(fallocate(&file, 0, 0, 0)), libc::EINVAL);
    assert_eq!(errno(fallocate(&file, 0, -1, 10)), libc::EINVAL);
    assert_eq!(errno(fallocate(&file, 0, 0, TOP + 1)), libc::EFBIG);
    assert_eq!(errno(fallocate(&file, 0, 0, TOP)), libc::ENOSPC, "more than there is");
    assert_eq!(size(), (1 << 20) + 9900);
    assert_eq!(errno(fallocate(&file, libc::FALLOC_FL_COLLAPSE_RANGE, 0, 4096)), libc::EOPNOTSUPP);
    assert_eq!(errno(fallocate(&file, libc::FALLOC_FL_INSERT_RANGE, 0, 4096)), libc::EOPNOTSUPP);
    let reader = File::open(&path).expect("opened");
    assert_eq!(errno(fallocate(&reader, 0, 0, 10)), libc::EBADF);
}

fn holes_are_found(mnt: &Path) {
    let file = new(&mnt.join("holes"));
    file.write_all_at(&[1; 4096], 8192).expect("written");
    file.set_len(1 << 20).expect("grown");
    let data = |from| seek(&file, from, libc::SEEK_DATA);
    let hole = |from| seek(&file, from, libc::SEEK_HOLE);
    // Before and after it is committed.
    for _ in 0..2 {
        assert_eq!(data(0).expect("found"), 8192);
        assert_eq!(data(8193).expect("found"), 8193);
        assert_eq!(hole(0).expect("found"), 0);
        assert_eq!(hole(8192).expect("found"), 12_288);
        assert_eq!(hole(13_000).expect("found"), 13_000);
        assert_eq!(errno(data(13_000)), libc::ENXIO);
        assert_eq!(errno(data(1 << 20)), libc::ENXIO);
        assert_eq!(errno(hole(1 << 20)), libc::ENXIO);
        file.sync_all().expect("synced");
    }
}

fn appending(mnt: &Path) {
    let path = mnt.join("appended");
    let mut appender = OpenOptions::new().append(true).create(true).open(&path).expect("made");
    appender.write_all(b"a").expect("written");
    // What an appender writes goes to the end, wherever it says.
    appender.write_at(b"b", 0).expect("written");
    let mut other = OpenOptions::new().read(true).write(true).open(&path).expect("opened");
    calls::set_flags(&other, libc::O_APPEND).expect("set");
    other.write_all(b"c").expect("written");
    assert_eq!(fs::read(&path).expect("read"), b"abc");
    // And one that ceased to be one, to where it says.
    calls::set_flags(&appender, 0).expect("set");
    appender.write_at(b"X", 0).expect("written");
    calls::set_flags(&other, 0).expect("set");
    other.write_at(b"Y", 1).expect("written");
    assert_eq!(fs::read(&path).expect("read"), b"XYc");
    assert_eq!(fs::metadata(&path).expect("there").len(), 3);
}

fn past_the_page_cache(mnt: &Path) {
    let path = mnt.join("direct");
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(true).custom_flags(libc::O_DIRECT);
    let file = options.open(&path).expect("made");
    let mut buffer = Mapping::anonymous(8192);
    buffer.slice().fill(3);
    file.write_all_at(buffer.slice(), 4096).expect("written");
    buffer.slice().fill(0);
    file.read_exact_at(buffer.slice(), 4096).expect("read");
    assert_eq!(buffer.slice(), [3; 8192]);
    let cached = File::open(&path).expect("opened");
    assert_eq!(read_at(&cached, 0, 12_288), [vec![0; 4096], vec![3; 8192]].concat());
    buffer.slice().fill(4);
    file.write_all_at(buffer.slice(), 0).expect("written");
    assert_eq!(read_at(&cached, 0, 12_288), [vec![4; 8192], vec![3; 4096]].concat());
}

fn mappings(mnt: &Path) {
    let path = mnt.join("mapped");
    let file = new(&path);
    file.set_len(10_000).expect("grown");
    let shared = Mapping::of(&file, 10_000, libc::MAP_SHARED).expect("mapped");
    shared.write(5000, b"hello");
    assert_eq!(read_at(&file, 5000, 5), b"hello");
    file.write_all_at(b"WORLD", 5000).expect("written");
    assert_eq!(shared.bytes(5000, 5), b"WORLD");
    let writer = OpenOptions::new().write(true).open(&path).expect("opened");
    writer.write_all_at(b"third", 5000).expect("written");
    assert_eq!(shared.bytes(5000, 5), b"third");

    let private = Mapping::of(&file, 10_000, libc::MAP_PRIVATE).expect("mapped");
    private.write(0, b"mine");
    assert_eq!(read_at(&file, 0, 4), [0; 4]);
    assert_eq!(private.bytes(0, 4), b"mine");

    shared.write(9000, b"synced");
    shared.sync().expect("synced");
    // A mapping outlives its descriptors.
    drop((file, writer, private));
    shared.write(100, b"late");
    drop(shared);
    let content = fs::read(&path).expect("read");
    assert_eq!((&content[100..104], &content[9000..9006]), (&b"late"[..], &b"synced"[..]));
}

/// A copy within the filesystem takes no space and is a copy all the same.
/// What runs cannot be written to. The kernel sees to it, but it looks only after it has told us of an open.
fn running_programs(mnt: &Path) {
    let path = mnt.join("program");
    fs::copy("/bin/sleep", &path).expect("copied");
    let before = fs::read(&path).expect("read");
    let mut program = Command::new(&path).arg("60").spawn().expect("it can be run");
    let flags = [libc::O_WRONLY, libc::O_RDWR, libc::O_TRUNC, libc::O_WRONLY | libc::O_TRUNC];
    let opened = flags.map(|flags| calls::open(&path, flags));
    let ended = program.try_wait().expect("asked");
    program.kill().expect("killed");
    program.wait().expect("it ends");
    assert_eq!(ended, None, "it has lost what it runs");
    for opened in opened {
        assert_eq!(errno(opened), libc::ETXTBSY);
    }
    assert!(fs::read(&path).expect("read") == before, "it was changed");
    File::create(&path).expect("cut");
    assert_eq!(fs::metadata(&path).expect("there").len(), 0);
    fs::remove_file(path).expect("removed");
}

fn shared_extents(cluster: &Cluster) {
    let mnt = cluster.mnt();
    let stored = || cluster.status()["stripes"]["total"].as_u64().expect("a number");
    let (length, mut random) = (20_000_001, Random::new(11));
    let bytes = random.bytes(length);
    let (original, copy) = (new(&mnt.join("original")), new(&mnt.join("copy")));
    original.write_all_at(&bytes, 0).expect("written");
    cluster.sync();
    let before = stored();
    calls::copy_range((&original, 0), (&copy, 0), length).expect("copied");
    cluster.sync();
    assert_eq!(stored(), before, "a copy made stripes of its own");
    assert!(read_at(&copy, 0, length) == bytes, "the copy is another");
    original.write_all_at(b"changed", 5000).expect("written");
    assert!(read_at(&copy, 0, length) == bytes, "the copy changed");

    // Ragged ranges are copied byte by byte, and a file may be copied into itself.
    calls::copy_range((&copy, 100), (&original, 300), 5000).expect("copied");
    assert!(read_at(&original, 300, 5000) == bytes[100..5100]);
    calls::copy_range((&copy, 0), (&copy, 1 << 20), 8192).expect("copied");
    assert!(read_at(&copy, 1 << 20, 8192) == bytes[..8192]);
    calls::copy_range((&copy, 3), (&copy, 100_000), 9000).expect("copied");
    assert!(read_at(&copy, 100_000, 9000) == bytes[3..9003]);
    assert_eq!(errno(calls::copy_range((&copy, 0), (&copy, 4096), 9000)), libc::EINVAL);
}

/// Which times an operation on an open file changes: (mtime, ctime).
fn times_of_changes(mnt: &Path) {
    let dir = mnt.join("times");
    fs::create_dir(&dir).expect("made");
    let [name, other, third] = ["name", "other", "third"].map(|name| dir.join(name));
    let file = new(&name);
    file.write_all_at(b"content", 0).expect("written");
    let changed = |what: &str, expected: (bool, bool), change: &dyn Fn()| {
        let before = times(&file.metadata().expect("there"));
        sleep(Duration::from_millis(5));
        change();
        let after = times(&file.metadata().expect("there"));
        let changed = (after[1] > before[1], after[2] > before[2]);
        assert_eq!(changed, expected, "{what}: {before:?} became {after:?}");
    };
    let both = (true, true);
    let ctime = (false, true);
    changed("chmod", ctime, &|| {
        success(Command::new("chmod").arg("600").arg(&name));
    });
    changed("link", ctime, &|| fs::hard_link(&name, &other).expect("linked"));
    changed("rename", ctime, &|| fs::rename(&name, &third).expect("renamed"));
    changed("unlink", ctime, &|| fs::remove_file(&other).expect("removed"));
    changed("xattr", ctime, &|| calls::set_xattr(&third, "user.x", b"1").expect("set"));
    changed("replace a link", ctime, &|| {
        fs::hard_link(&third, &other).expect("linked");
        fs::write(&name, "new").expect("written");
        fs::rename(&name, &other).expect("renamed");
    });
    changed("exchange", ctime, &|| {
        calls::rename(&third, &other, libc::RENAME_EXCHANGE).expect("exchanged");
    });
    changed("write", both, &|| file.write_all_at(b"x", 3).expect("written"));
    changed("write nothing", (false, false), &|| file.write_all_at(b"", 3).expect("written"));
    changed("truncate", both, &|| file.set_len(100).expect("cut"));
    changed("truncate to the same", both, &|| file.set_len(100).expect("cut"));
    changed("reserve", both, &|| fallocate(&file, 0, 0, 1000).expect("reserved"));
    changed("punch", both, &|| fallocate(&file, PUNCH, 0, 100).expect("punched"));
    changed("set times", ctime, &|| calls::set_times(&other, 5, 6).expect("set"));
    assert_eq!(times(&file.metadata().expect("there"))[..2], [5, 6]);
    for nanos in [0, -1, -1_500_000_000, 123_456_789, i128::from(u32::MAX) * 3_000_000_000 + 7] {
        calls::set_times(&other, nanos, nanos).expect("set");
        assert_eq!(times(&file.metadata().expect("there"))[..2], [nanos, nanos]);
    }
    // What is written out later does not move the time of the write.
    file.write_all_at(b"y", 0).expect("written");
    let written = times(&file.metadata().expect("there"));
    file.sync_all().expect("synced");
    assert_eq!(times(&file.metadata().expect("there")), written);
    drop(file);
    assert_eq!(times(&fs::metadata(&other).expect("there")), written);
}

/// relatime: a file that is read shows it once after each change, and once a day.
fn times_of_reading(mnt: &Path) {
    let path = mnt.join("read");
    fs::write(&path, "content").expect("written");
    let atime = || times(&fs::metadata(&path).expect("there"))[0];
    let read = || {
        let mut text = String::new();
        File::open(&path).expect("opened").read_to_string(&mut text).expect("read");
    };
    calls::set_times(&path, 1, 2).expect("set");
    let ctime = times(&fs::metadata(&path).expect("there"))[2];
    assert_eq!(atime(), 1);
    sleep(Duration::from_millis(5));
    read();
    let first = atime();
    assert!(first > ctime, "a read is not seen");
    assert_eq!(times(&fs::metadata(&path).expect("there"))[2], ctime, "a read is a change");
    sleep(Duration::from_millis(5));
    read();
    assert_eq!(atime(), first, "each read is written down");
    fs::write(&path, "other").expect("written");
    sleep(Duration::from_millis(5));
    read();
    assert!(atime() > first, "a read after a change is not seen");

    let day_ago = first - 2 * 86_400 * 1_000_000_000;
    calls::set_times(&path, day_ago, day_ago - 5).expect("set");
    read();
    assert!(atime() >= first, "the first read of a day is not seen");
    let silent = OpenOptions::new().read(true).custom_flags(libc::O_NOATIME).open(&path);
    calls::set_times(&path, 1, 2).expect("set");
    read_at(&silent.expect("opened"), 0, 1);
    assert_eq!(atime(), 1, "O_NOATIME is not heeded");
}

/// What O_SYNC, O_DSYNC, RWF_DSYNC and fdatasync say is on the disks is there after a power cut.
pub(crate) fn synced_writes_survive_a_power_cut() {
    let cluster = Cluster::new(3, 2, 1);
    let mnt = cluster.mnt();
    let mut random = Random::new(12);
    let bytes = random.bytes(100_000);
    for (name, flag) in [("sync", libc::O_SYNC), ("dsync", libc::O_DSYNC)] {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .custom_flags(flag)
            .open(mnt.join(name))
            .expect("made");
        file.write_all_at(&bytes, 0).expect("written");
        file.write_all_at(b"changed", 50_000).expect("written");
    }
    let one = new(&mnt.join("one write"));
    one.write_all_at(&bytes[..50_000], 0).expect("written");
    let length = bytes.len() - 50_000;
    let written = calls::write_with(&one, &bytes[50_000..], 50_000, libc::RWF_DSYNC);
    assert_eq!(written.expect("written"), length as i64);
    let other = new(&mnt.join("datasync"));
    other.write_all_at(&bytes, 0).expect("written");
    other.sync_data().expect("synced");
    cluster.kill_everything();
    drop((one, other));
    cluster.up();

    let mut changed = bytes.clone();
    changed[50_000..50_007].copy_from_slice(b"changed");
    for (name, expected) in
        [("sync", &changed), ("dsync", &changed), ("one write", &bytes), ("datasync", &bytes)]
    {
        assert!(fs::read(mnt.join(name)).expect("read") == *expected, "{name}");
    }
}
