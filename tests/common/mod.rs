//! Real clusters for tests: the real binary, real processes, real mounts, in a temporary directory.
//!
//! [`runner`] runs the tests of a file: the standard one knows neither tests that find out that they cannot run
//! here nor a flag of ours. [`cluster`] starts clusters and ends them whatever happens. [`files`] makes and
//! compares trees. [`shadow`] does random operations on a mount and beside it; [`load`] is programs at work, [`ledger`]
//! programs that remember what they were promised. [`hardship`] is what can be added to any test. [`net`] is several hosts, [`hosts`] a cluster on them. [`tools`] are
//! test suites of others.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "tests talk to people")]

pub mod cluster;
pub mod files;
pub mod hardship;
pub mod hosts;
pub mod ledger;
pub mod load;
pub mod net;
pub mod programs;
pub mod runner;
pub mod shadow;
pub mod tools;

use std::fmt;
use std::time::{Duration, Instant};

/// Waits until `done` gives something, and fails loudly when it does not in time.
pub fn wait_for<T>(what: &str, at_most: Duration, mut done: impl FnMut() -> Option<T>) -> T {
    wait_until(what, at_most, || done().ok_or(""))
}

/// The same; what is not there yet says why, and the last reason is in the failure.
pub fn wait_until<T, E: fmt::Display>(
    what: &str,
    at_most: Duration,
    mut done: impl FnMut() -> Result<T, E>,
) -> T {
    let since = Instant::now();
    loop {
        match done() {
            Ok(value) => return value,
            Err(why) => assert!(since.elapsed() < at_most, "not within {at_most:?}: {what} {why}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Looks for so long, again and again, and fails as soon as it is not so any more: for what must not happen there is
/// nothing that could be waited for.
pub fn stays(what: &str, so_long: Duration, mut is_so: impl FnMut() -> bool) {
    let since = Instant::now();
    while since.elapsed() < so_long {
        assert!(is_so(), "after {:?} not any more: {what}", since.elapsed());
        std::thread::sleep(Duration::from_millis(50));
    }
}
