//! How long to wait before something that failed is tried again.
//!
//! What fails once is tried again at once: most often it was killed, or its machine was, and every second without
//! it counts. What fails again and again will not be helped by haste, and its log should stay readable. So the
//! pause doubles from 1 s; after the fifth failure within ten minutes it is 30 s, and somebody should look.

use std::collections::VecDeque;
use std::time::Duration;

/// How long a failure is remembered.
const MEMORY: Duration = Duration::from_secs(600);
/// The pause after the second failure.
const FIRST: Duration = Duration::from_secs(1);
/// The pause once failures are the rule.
const LAST: Duration = Duration::from_secs(30);
/// So many remembered failures are the rule.
const RULE: usize = 5;

/// The failures of one thing.
#[derive(Clone, Debug, Default)]
pub struct Backoff {
    /// When it failed, oldest first.
    failures: VecDeque<Duration>,
}

impl Backoff {
    /// Takes note of a failure; how long to wait. `random` spreads what failed together by up to a quarter either
    /// way, so that it does not come back together.
    pub fn failed(&mut self, now: Duration, random: u64) -> Duration {
        self.forget(now);
        self.failures.push_back(now);
        let pause = match self.failures.len() {
            1 => Duration::ZERO,
            count if count < RULE => FIRST * (1 << (count - 2)),
            _ => LAST,
        };
        pause * u32::try_from(75 + random % 51).expect("at most 125") / 100
    }

    /// Failures that are remembered.
    pub fn count(&self) -> usize {
        self.failures.len()
    }

    /// Whether it failed so often that somebody should look.
    pub fn is_failing(&self) -> bool {
        self.failures.len() >= RULE
    }

    /// Lets go of what is too long ago.
    pub fn forget(&mut self, now: Duration) {
        while self.failures.front().is_some_and(|failure| now.saturating_sub(*failure) > MEMORY) {
            self.failures.pop_front();
        }
    }

    /// Starts anew: somebody has looked.
    pub fn clear(&mut self) {
        self.failures.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIDDLE: u64 = 25;

    #[test]
    fn the_first_try_is_at_once_and_the_pause_doubles() {
        let mut backoff = Backoff::default();
        let pauses: Vec<u64> =
            (0..7).map(|n| backoff.failed(Duration::from_secs(n), MIDDLE).as_secs()).collect();
        assert_eq!(pauses, [0, 1, 2, 4, 30, 30, 30]);
        assert!(backoff.is_failing());
        backoff.clear();
        assert_eq!(backoff.failed(Duration::from_secs(8), MIDDLE), Duration::ZERO);
    }

    #[test]
    fn failures_are_forgotten() {
        let mut backoff = Backoff::default();
        for n in 0..5 {
            backoff.failed(Duration::from_secs(n), MIDDLE);
        }
        backoff.forget(Duration::from_secs(602));
        assert_eq!((backoff.count(), backoff.is_failing()), (3, false));
        assert_eq!(backoff.failed(Duration::from_secs(3000), MIDDLE), Duration::ZERO);
    }

    #[test]
    fn chance_moves_a_pause_by_a_quarter_at_most() {
        let second = |random| {
            let mut backoff = Backoff::default();
            backoff.failed(Duration::ZERO, random);
            backoff.failed(Duration::ZERO, random)
        };
        let pauses: Vec<Duration> = (0..51).map(second).collect();
        assert_eq!(pauses.iter().min(), Some(&Duration::from_millis(750)));
        assert_eq!(pauses.iter().max(), Some(&Duration::from_millis(1250)));
    }
}
