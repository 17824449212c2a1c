//! Programs at work on a mount while something happens to the cluster: none of them may fail, wait long, or
//! lose anything.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::cluster::success;
use super::files::assert_same;

/// How long operations took.
#[derive(Default)]
pub struct Waits {
    /// Operations by how long they took: less than 2^n milliseconds.
    counts: BTreeMap<u32, usize>,
    longest: Duration,
    longest_was: &'static str,
}

impl Waits {
    /// Does something and notes how long it took.
    pub fn measure<T>(&mut self, what: &'static str, work: impl FnOnce() -> T) -> T {
        let since = Instant::now();
        let done = work();
        let took = since.elapsed();
        let millis = u64::try_from(took.as_millis()).expect("less than a while");
        *self.counts.entry(u64::BITS - millis.leading_zeros()).or_default() += 1;
        if took > self.longest {
            (self.longest, self.longest_was) = (took, what);
        }
        done
    }

    /// Those of somebody else, too.
    pub fn add(&mut self, other: Self) {
        for (bits, count) in other.counts {
            *self.counts.entry(bits).or_default() += count;
        }
        if other.longest > self.longest {
            (self.longest, self.longest_was) = (other.longest, other.longest_was);
        }
    }

    /// The longest.
    pub fn longest(&self) -> Duration {
        self.longest
    }
}

impl fmt::Display for Waits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total: usize = self.counts.values().sum();
        write!(f, "{total} operations, the longest {:?} ({});", self.longest, self.longest_was)?;
        for (bits, count) in &self.counts {
            write!(f, " <{} ms: {count}", 1u64 << bits)?;
        }
        Ok(())
    }
}

/// Programs that run until [`Load::finish`].
pub struct Load {
    stop: Arc<AtomicBool>,
    programs: Vec<JoinHandle<Waits>>,
}

impl Load {
    /// Starts them on a mount. They work below `mnt/name`; `source` is a tree that is copied there again and
    /// again.
    pub fn start(mnt: &Path, name: &str, source: &Path) -> Self {
        let home = mnt.join(name);
        fs::create_dir(&home).expect("made");
        let stop = Arc::new(AtomicBool::new(false));
        let program = |name: &str, work: fn(&Job) -> Waits| {
            let (stop, source) = (Arc::clone(&stop), source.to_owned());
            let job = Job { home: home.join(name), source, stop };
            fs::create_dir(&job.home).expect("made");
            std::thread::spawn(move || work(&job))
        };
        let programs = vec![
            program("copies", copy_trees),
            program("synced", write_and_sync),
            program("lines", append_lines),
            program("names", change_names),
        ];
        Self { stop, programs }
    }

    /// Lets them come to an end, and checks what they made.
    pub fn finish(self) -> Waits {
        self.stop.store(true, Ordering::Relaxed);
        let mut waits = Waits::default();
        for program in self.programs {
            match program.join() {
                Ok(more) => waits.add(more),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        waits
    }
}

struct Job {
    home: PathBuf,
    source: PathBuf,
    stop: Arc<AtomicBool>,
}

impl Job {
    /// 0, 1, 2 … until the load is to end, at least once.
    fn rounds(&self) -> impl Iterator<Item = u64> {
        (0..).take_while(|round| *round == 0 || !self.stop.load(Ordering::Relaxed))
    }
}

/// `cp -r` of a real tree; each copy is compared and removed.
fn copy_trees(job: &Job) -> Waits {
    let waits = Waits::default();
    for round in job.rounds() {
        let copy = job.home.join(round.to_string());
        success(Command::new("cp").arg("-a").arg(&job.source).arg(&copy));
        assert_same(&job.source, &copy);
        if round % 2 == 1 {
            success(Command::new("rm").arg("-r").arg(&copy));
        }
    }
    waits
}

/// A small database: a block at a time, each made safe.
fn write_and_sync(job: &Job) -> Waits {
    let mut waits = Waits::default();
    let path = job.home.join("blocks");
    let file = waits.measure("create", || File::create(&path)).expect("created");
    let mut written = 0;
    for round in job.rounds() {
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
fn append_lines(job: &Job) -> Waits {
    let mut waits = Waits::default();
    let path = job.home.join("log");
    let open = || File::options().append(true).create(true).open(&path);
    let mut log = waits.measure("open", open).expect("opened");
    let mut expected = String::new();
    for round in job.rounds() {
        let line = format!("line {round}\n");
        waits.measure("append", || log.write_all(line.as_bytes())).expect("appended");
        expected.push_str(&line);
        if round % 64 == 63 {
            waits.measure("fsync", || log.sync_all()).expect("synced");
            log = waits.measure("open", open).expect("opened");
        }
        // A program that logs does something else in between.
        std::thread::sleep(Duration::from_millis(1));
    }
    let found = waits.measure("read", || fs::read_to_string(&path)).expect("read");
    assert!(found == expected, "the log is not what was appended");
    waits
}

/// Names come, change and go; what each call answers is what it should.
fn change_names(job: &Job) -> Waits {
    let mut waits = Waits::default();
    for round in job.rounds() {
        let (old, new) = (job.home.join(format!("a{round}")), job.home.join(format!("b{round}")));
        drop(waits.measure("create", || File::create_new(&old)).expect("created"));
        waits.measure("rename", || fs::rename(&old, &new)).expect("renamed");
        waits.measure("stat", || fs::metadata(&new)).expect("there");
        waits.measure("mkdir", || fs::create_dir(&old)).expect("made");
        waits.measure("rmdir", || fs::remove_dir(&old)).expect("removed");
        waits.measure("unlink", || fs::remove_file(&new)).expect("removed");
        let names = waits.measure("readdir", || fs::read_dir(&job.home)).expect("read").count();
        assert_eq!(names, 0, "round {round}");
    }
    waits
}
