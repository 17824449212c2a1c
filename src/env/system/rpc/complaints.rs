//! Warnings about what strangers do: few lines, however many strangers.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// At most one line in this time.
const PAUSE: Duration = Duration::from_secs(10);

/// A rate-limited log.
#[derive(Default)]
pub struct Complaints(Mutex<State>);

#[derive(Default)]
struct State {
    last: Option<Instant>,
    suppressed: u64,
}

impl Complaints {
    /// Logs the line, or counts it for the next one.
    pub fn warn(&self, line: &str) {
        match self.0.lock().admit(Instant::now()) {
            Some(0) => log::warn!("{line}"),
            Some(more) => log::warn!("{line} ({more} like this since the last one reported)"),
            None => {}
        }
    }
}

impl State {
    /// How many lines were suppressed before this one, or `None` when this one is.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        if self.last.is_some_and(|last| now < last + PAUSE) {
            self.suppressed += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_in_ten_seconds_that_counts_the_others() {
        let start = Instant::now();
        let mut state = State::default();
        assert_eq!(state.admit(start), Some(0));
        assert_eq!(state.admit(start + PAUSE / 3), None);
        assert_eq!(state.admit(start + PAUSE / 2), None);
        assert_eq!(state.admit(start + PAUSE), Some(2));
        assert_eq!(state.admit(start + PAUSE * 2), Some(0));
    }
}
