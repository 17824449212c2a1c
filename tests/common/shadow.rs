//! Random operations on a mount and on a plain directory beside it: whatever a program can see must be the same.
//!
//! The plain directory is the model: Linux's own filesystem says what POSIX means. Few names and few offsets are
//! used, around the edges of blocks, so that operations meet one another; several mounts of one cluster take
//! turns, so that each has to see what the others did.

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::files::Random;

const NAMES: u64 = 10;
const OFFSETS: [u64; 9] = [0, 1, 100, 4095, 4096, 8192, 12_345, 131_072, 1_000_000];
const SIZES: [u64; 7] = [0, 1, 100, 4096, 5000, 70_000, 2_000_000];
const LENGTHS: [u64; 5] = [1, 10, 4096, 5000, 100_000];
/// Longer than a stripe.
const LONG: u64 = 9_000_000;

/// One operation; names are numbers.
#[derive(Clone, Debug)]
enum Step {
    Write { name: u64, writes: Vec<(u64, u64, u8)>, sync: bool },
    Append { name: u64, length: u64, byte: u8 },
    Read { name: u64, offset: u64, length: u64 },
    Truncate { name: u64, size: u64 },
    Allocate { name: u64, mode: i32, offset: u64, length: u64 },
    Copy { from: u64, to: u64 },
    Rename { from: u64, to: u64 },
    Link { from: u64, to: u64 },
    Unlink { name: u64 },
    List,
}

/// What a program sees of a step: errno or whatever it reads.
type Seen = Result<Vec<u8>, i32>;

/// Does `count` random steps below `mounts` and in `shadow`, and compares all along and at the end.
pub fn compare(mounts: &[PathBuf], shadow: &Path, seed: u64, count: usize) {
    eprintln!("{count} random operations from seed {seed} on {} mounts", mounts.len());
    let mut random = Random::new(seed);
    fs::create_dir(shadow).expect("made");
    let here = |mount: &Path| mount.join(format!("random-{seed}"));
    fs::create_dir(here(&mounts[0])).expect("made");
    let mut history = Vec::new();
    for number in 0..count {
        let step = draw(&mut random);
        let mount = here(&mounts[random.below(mounts.len() as u64) as usize]);
        history.push(step.clone());
        let (seen, expected) = (run(&mount, &step), run(shadow, &step));
        same(&seen, &expected, || {
            let about = &history[history.len().saturating_sub(12)..];
            format!("seed {seed}, step {number} in {}, after {about:#?}", mount.display())
        });
    }
    for mount in mounts {
        for name in 0..NAMES {
            let read = |dir: &Path| fs::read(path(dir, name)).map_err(errno);
            let (seen, expected) = (read(&here(mount)), read(shadow));
            same(&seen, &expected, || format!("seed {seed}, at the end, file {name}"));
        }
    }
}

fn same(seen: &Seen, expected: &Seen, when: impl Fn() -> String) {
    if seen == expected {
        return;
    }
    let (Ok(seen), Ok(expected)) = (seen, expected) else {
        panic!("{}: {} instead of {}", when(), brief(seen), brief(expected));
    };
    let at = seen.iter().zip(expected).position(|(one, other)| one != other);
    let at = at.unwrap_or(seen.len().min(expected.len()));
    panic!("{}: {} bytes instead of {}, differ at {at}", when(), seen.len(), expected.len());
}

fn brief(seen: &Seen) -> String {
    match seen {
        Ok(bytes) => format!("{} bytes", bytes.len()),
        Err(code) => io::Error::from_raw_os_error(*code).to_string(),
    }
}

