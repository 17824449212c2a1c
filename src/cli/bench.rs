//! `okapifs bench`: how fast a directory is, in the three ways that matter: one big file, many small files,
//! names alone. It works on any filesystem, so that two can be compared. Each figure is the median of three
//! rounds.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use indicatif::ProgressBar;

use super::say;

/// Measure how fast a directory is: big file, small files, metadata; medians of three.
///
/// Works in a directory of its own below DIR, which it removes.
#[derive(clap::Args, Debug)]
pub(super) struct Arguments {
    /// Where.
    dir: PathBuf,

    /// Size of the big file in MiB.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    size: u32,

    /// How many small files.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    files: u32,
}

const ROUNDS: usize = 3;
const MIB: usize = 1 << 20;
/// Bytes of a small file.
const SMALL: usize = 16 << 10;

/// What one step of a round does.
struct Step {
    what: &'static str,
    unit: &'static str,
    /// How many of the unit it does.
    amount: f64,
    work: fn(&Bench) -> anyhow::Result<()>,
}

/// What the steps work on.
struct Bench {
    dir: PathBuf,
    size_mib: u32,
    files: u32,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let bench = Bench {
        dir: arguments.dir.join(format!(".okapifs-bench-{}", std::process::id())),
        size_mib: arguments.size,
        files: arguments.files,
    };
    if !arguments.dir.is_dir() {
        bail!("{} is not a directory", arguments.dir.display());
    }
    fs::create_dir(&bench.dir)
        .with_context(|| format!("{} cannot be written to", arguments.dir.display()))?;
    let measured = bench.measure();
    fs::remove_dir_all(&bench.dir)
        .with_context(|| format!("{} cannot be removed", bench.dir.display()))?;
    say::table(&measured?);
    Ok(())
}

impl Bench {
    fn steps(&self) -> Vec<Step> {
        let (mib, files) = (f64::from(self.size_mib), f64::from(self.files));
        let step = |what, unit, amount, work| Step { what, unit, amount, work };
        vec![
            step("big file: write + fsync", "MiB/s", mib, Self::write_big),
            step("big file: read", "MiB/s", mib, Self::read_big),
            step("small files: write 16 KiB", "files/s", files, Self::write_small),
            step("small files: read", "files/s", files, Self::read_small),
            step("names: create", "files/s", files, Self::create),
            step("names: stat", "files/s", files, Self::stat),
            step("names: remove", "files/s", files, Self::remove),
        ]
    }

    /// A table of medians.
    fn measure(&self) -> anyhow::Result<Vec<Vec<String>>> {
        let steps = self.steps();
        let bar = say::progress((steps.len() * ROUNDS) as u64, "measuring");
        let mut took = vec![Vec::new(); steps.len()];
        for _ in 0..ROUNDS {
            for (step, took) in steps.iter().zip(&mut took) {
                took.push(self.time(step, &bar)?);
            }
        }
        bar.finish_and_clear();
        let mut rows = vec![["WHAT", "MEDIAN", "UNIT"].map(str::to_owned).to_vec()];
        for (step, took) in steps.iter().zip(&mut took) {
            took.sort_unstable();
            let rate = step.amount / took[took.len() / 2].as_secs_f64();
            rows.push(vec![step.what.to_owned(), format!("{rate:.0}"), step.unit.to_owned()]);
        }
        Ok(rows)
    }

    fn time(&self, step: &Step, bar: &ProgressBar) -> anyhow::Result<Duration> {
        let since = Instant::now();
        (step.work)(self).with_context(|| format!("{} failed", step.what))?;
        bar.inc(1);
        Ok(since.elapsed())
    }

    fn big(&self) -> PathBuf {
        self.dir.join("big")
    }

    fn write_big(&self) -> anyhow::Result<()> {
        let mut noise = Noise::new();
        let mut file = File::create(self.big())?;
        for _ in 0..self.size_mib {
            file.write_all(noise.next_mib())?;
        }
        file.sync_all()?;
        forget_cached(&file);
        Ok(())
    }

    fn read_big(&self) -> anyhow::Result<()> {
        let mut file = File::open(self.big())?;
        let mut buffer = vec![0; MIB];
        let mut total = 0;
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                read => total += read,
            }
        }
        if total != self.size_mib as usize * MIB {
            bail!("only {total} bytes came back");
        }
        Ok(())
    }

    fn small(&self, number: u32) -> PathBuf {
        self.dir.join(format!("small-{number}"))
    }

    fn write_small(&self) -> anyhow::Result<()> {
        let mut noise = Noise::new();
        for number in 0..self.files {
            fs::write(self.small(number), &noise.next_mib()[..SMALL])?;
        }
        // Of a directory on OkapiFS this flushes everything; elsewhere it costs little.
        File::open(&self.dir)?.sync_all()?;
        Ok(())
    }

    fn read_small(&self) -> anyhow::Result<()> {
        for number in 0..self.files {
            if fs::read(self.small(number))?.len() != SMALL {
                bail!("a small file is shorter than it was");
            }
        }
        Ok(())
    }

    fn name(&self, number: u32) -> PathBuf {
        self.dir.join(format!("name-{number}"))
    }

    fn create(&self) -> anyhow::Result<()> {
        (0..self.files).try_for_each(|number| Ok(File::create(self.name(number)).map(drop)?))
    }

    fn stat(&self) -> anyhow::Result<()> {
        (0..self.files).try_for_each(|number| Ok(fs::metadata(self.name(number)).map(drop)?))
    }

    fn remove(&self) -> anyhow::Result<()> {
        (0..self.files).try_for_each(|number| Ok(fs::remove_file(self.name(number))?))
    }
}

/// Bytes that cannot be compressed or deduplicated: every MiB differs from the one before.
struct Noise {
    state: u64,
    buffer: Vec<u8>,
}

impl Noise {
    fn new() -> Self {
        let mut noise = Self { state: 0x9e37_79b9_7f4a_7c15, buffer: vec![0; MIB] };
        for at in (0..MIB).step_by(8) {
            let word = noise.word().to_le_bytes();
            noise.buffer[at..at + 8].copy_from_slice(&word);
        }
        noise
    }

    /// xorshift64 (Marsaglia 2003).
    fn word(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state
    }

    /// The same noise with a new word in each block: making all of it anew would be measured too.
    fn next_mib(&mut self) -> &[u8] {
        for at in (0..MIB).step_by(4096) {
            let word = self.word().to_le_bytes();
            self.buffer[at..at + 8].copy_from_slice(&word);
        }
        &self.buffer
    }
}

/// Asks the kernel to drop a file's clean pages, so that a read asks the filesystem.
fn forget_cached(file: &File) {
    // SAFETY: the descriptor is open for the length of the call, which touches no memory of ours.
    let result = unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    if result != 0 {
        log::debug!("the page cache keeps the file: error {result}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_works_on_any_filesystem_and_cleans_up() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let arguments = Arguments { dir: dir.path().to_owned(), size: 2, files: 3 };
        run(&arguments).expect("measured");
        assert_eq!(fs::read_dir(dir.path()).expect("read").count(), 0);
    }

    #[test]
    fn noise_never_repeats_a_block() {
        let mut noise = Noise::new();
        let first = noise.next_mib().to_vec();
        let second = noise.next_mib();
        assert!(first.chunks(4096).zip(second.chunks(4096)).all(|(a, b)| a != b));
    }
}
