//! Trees of files: made from a seed, compared with everything that `stat` shows.

use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use super::cluster::success;

/// xorshift64 (Marsaglia 2003): the same seed, the same tree.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.max(1))
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count + 8);
        while bytes.len() < count {
            bytes.extend(self.next().to_le_bytes());
        }
        bytes.truncate(count);
        bytes
    }
}

/// A tree as real ones are: many small files, some large, and everything that is easily forgotten.
pub fn make_tree(root: &Path, files: usize, large_mib: usize, seed: u64) {
    eprintln!("tree of {files} files from seed {seed}");
    let mut random = Random::new(seed);
    fs::create_dir(root).expect("made");
    let directories: Vec<_> = (0..files.div_ceil(50))
        .map(|number| {
            let name = format!("dir {}/sub-{number}", number % 7);
            let dir = root.join(name);
            fs::create_dir_all(&dir).expect("made");
            dir
        })
        .collect();
    for number in 0..files {
        let dir = &directories[random.below(directories.len() as u64) as usize];
        let file = dir.join(format!("file {number}.dat"));
        // Mostly small, some of several blocks, ends at odd places.
        let size = match random.below(10) {
            0 => 0,
            1..=6 => random.below(4096),
            7 | 8 => random.below(60_000),
            _ => random.below(400_000),
        };
        fs::write(&file, random.bytes(size as usize)).expect("written");
        let mode = [0o644, 0o600, 0o755, 0o4711, 0o2755, 0o1777, 0o000, 0o444][number % 8];
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("changed");
        let link = match number % 40 {
            0 => symlink(format!("file {number}.dat"), dir.join(format!("link {number}"))),
            1 => symlink("/nowhere/at all", dir.join(format!("dangling {number}"))),
            2 => fs::hard_link(&file, root.join(format!("hard {number}"))),
            3 => std::os::unix::fs::chown(&file, Some(1234), Some(4321)),
            _ => Ok(()),
        };
        link.expect("linked or given away");
    }
    oddities(root, &mut random, large_mib);
}

fn oddities(root: &Path, random: &mut Random, large_mib: usize) {
    let large = random.bytes((large_mib << 20) + 4097);
    fs::write(root.join("large"), large).expect("written");
    let sparse = File::create(root.join("sparse")).expect("made");
    sparse.set_len(64 << 20).expect("sized");
    sparse.write_all_at(&random.bytes(10_000), 5 << 20).expect("written");
    sparse.write_all_at(&random.bytes(100), 40_000_001).expect("written");
    File::create(root.join("only a hole")).expect("made").set_len(128 << 20).expect("sized");
    let odd = std::ffi::OsStr::from_bytes(b"not utf-8 \xff\xfe \n newline");
    fs::write(root.join(odd), b"odd").expect("written");
    fs::write(root.join("n".repeat(255)), b"longest name").expect("written");
    success(Command::new("mkfifo").arg(root.join("fifo")));
    let empty = root.join("empty dir");
    fs::create_dir(&empty).expect("made");
    fs::set_permissions(&empty, fs::Permissions::from_mode(0o1770)).expect("changed");
}

/// `cp -a`.
pub fn copy(from: &Path, to: &Path) {
    success(Command::new("cp").arg("-a").arg(from).arg(to));
}

/// Content, names and attributes are the same.
pub fn assert_same(left: &Path, right: &Path) {
    let mut diff = Command::new("diff");
    // A pipe has no content that could be compared.
    diff.args(["-r", "--no-dereference", "--exclude=fifo"]).arg(left).arg(right);
    success(&mut diff);
    let (left_list, right_list) = (listing(left), listing(right));
    for (left_line, right_line) in left_list.lines().zip(right_list.lines()) {
        assert_eq!(left_line, right_line, "attributes differ");
    }
    assert_eq!(left_list.lines().count(), right_list.lines().count());
}

/// Type, mode, owner, links, size, mtime, target of everything below `root`; of directories no link count and
/// size, which filesystems count as they like.
fn listing(root: &Path) -> String {
    let mut find = Command::new("find");
    find.args([
        ".",
        "-type",
        "d",
        "-printf",
        "%P|d|%m|%U|%G|%T@\\n",
        "-o",
        "-printf",
        "%P|%y|%m|%U|%G|%n|%s|%T@|%l\\n",
    ]);
    let list = success(find.current_dir(root));
    let mut lines: Vec<&str> = list.lines().collect();
    lines.sort_unstable();
    lines.join("\n")
}

/// What sha256sum(1) says of a file's content.
pub fn sha256(file: &Path) -> String {
    let line = success(Command::new("sha256sum").arg(file));
    line.split_whitespace().next().expect("a checksum").to_owned()
}
