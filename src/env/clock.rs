//! What time it is, in the two ways that must not be confused.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::types::Timestamp;

/// A clock. Its twin for tests is [`ManualClock`](super::sim::ManualClock).
pub trait Clock: Send + Sync + 'static {
    /// The time of day: what is written into inodes. It may jump when somebody sets it.
    fn now(&self) -> Timestamp;

    /// Time since some moment in the past: what leases and time-outs are measured with. It never jumps and
    /// never goes back.
    fn monotonic(&self) -> Duration;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    started: Instant,
}

impl SystemClock {
    /// A clock whose [`Clock::monotonic`] starts at zero.
    pub fn new() -> Self {
        Self { started: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the clock that everybody else asks")]
    fn now(&self) -> Timestamp {
        timestamp(SystemTime::now())
    }

    fn monotonic(&self) -> Duration {
        self.started.elapsed()
    }
}

fn timestamp(time: SystemTime) -> Timestamp {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => Timestamp {
            seconds: i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
            nanos: after.subsec_nanos(),
        },
        Err(before) => before_1970(before.duration()),
    }
}

/// Nanoseconds count upwards on both sides of 1970: half a second before it is (-1, 500,000,000).
fn before_1970(before: Duration) -> Timestamp {
    let borrow = u32::from(before.subsec_nanos() > 0);
    let seconds = i64::try_from(before.as_secs()).unwrap_or(i64::MAX - 1);
    Timestamp {
        seconds: -seconds - i64::from(borrow),
        nanos: borrow * 1_000_000_000 - before.subsec_nanos(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_on_both_sides_of_1970() {
        let half = Duration::from_millis(500);
        let at = |seconds, nanos| Timestamp { seconds, nanos };
        assert_eq!(timestamp(UNIX_EPOCH + half), at(0, 500_000_000));
        assert_eq!(timestamp(UNIX_EPOCH - half), at(-1, 500_000_000));
        assert_eq!(timestamp(UNIX_EPOCH - half * 4), at(-2, 0));
    }

    #[test]
    fn the_monotonic_clock_never_goes_back() {
        let clock = SystemClock::new();
        let first = clock.monotonic();
        assert!(clock.monotonic() >= first);
    }
}
