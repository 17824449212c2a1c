//! Two programs and one file, which they take turns at, each time in another way: what one has done, the other sees at
//! once, in every way that there is of looking. fsx does this too, with a file for each program; here are also the ways
//! that it does not know (O_DIRECT, FALLOC_FL_ZERO_RANGE, a mapping that is kept all the time), and the two may be on two
//! mounts. The model is a vector.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::calls::{Mapping, copy_range, fallocate, open};
use super::common::cluster::Cluster;
use super::common::files::Random;
use super::common::runner::long;

const FILE_MAX: u64 = 256 << 10;
const LENGTH_MAX: u64 = 48 << 10;
const PAGE: u64 = 4096;
/// Steps that are told of when one has gone wrong.
const TOLD: usize = 12;

const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE;
const MODES: [i32; 5] =
    [0, libc::FALLOC_FL_KEEP_SIZE, PUNCH, ZERO, ZERO | libc::FALLOC_FL_KEEP_SIZE];

pub(crate) fn one_file_on_one_mount() {
    let cluster = Cluster::new(3, 2, 1);
    take_turns(&cluster, [cluster.mnt(), cluster.mnt()], 1);
}

pub(crate) fn one_file_on_two_mounts() {
    let mut cluster = Cluster::new(3, 2, 1);
    let mounts = [cluster.mnt(), cluster.add_mount()];
    take_turns(&cluster, mounts, 21);
}

fn take_turns(cluster: &Cluster, mounts: [PathBuf; 2], first_seed: u64) {
    let (seeds, steps) = if long() { (10, 20_000) } else { (2, 1000) };
    for seed in first_seed..first_seed + seeds {
        println!("one file: {steps} steps from seed {seed}");
        let paths = mounts.each_ref().map(|mount| mount.join(format!("one-{seed}")));
        play(&paths, seed, steps);
    }
    cluster.sync();
    cluster.assert_clean();
}

fn play(paths: &[PathBuf; 2], seed: u64, steps: usize) {
    let mut random = Random::new(seed);
    let mut model = Vec::new();
    let mut programs = paths.each_ref().map(|path| Program::open(path).expect("opened"));
    let mut history = Vec::new();
    for number in 0..steps {
        let who = random.below(2) as usize;
        let step = draw(&mut random, model.len() as u64);
        history.push((who, step));
        let fails = |what: String| -> ! {
            let about = &history[history.len().saturating_sub(TOLD)..];
            panic!("seed {seed}, step {number}, after {about:#?}: {what}")
        };
        match programs[who].perform(step, &mut random, &mut model) {
            Ok(None) => {}
            Ok(Some(wrong)) => fails(wrong),
            Err(error) => fails(error.to_string()),
        }
        for program in &programs {
            let size = program.file.metadata().expect("fstat").len();
            if size != model.len() as u64 {
                fails(format!("{size:#x} bytes instead of {:#x}", model.len()));
            }
        }
    }
    for path in paths {
        assert!(std::fs::read(path).expect("read") == model, "seed {seed}: differs at the end");
    }
}

/// How bytes get there, or are looked at.
#[derive(Clone, Copy, Debug)]
enum How {
    Plain,
    Direct,
    /// Through a mapping that is made for it.
    Mapped,
    /// Through the mapping that is always there; written through one it is, too, when it is synced.
    Kept,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Read(How, u64, u64),
    Write(How, u64, u64),
    Truncate(u64),
    Allocate { mode: i32, offset: u64, length: u64 },
    Copy { from: u64, to: u64, length: u64 },
    Sync,
    Reopen,
}

/// A step that makes sense for a file of this size.
fn draw(random: &mut Random, size: u64) -> Step {
    let mut offset = random.below(FILE_MAX);
    let mut length = 1 + random.below(LENGTH_MAX);
    if random.below(3) == 0 {
        (offset, length) = (offset / PAGE * PAGE, length.next_multiple_of(PAGE));
    }
    let length = length.min(FILE_MAX - offset);
    let how = match random.below(4) {
        0 => How::Plain,
        1 => How::Direct,
        2 => How::Mapped,
        _ => How::Kept,
    };
    match random.below(20) {
        0..=7 => Step::Read(how, offset, length),
        8..=12 => Step::Write(how, offset, length),
        13 => Step::Truncate(offset),
        14..=16 => Step::Allocate { mode: MODES[random.below(5) as usize], offset, length },
        17 => {
            let from = random.below(size + 1);
            let from = if offset.is_multiple_of(PAGE) { from / PAGE * PAGE } else { from };
            let apart = from.abs_diff(offset);
            Step::Copy { from, to: offset, length: length.min(size - from).min(apart) }
        }
        18 => Step::Sync,
        _ => Step::Reopen,
    }
}

/// What a program has open of the file.
struct Program {
    path: PathBuf,
    file: File,
    direct: File,
    kept: Mapping,
}

