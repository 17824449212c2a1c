//! Programs at work on a mount, round after round until they are told to end, while something happens to the
//! cluster; and how long their operations took.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::wait_until;

/// Whatever happens, it is over sooner.
const PATIENCE: Duration = Duration::from_secs(60);

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

    /// The longest.
    pub fn longest(&self) -> Duration {
        self.longest
    }

    /// Those of somebody else, too.
    fn add(&mut self, other: Self) {
        for (bits, count) in other.counts {
            *self.counts.entry(bits).or_default() += count;
        }
        if other.longest > self.longest {
            (self.longest, self.longest_was) = (other.longest, other.longest_was);
        }
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

/// The rounds of one program: 0, 1, 2 … until all is to end, at least one.
#[derive(Clone, Default)]
pub struct Rounds {
    ends: Arc<AtomicBool>,
    begun: Arc<AtomicU64>,
}

impl Iterator for Rounds {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        let round = self.begun.load(Ordering::Relaxed);
        if round > 0 && self.ends.load(Ordering::Relaxed) {
            return None;
        }
        self.begun.store(round + 1, Ordering::Relaxed);
        Some(round)
    }
}

/// Programs that run until [`Programs::finish`].
pub struct Programs {
    home: PathBuf,
    ends: Arc<AtomicBool>,
    programs: Vec<Program>,
}

struct Program {
    name: &'static str,
    begun: Arc<AtomicU64>,
    thread: JoinHandle<Waits>,
}

impl Programs {
    /// None yet; all of them will work below `mnt/name`.
    pub fn new(mnt: &Path, name: &str) -> Self {
        let home = mnt.join(name);
        fs::create_dir(&home).expect("made");
        Self { home, ends: Arc::default(), programs: Vec::new() }
    }

    /// Starts one in a directory of its own. What it is given are that directory and its rounds.
    pub fn start(
        &mut self,
        name: &'static str,
        work: impl FnOnce(PathBuf, Rounds) -> Waits + Send + 'static,
    ) {
        let home = self.home.join(name);
        fs::create_dir(&home).expect("made");
        let rounds = Rounds { ends: Arc::clone(&self.ends), begun: Arc::default() };
        let begun = Arc::clone(&rounds.begun);
        let thread = std::thread::spawn(move || work(home, rounds));
        self.programs.push(Program { name, begun, thread });
    }

    /// Lets them work until they have begun so many more rounds, all of them together: a measure of time that does
    /// not depend on how fast this machine is.
    pub fn work_on(&self, rounds: u64) {
        let enough = self.begun() + rounds;
        wait_until("working on", PATIENCE, || {
            for program in &self.programs {
                assert!(!program.thread.is_finished(), "{} has ended", program.name);
            }
            let begun = self.begun();
            if begun >= enough { Ok(()) } else { Err(format!("({} rounds left)", enough - begun)) }
        });
    }

    fn begun(&self) -> u64 {
        self.programs.iter().map(|program| program.begun.load(Ordering::Relaxed)).sum()
    }

    /// Lets them come to an end, and has them check what they made.
    pub fn finish(self) -> Waits {
        self.ends.store(true, Ordering::Relaxed);
        let mut waits = Waits::default();
        for program in self.programs {
            match program.thread.join() {
                Ok(more) => waits.add(more),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        waits
    }
}
