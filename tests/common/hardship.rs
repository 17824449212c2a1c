//! What a cluster has to bear while programs run on it: one of its servers is dead all the time, and whoever leads the
//! monitors is killed again and again. None of it may be noticed by anybody but a clock.
//!
//! Any test of what programs see can be run so: `cargo test --test posix -- --server-dead --leaders-killed`. A test whose
//! subject is a death of its own is no such test.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;

use super::cluster::{send, status_of};
use super::files::Random;
use super::wait_for;

/// How long a killed monitor may take until it votes and answers again.
const BACK: Duration = Duration::from_secs(60);
/// How often the killer looks whether it is to end.
const LOOK: Duration = Duration::from_millis(20);

/// Kills whoever leads, has its agent bring it back, and kills the next, until it is told to end.
pub struct Killer {
    ends: Arc<AtomicBool>,
    thread: JoinHandle<usize>,
}

impl Killer {
    /// Of the monitors of the cluster in `root`. The moments come from `seed`; between two of them all monitors are up
    /// for at least a moment and at most `rest`.
    pub fn start(root: PathBuf, rest: Duration, seed: u64) -> Self {
        println!("leaders are killed at moments from seed {seed}");
        let ends = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&ends);
        let thread = std::thread::spawn(move || {
            let mut random = Random::new(seed);
            let mut killed = 0;
            while !pause(random.below(rest.as_millis() as u64), &told) {
                if let Some(pid) = status_of(&root).as_ref().and_then(leader_pid) {
                    send(pid, libc::SIGKILL);
                    killed += 1;
                }
                wait_until_all_vote(&root, &told);
            }
            killed
        });
        Self { ends, thread }
    }

    /// Ends it; how many were killed.
    pub fn end(self) -> usize {
        self.ends.store(true, Ordering::Relaxed);
        match self.thread.join() {
            Ok(killed) => killed,
            // The test has failed already, or fails by this.
            Err(panic) if !std::thread::panicking() => std::panic::resume_unwind(panic),
            Err(_) => 0,
        }
    }
}

/// Whether it is to end.
fn pause(millis: u64, told: &AtomicBool) -> bool {
    let mut left = Duration::from_millis(millis);
    while !left.is_zero() && !told.load(Ordering::Relaxed) {
        std::thread::sleep(LOOK.min(left));
        left = left.saturating_sub(LOOK);
    }
    told.load(Ordering::Relaxed)
}

/// The next death is not to take the majority.
fn wait_until_all_vote(root: &std::path::Path, told: &AtomicBool) {
    wait_for("all monitors are back", BACK, || {
        let is_over = told.load(Ordering::Relaxed);
        (is_over || status_of(root).as_ref().is_some_and(all_vote)).then_some(())
    });
}

fn all_vote(status: &Value) -> bool {
    let votes = |monitor: &Value| {
        monitor["state"] == "up" && (monitor["role"] == "leader" || monitor["role"] == "follower")
    };
    let has_process = |unit: &Value| unit["state"] == "up";
    let monitors = status["monitors"].as_array();
    monitors.is_some_and(|monitors| monitors.iter().all(votes))
        && status["units"].as_array().is_some_and(|units| units.iter().all(has_process))
}

fn leader_pid(status: &Value) -> Option<u32> {
    let mut monitors = status["monitors"].as_array()?.iter();
    let leader = monitors.find(|monitor| monitor["role"] == "leader")?["name"].as_str()?;
    let mut units = status["units"].as_array()?.iter();
    let unit = units.find(|unit| unit["name"] == leader)?;
    u32::try_from(unit["pid"].as_u64()?).ok()
}
