//! Real clusters for tests: the real binary, real processes, real mounts, in a temporary directory.
//!
//! [`runner`] runs the tests of a file: the standard one knows neither tests that find out that they cannot run
//! here nor a flag of ours. [`cluster`] starts clusters and ends them whatever happens. [`files`] makes and
//! compares trees. [`shadow`] does random operations on a mount and beside it; [`load`] is programs at work, [`ledger`]
//! programs that remember what they were promised. [`net`] is several hosts, [`hosts`] a cluster on them. [`tools`] are
//! test suites of others.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "tests talk to people")]

pub mod cluster;
pub mod files;
pub mod hosts;
pub mod ledger;
pub mod load;
pub mod net;
pub mod runner;
pub mod shadow;
pub mod tools;

use std::time::{Duration, Instant};

/// Waits until `done` gives something, and fails loudly when it does not in time.
pub fn wait_for<T>(what: &str, at_most: Duration, mut done: impl FnMut() -> Option<T>) -> T {
    let since = Instant::now();
    loop {
        if let Some(value) = done() {
            return value;
        }
        assert!(since.elapsed() < at_most, "not within {at_most:?}: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