impl Program {
    fn open(path: &Path) -> io::Result<Self> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let direct = open(path, libc::O_RDWR | libc::O_DIRECT)?;
        let kept = Mapping::of(&file, FILE_MAX as usize, libc::MAP_SHARED)?;
        Ok(Self { path: path.to_owned(), file, direct, kept })
    }

    /// Does it to the file and to the model; what was wrong with what it saw.
    fn perform(
        &mut self,
        step: Step,
        random: &mut Random,
        model: &mut Vec<u8>,
    ) -> io::Result<Option<String>> {
        let size = model.len() as u64;
        match step {
            Step::Read(how, offset, length) => {
                let (offset, length) = aligned(how, offset, length);
                let range = offset.min(size)..(offset + length).min(size);
                let seen = self.read(how, offset, length, &range)?;
                return Ok(difference(&seen, &model[index(&range)], range.start));
            }
            Step::Write(how, offset, length) => {
                let (offset, mut length) = aligned(how, offset, length);
                if matches!(how, How::Mapped | How::Kept) {
                    length = length.min(size.saturating_sub(offset));
                }
                let bytes = random.bytes(length as usize);
                if !bytes.is_empty() {
                    self.write(how, offset, &bytes)?;
                    grow(model, offset + length);
                    model[index(&(offset..offset + length))].copy_from_slice(&bytes);
                }
            }
            Step::Truncate(size) => {
                self.file.set_len(size)?;
                model.resize(size as usize, 0);
            }
            Step::Allocate { mode, offset, length } => {
                fallocate(&self.file, mode, offset as i64, length as i64)?;
                if mode & libc::FALLOC_FL_KEEP_SIZE == 0 {
                    grow(model, offset + length);
                }
                if mode & (libc::FALLOC_FL_PUNCH_HOLE | ZERO) != 0 {
                    let end = (offset + length).min(model.len() as u64);
                    model[index(&(offset.min(end)..end))].fill(0);
                }
            }
            Step::Copy { from, to, length } => {
                let (file, count) = (&self.file, length as usize);
                copy_range((file, from as i64), (file, to as i64), count)?;
                if length > 0 {
                    grow(model, to + length);
                    model.copy_within(index(&(from..from + length)), to as usize);
                }
            }
            Step::Sync => self.file.sync_all()?,
            Step::Reopen => *self = Self::open(&self.path)?,
        }
        Ok(None)
    }

    /// `range` is what there is of it.
    fn read(&self, how: How, offset: u64, length: u64, range: &Range<u64>) -> io::Result<Vec<u8>> {
        let count = (range.end - range.start) as usize;
        match how {
            How::Plain => {
                let mut seen = vec![0; length as usize];
                let count = self.file.read_at(&mut seen, offset)?;
                seen.truncate(count);
                Ok(seen)
            }
            How::Direct => {
                let mut buffer = Mapping::anonymous(length as usize);
                let count = self.direct.read_at(buffer.slice(), offset)?;
                Ok(buffer.bytes(0, count))
            }
            How::Mapped if count == 0 => Ok(Vec::new()),
            How::Mapped => {
                let mapping = Mapping::of(&self.file, range.end as usize, libc::MAP_SHARED)?;
                Ok(mapping.bytes(range.start as usize, count))
            }
            How::Kept => Ok(self.kept.bytes(range.start.min(FILE_MAX) as usize, count)),
        }
    }

    fn write(&self, how: How, offset: u64, bytes: &[u8]) -> io::Result<()> {
        match how {
            How::Plain => self.file.write_all_at(bytes, offset),
            How::Direct => {
                let mut buffer = Mapping::anonymous(bytes.len());
                buffer.slice().copy_from_slice(bytes);
                self.direct.write_all_at(buffer.slice(), offset)
            }
            How::Mapped => {
                let length = offset as usize + bytes.len();
                let mapping = Mapping::of(&self.file, length, libc::MAP_SHARED)?;
                mapping.write(offset as usize, bytes);
                mapping.sync()
            }
            How::Kept => {
                self.kept.write(offset as usize, bytes);
                self.kept.sync()
            }
        }
    }
}

/// O_DIRECT takes whole pages only.
fn aligned(how: How, offset: u64, length: u64) -> (u64, u64) {
    match how {
        How::Direct => (offset / PAGE * PAGE, length.next_multiple_of(PAGE)),
        How::Plain | How::Mapped | How::Kept => (offset, length),
    }
}

fn index(range: &Range<u64>) -> Range<usize> {
    range.start as usize..range.end as usize
}

fn grow(model: &mut Vec<u8>, size: u64) {
    model.resize(model.len().max(size as usize), 0);
}

/// Where the two differ.
fn difference(seen: &[u8], expected: &[u8], start: u64) -> Option<String> {
    if seen == expected {
        return None;
    }
    let at = seen.iter().zip(expected).position(|(one, other)| one != other);
    let wrong = seen.iter().zip(expected).filter(|(one, other)| one != other).count();
    Some(format!(
        "{:#x} bytes instead of {:#x}; {wrong:#x} are wrong, the first at {:#x}",
        seen.len(),
        expected.len(),
        start + at.unwrap_or(seen.len().min(expected.len())) as u64
    ))
}
