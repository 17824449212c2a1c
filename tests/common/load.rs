//! Programs at work on a mount while something happens to the cluster: none of them may fail, wait long, or
//! lose anything.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use super::cluster::success;
use super::files::assert_same;
use super::programs::{Programs, Rounds, Waits};

/// Starts them on a mount. They work below `mnt/name`; `source` is a tree that is copied there again and again.
pub fn start(mnt: &Path, name: &str, source: &Path) -> Programs {
    let mut programs = Programs::new(mnt, name);
    let source = source.to_owned();
    programs.start("copies", move |home, rounds| copy_trees(&source, &home, rounds));
    programs.start("synced", |home, rounds| write_and_sync(&home, rounds));
    programs.start("lines", |home, rounds| append_lines(&home, rounds));
    programs.start("names", |home, rounds| change_names(&home, rounds));
    programs
}

/// `cp -r` of a real tree; each copy is compared and removed.
fn copy_trees(source: &Path, home: &Path, rounds: Rounds) -> Waits {
    let waits = Waits::default();
    for round in rounds {
        let copy = home.join(round.to_string());
        success(Command::new("cp").arg("-a").arg(source).arg(&copy));
        assert_same(source, &copy);
        if round % 2 == 1 {
            success(Command::new("rm").arg("-r").arg(&copy));
        }
    }
    waits
}

/// A small database: a block at a time, each made safe.
fn write_and_sync(home: &Path, rounds: Rounds) -> Waits {
    let mut waits = Waits::default();
    let path = home.join("blocks");
    let file = waits.measure("create", || File::create(&path)).expect("created");
    let mut written = 0;
    for round in rounds {
        let offset = round % 512 * 4096;
        waits.measure("write", || file.write_all_at(&block(round), offset)).expect("written");
        waits.measure("fsync", || file.sync_all()).expect("synced");
        written = round;
    }
    let found = waits.measure("read", || fs::read(&path)).expect("read");
    for slot in 0..=written.min(511) {
        let last = written - (written + 512 - slot) % 512;
        let at = usize::try_from(slot * 4096).expect("small");
        assert!(found[at..at + 4096] == block(last), "block {slot} is not what was synced last");
    }
    waits
}

fn block(round: u64) -> Vec<u8> {
    round.to_le_bytes().repeat(512)
}

/// A log: each line is there once, in order.
fn append_lines(home: &Path, rounds: Rounds) -> Waits {
    let mut waits = Waits::default();
    let path = home.join("log");
    let open = || File::options().append(true).create(true).open(&path);
    let mut log = waits.measure("open", open).expect("opened");
    let mut expected = String::new();
    for round in rounds {
        let line = format!("line {round}\n");
        waits.measure("append", || log.write_all(line.as_bytes())).expect("appended");
        expected.push_str(&line);
        if round % 16 == 15 {
            waits.measure("fsync", || log.sync_all()).expect("synced");
            log = waits.measure("open", open).expect("opened");
        }
    }
    let found = waits.measure("read", || fs::read_to_string(&path)).expect("read");
    assert!(found == expected, "the log is not what was appended");
    waits
}

/// A rename, asked for once more where it is EXDEV: when one daemon takes over from another just while the kernel looks
/// up the two paths, it finds one on the older mount and one on the newer.
fn rename(old: &Path, new: &Path) -> io::Result<()> {
    match fs::rename(old, new) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => fs::rename(old, new),
        done => done,
    }
}

/// Names come, change and go; what each call answers is what it should.
fn change_names(home: &Path, rounds: Rounds) -> Waits {
    let mut waits = Waits::default();
    for round in rounds {
        let (old, new) = (home.join(format!("a{round}")), home.join(format!("b{round}")));
        drop(waits.measure("create", || File::create_new(&old)).expect("created"));
        waits.measure("rename", || rename(&old, &new)).expect("renamed");
        waits.measure("stat", || fs::metadata(&new)).expect("there");
        waits.measure("mkdir", || fs::create_dir(&old)).expect("made");
        waits.measure("rmdir", || fs::remove_dir(&old)).expect("removed");
        waits.measure("unlink", || fs::remove_file(&new)).expect("removed");
        let names = waits.measure("readdir", || fs::read_dir(home)).expect("read").count();
        assert_eq!(names, 0, "round {round}");
    }
    waits
}
