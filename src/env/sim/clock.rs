//! A clock that moves when it is told to.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::env::clock::Clock;
use crate::types::Timestamp;

const SECOND_NANOS: u32 = 1_000_000_000;

/// A clock that stands still until it is moved. Clones are the same clock.
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    now: Timestamp,
    monotonic: Duration,
}

impl ManualClock {
    /// A clock that shows `now`; its monotonic time is zero.
    pub fn new(now: Timestamp) -> Self {
        Self(Arc::new(Mutex::new(State { now, monotonic: Duration::ZERO })))
    }

    /// Lets time pass.
    pub fn advance(&self, by: Duration) {
        let mut state = self.0.lock();
        state.monotonic += by;
        let nanos = state.now.nanos + by.subsec_nanos();
        let seconds = i64::try_from(by.as_secs()).expect("tests end before the sun does");
        state.now.seconds += seconds + i64::from(nanos / SECOND_NANOS);
        state.now.nanos = nanos % SECOND_NANOS;
    }

    /// Sets the time of day, as an administrator might; the monotonic time does not notice.
    pub fn set(&self, now: Timestamp) {
        self.0.lock().now = now;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        self.0.lock().now
    }

    fn monotonic(&self) -> Duration {
        self.0.lock().monotonic
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_moves_when_told_and_carries_nanoseconds() {
        let at = |seconds, nanos| Timestamp { seconds, nanos };
        let clock = ManualClock::new(at(10, 900_000_000));
        clock.advance(Duration::from_millis(1200));
        assert_eq!(clock.now(), at(12, 100_000_000));
        clock.set(at(5, 0));
        assert_eq!(clock.now(), at(5, 0));
        assert_eq!(clock.monotonic(), Duration::from_millis(1200));
    }
}