fn draw(random: &mut Random) -> Step {
    fn one_of<T: Copy + Debug>(random: &mut Random, from: &[T]) -> T {
        from[random.below(from.len() as u64) as usize]
    }
    let (name, other) = (random.below(NAMES), random.below(NAMES));
    let offset = one_of(random, &OFFSETS);
    let length = match random.below(20) {
        0 => LONG,
        _ => one_of(random, &LENGTHS),
    };
    match random.below(16) {
        0..=3 => {
            let writes = (0..=random.below(4)).map(|_| {
                let at = offset + 4096 * random.below(3);
                (at, 1 + random.below(length), random.below(256) as u8)
            });
            let writes = writes.collect();
            Step::Write { name, writes, sync: random.below(5) == 0 }
        }
        4 => Step::Append { name, length: 1 + random.below(9000), byte: random.below(256) as u8 },
        5 => Step::Truncate { name, size: one_of(random, &SIZES) },
        6..=8 => Step::Read { name, offset, length: 3 * length },
        9 => Step::Rename { from: name, to: other },
        10 => Step::Unlink { name },
        11 => Step::Link { from: name, to: other },
        12 | 13 => {
            let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
            let modes = [punch, punch, 0, libc::FALLOC_FL_KEEP_SIZE, libc::FALLOC_FL_ZERO_RANGE];
            Step::Allocate { name, mode: one_of(random, &modes), offset, length }
        }
        14 => Step::Copy { from: name, to: other },
        _ => Step::List,
    }
}

fn run(dir: &Path, step: &Step) -> Seen {
    perform(dir, step).map_err(errno)
}

fn errno(error: io::Error) -> i32 {
    error.raw_os_error().unwrap_or(-1)
}

fn path(dir: &Path, name: u64) -> PathBuf {
    dir.join(format!("name {name}"))
}

fn perform(dir: &Path, step: &Step) -> io::Result<Vec<u8>> {
    match step {
        Step::Write { name, writes, sync } => {
            let file = writable(&path(dir, *name))?;
            for (offset, length, byte) in writes {
                file.write_all_at(&vec![*byte; *length as usize], *offset)?;
            }
            if *sync {
                file.sync_all()?;
            }
        }
        Step::Append { name, length, byte } => {
            let mut file = OpenOptions::new().append(true).create(true).open(path(dir, *name))?;
            file.write_all(&vec![*byte; *length as usize])?;
        }
        Step::Read { name, offset, length } => return read(&path(dir, *name), *offset, *length),
        Step::Truncate { name, size } => {
            OpenOptions::new().write(true).open(path(dir, *name))?.set_len(*size)?;
        }
        Step::Allocate { name, mode, offset, length } => {
            let file = OpenOptions::new().write(true).open(path(dir, *name))?;
            allocate(&file, *mode, *offset, *length)?;
        }
        // On Linux `io::copy` between files is copy_file_range(2), where that works.
        Step::Copy { from, to } if from != to => {
            let (from, to) = (path(dir, *from), path(dir, *to));
            if let (Ok(one), Ok(other)) = (fs::metadata(&from), fs::metadata(&to))
                && one.ino() == other.ino()
            {
                return Ok(Vec::new());
            }
            io::copy(&mut File::open(from)?, &mut writable(&to)?)?;
        }
        Step::Copy { .. } => {}
        Step::Rename { from, to } => fs::rename(path(dir, *from), path(dir, *to))?,
        Step::Link { from, to } => fs::hard_link(path(dir, *from), path(dir, *to))?,
        Step::Unlink { name } => fs::remove_file(path(dir, *name))?,
        Step::List => return list(dir),
    }
    Ok(Vec::new())
}

fn writable(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(false).open(path)
}

/// The size, then the content.
fn read(path: &Path, offset: u64, length: u64) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    let mut bytes = size.to_le_bytes().to_vec();
    let count = length.min(size.saturating_sub(offset));
    bytes.resize(8 + count as usize, 0);
    file.read_exact_at(&mut bytes[8..], offset)?;
    Ok(bytes)
}

fn allocate(file: &File, mode: i32, offset: u64, length: u64) -> io::Result<()> {
    let (offset, length) = (offset as libc::off_t, length as libc::off_t);
    // SAFETY: the descriptor is open; fallocate(2) touches no memory of ours.
    match unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, length) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Every name with its size and links, sorted.
fn list(dir: &Path) -> io::Result<Vec<u8>> {
    let mut lines = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let stat = entry.metadata()?;
        lines.push(format!("{:?} {} {}\n", entry.file_name(), stat.len(), stat.nlink()));
    }
    lines.sort_unstable();
    Ok(lines.concat().into_bytes())
}
